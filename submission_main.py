"""DD2424 Assignment 3 in one file: k-layer networks with batch normalization (BN), by hand, in numpy.

    python assignment3.py --data-dir DIR              Exercises 1-3 and the sensitivity experiment, one seed
    python assignment3.py --data-dir DIR --seeds 5    mean and standard deviation over 5 seeds
    python assignment3.py --smoke                     everything on a small part of the data, in under a minute

DIR is the folder with the six official batches of CIFAR-10 (python version), or the folder around it; KBN_DATA_DIR may
name it, too. Where neither is given, everything runs on a synthetic set of shapes, and says so. Needs Python 3.11 or
later, numpy and matplotlib. On one core a seed takes about a quarter of an hour. With OPENBLAS_NUM_THREADS=1 in the
environment the numbers are to the bit those of the repository's drivers on the same machine.

Writes results/<dataset>/ (tables as Markdown and CSV, a JSON file for each run with its config and history) and
figures/<dataset>/. A finished run is not repeated while this file stays as it is.

A number in parentheses behind a line is the equation of the assignment's text, A. B is a student's report of it, C, D and
E are other courses' documents on BN. A name in a comment may still have its module's before it: kbn.forward is forward
here, and gradcheck.NETS, where several modules have NETS, is GRADCHECK_NETS.

Made by make_submission.py from the sources of kbn: kbn.py, gradcheck.py, datasets.py, experiment.py, run_ex2.py,
run_ex3.py, run_sensitivity.py, plots.py, tables.py and submission_main.py.
"""

import argparse
import functools
import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

import datasets
import experiment
import gradcheck
import kbn
import plots
import run_ex2
import run_ex3
import run_sensitivity
import tables

# What of experiment.py and plots.py has the name of something here is replaced by it: the same without processes side by
# side, without checkpoints and without the nets of layer specs. The exercises themselves are those of the drivers.
# This file is a source of make_submission.py; run by itself, it would run the drivers.


# ------------------------------------------------------------------------------------------------------------ the data


def find_cifar10(data_dir):
    """The paths of the six official batches in data_dir, or in the folder in it, or None where no folder is named.

    data_dir None means the environment variable KBN_DATA_DIR. Raises DataError where batches are missing.
    """
    data_dir = data_dir or os.environ.get("KBN_DATA_DIR")
    if not data_dir:
        return None
    for folder in (Path(data_dir), Path(data_dir, datasets.CIFAR10_FOLDER)):
        paths = [folder / name for name in datasets.CIFAR10_FILES]
        if any(path.exists() for path in paths):
            break
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise datasets.DataError(
            f"{folder}: {missing[0]} is missing; --data-dir or KBN_DATA_DIR must name the folder "
            f"with {', '.join(datasets.CIFAR10_FILES)}"
        )
    return paths


@functools.cache
def load(data_dir, small):
    """CIFAR-10, or the synthetic set where no folder is named; small: the first images only. As datasets.load."""
    paths = find_cifar10(data_dir)
    if paths:
        images, labels, test_images, test_labels = datasets.read_cifar10(paths)
        n_train, n_test = datasets.SMALL if small else (None, None)
        return datasets.as_published(
            "cifar10",
            "CIFAR-10",
            datasets.CIFAR10_CLASSES,
            (3, 32, 32),
            images[:n_train],
            labels[:n_train],
            test_images[:n_test],
            test_labels[:n_test],
        )
    print(
        "No folder with CIFAR-10 was named (--data-dir, KBN_DATA_DIR). So everything below is on the built-in synthetic "
        "set 'shapes', NOT on CIFAR-10.",
        file=sys.stderr,
    )
    _, planes, side = datasets.COLOUR
    return datasets.as_published(
        "shapes", "shapes (synthetic)", list(datasets.SHAPES), (planes, side, side), *datasets.draw_set(*datasets.COLOUR, small)
    )


# ------------------------------------------------------------------------------------------------------------ the runs


class Counter:
    """How far an exercise is: a line for each run."""

    more = None  # as in progress.bar, of which this takes the place

    def __init__(self, total):
        self.n, self.total = 0, total

    def update(self, name, result):
        self.n += 1
        print(f"{self.n} of {self.total} runs: {name}, validation {100 * result['val_accuracy']:.2f} %", flush=True)

    def close(self):
        """Nothing is left to do once the last line is out."""


