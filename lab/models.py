"""Trained networks in files: save and load. Checkpoints are the same kind of archive, made by pack and read by unpack."""

import io
import json
import math
import stat
import warnings
import zipfile
from pathlib import Path

import numpy as np

import kbn
import nets
from lab import tables

LIMIT = 200_000_000  # bytes of a file, and of the arrays in it
MEMBERS = 10_000  # arrays in a file
LAYERS = 1000  # specs of a network


def pack(words, **groups):
    """The bytes of an .npz archive of words, a dict for JSON, and groups, dicts of arrays."""
    arrays = {f"{group}.{key}": array for group, members in groups.items() for key, array in members.items()}
    file = io.BytesIO()
    np.savez(file, words=np.array(json.dumps(words)), **arrays)
    return file.getvalue()


def unpack(path, *names, limit=LIMIT):
    """Read a file that pack made. Nothing is unpickled, and no memory is allocated before all sizes have been checked.

    names: the groups that the file may hold. limit: the most bytes of the file, and of its arrays.
    Returns words and {name: {key: array}}; a group without arrays is empty.
    Raises OSError, and ValueError, naming the file, if it is damaged, too large or another kind of file.
    """
    check_file(path)
    if Path(path).stat().st_size > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    content, groups = Path(path).read_bytes(), {name: {} for name in names}
    try:
        arrays = read_arrays(content, limit)
        words = dict(json.loads(arrays.pop("words").item()))
        for name, array in arrays.items():
            group, key = name.split(".")
            groups[group][key] = array
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(f"{path} is damaged or another kind of file ({reason(error)})") from None
    return words, groups


def check_file(path):
    """Raise ValueError unless path is a regular file: reading a FIFO might never end. Raise OSError if it does not exist."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ValueError(f"{path} is not a regular file")


def read_arrays(content, limit):
    """The arrays in the bytes of an .npz archive, by name. Raises ValueError, or another error, if it is damaged."""
    if content.count(b"PK\x01\x02") > MEMBERS:  # these bytes start each entry of the archive's directory
        raise ValueError(f"more than {MEMBERS} arrays")
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive, warnings.catch_warnings(action="error"):
        members = archive.infolist()
        if sum(member.file_size for member in members) > limit or any(member.compress_type for member in members):
            raise ValueError(f"compressed, or larger than {limit} bytes")
        for member in members:
            with archive.open(member) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError("unknown version of an array")
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
                if dtype.kind not in "biufU" or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                    raise ValueError("an array that is not plain, or not of the size that it claims")
                array = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran_order else "C")
                arrays[member.filename.removesuffix(".npy")] = np.array(array)
    return arrays


def reason(error):
    """The first line of an error's message, after its type if it is not a ValueError."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return kind + str(error).partition("\n")[0][:200]


def save(path, params, stats, hp, mean, sd, classes, shape, specs=None, loss="softmax"):
    """Write a trained network for images to path (.npz). Raises OSError.

    mean, sd (d, 1): X = (pixel - mean) / sd. classes: the names of the K classes. shape: (c, h, w) of an image, d = c h w.
    specs, loss: those of nets.build; specs is None for a network of kbn's own.
    """
    words = {"hp": kbn.complete_hp(hp), "classes": list(classes), "shape": list(shape), "specs": specs, "loss": loss}
    tables.write(Path(path), pack(words, params=params, stats=stats, pixels={"mean": mean, "sd": sd}))


def load(path):
    """Read a network that save wrote.

    Returns a dict: net (kbn.MLP, or made by nets.build), params, stats, hp, mean, sd, classes and shape, as in save.
    Raises OSError, and ValueError, naming the file, if it is damaged or its parts do not fit together.
    """
    words, groups = unpack(path, "params", "stats", "pixels")
    try:
        return network(words, **groups)
    except Exception as error:  # words can hold anything
        raise ValueError(f"{path} is not a network for images ({reason(error)})") from None


def network(words, params, stats, pixels):
    """What load returns, from the contents of its file. Raises ValueError, or another error, if they do not fit together."""
    hp, classes, shape, specs = kbn.complete_hp(words["hp"]), words["classes"], words["shape"], words["specs"]
    if type(classes) is not list or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes are not a list of names")
    if type(shape) is not list or [type(side) for side in shape] != [int] * 3 or shape[0] not in (1, 3):
        raise ValueError(f"shape must be 1 or 3 planes, height and width, not {shape!r:.60}")
    if isinstance(specs, list) and len(specs) > LAYERS:
        raise ValueError(f"more than {LAYERS} layers")
    if specs is None:
        net, specs = kbn.MLP, layers(params)
    else:
        net, hp["bn"] = nets.build(specs, shape, words["loss"]), "before"  # specs themselves say where their BN is
    shapes = nets.shapes_of(specs, shape)
    statistics = {name: shapes.pop(name) for name in list(shapes) if name.startswith(("mu", "v"))}
    check_arrays(params, shapes)
    check_arrays(stats, statistics)
    check_arrays(pixels, dict.fromkeys(("mean", "sd"), (math.prod(shape), 1)))
    if len(params[f"b{kbn.n_layers(params)}"]) != len(classes):
        raise ValueError(f"the {len(classes)} classes do not fit the last layer")
    if stats and hp["bn"] == "off":
        raise ValueError("bn is 'off', but there are the arrays of BN")
    return {"net": net, "params": params, "stats": stats, "hp": hp, **pixels, "classes": classes, "shape": shape}


def layers(params):
    """The layers of a network of kbn's own, as specs whose arrays have the same shapes."""
    bn = [["bn"]] if "gamma1" in params else []
    *hidden, last = (["affine", np.size(params.get(f"b{l}"))] for l in range(1, kbn.n_layers(params) + 1))
    return [layer for affine in hidden for layer in (affine, *bn)] + [last]


def check_arrays(arrays, shapes):
    """Raise ValueError unless arrays have these names and shapes, finite floats, variances >= 0 and sd > 0."""
    for name in sorted(arrays.keys() ^ shapes.keys()):
        raise ValueError(f"{name!r:.40} is {'missing' if name in shapes else 'unknown'}")
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{name} must be {shape} finite floats, not {array.shape} {array.dtype}")
        if name.startswith("v") and array.min() < 0 or name == "sd" and array.min() <= 0:
            raise ValueError(f"{name} has a value of {array.min()}")
