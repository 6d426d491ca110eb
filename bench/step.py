"""Measure one training step of kbn, beside the floor that no numpy code can go below and beside PyTorch.

    python bench/step.py        # about a minute; 700 MB of memory, no dataset: the data are random numbers

floor   the mini-batch's gather, W1 @ X and G @ X.T: the memory traffic and the two big matrix products of layer 1
kbn     a whole step of kbn.minibatch_gd, without its evaluations
torch   the same in PyTorch, eager, on the CPU, with the same record of loss, cost and accuracy

All run on one thread, in float32, on the same mini-batches of 100. us are microseconds a step. It writes
results/bench_step.md, .csv, .tex and .json (every round).
"""

import numpy as np
import timing  # makes the project importable

import kbn
import nets
from lab import settings

SHAPE, K, N = (3072,), 10, 20_000
NINE = [50, 30, 20, 20, 10, 10, 10, 10]
NETS = [  # name, hidden widths, hyper-parameters, the highest kbn / floor that we aim at
    ("3-layer", [50, 50], {"bn": "off"}, 1.2),
    ("3-layer BN", [50, 50], {"bn": "before"}, 1.3),
    ("9-layer", NINE, {"bn": "off"}, 1.4),
    ("9-layer BN", NINE, {"bn": "before"}, 1.7),
]


def floor_steps(task):
    """Gather and multiply, without end."""
    n_batch, W = task.hp["n_batch"], task.params["W1"]
    X_batch, S, grad_W = np.empty_like(task.X[:, :n_batch]), np.empty((len(W), n_batch), W.dtype), np.empty_like(W)
    for batch in timing.mini_batches(task):
        np.take(task.X.T, batch, axis=0, out=X_batch.T, mode="clip")
        np.matmul(W, X_batch, out=S)
        np.matmul(S, X_batch.T, out=grad_W)
        yield


def main():
    opts = timing.options(__doc__, rounds=15, steps=100).parse_args()
    folder, environment = settings.output_folder(opts, "results"), timing.environment()
    rows, raw = [], {}
    for name, hidden, hp, aim in NETS:
        specs = nets.with_bn([spec for m in hidden for spec in (["affine", m], ["relu"])], hp["bn"]) + [["affine", K]]
        task = timing.make_task(specs, SHAPE, N, kbn.MLP, **hp)
        with timing.threads(1):
            raw[name] = seconds = timing.race(name, task, floor_steps(task), opts.rounds, opts.steps)
        rows.append({
            "network": name,
            "floor, us": timing.median(seconds, "floor", 1e-6),
            "kbn, us": timing.median(seconds, "kbn", 1e-6),
            "kbn / floor": timing.ratio(seconds, "kbn", "floor"),
            "aim": f"at most {aim}",
            "torch, us": timing.median(seconds, "torch", 1e-6),
            "torch / kbn (aim: at least 1.5)": timing.ratio(seconds, "torch", "kbn"),
        })  # fmt: skip
    timing.report(folder, {"bench_step": rows}, {"environment": environment, "steps": opts.steps, "seconds": raw})


if __name__ == "__main__":
    settings.run_main(main)
