"""DD2424 Assignment 3: k-layer networks with batch normalization (BN), on CIFAR-10.

Name:
Student id:

    python assignment3.py --data-dir DIR                 everything, in the order of the assignment, with one seed
    python assignment3.py --data-dir DIR --seeds 5       the same with the mean and standard deviation of five seeds
    python assignment3.py --data-dir DIR --exercise 2    one exercise: 1 (the gradient checks), 2, 3 or sensitivity
    python assignment3.py --data-dir DIR --smoke         everything in half a minute, on a small part of the data
    python assignment3.py --synthetic                    the same without CIFAR-10, on noisy patterns

DIR is the folder with the six official batches of CIFAR-10 (python version), or the folder around it. The environment
variable KBN_DATA_DIR may name it instead. The script prints the gradient checks and the accuracies, and writes the figures.
One seed takes a quarter of an hour on one core and 2 GB of memory. Set OPENBLAS_NUM_THREADS=1 in the environment: on
several threads the small matrices of these networks train several times slower. Python 3.11, numpy and matplotlib are needed.

Source: kbn ({version}), MIT licence.

{notation}

A3 in a docstring is this assignment.
"""

import argparse
import os
import pickle
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import jitter
import kbn
import run_ex4
from lab import gradients, recipes, training

# ----------------------------------------------------------------------------------------------------- the data

BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
IMAGES, PIXELS, CLASSES = 10_000, 3072, 10  # images in a batch, numbers in an image, classes


def load_data(opts):
    """Return images (50000, 3072) uint8 and labels (50000,), and the same of the test set. Raises OSError for missing files."""
    if opts.synthetic:
        return draw_synthetic()
    folder = opts.data_dir or os.environ.get("KBN_DATA_DIR")
    if not folder:
        raise OSError("name the folder of CIFAR-10 with --data-dir or KBN_DATA_DIR, or try --synthetic")
    inner = Path(folder, "cifar-10-batches-py")
    folder = inner if inner.is_dir() else Path(folder)
    missing = [name for name in BATCHES if not (folder / name).is_file()]
    if missing:
        raise OSError(f"{folder}: {missing[0]} is missing; name the folder of {BATCHES[0]} with --data-dir or KBN_DATA_DIR")
    images, labels = zip(*(read_batch(folder / name) for name in BATCHES))
    n_test = 1_000 if opts.smoke else IMAGES
    return np.concatenate(images[:5]), np.concatenate(labels[:5]), images[5][:n_test], labels[5][:n_test]


def read_batch(path):
    """Return images (10000, 3072) uint8 and labels (10000,) of an official batch. Raises OSError if it is something else."""
    try:
        with open(path, "rb") as file:
            batch = InertUnpickler(file, encoding="bytes").load()
        _, shape, _, fortran, content = batch[b"data"].state
        images = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")
        labels = np.array(batch[b"labels"])
        if images.shape != (IMAGES, PIXELS) or labels.shape != (IMAGES,) or set(labels.tolist()) != set(range(CLASSES)):
            raise ValueError(f"it must hold {IMAGES} images of {PIXELS} numbers with labels in 0..{CLASSES - 1}")
    except Exception as error:  # damaged content can raise anything
        raise OSError(f"{path} cannot be read as a batch of CIFAR-10: {error!r}") from error
    return images, labels


class InertUnpickler(pickle.Unpickler):
    """Reads a pickle, but runs nothing that it names: every class and function in it is Inert."""

    def find_class(self, module, name):
        return Inert


class Inert:
    """Keeps the state that a pickle gives to an object: of an array version, shape, dtype, whether in Fortran order, bytes."""

    def __init__(self, *args):
        self.state = None

    def __setstate__(self, state):
        self.state = state


