"""Read damaged copies of real files, over 100,000 of them. It takes about 15 minutes on 2 cores, so pytest does not run it.

    python tests/fuzz.py --data-dir DIR                 # the folder of the official files
    python tests/fuzz.py --data-dir DIR --share 0.01    # a hundredth of the copies

Bytes of each copy are overwritten, left out, repeated or cut off: at the ends of the file, where most of what is not pixels
is, or anywhere. A reader may read what is still in the right form, or refuse it in one line that names the file, by the error
in its docstring or on stderr. It must raise nothing else, warn of nothing, and need at most 10 s and 4 GiB. Packed files are
also damaged inside: their parts are damaged and packed again, with correct checksums. Writes results/fuzz.*.
"""

import gzip
import io
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from contextlib import redirect_stderr, suppress
from functools import partial
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

import hypothesis
import hypothesis.strategies as st
import joblib
import numpy as np
from PIL import Image

import kbn
import nets
import predict
from lab import models, readers, settings, store, tables

SECONDS, MEMORY = 10, 4 * 2**30
PLACE = st.integers(0, 400) | st.integers(-200_000, -1) | st.integers(-400, -1) | st.integers(0, 2**25)
DAMAGE = st.tuples(
    st.sampled_from(["overwrite", "overwrite", "leave out", "repeat", "cut off"]), PLACE, st.binary(min_size=1, max_size=8)
)
DAMAGES = st.lists(DAMAGE, min_size=1, max_size=4)
SHAPE = 1, 28, 28
SPECS = [["conv", 4, 3, 1, 1], ["bn"], ["relu"], ["affine", 10]]


# ---- damage ---------------------------------------------------------------------------------------------------------


def damaged(content, damages):
    """A copy of content after damages (kind, place, bytes)."""
    content = bytearray(content)
    for kind, place, new in damages:
        place %= len(content) or 1
        if kind == "overwrite":
            content[place : place + len(new)] = new
        elif kind == "leave out":
            del content[place : place + len(new)]
        elif kind == "repeat":
            content[place:place] = content[place : place + 64 * len(new)]
        else:
            del content[place:]
    return bytes(content)


def damaged_inside(content, damages):
    """A copy of an .npz file: its members are damaged and packed again."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        names = old.namelist()
        for i, name in enumerate(names):
            own = [damage for j, damage in enumerate(damages) if (damage[1] + j) % len(names) == i]
            new.writestr(name, damaged(old.read(name), own))
    return file.getvalue()


# ---- what is read: functions that give {kind of file: (copies, file name, content, damage, reader, errors that it may raise)}


def datasets(data_dir):
    """The official files."""
    batch = (data_dir / "cifar-10-batches-py" / "test_batch").read_bytes()
    files = ("train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "mnist_all.mat")
    labels, images, mat = ((data_dir / "mnist" / file).read_bytes() for file in files)
    error = settings.UserError
    return {
        "CIFAR-10, a batch": (4_000, "test_batch", batch, damaged, readers.read_batch, error),
        "MNIST, labels": (16_000, "labels.gz", labels, damaged, partial(readers.read_idx, dims=(60_000,)), error),
        "MNIST, images": (3_000, "images.gz", images, damaged, partial(readers.read_idx, dims=(10_000, 28, 28)), error),
        "MNIST, labels, unzipped": (
            16_000, "labels", gzip.decompress(labels), damaged, partial(readers.read_idx, dims=(60_000,)), error,
        ),
        "MNIST, mnist_all.mat": (200, "mnist_all.mat", mat, damaged, read_mat, error),
    }  # fmt: skip


def read_mat(path):
    """Read MNIST as a MATLAB file."""
    readers.read_mat([path])


def networks(scratch):
    """Models, as the drivers save them."""
    mlp, conv = model(scratch / "mlp.npz"), model(scratch / "conv.npz", SPECS)
    return {
        "a model": (10_000, "model.npz", mlp, damaged, read_model, ValueError),
        "a model, inside": (10_000, "model.npz", mlp, damaged_inside, read_model, ValueError),
        "a model of specs": (5_000, "model.npz", conv, damaged, read_model, ValueError),
        "a model of specs, inside": (10_000, "model.npz", conv, damaged_inside, read_model, ValueError),
    }


def model(path, specs=None):
    """The bytes of a small trained network."""
    rng = np.random.default_rng(0)
    params = nets.init_params(specs, SHAPE, rng) if specs else kbn.init_params([784, 30, 10], rng, bn="before")
    data = rng.standard_normal((784, 20), np.float32), np.arange(20) % 10
    net, hp = nets.build(specs, SHAPE) if specs else kbn.MLP, {"n_batch": 10, "n_s": 1, "n_cycles": 1}
    params, stats, _ = kbn.minibatch_gd(data, data, params, hp, rng, net=net)
    models.save(path, params, stats, hp, data[0][:, :1], abs(data[0][:, 1:2]), list("0123456789"), SHAPE, specs)
    return path.read_bytes()


def read_model(path):
    """Read a network and predict with it; its scores may be too large to be finite."""
    network = models.load(path)
    with suppress(ValueError):
        predict.predict(network, np.zeros((784, 1), np.uint8))


def pictures():
    """Image files."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    kinds = {}
    for kind, options in {"PNG": {}, "JPEG": {}, "GIF": {}, "TIFF": {"compression": "tiff_lzw"}}.items():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        kinds[f"a {kind} file"] = (3_000, f"image.{kind}", file.getvalue(), damaged, read_picture, ValueError)
    return kinds


