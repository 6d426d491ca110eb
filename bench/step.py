"""What one training step of kbn costs, over the floor that no numpy code can go below, and beside PyTorch.

    python bench/step.py

About a minute, 700 MB of memory, no dataset: the data are random numbers.

floor   gather of the mini-batch, W1 @ X and G @ X.T: the memory traffic and the two big matrix products of layer 1
kbn     the whole step of kbn.minibatch_gd: gather, forward, backward, update, moving averages, record
torch   the same in PyTorch, eager, on the CPU: gather, forward, backward, SGD, and the same record: loss, cost, accuracy

All three run on one thread, in float32, on the same mini-batches, and take turns, block by block, so that a busy
machine slows them alike. The columns us are medians over the rounds, in microseconds a step; the ratios are medians of
each round's own ratio. First of all kbn's loop is checked to be minibatch_gd's to the bit, torch's losses to be kbn's
to 1e-3.
"""

import os

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[name] = "1"  # before numpy and torch, which read it when they are loaded

import argparse
import json
import platform
import sys
import time
from itertools import islice
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

import numpy as np

import kbn
import tables
from experiment import at_least_one

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None

N = 20_000
NETS = {"3-layer": [3072, 50, 50, 10], "9-layer": [3072, 50, 30, 20, 20, 10, 10, 10, 10, 10]}
AIMS = {("3-layer", False): 1.2, ("3-layer", True): 1.3, ("9-layer", False): 1.4, ("9-layer", True): 1.7}  # kbn / floor
TORCH_AIM = 1.5  # torch / kbn


# ------------------------------------------------------------------------ three endless trainings, one update each turn


