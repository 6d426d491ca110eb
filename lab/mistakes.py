"""The mistakes that check_mine.py knows: each changes single lines of the method, and explains them in a sentence.

A mistake is a dict: says, a sentence; changes, a list of (function, line, mistaken line), texts of which the first occurs once
in the function; seen, where it was made. The functions are those of kbn.py, cases.trace, and the two below, which do step by
step what kbn.py does at once.
"""

import builtins
import functools
import inspect
from types import FunctionType, SimpleNamespace

import numpy as np

import kbn
from lab import cases


def bn_backward(l, G, one, params, cache, grads):
    """kbn.bn_backward by the assignment's own steps, instead of all at once."""
    S, S_hat, mu, v, eps = cache[f"S{l}"], cache[f"Shat{l}"], cache[f"mu{l}"], cache[f"v{l}"], cache["eps"]
    grads[f"gamma{l}"] = G * S_hat @ one  # (25)
    grads[f"beta{l}"] = G @ one  # (25)
    G = G * params[f"gamma{l}"]  # (26)
    return kbn_batch_norm_backpass(G, S, mu, v, eps)  # (27)


def normalize_by_own(S, average, eps):
    """kbn.normalize_by_own by the assignment's own steps."""
    mu = S @ average  # (13)
    v = (S - mu) ** 2 @ average  # (14)
    S_hat = (S - mu) * (v + eps) ** -0.5  # (15)
    return S_hat, mu, v


kbn_batch_norm_backpass = kbn.batch_norm_backpass
STEPWISE = {"bn_backward": bn_backward, "normalize_by_own": normalize_by_own, "trace": cases.trace}


def mistake(says, *changes, seen=""):
    return {"says": says, "changes": changes, "seen": seen}


