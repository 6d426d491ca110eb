"""The drivers as a user calls them: what they print and write, published results, and one line for each mistake."""

import contextlib
import fcntl
import importlib
import os
import pty
import re
import resource
import shutil
import signal
import struct
import sys
import termios
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import HOME, SMALL, call, options, results_of, start

import kbn
import nets
from lab import data, driver, models, plots, settings, store, training, workers
from lab.settings import UserError, row

DRIVERS = {"run_ex2": "shapes", "run_ex3": "shapes", "run_ex4": "shapes", "run_sensitivity": "shapes", "run_solver": "shapes", "run_mnist": "grey-shapes",
           "run_fashion": "grey-shapes"}  # fmt: skip
SCRIPTS = [*DRIVERS, "gradcheck", "predict", "make_report", "make_submission"]


def contents(*folders):
    """The bytes and the time of each file below folders, but for compiled modules."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def without_times(contents):
    return {path: content for path, (content, _) in contents.items()}


# ------------------------------------------------------------------------------------------- the scripts, by subprocess


@pytest.mark.parametrize("name", DRIVERS)
def test_smoke_writes_tables_and_figures_and_figures_are_drawn_again_to_the_same_bytes(name, tmp_path):
    out, cwd, label = tmp_path / "out", tmp_path / "elsewhere", f"{DRIVERS[name]}-smoke"
    cwd.mkdir()
    command = [f"{name}.py", "--smoke", "--dataset", DRIVERS[name], "--jobs", 1, "--out", out]
    job = call(*command, cwd=cwd)
    assert job.stderr == "" and not list(cwd.iterdir()) and not list(out.rglob(".*"))
    assert [path.name for path in [*(out / "results").iterdir(), *(out / "figures").iterdir()]] == [label, label]
    module, path = importlib.import_module(name), out / "results" / label / name.removeprefix("run_")
    results = store.read_runs(path)
    for table in module.report(results, {}):
        markdown, comma_separated, latex = (path.with_name(f"{table}.{kind}").read_text() for kind in ("md", "csv", "tex"))
        n = len(markdown.splitlines())
        assert markdown in job.stdout and len(comma_separated.splitlines()) == n - 1 == latex.count(r" \\")
        assert {line.count("|") for line in markdown.splitlines()} == {latex.splitlines()[2].count(" & ") + 2}
    sizes = {path.name: path.stat().st_size for path in (out / "figures" / label).iterdir()}
    assert sizes.keys() == {f"{figure}.png" for figure in module.figures(results)} and min(sizes.values()) > 10_000
    assert "(synthetic), smoke test; accuracies in %" in job.stdout and not re.search("CIFAR-10;|published", job.stdout)

    before = without_times(contents(out))
    shutil.rmtree(out / "figures")
    shutil.rmtree(path.with_name("runs"))
    again = call(*command, "--figures", cwd=cwd)
    assert without_times(contents(out)) == {path: content for path, content in before.items() if path.parent.name != "runs"}
    assert again.stdout[: again.stdout.rindex("|")] == job.stdout[job.stdout.index("\n\n") + 1 : job.stdout.rindex("|")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_the_docstring(name, tmp_path):
    text = call(f"{name}.py", "--help", cwd=tmp_path).stdout
    assert f"python {name}.py" in text and "--help" in text and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong, status, words",
    [
        (["--sedes", "3"], 2, "--sedes"),
        (["--data-dir", "not here"], 1, "not here is not a folder"),
        (["--data-dir", "a file"], 1, "a file is not a folder"),
        (["--data-dir", "."], 1, ". does not hold CIFAR-10"),
        (["--data-dir", ""], 1, ". does not hold CIFAR-10"),
        ([*SMALL, "--out", "a file"], 1, "--out"),
    ],
)
def test_wrong_option_is_one_line_and_writes_nothing(wrong, status, words, tmp_path):
    (tmp_path / "a file").write_text("")
    line = call("run_ex3.py", *wrong, cwd=tmp_path, status=status).stderr.splitlines()[-1]
    assert line.startswith("run_ex3.py: error: ") and words in line
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_without_network_the_synthetic_set_is_used_unless_a_dataset_is_named(tmp_path):
    offline = {"https_proxy": "http://127.0.0.1:9", "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    job = call("run_ex2.py", "--smoke", "--jobs", 1, "--out", tmp_path / "out", cwd=tmp_path, env=offline)
    assert "built-in synthetic set 'shapes', NOT on cifar10" in job.stderr and "CIFAR" not in job.stdout
    assert "2000 training and 1000 test images" in job.stdout
    assert [path.name for path in (tmp_path / "out" / "results").iterdir()] == ["shapes-smoke"]
    asked = call("run_ex2.py", "--dataset", "cifar10", "--out", tmp_path / "2", cwd=tmp_path, env=offline, status=1)
    line = asked.stderr.splitlines()[-1]
    assert line.startswith("run_ex2.py: error: CIFAR-10 cannot be downloaded") and "--data-dir" in line
    assert not (tmp_path / "2").exists()


@pytest.mark.parametrize("command", [("run_ex2.py", *SMALL, "--jobs", 2, "--out", "."), ("make_submission.py", "--list")])
def test_closed_pipe_ends_a_script_silently(command, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    job = start(*command, cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert job.communicate(timeout=60)[1] == "" and job.returncode == 1


def test_odd_folders_and_a_terminal_of_ascii_are_no_obstacle(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
    cwd = tmp_path / "zwei schöne Örter"
    cwd.mkdir()
    job = call("run_ex2.py", *SMALL, "--out", "hier & da/日本", cwd=cwd, env=ascii_only)
    assert r"mean \xb1 sd" in job.stdout and len(results_of(cwd / "hier & da" / "日本")) == 5


def test_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    job = call("run_ex2.py", *SMALL, "--jobs", 1, "--out", tmp_path, cwd=tmp_path, status=1, preexec_fn=limit)
    assert job.stderr.count("\n") == 1 and "File too large" in job.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_command_without_publish_changes_published_files_and_out_writes_nowhere_else(tmp_path):
    clone, check = tmp_path / "clone", tmp_path / "check.py"
    clone.mkdir()
    for path in [*HOME.glob("*.py"), HOME / "CITATION.cff"]:
        shutil.copy(path, clone)
    for folder in ("lab", "handin", "results/published", "figures/published"):
        shutil.copytree(HOME / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__", "models"))
    quick = "lambda seed: (list(g.check_nets(0, g.CHECKED[:1])), [])"
    quick = f"g.report_gradients, g.REPORT, g.LAYERED = {quick}, [([8], 6, [0.1])], [([8], 6)]"
    check.write_text(f"import gradcheck\nfrom lab import gradients as g\n{quick}\ngradcheck.main()\n")
    whole, env, ex2 = contents(clone), {"PYTHONPATH": str(clone)}, clone / "run_ex2.py"
    for command in [(ex2, *SMALL), (ex2, *SMALL, "--figures"), (check,)]:
        call(*command, "--out", tmp_path / "out", cwd=tmp_path, env=env)
        assert contents(clone) == whole
    for status, *command in [(0, ex2, *SMALL), (0, ex2, *SMALL, "--figures"), (0, check), (1, ex2, "--figures"),
                             (0, clone / "make_submission.py"), (1, clone / "make_report.py")]:  # fmt: skip
        call(*command, cwd=tmp_path, env=env, status=status)
    made = {path.relative_to(clone) for path in contents(clone).keys() - whole.keys()}
    assert contents(clone).items() >= whole.items()
    assert {path.parts[1] for path in made if len(path.parts) > 2} == {"shapes-smoke"}
    checks = {f"gradcheck{table}.{kind}" for table in ("", "_report", "_layers") for kind in ("csv", "md", "tex")}
    assert {path.name for path in made if len(path.parts) == 2} == checks | {"assignment3.py"}


# ------------------------------------------------------------------------- a driver in this process, on data of any name


SIZE = {"hidden": [4], "n_train": 200, "n_val": 100, "n_batch": 20, "n_s": 5, "n_cycles": 1}
ROWS = [row("net", **SIZE, reported={"a book": "52.5"}), row("BN", **SIZE, bn="before", setting="with BN")]


@pytest.fixture
def drive(raw, tmp_path, monkeypatch, capsys):
    """A function that calls driver.drive with options, and returns what is printed on stdout and stderr.

    rows: what is trained. changes: of the data, which is else the official CIFAR-10. fail: an error of data.load.
    """
    monkeypatch.setattr(driver, "HOME", tmp_path)

    def drive(*options, rows=ROWS, fail=None, **changes):
        def load(name, data_dir=None, small=False):
            if fail and name == "cifar10":
                raise fail
            return raw | ({"name": name, "title": "CIFAR-10", "files": "official"} if name == "cifar10" else {}) | changes

        monkeypatch.setattr(data, "load", load)
        monkeypatch.setattr(sys, "argv", ["run_toy.py", "--jobs", "1", "--out", str(tmp_path), *options])
        driver.drive(
            "toy",
            "A toy.",
            train=lambda raw, opts: workers.train(rows, raw, opts),
            report=lambda results, published: {"toy": driver.accuracies(ROWS, results, published)},
            figures=lambda results: {f"toy-{net}": partial(plots.curves, net, {"off": results[net]}) for net in results},
        )
        return capsys.readouterr()

    return drive


@pytest.fixture
def published(drive, tmp_path):
    """A function that returns the contents of the published folders, in which results of two seeds have been published."""
    drive("--publish", "--seeds", "2")
    return lambda: contents(tmp_path / "results" / "published", tmp_path / "figures" / "published")


def test_finished_runs_are_reported_and_not_repeated_unless_fresh(drive, tmp_path):
    first = drive("--seeds", "2")
    head, *lines = first.out.splitlines()
    assert head.startswith("CIFAR-10: 2000 training and 1000 test images, 2 seed(s), 1 job(s)") and first.err == ""
    for i, name in enumerate(["net, seed 0", "net, seed 1", "BN (with BN), seed 0", "BN (with BN), seed 1"]):
        assert re.fullmatch(rf"{i + 1} of 4: {re.escape(name)}: validation \d+\.\d\d %, \d+ s", lines[i])
    assert lines[-1] == f"tables in {os.path.relpath(tmp_path / 'results/cifar10')}, figures in " + os.path.relpath(
        tmp_path / "figures/cifar10"
    )
    assert "\nCIFAR-10; accuracies in %: mean ± sd (number of seeds)\n\n| network | setting | validation " in first.out
    runs = contents(*tmp_path.rglob("runs"))
    _, found, trained, *_ = drive("--seeds", "3").out.splitlines()
    assert found == "4 of 6 runs have results already; --fresh trains them again" and trained.startswith("1 of 2: net, seed 2")
    assert contents(*tmp_path.rglob("runs")).items() > runs.items()
    assert "already" not in drive("--seeds", "2", "--fresh").out
    assert all(path.stat().st_mtime_ns > time for path, (_, time) in runs.items())


def test_quiet_prints_only_tables_and_errors(drive):
    whole, quiet = drive(), drive("--quiet")
    assert quiet.err == "" and quiet.out in whole.out and quiet.out.startswith("\nCIFAR-10; accuracies in %")
    assert drive("--quiet", "--fresh").out == quiet.out and drive("--quiet", "--figures", "toy-BN").out == ""


def test_figures_are_drawn_from_stored_results_without_data_and_training(drive, monkeypatch, tmp_path):
    drive()
    files = without_times(contents(tmp_path))
    monkeypatch.setattr(workers, "train", None)
    monkeypatch.setattr(driver, "open_data", None)
    again = drive("--figures")
    assert without_times(contents(tmp_path)) == files and "| network |" in again.out
    named = drive("--figures", "toy-BN", "--format", "svg")
    assert "|" not in named.out and {path.name for path in contents(tmp_path).keys() - files.keys()} == {"toy-BN.svg"}
    with pytest.raises(UserError, match="no figure 'toy-x'; there are toy-net, toy-BN"):
        drive("--figures", "toy-BN", "toy-x")
    with pytest.raises(UserError, match="cifar10-smoke.toy.*is missing; run the driver without --figures first"):
        drive("--figures", "--smoke")


def test_publish_writes_published_folders_which_no_other_command_changes(drive, published, tmp_path):
    first = published()
    names = {path.name for path in first}
    assert names == {"toy.md", "toy.csv", "toy.tex", "toy_runs.csv", "toy_histories.json.gz", "toy-net.png", "toy-BN.png"}
    assert not list(tmp_path.glob("*/cifar10/toy*"))
    for command in ((), ("--seeds", "3", "--fresh"), ("--smoke",), ("--figures",), ("--dataset", "shapes")):
        drive(*command)
        assert published() == first, command
    for path in first:
        if path.suffix in (".png", ".md"):
            path.unlink()
    drive("--publish", "--figures")
    assert without_times(published()) == without_times(first)
    assert drive("--publish", "--seeds", "3").out.count(" (3) ") == 4


@pytest.mark.parametrize(
    "command, changes, words",
    [
        (["--smoke", "--seeds", "2"], {}, "only results on the whole of cifar10 are published"),
        (["--dataset", "shapes", "--seeds", "2"], {}, "only results on the whole of cifar10 are published"),
        (["--seeds", "2"], {"note": "the test set differs"}, "these results are not published: the test set differs"),
        (["--seeds", "2"], {"fail": data.Unavailable("no network")}, "no network"),
        ([], {}, "the published results have 2 seeds, not 1; use --seeds 2 or more"),
    ],
)
def test_publish_is_refused_before_training(command, changes, words, drive, published, monkeypatch, capsys):
    monkeypatch.setattr(workers, "train", None)
    first = published()
    with pytest.raises((UserError, SystemExit)) as error:
        drive("--publish", *command, **changes)
    assert words in str(error.value) + capsys.readouterr().err and published() == first


def first_row(markdown):
    """The cells of the first row of a table in Markdown, by the names of its columns."""
    lines = [line.split("|")[1:-1] for line in markdown.splitlines() if line.startswith("|")]
    return {name.strip(): cell.strip() for name, cell in zip(lines[0], lines[2], strict=True)}


@pytest.mark.parametrize(
    "command, changes, theirs, book",
    [
        ([], {}, True, True),
        ([], {"files": "same images in another order", "order": "another"}, True, True),
        ([], {"rows": [row("net", **SIZE, lam=0.3), ROWS[1]]}, True, False),
        ([], {"files": "other images", "note": "the test set differs"}, False, False),
        (["--smoke"], {}, False, False),
        (["--dataset", "shapes"], {"files": "synthetic"}, False, False),
        ([], {"fail": data.Unavailable("no network"), "files": "synthetic"}, False, False),
    ],
)
def test_published_and_reported_accuracies_stand_only_beside_comparable_ones(command, changes, theirs, book, drive, published):
    mine = drive(*command, "--quiet", **changes)
    cells = first_row(mine.out)
    assert ("published test" in cells) is theirs and (cells["a book"] == "52.5") is book
    if theirs:
        (table,) = [content.decode() for path, (content, _) in published().items() if path.suffix == ".md"]
        assert cells["published test"] == first_row(table)["test"] != first_row(table)["validation"]
    assert ("(the test set differs)" in mine.out) is ("Note: the test set differs." in mine.err) is ("note" in changes)


def test_synthetic_set_takes_the_place_of_unavailable_data_only_if_no_dataset_is_named(drive, tmp_path):
    job = drive(fail=data.Unavailable("no network"))
    assert job.err == "no network\nSo everything below is on the built-in synthetic set 'shapes', NOT on cifar10.\n"
    assert job.out.startswith("shapes (synthetic): ") and [path.name for path in tmp_path.glob("results/*")] == ["shapes"]
    for command, error in ([["--dataset", "cifar10"], data.Unavailable("no")], [["--data-dir", "here"], UserError("no")]):
        with pytest.raises(UserError):
            drive(*command, fail=error)


# ---------------------------------------------------------------------------------- options, progress, and how it ends


@pytest.mark.parametrize(
    "wrong, words",
    [
        (["--seed", "3"], "unrecognized arguments: --seed"),
        (["--seeds", "0"], "'0' is not a whole number of 1 or more"),
        (["--seeds", "1.5"], "'1.5' is not a whole number of 1 or more"),
        (["--jobs", "-1"], "'-1' is not a whole number of 1 or more"),
        (["--dataset", "cifar100"], "'cifar100'"),
        (["--cluster", ""], "an address is needed"),
        (["--format", "bmp"], "'bmp'"),
    ],
)
def test_bad_option_is_one_line_that_names_it(wrong, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        settings.options("", list(data.DATASETS), argv=wrong)
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error:" in line and words in line


@pytest.mark.parametrize(
    "error, line",
    [
        (UserError("a\n  b"), "toy.py: error: a b"),
        (FileNotFoundError(2, "No such file", "x"), "toy.py: error: x: No such file"),
        (FloatingPointError("training diverged"), "toy.py: error: training diverged"),
        (KeyboardInterrupt(), "toy.py: interrupted"),
    ],
)
def test_expected_error_ends_a_script_with_one_line(error, line, monkeypatch, capsys):
    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["somewhere/toy.py"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        settings.run_main(main)
    assert [end.value.code, capsys.readouterr().err.strip()] == ([line, ""] if "error" in line else [130, line])


@pytest.mark.parametrize("columns", [100, 40])
def test_progress_on_a_terminal_is_a_bar_no_wider_than_it(columns, tmp_path, monkeypatch):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    opts, shown = options(tmp_path), b""
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        for opts.quiet in (True, False):
            with workers.progress(3, opts) as finished:
                for seed in range(3):
                    finished({"label": f"net, seed {seed}", "result": {"val_accuracy": 0.5, "duration_s": 1}})
    with contextlib.suppress(OSError):  # the other side is closed
        while True:
            shown += os.read(ours, 4096)
    frames = re.split(r"[\r\n]", shown.decode())
    assert sum("3/3" in frame for frame in frames) == 1 and max(map(len, frames)) <= columns
    assert (b"net, seed 2: validation 50.00 %" in shown) is (columns == 100)


def climb(accuracy):
    """The three ladders of run_ex4 for seeds whose accuracy is a function of a config, and the config of each rung."""
    run_ex4, seen = importlib.import_module("run_ex4"), {}

    def network(name, c, tuned=True):
        seen[name] = c
        return [{"seed": seed, "val_accuracy": accuracy(c) + seed / 100, "config": c} for seed in range(3)]

    return run_ex4, *run_ex4.climb(network), seen


def test_ladder_keeps_the_changes_that_gain_and_takes_each_out_alone():
    run_ex4, forwards, backwards, more, seen = climb(
        lambda c: (
            0.4 + 0.1 * (c["momentum"] > 0) + 0.12 * (c["zca"] is not None) - 0.1 * (c["keep"] < 1) + 0.02 * bool(c["jitter"])
        )
    )
    kept = ["momentum .9", "mirror images", "whitening"]
    assert [rung["name"] for rung in forwards if rung["kept"]] == [run_ex4.FIRST, *kept]
    assert [rung["name"] for rung in backwards] == [f"without: {name}" for name in kept]
    assert seen["colours"]["momentum"] == 0.9 and seen["dropout of units"]["zca"] and seen["4 layers"]["keep"] == 1
    mirror, changed = {"jitter": {"share": 0.5}}, {"momentum": 0.9, "eta_max": run_ex4.START["eta_max"] / 10}
    assert seen["without: whitening"] == run_ex4.START | changed | mirror
    assert seen["without: momentum .9"] == run_ex4.START | mirror | {"zca": 0.1}
    whole = next(rung for rung in forwards if rung["name"] == "whitening")
    assert all(rung["below"] is whole["results"] for rung in backwards) and whole["gain"] == pytest.approx(0.12)
    long = "5 times the epochs"
    assert [rung["name"] for rung in more] == [
        long,
        f"{long}, without: whitening",
        f"{long}, without: momentum .9",
        run_ex4.LAST,
    ]
    assert seen[long] == seen["whitening"] | {"n_s": 5 * 2250} and seen[run_ex4.LAST] == seen["whitening"] | {"zca_last": True}
    assert seen[f"{long}, without: whitening"] == seen["without: whitening"] | {"n_s": 5 * 2250}
    assert [rung["below"] is more[0]["results"] for rung in more] == [False, True, True, False]


def test_changes_that_gain_only_together_are_taken_out_one_by_one():
    run_ex4, forwards, backwards, more, seen = climb(
        lambda c: 0.4 + (0.1 if c["zca"] and c["jitter"] and c["jitter"].get("s") else -0.1 * bool(c["zca"] or c["jitter"]))
    )
    assert [rung["name"] for rung in forwards if rung["kept"]] == [run_ex4.FIRST, "whitening with shifts"]
    assert [rung["name"] for rung in backwards] == ["without: shifts by up to 3", "without: whitening"]
    assert seen["without: whitening"] == run_ex4.START | {"jitter": {"s": 3}}
    assert all(rung["gain"] == pytest.approx(-0.2) for rung in backwards)


def test_eta_max_of_the_ladder_follows_the_momentum_and_not_the_name_of_the_change():
    """Nesterov's momentum is kept as well: without the first momentum the network still has it."""
    run_ex4, *_, seen = climb(lambda c: 0.4 + 0.1 * (c["momentum"] > 0) + 0.1 * (c["rule"] == "nesterov"))
    eta_max = run_ex4.START["eta_max"]
    names = ("momentum .9", "Nesterov's momentum", "without: momentum .9", "without: Nesterov's momentum")
    assert [seen[name]["eta_max"] for name in names] == [eta_max / 10] * 4
    assert [seen[name]["momentum"] for name in names] == [0.9] * 4 and seen[names[3]]["rule"] == "momentum"


