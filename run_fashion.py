"""Batch normalization before and after the ReLU, on Fashion-MNIST. (The Fashion-MNIST homework)

    python run_fashion.py              one seed, 5 minutes on 2 cores
    python run_fashion.py --seeds 5    the published tables, 26 minutes

A fully connected and a convolutional network with BN off, before and after the ReLU, each predicted with the moving
averages and with the statistics of the whole training set. In the convolutional one pooling comes after BN and ReLU, so that
BN has the statistics of a channel over all m p q values, as in the homework. Then claims of the homework, on the fully
connected network: BN allows higher learning rates; mini-batches of 50 to 100 are best; BN regularises; BN keeps the scale of
the scores in check. Expect about 89.5 % (MLP) and 92.5 % (CNN with BN), and that not every claim holds.
"""
from functools import partial

import numpy as np

import nets
from lab import plots, tables, workers
from lab.driver import accuracies, drive
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

# the claims: short trainings of the MLP, 1000 updates or 10 epochs
SHORT = DATA | {"n_train": 10_000, "n_s": 500, "eta_max": 0.1, "lam": 1e-4}
SWEPT = ["off", "before"]
ETAS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
BATCHES = [2, 10, 25, 50, 100, 250, 1000]
SWEEPS = {  # panel: what is swept, its values, the row's name, and what changes
    "learning rate": ("eta_max", ETAS, "eta_max {:g}", lambda eta: {"eta_max": eta}),
    "equal updates": ("n_batch", BATCHES, "n_batch {:g}, equal updates", lambda n: {"n_batch": n}),
    "equal epochs": ("n_batch", BATCHES, "n_batch {:g}, equal epochs", lambda n: {"n_batch": n, "n_s": 50_000 // n}),
}
CLAIMS = [row(f"{name.format(value)}, BN {bn}", specs=nets.with_bn(MLP, bn), **(SHORT | change(value)))
          for _, values, name, change in SWEEPS.values() for bn in SWEPT for value in values]


def train(raw, opts):
    return workers.train(MODELS, raw, opts) | workers.train(CLAIMS, raw, opts, test=False, may_diverge=True)


def epochs_to(accuracy, result):
    """The first epoch whose validation accuracy reaches the given one; nan if none does."""
    reached = np.flatnonzero(np.array(result["history"]["val_accuracy"]) >= accuracy)
    return reached[0] + 1 if len(reached) else np.nan


def training_cells(mine):
    """What the first table says of a model besides its accuracies."""
    epochs = len(mine[0]["history"]["t"])
    return {
        "training - test": tables.summary([100 * (result["train_accuracy"] - result["test_accuracy"]) for result in mine]),
        "seconds per epoch": f"{np.mean([result['duration_s'] for result in mine]) / epochs:.1f}",
        "epochs to 85 % validation": f"{np.mean([epochs_to(0.85, result) for result in mine]):.1f} of {epochs}",
    }


def prediction_row(name, mine):
    """What the second table says of a model with BN."""
    gains = [100 * (result["test_accuracy_dataset"] - result["test_accuracy"]) for result in mine]
    return {"network": name, "moving averages": tables.percent(mine, "test_accuracy"),
            "whole training set": tables.percent(mine, "test_accuracy_dataset"), "difference": tables.summary(gains)}


def report(results, published):
    claims = [{"claim": panel, "swept": what, "value": f"{value:g}", "BN": bn,
               "validation": tables.percent(results[f"{name.format(value)}, BN {bn}"], "val_accuracy"),
               "diverged": sum(bool(result["diverged"]) for result in results[f"{name.format(value)}, BN {bn}"])}
              for panel, (what, values, name, _) in SWEEPS.items() for bn in SWEPT for value in values]
    return {
        "fashion": [line | training_cells(results[line["network"]]) for line in accuracies(MODELS, results, published)],
        "fashion_prediction": [prediction_row(row["name"], results[row["name"]]) for row in MODELS if not row["name"].endswith("off")],
        "fashion_claims": claims,
    }


def figures(results):
    drawn, models = {}, {net: {bn: results[f"{net}, BN {bn}"] for bn in PLACES} for net in SETTINGS}
    for net, places in models.items():
        drawn[f"fashion-{net}"] = partial(plots.compared, f"{net}, BN off, before and after", places)
        drawn[f"fashion-{net}-scores"] = partial(plots.scores, f"{net}, scores of 1,000 training images", places)
    drawn["fashion-gaps"] = partial(plots.gaps, "Training minus test accuracy", models)
    for swept in ("eta_max", "n_batch"):
        left_out = BATCHES[0] if swept == "n_batch" else None  # its accuracies would squeeze the others
        panels = {panel: {bn: {value: results[f"{name.format(value)}, BN {bn}"] for value in values if value != left_out}
                          for bn in SWEPT} for panel, (what, values, name, _) in SWEEPS.items() if what == swept}
        title = f"MLP, {SHORT['n_train']:,} training images" + (f"; n_batch {left_out} is only in the table" if left_out else "")
        drawn[f"fashion-{swept}"] = partial(plots.swept, title, panels, swept, "val_accuracy")
    return drawn


if __name__ == "__main__":
    run_main(lambda: drive("fashion", __doc__, train, report, figures, dataset="fashion-mnist"))
