"""Many runs: the same numbers whatever happens on the way. Kills, restarts, damaged files, company, one job or two."""

import ast
import contextlib
import importlib.util
import inspect
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, command, environment, results_of, small

import datasets
import experiment
import kbn
import tables

SEEDS, RUNS = 2, 6  # what conftest.small gives tests/small.py, and what comes of it
SETTING = experiment.config(hidden=[6], batch_norm=True, n_batch=20, n_s=45, n_cycles=1, eta_max=0.02, momentum=0.9, keep=0.8)
ABOUT = {
    "dataset": {"name": "toy", "fingerprint": "0", "classes": 3, "shape": [5]},
    "code": {"hidden": "1", "specs": "2"},
    "versions": {},
}
CONV = {
    "specs": [["conv", 2, 3, 1, 1], ["bn"], ["relu"], ["max_pool", 2], ["dropout"], ["affine", 10]],
    "keep": 0.8,
    "watched": 9,
}
KEY = {"config": SETTING, "seed": 3, "dataset": ABOUT["dataset"], "code": "1"}


def models_of(folder):
    """The arrays of the model files below a folder, as bytes, by name."""
    models = {}
    for path in folder.rglob("models/*.npz"):
        with np.load(path) as file:
            models[path.name] = {name: (file[name].dtype, file[name].shape, file[name].tobytes()) for name in file.files}
    return models


def updates_made(folder):
    """The t of every checkpoint below a folder, by name."""
    made = {}
    for path in folder.rglob("*.checkpoint"):
        with contextlib.suppress(FileNotFoundError), np.load(path) as file:  # its run may just have ended
            made[path.name] = json.loads(file["words"].item())["t"]
    return made


def assert_same(out, undisturbed):
    """Results, models and tables are those of the undisturbed run to the bit, and nothing else is there."""
    assert results_of(out) == results_of(undisturbed)
    assert models_of(out) == models_of(undisturbed)
    left, right = ({path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} for folder in (out, undisturbed))
    assert {path for path in left if path.suffix != ".scratch"} == right
    for table in out.rglob("small.*"):
        assert table.read_text() == (undisturbed / table.relative_to(out)).read_text()


# -------------------------------------------------------------------------------------------------------- kill and go on


def left_of(drivers, before, patience=20):
    """What joblib left of these processes in /dev/shm, where before was there. It tidies up a moment after their end."""
    deadline, left = time.monotonic() + patience, True
    while left and time.monotonic() < deadline:
        new = [path.name for path in Path("/dev/shm").glob("*") if path not in before]
        left = [name for name in new if {*map(str, drivers)} & {*re.split("[-_]", name)}]
        time.sleep(0.1)
    return left


def test_killed_at_twenty_random_moments_the_end_is_the_same_to_the_bit(undisturbed, tmp_path, monkeypatch):
    moments, temporary, drivers = random.Random(1), tmp_path / "temporary", []
    temporary.mkdir()
    shared = set(Path("/dev/shm").glob("*"))
    kills, went_on, round_ = 0, 0, 0
    while kills < 20:
        round_ += 1
        out, before, ended = tmp_path / str(round_), {}, False
        while not ended:
            job = subprocess.Popen(
                command("tests/small", *SMALL, "--seeds", SEEDS, "--jobs", 1 + kills % 2, "--out", out),
                cwd=tmp_path,
                env=environment(TMPDIR=str(temporary)),
                text=True,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            drivers.append(job.pid)
            deadline = time.monotonic() + 60
            while job.poll() is None and updates_made(out) == before and time.monotonic() < deadline:
                time.sleep(0.01)  # until it has done something, so that killing it ever again comes to an end
            try:
                _, stderr = job.communicate(timeout=moments.uniform(0, 0.4))
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                _, stderr = job.communicate()
            ended, killed = job.returncode == 0, job.returncode == -signal.SIGKILL
            assert ended or killed, stderr
            kills += killed
            if killed and any(out.rglob("small.md")):
                drivers.remove(job.pid)  # on its way out, where a second kill of its helpers leaves their semaphores
            assert "damaged" not in stderr and "another" not in stderr and "Traceback" not in stderr
            now = updates_made(out)
            for run in now.keys() & before.keys():
                assert now[run] >= before[run], "a run began anew"
                went_on += now[run] > before[run]
            before = now
        assert_same(out, undisturbed)
    assert went_on >= 10
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    lab = experiment.open_lab(experiment.options("", [*SMALL, "--jobs", "2", "--out", str(tmp_path), "--quiet"]), 1)
    experiment.split(lab, 1000, 500, "each")
    assert [str(path) for path in temporary.iterdir()] == [lab["scratch"].name] and not left_of(drivers, shared)


def test_the_workers_of_a_killed_driver_end_and_leave_nothing(tmp_path):
    shared = set(Path("/dev/shm").glob("*"))
    job = subprocess.Popen(
        command("tests/small", *SMALL, "--seeds", SEEDS, "--jobs", 2, "--out", tmp_path),
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path)),
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    while not list(tmp_path.rglob("*.checkpoint")):
        assert job.poll() is None
        time.sleep(0.05)
    job.kill()
    try:
        job.communicate(timeout=20)  # whoever lives holds the pipe open
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert not left_of([job.pid], shared)


