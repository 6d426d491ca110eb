"""k-layer networks with batch normalization (BN), by hand, in numpy.

The method of DD2424 Assignment 3, in its order and its symbols. A number in parentheses is the assignment's equation.
Columns are examples: X (d, n), one-hot labels Y (K, n), labels y (n,), probabilities P (K, n).

params  W1..Wk (m_l, m_{l-1}), b1..bk (m_l, 1); with BN also gamma1..gamma{k-1}, beta1..beta{k-1} (m_l, 1)
grads   the gradient of the cost: the keys and shapes of params
stats   mu1..mu{k-1}, v1..v{k-1} (m_l, 1): the moving averages that prediction normalises with; {} without BN
cache   what forward leaves for backward
hp      hyper-parameters, see HYPER_PARAMETERS

All arrays keep the precision of params (float32 unless another is asked for). Complex numbers pass through forward, so
that gradients can be checked by complex steps. Every function works on any arrays that speak numpy's protocols, such as
CuPy's on a GPU, if all that it is given are such arrays; random numbers always come from numpy's generator.
"""
from types import SimpleNamespace

import numpy as np

EPS = 2.0**-52  # Matlab's eps, the epsilon of (11)

HUGE = 1e30  # no hyper-parameter is larger; float32 still holds it
HYPER_PARAMETERS = {  # name: (default, range or choices, meaning)
    "n_batch":  (100, (1, HUGE), "number of examples in a mini-batch"),
    "eta_min":  (1e-5, (0, HUGE), "lowest learning rate of the cycle"),
    "eta_max":  (1e-1, (0, HUGE), "highest learning rate of the cycle"),
    "n_s":      (2250, (1, HUGE), "number of updates in half a cycle"),
    "n_cycles": (2, (1, HUGE), "number of cycles; training makes 2 n_s n_cycles updates"),
    "lam":      (0.005, (0, HUGE), "lambda, the weight of the L2 penalty"),
    "alpha":    (0.9, (0, 1), "weight of the previous value in the moving averages"),
    "eps":      (EPS, (0, HUGE), "epsilon, added to the variances"),
    "bn":       ("before", ("off", "before", "after"), "place of BN, relative to the ReLU"),
    "momentum": (0.0, (0, 1), "mu of gradient descent with momentum; 0 is plain gradient descent"),
    "keep":     (1.0, (1e-3, 1), "probability with which dropout keeps a hidden unit"),
    "n_eval":   (5000, (1, HUGE), "number of training examples that the training curve is measured on"),
}
DEFAULTS = {name: default for name, (default, _, _) in HYPER_PARAMETERS.items()}


# ---------------------------------------------------------------------------------------------------- the network

def init_params(dims, rng, *, bn="off", sigma=None, sigma_b=0.0, dtype=np.float32):
    """Draw the weights of a k-layer network; beta is 0, gamma is 1. A3, Exercises 2 and 3.

    dims [d, m_1, ..., m_{k-1}, K], positive integers; rng a np.random.Generator; bn "off", "before" or "after".
    sigma is the standard deviation of the weights: None for He's sqrt(2 / m_{l-1}), "xavier" for 1 / sqrt(m_{l-1}), or
    one number for all layers. sigma_b is that of the biases.
    Returns params. Raises ValueError for an impossible width, sigma or bn.
    """
    if len(dims) < 2 or not all(isinstance(m, (int, np.integer)) and m > 0 for m in dims):
        raise ValueError(f"dims must be at least [d, K], all positive integers, not {list(dims)}")
    check_bn(bn)
    params = {}
    for l, (m_in, m) in enumerate(zip(dims[:-1], dims[1:]), start=1):
        params[f"W{l}"] = draw_weights((m, m_in), rng, sigma, dtype)
        params[f"b{l}"] = draw_weights((m, 1), rng, sigma_b, dtype) if sigma_b else np.zeros((m, 1), dtype)
        if bn != "off" and l < len(dims) - 1:
            params[f"gamma{l}"] = np.ones((m, 1), dtype)
            params[f"beta{l}"] = np.zeros((m, 1), dtype)
    return params


