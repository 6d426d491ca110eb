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
from collections import namedtuple

import numpy as np

import kbn
import layers

LOSSES = {"softmax": layers.softmax_loss, "svm": layers.svm_loss}

# draw(X, rng, sigma, dtype) -> its new params, for the input X; forward(X, own) -> out, cache, where own holds its params
# by name, and of stats and masks what it asks for; backward(G, cache) -> dJ/dX, and the gradient of each of its params
Layer = namedtuple("Layer", "draw forward backward params stats masks", defaults=((), (), ()))


# ------------------------------------------------------------------------------------------------- the kinds of layers

def affine(m):
    def draw(X, rng, sigma, dtype):
        return draw_units((m, len(as_columns(X))), rng, sigma, dtype)

    def forward(X, own):
        return layers.affine_forward(as_columns(X), own["W"], own["b"])

    return Layer(draw, forward, layers.affine_backward, ("W", "b"))


def conv(f, size, stride=1, pad=0):
    def draw(X, rng, sigma, dtype):
        if X.ndim != 4:
            raise ValueError(f"images (n, c, h, w) must come in, not {X.shape}")
        return draw_units((f, X.shape[1], *layers.pair(size, 1, "size")), rng, sigma, dtype)

    def forward(images, own):
        return layers.conv_forward(images, own["W"], own["b"], stride, pad)

    return Layer(draw, forward, layers.conv_backward, ("W", "b"))


def draw_units(shape, rng, sigma, dtype):
    """Weights of this shape (m, ...), and m biases of 0."""
    m = shape[0]
    if not (isinstance(m, (int, np.integer)) and m > 0):
        raise ValueError(f"the number of units or filters must be a positive integer, not {m!r}")
    return {"W": kbn.draw_weights(shape, rng, sigma, dtype), "b": np.zeros((m, 1), dtype)}


def bn():
    def draw(X, rng, sigma, dtype):
        m = X.shape[1] if X.ndim == 4 else len(X)
        return {"gamma": np.ones((m, 1), dtype), "beta": np.zeros((m, 1), dtype)}

    def forward(X, own):
        normalise = layers.channel_batch_norm_forward if X.ndim == 4 else layers.batch_norm_forward
        return normalise(X, own["gamma"], own["beta"], (own["mu"], own["v"]) if "mu" in own else None, own["eps"])

    def backward(G, cache):
        return (layers.channel_batch_norm_backward if G.ndim == 4 else layers.batch_norm_backward)(G, cache)

    return Layer(draw, forward, backward, ("gamma", "beta"), stats=("mu", "v"))


def dropout():
    def forward(X, own):
        return layers.dropout_forward(X, own["mask"]) if "mask" in own else (X, 1)

    return Layer(no_params, forward, layers.dropout_backward, masks=("mask",))


def pool(pool_forward, pool_backward):
    def kind(size, stride=None, pad=0):
        return Layer(no_params, lambda images, own: pool_forward(images, size, size if stride is None else stride, pad),
                     pool_backward)
    return kind


def activation(forward, backward):
    return lambda: Layer(no_params, lambda X, own: forward(X), backward)


def no_params(X, rng, sigma, dtype):
    return {}


ACTIVATIONS = {
    "relu": activation(layers.relu_forward, layers.relu_backward),
    "sigmoid": activation(layers.sigmoid_forward, layers.sigmoid_backward),
    "tanh": activation(layers.tanh_forward, layers.tanh_backward),
}
KINDS = {
    "affine": affine,
    "conv": conv,
    "max_pool": pool(layers.max_pool_forward, layers.max_pool_backward),
    "avg_pool": pool(layers.avg_pool_forward, layers.avg_pool_backward),
    "bn": bn,
    "dropout": dropout,
    **ACTIVATIONS,
}


# ------------------------------------------------------------------------------------------------------------ the nets

