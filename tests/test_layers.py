"""layers.py against complex steps, naive loops, PyTorch and kbn.py. No dataset; all draws are seeded.

Every gradient is that of sum(R * out), R random: with a constant R, BN passes nothing back and average pooling cannot
tell one pixel from another, whatever backward does.
"""

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gradcheck
import kbn
import layers

try:
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)  # the arrays are small: more threads only wait for each other
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is the oracle here: pip install torch==2.13.0")
seeds = st.integers(0, 2**32 - 1)
memory_orders = st.sampled_from(["examples last", "examples first", "strided"])
BAR = gradcheck.BARS["relative"]["complex"]


def examples(number):
    return settings(max_examples=number, deadline=None, derandomize=True, database=None)


# ------------------------------------------------------------------------------------------------------------ material


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

    X, m = draw(4, 7), {"gamma": draw(4, 1) + 1, "beta": draw(4, 1)}
    images, c = draw(5, 3, 6, 8), {"gamma": draw(3, 1) + 1, "beta": draw(3, 1)}
    mask = ((rng.random((4, 7)) < 0.7) / 0.7).astype(dtype)
    return {
        "affine": ({"X": X, "W": draw(6, 4), "b": draw(6, 1)}, layers.affine_forward, layers.affine_backward),
        "relu": ({"S": X}, layers.relu_forward, layers.relu_backward),
        "sigmoid": ({"S": X}, layers.sigmoid_forward, layers.sigmoid_backward),
        "tanh": ({"S": X}, layers.tanh_forward, layers.tanh_backward),
        "dropout": ({"X": X}, partial(layers.dropout_forward, mask=mask), layers.dropout_backward),
        "batch norm": ({"S": X, **m}, partial(layers.batch_norm_forward, eps=np.float64(1e-3)), layers.batch_norm_backward),
        "batch norm, staged": ({"S": X, **m}, layers.batch_norm_forward, layers.batch_norm_backward_staged),
        "batch norm of channels": (
            {"images": images[:, :, :2, :3], **c},
            layers.channel_batch_norm_forward,
            layers.channel_batch_norm_backward,
        ),
        "conv": (
            {"images": images, "W": draw(4, 3, 4, 3), "b": draw(4, 1)},
            partial(layers.conv_forward, stride=(2, 3), pad=(1, 2)),
            layers.conv_backward,
        ),
        "max pool": (
            {"images": images},
            partial(layers.max_pool_forward, size=(4, 3), stride=(2, 1), pad=(2, 1)),
            layers.max_pool_backward,
        ),
        "avg pool": (
            {"images": images},
            partial(layers.avg_pool_forward, size=(4, 3), stride=(2, 1), pad=(2, 1)),
            layers.avg_pool_backward,
        ),
    }[kind]


KINDS = [
    "affine",
    "relu",
    "sigmoid",
    "tanh",
    "dropout",
    "batch norm",
    "batch norm, staged",
    "batch norm of channels",
    "conv",
    "max pool",
    "avg pool",
]
LOSSES = [layers.softmax_loss, layers.svm_loss]


def grads_of(inputs, forward, backward, R):
    """{name: gradient of sum(R * out)} by backward."""
    out, cache = forward(*inputs.values())
    assert out.shape == R.shape
    grads = backward(R, cache)
    return dict(zip(inputs, grads if isinstance(grads, tuple) else (grads,), strict=True))


def errors(grads, inputs, forward, R):
    """{name: relative error of its gradient} against complex steps."""
    numerical = gradcheck.complex_step_gradient(lambda moved: (R * forward(*moved.values())[0]).sum(), inputs)
    for name in inputs:
        assert grads[name].shape == inputs[name].shape
    return {name: gradcheck.relative_error(grads[name], numerical[name]) for name in inputs}


def random_like(out, seed=1):
    return np.random.default_rng([9, seed]).standard_normal(out.shape).astype(out.dtype)


def assert_close(actual, expected, tolerance=1e-12):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


