"""lab/data.py, lab/readers.py and lab/shapes.py, on files with few images that pass for the whole; nothing is downloaded.

With KBN_DATA_DIR set the real data is read, otherwise that test is skipped.
"""

import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from lab import data, readers, shapes, store
from lab.readers import CIFAR10_FILES, IDX_FILES
from lab.settings import UserError

REAL_DATA = os.environ.get("KBN_DATA_DIR")
N = 20  # images in a batch
PARTS = "images", "labels", "test_images", "test_labels"


@pytest.fixture(autouse=True)
def mirror(tmp_path_factory, monkeypatch):
    """Few images are expected, there is no KBN_DATA_DIR, and nothing is downloaded.

    A dict: "cache" is the empty cache, "files" {address: content} what can be downloaded.
    """
    mirror = {"cache": tmp_path_factory.mktemp("cache"), "files": {}}

    def download(url, target, _):
        if url not in mirror["files"]:
            raise ConnectionError(f"no answer from {url}")
        Path(target).write_bytes(mirror["files"][url])

    monkeypatch.setattr(data.pooch, "os_cache", lambda project: mirror["cache"])
    monkeypatch.setattr(data.pooch, "HTTPDownloader", lambda **options: download)
    monkeypatch.delenv("KBN_DATA_DIR", raising=False)
    monkeypatch.setattr(readers, "CIFAR10_BATCH", (N, 3072))
    monkeypatch.setattr(readers, "MAT_IMAGES", {"train": 600, "test": 100})
    for file, dims in IDX_FILES.items():
        monkeypatch.setitem(IDX_FILES, file, (600 if file.startswith("train") else 100, *dims[1:]))
    return mirror


def example_batch(seed, order="C"):
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (N, 3072), np.uint8), rng.integers(0, 10, N).tolist()
    return {b"data": np.asarray(images, order=order), b"labels": labels}


def python2_pickle(batch):
    """The bytes that Python 2 and its numpy wrote, as in the official files: byte strings, protocol 2."""
    return b"".join([
        b"\x80\x02}(U\x06labels](", b"".join(b"K%c" % y for y in batch[b"labels"]), b"e",
        b"U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R",
        b"(K\x01", struct.pack("<cHcH", b"M", N, b"M", 3072), b"\x86cnumpy\ndtype\nU\x02u1K\0K\x01\x87R",
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89",
        b"T", struct.pack("<I", N * 3072), batch[b"data"].tobytes(), b"tbu.",
    ])  # fmt: skip


