"""Nets put together from a list of layer specs, trained by kbn.minibatch_gd like any other. Documents C, D and E.

    specs = [("conv", 16, 5, 1, 2), ("bn",), ("relu",), ("max_pool", 2), ("affine", 10)]
    params = init_params(specs, (1, 28, 28), rng)
    net = build(specs, (1, 28, 28))                                 # what kbn.MLP is for kbn's own networks
    params, stats, history = kbn.minibatch_gd(train, val, params, hp, rng, net=net)
    kbn.accuracy(*test, params, stats, net=net)

("affine", m)                       m scores; images are flattened for it. The last layer is one, with m = K
("conv", f, size, stride=1, pad=0)  f filters. size, stride, pad: a number each, or two (vertical, horizontal)
("max_pool", size, stride=size, pad=0), ("avg_pool", size, stride=size, pad=0)
("bn",)                             batch normalization of each unit, or each channel of images. It stands before or
                                    after the activation, as the list has it
("relu",), ("sigmoid",), ("tanh",)
("dropout",)                        in training; hp["keep"] is the probability to keep a value

The weights number the params: W1, b1 are those of the first affine or conv layer; gamma1, beta1, and mu1, v1 in stats,
belong to the BN between it and W2. A k-layer network has the same params here and in kbn.
"""

import functools
import inspect
import json
import math
from collections import namedtuple

import numpy as np

import kbn
import layers

LOSSES = {"softmax": layers.softmax_loss, "svm": layers.svm_loss}

LARGEST = 2**22  # values that an example may have on its way through a net; more is a mistake, and would fill the memory

# shapes(shape) -> the shape of one output, and those of its params and stats, for the shape of one input, (m,) or
# (c, h, w); forward(X, own) -> out, cache, where own holds its params by name, and of stats and masks what it asks for;
# backward(G, cache) -> dJ/dX, and the gradient of each of its params
Layer = namedtuple("Layer", "shapes forward backward params stats masks", defaults=((), (), ()))


# ------------------------------------------------------------------------------------------------- the kinds of layers


def affine(m):
    def forward(X, own):
        return layers.affine_forward(as_columns(X), own["W"], own["b"])

    return Layer(lambda shape: ((m,), units(m, math.prod(shape))), forward, layers.affine_backward, ("W", "b"))


def conv(f, size, stride=1, pad=0):
    def shapes(shape):
        size_, sides = slide(shape, size, stride, pad)
        return (f, *sides), units(f, shape[0], *size_)

    def forward(images, own):
        return layers.conv_forward(images, own["W"], own["b"], stride, pad)

    return Layer(shapes, forward, layers.conv_backward, ("W", "b"))


def units(m, *inputs):
    """The shapes of the weights and biases of m units or filters."""
    if not (isinstance(m, (int, np.integer)) and m > 0):
        raise ValueError(f"the number of units or filters must be a positive integer, not {m!r}")
    return {"W": (m, *inputs), "b": (m, 1)}


def slide(shape, size, stride, pad, pixels=False):
    """size as a pair, and the (h_out, w_out) windows in an image of the shape (c, h, w); pixels as in layers.grid."""
    if len(shape) != 3:
        raise ValueError(f"images (c, h, w) must come in, not {shape}")
    c, *sides = shape
    size, _, pad, out = layers.grid(sides, size, stride, pad, pixels)
    check_size((c, *(side + 2 * p for side, p in zip(sides, pad))))
    return size, out


def check_size(shape):
    """Raises ValueError where one example of this shape has more values than it may."""
    if math.prod(shape) > LARGEST:
        raise ValueError(f"an example of the shape {shape} is too large")


