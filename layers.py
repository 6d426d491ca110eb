"""The layers of documents C, D and E: forward/backward pairs that nets are put together from, by hand, in numpy.

    out, cache = x_forward(input, its parameters)      # cache: what backward needs
    G, grad_... = x_backward(G, cache)                 # from dJ/d out to dJ/d input, and dJ/d of each parameter

Columns are examples: X, S (m, n), W (m, d), b, gamma, beta (m, 1). images (n, c, h, w) hold n examples of c channels;
filters are W (f, c, kh, kw), b (f, 1). Where windows slide, size, stride and pad are one whole number for both
directions, or two (vertical, horizontal).

In memory the examples come last, (c, h, w, n), as they do in every X (m, n) that a product leaves: so windows are
gathered and scattered in long runs, and images.reshape(n, -1).T, X.T.reshape(n, c, h, w) and the values of a channel as
a row are views, not copies. Images in any other order give the same result, after a copy.

What kbn.py has is taken from there. No input is changed, the precision of the input stays, and complex numbers pass
through every forward and loss (maxima compare the real parts), so that gradients can be checked by complex steps.
"""
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import kbn

# ------------------------------------------------------------------------------------ affine and element by element

def affine_forward(X, W, b):
    """S = W X + b. D 1 (a) (i), A (1).

    X (d, n), W (m, d), b (m, 1). Returns S (m, n) and the cache. Raises ValueError where the shapes do not fit.
    """
    if X.ndim != 2 or W.ndim != 2 or len(X) != W.shape[1] or b.shape != (len(W), 1):
        raise ValueError(f"X {X.shape}, W {W.shape} and b {b.shape} do not fit: they must be (d, n), (m, d) and (m, 1)")
    S = W @ X
    S += b
    return S, (X, W)


def affine_backward(G, cache, input_gradient=True):
    """G (m, n) dJ/dS. Returns dJ/dX (d, n), grad_W, grad_b.

    Without input_gradient dJ/dX is None, and its product is saved: a net's first layer has nobody to hand it to.
    """
    X, W = cache
    return W.T @ G if input_gradient else None, G @ X.T, G @ kbn.ones_n(G)


def relu_forward(S):
    """max(S, 0) of S of any shape. D 1 (a) (ii). Returns it and the cache."""
    X = np.maximum(S, 0)
    return X, X


def relu_backward(G, cache):
    """G dJ/d max(S, 0). Returns dJ/dS; at the kink, S = 0, it is 0."""
    return G * (cache > 0)


def sigmoid_forward(S):
    """1 / (1 + exp(-S)), S of any shape, as (1 + tanh(S / 2)) / 2, which cannot overflow. Returns it and the cache."""
    X = np.tanh(0.5 * S)
    X *= 0.5
    X += 0.5
    return X, X


def sigmoid_backward(G, cache):
    """G dJ/d sigmoid(S). Returns dJ/dS."""
    return G * cache * (1 - cache)


def tanh_forward(S):
    """tanh(S) of S of any shape. Returns it and the cache."""
    X = np.tanh(S)
    return X, X


def tanh_backward(G, cache):
    """G dJ/d tanh(S). Returns dJ/dS."""
    return G * (1 - cache**2)


def dropout_forward(X, mask):
    """Multiply X by mask, of the same shape: 1 / keep with probability keep, else 0, as kbn.dropout_masks draws them.

    Returns the product and the cache; prediction leaves the layer out. Raises ValueError for a mask of another shape.
    """
    if mask.shape != X.shape:
        raise ValueError(f"the mask {mask.shape} does not fit what it masks, {X.shape}")
    return X * mask, mask


def dropout_backward(G, cache):
    """G dJ/d (X mask). Returns dJ/dX."""
    return G * cache


# ------------------------------------------------------------------------------------------------ batch normalization

