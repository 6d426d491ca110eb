"""Say what ordinary image files show, with a network that was trained and saved.

    python predict.py net.npz cat.png holiday.jpg
    python predict.py net.npz pictures/*.jpg --top 5

prints one line an image, its most probable classes:

    cat.png:     cat    61.2 %  dog    20.1 %  frog    8.0 %
    holiday.jpg: ship   92.6 %  truck   3.3 %  bird    1.9 %

The exit status is 1 if the model or any image cannot be used; each is named in one line on stderr, and the other images
are predicted all the same.

Any file that Pillow reads will do: colour or grey, palette, CMYK, 16 bits; of an animation the first frame. An image is
turned upright as its camera noted (EXIF), laid on white where it is transparent, and resized as a whole, smoothly and not
cropped, to the size that the network was trained on. One of other proportions is squeezed: crop it yourself first.

    model = load_model("net.npz")                                    # the same from Python
    P = predict(model, read_image("cat.png", model["shape"]))        # (K, 1)
"""

import argparse
import logging
import sys
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

import kbn
import nets

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what matters comes as an exception


def load_model(path):
    """Read a network for images: what kbn.save wrote, and with it mean, sd, classes and shape.

    Returns a dict: net, params, stats, hp; mean, sd (d, 1), for X = (pixel - mean) / sd; classes (K,) str; shape (3,), the
    c, h, w of an image, where d = c h w. Raises ValueError: which file, and what is wrong with it.
    """
    try:
        params, stats, hp, more = kbn.load(path, nets.check_model)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    net = nets.of_model(more)
    d, K = net["d"](params), len(params[f"b{kbn.n_layers(params)}"])
    parts = {
        "mean": ((d, 1), "f", "floats"),
        "sd": ((d, 1), "f", "floats"),
        "classes": ((K,), "U", "names"),
        "shape": ((3,), "iu", "integers"),
    }
    for name, (shape, kinds, what) in parts.items():
        if name not in more:
            raise ValueError(f"{path} is no network for images: it lacks {name}")
        if more[name].shape != shape or more[name].dtype.kind not in kinds:
            raise ValueError(f"{path}: {name} must be {shape} {what}, not {more[name].shape} {more[name].dtype}")
    c, h, w = more["shape"].tolist()
    if c not in (1, 3) or min(h, w) < 1 or c * h * w != d:
        raise ValueError(f"{path}: shape must be 1 or 3 planes (c, h, w) of {d} pixels in all, not {(c, h, w)}")
    if not (np.isfinite(more["mean"]) & np.isfinite(more["sd"]) & (more["sd"] > 0)).all():
        raise ValueError(f"{path}: mean must be finite, sd finite and above 0")
    return {**more, "net": net, "params": params, "stats": stats, "hp": hp}


def eight_bits(image):
    """A grey image of 16 bits by its upper eight (Pillow itself would clip it at 255), any other as it is."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() >= 2**16:
        raise ValueError("its pixels are not of 8 or 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def read_image(path, shape):
    """Read one image file, and make it an image of shape c, h, w: RGB for c = 3, grey for c = 1.

    Returns (d, 1) uint8, plane by plane, row by row. Raises ValueError: which file, and what is wrong with it.
    """
    c, h, w = map(int, shape)
    try:
        with warnings.catch_warnings():
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


@np.errstate(all="ignore")
def predict(model, pixels):
    """The probabilities P (K, n) of the classes, in the precision of params, for pixels 0..255 (d, n), an image a column.

    model: what load_model returns. Raises ValueError where pixels do not fit it, or the scores are beyond its precision.
    """
    params, hp, mean = model["params"], model["hp"], model["mean"]
    if pixels.ndim != 2 or len(pixels) != len(mean):
        raise ValueError(f"pixels {pixels.shape} do not fit the network: they must be ({len(mean)}, n)")
    X = ((pixels - mean) / model["sd"]).astype(params["W1"].dtype)
    P, _ = model["net"]["forward"](X, params, model["stats"], hp["eps"], hp["bn"])
    if not np.isfinite(P).all():
        raise ValueError("the network's scores are not finite")
    return P


def ranking(p, classes, top):
    """The top most probable of classes (K,) and their probabilities p (K,) as text; in columns, line under line."""
    width = max(map(len, classes))
    best = np.argsort(-p)[:top]
    return "  ".join(f"{classes[i]:{width}} {100 * p[i]:5.1f} %" for i in best)


def complain(error):
    """One line on stderr, whatever the message is made of."""
    print("predict.py: error:", " ".join(str(error).splitlines()), file=sys.stderr)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", metavar="MODEL", help="the network, a .npz file")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="how many classes to print (default 3; at most all)")
    opts = parser.parse_args(argv)
    if opts.top < 1:
        parser.error("--top must be 1 or more")
    try:
        model = load_model(opts.model)
    except ValueError as error:
        complain(error)
        return 1
    status, width = 0, max(map(len, opts.images)) + 1
    for path in opts.images:
        try:
            P = predict(model, read_image(path, model["shape"]))
        except ValueError as error:
            complain(error)
            status = 1
        else:
            print(f"{path + ':':{width}} {ranking(P[:, 0], model['classes'], opts.top)}")
    return status


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # for letters that the terminal lacks
    sys.exit(main())