@pytest.fixture
def cifar10(tmp_path):
    """A folder with six batches."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for seed, file in enumerate(CIFAR10_FILES):
        (folder / file).write_bytes(python2_pickle(example_batch(seed)))
    return folder


def digits(n, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n, np.uint8)


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, seed):
    folder.mkdir()
    for file, array in zip(IDX_FILES, [*digits(600, seed), *digits(100, seed + 1)]):
        (folder / file).write_bytes(gzip.compress(idx(array), 1))
    return folder


@pytest.fixture
def mnist(tmp_path):
    """A folder with four gzipped IDX files."""
    return write_idx(tmp_path / "mnist", 1)


def write_mat(folder, changes=None, **options):
    """Write mnist_all.mat with the images of the fixture mnist."""
    variables = {}
    for part, (images, labels) in {"train": digits(600, 1), "test": digits(100, 2)}.items():
        variables |= {f"{part}{k}": images[labels == k].reshape(-1, 784) for k in range(10)}
    scipy.io.savemat(folder / "mnist_all.mat", variables | (changes or {}), **options)
    return folder / "mnist_all.mat"


def make_official(monkeypatch, name, folder):
    """Let the files in folder pass for the official ones, checksums included. Returns what load returns of them."""
    about, raw = data.DATASETS[name], data.load(name, folder)
    monkeypatch.setitem(about, "fingerprint", raw["fingerprint"])
    files = about["formats"][-1][0]
    monkeypatch.setitem(about, "md5", [hashlib.md5((folder / file).read_bytes()).hexdigest() for file in files])
    return raw


def refusal(function, *args, error=UserError):
    """The message of the error in which a call must end, one line."""
    with pytest.raises(error) as caught:
        function(*args)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


def test_load_returns_images_and_labels_in_the_order_of_the_files(cifar10):
    raw = data.load("cifar10", cifar10)
    assert (raw["name"], raw["title"], raw["shape"], raw["classes"][6]) == ("cifar10", "CIFAR-10", (3, 32, 32), "frog")
    for part, seeds in [("", range(5)), ("test_", [5])]:
        batches = [example_batch(seed) for seed in seeds]
        np.testing.assert_array_equal(raw[part + "images"], np.concatenate([batch[b"data"] for batch in batches]))
        np.testing.assert_array_equal(raw[part + "labels"], np.concatenate([batch[b"labels"] for batch in batches]))
        assert raw[part + "images"].dtype == np.uint8 and raw[part + "labels"].dtype == np.int64


@pytest.mark.parametrize("keys", [[b"data", b"labels"], [b"labels", b"data"]])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("protocol", range(6))
def test_batch_of_every_protocol_and_memory_order_is_read(tmp_path, protocol, order, keys):
    batch, path = example_batch(3, order), tmp_path / "batch"
    path.write_bytes(pickle.dumps({**{key: batch[key] for key in keys}, b"filenames": [b"F", b"frog.png"]}, protocol))
    images, labels = readers.read_batch(path)
    np.testing.assert_array_equal(images, batch[b"data"])
    np.testing.assert_array_equal(labels, batch[b"labels"])
    assert images.flags.c_contiguous


GOOD = example_batch(2)
PIXELS = struct.pack("<I", N * 3072) + GOOD[b"data"].tobytes()
BROKEN_BATCHES = {
    "empty": b"",
    "HTML": b"<html>404</html>\n",
    "cut off": python2_pickle(GOOD)[:40_000],
    "without stop": python2_pickle(GOOD)[:-1],
    "without data": {b"labels": GOOD[b"labels"]},
    "without labels": {b"data": GOOD[b"data"]},
    "other shape": {**GOOD, b"data": GOOD[b"data"].reshape(3072, N)},
    "signed": {**GOOD, b"data": GOOD[b"data"].view(np.int8)},
    "text as data": python2_pickle(GOOD).replace(b"\x89T" + PIXELS, b"\x89X" + PIXELS[:4] + "ā".encode() * (N * 1536)),
    "one label too many": {**GOOD, b"labels": [*GOOD[b"labels"], 1]},
    "label a fraction": {**GOOD, b"labels": [1.5, *GOOD[b"labels"][1:]]},
    "label a Boolean": {**GOOD, b"labels": [True, *GOOD[b"labels"][1:]]},
    "label 10": {**GOOD, b"labels": [10, *GOOD[b"labels"][1:]]},
    "claims gigabytes": b"\x80\x02T\xff\xff\xff\x7f" + bytes(100),
    "claims a huge array": python2_pickle(GOOD).replace(b"M\x14\0M\0\x0c\x86", b"J\xff\xff\xff\x7fM\0\x0c\x86"),
    "takes 2^100 steps to hash": b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(100)) + b"K\1s.",
    "too many tokens": python2_pickle(GOOD)[:-1] + b"N0" * 100_000 + b".",
    "call": b"cos\nsystem\n(Vtrue\ntR.",
}


@pytest.mark.parametrize("content", BROKEN_BATCHES.values(), ids=BROKEN_BATCHES)
def test_broken_batch_is_refused_at_once_in_one_line(cifar10, content):
    path, start = cifar10 / "data_batch_3", time.perf_counter()
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 2))
    assert refusal(data.load, "cifar10", cifar10).startswith(f"{path}: not a CIFAR-10 batch (")
    assert time.perf_counter() - start < 2


def test_batch_of_a_terabyte_is_refused_unread(cifar10):
    os.truncate(cifar10 / "test_batch", 2**40)
    assert "test_batch: not a CIFAR-10 batch (it has more than 67,108,864 bytes)" in refusal(data.load, "cifar10", cifar10)


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_call_in_a_pickle_is_not_run(cifar10, tmp_path):
    hostile = python2_pickle(GOOD)[:-2] + b"U\x04evilcos\nmkdir\n(V%s\ntRu." % bytes(tmp_path / "evil")
    (cifar10 / "data_batch_1").write_bytes(hostile)
    data.load("cifar10", cifar10)
    assert not (tmp_path / "evil").exists()
    pickle.loads(hostile, encoding="bytes")
    assert (tmp_path / "evil").exists(), "the pickle is harmless: this test shows nothing"


def test_shuffled_examples_have_the_same_fingerprint_and_another_order(cifar10, monkeypatch):
    make_official(monkeypatch, "cifar10", cifar10)
    official = data.load("cifar10", cifar10)
    assert (official["files"], official["note"]) == ("official", "")
    for file, rows in zip(CIFAR10_FILES, np.random.default_rng(1).permutation(5 * N).reshape(5, N)):
        batch = {b"data": official["images"][rows], b"labels": official["labels"][rows].tolist()}
        (cifar10 / file).write_bytes(pickle.dumps(batch, 2))
    shuffled = data.load("cifar10", cifar10)
    assert (shuffled["files"], shuffled["note"]) == ("same images in another order", "")
    assert shuffled["fingerprint"] == official["fingerprint"] and shuffled["order"] != official["order"]
    assert all(re.fullmatch("[0-9a-f]{12}", official[key]) for key in ("fingerprint", "order"))


def test_changed_label_and_replaced_test_image_change_the_fingerprint_of_their_set(cifar10):
    raw = data.load("cifar10", cifar10)
    before, arrays = raw["fingerprint"], [raw[part].copy() for part in PARTS]
    arrays[1][7] = (arrays[1][7] + 1) % 10
    label_changed, _, n_shared = data.identity(*arrays)
    assert label_changed[:6] != before[:6] and label_changed[6:] == before[6:] and n_shared == 0
    arrays[2][0] = arrays[0][0]
    image_replaced, _, n_shared = data.identity(*arrays)
    assert image_replaced[:6] == label_changed[:6] and image_replaced[6:] != before[6:] and n_shared == 1


def test_test_batch_in_place_of_a_training_batch_is_noted(cifar10, monkeypatch):
    make_official(monkeypatch, "cifar10", cifar10)
    (cifar10 / "data_batch_5").write_bytes((cifar10 / "test_batch").read_bytes())
    raw = data.load("cifar10", cifar10)
    assert raw["files"] == "other images"
    assert raw["note"] == "not the official CIFAR-10: the training set differs; 20 test images are also in the training set"


def test_fashion_mnist_in_place_of_mnist_is_noted(mnist, tmp_path, monkeypatch):
    fashion = write_idx(tmp_path / "fashion-mnist", 8)
    assert data.load("mnist", fashion)["note"] == "not the official MNIST: the training and test sets differ"
    make_official(monkeypatch, "fashion-mnist", fashion)
    assert data.load("mnist", fashion)["note"] == "not the official MNIST: these are the images of Fashion-MNIST"


def test_small_set_is_the_beginning_and_keeps_the_fingerprint(mnist, monkeypatch):
    monkeypatch.setattr(data, "SMALL", (50, 20))
    whole, small = data.load("mnist", mnist), data.load("mnist", mnist, small=True)
    for part, n in zip(PARTS, (50, 50, 20, 20)):
        np.testing.assert_array_equal(small[part], whole[part][:n])
    assert all(small[key] == whole[key] for key in ("fingerprint", "order", "files", "note"))


@pytest.mark.skipif(not REAL_DATA, reason="KBN_DATA_DIR is not set")
@pytest.mark.parametrize(
    "name, folder", [("cifar10", ""), ("mnist", ""), ("fashion-mnist", ""), ("mnist", "the IDX files alone")]
)
def test_real_images_are_the_official_ones(name, folder, monkeypatch, tmp_path):
    monkeypatch.undo()
    if folder:
        for file in IDX_FILES:
            (tmp_path / file).symlink_to(Path(REAL_DATA, "mnist", file))
    raw = data.load(name, tmp_path if folder else REAL_DATA)
    assert raw["note"] == "" and raw["files"] in ("official", "same images in another order")
    assert raw["images"].shape == (50_000 if name == "cifar10" else 60_000, np.prod(raw["shape"]))
    assert len(raw["labels"]) == len(raw["images"]) and len(raw["test_images"]) == len(raw["test_labels"]) == 10_000


def test_folder_may_be_the_one_around_or_come_from_the_environment(cifar10, monkeypatch):
    order = data.load("cifar10", cifar10)["order"]
    assert data.load("cifar10", cifar10.parent)["order"] == order
    monkeypatch.setenv("KBN_DATA_DIR", str(cifar10))
    assert data.load("cifar10")["order"] == order
    monkeypatch.setenv("KBN_DATA_DIR", "nowhere")
    assert data.load("cifar10", cifar10)["order"] == order


def test_what_is_missing_is_named(cifar10, mnist, monkeypatch):
    assert refusal(data.load, "cifar11") == "there is no dataset 'cifar11'; choose from " + ", ".join(data.DATASETS)
    (mnist / "t10k-images-idx3-ubyte.gz").unlink()
    assert refusal(data.load, "mnist", mnist) == f"{mnist}: t10k-images-idx3-ubyte.gz is missing"
    (cifar10 / "data_batch_4").unlink(), (cifar10 / "test_batch").unlink()
    assert refusal(data.load, "cifar10", cifar10) == f"{cifar10}: data_batch_4 is missing"
    advice = "name the folder that does with --data-dir or KBN_DATA_DIR"
    complaint = f"{mnist} does not hold CIFAR-10 (data_batch_1 .. 5, test_batch); {advice}"
    assert refusal(data.load, "cifar10", mnist) == complaint
    monkeypatch.setenv("KBN_DATA_DIR", str(mnist))
    assert refusal(data.load, "cifar10") == complaint


def test_folder_or_file_that_cannot_be_opened_is_named(cifar10):
    for path in (cifar10 / "test_batch", Path("nowhere")):
        assert refusal(data.load, "cifar10", path).startswith(
            f"{path} is not a folder; name the folder that holds data_batch_1"
        )
    (cifar10 / "data_batch_2").unlink(), (cifar10 / "data_batch_2").mkdir()
    assert f"'{cifar10 / 'data_batch_2'}'" in refusal(data.load, "cifar10", cifar10, error=OSError)


def offer(mirror, monkeypatch, name, files):
    """Let the last mirror of a dataset answer with files {name: content}; the one before it has others of these names."""
    monkeypatch.setitem(data.DATASETS[name], "mirrors", ["http://silent/", "http://other/", "http://mirror/"])
    checksums = {file: "md5:" + hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(data.DATASETS[name], "downloads", checksums)
    for file, content in files.items():
        mirror["files"] |= {"http://mirror/" + file: content, "http://other/" + file: b"<html>moved</html>"}


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_download_from_the_first_mirror_that_has_the_official_files_happens_once(name, cifar10, mnist, mirror, monkeypatch):
    folder, archive = cifar10 if name == "cifar10" else mnist, io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        tar.add(cifar10, cifar10.name)
    files = {file.name: file.read_bytes() for file in mnist.iterdir()}
    offer(mirror, monkeypatch, name, {"cifar-10-python.tar.gz": archive.getvalue()} if name == "cifar10" else files)
    first = data.load(name)
    mirror["files"].clear()
    assert data.load(name)["order"] == first["order"] == data.load(name, folder)["order"]
    assert os.listdir(mirror["cache"]) == [folder.name]
    assert set(os.listdir(mirror["cache"] / folder.name)) == set(os.listdir(folder))


@pytest.mark.parametrize("trouble", ["no answer", "no answer for one file", "another checksum of one file"])
def test_failed_download_is_unavailable_and_leaves_nothing(trouble, mnist, mirror, monkeypatch):
    if trouble != "no answer":
        offer(mirror, monkeypatch, "mnist", {file.name: file.read_bytes() for file in mnist.iterdir()})
        file = "another.gz" if trouble == "no answer for one file" else "t10k-labels-idx1-ubyte.gz"
        monkeypatch.setitem(data.MNIST["downloads"], file, "md5:" + "0" * 32)
    message = refusal(data.load, "mnist", error=data.Unavailable)
    assert message.startswith("MNIST cannot be downloaded (") and "--data-dir" in message and not os.listdir(mirror["cache"])


def test_idx_files_are_read_gzipped_or_not(mnist):
    zipped = data.load("mnist", mnist)
    for path in list(mnist.iterdir())[:3]:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    raw = data.load("mnist", mnist)
    for part, expected in zip(PARTS, [*digits(600, 1), *digits(100, 2)]):
        np.testing.assert_array_equal(raw[part], expected.reshape(raw[part].shape))
    assert raw["order"] == zipped["order"] and raw["labels"].dtype == np.int64


GOOD_LABELS = idx(np.arange(100, dtype=np.uint8) % 10)
BROKEN_IDX = {
    "empty": b"",
    "HTML": b"<html>404</html>",
    "other type": b"\0\0\x0d" + GOOD_LABELS[3:],
    "other number": idx(np.zeros(99, np.uint8)),
    "claims gigabytes": GOOD_LABELS[:4] + b"\xff" * 4 + GOOD_LABELS[8:],
    "cut off": GOOD_LABELS[:-1],
    "too long": GOOD_LABELS + b"x",
    "label 10": GOOD_LABELS[:-1] + b"\x0a",
    "bomb": GOOD_LABELS + bytes(50_000_000),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("content", BROKEN_IDX.values(), ids=BROKEN_IDX)
def test_broken_idx_file_is_refused_in_one_line_and_little_memory(tmp_path, content, suffix):
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix else content)
    tracemalloc.start()
    message = refusal(readers.read_idx, path, (100,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message.startswith(f"{path}: not an IDX file of 100 unsigned bytes (") and peak < 1_000_000


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_file_has_the_same_images_in_a_fixed_random_order(mnist, tmp_path, monkeypatch, compressed):
    official = make_official(monkeypatch, "mnist", mnist)
    write_mat(mnist, {"more": "x"}, do_compression=compressed)
    raw = data.load("mnist", mnist)
    assert (raw["fingerprint"], raw["order"]) == (official["fingerprint"], "1e2706dc5b24")
    assert raw["files"] == "same images in another order" and raw["labels"].dtype == np.int64


def test_mat_file_goes_before_the_idx_files_and_its_results_have_another_key(mnist):
    from_idx = data.load("mnist", mnist)
    assert [path.name for path in from_idx["paths"]] == list(IDX_FILES)
    path = write_mat(mnist)
    from_mat = data.load("mnist", mnist)
    assert from_mat["paths"] == [path]
    (mnist / "t10k-images-idx3-ubyte.gz").unlink()
    assert data.load("mnist", mnist)["order"] == from_mat["order"]
    keys = [store.key_of({}, 0, store.data_of(raw), True) for raw in (from_idx, from_mat)]
    assert keys[0] != keys[1] and keys[0]["data"]["fingerprint"] == keys[1]["data"]["fingerprint"]


N_THREES = np.sum(digits(600, 1)[1] == 3)
WRONG_THREES = {
    "float": np.zeros((N_THREES, 784)),
    "struct": {"a": 1},
    "transposed": np.zeros((784, N_THREES), np.uint8),
    "too many": np.zeros((N_THREES + 1, 784), np.uint8),
}


@pytest.mark.parametrize("train3", WRONG_THREES.values(), ids=WRONG_THREES)
def test_mat_file_with_a_wrong_variable_is_refused_in_one_line(tmp_path, train3):
    path = write_mat(tmp_path, {"train3": train3})
    assert refusal(data.load, "mnist", tmp_path).startswith(f"{path}: not MNIST as a MATLAB file (")


@pytest.mark.parametrize(
    "trouble", ["import os; os.abort()", "while 1: pass", "numpy.zeros(2**28)", "open(target, 'wb').write(bytes(2**28))"]
)
def test_mat_file_that_crashes_or_hangs_or_swells_its_reader_is_refused_in_one_line(tmp_path, monkeypatch, trouble):
    path = write_mat(tmp_path)
    monkeypatch.setattr(readers, "MAX_SECONDS", 2)
    monkeypatch.setattr(readers, "CONVERT", readers.CONVERT.replace("variables =", f"{trouble}\nvariables ="))
    assert refusal(data.load, "mnist", tmp_path).startswith(f"{path}: not MNIST as a MATLAB file (")


def damaged(content, rng):
    """content with a few bytes overwritten, left out or repeated, or cut off; mostly near its ends, where the structure is."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        n = len(content)
        at = int(rng.choice([rng.integers(n), rng.integers(min(n, 300)), n - 1 - rng.integers(min(n, 300))]))
        end = [at, at + 1, at + 4, n][rng.choice(4, p=[0.2, 0.4, 0.3, 0.1])]
        content[at:end] = rng.bytes(rng.integers(5)) or content[at : at + 8] * 2
    return bytes(content)


