"""--cluster, against a real Dask scheduler and its workers, on this machine's loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import joblib
import pytest
from conftest import HOME, SMALL, call, command, environment, results_of, small

import datasets
import experiment

pytest.importorskip("distributed", reason="the tests of --cluster need Dask: pip install 'dask[distributed]'")
SOON = {"CLUSTER_TIMEOUT": "2"}
LOCAL = ["--host", "127.0.0.1", "--no-dashboard"]


def start(role, folder, *options, **env):
    """Start a Dask scheduler or worker. Their common file in folder says where they are to be found."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            f"distributed.cli.dask_{role}",
            *LOCAL,
            *options,
            "--scheduler-file",
            str(folder / "scheduler.json"),
        ],
        cwd=folder,
        env=environment(**env),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=(folder / f"{role}.log").open("ab"),
    )


def start_worker(folder, **env):
    return start("worker", folder, "--no-nanny", "--nthreads", "1", "--local-directory", str(folder), **env)


def address_in(scheduler_file, patience=60):
    """The address that the scheduler writes. The file is there, empty, a moment before it."""
    deadline = time.monotonic() + patience
    while not (scheduler_file.exists() and scheduler_file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    return json.loads(scheduler_file.read_text())["address"]


@pytest.fixture
def cluster(request, tmp_path):
    """A scheduler without workers: its address, its folder, and the list of processes that die with the test.

    A test's parameter is the scheduler's environment.
    """
    folder = tmp_path / "dask"
    folder.mkdir()
    processes = [start("scheduler", folder, "--port", "0", **getattr(request, "param", {}))]
    yield address_in(folder / "scheduler.json"), folder, processes
    for process in processes:
        process.kill()
        process.wait()


def one_line(job, status=1):
    """The last line of a driver that failed as it should: nothing trained, no traceback."""
    assert job.returncode == status and "Traceback" not in job.stderr, job.stderr
    assert "accuracy in %" not in job.stdout
    return job.stderr.splitlines()[-1]


def test_a_cluster_gives_the_same_to_the_bit(cluster, undisturbed, tmp_path):
    address, folder, processes = cluster
    processes += [start_worker(folder), start_worker(folder)]
    far = small(tmp_path / "out", "--cluster", address, cwd=tmp_path)
    assert results_of(tmp_path / "out") == results_of(undisturbed)
    assert f"cluster {address}" in far.stdout


def test_a_killed_worker_costs_no_result(cluster, undisturbed, tmp_path):
    address, folder, processes = cluster
    processes += [start_worker(folder), start_worker(folder)]
    out = tmp_path / "out"
    job = subprocess.Popen(
        command("tests/small", *SMALL, "--seeds", 2, "--cluster", address, "--out", out),
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while len(list(out.rglob("runs/*.checkpoint"))) < 2:
        assert job.poll() is None
        time.sleep(0.05)
    os.kill(processes[-1].pid, signal.SIGKILL)
    _, stderr = job.communicate(timeout=100)
    assert job.returncode == 0 and "Traceback" not in stderr, stderr
    assert results_of(out) == results_of(undisturbed)


@pytest.mark.parametrize("cluster", [{"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}], indirect=True, ids=["at once"])
def test_a_run_that_kills_its_workers_is_said_in_one_line(cluster):
    address, folder, processes = cluster
    processes.append(start_worker(folder))
    with (
        pytest.raises(experiment.ClusterError, match="was lost"),
        experiment.workers(experiment.options("", ["--cluster", address])) as parallel,
    ):
        list(parallel([joblib.delayed(os._exit)(1)]))


def test_a_run_that_diverges_on_a_worker_is_trained_once(cluster, tmp_path):
    address, folder, processes = cluster
    processes.append(start_worker(folder))

    def diverge():
        with open(tmp_path / "trained", "a") as file:
            file.write("once\n")
        raise FloatingPointError("training diverged")

    with (
        pytest.raises(FloatingPointError, match="training diverged"),
        experiment.workers(experiment.options("", ["--cluster", address])) as parallel,
    ):
        list(parallel([joblib.delayed(diverge)()]))
    assert (tmp_path / "trained").read_text() == "once\n"


@pytest.mark.parametrize("what", ["dataset", "code"])
def test_a_worker_refuses_to_train_with_another(what):
    about = experiment.provenance(datasets.load("shapes", small=True))
    with pytest.raises(experiment.ClusterError, match=f"another {what}"):
        experiment.split_on_worker("shapes", None, True, json.dumps(about | {what: "another"}), 1000, 500, "each")


def test_a_cluster_of_one_core_trains_there_and_not_here(cluster, tmp_path):
    address, folder, processes = cluster
    processes.append(start_worker(folder))
    with experiment.workers(experiment.options("", ["--cluster", address])) as parallel:
        assert set(parallel([joblib.delayed(os.getpid)() for _ in range(3)])) == {processes[-1].pid}


def test_a_cluster_that_is_lost_is_said_in_one_line(cluster, tmp_path):
    address, folder, processes = cluster
    processes.append(start_worker(folder))
    out = tmp_path / "out"
    job = subprocess.Popen(
        command("tests/small", *SMALL, "--quiet", "--cluster", address, "--out", out),
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not list(out.rglob("runs/*.checkpoint")):
        assert job.poll() is None
        time.sleep(0.05)
    processes[0].kill()
    stdout, stderr = job.communicate(timeout=60)
    assert job.returncode == 1 and stdout == ""
    (line,) = stderr.splitlines()
    assert address in line and "the finished runs are kept" in line


def test_a_worker_without_the_project_is_said_in_one_line(cluster, tmp_path):
    address, folder, processes = cluster
    processes.append(start_worker(folder, PYTHONPATH=""))
    job = call("tests/small", *SMALL, "--cluster", address, "--out", tmp_path / "out", cwd=tmp_path)
    assert "No module named 'experiment'" in one_line(job)


def test_nobody_at_the_address(tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        job = call("tests/small", *SMALL, "--cluster", address, "--out", tmp_path, cwd=tmp_path, env=SOON)
    assert address in one_line(job) and "no cluster with a worker" in job.stderr


def test_a_scheduler_without_workers(cluster, tmp_path):
    job = call("tests/small", *SMALL, "--cluster", cluster[0], "--out", tmp_path / "out", cwd=tmp_path, env=SOON)
    assert cluster[0] in one_line(job) and "no cluster with a worker" in job.stderr


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:1", "tcp://127.0.0.1:notaport"])
def test_what_is_no_address(address, tmp_path):
    job = call("tests/small", *SMALL, "--cluster", address, "--out", tmp_path, cwd=tmp_path)
    assert address in one_line(job)


def test_an_empty_address(tmp_path):
    assert "--cluster" in one_line(call("tests/small", *SMALL, "--cluster", "", "--out", tmp_path, cwd=tmp_path), status=2)


def test_a_worker_with_other_code_is_refused(cluster, tmp_path):
    address, folder, processes = cluster
    other = tmp_path / "other"
    other.mkdir()
    for module in HOME.glob("*.py"):
        (other / module.name).write_text(module.read_text(encoding="utf-8"), encoding="utf-8")
    with open(other / "kbn.py", "a", encoding="utf-8") as kbn:
        kbn.write("EPS = EPS + 0\n")
    processes.append(start_worker(folder, PYTHONPATH=str(other)))
    job = call("tests/small", *SMALL, "--cluster", address, "--out", tmp_path / "out", cwd=tmp_path)
    assert "another code" in one_line(job) and not results_of(tmp_path / "out")


def test_without_dask_the_message_says_how_to_get_it(tmp_path):
    (tmp_path / "distributed.py").write_text("raise ImportError")
    job = call(
        "tests/small",
        *SMALL,
        "--cluster",
        "tcp://127.0.0.1:1",
        "--out",
        tmp_path,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{HOME}"},
    )
    assert "pip install 'dask[distributed]'" in one_line(job)
