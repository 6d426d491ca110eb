"""--cluster with a real Dask scheduler and workers on this machine's loopback."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import joblib
import pytest
from conftest import HOME, SMALL, call, environment, options, results_of, start

from lab import settings, store, workers
from lab.settings import UserError

distributed = pytest.importorskip("distributed", reason="the tests of --cluster need Dask: pip install 'dask[distributed]'")


def start_dask(role, folder, *options, **env):
    """Start a Dask scheduler or worker. Their common file in folder holds the scheduler's address."""
    command = [sys.executable, "-m", f"distributed.cli.dask_{role}", "--host", "127.0.0.1", "--no-dashboard", *options,
               "--scheduler-file", str(folder / "scheduler.json")]  # fmt: skip
    with (folder / f"{role}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment(**env), stdout=log, stderr=log)


@pytest.fixture
def cluster(request, tmp_path):
    """The address of a scheduler, and a function that starts a worker. A test's parameter is the scheduler's environment.

    The processes end with the test; the first is the scheduler.
    """
    folder = tmp_path / "dask"
    folder.mkdir()
    file = folder / "scheduler.json"
    processes = [start_dask("scheduler", folder, "--port", "0", **getattr(request, "param", {}))]

    def worker(**env):
        processes.append(start_dask("worker", folder, "--no-nanny", "--nthreads", "1", "--local-directory", str(folder), **env))

    while not (file.exists() and file.stat().st_size):
        assert processes[0].poll() is None
        time.sleep(0.05)
    yield json.loads(file.read_text())["address"], worker, processes
    for process in processes:
        process.kill()
        process.wait()


def driver(address, out, **popen):
    return start("tests/small.py", *SMALL, "--seeds", 2, "--cluster", address, "--out", out, cwd=out.parent, **popen)


def wait_for_checkpoints(job, out, n):
    """Wait until n runs of a driver have begun."""
    while len(list(out.rglob("runs/*.checkpoint"))) < n:
        assert job.poll() is None
        time.sleep(0.02)


def test_cluster_gives_bit_identical_results_although_a_worker_is_killed(cluster, undisturbed, tmp_path):
    address, worker, processes = cluster
    worker()
    worker()
    with distributed.Client(address) as client:
        client.wait_for_workers(2)
    job = driver(address, tmp_path / "out")
    wait_for_checkpoints(job, tmp_path / "out", 2)
    processes[-1].kill()
    stdout, stderr = job.communicate(timeout=300)
    assert job.returncode == 0 and stderr == "" and f"cluster {address}" in stdout, stderr
    assert results_of(tmp_path / "out") == results_of(undisturbed)


def test_scheduler_that_ends_is_one_line(cluster, tmp_path):
    address, worker, processes = cluster
    worker()
    job = driver(address, tmp_path / "out")
    wait_for_checkpoints(job, tmp_path / "out", 1)
    processes[0].kill()
    _, stderr = job.communicate(timeout=300)
    (line,) = stderr.splitlines()
    assert job.returncode == 1 and address in line and "was lost" in line and "the finished runs are kept" in line


@pytest.mark.parametrize("cluster", [{"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}], indirect=True, ids=["at once"])
def test_run_that_kills_its_worker_is_one_line(cluster, tmp_path):
    address, worker, _ = cluster
    worker()
    with pytest.raises(UserError, match="was lost"), workers.workers(options(tmp_path, "--cluster", address)) as parallel:
        list(parallel([joblib.delayed(os._exit)(1)]))


def test_run_that_diverges_on_a_worker_is_trained_once(cluster, tmp_path):
    address, worker, processes = cluster
    worker()

    def diverge():
        with open(tmp_path / "trained", "a") as file:
            file.write(f"by {os.getpid()}\n")
        raise FloatingPointError("training diverged")

    opts = options(tmp_path, "--cluster", address)
    with pytest.raises(FloatingPointError, match="diverged"), workers.workers(opts) as parallel:
        list(parallel([joblib.delayed(diverge)()]))
    assert (tmp_path / "trained").read_text() == f"by {processes[-1].pid}\n"


def test_worker_with_other_code_is_one_line(cluster, tmp_path):
    address, worker, _ = cluster
    other = tmp_path / "other"
    shutil.copytree(HOME / "lab", other / "lab")
    for path in HOME.glob("*.py"):
        shutil.copy(path, other)
    with (other / "kbn.py").open("a") as file:
        file.write("EPS = EPS + 0\n")
    worker(PYTHONPATH=str(other))
    (tmp_path / "out").mkdir()
    _, stderr = driver(address, tmp_path / "out").communicate(timeout=300)
    assert stderr.startswith("small.py: error: the worker on ") and "has other data, code or numpy" in stderr
    assert stderr.count("\n") == 1 and not results_of(tmp_path / "out")


def test_worker_without_the_project_is_one_line(cluster, tmp_path):
    address, worker, _ = cluster
    worker(PYTHONPATH="")
    with pytest.raises(UserError, match="No module named 'lab'"), workers.workers(options(tmp_path, "--cluster", address)):
        pass


@pytest.mark.parametrize("part", ["fingerprint", "order", "name", "code", "numpy"])
def test_worker_refuses_other_data_code_or_numpy(part, raw, tmp_path):
    key = store.key_of(settings.config(), 0, store.data_of(raw), True)
    where = key["data"] if part in key["data"] else key
    where[part] = "another"
    with pytest.raises(UserError, match="the worker on .* has other data, code or numpy"):
        workers.work(key, tmp_path / "run.json", ("shapes", None, True, 1000, 500, "each"), False)


def test_cluster_that_does_not_answer_or_has_no_worker_is_one_line(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "CLUSTER_TIMEOUT", 2)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        silent = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        for address in (cluster[0], silent, "nonsense", "http://127.0.0.1:1", "tcp://127.0.0.1:notaport"):
            opts = options(tmp_path, "--cluster", address)
            with pytest.raises(UserError, match=f"no cluster with a worker .* at {address}") as error, workers.workers(opts):
                pass
            assert "\n" not in str(error.value)


def test_without_dask_the_message_says_how_to_install_it(tmp_path):
    (tmp_path / "distributed.py").write_text("raise ImportError")
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{HOME}"}
    job = call("tests/small.py", *SMALL, "--cluster", "tcp://127.0.0.1:1", "--out", tmp_path, cwd=tmp_path, env=env, status=1)
    assert job.stderr.count("\n") == 1 and "pip install 'dask[distributed]'" in job.stderr
