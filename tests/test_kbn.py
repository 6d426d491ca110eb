"""kbn.py against PyTorch, against sums done by hand, and against its own promises. No dataset; all draws are seeded."""

import ast
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kbn

try:
    import torch
    from torch.nn.functional import batch_norm, cross_entropy, linear

    torch.set_num_threads(1)  # the nets are small: more threads only wait for each other
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is the oracle here: pip install torch==2.13.0")
every_bn = pytest.mark.parametrize("bn", [None, "before", "after"])
seeds = st.integers(0, 2**32 - 1)
any_bn, any_eps = st.sampled_from([None, "before", "after"]), st.sampled_from([kbn.EPS, 1e-5, 0.1])
two_etas = st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)).map(sorted)


def examples(number):
    return settings(max_examples=number, deadline=None, derandomize=True, database=None)


# ------------------------------------------------------------------------------------------------------------ material


def random_params(rng, dims, bn, dtype=np.float64):
    """Parameters of which none is 0 or 1. gamma and beta leave each unit alive after BN and ReLU."""
    params = kbn.init_params(dims, rng, bn is not None, dtype=dtype)
    for key, param in params.items():
        if not key.startswith("W"):
            param += rng.uniform(-0.3, 0.3, param.shape).astype(dtype)
    return params


def random_data(rng, d, n, K, dtype=np.float64):
    return rng.standard_normal((n, d)).astype(dtype).T, rng.integers(K, size=n)


def random_stats(rng, params):
    hidden = {l: params[f"b{l}"] for l in range(1, kbn.n_layers(params))} if "gamma1" in params else {}
    return {f"mu{l}": rng.standard_normal(b.shape).astype(b.dtype) for l, b in hidden.items()} | {
        f"v{l}": rng.uniform(0.5, 2, b.shape).astype(b.dtype) for l, b in hidden.items()
    }


def copy(arrays):
    return {key: array.copy() for key, array in arrays.items()}


def same(a, b):
    """Whether two dicts of arrays are equal to the bit, precision included."""
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a)


def assert_close(actual, expected, tolerance):
    """Compare dicts of arrays, norm-wise; what is 0 in theory (biases under BN) is measured by the largest of all."""
    assert actual.keys() == expected.keys()
    largest = max((np.linalg.norm(array) for array in expected.values()), default=0)
    for key in expected:
        error = np.linalg.norm(actual[key] - expected[key])
        assert error <= tolerance * (np.linalg.norm(expected[key]) + 0.1 * largest), (key, error)


def train(bn, seed=0, n=70, dims=(6, 8, 7, 4), dtype=np.float64, callback=None, **hp):
    """A short training: params, stats, history, and what went in."""
    rng = np.random.default_rng(99)
    data, val = random_data(rng, dims[0], n, dims[-1], dtype), random_data(rng, dims[0], 30, dims[-1], dtype)
    params = random_params(rng, dims, bn, dtype)
    hp = {"n_batch": 20, "n_s": 7, "n_cycles": 1, "bn": bn or "before"} | hp
    out = kbn.minibatch_gd(data, val, params, hp, np.random.default_rng(seed), callback)
    return *out, {"train": data, "val": val, "params": params, "hp": kbn.check_hp(hp)}


def triangle(t, eta_min, eta_max, n_s):
    """The learning rate of update t, by interpolation between the turning points."""
    return np.interp(t % (2 * n_s), [0, n_s, 2 * n_s], [eta_min, eta_max, eta_min])


def record_calls(monkeypatch, name):
    """Let kbn's function go on as before, and keep the arguments and the result of each call."""
    calls, function = [], getattr(kbn, name)

    def recorded(*args):
        calls.append((args, function(*args)))
        return calls[-1][1]

    monkeypatch.setattr(kbn, name, recorded)
    if name in kbn.MLP:
        monkeypatch.setitem(kbn.MLP, name, recorded)
    return calls


# --------------------------------------------------------------------------------------------------- PyTorch as oracle


def torch_scores(X, params, eps, bn, masks=None, running=None, momentum=0.0, training=True):
    """The scores (n, K) of X (n, d); running, if given, holds mu1.., v1.. (m,), which training moves."""
    k, running = kbn.n_layers(params), running or {}
    for l in range(1, k):
        S = linear(X, params[f"W{l}"], params[f"b{l}"][:, 0])
        S = S.relu() if bn == "after" else S
        if bn:
            S = batch_norm(
                S,
                running.get(f"mu{l}"),
                running.get(f"v{l}"),
                params[f"gamma{l}"][:, 0],
                params[f"beta{l}"][:, 0],
                training,
                momentum,
                eps,
            )
        X = S if bn == "after" else S.relu()
        X = X if masks is None else X * torch.from_numpy(masks[f"mask{l}"].T)
    return linear(X, params[f"W{k}"], params[f"b{k}"][:, 0])


def torch_cost(scores, y, params, lam):
    """The cost and the loss."""
    loss = cross_entropy(scores, torch.from_numpy(y))
    squares = [(param**2).sum() for key, param in params.items() if key.startswith("W")]
    return loss + lam * sum(squares), loss


def torch_params(params):
    return {key: torch.tensor(param, requires_grad=True) for key, param in params.items()}


