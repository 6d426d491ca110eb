"""kbn.py and nets.py: networks against PyTorch, complex steps and sums by hand, and what their docstrings promise.

Most tests run for each of NETS: kbn's own network with BN off, before and after the ReLU, a net of layer specs, and a
convolutional one. No dataset is needed, and all draws are seeded.
"""

import ast  # noqa: I001
import inspect
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import (
    CONV, CONV_SHAPE, NETS, K, assert_close, changed, copy, examples, kbn_net, mlp, needs_torch, random_data,
    random_params, refused, same, seeds, spec_net, torch, torch_cost, torch_params, torch_scores,
)  # fmt: skip
from hypothesis import assume, given
from hypothesis import strategies as st

import gradcheck
import kbn
import layers
import nets

every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
BAR, ZERO_BAR = (gradcheck.BARS[judged]["complex"] for judged in ("relative", "absolute"))
PLAIN = [("conv", 3, 3, 1, 1), ("relu",), ("avg_pool", (3, 5)), ("affine", K)]


@st.composite
def windows(draw, sides):
    """size, stride, pad (a number or a pair) of windows that divide images of these sides."""
    numbers = []
    for side in sides:
        size = draw(st.integers(1, min(3, side)))
        pad = draw(st.integers(0, size // 2))  # PyTorch's pooling takes no more
        rest = side + 2 * pad - size
        numbers.append((size, draw(st.sampled_from([s for s in range(1, 4) if rest % s == 0])), pad))
    return [pair[0] if pair[0] == pair[1] else pair for pair in zip(*numbers)]


@st.composite
def spec_nets(draw):
    """Nets of up to two convolutions with anything that may follow them, and up to two affine layers before the last."""
    convs, affines = draw(st.sampled_from([(1, 0), (1, 1), (2, 0), (2, 1), (0, 1), (0, 2)]))
    specs = draw(st.sampled_from([[], [], [("bn",)], [("dropout",), ("tanh",)]]))[:]
    shape = draw(st.tuples(*[st.integers(1, 2)] + [st.integers(2, 6)] * 2 if convs else [st.integers(2, 5)]))

    def sides():
        steps = nets.steps_of([*specs, ("relu",), ("affine", K)], shape)
        return [step.shape for step in steps if step.name == "relu"][-1][1:]

    for weights in ["conv"] * convs + ["affine"] * affines:
        m = draw(st.integers(2, 4))
        specs.append(("affine", m) if weights == "affine" else ("conv", m, *draw(windows(sides()))))
        after = ["bn", draw(st.sampled_from(["relu", "sigmoid", "tanh"])), "dropout"]
        after += [draw(st.sampled_from(["max_pool", "avg_pool"]))] * (weights == "conv")
        for kind in draw(st.permutations(after))[: draw(st.sampled_from([3, 4, 2, 1, 0]))]:
            specs.append((kind, *(draw(windows(sides())) if "pool" in kind else [])))
    return spec_net([*specs, ("affine", K)], shape, draw(st.sampled_from(["softmax", "svm"])))


@st.composite
def kbn_nets(draw, least=3):
    """kbn's own networks of 1 to 9 layers."""
    dims = draw(st.lists(st.integers(least, 9), min_size=2, max_size=10))
    return kbn_net(dims, draw(st.sampled_from(["off", "before", "after"])))


def problem(net, n, seed, dropout=True):
    """A random problem: params, X, y, Y, masks (None without dropout)."""
    rng = np.random.default_rng(seed)
    params, (X, y) = random_params(net, rng), random_data(net, n, rng)
    masks = net.net.dropout_masks(params, n, 0.7, rng) if dropout and ("dropout",) in net.specs else None
    return params, X, y, kbn.one_hot(y, net.specs[-1][1], np.float64), masks


def well_conditioned(cache):
    """Whether no variance is small: BN multiplies rounding by 1 / sqrt(v)."""
    return all(cache[key].min() > 0.02 for key in cache if key.startswith("v"))


HOOKS = ("etas", "callback", "state", "update", "observe", "penalty")


def train(net, seed=0, n=70, dtype=np.float64, **hp):
    """Train for a moment. Returns params, stats, history, and what went in: data, val, start, hp."""
    rng = np.random.default_rng(99)
    data, val, start = random_data(net, n, rng, dtype), random_data(net, 30, rng, dtype), random_params(net, rng, dtype)
    hooks = {name: hp.pop(name) for name in HOOKS if name in hp}
    hp, rng = {"n_batch": 20, "n_s": 7, "n_cycles": 1, "bn": net.bn} | hp, np.random.default_rng(seed)
    trained = kbn.minibatch_gd(data, val, start, hp, rng, net=net.net, **hooks)
    return *trained, {"data": data, "val": val, "start": start, "hp": kbn.complete_hp(hp)}


def spied(net, note):
    """The same net, whose forward and backward tell note(name, arguments by name, result) of each call."""

    def watch(name):
        def function(*args, **options):
            result = getattr(net.net, name)(*args, **options)
            bound = inspect.signature(getattr(kbn, name)).bind(*args, **options)
            bound.apply_defaults()
            note(name, bound.arguments, result)
            return result

        return function

    return changed(net, net=changed(net.net, forward=watch("forward"), backward=watch("backward")))


# ------------------------------------------------------------------------------------------------- PyTorch as oracle


@needs_torch
@examples(300)
@given(
    net=st.one_of(kbn_nets(), spec_nets()), n=st.integers(5, 12), seed=seeds, dropout=st.booleans(),
    eps=st.sampled_from([kbn.EPS, 1e-3, 0.1]), lam=st.sampled_from([0.0, 0.005, 1.5]),
)  # fmt: skip
def test_cost_and_gradients_of_any_net_equal_pytorchs(net, n, seed, dropout, eps, lam):
    params, X, y, Y, masks = problem(net, n, seed, dropout)
    P, cache = net.net.forward(X, params, bn=net.bn, eps=eps, masks=masks)
    assume(well_conditioned(cache))
    expected = torch_params(params)
    scores = torch_scores(net, X, expected, eps, masks)
    expected_cost, expected_loss = torch_cost(net, scores, y, expected, lam)
    expected_cost.backward()
    assert_close(P, scores.softmax(1).detach().numpy().T, 1e-10)
    cost, loss = kbn.compute_cost(X, Y, params, lam, bn=net.bn, eps=eps, masks=masks, net=net.net)
    assert (cost, loss) == pytest.approx((expected_cost.item(), expected_loss.item()), rel=1e-10)
    expected_grads = {name: param.grad.numpy() for name, param in expected.items()}
    assert_close(net.net.backward(Y, params, cache, lam), expected_grads, 1e-10)


@needs_torch
@examples(100)
@given(net=st.one_of(kbn_nets(least=1), spec_nets()), n=st.integers(1, 9), seed=seeds, eps=st.sampled_from([kbn.EPS, 0.1]))
def test_prediction_of_any_net_equals_pytorchs(net, n, seed, eps):
    params, X, y, *_ = problem(net, n, seed)
    rng, stats = np.random.default_rng(seed), {}
    for l in kbn.bn_layers(params):
        shape = params[f"gamma{l}"].shape
        stats |= {f"mu{l}": rng.standard_normal(shape), f"v{l}": rng.uniform(0.5, 2, shape)}
    expected, running = torch_params(params), {key: torch.from_numpy(array[:, 0]) for key, array in stats.items()}
    scores = torch_scores(net, X, expected, eps, running=running, training=False)
    cost, loss = torch_cost(net, scores, y, expected, 0.1)
    P, _ = net.net.forward(X, params, stats, bn=net.bn, eps=eps)
    assert_close(P, scores.softmax(1).detach().numpy().T, 1e-10)
    options = {"bn": net.bn, "eps": eps, "net": changed(net.net, chunk=4)}
    share = (scores.argmax(1).numpy() == y).mean()
    values = {"cost": cost.item(), "loss": loss.item(), "accuracy": share}
    assert kbn.evaluate(X, y, params, stats, 0.1, **options) == pytest.approx(values, rel=1e-10)
    assert kbn.accuracy(X, y, params, stats, **options) == share


def torch_training(net, inputs, rng, etas):
    """minibatch_gd in PyTorch. Returns params, stats and the loss of each update.

    PyTorch's running variance divides by n - 1 and starts from 1. Here the first mini-batch sets it (momentum 1), and it is
    corrected for the n - 1 at the end.
    """
    (X, y), hp, params, losses = inputs["data"], inputs["hp"], torch_params(inputs["start"]), []
    memory = dict.fromkeys(params, 0)
    bn = [step for step in nets.steps_of(net.specs, net.shape) if step.name == "bn"]
    values = {step.l: hp["n_batch"] * int(np.prod(step.shape[1:])) for step in bn}  # of each unit or channel
    running = {f"{name}{l}": 0 * params[f"gamma{l}"][:, 0].detach() for l in values for name in ("mu", "v")}
    while len(losses) < len(etas):
        for batch in rng.permutation(len(y))[: len(y) // hp["n_batch"] * hp["n_batch"]].reshape(-1, hp["n_batch"]):
            masks = net.net.dropout_masks(inputs["start"], hp["n_batch"], hp["keep"], rng) if hp["keep"] < 1 else None
            scores = torch_scores(net, X[:, batch], params, hp["eps"], masks, running, 1 - hp["alpha"] if losses else 1.0)
            cost, loss = torch_cost(net, scores, y[batch], params, hp["lam"])
            cost.backward()
            for key, param in params.items():
                memory[key] = hp["momentum"] * memory[key] - etas[len(losses)] * param.grad
                param.data += memory[key]
                param.grad = None
            losses.append(loss.item())
    stats = {key: average.numpy()[:, None] for key, average in running.items()}
    stats |= {f"v{l}": stats[f"v{l}"] * (1 - 1 / number) for l, number in values.items()}
    return {key: param.detach().numpy() for key, param in params.items()}, stats, losses


@needs_torch
@every_net
@pytest.mark.parametrize("hp", [
    {}, {"momentum": 0.9, "eta_max": 0.02}, {"keep": 0.7}, {"alpha": 0.5, "eps": 1e-3, "lam": 0.1}, {"etas": [0.02, 0.1] * 3},
])  # fmt: skip
def test_training_equals_pytorchs(net, hp):
    params, stats, history, inputs = train(net, seed=3, n=60, n_s=6, n_cycles=2, **hp)
    turns = inputs["hp"]["eta_min"], inputs["hp"]["eta_max"], inputs["hp"]["eta_min"]
    etas = hp.get("etas") or [np.interp(t % 12, [0, 6, 12], turns) for t in range(24)]
    expected, expected_stats, losses = torch_training(net, inputs, np.random.default_rng(3), etas)
    assert_close(params, expected, 1e-9)
    assert_close(stats, expected_stats, 1e-9)
    np.testing.assert_allclose(history["update"]["loss"], losses, rtol=1e-9)


# ------------------------------------------------------------------------------------------------------- the gradients


@examples(100)
@given(net=st.one_of(kbn_nets(), spec_nets(), spec_nets()), seed=seeds, lam=st.sampled_from([0.0, 0.01, 1.0]))
def test_gradient_of_every_entry_of_any_net_is_that_of_a_complex_step_and_a_planted_error_is_caught(net, seed, lam):
    """epsilon must count here: otherwise BN removes the scale of a filter of one number, and its gradient is rounding."""
    params, X, _, Y, masks = problem(net, 5, seed)
    options = {"bn": net.bn, "eps": 0.1, "masks": masks}
    _, cache = net.net.forward(X, params, **options)
    assume(well_conditioned(cache) and sum(param.size for param in params.values()) < 400)
    grads = net.net.backward(Y, params, cache, lam)
    numerical = gradcheck.complex_step_gradient(
        lambda moved: kbn.compute_cost(X, Y, moved, lam, **options, net=net.net)[0], params
    )
    zero = {name for name in params if gradcheck.largest_entry(numerical[name]) <= ZERO_BAR}

    def agrees(name, grad):
        if name in zero:
            return gradcheck.largest_entry(grad) <= ZERO_BAR
        return gradcheck.relative_error(grad, numerical[name]) <= BAR

    assert grads.keys() == params.keys()
    for name, grad in grads.items():
        assert grad.shape == params[name].shape and agrees(name, grad), name
        large = np.where(np.abs(grad) > 1e-6 * gradcheck.largest_entry(grad), grad, 0)  # .1 % of less may not be seen
        assert not agrees(name, grad + (gradcheck.plant(large, name in zero) - large * (name not in zero))), name


@pytest.mark.parametrize("name, zero", [
    ("BN off", set()), ("BN before", {"b1", "b2"}), ("BN after", set()), ("layers", {"b2"}), ("convolution", {"b1"}),
])  # fmt: skip
def test_gradients_are_0_for_the_biases_before_bn_alone(name, zero):
    net = NETS[name]
    params, X, _, Y, masks = problem(net, 8, seed=3)
    grads = net.net.backward(Y, params, net.net.forward(X, params, bn=net.bn, masks=masks)[1], 0.0)
    assert {key for key in grads if gradcheck.largest_entry(grads[key]) <= ZERO_BAR} == zero


@pytest.mark.parametrize("bn", ["off", "before", "after"])
def test_backward_writes_over_the_gradients_of_weights_that_it_is_given(bn):
    net = kbn_net([8, 8, 8, 8, K], bn)
    params, X, _, Y, _ = problem(net, 9, seed=4)
    old = kbn.backward(Y, params, kbn.forward(-X, params, bn=bn)[1], 0.1)
    _, cache = kbn.forward(X, params, bn=bn)
    grads = kbn.backward(Y, params, cache, 0.1, out=old)
    assert all(grads[key] is old[key] for key in ("W1", "W2", "W3", "W4")) and same(grads, kbn.backward(Y, params, cache, 0.1))


@every_net
@pytest.mark.parametrize("lam", [0.3, 2.0])
def test_penalty_adds_the_squares_of_the_weights_alone(net, lam):
    params, X, _, Y, masks = problem(net, 8, seed=4)
    options = {"bn": net.bn, "masks": masks}
    _, cache = net.net.forward(X, params, **options)
    plain, penalised = (net.net.backward(Y, params, cache, lam) for lam in (0.0, lam))
    for name in params:
        np.testing.assert_allclose(penalised[name] - plain[name], 2 * lam * params[name] * name.startswith("W"), atol=1e-14)
    cost, loss = kbn.compute_cost(X, Y, params, lam, **options, net=net.net)
    squares = sum((params[name] ** 2).sum() for name in ("W1", "W2", "W3"))
    assert cost - loss == pytest.approx(lam * squares, rel=1e-12)
    assert kbn.total_penalty(params, lam) == pytest.approx(lam * squares, rel=1e-14)


# ---------------------------------------------------------------------------------------------------- softmax and loss


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


def test_loss_stays_finite_if_a_probability_underflows():
    params = {"W1": np.array([[1e4], [-1e4]], np.float32), "b1": np.zeros((2, 1), np.float32)}
    X, Y = np.ones((1, 3), np.float32), kbn.one_hot(np.array([0, 1, 1]), 2)
    assert np.array_equal(kbn.forward(X, params)[0], [[1, 1, 1], [0, 0, 0]])
    assert kbn.compute_cost(X, Y, params, 0.0)[1] == pytest.approx(2 / 3 * 2e4)


@pytest.mark.parametrize("bn", ["off", "before", "after"])
@pytest.mark.parametrize("sigma, off", [(1e-3, 0.01), (None, 1.0)])
def test_loss_starts_at_the_logarithm_of_the_number_of_classes(bn, sigma, off):
    rng = np.random.default_rng(7)
    params = kbn.init_params([3072, 50, 50, 10], rng, bn=bn, sigma=sigma)
    X, Y = rng.standard_normal((3072, 500), dtype=np.float32), kbn.one_hot(rng.integers(10, size=500), 10)
    assert kbn.compute_cost(X, Y, params, 0.0, bn=bn)[1] == pytest.approx(np.log(10), abs=off)


# -------------------------------------------------------------------------------------------- statistics and prediction


@pytest.mark.parametrize("eps", [1e-5, 3.0])
def test_epsilon_is_added_to_the_variance(eps):
    S, mu, v = np.array([[1.0, 4.0]]), np.array([[2.0]]), np.array([[1.0]])
    np.testing.assert_allclose(kbn.batch_normalize(S, mu, v, eps), [[-1, 2]] / np.sqrt(1 + eps), rtol=1e-15)
    assert np.finfo(np.float64).eps == kbn.EPS
    np.testing.assert_allclose(kbn.batch_normalize(S - 2, 0 * mu, 0 * v), [[-1, 2]] / np.sqrt(kbn.EPS), rtol=1e-15)


@every_net
def test_prediction_does_not_depend_on_the_rest_of_the_batch_and_changes_nothing(net):
    params, stats, _, inputs = train(net)
    X, y = inputs["val"]
    before, place = (copy(params), copy(stats), X.copy()), {"bn": net.bn}
    P, cache = net.net.forward(X, params, stats, **place)
    assert cache.keys() <= {"P", "logP", "scores", "bn", "eps", "average"}  # nothing that backward needs
    alone = [net.net.forward(X[:, i : i + 1], params, stats, **place)[0] for i in range(30)]
    np.testing.assert_allclose(np.hstack(alone), P, rtol=1e-11)
    whole = kbn.evaluate(X, y, params, stats, 0.1, **place, net=net.net)
    assert whole["accuracy"] == (P.argmax(axis=0) == y).mean()
    for chunk in (1, 7, 29, 30):
        parts = kbn.evaluate(X, y, params, stats, 0.1, **place, net=changed(net.net, chunk=chunk))
        assert parts == pytest.approx(whole, rel=1e-11)
    Y = kbn.one_hot(y, K, np.float64)
    cost, loss = kbn.compute_cost(X, Y, params, 0.1, stats, **place, net=net.net)
    assert (cost, loss) == pytest.approx((whole["cost"], whole["loss"]), rel=1e-11)
    assert not stats or kbn.compute_cost(X, Y, params, 0.1, **place, net=net.net)[1] != pytest.approx(loss, rel=1e-6)
    kbn.dataset_stats(X, params, **place, net=net.net)
    assert same(params, before[0]) and same(stats, before[1]) and np.array_equal(X, before[2])
    assert kbn.evaluate(X, y, params, stats, 0.1, **place, net=net.net) == whole


DEEP = {
    "9 layers, BN before": kbn_net([8] * 9 + [K], "before"),
    "9 layers, BN after": kbn_net([8] * 9 + [K], "after"),
    "two convolutions": spec_net([*CONV[:4], ("conv", 4, 1), ("relu",), ("bn",), *CONV[5:]], CONV_SHAPE),
}


@pytest.mark.parametrize("net", (NETS | DEEP).values(), ids=NETS | DEEP)
@pytest.mark.parametrize("eps", [kbn.EPS, 0.1])
def test_dataset_stats_are_those_of_one_huge_batch(net, eps):
    params, X, y, *_ = problem(net, 230, seed=13)
    options = {"bn": net.bn, "eps": eps}
    P, cache = net.net.forward(X, params, **options)
    expected = {f"{name}{l}": cache[f"{name}{l}"] for name in ("mu", "v") for l in kbn.bn_layers(params)}
    for chunk in (7, 230, 1000):
        stats = kbn.dataset_stats(X, params, **options, net=changed(net.net, chunk=chunk))
        assert stats.keys() == expected.keys()
        for key in stats:
            assert_close(stats[key], expected[key], 1e-9)
    assert_close(net.net.forward(X, params, stats, **options)[0], P, 1e-9)
    assert not stats or not same(stats, kbn.dataset_stats(X[:, :200], params, **options, net=net.net))


# ------------------------------------------------------------------------------------------------------ initialisation


@pytest.mark.parametrize("draw, fan_in", [
    (lambda **sigma: kbn.init_params([400, 300, 200, 50], np.random.default_rng(11), **sigma), [400, 300, 200]),
    (lambda **sigma: nets.init_params([("conv", 150, 5, 5), ("conv", 99, 1), ("affine", 90)], (4, 15, 10),
                                      np.random.default_rng(11), **sigma), [100, 150, 594]),
], ids=["kbn", "nets"])  # fmt: skip
@pytest.mark.parametrize("sigma, sd", [
    (None, lambda m: (2 / m) ** 0.5), ("xavier", lambda m: m**-0.5), (1e-3, lambda m: 1e-3), (0, lambda m: 0),
])  # fmt: skip
def test_weights_are_normal_with_the_standard_deviation_asked_for(draw, fan_in, sigma, sd):
    params = draw(sigma=sigma, sigma_b=0.5)
    biases = np.concatenate([params[f"b{l}"] for l in (1, 2, 3)])
    assert biases.std() == pytest.approx(0.5, rel=0.1) and abs(biases.mean()) < 0.1
    for l, m in enumerate(fan_in, start=1):
        W = params[f"W{l}"]
        assert W.std() == pytest.approx(sd(m), rel=0.03)
        assert abs(W.mean()) <= 5 * sd(m) / W.size**0.5
        assert (abs(W) <= sd(m)).mean() == pytest.approx(0.683 if sigma != 0 else 1, abs=0.02)


@every_net
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [None, np.float32(0.1), np.float64(0.1), 1])
def test_initial_biases_and_beta_are_0_and_gamma_is_1_of_the_dtype_asked_for(net, dtype, sigma):
    params = net.draw(np.random.default_rng(12), sigma=sigma, dtype=dtype)
    shapes = nets.shapes_of(net.specs, net.shape)
    assert {key: param.shape for key, param in params.items()} == {key: shapes[key] for key in shapes if key[0] not in "mv"}
    for key, param in params.items():
        assert param.dtype == dtype
        assert key.startswith("W") or np.array_equal(param, np.full(param.shape, key.startswith("gamma")))


def test_params_and_stats_have_the_shapes_of_the_docstrings():
    params = kbn.init_params([7, 5, 4, 3], np.random.default_rng(12), bn="after")
    columns = {f"{name}{l}": (m, 1) for l, m in ((1, 5), (2, 4)) for name in ("b", "gamma", "beta")}
    weights = {"W1": (5, 7), "W2": (4, 5), "W3": (3, 4), "b3": (3, 1)}
    assert {key: param.shape for key, param in params.items()} == weights | columns
    assert list(kbn.init_params([7, 5, 3], np.random.default_rng(12))) == ["W1", "b1", "W2", "b2"]
    columns = {f"{name}{l}": (m, 1) for l, m in ((1, 3), (2, 6)) for name in ("b", "gamma", "beta", "mu", "v")}
    weights = {"W1": (3, 2, 5, 4), "W2": (6, 12), "W3": (K, 6), "b3": (K, 1)}
    assert nets.shapes_of(CONV, CONV_SHAPE) == weights | columns


# ------------------------------------------------------------------------------------------------- the learning rate

two_etas = st.tuples(st.floats(0, 1e3), st.floats(0, 1e3)).map(sorted)


@examples(200)
@given(etas=two_etas, n_s=st.integers(1, 10**6), cycle=st.integers(0, 9), part=st.floats(0, 1))
def test_cyclical_eta_is_exact_at_the_turning_points_linear_and_periodic(etas, n_s, cycle, part):
    (eta_min, eta_max), start, t = etas, 2 * n_s * cycle, int(part * n_s)
    assert kbn.cyclical_eta(start, eta_min, eta_max, n_s) == kbn.cyclical_eta(start + 2 * n_s, eta_min, eta_max, n_s) == eta_min
    assert kbn.cyclical_eta(start + n_s, eta_min, eta_max, n_s) == eta_max
    eta, close = kbn.cyclical_eta(t, eta_min, eta_max, n_s), {"rel": 1e-9, "abs": 1e-12 * eta_max}
    assert eta == pytest.approx(eta_min + t / n_s * (eta_max - eta_min), **close)
    assert kbn.cyclical_eta(2 * n_s - t, eta_min, eta_max, n_s) == pytest.approx(eta, **close)
    assert kbn.cyclical_eta(6 * n_s + t, eta_min, eta_max, n_s) == eta


def test_cyclical_eta_is_exact_at_the_turning_points_of_10000_schedules():
    eta_min, eta_max = np.sort(10 ** np.random.default_rng(4).uniform(-6, 1, (2, 10_000)), axis=0)
    for t, expected in ((0, eta_min), (7, eta_max), (14, eta_min), (21, eta_max)):
        assert np.array_equal(kbn.cyclical_eta(t, eta_min, eta_max, n_s=7), expected)


# ----------------------------------------------------------------------------------------------------------- training


@every_net
@pytest.mark.parametrize("n_batch, hp", [
    (18, {}), (9, {"momentum": 0.9}), (9, {"alpha": 0.5, "lam": 0.1}), (6, {"etas": [0.3, 0.05, 0.1]}),
])  # fmt: skip
def test_updates_moving_averages_and_history_equal_those_by_hand(net, n_batch, hp):
    """By hand: params - eta grads, the grads by complex steps, and the averages of the mini-batches' np.mean and np.var."""
    states, updates = [], []
    lam, eps, momentum, alpha = hp.get("lam", 0.01), 1e-3, hp.get("momentum", 0), hp.get("alpha", 0.9)
    options = {"n_batch": n_batch, "n_s": 1, "eta_min": 0.01, "eta_max": 0.1, "lam": lam, "eps": eps} | hp
    _, _, history, inputs = train(net, seed=7, n=18, callback=lambda state: states.append(deepcopy(state)), **options)
    (X, y), params, v, stats = inputs["data"], inputs["start"], dict.fromkeys(inputs["start"], 0), {}
    etas, rng = iter(hp.get("etas", [0.01, 0.1])), np.random.default_rng(7)
    for state in states:
        for batch in rng.permutation(18).reshape(-1, n_batch):
            place, Y = {"bn": net.bn, "eps": eps}, kbn.one_hot(y[batch], K, np.float64)
            P, cache = net.net.forward(X[:, batch], params, **place)
            _, loss = kbn.compute_cost(X[:, batch], Y, params, lam, **place, net=net.net)
            updates.append((loss, (P.argmax(axis=0) == y[batch]).mean()))
            for l in kbn.bn_layers(params):
                S = cache[f"S{l}"]
                for key, now in ((f"mu{l}", S.mean(axis=1, keepdims=True)), (f"v{l}", S.var(axis=1, keepdims=True))):
                    stats[key] = alpha * stats.get(key, now) + (1 - alpha) * now
            mini_batch = X[:, batch], Y
            grads = gradcheck.complex_step_gradient(
                lambda params: kbn.compute_cost(*mini_batch, params, lam, **place, net=net.net)[0], params
            )
            eta = next(etas)
            v = {key: momentum * v[key] - eta * grads[key] for key in params}
            params = {key: params[key] + v[key] for key in params}
        assert_close(state["params"], params)
        assert_close(state["stats"], stats)
    np.testing.assert_allclose(np.transpose([history["update"][name] for name in ("loss", "accuracy")]), updates)


@pytest.mark.parametrize("n, n_batch", [(60, 20), (71, 20), (20, 20)])
def test_every_epoch_is_a_new_permutation_and_every_mini_batch_whole(n, n_batch):
    y = np.arange(n) * 7 % 5
    X = np.stack([np.arange(n), y]).astype(np.float32, order="F")  # the index and the label
    params = kbn.init_params([2, 3, 5], np.random.default_rng(0), sigma=1e-3)
    hp = {"n_batch": n_batch, "n_s": 2 * (n // n_batch), "n_cycles": 1, "eta_max": 1e-5}

    def epochs(seed):
        calls = []
        net = spied(NETS["BN off"], lambda name, given, _: calls.append(given) if name == "backward" else None).net
        kbn.minibatch_gd((X, y), (X, y), params, hp, np.random.default_rng(seed), net=net)
        batches = [(call["cache"]["X0"], call["Y"]) for call in calls]
        assert all(X.shape == (2, n_batch) and np.array_equal(X[1], Y.argmax(axis=0)) for X, Y in batches)
        return np.hstack([X[0] for X, _ in batches]).reshape(4, -1)

    orders = epochs(seed=1)
    assert len({tuple(order) for order in orders}) == 4
    for order in orders:
        assert len(set(order)) == len(order) == n // n_batch * n_batch
        assert not np.array_equal(order, np.sort(order))
    assert np.array_equal(epochs(seed=1), orders) and not np.array_equal(epochs(seed=2), orders)


@every_net
@pytest.mark.parametrize("n, hp, epoch_t", [
    (70, {"n_s": 7, "n_cycles": 1}, [3, 6, 9, 12, 14]), (60, {"n_s": 3, "n_cycles": 2}, [3, 6, 9, 12]),
    (400, {"n_s": 1, "n_cycles": 1}, [2]), (70, {"etas": [0.01] * 7}, [3, 6, 7]), (20, {"etas": np.full(3, 0.01)}, [1, 2, 3]),
])  # fmt: skip
def test_training_ends_after_2_n_s_n_cycles_updates_or_those_of_etas(net, n, hp, epoch_t):
    params, stats, history, inputs = train(net, n=n, **hp, lam=0.1)
    update, epoch = history["update"], history["epoch"]
    assert update.keys() == {"loss", "accuracy"}
    assert {len(column) for column in update.values()} == {epoch_t[-1]}
    assert epoch["t"] == epoch_t and {len(column) for column in epoch.values()} == {len(epoch_t)}
    names = ("cost", "loss", "accuracy")
    assert epoch.keys() == {"t", "largest_loss"} | {f"{part}_{name}" for part in ("train", "val") for name in names}
    for part, data in (("train", inputs["data"]), ("val", inputs["val"])):
        expected = kbn.evaluate(*data, params, stats, 0.1, bn=net.bn, net=net.net)
        assert {name: epoch[f"{part}_{name}"][-1] for name in expected} == expected
    assert history["final"] == {f"train_{name}": epoch[f"train_{name}"][-1] for name in names}
    starts = [0, *epoch_t]
    assert epoch["largest_loss"] == [max(update["loss"][a:b]) for a, b in zip(starts, epoch_t)]
    columns = [*update.values(), *epoch.values(), history["final"].values()]
    assert all(type(value) in (int, float) for column in columns for value in column)


@every_net
@pytest.mark.parametrize("n_eval", [1, 7, 39])
def test_training_curve_is_measured_on_a_fixed_sample_spread_over_the_training_set_and_the_end_on_all_of_it(net, n_eval):
    params, stats, history, inputs = train(net, n=40, n_s=3, n_eval=n_eval, lam=0.1)
    X, y = inputs["data"]
    sample, place = [i * 40 // n_eval for i in range(n_eval)], {"bn": net.bn, "net": net.net}
    expected = kbn.evaluate(X[:, sample], y[sample], params, stats, 0.1, **place)
    assert {name: history["epoch"][f"train_{name}"][-1] for name in expected} == pytest.approx(expected, rel=1e-12)
    whole = kbn.evaluate(X, y, params, stats, 0.1, **place)
    assert history["final"] == {f"train_{name}": value for name, value in whole.items()} != expected


every_hp = pytest.mark.parametrize("hp", [{}, {"momentum": 0.9, "keep": 0.8}, {"etas": [0.05] * 6 + [0.02] * 8}])


@every_net
@every_hp
def test_seed_decides_everything(net, hp):
    params, stats, history, _ = train(net, seed=1, dtype=np.float32, **hp)
    again, stats_again, history_again, _ = train(net, seed=1, dtype=np.float32, **hp)
    assert same(params, again) and same(stats, stats_again) and history == history_again
    assert not same(params, train(net, seed=2, dtype=np.float32, **hp)[0])


@every_net
@every_hp
def test_resumed_training_is_bit_identical(net, hp):
    states = []
    params, stats, history, _ = train(net, callback=lambda state: states.append(deepcopy(state)), **hp)
    assert [state["t"] for state in states] == history["epoch"]["t"] == [3, 6, 9, 12, 14]
    assert not same(states[0]["params"], params)
    for i in (0, 1, 3, 4):
        again = train(net, seed=12345, state=states[i], **hp)
        assert same(again[0], params) and same(again[1], stats) and again[2] == history


@every_net
def test_arrays_of_the_caller_are_unchanged(net):
    rng = np.random.default_rng(13)
    params, (X, y) = random_params(net, rng), random_data(net, 30, rng)
    hp = {"n_batch": 10, "n_s": 3, "n_cycles": 1, "momentum": 0.5, "keep": 0.9, "bn": net.bn}
    before = copy(params), X.copy(), y.copy(), dict(hp)
    for array in (X, y, *params.values()):
        array.flags.writeable = False
    trained, stats, _ = kbn.minibatch_gd((X, y), (X, y), params, hp, rng, net=net.net)
    kbn.evaluate(X, y, params, stats, bn=net.bn, net=net.net)
    assert same(params, before[0]) and np.array_equal(X, before[1]) and np.array_equal(y, before[2]) and hp == before[3]
    assert not any(np.shares_memory(trained[key], params[key]) for key in params)


@pytest.mark.parametrize("other", [
    lambda X: np.ascontiguousarray(X), lambda X: X.astype(np.float64), lambda X: np.repeat(X, 2, axis=1)[:, ::2],
])  # fmt: skip
def test_memory_order_and_precision_of_X_do_not_matter(other):
    net, rng = NETS["BN before"], np.random.default_rng(14)
    (X, y), params = random_data(net, 50, rng, np.float32), random_params(net, rng, np.float32)
    hp = {"n_batch": 20, "n_s": 5, "n_cycles": 1}
    expected = kbn.minibatch_gd((X, y), (X, y), params, hp, np.random.default_rng(1))
    found = kbn.minibatch_gd((other(X), y), (other(X), y), params, hp, np.random.default_rng(1))
    assert same(found[0], expected[0]) and same(found[1], expected[1]) and found[2] == expected[2]
    prepared, _ = kbn.prepare(other(X), y, params, "training")
    assert prepared.flags.f_contiguous and prepared.dtype == np.float32 and np.array_equal(prepared, X)


def dtypes(tree):
    """The dtypes of all arrays of floats in nested dicts, tuples and lists."""
    tree = list(tree.values()) if isinstance(tree, dict) else tree
    if isinstance(tree, (tuple, list)):
        return {dtype for part in tree for dtype in dtypes(part)}
    return {tree.dtype} if hasattr(tree, "dtype") and tree.dtype.kind in "fc" else set()


MIXED = spec_net(CONV[:5] + [("conv", 3, 1), ("sigmoid",), ("avg_pool", 2)] + CONV[5:], CONV_SHAPE, "svm")


@pytest.mark.parametrize("net", [*NETS.values(), MIXED], ids=[*NETS, "svm"])
@every_hp
def test_float32_stays_float32_in_every_array(net, hp):
    arrays, states = [], []
    numbers = {"lam": 0.1, "eps": 1e-5, "eta_min": 1e-4, "eta_max": 0.1, "alpha": 0.9, **hp}
    numbers = {key: np.array(value) if key == "etas" else np.float64(value) for key, value in numbers.items()}
    watched = spied(net, lambda name, given, result: arrays.append((given.get("masks"), result)))
    params, stats, _, inputs = train(watched, dtype=np.float32, callback=states.append, **numbers)
    assert states[-1]["memory"].keys() == (params.keys() if "momentum" in hp else set())
    (X, y), options = inputs["data"], {"bn": net.bn, "net": net.net}
    Y, eps = kbn.one_hot(y, K), np.float64(1e-5)
    _, cache = net.net.forward(X, params, bn=net.bn, eps=eps)
    grads = net.net.backward(Y, params, cache, np.float64(0.1))
    assert same(grads, net.net.backward(Y, params, cache, 0.1))
    arrays += [params, stats, states[-1]["memory"], cache, grads]
    arrays += [kbn.dataset_stats(X, params, **options), kbn.compute_cost(X, Y, params, 0.1, stats, eps=eps, **options)[0]]
    assert len(arrays) > 40 and dtypes(arrays) == {np.dtype(np.float32)}


@pytest.mark.parametrize("bn", ["off", "before"])
def test_network_overfits_100_random_labels(bn):
    rng = np.random.default_rng(16)
    data = rng.standard_normal((200, 100), dtype=np.float32), rng.integers(10, size=100)
    params = kbn.init_params([200, 50, 50, 10], rng, bn=bn)
    _, _, history = kbn.minibatch_gd(data, data, params, {"n_batch": 25, "n_s": 150, "lam": 0.0, "bn": bn}, rng)
    assert history["epoch"]["train_accuracy"][-1] == 1.0


@pytest.mark.parametrize("net", [*NETS.values(), spec_net(PLAIN, (2, 3, 5), "svm")], ids=[*NETS, "svm"])
@pytest.mark.parametrize("hp", [{}, {"momentum": 0.9, "eta_max": 0.02}, {"keep": 0.8}])
def test_easy_problem_is_learnt(net, hp):
    if "keep" in hp and ("dropout",) not in net.specs:
        hp = {"eta_max": 0.05}
    rng = np.random.default_rng(17)
    y = rng.integers(K, size=600)
    d = int(np.prod(net.shape))
    X = (3 * rng.standard_normal((K, d))[y] + rng.standard_normal((600, d))).T
    hp = {"n_batch": 50, "n_s": 80, "n_cycles": 1, "bn": net.bn, "eta_max": 0.1} | hp
    _, _, history = kbn.minibatch_gd((X[:, 200:], y[200:]), (X[:, :200], y[:200]), net.draw(rng), hp, rng, net=net.net)
    assert history["epoch"]["val_accuracy"][-1] > 0.95


# ---------------------------------------------------------------------------------------------- what experiments plug in


@every_net
def test_order_and_jitter_decide_what_an_update_sees(net):
    seen, by_class = [], []

    def note(name, given, _):
        if name == "forward" and given["stats"] is None:
            seen.append(given["X"].copy())

    def order(n, rng):
        by_class.append(np.argsort(inputs["data"][1], kind="stable"))
        return by_class[-1]

    inputs = {"data": random_data(net, 40, np.random.default_rng(3))}
    X, y = inputs["data"]
    params = random_params(net, np.random.default_rng(2))
    hp = {"n_batch": 10, "n_s": 3, "n_cycles": 1, "bn": net.bn}
    before = X.copy()

    def double(X, rng):
        assert X.flags.f_contiguous
        X *= rng.integers(2, 4)  # in place: the mini-batch is a copy
        return 2 * X

    kbn.minibatch_gd((X, y), (X, y), params, hp, np.random.default_rng(5), net=spied(net, note).net, order=order, jitter=double)
    factors = np.random.default_rng(5).integers(2, 4, 6)
    assert len(by_class) == 2 and np.array_equal(X, before)
    for i, (batch, factor) in enumerate(zip(seen, factors, strict=True)):
        chosen = by_class[0][i % 4 * 10 : i % 4 * 10 + 10]
        np.testing.assert_array_equal(batch, 2 * (X[:, chosen] * factor))


@every_net
def test_update_rule_can_freeze_params_and_is_given_the_memory_of_a_resumed_training(net):
    def frozen(params, grads, memory, eta, momentum):
        memory["n"] = memory.get("n", np.zeros(1)) + 1
        kbn.update_params(params, {key: grads[key] for key in grads if key.startswith("W")}, {}, eta / memory["n"], 0.0)

    states = []
    params, stats, _, inputs = train(net, update=frozen, callback=lambda state: states.append(deepcopy(state)))
    assert {key for key in params if not np.array_equal(params[key], inputs["start"][key])} == {"W1", "W2", "W3"}
    again = train(net, update=frozen, state=states[1])
    assert same(again[0], params) and same(again[1], stats)


@every_net
def test_observer_sees_params_gradients_and_cache_before_each_update(net):
    seen, averages = [], {}

    def observe(t, params, grads, cache):
        seen.append((t, copy(params), copy(grads)))
        kbn.update_stats(averages, cache, 0.9)  # a second set of moving averages beside the network's own

    params, stats, _, _ = train(net, observe=observe, momentum=0.0)
    assert [t for t, _, _ in seen] == list(range(14)) and same(averages, stats)
    etas = [kbn.cyclical_eta(t, 1e-5, 0.1, 7) for t in range(14)]
    _, hp_start, grads = seen[12]
    assert_close({key: hp_start[key] - etas[12] * grads[key] for key in params}, seen[13][1], 1e-12)


@every_net
def test_another_penalty_takes_the_place_of_l2(net):
    fourth = SimpleNamespace(value=lambda W, lam: lam * (W**4).sum(), gradient=lambda W, lam: 4 * lam * W**3)
    params, X, _, Y, masks = problem(net, 8, seed=4)
    options = {"bn": net.bn, "masks": masks}
    grads = net.net.backward(Y, params, net.net.forward(X, params, **options)[1], 0.3, penalty=fourth)
    numerical = gradcheck.complex_step_gradient(
        lambda moved: kbn.compute_cost(X, Y, moved, 0.3, **options, net=net.net, penalty=fourth)[0], params
    )
    for name in ("W1", "W2", "W3"):
        np.testing.assert_allclose(grads[name], numerical[name], rtol=1e-9, atol=1e-12)
    params, stats, history, inputs = train(net, lam=0.3, penalty=fourth)
    assert not same(params, train(net, lam=0.3)[0])
    scores = kbn.evaluate(*inputs["val"], params, stats, 0.3, bn=net.bn, net=net.net, penalty=fourth)
    assert scores["cost"] == history["epoch"]["val_cost"][-1]
    assert scores["cost"] - scores["loss"] == pytest.approx(0.3 * sum((params[f"W{l}"] ** 4).sum() for l in (1, 2, 3)))


def test_loss_that_explodes_and_comes_back_is_in_the_history():
    etas = [0.01] * 5 + [300.0] + [0.01] * 300
    _, _, history, _ = train(NETS["BN before"], etas=etas, lam=0.0)
    assert max(history["epoch"]["largest_loss"]) > 100 and history["epoch"]["largest_loss"][-1] < 20


# ------------------------------------------------------------------------------------------------- batch normalization


@examples(200)
@given(n=st.integers(2, 200), mean=st.sampled_from([0.0, 0.3, 1.0, 4e4, 2e5, 1e6]), seed=seeds,
       sd=st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 1.0, 1e3]))  # fmt: skip
def test_normalisation_in_float32_is_that_in_float64_whatever_the_mean(n, mean, sd, seed):
    """The error is that of a sum of n numbers of the size of the deviations. The mean does not count."""
    S = (mean + sd * np.random.default_rng(seed).standard_normal((4, n))).astype(np.float32)
    average = np.full((n, 1), 1 / n, np.float32)
    S_hat, mu, v = kbn.normalize_by_own(S, average)
    exact = S.astype(np.float64)
    D = exact - exact.mean(axis=1, keepdims=True)
    expected = D / np.sqrt((D**2).mean(axis=1, keepdims=True) + kbn.EPS)
    unit = np.finfo(np.float32).eps
    np.testing.assert_allclose(S_hat, expected, atol=2 * n * unit * np.abs(expected).max(), rtol=0)
    np.testing.assert_allclose(mu, exact.mean(axis=1, keepdims=True), rtol=2 * n * unit, atol=2 * n * unit * np.abs(D).max())
    np.testing.assert_allclose(v, (D**2).mean(axis=1, keepdims=True), rtol=4 * n * unit)
    _, cache = layers.batch_norm_forward(S, np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32))
    assert np.array_equal(cache["S_hat"], S_hat)


@pytest.mark.parametrize("value", [0.3, 4e4, 2e5])
@pytest.mark.parametrize("bn", ["before", "after"])
def test_training_on_equal_examples_does_not_take_rounding_for_a_signal(bn, value):
    """Every score is its row's mean, so that BN gives beta, and the best loss is the entropy of the classes."""
    X, y = np.full((8, 40), value, np.float32), np.arange(40) % 4
    params = kbn.init_params([8, 6, 5, 4], np.random.default_rng(1), bn=bn)
    hp = {"n_batch": 8, "n_s": 20, "lam": 0.0, "bn": bn}
    _, _, history = kbn.minibatch_gd((X, y), (X, y), params, hp, np.random.default_rng(2))
    assert np.log(4) - 1e-3 < max(history["update"]["loss"]) < np.log(4) + 0.1


@pytest.mark.parametrize("dtype, mean, chunk, errors", [
    (np.float64, 1e7, 100, (1e-15, 1e-6)), (np.float32, 1e4, 2, (2e-7, 1e-3)),
])  # fmt: skip
def test_dataset_stats_are_exact_for_a_large_mean(dtype, mean, chunk, errors):
    rng = np.random.default_rng(3)
    params = {"W1": np.ones((1, 1)), "b1": np.full((1, 1), mean), "gamma1": np.ones((1, 1)), "beta1": np.zeros((1, 1)),
              "W2": np.ones((2, 1)), "b2": np.zeros((2, 1))}  # fmt: skip
    params, X = {key: param.astype(dtype) for key, param in params.items()}, 0.1 * rng.standard_normal((1, 950))
    stats = kbn.dataset_stats(X.astype(dtype), params, net=changed(kbn.MLP, chunk=chunk))
    expected = [pytest.approx(value, rel=error) for value, error in zip((mean + X.mean(), X.var()), errors, strict=True)]
    assert [stats["mu1"], stats["v1"]] == expected and {stats["mu1"].dtype, stats["v1"].dtype} == {np.dtype(dtype)}


# ------------------------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("net, shapes", [
    (kbn_net([5, 40, 30, K], "off"), {"mask1": (40, 3000), "mask2": (30, 3000)}),
    (NETS["convolution"], {"mask1": (3000, 3, 2, 2), "mask2": (6, 3000)}),
], ids=["kbn", "convolution"])  # fmt: skip
def test_dropout_masks_have_the_share_and_the_expectation(net, shapes):
    params, rng = net.draw(np.random.default_rng(18)), np.random.default_rng(19)
    masks, others = (net.net.dropout_masks(params, 3000, 0.8, rng) for _ in range(2))
    assert {key: mask.shape for key, mask in masks.items()} == shapes
    for key, mask in masks.items():
        assert mask.dtype == np.float32 and set(np.unique(mask)) == {np.float32(0), np.float32(1.25)}
        units = mask.reshape(3000, -1) if mask.ndim == 4 else mask.T
        assert abs(units.mean(axis=0) - 1).max() < 0.05 and not np.array_equal(mask, others[key])
        assert abs(np.corrcoef(units[:, :6].T) - np.eye(6)).max() < 0.1  # independent
    assert same(masks, net.net.dropout_masks(params, 3000, 0.8, np.random.default_rng(19)))


