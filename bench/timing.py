"""How the benchmarks measure: contestants take turns, so that a busy machine slows them all alike.

A contestant is a function without arguments that works for one turn and returns the seconds that one step took. Reported
are the median over the rounds, and of two contestants the median of each round's own ratio.

A task is what a step trains: X, y, specs, shape, params, net (kbn.MLP, or what nets.build makes) and hp. The learning rate
is hp["eta_max"] throughout.
"""

import json
import os
import platform
import re
import sys
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import perf_counter as clock
from types import SimpleNamespace
from unittest.mock import patch

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the benchmarks find the project

import kbn
import nets
from lab import settings, store, tables

HAS_TORCH = find_spec("torch") is not None  # imported in functions only: it is optional, and bench/jobs.py must not load it


def options(doc, rounds, steps=None):
    """Return a parser with --rounds, --steps if it has a default here, --out and --publish."""
    parser = settings.parser(doc)
    add = partial(parser.add_argument, type=settings.at_least_one, metavar="N")
    add("--rounds", default=rounds, help=f"number of turns of each contestant (default: {rounds})")
    if steps:
        add("--steps", default=steps, help=f"training steps in one turn (default: {steps})")
    settings.add_out(parser)
    return parser


def environment():
    """Return and print what a measurement depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    found = {
        "processor": (names or [platform.processor()])[0],
        "cores": joblib.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    found |= store.versions() | {package: metadata.version(package) for package in ["joblib"] + ["torch"] * HAS_TORCH}
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    return found


def threads(n):
    """Return a context in which BLAS works on n threads. PyTorch works on n threads from now on."""
    if HAS_TORCH:
        import torch

        torch.set_num_threads(n)
    return threadpool_limits(n)


def take_turns(contestants, rounds):
    """Return {name: [seconds of a step, one number a round]} of contestants {name: function}. One more round warms up."""
    seconds = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, turn in contestants.items():
            seconds[name].append(turn())
    return {name: numbers[1:] for name, numbers in seconds.items()}


def time_calls(function, n):
    """Return the mean seconds of n calls of function(), after one call off the clock."""
    function()
    start = clock()
    for _ in range(n):
        function()
    return (clock() - start) / n


def median(seconds, name, unit, digits=0):
    """Return the median of take_turns' numbers of one contestant in this unit (1e-3 for ms) as text, "" if it did not run."""
    return f"{np.median(seconds[name]) / unit:.{digits}f}" if name in seconds else ""


def ratio(seconds, name, other):
    """Return the median of each round's ratio of two contestants as text, "" if one of them did not run."""
    return f"{np.median(np.divide(seconds[name], seconds[other])):.2f}" if {name, other} <= seconds.keys() else ""


def report(folder, named, raw):
    """Print and write the named tables, and write the raw numbers as JSON under the name of the first."""
    for name, rows in named.items():
        print(f"\n{tables.write_table(folder / name, rows)}", end="")
    path = folder / f"{next(iter(named))}.json"
    tables.write(path, json.dumps(raw) + "\n")
    print(f"\nwritten to {os.path.relpath(path.with_suffix('.*'))}")


# ------------------------------------------------------------------------------------------------- a training step


def make_task(specs, shape, n, net=None, **hp):
    """Return a task of n random examples, and of the net of specs unless another net with its params is given."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, int(np.prod(shape))), np.float32).T, rng.integers(specs[-1][1], size=n)
    params, hp = nets.init_params(specs, shape, rng), kbn.complete_hp({"eta_max": 0.01, **hp})
    return SimpleNamespace(X=X, y=y, specs=specs, shape=shape, params=params, hp=hp, net=net or nets.build(specs, shape))


def race(name, task, floor, rounds, steps):
    """Return take_turns' numbers for floor, a generator of endless steps, for kbn, and for PyTorch if it is installed."""
    print(f"{name}{'' if HAS_TORCH else ', without PyTorch (pip install torch)'} ...", flush=True)
    contestants = {
        "floor": lambda: time_calls(floor.__next__, steps),
        "kbn": lambda: kbn_steps(task, steps)[0].mean(),
    }
    if HAS_TORCH:
        check_same_work(task)
        rival = torch_steps(task)
        contestants["torch"] = lambda: time_calls(rival.__next__, steps)
    return take_turns(contestants, rounds)


