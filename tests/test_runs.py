"""Many runs: each is what kbn trains, and the same numbers result from kills, restarts, company, and one job or two."""

import contextlib
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
import layers
import nets
from lab import models, settings, store, training, workers
from lab.settings import UserError

# every hyper-parameter is another than its default
HP = {"n_batch": 20, "eta_min": 1e-3, "eta_max": 0.04, "n_s": 12, "n_cycles": 1, "lam": 0.02, "alpha": 0.7, "eps": 1e-3,
      "bn": "after", "momentum": 0.8, "keep": 0.7}  # fmt: skip
SIZES = {"n_train": 200, "n_val": 100}
CONFIG = settings.config(**HP, **SIZES, hidden=[6, 5], sigma=0.05, scale="all")
CONV = [["conv", 3, 6, 4, 1], ["bn"], ["relu"], ["max_pool", 2], ["dropout"], ["affine", 10]]
IMAGES = settings.config(**HP | {"bn": "off"}, **SIZES, specs=CONV, loss="svm", sigma="xavier", watched=30, pictures=7)
HISTORY = ["t", *(f"{part}_{what}" for part in ("train", "val") for what in ("cost", "loss", "accuracy"))]


# ------------------------------------------------------------------------------------------------------ data for a run


@pytest.mark.parametrize("scale, axis", [("each", 0), ("all", None), ("none", 0)])
def test_split_standardises_with_the_training_images_alone(raw, scale, axis):
    changed = raw | {"images": raw["images"].copy(), "test_images": raw["test_images"] // 2}
    changed["images"][300:] //= 2
    data, first = training.split(changed, 200, 100, scale, np.float64), raw["images"][:200].astype(float)
    sd = 1 if scale == "none" else first.std(axis)
    images = {"train": first, "val": raw["images"][200:300], "test": changed["test_images"]}
    labels = {"train": raw["labels"][:200], "val": raw["labels"][200:300], "test": raw["test_labels"]}
    for part in images:
        X, y = data[part]
        np.testing.assert_allclose(X.T, (images[part] - first.mean(axis)) / sd, atol=1e-9)
        assert X.flags.f_contiguous and np.array_equal(y, labels[part])
    np.testing.assert_allclose(data["mean"].T * np.ones(3072), [first.mean(axis) * np.ones(3072)])
    assert training.split(raw, 200, 100)["train"][0].dtype == np.float32


def test_constant_pixel_is_divided_by_one():
    mean, sd = training.mean_and_sd(np.array([[7, 1], [7, 3]], np.uint8))
    assert mean.tolist() == [[7], [2]] and sd.tolist() == [[1], [1]]


def test_split_refuses_too_many_images_in_one_line_and_an_unknown_scale(raw):
    with pytest.raises(UserError, match="2000 training images.*1900.*101"):
        training.split(raw, 1900, 101)
    with pytest.raises(ValueError, match="'some'"):
        training.split(raw, 200, 100, "some")


# -------------------------------------------------------------------------------------------------------------- one run


@pytest.fixture(scope="module")
def data(raw):
    """The data of CONFIG and of IMAGES."""
    return {scale: training.split(raw, 200, 100, scale) for scale in ("all", "each")}


def assert_history(history, expected):
    """The columns of the epochs are there and have the expected values."""
    for name in HISTORY:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5, err_msg=name)


def test_result_is_the_net_that_kbn_trains_with_every_hyper_parameter_of_the_config(data):
    data, rng = data["all"], np.random.default_rng(7)
    assert {name for name in HP if HP[name] == kbn.DEFAULTS[name]} == set() and HP.keys() == kbn.DEFAULTS.keys()
    result, model = training.run(CONFIG, 7, data)
    params = kbn.init_params([3072, 6, 5, 10], rng, bn="after", sigma=0.05)
    params, stats, history = kbn.minibatch_gd(data["train"], data["val"], params, HP, rng)
    place = {"bn": "after", "eps": 1e-3}
    assert result["test_accuracy"] == kbn.accuracy(*data["test"], params, stats, **place)
    assert result["val_accuracy"] == kbn.accuracy(*data["val"], params, stats, **place)
    for name in HISTORY[1:]:
        assert result[name] == history["epoch"][name][-1], name
    assert_history(result["history"], history["epoch"])
    assert result["diverged"] == "" and model["hp"] == HP
    for name, array in (params | stats).items():
        np.testing.assert_array_equal((model["params"] | model["stats"])[name], array)


