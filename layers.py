"""Layers as forward/backward pairs that nets are made of, by hand, in numpy.

    out, cache = x_forward(input, its parameters)      # cache: what backward needs
    G, grad_... = x_backward(G, cache)                 # from dJ/d out to dJ/d input, and dJ/d of each parameter

Columns are examples: X, S (m, n), W (m, d), b, gamma, beta (m, 1). images (n, c, h, w) hold n examples of c channels;
filters are W (f, c, kh, kw), b (f, 1). The size, stride and pad of sliding windows are one whole number for both
directions, or two (vertical, horizontal).

In memory the examples come last, (c, h, w, n), as in every X (m, n) that a product returns. So the innermost loop over
windows is contiguous, and images.reshape(n, -1).T, X.T.reshape(n, c, h, w) and the values of a channel as a row are views,
not copies. Images in any other order give the same result, after a copy.

No input is changed, the precision of the input is kept, and complex numbers pass through every forward and loss (maxima
compare the real parts), so that gradients can be checked by complex steps.

Sources: the MNIST homework (D), problem 1, for affine, ReLU, convolution, pooling and losses; the CS231n report (C) for the
two backward passes of batch normalization; the Fashion-MNIST homework (E) for its form with channels; A3 is the assignment.
"""
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import kbn

# ------------------------------------------------------------------------------------ affine and element by element

def affine_forward(X, W, b):
    """S = W X + b. D 1 (a) (i), A3 (1).

    X (d, n), W (m, d), b (m, 1). Returns S (m, n) and the cache. Raises ValueError if the shapes do not fit.
    """
    if X.ndim != 2 or W.ndim != 2 or len(X) != W.shape[1] or b.shape != (len(W), 1):
        raise ValueError(f"X {X.shape}, W {W.shape} and b {b.shape} do not fit: they must be (d, n), (m, d) and (m, 1)")
    S = W @ X
    S += b
    return S, (X, W)


def affine_backward(G, cache, input_gradient=True):
    """G (m, n) dJ/dS. Returns dJ/dX (d, n), grad_W, grad_b.

    The first layer of a net does not need dJ/dX: input_gradient=False skips its product, and returns None in its place.
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

def batch_norm_forward(S, gamma, beta, mu=None, v=None, eps=kbn.EPS):
    """Return gamma (S - mu) / sqrt(v + eps) + beta, row by row, and the cache. A3 (13)-(16); C, Q2, Algorithm 1.

    S (m, n), gamma, beta (m, 1); mu, v (m, 1) to predict with, None (in training) for the mini-batch's own.
    The cache is a dict; if mu is None it holds the mini-batch's "mu" and "v" (divided by n), for the moving averages.
    Raises ValueError if the shapes do not fit.
    """
    columns = {"gamma": gamma, "beta": beta} | ({} if mu is None else {"mu": mu, "v": v})
    if S.ndim != 2 or any(column.shape != (len(S), 1) for column in columns.values()):
        found = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        raise ValueError(f"S {S.shape} does not fit {found}: S must be (m, n), the others (m, 1)")
    cache = {"S": S, "gamma": gamma, "eps": float(eps)}
    if mu is None:
        average = kbn.ones_n(S) / S.shape[1]
        cache["S_hat"], cache["mu"], cache["v"] = kbn.normalize_by_own(S, average, cache["eps"])  # A3 (13)-(15)
    else:
        cache["S_hat"] = kbn.batch_normalize(S, mu, v, cache["eps"])  # A3 (6)
    out = gamma * cache["S_hat"]
    out += beta                                                     # A3 (16)
    return out, cache


def batch_norm_backward(G, cache):
    """Propagate G (m, n) = dJ/d out in closed form. C, Q2, BatchNorm Backward Alternative; A3 (25)-(27).

    Returns dJ/dS (m, n), grad_gamma, grad_beta (m, 1). Raises ValueError if the cache is one of prediction.
    """
    check_own_statistics(cache)
    return kbn.bn_gradients(G, kbn.ones_n(G), *(cache[name] for name in ("S_hat", "gamma", "v", "eps")))


def batch_norm_backward_staged(G, cache):
    """Do the same as batch_norm_backward, one gate of the computational graph at a time. C, Q2, steps 9 to 0.

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
    """Raise ValueError if batch_norm_forward was given its statistics, as in prediction."""
    if "mu" not in cache:
        raise ValueError("backward needs the mini-batch's own statistics: call batch_norm_forward without mu and v")


