"""gradcheck.py: right gradients pass, an error of .1 % does not, and what cannot be judged is reported as what it is."""

import csv
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import gradcheck
import kbn
from lab import gradients

BOTH = ["complex", "central"]
A, B = np.array([[1.0, -2.0, 0.5], [0.3, 4.0, -1.0]]), np.array([[0.7], [-0.2], [2.0]])
FUNCTIONS = {  # f, its exact gradient
    "quadratic": (lambda p: (p["A"] ** 2).sum() + 3 * (p["B"] ** 2).sum(), lambda A, B: {"A": 2 * A, "B": 6 * B}),
    "exp": (lambda p: np.exp(p["A"]).sum() - np.exp(-p["B"]).sum(), lambda A, B: {"A": np.exp(A), "B": np.exp(-B)}),
    "product": (lambda p: (p["A"] @ p["B"]).prod(), lambda A, B: {"A": (A @ B)[::-1] @ B.T, "B": A.T @ (A @ B)[::-1]}),
}
QUADRATIC, QUADRATIC_GRADIENT = FUNCTIONS["quadratic"]
PARAMS = {"A": A, "B": B}
every_bn = pytest.mark.parametrize("bn", gradients.PLACES)
check = partial(gradcheck.check, quiet=True)


def case(bn, hidden=(8, 7), n=gradients.N, lam=0.01):
    """Cost, params, grads, active units and zero gradients of a net of kbn."""
    params, X, y = gradients.draw_case(list(hidden), bn, np.random.default_rng(1), n)
    cost, gradient, active = gradients.closures(X, y, lam, kbn.EPS, bn)
    return cost, params, gradient(params), active, gradients.zero_gradients(params, bn)


def strictly(cost, params, grads, active, zero):
    """The rows of the script's check."""
    return gradients.judge(grads, gradients.numerical_gradients(cost, params, active), zero)


def failed(rows):
    """{parameter: what it failed} of the rows with a failure."""
    return {row["parameter"]: row["failed"] for row in rows if row["failed"]}


# -------------------------------------------------------------------------------------------------------- both methods


@pytest.mark.parametrize("f, gradient", FUNCTIONS.values(), ids=FUNCTIONS)
def test_both_methods_give_known_gradients_and_leave_params_alone(f, gradient):
    params = {"A": A.copy(), "B": B.copy()}
    by_complex_steps = gradcheck.complex_step_gradient(f, params)
    by_differences, crossed = gradcheck.central_difference_gradient(f, params)
    for key, exact in gradient(A, B).items():
        np.testing.assert_allclose(by_complex_steps[key], exact, rtol=1e-14)
        np.testing.assert_allclose(by_differences[key], exact, rtol=1e-7)
        assert by_complex_steps[key].dtype == by_differences[key].dtype == np.float64 and not crossed[key].any()
    assert failed(check(f, params, gradient(A, B))) == {}
    assert np.array_equal(params["A"], A) and np.array_equal(params["B"], B)


@pytest.mark.parametrize("f, gradient", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("key", ["A", "B"])
def test_one_entry_that_is_wrong_by_a_thousandth_fails_its_parameter_alone_and_is_named(f, gradient, key):
    for i in np.ndindex(gradient(A, B)[key].shape):
        grads = gradient(A, B)
        grads[key][i] *= 1.001
        rows = check(f, PARAMS, grads)
        [row] = [row for row in rows if row["parameter"] == key]
        assert failed(rows) == {key: BOTH} and row["worst"] == i and row["analytic"] == grads[key][i]
        assert row["numerical"] == pytest.approx(gradient(A, B)[key][i], rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e4])
def test_error_of_central_differences_is_of_order_h_squared_and_h_follows_the_scale(size):
    grads, _ = gradcheck.central_difference_gradient(lambda p: (p["A"] ** 3).sum(), {"A": size * A}, h=1e-2)
    np.testing.assert_allclose(grads["A"] - 3 * (size * A) ** 2, (0.04 * size) ** 2, rtol=1e-6)  # h^2 f''' / 6, scale 4


def test_relative_error_divides_by_the_largest_entry_of_both():
    a, n = np.array([1.0, 4.0]), np.array([1.5, 5.0])
    assert gradcheck.relative_error(a, n) == gradcheck.relative_error(n, a) == 1 / 5
    assert gradcheck.relative_error(a, a) == 0
    assert np.isnan(gradcheck.relative_error(0 * a, 0 * a)) and np.isnan(gradcheck.relative_error(np.array([np.nan, 4.0]), n))


# ----------------------------------------------------------------------------------------------- a student's own solution

