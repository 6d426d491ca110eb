"""The gradients of kbn against numerical ones: what gradcheck.py runs, and Exercises 1 and 3 of the assignment ask for.

The second part has the errors of many draws, by the measures of other documents.
"""

import itertools
from functools import partial

import numpy as np

import gradcheck
import kbn

NINE = [50, 30, 20, 20, 10, 10, 10, 10]
CHECKED = [  # hidden nodes, epsilon; in the small nets all widths, D, K and N differ, which reveals a transposed matrix
    ([8], kbn.EPS), ([8, 7], kbn.EPS), ([8, 7, 6], 1e-5),
    ([50], kbn.EPS), ([50, 50], kbn.EPS), (NINE, kbn.EPS),
]
PLACES = ["off", "before", "after"]
LAMBDAS = [0.0, 0.01]
D, K, N = 10, 5, 9  # input dimensions, classes, examples in a mini-batch

REPORT = [  # the checks of the student report, in its text and in its code: hidden nodes, d, and reg = 2 lambda, by turns
    ([50, 50], 10, [0.005]), (NINE, 10, [0.005]),  # this reg is the one of its trainings: the text names none
    ([50], 20, [6, 7, 9, 7, 2]), ([50, 50], 20, [6, 7, 9, 7, 2]),
]
LAYERED = [([8, 7, 6], D), (NINE, D), ([8, 7, 6], 3072)]  # hidden nodes, d
ENTRIES = 200  # of a parameter, drawn at random, in the table of layers


def numerical_gradients(f, params, pattern=None):
    """Return complex_step_gradient and central_difference_gradient of gradcheck: grads, grads, and crossed."""
    return gradcheck.complex_step_gradient(f, params), *gradcheck.central_difference_gradient(f, params, pattern=pattern)


def judge(grads, numerical, zero=()):
    """Compare grads with numerical_gradients, against gradcheck.BARS. The names in zero are judged absolutely.

    Returns one dict for each parameter: parameter, judged ("relative" or "absolute"), entries, kinks (the entries left out
    of the central differences), complex and central (the errors), and failed, a list of "complex", "central" or "kinks".
    """
    rows = []
    for key in numerical[0]:
        a, complex_step, central, crossed = (gradient[key] for gradient in (grads, *numerical))
        judged = "absolute" if key in zero else "relative"
        error = gradcheck.largest_entry if key in zero else gradcheck.relative_error
        errors = {"complex": error(a, complex_step), "central": error(a[~crossed], central[~crossed])}
        failed = [method for method, bar in gradcheck.BARS[judged].items() if not errors[method] <= bar]
        kinks = np.count_nonzero(crossed)
        if 2 * kinks > a.size:
            failed.append("kinks")
        rows.append({"parameter": key, "judged": judged, "entries": a.size, "kinks": kinks, **errors, "failed": failed})
    return rows


def draw_case(hidden, bn, rng, n=N, d=D):
    """Draw a net and a mini-batch: params, X (d, n), y (n,). Weights He, b and beta ~ N(0, .3^2), gamma ~ N(1, .3^2)."""
    params = kbn.init_params([d, *hidden, K], rng, bn=bn, dtype=np.float64)
    for key in params:
        if not key.startswith("W"):
            params[key] += 0.3 * rng.standard_normal(params[key].shape)
    return params, rng.standard_normal((d, n)), rng.integers(K, size=n)


def closures(X, y, lam, eps, bn):
    """Return three functions of params: the cost (20), with the statistics of X itself; its grads; the active ReLUs."""
    Y, place = kbn.one_hot(y, K, X.dtype), {"bn": bn, "eps": eps}

    def cost(params):
        return kbn.compute_cost(X, Y, params, lam, **place)[0]

    def gradient(params):
        return kbn.backward(Y, params, kbn.forward(X, params, **place)[1], lam)

    def active(params):
        _, cache = kbn.forward(X, params, **place)
        return b"".join((cache[f"A{l}"] > 0).tobytes() for l in range(1, kbn.n_layers(params)))

    return cost, gradient, active


def zero_gradients(params, bn):
    """Return the parameters without influence on the cost: the hidden layers' biases if BN stands before the ReLU."""
    return [f"b{l}" for l in range(1, kbn.n_layers(params))] if bn == "before" else []


def planted_errors(hidden, bn, lam, rng, eps=kbn.EPS):
    """Plant an error in the gradient of each parameter in turn. Returns {parameter: whether both methods caught it}.

    Caught means that both fail this parameter and no other. The complex-step gradient serves as the right one.
    """
    params, X, y = draw_case(hidden, bn, rng)
    cost, _, active = closures(X, y, lam, eps, bn)
    numerical, zero = numerical_gradients(cost, params, active), zero_gradients(params, bn)
    grads, caught = numerical[0], {}
    for key in grads:
        rows = judge({**grads, key: gradcheck.plant(grads[key], key in zero)}, numerical, zero)
        failed = {row["parameter"]: row["failed"] for row in rows if row["failed"]}
        caught[key] = failed == {key: ["complex", "central"]}
    return caught


