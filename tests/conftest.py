"""What several of the tests use: the drivers as a person calls them, and a small set of data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import experiment

HOME = Path(experiment.__file__).parent
SMALL = ["--smoke", "--dataset", "shapes"]


def command(driver, *options):
    """How a driver, a script's name below the project, is called."""
    return [sys.executable, str(HOME / f"{driver}.py"), *map(str, options)]


def environment(**more):
    """This process's environment for a driver: the project's modules, one BLAS thread, nobody's data."""
    return {
        **{key: value for key, value in os.environ.items() if key != "KBN_DATA_DIR"},
        "PYTHONPATH": str(HOME),
        "OPENBLAS_NUM_THREADS": "1",
        **more,
    }


def call(driver, *options, cwd, env=(), **popen):
    """Run a driver in a folder that is not the project's. Returns the finished process, its output as text."""
    return subprocess.run(
        command(driver, *options), cwd=cwd, env=environment(**dict(env)), capture_output=True, text=True, timeout=200, **popen
    )


def small(out, *options, cwd, **popen):
    """Run tests/small.py with two seeds to its end, which must be a good one. Returns the finished process."""
    job = call("tests/small", *SMALL, "--seeds", 2, "--out", out, *options, cwd=cwd, **popen)
    assert job.returncode == 0 and "Traceback" not in job.stderr, job.stderr
    return job


def results_of(folder):
    """The result files below a folder, by name, less what may differ from run to run."""
    results = {path.name: json.loads(path.read_text()) for path in folder.rglob("runs/*.json")}
    for result in results.values():
        result.pop("duration_s", None)  # which a diverged run lacks
    return results


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder that tests/small.py leaves when nothing happens to it, one job."""
    out = tmp_path_factory.mktemp("undisturbed")
    small(out, "--jobs", 1, cwd=out)
    assert {path.suffix for path in out.rglob("runs/*")} == {".json"} and len(results_of(out)) == 6
    return out


@pytest.fixture
def toy():
    """A small learnable set: three classes, five dimensions."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    X = (rng.standard_normal((3, 5))[y] + rng.standard_normal((400, 5))).T
    return {"train": (X[:, :300], y[:300]), "val": (X[:, 300:350], y[300:350]), "test": (X[:, 350:], y[350:]), "input": {}}


def made_result(config, seed, scale, n, **more):
    """A small result, as experiment writes it, of n epochs whose curves are scale / epoch, with more in it."""
    t = np.arange(1, n + 1)
    names = [f"{part}_{what}" for part in ("train", "val") for what in ("cost", "loss", "accuracy")]
    epoch = {"t": (100 * t).tolist(), **{name: (scale / t + 0.01 * seed).tolist() for name in names}}
    update = {"t": [0, 1, 2], "eta": [0.0, 0.1, 0.0]}
    about = {"name": experiment.run_name(config, seed), "config": config, "seed": seed}
    return about | {"history": {"update": update, "epoch": epoch}} | more
