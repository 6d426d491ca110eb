"""gradcheck.py: right gradients pass, a .1 % error does not, and what cannot be judged is not passed over."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradcheck
import kbn
import tables

SCRIPT = Path(gradcheck.__file__)


def a_net(bn, hidden=(8, 7), n=gradcheck.N, lam=0.01, seed=1):
    """What check wants to know about a net: cost, params, grads, pattern, zero."""
    params, X, y = gradcheck.draw(list(hidden), bn, np.random.default_rng(seed), n)
    cost, gradient, active = gradcheck.closures(X, y, lam, kbn.EPS, bn)
    return cost, params, gradient(params), active, gradcheck.zero_gradients(params, bn)


def failed(rows):
    """{parameter: what it failed} of rows with a failure."""
    return {row["parameter"]: row["failed"] for row in rows if row["failed"]}


BOTH = ["complex", "central"]


# ------------------------------------------------------------------------------------------------------- any closure

A, B = np.array([[1.0, -2.0, 0.5], [0.3, 4.0, -1.0]]), np.array([[0.7], [-0.2], [2.0]])
CLOSURES = {  # f, its exact gradient
    "quadratic": (lambda p: (p["A"] ** 2).sum() + 3 * (p["B"] ** 2).sum(), lambda A, B: {"A": 2 * A, "B": 6 * B}),
    "exp": (lambda p: np.exp(p["A"]).sum() - np.exp(-p["B"]).sum(), lambda A, B: {"A": np.exp(A), "B": np.exp(-B)}),
    "product": (lambda p: (p["A"] @ p["B"]).prod(), lambda A, B: {"A": (A @ B)[::-1] @ B.T, "B": A.T @ (A @ B)[::-1]}),
}


@pytest.mark.parametrize("name", CLOSURES)
def test_known_gradients(name):
    f, gradient = CLOSURES[name]
    params = {"A": A.copy(), "B": B.copy()}
    by_complex_steps = gradcheck.complex_step_gradient(f, params)
    by_differences, crossed = gradcheck.central_difference_gradient(f, params)
    for key, exact in gradient(A, B).items():
        np.testing.assert_allclose(by_complex_steps[key], exact, rtol=1e-14)
        np.testing.assert_allclose(by_differences[key], exact, rtol=1e-7)
        assert by_complex_steps[key].dtype == by_differences[key].dtype == np.float64
        assert not crossed[key].any()
    assert failed(gradcheck.check(f, params, gradient(A, B))) == {}
    np.testing.assert_array_equal(params["A"], A)
    np.testing.assert_array_equal(params["B"], B)


@pytest.mark.parametrize("name", CLOSURES)
@pytest.mark.parametrize("key", ["A", "B"])
def test_one_wrong_entry_fails_its_parameter_alone(name, key):
    f, gradient = CLOSURES[name]
    for i in np.ndindex(gradient(A, B)[key].shape):
        grads = gradient(A, B)
        grads[key][i] *= 1.001
        assert failed(gradcheck.check(f, {"A": A, "B": B}, grads)) == {key: BOTH}


def test_the_step_decides_the_error():
    def cube(p):
        return (p["A"] ** 3).sum()

    grads, _ = gradcheck.central_difference_gradient(cube, {"A": A}, h=1e-2)
    np.testing.assert_allclose(grads["A"] - 3 * A**2, 1e-4, rtol=1e-6)  # h^2 f''' / 6


def test_relative_error():
    a, n = np.array([1.0, 4.0]), np.array([1.5, 5.0])
    assert gradcheck.relative_error(a, n) == 1 / 5
    assert gradcheck.relative_error(a, a) == 0
    assert np.isnan(gradcheck.relative_error(0 * a, 0 * a))
    assert np.isnan(gradcheck.relative_error(np.array([np.nan, 4.0]), n))


def test_zero_gradients_must_be_named_and_are_then_held_to_zero():
    f, params = lambda p: p["A"].sum() + (0 * p["B"]).sum(), {"A": A, "B": B}
    right, bogus = {"A": np.ones_like(A), "B": np.zeros_like(B)}, {"A": np.ones_like(A), "B": np.full_like(B, 1e-6)}
    assert failed(gradcheck.check(f, params, right)) == {"B": BOTH}
    assert failed(gradcheck.check(f, params, right, zero=["B"])) == {}
    assert failed(gradcheck.check(f, params, bogus, zero=["B"])) == {"B": BOTH}
    assert failed(gradcheck.check(f, params, right, zero=["A", "B"])) == {"A": BOTH}  # a claim that is not true


def test_a_backward_pass_that_forgets_a_parameter_or_gives_nan_fails():
    f, gradient = CLOSURES["exp"]
    for value in (0.0, np.nan):
        assert failed(gradcheck.check(f, {"A": A, "B": B}, {**gradient(A, B), "B": value * B})) == {"B": BOTH}


def test_a_closure_that_drops_the_imaginary_part_fails():
    f, gradient = CLOSURES["quadratic"]
    rows = gradcheck.check(lambda p: f(p).real, {"A": A, "B": B}, gradient(A, B))
    assert failed(rows) == {"A": ["complex"], "B": ["complex"]}


def test_float32_is_refused():
    f, gradient = CLOSURES["quadratic"]
    params, grads = {"A": A, "B": B}, gradient(A, B)
    half = {"A": A, "B": B.astype(np.float32)}
    for refused in (
        lambda: gradcheck.check(f, half, grads),
        lambda: gradcheck.check(f, params, half),
        lambda: gradcheck.complex_step_gradient(f, half),
        lambda: gradcheck.central_difference_gradient(f, half),
    ):
        with pytest.raises(ValueError, match="B is float32"):
            refused()


@pytest.mark.parametrize(
    "grads, message",
    [
        ({"A": A}, "must name the same arrays"),
        ({"A": A, "B": B, "C": A}, "must name the same arrays"),
        ({"A": A, "B": B.T}, r"gradient of B \(3, 1\) has the shape \(1, 3\)"),
    ],
)
def test_other_keys_or_shapes_are_refused(grads, message):
    with pytest.raises(ValueError, match=message):
        gradcheck.check(CLOSURES["quadratic"][0], {"A": A, "B": B}, grads)


def test_an_unknown_zero_is_refused():
    with pytest.raises(ValueError, match="must name the same arrays"):
        gradcheck.check(CLOSURES["quadratic"][0], {"A": A, "B": B}, {"A": A, "B": B}, zero=["b1"])


# ------------------------------------------------------------------------------------------------------------- kinks


def relu_sum(p):
    return np.maximum(p["A"], 0).sum()


def positive(p):
    return (p["A"] > 0).tobytes()


def test_kinks_are_counted_and_left_out():
    params = {"A": np.array([0.5 * gradcheck.H, 1.0, 2.0, -3.0])}
    grads = {"A": np.array([1.0, 1.0, 1.0, 0.0])}
    _, crossed = gradcheck.central_difference_gradient(relu_sum, params, pattern=positive)
    np.testing.assert_array_equal(crossed["A"], [True, False, False, False])
    [row] = gradcheck.check(relu_sum, params, grads, pattern=positive)
    assert (row["entries"], row["kinks"], row["failed"]) == (4, 1, [])
    assert failed(gradcheck.check(relu_sum, params, grads)) == {"A": ["central"]}  # unseen, the kink is an error
    wrong = {"A": np.array([1.1, 1.0, 1.0, 0.0])}
    assert failed(gradcheck.check(relu_sum, params, wrong, pattern=positive)) == {"A": ["complex"]}


def test_more_than_half_left_out_fails():
    near = 0.5 * gradcheck.H
    for A, expected in (([near, near, 1.0, 1.0], {}), ([near, near, near, 1.0], {"A": ["kinks"]})):
        rows = gradcheck.check(relu_sum, {"A": np.array(A)}, {"A": np.ones(4)}, pattern=positive)
        assert failed(rows) == expected


@pytest.mark.parametrize("bn", gradcheck.BN)
def test_kinks_of_a_net(bn):
    """One example's score of unit 0 is put within h of 0: the entries that move it are the kinks."""
    params, X, y = gradcheck.draw([8], bn, np.random.default_rng(1))
    S = params["W1"] @ X + params["b1"]
    if bn == "before":
        mu, v = S.mean(axis=1, keepdims=True), S.var(axis=1, keepdims=True)
        params["beta1"][0] -= (params["gamma1"] * (S - mu) / np.sqrt(v) + params["beta1"])[0, 0] - 0.1 * gradcheck.H
    else:
        params["b1"][0] -= S[0, 0] - 0.1 * gradcheck.H
    cost, gradient, active = gradcheck.closures(X, y, 0.01, kbn.EPS, bn)
    _, crossed = gradcheck.central_difference_gradient(cost, params, pattern=active)
    moves = "beta1" if bn == "before" else "b1"
    np.testing.assert_array_equal(crossed[moves][:, 0], np.arange(8) == 0)
    assert crossed["W1"][0].any() and not crossed["W1"][1:].any() and not crossed["W2"].any()
    rows = gradcheck.check(cost, params, gradient(params), active, gradcheck.zero_gradients(params, bn))
    assert failed(rows) == {}
    assert {row["parameter"]: row["kinks"] for row in rows}[moves] == 1


