"""Sensitivity to initialisation: every weight is drawn from N(0, sigma^2). (DD2424 Assignment 3, end of Exercise 3)

    python run_sensitivity.py              one seed, under 3 minutes on 2 cores
    python run_sensitivity.py --seeds 3    the published table

The 3- and 9-layer networks for three sigmas: with BN off, with BN before the ReLU and the assignment's epsilon (Matlab's
eps), and with BN before the ReLU and 1e-5, which is common elsewhere. Expect BN to train from every sigma, unless epsilon
is far above the variance of the scores: then nothing is normalised.
"""
from functools import partial

import kbn
from lab import plots, workers
from lab.driver import accuracies, drive
from lab.settings import row, run_main

NETS = {"3-layer": [50, 50], "9-layer": [50, 30, 20, 20, 10, 10, 10, 10]}
SIGMAS = [1e-1, 1e-3, 1e-4]
VARIANTS = {
    "BN off": {"bn": "off"},
    "BN before, eps 2.2e-16": {"bn": "before", "eps": kbn.EPS},
    "BN before, eps 1e-5": {"bn": "before", "eps": 1e-5},
}


def name(net, sigma, variant):
    return f"{net}, sigma {sigma:g}, {variant}"


ROWS = [row(name(net, sigma, variant), hidden=hidden, sigma=sigma, **change)
        for net, hidden in NETS.items() for variant, change in VARIANTS.items() for sigma in SIGMAS]


def train(raw, opts):
    return workers.train(ROWS, raw, opts)


def report(results, published):
    return {"sensitivity": accuracies(ROWS, results, published)}


def figures(results):
    panels = {net: {f"sigma {sigma:g}": {variant.removeprefix("BN off") or "off": results[name(net, sigma, variant)]
                                         for variant in VARIANTS} for sigma in SIGMAS} for net in NETS}
    return {f"sensitivity-{net}": partial(plots.sensitivity, f"{net} network, weights from N(0, sigma²)", panels[net])
            for net in NETS}


if __name__ == "__main__":
    run_main(lambda: drive("sensitivity", __doc__, train, report, figures))
