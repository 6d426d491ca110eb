"""What experiments change in training or watch in it: functions for the hooks of kbn.minibatch_gd.

A probe is a pair of functions: observe(t, params, grads, cache), called before each update, and measure(state), called after
each epoch, which returns numbers for the history.
"""

from types import SimpleNamespace

import numpy as np

import kbn

# -------------------------------------------------------------------------------------- the order of the training examples


def order_of(name, y, seed):
    """Return the function order(n, rng) of minibatch_gd by its name in a config. y (n,): the labels.

    "each epoch": a new random order before each epoch. "once": the first random order for ever. "by class": all examples of
    class 0, then those of class 1, and so on.
    """
    fixed = {
        "once": lambda: np.random.default_rng([seed, 8]).permutation(len(y)),
        "by class": lambda: np.argsort(y, kind="stable"),
    }
    if name == "each epoch":
        return kbn.shuffle
    if name not in fixed:
        raise ValueError(f"order must be 'each epoch', 'once' or 'by class', not {name!r}")
    indices = fixed[name]()
    return lambda n, rng: indices


# ---------------------------------------------------------------------------------------------------- the update rule


def without(update, names):
    """Return an update rule like update that leaves the params whose keys begin with one of names as they are."""
    if not names:
        return update

    def step(params, grads, memory, eta, momentum):
        update(params, {key: g for key, g in grads.items() if not key.startswith(tuple(names))}, memory, eta, momentum)

    return step


# ----------------------------------------------------------------------------------------- the statistics of a part of the batch


def grouped(net, size):
    """Return a net like net (kbn.MLP, or from nets.build with softmax) whose BN takes each `size` examples for a mini-batch.

    The cost of a mini-batch is the mean of the costs of its groups, and so is its gradient. The noise of BN's statistics is
    that of small mini-batches, the noise of the gradient that of a large one. Hoffer, Hubara, Soudry 2017, Algorithm 1.
    Training raises ValueError unless n_batch is a multiple of size.
    """

    def forward(X, params, stats=None, *, masks=None, **place):
        if stats is not None:
            return net.forward(X, params, stats, **place)
        caches = [net.forward(X[:, part], params, masks=masks and {key: mask[:, part] for key, mask in masks.items()}, **place)[1]
                  for part in parts(X, size)]  # fmt: skip
        whole = {key: np.concatenate([cache[key] for cache in caches], axis=1) for key in ("P", "logP")}
        whole |= {key: sum(cache[key] for cache in caches) / len(caches) for key in caches[0] if key.startswith(("mu", "v"))}
        return whole["P"], whole | {"groups": caches}

    def backward(Y, params, cache, lam, *, penalty=kbn.L2, out=None):
        grads = [
            net.backward(Y[:, part], params, group, lam, penalty=penalty)
            for part, group in zip(parts(Y, size), cache["groups"])
        ]
        return {key: sum(one[key] for one in grads) / len(grads) for key in grads[0]}

    return SimpleNamespace(**vars(net) | {"forward": forward, "backward": backward})


def parts(X, size):
    """Return the slices of size columns each of X. Raises ValueError if they do not fit."""
    n = X.shape[1]
    if n % size:
        raise ValueError(f"a mini-batch of {n} cannot be divided into groups of {size}")
    return [slice(i, i + size) for i in range(0, n, size)]


# -------------------------------------------------------------------------------------------------------------- probes


def norms(lam, per_epoch):
    """The probe of the norms of the loss's gradients, relative to those of the weights, at the first update of each epoch.

    norm{l} = |dL/dW_l| / |W_l|, L the cost without its L2 penalty, whose own ratio is 2 lam.
    """
    latest = {}

    def observe(t, params, grads, cache):
        if t % per_epoch == 0:
            for l in range(1, kbn.n_layers(params) + 1):
                W, g = params[f"W{l}"], grads[f"W{l}"]
                latest[f"norm{l}"] = float(np.linalg.norm(g - kbn.l2_gradient(W, lam)) / np.linalg.norm(W))

    return observe, lambda state: dict(latest)


def averages(alphas, data, hp, net, memory):
    """The probe of several moving averages side by side: the validation accuracy that each predicts with.

    val_accuracy_alpha{alpha} for each of alphas, and val_accuracy_dataset with the statistics of n_eval training examples.
    memory: that of a state, where the averages are kept.
    """
    place = {"bn": hp["bn"], "eps": hp["eps"], "net": net}
    stats = {alpha: {} for alpha in alphas}
    for i, alpha in enumerate(alphas):
        stats[alpha] |= {key.removesuffix(f"@alpha{i}"): memory[key] for key in memory if key.endswith(f"@alpha{i}")}

    def observe(t, params, grads, cache):
        for alpha in alphas:
            kbn.update_stats(stats[alpha], cache, alpha)

    def measure(state):
        for i, alpha in enumerate(alphas):
            state["memory"].update({f"{name}@alpha{i}": array for name, array in stats[alpha].items()})
        sample = np.arange(hp["n_eval"]) * data["train"][0].shape[1] // hp["n_eval"]
        whole = kbn.dataset_stats(data["train"][0][:, sample], state["params"], **place)
        found = {f"alpha{alpha}": stats[alpha] for alpha in alphas} | {"dataset": whole}
        return {
            f"val_accuracy_{name}": kbn.accuracy(*data["val"], state["params"], own, **place) for name, own in found.items()
        }

    return observe, measure