X, y = np.random.default_rng(0).standard_normal((6, 9)), np.arange(9) % 3
Y = kbn.one_hot(y, 3, np.float64)


def mean_square(S):
    return ((S - S.mean(1, keepdims=True)) ** 2).mean(1, keepdims=True)


def student(params, X=X, var=mean_square, lam=0.01):
    """The cost of a net of two layers with BN before the ReLU, as a student writes it, and its forward pass."""
    S = params["W1"] @ X + params["b1"]
    mu, v = S.mean(1, keepdims=True), var(S)
    S_hat = (S - mu) / np.sqrt(v + kbn.EPS)
    H = np.maximum(params["gamma"] * S_hat + params["beta"], 0)
    scores = params["W2"] @ H + params["b2"]
    scores = scores - scores.max(axis=0)
    logP = scores - np.log(np.exp(scores).sum(axis=0))
    P = np.exp(logP)
    cost = -(Y * logP).sum() / 9 + lam * ((params["W1"] ** 2).sum() + (params["W2"] ** 2).sum())
    return cost, (S, mu, v, S_hat, H, P)


def student_grads(params, X=X, lam=0.01, variance_path=True):
    _, (S, mu, v, S_hat, H, P) = student(params, X)
    G = (P - Y) / 9
    grads = {"W2": G @ H.T + 2 * lam * params["W2"], "b2": G.sum(1, keepdims=True)}
    G = params["W2"].T @ G * (H > 0)
    grads |= {"gamma": (G * S_hat).sum(1, keepdims=True), "beta": G.sum(1, keepdims=True)}
    G = G * params["gamma"]
    forgetful = (G - G.mean(1, keepdims=True)) / np.sqrt(v + kbn.EPS)
    G = kbn.batch_norm_backpass(G, S, mu, v) if variance_path else forgetful
    return grads | {"W1": G @ X.T + 2 * lam * params["W1"], "b1": G.sum(1, keepdims=True)}


def draw_student(scale=1.0, seed=1):
    rng = np.random.default_rng(seed)
    shapes = {"W1": (5, 6), "b1": (5, 1), "gamma": (5, 1), "beta": (5, 1), "W2": (3, 5), "b2": (3, 1)}
    return {key: scale * (rng.standard_normal(shape) + (key == "gamma")) for key, shape in shapes.items()}


def as_float64(params):
    return {key: param.astype(float) for key, param in params.items()}


COSTS = {  # a cost that is the same function of real numbers, and whether complex steps see the same function
    "complex": (lambda p: student(p)[0], True),
    "max": (lambda p: student({key: np.maximum(param, param.max() - 1e9) for key, param in p.items()})[0], True),
    "np.var": (lambda p: student(p, var=lambda S: S.var(1, keepdims=True))[0], False),
    "astype": (lambda p: student(as_float64(p))[0], False),
    "np.abs": (lambda p: student(p)[0] + np.abs(p["W2"]).sum() - (p["W2"] * np.sign(p["W2"].real)).sum(), False),
    "real": (lambda p: student(p)[0].real, False),
    "float": (lambda p: float(student(p)[0]), False),
    "math": (lambda p: student(p)[0] + 0 * math.exp(p["b2"][0, 0]), False),
}


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.filterwarnings("error")
def test_right_solution_passes_whatever_complex_numbers_make_of_it_and_a_wrong_one_fails(name, capsys):
    cost, analytic = COSTS[name]
    params = draw_student()
    rows = gradcheck.check(cost, params, student_grads(params))
    output = capsys.readouterr().out
    assert failed(rows) == {} and all(np.isnan(row["complex"]) != analytic for row in rows)
    assert output.count("is not made for complex numbers") == (not analytic)
    assert output.splitlines()[-1] == "All 6 gradients are right: they are the derivatives of your cost."
    assert [row["parameter"] for row in rows if row["hint"].startswith("0 in theory" if analytic else "0 to")] == ["b1"]
    methods = BOTH if analytic else ["central"]
    assert failed(check(cost, params, student_grads(params, variance_path=False))) == {"W1": methods}
    for key, grad in student_grads(params).items():
        wrong = check(cost, params, {**student_grads(params), key: gradcheck.plant(grad, key == "b1")})
        assert failed(wrong) == {key: methods}


