"""Readers of the official files: CIFAR-10's pickled batches, IDX files, and MNIST as a MATLAB file.

Nothing that a file holds is run, and what reading it may cost is bounded. Each reader takes paths and returns images, labels,
test_images, test_labels: images (n, d) uint8, labels (n,) int64 in 0..9. Each raises UserError, one line with the path, for a
file that is damaged or something else, and OSError for one that cannot be opened.
"""

import gzip
import math
import os
import pickletools
import struct
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import numpy as np

from lab.settings import UserError

CIFAR10_FILES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
CIFAR10_BATCH = 10_000, 3072
IDX_FILES = {
    "train-images-idx3-ubyte.gz": (60_000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60_000,),
    "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10_000,),
}
MAT_FILES = ["mnist_all.mat"]
MAT_IMAGES = {"train": 60_000, "test": 10_000}  # in train0 .. train9 and in test0 .. test9
MAX_BYTES, MAX_TOKENS, MAX_SECONDS = 2**26, 200_000, 60


@contextmanager
def reading(path, what):
    """Refuse a file that is too large, and turn every error about its content into a UserError that names it."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        yield
    except Exception as error:  # damaged content can raise anything
        if isinstance(error, OSError) and error.filename:
            raise
        raise UserError(f"{path}: not {what} ({' '.join(str(error)[:150].split())})") from error


def read_cifar10(paths):
    """Read the six batches of CIFAR10_FILES."""
    images, labels = zip(*map(read_batch, paths))
    return np.concatenate(images[:5]), np.concatenate(labels[:5]), images[5], labels[5]


def read_batch(path):
    """Images and labels of one batch. Its pickle is never loaded: its tokens are listed, and the needed ones selected."""
    with reading(path, "a CIFAR-10 batch"):
        values = scalars(path.read_bytes())
        if not ("data" in values and "labels" in values):
            raise ValueError("it has no data and labels")
        return batch_images(values[values.index("data") + 1 :][:30]), batch_labels(values[values.index("labels") + 1 :])


def scalars(content):
    """The strings, integers and Booleans of a pickle in the order in which they are written; short strings as str."""
    kinds, values = {"int", "int_or_bool", "bool", "str", "bytes", "bytes_or_str", "bytearray"}, []
    for n, (opcode, value, _) in enumerate(pickletools.genops(content)):
        if n == MAX_TOKENS:
            raise ValueError(f"it has more than {MAX_TOKENS:,} tokens")
        if isinstance(value, bytes) and len(value) < 100:
            value = value.decode("latin-1")
        if opcode.stack_after and opcode.stack_after[0].name in kinds and value != "latin1":  # which encodes bytes for Python 2
            values.append({"NEWTRUE": True, "NEWFALSE": False}.get(opcode.name, value))
    return values


def batch_images(values):
    """The array that begins there. Its shape, its type and whether its order is Fortran's come before the pixels.

    In protocol 5 they come after the pixels, and the order, C or F, follows the shape.
    """
    n, d = CIFAR10_BATCH
    pixels = [i for i, value in enumerate(values) if isinstance(value, str | bytes | bytearray) and len(value) == n * d]
    shape = [i for i, pair in enumerate(zip(values, values[1:])) if pair == (n, d)]
    if not pixels or not shape or "u1" not in values:
        raise ValueError(f"data must be a ({n}, {d}) array of uint8")
    flags = [value for value in values[: pixels[0]] if isinstance(value, bool)]
    fortran = flags[-1:] == [True] or values[shape[0] + 2 :][:1] == ["F"]
    content = values[pixels[0]]
    content = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(content, np.uint8).reshape((n, d), order="F" if fortran else "C").copy(order="C")


def batch_labels(values):
    """The integers up to the next string."""
    labels = list(takewhile(lambda value: type(value) is int, values))
    if len(labels) != CIFAR10_BATCH[0] or not all(0 <= y <= 9 for y in labels):
        raise ValueError(f"labels must be {CIFAR10_BATCH[0]} integers in 0..9")
    return np.array(labels, np.int64)


def read_idx_files(paths):
    """Read the four files of IDX_FILES, each gzipped or not."""
    return [read_idx(path, dims) for path, dims in zip(paths, IDX_FILES.values())]


def read_idx(path, dims):
    """Images (dims are n, h, w) or labels (dims are n) of an IDX file, which must have these dimensions."""
    head = struct.pack(f">4B{len(dims)}I", 0, 0, 8, len(dims), *dims)
    size = len(head) + math.prod(dims)
    with reading(path, f"an IDX file of {' x '.join(map(str, dims))} unsigned bytes"):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(size + 1)
        if not content.startswith(head) or len(content) != size:
            raise ValueError("its header or its length is wrong")
        array = np.frombuffer(content, np.uint8, offset=len(head))
        if len(dims) > 1:
            return array.reshape(dims[0], -1).copy()
        if array.max() > 9:
            raise ValueError(f"labels must be in 0..9, found {array.max()}")
        return array.astype(np.int64)


def read_mat(paths):
    """Read mnist_all.mat, where the images are sorted by class. They get a random order, always the same."""
    (path,), rng, arrays = paths, np.random.default_rng(0), []
    with reading(path, "MNIST as a MATLAB file"):
        variables = mat_variables(path)
        for part, n in MAT_IMAGES.items():
            members = [variables[f"{part}{k}"] for k in range(10)]
            labels = np.repeat(np.arange(10, dtype=np.int64), [len(images) for images in members])
            if len(labels) != n:
                raise ValueError(f"{part}0 .. {part}9 must hold {n} images in all, not {len(labels)}")
            order = rng.permutation(n)
            arrays += [np.concatenate(members)[order], labels[order]]
    return arrays


def mat_variables(path):
    """train0 .. train9, test0 .. test9, each (n, 784) uint8, as a dict.

    They are read in another process: a damaged file can crash scipy's reader, hang it, or make it fill the memory.
    """
    names = [f"{part}{k}" for part in MAT_IMAGES for k in range(10)]
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "variables.npz")
        command = [sys.executable, "-P", "-c", CONVERT, path, target, *names]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        child = subprocess.run(command, env=environment, capture_output=True, errors="replace", timeout=MAX_SECONDS)
        if child.returncode:
            raise ValueError(child.stderr.strip().rpartition("\n")[2] or f"its reader ended with status {child.returncode}")
        with np.load(target) as file:
            variables = dict(file)
    for name, images in variables.items():
        if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 784:
            raise ValueError(f"{name} must be (n, 784) uint8")
    return variables


CONVERT = """
import sys, numpy, scipy.io
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**27, 2**27))
except (ImportError, ValueError):  # Windows, macOS
    pass
source, target, *names = sys.argv[1:]
variables = scipy.io.loadmat(source, variable_names=names)
numpy.savez(target, **{name: variables.get(name, ()) for name in names})
"""