@every_net
def test_dropout_is_drawn_for_each_update_and_absent_from_prediction(net):
    training, prediction = [], []

    def note(name, given, _):
        if name == "forward":
            (training if given["stats"] is None else prediction).append(given["masks"])

    params, stats, _, inputs = train(spied(net, note), keep=0.8)
    assert len(training) == 14 and prediction == [None] * (2 * 5 + 1)
    for name in ("mask1", "mask2"):
        assert len({masks[name].tobytes() for masks in training}) == 14
    without = nets.build([spec for spec in net.specs if spec != ("dropout",)], net.shape)
    X, _ = inputs["val"]
    assert_close(net.net.forward(X, params, stats, bn=net.bn)[0], without.forward(X, params, stats)[0])


# ------------------------------------------------------------------------------------------------------ nets of layers


@pytest.mark.parametrize("bn", ["off", "before", "after"])
@pytest.mark.parametrize("hp", [{}, {"momentum": 0.9, "keep": 0.7}])
def test_specs_of_a_k_layer_network_make_the_same_network(bn, hp):
    own, net = NETS[f"BN {bn}"], spec_net(mlp([6, 8, 7, K], bn), (6,))
    for sigma in (None, "xavier", 0.1):
        assert same(*(case.draw(np.random.default_rng(1), sigma=sigma) for case in (own, net)))
    params, X, *_ = problem(own, 9, seed=1)
    assert same(*(case.net.dropout_masks(params, 9, 0.7, np.random.default_rng(2)) for case in (own, net)))
    expected, cache = kbn.forward(X, params, bn=bn, eps=0.1)
    P, found = net.net.forward(X, params, eps=0.1)
    assert_close({"P": P, "logP": found["logP"]}, {"P": expected, "logP": cache["logP"]})
    trained = train(net, **hp), train(own, **hp)
    assert_close(trained[0][0], trained[1][0], 1e-10)
    for name, column in trained[1][2]["epoch"].items():
        np.testing.assert_allclose(trained[0][2]["epoch"][name], column, rtol=1e-9, err_msg=name)


