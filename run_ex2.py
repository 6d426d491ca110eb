"""Exercise 2: k-layer networks without batch normalization. (DD2424 Assignment 3)

    python run_ex2.py              one seed, under a minute on 2 cores
    python run_ex2.py --seeds 5    the published table

The 2-layer network of Assignment 2, trained on one batch of CIFAR-10, and then the 3-, 6- and 9-layer networks in the
default setting. Expect a test accuracy of about 53 % for 3 layers and 49 % for 9.
"""
from functools import partial

from lab import plots, workers
from lab.driver import accuracies, drive
from lab.settings import row, run_main

# as in Assignment 2, whose initial weights have the standard deviation 1 / sqrt(m_in)
ONE_BATCH = {"hidden": [50], "n_train": 10_000, "n_val": 10_000, "lam": 0.01, "sigma": "xavier"}
ROWS = [
    row("2-layer, 1 cycle",  **ONE_BATCH, n_s=500, n_cycles=1, setting="one batch, lambda .01, n_s 500"),
    row("2-layer, 3 cycles", **ONE_BATCH, n_s=800, n_cycles=3, setting="one batch, lambda .01, n_s 800"),
    row("3-layer", hidden=[50, 50],                         reported={"assignment": "~52"}),
    row("6-layer", hidden=[50, 30, 20, 20, 10]),
    row("9-layer", hidden=[50, 30, 20, 20, 10, 10, 10, 10], reported={"assignment": "drops by quite a bit"}),
]


def train(raw, opts):
    return workers.train(ROWS, raw, opts)


def report(results, published):
    return {"ex2": accuracies(ROWS, results, published)}


def figures(results):
    depths = {name: results[name] for name in ("3-layer", "6-layer", "9-layer")}
    return {"ex2-depth": partial(plots.compared, "Networks of 3, 6 and 9 layers, BN off", depths)}


if __name__ == "__main__":
    run_main(lambda: drive("ex2", __doc__, train, report, figures))
