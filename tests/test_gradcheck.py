"""gradcheck.py: right gradients pass, an error of .1 % does not, and what cannot be judged fails."""

import csv
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import gradcheck
import kbn

BOTH = ["complex", "central"]
A, B = np.array([[1.0, -2.0, 0.5], [0.3, 4.0, -1.0]]), np.array([[0.7], [-0.2], [2.0]])
FUNCTIONS = {  # f, its exact gradient
    "quadratic": (lambda p: (p["A"] ** 2).sum() + 3 * (p["B"] ** 2).sum(), lambda A, B: {"A": 2 * A, "B": 6 * B}),
    "exp": (lambda p: np.exp(p["A"]).sum() - np.exp(-p["B"]).sum(), lambda A, B: {"A": np.exp(A), "B": np.exp(-B)}),
    "product": (lambda p: (p["A"] @ p["B"]).prod(), lambda A, B: {"A": (A @ B)[::-1] @ B.T, "B": A.T @ (A @ B)[::-1]}),
}
QUADRATIC, QUADRATIC_GRADIENT = FUNCTIONS["quadratic"]
every_bn = pytest.mark.parametrize("bn", gradcheck.PLACES)


def case(bn, hidden=(8, 7), n=gradcheck.N, lam=0.01):
    """The arguments of check for a net of kbn."""
    params, X, y = gradcheck.draw_case(list(hidden), bn, np.random.default_rng(1), n)
    cost, gradient, active = gradcheck.closures(X, y, lam, kbn.EPS, bn)
    return cost, params, gradient(params), active, gradcheck.zero_gradients(params, bn)


def failed(rows):
    """{parameter: what it failed} of the rows with a failure."""
    return {row["parameter"]: row["failed"] for row in rows if row["failed"]}


# ------------------------------------------------------------------------------------------------------- any function


@pytest.mark.parametrize("f, gradient", FUNCTIONS.values(), ids=FUNCTIONS)
def test_both_methods_give_known_gradients_and_leave_params_alone(f, gradient):
    params = {"A": A.copy(), "B": B.copy()}
    by_complex_steps = gradcheck.complex_step_gradient(f, params)
    by_differences, crossed = gradcheck.central_difference_gradient(f, params)
    for key, exact in gradient(A, B).items():
        np.testing.assert_allclose(by_complex_steps[key], exact, rtol=1e-14)
        np.testing.assert_allclose(by_differences[key], exact, rtol=1e-7)
        assert by_complex_steps[key].dtype == by_differences[key].dtype == np.float64 and not crossed[key].any()
    assert failed(gradcheck.check(f, params, gradient(A, B))) == {}
    assert np.array_equal(params["A"], A) and np.array_equal(params["B"], B)


