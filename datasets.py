"""The data: CIFAR-10, MNIST, Fashion-MNIST, and two synthetic sets of the same forms that need no download.

    raw = load("cifar10")        # as published: uint8 images in rows, read from --data-dir or downloaded once
    data = split(raw)            # as the equations want it: standardised, one example a column
    X, y = data["train"]

Nothing that a file holds is run, and one that is damaged is refused in one line.
"""

import gzip
import hashlib
import io
import math
import os
import pickle
import pickletools
import shutil
import struct
import sys
import tarfile
import tempfile
import zlib
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pooch
import requests
from tqdm import tqdm

SMALL = 2_000, 1_000  # training and test images that are enough to try things out
CONNECT_TIMEOUT = 15  # seconds
MEND = "put the official file in its place"
ADVICE = "try again, or fetch it yourself and name its folder with --data-dir"


class DataError(Exception):
    """The data cannot be used. One line: which file or folder, what is wrong, what to do."""


class Unavailable(DataError):
    """The data is not there and could not be downloaded."""


def load(name, data_dir=None, small=False):
    """Read the whole dataset, training and test images as published. A, Exercise 1.

    name: a key of DATASETS. data_dir: the folder with the official files, or the folder around it; None means the
    environment variable KBN_DATA_DIR, then the cache of earlier downloads, then a download. "shapes" and "grey-shapes"
    need no files. small: the first 2,000 + 1,000 images only, to try things out.
    "mnist" is read from its four IDX files, gzipped or not, and if these are not all there, from mnist_all.mat.
    Returns a dict: name, title, classes (list of str), shape (c, h, w), images (n, d) uint8, labels (n,) int64,
    test_images, test_labels likewise, fingerprint (hex, of all images and labels). A row is one image, plane by plane.
    Raises DataError; Unavailable if there is no data and no download.
    """
    if name not in DATASETS:
        raise DataError(f"there is no dataset {name!r}; choose from {', '.join(DATASETS)}")
    title, classes, shape, read = DATASETS[name]
    return as_published(name, title, classes, shape, *read(data_dir, small))


def as_published(name, title, classes, shape, images, labels, test_images, test_labels):
    """What load returns: all that, and the fingerprint."""
    fingerprint = hashlib.sha256()
    for array in (images, labels, test_images, test_labels):
        fingerprint.update(array)
    about = {"name": name, "title": title, "classes": classes, "shape": shape, "fingerprint": fingerprint.hexdigest()[:12]}
    return about | {"images": images, "labels": labels, "test_images": test_images, "test_labels": test_labels}


def split(raw, n_train=45_000, n_val=5_000, n_test=None, dtype=np.float32, scale="each"):
    """Divide into training, validation and test set; standardise each dimension by the training set. A, Exercise 1.

    raw: from load. The first n_train training images, the n_val after them, the first n_test test images (None: all).
    Returns a dict: train, val, test, each (X, y) with X (d, n) in Fortran order and y (n,); mean, sd (d, 1), of the
    n_train images alone, sd divided by n, and 1 where a dimension is constant. X = (pixel - mean) / sd.
    scale: "each" dimension by itself, "all" dimensions alike, by one mean and one sd (as is usual where most pixels at the
    rim are black), "none", where the mean of each is subtracted and sd is 1 (C).
    Raises DataError if raw has too few images, ValueError for another scale.
    """
    images, labels, test_images, test_labels = (raw[key] for key in ("images", "labels", "test_images", "test_labels"))
    if n_test is None:
        n_test = len(test_images)
    if n_train < 1 or n_val < 0 or n_train + n_val > len(images):
        raise DataError(
            f"{raw['title']} has {len(images)} training images: "
            f"it cannot be split into {n_train} for training and {n_val} for validation"
        )
    if not 0 <= n_test <= len(test_images):
        raise DataError(f"{raw['title']} has {len(test_images)} test images, not {n_test}")
    mean, sd = (s.astype(dtype) for s in mean_and_sd(images[:n_train], scale))
    val = slice(n_train, n_train + n_val)
    return dict(
        train=(standardise(images[:n_train], mean, sd), labels[:n_train]),
        val=(standardise(images[val], mean, sd), labels[val]),
        test=(standardise(test_images[:n_test], mean, sd), test_labels[:n_test]),
        mean=mean,
        sd=sd,
    )