DAMAGED = {
    "batch of Python 2": (300, "batch", python2_pickle(GOOD), readers.read_batch),
    "batch of Python 3": (300, "batch", pickle.dumps(GOOD, 5), readers.read_batch),
    "IDX file": (300, "labels", GOOD_LABELS, lambda path: readers.read_idx(path, (100,))),
    "gzipped IDX file": (300, "labels.gz", gzip.compress(GOOD_LABELS), lambda path: readers.read_idx(path, (100,))),
    "MATLAB file": (4, "mnist_all.mat", None, lambda path: readers.read_mat([path])),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a wrong escape in a text
@pytest.mark.parametrize("n, name, content, read", DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_is_read_or_refused_in_one_line(tmp_path, n, name, content, read):
    rng, path, n_refused = np.random.default_rng(0), tmp_path / name, 0
    content = content or write_mat(tmp_path).read_bytes()
    for _ in range(n):
        path.write_bytes(damaged(content, rng))
        try:
            read(path)
        except UserError as error:
            n_refused += 1
            assert str(error).startswith(f"{path}: not ") and "\n" not in str(error)
    assert n_refused > n / 3


@pytest.mark.parametrize(
    "name, real, n_train, fingerprint",
    [("shapes", "cifar10", 50_000, "9838a9dc0728"), ("grey-shapes", "mnist", 60_000, "0bdfec15e584")],
)
def test_synthetic_set_has_the_form_of_the_real_one_and_is_always_the_same(name, real, n_train, fingerprint):
    raw, about = data.load(name, "nowhere", small=True), data.DATASETS[name]
    assert data.FALLBACK[real] == name and raw["shape"] == data.DATASETS[real]["shape"] and about["sizes"] == (n_train, 10_000)
    assert raw["images"].shape == (2_000, np.prod(raw["shape"])) and raw["test_labels"].shape == (1_000,)
    assert (np.bincount(raw["labels"]) == 200).all() and len(raw["classes"]) == 10
    assert (raw["fingerprint"], raw["files"], raw["note"]) == (fingerprint, "synthetic", "")


def test_synthetic_classes_differ_in_their_stripes_and_not_in_their_mean():
    images, labels, test_images, test_labels = shapes.draw_set((1, 28, 28), 4_000, 1_000)
    means = np.stack([images[labels == k].mean(axis=0) for k in range(10)])
    nearest = ((test_images[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    y, x = np.mgrid[:28, :28].reshape(2, -1, 1)
    waves = np.exp(2j * np.pi / 256 * (shapes.STEPS[0] * x + shapes.STEPS[1] * y))
    strongest = abs((test_images - test_images.mean(axis=1, keepdims=True)) @ waves).argmax(axis=1)
    assert (nearest == test_labels).mean() < 0.2 and 0.75 < (strongest == test_labels).mean() < 0.98