def draw_weights(shape, rng, sigma=None, dtype=np.float32):
    """Draw weights of this shape (m, ...) from N(0, sigma^2); the other dimensions multiply to m_{l-1}. See init_params."""
    if not (sigma in (None, "xavier") or isinstance(sigma, (int, float, np.number)) and 0 <= sigma < np.inf):
        raise ValueError(f"sigma must be a number >= 0, 'xavier' or None (He), not {sigma!r}")
    m_in = int(np.prod(shape[1:]))
    sd = {None: (2 / m_in) ** 0.5, "xavier": (1 / m_in) ** 0.5}.get(sigma, sigma)
    return float(sd) * rng.standard_normal(shape, dtype=dtype)


def check_bn(bn):
    """Raise ValueError unless bn is a place of BN."""
    if bn not in ("off", "before", "after"):
        raise ValueError(f"bn must be 'off', 'before' or 'after' (the ReLU), not {bn!r}")


def n_layers(params):
    """Return k, the number of weight matrices in params."""
    k = 1
    while f"W{k + 1}" in params:
        k += 1
    return k


def ones_n(A):
    """Return 1_n, the column (n, 1) of ones by which the equations sum over the n columns of A (m, n)."""
    return np.ones_like(A[:1].T)


def forward(X, params, stats=None, *, bn="before", eps=EPS, masks=None):
    """Apply the network to the columns of X. A3 (1)-(4) without BN, (12)-(19) with it, (5)-(10) if stats are given.

    X (d, n). A net has BN if params hold gamma1; bn is its place: "before" the ReLU (A3) or "after" it (Exercise 4).
    stats None: training; BN normalises with the means and variances of X itself. Otherwise prediction with mu1, v1, ... of
    stats ({} without BN); a layer whose mu is None is measured on X as in training.
    masks mask1..mask{k-1} (m_l, n) are dropout's factors, see dropout_masks.
    Returns P (K, n) and the cache: P, logP, and what was measured, mu1.., v1... In training also X0..X{k-1} the input of
    each layer, A1.. the ReLU's output, S1.., Shat1.. what BN normalises and the result.
    Raises ValueError if shapes do not fit, or for an impossible bn or eps.
    """
    if X.ndim != 2 or X.shape[0] != params["W1"].shape[1]:
        raise ValueError(f"X {X.shape} does not fit W1 {params['W1'].shape}: X must be ({params['W1'].shape[1]}, n)")
    check_bn(bn)
    if "gamma1" not in params:
        bn = "off"
    elif bn == "off":
        raise ValueError("bn is 'off', but params hold gamma1")
    if not 0 <= eps <= HUGE:
        raise ValueError(f"eps must be a number from 0 to {HUGE:g}, not {eps!r}")
    k, cache = n_layers(params), {"bn": bn, "eps": float(eps)}
    if bn != "off":
        cache["average"] = ones_n(X) / X.shape[1]
    if stats is None:
        cache |= {"X0": X, "masks": masks}
    for l in range(1, k):
        S = params[f"W{l}"] @ X
        S += params[f"b{l}"]                                        # (1), (5), (12)
        if bn == "before":
            S = bn_forward(l, S, params, stats, cache)              # (13)-(16), or (6), (7)
        A = X = np.maximum(S, 0, out=S)                             # (2), (8), (17)
        if bn == "after":
            X = bn_forward(l, A, params, stats, cache)
        if masks is not None:
            X = X * masks[f"mask{l}"]
        if stats is None:
            cache[f"A{l}"], cache[f"X{l}"] = A, X
    S = params[f"W{k}"] @ X
    S += params[f"b{k}"]                                            # (3), (9), (18)
    cache["P"], cache["logP"] = softmax(S)                          # (4), (10), (19)
    return cache["P"], cache


def softmax(S):
    """Return the columns of probabilities of scores S (K, n), and their logarithms, both (K, n). A3 (4).

    The largest score of each column is subtracted first: it cancels, and nothing overflows.
    """
    S = S - S.max(axis=0)
    P = np.exp(S)
    Z = P.sum(axis=0)
    P /= Z
    S -= np.log(Z)
    return P, S