def test_result_of_layer_specs_is_the_net_that_nets_builds(raw, data):
    data, rng, shape, moments = data["each"], np.random.default_rng(7), (3, 32, 32), []
    result, model = training.run(IMAGES, 7, data)

    def after_epoch(state):
        X = data["train"][0][:, :30].T.reshape(30, *shape)
        moments.append(layers.conv_forward(X, state["params"]["W1"], state["params"]["b1"], 4, 1)[0].std())

    net, params = nets.build(CONV, shape, "svm"), nets.init_params(CONV, shape, rng, "xavier")
    hp = HP | {"bn": "before"}  # which net of specs ignores
    params, stats, history = kbn.minibatch_gd(data["train"], data["val"], params, hp, rng, net=net, callback=after_epoch)
    X, y = data["test"]
    P, _ = net.forward(X, params, stats, eps=1e-3)
    predicted, pictures = P.argmax(axis=0), result["pictures"]
    wrong = np.flatnonzero(predicted != y)
    whole = kbn.dataset_stats(data["train"][0], params, eps=1e-3, net=net)
    assert result["test_accuracy"] == (1000 - len(wrong)) / 1000
    assert result["test_accuracy_dataset"] == kbn.accuracy(X, y, params, whole, eps=1e-3, net=net) != result["test_accuracy"]
    assert_history(result["history"], history["epoch"])
    np.testing.assert_allclose(result["history"]["S1_sd"], moments, rtol=1e-4)
    np.testing.assert_allclose(pictures["filters"], params["W1"], atol=1e-4)
    assert (pictures["n_wrong"], pictures["n_test"], pictures["shape"]) == (len(wrong), 1000, [3, 32, 32])
    shown = [(mistake["class"], mistake["predicted"]) for mistake in pictures["mistakes"]]
    assert shown == [(y[i], predicted[i]) for i in wrong[:7]] and pictures["classes"] == data["classes"]
    assert [mistake["pixels"] for mistake in pictures["mistakes"]] == raw["test_images"][wrong[:7]].tolist()


def test_step_schedule_multiplies_eta_max_by_decay_after_each_epoch(data):
    data, rng = data["all"], np.random.default_rng(7)
    config = settings.config(**SIZES, hidden=[6], scale="all", n_batch=30, eta_max=0.03, decay=0.5, n_epochs=3)
    result, _ = training.run(config, 7, data)
    etas = [0.03] * 6 + [0.015] * 6 + [0.0075] * 6
    params = kbn.init_params([3072, 6, 10], rng)
    _, _, history = kbn.minibatch_gd(data["train"], data["val"], params, {"n_batch": 30, "bn": "off"}, rng, etas=etas)
    assert result["history"]["t"] == [6, 12, 18]
    assert_history(result["history"], history["epoch"])


def test_trial_of_a_search_does_not_look_at_the_test_set(data):
    blind = data["all"] | {"test": (None, None)}
    assert not {"test_accuracy", "pictures"} & training.run(CONFIG, 0, blind, test=False)[0].keys()
    with pytest.raises(TypeError):
        training.run(CONFIG, 0, blind)


def test_divergence_is_a_result_only_where_it_may_be(data):
    config = CONFIG | {"eta_max": 1e30}
    for test in (True, False):
        result, model = training.run(config, 7, data["all"], test=test, may_diverge=True)
        assert model is None and result["history"] == {} and "diverged" in result["diverged"]
        assert {name: result[name] for name in result if "accuracy" in name} == dict.fromkeys(
            ["val_accuracy", *["test_accuracy"] * test], 0.1
        )
    with pytest.raises(FloatingPointError, match="diverged"):
        training.run(config, 7, data["all"])


def test_config_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="lambda_"):
        settings.config(lambda_=0.1)


# --------------------------------------------------------------------------------------------- resume from a checkpoint


