"""The data: CIFAR-10, and a synthetic set of the same form that needs no download.

    raw = load("cifar10")        # as published: uint8 images in rows, read from --data-dir or downloaded once
    data = split(raw)            # as the equations want it: standardised, one example a column
    X, y = data["train"]
"""

import hashlib
import io
import math
import os
import pickle
import pickletools
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pooch
import requests
from tqdm import tqdm

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_HASH = "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_FILES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CONNECT_TIMEOUT = 15  # seconds


class DataError(Exception):
    """The data cannot be used. One line: which file or folder, what is wrong, what to do."""


class Unavailable(DataError):
    """The data is not there and could not be downloaded."""


def load(name, data_dir=None, small=False):
    """Read the whole dataset, training and test images as published. A, Exercise 1.

    name: a key of DATASETS. data_dir: the folder with the official files, or the folder around it; None means the
    environment variable KBN_DATA_DIR, then the cache of earlier downloads, then a download. "shapes" needs no files.
    small: the first 2,000 + 1,000 images only, to try things out.
    Returns a dict: name, title, classes (list of str), shape (c, h, w), images (n, d) uint8, labels (n,) int64,
    test_images, test_labels likewise, fingerprint (hex, of all images and labels). A row is one image, plane by plane.
    Raises DataError; Unavailable if there is no data and no download.
    """
    if name not in DATASETS:
        raise DataError(f"there is no dataset {name!r}; choose from {', '.join(DATASETS)}")
    title, classes, shape, read = DATASETS[name]
    images, labels, test_images, test_labels = read(data_dir, *(2_000, 1_000) if small else (50_000, 10_000))
    fingerprint = hashlib.sha256()
    for array in (images, labels, test_images, test_labels):
        fingerprint.update(array)
    return dict(name=name, title=title, classes=classes, shape=shape, images=images, labels=labels,
                test_images=test_images, test_labels=test_labels, fingerprint=fingerprint.hexdigest()[:12])


def split(raw, n_train=45_000, n_val=5_000, n_test=None, dtype=np.float32):
    """Divide into training, validation and test set; standardise each dimension by the training set. A, Exercise 1.

    raw: from load. The first n_train training images, the n_val after them, the first n_test test images (None: all).
    Returns a dict: train, val, test, each (X, y) with X (d, n) in Fortran order and y (n,); mean, sd (d, 1), of the
    n_train images alone, sd divided by n, and 1 where a dimension is constant. X = (pixel - mean) / sd.
    Raises DataError if raw has too few images.
    """
    images, labels, test_images, test_labels = (raw[key] for key in ("images", "labels", "test_images", "test_labels"))
    if n_test is None:
        n_test = len(test_images)
    if n_train < 1 or n_val < 0 or n_train + n_val > len(images):
        raise DataError(f"{raw['title']} has {len(images)} training images: "
                        f"it cannot be split into {n_train} for training and {n_val} for validation")
    if not 0 <= n_test <= len(test_images):
        raise DataError(f"{raw['title']} has {len(test_images)} test images, not {n_test}")
    mean, sd = (s.astype(dtype) for s in mean_and_sd(images[:n_train]))
    val = slice(n_train, n_train + n_val)
    return dict(train=(standardise(images[:n_train], mean, sd), labels[:n_train]),
                val=(standardise(images[val], mean, sd), labels[val]),
                test=(standardise(test_images[:n_test], mean, sd), test_labels[:n_test]), mean=mean, sd=sd)


def mean_and_sd(images, chunk=1000):
    """Mean and standard deviation (divided by n) of each column of images (n, d) uint8. Returns two (d, 1) float64.

    Sums of integers below 2^53 are exact in float64, so that sum and sum of squares in one pass lose nothing.
    """
    n, d = images.shape
    total, squares = np.zeros(d), np.zeros(d)
    for start in range(0, n, chunk):
        x = images[start:start + chunk].astype(np.float64)
        total += x.sum(axis=0)
        squares += np.einsum("nd,nd->d", x, x)
    sd = np.sqrt(n * squares - total**2) / n
    sd[sd == 0] = 1
    return (total / n)[:, None], sd[:, None]


