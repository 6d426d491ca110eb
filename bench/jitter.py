"""Measure what the jitter of a mini-batch costs, beside the training step of a wide net that it is made for.

    python bench/jitter.py        # about half a minute; no dataset: the data are random numbers

The step is a whole one of kbn.minibatch_gd, without its evaluations and without jitter: 3072 inputs, 3 hidden layers of 1024
with BN, momentum, mini-batches of 100. All run on one thread, in float32. us are microseconds a step.
It writes results/bench_jitter.md, .csv, .tex and .json (every round).
"""

import numpy as np
import timing  # makes the project importable

import jitter
import kbn
import nets
from lab import settings

SHAPE, K, N, WIDTHS, AIM = (3, 32, 32), 10, 2_000, [1024] * 3, "at most 0.10"
COLOURS = {"brightness": 0.1, "contrast": 0.2, "colour": 0.1, "planes": jitter.planes_of(SHAPE)}
JITTERS = {  # name: arguments of jitter.build
    "mirror": {"share": 0.5},
    "shift by up to 4 pixels": {"s": 4},
    "brightness, contrast, colour": COLOURS,
    "all of them": {"share": 0.5, "s": 4, **COLOURS},
}


def main():
    opts = timing.options(__doc__, rounds=15, steps=10).parse_args()
    folder, environment = settings.output_folder(opts, "results"), timing.environment()
    specs = nets.with_bn([spec for m in WIDTHS for spec in (["affine", m], ["relu"])], "before") + [["affine", K]]
    task = timing.make_task(specs, (int(np.prod(SHAPE)),), N, kbn.MLP, momentum=0.9)
    X, rng = task.X[:, : task.hp["n_batch"]].copy("F"), np.random.default_rng(0)

    def turn(f):
        return lambda: timing.time_calls(lambda: f(X, rng), opts.steps)

    contestants = {"step": lambda: timing.kbn_steps(task, opts.steps)[0].mean()}
    contestants |= {name: turn(jitter.build(SHAPE, **arguments)) for name, arguments in JITTERS.items()}
    with timing.threads(1):
        seconds = timing.take_turns(contestants, opts.rounds)
    rows = [
        {
            "jitter": name,
            "jitter, us": timing.median(seconds, name, 1e-6),
            "step, us": timing.median(seconds, "step", 1e-6),
            "jitter / step": f"{np.median(np.divide(seconds[name], seconds['step'])):.3f}",
            "aim": AIM,
        }
        for name in JITTERS
    ]
    timing.report(folder, {"bench_jitter": rows}, {"environment": environment, "steps": opts.steps, "seconds": seconds})


if __name__ == "__main__":
    settings.run_main(main)
