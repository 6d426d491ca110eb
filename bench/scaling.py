"""Measure how a training step of kbn grows with width, depth and mini-batch, beside its own matrix products.

    python bench/scaling.py        # about 3 minutes; no dataset: the data are random numbers

One line of numbers changes at a time, from a net of 3 hidden layers of 200 units with BN and mini-batches of 100. Where
the step nears its products the arithmetic costs; where it is far above them Python's and numpy's calls cost. One thread,
float32. It writes results/bench_scaling.md, .csv, .tex, .json and figures/bench-scaling.png.
"""

import numpy as np
import timing  # makes the project importable
from matplotlib.figure import Figure

import kbn
import nets
from lab import plots, settings

SHAPE, K, N = (3072,), 10, 5_000
GRID = {
    "width": [50, 100, 200, 400, 1000, 2000, 4096],
    "depth": [2, 3, 5, 10, 20, 50],
    "mini-batch": [10, 30, 100, 300, 1000],
}


def measure(rounds, steps, width=200, depth=4, n_batch=100):
    """Return take_turns' numbers of the net of this width and depth (its number of layers)."""
    specs = nets.with_bn((depth - 1) * [["affine", width], ["relu"]]) + [["affine", K]]
    task = timing.make_task(specs, SHAPE, N, kbn.MLP, bn="before", n_batch=n_batch)
    floor = timing.product_steps(task)
    return timing.take_turns({"floor": lambda: timing.time_calls(floor.__next__, steps),
                              "kbn": lambda: timing.kbn_steps(task, steps)[0].mean()}, rounds)  # fmt: skip


def draw(raw):
    """Return the figure: milliseconds per step over width, depth and mini-batch."""
    figure = Figure(figsize=(plots.WIDTH, 2.4))
    for axes, name in zip(figure.subplots(1, 3), GRID):
        mine = [entry for entry in raw if entry["of"] == name]
        for contestant, label, style in (("kbn", "kbn", "o-"), ("floor", "its matrix products", "s--")):
            ms = [1e3 * np.median(entry["seconds"][contestant]) for entry in mine]
            axes.loglog(GRID[name], ms, style, label=label)
        axes.set(xlabel=name, ylabel="ms per step")
        axes.set_xticks([], minor=True)
        axes.set_xticks(GRID[name], GRID[name], rotation=45)
        axes.set_yticks([0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500], minor=False)
        axes.set(ylim=(min(ms) / 1.5, max(ms) * 2))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    figure.axes[0].legend(loc="lower right")
    figure.suptitle("A training step of a 4-layer network of 200 units with BN and mini-batches of 100, one thread,\n"
                    "and of networks that differ from it in one number")  # fmt: skip
    return figure


def main():
    opts = timing.options(__doc__, rounds=5, steps=20).parse_args()
    folder, environment = settings.output_folder(opts, "results"), timing.environment()
    rows, raw = [], []
    for name, values in GRID.items():
        for value in values:
            with timing.threads(1):
                seconds = measure(opts.rounds, opts.steps, **{{"mini-batch": "n_batch"}.get(name, name): value})
            raw.append({"of": name, "value": value, "seconds": seconds})
            rows.append({"of": name, "value": value, "products, ms": timing.median(seconds, "floor", 1e-3, 2),
                         "kbn, ms": timing.median(seconds, "kbn", 1e-3, 2), "kbn / products": timing.ratio(seconds, "kbn", "floor")})  # fmt: skip
            print(*rows[-1].values(), flush=True)
    timing.report(folder, {"bench_scaling": rows}, {"environment": environment, "steps": opts.steps, "measured": raw})
    plots.save(draw(raw), settings.output_folder(opts, "figures") / "bench-scaling.png")


if __name__ == "__main__":
    settings.run_main(main)