def test_score_moments_are_those_of_all_scores_of_each_affine_or_conv_layer():
    params, X, *_ = problem(NETS["convolution"], 9, seed=2)
    _, cache = NETS["convolution"].net.forward(X, params, eps=0.1)
    S = {"S1": cache["S1"], "S2": np.arctanh(cache["S2"]), "S3": cache["scores"]}
    expected = {f"{l}_mean": scores.mean() for l, scores in S.items()} | {f"{l}_sd": scores.std() for l, scores in S.items()}
    moments = nets.score_moments(CONV, CONV_SHAPE, X, params, eps=0.1)
    expected |= {f"{l}_correlation": nets.mean_correlation(S[l]) for l in ("S2", "S3")}
    assert moments == pytest.approx(expected, rel=1e-9) and all(type(value) is float for value in moments.values())


def test_with_bn_puts_bn_before_or_after_each_activation():
    specs, bn = [("affine", 5), ("relu",), ("dropout",), ("affine", 6), ["tanh"], ("affine", K)], ["bn"]
    assert nets.with_bn(specs, "off") == specs
    assert nets.with_bn(specs) == [specs[0], bn, *specs[1:4], bn, *specs[4:]]
    assert nets.with_bn(specs, "after") == [*specs[:2], bn, *specs[2:5], bn, specs[5]]
    nets.build(nets.with_bn(specs, "after"), (3,))
    with refused("bn must be 'off', 'before' or 'after'"):
        nets.with_bn(specs, "middle")