@pytest.mark.parametrize("config", [CONFIG, IMAGES, CONFIG | {"decay": 0.9, "n_epochs": 5}], ids=["kbn", "specs", "steps"])
def test_run_stopped_after_any_epochs_continues_and_ends_bit_identical(config, data, tmp_path, monkeypatch):
    key, source = {"config": config | {"n_cycles": 2}, "seed": 3, "test": True}, data[config["scale"]]
    train, starts = kbn.minibatch_gd, []

    def stopped_after(epochs):
        def minibatch_gd(*args, callback, state, **named):
            starts.append(state["t"] if state else 0)

            def keep(state):
                callback(state)
                if len(state["history"]["epoch"]["t"]) == epochs:
                    raise KeyboardInterrupt

            return train(*args, callback=keep, state=state, **named)

        return minibatch_gd

    _, whole, model = workers.work(key, tmp_path / "another.json", source, False)
    for epochs in (1, 2, 4, None):
        monkeypatch.setattr(kbn, "minibatch_gd", stopped_after(epochs))
        with pytest.raises(KeyboardInterrupt) if epochs else contextlib.nullcontext():
            _, result, same_model = workers.work(key, tmp_path / "run.json", source, False)
    assert starts == [0, 10, 20, 40]
    assert json.dumps(result | {"duration_s": 0}) == json.dumps(whole | {"duration_s": 0})
    for group in ("params", "stats"):
        assert {k: v.tobytes() for k, v in model[group].items()} == {k: v.tobytes() for k, v in same_model[group].items()}


# ------------------------------------------------------------------------------------------------------------ many runs


def stub(config, seed, data, *, test, may_diverge, state, keep):
    """Stands in for training.run: a result that tells which run it is of, without training."""
    stub.trained.append((config["lam"], seed))
    history = {name: [config["lam"] + seed] for name in HISTORY}
    result = {"val_accuracy": config["lam"] / (1 + seed), "diverged": "", "duration_s": 1.0, "history": history}
    params = {"W1": np.full((10, 3072), config["lam"] + seed, np.float32), "b1": np.zeros((10, 1), np.float32)}
    return result | ({"test_accuracy": 0.5} if test else {}), {"params": params, "stats": {}, "hp": {"bn": "off"}}


@pytest.fixture
def trained(monkeypatch):
    """The runs (lambda, seed) that stub has trained in the place of training.run."""
    stub.trained = []
    monkeypatch.setattr(training, "run", stub)
    return stub.trained


def lam_row(lam, name=None, **config):
    return settings.row(name or f"lam {lam}", lam=lam, hidden=[], **config)


def reverse(monkeypatch):
    """Let the runs be finished in reverse order."""

    @contextlib.contextmanager
    def workers_(opts):
        yield lambda calls: reversed([function(*args, **named) for function, args, named in calls])

    monkeypatch.setattr(workers, "workers", workers_)


def test_results_and_models_belong_to_their_runs_in_the_order_of_the_runs(raw, tmp_path, trained, monkeypatch):
    reverse(monkeypatch)
    opts = options(tmp_path)
    rows = [lam_row(0.1, "B"), lam_row(0.2, "a", scale="all"), lam_row(0.3, "C"), lam_row(0.4, "d", scale="all")]
    runs = [(row, seed) for seed in (1, 0) for row in rows]
    results = workers.train_runs(runs, raw, opts)
    assert list(results) == ["B", "a", "C", "d"] and len(trained) == 8
    for row in rows:
        lam, name = row["config"]["lam"], row["name"]
        assert [result["seed"] for result in results[name]] == [1, 0]
        for result in results[name]:
            seed = result["seed"]
            assert result["row"] == name and result["run"].startswith(f"{name.lower()}-seed{seed}-")
            assert result["config"] == settings.smoke(row["config"]) and result["code"] == store.code_version()
            assert result["val_accuracy"] == lam / (1 + seed) and result["history"]["t"] == [round(lam + seed, 6)]
            assert result["data"] == store.data_of(raw) and result["versions"] == store.versions()
            model = models.load(opts.store / "models" / f"{result['run']}.npz")
            assert model["params"]["W1"][0, 0] == np.float32(lam + seed) and model["classes"] == raw["classes"]
            mean, sd = training.mean_and_sd(raw["images"][:1000], row["config"]["scale"])
            np.testing.assert_array_equal([model["mean"], model["sd"]], np.float32([mean, sd]))
    again = workers.train_runs(runs, raw, opts)
    assert again == results and len(trained) == 8


