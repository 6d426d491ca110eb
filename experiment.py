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
import inspect
import io
import json
import logging
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import joblib
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

import datasets
import kbn
import layers
import nets
import progress
import tables

HOME = Path(__file__).resolve().parent
DATA = {"n_train": 45_000, "n_val": 5_000}
MLP = {"hidden": [50, 50], "batch_norm": False, "sigma": None, **DATA, **kbn.DEFAULTS}
SPECS = {
    "specs": [["affine", 10]],
    "loss": "softmax",
    "sigma": None,
    "scale": "each",
    "watched": 0,
    **DATA,
    **{key: value for key, value in kbn.DEFAULTS.items() if key != "bn"},
}
SMOKE = {"n_train": 1_000, "n_val": 500, "n_s": 20, "n_epochs": 2}
FALLBACK = {"cifar10": "shapes", "mnist": "grey-shapes", "fashion-mnist": "grey-shapes"}
CLUSTER_TIMEOUT = 20  # seconds
# glibc: workers keep the memory of large arrays for the next update; new pages would cost a convolution a third of its time
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
LONGEST = 60  # letters of a file name that describe a net of layer specs
MISTAKES = 40
POINTS = 360  # a result file keeps about this many means over the updates, not every update


class ClusterError(Exception):
    """The Dask cluster cannot be used. One line: why, what to do."""


def config(**changes):
    """One run's whole setting: MLP with changes, or SPECS where specs are among them (see nets).

    watched is a number of training examples, whose scores are watched after each epoch.

    Raises ValueError for a name that is not there.
    """
    default = defaults(changes)
    unknown = changes.keys() - default.keys()
    if unknown:
        raise ValueError(f"unknown in a config: {', '.join(unknown)}; there are {', '.join(default)}")
    return json.loads(json.dumps({**default, **changes}))


def defaults(config):
    """MLP or SPECS, whichever belongs to config."""
    return SPECS if "specs" in config else MLP


# ----------------------------------------------------------------------------------------------------------- options


def at_least_one(text):
    """The integer that an option was given, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def options(doc, argv=None, dataset="cifar10"):
    """Parse the options common to all drivers. doc is the driver's docstring, shown by --help; dataset its default."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument(
        "--dataset",
        choices=list(datasets.DATASETS),
        help=f"default: {dataset}, or the built-in synthetic {FALLBACK[dataset]} where that cannot be had",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder with the official files (default: $KBN_DATA_DIR, else they are downloaded once)",
    )
    parser.add_argument(
        "--seeds", type=at_least_one, default=1, metavar="N", help="train every net with seeds 0 .. N-1 (default 1)"
    )
    parser.add_argument(
        "--jobs",
        type=at_least_one,
        default=joblib.cpu_count(),
        metavar="N",
        help="runs side by side, one core each (default: all cores, here %(default)s)",
    )
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="train on a Dask cluster instead, given its scheduler's address, tcp://host:8786"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="everything on a small part of the data in under 30 s, into folders of its own"
    )
    parser.add_argument("--fresh", action="store_true", help="train again what is already in the results")
    parser.add_argument("--quiet", action="store_true", help="print the tables and errors only")
    parser.add_argument(
        "--out",
        metavar="DIR",
        default=HOME,
        type=Path,
        help="where results/ and figures/ are written (default: beside the scripts)",
    )
    parser.set_defaults(default_dataset=dataset)
    opts = parser.parse_args(argv)
    if opts.cluster == "":
        parser.error("argument --cluster: an address must be given, such as tcp://host:8786")
    return opts


def guarded(main):
    """Run a driver's main() for the command line: what a user can mend is one line on stderr and exit status 1."""
    name = Path(sys.argv[0]).name
    sys.stdout.reconfigure(errors="backslashreplace")  # for letters that the terminal lacks
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (datasets.DataError, ClusterError, FloatingPointError) as error:
        sys.exit(f"{name}: error: {error}")
    except OSError as error:
        sys.exit(f"{name}: error: {error}; the finished runs are kept")
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the finished runs are kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)


