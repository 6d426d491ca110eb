"""Batch normalization before and after the activation, on Fashion-MNIST. (Document E)

    python run_fashion.py              one trial, about 5 minutes on 2 cores
    python run_fashion.py --seeds 5    the README's tables, about 26 minutes

A fully connected and a convolutional net, without BN, with phi(BN(.)) and with BN(phi(.)), each predicted with the moving
averages and with the statistics of the whole training set. Then E's claims, on the fully connected net: BN allows
higher learning rates; mini-batches of 50 to 100 are best; BN regularises; BN keeps the scale of the scores in check.
Expect about 89.5 % (MLP) and 92.5 % (CNN with BN), and that not every claim comes out.
Writes results/<dataset>/fashion*.md and .csv, every run in results/<dataset>/runs, and figures/<dataset>/fashion-*.png.
"""

import json

import numpy as np

import experiment
import nets
import plots

UPDATES = 550  # an epoch of n_batch 100
DATA = {"scale": "all", "n_train": 55_000, "n_val": 5_000}
MLP = [["affine", 256], ["relu"], ["affine", 128], ["relu"], ["affine", 10]]
CNN = [
    *(["conv", 16, 3, 1, 1], ["max_pool", 2], ["relu"]),  # pooled first, BN and ReLU have a quarter of the work
    *(["conv", 32, 3, 1, 1], ["max_pool", 2], ["relu"]),
    *(["conv", 64, 3, 1, 1], ["relu"]),
    *(["affine", 128], ["relu"], ["affine", 10]),
]
MODELS = {
    "MLP": DATA | {"specs": MLP, "n_s": 10 * UPDATES // 2, "eta_max": 0.03, "lam": 2e-4},
    "CNN": DATA | {"specs": CNN, "n_s": 5 * UPDATES // 2, "eta_max": 0.05, "lam": 1e-3},
}
PLACES = {
    "without BN": lambda specs: specs,
    "BN before the activation": lambda specs: nets.with_bn(specs, "before"),
    "BN after the activation": lambda specs: nets.with_bn(specs, "after"),
}

# the claims: short trainings of the MLP, 1000 updates or 10 epochs
SWEPT = {"scale": "all", "n_train": 10_000, "n_val": 5_000, "n_cycles": 1, "n_s": 500, "eta_max": 0.1, "lam": 1e-4}
SWEPT_PLACES = {"without BN": PLACES["without BN"], "with BN": PLACES["BN before the activation"]}
ETAS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
BATCHES = [2, 10, 25, 50, 100, 250, 1000]


def model(net, place):
    """The config of one of the six models."""
    return MODELS[net] | {"specs": PLACES[place](MODELS[net]["specs"]), "n_cycles": 1, "momentum": 0.9, "watched": 1_000}


def swept():
    """The configs of the claims by the name of a panel, what is swept, the place of BN, and the value."""
    panels = {
        ("learning rate", "eta_max"): (ETAS, lambda eta: {"eta_max": eta}),
        ("equal updates", "n_batch"): (BATCHES, lambda n: {"n_batch": n}),
        ("equal epochs", "n_batch"): (BATCHES, lambda n: {"n_batch": n, "n_s": 50_000 // n}),
    }
    return {
        (*panel, place, value): SWEPT | {"specs": specs(MLP)} | change(value)
        for panel, (values, change) in panels.items()
        for place, specs in SWEPT_PLACES.items()
        for value in values
    }


def epochs_to(accuracy, result):
    """The first epoch after which the validation accuracy is so high; nan where none is."""
    reached = np.flatnonzero(np.array(result["history"]["epoch"]["val_accuracy"]) >= accuracy)
    return reached[0] + 1 if len(reached) else np.nan


def model_row(net, place, results):
    """What the first table says of a model."""
    row = experiment.row(net, place, results)
    epochs = len(results[0]["history"]["epoch"]["t"])
    gaps = [{"gap": result["history"]["epoch"]["train_accuracy"][-1] - result["test_accuracy"]} for result in results]
    return row | {
        "training - test": experiment.summary(gaps, "gap"),
        "s an epoch": f"{np.mean([result['duration_s'] for result in results]) / epochs:.1f}",
        "epochs to 85 % validation": f"{np.mean([epochs_to(0.85, result) for result in results]):.1f} of {epochs}",
    }


def prediction_row(net, place, results):
    """What the second table says of a model with BN."""
    differences = [{"difference": result["test_accuracy_dataset"] - result["test_accuracy"]} for result in results]
    return {
        "network": net,
        "setting": place,
        "moving averages": experiment.summary(results, "test_accuracy"),
        "whole training set": experiment.summary(results, "test_accuracy_dataset"),
        "difference": experiment.summary(differences, "difference"),
    }


def main():
    models = {(net, place): model(net, place) for net in MODELS for place in PLACES}
    sweeps = swept()
    configs = [experiment.config(**config) for config in [*models.values(), *sweeps.values()]]
    lab = experiment.open_lab(
        experiment.options(__doc__, dataset="fashion-mnist"), len({json.dumps(config) for config in configs})
    )
    trained = dict(zip(models, experiment.train_all_seeds(lab, configs[: len(models)])))
    tried = dict(zip(sweeps, experiment.train_all_seeds(lab, configs[len(models) :], test=False, may_diverge=True)))

    experiment.write_table(lab, "fashion", [model_row(net, place, results) for (net, place), results in trained.items()])
    experiment.write_table(
        lab,
        "fashion_prediction",
        [prediction_row(net, place, results) for (net, place), results in trained.items() if place != "without BN"],
    )
    experiment.write_table(
        lab,
        "fashion_claims",
        [
            {
                "claim": claim,
                "swept": what,
                "value": f"{value:g}",
                "setting": place,
                "validation": experiment.summary(results, "val_accuracy"),
                "diverged": sum("diverged" in result for result in results),
            }
            for (claim, what, place, value), results in tried.items()
        ],
    )

    for net in MODELS:
        places = {place: trained[net, place] for place in PLACES}
        plots.figure(lab, "compared", f"fashion-{net}", f"{net}, BN before and after the activation", places)
        plots.figure(lab, "scores", f"fashion-{net}-scores", f"{net}, all scores of a layer, 1,000 training images", places)
    plots.figure(
        lab,
        "gaps",
        "fashion-gaps",
        "training less test accuracy",
        {net: {place: trained[net, place] for place in PLACES} for net in MODELS},
    )
    for what in ("eta_max", "n_batch"):
        panels = {
            claim: {
                place: {
                    value: results for (other, _, where, value), results in tried.items() if (other, where) == (claim, place)
                }
                for place in SWEPT_PLACES
            }
            for claim, other, *_ in tried
            if other == what
        }
        plots.figure(
            lab,
            "swept",
            f"fashion-{what}",
            "MLP, 10,000 training images",
            panels,
            what=what,
            numbers=["val_accuracy"] * len(panels),
        )


if __name__ == "__main__":
    experiment.guarded(main)
