"""Check gradients: of any function of a dict of arrays, by complex steps and by central differences.

    python gradcheck.py              # the assignment, Exercises 1 and 3; 20 s on one core, needs no dataset

compares kbn.backward with numerical gradients of kbn.compute_cost, one line for each net and parameter, and then plants
errors that the check must catch. It writes results/gradcheck.csv (every line), .md and .tex (the largest errors); the exit
status is 1 if anything fails. Expect errors about 1e-15 by complex steps, up to 1e-13 in the 9-layer net with BN after the
ReLU, and 1e-9 to 1e-7 by central differences.

    rows = check(f, params, grads)   # f(params) -> scalar

The error. For a parameter it is max |a - n| / max(|a|, |n|), both maxima over all its entries, where a is the analytic and n
the numerical gradient. A relative error of each entry would say nothing about an entry that is much smaller than its
neighbours: rounding leaves an error of about 2e-16 times the large entries in it (complex steps), or 2e-16 |f| / h (central
differences). The bars catch a .1 % error in any entry above 1e-9 (complex steps) or 1e-3 (central differences) of the largest
entry of its parameter.

Zero gradients. BN before the ReLU subtracts the mean, and a hidden layer's bias with it. The gradient of that bias is 0 in
theory and 1e-17 in practice, so both gradients are compared with an absolute bar. The caller names these parameters: that is
a claim of theory which the check can refute. A checker that detected them itself would accept a backward pass that forgets a
parameter. A parameter that has only zeros and is not named fails.

Kinks. At a ReLU that switches within +-h the central difference mixes two slopes. Such entries are found by comparing the
active units at +h and at -h; they are counted and left out. If they are more than half of a parameter, it fails; try another
seed. A complex step does not move the real part, so it crosses no kink.

Mini-batches. With n = 2, S_hat is +-1 whatever S is (up to epsilon), so BN passes nothing back, and an all-zero
batch_norm_backpass "agrees". Use n >= 5.
"""
import itertools

import numpy as np

import kbn

H = 5e-7  # the step of central differences: in deep BN nets truncation, ~ H^2, is then as small as rounding, ~ 1 / H
BARS = {"relative": {"complex": 1e-12, "central": 1e-6},  # about 10 times the rounding of a cost below 10
        "absolute": {"complex": 1e-13, "central": 5e-8}}

CHECKED = [  # hidden nodes, epsilon; in the small nets all widths, D, K and N differ, which reveals a transposed matrix
    ([8], kbn.EPS), ([8, 7], kbn.EPS), ([8, 7, 6], 1e-5),
    ([50], kbn.EPS), ([50, 50], kbn.EPS), ([50, 30, 20, 20, 10, 10, 10, 10], kbn.EPS),
]
PLACES = ["off", "before", "after"]
LAMBDAS = [0.0, 0.01]
D, K, N = 10, 5, 9  # input dimensions, classes, examples in a mini-batch


# --------------------------------------------------------------------------------------------------- any function

def complex_step_gradient(f, params, h=2.0**-100):
    """Return the gradient Im f(params + i h) / h, entry by entry. It is exact to rounding, since h^2 vanishes beside 1.

    f(params) is a scalar, analytic, and defined for complex128 arrays (no abs, no conjugates, no float()); params a dict of
    float64 arrays, which are not changed. Returns grads with their keys and shapes. Raises ValueError for other dtypes.
    Source: Squire and Trapp 1998, Using complex variables to estimate derivatives of real functions.
    """
    check_float64(params)
    moved = {key: param.astype(complex) for key, param in params.items()}
    grads = {key: np.zeros_like(param) for key, param in params.items()}
    for key, param in moved.items():
        for i in np.ndindex(param.shape):
            x = param[i]
            param[i] = x + 1j * h
            grads[key][i] = f(moved).imag / h
            param[i] = x
    return grads


