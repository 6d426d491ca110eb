"""Many runs side by side, on this machine's cores or on a Dask cluster. What is finished is not trained again."""

import atexit
import contextlib
import functools
import logging
import os
import platform
import signal
import tempfile
import threading
import time
import warnings
from concurrent.futures import BrokenExecutor
from pathlib import Path

import joblib
from joblib.externals.loky.backend import resource_tracker
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from lab import data, models, settings, store, training
from lab.settings import UserError

CLUSTER_TIMEOUT = 20  # seconds until a cluster must have answered
# glibc: workers keep the memory of large arrays for the next update; new pages would cost a convolution a third of its time
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


def train(rows, raw, opts, **how):
    """Train every row (see settings.row) with the seeds of opts. Returns {row name: [result, ...]}. how: see train_runs."""
    names = [row["name"] for row in rows]
    if len(set(names)) < len(names):
        raise UserError(f"two rows have the same name, {max(names, key=names.count)!r}: give each row a name of its own")
    return train_runs([(row, seed) for row in rows for seed in range(opts.seeds)], raw, opts, **how)


def train_runs(runs, raw, opts, *, test=True, may_diverge=False, keep=None):
    """Train runs, pairs (row, seed), as many at a time as there are jobs, unless their results are there already.

    raw: see data.load. test, may_diverge: see training.run. keep: whether trained networks are kept, by default if the test set
    is used. Returns {row name: [result, ...]} in the order of runs.
    """
    about, jobs = store.data_of(raw), []
    for row, seed in runs:
        config = settings.smoke(row["config"]) if opts.smoke else row["config"]
        key = store.key_of(config, seed, about, test)
        path = opts.store / "runs" / f"{store.run_name(row['name'], key)}.json"
        label = f"{row['name']} ({row['setting']}), seed {seed}" if row["setting"] else f"{row['name']}, seed {seed}"
        jobs.append(
            {"row": row["name"], "label": label, "key": key, "path": path, "checkpoint": path.with_suffix(".checkpoint")}
        )
    for job in jobs:
        job["result"] = None if opts.fresh else store.read_result(job["path"], job["key"])
    left = {job["path"]: job for job in jobs if not job["result"]}
    if len(left) < len(jobs) and not opts.quiet:
        print(f"{len(jobs) - len(left)} of {len(jobs)} runs have results already; --fresh trains them again", flush=True)
    with progress(len(left), opts) as finished:
        for part in dict.fromkeys(division(job["key"]["config"]) for job in left.values()):
            tasks = [job for job in left.values() if division(job["key"]["config"]) == part]
            for job in tasks if opts.fresh else []:
                job["checkpoint"].unlink(missing_ok=True)
            source = source_of(raw, part, opts)
            with workers(opts) as parallel:
                calls = [joblib.delayed(work)(job["key"], job["path"], source, may_diverge) for job in tasks]
                with sigint_ignored():
                    outcomes = parallel(calls)
                for path, result, model in outcomes:
                    keep_result(left[path], result, model if keep or test and keep is None else None, raw, opts)
                    finished(left[path])
    about = {"data": about, "code": store.code_version()}
    results = {}
    for job in jobs:
        names = {"run": job["path"].stem, "row": job["row"], "seed": job["key"]["seed"], "config": job["key"]["config"]}
        result = job["result"] or left[job["path"]]["result"]  # of the same run, if a run is asked for twice
        results.setdefault(job["row"], []).append(names | about | result)
    return results


@contextlib.contextmanager
def sigint_ignored():
    """Ignore Ctrl-C for a moment, and for ever in the processes that start in it: workers leave it to the driver."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def division(config):
    """Return the arguments of training.split that a config asks for."""
    return config["n_train"], config["n_val"], config["scale"], config["split_seed"], config["zca"], config["zca_last"]


def source_of(raw, division, opts):
    """Return what work needs to find its data: the split, memory-mapped for several jobs, or the arguments of split_on_worker.

    The split is held until another is asked for, since a driver may train in many turns.
    """
    if opts.cluster:
        return raw["name"], opts.data_dir, opts.smoke, *division
    if held.get("raw") is not raw or held["division"] != division or held["jobs"] != opts.jobs:
        release()
        split = training.split(raw, *division)
        held.update(raw=raw, division=division, jobs=opts.jobs, source=split if opts.jobs == 1 else shared(split))
    return held["source"]


held = {}  # the last split, what it was made of, and the folder that shares it


def shared(split):
    """Return the same split memory-mapped. joblib's resource tracker removes the file even if this process is killed."""
    held["folder"] = tempfile.mkdtemp(prefix="kbn-")
    resource_tracker.register(held["folder"], "folder")
    joblib.dump(split, Path(held["folder"], "split"))
    return joblib.load(Path(held["folder"], "split"), mmap_mode="r")


@atexit.register
def release():
    """Let the last split go."""
    if "folder" in held:
        resource_tracker.maybe_unlink(held["folder"], "folder")  # the tracker removes it
    held.clear()


