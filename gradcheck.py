"""Check gradients: of any function of arrays, by complex steps and by central differences.

    python gradcheck.py              # the assignment, Exercises 1 and 3; under a minute on one core, needs no dataset

compares kbn.backward with numerical gradients of kbn.compute_cost, one line for each net and parameter, and then plants
errors that the check must catch (see lab/gradients.py). It writes results/gradcheck.csv (every line), .md and .tex (the
largest errors), gradcheck_report (the student report's own check) and gradcheck_layers (whether errors grow towards the first
layer); the exit status is 1 if anything fails. Expect errors about 1e-15 by complex steps, up to 1e-13 in the 9-layer net
with BN after the ReLU, and 1e-9 to 1e-7 by central differences.

    check(f, params, grads)          # your own cost and gradients: prints a table and a verdict

The error. For a parameter it is max |a - n| / max(|a|, |n|), both maxima over all its entries, where a is the analytic and n
the numerical gradient. A relative error of each entry would say nothing about an entry that is much smaller than its
neighbours: rounding leaves an error of about 2e-16 times the large entries in it (complex steps), or 2e-16 |f| / h (central
differences). The bars catch a .1 % error in any entry above 1e-9 (complex steps) or 1e-3 (central differences) of the largest
entry of its parameter.

Zero gradients. BN before the ReLU subtracts the mean, and a hidden layer's bias with it. The gradient of that bias is 0 in
theory and 1e-17 in practice, so it is compared with an absolute bar. The script names these parameters: that is a claim of
theory which it can refute. check finds them by itself, from the numerical gradients alone: rounding changes when the last
digits of params change, but a small gradient stays. A backward pass that forgets a parameter therefore fails.

Kinks. At a ReLU that switches within +-h the central difference mixes two slopes. The script compares the active units at +h
and at -h, and leaves such entries out; check tries smaller steps, and where no step avoids the kink it accepts any slope
between those of both sides. If such entries are more than half of a parameter, it fails; try another seed. A complex step
does not move the real part, so it crosses no kink.

Complex numbers. np.var and np.abs take |z|, and astype(float) drops the imaginary part: a complex step sees another function.
check first compares complex steps with central differences. Where they disagree, it judges by central differences alone.

Mini-batches. With n = 2, S_hat is +-1 whatever S is (up to epsilon), so BN passes nothing back, and an all-zero
batch_norm_backpass "agrees". Use n >= 5.
"""
import warnings
from functools import partial

import numpy as np

H = 5e-7  # the step of central differences, times the scale of the parameter: in deep BN nets truncation, ~ H^2, is then
         # as small as rounding, ~ 1 / H
BARS = {"relative": {"complex": 1e-12, "central": 1e-6},  # about 10 times the rounding of a cost below 10
        "absolute": {"complex": 1e-13, "central": 5e-8}}


# --------------------------------------------------------------------------------------------------- any function

def complex_step_gradient(f, params, h=2.0**-100, entries=None):
    """Return the gradient Im f(params + i h) / h, entry by entry. It is exact to rounding, since h^2 vanishes beside 1.

    f(params) is a scalar, analytic, and defined for complex128 arrays (no np.var, np.abs or float()); params a dict of real
    arrays, which are not changed; entries {key: indices} are the only ones to differentiate by (None: all).
    Returns grads, float64, with the keys and shapes of params.
    Source: Squire and Trapp 1998, Using complex variables to estimate derivatives of real functions.
    """
    moved = {key: np.array(param, complex) for key, param in params.items()}
    grads = {key: np.zeros(param.shape) for key, param in params.items()}
    for key in entries or params:
        param = moved[key]
        for i in entries[key] if entries else np.ndindex(param.shape):
            x = param[i]
            param[i] = x + 1j * h
            grads[key][i] = f(moved).imag / h
            param[i] = x
    return grads