@pytest.mark.parametrize("order", ["F", "C"])
def test_columns_of_X_hold_images_plane_by_plane(order):
    """A filter that looks at one pixel of one channel finds it."""
    images = np.random.default_rng(12).standard_normal((7, 2, 3, 4))
    params = {"W1": np.zeros((1, 2, 3, 4)), "b1": np.zeros((1, 1)), "W2": np.array([[1.0], [0.0]]), "b2": np.zeros((2, 1))}
    params["W1"][0, 1, 2, 0] = 1
    net = nets.build([("conv", 1, (3, 4)), ("affine", 2)], (2, 3, 4))
    _, cache = net.forward(np.asarray(images.reshape(7, -1).T, order=order), params)
    assert np.array_equal(cache["scores"], [images[:, 1, 2, 0], np.zeros(7)])


@pytest.mark.parametrize("kind, f", [
    ("relu", lambda X: np.maximum(X, 0)), ("tanh", np.tanh), ("sigmoid", lambda X: 1 / (1 + np.exp(-X))),
])  # fmt: skip
def test_net_of_an_activation_and_an_affine_layer_by_hand(kind, f):
    net = spec_net([(kind,), ("affine", 3)], (2, 3, 4), "svm")
    params, X, y, *_ = problem(net, 5, seed=22)
    S = params["W1"] @ f(X) + params["b1"]
    _, cache = net.net.forward(X, params)
    assert_close(cache["scores"], S)
    loss = sum(max(0, S[k, i] - S[y[i], i] + 1) for i in range(5) for k in range(3) if k != y[i]) / 5
    expected = {"cost": loss + 0.1 * (params["W1"] ** 2).sum(), "loss": loss, "accuracy": (S.argmax(axis=0) == y).mean()}
    assert kbn.evaluate(X, y, params, {}, 0.1, net=net.net) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [np.array([2, 6, 5]), [2, np.int64(6), 5], (2, 6, 5)])