def batch_norm_forward(S, gamma, beta, stats=None, eps=kbn.EPS):
    """gamma (S - mu) / sqrt(v + eps) + beta, row by row. A (13)-(16); C, Q2, Algorithm 1.

    S (m, n), gamma, beta (m, 1); stats (mu, v), both (m, 1), to predict with, None (training) for the mini-batch's own.
    Returns the result (m, n) and the cache, a dict. Where stats is None it holds the mini-batch's own "mu" and "v"
    (divided by n), for the moving averages. Raises ValueError where the shapes do not fit.
    """
    if S.ndim != 2 or not all(column.shape == (len(S), 1) for column in (gamma, beta, *(stats or ()))):
        raise ValueError(f"S {S.shape} does not fit gamma {gamma.shape} and beta {beta.shape}"
                         + (f", mu {stats[0].shape} and v {stats[1].shape}" if stats else "")
                         + ": S must be (m, n), the others (m, 1)")
    cache = {"S": S, "gamma": gamma, "eps": float(eps)}
    if stats is None:
        average = kbn.ones_n(S) / S.shape[1]
        cache["mu"] = mu = S @ average                              # A (13)
        cache["v"] = v = (S - mu) ** 2 @ average                    # A (14)
    else:
        mu, v = stats
    cache["S_hat"] = kbn.batch_normalize(S, mu, v, cache["eps"])    # A (15)
    out = gamma * cache["S_hat"]
    out += beta                                                     # A (16)
    return out, cache


def batch_norm_backward(G, cache):
    """G (m, n) dJ/d out, propagated in closed form. C, Q2, BatchNorm Backward Alternative; A (25)-(27).

    Returns dJ/dS (m, n), grad_gamma, grad_beta (m, 1). Raises ValueError if the cache is one of prediction.
    It is kbn.batch_norm_backpass for G gamma, whose sums over the mini-batch, (36) and (37), are the gradients of gamma
    and beta already: dJ/dS = gamma / sqrt(v + eps) (G - (grad_beta + S_hat grad_gamma) / n).
    """
    check_own_statistics(cache)
    one = kbn.ones_n(G)
    n, S_hat = len(one), cache["S_hat"]
    grad_gamma = G * S_hat @ one
    grad_beta = G @ one                                             # A (25)
    G_S = S_hat * (grad_gamma / -n)
    G_S -= grad_beta / n
    G_S += G
    G_S *= cache["gamma"] * (cache["v"] + cache["eps"]) ** -0.5
    return G_S, grad_gamma, grad_beta


def batch_norm_backward_staged(G, cache):
    """The same as batch_norm_backward, a gate of the computational graph at a time. C, Q2, steps 9 to 0.

    The graph: D = S - mu, v = mean of D^2, sigma = sqrt(v + eps), r = 1 / sigma, S_hat = D r, out = gamma S_hat + beta.
    """
    check_own_statistics(cache)
    one = kbn.ones_n(G)
    n, S, gamma = len(one), cache["S"], cache["gamma"]
    D = S - cache["mu"]
    sigma = (cache["v"] + cache["eps"]) ** 0.5
    r = 1 / sigma

    grad_beta = G @ one                                             # step 9: out = (gamma S_hat) + beta
    grad_gamma = G * cache["S_hat"] @ one                           # step 8: gamma S_hat
    G_S_hat = G * gamma
    G_D = G_S_hat * r                                               # step 7: S_hat = D r, by its first factor
    G_r = G_S_hat * D @ one                                         #         and by its second
    G_sigma = -G_r / sigma**2                                       # step 6: r = 1 / sigma
    G_v = G_sigma / (2 * sigma)                                     # step 5: sigma = sqrt(v + eps)
    G_square = G_v / n                                              # step 4: v = (1/n) sum of D^2, to each column alike
    G_D += G_square * 2 * D                                         # step 3: D^2
    G_mu = -G_D @ one                                               # step 2: D = S - mu, by mu
    G_S = G_D + G_mu / n                                            # steps 1, 0: mu = (1/n) sum of S, and S itself
    return G_S, grad_gamma, grad_beta