def bn():
    def shapes(shape):
        return shape, dict.fromkeys(("gamma", "beta", "mu", "v"), (shape[0], 1))

    def forward(X, own):
        normalise = layers.channel_batch_norm_forward if X.ndim == 4 else layers.batch_norm_forward
        return normalise(X, own["gamma"], own["beta"], (own["mu"], own["v"]) if "mu" in own else None, own["eps"])

    def backward(G, cache):
        return (layers.channel_batch_norm_backward if G.ndim == 4 else layers.batch_norm_backward)(G, cache)

    return Layer(shapes, forward, backward, ("gamma", "beta"), stats=("mu", "v"))


def dropout():
    def forward(X, own):
        return layers.dropout_forward(X, own["mask"]) if "mask" in own else (X, 1)

    return Layer(unchanged, forward, layers.dropout_backward, masks=("mask",))


def pool(pool_forward, pool_backward, pixels=False):
    def kind(size, stride=None, pad=0):
        stride = size if stride is None else stride
        return Layer(
            lambda shape: ((shape[0], *slide(shape, size, stride, pad, pixels)[1]), {}),
            lambda images, own: pool_forward(images, size, stride, pad),
            pool_backward,
        )

    return kind


def activation(forward, backward):
    return lambda: Layer(unchanged, lambda X, own: forward(X), backward)


def unchanged(shape):
    return shape, {}


ACTIVATIONS = {
    "relu": activation(layers.relu_forward, layers.relu_backward),
    "sigmoid": activation(layers.sigmoid_forward, layers.sigmoid_backward),
    "tanh": activation(layers.tanh_forward, layers.tanh_backward),
}
KINDS = {
    "affine": affine,
    "conv": conv,
    "max_pool": pool(layers.max_pool_forward, layers.max_pool_backward, pixels=True),
    "avg_pool": pool(layers.avg_pool_forward, layers.avg_pool_backward),
    "bn": bn,
    "dropout": dropout,
    **ACTIVATIONS,
}


# ------------------------------------------------------------------------------------------------------------ the nets


def build(specs, shape, loss="softmax"):
    """A net for kbn's functions to take in the place of kbn.MLP: a dict of functions that are called like kbn's own.

    specs: see above. shape: of one input, (d,) or (c, h, w); X (d, n) holds images plane by plane, one a column.
    loss: "softmax" or "svm". Raises ValueError for what is no spec, or no loss, and, naming the layer, where a size does
    not fit.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be {' or '.join(map(repr, LOSSES))}, not {loss!r}")
    plan, (between, _) = numbered(specs), sizes(specs, shape)
    shape = between[0]
    return {
        "forward": functools.partial(forward, plan, shape),
        "backward": functools.partial(backward, plan, LOSSES[loss]),
        "dropout_masks": functools.partial(dropout_masks, plan, between),
        "loss": lambda Y, cache: LOSSES[loss](cache["scores"], Y.argmax(axis=0))[0],
        "d": lambda params: math.prod(shape),
        "chunk": 100 if "conv" in (kind for kind, *_ in specs) else 1000,
    }


def numbered(specs):
    """For each of specs its Layer, and the number l of the last weights up to it. Raises ValueError for what is none."""
    if not isinstance(specs, (list, tuple)):
        raise ValueError(f"a net is a list of layers, not {specs!r:.60}")
    plan, l = [], 0
    for spec in specs:
        kind, *numbers = spec if isinstance(spec, (list, tuple)) and spec else [None]
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(f"there is no layer {spec!r:.60}; there are {', '.join(KINDS)}")
        try:
            layer = KINDS[kind](*numbers)
        except TypeError:
            names = ", ".join(inspect.signature(KINDS[kind]).parameters)
            raise ValueError(f"layer {tuple(spec)!r:.60} must hold the kind and {names or 'nothing else'}") from None
        l += "W" in layer.params
        if any(m == l and set(other.params + other.masks) & set(layer.params + layer.masks) for other, m in plan):
            raise ValueError(f"there are two {kind} layers between one affine or conv layer and the next")
        plan.append((layer, l))
    if not plan or kind != "affine":
        raise ValueError("the last layer must be an affine one")
    return plan


def with_bn(specs, position="before"):
    """The same specs with a ("bn",) before or after every activation."""
    pairs = ([["bn"], spec] if position == "before" else [spec, ["bn"]] for spec in specs)
    return [layer for spec, pair in zip(specs, pairs) for layer in (pair if spec[0] in ACTIVATIONS else [spec])]


def sizes(specs, shape):
    """The shape of one example as it enters each layer, and as it leaves the last; the shapes of params and stats by name.

    specs, shape as in build. Raises ValueError, naming the layer, where a size does not fit.
    """
    sides = np.asarray(shape).tolist()
    if not (isinstance(sides, list) and len(sides) in (1, 3) and all(type(side) is int and side > 0 for side in sides)):
        raise ValueError(f"the shape of an input must be (d,) or (c, h, w), positive integers, not {sides!r:.60}")
    between, arrays = [tuple(sides)], {}
    for spec, (layer, l) in zip(specs, numbered(specs)):
        try:
            out, own = layer.shapes(between[-1])
            check_size(out)
        except ValueError as error:
            raise ValueError(f"layer {tuple(spec)!r:.60}: {error}") from None
        between.append(out)
        arrays |= {f"{name}{l}": own_shape for name, own_shape in own.items()}
    return between, arrays


def init_params(specs, shape, rng, sigma=None, dtype=np.float32):
    """Draw the weights of a net as kbn.init_params does; m_{l-1} of a filter is c kh kw.

    specs, shape as in build. Returns params. Raises ValueError as there, and for an impossible sigma.
    """
    _, arrays = sizes(specs, shape)
    return {
        name: kbn.draw_weights(arrays[name], rng, sigma, dtype)
        if name.startswith("W")
        else np.full(arrays[name], name.startswith("gamma"), dtype)
        for name in arrays
        if not is_stat(name)
    }


def is_stat(name):
    """Whether an array's name is one of stats, not of params."""
    return name.startswith(("mu", "v"))


