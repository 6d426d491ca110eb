"""What one training step of convolutional nets costs, over the matrix products it cannot avoid, and beside PyTorch.

    python bench/conv.py

About two minutes, 600 MB of memory, no dataset: the data are random numbers.

floor   the bare matrix products of an im2col convolution, on matrices that lie ready, each in one call: W M, G M^T, and
        but for the first layer W^T G; those of the affine layer likewise
kbn     the whole step of kbn.minibatch_gd with a net of nets.build: gather, forward, backward, update, moving averages,
        record
torch   the same in PyTorch, eager, on the CPU: gather, forward, backward, SGD, the same record of loss, cost, accuracy

The process keeps the memory of large arrays, as the drivers' workers do (experiment.KEEP_MEMORY); PyTorch has the same.
All three run in float32, on mini-batches of 100, on 1 and on 2 threads (of BLAS; of all of PyTorch), and take turns, so
that a busy machine slows them alike; the first step of a turn is off the clock. 2 threads need 2 idle cores: otherwise
they wait for each other. ms are medians over the rounds, in milliseconds a step; the ratios are medians of each round's
own ratio. First of all kbn's loop is checked to be minibatch_gd's to the bit, torch's losses to be kbn's to 1e-3.

The second table says where kbn's step spends its time, on 1 thread, in % (medians); the rest is the affine layer, the
loss, the penalty, the update and the gather. The third compares three backward passes of batch normalization, in
microseconds (medians, 1 thread): gate by gate, in closed form, and kbn.backward's lines around kbn.batch_norm_backpass.
Each returns dJ/dS and the gradients of gamma and beta; S is (m, n), a layer of 50 units, or 32 channels of 14 x 14.
"""

import os

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[name] = "2"  # before numpy and torch, which read it when they are loaded; threadpool_limits goes below

import json
import platform
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

import numpy as np
from threadpoolctl import threadpool_limits

try:
    import torch
except ImportError:
    torch = None

import step
from step import cpu_model

import kbn
import layers
import nets
import tables
from experiment import KEEP_MEMORY

N, N_BATCH, K, EPOCH = 2000, 100, 10, 60_000
BASES = {  # a net's name: the shape of an image, the filters and their size; after each ReLU a 2 x 2 maximum
    "MNIST": ((1, 28, 28), [(16, 5), (32, 5)]),
    "CIFAR": ((3, 32, 32), [(32, 3), (64, 3)]),
}
THREADS = 1, 2
AIMS = {"torch": 2.0, "floor": 2.5}  # kbn over these
HP = kbn.check_hp({"eta_max": 1e-2, "n_batch": N_BATCH, "n_s": 2, "n_cycles": 1})
GROUPS = {
    "conv forward": "conv forward",
    "conv backward": "conv backward",
    "bn forward": "BN",
    "bn backward": "BN",
    "max_pool forward": "pooling",
    "max_pool backward": "pooling",
    "relu forward": "ReLU",
    "relu backward": "ReLU",
}
BN_SHAPES = [(50, 100), (32, 19_600)]