def check_own_statistics(cache):
    """Raises ValueError where batch_norm_forward was given its statistics, as in prediction."""
    if "mu" not in cache:
        raise ValueError("backward needs the mini-batch's own statistics: call batch_norm_forward without stats")


def channel_batch_norm_forward(images, gamma, beta, stats=None, eps=kbn.EPS):
    """batch_norm_forward with statistics over the n h w values of each channel. E, Convolutional Layers.

    images (n, c, h, w), gamma, beta and, if given, mu, v (c, 1). Returns images and the cache, and raises, as there.
    """
    out, cache = batch_norm_forward(channel_rows(images), gamma, beta, stats, eps)
    return rows_to_images(out, images.shape), cache


def channel_batch_norm_backward(G, cache):
    """G (n, c, h, w) dJ/d out. Returns dJ/d images (n, c, h, w), grad_gamma, grad_beta (c, 1). Raises as there."""
    G_rows, grad_gamma, grad_beta = batch_norm_backward(channel_rows(G), cache)
    return rows_to_images(G_rows, G.shape), grad_gamma, grad_beta


# -------------------------------------------------------------------------------------------- convolution and pooling

def conv_forward(images, W, b, stride=1, pad=0):
    """Slide f filters over zero-padded images and sum up what they weigh, as matrix products (im2col). D 1 (a) (iii).

    images (n, c, h, w), W (f, c, kh, kw), b (f, 1). As in all of deep learning, the filters are not flipped.
    Returns (n, f, h_out, w_out), h_out = (h + 2 pad - kh) / stride + 1, w_out likewise, and the cache. D's matrix M of
    all windows is kh kw / stride^2 times the size of the images: it is made a band of output rows at a time, here and
    again in conv_backward, so that it stays in the processor's cache. Raises ValueError where the shapes do not fit, or
    where the windows do not divide the images.
    """
    if images.ndim != 4 or W.ndim != 4 or images.shape[1] != W.shape[1] or b.shape != (len(W), 1):
        raise ValueError(f"images {images.shape}, W {W.shape} and b {b.shape} do not fit: "
                         "they must be (n, c, h, w), (f, c, kh, kw) and (f, 1)")
    padded, size, stride, pad = pad_images(images, W.shape[2:], stride, pad)
    view = windows(padded, size, stride)                            # (c, kh, kw, h_out, w_out, n)
    W_rows = W.reshape(len(W), -1)
    out = np.empty_like(padded, shape=(len(W), *view.shape[3:]), dtype=np.result_type(padded, W))
    for rows in bands(view):
        M = view[:, :, :, rows].reshape(W[0].size, -1)              # a window a column
        np.matmul(W_rows, M, out=out[:, rows].reshape(len(W), -1))
    out += b[:, :, None, None]
    return out.transpose(3, 0, 1, 2), (padded, W, stride, pad)


def conv_backward(G, cache, input_gradient=True):
    """G (n, f, h_out, w_out) dJ/d out.

    Returns dJ/d images (n, c, h, w), grad_W, grad_b. Without input_gradient the first is None, as in affine_backward.
    """
    padded, W, stride, pad = cache
    G_rows = channel_rows(G)
    grad_b = G_rows @ kbn.ones_n(G_rows)
    G_rows = G_rows.reshape(len(W), *G.shape[2:], len(G))
    W_rows = W.reshape(len(W), -1)
    grad_W = np.zeros_like(W_rows)
    view = windows(padded, W.shape[2:], stride)
    G_padded = np.zeros_like(padded)
    G_view = windows(G_padded, W.shape[2:], stride)
    for rows in bands(view):
        M, G_band = view[:, :, :, rows].reshape(W[0].size, -1), G_rows[:, rows].reshape(len(W), -1)
        grad_W += G_band @ M.T
        if input_gradient:
            G_M = (W_rows.T @ G_band).reshape(view[:, :, :, rows].shape)
            for i, j in np.ndindex(W.shape[2:]):                    # col2im: overlapping windows add up
                G_view[:, i, j, rows] += G_M[:, i, j]
    return crop(G_padded, pad) if input_gradient else None, grad_W.reshape(W.shape), grad_b


