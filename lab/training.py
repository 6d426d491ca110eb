"""What decides a result: how data is split and standardised, a net is made and trained, and its accuracy measured.

A stored result is used again only if this module, kbn, layers and nets are unchanged (see store.code_version).
"""

import time

import numpy as np

import kbn
import nets
from lab.settings import UserError


def split(raw, n_train=45_000, n_val=5_000, scale="each", seed=None, dtype=np.float32):
    """Divide raw (see data.load) into training, validation and test set, and standardise. A3, Exercise 1.

    The first n_train training images are for training, the n_val after them for validation; with a seed, of a random order.
    X = (pixel - mean) / sd with the mean and sd (divided by n) of the n_train images alone: of "each" dimension, or of "all"
    dimensions together (usual where most pixels at the border are black); with "none" each mean is subtracted and sd is 1
    (the CS231n report).
    Returns a dict: train, val, test, pairs X (d, n) in Fortran order, y (n,); mean, sd (d, 1); classes; shape.
    Raises UserError if raw has too few images.
    """
    images, labels = raw["images"], raw["labels"]
    if n_train + n_val > len(images):
        raise UserError(f"{raw['title']} has {len(images)} training images: they cannot be split into {n_train} for training "
                        f"and {n_val} for validation")  # fmt: skip
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(images))[: n_train + n_val]
        images, labels = images[order], labels[order]
    mean, sd = (column.astype(dtype) for column in mean_and_sd(images[:n_train], scale))
    val = slice(n_train, n_train + n_val)
    return {
        "train": (standardise(images[:n_train], mean, sd), labels[:n_train]),
        "val": (standardise(images[val], mean, sd), labels[val]),
        "test": (standardise(raw["test_images"], mean, sd), raw["test_labels"]),
        "mean": mean, "sd": sd, "classes": raw["classes"], "shape": raw["shape"],
    }  # fmt: skip


def mean_and_sd(images, scale="each", chunk=1000):
    """Return mean and sd, both (d, 1) float64, of images (n, d) uint8; 1 for a constant dimension. scale: see split.

    Sums of integers below 2^53 are exact in float64, so one pass over sums and sums of squares loses nothing.
    """
    if scale not in ("each", "all", "none"):
        raise ValueError(f"scale must be 'each', 'all' or 'none', not {scale!r}")
    n, d = images.shape
    total, squares = np.zeros(d), np.zeros(d)
    for start in range(0, n, chunk):
        x = images[start : start + chunk].astype(np.float64)
        total += x.sum(axis=0)
        squares += np.einsum("nd,nd->d", x, x)
    if scale == "all":
        total[:], squares[:] = total.mean(), squares.mean()
    sd = np.sqrt(n * squares - total**2) / n
    sd[(sd == 0) | (scale == "none")] = 1
    return (total / n)[:, None], sd[:, None]


def standardise(images, mean, sd):
    """Return (images.T - mean) / sd for images (n, d) uint8: X (d, n) in Fortran order, of the dtype of mean and sd (d, 1)."""
    X = np.empty(images.shape[::-1], mean.dtype, order="F")
    np.subtract(images.T, mean, out=X)
    X /= sd
    return X


def network(config, shape, K, rng):
    """Return the net of a config, as kbn's functions take it, and its initial params."""
    if config["specs"]:
        net = nets.build(config["specs"], shape, config["loss"])
        return net, nets.init_params(config["specs"], shape, rng, sigma=config["sigma"], sigma_b=config["sigma_b"])
    dims = [int(np.prod(shape)), *config["hidden"], K]
    return kbn.MLP, kbn.init_params(dims, rng, bn=config["bn"], sigma=config["sigma"], sigma_b=config["sigma_b"])


def hyper_parameters(config):
    """Return the complete hp of a config. The specs of a net give the place of its BN."""
    return kbn.complete_hp({name: config[name] for name in kbn.DEFAULTS if not (name == "bn" and config["specs"])})


