"""Many runs: the config of each reaches kbn, and kills, restarts, company and the number of jobs change no bit of a result."""

import contextlib
import inspect
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from conftest import SMALL, call, models_of, options, results_of, start

import kbn
from lab import models, settings, store, training, workers
from lab.settings import UserError

# every hyper-parameter is another than its default
HP = {"n_batch": 20, "eta_min": 1e-3, "eta_max": 0.04, "n_s": 12, "n_cycles": 2, "lam": 0.02, "alpha": 0.7, "eps": 1e-3,
      "bn": "after", "momentum": 0.8, "keep": 0.7, "n_eval": 150}  # fmt: skip
CONFIG = settings.config(**HP | {"n_cycles": 2}, n_train=200, n_val=100, hidden=[6, 5], sigma=0.05, scale="all")
SPECS = [["conv", 3, 6, 4, 1], ["bn"], ["relu"], ["max_pool", 2], ["dropout"], ["affine", 10]]
IMAGES = CONFIG | {"hidden": None, "specs": SPECS, "loss": "svm", "sigma": "xavier", "bn": "off", "watched": 30, "pictures": 7}
STEPS = CONFIG | {"decay": 0.9, "n_epochs": 5}
HISTORY = ["t", *(f"{part}_{what}" for part in ("train", "val") for what in ("cost", "loss", "accuracy"))]


# -------------------------------------------------------------------------------------------------------------- one run


@pytest.fixture(scope="module")
def data(raw):
    """The data of the configs above."""
    return training.split(raw, 200, 100, "all")


def test_every_hyper_parameter_of_the_config_and_the_seed_reach_kbn(data):
    hp = HP | {"n_cycles": 3}
    assert not hp.items() & kbn.DEFAULTS.items() and hp.keys() == kbn.DEFAULTS.keys()
    result, model = training.run(CONFIG | hp, 7, data)
    rng = np.random.default_rng(7)
    params = kbn.init_params([3072, 6, 5, 10], rng, bn="after", sigma=0.05)
    params, stats, history = kbn.minibatch_gd(data["train"], data["val"], params, hp, rng)
    assert result["history"] == history["epoch"] and model["hp"] == hp
    assert {name: result[name] for name in HISTORY[1:]} == {name: history["epoch"][name][-1] for name in HISTORY[1:]} | history[
        "final"
    ]
    assert result["largest_loss"] == max(history["update"]["loss"])
    assert result["test_accuracy"] == kbn.accuracy(*data["test"], params, stats, bn="after", eps=1e-3)
    for name, array in (params | stats).items():
        np.testing.assert_array_equal((model["params"] | model["stats"])[name], array)


def test_trial_of_a_search_does_not_look_at_the_test_set(data):
    blind = data | {"test": (None, None)}
    assert not {"test_accuracy", "pictures"} & training.run(IMAGES, 0, blind, test=False)[0].keys()
    with pytest.raises((TypeError, ValueError)):
        training.run(IMAGES, 0, blind)


def test_config_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="lambda_"):
        settings.config(lambda_=0.1)


def test_divergence_names_the_run_unless_it_is_recorded(data, tmp_path):
    key = {"config": CONFIG | {"eta_max": 1e30}, "seed": 3, "test": True}
    with pytest.raises(FloatingPointError, match="^run-1: training diverged: the loss of update"):
        workers.work(key, tmp_path / "run-1.json", data, False)
    _, result, model = workers.work(key, tmp_path / "run-1.json", data, True)
    assert result["diverged"].startswith("training diverged") and model is None


