"""Parts of a training recipe, each beside its equation: update rules, learning rates, smoothed labels, averaged weights.

An update rule is a function update(params, grads, memory, eta, momentum) in the manner of kbn.update_params, for
kbn.minibatch_gd(update=...): it changes params and memory in place and may overwrite grads. memory is a flat dict of arrays
and numbers, {} at the start; with it a checkpoint continues as if nothing had happened. g is the gradient, theta a parameter.
"""

import math
from numbers import Integral
from types import SimpleNamespace

import numpy as np

import kbn

# ----------------------------------------------------------------------------------------------------- update rules


def nesterov(params, grads, memory, eta, momentum=0.9):
    """Take one step of gradient descent with Nesterov's momentum: v = momentum v - eta g, theta = theta + momentum v - eta g.

    theta is the point at which the method takes its gradient, ahead of its own by momentum v.
    Sutskever, Martens, Dahl, Hinton 2013, (3) and (4), in the form of Bengio, Boulanger-Lewandowski, Pascanu 2012, (7).
    """
    for key, step in grads.items():
        step *= eta
        if key not in memory:
            memory[key] = np.zeros_like(step)
        v = memory[key]
        v *= momentum
        v -= step
        params[key] += momentum * v
        params[key] -= step


def adam(params, grads, memory, eta, momentum=0.9, decay=0.999, eps=1e-8):
    """Take one step of Adam: theta = theta - eta m_hat / (sqrt(v_hat) + eps). Kingma, Ba 2015, Algorithm 1.

    m and v are moving averages of g and g^2, with the weights momentum (beta1) and decay (beta2) for the previous value;
    m_hat and v_hat are m and v without their bias towards 0, at which they start.
    """
    t = memory["t"] = int(memory.get("t", 0)) + 1
    for key, g in grads.items():
        m = average(memory, f"mean_{key}", g, momentum)
        v = average(memory, f"square_{key}", g * g, decay)
        root = np.sqrt(v / (1 - decay**t))
        root += eps
        params[key] -= eta / (1 - momentum**t) * m / root


def rmsprop(params, grads, memory, eta, momentum=0.0, decay=0.9, eps=1e-8):
    """Take one step of gradient descent with momentum, see kbn.update_params, along g / (sqrt(v) + eps) instead of g.

    v is the moving average of g^2 with the weight decay for the previous value. Hinton 2012, lecture 6e of Neural Networks
    for Machine Learning.
    """
    for key, g in grads.items():
        g /= np.sqrt(average(memory, f"square_{key}", g * g, decay)) + eps
    kbn.update_params(params, grads, memory, eta, momentum)


def average(memory, name, x, decay):
    """Move the average memory[name], 0 at the start, towards x and return it: m = decay m + (1 - decay) x."""
    if name not in memory:
        memory[name] = np.zeros_like(x)
    m = memory[name]
    m *= decay
    m += (1 - decay) * x
    return m


def beta_lasso(update, lam, beta):
    """Return an update rule that makes weights sparse: one with the gradient of lam sum |theta|, then a threshold.

    g + lam sign(theta) takes the place of g, and after the step all weights of |theta| < beta lam become 0. Weights are the
    W of params. It is meant for an hp without L2 penalty. Neyshabur 2020, "Towards Learning Convolutions from Scratch",
    Algorithm 1, which has plain gradient descent as update and beta 50.
    """

    def step(params, grads, memory, eta, momentum):
        weights = [key for key in grads if key.startswith("W")]
        for key in weights:
            grads[key] += lam * np.sign(params[key])
        update(params, grads, memory, eta, momentum)
        for key in weights:
            params[key] *= abs(params[key]) >= beta * lam

    return step


RULES = {"momentum": kbn.update_params, "nesterov": nesterov, "rmsprop": rmsprop, "adam": adam}


# -------------------------------------------------------------------------------------------------- averaged weights


def averaging(update, decay=None):
    """Return an update rule that also keeps the average of the params after each step in memory, see averaged.

    decay None: the mean over all steps. Polyak, Juditsky 1992; Izmailov et al. 2018, "Averaging Weights Leads to Wider
    Optima". A number: the exponential moving average theta_mean = decay theta_mean + (1 - decay) theta, which starts at the
    first theta. BN needs statistics of its own for the averaged net: kbn.dataset_stats.
    """

    def step(params, grads, memory, eta, momentum):
        update(params, grads, memory, eta, momentum)
        n = memory["n_averaged"] = int(memory.get("n_averaged", 0)) + 1
        for key, param in params.items():
            if n == 1:
                memory[f"averaged_{key}"] = param.copy()
            mean = memory[f"averaged_{key}"]
            mean += (1 / n if decay is None else 1 - decay) * (param - mean)

    return step


def averaged(memory):
    """Return the averaged params that a rule of averaging has kept in memory."""
    return {key.removeprefix("averaged_"): mean for key, mean in memory.items() if key.startswith("averaged_")}


# ---------------------------------------------------------------------------------------------------- learning rates


def cosine_etas(n_updates, eta_max, eta_min=0.0, n_warmup=0):
    """Return the list of learning rates of n_updates: half a cosine from eta_max to eta_min, after a linear warm-up.

        eta_t = eta_min + (eta_max - eta_min) (1 + cos(pi t / T)) / 2

    Here t = 0, 1, ..., T - 1 counts the updates after the first n_warmup, whose learning rates are eta_max / (n_warmup + 1)
    times 1, 2, ..., n_warmup. Loshchilov, Hutter 2017, (5); warm-up: Goyal et al. 2017, section 2.2.
    Raises ValueError unless 0 <= n_warmup < n_updates, whole numbers, and 0 <= eta_min <= eta_max.
    """
    if not (isinstance(n_updates, Integral) and isinstance(n_warmup, Integral) and 0 <= n_warmup < n_updates):
        raise ValueError(f"n_warmup must be a whole number from 0 to n_updates - 1, not {n_warmup!r} of {n_updates!r}")
    if not 0 <= eta_min <= eta_max < math.inf:
        raise ValueError(f"0 <= eta_min <= eta_max is needed, not eta_min {eta_min!r} and eta_max {eta_max!r}")
    T = n_updates - n_warmup
    warmup = [eta_max * (t + 1) / (n_warmup + 1) for t in range(n_warmup)]
    return warmup + [eta_min + (eta_max - eta_min) * (1 + math.cos(math.pi * t / T)) / 2 for t in range(T)]


# --------------------------------------------------------------------------------------------------- smoothed labels


def smooth_labels(Y, share):
    """Return (1 - share) Y + share / K for one-hot labels Y (K, n). Szegedy et al. 2016, section 7.

    Raises ValueError unless 0 <= share <= 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of label smoothing must be from 0 to 1, not {share!r}")
    return (1 - share) * Y + share / len(Y)


def smoothed(net, share):
    """Return a net like net (kbn.MLP, or from nets.build with softmax) whose gradients are those for smoothed labels.

    The loss and cost that training records remain those for the labels themselves.
    """

    def backward(Y, *args, **options):
        return net.backward(smooth_labels(Y, share), *args, **options)

    return SimpleNamespace(**vars(net) | {"backward": backward})
