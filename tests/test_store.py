"""Results, checkpoints and whole experiments in files: what decides a result, and what happens to a damaged file."""

import gzip
import json
import os
import signal

import numpy as np
import pytest

import kbn
from lab import models, settings, store
from lab.settings import HOME, UserError

DATA = {"name": "toy", "title": "toy set", "note": "", "fingerprint": "f", "order": "o", "files": "official",
        "classes": ["cat", "dog"], "shape": [1, 2, 3]}  # fmt: skip
CONFIG = settings.config(specs=[["conv", 4, 5, 1, 2], ["affine", 2]], eta_max=0.2)
KEY = store.key_of(CONFIG, 3, DATA, True)
OTHER_KEYS = [
    *(KEY | {"config": CONFIG | {name: "another"}} for name in settings.DEFAULTS),
    KEY | {"config": CONFIG | {"eta_max": 0.20000001}},
    KEY | {"config": CONFIG | {"specs": [["conv", 4, [5, 5], 1, 2], ["affine", 2]]}},
    *(KEY | {"data": KEY["data"] | {name: "another"}} for name in ("name", "fingerprint", "order")),
    *(KEY | change for change in ({"seed": 4}, {"test": False}, {"code": "another"}, {"numpy": "another"})),
]
VERSIONS = {"python": "3", "numpy": "2", "machine": "m", "blas": "b"}
HISTORY = {name: [0.25, 0.5] for name in ("train_cost", "train_loss", "train_accuracy", "val_cost", "val_loss", "val_accuracy")}
HISTORY |= {"t": [10.0, 20.0], "S1_mean": [-3.0, 1e-30]}
RESULT = {"val_accuracy": 0.5, "test_accuracy": 1 / 3, "train_accuracy": 0.25, "train_loss": 2, "val_loss": 3.5, "train_cost": 2.5,
          "val_cost": 4.0, "largest_loss": 9.5, "diverged": "", "duration_s": 1.25, "versions": VERSIONS, "history": HISTORY}  # fmt: skip
TRIAL = {name: value for name, value in RESULT.items() if name != "test_accuracy"}
DIVERGED = RESULT | {"diverged": "the loss is nan", "history": {}}


# ------------------------------------------------------------------------------------------- what a result depends on


def test_each_part_of_the_key_changes_the_file_and_refuses_the_stored_result(tmp_path, capsys):
    path = tmp_path / "run.json"
    assert len({store.run_name("net", key) for key in [KEY, *OTHER_KEYS]}) == len(OTHER_KEYS) + 1
    store.write_result(path, KEY, RESULT)
    assert store.read_result(path, KEY) == RESULT and capsys.readouterr().err == ""
    for key in OTHER_KEYS:
        assert store.read_result(path, key) is None, key
        assert capsys.readouterr().err == f"{path} is damaged: its run is trained again\n"
    assert store.key_of(CONFIG, 3, DATA | {"title": "another", "note": "another", "files": "another"}, True) == KEY


def test_name_of_a_run_is_readable_and_safe_in_every_file_system():
    assert store.run_name("9-layer, sigma 0.1, BN “before”", KEY).startswith("9-layer-sigma-0.1-bn-before-seed3-")
    assert store.slug("../ä:b\\c*/") == "..-b-c"


@pytest.fixture
def version(tmp_path, monkeypatch):
    """A function that returns the code version of a copy of the code in which one file is edited."""
    monkeypatch.setattr(store, "HOME", tmp_path)

    def version(edited="", edit=str):
        for name in store.DECISIVE:
            text = (HOME / name).read_text(encoding="utf-8")
            assert name != edited or edit(text) != text
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(edit(text) if name == edited else text, encoding="utf-8")
        return store.code_version.__wrapped__()

    return version