def bn_forward(l, S, params, stats, cache):
    """Apply the BN of layer l to S (m, n). Returns the result (m, n); cache gets what bn_backward needs. A3 (13)-(16)."""
    if stats is None or stats[f"mu{l}"] is None:
        S_hat, cache[f"mu{l}"], cache[f"v{l}"] = normalize_by_own(S, cache["average"], cache["eps"])
    else:
        S_hat = batch_normalize(S, stats[f"mu{l}"], stats[f"v{l}"], cache["eps"])  # (6)
    if stats is None:
        cache[f"S{l}"], cache[f"Shat{l}"] = S, S_hat
    S_tilde = params[f"gamma{l}"] * S_hat
    S_tilde += params[f"beta{l}"]                                   # (7), (16)
    return S_tilde


def normalize_by_own(S, average, eps=EPS):
    """Return S (m, n) normalised by its own mean and variance, and these, both (m, 1). A3 (13)-(15).

    average (n, 1) is 1_n / n. The first column is subtracted before the mean is taken: otherwise the rounding error of a
    large mean would become the variance of a row that hardly varies.
    """
    D = S - S[:, :1]
    rest = D @ average
    mu = S[:, :1] + rest                                            # (13)
    D -= rest
    v = D**2 @ average                                              # (14)
    D *= (v + eps) ** -0.5                                          # (15)
    return D, mu, v


def batch_normalize(S, mu, v, eps=EPS):
    """Normalise S (m, n) by the mean mu and the variance v, both (m, 1). Returns S_hat (m, n). A3 (11)."""
    S_hat = S - mu
    S_hat *= (v + eps) ** -0.5
    return S_hat


def dropout_masks(params, n, keep, rng):
    """Draw mask1..mask{k-1} (m_l, n), one for each hidden layer, see draw_mask."""
    biases = {l: params[f"b{l}"] for l in range(1, n_layers(params))}
    return {f"mask{l}": draw_mask((len(b), n), keep, rng, b) for l, b in biases.items()}


def draw_mask(shape, keep, rng, like):
    """Draw 1 / keep with probability keep, else 0, so that the expectation of what it multiplies does not change.

    Returns an array of this shape, of the dtype and the library of the array like.
    """
    return np.asarray((rng.random(shape) < keep).astype(like.dtype) / float(keep), like=like)


# -------------------------------------------------------------------------------------------------- the gradients

def l2(W, lam):
    """Return lam ||W||^2, the term of one weight matrix in A3 (20)."""
    return lam * (W.ravel() @ W.ravel()) if lam else 0.0  # 0 also if a weight's square overflows


def l2_gradient(W, lam):
    """Return the gradient of l2, the second term of A3 (22)."""
    return 2 * lam * W


L2 = SimpleNamespace(value=l2, gradient=l2_gradient)  # another such pair can take its place as the penalty


def backward(Y, params, cache, lam, *, penalty=L2, out=None):
    """Return grads, the gradient of the cost (20) for the mini-batch that forward has just seen. A3 (21)-(30).

    Y (K, n) one-hot; cache from forward without stats; lam the weight of the penalty. out: grads of an earlier call; their
    W arrays are written over, because new memory for large arrays costs time (a sixth of a step with 3 x 1024 units).
    The equations divide every sum by n. Here G is divided once, at the start.
    Raises ValueError if Y does not fit, or if the cache is one of prediction.
    """
    k, P, bn = n_layers(params), cache["P"], cache["bn"]
    if Y.shape != P.shape:
        raise ValueError(f"Y {Y.shape} does not fit the network's output {P.shape}")
    if "X0" not in cache:
        raise ValueError("backward needs the cache of training: call forward without stats")
    one, lam, masks, grads, out = ones_n(P), float(lam), cache["masks"], {}, out or {}
    G = (P - Y) / Y.shape[1]                                        # (21)
    for l in range(k, 0, -1):
        if l < k:
            G = params[f"W{l + 1}"].T @ G                           # (23), (29)
            if masks is not None:
                G *= masks[f"mask{l}"]
            if bn == "after":
                G = bn_backward(l, G, one, params, cache, grads)
            G *= cache[f"A{l}"] > 0                                 # (24), (30)
            if bn == "before":
                G = bn_backward(l, G, one, params, cache, grads)    # (25)-(27)
        grads[f"W{l}"] = np.matmul(G, cache[f"X{l - 1}"].T, out=out.get(f"W{l}"))
        grads[f"W{l}"] += penalty.gradient(params[f"W{l}"], lam)
        grads[f"b{l}"] = G @ one                                    # (22), (28)
    return grads