def check_nets(seed, nets=CHECKED):
    """Yield the rows of judge for all nets, with the net, its setting and the verdict in words."""
    for i, ((hidden, eps), bn, lam) in enumerate(itertools.product(nets, PLACES, LAMBDAS)):
        params, X, y = draw_case(hidden, bn, np.random.default_rng([seed, i]))
        cost, gradient, active = closures(X, y, lam, eps, bn)
        for row in judge(gradient(params), numerical_gradients(cost, params, active), zero_gradients(params, bn)):
            failed = row.pop("failed")
            verdict = "FAIL: " + ", ".join(failed) if failed else "ok"
            yield {"net": " ".join(map(str, hidden)), "bn": bn, "lam": lam, "eps": eps, "n": N, **row, "verdict": verdict}


def report_gradients(seed, nets=CHECKED):
    """Check all nets and the planted errors, and print the results. Returns the rows of check_nets and what failed."""
    bars = {judged: f"{bar['complex']:g} and {bar['central']:g}" for judged, bar in gradcheck.BARS.items()}
    print(f"kbn.backward (a) against numerical gradients (n) of kbn.compute_cost; d = {D}, K = {K}, mini-batches of {N}, "
          f"float64, seed {seed}.\nThe error is max |a - n| / max(|a|, |n|) over a parameter, by complex steps and by central "
          f"differences (the step is\n{gradcheck.H:g} times the parameter's largest entry); it must not exceed "
          f"{bars['relative']}. abs: max(|a|, |n|), for a gradient that\nis 0 in theory; at most {bars['absolute']}. kinks: "
          "entries left out of the central differences,\nbecause a ReLU switches within the step.\n")
    line = "{:23} {:6} {:>6} {:9} {:>7} {:>12} {:>12} {:>5}  {}"
    print(line.format("hidden nodes", "BN", "lambda", "parameter", "entries", "complex step", "central diff", "kinks",
                      "verdict"))
    rows, failures = [], []
    for row in check_nets(seed, nets):
        rows.append(row)
        errors = [f"{row[method]:.1e}{' abs' * (row['judged'] == 'absolute')}" for method in ("complex", "central")]
        print(line.format(row["net"], row["bn"], f"{row['lam']:g}", row["parameter"], row["entries"], *errors, row["kinks"],
                          row["verdict"]), flush=True)
        if row["verdict"] != "ok":
            failures.append(f"{row['parameter']} of {row['net']}, BN {row['bn']}, lambda {row['lam']:g}")
    print("\nplanted errors: one entry .1 % too large, or a zero gradient of 1e-6; nets 8 7, lambda 0.01")
    for i, bn in enumerate(PLACES):
        for key, caught in planted_errors([8, 7], bn, 0.01, np.random.default_rng([seed, 1000 + i])).items():
            print(f"BN {bn:6} {key:9} {'caught by both methods' if caught else 'NOT caught: FAIL'}")
            if not caught:
                failures.append(f"the error planted in {key}, BN {bn}, was not caught")
    return rows, failures


def largest_errors(rows):
    """Return a row for each net and place of BN with the largest errors of its parameters."""
    table = []
    for (net, bn), group in itertools.groupby(rows, lambda row: (row["net"], row["bn"])):
        group = list(group)
        errors = {method: max(row[method] for row in group if row["judged"] == "relative") for method in ("complex", "central")}
        table.append({"hidden nodes": net, "BN": bn, "gradients": len(group), "entries": sum(row["entries"] for row in group),
                      "complex step": f"{errors['complex']:.1e}", "central difference": f"{errors['central']:.1e}",
                      "kinks left out": sum(row["kinks"] for row in group)})
    return table


# ------------------------------------------------------------------------------- many draws: all entries at once

def stacked_cost(X, Y, params, lam, *, bn="off", eps=kbn.EPS):
    """Return the cost (20), as kbn.compute_cost does, or many costs.

    One of params may be a stack (entries, m, n) of copies: the result is then the cost (entries,) with each of them. lam may
    be a column (r, 1): then the result has r rows.
    """
    def normalise(S, l):
        D = S - S @ average
        return params[f"gamma{l}"] * D * (D**2 @ average + eps) ** -0.5 + params[f"beta{l}"]

    k, penalty, average = kbn.n_layers(params), 0.0, kbn.ones_n(X) / X.shape[1]
    for l in range(1, k + 1):
        penalty = penalty + lam * (params[f"W{l}"] ** 2).sum(axis=(-2, -1))
        S = params[f"W{l}"] @ X + params[f"b{l}"]
        if l < k:
            X = np.maximum(normalise(S, l) if bn == "before" else S, 0)
            X = normalise(X, l) if bn == "after" else X
    S = S - S.max(axis=-2, keepdims=True)
    logP = S - np.log(np.exp(S).sum(axis=-2, keepdims=True))
    return penalty - (Y * logP).sum(axis=(-2, -1)) / Y.shape[1]