def standardise(images, mean, sd):
    """images (n, d) uint8 -> (images.T - mean) / sd, (d, n) in Fortran order, of the dtype of mean and sd (d, 1)."""
    X = np.empty(images.shape[::-1], mean.dtype, order="F")
    np.subtract(images.T, mean, out=X)
    X /= sd
    return X


# ---- CIFAR-10 -------------------------------------------------------------------------------------------------------

def read_cifar10(data_dir, n_train, n_test):
    """Find or download the six official batches, keep the first n_train + n_test. Returns what load needs of them."""
    folder = find_cifar10(data_dir)
    images, labels = np.empty((60_000, 3072), np.uint8), np.empty(60_000, np.int64)
    for i, name in enumerate(CIFAR10_FILES):
        rows = slice(10_000 * i, 10_000 * (i + 1))
        images[rows], labels[rows] = read_cifar10_batch(folder / name)
    train, test = slice(n_train), slice(50_000, 50_000 + n_test)
    return images[train], labels[train], images[test], labels[test]


def find_cifar10(data_dir):
    """The folder that holds the six batches: data_dir, one in it, or the cache, into which it may download them."""
    cache = Path(pooch.os_cache("kbn"))
    folders = [cache / CIFAR10_FOLDER]
    data_dir = data_dir or os.environ.get("KBN_DATA_DIR")
    if data_dir:
        if not os.path.isdir(data_dir):
            raise DataError(f"{data_dir}: there is no such folder; --data-dir or KBN_DATA_DIR must name the one that "
                            f"holds {CIFAR10_FOLDER}")
        folders = [Path(data_dir), Path(data_dir, CIFAR10_FOLDER)] + folders
    for folder in folders:
        missing = [name for name in CIFAR10_FILES if not os.path.exists(folder / name)]
        if not missing:
            return folder
        if len(missing) < len(CIFAR10_FILES):
            raise DataError(f"{folder}: {missing[0]} is missing; all of {', '.join(CIFAR10_FILES)} must be there")
    download_cifar10(cache)
    return cache / CIFAR10_FOLDER


def download_cifar10(cache):
    """Fetch the official archive, check it, and leave its batches in cache/CIFAR10_FOLDER: all of them, or nothing."""
    advice = "try again, or unpack it yourself and name its folder with --data-dir"
    fetch = pooch.HTTPDownloader(progressbar=True, timeout=CONNECT_TIMEOUT)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archive = pooch.retrieve(CIFAR10_URL, CIFAR10_HASH, fname="archive", path=scratch, downloader=fetch)
            batches = Path(scratch, CIFAR10_FOLDER)
            extract_cifar10(archive, batches)
            batches.rename(cache / CIFAR10_FOLDER)
    except requests.RequestException as error:
        reason = type(error).__name__ if error.response is None else f"HTTP status {error.response.status_code}"
        raise Unavailable(f"{CIFAR10_URL}: CIFAR-10 cannot be downloaded ({reason}); {advice}") from error
    except ValueError as error:
        raise DataError(f"{CIFAR10_URL}: the download has a wrong checksum and was deleted; {advice}") from error
    except tarfile.TarError as error:
        raise DataError(f"{CIFAR10_URL}: the download is no archive ({error}); {advice}") from error
    except OSError as error:
        raise DataError(f"{cache}: CIFAR-10 cannot be kept there ({error.strerror or error}); {advice}") from error


def extract_cifar10(archive, folder):
    """Copy the six batches, and nothing else that the archive may hold, into the new folder."""
    folder.mkdir()
    members = {f"{CIFAR10_FOLDER}/{name}": name for name in CIFAR10_FILES}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name in members and member.isreg():
                with open(folder / members.pop(member.name), "wb") as file:
                    shutil.copyfileobj(tar.extractfile(member), file)
    if members:
        raise DataError(f"{CIFAR10_URL}: the archive lacks {', '.join(members)}")


