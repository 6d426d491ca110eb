"""layers.py against complex steps, naive loops and PyTorch, and what its docstrings promise. All draws are seeded.

Every gradient is that of sum(R * out), R random: with a constant R, BN passes nothing back, and average pooling cannot
distinguish one pixel from another, whatever backward does.
"""

from functools import partial

import numpy as np
import pytest
from helpers import assert_close, examples, needs_torch, refused, seeds, torch
from hypothesis import assume, given
from hypothesis import strategies as st

import gradcheck
import kbn
import layers

memory_orders = st.sampled_from(["examples last", "examples first", "strided"])
counts = st.integers(1, 3)
some_eps = st.sampled_from([kbn.EPS, 1e-5, 0.1])
BAR = gradcheck.BARS["relative"]["complex"]
LOSSES = [layers.softmax_loss, layers.svm_loss]
BN = layers.batch_norm_forward, layers.batch_norm_backward
STAGED = layers.batch_norm_forward, layers.batch_norm_backward_staged
CHANNEL_BN = layers.channel_batch_norm_forward, layers.channel_batch_norm_backward
POOLING = {
    "max": (layers.max_pool_forward, layers.max_pool_backward),
    "avg": (layers.avg_pool_forward, layers.avg_pool_backward),
}


def in_order(images, order):
    """The same images in another memory order."""
    if order == "examples last":
        return np.ascontiguousarray(images.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    return np.repeat(images, 2, axis=2)[:, :, ::2] if order == "strided" else images


def case(kind, seed=0, dtype=np.float64):
    """A layer: inputs (dict, in the order of the arguments), forward(*inputs), backward. All sizes differ."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    X, columns = draw(4, 7), {"gamma": draw(4, 1) + 1, "beta": draw(4, 1)}
    images, channels = draw(5, 3, 6, 8), {"gamma": draw(3, 1) + 1, "beta": draw(3, 1)}
    mask, W, b = ((rng.random((4, 7)) < 0.7) / 0.7).astype(dtype), draw(4, 3, 4, 3), draw(4, 1)
    small, window = images[:, :, :2, :3], {"size": (4, 3), "stride": (2, 1), "pad": (2, 1)}
    conv, last = partial(layers.conv_forward, stride=(2, 3), pad=(1, 2)), in_order(images, "examples last")
    bare = window | {"pad": 0}
    return {
        "affine": ({"X": X, "W": draw(6, 4), "b": draw(6, 1)}, layers.affine_forward, layers.affine_backward),
        "relu": ({"S": X}, layers.relu_forward, layers.relu_backward),
        "sigmoid": ({"S": X}, layers.sigmoid_forward, layers.sigmoid_backward),
        "tanh": ({"S": X}, layers.tanh_forward, layers.tanh_backward),
        "dropout": ({"X": X}, partial(layers.dropout_forward, mask=mask), layers.dropout_backward),
        "batch norm": ({"S": X, **columns}, partial(BN[0], eps=np.float64(1e-3)), BN[1]),
        "batch norm, staged": ({"S": X, **columns}, *STAGED),
        "batch norm of channels": ({"images": small, **channels}, *CHANNEL_BN),
        "conv": ({"images": images, "W": W, "b": b}, conv, layers.conv_backward),
        "max pool": ({"images": images}, partial(layers.max_pool_forward, **window), layers.max_pool_backward),
        "avg pool": ({"images": images}, partial(layers.avg_pool_forward, **window), layers.avg_pool_backward),
        "conv, no border": ({"images": last, "W": W, "b": b}, partial(conv, stride=(2, 5), pad=0), layers.conv_backward),
        "max pool, no border": ({"images": last}, partial(layers.max_pool_forward, **bare), layers.max_pool_backward),
        "avg pool, no border": ({"images": last}, partial(layers.avg_pool_forward, **bare), layers.avg_pool_backward),
    }[kind]


KINDS = ["affine", "relu", "sigmoid", "tanh", "dropout", "batch norm", "batch norm, staged", "batch norm of channels", "conv",
         "max pool", "avg pool", "conv, no border", "max pool, no border", "avg pool, no border"]  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def as_tuple(out):
    return out if isinstance(out, tuple) else (out,)


def grads_of(inputs, forward, backward, R):
    """{name: gradient of sum(R * out)} by backward."""
    out, cache = forward(*inputs.values())
    assert out.shape == R.shape
    return dict(zip(inputs, as_tuple(backward(R, cache)), strict=True))


def errors(grads, inputs, forward, R):
    """{name: relative error of its gradient} against complex steps."""
    numerical = gradcheck.complex_step_gradient(lambda moved: (R * forward(*moved.values())[0]).sum(), inputs)
    assert all(grads[name].shape == inputs[name].shape for name in inputs)
    return {name: gradcheck.relative_error(grads[name], numerical[name]) for name in inputs}


def random_like(out, seed=1):
    return np.random.default_rng([9, seed]).standard_normal(out.shape).astype(out.dtype)


@st.composite
def geometries(draw, pool=False, torch_padding=False):
    """size, stride, pad (pairs), and h, w of images that such windows divide: gaps, overlaps, one pixel, one window."""
    numbers = []
    for _ in range(2):
        k, s, n_windows = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
        p = draw(st.integers(0, k // 2 if torch_padding else k - 1 if pool else k + 1))
        numbers.append((k, s, p, (n_windows - 1) * s + k - 2 * p))
        assume(numbers[-1][3] > 0)
    return tuple(zip(*numbers))


def drawn(geometry, n, c, f, seed):
    """Random images, W, b and the R of an output with f channels."""
    rng, (size, stride, pad, sides) = np.random.default_rng(seed), geometry
    h_out, w_out = ((side + 2 * p - k) // s + 1 for side, k, s, p in zip(sides, size, stride, pad))
    return (rng.standard_normal(shape) for shape in [(n, c, *sides), (f, c, *size), (f, 1), (n, f, h_out, w_out)])


# -------------------------------------------------------------------------------------------------------- naive loops


def naive(images, size, stride, pad, R, compute, fill=0.0):
    """compute(window (c, kh, kw), g (f,)) -> out (f,), gradient of the window; window by window, for sum(R * out)."""
    border = [(0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])]
    padded, out = np.pad(images, border, constant_values=fill), np.zeros(R.shape)
    G = np.zeros(padded.shape)
    for i, u, v in np.ndindex(len(R), *R.shape[2:]):
        rows, columns = (slice(at * step, at * step + k) for at, step, k in zip((u, v), stride, size))
        out[i, :, u, v], G_window = compute(padded[i, :, rows, columns], R[i, :, u, v])
        G[i, :, rows, columns] += G_window
    return out, G[:, :, pad[0] : G.shape[2] - pad[0], pad[1] : G.shape[3] - pad[1]]


@examples(300)
@given(geometry=geometries(), n=counts, c=counts, f=counts, seed=seeds, order=memory_orders, order_G=memory_orders)
def test_conv_is_the_naive_loop(geometry, n, c, f, seed, order, order_G):
    (size, stride, pad, _), (images, W, b, R) = geometry, drawn(geometry, n, c, f, seed)
    grad_W, grad_b = np.zeros_like(W), np.zeros_like(b)

    def compute(window, g):
        for filter_ in range(f):
            grad_W[filter_] += g[filter_] * window
            grad_b[filter_] += g[filter_]
        return [(W[filter_] * window).sum() + b[filter_, 0] for filter_ in range(f)], sum(g[k] * W[k] for k in range(f))

    expected = *naive(images, size, stride, pad, R, compute), grad_W, grad_b
    out, cache = layers.conv_forward(in_order(images, order), W, b, stride, pad)
    for a, b_ in zip((out, *layers.conv_backward(in_order(R, order_G), cache)), expected, strict=True):
        assert_close(a, b_)


@pytest.mark.parametrize("kind", POOLING)
@examples(300)
@given(
    geometry=geometries(pool=True), n=counts, c=counts, seed=seeds, ties=st.booleans(), order=memory_orders,
    order_G=memory_orders,
)  # fmt: skip
def test_pooling_is_the_naive_loop(kind, geometry, n, c, seed, ties, order, order_G):
    (size, stride, pad, _), (images, _, _, R) = geometry, drawn(geometry, n, c, c, seed)
    images = (images - 1).round() if ties else images - 1

    def largest(window, g):
        G = np.zeros(window.shape)
        for channel in range(c):
            first = np.unravel_index(window[channel].argmax(), size)  # the first of equals, row by row
            G[channel][first] = g[channel]
        return window.max(axis=(1, 2)), G

    def mean(window, g):
        return window.mean(axis=(1, 2)), np.ones(window.shape) * g[:, None, None] / (size[0] * size[1])

    expected = naive(images, size, stride, pad, R, *((largest, -np.inf) if kind == "max" else (mean, 0.0)))
    forward, backward = POOLING[kind]
    out, cache = forward(in_order(images, order), size, stride, pad)
    assert_close(out, expected[0])
    assert_close(backward(in_order(R, order_G), cache), expected[1])


@examples(50)
@given(n=counts, c=counts, h=st.integers(1, 4), w=st.integers(1, 4), seed=seeds, order=memory_orders, eps=some_eps)
def test_batch_norm_of_channels_is_the_naive_loop(n, c, h, w, seed, order, eps):
    assume(n * h * w >= 4)
    rng = np.random.default_rng(seed)
    images, R = rng.standard_normal((2, n, c, h, w))
    gamma, beta = rng.standard_normal((2, c, 1))
    out, cache = layers.channel_batch_norm_forward(in_order(images, order), gamma, beta, eps=eps)
    G, grad_gamma, grad_beta = layers.channel_batch_norm_backward(in_order(R, order), cache)
    for i in range(c):
        values, g = images[:, i].ravel(), R[:, i].ravel()
        S_hat = (values - values.mean()) / np.sqrt(values.var() + eps)
        assert_close((cache["mu"][i], cache["v"][i]), ([values.mean()], [values.var()]))
        assert_close(out[:, i].ravel(), gamma[i] * S_hat + beta[i])
        assert_close((grad_gamma[i], grad_beta[i]), ([(g * S_hat).sum()], [g.sum()]), 1e-11)
        # the Jacobian of S_hat, entry by entry: d S_hat_p / d s_q = (delta_pq - 1/n - S_hat_p S_hat_q / n) / sigma
        jacobian = (np.eye(len(g)) - 1 / len(g) - np.outer(S_hat, S_hat) / len(g)) / np.sqrt(values.var() + eps)
        error = G[:, i].ravel() - gamma[i] * (jacobian.T @ g)
        assert np.linalg.norm(error) <= 1e-12 * np.linalg.norm(gamma[i] * g) / np.sqrt(values.var() + eps)


@examples(50)
@given(K=st.integers(2, 6), n=st.integers(1, 6), seed=seeds)
def test_losses_are_the_naive_loops(K, n, seed):
    rng = np.random.default_rng(seed)
    S, y, svm, softmax = 2 * rng.standard_normal((K, n)), rng.integers(K, size=n), 0.0, 0.0
    for j in range(n):
        svm += sum(max(0.0, S[k, j] - S[y[j], j] + 1) for k in range(K) if k != y[j]) / n
        softmax -= np.log(np.exp(S[y[j], j]) / sum(np.exp(S[k, j]) for k in range(K))) / n
    Y = kbn.one_hot(y, K, np.float64)
    assert layers.svm_loss(S, Y)[0] == pytest.approx(svm, rel=1e-12)
    assert layers.softmax_loss(S, Y)[0] == pytest.approx(softmax, rel=1e-12)


# ------------------------------------------------------------------------------------------------------ complex steps


@every_kind
def test_gradients_are_those_of_complex_steps_and_an_error_of_a_thousandth_is_caught(kind):
    for seed in range(3):
        inputs, forward, backward = case(kind, seed)
        R = random_like(forward(*inputs.values())[0])
        grads = grads_of(inputs, forward, backward, R)
        found = errors(grads, inputs, forward, R)
        assert max(found.values()) <= BAR, found
    for name in inputs:
        for wrong in (1.001 * grads[name], gradcheck.plant(grads[name], False)):
            found = errors({**grads, name: wrong}, inputs, forward, R)
            assert {key for key, error in found.items() if not error <= BAR} == {name}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("K, n", [(2, 1), (4, 5), (10, 3)])
def test_gradients_of_losses_are_those_of_complex_steps(loss, K, n):
    rng = np.random.default_rng(K)
    S, y = {"S": 2 * rng.standard_normal((K, n))}, rng.integers(K, size=n)
    y[0] = S["S"][:, 0].argmin()  # else no score of a single column may be within the margin
    Y = kbn.one_hot(y, K, np.float64)
    numerical = gradcheck.complex_step_gradient(lambda moved: loss(moved["S"], Y)[0], S)["S"]
    _, G = loss(S["S"], Y)
    assert gradcheck.relative_error(G, numerical) <= BAR
    for wrong in (1.001 * G, gradcheck.plant(G, False)):
        assert not gradcheck.relative_error(wrong, numerical) <= BAR


# --------------------------------------------------------------------------------------------------- PyTorch as oracle


@needs_torch
@examples(100)
@given(geometry=geometries(torch_padding=True), n=counts, c=counts, f=counts, seed=seeds, ties=st.booleans())
def test_conv_and_pooling_are_pytorchs(geometry, n, c, f, seed, ties):
    (size, stride, pad, _), (images, W, b, R) = geometry, drawn(geometry, n, c, f, seed)
    images = images.round() if ties else images
    tensors = [torch.tensor(array, requires_grad=True) for array in (images, W, b)]

    def agree(out, grads, expected, R):
        expected_grads = torch.autograd.grad(expected, tensors[: len(grads)], torch.from_numpy(R))
        for a, b in zip((out, *grads), (expected.detach(), *expected_grads), strict=True):
            assert_close(a, b.numpy())

    out, cache = layers.conv_forward(images, W, b, stride, pad)
    expected = torch.nn.functional.conv2d(tensors[0], tensors[1], tensors[2][:, 0], stride, pad)
    agree(out, layers.conv_backward(R, cache), expected, R)
    R = np.repeat(R[:, :1], c, axis=1) * np.arange(1, c + 1)[:, None, None]
    for kind, (forward, backward) in POOLING.items():
        out, cache = forward(images, size, stride, pad)
        expected = getattr(torch.nn.functional, f"{kind}_pool2d")(tensors[0], size, stride, pad)
        agree(out, [backward(R, cache)], expected, R)


# ------------------------------------------------------------------------------------------------ batch normalization


@examples(100)
@given(m=st.integers(1, 6), n=st.integers(4, 40), seed=seeds, eps=some_eps)
def test_staged_batch_norm_is_the_closed_form_and_equations_31_to_37(m, n, seed, eps):
    rng = np.random.default_rng(seed)
    S, G = 3 * rng.standard_normal((2, m, n)) + 2
    gamma, beta = rng.standard_normal((2, m, 1))
    _, cache = layers.batch_norm_forward(S, gamma, beta, eps=eps)
    assume(cache["v"].min() > 0.1)
    closed, staged = layers.batch_norm_backward(G, cache), layers.batch_norm_backward_staged(G, cache)
    size = np.abs(gamma * G * (cache["v"] + eps) ** -0.5).max()  # dJ/dS is what remains of this without its mean
    assert np.abs(closed[0] - staged[0]).max() <= 1e-13 * size
    assert np.abs(closed[0] - kbn.batch_norm_backpass(gamma * G, S, cache["mu"], cache["v"], eps)).max() <= 1e-13 * size
    for a, b in zip(closed[1:], staged[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_batch_norm_of_one_example_is_beta():
    gamma, beta = np.random.default_rng(0).standard_normal((2, 4, 1))
    out, cache = layers.batch_norm_forward(np.full((4, 1), 3.0), gamma, beta)
    assert np.array_equal(out, beta) and not layers.batch_norm_backward(np.ones((4, 1)), cache)[0].any()


@pytest.mark.parametrize("forward, backward, images", [(*BN, False), (*STAGED, False), (*CHANNEL_BN, True)])
def test_prediction_normalises_with_given_statistics(forward, backward, images):
    rng = np.random.default_rng(2)
    (gamma, beta, mu), v = rng.standard_normal((3, 4, 1)), rng.uniform(0.5, 2, (4, 1))
    X = 3 + rng.standard_normal((6, 4, 2, 3) if images else (4, 6)) * (gamma[:, :, None] if images else gamma)
    rows = layers.channel_rows if images else np.asarray
    out, cache = forward(X, gamma, beta, mu, v, 0.1)
    assert_close(rows(out), gamma * (rows(X) - mu) / np.sqrt(v + 0.1) + beta)
    one, first = (X[:1], out[:1]) if images else (X[:, :1], out[:, :1])
    np.testing.assert_allclose(forward(one, gamma, beta, mu, v, 0.1)[0], first, rtol=1e-13)
    assert "mu" not in cache and "v" not in cache
    with refused("own statistics: call batch_norm_forward without mu and v"):
        backward(X, cache)
    out, cache = forward(X, gamma * 0 + 1, beta * 0)
    assert_close(cache["mu"], rows(X).mean(axis=1, keepdims=True))
    assert_close(cache["v"], rows(X).var(axis=1, keepdims=True))  # divided by n, without eps
    np.testing.assert_allclose(rows(out).mean(axis=1), 0, atol=1e-14)
    np.testing.assert_allclose(rows(out).var(axis=1), 1, rtol=1e-12)


# --------------------------------------------------------------------------------------- the promises of every layer


@every_kind
def test_float32_stays_float32(kind):
    inputs, forward, backward = case(kind, dtype=np.float32)
    out, cache = forward(*inputs.values())
    grads = grads_of(inputs, forward, backward, random_like(out))
    left = cache.values() if isinstance(cache, dict) else as_tuple(cache)
    arrays = [out, *grads.values(), *(item for item in left if hasattr(item, "dtype"))]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    _, exact, _ = case(kind)
    assert_close(out, exact(*(array.astype(np.float64) for array in inputs.values()))[0], 1e-5)


@every_kind
def test_inputs_and_caches_are_unchanged(kind):
    inputs, forward, backward = case(kind)
    R = random_like(forward(*inputs.values())[0])
    before = [array.copy() for array in (*inputs.values(), R)]
    for array in (*inputs.values(), R):
        array.flags.writeable = False
    out, cache = forward(*inputs.values())
    assert not any(np.shares_memory(out, array) for array in inputs.values())
    for order in ("examples last", "examples first"):  # in the first order, padded copies could have been views
        turned = in_order(R, order) if R.ndim == 4 else R.copy()
        first, again = (as_tuple(backward(turned, cache)) for _ in range(2))
        for a, b in zip(first, again, strict=True):
            assert np.array_equal(a, b) and not np.shares_memory(a, turned)
            assert a.ndim < 4 or a.shape != inputs["images"].shape or np.argsort(a.strides).tolist() == [0, 3, 2, 1]
        assert np.array_equal(turned, R)
    assert all(np.array_equal(array, copy) for array, copy in zip((*inputs.values(), R), before, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_keep_float32_and_their_inputs(loss):
    rng = np.random.default_rng(4)
    S, Y = rng.standard_normal((5, 7)).astype(np.float32), kbn.one_hot(rng.integers(5, size=7), 5)
    before = S.copy(), Y.copy()
    S.flags.writeable = Y.flags.writeable = False
    value, G = loss(S, Y)
    assert value.dtype == G.dtype == np.float32 and np.array_equal(S, before[0]) and np.array_equal(Y, before[1])


@pytest.mark.parametrize("backward, kind", [(layers.affine_backward, "affine"), (layers.conv_backward, "conv")])
def test_other_gradients_are_the_same_without_that_of_the_input(backward, kind):
    inputs, forward, _ = case(kind)
    out, cache = forward(*inputs.values())
    G, *expected = backward(random_like(out), cache)
    none, *grads = backward(random_like(out), cache, input_gradient=False)
    assert none is None and G is not None and all(np.array_equal(a, b) for a, b in zip(grads, expected, strict=True))


def test_columns_and_channels_are_views_of_what_layers_return():
    rng = np.random.default_rng(5)
    images, W, b = rng.standard_normal((4, 3, 6, 6)), rng.standard_normal((5, 3, 3, 3)), np.zeros((5, 1))
    out, _ = layers.conv_forward(images, W, b, pad=1)
    normalised, _ = layers.channel_batch_norm_forward(out, b + 1, b)
    active, _ = layers.relu_forward(normalised)
    pooled, averaged = layers.max_pool_forward(active, 2, 2)[0], layers.avg_pool_forward(out, 3, 1)[0]
    for stage in (out, normalised, active, pooled, averaged):
        X = stage.reshape(4, -1).T
        assert np.shares_memory(layers.channel_rows(stage), stage)
        assert np.shares_memory(layers.pad_images(stage, (0, 0)), stage)
        assert np.shares_memory(X, stage) and X.flags.c_contiguous
        assert np.shares_memory(X.T.reshape(stage.shape), X)


def test_convolution_of_many_bands_is_that_of_one(monkeypatch):
    inputs, forward, backward = case("conv")
    R = random_like(forward(*inputs.values())[0])
    whole = grads_of(inputs, forward, backward, R)
    monkeypatch.setattr(layers, "bands", lambda view: [slice(i, i + 1) for i in range(view.shape[3])])
    for name, grad in grads_of(inputs, forward, backward, R).items():
        assert_close(grad, whole[name])
    monkeypatch.undo()
    rows = np.concatenate([np.arange(100)[band] for band in layers.bands(np.zeros((3, 5, 5, 100, 90, 9)))])
    assert layers.bands(np.zeros((1, 1, 1, 3, 2, 2)), size=3) == [slice(i, i + 1) for i in range(3)]  # a row is more than size
    assert np.array_equal(rows, np.arange(100)) and len(layers.bands(np.zeros((3, 5, 5, 100, 90, 9)))) > 10


# ------------------------------------------------------------------------------------------------------- known results


def test_asymmetric_filter_is_not_flipped():
    images = np.zeros((1, 1, 3, 4))
    images[0, 0, 0, 1], images[0, 0, 2, 3] = 1, 10
    W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[None, None]
    assert np.array_equal(layers.conv_forward(images, W, np.array([[0.5]]))[0][0, 0], [[2.5, 1.5], [0.5, 60.5]])


def test_first_of_equal_maxima_gets_the_gradient():
    images = np.array([[[[1.0, 3, 2, 2], [3, 3, 2, 2]]]])
    _, cache = layers.max_pool_forward(images, 2, 2)
    G = layers.max_pool_backward(np.array([[[[5.0, 7.0]]]]), cache)
    assert np.array_equal(G[0, 0], [[0, 5, 7, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("i, j", list(np.ndindex(2, 2)))
def test_max_pooling_of_nan_is_nan(i, j):
    images = np.ones((1, 1, 2, 2))
    images[0, 0, i, j] = np.nan
    assert np.isnan(layers.max_pool_forward(images, 2, 2)[0]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_does_not_overflow(dtype):
    with np.errstate(all="raise"):
        X, cache = layers.sigmoid_forward(np.array([[-1e30, -1000, 0, 1000, 1e30]], dtype))
        G = layers.sigmoid_backward(np.ones_like(X), cache)
    assert np.array_equal(X, [[0, 0, 0.5, 1, 1]]) and np.array_equal(G, [[0, 0, 0.25, 0, 0]])


def test_relu_and_its_gradient_are_0_at_0():
    out, cache = layers.relu_forward(np.array([[-2.0, 0.0, 3.0]]))
    assert np.array_equal(out, [[0, 0, 3]])
    assert np.array_equal(layers.relu_backward(np.full((1, 3), 7.0), cache), [[0, 0, 7]])


def test_svm_loss_by_hand():
    S = np.array([[3.0, 1.0, -2.0], [1.5, 2.0, -2.0], [2.0, 0.5, -2.0]])  # column 0: 2.0 is at the margin of 3.0
    loss, G = layers.svm_loss(S, kbn.one_hot(np.array([0, 2, 1]), 3))
    assert loss == pytest.approx((0 + (1.5 + 2.5) + (1 + 1)) / 3, rel=1e-15)
    np.testing.assert_allclose(3 * G, [[0, 1, 1], [0, 1, -2], [0, -2, 1]], rtol=1e-15)


def test_softmax_loss_of_huge_scores_is_finite():
    loss, G = layers.softmax_loss(np.array([[1e4, -1e4], [0.0, 0.0]]), np.array([[1, 1], [0, 0]]))
    assert loss == pytest.approx(5e3) and np.array_equal(G, [[0, -0.5], [0, 0.5]])


# ----------------------------------------------------------------------------------------------------- what is refused

IMAGES, W, B = np.zeros((2, 3, 7, 8)), np.zeros((4, 3, 2, 2)), np.zeros((4, 1))
X, COLUMN = np.zeros((4, 6)), np.zeros((4, 1))
ONES = np.eye(4)[:, [0, 1, 2, 3, 0, 1]]


@pytest.mark.parametrize("words, function, arguments", [
    ("2 x 2, stride 2 x 2 and padding 0 x 0, do not divide images of 7 x 8", layers.conv_forward, (IMAGES, W, B, 2)),
    ("stride 5 x 3 and padding 0 x 1, do not divide images of 7 x 8", layers.conv_forward, (IMAGES, W, B, (5, 3), (0, 1))),
    ("windows of 3 x 3, .* do not divide images of 7 x 8", layers.max_pool_forward, (IMAGES, 3, 2)),
    ("windows of 2 x 3, .* do not divide images of 7 x 8", layers.avg_pool_forward, (IMAGES, (2, 3), 3, (1, 0))),
    ("windows of 9 x 9, .* do not divide images of 7 x 8", layers.avg_pool_forward, (IMAGES, 9, 1)),
    ("windows of 7 x 9, .* do not divide images of 7 x 8", layers.max_pool_forward, (IMAGES, (7, 9), 1)),
    (r"pad \(2, 2\) must be less than size \(2, 2\)", layers.max_pool_forward, (IMAGES, 2, 1, 2)),
    (r"pad \(2, 2\) must be less than size \(3, 2\)", layers.max_pool_forward, (IMAGES, (3, 2), 1, (2, 2))),
    ("stride must be a whole number from 1.* not 0", layers.conv_forward, (IMAGES, W, B, 0)),
    ("stride must be a whole number from 1.* not 1.0", layers.conv_forward, (IMAGES, W, B, 1.0)),
    ("pad must be a whole number from 0.* not -1", layers.conv_forward, (IMAGES, W, B, 1, -1)),
    (r"size must be .* not \(2, 2, 2\)", layers.avg_pool_forward, (IMAGES, (2, 2, 2), 1)),
    (r"size must be a whole number from 1.* not \(2, 0\)", layers.max_pool_forward, (IMAGES, (2, 0), 1)),
    (r"images must be \(n, c, h, w\), not \(3, 7, 8\)", layers.max_pool_forward, (IMAGES[0], 2, 1)),
    (r"images \(2, 2, 7, 8\), W \(4, 3, 2, 2\) and b \(4, 1\) do not fit", layers.conv_forward, (IMAGES[:, :2], W, B)),
    (r"b \(1, 1\) do not fit", layers.conv_forward, (IMAGES, W, B[:1])),
    (r"b \(4,\) do not fit", layers.conv_forward, (IMAGES, W, B[:, 0])),
    (r"W \(3, 2, 2\) and b", layers.conv_forward, (IMAGES, W[0], B)),
    (r"X \(4, 6\), W \(5, 3\) and b \(5, 1\) do not fit", layers.affine_forward, (X, np.zeros((5, 3)), np.zeros((5, 1)))),
    (r"b \(1, 1\) do not fit", layers.affine_forward, (X, np.zeros((5, 4)), np.zeros((1, 1)))),
    (r"X \(2, 3, 7, 8\)", layers.affine_forward, (IMAGES, np.zeros((5, 2)), np.zeros((5, 1)))),
    (r"the mask \(4, 1\) does not fit what it masks, \(4, 6\)", layers.dropout_forward, (X, COLUMN)),
    (r"S \(4, 6\) does not fit gamma \(1, 1\)", layers.batch_norm_forward, (X, COLUMN[:1], COLUMN)),
    (r"beta \(4,\)", layers.batch_norm_forward, (X, COLUMN, COLUMN[:, 0])),
    (r"mu \(1, 1\), v \(4, 1\)", layers.batch_norm_forward, (X, COLUMN, COLUMN, COLUMN[:1], COLUMN)),
    (r"S \(3, 112\) does not fit gamma \(4, 1\)", layers.channel_batch_norm_forward, (IMAGES, COLUMN, COLUMN)),
    *((words, loss, (X, Y)) for loss in LOSSES for words, Y in [
        (r"scores \(4, 6\) and one-hot labels \(5, 6\) must both be \(K, n\)", np.zeros((5, 6))),
        (r"one-hot labels \(6,\) must both be", np.zeros(6, int)), ("each column of Y must hold one 1", np.zeros((4, 6))),
        ("each column of Y must hold one 1", 0.5 * ONES + 0.125), ("each column of Y must hold one 1", 1 - ONES),
    ]),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_with_their_sizes(words, function, arguments):
    with refused(words):
        function(*arguments)
