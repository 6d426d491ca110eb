"""lab/recipes.py against torch.optim and formulas written out. The checks must also fail on planted mistakes."""

from copy import deepcopy

import numpy as np
import pytest
from helpers import NETS, K, assert_close, copy, needs_torch, random_data, random_params, refused, same, torch

import gradcheck
import kbn
from lab import recipes, store

SHAPES = {"W1": (5, 4), "b1": (5, 1), "gamma1": (5, 1), "W2": (3, 5)}
RULES = {
    "momentum": (kbn.update_params, 0.9),
    "nesterov": (recipes.nesterov, 0.9),
    "adam": (recipes.adam, 0.9),
    "rmsprop": (recipes.rmsprop, 0.0),
    "rmsprop with momentum": (recipes.rmsprop, 0.7),
    "beta-LASSO": (recipes.beta_lasso(kbn.update_params, 1e-3, 50), 0.0),
    "averaging": (recipes.averaging(recipes.nesterov), 0.9),
    "moving average": (recipes.averaging(kbn.update_params, 0.8), 0.5),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def draw(dtype=np.float64):
    rng = np.random.default_rng(0)
    return {key: rng.standard_normal(shape).astype(dtype) for key, shape in SHAPES.items()}


def slope(params):
    """The gradient of a function with a different curvature in every direction."""
    return {
        key: param * np.linspace(0.5, 3, param.size, dtype=param.dtype).reshape(param.shape) - 1
        for key, param in params.items()
    }


def trained(update, momentum, etas, params=None, memory=None):
    """Params and memory after the steps of an update rule."""
    params, memory = copy(params or draw()), {} if memory is None else memory
    for eta in etas:
        update(params, slope(params), memory, eta, momentum)
    return params, memory


def torch_optimizer(name, params, eta, momentum):
    optim = torch.optim
    if name in ("momentum", "nesterov"):
        return optim.SGD(params, eta, momentum=momentum, nesterov=name == "nesterov")
    if name == "adam":
        return optim.Adam(params, eta, betas=(momentum, 0.999), eps=1e-8)
    return optim.RMSprop(params, eta, alpha=0.9, eps=1e-8, momentum=momentum)


def torch_steps(name, momentum, etas):
    """Yield the params of PyTorch after each step."""
    tensors = {key: torch.tensor(param, requires_grad=True) for key, param in draw().items()}
    optimizer = torch_optimizer(name, list(tensors.values()), etas[0], momentum)
    for eta in etas:
        optimizer.param_groups[0]["lr"] = eta
        for key, grad in slope({key: tensor.detach().numpy() for key, tensor in tensors.items()}).items():
            tensors[key].grad = torch.tensor(grad)
        optimizer.step()
        yield {key: tensor.detach().numpy().copy() for key, tensor in tensors.items()}


def check_rule(update, name, momentum, etas):
    """Assert that an update rule makes the steps of PyTorch."""
    params, memory = draw(), {}
    for eta, expected in zip(etas, torch_steps(name, momentum, etas), strict=True):
        update(params, slope(params), memory, eta, momentum)
        for key in expected:
            np.testing.assert_allclose(params[key], expected[key], rtol=1e-6, atol=1e-12)


ORACLES = [  # PyTorch's momentum holds g, kbn's eta g: they agree while eta is constant
    ("nesterov", 0.9, [0.02] * 30),
    ("nesterov", 0.5, [0.1] * 30),
    ("adam", 0.9, [0.01] * 15 + [0.03] * 15),
    ("adam", 0.8, [0.1] * 30),
    ("rmsprop", 0.0, [0.01] * 15 + [0.03] * 15),
    ("rmsprop", 0.9, [0.01] * 30),
    ("momentum", 0.9, [0.02] * 30),
]


@needs_torch
@pytest.mark.parametrize("name, momentum, etas", ORACLES)
def test_rule_makes_the_steps_of_torch(name, momentum, etas):
    check_rule(recipes.RULES[name], name, momentum, etas)


def late_momentum(params, grads, memory, eta, momentum):
    """The step is momentum v, without the second eta g."""
    for key, param in params.items():
        memory[key] = momentum * memory.get(key, 0.0) - eta * grads[key]
        param += momentum * memory[key]


def adam_with(bias=True, root_first=True, second=0.999):
    """Adam, right or with a mistake."""

    def update(params, grads, memory, eta, momentum):
        t = memory["t"] = memory.get("t", 0) + 1
        for key, param in params.items():
            m = memory[f"m_{key}"] = momentum * memory.get(f"m_{key}", 0.0) + (1 - momentum) * grads[key]
            v = memory[f"v_{key}"] = second * memory.get(f"v_{key}", 0.0) + (1 - second) * grads[key] ** 2
            m_hat, v_hat = (m / (1 - momentum**t), v / (1 - second**t)) if bias else (m, v)
            param -= eta * m_hat / (np.sqrt(v_hat) + 1e-8 if root_first else np.sqrt(v_hat + 1e-8))

    return update


def rmsprop_of_first_moments(params, grads, memory, eta, momentum):
    for key, grad in grads.items():
        grad /= abs(recipes.average(memory, f"mean_{key}", grad, 0.9)) + 1e-8
    kbn.update_params(params, grads, memory, eta, momentum)


@needs_torch
def test_planted_mistake_in_a_rule_makes_other_steps_than_torch():
    check_rule(adam_with(), *ORACLES[2])
    for wrong, oracle in [
        (kbn.update_params, ORACLES[0]), (late_momentum, ORACLES[0]), (adam_with(bias=False), ORACLES[2]),
        (adam_with(root_first=False), ORACLES[2]), (adam_with(second=0.998), ORACLES[2]),
        (rmsprop_of_first_moments, ORACLES[4]),
    ]:  # fmt: skip
        with pytest.raises(AssertionError):
            check_rule(wrong, *oracle)


def test_nesterov_takes_its_gradient_ahead_of_the_point_also_while_eta_changes():
    """Sutskever et al.: v = momentum v - eta g(theta + momentum v), theta = theta + v, for a growing and falling eta."""
    etas, theta, momentum = [*np.linspace(0.01, 0.1, 10), *np.linspace(0.1, 0, 10)], draw(), 0.9
    params, memory = copy(theta), {}
    v = {key: 0.0 * param for key, param in theta.items()}
    for eta in etas:
        g = slope({key: theta[key] + momentum * v[key] for key in theta})
        v = {key: momentum * v[key] - eta * g[key] for key in theta}
        theta = {key: theta[key] + v[key] for key in theta}
        recipes.nesterov(params, slope(params), memory, eta, momentum)
        assert_close(params, {key: theta[key] + momentum * v[key] for key in theta})


@every_rule
def test_rule_keeps_single_precision_and_changes_params_in_place(rule):
    update, momentum = rule
    params, memory = draw(np.float32), {}
    arrays = dict(params)
    for _ in range(3):
        update(params, slope(params), memory, 0.01, momentum)
    assert all(params[key] is arrays[key] and params[key].dtype == np.float32 for key in arrays)
    assert all(value.dtype == np.float32 for value in memory.values() if not isinstance(value, int))


@every_rule
def test_training_goes_on_from_a_checkpoint_bit_by_bit(rule, tmp_path):
    update, momentum = rule
    etas = [0.01, 0.02, 0.03, 0.02, 0.01, 0.02]
    whole, memory = trained(update, momentum, etas, draw(np.float32))
    half, half_memory = trained(update, momentum, etas[:3], draw(np.float32))
    state = {"t": 3, "params": half, "stats": {}, "memory": half_memory, "history": {"update": {}, "epoch": {"t": [3]}}}
    state["rng"] = np.random.default_rng(0).bit_generator.state
    store.write_checkpoint(tmp_path / "it", {"a": "key"}, state, 1.0)
    read = store.read_checkpoint(tmp_path / "it", {"a": "key"})
    rest, rest_memory = trained(update, momentum, etas[3:], read["params"], read["memory"])
    assert same(rest, whole) and rest_memory.keys() == memory.keys()
    assert all(np.array_equal(rest_memory[key], memory[key]) for key in memory)


def test_beta_lasso_is_its_algorithm():
    lam, beta, eta, params = 0.01, 20, 0.1, draw()
    expected, memory = copy(params), {}
    for _ in range(20):
        for key, g in slope(expected).items():
            weight = key.startswith("W")
            theta = expected[key] - eta * (g + lam * np.sign(expected[key]) if weight else g)
            expected[key] = np.where(abs(theta) >= beta * lam, theta, 0) if weight else theta
        recipes.beta_lasso(kbn.update_params, lam, beta)(params, slope(params), memory, eta, 0.0)
        assert_close(params, expected)
    assert_close(trained(recipes.beta_lasso(kbn.update_params, 0, beta), 0.9, [eta] * 5)[0],
                 trained(kbn.update_params, 0.9, [eta] * 5)[0])  # fmt: skip


def test_beta_lasso_sets_small_weights_to_zero_and_leaves_biases():
    params = {"W1": np.array([[0.4, -0.6, 0.2]]), "b1": np.array([[0.1]])}
    zero = {key: np.zeros_like(param) for key, param in params.items()}
    recipes.beta_lasso(kbn.update_params, 0.01, 50)(params, zero, {}, 0.1, 0.0)
    assert params["W1"].tolist() == [[0, -0.599, 0]] and params["b1"] == 0.1


def path(etas):
    """The params after each step of gradient descent with momentum."""
    return [trained(kbn.update_params, 0.5, etas[: t + 1])[0] for t in range(len(etas))]


def check_average(averaging, decay, expected):
    etas = [0.05] * 12
    params, memory = trained(averaging(kbn.update_params, decay), 0.5, etas)
    assert same(params, path(etas)[-1])
    assert_close(recipes.averaged(memory), expected(path(etas)))


def mean_of(points):
    return {key: np.mean([point[key] for point in points], axis=0) for key in points[0]}


def moving_average_of(points, decay=0.8):
    average = points[0]
    for point in points[1:]:
        average = {key: decay * average[key] + (1 - decay) * point[key] for key in average}
    return average


def test_averaged_weights_are_the_mean_or_the_moving_average_of_all_steps():
    check_average(recipes.averaging, None, mean_of)
    check_average(recipes.averaging, 0.8, moving_average_of)


def test_planted_mistake_in_averaging_fails_the_check():
    def before_the_step(update, decay):
        rule = recipes.averaging(lambda *args: None, decay)
        return lambda *args: (rule(*args), update(*args))

    def swapped(update, decay):
        return recipes.averaging(update, 0.2)

    for wrong, decay, expected in [
        (before_the_step, None, mean_of),
        (swapped, 0.8, moving_average_of),
        (swapped, None, mean_of),
    ]:
        with pytest.raises(AssertionError):
            check_average(wrong, decay, expected)


@needs_torch
@pytest.mark.parametrize("decay", [None, 0.8])
def test_averaged_weights_are_those_of_torch(decay):
    etas = [0.05] * 12
    model = torch.nn.Linear(4, 5, dtype=torch.float64)
    averages = torch.optim.swa_utils
    average = averages.AveragedModel(model, multi_avg_fn=decay and averages.get_ema_multi_avg_fn(decay))
    for point in path(etas):
        with torch.no_grad():
            model.weight[:], model.bias[:] = torch.tensor(point["W1"]), torch.tensor(point["b1"][:, 0])
        average.update_parameters(model)
    found = recipes.averaged(trained(recipes.averaging(kbn.update_params, decay), 0.5, etas)[1])
    np.testing.assert_allclose(found["W1"], average.module.weight.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(found["b1"][:, 0], average.module.bias.detach().numpy(), rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- learning rates


def torch_etas(n_updates, eta_max, eta_min, n_warmup):
    """The learning rates of PyTorch's schedulers."""
    optimizer, schedules = torch.optim.SGD([torch.zeros(1)], eta_max), torch.optim.lr_scheduler
    cosine = schedules.CosineAnnealingLR(optimizer, n_updates - n_warmup, eta_min)
    if n_warmup:
        linear = schedules.LinearLR(optimizer, 1 / (n_warmup + 1), total_iters=n_warmup)
        cosine = schedules.SequentialLR(optimizer, [linear, cosine], [n_warmup])
    etas = []
    for _ in range(n_updates):
        etas.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    return etas


@needs_torch
@pytest.mark.parametrize(
    "n_updates, eta_max, eta_min, n_warmup", [(40, 0.1, 0.0, 0), (40, 0.3, 0.01, 0), (50, 0.1, 0.0, 9), (6, 1.0, 0.0, 3)]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cosine_etas_are_those_of_torch(n_updates, eta_max, eta_min, n_warmup):
    expected = torch_etas(n_updates, eta_max, eta_min, n_warmup)
    assert recipes.cosine_etas(n_updates, eta_max, eta_min, n_warmup) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    for wrong in [(n_updates + 1, eta_max, eta_min, n_warmup), (n_updates, eta_max, eta_min + 0.01, n_warmup)]:
        assert recipes.cosine_etas(*wrong)[:n_updates] != pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_cosine_etas_rise_in_equal_steps_and_fall_symmetrically():
    etas = recipes.cosine_etas(24, 0.8, 0.2, 4)
    assert etas[:5] == pytest.approx([0.16, 0.32, 0.48, 0.64, 0.8]) and len(etas) == 24
    assert etas[14] == pytest.approx(0.5) and all(a > b > 0.2 for a, b in zip(etas[4:], etas[5:]))
    assert [0.8 - etas[4 + t] for t in range(1, 20)] == pytest.approx([etas[24 - t] - 0.2 for t in range(1, 20)])
    assert recipes.cosine_etas(1, 0.1) == [0.1]


def test_impossible_schedule_is_refused_in_one_line():
    for n_updates, n_warmup in [(5, 5), (5, -1), (0, 0), (5, 1.5), (2.5, 0)]:
        with refused(f"n_warmup must be a whole number from 0 to n_updates - 1, not {n_warmup} of {n_updates}"):
            recipes.cosine_etas(n_updates, 0.1, n_warmup=n_warmup)
    for eta_max, eta_min in [(0.1, 0.2), (0.1, -0.1), (np.inf, 0.1), (np.nan, 0.1)]:
        with refused("0 <= eta_min <= eta_max is needed"):
            recipes.cosine_etas(5, eta_max, eta_min)


# -------------------------------------------------------------------------------------------------- smoothed labels

K_LABELS = np.array([[1, 0], [0, 0], [0, 1], [0, 0]])


def test_smoothed_labels_share_out_what_the_class_gives():
    assert recipes.smooth_labels(K_LABELS, 0.2) == pytest.approx(np.where(K_LABELS, 0.85, 0.05))
    assert np.array_equal(recipes.smooth_labels(K_LABELS, 0), K_LABELS)
    for share in (-0.1, 1.1, np.nan):
        with refused(f"the share of label smoothing must be from 0 to 1, not {share}"):
            recipes.smooth_labels(K_LABELS, share)
    assert recipes.smooth_labels(K_LABELS.astype(np.float32), 0.2).dtype == np.float32


@needs_torch
def test_smoothed_loss_is_that_of_torch():
    scores, y = np.random.default_rng(0).standard_normal((4, 6)), np.array([0, 1, 2, 3, 3, 0])
    _, logP = kbn.softmax(scores)
    for share in (0.0, 0.1, 0.6):
        expected = torch.nn.functional.cross_entropy(torch.tensor(scores.T), torch.tensor(y), label_smoothing=share)
        found = kbn.cross_entropy(recipes.smooth_labels(kbn.one_hot(y, 4, np.float64), share), logP)
        assert found == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["BN before", "convolution"])
def test_gradients_of_a_smoothed_net_are_those_of_the_smoothed_loss_and_its_loss_is_the_plain_one(name):
    about, rng = NETS[name], np.random.default_rng(1)
    params, (X, y) = random_params(about, rng), random_data(about, 6, rng)
    Y, net = kbn.one_hot(y, K, np.float64), recipes.smoothed(about.net, 0.3)
    P, cache = net.forward(X, params)
    found = net.backward(Y, params, deepcopy(cache), 0.01)
    assert net.loss(Y, cache) == about.net.loss(Y, cache)

    def cost(share):
        Y_smooth = recipes.smooth_labels(Y, share)
        return lambda params: kbn.compute_cost(X, Y_smooth, params, 0.01, net=about.net)[0]

    key = "W1"
    for share, right in [(0.3, True), (0.29, False)]:
        numerical = gradcheck.complex_step_gradient(cost(share), params)[key]
        assert np.allclose(found[key], numerical, rtol=0, atol=1e-10) == right