@st.composite
def geometries(draw, pool=False, torch_padding=False):
    """size, stride, pad (pairs), and h, w of images that such windows divide: gaps, overlaps, one pixel, one window."""
    size, stride, pad, sides = [], [], [], []
    for _ in range(2):
        k, s, n_windows = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
        p = draw(st.integers(0, k // 2 if torch_padding else k - 1 if pool else k + 1))
        side = (n_windows - 1) * s + k - 2 * p
        assume(side > 0)
        for numbers, number in zip((size, stride, pad, sides), (k, s, p, side)):
            numbers.append(number)
    return tuple(size), tuple(stride), tuple(pad), tuple(sides)


counts = st.integers(1, 3)


# ---------------------------------------------------------------------------------------------------- naive oracles


def naive_windows(images, size, stride, pad, fill):
    """Pad images, and yield each window's place: example, output row and column, and the slices it covers."""
    n, _, h, w = images.shape
    padded = np.full((n, images.shape[1], h + 2 * pad[0], w + 2 * pad[1]), fill)
    padded[:, :, pad[0] : pad[0] + h, pad[1] : pad[1] + w] = images
    tops = range(0, padded.shape[2] - size[0] + 1, stride[0])
    lefts = range(0, padded.shape[3] - size[1] + 1, stride[1])
    places = [
        (i, (u, v), (slice(top, top + size[0]), slice(left, left + size[1])))
        for i in range(n)
        for u, top in enumerate(tops)
        for v, left in enumerate(lefts)
    ]
    return padded, places, (len(tops), len(lefts))


def naive_crop(padded, pad):
    return padded[:, :, pad[0] : padded.shape[2] - pad[0], pad[1] : padded.shape[3] - pad[1]]


def naive_conv(images, W, b, stride, pad, R):
    """The convolution, and the gradients of sum(R * out)."""
    padded, places, sides = naive_windows(images, W.shape[2:], stride, pad, 0.0)
    out, G_padded, grad_W, grad_b = np.zeros((len(images), len(W), *sides)), 0 * padded, 0 * W, 0 * b
    for i, (u, v), (rows, columns) in places:
        for filter_ in range(len(W)):
            window, g = padded[i, :, rows, columns], R[i, filter_, u, v]
            out[i, filter_, u, v] = (window * W[filter_]).sum() + b[filter_, 0]
            G_padded[i, :, rows, columns] += g * W[filter_]
            grad_W[filter_] += g * window
            grad_b[filter_] += g
    return out, naive_crop(G_padded, pad), grad_W, grad_b


def naive_pool(images, size, stride, pad, R, largest):
    """Max or average pooling, and the gradient of sum(R * out); the first of equal maxima has it all."""
    padded, places, sides = naive_windows(images, size, stride, pad, -np.inf if largest else 0.0)
    out, G_padded = np.zeros((*images.shape[:2], *sides)), np.zeros(padded.shape)
    for i, (u, v), (rows, columns) in places:
        for channel in range(images.shape[1]):
            window, g = padded[i, channel, rows, columns], R[i, channel, u, v]
            if largest:
                first = np.unravel_index(window.argmax(), window.shape)
                out[i, channel, u, v] = window[first]
                G_padded[i, channel, rows, columns][first] += g
            else:
                out[i, channel, u, v] = window.sum() / (size[0] * size[1])
                G_padded[i, channel, rows, columns] += g / (size[0] * size[1])
    return out, naive_crop(G_padded, pad)


def random_outputs(images, f, geometry, rng):
    size, stride, pad, (h, w) = geometry
    return rng.standard_normal(
        (len(images), f, (h + 2 * pad[0] - size[0]) // stride[0] + 1, (w + 2 * pad[1] - size[1]) // stride[1] + 1)
    )


@examples(400)
@given(geometry=geometries(), n=counts, c=counts, f=counts, seed=seeds, order=memory_orders, order_G=memory_orders)
def test_conv_is_the_naive_loop(geometry, n, c, f, seed, order, order_G):
    rng, (size, stride, pad, sides) = np.random.default_rng(seed), geometry
    images, W, b = rng.standard_normal((n, c, *sides)), rng.standard_normal((f, c, *size)), rng.standard_normal((f, 1))
    R = random_outputs(images, f, geometry, rng)
    out, cache = layers.conv_forward(in_order(images, order), W, b, stride, pad)
    for actual, expected in zip(
        (out, *layers.conv_backward(in_order(R, order_G), cache)), naive_conv(images, W, b, stride, pad, R), strict=True
    ):
        assert_close(actual, expected)


@pytest.mark.parametrize("largest", [True, False])
@examples(400)
@given(
    geometry=geometries(pool=True),
    n=counts,
    c=counts,
    seed=seeds,
    ties=st.booleans(),
    order=memory_orders,
    order_G=memory_orders,
)
def test_pooling_is_the_naive_loop(largest, geometry, n, c, seed, ties, order, order_G):
    rng, (size, stride, pad, sides) = np.random.default_rng(seed), geometry
    images = rng.standard_normal((n, c, *sides)) - 1
    images = images.round() if ties else images
    R = random_outputs(images, c, geometry, rng)
    forward, backward = (
        (layers.max_pool_forward, layers.max_pool_backward) if largest else (layers.avg_pool_forward, layers.avg_pool_backward)
    )
    out, cache = forward(in_order(images, order), size, stride, pad)
    for actual, expected in zip(
        (out, backward(in_order(R, order_G), cache)), naive_pool(images, size, stride, pad, R, largest), strict=True
    ):
        assert_close(actual, expected)


@examples(50)
@given(
    n=counts,
    c=counts,
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    seed=seeds,
    order=memory_orders,
    eps=st.sampled_from([kbn.EPS, 1e-5, 0.1]),
)
def test_batch_norm_of_channels_is_the_naive_loop(n, c, h, w, seed, order, eps):
    assume(n * h * w >= 4)
    rng = np.random.default_rng(seed)
    images, R = rng.standard_normal((2, n, c, h, w))
    gamma, beta = rng.standard_normal((2, c, 1))
    out, cache = layers.channel_batch_norm_forward(in_order(images, order), gamma, beta, eps=eps)
    G, grad_gamma, grad_beta = layers.channel_batch_norm_backward(in_order(R, order), cache)
    for i in range(c):
        values, g = images[:, i].ravel(), R[:, i].ravel()
        mu, v = values.mean(), values.var()
        S_hat = (values - mu) / np.sqrt(v + eps)
        assert_close(cache["mu"][i], [mu])
        assert_close(cache["v"][i], [v])
        assert_close(out[:, i].ravel(), gamma[i] * S_hat + beta[i])
        assert_close(grad_gamma[i], [(g * S_hat).sum()], 1e-11)
        assert_close(grad_beta[i], [g.sum()], 1e-11)
        # the Jacobian of S_hat, entry by entry: d S_hat_p / d s_q = (delta_pq - 1/n - S_hat_p S_hat_q / n) / sigma
        jacobian = (np.eye(len(g)) - 1 / len(g) - np.outer(S_hat, S_hat) / len(g)) / np.sqrt(v + eps)
        error = G[:, i].ravel() - gamma[i] * (jacobian.T @ g)
        assert np.linalg.norm(error) <= 1e-12 * np.linalg.norm(gamma[i] * g) / np.sqrt(v + eps)


# ------------------------------------------------------------------------------------------------------ complex steps


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_complex_steps(kind, seed):
    inputs, forward, backward = case(kind, seed)
    R = random_like(forward(*inputs.values())[0])
    found = errors(grads_of(inputs, forward, backward, R), inputs, forward, R)
    assert max(found.values()) <= BAR, found


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_thousandth_in_any_gradient_is_caught(kind):
    inputs, forward, backward = case(kind)
    R = random_like(forward(*inputs.values())[0])
    grads = grads_of(inputs, forward, backward, R)
    for name in inputs:
        for wrong in (1.001 * grads[name], gradcheck.plant(grads[name], False)):
            found = errors({**grads, name: wrong}, inputs, forward, R)
            assert {key for key, error in found.items() if not error <= BAR} == {name}


@examples(100)
@given(geometry=geometries(), n=counts, c=counts, f=counts, seed=seeds)
def test_gradients_of_any_convolution(geometry, n, c, f, seed):
    rng, (size, stride, pad, sides) = np.random.default_rng(seed), geometry
    inputs = {
        "images": rng.standard_normal((n, c, *sides)),
        "W": rng.standard_normal((f, c, *size)),
        "b": rng.standard_normal((f, 1)),
    }
    R = random_outputs(inputs["images"], f, geometry, rng)
    forward = partial(layers.conv_forward, stride=stride, pad=pad)
    grads = grads_of(inputs, forward, layers.conv_backward, R)
    for name, error in errors(grads, inputs, forward, R).items():
        assert error <= BAR or np.isnan(error) and not grads[name].any()  # nan: both are 0, no window holds a pixel


@pytest.mark.parametrize(
    "forward, backward",
    [(layers.max_pool_forward, layers.max_pool_backward), (layers.avg_pool_forward, layers.avg_pool_backward)],
)
@examples(100)
@given(geometry=geometries(pool=True), n=counts, c=counts, seed=seeds)
def test_gradients_of_any_pooling(forward, backward, geometry, n, c, seed):
    rng, (size, stride, pad, sides) = np.random.default_rng(seed), geometry
    inputs = {"images": rng.standard_normal((n, c, *sides))}
    R = random_outputs(inputs["images"], c, geometry, rng)
    forward = partial(forward, size=size, stride=stride, pad=pad)
    assert errors(grads_of(inputs, forward, backward, R), inputs, forward, R)["images"] <= BAR


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("K, n", [(2, 1), (4, 5), (10, 3)])
def test_gradients_of_the_losses(loss, K, n):
    rng = np.random.default_rng(K)
    S, y = {"S": 2 * rng.standard_normal((K, n))}, rng.integers(K, size=n)
    y[0] = S["S"][:, 0].argmin()  # else no score of a single column may be within the margin
    numerical = gradcheck.complex_step_gradient(lambda moved: loss(moved["S"], y)[0], S)["S"]
    _, G = loss(S["S"], y)
    assert gradcheck.relative_error(G, numerical) <= BAR
    for wrong in (1.001 * G, gradcheck.plant(G, False)):
        assert not gradcheck.relative_error(wrong, numerical) <= BAR


# --------------------------------------------------------------------------------------------------- PyTorch as oracle


def torch_grads(out, inputs, R):
    """The output and the gradients of sum(R * out), as arrays."""
    grads = torch.autograd.grad(out, inputs, torch.from_numpy(np.ascontiguousarray(R)))
    return out.detach().numpy(), *(grad.numpy() for grad in grads)


def tensors(*arrays):
    return [torch.tensor(np.ascontiguousarray(array), requires_grad=True) for array in arrays]


@needs_torch
@examples(100)
@given(geometry=geometries(), n=counts, c=counts, f=counts, seed=seeds)
def test_conv_is_pytorchs(geometry, n, c, f, seed):
    rng, (size, stride, pad, sides) = np.random.default_rng(seed), geometry
    images, W, b = rng.standard_normal((n, c, *sides)), rng.standard_normal((f, c, *size)), rng.standard_normal((f, 1))
    R = random_outputs(images, f, geometry, rng)
    out, cache = layers.conv_forward(images, W, b, stride, pad)
    images_, W_, b_ = tensors(images, W, b)
    expected = torch_grads(functional.conv2d(images_, W_, b_[:, 0], stride, pad), [images_, W_, b_], R)
    for actual, expected in zip((out, *layers.conv_backward(R, cache)), expected, strict=True):
        assert_close(actual, expected)


@needs_torch
@examples(100)
@given(geometry=geometries(torch_padding=True), n=counts, c=counts, seed=seeds, ties=st.booleans())
def test_pooling_is_pytorchs(geometry, n, c, seed, ties):
    rng, (size, stride, pad, sides) = np.random.default_rng(seed), geometry
    images = rng.standard_normal((n, c, *sides))
    images = images.round() if ties else images
    R = random_outputs(images, c, geometry, rng)
    for forward, backward, pool in (
        (layers.max_pool_forward, layers.max_pool_backward, functional.max_pool2d),
        (layers.avg_pool_forward, layers.avg_pool_backward, functional.avg_pool2d),
    ):
        out, cache = forward(images, size, stride, pad)
        [images_] = tensors(images)
        expected = torch_grads(pool(images_, size, stride, pad), [images_], R)
        for actual, expected in zip((out, backward(R, cache)), expected, strict=True):
            assert_close(actual, expected)


@needs_torch
@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("eps", [kbn.EPS, 1e-5, 0.1])
def test_batch_norm_is_pytorchs(images, eps):
    rng = np.random.default_rng(0)
    X, R = rng.standard_normal((2, 6, 4, 3, 5) if images else (2, 6, 4))
    gamma, beta, mu = rng.standard_normal((3, 4, 1))
    v = rng.uniform(0.5, 2, (4, 1))
    forward, backward = (
        (layers.channel_batch_norm_forward, layers.channel_batch_norm_backward)
        if images
        else (layers.batch_norm_forward, layers.batch_norm_backward)
    )
    turn = (lambda A: A) if images else (lambda A: A.T)
    X_, gamma_, beta_ = tensors(X, gamma, beta)
    out, cache = forward(turn(X), gamma, beta, eps=eps)
    G, *grads = backward(turn(R), cache)
    expected = torch_grads(
        functional.batch_norm(X_, None, None, gamma_[:, 0], beta_[:, 0], True, eps=eps), [X_, gamma_, beta_], R
    )
    for actual, expected in zip((turn(out), turn(G), *grads), expected, strict=True):
        assert_close(actual, expected)
    out, _ = forward(turn(X), gamma, beta, (mu, v), eps)
    running = torch.from_numpy(mu[:, 0]), torch.from_numpy(v[:, 0])
    expected = functional.batch_norm(X_, *running, gamma_[:, 0], beta_[:, 0], eps=eps)
    assert_close(turn(out), expected.detach().numpy())


@needs_torch
@pytest.mark.parametrize("kind", ["relu", "sigmoid", "tanh", "affine"])
def test_affine_and_activations_are_pytorchs(kind):
    inputs, forward, backward = case(kind)
    out, _ = forward(*inputs.values())
    R, inputs_ = random_like(out), tensors(*inputs.values())
    expected = inputs_[1] @ inputs_[0] + inputs_[2] if kind == "affine" else getattr(torch, kind)(inputs_[0])
    expected_out, *expected = torch_grads(expected, inputs_, R)
    assert_close(out, expected_out)
    for actual, expected in zip(grads_of(inputs, forward, backward, R).values(), expected, strict=True):
        assert_close(actual, expected)


@needs_torch
@examples(50)
@given(K=st.integers(2, 10), n=st.integers(1, 9), scale=st.sampled_from([0.1, 1.0, 50.0]), seed=seeds)
def test_losses_are_pytorchs(K, n, scale, seed):
    rng = np.random.default_rng(seed)
    S, y = scale * rng.standard_normal((K, n)), rng.integers(K, size=n)
    for loss, expected in (
        (layers.softmax_loss, functional.cross_entropy),
        (layers.svm_loss, lambda S, y: K * functional.multi_margin_loss(S, y)),
    ):  # it divides by K
        [S_] = tensors(S.T)
        value = expected(S_, torch.from_numpy(y))
        value.backward()
        actual, G = loss(S, y)
        assert actual == pytest.approx(value.item(), rel=1e-12)
        assert np.abs(G - S_.grad.numpy().T).max() <= 1e-14


# ------------------------------------------------------------------------------------------------ batch normalization


@examples(100)
@given(m=st.integers(1, 6), n=st.integers(4, 40), seed=seeds, eps=st.sampled_from([kbn.EPS, 1e-5, 0.1]))
def test_staged_is_closed_form_and_equations_31_to_37(m, n, seed, eps):
    rng = np.random.default_rng(seed)
    S, G = 3 * rng.standard_normal((2, m, n)) + 2
    gamma, beta = rng.standard_normal((2, m, 1))
    _, cache = layers.batch_norm_forward(S, gamma, beta, eps=eps)
    closed, staged = layers.batch_norm_backward(G, cache), layers.batch_norm_backward_staged(G, cache)
    assume(cache["v"].min() > 0.1)
    size = np.abs(gamma * G * (cache["v"] + eps) ** -0.5).max()  # dJ/dS is what is left of this when its mean is gone
    assert np.abs(closed[0] - staged[0]).max() <= 1e-13 * size
    assert np.abs(closed[0] - kbn.batch_norm_backpass(gamma * G, S, cache["mu"], cache["v"], eps)).max() <= 1e-13 * size
    for a, b in zip(closed[1:], staged[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_two_examples_prove_nothing_about_batch_normalization():
    """With n = 2, S_hat is +-1 whatever S is, and nothing is passed back; with 8 it is. Hence n >= 5 in all checks."""
    for n, nothing in ((2, True), (8, False)):
        rng = np.random.default_rng(n)
        _, cache = layers.batch_norm_forward(rng.standard_normal((3, n)), np.ones((3, 1)), np.zeros((3, 1)))
        for backward in (layers.batch_norm_backward, layers.batch_norm_backward_staged):
            G, *_ = backward(rng.standard_normal((3, n)), cache)
            assert (np.abs(G).max() < 1e-10) == nothing


def test_one_example_is_its_own_mean():
    gamma, beta = np.random.default_rng(0).standard_normal((2, 4, 1))
    out, cache = layers.batch_norm_forward(np.full((4, 1), 3.0), gamma, beta)
    assert np.array_equal(out, beta) and not layers.batch_norm_backward(np.ones((4, 1)), cache)[0].any()


def test_batch_norm_of_channels_of_one_pixel_is_that_of_units():
    rng = np.random.default_rng(1)
    S, gamma, beta = rng.standard_normal((4, 9)), rng.standard_normal((4, 1)), rng.standard_normal((4, 1))
    plain, _ = layers.batch_norm_forward(S, gamma, beta)
    channels, _ = layers.channel_batch_norm_forward(S.T.reshape(9, 4, 1, 1), gamma, beta)
    assert np.array_equal(plain, channels[:, :, 0, 0].T)


def test_batch_norm_leaves_each_channel_with_mean_0_and_variance_1():
    rng = np.random.default_rng(8)
    images = 3 + rng.standard_normal((5, 4, 3, 2)) * np.arange(1, 5)[:, None, None]
    out, _ = layers.channel_batch_norm_forward(images, np.ones((4, 1)), np.zeros((4, 1)))
    np.testing.assert_allclose(out.mean(axis=(0, 2, 3)), 0, atol=1e-14)
    np.testing.assert_allclose(out.var(axis=(0, 2, 3)), 1, rtol=1e-12)


@pytest.mark.parametrize(
    "forward, backward, shape",
    [
        (layers.batch_norm_forward, layers.batch_norm_backward, (4, 6)),
        (layers.batch_norm_forward, layers.batch_norm_backward_staged, (4, 6)),
        (layers.channel_batch_norm_forward, layers.channel_batch_norm_backward, (6, 4, 2, 3)),
    ],
)
def test_prediction_normalises_with_given_statistics(forward, backward, shape):
    rng = np.random.default_rng(2)
    X, (gamma, beta, mu) = rng.standard_normal(shape), rng.standard_normal((3, 4, 1))
    v = rng.uniform(0.5, 2, (4, 1))
    out, cache = forward(X, gamma, beta, (mu, v), 0.1)
    column = (slice(None),) + (None,) * (len(shape) - 2)
    expected = (gamma * (v + 0.1) ** -0.5)[:, 0][column], (beta - gamma * mu * (v + 0.1) ** -0.5)[:, 0][column]
    turned = X if len(shape) == 4 else X.T
    np.testing.assert_allclose(out if len(shape) == 4 else out.T, turned * expected[0] + expected[1], atol=1e-13)
    one = X[:1] if len(shape) == 4 else X[:, :1]
    np.testing.assert_allclose(
        forward(one, gamma, beta, (mu, v), 0.1)[0], out[:1] if len(shape) == 4 else out[:, :1], rtol=1e-13
    )
    assert "mu" not in cache and "v" not in cache
    with pytest.raises(ValueError, match="own statistics: call batch_norm_forward without stats"):
        backward(X, cache)
    _, cache = forward(X, gamma, beta)
    axes = (0, *range(2, len(shape)))
    np.testing.assert_allclose(cache["mu"][:, 0], turned.mean(axis=axes), rtol=1e-12)
    np.testing.assert_allclose(cache["v"][:, 0], turned.var(axis=axes), rtol=1e-12)  # divided by n, without eps


# ------------------------------------------------------------------------------------------------------ kbn's own net


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("bn", [None, "before", "after"])
def test_the_layers_make_kbns_network(bn, dropout):
    rng = np.random.default_rng(3)
    params = kbn.init_params([6, 8, 7, 4], rng, bn is not None, dtype=np.float64)
    X, y = rng.standard_normal((6, 9)), rng.integers(4, size=9)
    masks = kbn.dropout_masks(params, 9, 0.7, rng) if dropout else None
    P, cache = kbn.forward(X, params, bn=bn or "before", masks=masks)
    expected = kbn.backward(kbn.one_hot(y, 4, np.float64), params, cache, 0.0)

    order = {None: ["relu"], "before": ["batch_norm", "relu"], "after": ["relu", "batch_norm"]}[bn]
    caches, A, grads = [], X, {}
    for l in (1, 2, 3):
        for kind in ["affine", *order, *["dropout"] * dropout] if l < 3 else ["affine"]:
            names = {"affine": ("W", "b"), "batch_norm": ("gamma", "beta")}.get(kind, ())
            arguments = [masks[f"mask{l}"]] if kind == "dropout" else [params[f"{name}{l}"] for name in names]
            A, cache = getattr(layers, f"{kind}_forward")(A, *arguments)
            caches.append((kind, [f"{name}{l}" for name in names], cache))
    loss, G = layers.softmax_loss(A, y)
    for kind, names, cache in reversed(caches):
        out = getattr(layers, f"{kind}_backward")(G, cache)
        G, *gradients = out if isinstance(out, tuple) else (out,)
        grads |= dict(zip(names, gradients, strict=True))

    assert loss == pytest.approx(kbn.cross_entropy(kbn.one_hot(y, 4), np.log(P)), rel=1e-12)
    assert grads.keys() == expected.keys()
    for key in grads:
        np.testing.assert_allclose(grads[key], expected[key], rtol=1e-9, atol=1e-14)


# --------------------------------------------------------------------------------------- the promises of every layer


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32(kind):
    inputs, forward, backward = case(kind, dtype=np.float32)
    out, cache = forward(*inputs.values())
    grads = grads_of(inputs, forward, backward, random_like(out))
    found = cache.values() if isinstance(cache, dict) else cache if isinstance(cache, tuple) else (cache,)
    arrays = [out, *grads.values(), *(item for item in found if hasattr(item, "dtype"))]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    _, exact, _ = case(kind)
    assert_close(out, exact(*(array.astype(np.float64) for array in inputs.values()))[0], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_caches_are_unchanged(kind):
    inputs, forward, backward = case(kind)
    R = random_like(forward(*inputs.values())[0])
    before = [array.copy() for array in (*inputs.values(), R)]
    for array in (*inputs.values(), R):
        array.flags.writeable = False
    out, cache = forward(*inputs.values())
    assert not any(np.shares_memory(out, array) for array in inputs.values())
    for layout in ("examples last", "examples first"):  # in the first order, padded copies could have been views
        turned = in_order(R, layout) if R.ndim == 4 else R.copy()
        first, again = (backward(turned, cache) for _ in range(2))
        for a, b in zip(*(grads if isinstance(grads, tuple) else (grads,) for grads in (first, again)), strict=True):
            assert np.array_equal(a, b) and not np.shares_memory(a, turned)
        assert np.array_equal(turned, R)
    for array, copy in zip((*inputs.values(), R), before, strict=True):
        assert np.array_equal(array, copy)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_keep_float32_and_their_inputs(loss):
    rng = np.random.default_rng(4)
    S, y = rng.standard_normal((5, 7)).astype(np.float32), rng.integers(5, size=7)
    before = S.copy(), y.copy()
    S.flags.writeable = y.flags.writeable = False
    value, G = loss(S, y)
    assert value.dtype == G.dtype == np.float32
    assert np.array_equal(S, before[0]) and np.array_equal(y, before[1])


@pytest.mark.parametrize("backward, kind", [(layers.affine_backward, "affine"), (layers.conv_backward, "conv")])
def test_without_the_gradient_of_the_input_the_others_are_the_same(backward, kind):
    inputs, forward, _ = case(kind)
    out, cache = forward(*inputs.values())
    G, *expected = backward(random_like(out), cache)
    none, *grads = backward(random_like(out), cache, input_gradient=False)
    assert none is None and G is not None
    for a, b in zip(grads, expected, strict=True):
        assert np.array_equal(a, b)


def test_what_layers_hand_on_needs_no_copies():
    """conv, pooling and BN leave the examples last in memory, from which channels and columns are views."""
    rng = np.random.default_rng(5)
    images, W, b = rng.standard_normal((4, 3, 6, 6)), rng.standard_normal((5, 3, 3, 3)), np.zeros((5, 1))
    out, _ = layers.conv_forward(images, W, b, pad=1)
    normalised, _ = layers.channel_batch_norm_forward(out, b + 1, b)
    active, _ = layers.relu_forward(normalised)
    pooled, averaged = layers.max_pool_forward(active, 2, 2)[0], layers.avg_pool_forward(out, 3, 1)[0]
    for stage in (out, normalised, active, pooled, averaged):
        X = stage.reshape(4, -1).T
        assert np.shares_memory(layers.channel_rows(stage), stage)
        assert np.shares_memory(X, stage) and X.flags.c_contiguous
        assert np.shares_memory(X.T.reshape(stage.shape), X)


@pytest.mark.parametrize("kind", ["conv", "max pool", "avg pool", "batch norm of channels"])
@pytest.mark.parametrize("order", ["examples last", "examples first"])
def test_gradients_have_the_examples_last_in_memory(kind, order):
    inputs, forward, backward = case(kind)
    out, cache = forward(*inputs.values())
    G = backward(in_order(random_like(out), order), cache)
    G = G[0] if isinstance(G, tuple) else G
    assert np.argsort(G.strides).tolist() == [0, 3, 2, 1]


def test_layers_imports_numpy_and_kbn_alone():
    nodes = list(ast.walk(ast.parse(Path(layers.__file__).read_text(encoding="utf-8"))))
    imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    imported += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    assert sorted(imported) == ["kbn", "numpy", "numpy.lib.stride_tricks"]


# ------------------------------------------------------------------------------------------------------- known results


def test_an_asymmetric_filter_is_not_flipped():
    images = np.zeros((1, 1, 3, 4))
    images[0, 0, 0, 1], images[0, 0, 2, 3] = 1, 10
    W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[None, None]
    out, _ = layers.conv_forward(images, W, np.array([[0.5]]))
    assert np.array_equal(out[0, 0], [[2.5, 1.5], [0.5, 60.5]])


def test_windows_further_apart_than_they_are_wide():
    images = np.arange(2 * 25.0).reshape(2, 1, 5, 5)
    picked = images[:, :, ::4, ::4]
    out, cache = layers.max_pool_forward(images, 1, 4)
    assert np.array_equal(out, picked) and np.array_equal(layers.avg_pool_forward(images, 1, 4)[0], picked)
    assert np.array_equal(layers.conv_forward(images, np.ones((1, 1, 1, 1)), np.zeros((1, 1)), 4)[0], picked)
    G = random_like(out)
    expected = np.zeros_like(images)
    expected[:, :, ::4, ::4] = G
    assert np.array_equal(layers.max_pool_backward(G, cache), expected)


def test_the_padding_of_max_pooling_never_wins():
    images = -1 - np.random.default_rng(6).random((3, 2, 4, 4))
    out, cache = layers.max_pool_forward(images, 3, 1, pad=2)
    assert out.shape == (3, 2, 6, 6) and out.max() < -1
    assert np.array_equal(out[:, :, 0, 0], images[:, :, 0, 0]) and np.isfinite(out).all()
    G = random_like(out)
    np.testing.assert_allclose(layers.max_pool_backward(G, cache).sum(), G.sum(), rtol=1e-12)


def test_the_first_of_equal_maxima_has_the_gradient():
    images = np.zeros((1, 1, 2, 4))
    images[0, 0] = [[1, 3, 2, 2], [3, 3, 2, 2]]
    _, cache = layers.max_pool_forward(images, 2, 2)
    G = layers.max_pool_backward(np.array([[[[5.0, 7.0]]]]), cache)
    assert np.array_equal(G[0, 0], [[0, 5, 7, 0], [0, 0, 0, 0]])


def test_padded_zeros_count_in_the_average():
    out, _ = layers.avg_pool_forward(np.full((1, 1, 2, 2), 4.0), 2, 1, pad=1)
    assert np.array_equal(out[0, 0], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])


def test_nan_is_not_pooled_away():
    images = np.ones((1, 1, 2, 2))
    for i, j in np.ndindex(2, 2):
        images[...] = 1
        images[0, 0, i, j] = np.nan
        assert np.isnan(layers.max_pool_forward(images, 2, 2)[0]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sigmoid_does_not_overflow(dtype):
    with np.errstate(all="raise"):
        X, cache = layers.sigmoid_forward(np.array([[-1e30, -1000, 0, 1000, 1e30]], dtype))
        G = layers.sigmoid_backward(np.ones_like(X), cache)
    assert np.array_equal(X, [[0, 0, 0.5, 1, 1]]) and np.array_equal(G, [[0, 0, 0.25, 0, 0]])


def test_relu_is_off_at_0():
    out, cache = layers.relu_forward(np.array([[-2.0, 0.0, 3.0]]))
    assert np.array_equal(out, [[0, 0, 3]])
    assert np.array_equal(layers.relu_backward(np.full((1, 3), 7.0), cache), [[0, 0, 7]])


def test_dropout_takes_the_masks_of_kbn():
    rng = np.random.default_rng(7)
    mask = kbn.dropout_masks(kbn.init_params([5, 40, 4], rng), 500, 0.8, rng)["mask1"]
    out, cache = layers.dropout_forward(np.ones((40, 500), np.float32), mask)
    assert set(np.unique(out)) == {np.float32(0), np.float32(1.25)} and out.mean() == pytest.approx(1, abs=0.02)
    assert np.array_equal(layers.dropout_backward(np.ones_like(out), cache), mask)


def test_svm_loss_by_hand():
    S = np.array([[3.0, 1.0, -2.0], [1.5, 2.0, -2.0], [2.0, 0.5, -2.0]])  # column 0: 2.0 is at the margin of 3.0
    loss, G = layers.svm_loss(S, np.array([0, 2, 1]))
    assert loss == pytest.approx((0 + (1.5 + 2.5) + (1 + 1)) / 3, rel=1e-15)
    np.testing.assert_allclose(3 * G, [[0, 1, 1], [0, 1, -2], [0, -2, 1]], rtol=1e-15)


@examples(50)
@given(K=st.integers(2, 6), n=st.integers(1, 6), seed=seeds)
def test_losses_are_the_naive_loops(K, n, seed):
    rng = np.random.default_rng(seed)
    S, y = 2 * rng.standard_normal((K, n)), rng.integers(K, size=n)
    svm, softmax = 0.0, 0.0
    for j in range(n):
        svm += sum(max(0.0, S[k, j] - S[y[j], j] + 1) for k in range(K) if k != y[j]) / n
        softmax -= np.log(np.exp(S[y[j], j]) / sum(np.exp(S[k, j]) for k in range(K))) / n
    assert layers.svm_loss(S, y)[0] == pytest.approx(svm, rel=1e-12)
    assert layers.softmax_loss(S, y)[0] == pytest.approx(softmax, rel=1e-12)


def test_softmax_loss_of_huge_scores():
    loss, G = layers.softmax_loss(np.array([[1e4, -1e4], [0.0, 0.0]]), np.array([0, 0]))
    assert loss == pytest.approx(5e3) and np.array_equal(G, [[0, -0.5], [0, 0.5]])


# ----------------------------------------------------------------------------------------------------- what is refused

IMAGES, W, B = np.zeros((2, 3, 7, 8)), np.zeros((4, 3, 2, 2)), np.zeros((4, 1))
X, COLUMN = np.zeros((4, 6)), np.zeros((4, 1))


@pytest.mark.parametrize(
    "refused, words",
    [
        (
            lambda: layers.conv_forward(IMAGES, W, B, 2),
            "windows of 2 x 2, stride 2 x 2 and padding 0 x 0, do not divide images of 7 x 8",
        ),
        (
            lambda: layers.conv_forward(IMAGES, W, B, (5, 3), (0, 1)),
            "windows of 2 x 2, stride 5 x 3 and padding 0 x 1, do not divide images of 7 x 8",
        ),
        (lambda: layers.max_pool_forward(IMAGES, 3, 2), "windows of 3 x 3, .* do not divide images of 7 x 8"),
        (lambda: layers.avg_pool_forward(IMAGES, (2, 3), 3, (1, 0)), "windows of 2 x 3, .* do not divide images of 7 x 8"),
        (lambda: layers.avg_pool_forward(IMAGES, 9, 1), "windows of 9 x 9, .* do not divide images of 7 x 8"),
        (lambda: layers.max_pool_forward(IMAGES, (7, 9), 1), "windows of 7 x 9, .* do not divide images of 7 x 8"),
        (lambda: layers.max_pool_forward(IMAGES, 2, 1, 2), r"pad \(2, 2\) must be less than size \(2, 2\)"),
        (lambda: layers.max_pool_forward(IMAGES, (3, 2), 1, (2, 2)), r"pad \(2, 2\) must be less than size \(3, 2\)"),
        (lambda: layers.conv_forward(IMAGES, W, B, 0), "stride must be a whole number from 1.* not 0"),
        (lambda: layers.conv_forward(IMAGES, W, B, 1.0), "stride must be a whole number from 1"),
        (lambda: layers.conv_forward(IMAGES, W, B, 1, -1), "pad must be a whole number from 0.* not -1"),
        (lambda: layers.avg_pool_forward(IMAGES, (2, 2, 2), 1), r"size must be .* not \(2, 2, 2\)"),
        (lambda: layers.max_pool_forward(IMAGES, (2, 0), 1), r"size must be a whole number from 1.* not \(2, 0\)"),
        (lambda: layers.max_pool_forward(IMAGES[0], 2, 1), r"images must be \(n, c, h, w\), not \(3, 7, 8\)"),
        (
            lambda: layers.conv_forward(IMAGES[:, :2], W, B),
            r"images \(2, 2, 7, 8\), W \(4, 3, 2, 2\) and b \(4, 1\) do not fit",
        ),
        (lambda: layers.conv_forward(IMAGES, W, B[:1]), r"b \(1, 1\) do not fit"),
        (lambda: layers.conv_forward(IMAGES, W, B[:, 0]), r"b \(4,\) do not fit"),
        (lambda: layers.conv_forward(IMAGES, W[0], B), r"W \(3, 2, 2\) and b"),
        (
            lambda: layers.affine_forward(X, np.zeros((5, 3)), np.zeros((5, 1))),
            r"X \(4, 6\), W \(5, 3\) and b \(5, 1\) do not fit",
        ),
        (lambda: layers.affine_forward(X, np.zeros((5, 4)), np.zeros((1, 1))), r"b \(1, 1\) do not fit"),
        (lambda: layers.affine_forward(IMAGES, np.zeros((5, 2)), np.zeros((5, 1))), r"X \(2, 3, 7, 8\)"),
        (lambda: layers.dropout_forward(X, COLUMN), r"the mask \(4, 1\) does not fit what it masks, \(4, 6\)"),
        (lambda: layers.batch_norm_forward(X, COLUMN[:1], COLUMN), r"S \(4, 6\) does not fit gamma \(1, 1\)"),
        (lambda: layers.batch_norm_forward(X, COLUMN, COLUMN[:, 0]), r"beta \(4,\)"),
        (lambda: layers.batch_norm_forward(X, COLUMN, COLUMN, (COLUMN[:1], COLUMN)), r"mu \(1, 1\) and v \(4, 1\)"),
        (lambda: layers.channel_batch_norm_forward(IMAGES, COLUMN, COLUMN), r"S \(3, 112\) does not fit gamma \(4, 1\)"),
        *(
            (partial(loss, X, y), words)
            for loss in LOSSES
            for y, words in [
                (np.zeros(5, int), r"scores \(4, 6\) and labels \(5,\) do not fit"),
                (np.zeros((4, 6), int), r"labels \(4, 6\) do not fit"),
                (np.zeros(6), r"labels must be integers in 0\.\.3, not float64"),
                (np.full(6, 4), r"labels must be integers in 0\.\.3, not int64 in 4\.\.4"),
                (np.full(6, -1), r"not int64 in -1\.\.-1"),
            ]
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_sizes(refused, words):
    with pytest.raises(ValueError, match=words):
        refused()
