"""Are the gradients right? Any closure over a dict of arrays, checked by complex steps and by central differences.

    python gradcheck.py              # document A, Exercises 1 and 3; 20 to 40 s, needs no dataset

compares kbn.backward with numerical gradients of kbn.compute_cost: a row for each net and parameter, then planted
errors that the check must catch, then real updates of kbn.minibatch_gd. The table goes to results/gradcheck.csv, the
largest errors to gradcheck.md; the exit status is 1 when anything fails. To expect: about 1e-15 by complex steps, up to
1e-13 in the 9-layer net with BN after the ReLU; 1e-9 to 1e-7 by central differences.

    rows = check(f, params, grads)   # f(params) -> scalar

What is measured. The error of a parameter is max |a - n| / max(|a|, |n|), both maxima over all its entries, a the
analytic and n the numerical gradient. Entry by entry, a relative error says nothing about an entry that is much smaller
than its neighbours: rounding leaves about 2e-16 times the large ones in it (complex steps), or 2e-16 |f| / h (central
differences, truncation apart). With these bars a .1 % error is caught in any entry above 1e-9 (complex steps) or 1e-3
(central differences) of the largest one of its parameter.

Zero gradients. Where BN stands before the ReLU it takes the mean away, and a hidden layer's bias with it: the gradient
is 0 in theory and 1e-17 in practice, so both gradients are held against an absolute bar. The caller names these
parameters, because that is a claim which theory makes and the check can refute; to detect them would excuse a backward
pass that forgets one. A parameter with nothing but zeros that is not named fails.

Kinks. At a ReLU that switches within +-h the central difference mixes two slopes. Such entries are found by the units
that are active at +h and at -h, counted and left out; more than half of a parameter left out fails (try another seed).
A complex step does not move the real part and crosses none.

Mini-batches. With n = 2, S_hat is +-1 whatever S is (but for epsilon), so BN passes nothing back, and an all-zero
batch_norm_backpass "agrees". Use n >= 5.
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np

import kbn
import tables

H = 5e-7  # the step of central differences: in deep BN nets their truncation, ~ H^2, is as small as rounding, ~ 1 / H
BARS = {
    "relative": {"complex": 1e-12, "central": 1e-6},
    "absolute": {"complex": 1e-13, "central": 5e-8},
}  # about 10 times the rounding of a cost below 10

NETS = [  # hidden nodes, epsilon; in the small ones all widths, D, K and N differ, which shows a transposed matrix
    ([8], kbn.EPS),
    ([8, 7], kbn.EPS),
    ([8, 7, 6], 1e-5),
    ([50], kbn.EPS),
    ([50, 50], kbn.EPS),
    ([50, 30, 20, 20, 10, 10, 10, 10], kbn.EPS),
]
BN = ["off", "before", "after"]
LAMBDAS = [0.0, 0.01]
D, K, N = 10, 5, 9  # input dimensions, classes, examples in a mini-batch
LINE = "{net:23} {bn:6} {lam:>6} {parameter:9} {entries:>7} {complex:>12} {central:>12} {kinks:>5}  {verdict}"
HEAD = {name: name for name in ("parameter", "entries", "kinks", "verdict")} | {
    "net": "hidden nodes",
    "bn": "BN",
    "lam": "lambda",
    "complex": "complex step",
    "central": "central diff",
}


# ------------------------------------------------------------------------------------------------------- any closure


def complex_step_gradient(f, params, h=2.0**-100):
    """The gradient Im f(params + i h) / h, an entry at a time: exact to rounding, for h^2 vanishes beside 1.

    f(params) a scalar, analytic and at ease with complex128 arrays (no abs, no conjugates, no float()); params a dict
    of float64 arrays, left as they are. Returns grads with their keys and shapes. Raises ValueError for other dtypes.
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
    """The gradient (f(params + h) - f(params - h)) / 2h, an entry at a time, and the kinks crossed on the way.

    f(params) a real scalar; params a dict of float64 arrays, left as they are. pattern(params), if given, says which
    units are active, as anything that compares by ==, such as bytes.
    Returns grads and crossed, bool: where the pattern differs between +h and -h. Both have the keys and shapes of
    params. Raises ValueError for other dtypes.
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
    """max |a - n| / max(|a|, |n|), both maxima over all entries of two arrays of one shape; nan where all are 0."""
    largest = largest_entry(a, n)
    return largest_entry(a - n) / largest if largest else np.nan


def largest_entry(*arrays):
    """The largest absolute value in arrays of one shape, 0 if they are empty."""
    return float(np.max(np.abs(arrays), initial=0))


def numerical_gradients(f, params, pattern=None):
    """What judge compares with: (complex-step grads, central-difference grads, crossed); arguments as in check."""
    return complex_step_gradient(f, params), *central_difference_gradient(f, params, pattern=pattern)


def judge(grads, numerical, zero=()):
    """Compare grads with numerical_gradients, against BARS. The names in zero are judged absolutely.

    Returns a dict for each parameter: parameter, judged ("relative" or "absolute"), entries, kinks (entries left out of
    the central differences), complex and central (the errors), failed: which of "complex", "central", "kinks".
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

    f(params) -> scalar, as complex_step_gradient needs it; params and grads dicts of float64 arrays, the same keys and
    shapes; pattern as in central_difference_gradient, for a net with kinks; zero names the parameters whose gradient is
    0 in theory. Raises ValueError for other dtypes, keys or shapes.
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
    """Raises ValueError unless all arrays of a dict are float64: less precision than that cannot meet the bars."""
    for key, array in arrays.items():
        if array.dtype != np.float64:
            raise ValueError(f"{key} is {array.dtype}: gradients are checked in float64")