def forward(plan, shape, X, params, stats=None, eps=kbn.EPS, bn="before", masks=None):
    """Apply the net to the columns of X (d, n); called through build, arguments and results as those of kbn.forward.

    The cache holds scores (K, n), P, logP, of each BN S, mu and v, as in kbn, and what the layers leave for backward.
    Raises ValueError for another bn than "before", since the specs say where BN stands.
    """
    if X.ndim != 2 or len(X) != np.prod(shape):
        raise ValueError(f"X {X.shape} does not fit inputs of {shape}: X must be ({np.prod(shape)}, n)")
    if bn != "before":
        raise ValueError(f"bn is {bn!r}, but the specs of a net say where its BN stands")
    cache = {"layers": []}
    for layer, l, X, out, left in steps(plan, shape, X, params, stats, eps, masks):
        cache["layers"].append((left, X.shape))
        if layer.stats:
            cache |= {f"{name}{l}": left[name] for name in ("S", *layer.stats) if name in left}
    cache["scores"] = out
    cache["P"], cache["logP"] = kbn.softmax(out)
    return cache["P"], cache


def steps(plan, shape, X, params, stats=None, eps=kbn.EPS, masks=None):
    """Apply the net a layer at a time: for each its Layer, l, its input and output, and what it leaves for backward."""
    X = as_input(X, shape)
    for layer, l in plan:
        own = {"eps": eps} | {name: params[f"{name}{l}"] for name in layer.params}
        for bag, names in ((stats, layer.stats), (masks, layer.masks)):
            if bag is not None:
                own |= {name: bag[f"{name}{l}"] for name in names}
        out, left = layer.forward(X, own)
        yield layer, l, X, out, left
        X = out


