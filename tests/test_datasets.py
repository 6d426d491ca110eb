"""datasets.py: reading what is right, refusing what is not, in one line; no network but a server of our own."""

import builtins
import gzip
import hashlib
import http.server
import io
import os
import pickle
import re
import struct
import tarfile
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

import datasets
from datasets import (
    CIFAR10,
    CIFAR10_FILES,
    CIFAR10_FOLDER,
    FASHION_MNIST,
    IDX_FILES,
    MNIST,
    DataError,
    Unavailable,
    load,
    split,
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Every test has an empty cache of its own, no KBN_DATA_DIR, and nowhere to download from."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.pooch, "os_cache", lambda project: folder / project)
    for source in (CIFAR10, MNIST, FASHION_MNIST):
        monkeypatch.setitem(source, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.delenv("KBN_DATA_DIR", raising=False)
    return folder / "kbn"


def batch(seed):
    """A small batch in disguise: the right shape, nearly all zeros. Pixel 0 of row i is i % 251, pixel 1 the seed."""
    data = np.zeros((10_000, 3072), np.uint8)
    data[:, 0], data[:, 1] = np.arange(10_000) % 251, seed
    return {b"data": data, b"labels": [(i + seed) % 10 for i in range(10_000)]}


def python2_pickle(batch):
    """The bytes that Python 2 and its numpy wrote, as in the official files: str keys, protocol 2."""

    def string(text):
        return b"U" + bytes([len(text)]) + text

    labels = b"](" + b"".join(b"K" + bytes([y]) for y in batch[b"labels"]) + b"e"
    pixels = batch[b"data"].tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
        b"(K\x01M\x10'M\x00\x0c\x86cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    )
    return b"\x80\x02}(" + string(b"labels") + labels + string(b"data") + array + b"u."


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """A folder with six batches, told apart by their seeds 0..5, each pickled in another way."""
    folder = tmp_path_factory.mktemp("a folder, ümlaut 名") / CIFAR10_FOLDER
    folder.mkdir()
    for seed, name in enumerate(CIFAR10_FILES):
        pickled = python2_pickle(batch(0)) if seed == 0 else pickle.dumps(batch(seed), protocol=min(seed + 1, 5))
        (folder / name).write_bytes(pickled)
    return folder


@pytest.fixture
def folder(official, tmp_path):
    """Links to the official files, for a test to replace one."""
    for name in CIFAR10_FILES:
        os.link(official / name, tmp_path / name)
    return tmp_path


def put(folder, content, name="data_batch_1"):
    """Replace a batch by content, pickled unless it is bytes."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))


def refusal(folder, kind=DataError, name="cifar10"):
    """The message of load's error: one line, whole."""
    with pytest.raises(kind) as caught:
        load(name, folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


# ---- reading --------------------------------------------------------------------------------------------------------


def test_load_keeps_rows_labels_and_order(official):
    raw = load("cifar10", official)
    assert (raw["name"], raw["title"], raw["shape"]) == ("cifar10", "CIFAR-10", (3, 32, 32))
    assert len(raw["classes"]) == 10 and raw["classes"][6] == "frog"
    for part, seeds in [("", range(5)), ("test_", [5])]:
        images, labels = raw[part + "images"], raw[part + "labels"]
        expected = [batch(seed) for seed in seeds]
        assert images.dtype == np.uint8 and images.flags.c_contiguous
        assert np.array_equal(images, np.concatenate([b[b"data"] for b in expected]))
        assert labels.dtype == np.int64
        assert np.array_equal(labels, np.concatenate([b[b"labels"] for b in expected]))
    assert re.fullmatch("[0-9a-f]{12}", raw["fingerprint"])


def test_fingerprint_sees_one_changed_label(official, folder):
    changed = batch(0)
    changed[b"labels"][77] ^= 1
    put(folder, changed)
    assert load("cifar10", folder)["fingerprint"] != load("cifar10", official)["fingerprint"]


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("order", "CF")
def test_every_protocol_and_memory_order(tmp_path, protocol, order):
    written = batch(protocol)
    written[b"data"] = np.asarray(written[b"data"], order=order)
    put(tmp_path, pickle.dumps(written, protocol))
    images, labels = datasets.read_cifar10_batch(tmp_path / "data_batch_1")
    assert np.array_equal(images, written[b"data"]) and np.array_equal(labels, written[b"labels"])


@pytest.mark.parametrize("home", [b"numpy.core", b"numpy._core"])
def test_old_and_new_names_of_numpy(tmp_path, home):
    pickled = pickle.dumps(batch(1), 2)
    renamed = re.sub(rb"cnumpy\._?core\.", b"c" + home + b".", pickled)
    put(tmp_path, renamed)
    assert b"c" + home in renamed
    assert np.array_equal(datasets.read_cifar10_batch(tmp_path / "data_batch_1")[0], batch(1)[b"data"])


def test_images_are_three_planes_red_first(folder):
    painted = batch(0)
    painted[b"data"][5, :1024] = 200  # red
    painted[b"data"][5, 1024 + 32 * 3 + 4] = 99  # green, row 3, column 4
    put(folder, painted)
    X, _ = split(load("cifar10", folder), n_train=10, n_val=0, n_test=0)["train"]
    images = X.T.reshape(10, 3, 32, 32)
    assert np.shares_memory(images, X)
    assert (images[5, 0] > images[4, 0]).all() and np.argmax(images[5, 1]) == 32 * 3 + 4


def test_folder_may_be_the_one_around_or_named_by_the_environment(official, monkeypatch):
    direct = load("cifar10", official)["fingerprint"]
    assert load("cifar10", official.parent)["fingerprint"] == direct
    monkeypatch.setenv("KBN_DATA_DIR", str(official))
    assert load("cifar10")["fingerprint"] == direct


def test_data_dir_goes_before_the_environment(official, monkeypatch, tmp_path):
    monkeypatch.setenv("KBN_DATA_DIR", str(tmp_path / "nowhere"))
    assert load("cifar10", official)["name"] == "cifar10"


# ---- refusing -------------------------------------------------------------------------------------------------------


def test_unknown_name_lists_what_exists():
    with pytest.raises(DataError, match="'cifar11'.*cifar10.*shapes"):
        load("cifar11")


@pytest.mark.parametrize("name", ["nowhere", "a file"])
def test_data_dir_must_be_a_folder(tmp_path, name):
    (tmp_path / "a file").touch()
    assert str(tmp_path / name) in refusal(tmp_path / name)


def test_names_the_first_missing_file(folder):
    (folder / "data_batch_4").unlink()
    (folder / "test_batch").unlink()
    message = refusal(folder)
    assert message.startswith(f"{folder}: data_batch_4 is missing")


GOOD = batch(2)
BROKEN = {
    "empty": (b"", "not a CIFAR-10 batch"),
    "text": (b"<html>404</html>\n", "not a CIFAR-10 batch"),
    "truncated": (pickle.dumps(GOOD, 2)[:9_000_000], "not a CIFAR-10 batch"),
    "no stop": (pickle.dumps(GOOD, 2)[:-1], "not a CIFAR-10 batch"),
    "list": ([1, 2], "must hold a dict"),
    "no data": ({b"labels": GOOD[b"labels"]}, "must hold a dict"),
    "no labels": ({b"data": GOOD[b"data"]}, "must hold a dict"),
    "one row less": ({**GOOD, b"data": GOOD[b"data"][1:]}, "data must be"),
    "another shape": ({**GOOD, b"data": GOOD[b"data"].reshape(3072, -1)}, "data must be"),
    "signed": ({**GOOD, b"data": GOOD[b"data"].view(np.int8)}, "data must be"),
    "objects": ({**GOOD, b"data": np.array([[None]])}, "data must be"),
    "no array": ({**GOOD, b"data": [0]}, "data must be"),
    "one label less": ({**GOOD, b"labels": [0] * 9_999}, "labels must be"),
    "labels no list": ({**GOOD, b"labels": "0" * 10_000}, "labels must be"),
    "label no integer": ({**GOOD, b"labels": [0] * 9_999 + [1.5]}, "labels must be"),
    "label 17": ({**GOOD, b"labels": [0] * 9_999 + [17]}, "labels must lie in 0..9, found 17"),
    "label -1": ({**GOOD, b"labels": [-1] + [0] * 9_999}, "labels must lie in 0..9, found -1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_refuses_a_broken_batch(folder, name):
    content, complaint = BROKEN[name]
    put(folder, content)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'data_batch_1'}: ") and complaint in message


def test_refuses_an_array_that_claims_more_than_it_holds(folder):
    honest = pickle.dumps(GOOD, 2)
    claim = honest.replace(b"M\x10'M\x00\x0c\x86", b"J\xff\xff\xff\x7fM\x00\x0c\x86")
    assert claim != honest
    put(folder, claim)
    assert "data must be" in refusal(folder)


def test_refuses_a_memo_index_that_would_fill_the_memory(folder):
    put(folder, b"\x80\x02Nr\xff\xff\xff\xff.")
    assert "memo index" in refusal(folder)


def test_refuses_a_folder_in_place_of_a_file(folder):
    (folder / "test_batch").unlink()
    (folder / "test_batch").mkdir()
    assert f"{folder / 'test_batch'}: cannot be read" in refusal(folder)


class Call:
    """Pickles as a call of function with args."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_runs_nothing_that_a_pickle_asks_for(folder):
    evil = folder / "evil"
    code = f"open({str(evil)!r}, 'w')"
    calls = [
        Call(os.system, f"touch '{evil}'"),
        Call(builtins.eval, code),
        Call(builtins.open, str(evil), "w"),
        Call(os.mkdir, str(evil)),
        Call(np.save, str(evil), 0),
    ]
    for call in calls:
        for content in (call, {**GOOD, b"data": 0, b"labels": call}, {b"data": np.array([call, None], object)}):
            for protocol in (0, 2, 4):
                put(folder, pickle.dumps(content, protocol))
                assert "it asks for" in refusal(folder)
                assert not list(folder.glob("evil*"))
    put(folder, pickle.dumps(calls[0], 2))
    pickle.loads((folder / "data_batch_1").read_bytes())
    assert evil.exists(), "the pickle was harmless: this test proves nothing"


SMALL = [python2_pickle({b"data": np.zeros((2, 3), np.uint8), b"labels": [1, 2]})] + [
    pickle.dumps({b"data": np.zeros((2, 3), np.uint8), b"labels": [1, 2]}, protocol) for protocol in range(1, 6)
]


CHANGES = st.lists(st.tuples(st.integers(0, 10_000) | st.integers(0, 300), st.binary(max_size=4)), min_size=1, max_size=4)


def changed(blob, changes):
    """A copy of blob with some of its bytes overwritten, see CHANGES."""
    blob = bytearray(blob)
    for where, what in changes:
        where %= len(blob)
        blob[where : where + len(what)] = what
    return blob


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SMALL), CHANGES)
def test_mutated_bytes_never_raise_anything_else(tmp_path_factory, pickled, changes):
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(changed(pickled, changes))
    with pytest.raises(DataError, match="mutated: "):  # two images are never enough
        datasets.read_cifar10_batch(path)


# ---- MNIST and Fashion-MNIST ----------------------------------------------------------------------------------------

TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = IDX_FILES


def idx(array):
    """The bytes of an IDX file."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def digits(n, seed):
    """n images (n, 28, 28), nearly all zeros, no two alike, and labels (n,), both uint8."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n, np.uint8)
    images = np.zeros((n, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1], images[:, 3, 4], images[:, 9] = seed, labels, np.arange(n) % 256, 100
    images[:, 0, 2] = np.arange(n) // 256
    return images, labels


def write_idx(folder, n_train, n_test):
    for names, n, seed in (((TRAIN, TRAIN_LABELS), n_train, 1), ((TEST, TEST_LABELS), n_test, 2)):
        for name, array in zip(names, digits(n, seed)):
            (folder / name).write_bytes(gzip.compress(idx(array), 1))


def by_class(n_train, n_test):
    """The variables of mnist_all.mat, of the same images."""
    variables = {}
    for part, n, seed in (("train", n_train, 1), ("test", n_test, 2)):
        images, labels = digits(n, seed)
        variables |= {f"{part}{k}": images[labels == k].reshape(-1, 784) for k in range(10)}
    return variables


def write_mat(folder, variables, **options):
    scipy.io.savemat(folder / "mnist_all.mat", variables, **options)
    return folder / "mnist_all.mat"


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A folder mnist with the four files, made for 600 + 100 images, which pass for all."""
    for name, dims in IDX_FILES.items():
        monkeypatch.setitem(IDX_FILES, name, (600 if name.startswith("train") else 100, *dims[1:]))
    monkeypatch.setattr(datasets, "MAT_VARIABLES", {"train": 600, "test": 100})
    folder = tmp_path / "mnist"
    folder.mkdir()
    write_idx(folder, 600, 100)
    return folder


@pytest.fixture
def mat(few):
    """A folder with mnist_all.mat alone, for the same 600 + 100 images."""
    for name in IDX_FILES:
        (few / name).unlink()
    write_mat(few, by_class(600, 100))
    return few


def rows(images):
    return sorted(image.tobytes() for image in images)


def test_load_mnist_whole_and_small(tmp_path):
    write_idx(tmp_path, 60_000, 10_000)
    raw = load("mnist", tmp_path)
    assert (raw["name"], raw["title"], raw["shape"]) == ("mnist", "MNIST", (1, 28, 28))
    assert raw["classes"] == list("0123456789")
    for part, n, seed in (("", 60_000, 1), ("test_", 10_000, 2)):
        images, labels = digits(n, seed)
        assert raw[part + "images"].dtype == np.uint8 and raw[part + "images"].flags.c_contiguous
        assert np.array_equal(raw[part + "images"], images.reshape(n, 784))
        assert raw[part + "labels"].dtype == np.int64 and np.array_equal(raw[part + "labels"], labels)
    small = load("mnist", tmp_path, small=True)
    assert len(small["images"]) == len(small["labels"]) == 2000 and len(small["test_images"]) == 1000
    assert np.array_equal(small["images"], raw["images"][:2000]) and small["fingerprint"] != raw["fingerprint"]
    for name in IDX_FILES:
        (tmp_path / name).unlink()
    write_mat(tmp_path, by_class(60_000, 10_000), do_compression=True)
    mixed = load("mnist", tmp_path)
    assert mixed["images"].shape == (60_000, 784) and rows(mixed["test_images"]) == rows(raw["test_images"])
    assert np.bincount(mixed["labels"][:5000]).min() > 350


def test_load_fashion_mnist(few):
    few.rename(few.parent / "fashion-mnist")
    raw = load("fashion-mnist", few.parent)
    assert (raw["name"], raw["title"], raw["shape"]) == ("fashion-mnist", "Fashion-MNIST", (1, 28, 28))
    assert len(raw["classes"]) == 10 and raw["classes"][9] == "Ankle boot"
    assert np.array_equal(raw["images"].reshape(-1, 28, 28), digits(600, 1)[0])


def test_mnist_folder_may_be_the_one_around_or_named_by_the_environment(few, monkeypatch):
    direct = load("mnist", few)["fingerprint"]
    assert load("mnist", few.parent)["fingerprint"] == direct
    monkeypatch.setenv("KBN_DATA_DIR", str(few))
    assert load("mnist")["fingerprint"] == direct


def test_does_not_take_the_one_for_the_other(few):
    assert "Fashion-MNIST cannot be downloaded" in refusal(few, Unavailable, "fashion-mnist")


def test_unzipped_files_will_do(few):
    zipped = load("mnist", few)["fingerprint"]
    for name in (TRAIN, TEST_LABELS):
        (few / name.removesuffix(".gz")).write_bytes(gzip.decompress((few / name).read_bytes()))
        (few / name).unlink()
    assert load("mnist", few)["fingerprint"] == zipped


def test_mat_file_alone_will_do_and_has_the_same_images_in_a_fixed_random_order(few):
    raw = load("mnist", few)
    (few / "mnist_all.mat").write_bytes(b"not looked at while the IDX files are there")
    assert load("mnist", few)["fingerprint"] == raw["fingerprint"]
    for name in IDX_FILES:
        (few / name).unlink()
    fingerprints = set()
    for options in ({}, {"do_compression": True}):
        write_mat(few, by_class(600, 100) | {"more": np.zeros(3), "text": "x"}, **options)
        mixed = load("mnist", few)
        fingerprints.add(mixed["fingerprint"])
    assert len(fingerprints) == 1
    for part in ("", "test_"):
        images, labels = mixed[part + "images"], mixed[part + "labels"]
        assert images.dtype == np.uint8 and images.flags.c_contiguous and labels.dtype == np.int64
        assert np.array_equal(images[:, 1], labels)
        assert rows(images) == rows(raw[part + "images"]) and not np.array_equal(images, raw[part + "images"])
    assert np.bincount(mixed["labels"][:200], minlength=10).min() > 5


def test_refuses_a_folder_with_some_of_the_files(few):
    (few / TEST).unlink()
    (few / TEST_LABELS).unlink()
    message = refusal(few, name="mnist")
    assert message.startswith(f"{few}: {TEST} is missing; ") and "mnist_all.mat" in message


GOOD_LABELS = idx(np.arange(6, dtype=np.uint8))
BROKEN_IDX = {
    "empty": (b"", "no IDX file"),
    "text": (b"<html>404</html>", "no IDX file"),
    "other type": (b"\0\0\x0d" + GOOD_LABELS[3:], "no IDX file"),
    "images": (idx(np.zeros((6, 28, 28), np.uint8)), "no IDX file"),
    "head cut": (GOOD_LABELS[:7], "shorter"),
    "one less": (idx(np.arange(5, dtype=np.uint8)), r"dimensions must be (6,), not (5,)"),
    "one more": (idx(np.arange(7, dtype=np.uint8)), r"dimensions must be (6,), not (7,)"),
    "claims more": (GOOD_LABELS[:4] + b"\xff" * 4, "not (4294967295,)"),
    "cut": (GOOD_LABELS[:-1], "shorter"),
    "longer": (GOOD_LABELS + b"x", "longer"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", BROKEN_IDX)
def test_refuses_a_broken_idx_file(tmp_path, name, zipped):
    content, complaint = BROKEN_IDX[name]
    path = tmp_path / ("labels.gz" if zipped else "labels")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError) as caught:
        datasets.read_idx(path, (6,))
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and complaint in message and "\n" not in message


@pytest.mark.parametrize("name", IDX_FILES)
def test_names_the_file_that_is_cut_short_or_is_not_there_to_be_read(few, name):
    whole = (few / name).read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"x", gzip.decompress(whole)):
        (few / name).write_bytes(content)
        message = refusal(few, name="mnist")
        assert message.startswith(f"{few / name}: ") and datasets.MEND in message
    (few / name).unlink()
    (few / name).mkdir()
    assert f"{few / name}: cannot be read (Is a directory)" in refusal(few, name="mnist")


@pytest.mark.parametrize("name", [TRAIN_LABELS, TEST_LABELS])
def test_refuses_an_idx_label_out_of_range(few, name):
    labels = np.zeros(IDX_FILES[name], np.uint8)
    labels[7] = 10
    (few / name).write_bytes(gzip.compress(idx(labels)))
    assert refusal(few, name="mnist").startswith(f"{few / name}: labels must lie in 0..9, found 10")


def peak_of(read, *args):
    """The most memory, in bytes, that a call takes that ends in a DataError."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_gzip_bomb_does_not_fill_the_memory(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(GOOD_LABELS + bytes(50_000_000), 1))
    assert peak_of(datasets.read_idx, tmp_path / "bomb.gz", (6,)) < 1_000_000


@settings(max_examples=200, deadline=None)
@given(st.booleans(), CHANGES)
def test_a_mutated_idx_file_is_refused_or_has_its_form(tmp_path_factory, zipped, changes):
    path = tmp_path_factory.getbasetemp() / ("mutated.gz" if zipped else "mutated-idx")
    path.write_bytes(changed(gzip.compress(GOOD_LABELS) if zipped else GOOD_LABELS, changes))
    try:
        labels = datasets.read_idx(path, (6,))
    except DataError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert labels.shape == (6,) and labels.dtype == np.uint8


GOOD_MAT = by_class(600, 100)
CELLS = np.empty((2, 784), object)
CELLS[:] = 0
BROKEN_VARIABLES = {
    "double": ({"train3": GOOD_MAT["train3"].astype(float)}, "train3 must be (n, 784) uint8"),
    "signed": ({"train3": GOOD_MAT["train3"].astype(np.int8)}, "train3 must be (n, 784) uint8"),
    "logical": ({"train3": GOOD_MAT["train3"] > 0}, "train3 must be (n, 784) uint8"),
    "text": ({"train3": "x" * 784}, "train3 must be (n, 784) uint8"),
    "cells": ({"test9": CELLS}, "test9 must be (n, 784) uint8"),
    "struct": ({"test9": {"a": 1}}, "test9 must be (n, 784) uint8"),
    "turned": ({"test0": GOOD_MAT["test0"].T}, "test0 must be (n, 784) uint8"),
    "images": ({"test0": GOOD_MAT["test0"].reshape(-1, 28, 28)}, "test0 must be (n, 784) uint8"),
    "empty": ({"test0": np.zeros((0, 0), np.uint8)}, "test0 must be (n, 784) uint8"),
    "one less": ({"test5": GOOD_MAT["test5"][1:]}, "test0 .. test9 must hold 100 images in all, not 99"),
    "one more": ({"train5": np.zeros((1 + len(GOOD_MAT["train5"]), 784), np.uint8)}, "not 601"),
    "none": ({f"train{k}": np.zeros((0, 784), np.uint8) for k in range(10)}, "not 0"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", BROKEN_VARIABLES)
def test_refuses_a_mat_file_with_a_broken_variable(mat, name, compressed):
    variables, complaint = BROKEN_VARIABLES[name]
    path = write_mat(mat, GOOD_MAT | variables, do_compression=compressed)
    message = refusal(mat, name="mnist")
    assert message.startswith(f"{path}: ") and complaint in message and datasets.MEND in message


@pytest.mark.parametrize("lacking", ["train0", "test9"])
def test_refuses_a_mat_file_that_lacks_a_variable(mat, lacking):
    write_mat(mat, {name: images for name, images in GOOD_MAT.items() if name != lacking})
    assert f"{lacking} is missing" in refusal(mat, name="mnist")


@pytest.mark.parametrize("compressed", [False, True])
def test_refuses_a_mat_file_that_is_damaged_or_something_else(mat, compressed):
    path = write_mat(mat, GOOD_MAT, do_compression=compressed)
    whole = path.read_bytes()
    scipy.io.savemat(path, GOOD_MAT, format="4")
    fourth = path.read_bytes()
    for content in (
        b"",
        b"x" * 5000,
        whole[:50],
        whole[:128],
        whole[:-1],
        whole[:-100],
        whole[: len(whole) // 2],
        whole + b"x",
        fourth,
        whole[:124] + b"\0\2IM" + whole[128:],
        gzip.compress(whole),
    ):
        path.write_bytes(content)
        assert refusal(mat, name="mnist").startswith(f"{path}: not MNIST as a MATLAB file (")
    path.unlink()
    path.mkdir()
    assert "cannot be read (Is a directory)" in refusal(mat, name="mnist")


def mat_file(*elements, order="<"):
    """A MATLAB 5 file of these top-level elements, (type, content)."""
    return (
        b"MATLAB 5.0".ljust(124)
        + struct.pack(order + "H", 256)
        + (b"IM" if order == "<" else b"MI")
        + b"".join(struct.pack(order + "II", kind, len(content)) + content for kind, content in elements)
    )


def mat_matrix(name, n, claim, pixels, order="<"):
    """The content of a variable of n x 784 uint8, which claims so many bytes of pixels."""
    return struct.pack(order + "4I2I2i2I8s2I", 6, 8, 9, 0, 5, 8, n, 784, 1, len(name), name.encode(), 2, claim) + pixels


def test_reads_either_byte_order_as_scipy_does(mat):
    little = load("mnist", mat)["fingerprint"]
    path = mat / "mnist_all.mat"
    path.write_bytes(
        mat_file(
            *((14, mat_matrix(name, len(images), images.size, images.tobytes("F"), ">")) for name, images in GOOD_MAT.items()),
            order=">",
        )
    )
    assert load("mnist", mat)["fingerprint"] == little
    assert all(np.array_equal(scipy.io.loadmat(path)[name], images) for name, images in GOOD_MAT.items())


def test_a_mat_bomb_does_not_fill_the_memory(mat):
    n = 50_000_000
    bomb = mat_matrix("train0", n // 784, n, bytes(n))
    bomb = zlib.compress(struct.pack("<II", 14, len(bomb)) + bomb, 1)
    nested = zlib.compress(struct.pack("<II", 15, len(bomb)) + bomb)
    liar = mat_matrix("train0", 2**31 - 1, 2**32 - 1, bytes(784))
    packed_liar = zlib.compress(struct.pack("<II", 14, 2**32 - 1) + liar)
    for element in ((15, bomb), (15, nested), (14, liar), (15, packed_liar)):
        (mat / "mnist_all.mat").write_bytes(mat_file(element))
        assert peak_of(load, "mnist", mat) < 40_000_000


def test_passes_over_what_else_a_mat_file_holds(mat):
    before = load("mnist", mat)["fingerprint"]
    noise = np.random.default_rng(0).integers(0, 256, (1, datasets.MAT_LIMIT + 100_000), np.uint8)
    others = {
        "noise": noise,
        "zeros": np.zeros(noise.shape),
        "x": 1,
        "text": "train0",
        "cells": CELLS,
        "none": np.empty((0, 0), object),
        "struct": {"train0": {"b": "c"}},
    }
    for compressed in (False, True):
        write_mat(mat, others | GOOD_MAT, do_compression=compressed)
        assert load("mnist", mat)["fingerprint"] == before


SMALL_MAT = io.BytesIO(), io.BytesIO()
for file, compressed in zip(SMALL_MAT, (False, True)):
    scipy.io.savemat(
        file, {"train0": np.arange(784 * 2, dtype=np.uint8).reshape(2, 784), "cells": CELLS[:1, :3]}, do_compression=compressed
    )


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SMALL_MAT), CHANGES)
def test_a_mutated_mat_file_never_raises_anything_else(tmp_path_factory, file, changes):
    path = tmp_path_factory.getbasetemp() / "mutated.mat"
    path.write_bytes(changed(file.getvalue(), changes))
    with pytest.raises(DataError, match="mutated.mat: "):  # one variable is never enough
        datasets.read_mat([path])


# ---- downloading ----------------------------------------------------------------------------------------------------

ARCHIVE = "cifar-10-python.tar.gz"


@pytest.fixture
def server(monkeypatch):
    """serve(source, {name: content}) answers at the source's mirror, and sets its checksums to fit; None is not found.

    Returns the list of requests.
    """
    requests, served = [], {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            body = served.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()

    def serve(source, files):
        served.update({f"/{name}": body for name, body in files.items()})
        monkeypatch.setitem(source, "mirrors", [f"http://127.0.0.1:{httpd.server_port}/"])
        monkeypatch.setitem(
            source, "downloads", {name: "md5:" + hashlib.md5(body or b"").hexdigest() for name, body in files.items()}
        )
        return requests

    yield serve
    httpd.shutdown()
    httpd.server_close()


def archive(official, leave_out=(), extra=()):
    """The official archive in small: the six batches and batches.meta, less some, plus (name, content) pairs."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        for name in set(CIFAR10_FILES) - set(leave_out):
            tar.add(official / name, f"{CIFAR10_FOLDER}/{name}")
        for name, content in [(f"{CIFAR10_FOLDER}/batches.meta", b"x"), *extra]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def left_in(cache):
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*"))


def test_downloads_once(official, server, cache, tmp_path):
    requests = server(CIFAR10, {ARCHIVE: archive(official, extra=[("../evil", b"x"), ("../../evil", b"x")])})
    first = load("cifar10", tmp_path)  # an empty folder is not an error
    assert first["fingerprint"] == load("cifar10", official)["fingerprint"]
    assert left_in(cache) == [CIFAR10_FOLDER] + [f"{CIFAR10_FOLDER}/{name}" for name in CIFAR10_FILES]
    assert os.listdir(cache.parent) == [cache.name]
    assert load("cifar10")["fingerprint"] == first["fingerprint"]
    assert requests == [f"/{ARCHIVE}"]


def test_refuses_a_wrong_checksum(official, server, cache, monkeypatch):
    server(CIFAR10, {ARCHIVE: b"another file"})
    monkeypatch.setitem(CIFAR10, "downloads", {ARCHIVE: "sha256:" + "0" * 64})
    assert "checksum" in refusal(None)
    assert left_in(cache) == []


def test_not_found_is_unavailable(server, cache):
    server(CIFAR10, {ARCHIVE: None})
    message = refusal(None, Unavailable)
    assert "404" in message and "--data-dir" in message and message.startswith(CIFAR10["mirrors"][0] + ARCHIVE)
    assert left_in(cache) == []


def test_no_connection_is_unavailable(cache):
    message = refusal(None, Unavailable)
    assert "ConnectionError" in message and "--data-dir" in message
    assert left_in(cache) == []


def test_refuses_an_archive_that_lacks_a_batch(official, server, cache):
    server(
        CIFAR10,
        {
            ARCHIVE: archive(
                official,
                extra=[(f"../{CIFAR10_FOLDER}/data_batch_1", b"x")],
                leave_out=["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "test_batch"],
            )
        },
    )
    assert f"lacks {CIFAR10_FOLDER}/data_batch_1, " in refusal(None)
    assert left_in(cache) == []


def test_refuses_a_link_in_place_of_a_batch(official, server, cache, tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in CIFAR10_FILES:
            link = tarfile.TarInfo(f"{CIFAR10_FOLDER}/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, str(official / name)
            tar.addfile(link)
    server(CIFAR10, {ARCHIVE: file.getvalue()})
    assert "lacks" in refusal(None)


@pytest.mark.parametrize("damage", ["another", "cut", "flipped"])
def test_refuses_what_is_no_archive(official, server, cache, damage):
    whole = archive(official)
    damaged = {
        "another": b"<html>moved</html>",
        "cut": whole[:-71],
        "flipped": gzip.compress(b"\1" * 512 + gzip.decompress(whole)[512:], 1),
    }
    server(CIFAR10, {ARCHIVE: damaged[damage]})
    assert "no archive" in refusal(None)
    assert left_in(cache) == []


def test_names_a_cache_that_cannot_be_written(cache):
    cache.write_text("a file in place of the folder")
    assert refusal(None).startswith(f"{cache}: ")


def contents(folder):
    """The IDX files of a folder, by name."""
    return {name: (folder / name).read_bytes() for name in IDX_FILES}


@pytest.mark.parametrize("name, source", [("mnist", MNIST), ("fashion-mnist", FASHION_MNIST)])
def test_downloads_four_files_once(few, server, cache, tmp_path, name, source):
    (tmp_path / "empty").mkdir()
    requests = server(source, contents(few))
    first = load(name, tmp_path / "empty")
    assert np.array_equal(first["images"][:, :28], load("mnist", few)["images"][:, :28])
    assert left_in(cache) == [name] + [f"{name}/{file}" for file in sorted(IDX_FILES)]
    assert load(name)["fingerprint"] == first["fingerprint"]
    assert requests == [f"/{file}" for file in IDX_FILES]


def test_downloads_four_files_or_none(few, server, cache):
    files = contents(few)
    server(MNIST, files | {"t10k-labels-idx1-ubyte.gz": None})
    message = refusal(None, Unavailable, "mnist")
    assert "t10k-labels-idx1-ubyte.gz: MNIST cannot be downloaded (HTTP status 404)" in message
    assert left_in(cache) == []


def test_goes_to_the_next_mirror(few, server, monkeypatch):
    server(MNIST, contents(few))
    monkeypatch.setitem(MNIST, "mirrors", ["http://127.0.0.1:9/", *MNIST["mirrors"]])
    assert load("mnist")["fingerprint"] == load("mnist", few)["fingerprint"]


def test_refuses_a_wrong_md5(few, server, cache, monkeypatch):
    server(MNIST, contents(few))
    monkeypatch.setitem(MNIST["downloads"], "t10k-images-idx3-ubyte.gz", "md5:" + "0" * 32)
    assert "t10k-images-idx3-ubyte.gz: the download has a wrong checksum" in refusal(None, name="mnist")
    assert left_in(cache) == []


def test_every_download_has_a_checksum_and_an_address_of_its_own():
    for source, n in ((CIFAR10, 1), (MNIST, 4), (FASHION_MNIST, 4)):
        checksums = source["downloads"].values()
        assert all(re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum) for checksum in checksums)
        assert len(set(checksums)) == n
    assert not set(MNIST["downloads"].values()) & set(FASHION_MNIST["downloads"].values())


# ---- splitting ------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2500, 12), np.uint8)
    images[:, 7] = 33
    return dict(
        title="noise",
        images=images,
        labels=rng.integers(0, 10, 2500),
        test_images=rng.integers(0, 256, (300, 12), np.uint8),
        test_labels=rng.integers(0, 10, 300),
    )


def test_split_agrees_with_its_definition(raw):
    data = split(raw, n_train=2100, n_val=150, n_test=200)
    pixels = raw["images"][:2100].T.astype(np.float64)
    mean, sd = pixels.mean(axis=1, keepdims=True), pixels.std(axis=1, keepdims=True)
    sd[7] = 1
    assert np.allclose(data["mean"], mean, rtol=1e-6) and np.allclose(data["sd"], sd, rtol=1e-6)
    for part, images, labels in [
        ("train", raw["images"][:2100], raw["labels"][:2100]),
        ("val", raw["images"][2100:2250], raw["labels"][2100:2250]),
        ("test", raw["test_images"][:200], raw["test_labels"][:200]),
    ]:
        X, y = data[part]
        assert X.shape == images.T.shape and X.dtype == np.float32 and X.flags.f_contiguous
        assert np.allclose(X, (images.T - mean) / sd, atol=1e-5)
        assert np.array_equal(y, labels)


def test_statistics_are_those_of_the_training_images_alone(raw):
    before = split(raw, n_train=2000, n_val=500)
    changed = {**raw, "images": raw["images"].copy(), "test_images": raw["test_images"] // 2}
    changed["images"][2000:] //= 3
    after = split(changed, n_train=2000, n_val=500)
    assert np.array_equal(before["mean"], after["mean"]) and np.array_equal(before["sd"], after["sd"])
    assert np.array_equal(before["train"][0], after["train"][0])
    assert not np.array_equal(before["val"][0], after["val"][0])


def test_split_in_float64_is_standardised_to_rounding(raw):
    X, _ = split(raw, n_train=2500, n_val=0, dtype=np.float64)["train"]
    varied = np.delete(X, 7, axis=0)
    assert X.dtype == np.float64
    assert abs(X.mean(axis=1)).max() < 1e-13 and abs(varied.std(axis=1) - 1).max() < 1e-13
    assert (X[7] == 0).all()


def test_default_split_takes_the_documented_sizes():
    raw = dict(
        title="blank",
        images=np.zeros((50_000, 2), np.uint8),
        labels=np.zeros(50_000, int),
        test_images=np.zeros((10_000, 2), np.uint8),
        test_labels=np.zeros(10_000, int),
    )
    data = split(raw)
    assert [data[part][0].shape for part in ("train", "val", "test")] == [(2, 45_000), (2, 5_000), (2, 10_000)]


def test_split_can_leave_the_scale(raw):
    each, data = split(raw, 2100, 150), split(raw, 2100, 150, scale="none")
    assert np.array_equal(data["mean"], each["mean"]) and data["mean"].dtype == np.float32
    assert np.array_equal(data["sd"], np.ones((len(each["sd"]), 1)))
    np.testing.assert_array_equal(data["val"][0], raw["images"][2100:2250].T - data["mean"])
    with pytest.raises(ValueError, match="scale must be"):
        split(raw, 2100, 150, scale=True)


def test_split_can_scale_all_dimensions_alike(raw):
    data = split(raw, 2100, 150, scale="all")
    pixels = raw["images"][:2100].astype(np.float64)
    np.testing.assert_allclose(data["mean"], np.full((pixels.shape[1], 1), pixels.mean()), rtol=1e-6)
    np.testing.assert_allclose(data["sd"], np.full((pixels.shape[1], 1), pixels.std()), rtol=1e-6)
    assert data["train"][0].mean(dtype=np.float64) == pytest.approx(0, abs=1e-4)
    assert data["train"][0].std(dtype=np.float64) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "sizes",
    [
        dict(n_train=2400, n_val=101),
        dict(n_train=0, n_val=10),
        dict(n_train=10, n_val=-1),
        dict(n_train=10, n_val=10, n_test=301),
        dict(n_train=10, n_val=10, n_test=-1),
    ],
)
def test_refuses_sizes_that_do_not_fit(raw, sizes):
    with pytest.raises(DataError, match="noise has (2500 training|300 test) images"):
        split(raw, **sizes)


# ---- shapes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes():
    return datasets.draw_shapes(1000, np.random.default_rng(5))


def test_shapes_are_balanced_and_in_random_order(shapes):
    images, labels = shapes
    assert images.shape == (1000, 3072) and images.dtype == np.uint8 and images.flags.c_contiguous
    assert labels.dtype == np.int64 and (np.bincount(labels) == 100).all()
    assert not np.array_equal(labels[:100], labels[100:200])


def test_shapes_depend_on_the_seed_and_nothing_else(shapes):
    again, other = (datasets.draw_shapes(1000, np.random.default_rng(seed)) for seed in (5, 6))
    assert np.array_equal(shapes[0], again[0]) and np.array_equal(shapes[1], again[1])
    assert not np.array_equal(shapes[0], other[0]) and not np.array_equal(shapes[1], other[1])


def test_no_two_shapes_are_the_same_image(shapes):
    assert len({image.tobytes() for image in shapes[0]}) == 1000


def test_grey_shapes_are_as_the_others_in_one_plane():
    images, labels = datasets.draw_shapes(500, np.random.default_rng(5), planes=1, side=28)
    again, _ = datasets.draw_shapes(500, np.random.default_rng(5), planes=1, side=28)
    assert images.shape == (500, 784) and images.dtype == np.uint8 and images.flags.c_contiguous
    assert np.array_equal(images, again) and (np.bincount(labels) == 50).all()
    assert len({image.tobytes() for image in images}) == 500


def test_a_larger_image_shows_the_same_in_more_pixels(monkeypatch):
    monkeypatch.setattr(datasets, "NOISE", 0)
    small, large = (datasets.paint(datasets.ring, 20, np.random.default_rng(5), 1, side).astype(int) for side in (28, 84))
    assert abs(large[..., 1::3, 1::3] - small).mean() < 8 < abs(large[..., 1::3, 1::3] - small[::-1]).mean()


def test_figures_of_all_classes_differ():
    v, u = np.mgrid[:32, :32].astype(np.float32)[:, None] - 15.5
    covers = [datasets.cover(shape(u, v, np.float32(11))) for shape in datasets.SHAPES.values()]
    assert all(50 < cover.sum() < 500 for cover in covers)
    for i, a in enumerate(covers):
        assert all(abs(a - b).sum() > 50 for b in covers[:i])


def test_stripes_run_as_they_are_called():
    v, u = np.mgrid[:32, :32].astype(np.float32)[:, None] - 15.5
    images = {
        name: datasets.cover(datasets.SHAPES[f"{name} stripes"](u, v, np.float32(11)))[0, 0, 8:24, 8:24]
        for name in ("horizontal", "vertical", "diagonal")
    }
    assert np.ptp(images["horizontal"], axis=1).max() == 0 and np.ptp(images["horizontal"], axis=0).min() > 0.5
    assert np.array_equal(images["horizontal"], images["vertical"].T)
    assert np.allclose(images["diagonal"][1:, :-1], images["diagonal"][:-1, 1:], atol=1e-5)


def test_load_shapes_has_the_form_of_cifar10(monkeypatch):
    def repeated(n, *args, draw=datasets.draw_shapes):
        return tuple(np.resize(array, (n, *array.shape[1:])) for array in draw(500, *args))

    monkeypatch.setattr(datasets, "draw_shapes", repeated)
    raw = load("shapes", "a folder that is not there")
    assert (raw["name"], raw["title"], raw["shape"]) == ("shapes", "shapes (synthetic)", (3, 32, 32))
    assert raw["images"].shape == (50_000, 3072) and raw["test_images"].shape == (10_000, 3072)
    assert len(raw["labels"]) == 50_000 and len(raw["test_labels"]) == 10_000
    assert len(raw["classes"]) == 10 and raw["fingerprint"] == load("shapes")["fingerprint"]
    grey = load("grey-shapes")
    assert (grey["name"], grey["title"], grey["shape"]) == ("grey-shapes", "grey shapes (synthetic)", (1, 28, 28))
    assert grey["images"].shape == (60_000, 784) and grey["test_images"].shape == (10_000, 784)
    assert len(grey["labels"]) == 60_000 and len(grey["test_labels"]) == 10_000
    assert grey["classes"] == raw["classes"] and grey["fingerprint"] == load("grey-shapes")["fingerprint"]


def test_small_is_the_beginning(official):
    for name, folder, d in (("cifar10", official, 3072), ("shapes", None, 3072), ("grey-shapes", None, 784)):
        small = load(name, folder, small=True)
        assert small["images"].shape == (2000, d) and small["test_labels"].shape == (1000,)
    whole, small = load("cifar10", official), load("cifar10", official, small=True)
    assert np.array_equal(small["images"], whole["images"][:2000])
    assert np.array_equal(small["test_images"], whole["test_images"][:1000])
    assert small["fingerprint"] != whole["fingerprint"]