def test_ladder_has_tables_and_figures_from_its_stored_results_alone(tmp_path, monkeypatch):
    """The last networks are averaged: over seeds, and over the ends of the cycles of one training."""
    run_ex4, opts = importlib.import_module("run_ex4"), options(tmp_path, "--smoke", "--seeds", "2", "--jobs", "1", "--quiet")
    changes = ("mirror images", "shifts by up to 3", "BN off")
    monkeypatch.setattr(run_ex4, "CHANGES", {name: run_ex4.CHANGES[name] for name in changes})
    results = run_ex4.train_ladder(data.load("shapes", small=True), opts)
    store.write_runs(tmp_path / "ladder", results)
    stored = store.read_runs(tmp_path / "ladder")
    tables = run_ex4.report_ladder(results, {})
    assert repr(run_ex4.report_ladder(stored, {})) == repr(tables)
    assert [[axes.get_title() for axes in make().axes] for make in run_ex4.figures_ladder(stored).values()][1] == [""]
    cycles = stored[run_ex4.CYCLES]
    assert (
        len({result["run"] for result in cycles}) == 5
        and cycles[0]["val_accuracy_mirror"] == cycles[0]["val_accuracy_ensemble"]
    )
    assert not any("test_accuracy" in result for of_row in results.values() for result in of_row)
    *_, mirrored, together = tables["ex4_ladder_more"]
    best = run_ex4.climb(lambda name, *_, **__: results[name])[2][0]["below"]
    assert mirrored["validation"][0] == pytest.approx(50 * sum(result["val_accuracy_mirror"] for result in best))
    assert together["validation"][0] == 100 * best[1]["val_accuracy_ensemble"]


