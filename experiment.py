"""What all drivers share: options, many runs side by side, results on disk, tables.

    lab = open_lab(options(__doc__), 5)                      # the dataset, the folders, the bar for 5 runs a seed
    results = train_all_seeds(lab, [config(hidden=[50])])    # for each config the list of its results, one a seed
    write_table(lab, "name", rows)                           # screen, results/<dataset>/name.csv and .md

A run is one config and one seed. Its result is a JSON file in results/<dataset>/runs whose name comes from the config,
written the moment the run ends; what is there already (same config, seed, data, code) is not trained again. A run leaves
a checkpoint after each epoch, and goes on from it where it was stopped, to the same end to the bit.
"""
import argparse
import ast
import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

import datasets
import kbn
import progress
import tables

HOME = Path(__file__).resolve().parent
NET = {"hidden": [50, 50], "batch_norm": False, "sigma": None, "n_train": 45_000, "n_val": 5_000}
SMOKE = {"n_train": 1_000, "n_val": 500, "n_s": 20}
CLUSTER_TIMEOUT = 20  # seconds
POINTS = 360  # a result file keeps about this many means over the updates, not every update


class ClusterError(Exception):
    """The Dask cluster cannot be used. One line: why, what to do."""


def config(**changes):
    """One run's whole setting: NET and kbn.DEFAULTS, with changes. Raises ValueError for a name in neither."""
    default = {**NET, **kbn.DEFAULTS}
    unknown = changes.keys() - default.keys()
    if unknown:
        raise ValueError(f"unknown in a config: {', '.join(unknown)}; there are {', '.join(default)}")
    return {**default, **changes}


# ----------------------------------------------------------------------------------------------------------- options

def at_least_one(text):
    """The integer that an option was given, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def options(doc, argv=None):
    """Parse the options common to all drivers. doc is the driver's docstring, shown by --help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--dataset", choices=list(datasets.DATASETS),
                        help="default: cifar10, or the built-in synthetic shapes where that cannot be had")
    parser.add_argument("--data-dir", metavar="DIR",
                        help="folder with the official files (default: $KBN_DATA_DIR, else they are downloaded once)")
    parser.add_argument("--seeds", type=at_least_one, default=1, metavar="N",
                        help="train every net with seeds 0 .. N-1 (default 1)")
    parser.add_argument("--jobs", type=at_least_one, default=joblib.cpu_count(), metavar="N",
                        help="runs side by side, one core each (default: all cores, here %(default)s)")
    parser.add_argument("--cluster", metavar="ADDRESS",
                        help="train on a Dask cluster instead, given its scheduler's address, tcp://host:8786")
    parser.add_argument("--smoke", action="store_true",
                        help="everything on a small part of the data in under 30 s, into folders of its own")
    parser.add_argument("--fresh", action="store_true", help="train again what is already in the results")
    parser.add_argument("--quiet", action="store_true", help="print the tables and errors only")
    parser.add_argument("--out", metavar="DIR", default=HOME, type=Path,
                        help="where results/ and figures/ are written (default: beside the scripts)")
    opts = parser.parse_args(argv)
    if opts.cluster == "":
        parser.error("argument --cluster: an address must be given, such as tcp://host:8786")
    return opts


def guarded(main):
    """Run a driver's main() for the command line: what a user can mend is one line on stderr and exit status 1."""
    name = Path(sys.argv[0]).name
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (datasets.DataError, ClusterError, FloatingPointError) as error:
        sys.exit(f"{name}: error: {error}")
    except OSError as error:
        sys.exit(f"{name}: error: {error}; the finished runs are kept")
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the finished runs are kept, and the same command goes on from there",
              file=sys.stderr)
        sys.exit(130)


# --------------------------------------------------------------------------------------------------------------- lab