def draw_synthetic(n=1_500, n_test=1_000):
    """Return n + n_test images of ten random patterns under strong noise, in the form of load_data."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=n + n_test)
    patterns = rng.integers(64, 192, size=(CLASSES, PIXELS))
    images = (patterns[labels] + 150 * rng.standard_normal((n + n_test, PIXELS))).clip(0, 255).astype(np.uint8)
    return images[:n], labels[:n], images[n:], labels[n:]


def split(raw, n_train, n_val):
    """Divide raw (see load_data) into training, validation and test set, and standardise every dimension. A3, Exercise 1.

    The first n_train images are for training, the n_val after them for validation. The mean and the standard deviation are
    those of the training images. Returns {"train", "val", "test"}, each a pair X (d, n) float32, y (n,).
    """
    images, labels, test_images, test_labels = raw
    train, val = slice(n_train), slice(n_train, n_train + n_val)
    mean, sd = images[train].mean(axis=0).astype(np.float32), images[train].std(axis=0).astype(np.float32)
    return {
        "train": (((images[train] - mean) / sd).T, labels[train]),
        "val": (((images[val] - mean) / sd).T, labels[val]),
        "test": (((test_images - mean) / sd).T, test_labels),
    }


# ----------------------------------------------------------------------------------------- training and figures

NETS = {"3-layer": [50, 50], "6-layer": [50, 30, 20, 20, 10], "9-layer": [50, 30, 20, 20, 10, 10, 10, 10]}  # hidden nodes


def train(configs, raw, opts, seeds, n_train=45_000, n_val=5_000, test=True):
    """Train the networks of configs with each of seeds, and print their accuracies in %: the mean +- standard deviation.

    configs {name: {"hidden", "sigma" (None if absent: He), and the hyper-parameters that differ from DEFAULTS}}.
    Returns {name: [result of each seed]}, see run.
    """
    data, results = split(raw, *((1_000, 500) if opts.smoke else (n_train, n_val))), {}
    for name, config in configs.items():
        results[name] = [run(config, seed, data, opts.smoke, test) for seed in seeds]
        print(f"{name:42}", end="")
        for key in ["val_accuracy"] + ["test_accuracy"] * test:
            values = [100 * result[key] for result in results[name]]
            sd = f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            print(f"  {key.partition('_')[0]} {np.mean(values):.2f}{sd}", end="")
        print(flush=True)
    return results


def run(config, seed, data, smoke, test):
    """Train one network. Returns a dict: lam, val_accuracy, test_accuracy (if test), history (of the epochs)."""
    hp = kbn.DEFAULTS | {"bn": "off", "sigma": None} | config | ({"n_s": 20} if smoke else {})
    hidden, sigma, rng = hp.pop("hidden"), hp.pop("sigma"), np.random.default_rng(seed)
    params = kbn.init_params([PIXELS, *hidden, CLASSES], rng, bn=hp["bn"], sigma=sigma)
    params, stats, history = kbn.minibatch_gd(data["train"], data["val"], params, hp, rng)
    result = {"lam": hp["lam"], "val_accuracy": history["epoch"]["val_accuracy"][-1], "history": history["epoch"]}
    if test:
        result["test_accuracy"] = kbn.accuracy(*data["test"], params, stats, bn=hp["bn"], eps=hp["eps"])
    return result


def plot(axes, nets, column, label="{}", style="-"):
    """Plot a column of the histories against the update step, a line for each seed. nets: {what the legend says: results}."""
    for color, width, (name, results) in zip(("#D55E00", "#0072B2", "#009E73"), (3, 2, 1), nets.items()):
        for result in results:
            x, y = result["history"]["t"], result["history"][column]
            axes.plot(x, y, style, color=color, linewidth=width, label=label.format(name))
    axes.set(xlabel="update step", ylabel=column.replace("train_", "training ").replace("val_", "validation "))


def draw_curves(name, title, nets, opts):
    """Draw the cost, the loss and the accuracy on training and validation data. nets: see plot."""
    figure = Figure((9, 3.5), layout="constrained")
    for axes, column in zip(figure.subplots(1, 3), ("cost", "loss", "accuracy")):
        plot(axes, nets, f"train_{column}", "{}, training")
        plot(axes, nets, f"val_{column}", "{}, validation", "--")
        axes.set_ylabel(column)
    save(figure, name, title, opts)


def save(figure, name, title, opts):
    """Write a figure, with its title and a legend, to the folder of --out."""
    entries = {label: line for line, label in zip(*figure.axes[0].get_legend_handles_labels())}  # each label once
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=2 if len(entries) == 4 else 3)
    figure.suptitle(title)
    figure.savefig(opts.out / f"{name}.png", dpi=200)
    print(opts.out / f"{name}.png")


# ------------------------------------------------------------------------------------------------ the exercises


def exercise_1(raw, opts):
    """Check the gradients of all parameters, those of BN included, by two methods. Ends the script if one is wrong."""
    print("error: max |a - n| / max(|a|, |n|), a analytic, n numerical; absolute: max(|a|, |n|), where a is 0 in theory\n")
    for row in gradients.check_nets(0, gradients.CHECKED[:1] if opts.smoke else gradients.CHECKED):
        name = f"{row['net']}, BN {row['bn']}, lambda {row['lam']:g}, {row['parameter']}"
        errors = f"complex step {row['complex']:.1e}, central difference {row['central']:.1e}"
        print(f"{name:55} {row['judged']} error: {errors}, {row['verdict']}", flush=True)
        if row["verdict"] != "ok":
            sys.exit("error: this gradient is wrong")


def exercise_2(raw, opts):
    """Train networks without BN: the 2-layer one of Assignment 2 on one batch of CIFAR-10, and deeper ones."""
    old = {"hidden": [50], "lam": 0.01, "sigma": "xavier"}
    cycles = {"2-layer, 1 cycle": {**old, "n_s": 500, "n_cycles": 1}, "2-layer, 3 cycles": {**old, "n_s": 800, "n_cycles": 3}}
    train(cycles, raw, opts, range(opts.seeds), 10_000, 10_000)
    deeper = train({net: {"hidden": hidden} for net, hidden in NETS.items()}, raw, opts, range(opts.seeds))
    draw_curves("ex2-depth", "networks of 3, 6 and 9 layers, BN off", deeper, opts)


def exercise_3(raw, opts):
    """Train networks with BN beside the same without it; search for lambda, and train three cycles with the best one."""
    for net, hidden in NETS.items():
        configs = {net: {"hidden": hidden}, f"{net} BN": {"hidden": hidden, "bn": "before"}}
        draw_curves(f"ex3-{net}", f"{net} network, BN off and before the ReLU", train(configs, raw, opts, range(opts.seeds)), opts)
    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    for seed in range(opts.seeds):
        trials = search(raw, opts, seed)
        axes.plot(*zip(*((trial["lam"], trial["val_accuracy"]) for trial in trials)), "o", label=f"seed {seed}")
        config = {"hidden": NETS["3-layer"], "bn": "before", "lam": best_lambda(trials), "n_cycles": 3}
        train({f"seed {seed}, best lambda {config['lam']:.2e}, 3 cycles": config}, raw, opts, [seed])
    axes.set(xscale="log", xlabel="lambda", ylabel="validation accuracy")
    save(figure, "ex3-search", "search for lambda, 3-layer network, BN before the ReLU", opts)


def search(raw, opts, seed):
    """Try 20 lambdas in the 3-layer network with BN: 10 from 1e-5 .. 1e-1, 5 near the best of them, 5 near the best of these."""
    rng, trials = np.random.default_rng([seed, 3]), []
    lambdas = 10 ** rng.uniform(-5, -1, 10)
    for stage in ("coarse", "fine 1", "fine 2"):
        names = [f"seed {seed}, {stage}, trial {i}, lambda {lam:.2e}" for i, lam in enumerate(lambdas)]
        configs = {name: {"hidden": NETS["3-layer"], "bn": "before", "lam": lam} for name, lam in zip(names, lambdas)}
        found = [result for (result,) in train(configs, raw, opts, [seed], test=False).values()]
        trials, lambdas = trials + found, best_lambda(found) * rng.uniform(0.8, 1.2, 5)
    return trials


def best_lambda(trials):
    """Return the lambda of the trial with the highest validation accuracy."""
    return max(trials, key=lambda trial: trial["val_accuracy"])["lam"]


def sensitivity(raw, opts):
    """Train from weights of N(0, sigma^2), without BN and with BN for two values of epsilon."""
    variants = {"BN off": {}, "BN before, eps 2.2e-16": {"bn": "before"}, "BN before, eps 1e-5": {"bn": "before", "eps": 1e-5}}
    for net in ("3-layer", "9-layer"):
        figure = Figure((9, 5), layout="constrained")
        for (above, below), sigma in zip(figure.subplots(2, 3, sharex=True, sharey="row").T, (1e-1, 1e-3, 1e-4)):
            configs = {name: {"hidden": NETS[net], "sigma": sigma, **change} for name, change in variants.items()}
            print(f"{net} network, sigma {sigma:g}")
            results = train(configs, raw, opts, range(opts.seeds))
            plot(above, results, "train_loss")
            plot(below, results, "val_accuracy")
            above.set(title=f"sigma {sigma:g}", xlabel="")
        save(figure, f"sensitivity-{net}", f"{net} network, weights from N(0, sigma^2)", opts)


SHAPE = 3, 32, 32  # planes, rows and columns of an image
RECIPE = run_ex4.RECIPE["config"]
WAYS = {"": "one network", "_mirror": "mean over mirror images", "_ensemble": "mean over all networks so far"}


def exercise_4(raw, opts):
    """Train networks by RECIPE on whitened images, jittered in each mini-batch, and average their predictions."""
    data, plain, W, change = whitened(raw, opts.smoke)
    results, total = [], {"val": 0, "test": 0}
    for seed in range(opts.seeds):
        params, stats, hp, history = run_recipe(data, change, seed, opts.smoke)
        unwhitened, result = training.without_whitening(params, W), {"history": history["epoch"]}
        for part in total:
            X, y = data[part]
            total[part] = total[part] + training.probabilities(plain[part], kbn.MLP, unwhitened, stats, hp, SHAPE)
            P = {"": training.probabilities(X, kbn.MLP, params, stats, hp),
                 "_mirror": training.probabilities(X, kbn.MLP, params, stats, hp, SHAPE), "_ensemble": total[part]}
            result |= {f"{part}_accuracy{way}": float((P[way].argmax(axis=0) == y).mean()) for way in WAYS}
        for way, name in WAYS.items():
            val, test = (100 * result[f"{part}_accuracy{way}"] for part in total)
            print(f"{f'seed {seed}, {name}':42}  val {val:.2f}  test {test:.2f}", flush=True)
        results.append(result)
    draw_curves("ex4-recipe", "the recipe of Exercise 4", {"recipe": results}, opts)
    return results


def whitened(raw, smoke):
    """Standardise the images of raw (see load_data) and whiten them by X = W (image - mean) / sd.

    Returns {"train", "val", "test"}, each a pair X (d, n), y (n,); {"val", "test"}, each an X that is not multiplied by W;
    W (d, d); and the function change(X, rng) that jitters a mini-batch of X.
    """
    images, labels, *test = raw
    n_train, n_val, epsilon = (1_000, 500, 0.1) if smoke else (45_000, 5_000, RECIPE["zca"])
    train, val = slice(n_train), slice(n_train, n_train + n_val)
    parts = {"train": (images[train], labels[train]), "val": (images[val], labels[val]), "test": test}
    mean, sd = (column.astype(np.float32) for column in training.mean_and_sd(images[train]))
    data = {part: (training.standardise(images, mean, sd), y) for part, (images, y) in parts.items()}
    offset, W = (array.astype(np.float32) for array in training.whitening(data["train"][0], epsilon, SHAPE))
    for X, _ in data.values():
        training.whiten(X, offset, W)
    plain = {part: training.standardise(parts[part][0], mean + sd * offset, sd) for part in ("val", "test")}
    change = jitter.build(SHAPE, **RECIPE["jitter"], planes=W @ (jitter.planes_of(SHAPE) * (255 / sd)))
    return data, plain, W, change


def run_recipe(data, change, seed, smoke):
    """Train one network by RECIPE. data, change: see whitened. Returns params, stats, hp and history."""
    hp = kbn.DEFAULTS | {"bn": "off"} | {name: RECIPE[name] for name in RECIPE if name in kbn.DEFAULTS}
    hidden, n_epochs = ([min(m, 64) for m in RECIPE["hidden"]], 2) if smoke else (RECIPE["hidden"], RECIPE["n_epochs"])
    rng = np.random.default_rng(seed)
    params = kbn.init_params([PIXELS, *hidden, CLASSES], rng, bn=hp["bn"])
    etas = recipes.cosine_etas(n_epochs * (len(data["train"][1]) // hp["n_batch"]), hp["eta_max"], hp["eta_min"])
    params, stats, history = kbn.minibatch_gd(
        data["train"], data["val"], params, hp, rng, etas=etas, jitter=change, update=recipes.nesterov,
    )
    return params, stats, hp, history


EXERCISES = {"1": exercise_1, "2": exercise_2, "3": exercise_3, "sensitivity": sensitivity}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", metavar="DIR", help="folder of CIFAR-10 (default: $KBN_DATA_DIR)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train every network with N seeds (default: 1)")
    parser.add_argument("--exercise", choices=EXERCISES, help="default: all of them")
    parser.add_argument("--smoke", action="store_true", help="a quick trial on little data")
    parser.add_argument("--synthetic", action="store_true", help="a quick trial without CIFAR-10")
    figures = Path(__file__).with_name("figures")
    parser.add_argument("--out", type=Path, default=figures, metavar="DIR", help="for figures (default: beside this script)")
    opts = parser.parse_args()
    if opts.seeds < 1:
        parser.error(f"argument --seeds: {opts.seeds} is below 1")
    opts.smoke |= opts.synthetic
    raw = None if opts.exercise == "1" else load_data(opts)
    opts.out.mkdir(parents=True, exist_ok=True)
    for name in [opts.exercise] if opts.exercise else EXERCISES:
        print(f"\n---- {name}: {EXERCISES[name].__doc__}\n")
        EXERCISES[name](raw, opts)


if __name__ == "__main__":
    try:
        main()
    except (OSError, FloatingPointError) as error:
        filename = getattr(error, "filename", None)
        sys.exit(f"error: {filename}: {error.strerror}" if filename else f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