def test_shape_of_an_input_may_be_any_sequence_of_integers(shape):
    net = nets.build(CONV, shape)
    assert net.d({}) == 60 and net.chunk == 100


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("arguments, words", [
    ({"dims": [4]}, "dims must be at least"), ({"dims": [4, 0, 3]}, "positive integers"), ({"dims": [4, 2.5]}, "integers"),
    ({"sigma": -1.0}, "sigma must be a number >= 0"), ({"sigma": np.nan}, "sigma"), ({"sigma": np.inf}, "sigma"),
    ({"sigma": "glorot"}, "'xavier' or None"), ({"bn": True}, "bn must be 'off', 'before' or 'after' .*, not True"),
])  # fmt: skip
def test_init_params_refuses(arguments, words):
    with refused(words):
        kbn.init_params(**{"dims": [4, 5, 3], "rng": np.random.default_rng(0)} | arguments)
    if "sigma" in arguments:
        with refused(words):
            nets.init_params(CONV, CONV_SHAPE, np.random.default_rng(0), **arguments)


def test_hyper_parameters_default_to_those_of_the_assignment():
    documented = {"n_batch": 100, "eta_min": 1e-5, "eta_max": 1e-1, "n_s": 2250, "n_cycles": 2, "lam": 0.005, "alpha": 0.9}
    more = {"eps": kbn.EPS, "bn": "before", "momentum": 0.0, "keep": 1.0, "n_eval": 5000}
    assert kbn.complete_hp({}) == kbn.DEFAULTS == documented | more
    hp = kbn.complete_hp({"eta_max": np.float32(0.5), "n_s": np.int64(3), "lam": 1, "n_batch": 10.0})
    assert (hp["eta_max"], hp["n_s"], hp["lam"], hp["n_batch"]) == (0.5, 3, 1.0, 10)
    assert [type(hp[name]) for name in ("eta_max", "n_s", "lam", "n_batch")] == [float, int, float, int]


