"""One small case of the assignment's network, and all values that belong to it, in the order of the computation.

A case is a dict of arrays and numbers. A user's program reads it from a file and writes its own values, see check_mine.py.
"""

import hashlib
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np

import kbn
from kbn import L2, backward, cross_entropy, cyclical_eta, forward, n_layers, total_penalty, update_params, update_stats
from lab import models, tables
from lab.settings import UserError

LIMIT = 20_000_000  # bytes of a file, and of the arrays in it
K, N_TEST = 4, 3  # classes, columns to predict
NUMBERS = {"lambda": 0.05, "eps": 0.02, "alpha": 0.7, "eta_min": 0.01, "eta_max": 0.2, "n_s": 10, "t": 3}
EQUATIONS = {  # of the assignment, for a value without its number, with BN and without it
    "S": ("(12)", "(1)"), "mu": ("(13)", ""), "v": ("(14)", ""), "Shat": ("(15)", ""), "X": ("(16), (17)", "(2)"),
    "P": ("(4), (19)", "(4)"), "loss": ("(20), its first term", "(20), its first term"), "cost": ("(20)", "(20)"),
    "grad_W": ("(22), (28)", "(22)"), "grad_b": ("(22), (28)", "(22)"), "grad_gamma": ("(25)", ""), "grad_beta": ("(25)", ""),
    "W_new": ("the update", "the update"), "b_new": ("the update", "the update"), "gamma_new": ("the update", ""),
    "beta_new": ("the update", ""), "mu_new": ("(38)", ""), "v_new": ("(39)", ""), "P_test": ("(5)-(10)", "(5)-(10)"), "y_test": ("the largest of P_test", "the largest of P_test"),
}  # fmt: skip


# ----------------------------------------------------------------------------------------------------- a case


def draw(hidden, bn, n, seed, accepts=lambda case: True):
    """Draw a case with these hidden widths: the first one of 1,000 draws whose ReLUs are far from their kinks and which accepts.

    bn: place of BN. n: number of examples. Raises UserError if there is none.
    """
    d = max(hidden) + 1 + (max(hidden) + 1 == n)  # another number than n and all widths
    for attempt in range(1000):
        rng = np.random.default_rng([seed, attempt])
        params = kbn.init_params([d, *hidden, K], rng, bn=bn, dtype=np.float64)
        for key, array in params.items():
            if not key.startswith("W"):  # far from the values that hide mistakes
                away = rng.uniform(0.3, 0.6, array.shape) * rng.choice([-1, 1], array.shape)
                params[key] = away + (1 if key.startswith("gamma") else 0)
        stats = {f"{name}{l}_avg": rng.uniform(*ends, (m, 1)) for l, m in enumerate(hidden, start=1) if bn != "off"
                 for name, ends in (("mu", (-1, 1)), ("v", (0.5, 2)))}  # fmt: skip
        y = rng.permutation(np.arange(n) % K)
        case = {"X": rng.standard_normal((d, n)), "Y": kbn.one_hot(y, K, np.float64), "y": y, **params, **NUMBERS, **stats,
                "X_test": rng.standard_normal((d, N_TEST)), "bn": bn}  # fmt: skip
        if smallest_score(case) > 1e-3 and accepts(case):
            return case | {"fingerprint": fingerprint(case)}
    raise UserError(f"no case with the hidden widths {hidden} and {n} examples was found; try other ones, or another --seed")


def smallest_score(case):
    """The smallest absolute value that a ReLU of the case sees: a score near 0 would make gradients ambiguous."""
    params, place = params_of(case), {"bn": case["bn"], "eps": case["eps"]}
    _, cache = kbn.forward(case["X"], params, **place)
    seen = []
    for l in range(1, kbn.n_layers(params)):
        S = params[f"W{l}"] @ cache[f"X{l - 1}"] + params[f"b{l}"]
        seen.append(abs(params[f"gamma{l}"] * cache[f"Shat{l}"] + params[f"beta{l}"] if case["bn"] == "before" else S).min())
    return min(seen)


def params_of(case):
    """The params of a case."""
    return {key: case[key] for key in case if key[0] in "Wbg" and key[-1].isdigit()}


def fingerprint(case):
    """A word that tells a case from others."""
    content = b"".join(np.asarray(case[key]).tobytes() for key in sorted(case) if key not in ("bn", "fingerprint"))
    return hashlib.sha256(content).hexdigest()[:12]


