"""k-layer networks with batch normalization (BN), by hand, in numpy.

Everything that DD2424 Assignment 3 (document A) defines, in its order and its symbols; a number in parentheses is the
assignment's equation. Columns are examples: X (d, n), one-hot labels Y (K, n), labels y (n,), probabilities P (K, n).

params  W1..Wk (m_l, m_{l-1}), b1..bk (m_l, 1); with BN also gamma1..gamma{k-1}, beta1..beta{k-1} (m_l, 1)
grads   the keys and shapes of params
stats   mu1..mu{k-1}, v1..v{k-1} (m_l, 1): the moving averages that prediction normalises with; {} without BN
cache   what forward leaves for backward
hp      the hyper-parameters: DEFAULTS names and explains them all

Everything stays in the precision of params (float32 unless asked otherwise), and complex numbers pass through forward,
so that gradients can be checked by complex steps.
"""
import numpy as np

EPS = 2.0**-52  # Matlab's eps, the epsilon of equation (11)

DEFAULTS = {
    "n_batch": 100,    # examples in a mini-batch
    "eta_min": 1e-5,   # the cyclical learning rate climbs from here
    "eta_max": 1e-1,   # to here
    "n_s": 2250,       # in this many update steps, and comes back in as many: half a cycle
    "n_cycles": 2,     # so that training is 2 n_s n_cycles updates
    "lam": 0.005,      # lambda, the weight of the L2 penalty
    "alpha": 0.9,      # what the moving averages keep of their past at each update
    "eps": EPS,        # epsilon, added to the variances
    "bn": "before",    # BN stands before or after the ReLU (where params hold gamma at all)
    "momentum": 0.0,   # 0 is plain gradient descent
    "keep": 1.0,       # dropout keeps a hidden unit with this probability
    "schedule": "cyclical",  # of the learning rate; "step" starts at eta_max instead (C, D),
    "decay": 0.8,      # multiplies it by this after every epoch
    "n_epochs": 10,    # and ends after so many
}
RANGES = {"n_batch": (1, np.inf), "n_s": (1, np.inf), "n_cycles": (1, np.inf), "alpha": (0, 1), "momentum": (0, 1),
          "keep": (1e-3, 1), "decay": (0, 1), "n_epochs": (1, np.inf)}  # the others: 0 and above
CHOICES = {"bn": ("before", "after"), "schedule": ("cyclical", "step")}


# ---------------------------------------------------------------------------------------------------- the network

def init_params(dims, rng, batch_norm=False, sigma=None, dtype=np.float32):
    """Draw the weights of a k-layer network; biases and beta are 0, gamma is 1. A, Exercises 2 and 3.

    dims [d, m_1, ..., m_{k-1}, K] (k + 1 positive integers), rng a np.random.Generator.
    sigma, the standard deviation of the weights: None for He's sqrt(2 / m_{l-1}), "xavier" for 1 / sqrt(m_{l-1}),
    or one number for all layers (the sensitivity experiment).
    Returns params. Raises ValueError for an impossible width or sigma.
    """
    if len(dims) < 2 or not all(isinstance(m, (int, np.integer)) and m > 0 for m in dims):
        raise ValueError(f"dims must be at least [d, K], all positive integers, not {list(dims)}")
    params = {}
    for l, (m_in, m) in enumerate(zip(dims[:-1], dims[1:]), start=1):
        params[f"W{l}"] = draw_weights((m, m_in), rng, sigma, dtype)
        params[f"b{l}"] = np.zeros((m, 1), dtype)
        if batch_norm and l < len(dims) - 1:
            params[f"gamma{l}"] = np.ones((m, 1), dtype)
            params[f"beta{l}"] = np.zeros((m, 1), dtype)
    return params