@pytest.mark.parametrize("config", [CONFIG, IMAGES, STEPS], ids=["kbn", "specs", "steps"])
def test_run_stopped_after_any_epochs_continues_from_its_checkpoint_and_ends_bit_identical(config, data, tmp_path, monkeypatch):
    key, train, starts = {"config": config, "seed": 3, "test": True}, kbn.minibatch_gd, []

    def stopped_after(epochs):
        def minibatch_gd(*args, callback, state, **named):
            def keep(state):
                callback(state)
                if len(state["history"]["epoch"]["t"]) == epochs:
                    raise KeyboardInterrupt

            starts.append(state["t"] if state else 0)
            return train(*args, callback=keep, state=state, **named)

        return minibatch_gd

    _, whole, model = workers.work(key, tmp_path / "another.json", data, False)
    for epochs in (1, 2, 4, None):
        monkeypatch.setattr(kbn, "minibatch_gd", stopped_after(epochs))
        with pytest.raises(KeyboardInterrupt) if epochs else contextlib.nullcontext():
            _, result, same_model = workers.work(key, tmp_path / "run.json", data, False)
    assert starts == [0, 10, 20, 40]
    assert json.dumps(result | {"duration_s": 0}) == json.dumps(whole | {"duration_s": 0})
    for group in ("params", "stats"):
        assert {k: v.tobytes() for k, v in model[group].items()} == {k: v.tobytes() for k, v in same_model[group].items()}


# ------------------------------------------------------------------------------------------------------------ many runs


@pytest.fixture
def trained(monkeypatch):
    """Pairs (lambda, seed) of the runs that are trained, in the place of training.run, with results that tell them apart."""
    trained = []

    def run(config, seed, data, *, test, may_diverge, state, keep):
        number = config["lam"] + seed
        trained.append((config["lam"], seed) + ((state["t"],) if state else ()))
        params = {"W1": np.full((10, 3072), number, np.float32), "b1": np.zeros((10, 1), np.float32)}
        result = {"val_accuracy": config["lam"] / (1 + seed), "diverged": "", "duration_s": 1.0}
        result |= {"history": dict.fromkeys(HISTORY, [number / 3])} | ({"test_accuracy": 0.5} if test else {})
        return result, {"params": params, "stats": {}, "hp": {"bn": "off"}, "snapshots": []}

    monkeypatch.setattr(training, "run", run)
    return trained


def lam_row(lam, name=None, **config):
    return settings.row(name or f"lam {lam}", lam=lam, hidden=[], **config)


def test_results_and_models_belong_to_their_runs_in_the_order_of_the_runs(raw, tmp_path, trained, monkeypatch):
    @contextlib.contextmanager
    def reverse(opts):
        yield lambda calls: reversed([function(*args, **named) for function, args, named in calls])

    monkeypatch.setattr(workers, "workers", reverse)
    opts = options(tmp_path)
    rows = [lam_row(0.1, "B"), lam_row(0.2, "a", scale="all"), lam_row(0.3, "C"), lam_row(0.4, "d", scale="all")]
    runs = [(row, seed) for seed in (1, 0) for row in rows]
    results = workers.train_runs(runs, raw, opts)
    assert list(results) == ["B", "a", "C", "d"] and len(trained) == 8
    for row in rows:
        lam, name = row["config"]["lam"], row["name"]
        mean, sd = training.mean_and_sd(raw["images"][:1000], row["config"]["scale"])
        for seed, result in zip((1, 0), results[name], strict=True):
            about = {"row": name, "seed": seed, "config": settings.smoke(row["config"]), "data": store.data_of(raw)}
            assert about.items() <= result.items() and result["run"].startswith(f"{name.lower()}-seed{seed}-")
            assert result["val_accuracy"] == lam / (1 + seed) and result["history"]["t"] == [float(f"{(lam + seed) / 3:.6g}")]
            assert result["code"] == store.code_version() and result["versions"] == store.versions()
            model = models.load(opts.store / "models" / f"{result['run']}.npz")
            assert model["params"]["W1"][0, 0] == np.float32(lam + seed) and model["classes"] == raw["classes"]
            np.testing.assert_array_equal([model["mean"], model["sd"]], np.float32([mean, sd]))
    assert workers.train_runs(runs, raw, opts) == results and len(trained) == 8 == len(models_of(tmp_path))
    workers.train_runs(runs, raw, opts, test=False)
    assert len(trained) == 16 == len(results_of(tmp_path)) and len(models_of(tmp_path)) == 8  # a trial leaves no model