def test_ensemble_is_the_mean_prediction_of_all_networks_so_far_and_of_their_mirror_images(tmp_path):
    run_ex4, opts = importlib.import_module("run_ex4"), options(tmp_path, "--smoke", "--seeds", "3", "--jobs", "1", "--quiet")
    raw = data.load("shapes", small=True)
    results = run_ex4.train(row("toy", hidden=[9], bn="before", zca=0.1, jitter={"share": 0.5}), raw, opts)["toy"]
    y, P = raw["test_labels"], 0
    for result in results:
        model = models.load(opts.store / "models" / f"{result['run']}.npz")
        X = training.standardise(raw["test_images"], model["mean"], model["sd"])
        mirrored = X.T.reshape(-1, *raw["shape"])[..., ::-1].reshape(X.T.shape).T
        alone, other = (kbn.forward(part, model["params"], model["stats"])[0] for part in (X, mirrored))
        P += alone + other
        for key, found in (("", alone), ("_mirror", alone + other), ("_ensemble", P)):
            assert result[f"test_accuracy{key}"] == pytest.approx((found.argmax(axis=0) == y).mean(), abs=0.002)
    with_val = {key for key in results[0] if key.startswith("val_accuracy")}
    assert with_val == {"val_accuracy", "val_accuracy_mirror", "val_accuracy_ensemble"}