# -------------------------------------------------------------------------------------------------- the nets of kbn.py


@pytest.mark.parametrize("bn", gradcheck.BN)
@pytest.mark.parametrize("hidden", [(8,), (8, 7), (8, 7, 6)])
def test_the_gradients_of_kbn_are_right_and_params_unchanged(hidden, bn):
    cost, params, grads, active, zero = a_net(bn, hidden)
    before = {key: param.copy() for key, param in params.items()}
    rows = gradcheck.check(cost, params, grads, active, zero)
    assert failed(rows) == {}
    assert [row["parameter"] for row in rows] == list(params)
    assert [row["entries"] for row in rows] == [param.size for param in params.values()]
    assert {row["parameter"] for row in rows if row["judged"] == "absolute"} == set(zero)
    for key, param in before.items():
        np.testing.assert_array_equal(params[key], param)


@pytest.mark.parametrize("bn", gradcheck.BN)
def test_an_error_of_a_thousandth_in_any_parameter_is_caught(bn):
    cost, params, grads, active, zero = a_net(bn, (8, 7, 6))
    numerical = gradcheck.numerical_gradients(cost, params, active)
    for key in set(params) - set(zero):
        assert failed(gradcheck.judge({**grads, key: 1.001 * grads[key]}, numerical, zero)) == {key: BOTH}
        wrong = gradcheck.plant(grads[key], False)
        assert np.count_nonzero(wrong != grads[key]) == 1
        assert failed(gradcheck.judge({**grads, key: wrong}, numerical, zero)) == {key: BOTH}