def score_moments(specs, shape, X, params, eps=kbn.EPS):
    """Mean and standard deviation of all scores W X + b of each affine or conv layer for X (d, n), as in training.

    Returns {"S1_mean": ..., "S1_sd": ..., "S2_mean": ...}.
    """
    moments = {}
    for layer, l, _, S, _ in steps(numbered(specs), shape, X, params, None, eps):
        if "W" in layer.params:
            moments |= {f"S{l}_mean": float(S.mean()), f"S{l}_sd": float(S.std())}
    return moments


def backward(plan, loss, Y, params, cache, lam, grads=None):
    """The gradient of the mean loss + lam times the sum of all squared weights; called through build, as kbn.backward is.

    Y (K, n) one-hot, cache from forward. Returns grads, in the dict given or a new one.
    """
    grads = {} if grads is None else grads
    _, G = loss(cache["scores"], Y.argmax(axis=0))
    first = next(i for i, (layer, _) in enumerate(plan) if layer.params)
    for i in range(len(plan) - 1, first - 1, -1):
        (layer, l), (left, shape) = plan[i], cache["layers"][i]
        if i == first and "W" in layer.params:
            G, *own = layer.backward(G, left, input_gradient=False)
        elif layer.params:
            G, *own = layer.backward(G, left)
        else:
            G, own = layer.backward(G, left), []
        grads |= {f"{name}{l}": grad for name, grad in zip(layer.params, own)}
        if i > first and G.ndim < len(shape):
            G = G.T.reshape(shape)
    for l in range(1, kbn.n_layers(params) + 1):
        grads[f"W{l}"] += 2 * float(lam) * params[f"W{l}"]
    return grads


def dropout_masks(plan, between, params, n, keep, rng):
    """Draw mask{l} for every dropout layer, of the shape that it masks for n examples; called as kbn.dropout_masks is.

    between: the shapes that enter the layers. Raises ValueError where there is no dropout layer.
    """
    masked = {l: shape for (layer, l), shape in zip(plan, between) if layer.masks}
    if not masked:
        raise ValueError(f"keep is {keep:g}, but the net has no ('dropout',) layer")
    masks = {l: kbn.draw_mask((*shape, n), keep, rng, params["W1"].dtype) for l, shape in masked.items()}
    return {f"mask{l}": np.moveaxis(mask, -1, 0) if mask.ndim == 4 else mask for l, mask in masks.items()}


def as_input(X, shape):
    """X (d, n) as what the first layer takes: images (n, c, h, w) where shape is that of one."""
    return X.T.reshape(-1, *shape) if len(shape) == 3 else X


def as_columns(X):
    """Images (n, c, h, w) as columns (c h w, n); what is columns already, as it is."""
    return X.reshape(len(X), -1).T if X.ndim == 4 else X


# ------------------------------------------------------------------------------------------------------- saved models


def description(specs, loss):
    """What kbn.save must write beside the params, for of_model to build the net again: strings."""
    return {"specs": json.dumps(specs), "loss": loss}


def of_model(more):
    """The net of a saved model, from more of kbn.load, the shape of an input in it; kbn.MLP where it holds no specs."""
    return build(specs_of(more), more["shape"], str(more["loss"])) if "specs" in more else kbn.MLP


def specs_of(more):
    """The specs of a saved model. Raises ValueError where they are not JSON."""
    try:
        return json.loads(str(more["specs"]))
    except (ValueError, RecursionError):
        raise ValueError("its specs are not JSON") from None


def check_model(params, stats, more):
    """Raises ValueError unless params and stats are those of of_model(more). For kbn.load.

    Nothing is computed: it takes no memory, whatever sizes the specs ask for.
    """
    if "specs" not in more:
        return kbn.check_arrays(params | stats, kbn.shapes_of(params))
    if not {"shape", "loss"} <= more.keys():
        raise ValueError("it holds specs, but not also shape and loss")
    of_model(more)
    _, shapes = sizes(specs_of(more), more["shape"])
    for bag, stat in ((params, False), (stats, True)):
        kbn.check_arrays(bag, {name: shape for name, shape in shapes.items() if is_stat(name) == stat})