def bn_backward(l, G, one, params, cache, grads):
    """Propagate G (m, n) back through the BN of layer l; grads gets gamma's and beta's. Returns dJ/dS (m, n)."""
    G, grads[f"gamma{l}"], grads[f"beta{l}"] = bn_gradients(
        G, one, cache[f"Shat{l}"], params[f"gamma{l}"], cache[f"v{l}"], cache["eps"])
    return G


def bn_gradients(G, one, S_hat, gamma, v, eps):
    """Return dJ/dS (m, n), grad_gamma and grad_beta (m, 1) for G (m, n) = dJ/dS_tilde; one is 1_n. A3 (25)-(37) at once.

    It equals batch_norm_backpass(G gamma, S, mu, v, eps): with G1 = G gamma sigma1 and S_hat = D sigma1, (37) is
    G1 - mean(G1) - S_hat mean(G1 S_hat), and these two means are gamma sigma1 / n times the sums of (25).
    """
    grad_gamma, grad_beta = G * S_hat @ one, G @ one                # (25)
    G_S = S_hat * (grad_gamma / -len(one))
    G_S -= grad_beta / len(one)
    G_S += G
    G_S *= gamma * (v + eps) ** -0.5
    return G_S, grad_gamma, grad_beta


def batch_norm_backpass(G, S, mu, v, eps=EPS):
    """Propagate dJ/dS_hat to dJ/dS through the normalisation by the mini-batch's statistics. A3 (31)-(37).

    G (m, n) is dJ/dS_hat, S (m, n) the un-normalised scores, mu and v (m, 1) their mean and variance (divided by n).
    Returns dJ/dS (m, n).
    """
    average = ones_n(G) / G.shape[1]
    sigma1 = (v + eps) ** -0.5                                      # (31)
    sigma2 = (v + eps) ** -1.5                                      # (32)
    G1 = G * sigma1                                                 # (33)
    D = S - mu                                                      # (35)
    c = sigma2 * (G * D @ average)                                  # (34), (36), and the 1/n of (37)
    return G1 - G1 @ average - D * c                                # (37)


# --------------------------------------------------------------------------------------------- cost and accuracy

def one_hot(y, K, dtype=np.float32):
    """Return labels y (n,) in 0..K-1 as the columns of Y (K, n)."""
    return (np.arange(K, like=y)[:, None] == y).astype(dtype)


def cross_entropy(Y, logP):
    """Return the mean of -log p_y over the n columns of Y, logP (K, n): the loss, the first term of A3 (20)."""
    return -(Y * logP).sum() / Y.shape[1]


def total_penalty(params, lam, penalty=L2):
    """Return the sum of the penalty over all weight matrices, the second term of A3 (20)."""
    return sum(penalty.value(params[f"W{l}"], lam) for l in range(1, n_layers(params) + 1))


# The parts of a network that the functions below use. Another object with the same functions can take its place.
MLP = SimpleNamespace(
    forward=forward,
    backward=backward,
    dropout_masks=dropout_masks,
    loss=lambda Y, cache: cross_entropy(Y, cache["logP"]),
    d=lambda params: params["W1"].shape[1],
    chunk=1000,  # examples in one forward pass of evaluate
)


def compute_cost(X, Y, params, lam, stats=None, *, bn="before", eps=EPS, masks=None, net=MLP, penalty=L2):
    """Return the cost J (20) and the loss (its first term) on X (d, n), Y (K, n). The other arguments: see forward.

    If stats is None, BN uses the means and variances of X itself, as a gradient check must.
    """
    _, cache = net.forward(X, params, stats, bn=bn, eps=eps, masks=masks)
    loss = net.loss(Y, cache)
    return loss + total_penalty(params, lam, penalty), loss


def accuracy(X, y, params, stats, *, bn="before", eps=EPS, net=MLP):
    """Return the share of the columns of X (d, n) whose most probable class is y (n,). stats is {} without BN."""
    return evaluate(X, y, params, stats, bn=bn, eps=eps, net=net)["accuracy"]


