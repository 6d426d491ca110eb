"""The one file, and single functions, that make_submission.py makes of the sources."""

import ast
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import options
from threadpoolctl import threadpool_limits

import kbn
import make_submission
import run_ex2
import run_ex3
import run_ex4
import run_sensitivity
from lab import settings, training, workers
from lab.settings import HOME, UserError

threadpool_limits(1)
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("KBN_DATA_DIR", "PYTHONPATH")}
ENVIRONMENT["OPENBLAS_NUM_THREADS"] = "1"


def run(script, *options, cwd):
    command = [sys.executable, script, *map(str, options)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module", params=[None, make_submission.exercise_4()], ids=["plain", "exercise 4"])
def each(tmp_path_factory, request):
    """The one file, imported: without Exercise 4, and with it."""
    return imported(tmp_path_factory.mktemp("submission") / "assignment3.py", request.param)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The one file with Exercise 4, imported."""
    return imported(tmp_path_factory.mktemp("submission") / "assignment3.py", make_submission.exercise_4())


def imported(path, changes):
    path.write_text(make_submission.submission(changes), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("assignment3", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------------------------- the one file


def test_file_defines_every_name_once_and_names_no_module_of_the_project(each):
    text = Path(each.__file__).read_text(encoding="utf-8")
    tree = ast.parse(text)
    names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(names) == len(set(names)) and {"forward", "check_nets", "exercise_3"} <= set(names)
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"numpy", "matplotlib"} < imported < sys.stdlib_module_names | {"numpy", "matplotlib"}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert used.isdisjoint(["kbn", "gradcheck", "lab", "recipes", "training", "run_ex4"])
    assert all(line in text for line in ("\nName:\n", "\nStudent id:\n", "MIT licence", "released 2026-11-21"))
    assert "{notation}" not in text and "{version}" not in text
    bonus = [part in text for part in ("2, 3, 4 or sensitivity", "in a minute", "Exercise 4 takes hours", "def whitening")]
    assert set(bonus) == {"4" in each.EXERCISES} and text.count("\n") < (1280 if any(bonus) else 960)


def test_file_alone_runs_all_exercises_and_draws_their_figures(module, tmp_path):
    job = run(module.__file__, "--synthetic", "--out", tmp_path, cwd=tmp_path)
    assert job.returncode == 0 and not job.stderr, job.stderr
    figures = {"ex2-depth", "ex3-3-layer", "ex3-6-layer", "ex3-9-layer", "ex3-search", "sensitivity-3-layer", "ex4-recipe"}
    assert {path.stem for path in tmp_path.rglob("*.png")} == figures | {"sensitivity-9-layer"}
    assert job.stdout.count(", ok\n") == 32 and job.stdout.count(" test ") == 5 + 6 + 1 + 18 + 3


def test_file_trains_the_configs_of_the_drivers(module, monkeypatch):
    ours, theirs = [], []

    def accuracy(lam):
        return 0.5 - 0.1 * abs(np.log10(lam) + 2.4)

    def our_run(config, seed, data, smoke, test):
        n_train, n_val = data
        ours.append((settings.config(**config, n_train=n_train, n_val=n_val), seed, test))
        return {"lam": config.get("lam", 0.005), "val_accuracy": accuracy(config.get("lam", 0.005)), "test_accuracy": 0.5}

    def their_runs(runs, raw, opts, test=True):
        results = {}
        for row, seed in runs:
            theirs.append((row["config"], seed, test))
            result = {"config": row["config"], "seed": seed, "val_accuracy": accuracy(row["config"]["lam"])}
            results.setdefault(row["name"], []).append(result)
        return results

    monkeypatch.setattr(module, "split", lambda raw, n_train, n_val: (n_train, n_val))
    monkeypatch.setattr(module, "run", our_run)
    monkeypatch.setattr(module, "plot", lambda *arguments: None)
    monkeypatch.setattr(module, "save", lambda *arguments: None)
    monkeypatch.setattr(workers, "train_runs", their_runs)
    opts = SimpleNamespace(seeds=2, smoke=False)
    for name, driver in {"2": run_ex2, "3": run_ex3, "sensitivity": run_sensitivity}.items():
        module.EXERCISES[name](None, opts)
        driver.train(None, opts)
        assert sorted(map(json.dumps, ours)) == sorted(map(json.dumps, theirs)), name


@pytest.mark.parametrize(
    "change", [{"hidden": [50]}, {"hidden": [50, 30], "bn": "before", "sigma": 1e-2, "eps": 1e-5, "lam": 0.02}]
)
def test_file_computes_the_numbers_of_the_drivers(module, change):
    raw = module.draw_synthetic()
    names = ("images", "labels", "test_images", "test_labels")
    theirs = training.split({**dict(zip(names, raw)), "classes": range(10), "shape": (3, 32, 32)}, 1_000, 500)
    ours = module.split(raw, 1_000, 500)
    assert all(np.array_equal(a, b) for part in ours for a, b in zip(ours[part], theirs[part]))
    ours = module.run(change, 3, ours, smoke=True, test=True)
    theirs, _ = training.run(settings.config(**change, n_train=1_000, n_val=500, n_s=20), 3, theirs)
    assert {key: ours[key] for key in ours if key != "lam"} == {key: theirs[key] for key in ours if key != "lam"}
    assert ours["test_accuracy"] > 0.3


@pytest.mark.xfail(reason="open fault: with the recipe's mini-batches of 250 the validation accuracies of seed 0 differ", strict=False)
def test_file_with_exercise_4_computes_the_numbers_of_its_driver(module, raw, tmp_path):
    opts = SimpleNamespace(seeds=2, smoke=True, out=tmp_path)
    ours = module.exercise_4([raw[name] for name in ("images", "labels", "test_images", "test_labels")], opts)
    theirs = run_ex4.train(run_ex4.RECIPE, raw, options(tmp_path, "--seeds", "2"))[run_ex4.RECIPE["name"]]
    keys = [f"{part}_accuracy{way}" for part in ("val", "test") for way in module.WAYS]
    assert [[result[key] for key in keys] for result in ours] == [[result[key] for key in keys] for result in theirs]
    assert len({result[key] for result in ours for key in keys}) > 6
    for one, other in zip(ours, theirs):
        rounded = {name: [float(f"{x:.6g}") for x in column] for name, column in one["history"].items()}  # as it is stored
        assert rounded == other["history"]


def test_file_with_exercise_4_knows_all_that_the_recipe_sets():
    config = run_ex4.RECIPE["config"]
    changed = {name for name in config if config[name] != settings.DEFAULTS[name]}
    assert changed <= kbn.DEFAULTS.keys() | {"hidden", "n_epochs", "zca", "jitter", "rule"}
    assert config["rule"] == "nesterov" and config["jitter"]["share"] and config["zca"] and config["n_epochs"]


# ------------------------------------------------------------------------------------------------------------- its data


def write_batch(path, order="C", **changes):
    """Write a random batch of CIFAR-10. Returns its images and labels."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(10_000, 3072), dtype=np.uint8), rng.permutation(10_000) % 10
    batch = {"data": np.asarray(images, order=order), "labels": labels.tolist()} | changes
    path.write_bytes(pickle.dumps({key.encode(): value for key, value in batch.items()}, protocol=4))
    return images, labels


@pytest.mark.parametrize("order", ["C", "F"])
def test_batch_is_read_as_it_was_written(module, order, tmp_path):
    images, labels = write_batch(tmp_path / "batch", order)
    assert all(map(np.array_equal, module.read_batch(tmp_path / "batch"), (images, labels)))


class Attack:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_batch_is_not_run(module, tmp_path):
    write_batch(tmp_path / "batch", data=Attack(tmp_path / "attacked"))
    with pytest.raises(OSError, match="batch cannot be read as a batch of CIFAR-10"):
        module.read_batch(tmp_path / "batch")
    assert not (tmp_path / "attacked").exists()
    pickle.loads((tmp_path / "batch").read_bytes())
    assert (tmp_path / "attacked").exists()  # the attack works where pickles are loaded


@pytest.mark.parametrize("changes", [{"labels": [1] * 10_000}, {"labels": [0, 1]}, {"data": np.zeros((2, 3072), np.uint8)}])
def test_batch_of_another_content_is_refused(module, changes, tmp_path):
    write_batch(tmp_path / "batch", **changes)
    with pytest.raises(OSError, match="10000 images of 3072 numbers with labels in 0..9"):
        module.read_batch(tmp_path / "batch")


@pytest.mark.parametrize(
    "options, status, words",
    [
        ([], 1, "error: name the folder of CIFAR-10 with --data-dir or KBN_DATA_DIR"),
        (["--data-dir", "empty"], 1, "error: empty: data_batch_1 is missing"),
        (["--seeds", "0", "--synthetic"], 2, "argument --seeds: 0 is below 1"),
        (["--synthetic", "--out", str(HOME / "LICENSE")], 1, "LICENSE: File exists"),
        (["--exercise", "5"], 2, "argument --exercise: invalid choice: '5'"),
    ],
)
def test_mistake_is_one_line(module, options, status, words, tmp_path):
    job = run(module.__file__, *options, cwd=tmp_path)
    assert job.returncode == status and words in job.stderr.splitlines()[-1] and "Traceback" not in job.stderr
    assert not any(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- one function


SOURCES = make_submission.read_sources(make_submission.METHOD)
RNG = np.random.default_rng(0)
PARAMS = kbn.init_params([6, 8, 7, 4], RNG, bn="before", dtype=np.float64)
X, LABELS = RNG.standard_normal((6, 20)), RNG.integers(4, size=20)
Y, G = kbn.one_hot(LABELS, 4), RNG.standard_normal((6, 20))
MU, V = X.mean(axis=1, keepdims=True), X.var(axis=1, keepdims=True)
CALLS = {  # function: most lines, what it is called with
    "init_params": (120, lambda: ([6, 8, 4], np.random.default_rng(1))),
    "forward": (120, lambda: (X, PARAMS)),
    "backward": (120, lambda: (Y, PARAMS, kbn.forward(X, PARAMS)[1], 0.1)),
    "batch_norm_backpass": (120, lambda: (G, X, MU, V)),
    "minibatch_gd": (300, lambda: ((X, LABELS), (X, LABELS), PARAMS, {"n_batch": 5, "n_s": 6}, np.random.default_rng(1))),
}


@pytest.mark.parametrize("name", CALLS)
def test_printed_function_in_an_empty_file_computes_what_kbn_computes(name, tmp_path):
    job = run(HOME / "make_submission.py", "--function", name, cwd=tmp_path)
    lines, (most, arguments) = job.stdout.splitlines(), CALLS[name]
    assert job.returncode == 0 and lines[0] == "import numpy as np" and len(lines) <= most
    scope = {}
    exec(job.stdout, scope)
    np.testing.assert_equal(scope[name](*arguments()), getattr(kbn, name)(*arguments()))
    assert scope[name].__doc__ == getattr(kbn, name).__doc__


@pytest.mark.parametrize("name", make_submission.functions(SOURCES))
def test_every_listed_function_stands_alone(name):
    text, scope = make_submission.function(name), {}
    exec(text, scope)
    defined = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert name.partition(".")[2] in defined and len(defined) == len(set(defined))
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)
                and ast.unparse(node.value) in make_submission.METHOD]  # fmt: skip