def mini_batches(n_batch, rng, n):
    """The indices of one mini-batch of n examples after another, drawn as minibatch_gd draws them."""
    while True:
        order = rng.permutation(n)
        for i in range(n // n_batch):
            yield order[i * n_batch : (i + 1) * n_batch]


def floor_steps(X, y, params, hp):
    """Gather, and the two matrix products of layer 1."""
    X_batch, W, dW = np.empty_like(X[:, : hp["n_batch"]]), params["W1"], np.empty_like(params["W1"])
    S = np.empty((len(W), hp["n_batch"]), W.dtype)
    for batch in mini_batches(hp["n_batch"], np.random.default_rng(1), len(y)):
        np.take(X.T, batch, axis=0, out=X_batch.T, mode="clip")
        np.matmul(W, X_batch, out=S)
        np.matmul(S, X_batch.T, out=dW)
        yield


def kbn_steps(X, y, params, hp, net=kbn.MLP):
    """The loop of kbn.minibatch_gd without its evaluations. Yields the loss; params move in place."""
    X_batch = np.empty_like(X[:, : hp["n_batch"]])
    rng, stats, memory, grads, history = np.random.default_rng(1), {}, {}, {}, {}
    for t, batch in enumerate(mini_batches(hp["n_batch"], rng, len(y))):
        np.take(X.T, batch, axis=0, out=X_batch.T, mode="clip")
        eta = kbn.cyclical_eta(t, hp["eta_min"], hp["eta_max"], hp["n_s"])
        now = kbn.train_step(X_batch, y[batch], params, stats, memory, grads, eta, hp, rng, net)
        kbn.record(history, eta=eta, **now)
        if not now["loss"] < np.inf:
            raise FloatingPointError(f"training diverged at update {t}")
        yield now["loss"]


def torch_steps(X, y, params, hp):
    """The same training in PyTorch, from the same params, with the same record. Yields the loss."""
    return torch_training(torch_net(params, hp), X.T, y, hp)


def torch_training(net, examples, y, hp):
    """The training of a PyTorch net on examples (n, ...), labels y (n,). Yields the loss."""
    history = {}
    weights = [param for name, param in net.named_parameters() if param.ndim > 1]
    others = [param for name, param in net.named_parameters() if param.ndim == 1]
    optimizer = torch.optim.SGD([{"params": weights, "weight_decay": 2 * hp["lam"]}, {"params": others}], lr=0.0)
    examples, y = torch.from_numpy(examples), torch.from_numpy(y)
    for t, batch in enumerate(mini_batches(hp["n_batch"], np.random.default_rng(1), len(y))):
        batch = torch.from_numpy(batch)
        eta = kbn.cyclical_eta(t, hp["eta_min"], hp["eta_max"], hp["n_s"])
        for group in optimizer.param_groups:
            group["lr"] = eta
        optimizer.zero_grad()
        y_batch = y[batch]
        S = net(examples[batch])
        loss = torch.nn.functional.cross_entropy(S, y_batch)
        with torch.no_grad():
            cost = loss + hp["lam"] * sum(torch.dot(W.view(-1), W.view(-1)) for W in weights)
            correct = (S.argmax(dim=1) == y_batch).sum()
        loss.backward()
        optimizer.step()
        kbn.record(history, eta=eta, loss=loss.item(), cost=cost.item(), accuracy=correct.item() / len(y_batch))
        yield history["loss"][-1]


def torch_net(params, hp):
    """The net of params as PyTorch modules: Linear, BatchNorm1d where there is gamma, ReLU, ..., Linear."""
    modules, k = [], kbn.n_layers(params)
    for l in range(1, k + 1):
        linear = torch.nn.Linear(*params[f"W{l}"].shape[::-1])
        linear.weight.data, linear.bias.data = torch.tensor(params[f"W{l}"]), torch.tensor(params[f"b{l}"][:, 0])
        modules.append(linear)
        if f"gamma{l}" in params:
            modules.append(torch.nn.BatchNorm1d(len(params[f"b{l}"]), eps=hp["eps"], momentum=1 - hp["alpha"]))
        modules += [torch.nn.ReLU()] * (l < k)
    return torch.nn.Sequential(*modules)


def check_same_work(X, y, params):
    """Raise AssertionError unless the loops above do what minibatch_gd does, over an epoch and a bit."""
    hp = kbn.check_hp({"n_s": 105, "n_cycles": 1})
    expected, _, _ = kbn.minibatch_gd((X, y), (X[:, :1], y[:1]), params, hp, np.random.default_rng(1))
    trained = {key: param.copy() for key, param in params.items()}
    losses = list(islice(kbn_steps(X, y, trained, hp), 210))
    for key in expected:
        np.testing.assert_array_equal(trained[key], expected[key], err_msg="the timed loop is not minibatch_gd's")
    if torch:
        np.testing.assert_allclose(
            list(islice(torch_steps(X, y, params, hp), 20)), losses[:20], rtol=1e-3, err_msg="torch does not do the same work"
        )


# ------------------------------------------------------------------------------------------------------------- timing


def measure(X, y, params, rounds, steps):
    """Microseconds a step, one figure a round: {"floor": [...], "kbn": [...], "torch": [...]}."""
    contestants = {"floor": floor_steps, "kbn": kbn_steps} | ({"torch": torch_steps} if torch else {})
    running = {
        name: start(X, y, {key: param.copy() for key, param in params.items()}, kbn.check_hp({}))
        for name, start in contestants.items()
    }
    us = {name: [] for name in running}
    for round_ in range(rounds + 1):
        for name, training in running.items():
            start = time.perf_counter()
            for _ in islice(training, steps):
                pass
            us[name].append((time.perf_counter() - start) / steps * 1e6)
    return {name: figures[1:] for name, figures in us.items()}  # the first round warms up


def cpu_model():
    """The processor's name, as Linux or else as Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def markdown(rows):
    """The medians as a table for the README."""
    cells = [["network", "floor, us", "kbn, us", "kbn / floor", "torch, us", "torch / kbn"]]
    for row in rows:
        us, over_kbn = row["us"], row["torch/kbn"]
        beside = [f"{us['torch']:.0f}", f"{over_kbn:.2f}"] if over_kbn else ["", ""]
        cells.append(
            [
                row["net"] + " BN" * row["batch_norm"],
                f"{us['floor']:.0f}",
                f"{us['kbn']:.0f}",
                f"{row['kbn/floor']:.2f}",
                *beside,
            ]
        )
    return tables.markdown(cells)


def options(doc, steps, out):
    """The options of both benches of a training step; steps, out: what is taken for --steps, and the file in results/."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "how often the three take turns (default %(default)s)"
    parser.add_argument("--rounds", type=at_least_one, default=15, metavar="N", help=text)
    text = "update steps in a turn (default %(default)s)"
    parser.add_argument("--steps", type=at_least_one, default=steps, metavar="N", help=text)
    out = HOME / "results" / out
    parser.add_argument("--out", type=Path, default=out, metavar="FILE", help="default: %(default)s")
    return parser.parse_args()


def main():
    args = options(__doc__, 100, "bench_step.json")

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((N, 3072), np.float32).T, rng.integers(10, size=N)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch and torch.__version__}
    print(f"{cpu_model()}, one thread; " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    if not torch:
        print("torch is not installed; its columns need it: pip install torch==2.13.0")
    print(
        f"\n{'net':8}{'BN':>4}{'floor us':>10}{'kbn us':>8}{'kbn/floor':>11}{'aim':>8}{'torch us':>10}"
        f"{'torch/kbn':>11}{'aim':>8}"
    )
    rows = []
    for (net, batch_norm), aim in AIMS.items():
        params = kbn.init_params(NETS[net], rng, batch_norm)
        check_same_work(X, y, params)
        us = measure(X, y, params, args.rounds, args.steps)
        middle = {name: float(np.median(figures)) for name, figures in us.items()}
        over_floor = float(np.median(np.divide(us["kbn"], us["floor"])))
        over_kbn = float(np.median(np.divide(us["torch"], us["kbn"]))) if torch else None
        rows.append(
            {
                "net": net,
                "dims": NETS[net],
                "batch_norm": batch_norm,
                "us": middle,
                "kbn/floor": over_floor,
                "kbn/floor aim": aim,
                "torch/kbn": over_kbn,
                "torch/kbn aim": TORCH_AIM,
                "us of each round": us,
            }
        )
        beside = f"{middle['torch']:10.0f}{over_kbn:11.2f}" if torch else f"{'-':>10}{'-':>11}"
        print(
            f"{net:8}{'yes' if batch_norm else 'no':>4}{middle['floor']:10.0f}{middle['kbn']:8.0f}{over_floor:11.2f}"
            f"{f'<= {aim}':>8}{beside}{f'>= {TORCH_AIM}':>8}",
            flush=True,
        )

    result = {
        "command": "python bench/step.py",
        "cpu": cpu_model(),
        "threads": 1,
        "versions": versions,
        "rounds": args.rounds,
        "steps": args.steps,
        "n": N,
        "hp": kbn.check_hp({}),
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tables.write(args.out, json.dumps(result, indent=1) + "\n")
    tables.write(args.out.with_suffix(".md"), markdown(rows))
    print(f"\nwritten to {args.out} and {args.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