def test_search_trains_the_best_third_longer(monkeypatch):
    run_ex4 = importlib.import_module("run_ex4")

    def train_runs(runs, raw, opts, **how):
        assert how["test"] is False  # validation selects
        about = {"diverged": "", "data": {"title": "noise", "note": ""}}
        return {runs[0][0]["name"]: [about | {"seed": seed, "config": row["config"], "val_accuracy": 1 - row["config"]["lam"]}
                                     for row, seed in runs]}  # fmt: skip

    monkeypatch.setattr(workers, "train_runs", train_runs)
    results = run_ex4.train_search(None, SimpleNamespace(quiet=True))
    lams = {name: [result["config"]["lam"] for result in mine] for name, mine in results.items()}
    first = sorted(lams["4 epochs"])
    assert len(set(first)) == 27 and (lams["12 epochs"], lams["36 epochs"]) == (first[:9], first[:3])
    assert {result["config"]["n_epochs"] for result in results["36 epochs"]} == {36}
    table = run_ex4.report_search(results, {})["ex4_search"]
    assert [line["lam"] for line in table] == [*first[:3], *first[:7]] and table[0]["trained for"] == "36 epochs"
    panels = run_ex4.figures_search(results)["ex4-search"]().axes
    assert [len(line.get_xdata()) for line in panels[0].get_lines()] == [27, 9, 3]