def evaluate(X, y, params, stats, lam=0.0, *, bn="before", eps=EPS, net=MLP, penalty=L2):
    """Predict X (d, n) and compare with y (n,). stats is {} without BN.

    Returns {"cost", "loss", "accuracy"}. Raises ValueError if BN lacks its stats, and for impossible X or y, see prepare.
    """
    if stats is None or not {f"mu{l}" for l in bn_layers(params)} <= stats.keys():
        raise ValueError("prediction needs the moving averages that minibatch_gd returns as stats ({} without BN)")
    return evaluate_prepared(*prepare(X, y, params, "evaluated", net), params, stats, lam,
                             bn=bn, eps=eps, net=net, penalty=penalty)


def evaluate_prepared(X, y, params, stats, lam, *, bn, eps, net, penalty):
    """Return what evaluate returns, for data that prepare has checked."""
    losses, hits, parts = [], [], [slice(i, i + net.chunk) for i in range(0, len(y), net.chunk)]
    for part in parts:
        P, cache = net.forward(X[:, part], params, stats, bn=bn, eps=eps)
        losses.append(net.loss(one_hot(y[part], len(P), P.dtype), cache))
        hits.append((P.argmax(axis=0) == y[part]).sum())
    loss = sum(loss * len(y[part]) for loss, part in zip(floats(losses), parts)) / len(y)
    return {"cost": loss + float(total_penalty(params, lam, penalty)), "loss": loss, "accuracy": sum(floats(hits)) / len(y)}


def floats(scalars):
    """Return a list of Python's floats for a list of 0-dimensional arrays: one transfer from a GPU."""
    return np.stack(scalars).astype(float).tolist()


def bn_layers(params):
    """Return the layers l that have BN, in order."""
    return sorted(int(key.removeprefix("gamma")) for key in params if key.startswith("gamma"))


# ------------------------------------------------------------------------------------------------------- training

def cyclical_eta(t, eta_min, eta_max, n_s):
    """Return the learning rate of update t = 0, 1, ...: linear from eta_min to eta_max in n_s updates, back in the next n_s.

    DD2424 Assignment 2 (14), (15). It is exactly eta_min at t = 0, 2 n_s, ... and eta_max at n_s, 3 n_s, ...
    """
    height = 1 - abs(t % (2 * n_s) / n_s - 1)
    return (1 - height) * eta_min + height * eta_max


def update_params(params, grads, memory, eta, momentum=0.0):
    """Take one step of gradient descent, in place: v = momentum v - eta grad, param = param + v.

    memory holds v and stays empty without momentum. Overwrites grads with eta grad.
    """
    for key, step in grads.items():
        step *= eta
        if momentum:
            if key not in memory:
                memory[key] = np.zeros_like(step)
            v = memory[key]
            v *= momentum
            v -= step
            params[key] += v
        else:
            params[key] -= step


def update_stats(stats, cache, alpha):
    """Move the averages towards the mini-batch's means and variances, in place. The first mini-batch sets them. A3 (38), (39)."""
    if not stats:
        stats.update({key: cache[key].copy() for key in cache if key.startswith(("mu", "v"))})
    for key, average in stats.items():
        average *= alpha
        average += (1 - alpha) * cache[key]


def shuffle(n, rng):
    """Return a random order of n training examples."""
    return rng.permutation(n)