@pytest.mark.parametrize("scale, inputs, bias, shift", [
    (1e-6, 1, 1, 0), (1e4, 1, 1, 0), (1, 1e6, 1, 0), (1, 1e-6, 1, 0), (1e-6, 1e6, 1, 0), (1, 1, 0, 0), (1e4, 1e6, 0, 0), (1, 1, 1, 1e4),
])  # fmt: skip
@pytest.mark.parametrize("cost", ["complex", "np.var"])
def test_right_gradients_pass_and_wrong_ones_fail_at_any_scale(scale, inputs, bias, shift, cost):
    var = mean_square if cost == "complex" else partial(np.var, axis=1, keepdims=True)
    params, own = draw_student(scale), inputs * X + shift
    params |= {key: bias * params[key] for key in ("b1", "b2", "beta")}

    def f(p):
        return student(p, own, var)[0]

    grads = student_grads(params, own)
    assert failed(check(f, params, grads)) == {}
    for key in ("W1", "gamma", "W2", "b2"):
        if cost == "complex" or gradcheck.largest_entry(grads[key] * params[key]) > 1e-9:  # else differences cannot see it
            assert key in failed(check(f, params, {**grads, key: 1.01 * grads[key]})), key


def test_regression_with_large_inputs_passes_and_a_wrong_one_fails():
    w, t = np.array([0.3, -2.0, 1.0, 0.1, 5.0, 1e-3]), np.arange(9.0)
    own, f = 1e6 * X, lambda p: ((p["w"] @ (1e6 * X) - t) ** 2).mean()
    grad = 2 * own @ (w @ own - t) / 9
    assert failed(check(f, {"w": w}, {"w": grad})) == {}
    assert failed(check(f, {"w": w}, {"w": 1.001 * grad})) == {"w": BOTH}


def nested(params):
    return [{"W": [params["W1"], params["W2"]], "b": (params["b1"], params["b2"])}, params["gamma"], params["beta"]]


def flat(tree):
    return dict(zip(("W1", "W2", "b1", "b2", "gamma", "beta"), (*tree[0]["W"], *tree[0]["b"], *tree[1:]), strict=True))


def test_nested_lists_come_back_to_f_as_they_were_given_and_are_named_by_their_place():
    params, f = draw_student(), lambda tree: student(flat(tree))[0]
    right, wrong = student_grads(params), {**student_grads(params), "W2": 0 * params["W2"]}
    rows = check(f, nested(params), nested(right))
    assert [row["parameter"] for row in rows] == ["[0]['W'][0]", "[0]['W'][1]", "[0]['b'][0]", "[0]['b'][1]", "[1]", "[2]"]
    assert failed(rows) == {} and failed(check(f, nested(params), nested(wrong))) == {"[0]['W'][1]": BOTH}


@pytest.mark.parametrize("params", [
    {"w": np.array([1.0, 2, 3])}, {"w": [1, 2, 3]}, {"w": [1.0, 2.0, 3.0]}, {"w": np.array([1, 2, 3])}, [np.array([1.0, 2.0]), 3.0],
    np.array([1.0, 2, 3]), {"w": np.array([1, 2, 3], np.float32)},
], ids=["vector", "list", "floats", "integers", "numbers", "array", "float32"])  # fmt: skip
def test_vectors_lists_of_numbers_and_float32_are_taken(params):
    def f(p):
        w = p["w"] if isinstance(p, dict) else np.hstack(p) if isinstance(p, list) else p
        return (w**3).sum()

    def like(values):
        return {"w": values} if isinstance(params, dict) else [values[:2], values[2]] if isinstance(params, list) else values

    assert failed(check(f, params, like(np.array([3.0, 12, 27])))) == {}
    assert list(failed(check(f, params, like(np.array([3.0, 12.1, 27])))).values()) == [BOTH]


@pytest.mark.parametrize("f, to", [
    (lambda p: student(p)[0], 1e-5), (lambda p: student({key: np.float32(param) for key, param in p.items()}, np.float32(X))[0], 0.1)
], ids=["gradients", "cost"])  # fmt: skip
def test_float32_passes_to_the_precision_that_is_reported_and_an_error_of_a_tenth_fails(f, to):
    params = {key: param.astype(np.float32) for key, param in draw_student().items()}
    grads = {key: np.float32(grad + 3e-6 * np.abs(grad).max()) for key, grad in student_grads(as_float64(params)).items()}
    rows = check(f, params, grads)
    assert failed(rows) == {} and [row["hint"][:3] for row in rows].count("to ") >= 4
    assert 1e-9 < max(float(row["hint"][3:]) for row in rows if row["hint"].startswith("to ")) < to
    for key, grad in grads.items():
        wrong = grads["beta"] if key == "b1" else np.float32(1.1) * grad
        assert failed(check(f, params, {**grads, key: wrong})).keys() == {key}