@pytest.mark.parametrize("hp, words", [
    ({"learning_rate": 0.1}, "unknown hyper-parameter 'learning_rate'; there are n_batch, eta_min"),
    ({"n_batch": 31}, "n_batch is 31, but there are only 30"), ({"n_batch": 1}, "n_batch is 1, but batch normalization"),
    ({"n_batch": 0}, "n_batch must be a whole number from 1 to 1e.30, not 0"), ({"n_s": 0}, "n_s must be a whole number from"),
    ({"n_s": 2.5}, "n_s must be a whole number"), ({"n_cycles": 0}, "n_cycles"), ({"n_cycles": np.inf}, "n_cycles"),
    ({"lam": -0.1}, "lam must be a number from 0"), ({"lam": np.nan}, "lam"), ({"lam": "0.1"}, "lam"), ({"lam": None}, "lam"),
    ({"eps": -1e-5}, "eps must be a number from 0"), ({"eps": np.nan}, "eps"), ({"eps": np.inf}, "eps"),
    ({"eta_min": -1}, "eta_min"), ({"eta_min": 0.2, "eta_max": 0.1}, "eta_min 0.2 is above eta_max 0.1"),
    ({"eta_min": 0.2}, "eta_min 0.2 is above eta_max 0.1"), ({"eta_max": 1e-6}, "eta_min 1e-05 is above eta_max 1e-06"),
    ({"alpha": 1.1}, "alpha must be a number from 0 to 1, not 1.1"), ({"momentum": -0.1}, "momentum"),
    ({"keep": 0}, "keep must be a number from 0.001 to 1"), ({"keep": 1.1}, "keep"),
    ({"bn": "middle"}, "bn must be 'off', 'before' or 'after' .*, not 'middle'"), ({"bn": "off"}, "bn is 'off', but params"),
])  # fmt: skip
def test_minibatch_gd_refuses_hp(hp, words):
    rng, net = np.random.default_rng(0), NETS["BN before"]
    data, params = random_data(net, 30, rng), net.draw(rng)
    with refused(words):
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
        "a dimension too few": (X[1:], y, r"must be \(6, n\)"),
        "rows are examples": (X.T, y, r"X \(30, 6\).*must be \(6, n\)"),
        "images": (X.reshape(3, 2, 30), y, "must be"),
        "a list": (X, y.tolist(), "must be arrays, not ndarray and list"),
        "empty": (X[:, :0], y[:0], "must be"),
        "nan": (nan, y, "nan or inf in float[0-9]* in 1 of its 30 examples, the first is column 4"),
        "inf": (infinite, y, "the first is column 7"),
        "complex": (X + 0j, y, "must hold real numbers, not complex128"),
    }