def central_difference_gradient(f, params, h=H, pattern=None):
    """Return the gradient (f(params + h) - f(params - h)) / 2h, entry by entry, and which entries cross a kink.

    f(params) is a real scalar; params a dict of float64 arrays, which are not changed. pattern(params), if given, tells
    which units are active, as anything that compares by ==, such as bytes.
    Returns grads and crossed (bool: the pattern differs between +h and -h), both with the keys and shapes of params.
    Raises ValueError for other dtypes.
    """
    check_float64(params)
    pattern = pattern or (lambda params: None)
    moved = {key: param.copy() for key, param in params.items()}
    grads = {key: np.zeros_like(param) for key, param in params.items()}
    crossed = {key: np.zeros(param.shape, bool) for key, param in params.items()}
    for key, param in moved.items():
        for i in np.ndindex(param.shape):
            x = param[i]
            param[i] = x + h
            above, active = f(moved), pattern(moved)
            param[i] = x - h
            grads[key][i] = (above - f(moved)) / (2 * h)
            crossed[key][i] = active != pattern(moved)
            param[i] = x
    return grads, crossed


def relative_error(a, n):
    """Return max |a - n| / max(|a|, |n|), both maxima over all entries of two arrays of one shape; nan if all are 0."""
    largest = largest_entry(a, n)
    return largest_entry(a - n) / largest if largest else np.nan


def largest_entry(*arrays):
    """Return the largest absolute value in arrays of one shape, 0 if they are empty."""
    return float(np.max(np.abs(arrays), initial=0))


def numerical_gradients(f, params, pattern=None):
    """Return the complex-step grads, the central-difference grads, and crossed; arguments as in check."""
    return complex_step_gradient(f, params), *central_difference_gradient(f, params, pattern=pattern)


def judge(grads, numerical, zero=()):
    """Compare grads with numerical_gradients, against BARS. The names in zero are judged absolutely.

    Returns one dict for each parameter: parameter, judged ("relative" or "absolute"), entries, kinks (the entries left out
    of the central differences), complex and central (the errors), and failed, a list of "complex", "central" or "kinks".
    """
    rows = []
    for key in numerical[0]:
        a, complex_step, central, crossed = (gradient[key] for gradient in (grads, *numerical))
        judged, error = ("absolute", largest_entry) if key in zero else ("relative", relative_error)
        errors = {"complex": error(a, complex_step), "central": error(a[~crossed], central[~crossed])}
        failed = [method for method, bar in BARS[judged].items() if not errors[method] <= bar]
        kinks = np.count_nonzero(crossed)
        if 2 * kinks > a.size:
            failed.append("kinks")
        rows.append({"parameter": key, "judged": judged, "entries": a.size, "kinks": kinks, **errors, "failed": failed})
    return rows


def check(f, params, grads, pattern=None, zero=()):
    """Check grads, the analytic gradient of f at params, by both methods. Returns the rows of judge.

    f(params) -> scalar, as complex_step_gradient needs it; params and grads are dicts of float64 arrays with the same keys
    and shapes; pattern is that of central_difference_gradient, for a net with kinks; zero names the parameters whose
    gradient is 0 in theory. Raises ValueError for other dtypes, keys or shapes.
    """
    check_float64(params)
    check_float64(grads)
    if params.keys() != grads.keys() or not params.keys() >= set(zero):
        raise ValueError(f"params {list(params)}, grads {list(grads)} and zero {list(zero)} must name the same arrays")
    for key in params:
        if params[key].shape != grads[key].shape:
            raise ValueError(f"the gradient of {key} {params[key].shape} has the shape {grads[key].shape}")
    return judge(grads, numerical_gradients(f, params, pattern), zero)


def check_float64(arrays):
    """Raise ValueError unless all arrays of a dict are float64: less precision cannot meet the bars."""
    for key, array in arrays.items():
        if array.dtype != np.float64:
            raise ValueError(f"{key} is {array.dtype}: gradients are checked in float64")


