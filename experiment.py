"""What all drivers share: options, many runs in parallel, results on disk, tables.

    lab = open_lab(options(__doc__))                         # the dataset, the folders, the number of jobs
    results = train_all_seeds(lab, [config(hidden=[50])])    # for each config the list of its results, one a seed
    write_table(lab, "name", rows)                           # screen, results/<dataset>/name.csv and .md

A run is one config and one seed. Its result is a JSON file in results/<dataset>/runs whose name comes from the config;
it is written the moment the run ends, and a run that is already there (same config, seed, data, kbn.py) is not repeated.
"""
import argparse
import ast
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import datasets
import kbn
import tables

HOME = Path(__file__).resolve().parent
NET = {"hidden": [50, 50], "batch_norm": False, "sigma": None, "n_train": 45_000, "n_val": 5_000}
SMOKE = {"n_train": 1_000, "n_val": 500, "n_s": 20}
POINTS = 360  # a result file keeps about this many means over the updates, not every update


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
    parser.add_argument("--smoke", action="store_true",
                        help="everything on a small part of the data in under 30 s, into folders of its own")
    parser.add_argument("--fresh", action="store_true", help="train again what is already in the results")
    parser.add_argument("--out", metavar="DIR", default=HOME, type=Path,
                        help="where results/ and figures/ are written (default: beside the scripts)")
    return parser.parse_args(argv)


def guarded(main):
    """Run a driver's main() for the command line: what a user can mend is one line on stderr and exit status 1."""
    name = Path(sys.argv[0]).name
    try:
        main()
    except (datasets.DataError, FloatingPointError) as error:
        sys.exit(f"{name}: error: {error}")
    except OSError as error:
        sys.exit(f"{name}: error: {error}; the finished runs are kept")
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the finished runs are kept, and the same command goes on from there",
              file=sys.stderr)
        sys.exit(130)


# --------------------------------------------------------------------------------------------------------------- lab

