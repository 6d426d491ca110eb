"""datasets.py: reading what is right, refusing what is not, in one line; no network but a server of our own."""

import builtins
import hashlib
import http.server
import io
import os
import pickle
import re
import tarfile
import threading

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import datasets
from datasets import CIFAR10_FILES, CIFAR10_FOLDER, DataError, Unavailable, load, split


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Every test has an empty cache of its own, no KBN_DATA_DIR, and nowhere to download from."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.pooch, "os_cache", lambda project: folder / project)
    monkeypatch.setattr(datasets, "CIFAR10_URL", "http://127.0.0.1:9/cifar.tar.gz")
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
    array = (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
             b"(K\x01M\x10'M\x00\x0c\x86cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
             b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
             b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb")
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


def refusal(folder, kind=DataError):
    """The message of load's error: one line, whole."""
    with pytest.raises(kind) as caught:
        load("cifar10", folder)
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
    calls = [Call(os.system, f"touch '{evil}'"), Call(builtins.eval, code), Call(builtins.open, str(evil), "w"),
             Call(os.mkdir, str(evil)), Call(np.save, str(evil), 0)]
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
    pickle.dumps({b"data": np.zeros((2, 3), np.uint8), b"labels": [1, 2]}, protocol) for protocol in range(1, 6)]


CHANGES = st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), min_size=1, max_size=4)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SMALL), CHANGES)
def test_mutated_bytes_never_raise_anything_else(tmp_path_factory, pickled, changes):
    blob = bytearray(pickled)
    for where, what in changes:
        where %= len(blob)
        blob[where:where + len(what)] = what
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(blob)
    with pytest.raises(DataError, match="mutated: "):  # two images are never enough
        datasets.read_cifar10_batch(path)


# ---- downloading ----------------------------------------------------------------------------------------------------