BN_BACK, NORMAL, BACK = "bn_backward", "normalize_by_own", "backward"
CATALOGUE = {
    # ---- forward
    "variance by n - 1": mistake(
        "v is the variance divided by n - 1; the assignment divides by n, (14)",
        (NORMAL, "v = (S - mu) ** 2 @ average", "v = (S - mu) ** 2 @ average * (S.shape[1] / (S.shape[1] - 1))"),
        seen="Matlab's var and std, torch.var, numpy with ddof=1"),
    "eps left out": mistake(
        "S_hat is divided by the square root of v without epsilon, (11), (15)",
        (NORMAL, "(S - mu) * (v + eps) ** -0.5", "(S - mu) * v ** -0.5")),
    "eps added to the standard deviation": mistake(
        "S_hat is divided by sqrt(v) + epsilon instead of sqrt(v + epsilon), (11), (15)",
        (NORMAL, "(S - mu) * (v + eps) ** -0.5", "(S - mu) / (v**0.5 + eps)")),
    "divided by the variance": mistake(
        "S - mu is divided by v + epsilon instead of its square root, (11), (15)",
        (NORMAL, "(S - mu) * (v + eps) ** -0.5", "(S - mu) / (v + eps)")),
    "mean not subtracted": mistake(
        "S_hat lacks the subtraction of mu, (15)", (NORMAL, "S_hat = (S - mu) *", "S_hat = S *")),
    "means of the other axis": mistake(
        "S is normalised over the units of each example instead of the examples of each unit, (13)-(15)",
        (NORMAL, "S_hat = (S - mu) * (v + eps) ** -0.5", "S_hat = (S - S.mean(axis=0)) * (S.var(axis=0) + eps) ** -0.5")),
    "gamma left out": mistake("gamma is not applied in the forward pass, (16)", ("bn_forward", 'params[f"gamma{l}"] * S_hat', "1 * S_hat")),
    "beta left out": mistake("beta is not added in the forward pass, (16)", ("bn_forward", '+= params[f"beta{l}"]', "+= 0")),
    "BN on the other side of the ReLU": mistake(
        "BN stands on the other side of the ReLU than the case asks for",
        ("trace", 'P, cache = forward(X, params, bn=bn, eps=eps)',
         'bn = {"before": "after", "after": "before"}.get(bn, bn); P, cache = forward(X, params, bn=bn, eps=eps)')),
    "ReLU after the last layer": mistake(
        "the scores of the last layer go through a ReLU before the softmax, (3)",
        ("forward", 'cache["P"], cache["logP"] = softmax(S)', 'cache["P"], cache["logP"] = softmax(np.maximum(S, 0))')),
    "softmax over the other axis": mistake(
        "the softmax sums over the examples of each class instead of the classes of each example, (4)",
        ("softmax", "S = S - S.max(axis=0)", "S = S - S.max(axis=1, keepdims=True)"),
        ("softmax", "Z = P.sum(axis=0)", "Z = P.sum(axis=1, keepdims=True)")),
    "bias left out": mistake("the biases of the hidden layers are not added, (1), (12)", ("forward", 'S += params[f"b{l}"]', "S += 0")),
    # ---- loss and cost
    "logarithm to base 2": mistake(
        "the loss takes logarithms to base 2, (20)", ("cross_entropy", "/ Y.shape[1]", "/ Y.shape[1] / np.log(2)")),
    "logarithm to base 10": mistake(
        "the loss takes logarithms to base 10, (20)", ("cross_entropy", "/ Y.shape[1]", "/ Y.shape[1] / np.log(10)")),
    "loss summed": mistake("the loss is the sum over the examples, without 1/n, (20)", ("cross_entropy", " / Y.shape[1]", "")),
    "loss also divided by K": mistake(
        "the loss is the mean over examples and classes: it is divided by n K instead of n, (20)",
        ("cross_entropy", "/ Y.shape[1]", "/ Y.size"), seen="numpy's mean of a matrix without axis"),
    "penalty not squared": mistake(
        "the penalty sums the norms of the weights instead of their squares, (20)",
        ("l2", "lam * (W.ravel() @ W.ravel())", "lam * (W.ravel() @ W.ravel()) ** 0.5")),
    # ---- backward
    "no 1/n": mistake("the gradients are not divided by n, (22), (25), (28)", (BACK, "(P - Y) / Y.shape[1]", "(P - Y)")),
    "1/n twice": mistake("the gradients are divided by n twice, (22), (25), (28)", (BACK, "(P - Y) / Y.shape[1]", "(P - Y) / Y.shape[1] ** 2")),
    "sign of P - Y": mistake("P - Y has the wrong sign, (21)", (BACK, "(P - Y)", "(Y - P)")),
    "lambda for 2 lambda": mistake(
        "the gradient of the penalty is lambda W instead of 2 lambda W, (22)", ("l2_gradient", "2 * lam * W", "lam * W"),
        seen="CS231n's penalty has a factor 1/2; the assignment's has none"),
    "no penalty in the gradient": mistake("the gradient of the penalty is missing, (22)", ("l2_gradient", "2 * lam * W", "0 * W")),
    "penalty divided by n": mistake(
        "the gradient of the penalty is divided by n, (22)",
        (BACK, 'penalty.gradient(params[f"W{l}"], lam)', 'penalty.gradient(params[f"W{l}"], lam) / Y.shape[1]')),
    "penalty on biases": mistake(
        "the biases are penalised, (20), (22)", (BACK, 'grads[f"b{l}"] = G @ one', 'grads[f"b{l}"] = G @ one + 2 * lam * params[f"b{l}"]')),
    "penalty on gamma": mistake(
        "gamma is penalised, (20), (25)",
        (BN_BACK, 'grads[f"gamma{l}"] = G * S_hat @ one', 'grads[f"gamma{l}"] = G * S_hat @ one + 2 * LAMBDA * params[f"gamma{l}"]')),
    "penalty on gamma and beta": mistake(
        "gamma and beta are penalised, (20), (25)",
        (BN_BACK, 'grads[f"gamma{l}"] = G * S_hat @ one', 'grads[f"gamma{l}"] = G * S_hat @ one + 2 * LAMBDA * params[f"gamma{l}"]'),
        (BN_BACK, 'grads[f"beta{l}"] = G @ one', 'grads[f"beta{l}"] = G @ one + 2 * LAMBDA * params[f"beta{l}"]')),
    "bias gradient averaged twice": mistake(
        "the gradient of the biases is divided by n twice: a mean was taken where G is already divided, (22), (28)",
        (BACK, 'grads[f"b{l}"] = G @ one', 'grads[f"b{l}"] = G @ one / Y.shape[1]')),
    "bias gradient summed over all": mistake(
        "the gradient of the biases is the sum over all units and examples, one number for the layer, (22), (28)",
        (BACK, 'grads[f"b{l}"] = G @ one', 'grads[f"b{l}"] = G.sum() + 0 * (G @ one)'), seen="numpy's sum without axis"),
    "ReLU not differentiated": mistake("the gradient passes the ReLU unchanged, (24), (30)", (BACK, 'G *= cache[f"A{l}"] > 0', "G *= 1")),
    "mask from the un-normalised scores": mistake(
        "the ReLU's mask is made from the un-normalised scores S instead of what entered the ReLU, (24)",
        (BACK, 'G *= cache[f"A{l}"] > 0', 'G *= cache.get(f"S{l}", cache[f"A{l}"]) > 0')),
    "mask from the normalised scores": mistake(
        "the ReLU's mask is made from S_hat instead of gamma S_hat + beta, (24)",
        (BACK, 'G *= cache[f"A{l}"] > 0', 'G *= cache.get(f"Shat{l}", cache[f"A{l}"]) > 0')),
    "mask from the layer above": mistake(
        "the ReLU's mask is that of the layer above, (24), (30)",
        (BACK, 'G *= cache[f"A{l}"] > 0', 'G *= cache.get(f"A{l + 1}", cache[f"A{l}"]) > 0')),
    "ReLU and BN in the wrong order": mistake(
        "the backward pass goes through BN and the ReLU in the wrong order, (24)-(27)",
        (BACK, 'if bn == "after":', 'if bn == "before":'), (BACK, '            if bn == "before":\n                G = bn_backward(l, G, one, params, cache, grads)    # (25)-(27)',
         '            if bn == "after":\n                G = bn_backward(l, G, one, params, cache, grads)')),
    "weights already updated": mistake(
        "the gradient passes down through weights that were already updated: compute all gradients before any update, (23), (29)",
        (BACK, 'params[f"W{l + 1}"].T @ G', '(params[f"W{l + 1}"] - ETA * grads[f"W{l + 1}"]).T @ G')),
    "gradient of W by the wrong input": mistake(
        "the gradient of W is taken with what left the ReLU instead of the layer's input, (22), (28)",
        (BACK, 'cache[f"X{l - 1}"].T', 'cache.get(f"A{l - 1}", cache[f"X{l - 1}"]).T')),
    # ---- BN's backward pass
    "gamma and beta swapped": mistake(
        "the gradients of gamma and beta are exchanged, (25)",
        (BN_BACK, 'grads[f"gamma{l}"] = G * S_hat @ one', 'grads[f"beta{l}"] = G * S_hat @ one'),
        (BN_BACK, 'grads[f"beta{l}"] = G @ one', 'grads[f"gamma{l}"] = G @ one')),
    "gamma missing on the way back": mistake(
        "dJ/dS_hat is not multiplied by gamma before the backward pass of the normalisation, (26)",
        (BN_BACK, 'G = G * params[f"gamma{l}"]', "G = G * 1"), seen="Knet issue 288"),
    "gamma's gradient with S": mistake(
        "the gradient of gamma is taken with S instead of S_hat, (25)", (BN_BACK, "G * S_hat @ one", "G * S @ one")),
    "gamma's gradient after gamma": mistake(
        "the gradients of gamma and beta are taken after G was multiplied by gamma, (25), (26)",
        (BN_BACK, '@ one  # (25)\n    grads[f"beta{l}"] = G @ one', '@ one * params[f"gamma{l}"]\n    grads[f"beta{l}"] = G @ one * params[f"gamma{l}"]')),
    "path through the mean left out": mistake(
        "the path through the mean is left out of BN's backward pass, (37)",
        ("batch_norm_backpass", "G1 - G1 @ average - D * c", "G1 - D * c")),
    "path through the variance left out": mistake(
        "the path through the variance is left out of BN's backward pass, (37)",
        ("batch_norm_backpass", "G1 - G1 @ average - D * c", "G1 - G1 @ average")),
    "mean and variance taken as constants": mistake(
        "BN's backward pass takes the mean and the variance as constants, (37)",
        ("batch_norm_backpass", "G1 - G1 @ average - D * c", "G1"), seen="networks in prediction mode"),
    "first 1/n of (37) missing": mistake(
        "the term of the mean lacks its 1/n, (37)", ("batch_norm_backpass", "G1 - G1 @ average", "G1 - G1 @ ones_n(G)")),
    "second 1/n of (37) missing": mistake(
        "the term of the variance lacks its 1/n, (37)", ("batch_norm_backpass", "(G * D @ average)", "(G * D @ ones_n(G))")),
    "no 1/n in (37)": mistake(
        "both terms of (37) lack their 1/n", ("batch_norm_backpass", "G.shape[1]", "1")),
    "1/n of (37) twice": mistake(
        "both terms of (37) are divided by n twice", ("batch_norm_backpass", "G.shape[1]", "G.shape[1] ** 2")),
    "(v + eps)^-1/2 for ^-3/2": mistake(
        "(v + eps)^-1/2 stands where ^-3/2 belongs, (32)", ("batch_norm_backpass", "(v + eps) ** -1.5", "(v + eps) ** -0.5")),
    "(v + eps)^-3/2 without the power of 3": mistake(
        "(v + eps)^-1 stands where ^-3/2 belongs, (32)", ("batch_norm_backpass", "(v + eps) ** -1.5", "(v + eps) ** -1.0")),
    "eps left out of the backward pass": mistake(
        "epsilon is missing in BN's backward pass, (31), (32)",
        ("batch_norm_backpass", "(v + eps) ** -0.5", "v ** -0.5"), ("batch_norm_backpass", "(v + eps) ** -1.5", "v ** -1.5")),
    # ---- update and prediction
    "alpha and 1 - alpha exchanged": mistake(
        "alpha weighs the mini-batch instead of the previous average, (38), (39)",
        ("update_stats", "average *= alpha", "average *= 1 - alpha"), ("update_stats", "(1 - alpha) * cache[key]", "alpha * cache[key]"),
        seen="PyTorch's momentum is 1 - alpha"),
    "averages started at 0": mistake(
        "the moving averages are started anew at 0, (38), (39)", ("update_stats", "average *= alpha", "average *= 0")),
    "averages replaced": mistake(
        "the moving averages are replaced by the statistics of the mini-batch, (38), (39)",
        ("update_stats", "average *= alpha", "average *= 0"), ("update_stats", "(1 - alpha) * cache[key]", "cache[key]")),
    "average of the variance by n - 1": mistake(
        "the moving average takes the variance divided by n - 1, (39)",
        ("update_stats", "(1 - alpha) * cache[key]", '(1 - alpha) * cache[key] * (cache["P"].shape[1] / (cache["P"].shape[1] - 1) if key[0] == "v" else 1)'),
        seen="PyTorch's running variance"),
    "eta of the next step": mistake(
        "the update takes the learning rate of t + 1", ("trace", 'cyclical_eta(case["t"],', 'cyclical_eta(case["t"] + 1,')),
    "eta of the step before": mistake(
        "the update takes the learning rate of t - 1", ("trace", 'cyclical_eta(case["t"],', 'cyclical_eta(case["t"] - 1,')),
    "eta_max at all steps": mistake(
        "the update takes eta_max", ("trace", 'cyclical_eta(case["t"],', 'cyclical_eta(case["n_s"],')),
    "update in the wrong direction": mistake(
        "the update adds eta times the gradient", ("update_params", "            params[key] -= step", "            params[key] += step")),
    "prediction with the batch's own statistics": mistake(
        "the prediction normalises with the statistics of what it predicts instead of the moving averages, (6)",
        ("trace", 'forward(case["X_test"], new, stats, bn=bn, eps=eps)', 'forward(case["X_test"], new, bn=bn, eps=eps)')),
    "prediction with the statistics of the mini-batch": mistake(
        "the prediction normalises with the statistics of the last mini-batch instead of the moving averages, (6)",
        ("trace", 'forward(case["X_test"], new, stats, bn=bn, eps=eps)', 'forward(case["X_test"], new, cache, bn=bn, eps=eps)')),
    "prediction before the update": mistake(
        "the prediction takes the parameters before the update",
        ("trace", 'forward(case["X_test"], new, stats, bn=bn, eps=eps)', 'forward(case["X_test"], params, stats, bn=bn, eps=eps)')),
    "prediction with the averages before the update": mistake(
        "the prediction takes the moving averages before the update",
        ("trace", 'forward(case["X_test"], new, stats, bn=bn, eps=eps)',
         'forward(case["X_test"], new, {key[:-4]: case[key] for key in case if key.endswith("_avg")}, bn=bn, eps=eps)')),
}  # fmt: skip