def test_what_is_cleared_is_a_dead_drivers(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    host = platform.node()
    stay = {
        f"kbn-{host}-{os.getpid()}-x",
        f"kbn-{host}-1-x",
        f"kbn-another{host}-{dead.pid}-x",
        f"kbn-{host}-word-x",
        f"{host}-{dead.pid}-x",
    }
    for name in {*stay, f"kbn-{host}-{dead.pid}-x"}:
        (tmp_path / name).mkdir()
        (tmp_path / name / "split").write_text("")
    experiment.clear_splits()
    assert {path.name for path in tmp_path.iterdir()} == stay


def test_a_run_goes_on_from_its_checkpoint(toy, tmp_path, monkeypatch):
    path, train, starts = tmp_path / "run.json", kbn.minibatch_gd, []

    def stopped_after(epochs):
        def minibatch_gd(train_, val, params, hp, rng, callback, state, net):
            starts.append(state and state["t"])

            def counted(state):
                callback(state)
                if len(state["history"]["epoch"]["t"]) == epochs:
                    raise KeyboardInterrupt

            return train(train_, val, params, hp, rng, counted, state, net)

        return minibatch_gd

    _, whole, model = experiment.run(SETTING, 3, toy, ABOUT, tmp_path / "another.json", True)
    for epochs in (2, 3, 5, None):
        monkeypatch.setattr(kbn, "minibatch_gd", stopped_after(epochs))
        try:
            _, result, same_model = experiment.run(SETTING, 3, toy, ABOUT, path, True)
        except KeyboardInterrupt:
            assert epochs
    assert starts == [None, 30, 45, 75]
    assert list(result) == list(whole) and json.dumps(result | {"duration_s": 0}) == json.dumps(whole | {"duration_s": 0})
    assert same_model == model


def test_scratch_of_a_killed_process_is_cleared_when_it_is_old(tmp_path):
    now = time.time()
    for name, age in (
        (".run.json.host.1.scratch", 601),
        (".run.json.host.2.scratch", 599),
        ("run.json", 10_000),
        (".profile", 10_000),
    ):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (now - age, now - age))
    (tmp_path / ".gone.scratch").symlink_to(tmp_path / "nowhere")  # as one that another driver has just made whole
    tables.clear_scratch(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {".gone.scratch"} == {
        ".run.json.host.2.scratch",
        "run.json",
        ".profile",
    }


def test_a_driver_clears_old_scratch(undisturbed, tmp_path):
    scratch = [tmp_path / "results" / "shapes-smoke" / folder / ".x.host.1.scratch" for folder in ("runs", "models")]
    for path in scratch:
        path.parent.mkdir(parents=True)
        path.write_text("")
        os.utime(path, (0, 0))
    experiment.open_lab(experiment.options("", [*SMALL, "--out", str(tmp_path), "--quiet"]), 1)
    assert not any(path.exists() for path in scratch)


# ----------------------------------------------------------------------------------------------------- checkpoint files


def plain(state):
    """A state made of lists and numbers only, which == can compare."""
    return json.loads(json.dumps(state, default=lambda array: array.tolist()))


@pytest.fixture
def checkpoint(toy, tmp_path):
    """A checkpoint file of SETTING, seed 3, and the state in it."""
    states, path = [], tmp_path / "run.checkpoint"

    def take(state):
        if state["t"] == 30:
            states.append(plain(state))
            experiment.write_checkpoint(path, KEY, state, 1.5)

    kbn.minibatch_gd(
        toy["train"],
        toy["val"],
        kbn.init_params([5, 6, 3], np.random.default_rng(3), True),
        {key: SETTING[key] for key in kbn.DEFAULTS},
        np.random.default_rng(3),
        take,
    )
    return path, states[0]


def test_a_checkpoint_gives_back_what_was_written(checkpoint, capsys):
    path, state = checkpoint
    read = experiment.read_checkpoint(path, KEY)
    assert read.pop("duration_s") == 1.5 and plain(read) == state
    assert {array.dtype for bag in ("params", "stats", "memory") for array in read[bag].values()} == {np.dtype(np.float32)}
    assert list(read["params"]) == list(state["params"]) and len(read["memory"]) == len(read["params"])
    assert [path.name for path in path.parent.iterdir()] == ["run.checkpoint"] and capsys.readouterr().err == ""


def test_no_checkpoint_is_nothing_to_speak_of(tmp_path, capsys):
    assert experiment.read_checkpoint(tmp_path / "run.checkpoint", KEY) is None and capsys.readouterr().err == ""


def test_a_truncated_checkpoint_is_named_and_not_used(checkpoint, capsys):
    path, _ = checkpoint
    whole = path.read_bytes()
    for length in {*range(0, len(whole), 211), *range(len(whole) - 100, len(whole))}:
        path.write_bytes(whole[:length])
        assert experiment.read_checkpoint(path, KEY) is None, length
        assert f"{path} is damaged" in capsys.readouterr().err


def test_a_flipped_bit_in_a_checkpoint_never_changes_what_is_read(checkpoint, capsys):
    path, state = checkpoint
    whole, rng, noticed = path.read_bytes(), np.random.default_rng(0), 0
    for place in {*rng.integers(len(whole), size=400).tolist(), *range(len(whole) - 300, len(whole))}:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        read, said = experiment.read_checkpoint(path, KEY), capsys.readouterr().err
        if read is None:
            noticed += 1
            assert f"{path} is damaged" in said
        else:  # the bit was one of the archive's that mean nothing
            assert plain(read) == state | {"duration_s": 1.5}, place
    assert noticed > 350


@pytest.mark.parametrize(
    "change",
    [{"config": SETTING | {"lam": 0.1}}, {"seed": 4}, {"code": "2"}, {"dataset": ABOUT["dataset"] | {"fingerprint": "1"}}],
    ids=lambda change: next(iter(change)),
)
def test_anothers_checkpoint_is_named_and_not_used(change, checkpoint, capsys):
    path, _ = checkpoint
    assert experiment.read_checkpoint(path, KEY | change) is None
    assert f"{path} is of another config, dataset or code" in capsys.readouterr().err


def test_an_archive_that_is_no_checkpoint_is_named(tmp_path, capsys):
    path = tmp_path / "run.checkpoint"
    for write in (
        lambda: path.write_text("{}"),
        lambda: zipfile.ZipFile(path, "w").close(),
        lambda: path.write_bytes(b"\x93NUMPY"),
        lambda: np.savez(path.open("wb"), W=np.array([object()])),
    ):
        write()
        assert experiment.read_checkpoint(path, KEY) is None
        assert f"{path} is damaged" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- result files


def test_damaged_and_older_files_are_redone(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    runs = sorted(tmp_path.rglob("runs/*.json"))
    first = json.loads(runs[0].read_text())
    damaged = {
        runs[0]: runs[0].read_text()[:200],
        runs[1]: json.dumps({key: value for key, value in json.loads(runs[1].read_text()).items() if key != "code"}),
        runs[2]: json.dumps({key: value for key, value in json.loads(runs[2].read_text()).items() if key != "history"}),
    }
    for path, text in damaged.items():
        path.write_text(text)
    older = json.loads(runs[3].read_text()) | {"code": "older", "val_accuracy": 2.0}
    runs[3].write_text(json.dumps(older))
    experiment.checkpoint_of(runs[0]).write_bytes(b"PK\3\4")
    again = small(tmp_path, "--jobs", 1, cwd=tmp_path)
    for path in damaged:
        assert f"{path} is damaged" in again.stderr
    assert f"{experiment.checkpoint_of(runs[0])} is damaged" in again.stderr
    assert str(runs[3]) not in again.stderr and f"\n{RUNS - 4} runs are in the results already" in again.stdout
    assert json.loads(runs[0].read_text())["history"] == first["history"]
    assert_same(tmp_path, undisturbed)


def test_fresh_trains_all_again_and_ignores_checkpoints(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    runs = sorted(tmp_path.rglob("runs/*.json"))
    before = {path: path.stat().st_mtime_ns for path in runs}
    path, result = runs[0], json.loads(runs[0].read_text())
    config, key = result["config"], {name: result[name] for name in ("config", "seed", "dataset", "code")}

    def plant():
        """A good checkpoint of this run, but for its b1."""

        def take(state):
            if state["t"] == 50:
                state["params"]["b1"] += 1
                experiment.write_checkpoint(experiment.checkpoint_of(path), key, state, 0)
                raise KeyboardInterrupt

        data = experiment.arrays_of(datasets.load("shapes", small=True), 1000, 500, "each")
        rng = np.random.default_rng(result["seed"])
        params = kbn.init_params([3072, *config["hidden"], 10], rng, config["batch_norm"])
        with pytest.raises(KeyboardInterrupt):
            kbn.minibatch_gd(data["train"], data["val"], params, {name: config[name] for name in kbn.DEFAULTS}, rng, take)

    plant()
    path.unlink()
    small(tmp_path, cwd=tmp_path)
    assert results_of(tmp_path)[path.name] != results_of(undisturbed)[path.name]  # so the checkpoint would be used
    assert {other: other.stat().st_mtime_ns for other in runs[1:]} == {other: before[other] for other in runs[1:]}
    plant()
    small(tmp_path, "--fresh", cwd=tmp_path)
    assert all(path.stat().st_mtime_ns > before[path] for path in runs)
    assert_same(tmp_path, undisturbed)


def test_two_drivers_at_once_in_one_folder_both_succeed(undisturbed, tmp_path):
    jobs = [
        subprocess.Popen(
            command("tests/small", *SMALL, "--seeds", SEEDS, "--jobs", n, "--out", tmp_path),
            text=True,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for n in (1, 2)
    ]
    for job in jobs:
        stdout, stderr = job.communicate(timeout=100)
        assert job.returncode == 0 and "Traceback" not in stderr, stderr
        assert next(tmp_path.rglob("small.md")).read_text() in stdout
    assert_same(tmp_path, undisturbed)


def test_models_predict_what_the_results_say(undisturbed):
    data = experiment.arrays_of(datasets.load("shapes", small=True), 1000, 500, "each")
    results = results_of(undisturbed)
    models = {f"{path.stem}.json": path for path in undisturbed.rglob("models/*.npz")}
    assert models.keys() == {name for name in results if "lam=" not in name}  # the trials of a search leave none
    for name, path in models.items():
        params, stats, hp, more = kbn.load(path)
        assert kbn.accuracy(*data["test"], params, stats, hp["eps"], hp["bn"]) == results[name]["test_accuracy"]
        assert hp == {key: results[name]["config"][key] for key in kbn.DEFAULTS}
        np.testing.assert_array_equal(more["mean"], data["input"]["mean"])
        assert list(more["classes"]) == list(datasets.SHAPES) and list(more["shape"]) == [3, 32, 32]


# --------------------------------------------------------------------------------------------------------------- sharing


def test_code_version_sees_the_code_that_is_reached_and_not_how_it_is_written(tmp_path):
    def version(text):
        path = tmp_path / f"module{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return experiment.code_version([module.train], [module])

    code = """
'''Module.'''
RATE = {"eta": 1}
LIMIT, OTHER = 7, 8


def train(x):
    '''Train.'''
    return step(x, f"{LIMIT:.1f} nodes")


def step(x, text):
    return x - RATE["eta"]


def save(x):
    return [x, OTHER]
"""
    same = [
        code.replace("Module", "Any"),
        code.replace("Train.", "änderung"),
        code.replace("    '''Train.'''\n", ""),
        code.replace("step(x, f", "step(x,  # one\n        f"),
        code.replace("    return x - RATE", "    # first\n    return (x - RATE").replace('"eta"]\n', "'eta'])\n"),
        code.replace("[x, OTHER]", "x"),
        code + 'TEXT = "text"\n',
    ]
    other = [
        code.replace("x - RATE", "RATE - x"),
        code.replace('"eta": 1', '"eta": 2'),
        code.replace("LIMIT, OTHER = 7", "LIMIT, OTHER = 6"),
        code.replace(":.1f", ":.2f"),
        code.replace("def train(x)", "def train(x, y=0)"),
        code.replace("return step", "return -step"),
    ]
    assert len({code, *same, *other}) == 1 + len(same) + len(other)
    assert {version(text) for text in same} == {version(code)}
    assert len({version(text) for text in [code, *other]}) == len(other) + 1


@pytest.mark.parametrize("changes", [{"hidden": [5], "batch_norm": True}, {"hidden": [5]}, CONV])
def test_the_code_version_covers_all_that_a_run_calls(changes, tmp_path):
    setting, called = experiment.config(**changes, n_s=5, n_cycles=1, n_batch=20), set()
    form = "specs" if "specs" in setting else "hidden"
    roots, modules = experiment.decisive()[form]
    files = {module.__file__: module for module in modules}
    raw = datasets.load("shapes", small=True)

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_filename in files:
            called.add((files[frame.f_code.co_filename], frame.f_code.co_qualname.split(".")[0]))

    sys.setprofile(watch)
    try:
        data = experiment.arrays_of(raw, 200, 100, "each")
        experiment.run(setting, 0, data, experiment.provenance(raw), tmp_path / "run.json", test=True)
    finally:
        sys.setprofile(None)
    counted = experiment.reached(roots, modules)
    others = {"save", "description", "<lambda>"}  # of the model file; in kbn.MLP, which counts as a whole
    missing = {
        f"{module.__name__}.{name}"
        for module, name in called
        if name not in others and experiment.plain(ast.parse(inspect.getsource(getattr(module, name))).body[0]) not in counted
    }
    assert not missing and {name for _, name in called} > {"split", "minibatch_gd", "forward", "evaluate", "draw_weights"}


def describe(config, seed, source, about, path, test, may_diverge):
    """Stands in for experiment.run: says of the arrays it was given what they are, and in which process."""
    arrays = [array for part in ("train", "val", "test") for array in source[part]]
    return (
        path,
        {
            "val_accuracy": 0.0,
            "process": os.getpid(),
            "files": sorted({str(getattr(a, "filename", None)) for a in arrays}),
            "memmap": all(isinstance(a, np.memmap) for a in arrays),
            "writeable": any(a.flags.writeable for a in arrays),
            "test_accuracy": 0.0,
        },
        b"",
    )


def test_two_jobs_read_the_same_mapped_file_and_cannot_write_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "run", describe)
    opts = experiment.options("", [*SMALL, "--jobs", "2", "--out", str(tmp_path), "--quiet"])
    lab = experiment.open_lab(opts, 4)
    results = experiment.train(lab, [(experiment.config(), seed) for seed in range(4)])
    assert all(result["memmap"] and not result["writeable"] for result in results)
    assert os.getpid() not in {result["process"] for result in results}
    files = {tuple(result["files"]) for result in results}
    assert len(files) == 1 and len(*files) == 1 and os.path.exists(*files.pop())


def test_results_come_in_the_order_of_the_runs(tmp_path, monkeypatch):
    def the_first_is_the_last(config, seed, source, about, path, test, may_diverge):
        deadline = time.monotonic() + 10
        while seed == 0 and not (tmp_path / "1").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        (tmp_path / str(seed)).touch()
        return path, {"seed": seed, "val_accuracy": 0.0}, b""

    monkeypatch.setattr(experiment, "run", the_first_is_the_last)
    lab = experiment.open_lab(experiment.options("", [*SMALL, "--jobs", "2", "--out", str(tmp_path), "--quiet"]), 3)
    results = experiment.train(lab, [(experiment.config(), seed) for seed in range(3)])
    assert [result["seed"] for result in results] == [0, 1, 2]


def test_one_job_trains_in_the_drivers_own_process(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "run", describe)
    lab = experiment.open_lab(experiment.options("", [*SMALL, "--jobs", "1", "--out", str(tmp_path), "--quiet"]), 1)
    (result,) = experiment.train(lab, [(experiment.config(), 0)])
    assert result["process"] == os.getpid() and not result["memmap"]