def read_cifar10_batch(path):
    """Read one pickled batch, trusting nothing in it. Returns images (10000, 3072) uint8 and labels, 10000 of 0..9."""
    try:
        batch = unpickle(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a CIFAR-10 batch ({reason:.200})") from error
    if not isinstance(batch, dict) or not batch.keys() >= {b"data", b"labels"}:
        raise DataError(f"{path}: must hold a dict with b'data' and b'labels'")
    match batch[b"data"]:
        case Record(state=[_, (10_000, 3072), Record(args=["u1" | b"u1", *_]), fortran, bytes() | bytearray() as pixels]
                    ) if len(pixels) == 10_000 * 3072:
            images = np.frombuffer(pixels, np.uint8).reshape((10_000, 3072), order="F" if fortran else "C")
        case _:
            raise DataError(f"{path}: data must be a (10000, 3072) array of uint8")
    labels = batch[b"labels"]
    if not isinstance(labels, list) or len(labels) != 10_000 or {type(y) for y in labels} != {int}:
        raise DataError(f"{path}: labels must be a list of 10000 integers")
    wrong = [y for y in labels if not 0 <= y <= 9]
    if wrong:
        raise DataError(f"{path}: labels must lie in 0..9, found {wrong[0]}")
    return images, labels


class Record:
    """Stands where a pickle asks for something of numpy's: keeps what it is given, and runs nothing."""

    def __init__(self, *args):
        self.args, self.state = args, None

    def __setstate__(self, state):
        self.state = state


def record_buffer(pixels, dtype, shape, order):
    """Pickle protocol 5 names the parts of an array in another order than the older ones."""
    array = Record()
    array.state = (1, shape, dtype, order == "F", pixels)
    return array


STAND_INS = {"numpy ndarray": Record, "numpy dtype": Record,
             "numpy.core.multiarray _reconstruct": Record, "numpy._core.multiarray _reconstruct": Record,
             "numpy.core.numeric _frombuffer": record_buffer, "numpy._core.numeric _frombuffer": record_buffer,
             "_codecs encode": lambda text, encoding: text.encode("latin-1")}  # bytes that Python 3 wrote for Python 2


class Unpickler(pickle.Unpickler):
    """Gives a pickle the STAND_INS in place of the functions it names, and nothing else."""

    def find_class(self, module, name):
        try:
            return STAND_INS[f"{module} {name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in one") from None


def unpickle(blob):
    """Plain values, and Records for arrays; Python 2's strings become bytes. Raises whatever a damaged pickle causes.

    The memo is an array as long as its highest index: an index beyond the file would only serve to fill the memory.
    """
    for opcode, arg, _ in pickletools.genops(blob):
        if "PUT" in opcode.name and int(arg) > len(blob):
            raise pickle.UnpicklingError(f"memo index {arg}")
    return Unpickler(io.BytesIO(blob), encoding="bytes").load()


# ---- shapes ---------------------------------------------------------------------------------------------------------

CENTRE = 7.5  # pixels that a figure may lie off the middle, across and down
SIZE = 6, 12  # pixels from the centre of a figure to its rim
TILT = .4  # radians, to either side
BARS = 3
CONTRAST = .12, .42  # of figure and ground, in each colour, where black is 0 and white 1
NOISE = .1  # standard deviation, on the same scale


def read_shapes(_, n_train, n_test):
    """Draw the training and the test images of the synthetic set. Always the same, but for the rounding of another machine."""
    rng = np.random.default_rng(1)
    return *draw_shapes(n_train, rng), *draw_shapes(n_test, rng)


def draw_shapes(n, rng, chunk=250):
    """Draw n images of 32 x 32 RGB pixels, ten classes in equal number and random order.

    An image is a ground of one colour that changes slowly across it, with bars strewn over it, one figure (see SHAPES)
    at a random place, size, and tilt, lighter or darker than its ground, and noise. Returns images (n, 3072) uint8,
    labels (n,) int64.
    """
    images, labels = np.empty((n, 3, 32, 32), np.uint8), rng.permutation(np.arange(n, dtype=np.int64) % len(SHAPES))
    with tqdm(total=n, desc="drawing shapes", unit="image", delay=2, leave=False) as bar:
        for k, shape in enumerate(SHAPES.values()):
            members = np.flatnonzero(labels == k)
            for start in range(0, len(members), chunk):
                rows = members[start:start + chunk]
                images[rows] = paint(shape, len(rows), rng)
                bar.update(len(rows))
    return images.reshape(n, 3072), labels


def paint(shape, n, rng):
    """n images (n, 3, 32, 32) uint8 of one shape, a function of coordinates and size as in SHAPES."""
    def uniform(low, high, *dims):
        return rng.uniform(low, high, (n, *dims)).astype(np.float32)

    y, x = np.mgrid[:32, :32].astype(np.float32) - 15.5
    picture = uniform(.2, .8, 3, 1, 1) + uniform(-.01, .01, 3, 1, 1) * x + uniform(-.01, .01, 3, 1, 1) * y
    for _ in range(BARS):
        u, _ = place(x, y, uniform(-16, 16, 1, 1), 0, uniform(0, np.pi, 1, 1))
        picture += cover(abs(u) - uniform(.5, 2, 1, 1)) * uniform(-.3, .3, 3, 1, 1)
    u, v = place(x, y, uniform(-CENTRE, CENTRE, 1, 1), uniform(-CENTRE, CENTRE, 1, 1), uniform(-TILT, TILT, 1, 1))
    sign = rng.choice(np.float32([-1, 1]), (n, 1, 1, 1))
    picture += cover(shape(u, v, uniform(*SIZE, 1, 1))) * sign * uniform(*CONTRAST, 3, 1, 1)
    picture += NOISE * rng.standard_normal(picture.shape, np.float32)
    return (255 * picture.clip(0, 1)).astype(np.uint8)


def place(x, y, right, down, angle):
    """Coordinates, in pixels, seen from a figure that is moved right and down and turned by angle (radians)."""
    x, y = x - right, y - down
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def cover(distance):
    """The part of a pixel, 0..1, that a figure covers whose edge is that far away (negative inside). Adds an axis."""
    return (.5 - distance).clip(0, 1)[:, None]


# A shape takes u, v (n, 32, 32), coordinates seen from its centre, and r (n, 1, 1), its size, all in pixels.
# It returns the distance to its edge, negative inside.

def disc(u, v, r):
    return np.hypot(u, v) - r


def ring(u, v, r):
    return abs(disc(u, v, .8 * r)) - .2 * r


def square(u, v, r):
    return np.maximum(abs(u), abs(v)) - .85 * r


def triangle(u, v, r):
    return np.maximum(v, math.sqrt(.75) * abs(u) - .5 * v) - .5 * r


def cross(u, v, r):
    u, v = abs(u), abs(v)
    return np.minimum(np.maximum(u - r, v - .3 * r), np.maximum(u - .3 * r, v - r))


def wave(u, r):
    """Bands across u, four in 2 r, as a distance to the edge of the nearest one."""
    return abs((u / r + .25) % .5 - .25) * r - .125 * r


def horizontal_stripes(u, v, r):
    return np.maximum(square(u, v, r), wave(v, r))


def vertical_stripes(u, v, r):
    return np.maximum(square(u, v, r), wave(u, r))


def diagonal_stripes(u, v, r):
    return np.maximum(square(u, v, r), wave((u + v) * math.sqrt(.5), r))


def checkerboard(u, v, r):
    a, b = wave(u, 1.4 * r), wave(v, 1.4 * r)
    return np.maximum(square(u, v, r), np.maximum(np.minimum(a, b), -np.maximum(a, b)))


def dots(u, v, r):
    return np.maximum(square(u, v, r), disc(*((c + r) % (2 * r / 3) - r / 3 for c in (u, v)), .2 * r))


SHAPES = {"disc": disc, "ring": ring, "square": square, "triangle": triangle, "cross": cross,
          "horizontal stripes": horizontal_stripes, "vertical stripes": vertical_stripes,
          "diagonal stripes": diagonal_stripes, "checkerboard": checkerboard, "dots": dots}


DATASETS = {"cifar10": ("CIFAR-10", CIFAR10_CLASSES, (3, 32, 32), read_cifar10),
            "shapes": ("shapes (synthetic)", list(SHAPES), (3, 32, 32), read_shapes)}