def test_a_bogus_bias_gradient_under_bn_is_caught():
    cost, params, grads, active, zero = a_net("before")
    assert zero == ["b1", "b2"]
    numerical = gradcheck.numerical_gradients(cost, params, active)
    for key in zero:
        wrong = grads[key].copy()
        wrong[3] = 1e-6
        assert failed(gradcheck.judge({**grads, key: wrong}, numerical, zero)) == {key: BOTH}


def test_after_the_relu_the_biases_matter():
    cost, params, grads, active, zero = a_net("after")
    assert zero == []
    rows = gradcheck.check(cost, params, grads, active, zero=["b1"])
    assert failed(rows) == {"b1": BOTH}


def test_swapped_gamma_and_beta_are_caught():
    for bn in ("before", "after"):
        cost, params, grads, active, zero = a_net(bn)
        swapped = {**grads, "gamma1": grads["beta1"], "beta1": grads["gamma1"]}
        assert failed(gradcheck.check(cost, params, swapped, active, zero)) == {"gamma1": BOTH, "beta1": BOTH}


def test_two_examples_prove_nothing_about_batch_normalization(monkeypatch):
    """A batch_norm_backpass of nothing but zeros agrees with 2 examples, but for epsilon; with 8 it is half wrong."""
    monkeypatch.setattr(kbn, "batch_norm_backpass", lambda G, S, mu, v, eps: np.zeros_like(G))
    vacuous, caught = (gradcheck.check(*a_net("before", (8,), n)) for n in (2, 8))
    assert max(max(row["complex"], row["central"]) for row in vacuous) < 1e-7
    assert failed(caught) == {"W1": BOTH}
    assert min(row["complex"] for row in caught if row["parameter"] == "W1") > 0.5


@pytest.mark.parametrize("n_batch, momentum", [(2 * gradcheck.N, 0.0), (gradcheck.N, 0.9)])
def test_a_wrong_update_shows(n_batch, momentum, monkeypatch):
    def error():
        return gradcheck.update_error(n_batch, momentum, np.random.default_rng(1))

    right_params, right_stats = kbn.update_params, kbn.update_stats
    assert error() <= 1e-12
    monkeypatch.setattr(
        kbn,
        "update_params",
        lambda params, grads, memory, eta, momentum: right_params(params, grads, memory, 1.001 * eta, momentum),
    )
    assert error() > 1e-7
    monkeypatch.setattr(kbn, "update_params", right_params)
    monkeypatch.setattr(kbn, "update_stats", lambda stats, cache, alpha: right_stats(stats, cache, 0.99 * alpha))
    assert error() > 1e-7