def open_lab(opts, runs_a_seed):
    """Load the dataset, make the folders, start the progress bar.

    Where no dataset is asked for and CIFAR-10 cannot be had, it is the synthetic set, and says so.
    Returns a dict: opts, raw (see datasets.load), title, results and figures (folders), split, bar.
    Raises DataError, and OSError for an output folder that cannot be written to.
    """
    name = opts.dataset or "cifar10"
    try:
        raw = datasets.load(name, opts.data_dir, opts.smoke)
    except datasets.Unavailable as error:
        if opts.dataset:
            raise
        print(f"{error}\nSo everything below is on the built-in synthetic set 'shapes', NOT on CIFAR-10.", file=sys.stderr)
        raw = datasets.load("shapes", small=opts.smoke)
    label, title = raw["name"], raw["title"]
    if opts.smoke:
        label, title = f"{label}-smoke", f"{title}, smoke test"
    lab = {"opts": opts, "raw": raw, "title": title, "split": (None, None),
           "results": opts.out / "results" / label, "figures": opts.out / "figures" / label}
    for folder in (lab["results"] / "runs", lab["results"] / "models", lab["figures"]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise OSError(f"{folder}: nothing can be written there ({error.strerror}); name a folder with --out") from None
        tables.clear_scratch(folder)
    if not opts.quiet:
        print(f"{title}: {len(raw['labels'])} training and {len(raw['test_labels'])} test images, {opts.seeds} seed(s), "
              + (f"cluster {opts.cluster}" if opts.cluster else f"{opts.jobs} job(s)"))
    return lab | {"bar": progress.bar(runs_a_seed * opts.seeds, opts.quiet)}


def provenance(raw):
    """What a result depends on beside its config and seed: the data, the code of kbn.py, and the versions."""
    return {"dataset": {"name": raw["name"], "fingerprint": raw["fingerprint"], "classes": len(raw["classes"])},
            "code": code_version(HOME / "kbn.py"),
            "versions": {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}}


def code_version(path):
    """A short hash of a module's code, which neither comments nor docstrings change."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


def arrays_of(raw, n_train, n_val):
    """What a run needs of a dataset: train, val and test, each (X, y), and input, what a saved model says of its input."""
    data = datasets.split(raw, n_train, n_val)
    return {part: data[part] for part in ("train", "val", "test")} | {
        "input": {"mean": data["mean"], "sd": data["sd"], "classes": np.array(raw["classes"]), "shape": np.array(raw["shape"])}}


def split(lab, n_train, n_val):
    """arrays_of the lab's data, memory-mapped from a temporary file where several processes are to read them.

    The lab keeps the last split only: it is most of a driver's memory.
    """
    if lab["split"][0] != (n_train, n_val):
        lab["split"] = (None, None)
        data = arrays_of(lab["raw"], n_train, n_val)
        if lab["opts"].jobs > 1:
            clear_splits()
            lab["scratch"] = tempfile.TemporaryDirectory(prefix=f"kbn-{platform.node()}-{os.getpid()}-")
            path = Path(lab["scratch"].name, "split")
            joblib.dump(data, path)
            data = joblib.load(path, mmap_mode="r")
        lab["split"] = ((n_train, n_val), data)
    return lab["split"][1]


def clear_splits():
    """Remove the temporary files of split that drivers of this machine left behind when they were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"kbn-{platform.node()}-*-*"):
        try:
            os.kill(int(folder.name.split("-")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):
            pass  # another's


@functools.lru_cache(maxsize=1)
def split_on_worker(name, data_dir, small, n_train, n_val, about):
    """arrays_of a dataset that a cluster's worker loads for itself; about, JSON, says which data and code they must be.

    Raises ClusterError where the worker has others.
    """
    raw = datasets.load(name, data_dir, small)
    ours, theirs = provenance(raw), json.loads(about)
    for what in ("dataset", "code"):
        if ours[what] != theirs[what]:
            raise ClusterError(f"the worker on {platform.node()} has another {what}: {ours[what]}, not {theirs[what]}")
    return arrays_of(raw, n_train, n_val)


# -------------------------------------------------------------------------------------------------------------- runs

def run_name(config, seed):
    """The name of a run: the hidden nodes, bn, every value that is not the default, the seed."""
    default = {**NET, **kbn.DEFAULTS}
    others = [f"{key}={value if isinstance(value, str) else f'{value:.6g}'}" for key, value in config.items()
              if value != default[key] and key not in ("hidden", "batch_norm")]
    return "_".join(["-".join(map(str, config["hidden"])), *["bn"] * config["batch_norm"], *others, f"seed={seed}"])


def run(config, seed, source, about, path, test):
    """Train one net. Returns path, where its result belongs, the result, and the model as the bytes of kbn.save.

    source: what arrays_of returns, or the arguments of split_on_worker. test: whether to measure the test set, too.
    The result: config, seed, about, val_accuracy, test_accuracy, duration_s, history (see kbn.minibatch_gd; that of
    the updates thinned). Raises FloatingPointError, naming the run, where training diverges.
    """
    data = source if isinstance(source, dict) else split_on_worker(*source)
    train_, val, test_ = (tuple(map(np.asarray, data[part])) for part in ("train", "val", "test"))
    rng, hp = np.random.default_rng(seed), {key: config[key] for key in kbn.DEFAULTS}
    key = {"config": config, "seed": seed, "dataset": about["dataset"], "code": about["code"]}
    checkpoint, start = checkpoint_of(path), time.perf_counter()
    with threadpool_limits(1):
        dims = [len(train_[0]), *config["hidden"], about["dataset"]["classes"]]
        params = kbn.init_params(dims, rng, config["batch_norm"], config["sigma"])
        state = read_checkpoint(checkpoint, key)
        earlier = state.pop("duration_s") if state else 0.0

        def keep(state):
            if path.parent.is_dir():
                write_checkpoint(checkpoint, key, state, earlier + time.perf_counter() - start)

        try:
            params, stats, history = kbn.minibatch_gd(train_, val, params, hp, rng, keep, state)
        except FloatingPointError as error:
            raise FloatingPointError(f"{path.stem}: {error}") from None
        result = {"config": config, "seed": seed, **about, "val_accuracy": history["epoch"]["val_accuracy"][-1]}
        if test:
            result["test_accuracy"] = kbn.accuracy(*test_, params, stats, hp["eps"], hp["bn"])
    history = {"update": thin(history["update"]), "epoch": history["epoch"]}
    history = {part: {name: [float(f"{x:.6g}") for x in column] for name, column in columns.items()}
               for part, columns in history.items()}
    result |= {"duration_s": round(earlier + time.perf_counter() - start, 2), "history": history}
    model = io.BytesIO()
    kbn.save(model, params, stats, hp, **data["input"])
    return path, result, model.getvalue()


def thin(columns):
    """The means of equal runs of updates, about POINTS of them; those of the updates' numbers are added as t."""
    columns = {"t": list(range(len(columns["eta"]))), **columns}
    every = max(1, len(columns["t"]) // POINTS)
    return {name: [np.mean(column[i:i + every]) for i in range(0, len(column), every)] for name, column in columns.items()}


def checkpoint_of(path):
    """Where the run that will write its result to path keeps its checkpoint."""
    return path.with_suffix(".checkpoint")


def write_checkpoint(path, key, state, duration_s):
    """Write the state that minibatch_gd gives its callback; key says of which run, duration_s how long it took so far."""
    bags = {**{bag: state[bag] for bag in ("params", "stats", "memory")}, **state["history"]}
    arrays = {f"{bag}.{name}": np.array(array) for bag, arrays in bags.items() for name, array in arrays.items()}
    words = {"key": key, "t": state["t"], "rng": state["rng"], "duration_s": duration_s, "arrays": list(arrays)}
    file = io.BytesIO()
    np.savez(file, words=np.array(json.dumps(words)), **arrays)
    tables.write(path, file.getvalue())


def read_checkpoint(path, key):
    """The state in a checkpoint of the same run, with duration_s, or None. One that is damaged or another's is named."""
    try:
        with np.load(path, allow_pickle=False) as file:
            state = json.loads(file["words"].item())
            bags = {"params": {}, "stats": {}, "memory": {}, "update": {}, "epoch": {}}
            for name in state.pop("arrays"):
                bag, array = name.split(".")
                bags[bag][array] = file[name].tolist() if bag in ("update", "epoch") else file[name]
        if state.pop("key") == key:
            history = {"update": bags.pop("update"), "epoch": bags.pop("epoch")}
            return state | bags | {"history": history}
        why = "is of another config, dataset or code"
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive can raise anything
        why = f"is damaged ({type(error).__name__})"
    print(f"{path} {why}; its run begins anew", file=sys.stderr)
    return None


def finished(path, config, seed, about, test):
    """The result in path, or None where there is none of this config, seed, data and code. A damaged file is named."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        *key, _, _ = (result[name] for name in ("config", "seed", "dataset", "code", "val_accuracy", "history"))
        same = key == [config, seed, about["dataset"], about["code"]]
        return result if same and (not test or "test_accuracy" in result) else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        print(f"{path} is damaged or incomplete; its run is trained again", file=sys.stderr)
        return None


def keep(lab, path, result, model, test):
    """Write a result, and the model where it is one of a table, and take the checkpoint away."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    if test:
        tables.write(lab["results"] / "models" / f"{path.stem}.npz", model)
    tables.write(path, "{" + ",\n ".join(lines) + "}\n")
    checkpoint_of(path).unlink(missing_ok=True)


def train(lab, runs, test=True):
    """Train runs, pairs (config, seed), as many at a time as there are jobs; what is finished already is not repeated.

    Returns their results in the same order. test as in run.
    """
    opts, about, bar = lab["opts"], provenance(lab["raw"]), lab["bar"]
    runs = [(config | SMOKE if opts.smoke else config, seed) for config, seed in runs]
    paths = [lab["results"] / "runs" / f"{run_name(config, seed)}.json" for config, seed in runs]
    results = {path: None if opts.fresh else finished(path, config, seed, about, test)
               for path, (config, seed) in zip(paths, runs)}
    todo = {path: pair for path, pair in zip(paths, runs) if results[path] is None}
    progress.found(bar, [result for result in results.values() if result])
    if opts.fresh:
        for path in todo:
            checkpoint_of(path).unlink(missing_ok=True)
    for sizes in dict.fromkeys((config["n_train"], config["n_val"]) for config, _ in todo.values()):
        source = cluster_source(lab, *sizes, about) if opts.cluster else split(lab, *sizes)
        tasks = [joblib.delayed(run)(config, seed, source, about, path, test)
                 for path, (config, seed) in todo.items() if (config["n_train"], config["n_val"]) == sizes]
        with workers(opts) as parallel:
            for path, result, model in parallel(tasks):
                keep(lab, path, result, model, test)
                results[path] = result
                progress.trained(bar, result)
    return [results[path] for path in paths]


@contextlib.contextmanager
def workers(opts):
    """A joblib.Parallel that gives results as they come: from this machine's cores, or from the cluster's.

    Raises ClusterError where Dask is not installed, the cluster does not answer, has no worker or one without this
    project, or is lost.
    """
    as_they_come = {"return_as": "generator_unordered", "batch_size": 1}
    if not opts.cluster:
        if opts.jobs > 1:
            as_they_come |= {"initializer": end_with, "initargs": (os.getpid(),)}
        yield joblib.Parallel(opts.jobs, **as_they_come)
        return
    try:
        from distributed import CancelledError, Client, KilledWorker
    except ImportError:
        raise ClusterError("--cluster needs Dask: pip install 'dask[distributed]'") from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters comes as an exception
    try:
        client = Client(opts.cluster, timeout=CLUSTER_TIMEOUT)
        client.wait_for_workers(1, timeout=CLUSTER_TIMEOUT)
        client.run(exec, "import experiment")  # a worker without this project would never answer
    except (OSError, ValueError, TimeoutError, ImportError) as error:
        raise ClusterError(f"no cluster with a worker for this at {opts.cluster} "
                           f"({' '.join(str(error).split()) or type(error).__name__}); see the README on how to start one") from None
    try:
        with client, joblib.parallel_config("dask", client=client, retries=3):
            backend, _ = joblib.parallel.get_active_backend()
            backend.effective_n_jobs = lambda _: 1 + sum(client.ncores().values())  # where it is 1 joblib would train here
            yield joblib.Parallel(-1, **as_they_come)
    except (CancelledError, KilledWorker) as error:
        raise ClusterError(f"the cluster at {opts.cluster} was lost ({' '.join(str(error).split())}); "
                           "the finished runs are kept") from None


def end_with(driver):
    """Let this worker process end when the driver, its parent, is gone, however that came; joblib would leave it waiting."""
    def watch():
        while os.getppid() == driver:
            time.sleep(1)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def cluster_source(lab, n_train, n_val, about):
    """The arguments with which a cluster's worker calls split_on_worker."""
    return lab["raw"]["name"], lab["opts"].data_dir, lab["opts"].smoke, n_train, n_val, json.dumps(about)


def train_all_seeds(lab, configs):
    """Train every config with seeds 0 .. --seeds - 1. Returns, for each config, the list of its results."""
    n = lab["opts"].seeds
    results = train(lab, [(config, seed) for config in configs for seed in range(n)])
    return [results[i:i + n] for i in range(0, len(results), n)]


# ----------------------------------------------------------------------------------------------------------- tables


def summary(results, key):
    """Mean, sd (divided by n - 1; nan for a single seed) and number n of results[...][key], in percent."""
    values = [100 * result[key] for result in results]
    return np.mean(values), np.std(values, ddof=1) if len(values) > 1 else np.nan, len(values)


def row(network, setting, results, A, B):
    """A row of the tables: accuracies of the results of one config, and the figures that documents A and B report."""
    return {"network": network, "setting": setting, "validation": summary(results, "val_accuracy"),
            "test": summary(results, "test_accuracy"), "A (CIFAR-10)": A, "B (CIFAR-10)": B}


def for_people(value):
    """A table's cell as text: a summary as mean ± sd (n)."""
    if not isinstance(value, tuple):
        return str(value)
    mean, sd, n = value
    return f"{mean:.2f} ({n})" if n == 1 else f"{mean:.2f} ± {sd:.2f} ({n})"


def for_programs(row):
    """A table's row with a column of its own for each number of a summary."""
    columns = {}
    for key, value in row.items():
        parts = zip(("", "_sd", "_n"), value) if isinstance(value, tuple) else [("", value)]
        columns |= {key + suffix: part for suffix, part in parts}
    return columns


def write_table(lab, name, rows):
    """Print rows, dicts with the same keys, and write them to name.md and, in full precision, name.csv in the results."""
    lab["bar"].close()
    table = tables.markdown([list(rows[0]), *([for_people(value) for value in row.values()] for row in rows)])
    tables.write(lab["results"] / f"{name}.md", table)
    tables.write(lab["results"] / f"{name}.csv", tables.comma_separated([for_programs(row) for row in rows]))
    print(f"\n{lab['title']}, accuracy in %: mean ± sd (number of seeds)\n\n{table}")