def specs_of(filters, batch_norm):
    """Each convolution keeps the size of the image; then BN if asked for, ReLU and pooling."""
    blocks = ([("conv", f, size, 1, size // 2), *[("bn",)] * batch_norm, ("relu",), ("max_pool", 2)] for f, size in filters)
    return [spec for block in blocks for spec in block] + [("affine", K)]


# ------------------------------------------------------------------------ three endless trainings, one update each turn


def floor_steps(X, y, params, specs, shape):
    """The matrix products."""
    between, _ = nets.sizes(specs, shape)
    products, l, rng = [], 0, np.random.default_rng(1)
    for spec, shape_out in zip(specs, between[1:]):
        if spec[0] in ("conv", "affine"):
            l += 1
            W = params[f"W{l}"].reshape(len(params[f"W{l}"]), -1)
            columns = N_BATCH * int(np.prod(shape_out[1:]))
            M, G = (rng.standard_normal((rows, columns), np.float32) for rows in W.shape[::-1])
            products += [(W, M, np.empty_like(G)), (G, M.T, np.empty_like(W))]
            products += [(W.T, G, np.empty_like(M))] * (l > 1)
    while True:
        for A, B, out in products:
            np.matmul(A, B, out=out)
        yield


def kbn_steps(X, y, params, specs, shape):
    """The loop of kbn.minibatch_gd with the net of specs. Yields the loss; params move in place."""
    return step.kbn_steps(X, y, params, HP, nets.build(specs, shape))


def torch_steps(X, y, params, specs, shape):
    """The same training in PyTorch, from the same params, with the same record. Yields the loss."""
    return step.torch_training(torch_net(params, specs), X.T.reshape(-1, *shape), y, HP)


def torch_net(params, specs):
    """The net of specs and params as PyTorch modules."""
    modules, l = [], 0
    for kind, *numbers in specs:
        l += kind in ("conv", "affine")
        if kind in ("conv", "affine"):
            W, b = torch.tensor(params[f"W{l}"]), torch.tensor(params[f"b{l}"][:, 0])
            module = (
                torch.nn.Conv2d(W.shape[1], W.shape[0], W.shape[2:], *numbers[2:])
                if kind == "conv"
                else torch.nn.Linear(*W.shape[::-1])
            )
            module.weight.data, module.bias.data = W, b
            modules += [module] if kind == "conv" else [torch.nn.Flatten(), module]
        elif kind == "bn":
            modules.append(torch.nn.BatchNorm2d(len(params[f"gamma{l}"]), eps=HP["eps"], momentum=1 - HP["alpha"]))
        else:
            modules.append(torch.nn.ReLU() if kind == "relu" else torch.nn.MaxPool2d(*numbers))
    return torch.nn.Sequential(*modules)


def check_same_work(X, y, params, specs, shape):
    """Raise AssertionError unless the loops above do what minibatch_gd does, for the 4 updates that HP asks for."""
    X, y = X[:, : 4 * N_BATCH], y[: 4 * N_BATCH]
    expected, _, _ = kbn.minibatch_gd(
        (X, y), (X[:, :1], y[:1]), params, HP, np.random.default_rng(1), net=nets.build(specs, shape)
    )
    trained = {key: param.copy() for key, param in params.items()}
    losses = list(islice(kbn_steps(X, y, trained, specs, shape), 4))
    for key in expected:
        np.testing.assert_array_equal(trained[key], expected[key], err_msg="the timed loop is not minibatch_gd's")
    if torch:
        np.testing.assert_allclose(
            list(islice(torch_steps(X, y, params, specs, shape), 4)),
            losses,
            rtol=1e-3,
            err_msg="torch does not do the same work",
        )


# ------------------------------------------------------------------------------------------------------------- timing


def measure(X, y, params, specs, shape, rounds, steps):
    """Milliseconds a step, one figure a round: {"floor": [...], "kbn": [...], "torch": [...]}."""
    contestants = {"floor": floor_steps, "kbn": kbn_steps} | ({"torch": torch_steps} if torch else {})
    running = {
        name: start(X, y, {key: param.copy() for key, param in params.items()}, specs, shape)
        for name, start in contestants.items()
    }
    ms = {name: [] for name in running}
    for _ in range(rounds):
        for name, training in running.items():
            next(training)
            start = time.perf_counter()
            for _ in islice(training, steps):
                pass
            ms[name].append((time.perf_counter() - start) / steps * 1e3)
    return ms


def shares(X, y, params, specs, shape, steps):
    """The share of each of GROUPS in kbn's step, and of the rest, in %: one figure a step."""
    seconds = dict.fromkeys([*dict.fromkeys(GROUPS.values()), "rest"], 0.0)

    def timed(group, function):
        def watched(*args, **options):
            start = time.perf_counter()
            result = function(*args, **options)
            seconds[group] += time.perf_counter() - start
            return result

        return watched if group else function

    plan = [
        (
            layer._replace(
                forward=timed(GROUPS.get(f"{kind} forward"), layer.forward),
                backward=timed(GROUPS.get(f"{kind} backward"), layer.backward),
            ),
            l,
        )
        for (kind, *_), (layer, l) in zip(specs, nets.numbered(specs))
    ]
    net = nets.build(specs, shape) | {
        "forward": partial(nets.forward, plan, shape),
        "backward": partial(nets.backward, plan, layers.softmax_loss),
    }
    training = step.kbn_steps(X, y, {key: param.copy() for key, param in params.items()}, HP, net)
    found = {group: [] for group in seconds}
    next(training)
    for _ in range(steps):
        seconds.update(dict.fromkeys(seconds, 0.0))
        start = time.perf_counter()
        next(training)
        total = time.perf_counter() - start
        seconds["rest"] = total - sum(seconds.values())
        for group in seconds:
            found[group].append(100 * seconds[group] / total)
    return found


def kbn_batch_norm_backward(G, cache):
    """What kbn.backward does where it meets BN: A (25)-(27)."""
    one = kbn.ones_n(G)
    grad_gamma, grad_beta = G * cache["S_hat"] @ one, G @ one
    G = kbn.batch_norm_backpass(G * cache["gamma"], cache["S"], cache["mu"], cache["v"], cache["eps"])
    return G, grad_gamma, grad_beta


def measure_batch_norm(shape, rounds):
    """Microseconds of each backward pass of BN, one figure a round."""
    passes = {
        "staged": layers.batch_norm_backward_staged,
        "closed form": layers.batch_norm_backward,
        "kbn": kbn_batch_norm_backward,
    }
    rng = np.random.default_rng(2)
    S, G = rng.standard_normal((2, *shape), np.float32)
    gamma, beta = rng.standard_normal((2, shape[0], 1), np.float32)
    _, cache = layers.batch_norm_forward(S, gamma, beta)
    results = [backward(G, cache) for backward in passes.values()]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(np.abs(a).max()))
    calls = max(1, 2_000_000 // S.size)
    us = {name: [] for name in passes}
    for _ in range(rounds):
        for name, backward in passes.items():
            backward(G, cache)
            start = time.perf_counter()
            for _ in range(calls):
                backward(G, cache)
            us[name].append((time.perf_counter() - start) / calls * 1e6)
    return us


def set_threads(threads):
    """Let PyTorch, and BLAS within the returned context, work on so many threads."""
    if torch:
        torch.set_num_threads(threads)
    return threadpool_limits(threads)


# ------------------------------------------------------------------------------------------------------------- tables


def ratio(row, name):
    """kbn over name, the median of each round's own ratio; None where name has not run."""
    return float(np.median(np.divide(row["rounds"]["kbn"], row["rounds"][name]))) if name in row["rounds"] else None


def step_cells(row):
    """A row of the first table, as text."""
    over = {name: f"{row[f'kbn/{name}']:.2f}" if row[f"kbn/{name}"] else "-" for name in AIMS}
    torch_ms = f"{row['ms']['torch']:.1f}" if "torch" in row["ms"] else "not installed"
    return [
        row["net"],
        str(row["threads"]),
        f"{row['ms']['floor']:.1f}",
        f"{row['ms']['kbn']:.1f}",
        torch_ms,
        over["torch"],
        over["floor"],
    ]


def markdown(result):
    """The three tables for the README."""
    head = [
        "net",
        "threads",
        "floor, ms",
        "kbn, ms",
        "torch, ms",
        *(f"kbn / {name} (aim <= {aim:g})" for name, aim in AIMS.items()),
    ]
    groups = list(result["shares"][0]["percent"])
    epochs = " and ".join(f"{seconds:.0f} s ({net})" for net, seconds in result["seconds of an epoch"].items())
    return "\n".join(
        [
            "**A training step, mini-batches of 100**\n",
            tables.markdown([head, *map(step_cells, result["steps"])]),
            f"An epoch of {EPOCH:,} MNIST images on {THREADS[-1]} threads, steps only: {epochs}.\n",
            "**Where it goes: % of kbn's step, 1 thread**\n",
            tables.markdown(
                [
                    ["net", *groups],
                    *([row["net"], *(f"{row['percent'][group]:.0f}" for group in groups)] for row in result["shares"]),
                ]
            ),
            "**The backward pass of batch normalization, microseconds, 1 thread**\n",
            tables.markdown(
                [
                    ["S", "staged", "closed form", "kbn, (25)-(37)"],
                    *([row["S"], *(f"{us:.0f}" for us in row["us"].values())] for row in result["batch norm"]),
                ]
            ),
        ]
    )


def main():
    args = step.options(__doc__, 2, "bench_conv.json")
    if not KEEP_MEMORY.items() <= os.environ.items():  # glibc reads it when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)

    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch and torch.__version__}
    print(
        f"{cpu_model()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.2f}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )
    if not torch:
        print("torch is not installed; its columns need it: pip install torch==2.13.0")
    print(f"\n{'net':10}{'threads':>8}{'floor ms':>10}{'kbn ms':>9}{'torch ms':>15}{'kbn/torch':>11}{'kbn/floor':>11}")
    rng, steps, parts, epochs = np.random.default_rng(0), [], [], {}
    for name, (shape, filters) in BASES.items():
        X, y = rng.standard_normal((N, int(np.prod(shape))), np.float32).T, rng.integers(K, size=N)
        for batch_norm in (False, True):
            net, specs = name + " BN" * batch_norm, specs_of(filters, batch_norm)
            task = X, y, nets.init_params(specs, shape, rng), specs, shape
            with set_threads(1):
                check_same_work(*task)
                found = shares(*task, args.rounds * args.steps)
            parts.append({"net": net, "percent": {group: float(np.median(part)) for group, part in found.items()}})
            for threads in THREADS:
                with set_threads(threads):
                    ms = measure(*task, args.rounds, args.steps)
                row = {
                    "net": net,
                    "threads": threads,
                    "rounds": ms,
                    "ms": {name: float(np.median(figures)) for name, figures in ms.items()},
                }
                row |= {f"kbn/{name}": ratio(row, name) for name in AIMS}
                steps.append(row)
                print("{:10}{:>8}{:>10}{:>9}{:>15}{:>11}{:>11}".format(*step_cells(row)), flush=True)
            if name == "MNIST":
                epochs[net] = EPOCH / N_BATCH * row["ms"]["kbn"] / 1e3

    bn = []
    for m, n in BN_SHAPES:
        with set_threads(1):
            us = measure_batch_norm((m, n), args.rounds)
        bn.append({"S": f"{m} x {n}", "rounds": us, "us": {name: float(np.median(figures)) for name, figures in us.items()}})
    result = {
        "command": "python bench/conv.py",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "versions": versions,
        "rounds": args.rounds,
        "steps a turn": args.steps,
        "hp": HP,
        "nets": BASES,
        "aims": AIMS,
        "steps": steps,
        "shares": parts,
        "batch norm": bn,
        "seconds of an epoch": epochs,
    }
    table = markdown(result)
    print(f"\n{table}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tables.write(args.out, json.dumps(result, indent=1) + "\n")
    tables.write(args.out.with_suffix(".md"), table)
    print(f"written to {args.out} and {args.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
