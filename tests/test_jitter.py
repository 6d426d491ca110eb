"""jitter.py: mirrored, shifted and recoloured mini-batches against loops over pictures and pixels.

The last tests plant mistakes, and expect the checks of the tests before them to fail.
"""

from itertools import product

import numpy as np
import pytest
from helpers import refused
from scipy.stats import chisquare

import jitter

SHAPES = [(1, 28, 28), (3, 32, 32), (2, 5, 7)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def batch(shape, n=40, dtype=np.float32):
    """Random pixels in 0..1, X (d, n) in Fortran order."""
    return np.random.default_rng(0).random((n, int(np.prod(shape))), dtype=dtype).T


def same_bits(A, B):
    return A.shape == B.shape and A.dtype == B.dtype and A.tobytes("F") == B.tobytes("F")


def reflected(i, side):
    """The pixel that is seen at place i beyond a border."""
    return -i if i < 0 else 2 * (side - 1) - i if i >= side else i


def shifted(X, shape, steps):
    """X with each picture shifted by its steps (n, 2), pixel by pixel."""
    c, h, w = shape
    pictures, moved = X.T.reshape(-1, *shape), np.empty((X.shape[1], *shape), X.dtype)
    for i, (down, right) in enumerate(steps):
        for j, row, column in product(range(c), range(h), range(w)):
            moved[i, j, row, column] = pictures[i, j, reflected(row - down, h), reflected(column - right, w)]
    return moved.reshape(X.shape[1], -1).T


def check_shift(shift, shape, s):
    """Assert that shift(X, shape, rng, s) moves pictures by the steps that rng draws."""
    X = batch(shape)
    steps = np.random.default_rng(3).integers(-s, s + 1, (2, X.shape[1])).T
    assert same_bits(shift(X.copy("F"), shape, np.random.default_rng(3), s), shifted(X, shape, steps))


def check_mirror(mirror, shape):
    """Assert that mirror(X, shape, rng, 1) reverses every row, and that a second time gives the same bits again."""
    X, rng = batch(shape), np.random.default_rng(1)
    once = mirror(X.copy("F"), shape, rng, 1)
    pictures = X.T.reshape(-1, *shape)
    assert all(np.array_equal(row[::-1], new) for row, new in zip(pictures.reshape(-1, shape[2]), rows_of(once, shape)))
    assert same_bits(mirror(once.copy("F"), shape, rng, 1), X) and not same_bits(once, X)


def rows_of(X, shape):
    return X.T.reshape(-1, shape[2])


def check_recolour(recolour, shape, centre=0.5, brightness=0.1, contrast=0.2, colour=0.3):
    """Assert that recolour changes pixels as its formula says, picture by picture."""
    X, (c, h, w), rng = batch(shape, dtype=np.float64), shape, np.random.default_rng(5)
    strengths = dict(brightness=brightness, contrast=contrast, colour=colour)
    planes = jitter.planes_of(shape, np.float64)
    new = recolour(X.copy("F"), np.random.default_rng(5), planes, centre=centre, **strengths)
    n = X.shape[1]
    a = rng.uniform(-contrast, contrast, n)
    k, b = rng.uniform(-colour, colour, (c, n)), rng.uniform(-brightness, brightness, n)
    for i, j in product(range(n), range(c)):
        pixels = X[j * h * w : (j + 1) * h * w, i]
        expected = centre + (1 + a[i]) * (pixels - centre) + b[i] + k[j, i]
        np.testing.assert_allclose(new[j * h * w : (j + 1) * h * w, i], expected, rtol=1e-12, atol=1e-15)


@every_shape
def test_mirrored_twice_is_the_picture(shape):
    check_mirror(jitter.mirror, shape)


@every_shape
@pytest.mark.parametrize("s", [1, 4])
def test_shifted_picture_is_that_of_a_loop_over_pixels(shape, s):
    check_shift(jitter.shift, shape, s)


def test_shift_by_nearly_the_whole_picture_is_that_of_the_loop():
    check_shift(jitter.shift, (2, 5, 7), 4)


def test_shift_to_the_right_reflects_at_the_border():
    moved = shifted(np.arange(4.0)[:, None], (1, 1, 4), [(0, 2)])
    assert moved[:, 0].tolist() == [2, 1, 0, 1]  # abcd becomes cbab


@every_shape
def test_recoloured_pixels_are_those_of_the_formula(shape):
    check_recolour(jitter.recolour, shape)


@pytest.mark.parametrize("only", ["brightness", "contrast", "colour"])
def test_recolour_with_one_strength_changes_that_one_alone_and_stays_in_its_bounds(only):
    shape, X = (3, 4, 4), batch((3, 4, 4), 500, np.float64)
    new = jitter.recolour(X.copy("F"), np.random.default_rng(2), jitter.planes_of(shape), centre=0.5, **{only: 0.2})
    if only == "contrast":
        change = (new - 0.5) / (X - 0.5) - 1
        assert np.ptp(change, axis=0).max() < 1e-9
    else:
        change = (new - X).reshape(3, 16, -1)
        assert np.ptp(change, axis=1).max() < 1e-6  # a constant on each plane
        assert (np.ptp(change.mean(axis=1), axis=0).max() < 1e-6) == (only == "brightness")  # the same one on all planes
    assert 0.19 < abs(change).max() <= 0.2 + 1e-6 and abs(change.mean()) < 0.03


@every_shape
def test_strength_zero_returns_the_very_bits(shape):
    X, rng, planes = batch(shape), np.random.default_rng(1), jitter.planes_of(shape)
    X[0, :3] = -0.0, np.inf, 1e-42  # what arithmetic might change
    for f in (
        jitter.build(shape),
        lambda X, rng: jitter.mirror(X, shape, rng, 0),
        lambda X, rng: jitter.shift(X, shape, rng, 0),
        lambda X, rng: jitter.recolour(X, rng, planes, centre=0.5),
    ):
        given = X.copy("F")
        assert f(given, rng) is given and same_bits(given, X)
    drawn = np.random.default_rng(1)
    jitter.build(shape)(X, drawn)
    assert drawn.bit_generator.state == np.random.default_rng(1).bit_generator.state


@every_shape
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_build_is_mirror_then_shift_then_recolour_in_place(shape, dtype):
    X, planes, strengths = batch(shape, dtype=dtype), jitter.planes_of(shape), dict(brightness=0.1, contrast=0.2, colour=0.3)
    f = jitter.build(shape, share=0.5, s=2, planes=planes, centre=0.5, **strengths)
    rng, again = np.random.default_rng(4), np.random.default_rng(4)
    for n in (40, 40, 17):  # the memory that f keeps serves mini-batches of any size
        given = X[:, :n].copy("F")
        expected = jitter.mirror(X[:, :n].copy("F"), shape, rng, 0.5)
        expected = jitter.recolour(jitter.shift(expected, shape, rng, 2), rng, planes, centre=0.5, **strengths)
        assert f(given, again) is given and same_bits(given, expected) and given.dtype == dtype


def test_same_seed_gives_the_same_bits_and_another_seed_others():
    shape = (3, 32, 32)
    f = jitter.build(shape, share=0.5, s=4, brightness=0.1, planes=jitter.planes_of(shape))
    a, b, c = (f(batch(shape), np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert same_bits(a, b) and not same_bits(a, c)


def test_jitter_of_a_gathered_mini_batch_leaves_the_training_set_alone():
    shape, X = (3, 8, 8), batch((3, 8, 8), 100)
    before, rng = X.copy("F"), np.random.default_rng(0)
    f = jitter.build(shape, share=0.5, s=3, contrast=0.3)
    mini_batch = X.T[rng.permutation(100)[:20]].T
    assert not same_bits(f(mini_batch.copy("F"), rng), mini_batch) and same_bits(X, before)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_share_of_mirrored_pictures_and_all_others_as_they_were(share):
    shape, n = (1, 1, 2), 20_000
    X = np.tile(np.float32([[0], [1]]), n).copy("F")
    jitter.mirror(X, shape, np.random.default_rng(0), share)
    assert set(map(tuple, X.T.tolist())) == {(0, 1), (1, 0)}
    assert abs(X[0].mean() - share) < 4 * (share * (1 - share) / n) ** 0.5


def test_all_shifts_are_equally_likely():
    shape, s, n = (1, 9, 9), 2, 25_000
    X = np.zeros((81, n), np.float32, order="F")
    X[40] = 1  # the pixel in the middle tells the shift
    places = jitter.shift(X, shape, np.random.default_rng(0), s).argmax(axis=0)
    assert (X.sum(axis=0) == 1).all()
    counts = np.bincount(places, minlength=81).reshape(9, 9)
    assert counts[2:7, 2:7].sum() == n and chisquare(counts[2:7, 2:7].ravel()).pvalue > 1e-3


def test_mirror_and_shift_of_pictures_are_drawn_apart():
    """Every combination of mirrored or not, and of the steps in both directions, is seen."""
    shape, n = (1, 5, 5), 4_000
    X = np.tile(np.arange(25, dtype=np.float32)[:, None], n).copy("F")
    jitter.build(shape, share=0.5, s=1)(X, np.random.default_rng(0))
    assert len(np.unique(X.T, axis=0)) == 2 * 9


def test_recolour_of_whitened_pictures_is_whitening_of_recoloured_ones():
    shape, rng = (3, 4, 4), np.random.default_rng(0)
    W, sd, mean = rng.standard_normal((48, 48)), rng.uniform(0.1, 0.3, (48, 1)), rng.random((48, 1))
    X, strengths = batch(shape, dtype=np.float64), dict(brightness=0.1, contrast=0.2, colour=0.3)
    planes = jitter.planes_of(shape, np.float64)
    pixels = jitter.recolour(X.copy("F"), np.random.default_rng(1), planes, centre=mean, **strengths)
    whitened = np.asfortranarray(W @ ((X - mean) / sd))
    jitter.recolour(whitened, np.random.default_rng(1), W @ (planes / sd), **strengths)
    np.testing.assert_allclose(whitened, W @ ((pixels - mean) / sd), rtol=1e-10, atol=1e-10)


def test_impossible_jitter_is_refused_in_one_line():
    shape, X, rng = (3, 32, 30), batch((3, 32, 30)), np.random.default_rng(0)
    for s in (-1, 30, 2.5):
        with refused(f"s must be a whole number of pixels from 0 to 29 for 32 x 30 pictures, not {s}"):
            jitter.build(shape, s=s)
        with refused("s must be"):
            jitter.shift(X, shape, rng, s)
    for share in (-0.1, 1.5, np.nan):
        with refused(f"share must be a probability from 0 to 1, not {share}"):
            jitter.build(shape, share=share)
        with refused("share must be"):
            jitter.mirror(X, shape, rng, share)
    for name, strength in product(("brightness", "contrast", "colour"), (-0.1, 1.5, np.nan)):
        with refused(f"{name} must be from 0 to 1, not {strength}"):
            jitter.build(shape, planes=jitter.planes_of(shape), **{name: strength})
        with refused(f"{name} must be"):
            jitter.recolour(X, rng, jitter.planes_of(shape), **{name: strength})
    with refused("brightness and colour need planes"):
        jitter.build(shape, colour=0.1)
    for wrong in (np.ascontiguousarray(X), X[1:], X[0]):
        with refused(r"must be \(2880, n\) in Fortran order for pictures of shape \(3, 32, 30\)"):
            jitter.mirror(wrong, shape, rng)


# ---------------------------------------------------------------------------------------------------- planted mistakes


def upside_down(X, shape, rng, share):
    pictures = X.T.reshape(-1, *shape)
    pictures[:] = pictures[:, :, ::-1].copy()
    return X


def across_pixels(X, shape, rng, share):
    X[:] = X[::-1].copy()  # reverses the rows and the planes as well
    return X


def wrapped(X, shape, rng, s):
    pictures = X.T.reshape(-1, *shape)
    for i, (down, right) in enumerate(rng.integers(-s, s + 1, (2, len(pictures))).T):
        pictures[i] = np.roll(pictures[i], (down, right), (1, 2))
    return X


def padded(mode, swapped=False):
    """A shift by np.pad and a crop; right with mode reflect and axes that are not swapped."""

    def shift(X, shape, rng, s):
        pictures, (_, h, w) = X.T.reshape(-1, *shape), shape
        for i, steps in enumerate(rng.integers(-s, s + 1, (2, len(pictures))).T):
            down, right = steps[::-1] if swapped else steps
            pictures[i] = np.pad(pictures[i], [(0, 0), (s, s), (s, s)], mode)[:, s - down :, s - right :][:, :h, :w]
        return X

    return shift


def wrong_recolour(planes_first=False, double=1, shared=False):
    def recolour(X, rng, planes, *, brightness, contrast, colour, centre):
        a = 1 + rng.uniform(-contrast, contrast, X.shape[1])
        k = rng.uniform(-colour, colour, (planes.shape[1], X.shape[1])) + rng.uniform(-brightness, brightness, X.shape[1])
        k = double * (k[:1] + 0 * k if shared else k)
        return a * (X + planes @ k - centre) + centre if planes_first else a * (X - centre) + centre + planes @ k

    return recolour


@every_shape
def test_planted_mistakes_fail_the_checks(shape):
    for mirror in (upside_down, across_pixels, lambda X, shape, rng, share: X):
        with pytest.raises(AssertionError):
            check_mirror(mirror, shape)
    check_shift(padded("reflect"), shape, 3)
    check_recolour(wrong_recolour(), shape)
    for shift in (wrapped, padded("symmetric"), padded("edge"), padded("reflect", swapped=True), lambda X, *rest: X):
        with pytest.raises(AssertionError):
            check_shift(shift, shape, 3)
    wrong = [wrong_recolour(planes_first=True), wrong_recolour(double=1.001)]
    for recolour in wrong + [wrong_recolour(shared=True)] * (shape[0] > 1):  # one plane shares with no other
        with pytest.raises(AssertionError):
            check_recolour(recolour, shape)
