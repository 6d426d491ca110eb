"""Exercise 2: can multi-layer networks be trained? (DD2424 Assignment 3, without batch normalization)

    python run_ex2.py              one seed, about a minute on 2 cores
    python run_ex2.py --seeds 5    the README's table

First the 2-layer network of Assignment 2, trained on one batch of CIFAR-10, must give what it gave there; then the
3-, 6- and 9-layer networks are trained in the default setting. Expect about 53 % for 3 layers, and less for 9.
Writes results/<dataset>/ex2.md and .csv, every run in results/<dataset>/runs, and figures/<dataset>/ex2-*.png.
"""

import experiment
import plots

A2 = {"hidden": [50], "n_train": 10_000, "n_val": 10_000, "lam": 0.01}  # Assignment 2 trains on one of the five batches

# network, setting, config, test accuracy that document A reports, that B reports (A2: a solution of Assignment 2)
ROWS = [
    ("2-layer", "one batch, lambda .01, n_s 500, 1 cycle", A2 | {"n_s": 500, "n_cycles": 1}, "", "45.85 (A2)"),
    ("2-layer", "one batch, lambda .01, n_s 800, 3 cycles", A2 | {"n_s": 800, "n_cycles": 3}, "", "47.47 (A2)"),
    ("3-layer", "default", {"hidden": [50, 50]}, "~52", "53.60"),
    ("6-layer", "default", {"hidden": [50, 30, 20, 20, 10]}, "", ""),
    ("9-layer", "default", {"hidden": [50, 30, 20, 20, 10, 10, 10, 10]}, "drops by quite a bit", "44.11"),
]


def main():
    lab = experiment.open_lab(experiment.options(__doc__), len(ROWS))
    results = experiment.train_all_seeds(lab, [experiment.config(**config) for _, _, config, _, _ in ROWS])
    table = [
        experiment.row(network, setting, nets, **{"A (CIFAR-10)": A, "B (CIFAR-10)": B})
        for (network, setting, _, A, B), nets in zip(ROWS, results)
    ]
    experiment.write_table(lab, "ex2", table)
    for i, ((network, setting, config, *_), nets) in enumerate(zip(ROWS, results), start=1):
        plots.figure(lab, "curves", f"ex2-{i}-{network}", f"{network} {config['hidden']}, {setting}", {"without BN": nets})


if __name__ == "__main__":
    experiment.guarded(main)
