"""The published results agree with the tables of the first version, and the published files stay small."""

import csv
import gzip
import json
import subprocess
from collections import defaultdict

import numpy as np
import pytest

from lab.settings import HOME
from lab.tables import summary

PUBLISHED = HOME / "results" / "published"
EXPERIMENTS = ["ex2", "ex3", "sensitivity", "solver", "mnist", "fashion"]
QUANTITIES = {  # a column of the first version's tables: its value for one run
    "validation": lambda run: 100 * run["val_accuracy"],
    "test": lambda run: 100 * run["test_accuracy"],
    "test, whole training set": lambda run: 100 * run["test_accuracy_dataset"],
    "difference": lambda run: 100 * (run["test_accuracy_dataset"] - run["test_accuracy"]),
    "training - test": lambda run: 100 * (run["train_accuracy"] - run["test_accuracy"]),
    "best validation": lambda run: 100 * max(run["history"].get("val_accuracy", [0.1])),  # 0.1: a diverged run
    "best training": lambda run: 100 * max(run["history"].get("train_accuracy", [0.1])),
    "seconds per epoch": lambda run: run["duration_s"] / len(run["history"]["t"]),
    "epochs to 85 %": lambda run: 1 + np.argmax(np.array(run["history"]["val_accuracy"]) >= 0.85),
    "lambda": lambda run: run["config"]["lam"],
}
PRINTED = ["seconds per epoch", "epochs to 85 %"]  # the first version kept one decimal


def published_runs(experiment):
    """Runs by the name of their row; a trial of the search also by its own name, without the hash."""
    with gzip.open(PUBLISHED / f"{experiment}_histories.json.gz", "rt") as file:
        histories = json.load(file)
    groups = defaultdict(list)
    with open(PUBLISHED / f"{experiment}_runs.csv", newline="", encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            measured = [name for name in cells if cells[name] and name.endswith(("accuracy", "dataset", "_s"))]
            run = cells | {name: float(cells[name]) for name in measured}
            run |= {"config": json.loads(cells["config"]), "history": histories[cells["run"]]["history"]}
            for name in (run["row"], run["run"].rpartition("-")[0]):
                groups[name].append(run)
    if experiment == "ex3":
        trials = [run for stage in ("coarse", "fine 1", "fine 2") for run in groups[stage]]
        searches = [[trial for trial in trials if trial["seed"] == seed] for seed in "01234"]
        groups["best of 20 trials"] = [max(search, key=lambda trial: trial["val_accuracy"]) for search in searches]
    return groups


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_published_runs_give_the_tables_of_the_first_version(experiment):
    groups = published_runs(experiment)
    with open(HOME / "tests" / "first_version.csv", newline="", encoding="utf-8") as file:
        table = [row for row in csv.DictReader(file) if row["experiment"] == experiment]
    for row in table:
        runs, place = groups[row["row"]], f"{row['row']}: {row['column']}"
        assert runs, f"no published run of {row['row']}"
        if row["column"] == "diverged":
            assert sum(bool(run["diverged"]) for run in runs) == int(row["mean"]), place
            continue
        found = summary([QUANTITIES[row["column"]](run) for run in runs])
        for value, cell in zip(found, (row["mean"], row["sd"], row["n"])):
            tolerance = {"abs": 0.05} if row["column"] in PRINTED else {"rel": 1e-9}
            assert cell == "" or value == pytest.approx(float(cell), **tolerance), place
    if experiment == "ex3":
        longer = groups["best lambda, 3 cycles"]
        assert [run["config"]["lam"] for run in longer] == [run["config"]["lam"] for run in groups["best of 20 trials"]]


def test_tracked_results_and_figures_are_small():
    command = ["git", "-C", HOME, "ls-files", "-z", "results", "figures"]
    listing = subprocess.run(command, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    sizes = {name: (HOME / name).stat().st_size for name in listing.stdout.split("\0") if name and (HOME / name).exists()}
    assert not {name: size for name, size in sizes.items() if size > 2 * 2**20}
    published = [path for folder in ("results", "figures") for path in (HOME / folder / "published").rglob("*")]
    assert sum(path.stat().st_size for path in published) < 10 * 2**20