@needs_torch
@examples(400)
@given(
    seed=seeds,
    k=st.integers(1, 9),
    n=st.integers(5, 12),
    bn=any_bn,
    eps=any_eps,
    lam=st.sampled_from([0.0, 0.005, 1.5]),
    dropout=st.booleans(),
)
def test_cost_and_gradients_are_pytorchs(seed, k, n, bn, eps, lam, dropout):
    rng = np.random.default_rng(seed)
    dims = rng.integers(3, 10, k + 1).tolist()
    X, y = random_data(rng, dims[0], n, dims[-1])
    params = random_params(rng, dims, bn)
    masks = kbn.dropout_masks(params, n, 0.8, rng) if dropout else None
    Y = kbn.one_hot(y, dims[-1], np.float64)

    P, cache = kbn.forward(X, params, None, eps, bn or "before", masks)
    assume(all(cache[key].min() > 1e-3 for key in cache if key.startswith("v")))  # else the problem is ill-conditioned
    cost, loss = kbn.compute_cost(X, Y, params, lam, None, eps, bn or "before", masks)
    expected = torch_params(params)
    scores = torch_scores(torch.from_numpy(X.T), expected, eps, bn, masks)
    expected_cost, expected_loss = torch_cost(scores, y, expected, lam)
    expected_cost.backward()

    assert_close({"P": P}, {"P": scores.softmax(1).detach().numpy().T}, 1e-10)
    assert cost == pytest.approx(expected_cost.item(), rel=1e-10)
    assert loss == pytest.approx(expected_loss.item(), rel=1e-10)
    expected_grads = {key: param.grad.numpy() for key, param in expected.items()}
    assert_close(kbn.backward(Y, params, cache, lam), expected_grads, 1e-10)


@needs_torch
@examples(200)
@given(
    seed=seeds,
    k=st.integers(1, 9),
    n=st.integers(1, 9),
    bn=any_bn,
    eps=any_eps,
)
def test_prediction_is_pytorchs(seed, k, n, bn, eps):
    rng, position = np.random.default_rng(seed), bn or "before"
    dims = rng.integers(1, 8, k + 1).tolist()
    X, y = random_data(rng, dims[0], n, dims[-1])
    params = random_params(rng, dims, bn)
    stats = random_stats(rng, params)
    running = {key: torch.from_numpy(array[:, 0]) for key, array in stats.items()}
    expected = torch_params(params)
    scores = torch_scores(torch.from_numpy(X.T), expected, eps, bn, running=running, training=False)
    cost, loss = torch_cost(scores, y, expected, 0.1)

    P, _ = kbn.forward(X, params, stats, eps, position)
    assert_close({"P": P}, {"P": scores.softmax(1).detach().numpy().T}, 1e-10)
    now = kbn.evaluate(X, y, params, stats, 0.1, eps, position, kbn.MLP | {"chunk": 4})
    assert now["cost"] == pytest.approx(cost.item(), rel=1e-10)
    assert now["loss"] == pytest.approx(loss.item(), rel=1e-10)
    assert now["accuracy"] == kbn.accuracy(X, y, params, stats, eps, position) == (scores.argmax(1).numpy() == y).mean()