def draw_weights(shape, rng, sigma=None, dtype=np.float32):
    """Normal numbers in an array of a shape (m, ...), where the others multiply to m_{l-1}; sigma as in init_params."""
    if not (sigma in (None, "xavier") or isinstance(sigma, (int, float, np.number)) and 0 <= sigma < np.inf):
        raise ValueError(f"sigma must be a number >= 0, 'xavier' or None (He), not {sigma!r}")
    m_in = int(np.prod(shape[1:]))
    scale = {None: (2 / m_in) ** 0.5, "xavier": (1 / m_in) ** 0.5}.get(sigma, sigma)
    return float(scale) * rng.standard_normal(shape, dtype=dtype)


def n_layers(params):
    """k, the number of weight matrices in params."""
    k = 1
    while f"W{k + 1}" in params:
        k += 1
    return k


def normalised(params):
    """The layers l that have BN, in order."""
    return sorted(int(key.removeprefix("gamma")) for key in params if key.startswith("gamma"))


def ones_n(A):
    """1_n: the column (n, 1) of ones by which the equations sum over the n examples of A (m, n), in A's precision."""
    return np.ones_like(A[:1].T)


def softmax(S):
    """Columns of probabilities and their logarithms, both (K, n), from scores S (K, n). A (4).

    The largest score of each column is subtracted first: it cancels, and nothing overflows.
    """
    S = S - S.max(axis=0)
    P = np.exp(S)
    Z = P.sum(axis=0)
    P /= Z
    S -= np.log(Z)
    return P, S


def batch_normalize(S, mu, v, eps=EPS):
    """Normalise scores S (m, n) by the mean mu and the variance v, both (m, 1). Returns S_hat (m, n). A (11)."""
    S_hat = S - mu
    S_hat *= (v + eps) ** -0.5
    return S_hat


def forward(X, params, stats=None, eps=EPS, bn="before", masks=None):
    """Apply the network to the columns of X. A (1)-(4) without BN, (12)-(19) with it, (5)-(10) where stats are given.

    X (d, n), params, stats mu1, v1, ... (None: the means and variances of X itself, as in training).
    BN is on where params hold gamma1; bn says where it stands: "before" the ReLU, normalising the scores (A), or
    "after" it, normalising the activations (Exercise 4 c, document E).
    masks mask1..mask{k-1} (m_l, n): dropout's factors of the activations, see dropout_masks.
    Returns P (K, n) and the cache: X0..X{k-1} what enters each layer, S1.. what is normalised, Shat1.. the result,
    mu1.., v1.. the mini-batch's own (only where stats is None), P, logP. Raises ValueError where shapes do not fit.
    """
    if X.ndim != 2 or X.shape[0] != params["W1"].shape[1]:
        raise ValueError(f"X {X.shape} does not fit W1 {params['W1'].shape}: X must be ({params['W1'].shape[1]}, n)")
    if bn not in ("before", "after"):
        raise ValueError(f"bn must be 'before' or 'after' (the ReLU), not {bn!r}")
    if not eps >= 0:
        raise ValueError(f"eps must be a number >= 0, not {eps!r}")
    bn = bn if "gamma1" in params else None
    k, eps, average = n_layers(params), float(eps), ones_n(X) / X.shape[1]
    cache = {"X0": X, "bn": bn, "eps": eps, "masks": masks}
    for l in range(1, k):
        S = params[f"W{l}"] @ X
        S += params[f"b{l}"]                                        # (1), (5), (12)
        if bn == "after":
            np.maximum(S, 0, out=S)
        if bn:
            if stats is None:
                cache[f"mu{l}"] = mu = S @ average                  # (13)
                cache[f"v{l}"] = v = (S - mu) ** 2 @ average       # (14)
            else:
                mu, v = stats[f"mu{l}"], stats[f"v{l}"]
            S_hat = batch_normalize(S, mu, v, eps)                  # (6), (15)
            cache[f"S{l}"], cache[f"Shat{l}"] = S, S_hat
            S = params[f"gamma{l}"] * S_hat
            S += params[f"beta{l}"]                                 # (7), (16)
        if bn != "after":
            np.maximum(S, 0, out=S)                                 # (2), (8), (17)
        if masks is not None:
            S *= masks[f"mask{l}"]
        cache[f"X{l}"] = X = S
    S = params[f"W{k}"] @ X
    S += params[f"b{k}"]                                            # (3), (9), (18)
    cache["P"], cache["logP"] = softmax(S)                          # (4), (10), (19)
    return cache["P"], cache