def central_difference_gradient(f, params, h=H, pattern=None):
    """Return the gradient (f(params + s) - f(params - s)) / 2s, entry by entry, and which entries cross a kink.

    f(params) is a real scalar; params a dict of real arrays, which are not changed; s is h times the scale of the parameter.
    pattern(params), if given, tells which units are active, as anything that compares by ==, such as bytes.
    Returns grads, float64, and crossed (bool: the pattern differs between +s and -s), with the keys and shapes of params.
    """
    pattern = pattern or (lambda params: None)
    moved = {key: np.array(param, float) for key, param in params.items()}
    grads = {key: np.zeros(param.shape) for key, param in params.items()}
    crossed = {key: np.zeros(param.shape, bool) for key, param in params.items()}
    for key, param in moved.items():
        step = h * scale(param)
        for i in np.ndindex(param.shape):
            x = param[i]
            param[i] = right = x + step
            above, active = f(moved), pattern(moved)
            param[i] = left = x - step
            grads[key][i] = (above - f(moved)) / (right - left)
            crossed[key][i] = active != pattern(moved)
            param[i] = x
    return grads, crossed


def scale(param):
    """Return the largest absolute value in an array, the unit of its steps; 1 if all are 0."""
    return largest_entry(param) or 1.0


def relative_error(a, n):
    """Return max |a - n| / max(|a|, |n|), both maxima over all entries of two arrays of one shape; nan if all are 0."""
    largest = largest_entry(a, n)
    return largest_entry(a - n) / largest if largest else np.nan


def largest_entry(*arrays):
    """Return the largest absolute value in arrays of one shape, 0 if they are empty."""
    return float(np.max(np.abs(arrays), initial=0))