def mean_and_sd(images, scale="each", chunk=1000):
    """What images (n, d) uint8 are standardised by; scale as in split. Returns two (d, 1) float64.

    Sums of integers below 2^53 are exact in float64, so that sum and sum of squares in one pass lose nothing.
    """
    if scale not in ("each", "all", "none"):
        raise ValueError(f"scale must be 'each', 'all' or 'none', not {scale!r}")
    n, d = images.shape
    total, squares = np.zeros(d), np.zeros(d)
    for start in range(0, n, chunk):
        x = images[start : start + chunk].astype(np.float64)
        total += x.sum(axis=0)
        squares += np.einsum("nd,nd->d", x, x)
    if scale == "all":
        total[:], squares[:] = total.mean(), squares.mean()
    sd = np.sqrt(n * squares - total**2) / n
    sd[(sd == 0) | (scale == "none")] = 1
    return (total / n)[:, None], sd[:, None]


def standardise(images, mean, sd):
    """images (n, d) uint8 -> (images.T - mean) / sd, (d, n) in Fortran order, of the dtype of mean and sd (d, 1)."""
    X = np.empty(images.shape[::-1], mean.dtype, order="F")
    np.subtract(images.T, mean, out=X)
    X /= sd
    return X


# ---- official files -------------------------------------------------------------------------------------------------

# Where the official files of a dataset come from, and how to read them, is a dict:
#   title, folder    what it is called, and its folder
#   formats          pairs (files, read), the preferred one first; each will do by itself. What is called .gz may also
#                    lie there unzipped. read(paths of the files) -> images, labels, test_images, test_labels
#   mirrors          addresses, the preferred one first, of what follows
#   downloads        {name: checksum}
#   unpack           unpack(download, folder) makes of each download the files of the first format


def read_official(source, data_dir, small):
    """Find or download the files of a source, and read them. Returns what load needs of them."""
    read, paths = find(source, data_dir)
    images, labels, test_images, test_labels = read(paths)
    n_train, n_test = SMALL if small else (None, None)
    return images[:n_train], labels[:n_train], test_images[:n_test], test_labels[:n_test]


def find(source, data_dir):
    """(read, paths) of the first format in data_dir, the folder in it, or the cache, into which it may download."""
    cache = Path(pooch.os_cache("kbn"))
    for folder in [*folders_to_search(source, data_dir), cache / source["folder"]]:
        found = [(read, files, existing(folder, files)) for files, read in source["formats"]]
        for read, _, paths in found:
            if all(paths):
                return read, paths
        for _, files, paths in found:
            if any(paths):
                enough = " or ".join(", ".join(files) for _, files, _ in found)
                raise DataError(f"{folder}: {files[paths.index(None)]} is missing; all of {enough} must be there")
    download(source, cache)
    files, read = source["formats"][0]
    return read, [cache / source["folder"] / name for name in files]


def folders_to_search(source, data_dir):
    """data_dir, or what KBN_DATA_DIR names, and the folder in it.

    MNIST and Fashion-MNIST name their files alike: a folder with another dataset's name is taken to hold that one's.
    """
    data_dir = data_dir or os.environ.get("KBN_DATA_DIR")
    if not data_dir:
        return []
    if not os.path.isdir(data_dir):
        raise DataError(
            f"{data_dir}: there is no such folder; --data-dir or KBN_DATA_DIR must name the one that holds {source['folder']}"
        )
    folders = [Path(data_dir), Path(data_dir, source["folder"])]
    others = {other["folder"] for other in (CIFAR10, MNIST, FASHION_MNIST)} - {source["folder"]}
    return folders[1:] if folders[0].resolve().name in others else folders


def existing(folder, files):
    """The path of each file, as it is called or without its .gz, or None where there is neither."""
    paths = [(folder / name, folder / name.removesuffix(".gz")) for name in files]
    return [next(filter(os.path.exists, pair), None) for pair in paths]


