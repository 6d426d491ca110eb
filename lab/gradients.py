"""The gradients of kbn against numerical ones: what gradcheck.py runs, and Exercises 1 and 3 of the assignment ask for."""

import itertools

import numpy as np

import gradcheck
import kbn

CHECKED = [  # hidden nodes, epsilon; in the small nets all widths, D, K and N differ, which reveals a transposed matrix
    ([8], kbn.EPS), ([8, 7], kbn.EPS), ([8, 7, 6], 1e-5),
    ([50], kbn.EPS), ([50, 50], kbn.EPS), ([50, 30, 20, 20, 10, 10, 10, 10], kbn.EPS),
]
PLACES = ["off", "before", "after"]
LAMBDAS = [0.0, 0.01]
D, K, N = 10, 5, 9  # input dimensions, classes, examples in a mini-batch


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


def draw_case(hidden, bn, rng, n=N):
    """Draw a net and a mini-batch: params, X (D, n), y (n,). Weights He, b and beta ~ N(0, .3^2), gamma ~ N(1, .3^2)."""
    params = kbn.init_params([D, *hidden, K], rng, bn=bn, dtype=np.float64)
    for key in params:
        if not key.startswith("W"):
            params[key] += 0.3 * rng.standard_normal(params[key].shape)
    return params, rng.standard_normal((D, n)), rng.integers(K, size=n)


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