def open_lab(opts):
    """Load the dataset, make the folders. Returns a dict: opts, raw (see datasets.load), title, results, figures, split.

    Where no dataset is asked for and CIFAR-10 cannot be had, it is the synthetic set, and says so.
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
    for folder in (lab["results"] / "runs", lab["figures"]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise OSError(f"{folder}: nothing can be written there ({error.strerror}); name a folder with --out") from None
    print(f"{title}: {len(raw['labels'])} training and {len(raw['test_labels'])} test images, {opts.seeds} seed(s), "
          f"{opts.jobs} job(s)")
    return lab


def provenance(lab):
    """What a result depends on beside its config and seed: the data, kbn.py (less comments), and the versions."""
    code = ast.unparse(ast.parse((HOME / "kbn.py").read_text(encoding="utf-8")))
    raw = lab["raw"]
    return {"dataset": {"name": raw["name"], "fingerprint": raw["fingerprint"], "classes": len(raw["classes"])},
            "code": hashlib.sha256(code.encode()).hexdigest()[:12],
            "versions": {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}}


def split(lab, n_train, n_val):
    """train, val and test, each (X, y); memory-mapped from a temporary file where several processes are to read them.

    The lab keeps the last split only: it is most of a driver's memory.
    """
    if lab["split"][0] != (n_train, n_val):
        lab["split"] = (None, None)
        data = datasets.split(lab["raw"], n_train, n_val)
        data = {part: data[part] for part in ("train", "val", "test")}
        if lab["opts"].jobs > 1:
            lab["scratch"] = tempfile.TemporaryDirectory(prefix="kbn-")
            path = Path(lab["scratch"].name, "split")
            joblib.dump(data, path)
            data = joblib.load(path, mmap_mode="r")
        lab["split"] = ((n_train, n_val), data)
    return lab["split"][1]


# -------------------------------------------------------------------------------------------------------------- runs

def run_name(config, seed):
    """The name of a run: the hidden nodes, bn, every value that is not the default, the seed."""
    default = {**NET, **kbn.DEFAULTS}
    others = [f"{key}={value if isinstance(value, str) else f'{value:.6g}'}" for key, value in config.items()
              if value != default[key] and key not in ("hidden", "batch_norm")]
    return "_".join(["-".join(map(str, config["hidden"])), *["bn"] * config["batch_norm"], *others, f"seed={seed}"])


def run(config, seed, data, about, path, test):
    """Train one net, and write its result to path. test says whether it is to be measured on the test set, too.

    Returns path and the result: config, seed, about, val_accuracy, test_accuracy, duration_s, history (see kbn.minibatch_gd; that
    of the updates thinned). Raises FloatingPointError, naming the run, where training diverges.
    """
    data = {part: tuple(map(np.asarray, pair)) for part, pair in data.items()}
    dims = [len(data["train"][0]), *config["hidden"], about["dataset"]["classes"]]
    rng, hp = np.random.default_rng(seed), {key: config[key] for key in kbn.DEFAULTS}
    start = time.perf_counter()
    with threadpool_limits(1):
        params = kbn.init_params(dims, rng, config["batch_norm"], config["sigma"])
        try:
            params, stats, history = kbn.minibatch_gd(data["train"], data["val"], params, hp, rng)
        except FloatingPointError as error:
            raise FloatingPointError(f"{path.stem}: {error}") from None
        result = {"config": config, "seed": seed, **about, "val_accuracy": history["epoch"]["val_accuracy"][-1]}
        if test:
            result["test_accuracy"] = kbn.accuracy(*data["test"], params, stats, hp["eps"], hp["bn"])
    history = {"update": thin(history["update"]), "epoch": history["epoch"]}
    history = {part: {name: [float(f"{x:.6g}") for x in column] for name, column in columns.items()}
               for part, columns in history.items()}
    result |= {"duration_s": round(time.perf_counter() - start, 2), "history": history}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    tables.write(path, "{" + ",\n ".join(lines) + "}\n")
    return path, result


def thin(columns):
    """The means of equal runs of updates, about POINTS of them; those of the updates' numbers are added as t."""
    columns = {"t": list(range(len(columns["eta"]))), **columns}
    every = max(1, len(columns["t"]) // POINTS)
    return {name: [np.mean(column[i:i + every]) for i in range(0, len(column), every)] for name, column in columns.items()}


def finished(path, config, seed, about, test):
    """The result in path, or None where there is none of this config, seed, data and code. A damaged file is named."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        same = (result["config"], result["seed"], result["dataset"], result["code"]) == (
            config, seed, about["dataset"], about["code"])
        return result if same and (not test or "test_accuracy" in result) else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        print(f"{path} is damaged; its run is trained again", file=sys.stderr)
        return None


def train(lab, runs, test=True):
    """Train runs, pairs (config, seed), as many at a time as there are jobs; what is finished already is not repeated.

    Returns their results in the same order. test as in run.
    """
    opts, about = lab["opts"], provenance(lab)
    runs = [(config | SMOKE if opts.smoke else config, seed) for config, seed in runs]
    paths = [lab["results"] / "runs" / f"{run_name(config, seed)}.json" for config, seed in runs]
    results = {path: None if opts.fresh else finished(path, config, seed, about, test)
               for path, (config, seed) in zip(paths, runs)}
    todo = {path: pair for path, pair in zip(paths, runs) if results[path] is None}
    if len(todo) < len(results):
        print(f"{len(results) - len(todo)} of {len(results)} runs are in the results already (--fresh trains them again)")
    with tqdm(total=len(todo), unit="run", disable=not todo) as bar:
        for sizes in dict.fromkeys((config["n_train"], config["n_val"]) for config, _ in todo.values()):
            data = split(lab, *sizes)
            tasks = [joblib.delayed(run)(config, seed, data, about, path, test)
                     for path, (config, seed) in todo.items() if (config["n_train"], config["n_val"]) == sizes]
            for path, result in joblib.Parallel(opts.jobs, return_as="generator_unordered")(tasks):
                results[path] = result
                bar.update()
    return [results[path] for path in paths]


def train_all_seeds(lab, configs):
    """Train every config with seeds 0 .. --seeds - 1. Returns, for each config, the list of its results."""
    n = lab["opts"].seeds
    results = train(lab, [(config, seed) for config in configs for seed in range(n)])
    return [results[i:i + n] for i in range(0, len(results), n)]


# ------------------------------------------------------------------------------------------------------------ output

def summary(results, key):
    """Mean, sd (divided by n - 1; nan for a single seed) and number n of results[...][key], in percent."""
    values = [100 * result[key] for result in results]
    return np.mean(values), np.std(values, ddof=1) if len(values) > 1 else np.nan, len(values)


def row(network, setting, results, A, B):
    """A row of the tables: accuracies of the results of one config, and the figures that documents A and B report."""
    return {"network": network, "setting": setting, "validation": summary(results, "val_accuracy"),
            "test": summary(results, "test_accuracy"), "A": A, "B": B}


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
    table = tables.markdown([list(rows[0]), *([for_people(value) for value in row.values()] for row in rows)])
    tables.write(lab["results"] / f"{name}.md", table)
    tables.write(lab["results"] / f"{name}.csv", tables.comma_separated([for_programs(row) for row in rows]))
    print(f"\n{lab['title']}, accuracy in %: mean ± sd (number of seeds)\n\n{table}")