@functools.cache
def source_of(function):
    """The text of a function of the method."""
    return inspect.getsource(STEPWISE.get(function) or getattr(kbn, function))


@functools.cache
def compiled(function, changes):
    """The code of a function of the method with changes, pairs (line, mistaken line). Raises ValueError if they do not fit."""
    text = source_of(function)
    for line, mistaken in changes:
        if text.count(line) != 1:
            raise ValueError(f"{line!r} occurs {text.count(line)} times in {function}")
        text = text.replace(line, mistaken)
    return compile(text, f"<{function}>", "exec")


def place(function, line):
    """Where a line of the method stands: its file and number, or what it does at once in kbn.py."""
    if function in STEPWISE:
        return {"trace": "lab/cases.py", NORMAL: "kbn.normalize_by_own in steps", BN_BACK: "kbn.bn_backward in steps"}[function]
    text, start = inspect.getsourcelines(getattr(kbn, function))
    return f"kbn.py:{start + ''.join(text).partition(line)[0].count(chr(10))}"


def whole_line(function, line):
    """The whole line of the method in which a text stands."""
    before, text, after = source_of(function).partition(line)
    return " ".join((before.rpartition("\n")[2] + text + after.partition("\n")[0]).split())


@np.errstate(all="ignore")
def shown(case):
    """Whether every mistake that changes any value of a case changes one by a thousandth and more."""
    right = cases.trace(case)
    for mistake in CATALOGUE.values():
        try:
            found = values(case, mistake)
        except (ValueError, KeyError, TypeError):
            continue
        changes = [np.abs(found[name] - right[name]).max() / np.abs(right[name]).max() for name in right if name != "y_test"]
        if 1e-9 < np.nanmax(changes) < 0.02:
            return False
    return True


def values(case, *mistakes):
    """All values of a case, see cases.trace, with mistakes of CATALOGUE (dicts). Raises what numpy raises if they do not fit it."""
    space = {name: value for name, value in vars(kbn).items() if not name.startswith("__")} | {"__builtins__": builtins}
    space |= {
        "params_of": cases.params_of,
        "LAMBDA": case["lambda"],
        "ETA": kbn.cyclical_eta(*(case[name] for name in ("t", "eta_min", "eta_max", "n_s"))),
    }
    for name, function in [*vars(kbn).items(), *STEPWISE.items()]:
        if isinstance(function, FunctionType) and not hasattr(function, "__wrapped__"):
            space[name] = FunctionType(function.__code__, space, name, function.__defaults__, function.__closure__)
            space[name].__kwdefaults__ = function.__kwdefaults__
    changes = {}
    for one in mistakes:
        for function, *change in one["changes"]:
            changes.setdefault(function, []).append(tuple(change))
    for function, pairs in changes.items():
        exec(compiled(function, tuple(pairs)), space)
    space |= {"kbn_batch_norm_backpass": space["batch_norm_backpass"]}
    space["L2"] = SimpleNamespace(value=space["l2"], gradient=space["l2_gradient"])
    return space["trace"](case)
