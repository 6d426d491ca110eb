"""Nets made of a list of layer specs and trained by kbn.minibatch_gd like any other.

    specs = [("conv", 16, 5, 1, 2), ("bn",), ("relu",), ("max_pool", 2), ("affine", 10)]
    params = init_params(specs, (1, 28, 28), rng)
    net = build(specs, (1, 28, 28))                                 # what kbn.MLP is for kbn's own networks
    params, stats, history = kbn.minibatch_gd(train, val, params, hp, rng, net=net)
    kbn.accuracy(*test, params, stats, net=net)

("affine", m)                       m scores; images are flattened for it. The last layer is an affine one, with m = K
("conv", f, size, stride=1, pad=0)  f filters; size, stride, pad: one number each, or two (vertical, horizontal)
("max_pool", size, stride=size, pad=0), ("avg_pool", size, stride=size, pad=0)
("bn",)                             batch normalization of each unit, or of each channel of images
("relu",), ("sigmoid",), ("tanh",)
("dropout",)                        in training; hp["keep"] is the probability to keep a value

The weights number the params: W1, b1 belong to the first affine or conv layer; gamma1, beta1, and mu1, v1 in stats,
to the BN between it and W2. A k-layer network has the same params here and in kbn.
"""
import inspect
import math
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import numpy as np

import kbn
import layers

LARGEST = 2**22  # values that one example may have on its way through a net, against memory exhaustion

# shapes(shape, *numbers) -> the shape of an output, and those of the layer's params and stats, for the shape of an input;
# forward(X, own, *numbers) -> out, cache, where own holds the layer's arrays by name, and eps;
# backward(G, cache) -> dJ/dX and the gradient of each of its params
Kind = namedtuple("Kind", "shapes forward backward params stats", defaults=((), ()))
Step = namedtuple("Step", "kind name numbers l shape")  # a layer of a net, the number of its params, the shape of its input


# --------------------------------------------------------------------------------------------- the kinds of layers

def affine_shapes(shape, m):
    return (m,), weight_shapes(m, shape[0])


def conv_shapes(shape, f, size, stride=1, pad=0):
    kernel, sides = slide(shape, size, stride, pad)
    return (f, *sides), weight_shapes(f, shape[0], *kernel)


def max_pool_shapes(shape, size, stride=None, pad=0):
    return (shape[0], *slide(shape, size, stride or size, pad, whole=False)[1]), {}


def avg_pool_shapes(shape, size, stride=None, pad=0):
    return (shape[0], *slide(shape, size, stride or size, pad)[1]), {}


def bn_shapes(shape):
    return shape, dict.fromkeys(("gamma", "beta", "mu", "v"), (shape[0], 1))


def unchanged(shape):
    return shape, {}


def weight_shapes(m, *inputs):
    """Return the shapes of the weights and biases of m units or filters."""
    if not (isinstance(m, (int, np.integer)) and m > 0):
        raise ValueError(f"the number of units or filters must be a positive integer, not {m!r}")
    return {"W": (m, *inputs), "b": (m, 1)}


def slide(shape, size, stride, pad, whole=True):
    """Return size as a pair, and the (h_out, w_out) windows in an image of this shape (c, h, w). whole: see layers.grid."""
    if len(shape) != 3:
        raise ValueError(f"images (c, h, w) must come in, not {shape}")
    size, _, pad, sides = layers.grid(shape[1:], size, stride, pad, whole)
    check_size(shape[0] * math.prod(side + 2 * p for side, p in zip(shape[1:], pad)))
    return size, sides


def check_size(values):
    """Raise ValueError if one example has more values than LARGEST."""
    if values > LARGEST:
        raise ValueError(f"one example has {values} values in the net up to here, more than {LARGEST}")


def bn_forward(X, own):
    normalise = layers.channel_batch_norm_forward if X.ndim == 4 else layers.batch_norm_forward
    return normalise(X, own["gamma"], own["beta"], own.get("mu"), own.get("v"), own["eps"])