@pytest.fixture
def server(monkeypatch):
    """serve(archive bytes) answers at CIFAR10_URL and returns the list of requests; the checksum is set to fit."""
    requests, files = [], {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()

    def serve(body):
        files["/cifar.tar.gz"] = body
        monkeypatch.setattr(datasets, "CIFAR10_URL", f"http://127.0.0.1:{httpd.server_port}/cifar.tar.gz")
        monkeypatch.setattr(datasets, "CIFAR10_HASH", "sha256:" + hashlib.sha256(body or b"").hexdigest())
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
    requests = server(archive(official, extra=[("../evil", b"x"), ("../../evil", b"x")]))
    first = load("cifar10", tmp_path)  # an empty folder is not an error
    assert first["fingerprint"] == load("cifar10", official)["fingerprint"]
    assert left_in(cache) == [CIFAR10_FOLDER] + [f"{CIFAR10_FOLDER}/{name}" for name in CIFAR10_FILES]
    assert os.listdir(cache.parent) == [cache.name]
    assert load("cifar10")["fingerprint"] == first["fingerprint"]
    assert requests == ["/cifar.tar.gz"]


def test_refuses_a_wrong_checksum(official, server, cache, monkeypatch):
    server(b"another file")
    monkeypatch.setattr(datasets, "CIFAR10_HASH", "sha256:" + "0" * 64)
    assert "checksum" in refusal(None)
    assert left_in(cache) == []


def test_not_found_is_unavailable(server, cache):
    server(None)
    message = refusal(None, Unavailable)
    assert "404" in message and "--data-dir" in message and datasets.CIFAR10_URL in message
    assert left_in(cache) == []


def test_no_connection_is_unavailable(cache):
    message = refusal(None, Unavailable)
    assert "ConnectionError" in message and "--data-dir" in message
    assert left_in(cache) == []


def test_refuses_an_archive_that_lacks_a_batch(official, server, cache):
    server(archive(official, leave_out=["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "test_batch"],
                   extra=[(f"../{CIFAR10_FOLDER}/data_batch_1", b"x")]))
    assert f"lacks {CIFAR10_FOLDER}/data_batch_1, " in refusal(None)
    assert left_in(cache) == []


def test_refuses_a_link_in_place_of_a_batch(official, server, cache, tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in CIFAR10_FILES:
            link = tarfile.TarInfo(f"{CIFAR10_FOLDER}/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, str(official / name)
            tar.addfile(link)
    server(file.getvalue())
    assert "lacks" in refusal(None)


def test_refuses_what_is_no_archive(server, cache):
    server(b"<html>moved</html>")
    assert "no archive" in refusal(None)
    assert left_in(cache) == []


def test_names_a_cache_that_cannot_be_written(cache):
    cache.write_text("a file in place of the folder")
    assert refusal(None).startswith(f"{cache}: ")


# ---- splitting ------------------------------------------------------------------------------------------------------

@pytest.fixture
def raw():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2500, 12), np.uint8)
    images[:, 7] = 33
    return dict(title="noise", images=images, labels=rng.integers(0, 10, 2500),
                test_images=rng.integers(0, 256, (300, 12), np.uint8), test_labels=rng.integers(0, 10, 300))


def test_split_agrees_with_its_definition(raw):
    data = split(raw, n_train=2100, n_val=150, n_test=200)
    pixels = raw["images"][:2100].T.astype(np.float64)
    mean, sd = pixels.mean(axis=1, keepdims=True), pixels.std(axis=1, keepdims=True)
    sd[7] = 1
    assert np.allclose(data["mean"], mean, rtol=1e-6) and np.allclose(data["sd"], sd, rtol=1e-6)
    for part, images, labels in [("train", raw["images"][:2100], raw["labels"][:2100]),
                                 ("val", raw["images"][2100:2250], raw["labels"][2100:2250]),
                                 ("test", raw["test_images"][:200], raw["test_labels"][:200])]:
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
    raw = dict(title="blank", images=np.zeros((50_000, 2), np.uint8), labels=np.zeros(50_000, int),
               test_images=np.zeros((10_000, 2), np.uint8), test_labels=np.zeros(10_000, int))
    data = split(raw)
    assert [data[part][0].shape for part in ("train", "val", "test")] == [(2, 45_000), (2, 5_000), (2, 10_000)]


@pytest.mark.parametrize("sizes", [dict(n_train=2400, n_val=101), dict(n_train=0, n_val=10), dict(n_train=10, n_val=-1),
                                   dict(n_train=10, n_val=10, n_test=301), dict(n_train=10, n_val=10, n_test=-1)])
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


def test_figures_of_all_classes_differ():
    v, u = np.mgrid[:32, :32].astype(np.float32)[:, None] - 15.5
    covers = [datasets.cover(shape(u, v, np.float32(11))) for shape in datasets.SHAPES.values()]
    assert all(50 < cover.sum() < 500 for cover in covers)
    for i, a in enumerate(covers):
        assert all(abs(a - b).sum() > 50 for b in covers[:i])


def test_stripes_run_as_they_are_called():
    v, u = np.mgrid[:32, :32].astype(np.float32)[:, None] - 15.5
    images = {name: datasets.cover(datasets.SHAPES[f"{name} stripes"](u, v, np.float32(11)))[0, 0, 8:24, 8:24]
              for name in ("horizontal", "vertical", "diagonal")}
    assert np.ptp(images["horizontal"], axis=1).max() == 0 and np.ptp(images["horizontal"], axis=0).min() > .5
    assert np.array_equal(images["horizontal"], images["vertical"].T)
    assert np.allclose(images["diagonal"][1:, :-1], images["diagonal"][:-1, 1:], atol=1e-5)


def test_load_shapes_has_the_form_of_cifar10(monkeypatch):
    def repeated(n, rng, draw=datasets.draw_shapes):
        return tuple(np.resize(array, (n, *array.shape[1:])) for array in draw(500, rng))

    monkeypatch.setattr(datasets, "draw_shapes", repeated)
    raw = load("shapes", "a folder that is not there")
    assert (raw["name"], raw["title"], raw["shape"]) == ("shapes", "shapes (synthetic)", (3, 32, 32))
    assert raw["images"].shape == (50_000, 3072) and raw["test_images"].shape == (10_000, 3072)
    assert len(raw["labels"]) == 50_000 and len(raw["test_labels"]) == 10_000
    assert len(raw["classes"]) == 10 and raw["fingerprint"] == load("shapes")["fingerprint"]


def test_small_is_the_beginning(official):
    for name, folder in (("cifar10", official), ("shapes", None)):
        small = load(name, folder, small=True)
        assert small["images"].shape == (2000, 3072) and small["test_labels"].shape == (1000,)
    whole, small = load("cifar10", official), load("cifar10", official, small=True)
    assert (small["images"] == whole["images"][:2000]).all() and (small["test_images"] == whole["test_images"][:1000]).all()
    assert small["fingerprint"] != whole["fingerprint"]