def check_same_work(task, n=8):
    """Raise AssertionError unless PyTorch has the losses of kbn in the first n updates."""
    _, losses = kbn_steps(task, n - 2)
    rival = list(islice(torch_steps(task), n))
    np.testing.assert_allclose(rival, losses, rtol=1e-4, err_msg="PyTorch does not do the same work")


def kbn_steps(task, steps, clock=clock):
    """Train by kbn.minibatch_gd without its evaluations, and read the clock at each forward pass.

    Returns the differences of the readings, a number or an array for each of steps whole steps after one that warms up (its
    arrays are new memory), and the losses.
    """
    readings = []

    def forward(*args, **options):
        readings.append(clock())
        return task.net.forward(*args, **options)

    net = SimpleNamespace(**vars(task.net) | {"forward": forward})
    train, val, etas = (task.X, task.y), (task.X[:, :1], task.y[:1]), [task.hp["eta_max"]] * (steps + 2)
    with patch.object(kbn, "evaluate_prepared", return_value={"loss": 0.0}):
        _, _, history = kbn.minibatch_gd(train, val, task.params, task.hp, np.random.default_rng(1), etas=etas, net=net)
    return np.diff(readings, axis=0)[1:], history["update"]["loss"]


def product_steps(task):
    """Do all the matrix products of a training step of a k-layer network, and nothing else, without end."""
    W = [task.params[f"W{l}"] for l in range(1, kbn.n_layers(task.params) + 1)]
    X, G = ([np.ones((size, task.hp["n_batch"]), np.float32) for size in sizes]
            for sizes in ([A.shape[1] for A in W], [len(A) for A in W]))  # fmt: skip
    grads = [np.empty_like(A) for A in W]
    while True:
        for l, A in enumerate(W):
            np.matmul(A, X[l], out=G[l])
            np.matmul(G[l], X[l].T, out=grads[l])
            if l:
                np.matmul(A.T, G[l], out=X[l])
            G[l].fill(1e-3)
            X[l].fill(1e-3)
        yield


def mini_batches(task):
    """Yield the indices of one mini-batch after another without end, drawn as kbn.minibatch_gd draws them."""
    rng, n, n_batch = np.random.default_rng(1), len(task.y), task.hp["n_batch"]
    while True:
        order = rng.permutation(n)
        for i in range(n // n_batch):
            yield order[i * n_batch : (i + 1) * n_batch]


def torch_steps(task, device="cpu"):
    """Train the same net in PyTorch, eager, and record the same numbers. Yields the loss of each update, without end."""
    import torch

    net, hp, losses, accuracies = torch_net(task).to(device), task.hp, [], []
    weights, others = ([param for param in net.parameters() if (param.ndim > 1) == large] for large in (True, False))
    groups = [{"params": weights, "weight_decay": 2 * hp["lam"]}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=hp["eta_max"], momentum=hp["momentum"])
    examples, y = (torch.from_numpy(array).to(device) for array in (task.X.T.reshape(-1, *task.shape), task.y))
    for batch in (torch.from_numpy(batch).to(device) for batch in mini_batches(task)):
        y_batch = y[batch]
        optimizer.zero_grad()
        S = net(examples[batch])
        loss = torch.nn.functional.cross_entropy(S, y_batch)
        with torch.no_grad():
            correct = (S.argmax(dim=1) == y_batch).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        accuracies.append(correct.item() / len(batch))
        yield losses[-1]


def torch_net(task):
    """Return the net of a task as PyTorch modules with copies of its params."""
    from torch import nn, tensor

    kinds = {"affine": nn.Linear, "conv": nn.Conv2d, "relu": nn.ReLU, "max_pool": nn.MaxPool2d, "flatten": nn.Flatten}
    modules = []
    for step in nets.steps_of(task.specs, task.shape):
        if step.name == "bn":
            kind = nn.BatchNorm2d if len(step.shape) == 3 else nn.BatchNorm1d
            modules.append(kind(step.shape[0], eps=task.hp["eps"], momentum=1 - task.hp["alpha"]))
        else:
            inputs = [step.shape[0]] if step.kind.params else []
            modules.append(kinds[step.name](*inputs, *step.numbers))
        for param, name in zip(modules[-1].parameters(), step.kind.params, strict=True):  # weight and bias, in order
            param.data = tensor(task.params[f"{name}{step.l}"]).reshape(param.shape)
    return nn.Sequential(*modules)