def download(source, cache):
    """Fetch the official files, check them, and leave them in the source's folder in cache: all of them, or nothing."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            folder = Path(scratch, source["folder"])
            folder.mkdir()
            for name, checksum in source["downloads"].items():
                source["unpack"](fetch(source, name, checksum, scratch), folder)
            folder.rename(cache / source["folder"])
    except OSError as error:
        raise DataError(f"{cache}: {source['title']} cannot be kept there ({error.strerror or error}); {ADVICE}") from error


def fetch(source, name, checksum, folder):
    """Download one file into folder, from the first mirror that has it unharmed. Returns its path."""
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=CONNECT_TIMEOUT)
    for url in [mirror + name for mirror in source["mirrors"]]:
        try:
            return pooch.retrieve(url, checksum, fname=name, path=folder, downloader=downloader)
        except requests.RequestException as error:
            reason = type(error).__name__ if error.response is None else f"HTTP status {error.response.status_code}"
            failure = Unavailable(f"{url}: {source['title']} cannot be downloaded ({reason}); {ADVICE}")
        except ValueError:
            failure = DataError(f"{url}: the download has a wrong checksum and was deleted; {ADVICE}")
    raise failure


def one_line(error):
    """What an exception says, short and in one line."""
    return f"{' '.join(str(error).split()) or type(error).__name__:.200}"


# ---- CIFAR-10 -------------------------------------------------------------------------------------------------------

CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_FILES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def read_cifar10(paths):
    """Read the six official batches. Returns images, labels, test_images, test_labels as load does."""
    images, labels = np.empty((60_000, 3072), np.uint8), np.empty(60_000, np.int64)
    for i, path in enumerate(paths):
        rows = slice(10_000 * i, 10_000 * (i + 1))
        images[rows], labels[rows] = read_cifar10_batch(path)
    return images[:50_000], labels[:50_000], images[50_000:], labels[50_000:]


def extract_cifar10(archive, folder):
    """Copy the six batches, and nothing else that the archive may hold, into folder."""
    members = {f"{CIFAR10_FOLDER}/{name}": name for name in CIFAR10_FILES}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name in members and member.isreg():
                    with open(folder / members.pop(member.name), "wb") as file:
                        shutil.copyfileobj(tar.extractfile(member), file)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{Path(archive).name}: the download is no archive ({one_line(error)}); {ADVICE}") from error
    if members:
        raise DataError(f"{Path(archive).name}: the archive lacks {', '.join(members)}; {ADVICE}")


def read_cifar10_batch(path):
    """Read one pickled batch, trusting nothing in it. Returns images (10000, 3072) uint8 and labels, 10000 of 0..9."""
    try:
        batch = unpickle(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{path}: not a CIFAR-10 batch ({one_line(error)})") from error
    if not isinstance(batch, dict) or not batch.keys() >= {b"data", b"labels"}:
        raise DataError(f"{path}: must hold a dict with b'data' and b'labels'")
    match batch[b"data"]:
        case Record(state=[_, (10_000, 3072), Record(args=["u1" | b"u1", *_]), fortran, bytes() | bytearray() as pixels]) if (
            len(pixels) == 10_000 * 3072
        ):
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


STAND_INS = {
    "numpy ndarray": Record,
    "numpy dtype": Record,
    "numpy.core.multiarray _reconstruct": Record,
    "numpy._core.multiarray _reconstruct": Record,
    "numpy.core.numeric _frombuffer": record_buffer,
    "numpy._core.numeric _frombuffer": record_buffer,
    "_codecs encode": lambda text, encoding: text.encode("latin-1"),
}  # bytes that Python 3 wrote for Python 2


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


CIFAR10 = {
    "title": "CIFAR-10",
    "folder": CIFAR10_FOLDER,
    "formats": [(CIFAR10_FILES, read_cifar10)],
    "mirrors": ["https://www.cs.toronto.edu/~kriz/"],
    "downloads": {"cifar-10-python.tar.gz": "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"},
    "unpack": extract_cifar10,
}


# ---- MNIST and Fashion-MNIST ----------------------------------------------------------------------------------------

IDX_FILES = {
    "train-images-idx3-ubyte.gz": (60_000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60_000,),
    "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10_000,),
}
MAT_VARIABLES = {"train": 60_000, "test": 10_000}  # train0 .. train9, test0 .. test9 hold so many images in all
MAT_ORDERS = {b"\0\1IM": "<", b"\1\0MI": ">"}  # how the header of a MATLAB 5 file ends, and its byte order
MAT_COMPRESSED = 15
MAT_UINT8 = 9, 2  # the class of uint8, neither complex nor logical, and the type of its values
MAT_LIMIT = 10_000 * 784 + 1_000  # bytes of one variable; the largest, train1, has 6,742 images
FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def read_idx_files(paths):
    """Read the four official files, in the order of IDX_FILES. Returns what load does, labels in 0..9."""
    arrays = [read_idx(path, dims) for path, dims in zip(paths, IDX_FILES.values())]
    for i in (1, 3):
        if arrays[i].max() > 9:
            raise DataError(f"{paths[i]}: labels must lie in 0..9, found {arrays[i].max()}; {MEND}")
        arrays[i] = arrays[i].astype(np.int64)
        arrays[i - 1] = arrays[i - 1].reshape(-1, 784)
    return arrays


def read_idx(path, dims):
    """The array of uint8 in an IDX file, gzipped or not, which must have these dimensions. Reads no more than that."""
    head = struct.pack(f">BBBB{len(dims)}I", 0, 0, 8, len(dims), *dims)
    size = len(head) + math.prod(dims)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or one_line(error)}); {MEND}") from error
    if content[:4] != head[:4]:
        raise DataError(f"{path}: no IDX file of unsigned bytes in {len(dims)} dimension(s); {MEND}")
    if len(content) >= len(head) and content[: len(head)] != head:
        found = struct.unpack_from(f">{len(dims)}I", content, 4)
        raise DataError(f"{path}: its dimensions must be {dims}, not {found}; {MEND}")
    if len(content) != size:
        raise DataError(f"{path}: {'shorter' if len(content) < size else 'longer'} than its dimensions ask for; {MEND}")
    return np.frombuffer(content, np.uint8, offset=len(head)).reshape(dims).copy()


def read_mat(paths):
    """Read mnist_all.mat, where the images lie class by class. They get a random order, always the same."""
    (path,) = paths
    try:
        variables = read_mat_variables(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or one_line(error)}); {MEND}") from error
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{path}: not MNIST as a MATLAB file ({one_line(error)}); {MEND}") from error
    rng, arrays = np.random.default_rng(0), []
    for part, n in MAT_VARIABLES.items():
        members = [variables[f"{part}{k}"] for k in range(10)]
        labels = np.repeat(np.arange(10, dtype=np.int64), [len(images) for images in members])
        if len(labels) != n:
            raise DataError(f"{path}: {part}0 .. {part}9 must hold {n} images in all, not {len(labels)}; {MEND}")
        order = rng.permutation(n)
        arrays += [np.concatenate(members)[order], labels[order]]
    return arrays


def read_mat_variables(path):
    """train0 .. train9, test0 .. test9, each (n, 784) uint8, as a dict. Raises whatever a damaged file causes.

    scipy.io.loadmat is not used: a damaged file can crash it, and the interpreter with it, or make it fill the memory.
    Of a variable MAT_LIMIT bytes at most are unpacked. Those of other names are passed over.
    """
    needed, variables = [f"{part}{k}" for part in MAT_VARIABLES for k in range(10)], {}
    with open(path, "rb") as file:
        order = MAT_ORDERS.get(file.read(128)[124:])
        if order is None:
            raise ValueError("it does not begin as those of MATLAB 5 to 7 do")
        while tag := file.read(8):
            kind, size = struct.unpack(order + "II", tag)
            end = file.tell() + size
            element = read_mat_element(file, kind, size)
            parts = list(islice(mat_parts(element, order), 4))
            name = parts[2][1].decode("latin-1") if len(parts) == 4 else None
            if name in needed:
                variables[name] = mat_images(name, parts, order)
            file.seek(end)
    missing = [name for name in needed if name not in variables]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    return variables


def read_mat_element(file, kind, size):
    """The content of a variable, unpacked, or as much of it as MAT_LIMIT allows."""
    size = min(size, MAT_LIMIT)
    content = file.read(size)
    if len(content) < size:
        raise ValueError("it is cut short")
    return zlib.decompressobj().decompress(content, MAT_LIMIT)[8:] if kind == MAT_COMPRESSED else content


def mat_parts(element, order):
    """Yield type and content of each part of a variable: its class, dimensions, name, values."""
    at = 0
    while at < len(element):
        kind, size = struct.unpack_from(order + "II", element, at)
        if kind >> 16:  # up to four bytes of content lie where otherwise their number is
            yield kind & 0xFFFF, element[at + 4 : at + 4 + (kind >> 16)]
            at += 8
        else:
            yield kind, element[at + 8 : at + 8 + size]
            at += 8 + -(-size // 8) * 8


def mat_images(name, parts, order):
    """The array (n, 784) uint8 that the four parts of a variable make. Raises ValueError or struct.error."""
    (_, flags), (_, dims), _, (kind, values) = parts
    flags, dims = struct.unpack_from(order + "I", flags)[0] & 0xFFFF, np.frombuffer(dims, order + "i4").tolist()
    if (flags, kind) != MAT_UINT8 or len(dims) != 2 or dims[0] < 0 or dims[1] != 784:
        raise ValueError(f"{name} must be (n, 784) uint8")
    if len(values) != dims[0] * 784:
        raise ValueError(f"{name} has {dims[0]} x 784 values, of which {len(values)} are there")
    return np.ascontiguousarray(np.frombuffer(values, np.uint8).reshape(dims, order="F"))


def idx_source(title, folder, formats, mirrors, *checksums):
    """The source of four IDX files, given the MD5 checksum of each."""
    return {
        "title": title,
        "folder": folder,
        "formats": [(list(IDX_FILES), read_idx_files), *formats],
        "mirrors": mirrors,
        "downloads": {name: f"md5:{md5}" for name, md5 in zip(IDX_FILES, checksums)},
        "unpack": shutil.move,
    }


MNIST = idx_source(
    "MNIST",
    "mnist",
    [(["mnist_all.mat"], read_mat)],
    ["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"],
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
FASHION_MNIST = idx_source(
    "Fashion-MNIST",
    "fashion-mnist",
    [],  # the first mirror does not speak HTTPS
    [
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ],
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)


# ---- shapes ---------------------------------------------------------------------------------------------------------

SIDE = 32  # pixels; the lengths below are for images of this side, and in proportion for others
CENTRE = 7.5  # pixels that a figure may lie off the middle, across and down
SIZE = 6, 12  # pixels from the centre of a figure to its rim
TILT = 0.4  # radians, to either side
BARS = 3
CONTRAST = 0.12, 0.42  # of figure and ground, in each colour, where black is 0 and white 1
NOISE = 0.1  # standard deviation, on the same scale
COLOUR = 50_000, 3, 32  # training images, planes, side of the set in place of CIFAR-10
GREY = 60_000, 1, 28  # and of the other one


def read_shapes(size, _, small):
    """draw_set with a progress bar, on a terminal."""
    n = sum(SMALL) if small else size[0] + 10_000
    with tqdm(total=n, desc="drawing shapes", unit="image", delay=2, leave=False, disable=None) as bar:
        return draw_set(*size, small, bar.update)


def draw_set(n_train, planes, side, small, drawn=None):
    """Draw the training and the test images of a synthetic set: always the same, but for another machine's rounding."""
    rng = np.random.default_rng(1)
    n_train, n_test = SMALL if small else (n_train, 10_000)
    return *draw_shapes(n_train, rng, planes, side, drawn), *draw_shapes(n_test, rng, planes, side, drawn)


