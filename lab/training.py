"""What decides a result: how data is split and standardised, a net is made and trained, and its accuracy measured.

A stored result is used again only if this module and those of store.DECISIVE are unchanged.
"""

import time
from functools import partial
from types import SimpleNamespace

import numpy as np

import jitter
import kbn
import nets
from lab import probes, recipes
from lab.settings import UserError


def split(raw, n_train=45_000, n_val=5_000, scale="each", seed=None, zca=None, zca_last=False, dtype=np.float32):
    """Divide raw (see data.load) into training, validation and test set, and standardise. A3, Exercise 1.

    The first n_train images of the training set are for training and the next n_val for validation. A seed shuffles them first.
    X = (pixel - mean) / sd with the mean and sd (divided by n) of the n_train images alone: of "each" dimension, or of "all"
    dimensions together (usual where most pixels at the border are black); with "none" each mean is subtracted and sd is 1
    (the CS231n report); with "255" X = pixel / 255 (the Fashion-MNIST homework). With zca, the epsilon of whitening, X = W (pixel - mean) / sd; with zca_last X is not multiplied by W.
    Returns a dict: train, val, test, pairs X (d, n) in Fortran order, y (n,); mean, sd (d, 1); W (d, d), None without zca;
    whitened, whether X was multiplied by W; classes; shape. Raises UserError if raw has too few images.
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
    parts = {
        "train": (standardise(images[:n_train], mean, sd), labels[:n_train]),
        "val": (standardise(images[val], mean, sd), labels[val]),
        "test": (standardise(raw["test_images"], mean, sd), raw["test_labels"]),
    }
    W = None
    if zca is not None:
        offset, W = (array.astype(dtype) for array in whitening(parts["train"][0], zca, raw["shape"]))
        mean = mean + sd * offset
        for X, _ in parts.values():
            whiten(X, offset, None if zca_last else W)
    whitened = W is not None and not zca_last
    return parts | {"mean": mean, "sd": sd, "W": W, "whitened": whitened, "classes": raw["classes"], "shape": raw["shape"]}


def mean_and_sd(images, scale="each", chunk=1000):
    """Return mean and sd, both (d, 1) float64, of images (n, d) uint8; 1 for a constant dimension. scale: see split.

    Sums of integers below 2^53 are exact in float64, so one pass over sums and sums of squares loses nothing.
    """
    if scale not in ("each", "all", "none", "255"):
        raise ValueError(f"scale must be 'each', 'all', 'none' or '255', not {scale!r}")
    n, d = images.shape
    if scale == "255":
        return np.zeros((d, 1)), np.full((d, 1), 255.0)
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


def whitening(X, epsilon, shape=None, chunk=1000):
    """Return the mean (d, 1) and the matrix W (d, d), float64, that whiten pictures by W (X - mean): ZCA. X (d, n).

        W = U diag((w + epsilon mean(w))^-1/2) U^T,    U diag(w) U^T the covariance of X (divided by n)

    W is symmetric. The whitened X has the covariance U diag(w / (w + epsilon mean(w))) U^T: directions of much variance get a
    variance of nearly 1, and those of less than epsilon times the mean, which are mostly noise, stay below 1/2.
    shape (c, h, w): count the mirror image of each picture in X as well, so that whitening and mirroring can change places.
    It takes 18 s of one core for 45,000 pictures of d = 3072, 5 s of them for the eigenvectors.
    Raises ValueError unless epsilon is a positive number. Source: Krizhevsky 2009, "Learning Multiple Layers of Features
    from Tiny Images", appendix A; Bell, Sejnowski 1997.
    """
    if not 0 < epsilon < np.inf:
        raise ValueError(f"zca, the epsilon of whitening, must be a number above 0, not {epsilon!r}")
    d, n = X.shape
    total, C = np.zeros((d, 1)), np.zeros((d, d))
    for start in range(0, n, chunk):
        x = X[:, start : start + chunk].astype(np.float64)
        total += x.sum(axis=1, keepdims=True)
        C += x @ x.T
    mean, C = total / n, C / n
    if shape is not None:
        mirrored = np.arange(d).reshape(shape)[..., ::-1].ravel()
        mean, C = (mean + mean[mirrored]) / 2, (C + C[mirrored][:, mirrored]) / 2
    w, U = np.linalg.eigh(C - mean @ mean.T)
    w = np.maximum(w, 0)  # rounding can make an eigenvalue of 0 negative
    return mean, U * (w + epsilon * w.mean()) ** -0.5 @ U.T


def whiten(X, mean, W, chunk=1000):
    """Replace X (d, n) by W (X - mean), in place; W None is the identity.

    It takes 11 s of one core for 60,000 pictures of d = 3072, in float32.
    """
    for start in range(0, X.shape[1], chunk):
        D = X[:, start : start + chunk] - mean
        X[:, start : start + chunk] = D if W is None else W @ D


def without_whitening(params, W):
    """Return params of the same function of (pixel - mean) / sd as params are of W (pixel - mean) / sd: W1 takes W up."""
    return params | {"W1": params["W1"] @ W}


def network(config, shape, K, rng, W=None):
    """Return the net of a config, as kbn's functions take it, and its initial params. W: the matrix of whitening, see split.

    Raises UserError if the first layer of the net cannot take whitening up, or if its loss has no smoothed labels.
    """
    net, params = plain_network(config, shape, K, rng)
    if config["smoothing"]:
        if config["loss"] != "softmax":
            raise UserError(f"smoothing {config['smoothing']} needs the loss 'softmax', not {config['loss']!r}")
        net = recipes.smoothed(net, config["smoothing"])
    if config["bn_group"]:
        net = probes.grouped(net, config["bn_group"])
    if config["zca_last"]:
        net = SimpleNamespace(**vars(net) | {"forward": partial(forward_of_whitened, net.forward, W)})
    return net, params


def forward_of_whitened(forward, W, X, *rest, **named):
    """Apply forward to W X instead of X."""
    return forward(W @ X, *rest, **named)


def plain_network(config, shape, K, rng):
    """Return the net of a config without what network adds to it, and its initial params."""
    if config["specs"]:
        first = next(kind for kind, *_ in config["specs"] if kind != "dropout")
        if config["zca"] is not None and first != "affine":
            raise UserError(f"zca needs a net whose first layer is affine, not {first!r}")
        net = nets.build(config["specs"], shape, config["loss"])
        return net, nets.init_params(config["specs"], shape, rng, sigma=config["sigma"], sigma_b=config["sigma_b"])
    dims = [int(np.prod(shape)), *config["hidden"], K]
    return kbn.MLP, kbn.init_params(dims, rng, bn=config["bn"], sigma=config["sigma"], sigma_b=config["sigma_b"])


def hyper_parameters(config):
    """Return the complete hp of a config. The specs of a net give the place of its BN."""
    return kbn.complete_hp({name: config[name] for name in kbn.DEFAULTS if not (name == "bn" and config["specs"])})


def learning_rates(config, n):
    """Return the learning rate of each update, with epochs of n examples, as config["n_epochs"] says; None if it is cyclical."""
    if config["n_epochs"] is None:
        return None
    per_epoch = n // config["n_batch"]
    if config["decay"] is None:
        return recipes.cosine_etas(config["n_epochs"] * per_epoch, config["eta_max"], config["eta_min"])
    return [config["eta_max"] * config["decay"] ** (t // per_epoch) for t in range(config["n_epochs"] * per_epoch)]


def jitter_of(config, data):
    """Return the function that changes each mini-batch as config asks, or None. Dropout of inputs comes last."""
    keep = config["keep_input"]
    if not config["jitter"] and keep == 1:
        return None
    planes = jitter.planes_of(data["shape"]) * (255 / data["sd"])
    planes = data["W"] @ planes if data["whitened"] else planes
    change = jitter.build(data["shape"], **config["jitter"] or {}, planes=planes)

    def f(X, rng):
        X = change(X, rng)
        if keep < 1:
            X *= kbn.draw_mask(X.shape, keep, rng, X)
        return X

    return f


def run(config, seed, data, *, test=True, may_diverge=False, state=None, keep=None):
    """Train one net on data (see split) and measure it.

    test: whether to use the test set. may_diverge: record a diverged run as a result, without a model, instead of raising
    FloatingPointError. state, keep(state): see minibatch_gd's state and callback.
    Returns the result, a dict of numbers, and the model: params, stats, hp and snapshots, dicts of params and stats; or None.
    The model takes (pixel - mean) / sd also if the data is whitened (see without_whitening).
    """
    rng, hp, K = np.random.default_rng(seed), hyper_parameters(config), len(data["classes"])
    if config["snapshots"] and 2 * hp["n_s"] % (config["n_train"] // hp["n_batch"]):
        raise UserError(
            f"snapshots need cycles of whole epochs, and 2 n_s = {2 * hp['n_s']} updates are none: "
            f"an epoch has {config['n_train'] // hp['n_batch']}"
        )
    data = data | {part: tuple(map(np.asarray, data[part])) for part in ("train", "val", "test")}  # plain views of memory maps
    W = None if data["W"] is None else np.asarray(data["W"])
    net, params = network(config, data["shape"], K, rng, W)
    memory = dict(state["memory"]) if state else {}
    watching = []
    if config["norms"]:
        watching.append(probes.norms(hp["lam"], config["n_train"] // hp["n_batch"]))
    if config["alphas"]:
        watching.append(probes.averages(config["alphas"], data, hp, net, memory))

    def observe(*update):
        for look, _ in watching:
            look(*update)

    def after_epoch(state):
        for _, measure in watching:
            kbn.record(state["history"]["epoch"], **{name: [value] for name, value in measure(state).items()})
        if config["snapshots"] and state["t"] % (2 * hp["n_s"]) == 0:
            take_snapshot(state)
        memory.update(state["memory"])
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
            net=net, etas=learning_rates(config, config["n_train"]), jitter=jitter_of(config, data),
            order=probes.order_of(config["order"], data["train"][1], seed),
            update=probes.without(recipes.RULES[config["rule"]], config["fixed"]),
            observe=observe if watching else None, callback=after_epoch, state=state,
        )  # fmt: skip
    except FloatingPointError as error:
        if not may_diverge:
            raise
        chance = {"val_accuracy": 1 / K} | ({"test_accuracy": 1 / K} if test else {})
        return chance | {"diverged": str(error), "duration_s": time.perf_counter() - start, "history": {}}, None
    epoch = history["epoch"]
    result = history["final"] | {name: epoch[name][-1] for name in epoch if name.startswith("val_")}
    result |= {"largest_loss": max(epoch["largest_loss"]), "diverged": "", "duration_s": time.perf_counter() - start}
    for part in ("val", "test") if test else ("val",):
        if config["jitter"] and config["jitter"].get("share"):
            P = probabilities(data[part][0], net, params, stats, hp, data["shape"])
            result[f"{part}_accuracy_mirror"] = float((P.argmax(axis=0) == data[part][1]).mean())
    if test:
        result |= measure(config, net, params, stats, hp, data)
    networks = [{"params": params, "stats": stats}, *snapshots_of(memory)]
    if W is not None:
        networks = [network | {"params": without_whitening(network["params"], W)} for network in networks]
    return result | {"history": epoch}, {**networks[0], "hp": hp, "snapshots": networks[1:]}


def take_snapshot(state):
    """Copy params and stats of a state of minibatch_gd into its memory, which a checkpoint holds as well."""
    for group in ("params", "stats"):
        for key, array in state[group].items():
            state["memory"][f"{group}@{state['t']}@{key}"] = array.copy()


def snapshots_of(memory):
    """Return what take_snapshot left in memory: dicts of params and stats, the earliest first."""
    found = {}
    for name, array in memory.items():
        if name.startswith(("params@", "stats@")):
            group, t, key = name.split("@")
            found.setdefault(int(t), {"params": {}, "stats": {}})[group][key] = array
    return [found[t] for t in sorted(found)]


def probabilities(X, net, params, stats, hp, shape=None):
    """Return P (K, n) of X (d, n). shape (c, h, w): the mean of P for the pictures and for their mirror images."""
    parts = []
    for i in range(0, X.shape[1], net.chunk):
        views = [X[:, i : i + net.chunk]]
        if shape is not None:
            views.append(views[0].T.reshape(-1, *shape)[..., ::-1].reshape(views[0].shape[::-1]).T)
        P = [net.forward(view, params, stats, bn=hp["bn"], eps=hp["eps"])[0] for view in views]
        parts.append(sum(P) / len(P))
    return np.hstack(parts)


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
        P = probabilities(X, net, params, stats, hp)
        wrong = np.flatnonzero(P.argmax(axis=0) != y)
        shown = wrong[: config["pictures"]]
        X_shown, W1 = X[:, shown], params["W1"]
        if data["W"] is not None:
            W1 = W1 @ data["W"]
        if data["whitened"]:
            X_shown = np.linalg.solve(data["W"], X_shown)
        pixels = np.rint(X_shown * data["sd"] + data["mean"]).astype(int)
        measured["pictures"] = {
            "filters": np.round(W1, 4).tolist(), "classes": data["classes"], "shape": list(data["shape"]),
            "n_wrong": len(wrong), "n_test": len(y),
            "mistakes": [{"class": int(y[i]), "predicted": int(P[:, i].argmax()), "pixels": pixels[:, j].tolist()}
                         for j, i in enumerate(shown)],
        }  # fmt: skip
    return measured
