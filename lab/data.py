"""The datasets: find the official files or download them, read them, and tell whether they hold the official images."""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import pooch
import requests

from lab import shapes
from lab.readers import CIFAR10_FILES, IDX_FILES, MAT_FILES, read_cifar10, read_idx_files, read_mat
from lab.settings import UserError

SMALL = 2_000, 1_000  # training and test images for a quick trial
CONNECT_TIMEOUT = 15  # seconds


class Unavailable(UserError):
    """The data is not there and could not be downloaded."""


def load(name, data_dir=None, small=False):
    """Load a dataset as it was published.

    name: a key of DATASETS. data_dir: the folder of the official files, or the folder around it; None means the environment
    variable KBN_DATA_DIR, then the cache of earlier downloads, then a download. The synthetic sets need no files.
    small: only 2,000 + 1,000 images; of official files, the first ones.
    Returns a dict: name, title, classes (list of str), shape (c, h, w), images (n, d) uint8, labels (n,) int64, test_images,
    test_labels, paths (of the files that were read), and four strings, which small does not change for official files:
      fingerprint  hash of images and labels in whatever order: six digits of the training set, six of the test set
      order        hash of the sequence of examples, which decides the split
      files        "official", "same images in another order", "other images" or "synthetic"
      note         one line for tables and figures if the images should be the official ones and are not, else ""
    Raises UserError; Unavailable if no folder was named and the download failed; OSError, which names the file or folder, if
    one cannot be opened.
    """
    if name not in DATASETS:
        raise UserError(f"there is no dataset {name!r}; choose from {', '.join(DATASETS)}")
    about = DATASETS[name]
    if name in FALLBACK.values():
        arrays = shapes.draw_set(about["shape"], *(SMALL if small else about["sizes"]))
        fingerprint, order, _ = identity(*arrays)
        paths, files, note = [], "synthetic", ""
    else:
        paths, reader = find(about, data_dir)
        arrays = reader(paths)
        fingerprint, order, n_shared = identity(*arrays)
        files, note = provenance(about, paths, fingerprint, n_shared)
    images, labels, test_images, test_labels = arrays
    n_train, n_test = SMALL if small else (None, None)
    return {
        "name": name,
        "title": about["title"],
        "classes": about["classes"],
        "shape": about["shape"],
        "images": images[:n_train],
        "labels": labels[:n_train],
        "test_images": test_images[:n_test],
        "test_labels": test_labels[:n_test],
        "paths": paths,
        "fingerprint": fingerprint,
        "order": order,
        "files": files,
        "note": note,
    }


def identity(images, labels, test_images, test_labels):
    """fingerprint and order as in load, and the number of test images that are also training images."""
    digests = [[hashlib.blake2b(image, digest_size=8).digest() for image in part] for part in (images, test_images)]
    train, test = ([x + bytes([y]) for x, y in zip(part, y)] for part, y in zip(digests, (labels, test_labels)))
    fingerprint = "".join(hashlib.sha256(b"".join(sorted(part))).hexdigest()[:6] for part in (train, test))
    order = hashlib.sha256(b"".join(train + test)).hexdigest()[:12]
    return fingerprint, order, sum(map(set(digests[0]).__contains__, digests[1]))


def provenance(about, paths, fingerprint, n_shared):
    """files and note as in load. No official test image is also a training image."""
    if fingerprint == about["fingerprint"]:
        same = all(pooch.file_hash(path, "md5") in md5 for path, md5 in zip(paths, about["md5"]))
        return "official" if same else "same images in another order", ""
    official = {other["fingerprint"]: other["title"] for other in (CIFAR10, MNIST, FASHION_MNIST)}
    train, test = (fingerprint[at] != about["fingerprint"][at] for at in (slice(6), slice(6, 12)))
    note = "the training and test sets differ" if train and test else f"the {'training' if train else 'test'} set differs"
    if fingerprint in official:
        note = f"these are the images of {official[fingerprint]}"
    if n_shared:
        note += f"; {n_shared:,} test images are also in the training set"
    return "other images", f"not the official {about['title']}: {note}"


def find(about, data_dir):
    """The paths of the files of a dataset and their reader, of the first format that is complete. Downloads them if necessary."""
    named, options = data_dir or os.environ.get("KBN_DATA_DIR"), "--data-dir or KBN_DATA_DIR"
    if named and not os.path.isdir(named):
        raise UserError(f"{named} is not a folder; name the folder that holds {about['holds']} with {options}")
    cache = Path(pooch.os_cache("kbn"), about["folder"])
    for folder in [Path(named), Path(named, about["folder"])] if named else [cache]:
        found = [(files, existing(folder, files), reader) for files, reader in about["formats"]]
        for _, paths, reader in found:
            if all(paths):
                return paths, reader
        for files, paths, _ in found:
            if any(paths):
                raise UserError(f"{folder}: {files[paths.index(None)]} is missing")
    if named:
        raise UserError(f"{named} does not hold {about['title']} ({about['holds']}); name the folder that does with {options}")
    download(about, cache)
    files, reader = about["formats"][-1]
    return [cache / file for file in files], reader