def work(key, path, source, may_diverge):
    """Train one run in a worker. source: what training.split returns, or the arguments of split_on_worker.

    Returns path, the result and the model. Raises FloatingPointError, naming the run, if training diverges.
    """
    split = source if isinstance(source, dict) else split_on_worker(*source)
    here = split.get("key")
    if here and here != {name: key[name] for name in here}:
        raise UserError(f"the worker on {platform.node()} has other data, code or numpy: {here}")
    checkpoint, start = path.with_suffix(".checkpoint"), time.perf_counter()
    state = store.read_checkpoint(checkpoint, key)
    earlier = state.pop("duration_s") if state else 0.0

    def keep(state):
        if path.parent.is_dir():  # a cluster's worker may not see the driver's folder
            store.write_checkpoint(checkpoint, key, state, earlier + time.perf_counter() - start)

    with threadpool_limits(1):
        try:
            result, model = training.run(
                key["config"], key["seed"], split, test=key["test"], may_diverge=may_diverge, state=state, keep=keep
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"{path.stem}: {error}") from None
    if model:
        model |= {"mean": split["mean"], "sd": split["sd"]}
    history = {name: [float(f"{x:.6g}") for x in column] for name, column in result["history"].items()}
    about = {"duration_s": round(earlier + result["duration_s"], 2), "versions": store.versions()}
    return path, result | about | {"history": history}, model


@functools.lru_cache(maxsize=1)
def split_on_worker(name, data_dir, small, *division):
    """Load and split a dataset on a cluster's worker; "key" is what the driver's key must say of data and code."""
    raw = data.load(name, data_dir, small)
    key = store.key_of(None, None, store.data_of(raw), None)
    return training.split(raw, *division) | {"key": {name: key[name] for name in ("data", "code", "numpy")}}


def keep_result(job, result, model, raw, opts):
    """Write a result, and the model and its snapshots unless model is None, and remove the checkpoint."""
    if model:
        config, snapshots = job["key"]["config"], model.pop("snapshots")
        about = {"classes": raw["classes"], "shape": raw["shape"], "specs": config["specs"], "loss": config["loss"]}
        folder, stem = opts.store / "models", job["path"].stem
        models.save(folder / f"{stem}.npz", **model, **about)
        for i, snapshot in enumerate(snapshots, start=1):
            models.save(folder / f"{stem}-cycle{i}.npz", **model | snapshot, **about)
    store.write_result(job["path"], job["key"], result)
    job["result"] = result
    job["checkpoint"].unlink(missing_ok=True)


@contextlib.contextmanager
def progress(total, opts):
    """Show a bar, or without a terminal a line for each run. Yields finished(job), to be called after each run."""
    with tqdm(total=total, unit="run", dynamic_ncols=True, disable=True if opts.quiet or not total else None) as bar:

        def finished(job):
            line = f"{job['label']}: validation {100 * job['result']['val_accuracy']:.2f} %"
            bar.set_postfix_str(line, refresh=False)
            bar.update()
            finished.n += 1
            if bar.disable and not opts.quiet:
                print(f"{finished.n} of {total}: {line}, {job['result']['duration_s']:.0f} s", flush=True)

        finished.n = 0
        yield finished


@contextlib.contextmanager
def workers(opts):
    """Yield a function that runs joblib.delayed calls and yields their results in order of completion.

    Raises UserError if Dask is not installed, or if the cluster does not answer, has no usable worker, or is lost.
    """
    if not opts.cluster:
        os.environ.update(KEEP_MEMORY)
        warnings.filterwarnings("ignore", ".*still being processed", UserWarning)  # joblib's word on an interruption
        watched = {"initializer": end_with, "initargs": (os.getpid(),)} if opts.jobs > 1 else {}
        try:
            yield joblib.Parallel(opts.jobs, return_as="generator_unordered", batch_size=1, temp_folder=tempfile.gettempdir(),
                                  **watched)  # fmt: skip
        except BrokenExecutor:
            raise UserError("a worker process was killed, perhaps for lack of memory; the finished runs are kept. Run "
                            "the same command again to continue; fewer --jobs need less memory") from None  # fmt: skip
        return
    try:
        from distributed import CancelledError, Client, KilledWorker, as_completed
    except ImportError:
        raise UserError("--cluster needs Dask: pip install 'dask[distributed]'") from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters comes as an exception
    try:
        client = Client(opts.cluster, timeout=CLUSTER_TIMEOUT)
        client.wait_for_workers(1, timeout=CLUSTER_TIMEOUT)
        client.run(exec, "import lab.workers")  # a worker without this project would never answer
    except (OSError, ValueError, TimeoutError, ImportError, AssertionError) as error:  # the last: Dask's loop did not start
        raise UserError(
            f"no cluster with a worker for this project at {opts.cluster} "
            f"({' '.join(str(error).split()) or type(error).__name__}); docs/cluster.md says how to start one"
        ) from None
    try:
        with client:  # joblib's own backend for Dask would wait forever for a run that Dask has given up
            yield lambda calls: (
                future.result()
                for future in as_completed(
                    [client.submit(function, *args, **named, pure=False) for function, args, named in calls]
                )
            )
    except (CancelledError, KilledWorker) as error:
        raise UserError(
            f"the cluster at {opts.cluster} was lost ({' '.join(str(error).split())}); the finished runs are kept"
        ) from None


def end_with(driver):
    """End this worker process when its parent has exited for any reason; joblib would leave it waiting."""

    def watch():
        while os.getppid() == driver:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