# ------------------------------------------------------------------------------------------------- the nets of kbn.py


def draw(hidden, bn, rng, n=N):
    """A net and a mini-batch: params, X (D, n), y (n,). b and beta ~ N(0, .3^2), gamma ~ N(1, .3^2), weights He."""
    params = kbn.init_params([D, *hidden, K], rng, bn != "off", dtype=np.float64)
    for key in params:
        if not key.startswith("W"):
            params[key] += 0.3 * rng.standard_normal(params[key].shape)
    return params, rng.standard_normal((D, n)), rng.integers(K, size=n)


def closures(X, y, lam, eps, bn):
    """Three functions of params: the cost (20), with the statistics of X itself, its grads, and the active ReLUs."""
    Y = kbn.one_hot(y, K, X.dtype)
    options = {"eps": eps, "bn": "after" if bn == "after" else "before"}

    def cost(params):
        return kbn.compute_cost(X, Y, params, lam, **options)[0]

    def gradient(params):
        return kbn.backward(Y, params, kbn.forward(X, params, **options)[1], lam)

    def active(params):
        _, cache = kbn.forward(X, params, **options)
        outputs = (cache[f"S{l}" if bn == "after" else f"X{l}"] for l in range(1, kbn.n_layers(params)))
        return b"".join((output > 0).tobytes() for output in outputs)

    return cost, gradient, active


def zero_gradients(params, bn):
    """The parameters without influence on the cost: the hidden layers' biases, where BN stands before the ReLU."""
    return [f"b{l}" for l in range(1, kbn.n_layers(params))] if bn == "before" else []