def options(doc):
    """Parse the command line. doc is what --help shows."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder with the official files (default: $KBN_DATA_DIR, else the built-in synthetic set)",
    )
    parser.add_argument(
        "--seeds", type=experiment.at_least_one, default=1, metavar="N", help="train every net with seeds 0 .. N-1 (default 1)"
    )
    parser.add_argument("--smoke", action="store_true", help="everything on a small part of the data, in folders of its own")
    parser.add_argument(
        "--out",
        metavar="DIR",
        default=Path(),
        type=Path,
        help="where results/ and figures/ are written (default: the folder it is called in)",
    )
    return parser.parse_args()


def open_lab(opts, runs_a_seed):
    """Load the data and make the folders.

    Returns a dict: opts, raw (see load), title, command, results and figures (folders), split, bar.
    """
    raw = load(opts.data_dir, opts.smoke)
    label, title = raw["name"], raw["title"]
    if opts.smoke:
        label, title = f"{label}-smoke", f"{title}, smoke test"
    lab = {
        "opts": opts,
        "raw": raw,
        "title": title,
        "command": " ".join(["python", Path(__file__).name, *sys.argv[1:]]),
        "split": (None, None),
        "bar": Counter(runs_a_seed * opts.seeds),
        "results": opts.out / "results" / label,
        "figures": opts.out / "figures" / label,
    }
    for folder in (lab["results"] / "runs", lab["results"] / "figures", lab["figures"]):
        folder.mkdir(parents=True, exist_ok=True)
    return lab


def split(lab, *division):
    """The lab's data, divided as datasets.split does it; the last division is kept."""
    if lab["split"][0] != division:
        lab["split"] = (None, None)
        lab["split"] = division, datasets.split(lab["raw"], *division)
    return lab["split"][1]


def config(**changes):
    """One run's whole setting: the default one with changes."""
    return json.loads(json.dumps({**experiment.MLP, **changes}))


def run_name(config, seed):
    """The name of a run: the hidden nodes, BN, every value that is not the default, the seed."""
    others = [
        f"{key}={value if isinstance(value, str) else f'{value:.6g}'}"
        for key, value in config.items()
        if value != experiment.MLP[key] and key not in ("hidden", "batch_norm")
    ]
    return "_".join(["-".join(map(str, config["hidden"])) + "_bn" * config["batch_norm"], *others, f"seed={seed}"])


def run(config, seed, data, K, test):
    """Train one net for K classes, on what datasets.split returns. test: whether to measure the test set, too.

    Returns val_accuracy, test_accuracy, duration_s, history (see minibatch_gd; that of the updates thinned).
    """
    rng, hp, start = np.random.default_rng(seed), kbn.check_hp(experiment.config_hp(config)), time.perf_counter()
    dims = [len(data["mean"]), *config["hidden"], K]
    params = kbn.init_params(dims, rng, config["batch_norm"], config["sigma"])
    params, stats, history = kbn.minibatch_gd(data["train"], data["val"], params, hp, rng)
    return {
        "val_accuracy": history["epoch"]["val_accuracy"][-1],
        **(experiment.tested(data, params, stats, hp, kbn.MLP) if test else {}),
        "duration_s": round(time.perf_counter() - start, 2),
        "history": experiment.shortened(history),
    }


def train(lab, runs, test=True):
    """Train runs, pairs (config, seed), one after the other; what is finished already is not repeated.

    Returns their results in the same order: what run returns, the config, the seed, what data, code and versions, the name.
    """
    raw, results = lab["raw"], []
    about = {
        "dataset": {"name": raw["name"], "fingerprint": raw["fingerprint"]},
        "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12],
    }
    versions = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    for config, seed in runs:
        config = config | experiment.SMOKE if lab["opts"].smoke else config
        name, key = run_name(config, seed), {"config": config, "seed": seed, **about}
        path = lab["results"] / "runs" / f"{name}.json"
        result = experiment.finished(path, key, test)
        if result is None:
            data = split(lab, config["n_train"], config["n_val"])
            try:
                result = {**key, "versions": versions, **run(config, seed, data, len(raw["classes"]), test)}
            except FloatingPointError as error:
                raise FloatingPointError(f"{name}: {error}") from None
            lines = [f"{json.dumps(part)}: {json.dumps(value)}" for part, value in result.items()]
            tables.write(path, "{" + ",\n ".join(lines) + "}\n")
        lab["bar"].update(name, result)
        results.append(result | {"name": name})
    return results


# --------------------------------------------------------------------------------------------------------- the figures

# the kinds that the exercises draw
KINDS = {"curves": plots.curves, "search": plots.search, "sensitivity": plots.sensitivity}


# ------------------------------------------------------------------------------------------------------------ the whole


def check_gradients(opts):
    """Exercise 1, and 3 for BN: check the gradients; with --smoke those of the first net only. Ends the job if one is wrong."""
    rows, failures = gradcheck.examine(0, gradcheck.NETS[:1] if opts.smoke else gradcheck.NETS)
    folder = opts.out / "results"
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(folder / "gradcheck.csv", tables.comma_separated(rows))
    tables.write(folder / "gradcheck.md", gradcheck.overview(rows))
    if failures:
        sys.exit(f"FAILED ({len(failures)}), the first: {failures[0]}")
    print(f"\n{len(rows)} gradients checked, all within the bars")


def main():
    opts = options(__doc__)
    load(opts.data_dir, opts.smoke)
    check_gradients(opts)
    for title, exercise in (
        ("Exercise 2", run_ex2.main),
        ("Exercise 3", run_ex3.main),
        ("Sensitivity to initialisation", run_sensitivity.main),
    ):
        print(f"\n{title}\n")
        exercise()


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # for letters that the terminal lacks
    try:
        main()
    except (datasets.DataError, FloatingPointError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the finished runs are kept, and the same command goes on from there")
