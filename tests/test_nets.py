"""nets.py against kbn.py, complex steps, PyTorch and slow sums; and what kbn.py has for such nets. No dataset."""

import json
import math
import tracemalloc
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

import gradcheck
import kbn
import nets

every_bn = pytest.mark.parametrize("bn", [None, "before", "after"])
seeds = st.integers(0, 2**32 - 1)
BAR, ZERO_BAR = (gradcheck.BARS[judged]["complex"] for judged in ("relative", "absolute"))
K = 4

# a net with everything that training moves: (n, 2, 6, 5) -> 3 x 4 x 4 -> 3 x 2 x 2 -> 6 -> K
SHAPE = (2, 6, 5)
SPECS = [
    ("conv", 3, (5, 4), 1, 1),
    ("bn",),
    ("relu",),
    ("max_pool", 2),
    ("dropout",),
    ("affine", 6),
    ("tanh",),
    ("bn",),
    ("dropout",),
    ("affine", K),
]
PLAIN = [("conv", 3, 3, 1, 1), ("relu",), ("avg_pool", (3, 5)), ("affine", K)]
LATE = [("affine", 5), ("relu",), ("affine", 6), ("bn",), ("relu",), ("affine", K)]  # BN behind the second weights only


def examples(number):
    return settings(max_examples=number, deadline=None, derandomize=True, database=None)


# ------------------------------------------------------------------------------------------------------------ material


def copy(arrays):
    return {key: array.copy() for key, array in arrays.items()}


def same(a, b):
    """Whether two dicts of arrays are equal to the bit, precision included."""
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a)


def assert_close(actual, expected, tolerance=1e-10):
    """Compare dicts of arrays, norm-wise; what is 0 in theory (biases under BN) is measured by the largest of all."""
    assert actual.keys() == expected.keys()
    largest = max((np.linalg.norm(array) for array in expected.values()), default=0)
    for key in expected:
        assert actual[key].shape == expected[key].shape
        error = np.linalg.norm(actual[key] - expected[key])
        assert error <= tolerance * (np.linalg.norm(expected[key]) + 0.1 * largest), (key, error)


def random_params(specs, shape, rng, dtype=np.float64):
    """Parameters of which none is 0 or 1."""
    params = nets.init_params(specs, shape, rng, dtype=dtype)
    for key, param in params.items():
        if not key.startswith("W"):
            param += rng.uniform(-0.3, 0.3, param.shape).astype(dtype)
    return params


def random_data(rng, shape, n, dtype=np.float64):
    return rng.standard_normal((n, math.prod(shape))).astype(dtype).T, rng.integers(K, size=n)


def mlp(dims, bn, dropout=False):
    """The specs of kbn's own network."""
    between = {None: [("relu",)], "before": [("bn",), ("relu",)], "after": [("relu",), ("bn",)]}[bn]
    between = between + [("dropout",)] * dropout
    return [spec for m in dims[1:-1] for spec in [("affine", m), *between]] + [("affine", dims[-1])]


def train(specs=SPECS, shape=SHAPE, seed=0, n=50, dtype=np.float64, callback=None, state=None, **hp):
    """A short training: params, stats, history, and what went in."""
    rng = np.random.default_rng(99)
    data, val = random_data(rng, shape, n, dtype), random_data(rng, shape, 30, dtype)
    params, net = random_params(specs, shape, rng, dtype), nets.build(specs, shape)
    hp = {"n_batch": 20, "n_s": 4, "n_cycles": 1} | hp
    out = kbn.minibatch_gd(data, val, params, hp, np.random.default_rng(seed), callback, state, net)
    return *out, {"train": data, "val": val, "params": params, "hp": kbn.check_hp(hp), "net": net}