def bn_backward(G, cache):
    return (layers.channel_batch_norm_backward if G.ndim == 4 else layers.batch_norm_backward)(G, cache)


def dropout(X, own):
    return layers.dropout_forward(X, own["mask"]) if "mask" in own else (X, 1)


def pool(shapes, forward, backward):
    """Return the Kind of a pooling layer."""
    return Kind(shapes, lambda X, own, size, stride=None, pad=0: forward(X, size, stride or size, pad), alone(backward))


def activation(forward, backward):
    """Return the Kind of a layer without params that works element by element."""
    return Kind(unchanged, lambda X, own: forward(X), alone(backward))


def alone(backward):
    """Return backward(G, cache) -> (dJ/dX,), as a Kind has it, of a layer without params."""
    return lambda G, cache: (backward(G, cache),)


ACTIVATIONS = {
    "relu": activation(layers.relu_forward, layers.relu_backward),
    "sigmoid": activation(layers.sigmoid_forward, layers.sigmoid_backward),
    "tanh": activation(layers.tanh_forward, layers.tanh_backward),
}
KINDS = {
    "affine": Kind(affine_shapes, lambda X, own, m: layers.affine_forward(X, own["W"], own["b"]),
                   layers.affine_backward, ("W", "b")),
    "conv": Kind(conv_shapes, lambda X, own, f, size, stride=1, pad=0: layers.conv_forward(X, own["W"], own["b"], stride, pad),
                 layers.conv_backward, ("W", "b")),
    "max_pool": pool(max_pool_shapes, layers.max_pool_forward, layers.max_pool_backward),
    "avg_pool": pool(avg_pool_shapes, layers.avg_pool_forward, layers.avg_pool_backward),
    "bn": Kind(bn_shapes, bn_forward, bn_backward, ("gamma", "beta"), ("mu", "v")),
    "dropout": Kind(unchanged, dropout, alone(layers.dropout_backward)),
    **ACTIVATIONS,
}
FLATTEN = Kind(lambda shape: ((math.prod(shape),), {}),  # images (n, c, h, w) to columns (c h w, n); inserted by steps_of
               lambda X, own: (X.reshape(len(X), -1).T, X.shape), lambda G, cache: (G.T.reshape(cache),))


# -------------------------------------------------------------------------------------------------------- the nets

def build(specs, shape, loss="softmax"):
    """Return a net that kbn's functions take in place of kbn.MLP.

    specs: see above. shape: of one input, (d,) or (c, h, w); each column of X (d, n) is one input, an image plane by plane.
    loss: "softmax" or "svm". Raises ValueError for an invalid spec, an unknown loss, or a size that does not fit; the
    message names the layer.
    """
    if loss not in ("softmax", "svm"):
        raise ValueError(f"loss must be 'softmax' or 'svm', not {loss!r}")
    steps = steps_of(specs, shape)
    return SimpleNamespace(
        forward=partial(forward, steps),
        backward=partial(backward, steps, loss),
        dropout_masks=partial(dropout_masks, steps),
        loss=lambda Y, cache: loss_and_gradient(loss, Y, cache)[0],
        d=lambda params: math.prod(steps[0].shape),
        chunk=100 if any(step.name == "conv" for step in steps) else 1000,
    )


