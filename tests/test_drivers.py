"""The drivers as a person calls them, on the built-in set, and what they share."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import SMALL, call, command, environment, results_of

import experiment
import kbn
import layers
import nets
import tables

TABLES = {
    "run_ex2": ["ex2"],
    "run_ex3": ["ex3", "ex3_search"],
    "run_sensitivity": ["sensitivity"],
    "run_solver": ["solver", "solver_scales"],
    "run_mnist": ["mnist"],
    "run_fashion": ["fashion", "fashion_prediction", "fashion_claims"],
}
FIGURES = {"run_ex2": 5, "run_ex3": 5, "run_sensitivity": 2, "run_solver": 3, "run_mnist": 4, "run_fashion": 7}
GREY = ["run_mnist", "run_fashion"]
REPORTED = " (CIFAR-10)"  # the heads of the columns of others' figures say so, whatever the dataset
ONE_JOB = [*SMALL, "--jobs", "1"]


@pytest.mark.parametrize("driver", TABLES)
def test_smoke_writes_tables_and_figures_and_is_not_repeated(driver, tmp_path):
    out, cwd = tmp_path / "öut put", tmp_path / "elsewhere"
    cwd.mkdir()
    dataset = "grey-shapes" if driver in GREY else "shapes"
    options = ["--smoke", "--dataset", dataset, "--jobs", "1", "--out", out]
    first = call(driver, *options, cwd=cwd)
    assert first.returncode == 0, first.stderr
    assert not list(cwd.iterdir())
    results, figures = out / "results" / f"{dataset}-smoke", out / "figures" / f"{dataset}-smoke"
    for table in TABLES[driver]:
        markdown = (results / f"{table}.md").read_text(encoding="utf-8")
        assert markdown in first.stdout
        assert len((results / f"{table}.csv").read_text().splitlines()) == len(markdown.splitlines()) - 1
    assert f"{dataset.replace('-', ' ')} (synthetic), smoke test" in first.stdout and "CIFAR" not in first.stdout.replace(
        REPORTED, ""
    )
    assert len([path for path in figures.iterdir() if path.stat().st_size > 10_000]) == FIGURES[driver]
    assert {path.stem for path in (results / "figures").iterdir()} == {path.stem for path in figures.iterdir()}
    drawn = {path.name: path.read_bytes() for path in figures.iterdir()}
    shutil.copytree(results, tmp_path / "copy" / "results" / results.name)
    redrawn = call("plots", tmp_path / "copy" / "results" / results.name, cwd=cwd)
    assert redrawn.returncode == 0 and redrawn.stderr == "", redrawn.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy" / "figures" / results.name).iterdir()} == drawn
    assert {path.name for path in (out / "results").iterdir()} == {results.name}
    assert not list(out.rglob(".*"))

    before = results_of(out)
    again = call(driver, *options, cwd=cwd)
    assert again.returncode == 0 and "are in the results already" in again.stdout and again.stderr == ""
    assert again.stdout[again.stdout.index("| ") :] in first.stdout
    assert results_of(out) == before


def test_the_number_of_jobs_changes_no_bit(tmp_path):
    for jobs in (1, 2):
        assert call("run_ex2", *SMALL, "--jobs", jobs, "--out", tmp_path / str(jobs), cwd=tmp_path).returncode == 0
    one, two = results_of(tmp_path / "1"), results_of(tmp_path / "2")
    assert len(one) == 5 and one == two


def test_without_data_or_network_the_job_runs_on_the_synthetic_set_and_says_so(tmp_path):
    offline = {"https_proxy": "http://127.0.0.1:9", "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    job = call("run_ex2", "--smoke", "--jobs", 1, "--out", tmp_path, cwd=tmp_path, env=offline)
    assert job.returncode == 0 and "NOT on CIFAR-10" in job.stderr
    assert "CIFAR-10" not in job.stdout.replace(REPORTED, "")
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"shapes-smoke"}
    asked = call("run_ex2", "--smoke", "--dataset", "cifar10", "--out", tmp_path, cwd=tmp_path, env=offline)
    assert asked.returncode == 1 and "--data-dir" in asked.stderr and "Traceback" not in asked.stderr


@pytest.mark.parametrize(
    "options, status, said",
    [
        (["--sedes", "3"], 2, "--sedes"),
        (["--seed", "3"], 2, "--seed"),
        (["--seeds", "0"], 2, "'0' is not a whole number of 1 or more"),
        (["--jobs", "-1"], 2, "'-1' is not a whole number of 1 or more"),
        (["--jobs", "two"], 2, "'two'"),
        (["--dataset", "cifar100"], 2, "cifar100"),
        (["--data-dir", "not here"], 1, "not here"),
        ([*SMALL, "--out", "a file"], 1, "--out"),
    ],
)
def test_what_is_typed_wrong_is_named_in_one_line(options, status, said, tmp_path):
    (tmp_path / "a file").write_text("")
    wrong = call("run_ex3", *options, cwd=tmp_path)
    assert wrong.returncode == status
    assert said in wrong.stderr.splitlines()[-1] and "Traceback" not in wrong.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_help_is_for_people(tmp_path):
    text = call("run_ex3", "--help", cwd=tmp_path).stdout
    assert "python run_ex3.py --seeds 5" in text and "default" in text and "--smoke" in text


def test_odd_folders_and_a_terminal_of_ascii(tmp_path):
    home = tmp_path / "zwei schöne Örter"
    home.mkdir()
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
    job = call("run_sensitivity", *SMALL, "--out", "hier & da/日本", cwd=home, env=ascii_only)
    assert job.returncode == 0 and "Traceback" not in job.stderr and r"mean \xb1 sd" in job.stdout
    out = home / "hier & da" / "日本"
    assert len(results_of(out)) == 18 and len(list(out.rglob("*.png"))) == 2
    again = call("plots", out / "results" / "shapes-smoke", "--format", "svg", "--out", "ä b", cwd=home, env=ascii_only)
    assert again.returncode == 0 and len(list(home.glob("ä b/*/*.svg"))) == 2


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    full = call("run_ex2", *ONE_JOB, "--out", tmp_path, cwd=tmp_path, preexec_fn=small_files)
    assert full.returncode == 1 and "File too large" in full.stderr and "Traceback" not in full.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_ctrl_c_keeps_the_finished_runs(tmp_path):
    job = subprocess.Popen(
        command("run_sensitivity", *ONE_JOB, "--seeds", 20, "--out", tmp_path),
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # which a background job ignores
    start = time.time()
    while not list(tmp_path.rglob("runs/*.json")) and time.time() < start + 60:
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGINT)
    _, stderr = job.communicate(timeout=60)
    assert job.returncode == 130 and "interrupted" in stderr and "Traceback" not in stderr
    assert len(results_of(tmp_path)) >= 1 and not list(tmp_path.rglob(".*"))


# ------------------------------------------------------------------------------------------------------- experiment

SETTING = experiment.config(hidden=[4])
ABOUT = {
    "dataset": {"name": "toy", "fingerprint": "0", "classes": 3, "shape": [5]},
    "code": {"hidden": "1", "specs": "2"},
    "versions": {},
}
KEY = experiment.key_of(SETTING, 0, ABOUT)


def test_a_result_is_the_network_that_kbn_trains(toy, tmp_path):
    setting = experiment.config(hidden=[6], batch_norm=True, n_batch=20, n_s=30, n_cycles=1, eps=1e-5)
    path, result, _ = experiment.run(setting, 7, toy, ABOUT, tmp_path / "run.json", True)
    rng, hp = np.random.default_rng(7), {"n_batch": 20, "n_s": 30, "n_cycles": 1, "eps": 1e-5}
    params = kbn.init_params([5, 6, 3], rng, batch_norm=True)
    params, stats, history = kbn.minibatch_gd(toy["train"], toy["val"], params, hp, rng)
    assert result["test_accuracy"] == kbn.accuracy(*toy["test"], params, stats, 1e-5)
    assert result["val_accuracy"] == history["epoch"]["val_accuracy"][-1]
    assert result["history"]["update"]["t"] == list(range(60))
    np.testing.assert_allclose(result["history"]["epoch"]["val_loss"], history["epoch"]["val_loss"], rtol=1e-5)


def test_search_trials_do_not_look_at_the_test_set(toy, tmp_path):
    toy["test"] = ()  # whoever measures it fails
    setting = experiment.config(hidden=[4], n_batch=20, n_s=5, n_cycles=1)
    path, result, model = experiment.run(setting, 0, toy, ABOUT, tmp_path / "run.json", False)
    assert "test_accuracy" not in result
    experiment.keep({"results": tmp_path / "not there"}, path, result, model, False)
    assert experiment.finished(path, experiment.key_of(setting, 0, ABOUT), False) == result
    assert experiment.finished(path, experiment.key_of(setting, 0, ABOUT), True) is None
    with pytest.raises(TypeError):
        experiment.run(setting, 0, toy, ABOUT, tmp_path / "run.json", True)


def test_only_a_result_of_the_same_config_seed_data_and_code_is_used_again(tmp_path, capsys):
    path = tmp_path / "run.json"
    good = {**KEY, "val_accuracy": 0.4, "test_accuracy": 0.5, "history": {}}
    path.write_text(json.dumps(good))
    assert experiment.finished(path, KEY, True) == good
    assert experiment.finished(path, KEY | {"seed": 1}, True) is None
    assert experiment.finished(path, KEY | {"config": SETTING | {"lam": 0.1}}, True) is None
    assert experiment.finished(path, KEY | {"code": "2"}, True) is None
    assert experiment.finished(path, KEY | {"dataset": {}}, True) is None
    assert experiment.finished(tmp_path / "none.json", KEY, True) is None
    assert capsys.readouterr().err == ""
    older = [
        json.dumps({key: value for key, value in good.items() if key != lacking})
        for lacking in ("config", "dataset", "code", "val_accuracy", "history")
    ]
    for damage in (path.read_text()[:-20], "", "[1]", "{}", "3", *older):
        path.write_text(damage)
        assert experiment.finished(path, KEY, True) is None
        assert str(path) in capsys.readouterr().err


def image_net(toy, **changes):
    """A config, data and provenance of a small convolutional net: the toy's examples as images of 1 x 2 x 3."""
    pad = {part: (np.vstack([X, X[:1]]), y) for part, (X, y) in ((part, toy[part]) for part in ("train", "val", "test"))}
    specs = [("conv", 4, (2, 3)), ("bn",), ("relu",), ("affine", 3)]
    setting = experiment.config(specs=specs, n_batch=20, n_s=30, n_cycles=1, eta_max=0.05, n_train=300, n_val=50, **changes)
    return (
        setting,
        pad | {"input": {"shape": np.array([1, 2, 3])}},
        ABOUT | {"dataset": {**ABOUT["dataset"], "shape": [1, 2, 3]}},
    )