@pytest.mark.parametrize("part", ["training", "validation"])
@pytest.mark.parametrize("case", broken(np.zeros((6, 30)), np.zeros(30, int)))
@pytest.mark.parametrize("net", [NETS["BN off"], NETS["layers"]], ids=["kbn", "layers"])
def test_minibatch_gd_refuses_data(net, part, case):
    X, y = random_data(net, 30, np.random.default_rng(20))
    X_bad, y_bad, words = broken(X, y)[case]
    data, val = ((X_bad, y_bad), (X, y)) if part == "training" else ((X, y), (X_bad, y_bad))
    rng = np.random.default_rng(0)
    with refused(f"^{part} .*{words}"):
        kbn.minibatch_gd(data, val, net.draw(rng), {"n_batch": 10, "n_s": 1, "bn": net.bn}, rng, net=net.net)


@pytest.mark.parametrize("predict", [kbn.accuracy, kbn.evaluate])
@pytest.mark.parametrize("case", broken(np.zeros((6, 30)), np.zeros(30, int)))
def test_prediction_refuses_data_as_training_does(predict, case):
    net = NETS["BN off"]
    X, y = random_data(net, 30, np.random.default_rng(20))
    X_bad, y_bad, words = broken(X, y)[case]
    with refused(f"^evaluated .*{words}"):
        predict(X_bad, y_bad, net.draw(np.random.default_rng(0)), {}, net=net.net)


