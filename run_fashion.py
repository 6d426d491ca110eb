"""Batch normalization before and after the ReLU, on Fashion-MNIST. (The Fashion-MNIST homework)

    python run_fashion.py              one seed, 5 minutes on 2 cores
    python run_fashion.py --seeds 5    the published tables, 26 minutes

A fully connected and a convolutional network with BN off, before and after the ReLU, each predicted with the moving
averages and with the statistics of the whole training set. In the convolutional one pooling comes after BN and ReLU, so that
BN has the statistics of a channel over all m p q values, as in the homework. Expect about 89.5 % (MLP) and 92.5 % (CNN with
BN). run_claims.py --fashion tests the homework's claims.
"""
from functools import partial

import numpy as np

import nets
from lab import plots, tables, workers
from lab.driver import accuracies, drive, gains
from lab.settings import row, run_main

DATA = {"scale": "all", "n_train": 55_000, "n_val": 5_000, "n_cycles": 1}
EPOCH = 550  # updates in an epoch of n_batch 100
MLP = [["affine", 256], ["relu"], ["affine", 128], ["relu"], ["affine", 10]]
CNN = [
    *(["conv", 16, 3, 1, 1], ["relu"], ["max_pool", 2]),
    *(["conv", 32, 3, 1, 1], ["relu"], ["max_pool", 2]),
    *(["conv", 64, 3, 1, 1], ["relu"]),
    *(["affine", 128], ["relu"], ["affine", 10]),
]
SETTINGS = {
    "MLP": DATA | {"momentum": 0.9, "watched": 1_000, "n_s": 10 * EPOCH // 2, "eta_max": 0.03, "lam": 2e-4},
    "CNN": DATA | {"momentum": 0.9, "watched": 1_000, "n_s": 5 * EPOCH // 2, "eta_max": 0.05, "lam": 1e-3},
}
PLACES = ["off", "before", "after"]
MODELS = [row(f"{net}, BN {bn}", specs=nets.with_bn(specs, bn), **SETTINGS[net])
          for net, specs in (("MLP", MLP), ("CNN", CNN)) for bn in PLACES]


def train(raw, opts):
    return workers.train(MODELS, raw, opts)


def training_cells(mine):
    """What the first table says of a model besides its accuracies."""
    epochs = len(mine[0]["history"]["t"])
    return {
        "training - test": tables.summary([100 * (result["train_accuracy"] - result["test_accuracy"]) for result in mine]),
        "seconds per epoch": f"{np.mean([result['duration_s'] for result in mine]) / epochs:.1f}",
    }


def prediction_row(name, mine):
    """What the second table says of a model with BN."""
    gains = [100 * (result["test_accuracy_dataset"] - result["test_accuracy"]) for result in mine]
    return {"network": name, "moving averages": tables.percent(mine, "test_accuracy"),
            "whole training set": tables.percent(mine, "test_accuracy_dataset"), "difference": tables.summary(gains)}


def report(results, published):
    pairs = [(f"{net}, BN {one}", f"{net}, BN {other}") for net in SETTINGS
             for one, other in (("before", "off"), ("after", "off"), ("after", "before"))]
    return {
        "fashion": [line | training_cells(results[line["network"]]) for line in accuracies(MODELS, results, published)],
        "fashion_gain": gains(pairs, results),
        "fashion_prediction": [prediction_row(row["name"], results[row["name"]]) for row in MODELS if not row["name"].endswith("off")],
    }


def figures(results):
    drawn, models = {}, {net: {bn: results[f"{net}, BN {bn}"] for bn in PLACES} for net in SETTINGS}
    for net, places in models.items():
        drawn[f"fashion-{net}"] = partial(plots.compared, f"{net}, BN off, before and after", places)
        drawn[f"fashion-{net}-scores"] = partial(plots.scores, f"{net}, scores of 1,000 training images", places)
    drawn["fashion-gaps"] = partial(plots.gaps, "Training minus test accuracy", models)
    return drawn


if __name__ == "__main__":
    run_main(lambda: drive("fashion", __doc__, train, report, figures, dataset="fashion-mnist"))