def test_run_is_trained_again_if_any_part_of_its_key_is_another(raw, tmp_path, trained, monkeypatch):
    row, opts = lam_row(0.1, eta_max=0.2), options(tmp_path)
    calls = [([(row, 0)], raw, {}), ([(row, 1)], raw, {}), ([(lam_row(0.1, eta_max=0.20000001), 0)], raw, {})]
    calls += [([(row, 0)], raw | {part: "another"}, {}) for part in ("order", "fingerprint", "name")]
    for runs, about, how in [*calls, ([(row, 0)], raw, {"test": False})] * 2:
        workers.train_runs(runs, about, opts, **how)
    assert len(trained) == 7
    monkeypatch.setattr(np, "__version__", "another")
    workers.train_runs([(row, 0)], raw, opts)
    monkeypatch.setattr(store, "code_version", lambda: "another")
    for _ in range(2):
        workers.train_runs([(row, 0)], raw, opts)
    assert len(trained) == 9 == len(results_of(tmp_path))


def test_damaged_result_and_checkpoint_are_one_line_each_and_the_run_is_trained_again(raw, tmp_path, trained, capsys):
    opts, rows = options(tmp_path), [lam_row(0.1), lam_row(0.2)]
    whole = workers.train(rows, raw, opts)
    path = next(opts.store.glob("runs/lam-0.2-*.json"))
    damaged = [path, path.with_suffix(".checkpoint")]
    damaged[0].write_text(path.read_text()[:50])
    damaged[1].write_bytes(b"PK\3\4")
    assert workers.train(rows, raw, opts) == whole and trained == [(0.1, 0), (0.2, 0), (0.2, 0)]
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"{name} is damaged") for line, name in zip(lines, damaged, strict=True))
    assert workers.train(rows, raw, opts) == whole and len(trained) == 3 and capsys.readouterr().err == ""


def test_fresh_trains_all_again_without_the_checkpoints(raw, tmp_path, trained):
    state = {"t": 5, "rng": {}, "params": {}, "stats": {}, "memory": {}, "history": {"epoch": {}}}
    rows = [lam_row(0.1), lam_row(0.2)]
    results = workers.train(rows, raw, options(tmp_path))
    path = next(tmp_path.rglob("lam-0.1-*.json"))
    for fresh in ([], ["--fresh"]):
        store.write_checkpoint(path.with_suffix(".checkpoint"), json.loads(path.read_text())["key"], state, 1.5)
        path.rename(path.with_suffix(".old"))
        del trained[:]
        workers.train(rows, raw, options(tmp_path, *fresh))
        assert trained == ([(0.1, 0), (0.2, 0)] if fresh else [(0.1, 0, 5)]) and not list(tmp_path.rglob("*.checkpoint"))
        assert json.loads(path.read_text())["duration_s"] == (1.0 if fresh else 2.5)
    assert workers.train(rows, raw, options(tmp_path)) == results


def test_rows_of_the_same_name_are_refused_and_a_run_asked_for_twice_is_trained_once(raw, tmp_path, trained):
    with pytest.raises(UserError, match="'net'"):
        workers.train([lam_row(0.1, "net"), lam_row(0.2, "net")], raw, options(tmp_path))
    results = workers.train_runs([(lam_row(0.1, "net"), 0)] * 2, raw, options(tmp_path))["net"]
    assert len(results) == 2 and results[0] == results[1] and trained == [(0.1, 0)]