# -------------------------------------------------------------------------------- what single drivers train and report


def test_solver_places_the_reports_numbers_among_the_draws():
    run_solver = importlib.import_module("run_solver")
    errors = np.broadcast_to(np.array([1e-12, 1e-8, 1.0])[:, None, None], (3, 6, 2))
    named = run_solver.gradient_tables(np.array([[2.2, 9.0], [2.3, 8.0], [2.4, 7.0]]), errors)
    assert [line["its quantile"] for line in named["solver_losses"]] == ["0.333", "0.000"]
    assert [line["CS231n report"] for line in named["solver_losses"]] == ["2.29461318783", "6.71422109668"]
    lines = named["solver_gradients"]
    assert [(line["reg"], line["parameter"]) for line in lines[:2]] == [("0", "W1"), ("0", "W2")] and len(lines) == 12
    assert {line["its quantile"] for line in lines} == {"0.333", "0.667"}  # 1.31e-9 is below 1e-8, 1.4e-7 is not
    assert {(line["smallest"], line["median"], line["largest"]) for line in lines} == {("1.0e-12", "1.0e-08", "1.0e+00")}


def test_solver_draws_losses_and_errors_of_the_cs231n_notebook(monkeypatch):
    run_solver = importlib.import_module("run_solver")
    losses, errors = run_solver.draw_gradients(30)
    n_weights, sigma = 15 * 20 + 20 * 30 + 30 * 10, 0.05
    assert losses.mean(axis=0) == pytest.approx([np.log(10), np.log(10) + 3.14 / 2 * n_weights * sigma**2], rel=0.02)
    assert errors.shape == (30, 6, 2) and np.median(errors, axis=0).max() < 1e-5
    build = nets.build

    def wrong_build(specs, shape):
        net = build(specs, shape)
        right = net.backward
        net.backward = lambda *args: (grads := right(*args)) | {"b3": 1.1 * grads["b3"]}
        return net

    monkeypatch.setattr(nets, "build", wrong_build)
    _, wrong = run_solver.draw_gradients(3)
    np.testing.assert_allclose(wrong[:, 5], 0.1 / 2.1, rtol=1e-3)
    np.testing.assert_array_equal(wrong[:, :5], errors[:3, :5])