# --------------------------------------------------------------------------------------------------------------- lab


def open_lab(opts, runs_a_seed):
    """Load the dataset, make the folders, start the progress bar.

    Where no dataset is asked for and the driver's own cannot be had, it is the synthetic set, and says so.
    Returns a dict: opts, raw (see datasets.load), title, command, results and figures (folders), split, bar.
    Raises DataError, and OSError for an output folder that cannot be written to.
    """
    name = opts.dataset or opts.default_dataset
    try:
        raw = datasets.load(name, opts.data_dir, opts.smoke)
    except datasets.Unavailable as error:
        if opts.dataset:
            raise
        print(
            f"{error}\nSo everything below is on the built-in synthetic set '{FALLBACK[name]}', NOT on "
            f"{datasets.DATASETS[name][0]}.",
            file=sys.stderr,
        )
        raw = datasets.load(FALLBACK[name], small=opts.smoke)
    label, title = raw["name"], raw["title"]
    if opts.smoke:
        label, title = f"{label}-smoke", f"{title}, smoke test"
    lab = {
        "opts": opts,
        "raw": raw,
        "title": title,
        "command": command(opts, raw["name"]),
        "split": (None, None),
        "results": opts.out / "results" / label,
        "figures": opts.out / "figures" / label,
    }
    for folder in (*(lab["results"] / part for part in ("runs", "models", "figures")), lab["figures"]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise OSError(f"{folder}: nothing can be written there ({error.strerror}); name a folder with --out") from None
        tables.clear_scratch(folder)
    if not opts.quiet:
        where = f"cluster {opts.cluster}" if opts.cluster else f"{opts.jobs} job(s)"
        print(
            f"{title}: {len(raw['labels'])} training and {len(raw['test_labels'])} test images, {opts.seeds} seed(s), {where}"
        )
        print(f"to {os.path.relpath(lab['results'])} and {os.path.relpath(lab['figures'])}", flush=True)
    return lab | {"bar": progress.bar(runs_a_seed * opts.seeds, opts.quiet)}


def command(opts, dataset):
    """The command that a driver was called with, less the options that change no result."""
    words = [
        "python",
        Path(sys.argv[0]).name,
        *(["--dataset", dataset] if dataset != opts.default_dataset else []),
        *(["--seeds", str(opts.seeds)] if opts.seeds > 1 else []),
        *(["--smoke"] if opts.smoke else []),
    ]
    return " ".join(words)


def provenance(raw):
    """What a result depends on beside its config and seed: the data, the code, and the versions."""
    versions = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine(), "blas": blas()}
    dataset = {"name": raw["name"], "fingerprint": raw["fingerprint"]}
    return {
        "dataset": dataset | {"classes": len(raw["classes"]), "shape": list(raw["shape"])},
        "code": code_versions(),
        "versions": versions,
    }


def decisive():
    """The functions, and the modules of what they use, whose code decides a result, for nets of hidden and of specs."""
    return {
        "hidden": ([datasets.split, network, kbn.minibatch_gd, tested], [datasets, kbn]),
        "specs": ([datasets.split, network, kbn.minibatch_gd, explained, nets.score_moments], [datasets, kbn, layers, nets]),
    }


def blas():
    """The library that multiplies matrices, and for which processor: the last bits of all results depend on it."""
    return ", ".join(
        f"{library['internal_api']} {library['version']} {library.get('architecture', '')}".strip()
        for library in threadpool_info()
        if library["user_api"] == "blas"
    )


@functools.cache
def code_versions():
    """The code_version that a result depends on, for nets of hidden and of specs."""
    return {form: code_version(*code) for form, code in decisive().items()}


def code_version(functions, modules):
    """A short hash of the code of functions, and of all in modules that they lead to. See reached."""
    return hashlib.sha256("\n".join(sorted(reached(functions, modules))).encode()).hexdigest()[:12]