def plant(gradient, is_zero):
    """A wrong copy: the entry of median size among those that are not 0 is .1 % too large; a zero gradient is 1e-6."""
    if is_zero:
        return np.full_like(gradient, 1e-6)
    sizes = np.sort(np.abs(gradient[gradient != 0]))
    return np.where(np.abs(gradient) == sizes[len(sizes) // 2], 1.001 * gradient, gradient)


def planted_errors(hidden, bn, lam, rng, eps=kbn.EPS):
    """Plant an error in the gradient of each parameter in turn. Returns {parameter: whether both methods caught it}.

    Caught: both fail this parameter and no other. The complex-step gradient stands for a right backward pass.
    """
    params, X, y = draw(hidden, bn, rng)
    cost, _, active = closures(X, y, lam, eps, bn)
    numerical, zero = numerical_gradients(cost, params, active), zero_gradients(params, bn)
    grads, caught = numerical[0], {}
    for key in grads:
        rows = judge({**grads, key: plant(grads[key], key in zero)}, numerical, zero)
        failed = {row["parameter"]: row["failed"] for row in rows if row["failed"]}
        caught[key] = failed == {key: ["complex", "central"]}
    return caught


def update_error(n_batch, momentum, rng):
    """The largest relative error of two updates of kbn.minibatch_gd, against the same by hand. A (38), (39), D.

    2 N examples, n_batch (2 N or N) at a time, 3-layer net with BN. By hand: params - eta grads, with the complex-step
    gradient, and the moving averages of the batches' means and variances. Every array of params and stats is compared
    after each epoch; where n_batch is 2 N, an epoch is one single step.
    """
    params, X, y = draw([8, 7], "before", rng, n=2 * N)
    eta_min, eta_max, lam, alpha = 0.01, 0.1, 0.01, 0.9
    hp = {"n_batch": n_batch, "eta_min": eta_min, "eta_max": eta_max, "n_s": 1, "n_cycles": 1, "lam": lam}
    hp |= {"alpha": alpha, "momentum": momentum}
    seed, measured, expected = rng.integers(2**32), [], []

    def watch(state):
        measured.append({key: array.copy() for key, array in {**state["params"], **state["stats"]}.items()})

    kbn.minibatch_gd((X, y), (X, y), params, hp, np.random.default_rng(seed), watch)

    rng, etas, v, stats = np.random.default_rng(seed), iter([eta_min, eta_max]), dict.fromkeys(params, 0), {}
    for _ in range(n_batch // N):
        for batch in rng.permutation(2 * N).reshape(-1, n_batch):
            cost, _, _ = closures(X[:, batch], y[batch], lam, kbn.EPS, "before")
            _, cache = kbn.forward(X[:, batch], params)
            for l in (1, 2):
                S = cache[f"S{l}"]
                for key, now in ((f"mu{l}", S.mean(axis=1, keepdims=True)), (f"v{l}", S.var(axis=1, keepdims=True))):
                    stats[key] = alpha * stats.get(key, now) + (1 - alpha) * now
            eta, grads = next(etas), complex_step_gradient(cost, params)
            v = {key: momentum * v[key] - eta * grads[key] for key in params}
            params = {key: params[key] + v[key] for key in params}
        expected.append({**params, **stats})
    return max(relative_error(a[key], n[key]) for a, n in zip(measured, expected, strict=True) for key in n)


# -------------------------------------------------------------------------------------------------------- the script


def check_nets(seed, nets=None):
    """Yield the rows of judge for all nets (None: NETS), with the net, its setting and the verdict in words."""
    for i, ((hidden, eps), bn, lam) in enumerate(itertools.product(nets or NETS, BN, LAMBDAS)):
        params, X, y = draw(hidden, bn, np.random.default_rng([seed, i]))
        cost, gradient, active = closures(X, y, lam, eps, bn)
        for row in check(cost, params, gradient(params), active, zero_gradients(params, bn)):
            failed = row.pop("failed")
            yield {
                "net": " ".join(map(str, hidden)),
                "bn": bn,
                "lam": lam,
                "eps": eps,
                "n": N,
                **row,
                "verdict": "FAIL: " + ", ".join(failed) if failed else "ok",
            }


def print_header(seed, nets):
    relative, absolute = BARS["relative"], BARS["absolute"]
    print("kbn.backward (a) against numerical gradients (n) of kbn.compute_cost, by complex steps and by")
    print(f"central differences with h = {H:g}. d = {D}, K = {K}, mini-batches of {N}, float64, seed {seed}.")
    for hidden, eps in nets:
        print(f"  epsilon {eps:<8.2g} hidden nodes {' '.join(map(str, hidden))}")
    print(f"error  max |a - n| / max(|a|, |n|) over a parameter; bars {relative['complex']:g}, {relative['central']:g}")
    print(f"abs    max(|a|, |n|), where theory says 0; bars {absolute['complex']:g}, {absolute['central']:g}")
    print("kinks  entries left out of the central differences, because a ReLU switches within +-h\n")
    print(LINE.format(**HEAD))


def print_row(row):
    unit = {"relative": "", "absolute": " abs"}[row["judged"]]
    errors = {method: f"{row[method]:.1e}{unit}" for method in ("complex", "central")}
    print(LINE.format_map(row | errors | {"lam": f"{row['lam']:g}"}), flush=True)


def overview(rows):
    """The largest errors for each net and BN, as a Markdown table."""
    cells = [["hidden nodes", "BN", "gradients", "entries", "complex step", "central difference", "kinks left out"]]
    for (net, bn), group in itertools.groupby(rows, lambda row: (row["net"], row["bn"])):
        group = list(group)
        relative = [row for row in group if row["judged"] == "relative"]
        cells.append(
            [
                net,
                bn,
                str(len(group)),
                str(sum(row["entries"] for row in group)),
                *(f"{max(row[method] for row in relative):.1e}" for method in ("complex", "central")),
                str(sum(row["kinks"] for row in group)),
            ]
        )
    return tables.markdown(cells)


def examine(seed, nets=None):
    """All three examinations, printed as they go: the nets (None: NETS), the planted errors, the updates.

    Returns the rows of the table, and what failed, in words.
    """
    nets = nets or NETS
    print_header(seed, nets)
    rows, failures = [], []
    for row in check_nets(seed, nets):
        rows.append({**row, "seed": seed, "numpy": np.__version__})
        print_row(row)
        if row["verdict"] != "ok":
            failures.append(f"{row['parameter']} of {row['net']}, BN {row['bn']}, lambda {row['lam']:g}")

    print("\nplanted errors: one entry .1 % too large, a zero gradient 1e-6; nets 8 7, lambda 0.01")
    for i, bn in enumerate(BN):
        for key, caught in planted_errors([8, 7], bn, 0.01, np.random.default_rng([seed, 1000 + i])).items():
            print(f"BN {bn:6} {key:9} {'caught by both methods' if caught else 'NOT caught: FAIL'}")
            if not caught:
                failures.append(f"the error planted in {key}, BN {bn}, was not caught")

    print("\ntwo updates of kbn.minibatch_gd, params and moving averages, against params - eta grads by hand")
    for i, (n_batch, momentum) in enumerate([(2 * N, 0.0), (N, 0.0), (N, 0.9)]):
        error = update_error(n_batch, momentum, np.random.default_rng([seed, 2000 + i]))
        right = error <= BARS["relative"]["complex"]
        print(f"{2 * N} examples, n_batch {n_batch:2}, momentum {momentum:g}: {error:.1e} {'ok' if right else 'FAIL'}")
        if not right:
            failures.append(f"minibatch_gd, n_batch {n_batch}, momentum {momentum:g}")
    return rows, failures


def main(argv=None):
    parser = argparse.ArgumentParser(description="Check the gradients of kbn.py. Exit status 1 if anything fails.")
    parser.add_argument("--seed", type=int, default=0, help="of the nets and mini-batches, 0 or above (default: 0)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent / "results",
        help="the folder for gradcheck.csv and .md (default: results, beside this script)",
    )
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error("--seed must be 0 or above")

    rows, failures = examine(args.seed)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tables.write(args.out / "gradcheck.csv", tables.comma_separated(rows))
        tables.write(args.out / "gradcheck.md", overview(rows))
    except OSError as error:
        failures.append(f"the results cannot be written to {args.out} ({error.strerror}); name a folder with --out")
    if failures:
        print(f"\nFAILED ({len(failures)}), the first: {failures[0]}")
        return 1
    print(f"\n{len(rows)} gradients checked ({sum(row['entries'] for row in rows)} entries), all within the bars")
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # for letters that the terminal lacks
    sys.exit(main())