# ------------------------------------------------------------------------------------------------- the networks


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


def plant(gradient, is_zero):
    """Return a wrong copy: the entry of median size among the non-zero ones is .1 % too large; a zero gradient is 1e-6."""
    if is_zero:
        return np.full_like(gradient, 1e-6)
    sizes = np.sort(np.abs(gradient[gradient != 0]))
    return np.where(np.abs(gradient) == sizes[len(sizes) // 2], 1.001 * gradient, gradient)


def planted_errors(hidden, bn, lam, rng, eps=kbn.EPS):
    """Plant an error in the gradient of each parameter in turn. Returns {parameter: whether both methods caught it}.

    Caught means that both fail this parameter and no other. The complex-step gradient serves as the right one.
    """
    params, X, y = draw_case(hidden, bn, rng)
    cost, _, active = closures(X, y, lam, eps, bn)
    numerical, zero = numerical_gradients(cost, params, active), zero_gradients(params, bn)
    grads, caught = numerical[0], {}
    for key in grads:
        rows = judge({**grads, key: plant(grads[key], key in zero)}, numerical, zero)
        failed = {row["parameter"]: row["failed"] for row in rows if row["failed"]}
        caught[key] = failed == {key: ["complex", "central"]}
    return caught


def check_nets(seed, nets=CHECKED):
    """Yield the rows of check for all nets, with the net, its setting and the verdict in words."""
    for i, ((hidden, eps), bn, lam) in enumerate(itertools.product(nets, PLACES, LAMBDAS)):
        params, X, y = draw_case(hidden, bn, np.random.default_rng([seed, i]))
        cost, gradient, active = closures(X, y, lam, eps, bn)
        for row in check(cost, params, gradient(params), active, zero_gradients(params, bn)):
            failed = row.pop("failed")
            verdict = "FAIL: " + ", ".join(failed) if failed else "ok"
            yield {"net": " ".join(map(str, hidden)), "bn": bn, "lam": lam, "eps": eps, "n": N, **row, "verdict": verdict}


def report_gradients(seed, nets=CHECKED):
    """Check all nets and the planted errors, and print the results. Returns the rows of check_nets and what failed."""
    bars = {judged: f"{bar['complex']:g} and {bar['central']:g}" for judged, bar in BARS.items()}
    print(f"kbn.backward (a) against numerical gradients (n) of kbn.compute_cost; d = {D}, K = {K}, mini-batches of {N}, "
          f"float64, seed {seed}.\nThe error is max |a - n| / max(|a|, |n|) over a parameter, by complex steps and by central "
          f"differences (h = {H:g});\nit must not exceed {bars['relative']}. abs: max(|a|, |n|), for a gradient that is 0 in "
          f"theory; at most {bars['absolute']}.\nkinks: entries left out of the central differences, because a ReLU switches "
          "within +-h.\n")
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


# ----------------------------------------------------------------------------------------------------- the script

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


def main():
    from lab import settings, tables  # the functions above need numpy and kbn alone

    options = settings.parser(__doc__)
    options.add_argument("--seed", type=int, default=0, help="seed of the nets and mini-batches, 0 or above (default: 0)")
    settings.add_out(options)
    opts = options.parse_args()
    if opts.seed < 0:
        options.error(f"argument --seed: {opts.seed} is below 0")
    folder = settings.output_folder(opts, "results")
    rows, failures = report_gradients(opts.seed)
    tables.write_table(folder / "gradcheck", largest_errors(rows))
    tables.write(folder / "gradcheck.csv", tables.comma_separated([{**row, "seed": opts.seed} for row in rows]))
    if failures:
        print(f"\nFAILED ({len(failures)}), the first: {failures[0]}")
        return 1
    print(f"\nAll {len(rows)} gradients are right: each agrees with both numerical methods. Every planted error was caught.")
    return 0


if __name__ == "__main__":
    from lab.settings import run_main

    run_main(main)