def test_epsilon_in_a_logarithm_is_no_error():
    f = lambda p: -np.log(p["A"] ** 2 + 1e-12).sum()  # noqa: E731
    assert failed(check(f, {"A": A}, {"A": -2 / A})) == {}
    assert failed(check(f, {"A": A}, {"A": -2.001 / A})) == {"A": BOTH}


def test_function_of_positive_numbers_that_complex_numbers_change_is_found_where_it_is_defined():
    a, f = np.abs(A), lambda p: np.var(p["A"]) - np.log(p["A"]).sum()
    right = (a - a.mean()) / 3 - 1 / a
    assert failed(check(f, {"A": a}, {"A": right})) == {}
    assert failed(check(f, {"A": a}, {"A": -1 / a})) == {"A": ["central"]}


@pytest.mark.parametrize("f, slope", [
    (lambda a: np.float32(1e5 + (a**2).sum()), 2 * A), (lambda a: float(np.float32(2 + 1e-6 * a.sum())), 1e-6 + 0 * A),
], ids=["large cost", "small slope"])  # fmt: skip
def test_cost_too_coarse_for_differences_is_unclear(f, slope, capsys):
    rows = gradcheck.check(lambda p: f(as_float64(p)["A"]), {"A": A}, {"A": slope})
    assert failed(rows) == {"A": ["precision"]} and capsys.readouterr().out.splitlines()[-1] == "unclear: A."
    assert "compute the cost in float64" in rows[0]["hint"]


# ----------------------------------------------------------------------------------------- what is wrong, and with what


GRADS = student_grads(draw_student())
HINTS = {  # a wrong gradient of a parameter, its ratio, what is said about it
    "missing 1/n": ("b2", 9 * GRADS["b2"], 9, "your grad is 9.0 times the numerical one in all entries; is n 9?"),
    "1/n twice": ("W1", GRADS["W1"] / 9, 1 / 9, "your grad is 0.1111 times the numerical one in all entries; is n 9?"),
    "sign": ("beta", -GRADS["beta"], -1, "your grad is -1.0 times the numerical one in all entries"),
    "factor 1.3": ("W2", 1.3 * GRADS["W2"], 1.3, "your grad is 1.3 times the numerical one in all entries"),
    "penalty": (
        "W2",
        GRADS["W2"] - 0.01 * draw_student()["W2"],
        None,
        "your grad lacks 0.01 times the parameter in all entries: the penalty?",
    ),
    "forgotten": ("gamma", 0 * GRADS["gamma"], None, "your grad is 0 in all entries: does your backward pass reach it?"),
    "nan": ("b2", np.nan * GRADS["b2"], None, "your grad holds nan or inf"),
    "not zero": (
        "b1",
        GRADS["beta"],
        None,
        "f does not change with it: is its gradient 0 in theory, and does f use its argument?",
    ),
    "other": ("gamma", GRADS["beta"], None, "the ratio of both is not the same in all entries"),
}


@pytest.mark.parametrize("name", HINTS)
@pytest.mark.parametrize("cost", ["complex", "astype"])
def test_kind_of_an_error_is_said(name, cost, capsys):
    key, wrong, ratio, hint = HINTS[name]
    rows = gradcheck.check(COSTS[cost][0], draw_student(), {**GRADS, key: wrong})
    [row] = [row for row in rows if row["failed"]]
    output = capsys.readouterr().out
    assert row["parameter"] == key and row["hint"] == hint
    assert row["ratio"] == pytest.approx(ratio, rel=1e-5) if ratio else np.isnan(row["ratio"])
    place = f"{key}[{row['worst'][0]}, {row['worst'][1]}]: yours {wrong[row['worst']]:.6g}, numerical "
    assert place in output and output.splitlines()[-1] == f"WRONG: {key}."


def test_claim_that_a_gradient_is_zero_is_refuted_or_agreed_with():
    params = draw_student()
    rows = check(COSTS["complex"][0], params, GRADS, zero=["b1", "b2"])
    assert failed(rows) == {"b2": ["zero"]} and rows[-1]["hint"] == "you named it zero, but f changes with it"


def test_gradient_far_below_the_reach_of_differences_is_judged_by_complex_steps():
    f, params = lambda p: np.exp(p["A"]).sum() + 1e-15 * (p["B"] ** 2).sum(), {"A": A, "B": B}
    rows = check(f, params, {"A": np.exp(A), "B": 2e-15 * B})
    assert failed(rows) == {} and np.isnan(rows[1]["central"]) and rows[1]["judged"] == "relative"
    assert failed(check(f, params, {"A": np.exp(A), "B": 0 * B})) == {"B": ["complex"]}