def read_picture(path):
    """Read an image for a network of 3 x 32 x 32."""
    assert predict.read_image(path, (3, 32, 32)).shape == (3072, 1)


def runs(scratch):
    """A run's checkpoint and its result, which are refused on stderr."""
    key, rng = {"seed": 0, "test": False}, np.random.default_rng(0)
    names = ("t", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    history = {name: [0.5, 0.25] for name in names}
    params = kbn.init_params([20, 10, 3], rng, bn="before")
    state = {"t": 2, "params": params, "stats": {}, "memory": {}, "rng": rng.bit_generator.state, "history": {"epoch": history}}
    store.write_checkpoint(scratch / "checkpoint", key, state, 1.0)
    store.write_result(scratch / "result", key, {"val_accuracy": 0.25, "duration_s": 1.0, "diverged": "", "history": history})
    checkpoint, result = ((scratch / name).read_bytes() for name in ("checkpoint", "result"))
    read_checkpoint, read_result = (partial(read, key=key) for read in (store.read_checkpoint, store.read_result))
    return {
        "a checkpoint": (5_000, "run.checkpoint", checkpoint, damaged, read_checkpoint, ()),
        "a checkpoint, inside": (5_000, "run.checkpoint", checkpoint, damaged_inside, read_checkpoint, ()),
        "a result": (8_000, "run.json", result, damaged, read_result, ()),
    }


# ---- reading it -----------------------------------------------------------------------------------------------------


def fuzz(kind, n, name, content, damage, read, errors):
    """Read n damaged copies of a file. Returns a row of the table. Raises what no reader may raise."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    row = {"file": kind, "bytes": len(content), "copies": 0, "read": 0, "refused": 0, "longest, s": 0.0}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)

        @hypothesis.settings(
            max_examples=n,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=hypothesis.HealthCheck,
        )
        @hypothesis.given(DAMAGES)
        def once(damages):
            path.write_bytes(damage(content, damages))
            start, said = time.perf_counter(), io.StringIO()
            with warnings.catch_warnings(record=True) as warned, redirect_stderr(said):
                try:
                    read(path)
                except errors as error:
                    said.write(f"{error}\n")
            duration, lines = time.perf_counter() - start, said.getvalue().splitlines()
            assert len(lines) <= 1 and all(name in line and len(line) < 500 for line in lines), lines
            assert not warned and duration < SECONDS, (warned, duration)
            row["copies"] += 1
            row["refused" if lines else "read"] += 1
            row["longest, s"] = max(row["longest, s"], round(duration, 2))

        try:
            once()
        except Exception as error:
            error.add_note(f"{kind}: {name}")
            raise
    return row


def main():
    parser = settings.parser(__doc__)
    parser.add_argument("--data-dir", metavar="DIR", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of the copies (default 1)")
    parser.add_argument("--only", default="", help="read only files whose name in the table contains this")
    opts = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kinds = datasets(opts.data_dir) | networks(Path(scratch)) | pictures() | runs(Path(scratch))
    rows = joblib.Parallel(joblib.cpu_count(), backend="multiprocessing", batch_size=1)(
        joblib.delayed(fuzz)(kind, max(1, int(n * opts.share)), *task)
        for kind, (n, *task) in kinds.items()
        if opts.only in kind
    )
    total = {"file": "in all", "bytes": "", "longest, s": ""}
    rows.append(rows[0] | total | {key: sum(row[key] for row in rows) for key in ("copies", "read", "refused")})
    print(tables.markdown(rows), end="")
    if opts.share == 1 and not opts.only:
        tables.write_table(HOME / "results" / "fuzz", rows)


if __name__ == "__main__":
    main()