def one_hot(y, K, dtype=np.float32):
    """Labels y (n,) in 0..K-1 as the columns of Y (K, n)."""
    return (np.arange(K)[:, None] == y).astype(dtype)


def cross_entropy(Y, logP):
    """The mean of -log p_y over the n columns of Y, logP (K, n): the loss, the first term of A (20)."""
    return -(Y * logP).sum() / Y.shape[1]


def penalty(params, lam):
    """lam times the sum of ||W_l||^2, the second term of A (20)."""
    weights = (params[f"W{l}"].ravel() for l in range(1, n_layers(params) + 1))
    return lam * sum(w @ w for w in weights)


def backward(Y, params, cache, lam, grads=None):
    """The gradient of the cost (20) for the mini-batch that forward has just seen. A (21)-(30).

    Y (K, n) one-hot, cache from forward with the mini-batch's own statistics, lam the weight of the L2 penalty.
    Returns grads; those of an earlier call may be given, for their W arrays to be written over instead of made anew.
    Where the equations divide every sum by n, here G is divided once, at the start.
    Raises ValueError if the cache is one of prediction, or Y does not fit.
    """
    k, P, bn, masks = n_layers(params), cache["P"], cache["bn"], cache["masks"]
    grads = {} if grads is None else grads
    if Y.shape != P.shape:
        raise ValueError(f"Y {Y.shape} does not fit the network's output {P.shape}")
    if bn and "mu1" not in cache:
        raise ValueError("backward needs the mini-batch's own statistics: call forward without stats")
    one, lam = ones_n(P), float(lam)
    G = (P - Y) / Y.shape[1]                                        # (21)
    for l in range(k, 0, -1):
        X = cache[f"X{l - 1}"]
        if l < k:
            G = params[f"W{l + 1}"].T @ G                           # (23), (29)
            if masks is not None:
                G *= masks[f"mask{l}"]
            if bn != "after":
                G *= cache[f"X{l}"] > 0                             # (24), (30)
            if bn:
                grads[f"gamma{l}"] = G * cache[f"Shat{l}"] @ one
                grads[f"beta{l}"] = G @ one                         # (25)
                G *= params[f"gamma{l}"]                            # (26)
                G = batch_norm_backpass(G, cache[f"S{l}"], cache[f"mu{l}"], cache[f"v{l}"], cache["eps"])  # (27)
            if bn == "after":
                G *= cache[f"S{l}"] > 0
        grads[f"W{l}"] = np.matmul(G, X.T, out=grads.get(f"W{l}"))
        grads[f"W{l}"] += 2 * lam * params[f"W{l}"]
        grads[f"b{l}"] = G @ one                                    # (22), (28)
    return grads


def batch_norm_backpass(G, S, mu, v, eps=EPS):
    """Propagate dJ/dS_hat to dJ/dS through the normalisation by the mini-batch's own statistics. A (31)-(37).

    G (m, n) dJ/dS_hat, S (m, n) un-normalised scores, mu, v (m, 1) their mean and variance (divided by n).
    Returns dJ/dS (m, n).
    """
    average = ones_n(G) / G.shape[1]
    sigma1 = (v + eps) ** -0.5                                      # (31)
    sigma2 = (v + eps) ** -1.5                                      # (32)
    G1 = G * sigma1                                                 # (33)
    D = S - mu                                                      # (35)
    c = sigma2 * (G * D @ average)                                  # (34), (36), and the 1/n of (37)
    return G1 - G1 @ average - D * c                                # (37)