def steps_of(specs, shape):
    """Return the Step of each layer. Raises ValueError as build does."""
    shape = np.asarray(shape).tolist()
    if not (isinstance(shape, list) and len(shape) in (1, 3) and all(type(side) is int and side > 0 for side in shape)):
        raise ValueError(f"the shape of an input must be (d,) or (c, h, w), positive integers, not {shape!r:.60}")
    if not isinstance(specs, (list, tuple)):
        raise ValueError(f"a net is a list of layers, not {specs!r:.60}")
    steps, shape, l, values = [], tuple(shape), 0, math.prod(shape)
    for spec in specs:
        name, *numbers = spec if isinstance(spec, (list, tuple)) and spec else [None]
        if not isinstance(name, str) or name not in KINDS:
            raise ValueError(f"there is no layer {spec!r:.60}; there are {', '.join(KINDS)}")
        kind = KINDS[name]
        if name == "affine" and len(shape) == 3:
            steps.append(Step(FLATTEN, "flatten", [], l, shape))
            shape = (math.prod(shape),)
        l += "W" in kind.params
        try:
            inspect.signature(kind.shapes).bind(shape, *numbers)
        except TypeError:
            names = ", ".join(list(inspect.signature(kind.shapes).parameters)[1:])
            raise ValueError(f"layer {tuple(spec)!r:.60} must hold the kind and {names or 'nothing else'}") from None
        if any(step.l == l and (kind.params and step.kind is kind or name == step.name == "dropout") for step in steps):
            raise ValueError(f"there are two {name} layers between one affine or conv layer and the next")
        steps.append(Step(kind, name, numbers, l, shape))
        try:
            shape, _ = kind.shapes(shape, *numbers)
            values += math.prod(shape)
            check_size(values)
        except ValueError as error:
            raise ValueError(f"layer {tuple(spec)!r:.60}: {error}") from None
    if not steps or name != "affine":
        raise ValueError("the last layer must be an affine one")
    return steps


def shapes_of(specs, shape):
    """Return the shape of each of the net's params and stats, by name. Raises ValueError as build does."""
    return {f"{name}{step.l}": own for step in steps_of(specs, shape)
            for name, own in step.kind.shapes(step.shape, *step.numbers)[1].items()}


def init_params(specs, shape, rng, *, sigma=None, sigma_b=0.0, dtype=np.float32):
    """Draw the weights of a net as kbn.init_params does; m_{l-1} of a filter is c kh kw.

    specs, shape: see build. Returns params. Raises ValueError as build does, and for an impossible sigma.
    """
    params = {}
    for name, own in shapes_of(specs, shape).items():
        kind = name.rstrip("0123456789")
        if kind == "W" or kind == "b" and sigma_b:
            params[name] = kbn.draw_weights(own, rng, sigma if kind == "W" else sigma_b, dtype)
        elif kind not in ("mu", "v"):
            params[name] = np.full(own, kind == "gamma", dtype)
    return params


def with_bn(specs, bn="before"):
    """Return the same specs with a ("bn",) before or after every activation; bn "off" changes nothing."""
    kbn.check_bn(bn)
    pairs = {"off": lambda spec: [spec], "before": lambda spec: [["bn"], spec], "after": lambda spec: [spec, ["bn"]]}
    return [layer for spec in specs for layer in (pairs[bn](spec) if spec[0] in ACTIVATIONS else [spec])]


def forward(steps, X, params, stats=None, *, bn="before", eps=kbn.EPS, masks=None):
    """Apply the net to the columns of X (d, n). Called through build; arguments and results are those of kbn.forward.

    The cache holds scores (K, n), P, logP, the S, mu and v of each BN as in kbn, and what the layers leave for backward.
    Raises ValueError for any bn other than "before", since the specs give the place of BN.
    """
    d = math.prod(steps[0].shape)
    if X.ndim != 2 or len(X) != d:
        raise ValueError(f"X {X.shape} does not fit inputs of {steps[0].shape}: X must be ({d}, n)")
    if bn != "before":
        raise ValueError(f"bn is {bn!r}, but the specs of a net give the place of its BN")
    cache = {"layers": []} if stats is None else {}
    for step, out, left in walk(steps, X, params, stats, eps, masks):
        if stats is None:
            cache["layers"].append(left)
        if step.kind.stats:
            names = step.kind.stats if stats else ("S", *step.kind.stats)
            cache |= {f"{name}{step.l}": left[name] for name in names if name in left}
    cache["scores"] = out
    cache["P"], cache["logP"] = kbn.softmax(out)
    return cache["P"], cache


