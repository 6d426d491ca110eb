"""What several test modules share: scripts called as a user calls them, options for calls in this process, and small data."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from lab import data, settings

HOME = settings.HOME
SMALL = ["--smoke", "--dataset", "shapes"]


def command(script, *options):
    """The command that runs a script, whose name is below the project."""
    return [sys.executable, str(HOME / script), *map(str, options)]


def environment(**more):
    """This process's environment for a script: it finds the project's modules and no data, and BLAS has one thread."""
    own = {name: value for name, value in os.environ.items() if name != "KBN_DATA_DIR"}
    return own | {"PYTHONPATH": str(HOME), "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"} | more


def call(script, *options, cwd, status=0, env=None, **popen):
    """Run a script in the folder cwd. Returns the finished process, whose status must be the given one."""
    job = subprocess.run(
        command(script, *options), cwd=cwd, env=environment(**env or {}), capture_output=True, text=True, timeout=300, **popen
    )
    assert job.returncode == status and "Traceback" not in job.stderr, job.stderr
    return job


def start(script, *options, cwd, env=None, **popen):
    """Start a script in the folder cwd. Returns the process; its output is text in pipes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(script, *options), cwd=cwd, env=environment(**env or {}), **pipes | popen)


def options(out, *more):
    """The options of a driver on the small synthetic set, for calls in this process. Its folders are made."""
    opts = settings.options("", list(data.DATASETS), argv=[*SMALL, "--jobs", "1", "--quiet", "--out", str(out), *more])
    opts.store = out / "results" / "shapes-smoke"
    for folder in ("runs", "models"):
        (opts.store / folder).mkdir(parents=True, exist_ok=True)
    return opts


def results_of(folder):
    """The stored results below a folder by the names of their files, without the seconds that they took and the digest."""
    results = {path.name: json.loads(path.read_text()) for path in folder.rglob("runs/*.json")}
    for result in results.values():
        del result["duration_s"], result["digest"]
    return results


def models_of(folder):
    """The arrays of the models below a folder, as bytes, by the names of their files."""
    models = {}
    for path in folder.rglob("models/*.npz"):
        with np.load(path) as file:
            models[path.name] = {name: (file[name].dtype, file[name].shape, file[name].tobytes()) for name in file.files}
    return models


@pytest.fixture(scope="session")
def raw():
    """The small synthetic set, as data.load returns it."""
    return data.load("shapes", small=True)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder in which tests/small.py has trained two seeds with one job, from beginning to end."""
    out = tmp_path_factory.mktemp("undisturbed")
    call("tests/small.py", *SMALL, "--seeds", 2, "--jobs", 1, "--out", out, cwd=out)
    return out