def test_unknown_function_is_refused_with_the_nearest_names():
    with pytest.raises(UserError, match="there is no function 'batch_norm_backpas'; the nearest are batch_norm_backpass"):
        make_submission.function("batch_norm_backpas")


def test_file_that_was_changed_is_not_replaced(tmp_path):
    path = tmp_path / "new" / "mine.py"
    for _ in range(2):
        assert run(HOME / "make_submission.py", "--out", path, cwd=tmp_path).returncode == 0
    text = path.read_text(encoding="utf-8").replace("\nName:\n", "\nName: Ada\n")
    path.write_text(text, encoding="utf-8")
    job = run(HOME / "make_submission.py", "--out", path, cwd=tmp_path)
    assert job.returncode == 1 and job.stderr.count("\n") == 1 and "mine.py is not replaced" in job.stderr
    assert path.read_text(encoding="utf-8") == text


def test_file_is_replaced_by_the_same_with_exercise_4(tmp_path):
    for more in ([], ["--exercise", "4"], []):
        assert run(HOME / "make_submission.py", "--out", tmp_path / "a.py", *more, cwd=tmp_path).returncode == 0
        assert ("def exercise_4" in (tmp_path / "a.py").read_text(encoding="utf-8")) == bool(more)


def test_option_out_where_nothing_is_written_is_refused(tmp_path):
    job = run(HOME / "make_submission.py", "--function", "forward", "--out", tmp_path / "a.py", cwd=tmp_path)
    assert job.returncode == 2 and "argument --out: not allowed with argument --function" in job.stderr


# ---------------------------------------------------------------------------------------------------------- the archives


@pytest.mark.parametrize("document", make_submission.DOCUMENTS)
def test_archive_of_a_document_holds_all_that_its_driver_imports(document, tmp_path):
    assert run(HOME / "make_submission.py", "--document", document, "--out", tmp_path / "a.zip", cwd=tmp_path).returncode == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path)
    job = run(tmp_path / document / f"run_{document}.py", "--help", cwd=tmp_path)
    assert job.returncode == 0 and "--seeds" in job.stdout, job.stderr
    assert {"LICENSE", "requirements.txt"} < {path.name for path in (tmp_path / document).iterdir()}