def draw_shapes(n, rng, planes=3, side=SIDE, drawn=None, chunk=250):
    """Draw n images of side x side pixels, RGB (3 planes) or grey (1), ten classes in equal number and random order.

    An image is a ground of one colour that changes slowly across it, with bars strewn over it, one figure (see SHAPES)
    at a random place, size, and tilt, lighter or darker than its ground, and noise. drawn(number), if given, is called
    whenever so many more are there. Returns images (n, planes side side) uint8, labels (n,) int64.
    """
    images = np.empty((n, planes, side, side), np.uint8)
    labels = rng.permutation(np.arange(n, dtype=np.int64) % len(SHAPES))
    for k, shape in enumerate(SHAPES.values()):
        members = np.flatnonzero(labels == k)
        for start in range(0, len(members), chunk):
            rows = members[start : start + chunk]
            images[rows] = paint(shape, len(rows), rng, planes, side)
            if drawn:
                drawn(len(rows))
    return images.reshape(n, -1), labels


def paint(shape, n, rng, planes, side):
    """n images (n, planes, side, side) uint8 of one shape, a function of coordinates and size as in SHAPES."""

    def uniform(low, high, *dims):
        return rng.uniform(low, high, (n, *dims)).astype(np.float32)

    y, x = (np.mgrid[:side, :side].astype(np.float32) - (side - 1) / 2) * (SIDE / side)
    picture = uniform(0.2, 0.8, planes, 1, 1)
    picture = picture + uniform(-0.01, 0.01, planes, 1, 1) * x + uniform(-0.01, 0.01, planes, 1, 1) * y
    for _ in range(BARS):
        u, _ = place(x, y, uniform(-16, 16, 1, 1), 0, uniform(0, np.pi, 1, 1))
        picture += cover(abs(u) - uniform(0.5, 2, 1, 1)) * uniform(-0.3, 0.3, planes, 1, 1)
    u, v = place(x, y, uniform(-CENTRE, CENTRE, 1, 1), uniform(-CENTRE, CENTRE, 1, 1), uniform(-TILT, TILT, 1, 1))
    sign = rng.choice(np.float32([-1, 1]), (n, 1, 1, 1))
    picture += cover(shape(u, v, uniform(*SIZE, 1, 1))) * sign * uniform(*CONTRAST, planes, 1, 1)
    picture += NOISE * rng.standard_normal(picture.shape, np.float32)
    return (255 * picture.clip(0, 1)).astype(np.uint8)