def slopes(cost, params, key, h, entries=None):
    """Return the slopes of a stacked cost along entries of params[key], flat indices (None: all of them).

    h is the step of central differences, or a complex step if it is imaginary.
    """
    param = params[key]
    entries = np.arange(param.size) if entries is None else entries

    def moved(step):
        stack = np.repeat(param[None] + 0 * step, len(entries), axis=0)
        stack.reshape(len(entries), -1)[np.arange(len(entries)), entries] += step
        return cost({**params, key: stack})

    return moved(h).imag / h.imag if isinstance(h, complex) else (moved(h) - moved(-h)) / (2 * h)


def report_errors(seed, n_draws=10):
    """Check nets as the student report does. Returns a row for each, with quantiles of the errors over n_draws draws.

    The weights are drawn from N(0, 1 / m_{l-1}), the biases and X from N(0, 1); BN stands after the ReLU, with epsilon 1e-5.
    The error of a parameter is the largest |a - n| / (max(|a|, |n|) + 1e-9) of an entry, n by central differences with the
    step 1e-5. It is large where a ReLU switches within the step, and where a gradient is nearly 0, as many are if BN
    normalises two examples.
    """
    table = []
    for i, ((hidden, d, regs), bn, n) in enumerate(itertools.product(REPORT, ["off", "after"], [2, N])):
        errors, place = [], {"bn": bn, "eps": 1e-5}
        for draw in range(n_draws):
            rng, lam = np.random.default_rng([seed, i, draw]), regs[draw % len(regs)] / 2
            params = kbn.init_params([d, *hidden, 10], rng, bn=bn, sigma="xavier", sigma_b=1.0, dtype=np.float64)
            X, Y = rng.standard_normal((d, n)), kbn.one_hot(rng.integers(10, size=n), 10, np.float64)
            grads = kbn.backward(Y, params, kbn.forward(X, params, **place)[1], lam)
            cost = partial(stacked_cost, X, Y, lam=lam, **place)
            pairs = [(grads[key].ravel(), slopes(cost, params, key, 1e-5)) for key in params]
            errors += [(abs(a - b) / (np.maximum(abs(a), abs(b)) + 1e-9)).max() for a, b in pairs]
        quantiles = zip(["5 %", "median", "95 %", "largest"], np.quantile(errors, [0.05, 0.5, 0.95, 1]))
        table.append({"hidden nodes": " ".join(map(str, hidden)), "d": d, "reg": " ".join(map(str, regs)), "BN": bn, "n": n,
                      "student report": "10e-7 - 10e-4", **{name: f"{value:.1e}" for name, value in quantiles}})
    return table


def layer_errors(seed, n_draws=20):
    """Return a row for each layer of some nets with the median over n_draws draws of the error in its weights; lambda is 0.

    The errors are those of judge, by complex steps and by central differences, and for the latter also the largest
    |a - n| / max(1e-8, |a| + |n|) of an entry. At most ENTRIES of a layer's weights are checked, drawn at random.
    """
    table = []
    for i, ((hidden, d), bn) in enumerate(itertools.product(LAYERED, ["off", "before"])):
        errors = [errors_of_weights(hidden, d, bn, np.random.default_rng([seed, i, draw])) for draw in range(n_draws)]
        medians = np.median(errors, axis=0)
        for l, (exact, central, by_entry) in enumerate(medians, start=1):
            table.append({"hidden nodes": " ".join(map(str, hidden)), "d": d, "BN": bn, "parameter": f"W{l}",
                          "complex step": f"{exact:.1e}", "central difference": f"{central:.1e}",
                          "ratio to last": f"{central / medians[-1][1]:.1f}", "entry by entry": f"{by_entry:.1e}"})
    return table


def errors_of_weights(hidden, d, bn, rng):
    """Draw a net. Returns the three errors of layer_errors for each of its weight matrices."""
    params, X, y = draw_case(hidden, bn, rng, d=d)
    cost = partial(stacked_cost, X, kbn.one_hot(y, K, np.float64), lam=0.0, bn=bn)
    grads, errors = closures(X, y, 0.0, kbn.EPS, bn)[1](params), []
    for key in [f"W{l}" for l in range(1, kbn.n_layers(params) + 1)]:
        W = params[key]
        entries = rng.choice(W.size, min(W.size, ENTRIES), replace=False)
        a, exact = grads[key].ravel()[entries], slopes(cost, params, key, 2.0**-100 * 1j, entries)
        central = slopes(cost, params, key, gradcheck.H * gradcheck.scale(W), entries)
        by_entry = (abs(a - central) / np.maximum(1e-8, abs(a) + abs(central))).max()
        errors.append([gradcheck.relative_error(a, exact), gradcheck.relative_error(a, central), by_entry])
    return errors


def tables_of(rows, seed):
    """Yield the name and the rows of each table that gradcheck.py writes, for the rows of check_nets."""
    yield "gradcheck", largest_errors(rows)
    yield "gradcheck_report", report_errors(seed)
    yield "gradcheck_layers", layer_errors(seed)