def existing(folder, files):
    """The path of each file in folder, with or without its .gz, or None where there is neither."""
    there = os.listdir(folder) if folder.exists() else []
    return [next((folder / name for name in (file, file.removesuffix(".gz")) if name in there), None) for file in files]


def download(about, target):
    """Fetch the official files, check them, and leave them in the folder target: all of them, or none."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            for file, checksum in about["downloads"].items():
                fetch([mirror + file for mirror in about["mirrors"]], checksum, Path(scratch, about["folder"]))
            if not target.exists():  # another process may have been faster
                Path(scratch, about["folder"]).rename(target)
    except (OSError, ValueError) as error:  # no connection, a wrong checksum, a full disk
        reason = "no connection" if isinstance(error, requests.ConnectionError) else " ".join(str(error).split())
        advice = "try again, or fetch it yourself and name its folder with --data-dir"
        raise Unavailable(f"{about['title']} cannot be downloaded ({reason:.200}); {advice}") from error


def fetch(urls, checksum, folder):
    """Download a file from the first address that has it, into folder; an archive holds that folder, and is unpacked."""
    name, archive = urls[0].rpartition("/")[2], urls[0].endswith(".tar.gz")
    unpack = pooch.Untar(extract_dir=folder.parent) if archive else None
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=CONNECT_TIMEOUT)
    for url in urls:
        try:
            return pooch.retrieve(url, checksum, name, folder.parent if archive else folder, unpack, downloader)
        except (OSError, ValueError) as error:
            failure = error
    raise failure


def idx_dataset(title, classes, fingerprint, md5, mirrors, others=()):
    """A dataset of four IDX files, see below. others: formats of the same images that are preferred to these."""
    return {
        "title": title,
        "classes": classes,
        "shape": (1, 28, 28),
        "folder": title.lower(),
        "holds": " or ".join(["train-images-idx3-ubyte.gz and the three other files", *(files[0] for files, _ in others)]),
        "formats": [*others, (list(IDX_FILES), read_idx_files)],
        "fingerprint": fingerprint,
        "md5": md5,
        "mirrors": mirrors,
        "downloads": {file: f"md5:{sums[:32]}" for file, sums in zip(IDX_FILES, md5)},
    }


# formats are pairs of files and their reader, the preferred one first, that of the downloads last: each will do by itself.
# fingerprint and md5 are those of the official images and files of the downloads; md5 of each file, gzipped and not.
# downloads {file: checksum} are looked for at the mirrors.
CIFAR10 = {
    "title": "CIFAR-10",
    "classes": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "shape": (3, 32, 32),
    "folder": "cifar-10-batches-py",
    "holds": "data_batch_1 .. 5, test_batch",
    "formats": [(CIFAR10_FILES, read_cifar10)],
    "fingerprint": "a4385acdbfa5",
    "md5": [
        "c99cafc152244af753f735de768cd75f",
        "d4bba439e000b95fd0a9bffe97cbabec",
        "54ebc095f3ab1f0389bbae665268c751",
        "634d18415352ddfa80567beed471001a",
        "482c414d41f54cd18b22e5b47cb7c3cb",
        "40351d587109b95175f43aff81a1287e",
    ],
    "mirrors": ["https://www.cs.toronto.edu/~kriz/"],
    "downloads": {"cifar-10-python.tar.gz": "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"},
}
MNIST = idx_dataset(
    "MNIST",
    list("0123456789"),
    "3581e2cc94aa",
    [
        "f68b3c2dcbeaaa9fbdd348bbdeb94873 6bbc9ace898e44ae57da46a324031adb",
        "d53e105ee54ea40749a09fcbcd1e9432 a25bea736e30d166cdddb491f175f624",
        "9fb629c4189551a2d022fa330f9573f3 2646ac647ad5339dbf082846283269ea",
        "ec29112dd5afa0611ce80d1b7f02629c 27ae3e4e09519cfbb04c329615203637",
    ],
    ["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"],
    [(MAT_FILES, read_mat)],  # the file that the MNIST homework names
)
FASHION_MNIST = idx_dataset(
    "Fashion-MNIST",
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    "4fa3e2f56ce7",
    [
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "25c81989df183df01b3e8a0aad5dffbe 9018921c3c673c538a1fc5bad174d6f9",
        "bef4ecab320f06d8554ea6380940ec79 8181f5470baa50b63fa0f6fddb340f0a",
        "bb300cfdad3c16e7a12a480ee83cd310 15d484375f8d13e6eb1aabb0c3f46965",
    ],
    [  # the first does not speak HTTPS
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ],
)
DATASETS = {
    "cifar10": CIFAR10,
    "mnist": MNIST,
    "fashion-mnist": FASHION_MNIST,
    "shapes": dict(title="shapes (synthetic)", classes=shapes.CLASSES, shape=(3, 32, 32), sizes=(50_000, 10_000)),
    "grey-shapes": dict(title="grey shapes (synthetic)", classes=shapes.CLASSES, shape=(1, 28, 28), sizes=(60_000, 10_000)),
}
FALLBACK = {"cifar10": "shapes", "mnist": "grey-shapes", "fashion-mnist": "grey-shapes"}