def dropout_masks(params, n, keep, rng):
    """Draw mask1..mask{k-1} (m_l, n), a draw_mask for each hidden layer."""
    hidden = {l: params[f"b{l}"] for l in range(1, n_layers(params))}
    return {f"mask{l}": draw_mask((len(b), n), keep, rng, b.dtype) for l, b in hidden.items()}


def draw_mask(shape, keep, rng, dtype):
    """1 / keep with probability keep, else 0, so that the expectation stays 1."""
    return (rng.random(shape) < keep).astype(dtype) / float(keep)


# ------------------------------------------------------------------------------------------------- cost and accuracy

# What evaluation and training need of a network. nets.build makes the same of a list of layers.
MLP = {
    "forward": forward,
    "backward": backward,
    "dropout_masks": dropout_masks,
    "loss": lambda Y, cache: cross_entropy(Y, cache["logP"]),
    "d": lambda params: params["W1"].shape[1],
    "chunk": 1000,  # columns that are best predicted together
}


def compute_cost(X, Y, params, lam, stats=None, eps=EPS, bn="before", masks=None, net=MLP):
    """Cost J (20) and loss (its first term) on X (d, n), Y (K, n); the other arguments as in forward.

    Where stats is None, BN uses the means and variances of X itself, as a check of the gradient must.
    """
    _, cache = net["forward"](X, params, stats, eps, bn, masks)
    loss = net["loss"](Y, cache)
    return loss + penalty(params, lam), loss


def accuracy(X, y, params, stats, eps=EPS, bn="before", net=MLP):
    """The share of the columns of X (d, n) whose most probable class is y (n,). stats is {} for a net without BN."""
    return evaluate(X, y, params, stats, eps=eps, bn=bn, net=net)["accuracy"]


def evaluate(X, y, params, stats, lam=0.0, eps=EPS, bn="before", net=MLP):
    """Predict X (d, n), some columns at a time, and compare with y (n,). stats is {} for a net without BN.

    Returns {"cost", "loss", "accuracy"}. Raises ValueError where BN lacks its stats.
    """
    if stats is None or not {f"mu{l}" for l in normalised(params)} <= stats.keys():
        raise ValueError("prediction needs the moving averages that minibatch_gd returns as stats ({} without BN)")
    n, loss, correct = len(y), 0.0, 0
    for i in range(0, n, net["chunk"]):
        y_i = y[i:i + net["chunk"]]
        P, cache = net["forward"](X[:, i:i + net["chunk"]], params, stats, eps, bn)
        loss += float(net["loss"](one_hot(y_i, len(P), P.dtype), cache)) * len(y_i) / n
        correct += np.count_nonzero(P.argmax(axis=0) == y_i)
    return {"cost": loss + float(penalty(params, lam)), "loss": loss, "accuracy": correct / n}


# ---------------------------------------------------------------------------------------------------------- training

def cyclical_eta(t, eta_min, eta_max, n_s):
    """The learning rate of update t = 0, 1, ...: linear from eta_min to eta_max in n_s updates, back in the next n_s.

    DD2424 Assignment 2 (14), (15). Exactly eta_min at t = 0, 2 n_s, ... and eta_max at n_s, 3 n_s, ...
    """
    height = 1 - abs(t % (2 * n_s) / n_s - 1)
    return (1 - height) * eta_min + height * eta_max