def test_a_result_of_layer_specs_is_the_net_that_nets_builds(toy, tmp_path):
    setting, data, about = image_net(toy, watched=30)
    path, result, model = experiment.run(setting, 7, data, about, tmp_path / "run.json", True)
    rng, specs, shape = np.random.default_rng(7), setting["specs"], (1, 2, 3)
    net, params = nets.build(specs, shape), nets.init_params(specs, shape, rng)
    moments = []
    hp = {"n_batch": 20, "n_s": 30, "n_cycles": 1, "eta_max": 0.05}
    params, stats, history = kbn.minibatch_gd(
        data["train"],
        data["val"],
        params,
        hp,
        rng,
        net=net,
        callback=lambda state: moments.append(
            layers.conv_forward(data["train"][0][:, :30].T.reshape(30, 1, 2, 3), state["params"]["W1"], state["params"]["b1"])[
                0
            ].std()
        ),
    )
    X, y = data["test"]
    whole = kbn.dataset_stats(data["train"][0].astype(np.float32), params, net=net)
    predicted = net["forward"](X.astype(np.float32), params, stats)[0].argmax(axis=0)
    wrong = [[i, predicted[i]] for i in range(len(y)) if predicted[i] != y[i]]
    assert result["test_accuracy"] == 1 - len(wrong) / len(y) and result["mistakes"] == wrong[: experiment.MISTAKES]
    assert result["test_accuracy_dataset"] == kbn.accuracy(X, y, params, whole, net=net)
    np.testing.assert_allclose(result["filters"], params["W1"], atol=1e-4)
    np.testing.assert_allclose(result["history"]["epoch"]["S1_sd"], moments, rtol=1e-5)
    np.testing.assert_allclose(result["history"]["epoch"]["val_loss"], history["epoch"]["val_loss"], rtol=1e-5)
    (tmp_path / "net.npz").write_bytes(model)
    saved, saved_stats, hp, more = kbn.load(tmp_path / "net.npz", nets.check_model)
    assert kbn.accuracy(X, y, saved, saved_stats, net=nets.of_model(more)) == result["test_accuracy"]


