"""Options of the drivers, the configuration of a run, and how a script ends when something goes wrong."""

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import joblib

import kbn

HOME = Path(__file__).resolve().parents[1]
FORMATS = ["png", "pdf", "svg"]

# Everything that decides a run besides its seed. A network is given by its hidden widths, or by specs (see nets.py).
DEFAULTS = {
    "hidden": [50, 50],
    "specs": None,
    "loss": "softmax",     # "softmax" or "svm"; svm for networks of specs only
    "sigma": None,         # standard deviation of the initial weights: a number, None (He) or "xavier"
    "sigma_b": 0.0,        # and of the initial biases
    "scale": "each",       # how pixels are standardised, see training.split
    "zca": None,           # epsilon of ZCA whitening, which follows the standardising; None: no whitening
    "zca_last": False,     # whether each mini-batch is whitened after its jitter, instead of all data once before it
    "smoothing": 0.0,      # share of label smoothing, see recipes.smooth_labels
    "n_train": 45_000,
    "n_val": 5_000,
    "split_seed": None,    # draws the images for training and validation; None: the first ones and those after them
    "n_epochs": None,      # a number: instead of the cyclical learning rate eta_max times decay after each epoch, or, if
    "decay": None,         # decay is None, half a cosine from eta_max to eta_min
    "rule": "momentum",    # the update rule, see recipes.RULES
    "jitter": None,        # of the mini-batches: {"share", "s", "brightness", "contrast", "colour"}, see jitter.build
    "keep_input": 1.0,     # probability with which dropout keeps an input
    "order": "each epoch", # of the training examples, see probes.order_of
    "fixed": [],           # parameters that keep their initial values, such as ["gamma", "beta"]
    "bn_group": None,      # number of examples whose statistics BN takes, see probes.grouped; None: the whole mini-batch
    "norms": False,        # whether the norms of the gradients are watched, see probes.norms
    "alphas": [],          # moving averages that are watched besides that of alpha, see probes.averages
    "watched": 0,          # training examples whose scores are watched after each epoch
    "snapshots": False,    # whether the networks at the ends of the learning rate's cycles are kept as well
    "pictures": 0,         # misclassified test images that are kept for a figure, with the first layer's filters
    **kbn.DEFAULTS,
    "bn": "off",
}  # fmt: skip
SMOKE = {"n_train": 1_000, "n_val": 200, "n_eval": 200, "n_s": 10}


class UserError(Exception):
    """One line for the user: what was wrong, with which value, and what to do."""


def config(**changes):
    """The complete configuration of a run: DEFAULTS with changes. Raises ValueError for an unknown name."""
    unknown = changes.keys() - DEFAULTS.keys()
    if unknown:
        raise ValueError(f"unknown in a config: {', '.join(sorted(unknown))}; there are {', '.join(DEFAULTS)}")
    if changes.get("specs"):
        changes = {"hidden": None, **changes}
    return json.loads(json.dumps({**DEFAULTS, **changes}))


def smoke(config):
    """The same configuration, cut down to seconds."""
    changes = {name: min(size, config[name]) for name, size in SMOKE.items()}
    if config["n_epochs"]:
        changes["n_epochs"] = 2
    if config["zca"]:
        changes["zca"] = 0.1
    if config["hidden"]:
        changes["hidden"] = [min(m, 64) for m in config["hidden"]]
    return config | changes


def row(name, *, setting="", reported=None, **changes):
    """A row of an experiment: its name in tables and files, what is special about its setting, and its config.

    reported {document: number as text}: what documents print for this row.
    """
    return {"name": name, "setting": setting, "reported": reported or {}, "config": config(**changes)}


# ------------------------------------------------------------------------------------------------- the command line


def at_least_one(text):
    """The integer of an option, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def parser(doc):
    """A parser whose --help shows the script's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def add_out(parser):
    """Add the options that say where results go."""
    parser.add_argument("--out", type=Path, default=HOME, metavar="DIR", help="folder of results/ and figures/ (default: here)")
    parser.add_argument("--publish", action="store_true", help="write to results/published and figures/published (maintainers)")


def output_folder(opts, kind, label=""):
    """Return the folder of kind ("results", "figures"), made if necessary: the published one with --publish, else label's."""
    return make_folder(opts.out / kind / ("published" if opts.publish else label))


def make_folder(folder):
    """Make a folder below --out, unless it is there already, and return it. Raises UserError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder}: nothing can be written there ({error.strerror}); name another place with --out") from None
    return folder


def options(doc, datasets, dataset="cifar10", argv=None, seeds=1, others=()):
    """Parse the options that all drivers share.

    doc: the driver's docstring. datasets: the names that --dataset takes. dataset: the one that the driver is made for. seeds: the
    default of --seeds.
    others: names of further experiments of this driver, of which an option such as --ladder chooses one as opts.experiment.
    """
    options = parser(doc)
    choice = options.add_mutually_exclusive_group() if others else None  # argparse cannot show an empty one
    for name in others:
        choice.add_argument(f"--{name}", dest="experiment", action="store_const", const=name, help="see above")
    options.set_defaults(experiment=None)
    add = options.add_argument
    add("--dataset", choices=datasets, help=f"default: {dataset}, or a built-in synthetic set if it cannot be downloaded")
    add("--data-dir", type=Path, metavar="DIR", help="folder of the official files (default: $KBN_DATA_DIR, else one download)")
    add(
        "--seeds",
        type=at_least_one,
        default=seeds,
        metavar="N",
        help=f"train every network with seeds 0 .. N-1 (default {seeds})",
    )
    cores = joblib.cpu_count()
    add("--jobs", type=at_least_one, default=cores, metavar="N", help=f"parallel runs (default: one per core, here {cores})")
    add("--cluster", metavar="ADDRESS", help="train on a Dask cluster; the address of its scheduler, tcp://host:8786")
    add("--smoke", action="store_true", help="a quick trial of everything on little data, in folders of its own")
    add("--fresh", action="store_true", help="train again even if the result is already there")
    add("--quiet", action="store_true", help="print only tables and errors")
    add(
        "--figures",
        nargs="*",
        metavar="NAME",
        help="make the tables and figures again from stored results, without training; with NAMEs only these figures",
    )
    add("--format", choices=FORMATS, default="png", help="of the figures (default: png)")
    add_out(options)
    opts = options.parse_args(argv)
    opts.made_for = dataset
    if opts.cluster == "":
        options.error("argument --cluster: an address is needed, such as tcp://host:8786")
    if opts.publish and (opts.smoke or opts.dataset not in (None, dataset)):
        options.error(f"argument --publish: only results on the whole of {dataset} are published")
    return opts


def run_main(main):
    """Run a script's main(). A user's error is one line on stderr and status 1, an interruption one line and status 130.

    If nobody reads the output any more, as behind | head -1, the script ends without a word.
    """
    name = Path(sys.argv[0]).name
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack ± or a class name's letters
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            sys.exit(main())
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
        sys.exit(1)
    except (UserError, FloatingPointError, OSError) as error:
        filename = getattr(error, "filename", None)
        text = f"{filename}: {error.strerror}" if filename else str(error)
        sys.exit(f"{name}: error: {' '.join(text.split())}")
    except KeyboardInterrupt as error:
        print(f"\n{name}: interrupted{error}", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt but Python's own end