def test_large_finite_numbers_are_data_and_too_large_ones_are_refused():
    net, y = NETS["BN off"], np.zeros(9, int)
    params = {key: param.astype(np.float32) for key, param in net.draw(np.random.default_rng(0)).items()}
    X, _ = kbn.prepare(np.full((6, 9), 2e38, np.float32), y, params, "training", net.net)  # their sum is inf
    np.testing.assert_array_equal(X, np.float32(2e38))
    with refused("nan or inf in float32 in 9 of its 9 examples"):
        kbn.prepare(np.full((6, 9), 1e39), y, params, "training", net.net)


def test_penalty_without_lambda_is_0_for_any_weights():
    assert kbn.total_penalty({"W1": np.full((2, 2), 1e20, np.float32)}, 0.0) == 0


def test_divergence_is_reported_with_the_update_and_its_eta():
    with pytest.raises(FloatingPointError, match=r"training diverged: the loss of update \d+ \(eta .*smaller eta_max"):
        train(NETS["BN off"], eta_max=1e6)
    with pytest.raises(FloatingPointError, match=r"the loss of update 5 \(eta 0.02\) is"):  # in the second epoch
        train(NETS["BN off"], etas=[0.01] * 4 + [1e200] + [0.02] * 3)
    with pytest.raises(FloatingPointError, match=r"the loss after update 1 \(eta 1e\+30\) is"):  # nothing comes after it
        train(NETS["BN off"], dtype=np.float32, eta_max=1e30, n_s=1, n_cycles=1)


@every_net
def test_what_does_not_fit_the_net_is_refused(net):
    params, stats, _, inputs = train(net)
    (X, y), place = inputs["data"], {"bn": net.bn}
    Y, (_, cache) = kbn.one_hot(y, K), net.net.forward(X, params, **place)
    for wrong in (X[1:], X.T, X[:, 0]):
        with refused(rf"X .* does not fit .*: X must be \({len(X)}, n\)"):
            net.net.forward(wrong, params, **place)
    for wrong in (Y[:3], Y[:, :5], Y.T):
        with pytest.raises(ValueError):
            net.net.backward(wrong, params, cache, 0.0)
    with refused("bn (must be|is)"):
        net.net.forward(X, params, bn="middle")
    if stats:
        with refused("backward needs the cache of training: call forward without stats"):
            net.net.backward(Y, params, net.net.forward(X, params, stats, **place)[1], 0.0)
        for missing in (None, {}, {"mu7": stats[min(stats)]}):
            for predict in (kbn.accuracy, kbn.evaluate):
                with refused("prediction needs the moving averages that minibatch_gd returns"):
                    predict(X, y, params, missing, **place, net=net.net)
        with refused("n_batch is 1, but batch normalization needs at least 2 examples"):
            train(net, n_batch=1)


def test_kbn_refuses_a_wrong_eps_and_Y():
    params, X, _, Y, _ = problem(NETS["BN before"], 9, seed=21)
    for eps in (-1e-5, np.nan, 1e39):
        with refused("eps must be a number from 0 to 1e"):
            kbn.forward(X, params, eps=eps)
    with refused(r"Y \(3, 9\) does not fit the network's output \(4, 9\)"):
        kbn.backward(Y[:3], params, kbn.forward(X, params)[1], 0.0)


ONE = ("affine", K)
REFUSED = [
    ([("conv2d", 3, 3), ONE], r"there is no layer \('conv2d', 3, 3\); there are affine, conv, "),
    ([(), ONE], r"there is no layer \(\)"), ([[["conv"], 3], ONE], "there is no layer"), ([(None,), ONE], "there is no layer"),
    (["relu", ONE], "there is no layer 'relu'"), ("affine", "a net is a list of layers, not 'affine'"),
    (7, "a net is a list of layers, not 7"), ({"affine": 3}, "a net is a list of layers"),
    ([("conv", 3), ONE], r"layer \('conv', 3\) must hold the kind and f, size, stride, pad$"),
    ([("affine",)], r"layer \('affine',\) must hold the kind and m$"),
    ([("conv", 3, 3, 1, 1, 1), ONE], "must hold the kind and f, size, stride, pad$"),
    ([("relu", 1), ONE], r"layer \('relu', 1\) must hold the kind and nothing else$"),
    ([("max_pool",), ONE], "must hold the kind and size, stride, pad$"),
    ([("conv", 3, 3), ("bn",), ("relu",), ("bn",), ONE], "there are two bn layers between one affine or conv"),
    ([("bn",), ("bn",), ONE], "there are two bn layers"),
    ([("affine", 3), ("dropout",), ("dropout",), ONE], "there are two dropout layers"),
    ([], "the last layer must be an affine one"), ([ONE, ("relu",)], "the last layer"), ([("conv", 3, 3)], "the last layer"),
    ([("relu",), ("conv", 3, 7), ONE], r"layer \('conv', 3, 7\): windows of 7 x 7, .* do not divide .* 6 x 5"),
    ([("conv", 3, 3, 2), ONE], r"layer \('conv', 3, 3, 2\): windows of 3 x 3, stride 2 x 2 .* of 6 x 5"),
    ([("conv", 3, 3), ("max_pool", 2), ONE], r"layer \('max_pool', 2\): windows of 2 x 2.* of 4 x 3"),
    ([("max_pool", 2, 1, 2), ONE], r"layer \('max_pool', 2, 1, 2\): pad \(2, 2\) must be less than size"),
    ([("affine", 9), ("conv", 3, 3), ONE], r"\('conv', 3, 3\): images \(c, h, w\) must come in, not \(9,\)"),
    ([("affine", 9), ("avg_pool", 3), ONE], r"layer \('avg_pool', 3\): images \(c, h, w\) must come in"),
    ([("affine", 0), ONE], r"layer \('affine', 0\): the number of units or filters must be a positive integer, not 0"),
    ([("affine", 2.5), ONE], "must be a positive integer, not 2.5"), ([("affine", "10")], "a positive integer, not '10'"),
    ([("conv", -1, 3), ONE], "must be a positive integer, not -1"), ([("conv", 3, 0), ONE], "size must be a whole number"),
    ([("conv", 3, 1.5), ONE], "size must be a whole"), ([("conv", 3, 2, 0), ONE], "stride must be a whole number from 1"),
    ([("conv", 3, 3, 1, -1), ONE], "pad must be a whole number from 0"), ([("conv", 3, (3, 3, 3)), ONE], "or two"),
    ([("conv", 3, 3, 1, 10**9), ONE], r"\): one example has \d+ values in the net up to here, more than 4194304"),
    ([("avg_pool", (2 * 10**9 + 6, 2 * 10**9 + 5), 1, 10**9), ONE], "more than"), ([("affine", 10**9), ONE], "more than"),
    ([("conv", 10**9, 3), ONE], "more than"), ([("affine", 3 * 10**6), ("relu",), ONE], r"\): one example has 6000060"),
]  # fmt: skip


@pytest.mark.parametrize("specs, words", REFUSED)
def test_build_and_init_params_refuse_specs(specs, words):
    with refused(words):
        nets.build(specs, CONV_SHAPE)
    with refused(words):
        nets.init_params(specs, CONV_SHAPE, np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(), 7, (2, 3), (0,), (-3,), (2.5,), (1, 28, 28, 1), "abc", None, [[3]], (3, 0, 3), ("3",)])
def test_build_refuses_the_shape_of_an_input(shape):
    with refused(r"the shape of an input must be \(d,\) or \(c, h, w\), positive integers"):
        nets.build([ONE], shape)


def test_build_refuses_a_loss_and_training_refuses_what_the_specs_lack():
    with refused("loss must be 'softmax' or 'svm', not 'hinge'"):
        nets.build(CONV, CONV_SHAPE, "hinge")
    with refused("bn is 'after', but the specs of a net give the place of its BN"):
        train(NETS["convolution"], bn="after")
    with refused(r"keep is 0.8, but the net has no \('dropout',\) layer"):
        train(spec_net(PLAIN, (1, 3, 5)), keep=0.8)


@pytest.mark.parametrize("module, allowed", [
    (kbn, {"types", "numpy"}), (layers, {"numpy", "numpy.lib.stride_tricks", "kbn"}),
    (nets, {"inspect", "math", "collections", "functools", "types", "numpy", "kbn", "layers"}),
], ids=["kbn", "layers", "nets"])  # fmt: skip
def test_module_of_the_method_imports_numpy_and_those_below_it_alone(module, allowed):
    nodes = list(ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert imported | {node.module for node in nodes if isinstance(node, ast.ImportFrom)} == allowed
