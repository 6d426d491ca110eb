"""Read damaged copies of real files, over 100,000 of them. It takes about 15 minutes on 2 cores, so pytest does not run it.

    python tests/fuzz.py --data-dir DIR                 # the folder of the official files
    python tests/fuzz.py --data-dir DIR --share 0.01    # a hundredth of them

Each reader is given its file with bytes overwritten, left out, repeated or cut off: at its ends, where most of what is not
pixels lies, or anywhere. It may read what is still in the right form, or refuse it by the error that its docstring names, in
one line that begins with the path; nothing else, no warning, and in no more than 10 s and 4 GiB. Where files are packed, their
parts are damaged, too, and packed again. Writes results/fuzz.md.
"""

import argparse
import gzip
import io
import json
import resource
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from contextlib import redirect_stderr, suppress
from functools import partial
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

import hypothesis.strategies as st
import joblib
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image

import datasets
import experiment
import kbn
import nets
import predict
import tables

SECONDS, MEMORY = 10, 4 * 2**30
PLACE = st.integers(0, 400) | st.integers(-200_000, -1) | st.integers(-400, -1) | st.integers(0, 2**25)
DAMAGE = st.tuples(
    st.sampled_from(["overwrite", "overwrite", "leave out", "repeat", "cut off"]), PLACE, st.binary(min_size=1, max_size=8)
)
DAMAGES = st.lists(DAMAGE, min_size=1, max_size=4)
SPECS = [["conv", 4, 3, 1, 1], ["bn"], ["relu"], ["affine", 10]]


def damaged(content, damages):
    """A copy of content after damages (kind, place, bytes)."""
    content = bytearray(content)
    for kind, place, these in damages:
        place %= len(content) or 1
        if kind == "overwrite":
            content[place : place + len(these)] = these
        elif kind == "leave out":
            del content[place : place + len(these)]
        elif kind == "repeat":
            content[place:place] = content[place : place + 64 * len(these)]
        else:
            del content[place:]
    return bytes(content)


def damaged_member(content, damages):
    """A .npz whose parts are damaged, one after the other, and packed again with checksums that are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for i, name in enumerate(old.namelist()):
            these = [damage for j, damage in enumerate(damages) if (damage[1] + j) % len(old.namelist()) == i]
            new.writestr(name, damaged(old.read(name), these))
    return file.getvalue()


def damaged_inside(content, damages):
    """A gzipped file that is damaged before it is packed."""
    return gzip.compress(damaged(gzip.decompress(content), damages), 1)


# ---- what is read ---------------------------------------------------------------------------------------------------


def model(specs=None):
    """A network for images as the drivers save it."""
    rng, shape, file = np.random.default_rng(0), (1, 28, 28), io.BytesIO()
    params = nets.init_params(specs, shape, rng) if specs else kbn.init_params([784, 30, 10], rng, batch_norm=True)
    net = nets.build(specs, shape) if specs else kbn.MLP
    X, y = rng.standard_normal((784, 20), np.float32), np.arange(20) % 10
    params, stats, _ = kbn.minibatch_gd((X, y), (X, y), params, {"n_batch": 10, "n_s": 1, "n_cycles": 1}, rng, net=net)
    described = nets.description(specs, "softmax") if specs else {}
    about = {"mean": X[:, :1], "sd": abs(X[:, 1:2]), "classes": np.array([f"{k}" for k in range(10)]), "shape": np.array(shape)}
    kbn.save(file, params, stats, kbn.check_hp({}), **about, **described)
    return file.getvalue()


def picture(kind, **options):
    """An image file."""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(file, kind, **options)
    return file.getvalue()


def archive(batch):
    """The beginning of the official archive, with short batches."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in datasets.CIFAR10_FILES:
            member = tarfile.TarInfo(f"{datasets.CIFAR10_FOLDER}/{name}")
            member.size = 1000
            tar.addfile(member, io.BytesIO(batch[:1000]))
    return file.getvalue()


def checkpoint(folder):
    """A run's state after an epoch."""
    params = kbn.init_params([20, 10, 3], np.random.default_rng(0), batch_norm=True)
    history = {"update": {"loss": [1.0, 0.5]}, "epoch": {"val_accuracy": [0.4]}}
    state = {"t": 2, "params": params, "stats": {}, "memory": {}, "rng": np.random.default_rng(0).bit_generator.state}
    path = folder / "checkpoint"
    experiment.write_checkpoint(path, {"seed": 0}, state | {"history": history}, 1.0)
    return path.read_bytes()


def extract(path):
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        datasets.extract_cifar10(path, Path(folder))
        assert {file.name for file in Path(folder).iterdir()} == set(datasets.CIFAR10_FILES)


def read_idx(path, dims):
    array = datasets.read_idx(path, dims)
    assert array.shape == dims and array.dtype == np.uint8


def read_batch(path):
    images, labels = datasets.read_cifar10_batch(path)
    assert images.shape == (10_000, 3072) and images.dtype == np.uint8 and len(labels) == 10_000


def read_mat(path):
    images, labels, *_ = datasets.read_mat([path])
    assert images.shape == (60_000, 784) and labels.shape == (60_000,)


