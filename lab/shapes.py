"""Synthetic images: ten classes of striped pictures, for a trial where no real data can be downloaded.

A class is a width and a direction of stripes. Where the stripes begin, their contrast, the colour of the ground and the noise
are random, so that the mean image of every class is the same: a linear classifier stays near chance, a small network does not.
"""

import numpy as np

PERIODS = {"wide": 8, "narrow": 5}  # pixels from stripe to stripe
ANGLES = [0, 36, 72, 108, 144]  # degrees from the horizontal, clockwise, of the direction across the stripes
CLASSES = [f"{width} stripes, {angle} degrees" for width in PERIODS for angle in ANGLES]
CONTRAST, NOISE = 36, 60  # the greatest deviation of a stripe and of the noise from the ground, of 255

# All that follows is integer arithmetic, so that the images are the same on every machine. A period has 256 steps.
WAVE = np.rint(127 * np.sin(2 * np.pi * np.arange(256) / 256)).astype(np.int16)
STEPS = np.array(  # (2, 10): from pixel to pixel to the right, and down
    [[round(256 / period * f(np.radians(a))) for period in PERIODS.values() for a in ANGLES] for f in (np.cos, np.sin)]
)


def draw(labels, shape, rng):
    """Draw an image of each class in labels (n,). shape: (c, h, w). Returns (n, c h w) uint8."""
    n, (c, h, w) = len(labels), shape
    y, x = np.mgrid[:h, :w]
    right, down = STEPS[:, labels, None, None]
    phase = rng.integers(256, size=(n, 1, 1))
    stripes = WAVE[(right * x + down * y + phase) % 256][:, None]
    contrast = rng.integers(CONTRAST, size=(n, 1, 1, 1), dtype=np.int16)
    ground = rng.integers(64, 192, (n, c, 1, 1), dtype=np.int16)
    noise = rng.integers(-NOISE, NOISE, (n, c, h, w), dtype=np.int16, endpoint=True)
    return (ground + contrast * stripes // 128 + noise).clip(0, 255).astype(np.uint8).reshape(n, -1)


def draw_set(shape, n_train, n_test, chunk=1000):
    """Draw a dataset, always the same: images, labels, test_images, test_labels as data.load returns them."""
    rng, arrays = np.random.default_rng(1), []
    for n in (n_train, n_test):
        labels = rng.permutation(np.arange(n) % len(CLASSES))
        images = [draw(labels[i : i + chunk], shape, rng) for i in range(0, n, chunk)]
        arrays += [np.concatenate(images), labels]
    return arrays