def plant(gradient, is_zero):
    """Return a wrong copy: the entry of median size among the non-zero ones is .1 % too large; a zero gradient is 1e-6."""
    if is_zero:
        return np.full_like(gradient, 1e-6)
    sizes = np.sort(np.abs(gradient[gradient != 0]))
    return np.where(np.abs(gradient) == sizes[len(sizes) // 2], 1.001 * gradient, gradient)


def errors_as_text(row):
    """Return both errors of a row as text; abs: of a gradient that is 0 in theory, -: not compared."""
    return ["-" if np.isnan(row[method]) and method not in row["failed"]
            else f"{row[method]:.1e}{' abs' * (row['judged'] == 'absolute')}" for method in ("complex", "central")]


# ------------------------------------------------------------------------------------------------ your own function

def check(f, params, grads, *, zero=(), quiet=False):
    """Check grads, your gradient of f at params, by both methods. Prints a table and a verdict, unless quiet.

    params and grads are dicts, lists or tuples of real arrays, nested or not, with the same names and shapes; f(params) is the
    cost, one number, of float64 arrays in the same structure. The first array of {"W": list} is named W[0], that of a list [0].
    zero names the parameters whose gradient you claim to be 0 in theory; check finds them without it.
    Returns a dict for each parameter: parameter, judged ("absolute" if the gradient is 0, else "relative"), entries, kinks (the
    entries where no step avoids a kink), complex and central (the errors, nan if not compared), failed (a list of "complex",
    "central", "kinks", "precision", "zero"; empty if the gradient is right), worst (the index of the largest error), analytic
    and numerical (the gradients there), ratio (of both, if it is the same in all entries, else nan), hint (what is wrong).
    Raises ValueError for other names, shapes or types, and if f does not return one finite number, the same in each call.
    """
    arrays, given, rows = real_arrays(params, "params"), real_arrays(grads, "grads"), []
    check_names_and_shapes(arrays, given, zero)
    arrays = {name: array.astype(float) for name, array in arrays.items()}
    cost = cost_of_arrays(f, params, arrays)
    with np.errstate(all="ignore"):
        seen, noise = central_differences(cost, arrays), noise_of(cost, arrays)
        look = {name: partial(closer_look, cost, arrays, noise, name) for name in arrays}
        exact, rounding, why = complex_steps(cost, arrays)
        agree = all(settle(grad, seen[name], look[name]) for name, grad in exact.items())
        if exact and not (agree and agree_elsewhere(cost, arrays)):
            exact, why = {}, "np.var and np.abs, for example, take |z|"
        for name, param in arrays.items():
            steps = (exact[name], rounding[name]) if exact else None
            unseen = min(5e7 * noise, 1e-3 * abs(cost(arrays))) / scale(param)
            row = judge_closely(given[name], steps, seen[name], look[name], unseen)
            row["failed"] += ["zero"] * (name in zero and row["judged"] == "relative")
            rows.append({"parameter": name or "params", **row, **explain(row, given[name], exact.get(name), seen[name], param)})
    if not quiet:
        show(rows, why)
    return rows


def replace_arrays(tree, new, name=""):
    """Return tree, nested dicts, lists and tuples of arrays, with new(name, array) in the place of each array."""
    if isinstance(tree, dict):
        return {key: replace_arrays(part, new, f"{name}[{key!r}]" if name else str(key)) for key, part in tree.items()}
    if isinstance(tree, (list, tuple)) and not is_numbers(tree):
        return type(tree)([replace_arrays(part, new, f"{name}[{i}]") for i, part in enumerate(tree)])
    return new(name, tree)


def is_numbers(tree):
    """Return whether tree is a number, or a list of numbers: an array itself, not a list of arrays."""
    return all(map(is_numbers, tree)) if isinstance(tree, (list, tuple)) else np.isscalar(tree)


def real_arrays(tree, what):
    """Return the arrays of tree as {name: array of floats}. Raises ValueError if it holds something else."""
    arrays = {}
    replace_arrays(tree, lambda name, part: arrays.update({name: np.asarray(part)}))
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or array.dtype == np.float16 or not array.size:
            raise ValueError(f"{what}: {name or what} is {array.dtype} {array.shape}, not an array of real numbers")
        if array.dtype.kind != "f":
            arrays[name] = array.astype(float)
    return arrays


def check_names_and_shapes(params, grads, zero):
    """Raise ValueError unless params and grads have the same names and shapes, params are finite, and zero names some."""
    if not params or params.keys() != grads.keys() or not params.keys() >= set(zero):
        raise ValueError(f"params {list(params)}, grads {list(grads)} and zero {list(zero)} must name the same arrays")
    for name, param in params.items():
        shape = grads[name].shape
        if shape != param.shape:
            cure = "transpose it" if shape == param.shape[::-1] else f"reshape it to {param.shape}"
            raise ValueError(f"the gradient of {name} {param.shape} has the shape {shape}; {cure} if it is right otherwise")
        if not np.isfinite(param).all():
            raise ValueError(f"{name} holds nan or inf: a gradient is checked at finite params")


def cost_of_arrays(f, params, arrays):
    """Return f as a function of {name: array} that returns one number. Raises ValueError if f cannot be checked."""
    def cost(moved):
        value = f(replace_arrays(params, lambda name, _: moved[name]))
        if isinstance(value, (tuple, list)) or np.size(value) != 1 or np.asarray(value).dtype.kind not in "fiuc":
            raise ValueError(f"f must return the cost alone, one number, not {type(value).__name__} of size {np.size(value)}")
        return np.reshape(value, ())[()]

    first, second = cost(arrays), cost(arrays)
    if not np.isfinite(first):
        raise ValueError(f"f(params) is {first}: the cost must be finite")
    if abs(first - second) > 1e-6 * abs(first):
        raise ValueError(f"f(params) is {first}, then {second}: it must not draw at random (dropout?) or change its params")
    return cost


def complex_steps(f, params):
    """Return complex_step_gradient, {key: its rounding error} and ""; or {}, {} and why f does not take complex numbers.

    The rounding error is the largest change of the five largest entries when h and the last digits of params change.
    """
    rng, rounding = np.random.default_rng(0), {}
    near = {h * 2.0**-100: {key: param * (1 + 2.0**-46 * rng.uniform(-1, 1, param.shape)) for key, param in params.items()}
            for h in (1.1, 1.3, 1.7)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            exact = complex_step_gradient(f, params)
            for key, grad in exact.items():
                largest = sorted(np.ndindex(grad.shape), key=lambda i: -abs(grad[i]))[:5]
                again = [complex_step_gradient(f, moved, h, {key: largest})[key] for h, moved in near.items()]
                rounding[key] = max(abs(grad[i] - other[i]) for other in again for i in largest)
    except Exception as error:  # whatever f raises, it does not take complex numbers
        return {}, {}, f"{type(error).__name__}: {error}".split("\n")[0]
    return exact, rounding, ""


def agree_elsewhere(f, params):
    """Return whether complex steps agree with central differences along a line through random numbers in the place of params.

    At params themselves f may change too little for central differences. Where f is not finite nothing is compared.
    """
    rng, at = np.random.default_rng(0), {"t": np.zeros(())}
    point, way = ({key: rng.standard_normal(param.shape) for key, param in params.items()} for _ in range(2))

    def line(moved):
        return f({key: point[key] + moved["t"] * way[key] for key in params})

    look = partial(closer_look, line, at, noise_of(f, point), "t")
    return not np.isfinite(line(at)) or settle(complex_step_gradient(line, at)["t"], central_differences(line, at)["t"], look)


def central_differences(f, params):
    """Return {key: array of the slopes of f}; only closer_look sets doubt, kink and looked."""
    fields = [("slope", float), ("doubt", float), ("kink", bool), ("looked", bool)]
    seen = {key: np.zeros(param.shape, fields) for key, param in params.items()}
    for key, slope in central_difference_gradient(f, params, h=1e-5)[0].items():
        seen[key]["slope"] = slope
    return seen


def noise_of(f, params):
    """Return the rounding error of f near params: what is left in differences of sixth order, where smooth parts vanish.

    Source: More and Wild 2011, Estimating computational noise.
    """
    values = [f({key: param * (1 + t) for key, param in params.items()}) for t in 2.0**-22 * np.arange(21)]
    return max(np.median(np.abs(np.diff(values, 6))) / 924**0.5, np.spacing(np.abs(values[0])), np.finfo(float).tiny)


def closer_look(f, params, noise, key, i):
    """Return the slope of f along entry i of params[key], how far it may be off, whether f has a kink there, and True: looked.

    It is the central difference that differs least from those with larger steps. At a kink the slopes on both sides differ as
    much as they do with a step ten times as large: any slope between them is right.
    """
    moved, x, middle = params[key].copy(), params[key][i], f(params)
    steps, rises, runs = scale(params[key]) * 10.0 ** -np.arange(1, 12), [], []
    for step in (*-steps, *steps):
        moved[i] = x + step
        rises.append(f({**params, key: moved}) - middle)
        runs.append(moved[i] - x)
    seen = np.abs([rise for rise in rises if rise != 0])
    if 0 < len(seen) < len(rises) and seen.min() < 1e-6 * abs(middle):
        noise = max(noise, seen.min())  # small steps do not change f: it has fewer digits
    left, right = np.split(np.divide(rises, runs), 2)
    central, bend, noise = (left + right) / 2, np.abs(right - left), 5 * noise / steps
    change = np.nan_to_num(np.abs(np.diff(central)), nan=np.inf)
    doubt = np.maximum(change[1:], change[:-1] / 30) + noise[2:]  # two changes: one may be small by chance
    best = np.argmin(doubt) + 2
    bent = bend[best] > 0.5 * bend[best - 1]
    return np.nan_to_num(central[best]), doubt[best - 2] + bent * bend[best] / 2, bent and bend[best] > 20 * noise[best], True


def settle(a, seen, look, limit=None):
    """Look closer at the entries where a differs from the slopes seen, the worst first. Returns whether all agree then.

    limit is the difference that is allowed beside the doubt; None: the bar of central differences.
    """
    limit = BARS["relative"]["central"] * largest_entry(a) if limit is None else limit
    while True:
        worst, away = largest_gap(a, seen["slope"], seen["doubt"])
        if away <= limit:
            return True
        if seen["looked"][worst]:
            return False
        seen[worst] = look(worst)


def largest_gap(a, n, doubt):
    """Return the index of the largest |a - n| - doubt, and that number; nan counts as infinite."""
    away = np.nan_to_num(np.abs(a - n) - doubt, nan=np.inf)
    worst = tuple(map(int, np.unravel_index(np.argmax(away), a.shape)))
    return worst, away[worst]


def judge_closely(a, steps, seen, look, unseen):
    """Compare a with the slopes seen and, unless steps is None, with complex steps: (their gradient, its rounding error).

    A gradient of 0 may be as large as unseen. Returns a row of check, up to failed. The bar of complex steps is wider than that
    of the script by 1e-6 of each entry, as an epsilon in a logarithm is no error; all bars follow the precision of a.
    """
    precision = 1e3 * np.finfo(a.dtype).eps if a.itemsize < 8 else 0.0
    exact, rounding = steps or (np.full(a.shape, np.nan), 0.0)
    zero = largest_entry(exact) <= 10 * rounding if steps else settle(np.zeros(a.shape), seen, look, 0.0)
    limits = {method: max(bar, precision) * largest_entry(a) for method, bar in BARS["relative"].items()}
    limits["complex"] = limits["complex"] + 10 * rounding + 1e-6 * np.abs(exact)
    if zero:
        limits = dict.fromkeys(limits, unseen + 10 * rounding)
    agree = settle(a, seen, look, limits["central"])
    kept, error = ~seen["kink"], largest_entry if zero else relative_error
    errors = {"complex": error(a[kept], exact[kept]), "central": error(a[kept], seen["slope"][kept])}
    doubt = largest_entry(seen["doubt"][kept])
    blind = min(doubt, largest_entry(a)) > 0.01 * unseen if zero else doubt > 0.1 * largest_entry(seen["slope"])
    if blind and steps:
        errors["central"] = np.nan
    kinks = np.count_nonzero(~kept)
    fails = {"complex": steps and not (np.abs(a - exact) <= limits["complex"])[kept].all(), "central": not agree,
             "kinks": agree and 2 * kinks > a.size, "precision": agree and blind and not steps}
    return {"judged": "absolute" if zero else "relative", "entries": a.size, "kinks": kinks, **errors,
            "failed": [what for what, holds in fails.items() if holds]}


def explain(row, a, exact, seen, param):
    """Return the rest of a row of check, from worst on. exact: the gradient by complex steps, None if not compared."""
    kept, use_exact = ~seen["kink"], exact is not None and (not row["failed"] or "complex" in row["failed"])
    n, doubt = (exact, np.where(kept, 0.0, np.inf)) if use_exact else (seen["slope"], seen["doubt"])
    worst, _ = largest_gap(a, n, doubt)
    ratio, lacks = common_factor(a[kept], n[kept]), common_factor((n - a)[kept], param[kept])
    precision = largest_entry(seen["doubt"][kept]) / (largest_entry(n) if row["judged"] == "relative" else 1.0)
    hint = wrong(row, a, ratio, lacks, precision) if row["failed"] else remark(row, precision * (exact is None))
    return {"worst": worst, "analytic": float(a[worst]), "numerical": float(n[worst]), "ratio": ratio, "hint": hint}


def common_factor(a, b):
    """Return r if a is r b in all entries, within 1e-4 of the largest; nan if it is not, or if one of them is 0."""
    r = float((a * b).sum() / ((b * b).sum() or np.nan))
    return r if r and relative_error(a, r * b) < 1e-4 else np.nan


def remark(row, precision):
    """Return what is remarkable in a row that is right: that it is 0, or to which precision it is right if that is low."""
    method = "central" if np.isnan(row["complex"]) else "complex"
    error = np.fmax(row[method], precision)
    if row["judged"] == "absolute":
        return f"0 to {error:.0e}" if method == "central" else "0 in theory"
    return f"to {error:.0e}" if error > BARS["relative"][method] else ""


def wrong(row, a, ratio, lacks, precision):
    """Return what is wrong in a row that failed; ratio and lacks are factors: of the numerical gradient, of the parameter."""
    n = next((f"; is n {m:.0f}?" for m in (abs(ratio), 1 / abs(ratio)) if m > 1.5 and abs(m - round(m)) < 1e-3), "")
    reasons = {  # the first that holds
        "f has kinks at more than half of its entries: try other params or data": "kinks" in row["failed"],
        f"central differences of f are good to {precision:.0e} only: compute the cost in float64": "precision" in row["failed"],
        "your grad holds nan or inf": not np.isfinite(a).all(),
        "you named it zero, but f changes with it": "zero" in row["failed"],
        "f does not change with it: is its gradient 0 in theory, and does f use its argument?": row["judged"] == "absolute",
        "your grad is 0 in all entries: does your backward pass reach it?": not a.any(),
        f"your grad is {float(f'{ratio:.4g}')} times the numerical one in all entries{n}": abs(ratio - 1) > 1e-5,
        f"your grad lacks {lacks:.4g} times the parameter in all entries: the penalty?": not np.isnan(lacks),
        "complex steps alone see this error": row["failed"] == ["complex"],
        "the ratio of both is not the same in all entries": True}
    return next(reason for reason, holds in reasons.items() if holds)


def show(rows, why):
    """Print the rows of check as a table, then each error, why complex steps are left out, and the verdict."""
    line = f"{{:{max(9, *(len(row['parameter']) for row in rows))}}} {{:>7}} {{:>12}} {{:>12}} {{:>5}}  {{}}"
    print(line.format("parameter", "entries", "complex step", "central diff", "kinks", "verdict"))
    names = {"right": [], "WRONG": [], "unclear": []}
    for row in rows:
        verdict = "right" if not row["failed"] else "WRONG" if {"central", "zero"} & {*row["failed"]} else "unclear"
        names[verdict].append(row["parameter"])
        note = f", {row['hint']}" * (verdict == "right" and row["hint"] != "")
        print(line.format(row["parameter"], row["entries"], *errors_as_text(row), row["kinks"], verdict + note))
    for row in rows:
        if row["failed"]:
            place = f"{row['parameter']}{list(row['worst'])}".removesuffix("[]")
            print(f"{place}: yours {row['analytic']:.6g}, numerical {row['numerical']:.6g}; {row['hint']}")
    if why:
        print(f"Your function is not made for complex numbers ({why}): checked by central differences instead.")
    if len(names["right"]) == len(rows):
        print(f"All {len(rows)} gradients are right: they are the derivatives of your cost.")
    else:
        print(*(f"{verdict}: {', '.join(names[verdict])}." for verdict in ("WRONG", "unclear") if names[verdict]))


# ----------------------------------------------------------------------------------------------------- the script

def main():
    from lab import gradients, settings, tables  # the functions above need numpy alone

    options = settings.parser(__doc__)
    options.add_argument("--seed", type=int, default=0, help="seed of the nets and mini-batches, 0 or above (default: 0)")
    settings.add_out(options)
    opts = options.parse_args()
    if opts.seed < 0:
        options.error(f"argument --seed: {opts.seed} is below 0")
    folder = settings.output_folder(opts, "results")
    rows, failures = gradients.report_gradients(opts.seed)
    for name, table in gradients.tables_of(rows, opts.seed):
        print(f"\n{name}\n\n{tables.write_table(folder / name, table)}", end="", flush=True)
    tables.write(folder / "gradcheck.csv", tables.comma_separated([{**row, "seed": opts.seed} for row in rows]))
    if failures:
        print(f"\nFAILED ({len(failures)}): kbn.backward does not return the derivatives of the cost; the first: {failures[0]}")
        return 1
    print(f"\nAll {len(rows)} gradients are right: kbn.backward returns the derivatives of kbn.compute_cost. "
          "Every planted error was caught.")
    return 0


if __name__ == "__main__":
    from lab.settings import run_main

    run_main(main)