@pytest.mark.parametrize("f, params, grads, zero, message", [
    (QUADRATIC, PARAMS, {"A": A}, (), "must name the same arrays"),
    (QUADRATIC, PARAMS, {"dA": A, "dB": B}, (), r"params \['A', 'B'\], grads \['dA', 'dB'\].*must name the same arrays"),
    (QUADRATIC, PARAMS, PARAMS, ["b1"], "must name the same arrays"), (QUADRATIC, {}, {}, (), "must name the same arrays"),
    (QUADRATIC, PARAMS, {"A": A, "B": B.T}, (), r"B \(3, 1\) has the shape \(1, 3\); transpose it if"),
    (QUADRATIC, PARAMS, {"A": A, "B": B[:, 0]}, (), r"B \(3, 1\) has the shape \(3,\); reshape it to \(3, 1\) if"),
    (QUADRATIC, {"A": A, "B": np.nan * B}, PARAMS, (), "B holds nan or inf"),
    (QUADRATIC, None, PARAMS, (), r"params: params is object \(\), not an array of real numbers"),
    (QUADRATIC, PARAMS, {"A": A, "B": "x"}, (), "grads: B is <U1"), (QUADRATIC, {"A": A[:0]}, {"A": A[:0]}, (), "A is float64"),
    (QUADRATIC, {"A": A * 1j}, {"A": A}, (), "params: A is complex128"), (QUADRATIC, {"A": A}, {"A": np.float16(A)}, (), "float16"),
    (lambda p: (1.0, 2.0), PARAMS, PARAMS, (), "f must return the cost alone, one number, not tuple of size 2"),
    (lambda p: None, PARAMS, PARAMS, (), "f must return the cost alone, one number, not NoneType"),
    (lambda p: p["A"], PARAMS, PARAMS, (), "f must return the cost alone, one number, not ndarray of size 6"),
    (lambda p: np.nan, PARAMS, PARAMS, (), r"f\(params\) is nan: the cost must be finite"),
    (lambda p: np.random.default_rng().random(), PARAMS, PARAMS, (), "must not draw at random"),
])  # fmt: skip
def test_mistake_in_the_call_is_one_clear_line(f, params, grads, zero, message):
    with pytest.raises(ValueError, match=message) as error:
        check(f, params, grads, zero=zero)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------- kinks


def relu_sum(p):
    return np.maximum(p["A"], 0).sum()


def positive(p):
    return (p["A"] > 0).tobytes()


@pytest.mark.parametrize("f", [relu_sum, lambda p: relu_sum(as_float64(p)), lambda p: (p["A"] * (p["A"] > 0)).sum()])
@pytest.mark.parametrize("near", [0.0, 1e-13, 1e-9, -1e-9, 1e-5, -1e-5, 1e-2])
def test_kink_near_or_at_an_entry_is_no_error_but_a_slope_beyond_both_sides_is(f, near):
    params = {"A": np.array([near, 1, 2, -3])}
    right = {"A": np.array([float(near > 0), 1, 1, 0])}
    rows = check(f, params, right)
    assert failed(rows) == {} and rows[0]["kinks"] <= (abs(near) < 1e-8)
    for i, slope in ((0, 1.1), (0, -0.1), (1, 1.001), (3, 0.001)):
        wrong = {"A": right["A"].copy()}
        wrong["A"][i] = slope
        [row] = check(f, params, wrong)
        assert "central" in row["failed"] and row["worst"] == (i,), (i, slope)


def test_parameter_with_more_than_half_its_entries_at_kinks_is_unclear(capsys):
    params = {"A": np.array([0.0, 0, 0, 1])}
    rows = gradcheck.check(lambda p: relu_sum(as_float64(p)), params, {"A": np.array([0.0, 0, 1, 1])})
    assert failed(rows) == {"A": ["kinks"]} and "try other params" in rows[0]["hint"]
    assert capsys.readouterr().out.splitlines()[-1] == "unclear: A."


def test_script_counts_kinks_and_leaves_them_out_of_the_central_differences():
    params, grads = {"A": np.array([1.5 * gradcheck.H, 1, 2, -3])}, {"A": np.array([1.0, 1, 1, 0])}
    _, crossed = gradcheck.central_difference_gradient(relu_sum, params, pattern=positive)
    assert crossed["A"].tolist() == [True, False, False, False]  # the step is 3 H
    [row] = strictly(relu_sum, params, grads, positive, ())
    assert (row["entries"], row["kinks"], row["failed"]) == (4, 1, [])
    assert failed(strictly(relu_sum, params, grads, None, ())) == {"A": ["central"]}  # unseen, the kink is an error
    assert failed(strictly(relu_sum, params, {"A": np.array([1.1, 1, 1, 0])}, positive, ())) == {"A": ["complex"]}


