"""What the tests of the method share: nets to try, random arrays, comparisons, and PyTorch as the oracle."""

import math
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import kbn
import nets

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None

threadpool_limits(1)  # the nets are small: more threads only wait for each other
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is the oracle here: pip install torch==2.13.0")
seeds = st.integers(0, 2**32 - 1)
K = 4  # classes


def examples(number):
    """The settings of a hypothesis test with this number of examples, the same ones each time."""
    return settings(max_examples=number, deadline=None, derandomize=True, database=None)


# ---------------------------------------------------------------------------------------------------------- nets to try


def mlp(dims, bn):
    """The specs of kbn's own network."""
    hidden = nets.with_bn([("relu",)], bn) + [("dropout",)]
    return [spec for m in dims[1:-1] for spec in [("affine", m), *hidden]] + [("affine", dims[-1])]


def kbn_net(dims, bn):
    """One of kbn's own networks; specs describe the same for the oracles."""
    draw = partial(kbn.init_params, dims, bn=bn)
    return SimpleNamespace(net=kbn.MLP, draw=draw, shape=(dims[0],), specs=mlp(dims, bn), loss="softmax", bn=bn)


def spec_net(specs, shape, loss="softmax"):
    """A net of layer specs."""
    net = nets.build(specs, shape, loss)
    return SimpleNamespace(
        net=net, draw=partial(nets.init_params, specs, shape), shape=shape, specs=specs, loss=loss, bn="before"
    )


# BN behind the second weights only
LAYERS = [("affine", 8), ("sigmoid",), ("dropout",), ("affine", 7), ("bn",), ("relu",), ("dropout",), ("affine", K)]
# (n, 2, 6, 5) -> 3 x 4 x 4 -> 3 x 2 x 2 -> 6 -> K
CONV_SHAPE = (2, 6, 5)
CONV = [("conv", 3, (5, 4), 1, 1), ("bn",), ("relu",), ("max_pool", 2), ("dropout",)]
CONV += [("affine", 6), ("tanh",), ("bn",), ("dropout",), ("affine", K)]
NETS = {
    "BN off": kbn_net([6, 8, 7, K], "off"),
    "BN before": kbn_net([6, 8, 7, K], "before"),
    "BN after": kbn_net([6, 8, 7, K], "after"),
    "layers": spec_net(LAYERS, (6,)),
    "convolution": spec_net(CONV, CONV_SHAPE),
}


def random_params(net, rng, dtype=np.float64):
    """Params of which none is 0 or 1, and which leave most units alive."""
    params = net.draw(rng, dtype=dtype)
    for key, param in params.items():
        if not key.startswith("W"):
            param += rng.uniform(-0.3, 0.3, param.shape).astype(dtype)
    return params


def random_data(net, n, rng, dtype=np.float64):
    """X (d, n) in Fortran order and y (n,)."""
    classes = net.specs[-1][1]
    return rng.standard_normal((n, math.prod(net.shape))).astype(dtype).T, rng.integers(classes, size=n)


def changed(net, /, **fields):
    """The same net with other fields."""
    return SimpleNamespace(**vars(net) | fields)


# ---------------------------------------------------------------------------------------------------------- comparisons


def copy(arrays):
    return {key: array.copy() for key, array in arrays.items()}


def same(a, b):
    """Whether two dicts of arrays are bit-identical, dtypes included."""
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a)


def assert_close(actual, expected, tolerance=1e-12):
    """Compare arrays, or dicts of arrays, by norms. Arrays that are 0 in theory are measured by the largest in their dict."""
    if not isinstance(expected, dict):
        actual, expected = {"": np.asarray(actual)}, {"": np.asarray(expected)}
    assert actual.keys() == expected.keys()
    norms = {key: np.linalg.norm(array) for key, array in expected.items()}
    for key in expected:
        assert actual[key].shape == expected[key].shape, key
        error = np.linalg.norm(actual[key] - expected[key])
        scale = norms[key] + 0.1 * max(norms.values()) if len(norms) > 1 else norms[key]
        assert error <= tolerance * scale, (key, error, scale)


@contextmanager
def refused(words):
    """Expect a ValueError of one line that matches words."""
    with pytest.raises(ValueError, match=words) as error:
        yield
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------- PyTorch as oracle


def torch_params(params):
    return {key: torch.tensor(param, requires_grad=True) for key, param in params.items()}


def torch_scores(net, X, params, eps, masks=None, running=None, momentum=0.0, training=True):
    """The scores (n, K) for the columns of X. running, if given, holds mu1.., v1.. (m,), which training moves."""
    F, l, running = torch.nn.functional, 0, running or {}
    A = torch.tensor(np.ascontiguousarray(X.T)).reshape(-1, *net.shape)
    for kind, *numbers in net.specs:
        l += kind in ("affine", "conv")
        if kind == "affine":
            A = F.linear(A.flatten(1), params[f"W{l}"], params[f"b{l}"][:, 0])
        elif kind == "conv":
            A = F.conv2d(A, params[f"W{l}"], params[f"b{l}"][:, 0], *numbers[2:])
        elif kind == "bn":
            mu, v = running.get(f"mu{l}"), running.get(f"v{l}")
            A = F.batch_norm(A, mu, v, params[f"gamma{l}"][:, 0], params[f"beta{l}"][:, 0], training, momentum, eps)
        elif kind == "dropout":
            mask = masks and masks[f"mask{l}"]
            A = A if masks is None else A * torch.tensor(np.ascontiguousarray(mask if mask.ndim == 4 else mask.T))
        else:
            A = getattr(F, f"{kind}2d")(A, *numbers) if "pool" in kind else getattr(torch, kind)(A)
    return A


def torch_cost(net, scores, y, params, lam):
    """The cost and the loss."""
    functional, y = torch.nn.functional, torch.tensor(y)
    if net.loss == "svm":
        loss = scores.shape[1] * functional.multi_margin_loss(scores, y)  # PyTorch divides by the number of classes
    else:
        loss = functional.cross_entropy(scores, y)
    return loss + lam * sum((param**2).sum() for key, param in params.items() if key.startswith("W")), loss