def learning_rates(config, n):
    """Return the learning rate of each update, eta_max times decay after each epoch of n examples; None if it is cyclical."""
    if config["decay"] is None:
        return None
    per_epoch = n // config["n_batch"]
    return [config["eta_max"] * config["decay"] ** (t // per_epoch) for t in range(config["n_epochs"] * per_epoch)]


def run(config, seed, data, *, test=True, may_diverge=False, state=None, keep=None):
    """Train one net on data (see split) and measure it.

    test: whether to use the test set. may_diverge: record a diverged run as a result, without a model, instead of raising
    FloatingPointError. state, keep(state): see minibatch_gd's state and callback.
    Returns the result, a dict of numbers, and the model: params, stats and hp, or None.
    """
    rng, hp, K = np.random.default_rng(seed), hyper_parameters(config), len(data["classes"])
    data = data | {part: tuple(map(np.asarray, data[part])) for part in ("train", "val", "test")}  # plain views of memory maps
    net, params = network(config, data["shape"], K, rng)

    def after_epoch(state):
        if config["watched"]:
            X = data["train"][0][:, : config["watched"]]
            moments = nets.score_moments(config["specs"], data["shape"], X, state["params"], hp["eps"])
            kbn.record(state["history"]["epoch"], **{name: [value] for name, value in moments.items()})
        if keep:
            keep(state)

    start = time.perf_counter()
    try:
        params, stats, history = kbn.minibatch_gd(
            data["train"], data["val"], params, hp, rng,
            etas=learning_rates(config, config["n_train"]), net=net, callback=after_epoch, state=state,
        )  # fmt: skip
    except FloatingPointError as error:
        if not may_diverge:
            raise
        chance = {"val_accuracy": 1 / K} | ({"test_accuracy": 1 / K} if test else {})
        return chance | {"diverged": str(error), "duration_s": time.perf_counter() - start, "history": {}}, None
    epoch = history["epoch"]
    result = history["final"] | {name: epoch[name][-1] for name in epoch if name.startswith("val_")}
    result |= {"largest_loss": max(epoch["largest_loss"]), "diverged": "", "duration_s": time.perf_counter() - start}
    if test:
        result |= measure(config, net, params, stats, hp, data)
    return result | {"history": epoch}, {"params": params, "stats": stats, "hp": hp}


def measure(config, net, params, stats, hp, data):
    """Return what is measured on the test set after training.

    test_accuracy; for a net of specs with BN also test_accuracy_dataset, predicted with the statistics of the whole training
    set; if config asks for pictures, those of misclassified test images and of the first layer's filters.
    """
    (X, y), place = data["test"], {"bn": hp["bn"], "eps": hp["eps"]}
    measured = {"test_accuracy": kbn.accuracy(X, y, params, stats, **place, net=net)}
    if config["specs"] and stats:
        whole = kbn.dataset_stats(data["train"][0], params, **place, net=net)
        measured["test_accuracy_dataset"] = kbn.accuracy(X, y, params, whole, **place, net=net)
    if config["pictures"]:
        chunks = range(0, len(y), net.chunk)
        P = np.hstack([net.forward(X[:, i : i + net.chunk], params, stats, **place)[0] for i in chunks])
        wrong = np.flatnonzero(P.argmax(axis=0) != y)
        shown = wrong[: config["pictures"]]
        pixels = np.rint(X[:, shown] * data["sd"] + data["mean"]).astype(int)
        measured["pictures"] = {
            "filters": np.round(params["W1"], 4).tolist(), "classes": data["classes"], "shape": list(data["shape"]),
            "n_wrong": len(wrong), "n_test": len(y),
            "mistakes": [{"class": int(y[i]), "predicted": int(P[:, i].argmax()), "pixels": pixels[:, j].tolist()}
                         for j, i in enumerate(shown)],
        }  # fmt: skip
    return measured