# -------------------------------------------------------------------------------------------------------- the script


@pytest.fixture
def few_nets(monkeypatch):
    monkeypatch.setattr(gradcheck, "NETS", [([8], kbn.EPS)])


def test_the_nets_are_those_of_the_assignment():
    assert [hidden for hidden, _ in gradcheck.NETS][3:] == [[50], [50, 50], [50, 30, 20, 20, 10, 10, 10, 10]]
    assert [len(hidden) + 1 for hidden, _ in gradcheck.NETS][:3] == [2, 3, 4]
    assert gradcheck.D == 10 and gradcheck.N >= 5 and set(gradcheck.BN) == {"off", "before", "after"}
    assert gradcheck.LAMBDAS[0] == 0 < gradcheck.LAMBDAS[1]
    assert gradcheck.BARS["relative"] == {"complex": 1e-12, "central": 1e-6}


def test_main_passes_and_writes_the_table(few_nets, tmp_path, capsys):
    assert gradcheck.main(["--out", str(tmp_path / "new" / "folder")]) == 0
    output = capsys.readouterr().out
    lines = output.splitlines()
    n_rows = 2 * (4 + 6 + 6)
    assert lines[-1].startswith(f"{n_rows} gradients checked") and "all within the bars" in lines[-1]
    assert max(map(len, lines)) <= 100
    assert "FAIL" not in output and output.count("caught by both methods") == 6 + 10 + 10
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == {"gradcheck.csv", "gradcheck.md"}
    overview = (folder / "gradcheck.md").read_text().splitlines()
    assert len(overview) == 2 + 3 and sum(int(line.split("|")[3]) for line in overview[2:]) == n_rows
    with open(folder / "gradcheck.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == n_rows
    assert {row["verdict"] for row in rows} == {"ok"} and {row["seed"] for row in rows} == {"0"}
    assert max(float(row["complex"]) for row in rows) <= 1e-12


def test_the_same_seed_gives_the_same_table(few_nets):
    first, again, other = [list(gradcheck.check_nets(seed)) for seed in (3, 3, 4)]
    assert first == again != other


def backward_without(what):
    """kbn.backward with a mistake."""
    right = kbn.backward

    def backward(Y, params, cache, lam, grads=None):
        grads = right(Y, params, cache, 0.0 if what == "lambda" else lam, grads)
        if what == "W1":
            grads["W1"] *= 1.001
        if what == "beta" and "beta1" in grads:
            grads["beta1"] = np.zeros_like(grads["beta1"])
        return grads

    return backward


@pytest.mark.parametrize("what", ["lambda", "W1", "beta"])
def test_main_fails_where_backward_is_wrong(what, few_nets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kbn, "backward", backward_without(what))
    assert gradcheck.main(["--out", str(tmp_path)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.startswith("FAILED")
    assert any(line.endswith("FAIL: complex, central") for line in lines)
    assert "FAIL: complex, central" in (tmp_path / "gradcheck.csv").read_text()


def test_main_fails_where_a_planted_error_goes_unseen(few_nets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gradcheck, "plant", lambda gradient, is_zero: gradient)
    assert gradcheck.main(["--out", str(tmp_path)]) == 1
    assert "NOT caught" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_one_clear_line(few_nets, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert gradcheck.main(["--out", str(tmp_path / "file")]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILED (1), the first: the results cannot be written") and str(tmp_path) in last


def test_a_table_that_cannot_be_finished_leaves_the_old_one(few_nets, tmp_path, monkeypatch):
    def refuse(draft, path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "gradcheck.csv").write_text("old")
    monkeypatch.setattr(tables.os, "replace", refuse)
    assert gradcheck.main(["--out", str(tmp_path)]) == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"gradcheck.csv": "old"}


@pytest.mark.parametrize(
    "arguments, status, text",
    [
        (["--help"], 0, "gradcheck.csv"),
        (["--sed", "1", "--no-such-option"], 2, "unrecognized arguments"),
        (["--seed", "-1"], 2, "--seed must be 0 or above"),
    ],
)
def test_options_from_any_folder(arguments, status, text, tmp_path):
    result = subprocess.run([sys.executable, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == status and text in result.stdout + result.stderr
