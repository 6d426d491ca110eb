"""Sensitivity to initialisation: every weight drawn from N(0, sigma^2). (DD2424 Assignment 3, end of Exercise 3)

    python run_sensitivity.py              one seed, about 2 minutes on 2 cores
    python run_sensitivity.py --seeds 3    the README's table

The 3- and 9-layer networks for three sigmas, without BN, with BN and the assignment's epsilon (Matlab's eps), and with BN
and the larger epsilon that is usual elsewhere. Expect BN to rescue small sigmas, unless epsilon is far above the
variance of the scores: then nothing is normalised.
Writes results/<dataset>/sensitivity.md and .csv, every run in results/<dataset>/runs, figures/<dataset>/sensitivity-*.png.
"""

import experiment
import kbn
import plots

NETS = {"3-layer": [50, 50], "9-layer": [50, 30, 20, 20, 10, 10, 10, 10]}
SIGMAS = [1e-1, 1e-3, 1e-4]
BN = {
    "without BN": {"batch_norm": False},
    "BN, eps 2.2e-16": {"batch_norm": True, "eps": kbn.EPS},
    "BN, eps 1e-5": {"batch_norm": True, "eps": 1e-5},
}
# test accuracy that document B reports, for the three sigmas
REPORTED = {
    ("3-layer", "without BN"): ["53.46", "51.93", "10.00"],
    ("3-layer", "BN, eps 1e-5"): ["53.60", "53.46", "53.50"],
    ("9-layer", "without BN"): ["10.00", "10.00", "10.00"],
    ("9-layer", "BN, eps 1e-5"): ["51.92", "50.79", "10.00"],
}


def main():
    lab = experiment.open_lab(experiment.options(__doc__), len(NETS) * len(BN) * len(SIGMAS))
    cells = [(network, bn, sigma) for network in NETS for bn in BN for sigma in SIGMAS]
    configs = [experiment.config(hidden=NETS[network], sigma=sigma, **BN[bn]) for network, bn, sigma in cells]
    results = dict(zip(cells, experiment.train_all_seeds(lab, configs)))
    table = []
    for (network, bn, sigma), nets in results.items():
        B = REPORTED.get((network, bn), ["", "", ""])[SIGMAS.index(sigma)]
        table.append(experiment.row(network, f"sigma {sigma:.0e}, {bn}", nets, **{"A (CIFAR-10)": "", "B (CIFAR-10)": B}))
    experiment.write_table(lab, "sensitivity", table)
    for network, hidden in NETS.items():
        panels = {f"sigma {sigma:.0e}": {bn: results[network, bn, sigma] for bn in BN} for sigma in SIGMAS}
        plots.figure(lab, "sensitivity", f"sensitivity-{network}", f"{network} {hidden}, weights from N(0, sigma²)", panels)


if __name__ == "__main__":
    experiment.guarded(main)
