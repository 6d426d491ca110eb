"""Predict the classes of ordinary image files with a network that a driver trained and saved.

    python predict.py net.npz cat.png holiday.jpg
    python predict.py net.npz pictures/*.jpg --top 5
    python predict.py net.npz cat.png --with another.npz         the mean prediction of several networks

prints one line for each image, with its most probable classes:

    cat.png:     cat    61.2 %  dog    20.1 %  frog    8.0 %
    holiday.jpg: ship   92.6 %  truck   3.3 %  bird    1.9 %

The exit status is 1 if the model or any image cannot be used. Each such image gives one line on stderr, and the other
images are still predicted.

Any file that Pillow reads will do: colour or grey, palette, CMYK, 16 bits; of an animation, the first frame is used. An
image is rotated according to its EXIF orientation, composited on white where it is transparent, and resized smoothly to
the size that the network was trained on. Nothing is cropped, so an image of other proportions is squeezed.

    model = models.load("net.npz")                                   # the same from Python
    P = predict(model, read_image("cat.png", model["shape"]))        # (K, 1)
"""

import logging
import os
import sys
import warnings
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lab import models, settings

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # problems that matter are raised as exceptions


def read_image(path, shape):
    """Read an image file as an image of shape c, h, w: RGB for c = 3, grey for c = 1.

    Returns (d, 1) uint8, plane by plane, row by row. Raises ValueError, naming the file, where it cannot be read.
    """
    c, h, w = shape
    try:
        models.check_file(path)
        with warnings.catch_warnings(), silence():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = eight_bits(ImageOps.exif_transpose(file)).convert("RGBA").resize((w, h), Image.LANCZOS)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that Pillow can read") from error
    except Exception as error:  # a damaged image can raise anything
        raise ValueError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    image = Image.alpha_composite(Image.new("RGBA", (w, h), "white"), image).convert("RGB" if c == 3 else "L")
    return np.atleast_3d(image).transpose(2, 0, 1).reshape(-1, 1)


@contextmanager
def silence():
    """Discard what libraries in C, such as libtiff, print on stderr."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def eight_bits(image):
    """The upper eight bits of a grey image of 16 bits, which Pillow itself would clip at 255; other images unchanged."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() >= 2**16:
        raise ValueError("its pixels are not of 8 or 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


@np.errstate(all="ignore")
def predict(model, pixels):
    """The probabilities P (K, n) of the classes for pixels 0..255 (d, n), an image in each column, in the precision of params.

    model: from models.load. Raises ValueError where pixels do not fit the model or its scores overflow.
    """
    params, hp, mean = model["params"], model["hp"], model["mean"]
    if pixels.ndim != 2 or len(pixels) != len(mean):
        raise ValueError(f"pixels {pixels.shape} do not fit the network: they must be ({len(mean)}, n)")
    X = ((pixels - mean) / model["sd"]).astype(params["W1"].dtype)
    P, _ = model["net"].forward(X, params, model["stats"], bn=hp["bn"], eps=hp["eps"])
    if not np.isfinite(P).all():
        raise ValueError("the network's scores are not finite")
    return P


def predict_together(networks, path):
    """The mean of the probabilities p (K,) that networks, from models.load, predict for an image file."""
    return np.mean([predict(model, read_image(path, model["shape"])) for model in networks], axis=0)[:, 0]


def check_classes(networks, paths):
    """Raise UserError unless all networks, which are in files of these paths, know the same classes in the same order."""
    for model, path in zip(networks, paths):
        if model["classes"] != networks[0]["classes"]:
            raise settings.UserError(printable(
                f"{path} has the classes {', '.join(model['classes'])}, and {paths[0]} has {', '.join(networks[0]['classes'])}: "
                "their predictions have no mean"))  # fmt: skip


def printable(text):
    """The text without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def load(path):
    """What models.load returns. Raises UserError, naming the file, if it is not a network."""
    try:
        return models.load(path)
    except OSError as error:
        raise settings.UserError(
            f"{path} cannot be read ({error.strerror}); name a network that a driver saved, such as results/.../models/NAME.npz"
        ) from error
    except ValueError as error:
        raise settings.UserError(printable(error)) from error


def main(argv=None):
    parser = settings.parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="the network, a .npz file")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parser.add_argument(
        "--top", type=settings.at_least_one, default=3, metavar="N", help="classes to print (default 3; at most all)"
    )
    parser.add_argument("--with", dest="others", metavar="MODEL", nargs="+", default=[], help="further networks")
    opts = parser.parse_args(argv)
    paths = [opts.model, *opts.others]
    networks = [load(path) for path in paths]
    check_classes(networks, paths)
    classes, status, width = networks[0]["classes"], 0, max(map(len, opts.images)) + 1
    class_width = max(map(len, classes))
    for path in opts.images:
        try:
            p = predict_together(networks, path)
        except ValueError as error:
            print(f"predict.py: error: {printable(error)}", file=sys.stderr)
            status = 1
        else:
            best = [f"{classes[i]:{class_width}} {100 * p[i]:5.1f} %" for i in np.argsort(-p)[: opts.top]]
            print(printable(f"{path + ':':{width}} {'  '.join(best)}"))
    return status


if __name__ == "__main__":
    settings.run_main(main)