@np.errstate(all="ignore")
def minibatch_gd(train, val, params, hp, rng, *, net=MLP, penalty=L2, etas=None, order=shuffle, jitter=None,
                 update=update_params, observe=None, callback=None, state=None):
    """Train by mini-batch gradient descent with a cyclical learning rate. A3, Exercises 2 and 3.

    train, val: pairs X (d, n), y (n,). params: the start; it is not changed. hp: any of HYPER_PARAMETERS by name.
    rng: a np.random.Generator. It shuffles the training examples before every epoch; the first n // n_batch mini-batches
    of that order make the epoch.
    net: MLP, or an object with the same functions for other layers (see nets.build). penalty: L2, or another such pair.

    What an experiment can change:
      etas                                         the learning rate of each update, in order, instead of the cyclical one
      order(n, rng)                                the order of the training examples in an epoch
      jitter(X, rng)                               returns the mini-batch to train on; X (d, n_batch) is a copy
      update(params, grads, memory, eta, momentum) the update rule; memory is a dict of arrays, {} at first
      observe(t, params, grads, cache)             is called before each update; it copies what it wants to hold
      callback(state)                              is called after each epoch with t, params, stats, memory, history, rng
      state                                        such a state; the result is bit-identical to an uninterrupted training

    Returns params, stats (the moving averages) and history, dicts of floats and of lists of floats:
      history["update"]  loss and accuracy of each mini-batch, before its update
      history["epoch"]   after each epoch t (updates so far), largest_loss (of its mini-batches), train_cost, train_loss and
                         train_accuracy of n_eval training examples (always the same), val_cost, val_loss, val_accuracy
      history["final"]   train_cost, train_loss, train_accuracy of the whole training set at the end
    Costs after an epoch are predicted with the moving averages.
    Raises ValueError for impossible data or hyper-parameters, FloatingPointError if the loss becomes nan or inf.
    """
    hp = complete_hp(hp)
    X, y = prepare(*train, params, "training", net)
    X_val, y_val = prepare(*val, params, "validation", net)
    n, n_batch, place = len(y), hp["n_batch"], {"bn": hp["bn"], "eps": hp["eps"]}
    if n_batch > n:
        raise ValueError(f"n_batch is {n_batch}, but there are only {n} training examples")
    if n_batch == 1 and bn_layers(params):
        raise ValueError("n_batch is 1, but batch normalization needs at least 2 examples in a mini-batch")
    if etas is None:
        etas = [cyclical_eta(t, hp["eta_min"], hp["eta_max"], hp["n_s"]) for t in range(2 * hp["n_s"] * hp["n_cycles"])]
    if state is None:
        state = {"t": 0, "params": {key: param.copy() for key, param in params.items()}, "stats": {}, "memory": {},
                 "history": {"update": {}, "epoch": {}}}
    else:
        rng.bit_generator.state = state["rng"]
    params, stats, memory, history = (state[name] for name in ("params", "stats", "memory", "history"))
    Y = one_hot(y, len(params[f"b{n_layers(params)}"]), X.dtype)
    sample = slice(None) if hp["n_eval"] >= n else np.arange(hp["n_eval"], like=y) * n // hp["n_eval"]
    parts = {"train": (X.T[sample].T, y[sample]), "val": (X_val, y_val)}

    def scores(part, X, y):
        found = evaluate_prepared(X, y, params, stats, hp["lam"], **place, net=net, penalty=penalty)
        return {f"{part}_{name}": value for name, value in found.items()}

    while state["t"] < len(etas):
        indices, losses, hits, grads = np.asarray(order(n, rng), like=y), [], [], None
        for i in range(min(n // n_batch, len(etas) - state["t"])):
            batch = indices[i * n_batch:(i + 1) * n_batch]
            X_batch, Y_batch = X.T[batch].T, Y[:, batch]
            if jitter:
                X_batch = jitter(X_batch, rng)
            masks = net.dropout_masks(params, n_batch, hp["keep"], rng) if hp["keep"] < 1 else None
            P, cache = net.forward(X_batch, params, **place, masks=masks)
            losses.append(net.loss(Y_batch, cache))
            hits.append((P.argmax(axis=0) == y[batch]).sum())
            grads = net.backward(Y_batch, params, cache, hp["lam"], penalty=penalty, out=grads)
            if observe:
                observe(state["t"], params, grads, cache)
            update(params, grads, memory, etas[state["t"]], hp["momentum"])
            update_stats(stats, cache, hp["alpha"])
            state["t"] += 1
        losses = floats(losses)
        stop_if_diverged(losses, state["t"] - len(losses), etas)
        epoch = {"t": state["t"], "largest_loss": max(losses)}
        for part, data in parts.items():
            epoch |= scores(part, *data)
        stop_if_diverged([epoch["train_loss"]], state["t"] - 1, etas, "after")
        record(history["update"], loss=losses, accuracy=[hit / n_batch for hit in floats(hits)])
        record(history["epoch"], **{name: [value] for name, value in epoch.items()})
        if callback:
            callback(state | {"rng": rng.bit_generator.state})
    history["final"] = scores("train", X, y)
    return params, stats, history


def record(history, **lists):
    """Append the values of each list to the list of its name."""
    for name, values in lists.items():
        history.setdefault(name, []).extend(values)


def dataset_stats(X, params, *, bn="before", eps=EPS, net=MLP):
    """Return stats computed from all of X (d, n), the training set, instead of the moving averages; {} without BN.

    It works layer by layer, because what a layer sees depends on how those below it normalise. The means and variances of
    parts of X are merged: v is the mean of the parts' variances plus the variance of their means.
    Source: the Fashion-MNIST homework, "entire dataset".
    """
    stats = {f"{name}{l}": None for l in bn_layers(params) for name in ("mu", "v")}
    parts = [X[:, i:i + net.chunk] for i in range(0, X.shape[1], net.chunk)]
    for l in bn_layers(params):
        caches = [net.forward(part, params, stats, bn=bn, eps=eps)[1] for part in parts]
        share = [part.shape[1] / X.shape[1] for part in parts]
        mu = [cache[f"mu{l}"].astype(np.float64) for cache in caches]
        mean = sum(s * m for s, m in zip(share, mu))
        v = sum(s * (cache[f"v{l}"] + (m - mean) ** 2) for s, m, cache in zip(share, mu, caches))
        stats[f"mu{l}"], stats[f"v{l}"] = (A.astype(params[f"gamma{l}"].dtype) for A in (mean, v))
    return stats


# --------------------------------------------------------------------------------------------------------- checks

def complete_hp(hp):
    """Return hp completed with DEFAULTS, as plain numbers. Raises ValueError for an unknown name or an impossible value."""
    check_hp(hp)
    return {name: type(default)(hp.get(name, default)) for name, default in DEFAULTS.items()}


def check_hp(hp):
    """Raise ValueError for an unknown name or an impossible value."""
    for name, value in hp.items():
        if name not in HYPER_PARAMETERS:
            raise ValueError(f"unknown hyper-parameter {name!r}; there are {', '.join(HYPER_PARAMETERS)}")
        default, allowed, _ = HYPER_PARAMETERS[name]
        if name == "bn":
            check_bn(value)
        elif not (isinstance(value, (int, float, np.number)) and allowed[0] <= value <= allowed[1]
                  and type(default)(value) == value):
            raise ValueError(f"{name} must be {'a whole number' if isinstance(default, int) else 'a number'} "
                             f"from {allowed[0]:g} to {allowed[1]:g}, not {value!r}")
    eta_min, eta_max = (float(hp.get(name, DEFAULTS[name])) for name in ("eta_min", "eta_max"))
    if eta_min > eta_max:
        raise ValueError(f"eta_min {eta_min:g} is above eta_max {eta_max:g}")


@np.errstate(all="ignore")
def prepare(X, y, params, what, net=MLP):
    """Return X (d, n) in the precision of params and in Fortran order, copied only if necessary, and y (n,).

    what, such as "training", is a word for messages. Raises ValueError for shapes that do not fit, labels that are not integers in
    0..K-1, complex numbers, nan, inf, and numbers beyond the precision of params.
    """
    if not (hasattr(X, "shape") and hasattr(y, "shape")):
        raise ValueError(f"{what} X and y must be arrays, not {type(X).__name__} and {type(y).__name__}")
    d, K = net.d(params), len(params[f"b{n_layers(params)}"])
    if X.ndim != 2 or X.shape[0] != d or y.shape != X.shape[1:] or not len(y):
        raise ValueError(f"{what} X {X.shape} and y {y.shape} must be ({d}, n) and (n,)")
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= K:
        raise ValueError(f"{what} labels must be integers in 0..{K - 1}, not {y.dtype} in {y.min()}..{y.max()}")
    if X.dtype.kind not in "buif":
        raise ValueError(f"{what} X must hold real numbers, not {X.dtype}")
    X = X.astype(params["W1"].dtype, order="F", copy=False)
    suspects = np.flatnonzero(~np.isfinite(X.sum(axis=0)))          # a sum of large numbers may overflow
    bad = suspects[~np.isfinite(X[:, suspects]).all(axis=0)]
    if len(bad):
        raise ValueError(f"{what} X has nan or inf in {X.dtype} in {len(bad)} of its {len(y)} examples, the first is column {bad[0]}")
    return X, y


def stop_if_diverged(losses, t, etas, when="of"):
    """Raise FloatingPointError if one of the losses, of (or after) updates t, t + 1, ..., is nan or inf."""
    for t, loss in enumerate(losses, start=t):
        if not loss < np.inf:
            raise FloatingPointError(f"training diverged: the loss {when} update {t} (eta {etas[t]:.3g}) is {loss}; "
                                     "try a smaller eta_max, or other initial weights")