def test_divergence_is_a_result_where_it_may_be(toy, tmp_path):
    setting, data, about = image_net(toy)
    setting["eta_max"] = 1e30
    path, result, model = experiment.run(setting, 7, data, about, tmp_path / "run.json", True, may_diverge=True)
    assert "diverged" in result["diverged"] and result["val_accuracy"] == result["test_accuracy"] == 1 / 3 and model == b""
    experiment.keep({"results": tmp_path}, path, result, model, True)
    assert not list(tmp_path.rglob("*.npz")) and not list(tmp_path.rglob("*.checkpoint"))
    found = experiment.finished(path, experiment.key_of(setting, 7, about), True)
    assert found["diverged"] == result["diverged"] and np.isnan(found["history"]["epoch"]["val_loss"]).all()


def test_names_of_runs_are_short_and_tell_nets_apart():
    deep = [["affine", 50], ["bn"], ["relu"]] * 20 + [["affine", 10]]
    names = {
        experiment.run_name(experiment.config(**changes), 0)
        for changes in (
            {"specs": deep},
            {"specs": deep[:-1] + [["relu"], ["affine", 10]]},
            {"specs": deep, "loss": "svm"},
            {"hidden": [50]},
            {"specs": [["conv", 8, [5, 3], 1, [2, 1]], ["affine", 10]]},
            {"specs": [["conv", 8, 5, 3, [2, 1]], ["affine", 10]]},
        )
    }
    assert len(names) == 6 and "conv8x5x3x1x2x1-affine10_seed=0" in names
    assert max(map(len, names)) < 100