def torch_training(X, y, params, hp, rng):
    """minibatch_gd in PyTorch. Returns params, stats and the cost of each update.

    PyTorch's running variance divides by n - 1, and starts from 1: here the first batch sets it (momentum 1), and the
    end makes good for the n - 1.
    """
    n_batch, t, costs = hp["n_batch"], 0, []
    memory = {key: torch.zeros_like(torch.from_numpy(param)) for key, param in params.items()}
    hidden = {l: len(params[f"b{l}"]) for l in range(1, kbn.n_layers(params))} if "gamma1" in params else {}
    running = {f"{name}{l}": torch.zeros(m, dtype=torch.float64) for l, m in hidden.items() for name in ("mu", "v")}
    expected = torch_params(params)
    while t < 2 * hp["n_s"] * hp["n_cycles"]:
        for batch in rng.permutation(len(y))[: len(y) // n_batch * n_batch].reshape(-1, n_batch):
            masks = kbn.dropout_masks(params, n_batch, hp["keep"], rng) if hp["keep"] < 1 else None
            scores = torch_scores(
                torch.from_numpy(X.T[batch]),
                expected,
                hp["eps"],
                hidden and hp["bn"],
                masks,
                running,
                1 - hp["alpha"] if t else 1.0,
            )
            cost, _ = torch_cost(scores, y[batch], expected, hp["lam"])
            costs.append(cost.item())
            grads = torch.autograd.grad(cost, expected.values())
            eta = triangle(t, hp["eta_min"], hp["eta_max"], hp["n_s"])
            with torch.no_grad():
                for param, v, grad in zip(expected.values(), memory.values(), grads):
                    v.mul_(hp["momentum"]).sub_(eta * grad)
                    param += v
            t += 1
    stats = {
        key: average.numpy()[:, None] * (1 if key.startswith("mu") else 1 - 1 / n_batch) for key, average in running.items()
    }
    return {key: param.detach().numpy() for key, param in expected.items()}, stats, costs


@needs_torch
@every_bn
@pytest.mark.parametrize("hp", [{}, {"momentum": 0.9, "eta_max": 0.02}, {"keep": 0.7}, {"alpha": 0.5, "eps": 1e-3, "lam": 0.1}])
def test_a_whole_training_is_pytorchs(bn, hp):
    params, stats, history, inputs = train(bn, seed=3, n=60, n_s=12, n_cycles=2, **hp)
    expected, expected_stats, costs = torch_training(*inputs["train"], inputs["params"], inputs["hp"], np.random.default_rng(3))
    assert_close(params, expected, 1e-9)
    assert_close(stats, expected_stats, 1e-9)
    np.testing.assert_allclose(history["update"]["cost"], costs, rtol=1e-9)


# ------------------------------------------------------------------------------------------------------ the gradient


@every_bn
@pytest.mark.parametrize("dropout", [False, True])
def test_complex_step_derivative_is_the_gradients(bn, dropout):
    rng = np.random.default_rng(5)
    X, y = random_data(rng, 10, 8, 5)
    params = random_params(rng, [10, 8, 6, 5], bn)  # one layer as wide as the batch: there (37) can be wrong in silence
    direction = {key: rng.standard_normal(param.shape) for key, param in params.items()}
    masks = kbn.dropout_masks(params, 8, 0.7, rng) if dropout else None
    Y, options = kbn.one_hot(y, 5, np.float64), (1e-5, bn or "before", masks)

    _, cache = kbn.forward(X, params, None, *options)
    grads = kbn.backward(Y, params, cache, 0.1)
    moved = {key: param + 1e-30j * direction[key] for key, param in params.items()}
    cost, _ = kbn.compute_cost(X, Y, moved, 0.1, None, *options)
    terms = [np.sum(grads[key] * direction[key]) for key in params]
    assert abs(cost.imag / 1e-30 - sum(terms)) <= 1e-12 * np.linalg.norm(terms)


def test_gradients_written_over_old_ones_are_the_same():
    rng = np.random.default_rng(6)
    params = random_params(rng, [6, 5, 4], "before")
    X, y = random_data(rng, 6, 9, 4)
    Y, (_, cache) = kbn.one_hot(y, 4, np.float64), kbn.forward(X, params)
    old = {key: np.full_like(param, np.nan) for key, param in params.items()}
    W1 = old["W1"]
    assert same(kbn.backward(Y, params, cache, 0.1, old), kbn.backward(Y, params, cache, 0.1))
    assert old["W1"] is W1


# ---------------------------------------------------------------------------------------------------- softmax and cost


@examples(50)
@given(seed=seeds, scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_softmax_columns_sum_to_1(seed, scale):
    S = scale * np.random.default_rng(seed).standard_normal((5, 7))
    before = S.copy()
    P, logP = kbn.softmax(S)
    assert np.array_equal(S, before)
    np.testing.assert_allclose(P.sum(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(np.exp(logP), P, rtol=1e-10)
    np.testing.assert_allclose(P / P.max(axis=0), np.exp(S - S.max(axis=0)), rtol=1e-9)


def test_loss_stays_finite_where_a_probability_underflows():
    params = {"W1": np.array([[1e4], [-1e4]], np.float32), "b1": np.zeros((2, 1), np.float32)}
    X, Y = np.ones((1, 3), np.float32), kbn.one_hot(np.array([0, 1, 1]), 2)
    P, _ = kbn.forward(X, params)
    assert np.array_equal(P, [[1, 1, 1], [0, 0, 0]])
    _, loss = kbn.compute_cost(X, Y, params, 0.0)
    assert loss == pytest.approx(2 / 3 * 2e4)


def test_penalty_is_lam_times_the_squares_of_the_weights_alone():
    params = {
        "W1": np.array([[1.0, 2]]),
        "b1": np.array([[5.0]]),
        "gamma1": np.array([[6.0]]),
        "beta1": np.array([[7.0]]),
        "W2": np.array([[3.0], [4]]),
        "b2": np.array([[8.0], [9]]),
    }
    assert kbn.penalty(params, 0.5) == 0.5 * (1 + 4 + 9 + 16)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("sigma, off", [(1e-3, 0.01), (None, 1.0)])
def test_loss_starts_at_the_log_of_10(batch_norm, sigma, off):
    rng = np.random.default_rng(7)
    params = kbn.init_params([3072, 50, 50, 10], rng, batch_norm, sigma)
    X, y = random_data(rng, 3072, 500, 10, np.float32)
    _, loss = kbn.compute_cost(X, kbn.one_hot(y, 10), params, 0.0)
    assert loss == pytest.approx(np.log(10), abs=off)


# ------------------------------------------------------------------------------------------ statistics and prediction


@pytest.mark.parametrize("bn", ["before", "after"])
def test_batch_statistics_divide_by_n(bn):
    rng = np.random.default_rng(8)
    params = random_params(rng, [6, 5, 4], bn)
    X, _ = random_data(rng, 6, 7, 4)
    _, cache = kbn.forward(X, params, bn=bn)
    S = params["W1"] @ X + params["b1"]
    S = S if bn == "before" else np.maximum(S, 0)
    np.testing.assert_allclose(cache["mu1"], S.mean(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(cache["v1"], S.var(axis=1, ddof=0, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(cache["Shat1"].mean(axis=1), 0, atol=1e-14)
    np.testing.assert_allclose(cache["Shat1"].std(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("eps", [1e-5, 3.0])
def test_epsilon_is_added_to_the_variance(eps):
    S, mu, v = np.array([[1.0, 4.0]]), np.array([[2.0]]), np.array([[1.0]])
    np.testing.assert_allclose(kbn.batch_normalize(S, mu, v, eps), [[-1, 2]] / np.sqrt(1 + eps), rtol=1e-15)


@pytest.mark.parametrize("bn", ["before", "after"])
def test_moving_averages_start_at_the_first_batch_and_follow_38_39(bn, monkeypatch):
    calls = record_calls(monkeypatch, "forward")
    _, stats, _, _ = train(bn, alpha=0.8)
    caches = [cache for (_, _, passed_stats, *_), (_, cache) in calls if passed_stats is None]
    assert len(caches) == 14
    for key in ("mu1", "v1", "mu2", "v2"):
        average = caches[0][key]
        for cache in caches:
            average = 0.8 * average + 0.2 * cache[key]
        np.testing.assert_allclose(stats[key], average, rtol=1e-12)
    assert len(stats) == 4


@every_bn
def test_evaluation_changes_nothing(bn):
    rng = np.random.default_rng(9)
    params = random_params(rng, [6, 5, 5, 4], bn)
    X, y = random_data(rng, 6, 20, 4)
    stats = random_stats(rng, params)
    params_before, stats_before, X_before = copy(params), copy(stats), X.copy()
    first = kbn.evaluate(X, y, params, stats, 0.1, bn=bn or "before")
    kbn.compute_cost(X, kbn.one_hot(y, 4, np.float64), params, 0.1, stats, bn=bn or "before")
    kbn.compute_cost(X, kbn.one_hot(y, 4, np.float64), params, 0.1, bn=bn or "before")
    assert same(params, params_before) and same(stats, stats_before) and np.array_equal(X, X_before)
    assert kbn.evaluate(X, y, params, stats, 0.1, bn=bn or "before") == first


@every_bn
def test_a_prediction_does_not_depend_on_its_batch(bn):
    rng = np.random.default_rng(10)
    params = random_params(rng, [6, 5, 5, 4], bn)
    X, y = random_data(rng, 6, 23, 4)
    stats = random_stats(rng, params)
    P, _ = kbn.forward(X, params, stats, bn=bn or "before")
    alone = [kbn.forward(X[:, i : i + 1], params, stats, bn=bn or "before")[0] for i in range(23)]
    np.testing.assert_allclose(np.hstack(alone), P, rtol=1e-12)
    whole = kbn.evaluate(X, y, params, stats, 0.1, bn=bn or "before")
    for chunk in (1, 7, 22, 23):
        assert kbn.evaluate(X, y, params, stats, 0.1, bn=bn or "before", net=kbn.MLP | {"chunk": chunk}) == pytest.approx(
            whole, rel=1e-12
        )


# ------------------------------------------------------------------------------------------------------ initialisation


@pytest.mark.parametrize(
    "sigma, expected",
    [
        (None, [(2 / 400) ** 0.5, (2 / 300) ** 0.5, (2 / 200) ** 0.5]),
        ("xavier", [400**-0.5, 300**-0.5, 200**-0.5]),
        (1e-3, [1e-3] * 3),
        (0, [0] * 3),
    ],
)
def test_weights_have_the_standard_deviation_asked_for(sigma, expected):
    params = kbn.init_params([400, 300, 200, 50], np.random.default_rng(11), sigma=sigma)
    for l, sd in enumerate(expected, start=1):
        W = params[f"W{l}"]
        assert W.std() == pytest.approx(sd, rel=0.03)
        assert abs(W.mean()) <= 5 * sd / W.size**0.5
        assert (abs(W) <= sd).mean() == pytest.approx(0.683 if sd else 1, abs=0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_init_params_keys_shapes_and_constants(dtype):
    params = kbn.init_params([7, 5, 4, 3], np.random.default_rng(12), batch_norm=True, dtype=dtype)
    assert {key: param.shape for key, param in params.items()} == {
        "W1": (5, 7),
        "b1": (5, 1),
        "gamma1": (5, 1),
        "beta1": (5, 1),
        "W2": (4, 5),
        "b2": (4, 1),
        "gamma2": (4, 1),
        "beta2": (4, 1),
        "W3": (3, 4),
        "b3": (3, 1),
    }
    assert all(param.dtype == dtype for param in params.values())
    for key, param in params.items():
        assert key.startswith("W") or np.array_equal(param, np.full(param.shape, key.startswith("gamma")))
    assert kbn.init_params([7, 5, 3], np.random.default_rng(12)).keys() == {"W1", "b1", "W2", "b2"}


def test_defaults_are_the_documents():
    documented = {"n_batch": 100, "eta_min": 1e-5, "eta_max": 1e-1, "n_s": 2250, "n_cycles": 2, "lam": 0.005, "alpha": 0.9}
    assert documented.items() <= kbn.check_hp({}).items()
    assert np.finfo(np.float64).eps == kbn.EPS


# ------------------------------------------------------------------------------------------------- the learning rate


@examples(300)
@given(etas=two_etas, n_s=st.integers(1, 10**6), cycle=st.integers(0, 9))
def test_eta_is_exact_at_the_turning_points(etas, n_s, cycle):
    eta_min, eta_max = etas
    start = 2 * n_s * cycle
    assert kbn.cyclical_eta(start, eta_min, eta_max, n_s) == eta_min
    assert kbn.cyclical_eta(start + n_s, eta_min, eta_max, n_s) == eta_max
    assert kbn.cyclical_eta(start + 2 * n_s, eta_min, eta_max, n_s) == eta_min


def test_eta_is_exact_at_the_turning_points_of_many_schedules_at_once():
    eta_min, eta_max = np.sort(10 ** np.random.default_rng(4).uniform(-6, 1, (2, 10_000)), axis=0)
    for t, expected in ((0, eta_min), (7, eta_max), (14, eta_min), (21, eta_max)):
        assert np.array_equal(kbn.cyclical_eta(t, eta_min, eta_max, n_s=7), expected)


@examples(100)
@given(etas=two_etas, n_s=st.integers(1, 10**6), part=st.floats(0, 1))
def test_eta_is_linear_and_periodic(etas, n_s, part):
    t, (eta_min, eta_max) = int(part * n_s), etas
    eta = kbn.cyclical_eta(t, eta_min, eta_max, n_s)
    assert eta == pytest.approx(eta_min + t / n_s * (eta_max - eta_min), rel=1e-9, abs=1e-12 * eta_max)
    assert kbn.cyclical_eta(2 * n_s - t, eta_min, eta_max, n_s) == pytest.approx(eta, rel=1e-9, abs=1e-12 * eta_max)
    assert kbn.cyclical_eta(6 * n_s + t, eta_min, eta_max, n_s) == eta


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("n, n_batch", [(60, 20), (71, 20), (20, 20)])
def test_every_epoch_is_a_new_permutation_of_pairs(n, n_batch, monkeypatch):
    X = np.stack([np.arange(n), np.arange(n) * 7 % 5]).astype(np.float32, order="F")  # the index and the label
    y = np.arange(n) * 7 % 5
    steps = []
    train_step = kbn.train_step

    def recorded(X, y, *rest):
        steps.append((X.copy(), y.copy()))
        return train_step(X, y, *rest)

    def epochs(seed):
        steps.clear()
        kbn.minibatch_gd(
            (X, y),
            (X, y),
            params,
            {"n_batch": n_batch, "n_s": 2 * (n // n_batch), "n_cycles": 1, "eta_max": 1e-5},
            np.random.default_rng(seed),
        )
        return np.hstack([X[0] for X, _ in steps]).reshape(4, -1)

    monkeypatch.setattr(kbn, "train_step", recorded)
    params = kbn.init_params([2, 3, 5], np.random.default_rng(0), sigma=1e-3)
    orders = epochs(seed=1)
    assert all(X.shape == (2, n_batch) and np.array_equal(X[1], y) for X, y in steps)
    assert len({tuple(order) for order in orders}) == 4
    for order in orders:
        assert len(set(order)) == len(order) == n // n_batch * n_batch
        assert not np.array_equal(order, np.sort(order))
    assert np.array_equal(epochs(seed=1), orders)
    assert not np.array_equal(epochs(seed=2), orders)


@pytest.mark.parametrize(
    "n, n_s, n_cycles, epoch_t", [(70, 7, 1, [3, 6, 9, 12, 14]), (60, 3, 2, [3, 6, 9, 12]), (400, 1, 1, [2])]
)
def test_training_ends_after_2_n_s_n_cycles_updates(n, n_s, n_cycles, epoch_t):
    params, stats, history, inputs = train("before", n=n, n_s=n_s, n_cycles=n_cycles, eta_min=1e-3, eta_max=0.05, lam=0.1)
    update, epoch = history["update"], history["epoch"]
    n_updates = 2 * n_s * n_cycles
    assert update.keys() == {"eta", "loss", "cost", "accuracy"}
    assert {len(column) for column in update.values()} == {n_updates}
    assert epoch["t"] == epoch_t and {len(column) for column in epoch.values()} == {len(epoch_t)}
    np.testing.assert_allclose(update["eta"], triangle(np.arange(n_updates), 1e-3, 0.05, n_s), rtol=1e-12)
    assert epoch["eta"] == [update["eta"][t - 1] for t in epoch_t]
    for part in ("train", "val"):
        expected = kbn.evaluate(*inputs[part], params, stats, 0.1)
        assert {name: epoch[f"{part}_{name}"][-1] for name in expected} == expected
        assert epoch[f"{part}_accuracy"][-1] == kbn.accuracy(*inputs[part], params, stats)


def test_update_history_is_of_the_batch_before_the_update(monkeypatch):
    batches = []
    train_step = kbn.train_step

    def recorded(X, y, params, *rest):
        P, _ = kbn.forward(X, params)
        cost, loss = kbn.compute_cost(X, kbn.one_hot(y, 4, np.float64), params, 0.1)
        batches.append((cost, loss, (P.argmax(axis=0) == y).mean()))
        return train_step(X, y, params, *rest)

    monkeypatch.setattr(kbn, "train_step", recorded)
    _, _, history, _ = train("before", lam=0.1)
    update = history["update"]
    np.testing.assert_allclose(np.transpose([update["cost"], update["loss"], update["accuracy"]]), batches, rtol=1e-12)


def test_callback_sees_each_epoch():
    seen = []
    params, stats, history, _ = train(
        "before",
        callback=lambda state: seen.append(
            (state["t"], copy(state["params"]), copy(state["stats"]), state["history"]["epoch"]["val_accuracy"][-1])
        ),
    )
    assert [t for t, *_ in seen] == history["epoch"]["t"]
    assert [accuracy for *_, accuracy in seen] == history["epoch"]["val_accuracy"]
    assert same(seen[-1][1], params) and same(seen[-1][2], stats)
    assert not same(seen[0][1], params)


@pytest.mark.parametrize("hp", [{}, {"momentum": 0.9}, {"keep": 0.7}])
def test_the_seed_decides_all(hp):
    params, stats, history, _ = train("before", seed=1, dtype=np.float32, **hp)
    again, stats_again, history_again, _ = train("before", seed=1, dtype=np.float32, **hp)
    other, _, _, _ = train("before", seed=2, dtype=np.float32, **hp)
    assert same(params, again) and same(stats, stats_again) and history == history_again
    assert not same(params, other)


@every_bn
def test_what_the_caller_gave_is_unchanged(bn):
    rng = np.random.default_rng(13)
    params = random_params(rng, [6, 5, 4], bn)
    X, y = random_data(rng, 6, 30, 4)
    hp = {"n_batch": 10, "n_s": 3, "n_cycles": 1, "momentum": 0.5, "keep": 0.9, "bn": bn or "before"}
    before = [copy(params), X.copy(), y.copy(), dict(hp)]
    for array in (X, y, *params.values()):
        array.flags.writeable = False
    trained, _, _ = kbn.minibatch_gd((X, y), (X, y), params, hp, rng)
    assert same(params, before[0]) and np.array_equal(X, before[1]) and np.array_equal(y, before[2]) and hp == before[3]
    assert not any(np.shares_memory(trained[key], params[key]) for key in params)


@pytest.mark.parametrize(
    "data", [lambda X: np.ascontiguousarray(X), lambda X: X.astype(np.float64), lambda X: np.repeat(X, 2, axis=1)[:, ::2]]
)
def test_the_memory_order_and_precision_of_X_do_not_matter(data):
    rng = np.random.default_rng(14)
    X, y = random_data(rng, 6, 50, 4, np.float32)
    params = random_params(rng, [6, 5, 4], "before", np.float32)
    hp = {"n_batch": 20, "n_s": 5, "n_cycles": 1}
    expected = kbn.minibatch_gd((X, y), (X, y), params, hp, np.random.default_rng(1))
    trained, stats, history = kbn.minibatch_gd((data(X), y), (data(X), y), params, hp, np.random.default_rng(1))
    assert same(trained, expected[0]) and same(stats, expected[1]) and history == expected[2]


@every_bn
@pytest.mark.parametrize("hp", [{}, {"momentum": 0.9, "keep": 0.8}])
def test_float32_stays_float32(bn, hp, monkeypatch):
    states = []
    forwards, backwards = record_calls(monkeypatch, "forward"), record_calls(monkeypatch, "backward")
    numbers = {"lam": 0.1, "eps": 1e-5, "eta_min": 1e-4, "eta_max": 0.1, "alpha": 0.9} | hp
    params, stats, _, _ = train(
        bn, dtype=np.float32, callback=states.append, **{key: np.float64(value) for key, value in numbers.items()}
    )
    X, y = random_data(np.random.default_rng(0), 6, 9, 4, np.float32)
    options = stats, np.float64(1e-5), bn or "before"
    cost, _ = kbn.compute_cost(X, kbn.one_hot(y, 4), params, 0.1, *options)
    _, cache = kbn.forward(X, params, None, *options[1:])
    bags = [
        params,
        stats,
        states[-1]["memory"],
        kbn.backward(kbn.one_hot(y, 4), params, cache, np.float64(0.1)),
        *[cache for _, (_, cache) in forwards],
        *[grads for _, grads in backwards],
        *[cache["masks"] or {} for _, (_, cache) in forwards],
        {"cost": cost},
    ]
    assert (states[-1]["memory"].keys() == params.keys()) == bool(hp)
    found = {(key, value.dtype) for bag in bags for key, value in bag.items() if hasattr(value, "dtype")}
    assert found and {dtype for _, dtype in found} == {np.dtype(np.float32)}, found


def test_biases_under_batch_norm_stay_about_0():
    rng = np.random.default_rng(15)
    X, y = random_data(rng, 6, 60, 4)
    params = kbn.init_params([6, 8, 7, 4], rng, batch_norm=True, dtype=np.float64)
    trained, _, _ = kbn.minibatch_gd((X, y), (X, y), params, {"n_batch": 20, "n_s": 50}, rng)
    assert max(abs(trained["b1"]).max(), abs(trained["b2"]).max()) < 1e-12
    assert min(abs(trained["b3"]).max(), abs(trained["beta1"]).max()) > 1e-3


@pytest.mark.parametrize("batch_norm", [False, True])
def test_100_examples_with_random_labels_are_learnt_by_heart(batch_norm):
    rng = np.random.default_rng(16)
    X, y = random_data(rng, 200, 100, 10, np.float32)
    params = kbn.init_params([200, 50, 50, 10], rng, batch_norm)
    _, _, history = kbn.minibatch_gd((X, y), (X, y), params, {"n_batch": 25, "n_s": 150, "lam": 0.0}, rng)
    assert history["epoch"]["train_accuracy"][-1] == 1.0


@every_bn
@pytest.mark.parametrize("hp", [{}, {"momentum": 0.9, "eta_max": 0.02}, {"keep": 0.8}])
def test_an_easy_problem_is_learnt(bn, hp):
    rng = np.random.default_rng(17)
    y = rng.integers(4, size=600)
    X = (2 * rng.standard_normal((4, 10))[y] + rng.standard_normal((600, 10))).T
    params = kbn.init_params([10, 20, 20, 4], rng, bn is not None)
    hp = {"n_batch": 50, "n_s": 80, "n_cycles": 1, "bn": bn or "before"} | hp
    _, _, history = kbn.minibatch_gd((X[:, 200:], y[200:]), (X[:, :200], y[:200]), params, hp, rng)
    assert history["epoch"]["val_accuracy"][-1] > 0.95


# ------------------------------------------------------------------------------------------------------------- dropout


def test_dropout_masks_keep_the_share_and_the_expectation():
    params = kbn.init_params([5, 40, 30, 4], np.random.default_rng(18))
    masks = kbn.dropout_masks(params, 500, 0.8, np.random.default_rng(19))
    assert {key: mask.shape for key, mask in masks.items()} == {"mask1": (40, 500), "mask2": (30, 500)}
    for mask in masks.values():
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1.25)}
        assert mask.mean() == pytest.approx(1, abs=0.02)


def test_dropout_is_drawn_anew_in_training_and_absent_from_prediction(monkeypatch):
    calls = record_calls(monkeypatch, "forward")
    train(None, keep=0.8)
    drawn = [masks["mask1"] for (*_, masks), _ in calls if isinstance(masks, dict)]
    assert len(drawn) == 14 and len({mask.tobytes() for mask in drawn}) == 14
    predictions = [cache for (_, _, stats, *_), (_, cache) in calls if stats == {}]
    assert len(predictions) == 2 * 5 and all(cache["masks"] is None for cache in predictions)


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"dims": [4]}, "dims must be at least"),
        ({"dims": [4, 0, 3]}, "positive integers"),
        ({"dims": [4, 2.5, 3]}, "positive integers"),
        ({"sigma": -1.0}, "sigma must be a number >= 0"),
        ({"sigma": np.nan}, "sigma"),
        ({"sigma": np.inf}, "sigma"),
        ({"sigma": "glorot"}, "'xavier' or None"),
    ],
)
def test_init_params_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        kbn.init_params(**{"dims": [4, 5, 3], "rng": np.random.default_rng(0)} | arguments)


@pytest.mark.parametrize(
    "hp, words",
    [
        ({"learning_rate": 0.1}, "unknown hyper-parameter 'learning_rate'; there are n_batch, eta_min"),
        ({"n_batch": 31}, "n_batch is 31, but there are only 30"),
        ({"n_batch": 1}, "n_batch is 1, but batch normalization"),
        ({"n_batch": 0}, "n_batch must be a whole number from 1"),
        ({"n_s": 0}, "n_s must be a whole number from 1"),
        ({"n_s": 2.5}, "n_s must be a whole number"),
        ({"n_cycles": 0}, "n_cycles"),
        ({"n_cycles": np.inf}, "n_cycles"),
        ({"lam": -0.1}, "lam must be a number from 0"),
        ({"lam": np.nan}, "lam"),
        ({"lam": "0.1"}, "lam"),
        ({"lam": None}, "lam"),
        ({"eps": -1e-5}, "eps must be a number from 0"),
        ({"eps": np.nan}, "eps"),
        ({"eps": np.inf}, "eps"),
        ({"eta_min": -1}, "eta_min"),
        ({"eta_min": 0.2, "eta_max": 0.1}, "eta_min 0.2 is above eta_max 0.1"),
        ({"alpha": 1.1}, "alpha must be a number from 0 to 1"),
        ({"momentum": -0.1}, "momentum"),
        ({"keep": 0}, "keep must be a number from 0.001 to 1"),
        ({"keep": 1.1}, "keep"),
        ({"bn": "middle"}, "bn must be 'before' or 'after', not 'middle'"),
    ],
)
def test_minibatch_gd_refuses_hp(hp, words):
    rng = np.random.default_rng(0)
    data, params = random_data(rng, 6, 30, 4), kbn.init_params([6, 5, 4], rng, batch_norm=True)
    with pytest.raises(ValueError, match=words):
        kbn.minibatch_gd(data, data, params, {"n_batch": 10, "n_s": 1, "n_cycles": 1} | hp, rng)


def broken(X, y):
    """Pairs of data that cannot be trained on, and the words that say why."""
    nan, infinite = X.copy(), X.copy()
    nan[2, 4], infinite[:, 7] = np.nan, np.inf
    return {
        "label too large": (X, np.where(y == 0, 4, y), r"labels must be integers in 0\.\.3, not int64 in \d\.\.4"),
        "label negative": (X, y - 1, r"in -1\.\."),
        "labels float": (X, y.astype(float), "integers .* not float64"),
        "labels one-hot": (X, kbn.one_hot(y, 4), "y .*must be"),
        "labels too few": (X, y[1:], r"y \(29,\)"),
        "rows": (X[1:], y, r"must be \(6, n\)"),
        "rows are examples": (X.T, y, r"X \(30, 6\).*must be \(6, n\)"),
        "images": (X.reshape(3, 2, 30), y, "must be"),
        "empty": (X[:, :0], y[:0], "must be"),
        "nan": (nan, y, "nan or inf in 1 of its 30 examples, the first is column 4"),
        "inf": (infinite, y, "the first is column 7"),
    }


@pytest.mark.parametrize("part", ["training", "validation"])
@pytest.mark.parametrize("case", broken(np.zeros((6, 30)), np.zeros(30, int)))
def test_minibatch_gd_refuses_data(part, case):
    X, y = random_data(np.random.default_rng(20), 6, 30, 4)
    X_bad, y_bad, words = broken(X, y)[case]
    train_, val = ((X_bad, y_bad), (X, y)) if part == "training" else ((X, y), (X_bad, y_bad))
    params = kbn.init_params([6, 5, 4], np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"^{part} .*{words}"):
        kbn.minibatch_gd(train_, val, params, {"n_batch": 10, "n_s": 1}, np.random.default_rng(0))


def test_divergence_names_the_update_and_its_eta():
    with pytest.raises(FloatingPointError, match=r"training diverged: the loss of update \d+ \(eta .*below 1e\+06"):
        train(None, eta_max=1e6)


def test_divergence_in_the_last_update_is_noticed():
    with pytest.raises(FloatingPointError, match="the loss after update 1 "):
        train(None, dtype=np.float32, eta_max=1e30, n_s=1, n_cycles=1)


@pytest.mark.parametrize("sigma", [np.float32(0.1), np.float64(0.1), 0, 1])
def test_sigma_is_any_number(sigma):
    params = kbn.init_params([6, 5, 4], np.random.default_rng(0), sigma=sigma)
    assert params["W1"].dtype == np.float32


def test_forward_backward_and_prediction_refuse():
    rng = np.random.default_rng(21)
    X, y = random_data(rng, 6, 9, 4)
    Y, params = kbn.one_hot(y, 4, np.float64), random_params(rng, [6, 5, 4], "before")
    stats = random_stats(rng, params)
    for wrong in (X[1:], X.T, X[0]):
        with pytest.raises(ValueError, match=r"does not fit W1 \(5, 6\): X must be \(6, n\)"):
            kbn.forward(wrong, params)
    with pytest.raises(ValueError, match="bn must be 'before' or 'after'"):
        kbn.forward(X, params, bn="middle")
    for eps in (-1e-5, np.nan):
        with pytest.raises(ValueError, match="eps must be a number >= 0"):
            kbn.forward(X, params, eps=eps)
    _, cache = kbn.forward(X, params)
    for wrong in (Y[:3], Y[:, :5], Y.T):
        with pytest.raises(ValueError, match=r"Y .* does not fit the network's output \(4, 9\)"):
            kbn.backward(wrong, params, cache, 0.0)
    _, cache = kbn.forward(X, params, stats)
    with pytest.raises(ValueError, match="own statistics: call forward without stats"):
        kbn.backward(Y, params, cache, 0.0)
    for missing in (None, {}):
        with pytest.raises(ValueError, match="moving averages that minibatch_gd returns"):
            kbn.accuracy(X, y, params, missing)


def test_kbn_imports_numpy_alone():
    nodes = list(ast.walk(ast.parse(Path(kbn.__file__).read_text(encoding="utf-8"))))
    imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert imported == ["numpy"] and not any(isinstance(node, ast.ImportFrom) for node in nodes)


# ----------------------------------------------------------------------------------------- going on, and saved models


@every_bn
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "keep": 0.8}])
@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_training_goes_on_from_a_state_to_the_same_bit(bn, options, epochs):
    states = []
    params, stats, history, given = train(bn, callback=lambda state: states.append(deepcopy(state)), **options)
    assert len(states) == 5
    other_rng = np.random.default_rng(12345)
    again = kbn.minibatch_gd(given["train"], given["val"], given["params"], given["hp"], other_rng, state=states[epochs - 1])
    assert_equal(again[0], params)
    assert_equal(again[1], stats)
    assert again[2] == history


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


@every_bn
def test_a_saved_network_is_the_same(bn, tmp_path):
    params, stats, _, given = train(bn, dtype=np.float32)
    kbn.save(tmp_path / "net.npz", params, stats, given["hp"], mean=np.arange(6.0), classes=["å", "b"])
    loaded, loaded_stats, hp, more = kbn.load(tmp_path / "net.npz")
    assert_equal(loaded, params)
    assert_equal(loaded_stats, stats)
    assert hp == given["hp"] and list(more["classes"]) == ["å", "b"] and (more["mean"] == np.arange(6)).all()
    assert all(param.dtype == np.float32 for param in loaded.values())


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a model file ran code')",)


def test_what_is_no_saved_network_is_refused(tmp_path):
    params, stats, _, given = train("before")
    path = tmp_path / "net.npz"
    kbn.save(path, params, stats, given["hp"])
    whole = path.read_bytes()
    wrong = {"truncated": whole[:-100], "empty": b"", "text": b"hello", "flipped": whole[:300] + b"\0\1\2" + whole[303:]}
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("params.W9.npy", b"no array")
    wrong["part"] = path.read_bytes()
    for content in wrong.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match="net.npz is not a network that kbn.save wrote"):
            kbn.load(path)
    changed = [
        ({key: param for key, param in params.items() if key != "b2"}, stats, {}),
        (params | {"W2": params["W2"].T}, stats, {}),
        (params | {"W9": params["W2"]}, stats, {}),
        (params, {}, {}),
        (params, stats | {"v1": -stats["v1"]}, {}),
        (params | {"W1": params["W1"] * np.nan}, stats, {}),
        (params | {"W1": params["W1"].astype(int)}, stats, {}),
        (params, stats, {"lamda": 1.0}),
        (params | {"b1": np.array(Evil(), dtype=object)}, stats, {}),
    ]
    for arguments in changed:
        kbn.save(path, *arguments)
        with pytest.raises(ValueError, match="net.npz is not a network that kbn.save wrote"):
            kbn.load(path)
    with pytest.raises(FileNotFoundError):
        kbn.load(tmp_path / "none.npz")
