"""Measure training steps of kbn, beside the floor that no numpy code can go below and beside PyTorch, and a whole epoch.

    python bench/step.py        # about 5 minutes; 800 MB of memory, no dataset: the data are random numbers

floor     of the assignment's nets: the mini-batch's gather, W1 @ X and G @ X.T, the memory traffic and the two big products
          of layer 1; of the wide nets: all of their matrix products
kbn       a whole step of kbn.minibatch_gd, without its evaluations
torch     the same in PyTorch, eager, on the CPU, with the same record of loss and accuracy

All run on one thread, in float32, on the same mini-batches of 100. us are microseconds and ms milliseconds per step.
It writes results/bench_step.md, bench_wide.md and bench_epoch.md, each with .csv and .tex, and every round as
bench_step.json.
"""

import numpy as np
import timing  # makes the project importable

import kbn
import nets
from lab import settings

SHAPE, K, N = (3072,), 10, 20_000
EPOCH, N_VAL = 45_000, 5_000  # examples of an epoch in the default setting
NINE = [50, 30, 20, 20, 10, 10, 10, 10]
NETS = [  # name, hidden widths, hyper-parameters, the highest kbn / floor that we aim at
    ("3-layer", [50, 50], {"bn": "off"}, 1.15),
    ("3-layer BN", [50, 50], {"bn": "before"}, 1.25),
    ("9-layer", NINE, {"bn": "off"}, 1.3),
    ("9-layer BN", NINE, {"bn": "before"}, 1.55),
]
WIDE = [
    ("3 x 1024 BN", 3 * [1024], {"bn": "before"}, 1.1),
    ("3 x 1024 BN, momentum", 3 * [1024], {"bn": "before", "momentum": 0.9}, 1.15),
    ("3 x 2048 BN", 3 * [2048], {"bn": "before"}, 1.1),
    ("3 x 2048 BN, momentum", 3 * [2048], {"bn": "before", "momentum": 0.9}, 1.15),
]


def make_task(hidden, hp):
    """Return a task of a k-layer network, see timing."""
    specs = nets.with_bn([spec for m in hidden for spec in (["affine", m], ["relu"])], hp["bn"]) + [["affine", K]]
    return timing.make_task(specs, SHAPE, N, kbn.MLP, **hp)


def layer_1_steps(task):
    """Gather and multiply in layer 1, without end."""
    n_batch, W = task.hp["n_batch"], task.params["W1"]
    X_batch, S, grad_W = np.empty_like(task.X[:, :n_batch]), np.empty((len(W), n_batch), W.dtype), np.empty_like(W)
    for batch in timing.mini_batches(task):
        np.take(task.X.T, batch, axis=0, out=X_batch.T, mode="clip")
        np.matmul(W, X_batch, out=S)
        np.matmul(S, X_batch.T, out=grad_W)
        yield


def compare(named, floor, rounds, steps, unit):
    """Race the named nets. Returns the rows of a table, and every round."""
    rows, raw, symbol = [], {}, {1e-6: "us", 1e-3: "ms"}[unit]
    for name, hidden, hp, aim in named:
        task = make_task(hidden, hp)
        with timing.threads(1):
            raw[name] = seconds = timing.race(name, task, floor(task), rounds, steps)
        rows.append({"network": name}
                    | {f"{who}, {symbol}": timing.median(seconds, who, unit, int(unit > 1e-6)) for who in ("floor", "kbn", "torch")}
                    | {"kbn / floor": timing.ratio(seconds, "kbn", "floor"), "aim": f"at most {aim}",
                       "torch / kbn": timing.ratio(seconds, "torch", "kbn")})  # fmt: skip
    return rows, raw


def epochs(rounds):
    """Measure an epoch of the 3-layer net in the default setting, with its evaluations, and the evaluation of all examples."""
    task = timing.make_task(
        [["affine", 50], ["relu"], ["affine", 50], ["relu"], ["affine", K]], SHAPE, EPOCH, kbn.MLP, bn="off"
    )
    train, val = (task.X, task.y), (task.X[:, :N_VAL], task.y[:N_VAL])
    etas = [0.01] * (2 * EPOCH // task.hp["n_batch"])

    def epoch():
        """Return the seconds of the second of two epochs: without the checks before the first, and what follows the last."""
        ends = []
        kbn.minibatch_gd(train, val, task.params, task.hp, np.random.default_rng(1), etas=etas,
                         callback=lambda state: ends.append(timing.clock()))  # fmt: skip
        return ends[1] - ends[0]

    def evaluate(X, y):
        place = {"bn": "before", "eps": task.hp["eps"], "net": kbn.MLP, "penalty": kbn.L2}
        return timing.time_calls(lambda: kbn.evaluate_prepared(X, y, task.params, {}, 0.01, **place), 1)

    contestants = {
        "epoch": epoch,
        "steps": lambda: timing.kbn_steps(task, 100)[0].mean() * EPOCH / task.hp["n_batch"],
        "evaluation": lambda: evaluate(task.X[:, : task.hp["n_eval"]], task.y[: task.hp["n_eval"]]) + evaluate(*val),
        "evaluation of all": lambda: evaluate(*train) + evaluate(*val),
    }
    with timing.threads(1):
        seconds = timing.take_turns(contestants, rounds)
    rows = [{"part": name, "s": timing.median(seconds, name, 1, 3), "of the epoch": timing.ratio(seconds, name, "epoch")}
            for name in contestants]  # fmt: skip
    return rows, seconds


def main():
    opts = timing.options(__doc__, rounds=15, steps=100).parse_args()
    folder, environment = settings.output_folder(opts, "results"), timing.environment()
    narrow, raw = compare(NETS, layer_1_steps, opts.rounds, opts.steps, 1e-6)
    wide, raw_wide = compare(WIDE, timing.product_steps, opts.rounds, max(1, opts.steps // 20), 1e-3)
    epoch, raw_epoch = epochs(max(1, opts.rounds // 2))
    tables = {"bench_step": narrow, "bench_wide": wide, "bench_epoch": epoch}
    timing.report(folder, tables, {"environment": environment, "steps": opts.steps, "seconds": raw | raw_wide | raw_epoch})


if __name__ == "__main__":
    settings.run_main(main)