def read_model(path):
    read = predict.load_model(path)
    with suppress(ValueError):  # scores that are not finite
        predict.predict(read, np.zeros((784, 1), np.uint8))


def read_picture(path):
    assert predict.read_image(path, (3, 32, 32)).shape == (3072, 1)


def readers(data_dir, scratch):
    """What is read: how many, the file's name and content, how it is damaged, what reads it, the errors it may raise."""
    cifar, mnist = data_dir / "cifar-10-batches-py", data_dir / "mnist"
    batch = (cifar / "test_batch").read_bytes()
    labels, images = ((mnist / name).read_bytes() for name in ("train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"))
    runs = sorted((HOME / "results" / "cifar10" / "runs").glob("*.json"))
    key = {name: json.loads(runs[0].read_text())[name] for name in ("config", "seed", "dataset", "code")}
    found, found_state = partial(experiment.finished, key=key, test=True), partial(experiment.read_checkpoint, key={"seed": 0})
    read_labels, read_images = partial(read_idx, dims=(60_000,)), partial(read_idx, dims=(10_000, 28, 28))
    mlp, conv, data, form = model(), model(SPECS), datasets.DataError, ValueError
    return {
        "CIFAR-10, a batch": (4_000, "test_batch", batch, damaged, read_batch, data),
        "CIFAR-10, an archive": (8_000, "archive.tar.gz", archive(batch), damaged, extract, data),
        "CIFAR-10, an archive, inside": (8_000, "archive.tar.gz", archive(batch), damaged_inside, extract, data),
        "MNIST, labels": (16_000, "labels.gz", labels, damaged, read_labels, data),
        "MNIST, labels, unzipped": (16_000, "labels", gzip.decompress(labels), damaged, read_labels, data),
        "MNIST, images": (3_000, "images.gz", images, damaged, read_images, data),
        "MNIST, mnist_all.mat": (2_000, "mnist_all.mat", (mnist / "mnist_all.mat").read_bytes(), damaged, read_mat, data),
        "a model": (10_000, "model.npz", mlp, damaged, read_model, form),
        "a model, inside": (10_000, "model.npz", mlp, damaged_member, read_model, form),
        "a model of specs": (5_000, "model.npz", conv, damaged, read_model, form),
        "a model of specs, inside": (10_000, "model.npz", conv, damaged_member, read_model, form),
        "a checkpoint": (5_000, "run.checkpoint", checkpoint(scratch), damaged, found_state, ()),
        "a checkpoint, inside": (5_000, "run.checkpoint", checkpoint(scratch), damaged_member, found_state, ()),
        "a result": (8_000, runs[0].name, runs[0].read_bytes(), damaged, found, ()),
        "a PNG file": (3_000, "image.png", picture("png"), damaged, read_picture, form),
        "a JPEG file": (3_000, "image.jpg", picture("jpeg"), damaged, read_picture, form),
        "a GIF file": (3_000, "image.gif", picture("gif"), damaged, read_picture, form),
        "a TIFF file": (3_000, "image.tif", picture("tiff", compression="tiff_lzw"), damaged, read_picture, form),
    }


# ---- reading it -----------------------------------------------------------------------------------------------------


def fuzz(what, n, name, content, damage, read, errors):
    """Read n damaged copies of a file. Returns the row of the table. Raises what no reader may raise."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    row = {"file": what, "bytes": len(content), "copies": 0, "read": 0, "refused": 0, "longest, s": 0.0}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)

        @settings(max_examples=n, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=HealthCheck)
        @given(DAMAGES)
        def once(damages):
            path.write_bytes(damage(content, damages))
            start, said = time.perf_counter(), io.StringIO()
            with warnings.catch_warnings(record=True) as warned, redirect_stderr(said):
                try:
                    read(path)
                except errors as error:
                    said.write(f"{error}\n")
            lines = said.getvalue().splitlines()
            row["refused" if lines else "read"] += 1
            duration = time.perf_counter() - start
            assert len(lines) <= 1 and all(path.name in line and len(line) < 500 for line in lines), lines
            assert not warned and duration < SECONDS, (warned, duration)
            row["copies"] += 1
            row["longest, s"] = max(row["longest, s"], round(duration, 2))

        try:
            once()
        except Exception as error:
            error.add_note(f"{what}: {name}")
            raise
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", metavar="DIR", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of the copies (default 1)")
    parser.add_argument("--only", default="", help="files whose name in the table holds this")
    opts = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        chosen = {what: task for what, task in readers(opts.data_dir, Path(scratch)).items() if opts.only in what}
    rows = joblib.Parallel(joblib.cpu_count(), backend="multiprocessing", batch_size=1)(
        joblib.delayed(fuzz)(what, max(1, int(n * opts.share)), *task) for what, (n, *task) in chosen.items()
    )
    total = {"file": "in all", "bytes": "", **{key: sum(row[key] for row in rows) for key in ("copies", "read", "refused")}}
    table = tables.markdown([list(rows[0]), *(list(map(str, row.values())) for row in [*rows, total | {"longest, s": ""}])])
    print(table, end="")
    if opts.share == 1 and not opts.only:
        tables.write(HOME / "results" / "fuzz.md", table)


if __name__ == "__main__":
    main()