def test_every_run_is_on_the_split_that_its_config_asks_for_and_the_last_split_is_held(raw, tmp_path, monkeypatch):
    made, signature, opts = [], inspect.signature(training.split), options(tmp_path, "--fresh")

    def split(raw, *division):
        made.append(signature.bind(raw, *division).arguments | {"raw": raw["title"]})
        return made[-1]

    def work(key, path, source, may_diverge):
        return path, {"val_accuracy": 0.5, "duration_s": 0.0, "split": source}, None

    monkeypatch.setattr(training, "split", split)
    monkeypatch.setattr(workers, "work", work)
    workers.release()
    changes = [
        {},
        {"n_train": 40},
        {"n_val": 30},
        {"scale": "all"},
        {"split_seed": 1},
        {"zca": 0.1},
        {"zca": 0.1, "zca_last": True},
    ]
    rows = [lam_row(0.1, f"row {i}", **change) for i, change in enumerate(changes)]
    for about in (raw, raw | {"title": "another"}):
        results = workers.train(rows, about, opts)
        for row in rows:
            config = settings.smoke(row["config"])
            division = {name: config[name] for name in ("n_train", "n_val", "scale", "zca", "zca_last")} | {
                "seed": config["split_seed"]
            }
            assert [result["split"] for result in results[row["name"]]] == [division | {"raw": about["title"]}]
    workers.train(rows[-1:], about, opts)
    assert len(made) == 2 * len(rows)
    workers.release()


def test_worker_of_a_cluster_makes_the_split_that_the_driver_asks_for(raw, tmp_path, monkeypatch):
    division = 40, 30, "all", 1, 0.1
    monkeypatch.setattr(training, "split", lambda raw, *division: {"division": division, "title": raw["title"]})
    source = workers.source_of(raw, division, options(tmp_path, "--cluster", "tcp://127.0.0.1:1"))
    split = workers.split_on_worker.__wrapped__(*source)
    assert (split["division"], split["title"]) == (division, raw["title"]) and split["key"]["code"] == store.code_version()


# ------------------------------------------------------------------------------------- processes: jobs, kills, company


def assert_same(out, undisturbed):
    """Results, models and tables are bit-identical to the undisturbed ones, and there is nothing else."""
    assert results_of(out) == results_of(undisturbed) and len(results_of(out)) == 10
    assert models_of(out) == models_of(undisturbed) and len(models_of(out)) == 6
    files = [{path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()} for folder in (out, undisturbed)]
    assert {path for path in files[0] if path.suffix != ".scratch"} == files[1].keys()
    for name, path in files[1].items():
        if path.suffix in (".md", ".tex", ".gz"):
            assert files[0][name].read_bytes() == path.read_bytes(), name


def left(drivers, temporary, patience=30):
    """What drivers left in shared memory and in a temporary folder. The helpers of joblib end a moment after them."""
    deadline, found = time.monotonic() + patience, True
    while found and time.monotonic() < deadline:
        shared = [path for path in Path("/dev/shm").glob("*") if {*map(str, drivers)} & {*re.split("[-_]", path.name)}]
        found = [*shared, *temporary.iterdir()]
        time.sleep(0.1)
    return found


def test_number_of_jobs_changes_no_bit(undisturbed, tmp_path):
    job = call("tests/small.py", *SMALL, "--seeds", 2, "--jobs", 2, "--out", tmp_path, cwd=tmp_path)
    assert_same(tmp_path, undisturbed)
    assert "2 job(s)" in job.stdout and job.stderr == ""


def test_two_drivers_at_once_in_one_folder_both_succeed_with_the_same_results(undisturbed, tmp_path):
    drivers = [start("tests/small.py", *SMALL, "--seeds", 2, "--jobs", n, "--out", tmp_path, cwd=tmp_path) for n in (1, 2)]
    for driver in drivers:
        stdout, stderr = driver.communicate(timeout=300)
        assert driver.returncode == 0 and stderr == "", stderr
        assert next(tmp_path.rglob("small.md")).read_text() in stdout
    assert_same(tmp_path, undisturbed)


def updates_made(folder):
    """The t of every checkpoint below a folder, by name."""
    made = {}
    for path in folder.rglob("*.checkpoint"):
        with contextlib.suppress(FileNotFoundError), np.load(path) as file:  # its run may just have ended
            made[path.name] = json.loads(file["words"].item())["t"]
    return made