def place(x, y, right, down, angle):
    """Coordinates, in pixels, seen from a figure that is moved right and down and turned by angle (radians)."""
    x, y = x - right, y - down
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def cover(distance):
    """The part of a pixel, 0..1, that a figure covers whose edge is that far away (negative inside). Adds an axis."""
    return (0.5 - distance).clip(0, 1)[:, None]


# A shape takes u, v (n, side, side), coordinates seen from its centre, and r (n, 1, 1), its size, all in pixels.
# It returns the distance to its edge, negative inside.


def disc(u, v, r):
    return np.hypot(u, v) - r


def ring(u, v, r):
    return abs(disc(u, v, 0.8 * r)) - 0.2 * r


def square(u, v, r):
    return np.maximum(abs(u), abs(v)) - 0.85 * r


def triangle(u, v, r):
    return np.maximum(v, math.sqrt(0.75) * abs(u) - 0.5 * v) - 0.5 * r


def cross(u, v, r):
    u, v = abs(u), abs(v)
    return np.minimum(np.maximum(u - r, v - 0.3 * r), np.maximum(u - 0.3 * r, v - r))


def wave(u, r):
    """Bands across u, four in 2 r, as a distance to the edge of the nearest one."""
    return abs((u / r + 0.25) % 0.5 - 0.25) * r - 0.125 * r


