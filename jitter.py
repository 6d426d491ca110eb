"""Mirrored, shifted and recoloured mini-batches of pictures, so that a net hardly ever sees the same picture twice.

The assignment DD2424 A3, Exercise 4: "on-the-fly data augmentation by geometric and photometric jitter".

    f = jitter.build((3, 32, 32), share=0.5, s=4, contrast=0.2)      # made once
    X = f(X, rng)                                                    # for each mini-batch

X (d, n) is a mini-batch in Fortran order: a column is a picture of shape c, h, w, stored plane by plane, row by row. Every
function here changes X itself and returns it. A mini-batch is therefore a copy, X.T[batch].T, and never a view of the
training set. rng is a np.random.Generator.

Mirror and shift move numbers about, whatever they mean: pixels, standardised or whitened ones.
"""

import numpy as np


def build(shape, *, share=0.0, s=0, brightness=0.0, contrast=0.0, colour=0.0, planes=None, centre=0.0):
    """Return the function f(X, rng) -> X that mirrors, shifts and recolours mini-batches of pictures of shape (c, h, w).

    share, s and the other strengths: see mirror, shift and recolour. What has strength 0 is left out and draws nothing.
    planes is needed for brightness and colour. Raises ValueError for an impossible strength.
    """
    check_share(share)
    check_shift(s, shape)
    check_strengths(brightness=brightness, contrast=contrast, colour=colour)
    if (brightness or colour) and planes is None:
        raise ValueError("brightness and colour need planes, which say what they mean for X: see jitter.recolour")
    room = {}

    def f(X, rng):
        if share:
            mirror(X, shape, rng, share)
        if s:
            shift(X, shape, rng, s)
        if brightness or contrast or colour:
            if room.get("dX") is None or room["dX"].shape != X.shape:
                room["dX"] = np.empty_like(X)
            recolour(X, rng, planes, brightness=brightness, contrast=contrast, colour=colour, centre=centre, out=room["dX"])
        return X

    return f


def mirror(X, shape, rng, share=0.5):
    """Exchange left and right in each picture of X (d, n) with probability share. Returns X, which is changed."""
    check_share(share)
    pictures = pictures_of(X, shape)
    chosen = np.asarray(np.flatnonzero(rng.random(len(pictures)) < share), like=X)
    pictures[chosen] = pictures[chosen][..., ::-1]
    return X


def shift(X, shape, rng, s):
    """Shift each picture of X (d, n) by -s..s pixels down and by -s..s pixels to the right. Returns X, which is changed.

    All (2s + 1)^2 shifts are equally likely. What moves in over a border is the picture reflected there: abcd, shifted to the
    right by 2, is cbab. Raises ValueError unless s is a whole number below the height and the width.
    """
    check_shift(s, shape)
    pictures = pictures_of(X, shape)
    steps = rng.integers(-s, s + 1, (2, len(pictures)))
    for axis, side in ((2, shape[1]), (3, shape[2])):
        for step in range(-s, s + 1):
            if step:
                chosen = np.asarray(np.flatnonzero(steps[axis - 2] == step), like=X)  # they are moved together
                source = np.abs(np.arange(side, like=X) - step)
                source = side - 1 - np.abs(side - 1 - source)  # reflected at both borders
                pictures[chosen] = np.take(pictures[chosen], source, axis=axis)
    return X


def recolour(X, rng, planes, *, brightness=0.0, contrast=0.0, colour=0.0, centre=0.0, out=None):
    """Change brightness, contrast and colour of each picture of X (d, n), which is changed. Returns X.

        x = centre + (1 + a) (x - centre) + planes (b 1_c + k)

    a is drawn from -contrast..contrast, b from -brightness..brightness and each of the c numbers k from -colour..colour,
    evenly and for each picture anew. Black is 0 and white is 1 in the units of brightness and colour; contrast 0.2 changes
    the distance from centre by up to a fifth. Nothing is clipped: the step is linear, so it may follow any other linear one.

    planes (d, c): what X gains where a whole plane gets brighter from black to white. centre: what keeps its value.
      pixels in 0..1         planes_of(shape), and 0.5 as centre
      (pixel - mean) / sd    planes_of(shape) times (white pixel) / sd, and 0: the mean picture keeps its value
      W (pixel - mean) / sd  W times those planes, and 0: exactly as if the pixels had been recoloured before the whitening
    out: an array like X to work in; one is made if there is none.
    Raises ValueError for a strength outside 0..1. Constants added to a plane: Krizhevsky, Sutskever, Hinton 2012, section 4.1.
    """
    check_strengths(brightness=brightness, contrast=contrast, colour=colour)
    n = X.shape[1]
    if contrast:
        a = rng.uniform(-contrast, contrast, n)
        X -= centre
        X *= np.asarray(1 + a, X.dtype, like=X)
        X += centre
    if brightness or colour:
        k = rng.uniform(-colour, colour, (planes.shape[1], n)) + rng.uniform(-brightness, brightness, n)
        X += np.matmul(planes, np.asarray(k, X.dtype, like=X), out=out)
    return X


def planes_of(shape, dtype=np.float32):
    """Return planes (d, c) for pixels in 0..1: column j is 1 for the pixels of plane j, else 0."""
    c, h, w = shape
    return np.repeat(np.eye(c, dtype=dtype), h * w, axis=0)


def pictures_of(X, shape):
    """Return X (d, n) as a view (n, c, h, w). Raises ValueError unless X is in Fortran order and d is c h w."""
    if X.ndim != 2 or X.shape[0] != np.prod(shape) or not X.flags.f_contiguous:
        raise ValueError(f"X {X.shape} must be ({np.prod(shape)}, n) in Fortran order for pictures of shape {tuple(shape)}")
    return X.T.reshape(-1, *shape)


def check_share(share):
    """Raise ValueError unless share is a probability."""
    if not 0 <= share <= 1:
        raise ValueError(f"share must be a probability from 0 to 1, not {share!r}")


def check_shift(s, shape):
    """Raise ValueError unless pictures of this shape can be shifted by s pixels."""
    _, h, w = shape
    if not isinstance(s, (int, np.integer)) or not 0 <= s < min(h, w):
        raise ValueError(f"s must be a whole number of pixels from 0 to {min(h, w) - 1} for {h} x {w} pictures, not {s!r}")


def check_strengths(**strengths):
    """Raise ValueError unless all strengths are from 0 to 1."""
    for name, strength in strengths.items():
        if not 0 <= strength <= 1:
            raise ValueError(f"{name} must be from 0 to 1, not {strength!r}")