def test_driver_stopped_at_random_moments_and_called_again_ends_bit_identical(undisturbed, tmp_path):
    moments, drivers, ends, temporary = random.Random(1), [], [], tmp_path / "temporary"
    temporary.mkdir()
    while len(ends) < 6:
        out, before, ended = tmp_path / str(len(ends)), {}, False
        while not ended:
            kind, jobs = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM][len(ends) % 3], 1 + len(ends) % 2
            driver = start("tests/small.py", *SMALL, "--seeds", 2, "--jobs", jobs, "--out", out, cwd=tmp_path,
                           start_new_session=True, env={"TMPDIR": str(temporary)},
                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
            drivers.append(driver.pid)
            while driver.poll() is None and updates_made(out) == before:  # it makes progress, so that the loop ends
                time.sleep(0.01)
            try:
                _, stderr = driver.communicate(timeout=moments.uniform(0, 0.4))
            except subprocess.TimeoutExpired:
                stop = os.killpg if kind == signal.SIGINT else os.kill  # Ctrl-C reaches the workers also
                stop(driver.pid, kind)
                _, stderr = driver.communicate(timeout=60)
            assert "again" not in stderr  # no result or checkpoint is found damaged
            now, ended = updates_made(out), driver.returncode == 0
            before = now
            if not ended:
                ends.append((kind, driver.returncode))
            # a signal while Python ends has its usual effect
            assert ended or driver.returncode in (130, -kind), stderr
        assert_same(out, undisturbed)
    assert {(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 130)} <= set(ends)
    assert not left(drivers, temporary)


def test_workers_of_a_killed_driver_end_and_leave_nothing(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    driver = start("tests/small.py", *SMALL, "--seeds", 2, "--jobs", 2, "--out", tmp_path / "out", cwd=tmp_path,
                   start_new_session=True, env={"TMPDIR": str(temporary)})  # fmt: skip
    while not list(tmp_path.rglob("*.checkpoint")):
        assert driver.poll() is None
        time.sleep(0.02)
    driver.kill()
    try:
        driver.communicate(timeout=60)  # a process that still runs holds the pipes open
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    assert not left([driver.pid], temporary)


def test_killed_worker_is_one_line(tmp_path):
    message = "a worker process was killed.*the finished runs are kept"
    with pytest.raises(UserError, match=message), workers.workers(options(tmp_path, "--jobs", "2")) as parallel:
        list(parallel([joblib.delayed(os._exit)(1)]))


@pytest.mark.parametrize("jobs", [1, 2])
def test_two_jobs_read_the_same_mapped_data_and_one_job_is_this_process(jobs, raw, tmp_path, monkeypatch):
    def describe(key, path, source, may_diverge):
        X = [source[part][0] for part in ("train", "val", "test")]
        about = {"process": os.getpid(), "writeable": any(array.flags.writeable for array in X)}
        return path, about | {"files": [str(getattr(array, "filename", "")) for array in X], "val_accuracy": 0.5}, None

    monkeypatch.setattr(workers, "work", describe)
    opts = options(tmp_path, "--jobs", str(jobs))
    results = workers.train_runs([(lam_row(0.1), seed) for seed in range(4)], raw, opts)["lam 0.1"]
    if jobs == 1:
        assert all(result["process"] == os.getpid() and result["files"] == ["", "", ""] for result in results)
    else:
        assert os.getpid() not in {result["process"] for result in results} and all(results[0]["files"])
        assert all(result["files"] == results[0]["files"] and not result["writeable"] for result in results)
        folder, deadline = Path(results[0]["files"][0]).parent, time.monotonic() + 30
        assert set(results[0]["files"]) == {str(folder / "split")} and folder.exists()
        workers.release()
        while folder.exists():  # joblib's tracker removes it
            assert time.monotonic() < deadline
            time.sleep(0.05)