def horizontal_stripes(u, v, r):
    return np.maximum(square(u, v, r), wave(v, r))


def vertical_stripes(u, v, r):
    return np.maximum(square(u, v, r), wave(u, r))


def diagonal_stripes(u, v, r):
    return np.maximum(square(u, v, r), wave((u + v) * math.sqrt(0.5), r))


def checkerboard(u, v, r):
    a, b = wave(u, 1.4 * r), wave(v, 1.4 * r)
    return np.maximum(square(u, v, r), np.maximum(np.minimum(a, b), -np.maximum(a, b)))


def dots(u, v, r):
    return np.maximum(square(u, v, r), disc(*((c + r) % (2 * r / 3) - r / 3 for c in (u, v)), 0.2 * r))


SHAPES = {
    "disc": disc,
    "ring": ring,
    "square": square,
    "triangle": triangle,
    "cross": cross,
    "horizontal stripes": horizontal_stripes,
    "vertical stripes": vertical_stripes,
    "diagonal stripes": diagonal_stripes,
    "checkerboard": checkerboard,
    "dots": dots,
}


# name: title, classes, shape, read(data_dir, small) -> images, labels, test_images, test_labels
DATASETS = {
    "cifar10": ("CIFAR-10", CIFAR10_CLASSES, (3, 32, 32), partial(read_official, CIFAR10)),
    "mnist": ("MNIST", list("0123456789"), (1, 28, 28), partial(read_official, MNIST)),
    "fashion-mnist": ("Fashion-MNIST", FASHION_CLASSES, (1, 28, 28), partial(read_official, FASHION_MNIST)),
    "shapes": ("shapes (synthetic)", list(SHAPES), (3, 32, 32), partial(read_shapes, COLOUR)),
    "grey-shapes": ("grey shapes (synthetic)", list(SHAPES), (1, 28, 28), partial(read_shapes, GREY)),
}
