"""Results on disk: a JSON file and a checkpoint for each run, and for an experiment a CSV and a file of histories.

A result is used again only if its whole key is the same: config, seed, data, code and numpy's version. The file's name
holds a hash of the key, so results of other settings, data or code are never overwritten.
"""

import ast
import csv
import functools
import gzip
import hashlib
import json
import platform
import re
import sys
import zlib

import numpy as np
from threadpoolctl import threadpool_info

from lab import models, tables
from lab.settings import HOME, UserError

DECISIVE = ["kbn.py", "layers.py", "nets.py", "jitter.py", "lab/recipes.py", "lab/probes.py", "lab/training.py"]
LARGEST = 2**24  # bytes of a result's file
MEASURED = ["val_accuracy", "test_accuracy", "test_accuracy_dataset"]
MEASURED += [f"{part}_accuracy_{way}" for way in ("mirror", "ensemble") for part in ("val", "test")]
MEASURED += ["train_accuracy", "train_loss", "val_loss", "train_cost", "val_cost", "largest_loss"]
VERSIONS = ["python", "numpy", "machine", "blas"]
COLUMNS = ["row", "seed", "run", *MEASURED, "diverged", "duration_s", "config", "data", "code", *VERSIONS]


# ------------------------------------------------------------------------------------------- what a result depends on


@functools.cache
def code_version():
    """Return a short hash of the modules that decide a result: of their syntax trees, without docstrings and comments."""
    texts = []
    for name in DECISIVE:
        tree = ast.parse((HOME / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        texts.append(ast.unparse(tree))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def key_of(config, seed, data, test):
    """Return all that decides a result; data is data_of a dataset, test whether the test set is used."""
    data = {name: data[name] for name in ("name", "fingerprint", "order")}
    return {"config": config, "seed": seed, "test": test, "data": data, "code": code_version(), "numpy": np.__version__}


def data_of(raw):
    """Return what results say of a dataset (see data.load)."""
    names = ("name", "title", "note", "fingerprint", "order", "files", "classes")
    return {name: raw[name] for name in names} | {"shape": list(raw["shape"])}


def versions():
    """Return the versions of Python and numpy, the processor's kind, and the BLAS library, which decides the last bits."""
    blas = {f"{library['internal_api']} {library['version']} {library.get('architecture', '')}".strip()
            for library in threadpool_info() if library["user_api"] == "blas"}  # fmt: skip
    values = platform.python_version(), np.__version__, platform.machine(), ", ".join(sorted(blas))
    return dict(zip(VERSIONS, values))


def slug(name):
    """Return a row's name as part of a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def digest(value):
    """Return a hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def run_name(row, key):
    """Return the name of a run's files: readable, and different for different keys."""
    return f"{slug(row)}-seed{key['seed']}-{digest(key)[:8]}"


# ------------------------------------------------------------------------------------------------------------ one run


def write_result(path, key, result):
    """Write a result with its key and a digest of both. Raises OSError."""
    content = {"key": key, **result}
    tables.write(path, json.dumps({"digest": digest(content), **content}) + "\n")


def read_result(path, key):
    """Return the result in path, or None if there is none with this key. A damaged file is reported in one line."""
    if not path.exists():
        return None
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise ValueError
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.pop("digest") != digest(result) or result.pop("key") != key:
            raise ValueError
        return result
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        print(f"{path} is damaged: its run is trained again", file=sys.stderr)
        return None


def write_checkpoint(path, key, state, duration_s):
    """Write the state that minibatch_gd gives its callback. Raises OSError."""
    groups = {name: state[name] for name in ("params", "stats", "memory")}
    groups["epoch"] = {name: np.array(column) for name, column in state["history"]["epoch"].items()}
    words = {"key": key, "t": state["t"], "rng": state["rng"], "duration_s": duration_s, "arrays": count(groups)}
    tables.write(path, models.pack(words, **groups))


def count(groups):
    """Return the number of arrays in each group. A damaged directory of an archive can hide some of them."""
    return {name: len(group) for name, group in groups.items()}


def read_checkpoint(path, key):
    """Return the state in a checkpoint of the same run, with duration_s, or None. A damaged one is reported in one line."""
    try:
        state, groups = models.unpack(path, "params", "stats", "memory", "epoch")
        if state.pop("key") != key:
            raise ValueError(f"{path} belongs to another run")
        if state.pop("arrays") != count(groups):
            raise ValueError
        history = {"update": {}, "epoch": {name: column.tolist() for name, column in groups.pop("epoch").items()}}
        state["t"], state["duration_s"] = int(state["t"]), float(state["duration_s"])
        return state | groups | {"history": history}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        fault = str(error) if str(path) in str(error) else f"{path} is damaged ({type(error).__name__})"
        print(f"{fault}; its run starts again", file=sys.stderr)
        return None


# ------------------------------------------------------------------------------------------------- a whole experiment


def write_runs(path, results):
    """Write results {row: [result, ...]} to path_runs.csv, a row for each run, and their histories to path_histories.json.gz."""
    rows, histories = [], {}
    for result in (result for of_row in results.values() for result in of_row):
        numbers = {name: repr(float(result[name])) if name in result else "" for name in MEASURED}
        words = {name: json.dumps(result[name]) for name in ("config", "data")}
        rows.append({name: result.get(name, "") for name in COLUMNS} | numbers | words | result["versions"])
        histories[result["run"]] = {"history": result["history"], "pictures": result.get("pictures")}
    tables.write(path.with_name(f"{path.name}_runs.csv"), tables.comma_separated(rows))
    text = json.dumps(histories, separators=(",", ":"))
    tables.write(path.with_name(f"{path.name}_histories.json.gz"), gzip.compress(text.encode(), mtime=0))


def check_numbers(result):
    """Raise an error unless val_accuracy is there, accuracies are from 0 to 1, and the history has numbers in equal columns."""
    accuracies = [result["val_accuracy"], *(result[name] for name in MEASURED if "accuracy" in name and name in result)]
    columns = list(result["history"].values())
    if not all(0 <= accuracy <= 1 for accuracy in accuracies) or len(set(map(len, columns))) > 1:
        raise ValueError
    if not all(type(x) in (int, float) for column in columns for x in column):
        raise TypeError


def read_runs(path):
    """Return what write_runs wrote: {row: [result, ...]}. Raises UserError, naming the file, if it is missing or damaged."""
    runs, histories = (path.with_name(path.name + end) for end in ("_runs.csv", "_histories.json.gz"))
    try:
        with gzip.open(histories, "rt", encoding="utf-8") as file:
            left = json.load(file)
        results = {}
        with runs.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file, strict=True):
                result = {name: float(line[name]) for name in MEASURED if line.get(name)}
                result |= {name: line[name] for name in ("row", "run", "diverged", "code")}
                result |= {name: json.loads(line[name]) for name in ("seed", "config", "data")}
                result["duration_s"] = float(line["duration_s"] or "nan")
                result |= {"versions": {name: line[name] for name in VERSIONS}, **left[line["run"]]}
                check_numbers(result)
                results.setdefault(line["row"], []).append(result)
        if not results or {result["run"] for of_row in results.values() for result in of_row} != left.keys():
            raise ValueError
        return results
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing; run the driver without --figures first, or name the dataset of its results with --dataset"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise UserError(f"{runs} or {histories.name} is damaged ({type(error).__name__}); run the driver again") from None