def bands(view, size=2**18):
    """Slices of the output rows of windows (c, kh, kw, h_out, w_out, n), of about size numbers each."""
    step = max(1, size * view.shape[3] // view.size)
    return [slice(i, i + step) for i in range(0, view.shape[3], step)]


def max_pool_forward(images, size, stride, pad=0):
    """The largest value of each window, channel by channel; the padding is -inf and never wins. D 1 (a) (iv).

    images (n, c, h, w). Returns (n, c, h_out, w_out), as in conv_forward, and the cache. Raises ValueError where the
    windows do not divide the images, or could lie in the padding alone.
    """
    padded, size, stride, pad = pad_images(images, size, stride, pad, fill=-np.inf)
    view = windows(padded, size, stride)
    out = view[:, 0, 0].copy()
    for i, j in np.ndindex(size):
        np.maximum(out, view[:, i, j], out=out)
    return out.transpose(3, 0, 1, 2), (padded, out, size, stride, pad)


def max_pool_backward(G, cache):
    """G (n, c, h_out, w_out) dJ/d out. Returns dJ/d images (n, c, h, w).

    G goes to the largest value of its window: to the first of equals, row by row, as in PyTorch.
    """
    padded, out, size, stride, pad = cache
    G = G.transpose(1, 2, 3, 0)
    G_padded = np.zeros_like(G, shape=padded.shape, order="C")
    view, G_view = windows(padded, size, stride), windows(G_padded, size, stride)
    left = np.ones_like(out, dtype=bool)                            # windows whose maximum has not been met
    for i, j in np.ndindex(size):
        here = left & (view[:, i, j] == out)
        left ^= here
        G_view[:, i, j] += G * here
    return crop(G_padded, pad)


def avg_pool_forward(images, size, stride, pad=0):
    """The mean of each window, channel by channel; padded zeros count as values, as in PyTorch's default. D 1 (a) (iv).

    images (n, c, h, w). Returns (n, c, h_out, w_out), as in conv_forward, and the cache. Raises ValueError where the
    windows do not divide the images.
    """
    padded, size, stride, pad = pad_images(images, size, stride, pad)
    view = windows(padded, size, stride)
    out = np.zeros_like(view[:, 0, 0])
    for i, j in np.ndindex(size):
        out += view[:, i, j]
    out /= size[0] * size[1]
    return out.transpose(3, 0, 1, 2), (padded.shape, size, stride, pad)


def avg_pool_backward(G, cache):
    """G (n, c, h_out, w_out) dJ/d out. Returns dJ/d images (n, c, h, w)."""
    padded_shape, size, stride, pad = cache
    G = G.transpose(1, 2, 3, 0) / (size[0] * size[1])
    G_padded = np.zeros_like(G, shape=padded_shape, order="C")
    view = windows(G_padded, size, stride)
    for i, j in np.ndindex(size):
        view[:, i, j] += G
    return crop(G_padded, pad)


# -------------------------------------------------------------------------------------------- images and their windows

def channel_rows(images):
    """Images (n, c, h, w) as a row a channel, (c, h w n)."""
    return images.transpose(1, 2, 3, 0).reshape(images.shape[1], -1)


def rows_to_images(rows, shape):
    """The inverse of channel_rows: rows (c, h w n) as images of the shape (n, c, h, w)."""
    n, c, h, w = shape
    return rows.reshape(c, h, w, n).transpose(3, 0, 1, 2)


def pad_images(images, size, stride, pad, fill=0.0):
    """A copy (c, h + 2 pad, w + 2 pad, n) of images (n, c, h, w), with fill around; and size, stride and pad as pairs.

    Raises ValueError as grid does; fill other than 0 is never to fill a whole window.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (n, c, h, w), not {images.shape}")
    n, c, h, w = images.shape
    size, stride, pad, _ = grid((h, w), size, stride, pad, pixels=fill != 0)
    padded_size = h + 2 * pad[0], w + 2 * pad[1]
    padded = np.full_like(images, fill, shape=(c, *padded_size, n), order="C")
    padded[:, pad[0]:pad[0] + h, pad[1]:pad[1] + w] = images.transpose(1, 2, 3, 0)
    return padded, size, stride, pad


def grid(sides, size, stride, pad, pixels=False):
    """size, stride and pad as pairs, and the numbers (h_out, w_out) of such windows in images of sides (h, w).

    Raises ValueError for impossible numbers, unless the windows cover the padded images to the last pixel, and, with
    pixels, where windows could lie in the padding alone.
    """
    size, stride, pad = pair(size, 1, "size"), pair(stride, 1, "stride"), pair(pad, 0, "pad")
    rest = [side + 2 * p - k for side, k, p in zip(sides, size, pad)]
    if min(rest) < 0 or any(r % s for r, s in zip(rest, stride)):
        raise ValueError(f"windows of {size[0]} x {size[1]}, stride {stride[0]} x {stride[1]} and padding "
                         f"{pad[0]} x {pad[1]}, do not divide images of {sides[0]} x {sides[1]}")
    if pixels and (pad[0] >= size[0] or pad[1] >= size[1]):
        raise ValueError(f"pad {pad} must be less than size {size}: some windows would hold nothing but padding")
    return size, stride, pad, tuple(r // s + 1 for r, s in zip(rest, stride))


def crop(padded, pad):
    """The inverse of pad_images: padded without its border, as images (n, c, h, w)."""
    _, height, width, _ = padded.shape
    return padded[:, pad[0]:height - pad[0], pad[1]:width - pad[1]].transpose(3, 0, 1, 2)


def windows(padded, size, stride):
    """All windows of padded (c, H, W, n), as a view (c, kh, kw, h_out, w_out, n) that can be written through.

    [:, i, j] are the pixels that lie i rows and j columns inside their windows. No two of them are the same.
    """
    view = sliding_window_view(padded, size, axis=(1, 2), writeable=True)
    return view[:, ::stride[0], ::stride[1]].transpose(0, 4, 5, 1, 2, 3)


def pair(value, least, name):
    """One whole number for both directions, or two, as (vertical, horizontal). Raises ValueError below least."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(isinstance(number, (int, np.integer)) and number >= least for number in both):
        raise ValueError(f"{name} must be a whole number from {least}, or two (vertical, horizontal), not {value!r}")
    return both


# ------------------------------------------------------------------------------------------------------------- losses

def softmax_loss(S, y):
    """The mean cross-entropy of softmax(S). D 1 (a) (v); A (4), (20), (21).

    S (K, n) scores, y (n,) labels in 0..K-1. Returns the loss and G = d loss / dS (K, n). Raises ValueError for labels
    that do not fit.
    """
    Y = labels_to_columns(S, y)
    P, logP = kbn.softmax(S)
    return kbn.cross_entropy(Y, logP), (P - Y) / len(y)


def svm_loss(S, y):
    """The mean over the columns of sum over the wrong classes k of max(0, s_k - s_y + 1). D 1 (a) (v).

    Arguments, results and errors as in softmax_loss; a wrong class exactly at the margin has no part in G.
    """
    Y = labels_to_columns(S, y)
    margins = np.maximum(S - (Y * S).sum(axis=0) + (1 - Y), 0)      # 0 at the right class
    G = (margins > 0).astype(S.dtype)
    G -= Y * G.sum(axis=0)
    return margins.sum() / len(y), G / len(y)


def labels_to_columns(S, y):
    """Labels y (n,) as one-hot Y (K, n), like scores S (K, n). Raises ValueError for labels that do not fit."""
    if S.ndim != 2 or y.shape != S.shape[1:] or not len(y):
        raise ValueError(f"scores {S.shape} and labels {y.shape} do not fit: they must be (K, n) and (n,)")
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= len(S):
        raise ValueError(f"labels must be integers in 0..{len(S) - 1}, not {y.dtype} in {y.min()}..{y.max()}")
    return kbn.one_hot(y, len(S), S.dtype)