def trace(case):
    """All values of a case, in the order of the computation: forward, backward from the last layer down, update, prediction.

    lab/mistakes.py changes single lines of this function and of those that it calls.
    """
    X, Y, bn, eps, lam, alpha = (case[name] for name in ("X", "Y", "bn", "eps", "lambda", "alpha"))
    params, k = params_of(case), n_layers(params_of(case))
    P, cache = forward(X, params, bn=bn, eps=eps)
    values = {}
    for l in range(1, k + 1):
        values[f"S{l}"] = params[f"W{l}"] @ cache[f"X{l - 1}"] + params[f"b{l}"]
        if l < k:
            values |= {f"{name}{l}": cache[f"{name}{l}"] for name in ("mu", "v", "Shat", "X") if f"{name}{l}" in cache}
    loss = cross_entropy(Y, cache["logP"])
    values |= {"P": P, "loss": loss, "cost": loss + total_penalty(params, lam, L2)}
    grads = backward(Y, params, cache, lam, penalty=L2)
    for l in range(k, 0, -1):
        values |= {f"grad_{name}{l}": grads[f"{name}{l}"] for name in ("gamma", "beta", "W", "b") if f"{name}{l}" in grads}
    eta = cyclical_eta(case["t"], case["eta_min"], case["eta_max"], case["n_s"])
    new = {key: param.copy() for key, param in params.items()}
    update_params(new, {key: g.copy() for key, g in grads.items()}, {}, eta)
    stats = {key.removesuffix("_avg"): case[key].copy() for key in case if key.endswith("_avg")}
    update_stats(stats, cache, alpha)
    values |= {f"{key}_new": new[key] for key in new} | {f"{key}_new": stats[key] for key in stats}
    values["P_test"] = forward(case["X_test"], new, stats, bn=bn, eps=eps)[0]
    values["y_test"] = values["P_test"].argmax(axis=0)
    return values


# ---------------------------------------------------------------------------------------------------------- files


def write(path, content):
    """Write a case, or an answer, to path, which ends in .npz, .mat or .json. Raises OSError, and UserError for another ending."""
    path, file = Path(path), io.BytesIO()
    if path.suffix == ".npz":
        np.savez(file, **content)
    elif path.suffix == ".mat":
        from scipy.io import savemat

        savemat(file, content)
    elif path.suffix == ".json":
        file.write(json.dumps({key: np.asarray(value).tolist() for key, value in content.items()}).encode())
    else:
        raise UserError(f"{path} must end in .npz, .mat or .json")
    tables.write(path, file.getvalue())


def read(path):
    """Read a file of arrays: {name: array}. Nothing in it is run, and no array is read before its size is known.

    Raises UserError, naming the file, if it is missing, too large or damaged, or holds anything but numbers and words.
    """
    path = Path(path)
    readers = {".npz": read_npz, ".mat": read_mat, ".json": read_json}
    if path.suffix not in readers:
        raise UserError(f"{path} must end in .npz, .mat or .json")
    try:
        models.check_file(path)
        if path.stat().st_size > LIMIT:
            raise ValueError(f"it has more than {LIMIT} bytes")
        content = readers[path.suffix](path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path} cannot be read ({models.reason(error)})") from None
    for name, array in content.items():
        if array.dtype.kind not in "biufcU":
            raise UserError(f"{path}: {name!r:.40} is of the type {array.dtype}; write arrays of numbers")
    return content


def read_npz(path):
    """The arrays of an .npz file, compressed or not."""
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > LIMIT:
            raise ValueError(f"its arrays have more than {LIMIT} bytes")
        content = {}
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = header(file)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize > LIMIT:
                    raise ValueError(f"{member.filename} holds objects, or claims more than {LIMIT} bytes")
                array = np.frombuffer(file.read(LIMIT), dtype)
                content[member.filename.removesuffix(".npy")] = array.reshape(shape, order="F" if fortran else "C")
    return content


def read_mat(path):
    """The arrays of a .mat file of version 5. One of version 7.3 is HDF5, which scipy does not read."""
    from scipy.io import loadmat, whosmat

    if sum(8 * math.prod(shape) for _, shape, _ in whosmat(path)) > LIMIT:
        raise ValueError(f"its arrays claim more than {LIMIT} bytes")
    return {name: np.asarray(value) for name, value in loadmat(path).items() if not name.startswith("__")}


def read_json(path):
    """The arrays of a .json file, a dict of nested lists of numbers."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError('it must hold one object, {"name": numbers}')
    return {name: np.array(value) for name, value in content.items()}


def read_case(path):
    """Read a case that draw made. Raises UserError, naming the file, if anything of it is missing or has been changed."""
    content = read(path)
    try:
        case = {
            key: value.item() if value.size == 1 and key in (*NUMBERS, "bn", "fingerprint") else value
            for key, value in content.items()
        }
        case["y"] = np.ravel(case["y"])
        case |= {key: np.asarray(value, float) for key, value in case.items() if key[0] in "XYWbgmv" and key not in ("bn",)}
        kbn.check_bn(case["bn"])
        if case["fingerprint"] != fingerprint(case):
            raise ValueError("it has been changed")
        return case
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a case of check_mine.py ({models.reason(error)}); make one with --case") from None