def test_run_is_trained_again_if_any_part_of_its_key_is_another(raw, tmp_path, trained, monkeypatch):
    row, opts = lam_row(0.1, eta_max=0.2), options(tmp_path)
    changed = [{"order": "another"}, {"fingerprint": "another"}, {"name": "another"}]
    calls = [([(row, 0)], raw, {}), ([(row, 1)], raw, {}), ([(lam_row(0.1, eta_max=0.20000001), 0)], raw, {})]
    calls += [([(row, 0)], raw | change, {}) for change in changed] + [([(row, 0)], raw, {"test": False})]
    for runs, data, how in calls * 2:
        workers.train_runs(runs, data, opts, **how)
    assert len(trained) == len(calls)
    for name, value in ((np, "__version__"), (store, "code_version")):
        with monkeypatch.context() as patch:
            patch.setattr(name, value, "another" if name is np else lambda: "another")
            for _ in range(2):
                workers.train_runs([(row, 0)], raw, opts)
    assert len(trained) == len(calls) + 2 == len(results_of(tmp_path))


def test_model_is_saved_only_of_runs_that_see_the_test_set(raw, tmp_path, trained):
    workers.train([lam_row(0.1)], raw, options(tmp_path), test=False)
    assert len(results_of(tmp_path)) == 1 and not models_of(tmp_path)


def test_damaged_result_and_checkpoint_are_one_line_each_and_the_run_is_trained_again(raw, tmp_path, trained, capsys):
    opts, rows = options(tmp_path), [lam_row(0.1), lam_row(0.2)]
    whole = workers.train(rows, raw, opts)
    path = next(opts.store.glob("runs/lam-0.2-*.json"))
    path.write_text(path.read_text()[:50])
    path.with_suffix(".checkpoint").write_bytes(b"PK\3\4")
    again = workers.train(rows, raw, opts)
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"{name} is damaged") for line, name in zip(lines, (path, path.with_suffix(".checkpoint")), strict=True)]
    assert again == whole and trained == [(0.1, 0), (0.2, 0), (0.2, 0)]
    assert workers.train(rows, raw, opts) == whole and len(trained) == 3 and capsys.readouterr().err == ""


def test_fresh_trains_all_again_without_the_checkpoints(raw, tmp_path, monkeypatch):
    states, run = [], training.run

    def watched_run(*args, state, **named):
        states.append(state and state["t"])
        return run(*args, state=state, **named)

    monkeypatch.setattr(training, "run", watched_run)
    rows = [settings.row(name, hidden=[3], n_cycles=1) for name in ("a", "b")]
    whole = workers.train(rows, raw, options(tmp_path))
    checkpoint = next(tmp_path.rglob("a-*.json")).with_suffix(".checkpoint")

    def leave_a_checkpoint():
        """Leave a good checkpoint of the first run, but for its b1."""
        config = settings.smoke(rows[0]["config"])

        def keep(state):
            if state["t"] == 10:
                state["params"]["b1"] += 1
                store.write_checkpoint(checkpoint, store.key_of(config, 0, store.data_of(raw), True), state, 1.0)

        run(config, 0, training.split(raw, 1000, 500), keep=keep)

    leave_a_checkpoint()
    assert workers.train(rows, raw, options(tmp_path)) == whole and states == [None, None]
    checkpoint.with_suffix(".json").unlink()
    workers.train(rows, raw, options(tmp_path))
    assert states == [None, None, 10] and not checkpoint.exists()
    leave_a_checkpoint()
    fresh = workers.train(rows, raw, options(tmp_path, "--fresh"))
    assert states == [None, None, 10, None, None]
    for name in fresh:
        assert [result | {"duration_s": 0} for result in fresh[name]] == [result | {"duration_s": 0} for result in whole[name]]


def test_rows_of_the_same_name_are_refused_and_a_run_asked_for_twice_is_trained_once(raw, tmp_path, trained):
    with pytest.raises(UserError, match="'net'"):
        workers.train([lam_row(0.1, "net"), lam_row(0.2, "net")], raw, options(tmp_path))
    results = workers.train_runs([(lam_row(0.1, "net"), 0)] * 2, raw, options(tmp_path))["net"]
    assert len(results) == 2 and results[0] == results[1] and trained == [(0.1, 0)]