@st.composite
def windows(draw, sides, torch_padding=False, pool=False):
    """size, stride, pad (a number or a pair) of windows that divide images of these sides."""
    size, stride, pad = [], [], []
    for side in sides:
        k = draw(st.integers(1, min(3, side)))
        p = draw(st.integers(0, k // 2 if torch_padding else k - 1 if pool else k))
        rest = side + 2 * p - k
        stride.append(draw(st.sampled_from([s for s in range(1, 4) if rest % s == 0])))
        size.append(k)
        pad.append(p)
    return [pair[0] if pair[0] == pair[1] else tuple(pair) for pair in (size, stride, pad)]


@st.composite
def random_nets(draw, torch_padding=False):
    """specs and the shape of an input: up to two convolutions with all that may follow them, up to two affine layers."""
    specs, convs, affines = [], *draw(st.sampled_from([(1, 0), (1, 1), (2, 0), (2, 1), (0, 1), (0, 2)]))
    shape = draw(st.tuples(*[st.integers(1, 2)] + [st.integers(2, 6)] * 2 if convs else [st.integers(2, 5)]))
    kinds = ["conv"] * convs + ["affine"] * affines
    for kind in kinds:
        sides = nets.sizes(specs + [("affine", K)], shape)[0][len(specs)][1:]
        m = draw(st.integers(2, 4))
        specs.append(("affine", m) if kind == "affine" else ("conv", m, *draw(windows(sides))))
        after = ["bn", draw(st.sampled_from(["relu", "sigmoid", "tanh"])), "dropout"]
        after += [draw(st.sampled_from(["max_pool", "avg_pool"]))] * (kind == "conv")
        for kind in draw(st.permutations(after))[: draw(st.sampled_from([3, 4, 2, 1, 0]))]:
            sides = nets.sizes(specs + [("affine", K)], shape)[0][len(specs)][1:]
            specs.append((kind, *(draw(windows(sides, torch_padding, pool=True)) if "pool" in kind else [])))
    return [*specs, ("affine", K)], shape


def case(specs, shape, loss, seed, n=5):
    """A random problem: net, params, X, y, Y, masks (None where the net has no dropout)."""
    rng = np.random.default_rng(seed)
    net, params, (X, y) = nets.build(specs, shape, loss), random_params(specs, shape, rng), random_data(rng, shape, n)
    masks = net["dropout_masks"](params, n, 0.7, rng) if ("dropout",) in specs else None
    return net, params, X, y, kbn.one_hot(y, K, np.float64), masks


def well_conditioned(cache, least=0.02):
    """Whether no variance is small: BN magnifies rounding by 1 / sqrt(v)."""
    return all(cache[key].min() > least for key in cache if key.startswith("v"))


# ----------------------------------------------------------------------------------------------------- kbn's own network


@examples(100)
@given(
    seed=seeds,
    k=st.integers(1, 5),
    bn=st.sampled_from([None, "before", "after"]),
    dropout=st.booleans(),
    eps=st.sampled_from([kbn.EPS, 1e-5, 0.1]),
    lam=st.sampled_from([0.0, 0.005, 1.5]),
)
def test_a_k_layer_net_of_specs_is_kbns(seed, k, bn, dropout, eps, lam):
    rng = np.random.default_rng(seed)
    dims = rng.integers(3, 9, k + 1).tolist()
    specs, shape, position = mlp(dims, bn, dropout and k > 1), dims[:1], bn or "before"
    net = nets.build(specs, shape)
    for sigma, dtype in ((None, np.float32), ("xavier", np.float64), (0.1, np.float32)):
        assert same(
            nets.init_params(specs, shape, np.random.default_rng(seed), sigma, dtype),
            kbn.init_params(dims, np.random.default_rng(seed), bn is not None, sigma, dtype),
        )

    params = random_params(specs, shape, rng)
    X, y = rng.standard_normal((dims[0], 9)), rng.integers(dims[-1], size=9)
    Y, masks = kbn.one_hot(y, dims[-1], np.float64), None
    if dropout and k > 1:
        masks = net["dropout_masks"](params, 9, 0.7, np.random.default_rng(seed))
        assert same(masks, kbn.dropout_masks(params, 9, 0.7, np.random.default_rng(seed)))
    expected_P, expected_cache = kbn.forward(X, params, None, eps, position, masks)
    assume(well_conditioned(expected_cache, 1e-3))
    P, cache = net["forward"](X, params, None, eps, masks=masks)
    assert_close({"P": P, "logP": cache["logP"]}, {"P": expected_P, "logP": expected_cache["logP"]}, 1e-12)
    own = [key for key in expected_cache if key[:-1] in ("S", "mu", "v") and "gamma1" in params]
    assert_close({key: cache[key] for key in own}, {key: expected_cache[key] for key in own}, 1e-12)
    assert_close(net["backward"](Y, params, cache, lam), kbn.backward(Y, params, expected_cache, lam), 1e-11)
    assert kbn.compute_cost(X, Y, params, lam, None, eps, "before", masks, net) == pytest.approx(
        kbn.compute_cost(X, Y, params, lam, None, eps, position, masks), rel=1e-12
    )


@every_bn
@pytest.mark.parametrize("hp", [{}, {"momentum": 0.9, "lam": 0.1}, {"keep": 0.7}, {"schedule": "step", "n_epochs": 3}])
def test_a_whole_training_and_its_statistics_are_kbns(bn, hp):
    dims, rng, position = [6, 8, 7, K], np.random.default_rng(1), bn or "before"
    specs = mlp(dims, bn, dropout=True)
    net, params = nets.build(specs, dims[:1]), random_params(specs, dims[:1], rng)
    data, val = random_data(rng, dims[:1], 70), random_data(rng, dims[:1], 30)
    hp = {"n_batch": 20, "n_s": 7, "n_cycles": 1, "alpha": 0.8, "eps": 1e-5} | hp
    trained, stats, history = kbn.minibatch_gd(data, val, params, hp, np.random.default_rng(2), net=net)
    expected = kbn.minibatch_gd(data, val, params, hp | {"bn": position}, np.random.default_rng(2))
    assert_close(trained, expected[0])
    assert_close(stats, expected[1])
    for part in ("update", "epoch"):
        assert history[part].keys() == expected[2][part].keys()
        for name, column in expected[2][part].items():
            np.testing.assert_allclose(history[part][name], column, rtol=1e-9, err_msg=name)
    assert_close(kbn.dataset_stats(data[0], trained, 1e-5, net=net), kbn.dataset_stats(data[0], trained, 1e-5, position))
    assert kbn.evaluate(*val, trained, stats, 0.1, 1e-5, net=net) == pytest.approx(
        kbn.evaluate(*val, trained, stats, 0.1, 1e-5, position), rel=1e-9
    )


# ------------------------------------------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("loss", nets.LOSSES)
@examples(120)
@given(net=random_nets(), seed=seeds, lam=st.sampled_from([0.0, 0.01, 1.0]))
def test_gradients_of_any_net_are_those_of_complex_steps(loss, net, seed, lam):
    """With an epsilon that counts: else BN takes the scale of a filter of one number away, and its gradient is rounding."""
    net, params, X, y, Y, masks = case(*net, loss, seed)
    _, cache = net["forward"](X, params, None, 0.1, masks=masks)
    assume(well_conditioned(cache))
    grads = net["backward"](Y, params, cache, lam)
    numerical = gradcheck.complex_step_gradient(
        lambda moved: kbn.compute_cost(X, Y, moved, lam, None, 0.1, "before", masks, net)[0], params
    )
    assert grads.keys() == params.keys()
    zero = {name for name in params if gradcheck.largest_entry(numerical[name]) <= ZERO_BAR}

    def wrong(grads):
        return {
            name
            for name in params
            if not (
                gradcheck.largest_entry(grads[name]) <= ZERO_BAR
                if name in zero
                else gradcheck.relative_error(grads[name], numerical[name]) <= BAR
            )
        }

    assert not wrong(grads)
    for name in params:  # .1 % in one entry, or 1e-6 where 0 belongs
        largest = gradcheck.largest_entry(grads[name])
        large = grads[name] if name in zero else np.where(np.abs(grads[name]) > 1e-6 * largest, grads[name], 0)
        planted = grads[name] + (gradcheck.plant(large, name in zero) - large)
        assert wrong({**grads, name: planted}) == {name}


def test_few_gradients_are_zero():
    """The biases under BN; else the test above would show little."""
    for specs in (SPECS, PLAIN, LATE):
        net, params, X, _, Y, masks = case(specs, SHAPE, "softmax", seed=3)
        grads = net["backward"](Y, params, net["forward"](X, params, masks=masks)[1], 0.0)
        zero = {name for name in grads if gradcheck.largest_entry(grads[name]) <= ZERO_BAR}
        assert zero == ({"b1"} if specs is SPECS else {"b2"} if specs is LATE else set())


@pytest.mark.parametrize("loss", nets.LOSSES)
def test_lam_adds_the_weights_alone(loss):
    net, params, X, _, Y, masks = case(SPECS, SHAPE, loss, seed=4)
    _, cache = net["forward"](X, params, masks=masks)
    plain, with_lam = (net["backward"](Y, params, cache, lam) for lam in (0.0, 0.3))
    for name in params:
        expected = plain[name] + 0.6 * params[name] if name.startswith("W") else plain[name]
        np.testing.assert_allclose(with_lam[name], expected, rtol=1e-13)
    cost, value = kbn.compute_cost(X, Y, params, 0.3, None, masks=masks, net=net)
    assert cost - value == pytest.approx(0.3 * sum((params[name] ** 2).sum() for name in ("W1", "W2", "W3")), rel=1e-12)


def test_gradients_written_over_old_ones_are_the_same():
    net, params, X, _, Y, masks = case(SPECS, SHAPE, "softmax", seed=5)
    _, cache = net["forward"](X, params, masks=masks)
    old = {key: np.full_like(param, np.nan) for key, param in params.items()}
    assert same(net["backward"](Y, params, cache, 0.1, old), net["backward"](Y, params, cache, 0.1))
    assert same(old, net["backward"](Y, params, cache, 0.1))


# --------------------------------------------------------------------------------------------------- PyTorch as oracle


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here: pip install torch==2.13.0")
    torch.set_num_threads(1)  # the nets are small: more threads only wait for each other
    return torch


def torch_scores(torch, specs, shape, X, params, eps, masks=None, running=None, momentum=0.0, training=True):
    """The scores (n, K) for the columns of X; running, if given, holds mu1.., v1.. (m,), which training moves."""
    F, l = torch.nn.functional, 0
    A = torch.tensor(np.ascontiguousarray(X.T)).reshape(-1, *shape)
    for kind, *numbers in specs:
        l += kind in ("affine", "conv")
        if kind == "affine":
            A = F.linear(A.flatten(1), params[f"W{l}"], params[f"b{l}"][:, 0])
        elif kind == "conv":
            A = F.conv2d(A, params[f"W{l}"], params[f"b{l}"][:, 0], *numbers[2:])
        elif kind == "bn":
            A = F.batch_norm(
                A,
                *(running[f"{name}{l}"] if running else None for name in ("mu", "v")),
                params[f"gamma{l}"][:, 0],
                params[f"beta{l}"][:, 0],
                training,
                momentum,
                eps,
            )
        elif kind == "dropout":
            mask = 1 if masks is None else masks[f"mask{l}"]
            A = A * (mask if masks is None else torch.tensor(np.ascontiguousarray(mask if A.ndim == 4 else mask.T)))
        elif "pool" in kind:
            A = getattr(F, f"{kind}2d")(A, *numbers)
        else:
            A = getattr(torch, kind)(A)
    return A


def torch_loss(torch, scores, y, loss):
    y = torch.tensor(y)
    return (
        torch.nn.functional.cross_entropy(scores, y)
        if loss == "softmax"
        else K * torch.nn.functional.multi_margin_loss(scores, y)
    )


def torch_params(torch, params):
    return {key: torch.tensor(param, requires_grad=True) for key, param in params.items()}


@pytest.mark.parametrize("loss", nets.LOSSES)
@examples(150)
@given(net=random_nets(torch_padding=True), seed=seeds)
def test_cost_and_gradients_of_any_net_are_those_of_torch(torch, loss, net, seed):
    specs, shape = net
    net, params, X, y, Y, masks = case(*net, loss, seed)
    _, cache = net["forward"](X, params, None, 1e-3, masks=masks)
    assume(well_conditioned(cache))
    expected = torch_params(torch, params)
    scores = torch_scores(torch, specs, shape, X, expected, 1e-3, masks)
    cost = torch_loss(torch, scores, y, loss) + 0.1 * sum((W**2).sum() for name, W in expected.items() if name[0] == "W")
    cost.backward()
    assert_close({"S": cache["scores"]}, {"S": scores.detach().numpy().T})
    assert kbn.compute_cost(X, Y, params, 0.1, None, 1e-3, "before", masks, net)[0] == pytest.approx(cost.item(), rel=1e-10)
    assert_close(net["backward"](Y, params, cache, 0.1), {name: param.grad.numpy() for name, param in expected.items()})


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("keep", [1.0, 0.7])
def test_training_and_prediction_of_a_conv_net_are_those_of_torch(torch, momentum, keep):
    eta, lam, alpha, eps, n_batch = 0.05, 0.01, 0.8, 1e-3, 20
    params, stats, history, given = train(
        seed=3,
        n=60,
        schedule="step",
        decay=1,
        n_epochs=3,
        eta_max=eta,
        lam=lam,
        alpha=alpha,
        eps=eps,
        momentum=momentum,
        keep=keep,
    )
    rng, (X, y) = np.random.default_rng(3), given["train"]
    expected = torch_params(torch, given["params"])
    weights = [name for name in expected if name.startswith("W")]
    optimizer = torch.optim.SGD(
        [
            {"params": [expected[name] for name in weights], "weight_decay": 2 * lam},
            {"params": [expected[name] for name in expected if name not in weights]},
        ],
        lr=eta,
        momentum=momentum,
    )
    running = {f"{name}{l}": torch.zeros(len(params[f"gamma{l}"]), dtype=torch.float64) for l in (1, 2) for name in ("mu", "v")}
    losses = []
    for _ in range(3):
        for batch in rng.permutation(60).reshape(-1, n_batch):
            masks = given["net"]["dropout_masks"](params, n_batch, keep, rng) if keep < 1 else None
            scores = torch_scores(torch, SPECS, SHAPE, X[:, batch], expected, eps, masks, running, 1 - alpha if losses else 1.0)
            loss = torch_loss(torch, scores, y[batch], "softmax")
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    running["v1"] *= 1 - 1 / (n_batch * 16)  # PyTorch's running variance divides by n - 1; 16 pixels a channel
    running["v2"] *= 1 - 1 / n_batch
    np.testing.assert_allclose(history["update"]["loss"], losses, rtol=1e-9)
    assert_close(params, {name: param.detach().numpy() for name, param in expected.items()}, 1e-9)
    assert_close(stats, {name: average.numpy()[:, None] for name, average in running.items()}, 1e-9)
    scores = torch_scores(torch, SPECS, SHAPE, given["val"][0], expected, eps, None, running, training=False)
    P, _ = given["net"]["forward"](given["val"][0], params, stats, eps)
    assert_close({"P": P}, {"P": scores.softmax(1).detach().numpy().T}, 1e-9)


# ------------------------------------------------------------------------------------------------------------ dropout


def test_dropout_masks_keep_the_share_and_the_expectation():
    net, params = nets.build(SPECS, SHAPE), nets.init_params(SPECS, SHAPE, np.random.default_rng(6))
    rng = np.random.default_rng(7)
    masks, others = (net["dropout_masks"](params, 3000, 0.8, rng) for _ in range(2))
    assert {key: mask.shape for key, mask in masks.items()} == {"mask1": (3000, 3, 2, 2), "mask2": (6, 3000)}
    for key, mask in masks.items():
        assert mask.dtype == np.float32 and set(np.unique(mask)) == {np.float32(0), np.float32(1.25)}
        assert mask.mean() == pytest.approx(1, abs=0.02)
        assert not np.array_equal(mask, others[key])
    assert same(masks, net["dropout_masks"](params, 3000, 0.8, np.random.default_rng(7)))


def recorded(net):
    """net, and the lists in which its forward and backward will keep their arguments and results."""
    calls = {"forward": [], "backward": []}

    def keeping(name):
        def function(*args):
            calls[name].append((args, net[name](*args)))
            return calls[name][-1][1]

        return function

    return net | {name: keeping(name) for name in calls}, calls


def test_dropout_is_drawn_anew_in_training_and_absent_from_prediction():
    rng = np.random.default_rng(8)
    (X, y), params = random_data(rng, SHAPE, 50), random_params(SPECS, SHAPE, rng)
    net, calls = recorded(nets.build(SPECS, SHAPE))
    hp = {"n_batch": 20, "n_s": 2, "n_cycles": 1, "keep": 0.8}
    _, stats, _ = kbn.minibatch_gd((X, y), (X, y), params, hp, rng, net=net)
    in_training = [args[5] for args, _ in calls["forward"] if args[2] is None]
    assert len(in_training) == 4
    for mask in ("mask1", "mask2"):
        assert len({masks[mask].tobytes() for masks in in_training}) == 4
    in_prediction = [args for args, _ in calls["forward"] if args[2] is not None]
    assert len(in_prediction) == 2 * 2 and all(len(args) < 6 or args[5] is None for args in in_prediction)
    without = nets.build([spec for spec in SPECS if spec != ("dropout",)], SHAPE)
    assert np.array_equal(net["forward"](X, params, stats)[0], without["forward"](X, params, stats)[0])


def test_keep_without_a_dropout_layer_is_refused():
    with pytest.raises(ValueError, match=r"keep is 0.8, but the net has no \('dropout',\) layer"):
        train(PLAIN, (1, 3, 5), keep=0.8)


# ----------------------------------------------------------------------------------------------------------- training


def test_the_seed_decides_all():
    hp = {"momentum": 0.9, "keep": 0.7, "dtype": np.float32}
    params, stats, history, _ = train(seed=1, **hp)
    again, stats_again, history_again, _ = train(seed=1, **hp)
    other, _, _, _ = train(seed=2, **hp)
    assert same(params, again) and same(stats, stats_again) and history == history_again
    assert not same(params, other)


@pytest.mark.parametrize("hp", [{}, {"momentum": 0.9, "keep": 0.8}, {"schedule": "step", "n_epochs": 4, "decay": 0.5}])
@pytest.mark.parametrize("epoch", [0, 2])
def test_training_goes_on_from_a_state_to_the_same_bit(hp, epoch):
    states = []
    params, stats, history, _ = train(callback=lambda state: states.append(deepcopy(state)), **hp)
    assert len(states) == 4
    again = train(seed=12345, state=states[epoch], **hp)
    assert same(again[0], params) and same(again[1], stats) and again[2] == history


def test_what_the_caller_gave_is_unchanged():
    rng = np.random.default_rng(9)
    params, (X, y), net = random_params(SPECS, SHAPE, rng), random_data(rng, SHAPE, 30), nets.build(SPECS, SHAPE)
    before = copy(params), X.copy(), y.copy()
    for array in (X, y, *params.values()):
        array.flags.writeable = False
    hp = {"n_batch": 10, "n_s": 3, "n_cycles": 1, "momentum": 0.5, "keep": 0.9}
    trained, stats, _ = kbn.minibatch_gd((X, y), (X, y), params, hp, rng, net=net)
    kbn.dataset_stats(X, params, net=net)
    kbn.evaluate(X, y, params, stats, net=net)
    assert same(params, before[0]) and np.array_equal(X, before[1]) and np.array_equal(y, before[2])
    assert not any(np.shares_memory(trained[key], params[key]) for key in params)


def dtypes(tree):
    """Of all arrays of floats in nested dicts, tuples and lists."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        return {dtype for part in tree for dtype in dtypes(part)}
    return {tree.dtype} if hasattr(tree, "dtype") and tree.dtype.kind in "fc" else set()


@pytest.mark.parametrize("loss", nets.LOSSES)
@pytest.mark.parametrize("hp", [{}, {"momentum": 0.9, "keep": 0.8, "schedule": "step", "n_epochs": 2}])
def test_float32_stays_float32(loss, hp):
    rng, states = np.random.default_rng(10), []
    specs = SPECS[:5] + [("conv", 3, 1), ("sigmoid",), ("avg_pool", 2)] + SPECS[5:]
    params, (X, y) = random_params(specs, SHAPE, rng, np.float32), random_data(rng, SHAPE, 40, np.float32)
    net, calls = recorded(nets.build(specs, SHAPE, loss))
    hp = {"n_batch": 20, "n_s": np.int64(2), "n_cycles": 1, "lam": np.float64(0.1), "eps": np.float64(1e-5)} | hp
    params, stats, _ = kbn.minibatch_gd((X, y), (X, y), params, hp, rng, states.append, net=net)
    cost, _ = kbn.compute_cost(X, kbn.one_hot(y, K), params, 0.1, stats, np.float64(1e-5), net=net)
    bags = [
        params,
        stats,
        states[-1]["memory"],
        [result for _, result in calls["forward"] + calls["backward"]],
        [args[5] for args, _ in calls["forward"] if len(args) > 5 and args[5]],
        kbn.dataset_stats(X, params, net=net),
        cost,
    ]
    assert len(calls["forward"]) > 8 and dtypes(bags) == {np.dtype(np.float32)}


def test_an_easy_problem_is_learnt():
    rng = np.random.default_rng(11)
    y = rng.integers(K, size=300)
    centres = rng.standard_normal((K, *SHAPE))
    X = (2 * centres[y] + rng.standard_normal((300, *SHAPE))).reshape(300, -1).T
    for specs in (SPECS, [("conv", 6, 3, 1, 1), ("relu",), ("avg_pool", (2, 1)), ("affine", K)]):
        for loss in nets.LOSSES:
            params, net = nets.init_params(specs, SHAPE, rng), nets.build(specs, SHAPE, loss)
            hp = {"n_batch": 20, "n_s": 50, "n_cycles": 1, "eta_max": 0.05}
            params, stats, _ = kbn.minibatch_gd((X[:, 100:], y[100:]), (X[:, :100], y[:100]), params, hp, rng, net=net)
            assert kbn.accuracy(X[:, :100], y[:100], params, stats, net=net) > 0.9


@pytest.mark.parametrize("order", ["F", "C"])
def test_images_lie_plane_by_plane_in_columns(order):
    """A filter that looks at one pixel of one channel finds it."""
    rng = np.random.default_rng(12)
    images = rng.standard_normal((7, 2, 3, 4))
    specs = [("conv", 1, (3, 4)), ("affine", 2)]
    params = {"W1": np.zeros((1, 2, 3, 4)), "b1": np.zeros((1, 1)), "W2": np.array([[1.0], [0.0]]), "b2": np.zeros((2, 1))}
    params["W1"][0, 1, 2, 0] = 1
    X = np.asarray(images.reshape(7, -1).T, order=order)
    _, cache = nets.build(specs, (2, 3, 4))["forward"](X, params)
    assert np.array_equal(cache["scores"], [images[:, 1, 2, 0], np.zeros(7)])


def test_a_prediction_does_not_depend_on_its_batch():
    params, stats, _, given = train()
    (X, y), net = given["val"], given["net"]
    P, _ = net["forward"](X, params, stats)
    alone = [net["forward"](X[:, i : i + 1], params, stats)[0] for i in range(30)]
    np.testing.assert_allclose(np.hstack(alone), P, rtol=1e-11)
    whole = kbn.evaluate(X, y, params, stats, 0.1, net=net)
    assert kbn.evaluate(X, y, params, stats, 0.1, net=net | {"chunk": 7}) == pytest.approx(whole, rel=1e-12)


def test_the_svm_loss_is_counted_by_hand():
    net = nets.build([("affine", 3)], (2,), "svm")
    params = {"W1": np.array([[1.0, 0], [0, 1], [0, 0]]), "b1": np.zeros((3, 1))}
    X, y = np.array([[2.0, 0.5], [1.5, 0.0]]), np.array([0, 2])  # scores (2, 1.5, 0) and (.5, 0, 0)
    loss = ((1.5 - 2 + 1) + (0.5 + 1) + (0 + 1)) / 2
    found = kbn.evaluate(X, y, params, {}, 0.5, net=net)
    assert found == pytest.approx({"loss": loss, "cost": loss + 0.5 * 2, "accuracy": 0.5})


# ---------------------------------------------------------------------------------------------- the whole training set


def slow_statistics(X, specs, shape, params, eps):
    """The means and variances of each BN over all columns of X, where every one normalises with its own, by np.mean."""
    stats, l, A = {}, 0, X.T.reshape(-1, *shape)
    for kind, *numbers in specs:
        l += kind in ("affine", "conv")
        if kind == "affine":
            A = A.reshape(len(A), -1) @ params[f"W{l}"].T + params[f"b{l}"].T
        elif kind == "conv":
            pad = numbers[3] if len(numbers) > 3 else 0
            A = np.pad(A, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
            A = np.einsum("nchwij,fcij->nfhw", sliding_window_view(A, params[f"W{l}"].shape[2:], (2, 3)), params[f"W{l}"])
            A = A + params[f"b{l}"][:, :, None]
        elif kind == "bn":
            axes, column = (0, *range(2, A.ndim)), (-1,) + (1,) * (A.ndim - 2)
            mu, v = A.mean(axes), A.var(axes)
            stats |= {f"mu{l}": mu[:, None], f"v{l}": v[:, None]}
            gamma, beta, mu, v = (a.reshape(column) for a in (params[f"gamma{l}"], params[f"beta{l}"], mu, v))
            A = gamma * (A - mu) / np.sqrt(v + eps) + beta
        elif kind == "max_pool":
            n, c, h, w = A.shape
            A = A.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))
        elif kind in ("relu", "tanh"):
            A = np.maximum(A, 0) if kind == "relu" else np.tanh(A)
    return stats


CONV = [
    ("conv", 3, (5, 4), 1, 1),
    ("bn",),
    ("relu",),
    ("max_pool", 2),
    ("conv", 4, 1),
    ("relu",),
    ("bn",),
    ("affine", 6),
    ("bn",),
    ("tanh",),
    ("affine", K),
]


@pytest.mark.parametrize(
    "specs", [mlp([60, 7, K], "before"), mlp([60, 7, 6, 5, K], "before"), mlp([60, 7, 6, 5, K], "after"), SPECS, CONV, LATE]
)
@pytest.mark.parametrize("eps", [kbn.EPS, 0.1])
def test_dataset_stats_are_those_of_one_huge_batch(specs, eps):
    rng = np.random.default_rng(13)
    shape = SHAPE if specs in (SPECS, CONV) else (60,)
    params, (X, _) = random_params(specs, shape, rng), random_data(rng, shape, 230)
    before = copy(params)
    net = nets.build(specs, shape)
    stats = kbn.dataset_stats(X, params, eps, net=net)
    assert same(params, before)
    _, cache = net["forward"](X, params, None, eps)
    assert stats.keys() == {f"{name}{l}" for name in ("mu", "v") for l in kbn.normalised(params)}
    for expected in ({key: cache[key] for key in stats}, slow_statistics(X, specs, shape, params, eps)):
        for key in stats:
            np.testing.assert_allclose(stats[key], expected[key], rtol=1e-9, atol=1e-12)
    for chunk in (1, 7, 230, 1000):
        assert_close(kbn.dataset_stats(X, params, eps, net=net | {"chunk": chunk}), stats, 1e-11)
    assert np.allclose(net["forward"](X, params, stats, eps)[0], cache["P"], rtol=1e-9)


@pytest.mark.parametrize("bn", ["before", "after"])
def test_dataset_stats_of_kbns_network(bn):
    rng, dims = np.random.default_rng(14), [8, 7, 6, K]
    params, (X, y) = random_params(mlp(dims, bn), dims[:1], rng), random_data(rng, dims[:1], 2300)
    stats = kbn.dataset_stats(X, params, 1e-5, bn)
    for key, expected in slow_statistics(X, mlp(dims, bn), dims[:1], params, 1e-5).items():
        np.testing.assert_allclose(stats[key], expected, rtol=1e-10)
    trained, moving, _ = kbn.minibatch_gd((X, y), (X, y), params, {"n_batch": 100, "n_s": 20, "bn": bn}, rng)
    whole = kbn.dataset_stats(X, trained, bn=bn)
    assert whole.keys() == moving.keys()
    losses = [kbn.evaluate(X, y, trained, stats, bn=bn)["loss"] for stats in (moving, whole)]
    assert losses[0] != losses[1] and losses == pytest.approx([losses[0]] * 2, rel=0.1)


def test_dataset_stats_of_a_conv_net_are_not_the_moving_averages_and_of_one_without_bn_empty():
    params, moving, _, given = train()
    whole = kbn.dataset_stats(given["train"][0], params, net=given["net"])
    assert whole.keys() == moving.keys() and not any(np.array_equal(whole[key], moving[key]) for key in whole)
    P, P_moving = (given["net"]["forward"](given["val"][0], params, stats)[0] for stats in (whole, moving))
    assert 1e-6 < np.abs(P - P_moving).max() < 1
    params, stats, _, given = train(PLAIN, (1, 3, 5))
    assert stats == kbn.dataset_stats(given["train"][0], params, net=given["net"]) == {}
    assert kbn.dataset_stats(np.ones((3, 4)), kbn.init_params([3, 4, 2], np.random.default_rng(0))) == {}


# --------------------------------------------------------------------------------------------------- kbn's new pieces


@pytest.mark.parametrize("net", ["kbn's", "of specs"])
@pytest.mark.parametrize("n, n_batch, n_epochs, decay", [(50, 20, 3, 0.8), (20, 20, 4, 0.5), (41, 10, 2, 1), (30, 10, 3, 0.0)])
def test_the_step_schedule_decays_after_every_epoch(net, n, n_batch, n_epochs, decay):
    specs = mlp([3, 4, K], "before")
    rng = np.random.default_rng(15)
    data, params = random_data(rng, (3,), n), random_params(specs, (3,), rng)
    hp = {
        "schedule": "step",
        "eta_max": 0.05,
        "eta_min": 0.4,
        "decay": decay,
        "n_epochs": n_epochs,
        "n_batch": n_batch,
        "n_s": 1,
        "n_cycles": 1,
    }  # eta_min above eta_max: only the cyclical schedule minds
    net = kbn.MLP if net == "kbn's" else nets.build(specs, (3,))
    _, _, history = kbn.minibatch_gd(data, data, params, hp, rng, net=net)
    per_epoch = n // n_batch
    etas = [0.05 * decay**epoch for epoch in range(n_epochs)]
    assert history["epoch"]["t"] == [per_epoch * (epoch + 1) for epoch in range(n_epochs)]
    np.testing.assert_allclose(history["update"]["eta"], np.repeat(etas, per_epoch), rtol=1e-14)
    np.testing.assert_allclose(history["epoch"]["eta"], etas, rtol=1e-14)
    assert [kbn.step_eta(t, 0.05, decay, per_epoch) for t in range(n_epochs * per_epoch)] == history["update"]["eta"]


def test_a_step_that_does_not_decay_is_constant():
    assert {kbn.step_eta(t, 0.1, 1.0, 7) for t in range(100)} == {0.1}


def test_what_is_updated_is_scaled_by_eta():
    """One epoch of the step schedule with eta_max is one of the cyclical with eta_min = eta_max."""
    step, _, _, _ = train(schedule="step", n_epochs=4, decay=1, eta_max=0.03)
    cyclical, _, _, _ = train(eta_min=0.03, eta_max=0.03)
    assert_close(step, cyclical, 1e-12)


@pytest.mark.parametrize(
    "hp, words",
    [
        ({"schedule": "linear"}, "schedule must be 'cyclical' or 'step', not 'linear'"),
        ({"schedule": 1}, "schedule must be"),
        ({"decay": 1.1}, "decay must be a number from 0 to 1"),
        ({"decay": -0.1}, "decay"),
        ({"decay": np.nan}, "decay"),
        ({"n_epochs": 0}, "n_epochs must be a whole number from 1"),
        ({"n_epochs": 2.5}, "n_epochs"),
        ({"n_epochs": np.inf}, "n_epochs"),
        ({"eta_min": 0.2, "eta_max": 0.1}, "eta_min 0.2 is above eta_max 0.1"),
        ({"eta_min": 0.2, "eta_max": 0.1, "schedule": "cyclical"}, "eta_min 0.2 is above"),
    ],
)
def test_check_hp_refuses(hp, words):
    with pytest.raises(ValueError, match=words):
        kbn.check_hp(hp)


def test_check_hp_takes_the_step_schedule():
    hp = kbn.check_hp({"schedule": "step", "eta_min": 0.2, "eta_max": np.float32(0.1), "n_epochs": np.int64(3), "decay": 1})
    assert hp["schedule"] == "step" and type(hp["n_epochs"]) is int and type(hp["decay"]) is float


# ----------------------------------------------------------------------------------------------------- what is refused

ONE = ("affine", K)
REFUSED = {
    "unknown kind": ([("conv2d", 3, 3), ONE], r"there is no layer \('conv2d', 3, 3\); there are affine, conv, "),
    "no kind": ([(), ONE], r"there is no layer \(\)"),
    "kind a list": ([[["conv"], 3], ONE], "there is no layer"),
    "kind None": ([(None,), ONE], "there is no layer"),
    "a word": (["relu", ONE], "there is no layer 'relu'"),
    "specs a word": ("affine", "a net is a list of layers, not 'affine'"),
    "specs a number": (7, "a net is a list of layers, not 7"),
    "specs a dict": ({"affine": 3}, "a net is a list of layers"),
    "numbers missing": ([("conv", 3), ONE], r"layer \('conv', 3\) must hold the kind and f, size, stride, pad$"),
    "no numbers": ([("affine",)], r"layer \('affine',\) must hold the kind and m$"),
    "too many numbers": ([("conv", 3, 3, 1, 1, 1), ONE], "must hold the kind and f, size, stride, pad$"),
    "a number too many": ([("relu", 1), ONE], r"layer \('relu', 1\) must hold the kind and nothing else$"),
    "pool without size": ([("max_pool",), ONE], "must hold the kind and size, stride, pad$"),
    "two bn": ([("conv", 3, 3), ("bn",), ("relu",), ("bn",), ONE], "there are two bn layers between one affine or conv"),
    "two bn before all": ([("bn",), ("bn",), ONE], "there are two bn layers"),
    "two dropouts": ([("affine", 3), ("dropout",), ("dropout",), ONE], "there are two dropout layers"),
    "empty": ([], "the last layer must be an affine one"),
    "last not affine": ([ONE, ("relu",)], "the last layer must be an affine one"),
    "last conv": ([("conv", 3, 3)], "the last layer must be an affine one"),
    "too large": (
        [("relu",), ("conv", 3, 7), ONE],
        r"layer \('conv', 3, 7\): windows of 7 x 7, .* do not divide images of 6 x 5",
    ),
    "do not divide": (
        [("conv", 3, 3, 2), ONE],
        r"layer \('conv', 3, 3, 2\): windows of 3 x 3, stride 2 x 2 .* images of 6 x 5",
    ),
    "pool does not divide": ([("conv", 3, 3), ("max_pool", 2), ONE], r"layer \('max_pool', 2\): windows of 2 x 2.* of 4 x 3"),
    "pool of nothing": ([("max_pool", 2, 1, 2), ONE], r"layer \('max_pool', 2, 1, 2\): pad \(2, 2\) must be less than size"),
    "conv on columns": (
        [("affine", 9), ("conv", 3, 3), ONE],
        r"layer \('conv', 3, 3\): images \(c, h, w\) must come in, not \(9,\)",
    ),
    "pool on columns": ([("affine", 9), ("avg_pool", 3), ONE], r"layer \('avg_pool', 3\): images \(c, h, w\) must come in"),
    "m 0": ([("affine", 0), ONE], r"layer \('affine', 0\): the number of units or filters must be a positive integer, not 0"),
    "m 2.5": ([("affine", 2.5), ONE], "must be a positive integer, not 2.5"),
    "m a word": ([("affine", "10")], "must be a positive integer, not '10'"),
    "f -1": ([("conv", -1, 3), ONE], "must be a positive integer, not -1"),
    "size 0": ([("conv", 3, 0), ONE], "size must be a whole number from 1"),
    "size 1.5": ([("conv", 3, 1.5), ONE], "size must be a whole number from 1"),
    "stride 0": ([("avg_pool", 2, 0), ONE], "stride must be a whole number from 1"),
    "pad -1": ([("conv", 3, 3, 1, -1), ONE], "pad must be a whole number from 0"),
    "three sizes": ([("conv", 3, (3, 3, 3)), ONE], "or two"),
    "absurd pad": (
        [("conv", 3, 3, 1, 10**9), ONE],
        r"layer .*: an example of the shape \(2, 2000000006, 2000000005\) is too large",
    ),
    "absurd pool": ([("avg_pool", (2 * 10**9 + 6, 2 * 10**9 + 5), 1, 10**9), ONE], "is too large"),
    "absurd m": ([("affine", 10**9), ONE], "is too large"),
    "absurd f": ([("conv", 10**9, 3), ONE], "is too large"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_build_and_init_params_refuse(case):
    specs, words = REFUSED[case]
    for refuses in (lambda: nets.build(specs, SHAPE), lambda: nets.init_params(specs, SHAPE, np.random.default_rng(0))):
        with pytest.raises(ValueError, match=words) as error:
            refuses()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(), 7, (2, 3), (0,), (-3,), (2.5,), (1, 28, 28, 1), "abc", None, [[3]], (3, 0, 3), ("3",)])
def test_the_shape_of_an_input_is_checked(shape):
    for refuses in (nets.build, lambda *args: nets.init_params(*args, np.random.default_rng(0))):
        with pytest.raises(ValueError, match=r"the shape of an input must be \(d,\) or \(c, h, w\)"):
            refuses([ONE], shape)


@pytest.mark.parametrize("shape", [np.array([2, 6, 5]), [2, np.int64(6), 5], (2, 6, 5)])
def test_the_shape_of_an_input_is_any_sequence_of_integers(shape):
    assert nets.build(SPECS, shape)["d"]({}) == 60


def test_what_does_not_fit_is_refused():
    params, stats, _, given = train()
    (X, y), net, hp = given["train"], given["net"], {"n_batch": 10, "n_s": 1, "n_cycles": 1}
    with pytest.raises(ValueError, match="loss must be 'softmax' or 'svm', not 'hinge'"):
        nets.build(SPECS, SHAPE, "hinge")
    with pytest.raises(ValueError, match="sigma must be"):
        nets.init_params(SPECS, SHAPE, np.random.default_rng(0), sigma=-1.0)
    for wrong in (X[1:], X.T, X[:, 0], X.T.reshape(-1, *SHAPE)):
        with pytest.raises(ValueError, match=r"does not fit inputs of \(2, 6, 5\): X must be \(60, n\)"):
            net["forward"](wrong, params)
        with pytest.raises(ValueError, match=r"training X .* must be \(60, n\)"):
            kbn.minibatch_gd((wrong, y), (X, y), params, hp, np.random.default_rng(0), net=net)
    with pytest.raises(ValueError, match="bn is 'after', but the specs of a net say where its BN stands"):
        kbn.minibatch_gd((X, y), (X, y), params, hp | {"bn": "after"}, np.random.default_rng(0), net=net)
    with pytest.raises(ValueError, match="own statistics"):
        net["backward"](kbn.one_hot(y, K), params, net["forward"](X, params, stats)[1], 0.0)
    with pytest.raises(ValueError, match="n_batch is 1, but batch normalization"):
        kbn.minibatch_gd((X, y), (X, y), params, hp | {"n_batch": 1}, np.random.default_rng(0), net=net)


def test_prediction_without_statistics_is_refused_wherever_bn_stands():
    params, stats, _, given = train(LATE, (7,))
    assert stats.keys() == {"mu2", "v2"} and "gamma1" not in params
    for missing in (None, {}, {"mu1": stats["mu2"], "v1": stats["v2"]}):
        with pytest.raises(ValueError, match="moving averages that minibatch_gd returns"):
            kbn.evaluate(*given["val"], params, missing, net=given["net"])
        with pytest.raises(ValueError, match="moving averages that minibatch_gd returns"):
            kbn.accuracy(*given["val"], params, missing, net=given["net"])
    assert 0 <= kbn.accuracy(*given["val"], params, stats, net=given["net"]) <= 1


# -------------------------------------------------------------------------------------------------------- saved models


@pytest.mark.parametrize("specs, shape, loss", [(SPECS, SHAPE, "softmax"), (PLAIN, (1, 3, 5), "svm"), (LATE, (7,), "svm")])
def test_a_saved_net_is_the_same(specs, shape, loss, tmp_path):
    params, stats, _, given = train(specs, shape, dtype=np.float32)
    net = nets.build(specs, shape, loss)
    kbn.save(tmp_path / "net.npz", params, stats, given["hp"], shape=shape, classes=["å", "b"], **nets.description(specs, loss))
    loaded, loaded_stats, hp, more = kbn.load(tmp_path / "net.npz", nets.check_model)
    assert same(loaded, params) and same(loaded_stats, stats) and hp == given["hp"] and list(more["classes"]) == ["å", "b"]
    again = nets.of_model(more)
    assert kbn.evaluate(*given["val"], loaded, loaded_stats, 0.1, net=again) == kbn.evaluate(
        *given["val"], params, stats, 0.1, net=net
    )
    with pytest.raises(ValueError, match="net.npz is not a network that kbn.save wrote"):
        kbn.load(tmp_path / "net.npz")  # which demands one of kbn's own


def test_kbns_own_network_passes_check_model(tmp_path):
    params = kbn.init_params([6, 5, K], np.random.default_rng(0))
    kbn.save(tmp_path / "net.npz", params, {}, {})
    *_, more = kbn.load(tmp_path / "net.npz", nets.check_model)
    assert nets.of_model(more) is kbn.MLP
    kbn.save(tmp_path / "net.npz", params | {"b1": params["b2"]}, {}, {})
    with pytest.raises(ValueError, match="net.npz is not a network"):
        kbn.load(tmp_path / "net.npz", nets.check_model)


DEEP = "[" * 100_000


def damaged(params, stats):
    """What save may be given for a file that is no network: params, stats and changes of shape, specs, loss."""

    def less(arrays, name):
        return {key: array for key, array in arrays.items() if key != name}

    yield from ((less(params, name), stats, {}) for name in ("W1", "b2", "gamma1", "W3"))
    yield from ((params, less(stats, name), {}) for name in ("mu1", "v2"))
    yield params, {}, {}
    yield params | stats, {}, {}
    yield {}, {}, {}
    for change in (
        {"W1": params["W1"][:2]},
        {"W1": params["W1"][:, :, :, :3]},
        {"W2": params["W2"].T},
        {"b1": params["b2"]},
        {"W1": params["W1"].reshape(3, -1)},
        {"W1": np.float64(1)},
        {"W1": np.ones(3)},
        {"b3": np.ones(K)},
        {"W2": params["W2"] * np.nan},
        {"W2": params["W2"].astype(int)},
        {"W2": params["W2"] + 0j},
        {"W2": np.array("W2")},
        {"W4": params["W3"]},
        {"gamma3": params["gamma1"]},
        {"x": np.ones(3)},
    ):
        yield params | change, stats, {}
    yield params, stats | {"v1": -stats["v1"]}, {}
    yield params, stats | {"mu1": stats["mu2"]}, {}
    for specs in (
        "",
        "{",
        "nonsense",
        "7",
        "null",
        "{}",
        '{"affine": 3}',
        '"affine"',
        "[7]",
        "[[]]",
        "[null]",
        "[[[]]]",
        '[{"affine": 3}]',
        '[["affine"]]',
        '[["affine", null]]',
        '[["affine", NaN]]',
        '[["affine", 1e999]]',
        '[["affine", true]]',
        '[["affine", [4]]]',
        '[["affine", {"m": 4}]]',
        '[["exec", 4]]',
        "[]",
        DEEP,
        '[["affine", ' + "9" * 5000 + "]]",
        json.dumps(SPECS[:-1]),
        json.dumps(SPECS[5:]),
        json.dumps(SPECS[:-1] + [["affine", K + 1]]),
        json.dumps([["conv", 4, [5, 4], 1, 1]] + SPECS[1:]),
    ):
        yield params, stats, {"specs": specs}
    huge = 10**9
    for first in (
        ["conv", huge, 3],
        ["conv", 3, huge],
        ["conv", 3, [5, 4], huge],
        ["conv", 3, [5, 4], 1, huge],
        ["conv", 3, [5, 4], [1, 1], [1, huge]],
        ["conv", 3, [5, 4], 1, 10**5],
    ):
        yield params, stats, {"specs": json.dumps([first, *SPECS[1:]])}
    for more in (
        [["avg_pool", 2 * huge + 2, 1, huge]],
        [["avg_pool", huge, 1, huge // 2]],
        [["max_pool", huge, 1, huge - 1]],
        [["avg_pool", 1, 1, 10**4], ["avg_pool", 2 * 10**4 + 2]],
        [["affine", huge], ["affine", 12]],
    ):
        yield params, stats, {"specs": json.dumps(SPECS[:4] + more + SPECS[4:])}
    yield params, stats, {"specs": json.dumps([["avg_pool", 1, 1, 10**4]] * 50 + [["affine", K]])}
    yield params, stats, {"specs": np.ones((3, 3))}
    for shape in (
        (),
        7,
        (2, 5, 6),
        (60,),
        (2, 6),
        (2, 6, 5, 1),
        (2.0, 6.0, 5.0),
        (2, -6, -5),
        (2, 0, 5),
        ("2", "6", "5"),
        (huge, huge, huge),
        (2, 6, huge),
        np.ones((40, 40)),
        np.nan,
        2j,
    ):
        yield params, stats, {"shape": shape}
    for loss in ("hinge", "", 7, ["softmax", "svm"], "soft\nmax"):
        yield params, stats, {"loss": loss}


def test_what_is_no_saved_net_is_refused_in_one_line(tmp_path):
    params, stats, _, given = train()
    path, more = tmp_path / "net.npz", {"shape": SHAPE, **nets.description(SPECS, "softmax")}
    kbn.save(path, params, stats, {}, **more)
    kbn.load(path, nets.check_model)
    tracemalloc.start()
    for number, (wrong_params, wrong_stats, change) in enumerate(damaged(params, stats)):
        kbn.save(path, wrong_params, wrong_stats, {}, **more | change)
        with pytest.raises(ValueError, match="net.npz is not a network that kbn.save wrote") as error:
            kbn.load(path, nets.check_model)
            pytest.fail(f"{number} {change}")
        assert "\n" not in str(error.value), str(error.value)
    for missing in ("shape", "loss"):
        kbn.save(path, params, stats, {}, **{key: value for key, value in more.items() if key != missing})
        with pytest.raises(ValueError, match=f"net.npz is not a network that kbn.save wrote: .*{missing}"):
            kbn.load(path, nets.check_model)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert number > 80


@pytest.mark.parametrize("check", [None, nets.check_model])
@pytest.mark.parametrize("change", [{"W1": np.float64(1)}, {"W1": np.ones(5)}, {"W2": np.float64(1)}, {"W2": np.ones(5)}])
def test_weights_that_are_no_matrices_are_refused(change, check, tmp_path):
    params = kbn.init_params([6, 5, K], np.random.default_rng(0)) | change
    kbn.save(tmp_path / "net.npz", params, {}, {})
    with pytest.raises(ValueError, match="net.npz is not a network that kbn.save wrote: its params are not"):
        kbn.load(tmp_path / "net.npz", check)