def channel_batch_norm_forward(images, gamma, beta, mu=None, v=None, eps=kbn.EPS):
    """Apply batch_norm_forward with statistics over the n h w values of each channel. E, Convolutional Layers.

    images (n, c, h, w); gamma, beta and, if given, mu, v (c, 1). Returns images (n, c, h, w) and the cache.
    """
    out, cache = batch_norm_forward(channel_rows(images), gamma, beta, mu, v, eps)
    return rows_to_images(out, images.shape), cache


def channel_batch_norm_backward(G, cache):
    """G (n, c, h, w) dJ/d out. Returns dJ/d images (n, c, h, w), grad_gamma, grad_beta (c, 1)."""
    G_rows, grad_gamma, grad_beta = batch_norm_backward(channel_rows(G), cache)
    return rows_to_images(G_rows, G.shape), grad_gamma, grad_beta


# -------------------------------------------------------------------------------------------- convolution and pooling

def conv_forward(images, W, b, stride=1, pad=0):
    """Slide f filters over zero-padded images, as matrix products (im2col). D 1 (a) (iii).

    images (n, c, h, w), W (f, c, kh, kw), b (f, 1). The filters are not flipped, as usual in deep learning.
    Returns (n, f, h_out, w_out), with h_out = (h + 2 pad - kh) / stride + 1 and w_out likewise, and the cache.
    D's matrix M of all windows is kh kw / stride^2 times the size of the images. It is made for one band of output rows at
    a time, here and in conv_backward, so that it stays in the processor's cache.
    Raises ValueError if the shapes do not fit, or if the windows do not divide the images.
    """
    if images.ndim != 4 or W.ndim != 4 or images.shape[1] != W.shape[1] or b.shape != (len(W), 1):
        raise ValueError(f"images {images.shape}, W {W.shape} and b {b.shape} do not fit: "
                         "they must be (n, c, h, w), (f, c, kh, kw) and (f, 1)")
    size, stride, pad, _ = grid(image_sides(images), W.shape[2:], stride, pad)
    padded = pad_images(images, pad)
    view = windows(padded, size, stride)                            # (c, kh, kw, h_out, w_out, n)
    W_rows = W.reshape(len(W), -1)
    out = np.empty_like(padded, shape=(len(W), *view.shape[3:]), dtype=np.result_type(padded, W))
    for rows in bands(view):
        M = view[:, :, :, rows].reshape(W[0].size, -1)              # a window a column
        np.matmul(W_rows, M, out=out[:, rows].reshape(len(W), -1))
    out += b[:, :, None, None]
    return out.transpose(3, 0, 1, 2), (padded, W, stride, pad)