def test_a_run_that_diverges_is_named(toy, tmp_path):
    setting = experiment.config(hidden=[4], n_batch=20, n_s=50, eta_max=1e9)
    with pytest.raises(FloatingPointError, match="run-7: training diverged.*update.*eta"):
        experiment.run(setting, 0, toy, ABOUT, tmp_path / "run-7.json", True)
    assert not list(tmp_path.iterdir())


def test_names_of_runs_tell_them_apart():
    changes = [
        {},
        {"batch_norm": True},
        {"hidden": [50, 30]},
        {"lam": 0.0051},
        {"sigma": 0.1},
        {"sigma": "xavier"},
        {"n_train": 1000},
        {"eps": 1e-5},
        {"bn": "after"},
        {"n_cycles": 3},
    ]
    names = {experiment.run_name(experiment.config(**change), seed) for change in changes for seed in (0, 1)}
    assert len(names) == 2 * len(changes)


def test_an_unknown_name_in_a_config_is_refused():
    with pytest.raises(ValueError, match="lambda_"):
        experiment.config(lambda_=0.1)


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    tables.write(tmp_path / "a", "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        tables.write(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "old"


def test_summaries_are_mean_and_sample_deviation():
    mean, sd, n = experiment.summary([{"a": 0.5}, {"a": 0.52}], "a")
    assert (round(mean, 9), round(sd, 9), n) == (51, round(2**0.5, 9), 2)
    assert experiment.for_people((51.0, 1.4142, 2)) == "51.00 ± 1.41 (2)"
    assert experiment.for_people((51.0, np.nan, 1)) == "51.00 (1)"
    assert experiment.for_programs({"x": (1, 2, 3), "y": "z"}) == {"x": 1, "x_sd": 2, "x_n": 3, "y": "z"}


def test_thinned_history_keeps_the_means():
    columns = {"eta": list(np.arange(1000.0)), "loss": [1.0] * 1000}
    thinned = experiment.thin(columns)
    assert len(thinned["t"]) == 500 and thinned["t"][:2] == [0.5, 2.5] and thinned["eta"] == thinned["t"]
    assert np.mean(thinned["loss"]) == 1