@pytest.mark.parametrize("n_kinks, expected", [(2, {}), (3, {"A": ["kinks"]})])
def test_script_fails_a_parameter_with_more_than_half_its_entries_left_out(n_kinks, expected):
    params = {"A": np.where(np.arange(4) < n_kinks, 0.5 * gradcheck.H, 1)}
    assert failed(strictly(relu_sum, params, {"A": np.ones(4)}, positive, ())) == expected


@every_bn
def test_kinks_of_a_net_are_found(bn):
    """The score of unit 0 for one example is put within h of 0: the entries that move it are the kinks."""
    params, X, y = gradients.draw_case([8], bn, np.random.default_rng(1))
    S, moves = params["W1"] @ X + params["b1"], "beta1" if bn == "before" else "b1"
    if bn == "before":
        S = params["gamma1"] * kbn.batch_normalize(S, S.mean(1, keepdims=True), S.var(1, keepdims=True)) + params["beta1"]
    params[moves][0] -= S[0, 0] - 0.01 * gradcheck.H
    cost, gradient, active = gradients.closures(X, y, 0.01, kbn.EPS, bn)
    _, crossed = gradcheck.central_difference_gradient(cost, params, pattern=active)
    assert np.array_equal(crossed[moves][:, 0], np.arange(8) == 0)
    assert crossed["W1"][0].any() and not crossed["W1"][1:].any() and not crossed["W2"].any()
    rows = strictly(cost, params, gradient(params), active, gradients.zero_gradients(params, bn))
    assert failed(rows) == {} and {row["parameter"]: row["kinks"] for row in rows}[moves] == 1


# -------------------------------------------------------------------------------------------------- the nets of kbn.py


@every_bn
@pytest.mark.parametrize("hidden", [(8,), (8, 7), (8, 7, 6)])
def test_gradients_of_kbn_pass_and_params_are_unchanged(hidden, bn):
    cost, params, grads, active, zero = case(bn, hidden)
    before = {key: param.copy() for key, param in params.items()}
    rows = strictly(cost, params, grads, active, zero)
    assert failed(rows) == {} and max(row["complex"] for row in rows) <= 1e-12
    assert [(row["parameter"], row["entries"]) for row in rows] == [(key, param.size) for key, param in params.items()]
    assert [row["parameter"] for row in rows if row["judged"] == "absolute"] == zero
    assert zero == [f"b{l}" for l in range(1, len(hidden) + 1)] * (bn == "before")
    own = check(cost, params, grads)
    assert failed(own) == {} and [row["parameter"] for row in own if row["judged"] == "absolute"] == zero
    assert all(np.array_equal(params[key], param) for key, param in before.items())


@every_bn
def test_error_planted_in_any_parameter_is_caught(bn):
    cost, params, grads, active, zero = case(bn, (8, 7, 6))
    numerical = gradients.numerical_gradients(cost, params, active)
    for key in params:
        planted = gradcheck.plant(grads[key], key in zero)
        assert key in zero or np.count_nonzero(planted != grads[key]) == 1
        for wrong in [planted, np.full_like(planted, np.nan)] + [1.001 * grads[key]] * (key not in zero):
            assert failed(gradients.judge({**grads, key: wrong}, numerical, zero)) == {key: BOTH}


@pytest.mark.parametrize("bn", ["before", "after"])
def test_swapped_gamma_and_beta_are_caught(bn):
    cost, params, grads, active, zero = case(bn)
    swapped = {**grads, "gamma1": grads["beta1"], "beta1": grads["gamma1"]}
    assert failed(strictly(cost, params, swapped, active, zero)) == {"gamma1": BOTH, "beta1": BOTH}


def test_bias_claimed_to_be_0_with_bn_after_the_relu_fails():
    cost, params, grads, active, _ = case("after")
    assert failed(strictly(cost, params, grads, active, ["b1"])) == {"b1": BOTH}


def test_mini_batch_of_two_hides_a_batch_norm_backpass_of_zeros_that_eight_reveal(monkeypatch):
    monkeypatch.setattr(kbn, "bn_gradients", lambda G, one, S_hat, *_: (0 * G, G * S_hat @ one, G @ one))
    vacuous, caught = (strictly(*case("before", (8,), n)) for n in (2, 8))
    assert max(max(row["complex"], row["central"]) for row in vacuous) < 1e-7
    assert failed(caught) == {"W1": BOTH} and min(row["complex"] for row in caught if row["parameter"] == "W1") > 0.5