def walk(steps, X, params, stats=None, eps=kbn.EPS, masks=None):
    """Apply the net layer by layer. Yields each Step, its output, and the cache that its backward needs."""
    X = X.T.reshape(-1, *steps[0].shape) if len(steps[0].shape) == 3 else X
    for step in steps:
        own = {name: params[f"{name}{step.l}"] for name in step.kind.params} | {"eps": eps}
        if stats is not None:
            own |= {name: stats[f"{name}{step.l}"] for name in step.kind.stats}
        if masks is not None and step.name == "dropout":
            own["mask"] = masks[f"mask{step.l}"]
        X, left = step.kind.forward(X, own, *step.numbers)
        yield step, X, left


def backward(steps, loss, Y, params, cache, lam, *, penalty=kbn.L2, out=None):
    """Return grads of the mean loss plus the penalty. Called through build, as kbn.backward is.

    Y (K, n) one-hot, cache from forward without stats; out is not needed here.
    Raises ValueError if the cache is one of prediction.
    """
    if "layers" not in cache:
        raise ValueError("backward needs the cache of training: call forward without stats")
    _, G = loss_and_gradient(loss, Y, cache)
    grads = {}
    first = next(i for i, step in enumerate(steps) if step.kind.params)  # nothing before it needs a gradient
    for i in range(len(steps) - 1, first - 1, -1):
        kind, l = steps[i].kind, steps[i].l
        skip = {"input_gradient": False} if i == first and "W" in kind.params else {}
        G, *own = kind.backward(G, cache["layers"][i], **skip)
        grads |= {f"{name}{l}": grad for name, grad in zip(kind.params, own)}
    for l in range(1, kbn.n_layers(params) + 1):
        grads[f"W{l}"] += penalty.gradient(params[f"W{l}"], float(lam))
    return grads


def loss_and_gradient(loss, Y, cache):
    """Return the mean loss of Y (K, n) and its gradient with respect to the scores (K, n)."""
    if loss == "svm":
        return layers.svm_loss(cache["scores"], Y)
    return kbn.cross_entropy(Y, cache["logP"]), (cache["P"] - Y) / Y.shape[1]


def dropout_masks(steps, params, n, keep, rng):
    """Draw mask{l} for every dropout layer, of the shape of its input for n examples. Called as kbn.dropout_masks is.

    Raises ValueError if there is no dropout layer.
    """
    shapes = {step.l: step.shape for step in steps if step.name == "dropout"}
    if not shapes:
        raise ValueError(f"keep is {keep:g}, but the net has no ('dropout',) layer")
    masks = {l: kbn.draw_mask((*shape, n), keep, rng, params["W1"]) for l, shape in shapes.items()}
    return {f"mask{l}": np.moveaxis(mask, -1, 0) if mask.ndim == 4 else mask for l, mask in masks.items()}


def score_moments(specs, shape, X, params, eps=kbn.EPS):
    """Return mean and standard deviation of all scores W X + b of each affine or conv layer for X (d, n), as in training.

    The result is {"S1_mean": ..., "S1_sd": ..., "S2_mean": ...}; for affine layers also S1_correlation, ..., the mean absolute
    correlation of two units' scores.
    """
    moments = {}
    for step, S, _ in walk(steps_of(specs, shape), X, params, None, eps):
        if "W" in step.kind.params:
            moments |= {f"S{step.l}_mean": float(S.mean()), f"S{step.l}_sd": float(S.std())}
            if S.ndim == 2:
                moments[f"S{step.l}_correlation"] = mean_correlation(S)
    return moments


def mean_correlation(S):
    """Return the mean absolute correlation of two rows of S (m, n); rows without variance are left out, 0 if fewer than two vary."""
    D = S - S.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(D, axis=1, keepdims=True)
    D = D[norms[:, 0] > 0] / norms[norms > 0][:, None]
    m = len(D)
    return float((abs(D @ D.T).sum() - m) / (m * (m - 1))) if m > 1 else 0.0