def test_solver_shows_last_and_best_epoch_beside_the_one_accuracy_that_the_report_prints(monkeypatch):
    run_solver = importlib.import_module("run_solver")
    monkeypatch.setattr(run_solver, "draw_gradients", partial(run_solver.draw_gradients, 2))
    history = {"val_accuracy": [0.5, 0.6, 0.55], "train_accuracy": [0.6, 0.7, 0.8]}
    result = {"val_accuracy": 0.55, "test_accuracy": 0.5, "diverged": "", "history": history, "data": {"files": "official"}}
    results = {row["name"]: [result | {"config": row["config"]}] for row in run_solver.ROWS + run_solver.SCALES}
    first, second = run_solver.report(results, {})["solver"]
    for column, percent in (("validation", 55), ("best validation", 60), ("best training", 80)):
        assert first[column][0] == pytest.approx(percent)
    assert [line["CS231n report, validation"] for line in (first, second)] == ["53.80", ""]
    assert "not in the report: 100 units, sigma 1e-3, split, last epoch" in first["setting"]


@pytest.mark.parametrize("options, printed", [([], "read from mnist_all.mat\n"), (["--quiet"], "")])
def test_mnist_says_which_file_was_read_unless_quiet(options, printed, monkeypatch, capsys):
    run_mnist = importlib.import_module("run_mnist")
    monkeypatch.setattr(workers, "train", lambda rows, raw, opts: {})
    opts = settings.options("", list(data.DATASETS), argv=options)
    run_mnist.train({"paths": [HOME / "mnist_all.mat"]}, opts)
    assert capsys.readouterr().out == printed
    run_mnist.train({"paths": []}, opts)  # a synthetic set
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bn, block", [("before", ["bn", "relu"]), ("after", ["relu", "bn"])])
def test_bn_of_the_fashion_cnn_stands_beside_the_relu_before_pooling(bn, block):
    run_fashion = importlib.import_module("run_fashion")
    [specs] = [row["config"]["specs"] for row in run_fashion.MODELS if row["name"] == f"CNN, BN {bn}"]
    steps = nets.steps_of(specs, (1, 28, 28))
    pooled = ["conv", *block, "max_pool"]
    assert [step.name for step in steps] == [*pooled, *pooled, "conv", *block, "flatten", "affine", *block, "affine"]
    assert [step.shape for step in steps if step.name == "bn"] == [(16, 28, 28), (32, 14, 14), (64, 7, 7), (128,)]