def step_eta(t, eta, decay, per_epoch):
    """The learning rate of update t: eta, multiplied by decay after every epoch of per_epoch updates. C, solver."""
    return eta * decay ** (t // per_epoch)


def schedule(hp, per_epoch):
    """The number of updates, and the function that gives the learning rate of each; per_epoch updates are an epoch."""
    if hp["schedule"] == "step":
        return hp["n_epochs"] * per_epoch, lambda t: step_eta(t, hp["eta_max"], hp["decay"], per_epoch)
    return 2 * hp["n_s"] * hp["n_cycles"], lambda t: cyclical_eta(t, hp["eta_min"], hp["eta_max"], hp["n_s"])


def update_params(params, grads, memory, eta, momentum=0.0):
    """One step of gradient descent, in place: v = momentum v - eta grad, param = param + v, with v in memory (D).

    Without momentum memory stays empty. grads are scaled by eta on the way.
    """
    for key, param in params.items():
        step = grads[key]
        step *= eta
        if momentum:
            memory[key] = momentum * memory.get(key, 0.0) - step
            param += memory[key]
        else:
            param -= step


def update_stats(stats, cache, alpha):
    """Move the averages towards the mini-batch's means and variances, in place; the first are taken whole. A (38), (39)."""
    if not stats:
        stats.update({key: cache[key].copy() for key in cache if key.startswith(("mu", "v"))})
    for key, average in stats.items():
        average *= alpha
        average += (1 - alpha) * cache[key]


def dataset_stats(X, params, eps=EPS, bn="before", net=MLP):
    """The means and variances over the whole of X (d, n), the training set, to predict with. E, "entire dataset".

    Another choice than the moving averages for the same trained params. Layer by layer, because what a layer sees depends
    on how those below it normalise. Returns stats; {} without BN.
    """
    stats = {f"{name}{l}": np.ones_like(params[f"gamma{l}"]) for l in normalised(params) for name in ("mu", "v")}
    for l in normalised(params):
        n = total = squares = 0
        for i in range(0, X.shape[1], net["chunk"]):
            _, cache = net["forward"](X[:, i:i + net["chunk"]], params, stats, eps, bn)
            S = cache[f"S{l}"].astype(np.float64)
            n, total, squares = n + S.shape[1], total + S @ ones_n(S), squares + S**2 @ ones_n(S)
        stats[f"mu{l}"][:] = total / n
        stats[f"v{l}"][:] = np.maximum(squares / n - (total / n) ** 2, 0)
    return stats


def train_step(X, y, params, stats, memory, grads, eta, hp, rng, net=MLP):
    """One update for the mini-batch X (d, n), y (n,): params, stats and memory move in place, grads are overwritten.

    Returns the loss, cost and accuracy of the mini-batch, before the update.
    """
    Y = one_hot(y, len(params[f"b{n_layers(params)}"]), X.dtype)
    masks = net["dropout_masks"](params, len(y), hp["keep"], rng) if hp["keep"] < 1 else None
    P, cache = net["forward"](X, params, None, hp["eps"], hp["bn"], masks)
    loss = float(net["loss"](Y, cache))
    cost = loss + float(penalty(params, hp["lam"]))
    net["backward"](Y, params, cache, hp["lam"], grads)
    update_params(params, grads, memory, eta, hp["momentum"])
    update_stats(stats, cache, hp["alpha"])
    return {"loss": loss, "cost": cost, "accuracy": np.count_nonzero(P.argmax(axis=0) == y) / len(y)}


@np.errstate(all="ignore")
def minibatch_gd(train, val, params, hp, rng, callback=None, state=None, net=MLP):
    """Train by mini-batch gradient descent with a learning rate that changes. A, Exercises 2, 3; C's solver; D.

    train, val: pairs X (d, n), y (n,); fastest where X is in Fortran order, in the precision of params.
    params: the start, left as it is. hp: any of DEFAULTS, by name. rng: a np.random.Generator; it shuffles the n
    training examples before every epoch, and the first n // n_batch mini-batches of the new order make the epoch.
    callback(state), if given, is called after every epoch with the live t, params, stats, memory, history and rng state;
    given such a state, training goes on from there in place of the start, to the same end to the bit.
    net: MLP, or what nets.build makes of other layers.
    Returns params, stats (the moving averages) and history, made of lists of floats:
      history["update"]  eta and the mini-batch's loss, cost and accuracy at each update
      history["epoch"]   after each epoch t (updates made), eta (the last one), train_cost, train_loss, train_accuracy,
                         val_cost, val_loss, val_accuracy, all predicted with the moving averages
    Raises ValueError for impossible data or hyper-parameters, FloatingPointError where the loss becomes nan or inf.
    """
    hp = check_hp(hp)
    X, y = check_data(*train, params, "training", net)
    X_val, y_val = check_data(*val, params, "validation", net)
    n, n_batch = len(y), hp["n_batch"]
    if n_batch > n:
        raise ValueError(f"n_batch is {n_batch}, but there are only {n} training examples")
    if n_batch == 1 and normalised(params):
        raise ValueError("n_batch is 1, but batch normalization needs at least 2 examples in a mini-batch")

    if state is None:
        state = {"t": 0, "params": {key: param.copy() for key, param in params.items()}, "stats": {}, "memory": {},
                 "history": {"update": {}, "epoch": {}}}
    else:
        rng.bit_generator.state = state["rng"]
    params, stats, memory, history = (state[bag] for bag in ("params", "stats", "memory", "history"))
    grads, X_batch = {}, np.empty_like(X[:, :n_batch])
    n_updates, eta_of = schedule(hp, n // n_batch)
    while state["t"] < n_updates:
        order = rng.permutation(n)
        for i in range(min(n // n_batch, n_updates - state["t"])):
            batch = order[i * n_batch:(i + 1) * n_batch]
            np.take(X.T, batch, axis=0, out=X_batch.T, mode="clip")
            eta = eta_of(state["t"])
            now = train_step(X_batch, y[batch], params, stats, memory, grads, eta, hp, rng, net)
            record(history["update"], eta=eta, **now)
            check_loss(now["loss"], f"of update {state['t']}", eta, hp["eta_max"])
            state["t"] += 1
        record(history["epoch"], t=state["t"], eta=eta)
        for part, data in (("train", (X, y)), ("val", (X_val, y_val))):
            now = evaluate(*data, params, stats, hp["lam"], hp["eps"], hp["bn"], net)
            record(history["epoch"], **{f"{part}_{name}": value for name, value in now.items()})
        check_loss(history["epoch"]["train_loss"][-1], f"after update {state['t'] - 1}", eta, hp["eta_max"])
        if callback:
            callback(state | {"rng": rng.bit_generator.state})
    return params, stats, history


def record(history, **values):
    """Append each value to the list of its name."""
    for name, value in values.items():
        history.setdefault(name, []).append(value)


# ------------------------------------------------------------------------------------------------------------ models

def save(path, params, stats, hp, **more):
    """Write a trained network to one .npz file, without pickle: params, stats, hp, and more arrays by name.

    path ends in .npz. Raises OSError.
    """
    bags = {"params": params, "stats": stats, "hp": hp, "more": more}
    np.savez(path, **{f"{bag}.{key}": value for bag, items in bags.items() for key, value in items.items()})


def load(path, check=None):
    """Read what save wrote. Returns params, stats, hp (complete) and more. Nothing in the file can run code.

    check(params, stats, more) raises ValueError for a network of another form; by default that of MLP is demanded.
    Raises OSError for a file that cannot be read, ValueError for one that is no network of this form.
    """
    bags = {"params": {}, "stats": {}, "hp": {}, "more": {}}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                bag, key = name.split(".", 1)
                array = file[name]
                if not isinstance(array, np.ndarray):
                    raise TypeError(f"{name} is no array")
                bags[bag][key] = array.item() if bag == "hp" else array
    except OSError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(f"{path} is not a network that kbn.save wrote ({type(error).__name__})") from None
    try:
        if check:
            check(bags["params"], bags["stats"], bags["more"])
        else:
            check_arrays(bags["params"] | bags["stats"], shapes_of(bags["params"]))
        bags["hp"] = check_hp(bags["hp"])
    except ValueError as error:
        raise ValueError(f"{path} is not a network that kbn.save wrote: {error}") from None
    return tuple(bags.values())


# ------------------------------------------------------------------------------------------------------------ checks

def check_hp(hp):
    """Fill hp up with DEFAULTS, as plain ints, floats and strings. Raises ValueError for what is unknown or impossible."""
    for key, value in hp.items():
        if key not in DEFAULTS:
            raise ValueError(f"unknown hyper-parameter {key!r}; there are {', '.join(DEFAULTS)}")
        kind, (low, high) = type(DEFAULTS[key]), RANGES.get(key, (0, np.inf))
        if kind is str:
            if value not in CHOICES[key]:
                raise ValueError(f"{key} must be {' or '.join(map(repr, CHOICES[key]))}, not {value!r}")
        elif not (isinstance(value, (int, float, np.number)) and low <= value <= high and value < np.inf
                  and kind(value) == value):
            raise ValueError(f"{key} must be {'a whole number' if kind is int else 'a number'} "
                             f"from {low:g} to {high:g}, not {value!r}")
    hp = {key: type(default)(hp.get(key, default)) for key, default in DEFAULTS.items()}
    if hp["schedule"] == "cyclical" and hp["eta_min"] > hp["eta_max"]:
        raise ValueError(f"eta_min {hp['eta_min']:g} is above eta_max {hp['eta_max']:g}")
    return hp


def shapes_of(params):
    """The shape that each of an MLP's params and stats must have, by the number of layers and their widths.

    Raises ValueError where params are not matrices.
    """
    if "W1" not in params or any(array.ndim != 2 for array in params.values()):
        raise ValueError("its params are not W1, b1, ..., all of them matrices")
    k, shapes = n_layers(params), {}
    for l in range(1, k + 1):
        m = len(params[f"W{l}"])
        shapes |= {f"W{l}": (m, len(params[f"W{l - 1}"]) if l > 1 else params["W1"].shape[1]), f"b{l}": (m, 1)}
        if "gamma1" in params and l < k:
            shapes |= {f"{name}{l}": (m, 1) for name in ("gamma", "beta", "mu", "v")}
    return shapes


def check_arrays(arrays, shapes):
    """Raises ValueError unless arrays, params and stats in one dict, have these shapes and finite values."""
    if arrays.keys() != shapes.keys():
        raise ValueError(f"it holds {', '.join(arrays)} where {', '.join(shapes)} belong")
    for key, shape in shapes.items():
        array = arrays[key]
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{key} must be {shape} finite floats, not {array.shape} {array.dtype}")
        if key.startswith("v") and array.min() < 0:
            raise ValueError(f"{key} has a negative variance, {array.min()}")


def check_data(X, y, params, what, net=MLP):
    """X (d, n) in Fortran order and the precision of params, copied only where it is not so already, and y (n,).

    Raises ValueError, naming what ("training", say), for shapes that do not fit, labels outside 0..K-1, nan and inf.
    """
    d, K = net["d"](params), len(params[f"b{n_layers(params)}"])
    if X.ndim != 2 or X.shape[0] != d or y.shape != X.shape[1:] or not len(y):
        raise ValueError(f"{what} X {X.shape} and y {y.shape} must be ({d}, n) and (n,)")
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= K:
        raise ValueError(f"{what} labels must be integers in 0..{K - 1}, not {y.dtype} in {y.min()}..{y.max()}")
    bad = np.flatnonzero(~np.isfinite(X.sum(axis=0)))
    if len(bad):
        raise ValueError(f"{what} X has nan or inf in {len(bad)} of its {len(y)} examples, the first is column {bad[0]}")
    return X.astype(params["W1"].dtype, order="F", copy=False), y


def check_loss(loss, when, eta, eta_max):
    """Raises FloatingPointError where the loss is nan or inf, saying when and at which eta."""
    if not loss < np.inf:
        raise FloatingPointError(f"training diverged: the loss {when} (eta {eta:.3g}) is {loss}; "
                                 f"try an eta_max below {eta_max:g}, or other initial weights")