def build(specs, shape, loss="softmax"):
    """A net for kbn's functions to take in the place of kbn.MLP: a dict of functions that are called like kbn's own.

    specs: see above. shape: of one input, (d,) or (c, h, w); X (d, n) holds images plane by plane, one a column.
    loss: "softmax" or "svm". Raises ValueError for what is no spec, or no loss; init_params checks that the sizes fit.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be {' or '.join(map(repr, LOSSES))}, not {loss!r}")
    plan, shape = numbered(specs), tuple(map(int, shape))
    return {
        "forward": functools.partial(forward, plan, shape),
        "backward": functools.partial(backward, plan, LOSSES[loss]),
        "dropout_masks": functools.partial(dropout_masks, plan, shape),
        "loss": lambda Y, cache: LOSSES[loss](cache["scores"], Y.argmax(axis=0))[0],
        "d": lambda params: int(np.prod(shape)),
        "chunk": 100 if "conv" in (kind for kind, *_ in specs) else 1000,
    }


def numbered(specs):
    """For each of specs its Layer, and the number l of the last weights up to it. Raises ValueError for what is none."""
    plan, l = [], 0
    for kind, *numbers in specs:
        if kind not in KINDS:
            raise ValueError(f"there is no layer {kind!r}; there are {', '.join(KINDS)}")
        try:
            layer = KINDS[kind](*numbers)
        except TypeError:
            numbers = ", ".join(inspect.signature(KINDS[kind]).parameters)
            raise ValueError(f"{(kind, *numbers)} must hold the kind and {numbers or 'nothing else'}") from None
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


def init_params(specs, shape, rng, sigma=None, dtype=np.float32):
    """Draw the weights of a net as kbn.init_params does; m_{l-1} of a filter is c kh kw.

    specs, shape as in build. Returns params. Raises ValueError, naming the layer, where a size does not fit.
    """
    params, X = {}, as_input(np.zeros((int(np.prod(shape)), 1), dtype), shape)
    for spec, (layer, l) in zip(specs, numbered(specs)):
        try:
            own = layer.draw(X, rng, sigma, dtype)
            X, _ = layer.forward(X, own | {"eps": kbn.EPS})
        except ValueError as error:
            raise ValueError(f"layer {tuple(spec)}: {error}") from None
        params |= {f"{name}{l}": array for name, array in own.items()}
    return params


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


def dropout_masks(plan, shape, params, n, keep, rng):
    """Draw mask{l} for every dropout layer, of the shape that it masks for n examples; called as kbn.dropout_masks is.

    Raises ValueError where there is none.
    """
    if not any(layer.masks for layer, _ in plan):
        raise ValueError(f"keep is {keep:g}, but the net has no ('dropout',) layer")
    dtype = params["W1"].dtype
    _, cache = forward(plan, shape, np.zeros((int(np.prod(shape)), 1), dtype), params)
    masks = {}
    for (layer, l), (_, shape) in zip(plan, cache["layers"]):
        if layer.masks:
            sizes = shape[1:] if len(shape) == 4 else shape[:1]
            mask = kbn.draw_mask((*sizes, n), keep, rng, dtype)
            masks[f"mask{l}"] = np.moveaxis(mask, -1, 0) if len(shape) == 4 else mask
    return masks


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
    return build(json.loads(str(more["specs"])), more["shape"], str(more["loss"])) if "specs" in more else kbn.MLP


def check_model(params, stats, more):
    """Raises ValueError or KeyError unless params and stats are those of of_model(more). For kbn.load."""
    if "specs" not in more:
        return kbn.check_arrays(params | stats, kbn.shapes_of(params))
    net = of_model(more)
    plan = numbered(json.loads(str(more["specs"])))
    names = {f"{name}{l}" for layer, l in plan for name in layer.params + layer.stats}
    kbn.check_arrays(params | stats, {name: (params | stats)[name].shape for name in names})
    net["forward"](np.zeros((net["d"](params), 1), params["W1"].dtype), params, stats)