def conv_backward(G, cache, input_gradient=True):
    """G (n, f, h_out, w_out) dJ/d out. Returns dJ/d images (n, c, h, w), grad_W, grad_b.

    input_gradient=False skips dJ/d images, and returns None in its place, as in affine_backward.
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
    """Return slices of the output rows of windows (c, kh, kw, h_out, w_out, n), with about size numbers each."""
    step = max(1, size * view.shape[3] // view.size)
    return [slice(i, i + step) for i in range(0, view.shape[3], step)]


def max_pool_forward(images, size, stride, pad=0):
    """The largest value of each window, channel by channel; the padding is -inf and never wins. D 1 (a) (iv).

    images (n, c, h, w). Returns (n, c, h_out, w_out), as in conv_forward, and the cache. Raises ValueError if the windows
    do not divide the images, or if a window could hold nothing but padding.
    """
    size, stride, pad, _ = grid(image_sides(images), size, stride, pad, whole=False)
    padded = pad_images(images, pad, fill=-np.inf)
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
    open_ = np.ones_like(out, dtype=bool)                           # windows whose maximum has not been found yet
    for i, j in np.ndindex(size):
        here = open_ & (view[:, i, j] == out)
        open_ ^= here
        G_view[:, i, j] += G * here
    return crop(G_padded, pad)


def avg_pool_forward(images, size, stride, pad=0):
    """The mean of each window, channel by channel; padded zeros count as values, as in PyTorch's default. D 1 (a) (iv).

    images (n, c, h, w). Returns (n, c, h_out, w_out), as in conv_forward, and the cache. Raises ValueError if the
    windows do not divide the images.
    """
    size, stride, pad, _ = grid(image_sides(images), size, stride, pad)
    padded = pad_images(images, pad)
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
    """Return images (n, c, h, w) as one row a channel, (c, h w n)."""
    return images.transpose(1, 2, 3, 0).reshape(images.shape[1], -1)


def rows_to_images(rows, shape):
    """Return rows (c, h w n) as images of this shape (n, c, h, w): the inverse of channel_rows."""
    n, c, h, w = shape
    return rows.reshape(c, h, w, n).transpose(3, 0, 1, 2)


def image_sides(images):
    """Return (h, w) of images (n, c, h, w). Raises ValueError for an array of other dimensions."""
    if images.ndim != 4:
        raise ValueError(f"images must be (n, c, h, w), not {images.shape}")
    return images.shape[2:]


def pad_images(images, pad, fill=0.0):
    """Return images (n, c, h, w) as (c, h + 2 pad, w + 2 pad, n) with a border of fill; pad is a pair. A view if none is needed."""
    n, c, h, w = images.shape
    if pad == (0, 0):
        return images.transpose(1, 2, 3, 0).astype(images.dtype, order="C", copy=False)
    padded = np.full_like(images, fill, shape=(c, h + 2 * pad[0], w + 2 * pad[1], n), order="C")
    padded[:, pad[0]:pad[0] + h, pad[1]:pad[1] + w] = images.transpose(1, 2, 3, 0)
    return padded


def grid(sides, size, stride, pad, whole=True):
    """Return size, stride and pad as pairs, and the numbers (h_out, w_out) of such windows in images of sides (h, w).

    Raises ValueError for impossible numbers, if the windows do not cover the padded images to the last pixel, and, unless
    whole is True, if a window could hold nothing but padding.
    """
    size, stride, pad = pair(size, 1, "size"), pair(stride, 1, "stride"), pair(pad, 0, "pad")
    rest = [side + 2 * p - k for side, k, p in zip(sides, size, pad)]
    if min(rest) < 0 or any(r % s for r, s in zip(rest, stride)):
        raise ValueError(f"windows of {size[0]} x {size[1]}, stride {stride[0]} x {stride[1]} and padding "
                         f"{pad[0]} x {pad[1]}, do not divide images of {sides[0]} x {sides[1]}")
    if not whole and (pad[0] >= size[0] or pad[1] >= size[1]):
        raise ValueError(f"pad {pad} must be less than size {size}: some windows would hold nothing but padding")
    return size, stride, pad, tuple(r // s + 1 for r, s in zip(rest, stride))


def crop(padded, pad):
    """Return padded (c, H, W, n) without its border, as images (n, c, h, w): the inverse of pad_images."""
    _, height, width, _ = padded.shape
    return padded[:, pad[0]:height - pad[0], pad[1]:width - pad[1]].transpose(3, 0, 1, 2)


def windows(padded, size, stride):
    """Return all windows of padded (c, H, W, n) as a writeable view (c, kh, kw, h_out, w_out, n).

    [:, i, j] are the pixels i rows and j columns inside their windows; no two of them are the same.
    """
    view = sliding_window_view(padded, size, axis=(1, 2), writeable=True)
    return view[:, ::stride[0], ::stride[1]].transpose(0, 4, 5, 1, 2, 3)


def pair(value, least, name):
    """Return one whole number, or two, as (vertical, horizontal). Raises ValueError below least."""
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(isinstance(number, (int, np.integer)) and number >= least for number in both):
        raise ValueError(f"{name} must be a whole number from {least}, or two (vertical, horizontal), not {value!r}")
    return both


# ------------------------------------------------------------------------------------------------------------- losses

def softmax_loss(S, Y):
    """Return the mean cross-entropy of softmax(S), and G = d loss / dS (K, n). D 1 (a) (v); A3 (4), (20), (21).

    S (K, n) scores, Y (K, n) one-hot. Raises ValueError if Y does not fit.
    """
    check_columns(S, Y)
    P, logP = kbn.softmax(S)
    return kbn.cross_entropy(Y, logP), (P - Y) / Y.shape[1]


def svm_loss(S, Y):
    """Return the mean over the columns of sum over the wrong classes k of max(0, s_k - s_y + 1), and G. D 1 (a) (v).

    Arguments and errors as in softmax_loss. A class exactly at the margin contributes nothing to G.
    """
    check_columns(S, Y)
    margins = np.maximum(S - (Y * S).sum(axis=0) + (1 - Y), 0)      # 0 at the right class
    G = (margins > 0).astype(S.dtype)
    G -= Y * G.sum(axis=0)
    return margins.sum() / Y.shape[1], G / Y.shape[1]


def check_columns(S, Y):
    """Raise ValueError unless Y has the shape (K, n) of the scores S and one 1 in each column."""
    if S.ndim != 2 or Y.shape != S.shape or not Y.shape[1]:
        raise ValueError(f"scores {S.shape} and one-hot labels {Y.shape} must both be (K, n)")
    if not ((Y == 0) | (Y == 1)).all() or not (Y.sum(axis=0) == 1).all():
        raise ValueError("each column of Y must hold one 1, at the label, and zeros")