# ------------------------------------------------------------------------------------- processes: jobs, kills, company


def assert_same(out, undisturbed):
    """Results, models, tables and figures are bit-identical to the undisturbed ones, and there is nothing else."""
    assert results_of(out) == results_of(undisturbed) and len(results_of(out)) == 10
    assert models_of(out) == models_of(undisturbed) and len(models_of(out)) == 6
    files = [{path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()} for folder in (out, undisturbed)]
    assert {path for path in files[0] if path.suffix != ".scratch"} == files[1].keys()
    for name, path in files[1].items():
        if path.suffix in (".md", ".tex", ".png", ".gz"):
            assert files[0][name].read_bytes() == path.read_bytes(), name


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


def left_of(drivers, folder, patience=30):
    """The files that these processes left in a folder of shared memory. The helpers of joblib end a moment after them."""
    deadline, left = time.monotonic() + patience, True
    while left and time.monotonic() < deadline:
        left = [path for path in Path(folder).glob("*") if {*map(str, drivers)} & {*re.split("[-_]", path.name)}]
        time.sleep(0.1)
    return left


def test_driver_stopped_at_random_moments_and_called_again_ends_bit_identical(undisturbed, tmp_path):
    moments, drivers, stops, continued = random.Random(1), [], 0, 0
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    while stops < 6:
        out, before, ended = tmp_path / f"from stop {stops}", {}, False
        while not ended:
            kind, jobs = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM][stops % 3], 1 + stops % 2
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
            now = updates_made(out)
            continued += any(now[run] > before[run] for run in now.keys() & before.keys())
            ended, before = driver.returncode == 0, now
            stops += not ended
            assert "Traceback" not in stderr and "again" not in stderr
            if ended or kind == signal.SIGKILL:  # whose helpers report the files that they remove
                assert ended or driver.returncode == -signal.SIGKILL, stderr
            else:
                assert driver.returncode == 130 and len(stderr.strip().splitlines()) == 1
                assert "small.py: interrupted" in stderr
        assert_same(out, undisturbed)
    assert continued >= 1
    assert not left_of(drivers, "/dev/shm") and not left_of(drivers, temporary)


def test_workers_of_a_killed_driver_end_and_leave_nothing(tmp_path):
    driver = start("tests/small.py", *SMALL, "--seeds", 2, "--jobs", 2, "--out", tmp_path / "out", cwd=tmp_path,
                   start_new_session=True, env={"TMPDIR": str(tmp_path)})  # fmt: skip
    while not list(tmp_path.rglob("*.checkpoint")):
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    try:
        driver.communicate(timeout=60)  # a process that still runs holds the pipes open
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    assert not left_of([driver.pid], "/dev/shm") and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_killed_worker_is_one_line(tmp_path):
    with pytest.raises(UserError, match="a worker process was killed.*the finished runs are kept") as error:
        with workers.workers(options(tmp_path, "--jobs", "2")) as parallel:
            list(parallel([joblib.delayed(os._exit)(1)]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("jobs", [1, 2])
def test_two_jobs_read_the_same_mapped_data_and_one_job_is_this_process(jobs, raw, tmp_path, monkeypatch):
    def describe(key, path, source, may_diverge):
        arrays = [source[part][0] for part in ("train", "val", "test")]
        files, writeable = {getattr(array, "filename", None) for array in arrays}, any(array.flags.writeable for array in arrays)
        about = {"process": os.getpid(), "files": sorted(map(str, files)), "writeable": writeable}
        return path, about | {"val_accuracy": 0.5, "duration_s": 1.0}, None

    monkeypatch.setattr(workers, "work", describe)
    results = workers.train_runs([(lam_row(0.1), seed) for seed in range(4)], raw, options(tmp_path, "--jobs", str(jobs)))["lam 0.1"]
    assert len({tuple(result["files"]) for result in results}) == 1
    if jobs == 1:
        assert {(result["process"], *result["files"]) for result in results} == {(os.getpid(), "None")}
    else:
        assert os.getpid() not in {result["process"] for result in results}
        assert results[0]["files"] != ["None"] and not any(result["writeable"] for result in results)