@pytest.mark.parametrize("name", ["kbn.py", "layers.py", "nets.py", "jitter.py", "lab/recipes.py", "lab/training.py"])
def test_code_version_changes_with_code_and_not_with_comments_docstrings_and_layout(name, version):
    original = version()
    assert original == store.code_version() != version(name, lambda text: f"{text}\nEXTRA = 1\n")
    assert version(name, lambda text: f"# a comment\n{text}\n\n# another\n") == original
    assert version(name, lambda text: text.replace(text.split('"""')[1], "Another docstring.")) == original
    assert version(name, lambda text: text.replace("    return ", "    return \\\n        ")) == original


def test_code_version_changes_if_the_training_set_is_tested(version):
    line = '"test": (standardise(raw["test_images"], mean, sd), raw["test_labels"])'
    assert version("lab/training.py", lambda text: text.replace(line, line.replace("test_", ""))) != version()


# ---------------------------------------------------------------------------------------------------------- a result


STORED = json.dumps({"digest": store.digest({"key": KEY, **RESULT}), "key": KEY, **RESULT})
DAMAGED = {"a digit": STORED.replace("3.5", "3.6"), "no field": STORED.replace('"duration_s": 1.25, ', ""),
           "no digest": json.dumps({"key": KEY, **RESULT}), "truncated": STORED[:300], "empty": "", "a list": "[1]", "a number": "3",
           "no fields": "{}", "brackets": "[" * 200_000, "not UTF-8": b"\xff\xfe", "too large": STORED + " " * store.LARGEST}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_result_is_one_line_and_not_used(content, tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(STORED)
    assert store.read_result(path, KEY) == RESULT
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert store.read_result(path, KEY) is None
    assert capsys.readouterr().err == f"{path} is damaged: its run is trained again\n"


@pytest.mark.parametrize("result, test", [(DIVERGED, True), (TRIAL, False)], ids=["diverged", "trial"])
def test_diverged_result_and_trial_are_complete(result, test, tmp_path):
    store.write_result(tmp_path / "run.json", KEY | {"test": test}, result)
    assert store.read_result(tmp_path / "run.json", KEY | {"test": test}) == result


@pytest.mark.parametrize("read", [store.read_result, store.read_checkpoint])
def test_fifo_or_folder_in_place_of_a_file_is_one_line_and_does_not_hang(read, tmp_path, capsys):
    assert read(tmp_path / "missing", KEY) is None and capsys.readouterr().err == ""
    signal.alarm(60)
    for make in (os.mkfifo, os.mkdir):
        make(tmp_path / make.__name__)
        assert read(tmp_path / make.__name__, KEY) is None
        line = capsys.readouterr().err
        assert line.startswith(f"{tmp_path / make.__name__} is ") and line.endswith("again\n") and line.count("\n") == 1
    signal.alarm(0)


# ------------------------------------------------------------------------------------------------------ a checkpoint


def plain(state):
    """A state of lists and numbers, which == can compare."""
    return json.loads(json.dumps(state, default=lambda array: array.tolist()))


@pytest.fixture(scope="module")
def states():
    """The states of a training after each of its epochs."""
    rng, states = np.random.default_rng(3), []
    X, y = rng.standard_normal((5, 60)), rng.integers(3, size=60)
    params, hp = kbn.init_params([5, 6, 3], rng, bn="before"), {"n_batch": 20, "n_s": 9, "n_cycles": 1, "momentum": 0.9}
    kbn.minibatch_gd((X, y), (X, y), params, hp, rng, callback=states.append)
    return states


@pytest.fixture
def path(states, tmp_path):
    """A checkpoint of the run of KEY."""
    path = tmp_path / "run.checkpoint"
    store.write_checkpoint(path, KEY, states[1], 1.5)
    return path


def test_checkpoint_gives_back_what_was_written(states, path, capsys):
    read = store.read_checkpoint(path, KEY)
    epochs = {"history": {"update": {}, "epoch": states[1]["history"]["epoch"]}}
    assert plain(read) == plain(states[1] | epochs | {"duration_s": 1.5}) and capsys.readouterr().err == ""
    assert {array.dtype for group in ("params", "stats", "memory") for array in read[group].values()} == {np.dtype(np.float32)}
    assert list(read["params"]) == list(states[1]["params"]) and read["memory"].keys() == read["params"].keys()


def test_truncated_or_flipped_checkpoint_is_one_line_and_never_read_as_another_state(path, capsys):
    whole, state, rng = path.read_bytes(), plain(store.read_checkpoint(path, KEY)), np.random.default_rng(0)
    directory = whole.index(b"PK\1\2")
    copies = [whole[:length] for length in [*range(0, len(whole), 211), *range(len(whole) - 99, len(whole))]]
    for place in [*rng.integers(directory, size=200).tolist(), *range(directory, len(whole))]:
        flipped = whole[place] ^ 1 << int(rng.integers(8))
        copies.append(whole[:place] + bytes([flipped]) + whole[place + 1 :])
    refused = 0
    for copy in copies:
        path.write_bytes(copy)
        read = store.read_checkpoint(path, KEY)
        refused += read is None
        assert read is None or plain(read) == state  # some bits of the archive mean nothing
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == refused > 0.5 * len(copies)
    assert all(line.startswith(f"{path} is damaged") and line.endswith("its run starts again") for line in lines)


def test_checkpoint_of_another_run_is_one_line_and_not_used(path, capsys):
    for key in OTHER_KEYS:
        assert store.read_checkpoint(path, key) is None, key
        assert capsys.readouterr().err == f"{path} belongs to another run; its run starts again\n"


def archive(path, arrays=None, **words):
    """Write an archive like a checkpoint without arrays, with other words, and with arrays."""
    count = dict.fromkeys(("params", "stats", "memory", "epoch"), 0)
    words = {"key": KEY, "t": 1, "rng": {}, "duration_s": 1.0, "arrays": count} | words
    with path.open("wb") as file:
        np.savez(file, **{"words": np.array(json.dumps(words))} | (arrays or {}))


HOSTILE = {
    "JSON": lambda path: path.write_text("{}"),
    "an array": lambda path: path.write_bytes(b"\x93NUMPY"),
    "a pickle": lambda path: archive(path, {"params.W1": np.array([object()])}),
    "an unknown group": lambda path: archive(path, {"other.W1": np.ones(3)}),
    "brackets": lambda path: archive(path, {"words": np.array("[" * 200_000)}),
    "t of inf": lambda path: archive(path, t=np.inf),
    "no t": lambda path: archive(path, t=None),
    "an array less": lambda path: archive(path, arrays={"params.W1": np.ones(3)}),
    "too many bytes": lambda path: os.truncate(path, 2 * models.LIMIT),
}


@pytest.mark.parametrize("write", HOSTILE.values(), ids=HOSTILE)
def test_hostile_checkpoint_is_one_line_and_not_used(write, path, capsys):
    archive(path)
    assert store.read_checkpoint(path, KEY)
    write(path)
    assert store.read_checkpoint(path, KEY) is None
    line = capsys.readouterr().err
    assert line.startswith(f"{path} ") and line.count("\n") == 1


# ------------------------------------------------------------------------------------------------- a whole experiment


def experiment():
    """Results of three rows: two seeds, one with pictures; a diverged run; a trial without a test accuracy."""
    pictures = {"filters": [[[[0.5, -1e-4]]]], "mistakes": [{"class": 1, "predicted": 0, "pixels": [0, 255]}], "classes": ["a", "b"],
                "shape": [1, 1, 2], "n_wrong": 1, "n_test": 3}  # fmt: skip
    runs = [('a, "b"\nand ± σ', 0, RESULT | {"pictures": pictures, "test_accuracy_dataset": 0.1 + 0.2}),
            ('a, "b"\nand ± σ', 1, RESULT | {"val_accuracy": np.float64(0.1) * 3}), ("2", 0, DIVERGED), ("trial", 0, TRIAL)]  # fmt: skip
    results = {}
    for row, seed, result in runs:
        about = {"row": row, "seed": seed, "run": f"{store.slug(row)}-{seed}", "config": CONFIG, "data": DATA, "code": "0123"}
        results.setdefault(row, []).append({"pictures": None} | about | result)
    return results


def test_runs_are_read_as_they_were_written_from_the_same_bytes(tmp_path):
    store.write_runs(tmp_path / "first", experiment())
    read = store.read_runs(tmp_path / "first")
    assert read == experiment() and list(read) == list(experiment())
    store.write_runs(tmp_path / "again", read)
    for end in ("_runs.csv", "_histories.json.gz"):
        assert (tmp_path / f"again{end}").read_bytes() == (tmp_path / f"first{end}").read_bytes()
    assert (tmp_path / "first_histories.json.gz").read_bytes()[4:8] == bytes(4)  # no time
    head, *lines = (tmp_path / "first_runs.csv").read_text(encoding="utf-8").splitlines()
    assert head == ("row,seed,run,val_accuracy,test_accuracy,test_accuracy_dataset,val_accuracy_mirror,test_accuracy_mirror,"
                    "val_accuracy_ensemble,test_accuracy_ensemble,train_accuracy,train_loss,val_loss,train_cost,val_cost,largest_loss,diverged,duration_s,config,data,code,python,numpy,machine,blas")  # fmt: skip
    assert ",0.5,0.3333333333333333,0.30000000000000004,,,,,0.25,2.0,3.5,2.5,4.0,9.5,,1.25," in lines[1]


def text(change):
    """A function that changes the text of the file of runs."""
    return lambda csv, gz: csv.write_text(change(csv.read_text(encoding="utf-8")), encoding="utf-8")


def histories(change):
    """Change the text of the histories."""
    return lambda csv, gz: gz.write_bytes(gzip.compress(change(gzip.decompress(gz.read_bytes()).decode()).encode()))


RUINED = {
    "no runs": lambda csv, gz: csv.unlink(),
    "no histories": lambda csv, gz: gz.unlink(),
    "a folder": lambda csv, gz: (csv.unlink(), csv.mkdir()),
    "empty": text(lambda text: ""),
    "truncated": text(lambda text: text[:600]),
    "a run less": text(lambda text: text[: text.rindex("trial,")]),
    "a column less": text(lambda text: text.replace("config", "another", 1)),
    "a word for a number": text(lambda text: text.replace("0.3333333333333333", "high")),
    "nan": text(lambda text: text.replace(",0.5,0.3333333333333333", ",nan,0.3333333333333333")),
    "no accuracy": text(lambda text: text.replace(",0.5,0.3333333333333333", ",,0.3333333333333333")),
    "a test accuracy of 7.5": text(lambda text: text.replace("0.3333333333333333", "7.5")),
    "a test accuracy of nan": text(lambda text: text.replace("0.3333333333333333", "nan")),
    "a shorter column": histories(lambda text: text.replace("[0.25,0.5]", "[0.25]", 1)),
    "words in a column": histories(lambda text: text.replace("[0.25,0.5]", '["a","b"]', 1)),
    "no gzip": lambda csv, gz: gz.write_text("{}"),
    "truncated histories": lambda csv, gz: gz.write_bytes(gz.read_bytes()[:-20]),
    "other bytes": lambda csv, gz: gz.write_bytes(gz.read_bytes()[:50] + b"\0\0\0\0" + gz.read_bytes()[54:]),
} | {f"histories {words}": lambda csv, gz, words=words: gz.write_bytes(gzip.compress(words.encode()))
     for words in ("{}", "[1]", '{"trial-0": {"history": "t"}}')}  # fmt: skip


@pytest.mark.parametrize("ruin", RUINED.values(), ids=RUINED)
def test_damaged_or_missing_runs_are_one_line_that_names_the_file(ruin, tmp_path):
    store.write_runs(tmp_path / "toy", experiment())
    ruin(tmp_path / "toy_runs.csv", tmp_path / "toy_histories.json.gz")
    with pytest.raises(UserError, match=r"toy_(runs\.csv|histories\.json\.gz)") as error:
        store.read_runs(tmp_path / "toy")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