# ------------------------------------------------------------------------------------------- errors over many draws


@every_bn
def test_stacked_cost_is_the_cost_of_each_copy_in_the_stack(bn):
    params, X, y = gradients.draw_case([8, 7], bn, np.random.default_rng(3))
    Y, place = kbn.one_hot(y, gradients.K, np.float64), {"bn": bn, "eps": 1e-5}
    for key, param in params.items():
        stack = param + 0.1 * np.random.default_rng(4).standard_normal((3, *param.shape))
        costs = gradients.stacked_cost(X, Y, {**params, key: stack}, np.array([[0.0], [0.5]]), **place)
        expected = [[kbn.compute_cost(X, Y, {**params, key: copy}, lam, **place)[0] for copy in stack] for lam in (0, 0.5)]
        np.testing.assert_allclose(costs, expected, rtol=1e-13)
    one = gradients.stacked_cost(X, Y, params, 0.5, **place)
    assert one == pytest.approx(kbn.compute_cost(X, Y, params, 0.5, **place)[0], rel=1e-13)


@every_bn
def test_slopes_are_the_gradient_along_the_entries(bn):
    _, params, grads, *_ = case(bn)
    _, X, y = gradients.draw_case([8, 7], bn, np.random.default_rng(1))
    cost = partial(gradients.stacked_cost, X, kbn.one_hot(y, gradients.K, np.float64), lam=0.01, bn=bn)
    for key in ("W1", "W2", "b3", *["gamma2"] * (bn != "off")):
        exact = grads[key].ravel()
        np.testing.assert_allclose(gradients.slopes(cost, params, key, 2.0**-100 * 1j), exact, rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(gradients.slopes(cost, params, key, 1e-6, [4, 2]), exact[[4, 2]], rtol=1e-5, atol=1e-9)


def tenth_too_large(key):
    """kbn.backward with one gradient that is 10 % too large."""
    right = kbn.backward

    def wrong(*args, **options):
        grads = right(*args, **options)
        return grads | {key: 1.1 * grads[key]}

    return wrong


def test_table_of_the_student_report_has_its_checks_and_its_measure(monkeypatch):
    assert {(len(hidden) + 1, d) for hidden, d, _ in gradients.REPORT} == {(3, 10), (9, 10), (2, 20), (3, 20)}
    monkeypatch.setattr(gradients, "REPORT", [([8], 6, [0.1, 2])])
    rows = gradients.report_errors(0, 4)
    assert [(row["BN"], row["n"]) for row in rows] == [("off", 2), ("off", 9), ("after", 2), ("after", 9)]
    assert all(float(row["median"]) < 1e-5 for row in rows)
    monkeypatch.setattr(kbn, "backward", tenth_too_large("W2"))
    [row] = [row for row in gradients.report_errors(0, 4) if row["BN"] == "off" and row["n"] == 9]
    assert row["95 %"] == "9.1e-02"  # .1 / 1.1


def test_table_of_layers_has_the_errors_of_each_layer_by_its_own_measure(monkeypatch):
    assert [(len(hidden) + 1, d) for hidden, d in gradients.LAYERED] == [(4, 10), (9, 10), (4, 3072)]
    monkeypatch.setattr(gradients, "LAYERED", [([8, 7], 6)])
    rows = gradients.layer_errors(0, 3)
    assert [(row["BN"], row["parameter"]) for row in rows] == [(bn, f"W{l}") for bn in ("off", "before") for l in (1, 2, 3)]
    assert all(float(row["complex step"]) < 1e-13 and float(row["central difference"]) < 1e-7 for row in rows)
    assert [row["ratio to last"] for row in rows if row["parameter"] == "W3"] == ["1.0", "1.0"]
    monkeypatch.setattr(kbn, "backward", tenth_too_large("W1"))
    first, *others = gradients.layer_errors(0, 3)[:3]
    assert first["complex step"] == first["central difference"] == "9.1e-02" and first["entry by entry"] == "4.8e-02"
    assert all(float(row["central difference"]) < 1e-7 for row in others)


# -------------------------------------------------------------------------------------------------------- the script

FEW = [([8], kbn.EPS)]


def run_main(tmp_path, monkeypatch):
    """Run the script for FEW nets. Returns its status and its folder of results."""
    monkeypatch.setattr(gradients, "report_gradients", partial(gradients.report_gradients, nets=FEW))
    monkeypatch.setattr(gradients, "REPORT", [([8], 6, [0.1])])
    monkeypatch.setattr(gradients, "LAYERED", [([8], 6)])
    monkeypatch.setattr(sys, "argv", ["gradcheck.py", "--out", str(tmp_path / "new" / "folder")])
    return gradcheck.main(), tmp_path / "new" / "folder" / "results"


def test_script_checks_the_nets_of_the_assignment_and_small_ones():
    assert [hidden for hidden, _ in gradients.CHECKED][3:] == [[50], [50, 50], [50, 30, 20, 20, 10, 10, 10, 10]]
    assert [len(hidden) + 1 for hidden, _ in gradients.CHECKED][:3] == [2, 3, 4]
    assert gradients.D == 10 and gradients.N >= 5 and set(gradients.PLACES) == {"off", "before", "after"}
    assert gradients.LAMBDAS[0] == 0 < gradients.LAMBDAS[1]
    assert gradcheck.BARS["relative"] == {"complex": 1e-12, "central": 1e-6}
    params, *_ = gradients.draw_case([8], "before", np.random.default_rng(0))
    assert all(np.all((param != 0) & (param != 1)) for param in params.values())  # as gamma and beta are at the start


def test_script_passes_and_writes_its_tables(tmp_path, monkeypatch, capsys):
    status, folder = run_main(tmp_path, monkeypatch)
    output, n_rows = capsys.readouterr().out, 2 * (4 + 6 + 6)
    assert status == 0 and f"All {n_rows} gradients are right" in output.splitlines()[-1]
    assert "gradcheck_layers\n\n| hidden nodes | d | BN " in output
    assert "FAIL" not in output and output.count("caught by both methods") == 6 + 10 + 10
    assert max(map(len, output.splitlines())) <= 128
    names = [f"gradcheck{table}.{kind}" for table in ("", "_report", "_layers") for kind in ("csv", "md", "tex")]
    assert {path.name for path in folder.iterdir()} == set(names)
    table = (folder / "gradcheck.md").read_text().splitlines()
    assert len(table) == 2 + 3 and sum(int(line.split("|")[3]) for line in table[2:]) == n_rows
    with open(folder / "gradcheck.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == n_rows and {row["verdict"] for row in rows} == {"ok"} and {row["seed"] for row in rows} == {"0"}
    assert 0 < max(float(row["complex"]) for row in rows) <= 1e-12 < max(float(row["central"]) for row in rows) <= 1e-6


def test_same_seed_gives_the_same_rows():
    first, again, other = [list(gradients.check_nets(seed, FEW)) for seed in (3, 3, 4)]
    assert first == again != other


@pytest.mark.parametrize("mistake", [
    lambda grads, params, lam: {"W1": grads["W1"] - 2 * lam * params["W1"]},
    lambda grads, params, lam: {"W1": 1.001 * grads["W1"]},
    lambda grads, params, lam: {key: 0 * grads[key] for key in grads if key == "beta1"},
], ids=["lambda", "W1", "beta"])  # fmt: skip
def test_script_fails_if_backward_is_wrong(mistake, tmp_path, monkeypatch, capsys):
    right = kbn.backward

    def wrong(Y, params, cache, lam):
        grads = right(Y, params, cache, lam)
        return grads | mistake(grads, params, lam)

    monkeypatch.setattr(kbn, "backward", wrong)
    status, folder = run_main(tmp_path, monkeypatch)
    *lines, last = capsys.readouterr().out.splitlines()
    assert status == 1 and last.startswith("FAILED (") and any(line.endswith("FAIL: complex, central") for line in lines)
    assert "FAIL: complex, central" in (folder / "gradcheck.csv").read_text()


def test_script_fails_if_a_planted_error_is_not_caught(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gradcheck, "plant", lambda gradient, is_zero: gradient)
    assert run_main(tmp_path, monkeypatch)[0] == 1
    assert "NOT caught" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, status, text", [
    (["--help"], 0, "gradcheck.csv"), (["--sed", "1"], 2, "unrecognized arguments"), (["--seed", "-1"], 2, "-1 is below 0"),
    (["--seed", "x"], 2, "invalid int"), (["--out", "file"], 1, "gradcheck.py: error: file/results: nothing can be written"),
])  # fmt: skip
def test_script_answers_options_in_any_folder(arguments, status, text, tmp_path):
    (tmp_path / "file").write_text("")
    result = subprocess.run([sys.executable, gradcheck.__file__, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == status and text in result.stdout + result.stderr and "Traceback" not in result.stderr