@pytest.mark.parametrize("f, gradient", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("key", ["A", "B"])
def test_one_entry_that_is_wrong_by_a_thousandth_fails_its_parameter_alone(f, gradient, key):
    for i in np.ndindex(gradient(A, B)[key].shape):
        grads = gradient(A, B)
        grads[key][i] *= 1.001
        assert failed(gradcheck.check(f, {"A": A, "B": B}, grads)) == {key: BOTH}


def test_error_of_central_differences_is_of_order_h_squared():
    grads, _ = gradcheck.central_difference_gradient(lambda p: (p["A"] ** 3).sum(), {"A": A}, h=1e-2)
    np.testing.assert_allclose(grads["A"] - 3 * A**2, 1e-4, rtol=1e-6)  # h^2 f''' / 6


def test_relative_error_divides_by_the_largest_entry_of_both():
    a, n = np.array([1.0, 4.0]), np.array([1.5, 5.0])
    assert gradcheck.relative_error(a, n) == gradcheck.relative_error(n, a) == 1 / 5
    assert gradcheck.relative_error(a, a) == 0
    assert np.isnan(gradcheck.relative_error(0 * a, 0 * a)) and np.isnan(gradcheck.relative_error(np.array([np.nan, 4.0]), n))


def test_zero_gradient_must_be_named_and_is_then_judged_absolutely():
    f, params = lambda p: p["A"].sum() + (0 * p["B"]).sum(), {"A": A, "B": B}
    right, bogus = {"A": np.ones_like(A), "B": np.zeros_like(B)}, {"A": np.ones_like(A), "B": np.full_like(B, 1e-6)}
    assert failed(gradcheck.check(f, params, right)) == {"B": BOTH}
    assert failed(gradcheck.check(f, params, right, zero=["B"])) == {}
    assert failed(gradcheck.check(f, params, bogus, zero=["B"])) == {"B": BOTH}
    assert failed(gradcheck.check(f, params, right, zero=["A", "B"])) == {"A": BOTH}  # a claim that is not true


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_gradient_of_zeros_or_nan_fails(value):
    f, gradient = FUNCTIONS["exp"]
    assert failed(gradcheck.check(f, {"A": A, "B": B}, {**gradient(A, B), "B": value * B})) == {"B": BOTH}


def test_function_that_drops_the_imaginary_part_fails():
    rows = gradcheck.check(lambda p: QUADRATIC(p).real, {"A": A, "B": B}, QUADRATIC_GRADIENT(A, B))
    assert failed(rows) == {"A": ["complex"], "B": ["complex"]}


def test_float32_is_refused():
    params, half = {"A": A, "B": B}, {"A": A, "B": B.astype(np.float32)}
    for function, *arguments in [
        (gradcheck.check, half, params), (gradcheck.check, params, half), (gradcheck.complex_step_gradient, half),
        (gradcheck.central_difference_gradient, half),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="B is float32: gradients are checked in float64"):
            function(QUADRATIC, *arguments)


@pytest.mark.parametrize("grads, zero, message", [
    ({"A": A}, (), "must name the same arrays"), ({"A": A, "B": B, "C": A}, (), "must name the same arrays"),
    ({"A": A, "B": B}, ["b1"], "must name the same arrays"), ({"A": A, "B": B.T}, (), r"B \(3, 1\) has the shape \(1, 3\)"),
])  # fmt: skip
def test_other_keys_or_shapes_are_refused(grads, zero, message):
    with pytest.raises(ValueError, match=message):
        gradcheck.check(QUADRATIC, {"A": A, "B": B}, grads, zero=zero)


# ------------------------------------------------------------------------------------------------------------- kinks


def relu_sum(p):
    return np.maximum(p["A"], 0).sum()


def positive(p):
    return (p["A"] > 0).tobytes()


def test_kinks_are_counted_and_left_out_of_the_central_differences():
    params, grads = {"A": np.array([0.5 * gradcheck.H, 1, 2, -3])}, {"A": np.array([1.0, 1, 1, 0])}
    _, crossed = gradcheck.central_difference_gradient(relu_sum, params, pattern=positive)
    assert crossed["A"].tolist() == [True, False, False, False]
    [row] = gradcheck.check(relu_sum, params, grads, pattern=positive)
    assert (row["entries"], row["kinks"], row["failed"]) == (4, 1, [])
    assert failed(gradcheck.check(relu_sum, params, grads)) == {"A": ["central"]}  # unseen, the kink is an error
    assert failed(gradcheck.check(relu_sum, params, {"A": np.array([1.1, 1, 1, 0])}, positive)) == {"A": ["complex"]}


@pytest.mark.parametrize("n_kinks, expected", [(2, {}), (3, {"A": ["kinks"]})])
def test_parameter_with_more_than_half_its_entries_left_out_fails(n_kinks, expected):
    params = {"A": np.where(np.arange(4) < n_kinks, 0.5 * gradcheck.H, 1)}
    assert failed(gradcheck.check(relu_sum, params, {"A": np.ones(4)}, pattern=positive)) == expected


@every_bn
def test_kinks_of_a_net_are_found(bn):
    """The score of unit 0 for one example is put within h of 0: the entries that move it are the kinks."""
    params, X, y = gradcheck.draw_case([8], bn, np.random.default_rng(1))
    S, moves = params["W1"] @ X + params["b1"], "beta1" if bn == "before" else "b1"
    if bn == "before":
        S = params["gamma1"] * kbn.batch_normalize(S, S.mean(1, keepdims=True), S.var(1, keepdims=True)) + params["beta1"]
    params[moves][0] -= S[0, 0] - 0.1 * gradcheck.H
    cost, gradient, active = gradcheck.closures(X, y, 0.01, kbn.EPS, bn)
    _, crossed = gradcheck.central_difference_gradient(cost, params, pattern=active)
    assert np.array_equal(crossed[moves][:, 0], np.arange(8) == 0)
    assert crossed["W1"][0].any() and not crossed["W1"][1:].any() and not crossed["W2"].any()
    rows = gradcheck.check(cost, params, gradient(params), active, gradcheck.zero_gradients(params, bn))
    assert failed(rows) == {} and {row["parameter"]: row["kinks"] for row in rows}[moves] == 1


# -------------------------------------------------------------------------------------------------- the nets of kbn.py


@every_bn
@pytest.mark.parametrize("hidden", [(8,), (8, 7), (8, 7, 6)])
def test_gradients_of_kbn_pass_and_params_are_unchanged(hidden, bn):
    cost, params, grads, active, zero = case(bn, hidden)
    before = {key: param.copy() for key, param in params.items()}
    rows = gradcheck.check(cost, params, grads, active, zero)
    assert failed(rows) == {} and max(row["complex"] for row in rows) <= 1e-12
    assert [(row["parameter"], row["entries"]) for row in rows] == [(key, param.size) for key, param in params.items()]
    assert [row["parameter"] for row in rows if row["judged"] == "absolute"] == zero
    assert zero == [f"b{l}" for l in range(1, len(hidden) + 1)] * (bn == "before")
    assert all(np.array_equal(params[key], param) for key, param in before.items())


@every_bn
def test_error_planted_in_any_parameter_is_caught(bn):
    cost, params, grads, active, zero = case(bn, (8, 7, 6))
    numerical = gradcheck.numerical_gradients(cost, params, active)
    for key in params:
        planted = gradcheck.plant(grads[key], key in zero)
        assert key in zero or np.count_nonzero(planted != grads[key]) == 1
        for wrong in [planted] + [1.001 * grads[key]] * (key not in zero):
            assert failed(gradcheck.judge({**grads, key: wrong}, numerical, zero)) == {key: BOTH}


@pytest.mark.parametrize("bn", ["before", "after"])
def test_swapped_gamma_and_beta_are_caught(bn):
    cost, params, grads, active, zero = case(bn)
    swapped = {**grads, "gamma1": grads["beta1"], "beta1": grads["gamma1"]}
    assert failed(gradcheck.check(cost, params, swapped, active, zero)) == {"gamma1": BOTH, "beta1": BOTH}


def test_bias_claimed_to_be_0_with_bn_after_the_relu_fails():
    cost, params, grads, active, _ = case("after")
    assert failed(gradcheck.check(cost, params, grads, active, zero=["b1"])) == {"b1": BOTH}


def test_mini_batch_of_two_hides_a_batch_norm_backpass_of_zeros_that_eight_reveal(monkeypatch):
    monkeypatch.setattr(kbn, "batch_norm_backpass", lambda G, S, mu, v, eps: np.zeros_like(G))
    vacuous, caught = (gradcheck.check(*case("before", (8,), n)) for n in (2, 8))
    assert max(max(row["complex"], row["central"]) for row in vacuous) < 1e-7
    assert failed(caught) == {"W1": BOTH} and min(row["complex"] for row in caught if row["parameter"] == "W1") > 0.5


# -------------------------------------------------------------------------------------------------------- the script

FEW = [([8], kbn.EPS)]


def run_main(tmp_path, monkeypatch):
    """Run the script for FEW nets. Returns its status and its folder of results."""
    monkeypatch.setattr(gradcheck, "report_gradients", partial(gradcheck.report_gradients, nets=FEW))
    monkeypatch.setattr(sys, "argv", ["gradcheck.py", "--out", str(tmp_path / "new" / "folder")])
    return gradcheck.main(), tmp_path / "new" / "folder" / "results"


def test_script_checks_the_nets_of_the_assignment_and_small_ones():
    assert [hidden for hidden, _ in gradcheck.CHECKED][3:] == [[50], [50, 50], [50, 30, 20, 20, 10, 10, 10, 10]]
    assert [len(hidden) + 1 for hidden, _ in gradcheck.CHECKED][:3] == [2, 3, 4]
    assert gradcheck.D == 10 and gradcheck.N >= 5 and set(gradcheck.PLACES) == {"off", "before", "after"}
    assert gradcheck.LAMBDAS[0] == 0 < gradcheck.LAMBDAS[1]
    assert gradcheck.BARS["relative"] == {"complex": 1e-12, "central": 1e-6}
    params, *_ = gradcheck.draw_case([8], "before", np.random.default_rng(0))
    assert all(np.all((param != 0) & (param != 1)) for param in params.values())  # as gamma and beta are at the start


def test_script_passes_and_writes_its_tables(tmp_path, monkeypatch, capsys):
    status, folder = run_main(tmp_path, monkeypatch)
    output, n_rows = capsys.readouterr().out, 2 * (4 + 6 + 6)
    assert status == 0 and f"All {n_rows} gradients are right" in output.splitlines()[-1]
    assert "FAIL" not in output and output.count("caught by both methods") == 6 + 10 + 10
    assert max(map(len, output.splitlines())) <= 128
    assert {path.name for path in folder.iterdir()} == {"gradcheck.csv", "gradcheck.md", "gradcheck.tex"}
    table = (folder / "gradcheck.md").read_text().splitlines()
    assert len(table) == 2 + 3 and sum(int(line.split("|")[3]) for line in table[2:]) == n_rows
    with open(folder / "gradcheck.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == n_rows and {row["verdict"] for row in rows} == {"ok"} and {row["seed"] for row in rows} == {"0"}
    assert 0 < max(float(row["complex"]) for row in rows) <= 1e-12 < max(float(row["central"]) for row in rows) <= 1e-6


def test_same_seed_gives_the_same_rows():
    first, again, other = [list(gradcheck.check_nets(seed, FEW)) for seed in (3, 3, 4)]
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
