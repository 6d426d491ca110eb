"""A driver for the tests. Each of its runs takes a fraction of a second and needs all that a checkpoint holds."""

from lab import workers
from lab.driver import accuracies, drive
from lab.settings import row, run_main

SETTING = {"n_batch": 20, "n_cycles": 18, "eta_max": 0.02, "momentum": 0.9, "keep": 0.8}  # 720 updates, 15 epochs
LAYERS = [["affine", 8], ["bn"], ["relu"], ["dropout"], ["affine", 10]]
ROWS = [row("before", **SETTING, hidden=[12], bn="before"), row("off", **SETTING, hidden=[12, 8]),
        row("layers", **SETTING, specs=LAYERS, watched=30)]  # fmt: skip
TRIALS = [row("trial", **SETTING, hidden=[12], bn="after", lam=1e-3), row("hopeless", hidden=[12], eta_max=1e30)]


def train(raw, opts):
    return workers.train(ROWS, raw, opts) | workers.train(TRIALS, raw, opts, test=False, may_diverge=True)


def report(results, published):
    return {"small": accuracies(ROWS, results, published)}


if __name__ == "__main__":
    run_main(lambda: drive("small", __doc__, train, report, lambda results: {}))