def reached(functions, modules):
    """The code of functions, and of all in modules that they lead to, found by its names: a set of plain texts."""
    defined = {}
    for module in modules:
        for statement in ast.parse(inspect.getsource(module)).body:
            for name in names_bound(statement):
                defined.setdefault(name, []).append(statement)
    found, todo = set(), [ast.parse(inspect.getsource(function)).body[0] for function in functions]
    while todo:
        statement = todo.pop()
        text = plain(statement)
        if text not in found:
            found.add(text)
            names = {getattr(part, "id", None) or getattr(part, "attr", None) for part in ast.walk(statement)}
            todo += [other for name in names for other in defined.get(name, [])]
    return found


def names_bound(statement):
    """The names that a statement at top level defines."""
    targets = [part for target in getattr(statement, "targets", []) for part in ast.walk(target)]
    return [statement.name] if hasattr(statement, "name") else [part.id for part in targets if isinstance(part, ast.Name)]


def plain(node):
    """A syntax tree as text, without comments, docstrings and layout, and the same in all versions of Python."""
    if isinstance(node, list):
        return " ".join(plain(part) for part in node if not is_text(part))
    if isinstance(node, ast.AST):
        fields = (f"{name}={plain(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({' '.join(fields)})"
    return repr(node)


def is_text(statement):
    """Whether a statement is a string that stands alone, as a docstring does."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def key_of(config, seed, about):
    """What must be the same for a result or checkpoint to be used."""
    code = about["code"]["specs" if "specs" in config else "hidden"]
    return {"config": config, "seed": seed, "dataset": about["dataset"], "code": code}


def arrays_of(raw, n_train, n_val, scale):
    """What a run needs of a dataset: train, val and test, each (X, y), and input, what a saved model says of its input."""
    data = datasets.split(raw, n_train, n_val, scale=scale)
    return {part: data[part] for part in ("train", "val", "test")} | {
        "input": {"mean": data["mean"], "sd": data["sd"], "classes": np.array(raw["classes"]), "shape": np.array(raw["shape"])}
    }


def division(config):
    """The arguments of split that a config asks for."""
    return config["n_train"], config["n_val"], config.get("scale", "each")


def split(lab, *division):
    """arrays_of the lab's data, memory-mapped from a temporary file where several processes are to read them.

    The lab keeps the last split only: it is most of a driver's memory.
    """
    if lab["split"][0] != division:
        lab["split"] = (None, None)
        data = arrays_of(lab["raw"], *division)
        if lab["opts"].jobs > 1:
            clear_splits()
            lab["scratch"] = tempfile.TemporaryDirectory(prefix=f"kbn-{platform.node()}-{os.getpid()}-")
            path = Path(lab["scratch"].name, "split")
            joblib.dump(data, path)
            data = joblib.load(path, mmap_mode="r")
        lab["split"] = (division, data)
    return lab["split"][1]


def clear_splits():
    """Remove the temporary files of split, and joblib's semaphores, that killed drivers of this machine left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"kbn-{platform.node()}-*-*"):
        driver = folder.name.split("-")[-2]
        try:
            os.kill(int(driver), 0)
        except ProcessLookupError:
            for left in (*Path("/dev/shm").glob(f"sem.loky-{driver}-*"), folder):
                with contextlib.suppress(OSError):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        except (ValueError, PermissionError):
            pass  # another's


@functools.lru_cache(maxsize=1)
def split_on_worker(name, data_dir, small, about, *division):
    """arrays_of a dataset that a cluster's worker loads for itself; about, JSON, says which data and code they must be.

    Raises ClusterError where the worker has others.
    """
    raw = datasets.load(name, data_dir, small)
    ours, theirs = provenance(raw), json.loads(about)
    for what in ("dataset", "code"):
        if ours[what] != theirs[what]:
            raise ClusterError(f"the worker on {platform.node()} has another {what}: {ours[what]}, not {theirs[what]}")
    return arrays_of(raw, *division)


# -------------------------------------------------------------------------------------------------------------- runs


def run_name(config, seed):
    """The name of a run: the net, every value that is not the default, the seed."""
    others = [
        f"{key}={value if isinstance(value, str) else f'{value:.6g}'}"
        for key, value in config.items()
        if value != defaults(config)[key] and key not in ("hidden", "batch_norm", "specs")
    ]
    if "specs" in config:
        net = "-".join(kind + re.sub(r"\W+", "x", str(numbers)).strip("x") for kind, *numbers in config["specs"])
        if len(net) > LONGEST:
            net = f"{net[:LONGEST]}-{hashlib.sha256(net.encode()).hexdigest()[:6]}"
    else:
        net = "-".join(map(str, config["hidden"])) + "_bn" * config["batch_norm"]
    return "_".join([net, *others, f"seed={seed}"])


def network(config, shape, K, rng):
    """The net of a config, for inputs (c, h, w) and K classes, as kbn's functions take it, and its first params."""
    if "specs" in config:
        return (
            nets.build(config["specs"], shape, config["loss"]),
            nets.init_params(config["specs"], shape, rng, config["sigma"]),
        )
    dims = [int(np.prod(shape)), *config["hidden"], K]
    return kbn.MLP, kbn.init_params(dims, rng, config["batch_norm"], config["sigma"])


def run(config, seed, source, about, path, test, may_diverge=False):
    """Train one net. Returns path, where its result belongs, the result, and the model as the bytes of kbn.save.

    source: what arrays_of returns, or the arguments of split_on_worker. test: whether to measure the test set, too.
    may_diverge: whether divergence is a result, too: diverged, and no model.
    The result: config, seed, about, val_accuracy, duration_s, history (see kbn.minibatch_gd; that of the updates
    thinned; where config says watched, with the score_moments of so many training examples), and what tested or
    explained returns. Raises FloatingPointError, naming the run, where training diverges.
    """
    data = source if isinstance(source, dict) else split_on_worker(*source)
    data = data | {part: tuple(map(np.asarray, data[part])) for part in ("train", "val", "test")}
    rng, hp, key = np.random.default_rng(seed), kbn.check_hp(config_hp(config)), key_of(config, seed, about)
    checkpoint, start = checkpoint_of(path), time.perf_counter()
    with threadpool_limits(1):
        shape, K = about["dataset"]["shape"], about["dataset"]["classes"]
        net, params = network(config, shape, K, rng)
        state = read_checkpoint(checkpoint, key)
        earlier = state.pop("duration_s") if state else 0.0

        def keep(state):
            if config.get("watched"):
                X = data["train"][0][:, : config["watched"]]
                kbn.record(
                    state["history"]["epoch"], **nets.score_moments(config["specs"], shape, X, state["params"], hp["eps"])
                )
            if path.parent.is_dir():
                write_checkpoint(checkpoint, key, state, earlier + time.perf_counter() - start)

        try:
            params, stats, history = kbn.minibatch_gd(data["train"], data["val"], params, hp, rng, keep, state, net)
        except FloatingPointError as error:
            if may_diverge:
                return path, key | {"versions": about["versions"]} | diverged(error, K), b""
            raise FloatingPointError(f"{path.stem}: {error}") from None
        duration = earlier + time.perf_counter() - start
        result = {
            **key,
            "versions": about["versions"],
            "val_accuracy": history["epoch"]["val_accuracy"][-1],
            **((explained if "specs" in config else tested)(data, params, stats, hp, net) if test else {}),
        }
    result |= {"duration_s": round(duration, 2), "history": shortened(history)}
    model, specs = io.BytesIO(), nets.description(config["specs"], config["loss"]) if "specs" in config else {}
    kbn.save(model, params, stats, hp, **data["input"], **specs)
    return path, result, model.getvalue()


def diverged(error, K):
    """The result of a training that diverged: accuracies of chance among K classes, and no loss."""
    epoch = {
        f"{part}_{what}": [1 / K if what == "accuracy" else np.nan]
        for part in ("train", "val")
        for what in ("cost", "loss", "accuracy")
    }
    return {"diverged": str(error), "val_accuracy": 1 / K, "test_accuracy": 1 / K, "history": {"update": {}, "epoch": epoch}}


def config_hp(config):
    """The hyper-parameters of a config."""
    return {key: config[key] for key in kbn.DEFAULTS if key in config}


def tested(data, params, stats, hp, net):
    """The accuracy on the test set."""
    return {"test_accuracy": kbn.accuracy(*data["test"], params, stats, hp["eps"], hp["bn"], net)}


def explained(data, params, stats, hp, net):
    """What is measured of a net of layer specs after training.

    test_accuracy; test_accuracy_dataset: predicted with the statistics of the whole training set, for a net with BN;
    mistakes: for the first MISTAKES wrong test images their number and the predicted class; filters: the first
    layer's weights, for a convolution.
    """
    X, y = data["test"]
    predicted = np.concatenate(
        [
            net["forward"](X[:, i : i + net["chunk"]], params, stats, hp["eps"])[0].argmax(axis=0)
            for i in range(0, len(y), net["chunk"])
        ]
    )
    found = {"test_accuracy": np.count_nonzero(predicted == y) / len(y)}
    if stats:
        whole = kbn.dataset_stats(data["train"][0], params, hp["eps"], hp["bn"], net)
        found["test_accuracy_dataset"] = kbn.accuracy(X, y, params, whole, hp["eps"], hp["bn"], net)
    wrong = np.flatnonzero(predicted != y)[:MISTAKES]
    found["mistakes"] = np.stack([wrong, predicted[wrong]], axis=1).tolist()
    if params["W1"].ndim == 4:
        found["filters"] = np.round(params["W1"], 4).tolist()
    return found


def shortened(history):
    """What a result keeps of kbn's history: the updates thinned, six digits of each number."""
    history = {"update": thin(history["update"]), "epoch": history["epoch"]}
    return {
        part: {name: [float(f"{x:.6g}") for x in column] for name, column in columns.items()}
        for part, columns in history.items()
    }


def thin(columns):
    """The means of equal runs of updates, about POINTS of them; those of the updates' numbers are added as t."""
    columns = {"t": list(range(len(columns["eta"]))), **columns}
    every = max(1, len(columns["t"]) // POINTS)
    return {name: [np.mean(column[i : i + every]) for i in range(0, len(column), every)] for name, column in columns.items()}


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


def finished(path, key, test):
    """The result in path, or None where there is none of this key. A damaged file is named."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        found, _, _ = {name: result[name] for name in key}, result["val_accuracy"], result["history"]
        return result if found == key and (not test or "test_accuracy" in result) else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        print(f"{path} is damaged or incomplete; its run is trained again", file=sys.stderr)
        return None


def keep(lab, path, result, model, test):
    """Write a result, and the model where it is one of a table, and take the checkpoint away."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    if test and model:
        tables.write(lab["results"] / "models" / f"{path.stem}.npz", model)
    tables.write(path, "{" + ",\n ".join(lines) + "}\n")
    checkpoint_of(path).unlink(missing_ok=True)


def train(lab, runs, test=True, may_diverge=False):
    """Train runs, pairs (config, seed), as many at a time as there are jobs; what is finished already is not repeated.

    Returns their results in the same order, each with the name of its file. test and may_diverge as in run.
    """
    opts, about, bar = lab["opts"], provenance(lab["raw"]), lab["bar"]
    runs = [(config | SMOKE if opts.smoke else config, seed) for config, seed in runs]
    paths = [lab["results"] / "runs" / f"{run_name(config, seed)}.json" for config, seed in runs]
    results = {
        path: None if opts.fresh else finished(path, key_of(config, seed, about), test)
        for path, (config, seed) in zip(paths, runs)
    }
    todo = {path: pair for path, pair in zip(paths, runs) if results[path] is None}
    progress.found(bar, [result for result in results.values() if result])
    if opts.fresh:
        for path in todo:
            checkpoint_of(path).unlink(missing_ok=True)
    for part in dict.fromkeys(division(config) for config, _ in todo.values()):
        source = cluster_source(lab, about, *part) if opts.cluster else split(lab, *part)
        tasks = [
            joblib.delayed(run)(config, seed, source, about, path, test, may_diverge)
            for path, (config, seed) in todo.items()
            if division(config) == part
        ]
        with workers(opts) as parallel:
            for path, result, model in parallel(tasks):
                keep(lab, path, result, model, test)
                results[path] = result
                progress.trained(bar, result)
    return [results[path] | {"name": path.stem} for path in paths]


@contextlib.contextmanager
def workers(opts):
    """What takes joblib.delayed calls and gives their results as they come: from this machine's cores, or the cluster's.

    Raises ClusterError where Dask is not installed, the cluster does not answer, has no worker or one without this
    project, or is lost.
    """
    if not opts.cluster:
        options = {"return_as": "generator_unordered", "batch_size": 1}
        if opts.jobs > 1:
            os.environ.update(KEEP_MEMORY)
            options |= {
                "initializer": end_with,
                "initargs": (os.getpid(),),
                "temp_folder": tempfile.gettempdir(),
            }  # else joblib makes a folder in /dev/shm, of no use here
        yield joblib.Parallel(opts.jobs, **options)
        return
    try:
        from distributed import CancelledError, Client, KilledWorker, as_completed
    except ImportError:
        raise ClusterError("--cluster needs Dask: pip install 'dask[distributed]'") from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters comes as an exception
    try:
        client = Client(opts.cluster, timeout=CLUSTER_TIMEOUT)
        client.wait_for_workers(1, timeout=CLUSTER_TIMEOUT)
        client.run(exec, "import experiment")  # a worker without this project would never answer
    except (OSError, ValueError, TimeoutError, ImportError) as error:
        raise ClusterError(
            f"no cluster with a worker for this at {opts.cluster} "
            f"({' '.join(str(error).split()) or type(error).__name__}); see the README on how to start one"
        ) from None
    try:
        with client:  # not by joblib's own backend for Dask, which waits for ever for a run that Dask has given up
            yield lambda tasks: (
                future.result()
                for future in as_completed(
                    [client.submit(function, *args, **named, pure=False) for function, args, named in tasks]
                )
            )
    except (CancelledError, KilledWorker) as error:
        raise ClusterError(
            f"the cluster at {opts.cluster} was lost ({' '.join(str(error).split())}); the finished runs are kept"
        ) from None


def end_with(driver):
    """Let this worker process end when the driver, its parent, is gone, however that came; joblib would leave it waiting."""

    def watch():
        while os.getppid() == driver:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cluster_source(lab, about, *division):
    """The arguments with which a cluster's worker calls split_on_worker."""
    return lab["raw"]["name"], lab["opts"].data_dir, lab["opts"].smoke, json.dumps(about), *division


def train_all_seeds(lab, configs, **options):
    """Train every config with seeds 0 .. --seeds - 1, options as in train. Returns the list of results of each config."""
    n = lab["opts"].seeds
    results = train(lab, [(config, seed) for config in configs for seed in range(n)], **options)
    return [results[i : i + n] for i in range(0, len(results), n)]


# ----------------------------------------------------------------------------------------------------------- tables


def summary(results, key):
    """Mean, sd (divided by n - 1; nan for a single seed) and number n of results[...][key], in percent."""
    values = [100 * result[key] for result in results]
    return np.mean(values), np.std(values, ddof=1) if len(values) > 1 else np.nan, len(values)


def row(network, setting, results, **reported):
    """A row of the tables: accuracies of the results of one config, and what documents report, on which dataset."""
    return {
        "network": network,
        "setting": setting,
        "validation": summary(results, "val_accuracy"),
        "test": summary(results, "test_accuracy"),
        **reported,
    }


def for_people(value):
    """A table's cell as text: a summary as mean ± sd (n), another number with four digits."""
    if not isinstance(value, tuple):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
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
    progress.close(lab["bar"])
    table = tables.markdown([list(rows[0]), *([for_people(value) for value in row.values()] for row in rows)])
    tables.write(lab["results"] / f"{name}.md", table)
    tables.write(lab["results"] / f"{name}.csv", tables.comma_separated([for_programs(row) for row in rows]))
    print(f"\n{lab['title']}, accuracy in %: mean ± sd (number of seeds)\n\n{table}", end="")
