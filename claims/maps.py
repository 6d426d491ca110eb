"""Two maps on CIFAR-10: initialisation by depth by place of BN, and epsilon by sigma by depth. Claims on initialisation."""
from functools import partial

import numpy as np

import kbn
from claims.common import claim, difference, interaction
from lab import plots, statistics, tables, workers
from lab.settings import config, row

DATASET, TIME = "cifar10", "about an hour on 2 cores"
DOCUMENT = "assignment"
DEPTHS = {2: [50], 3: [50, 50], 6: [50, 30, 20, 20, 10], 9: [50, 30, 20, 20, 10, 10, 10, 10],
          14: [50, 30, *4 * [20], *7 * [10]], 20: [50, 30, *5 * [20], *12 * [10]]}  # layers: hidden widths
INITS = {"He": None, "Xavier": "xavier", "1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}  # sigma of the weights
PLACES = ["off", "before", "after"]
EPSILONS = {"2.2e-16": kbn.EPS, "1e-8": 1e-8, "1e-5": 1e-5, "1e-3": 1e-3}
SIGMAS = {name: sigma for name, sigma in INITS.items() if isinstance(sigma, float)}
SHORT = {"n_cycles": 1}  # 10 epochs
SEEDS = 3


def name(depth, init, bn, eps="2.2e-16"):
    return f"{depth} layers, {init}, BN {bn}, eps {eps}"


INITIALISED = {name(depth, init, bn): config(hidden=hidden, sigma=sigma, bn=bn, norms=depth == 9, **SHORT)
               for depth, hidden in DEPTHS.items() for init, sigma in INITS.items() for bn in PLACES}
NORMALISED = {name(depth, init, "before", label): config(hidden=DEPTHS[depth], sigma=sigma, bn="before", eps=eps, norms=depth == 9, **SHORT)
              for depth in (3, 9) for init, sigma in SIGMAS.items() for label, eps in EPSILONS.items()}


def train(raw, opts):
    rows = [row(label, **c) for label, c in (INITIALISED | NORMALISED).items()]
    runs = [(each, seed) for seed in range(min(SEEDS, opts.seeds)) for each in rows]
    return workers.train_runs(runs, raw, opts, test=False, may_diverge=True)


def numbers(results):
    return []


def over_inits(results, depth, bn):
    """For each seed a result with the mean validation accuracy over all initialisations."""
    by_seed = zip(*(results[name(depth, init, bn)] for init in INITS))
    return [{"seed": runs[0]["seed"], "val_accuracy": sum(run["val_accuracy"] for run in runs) / len(runs)} for runs in by_seed]


def log_norm(result, layer, epoch=0):
    """log10 of a layer's relative gradient |dL/dW| / |W| at the first update of an epoch, at least -20; nan after divergence."""
    norms = result["history"].get(f"norm{layer}")
    return float(np.log10(max(norms[epoch], 1e-20))) if norms else np.nan


def claims(results):
    def vanished(init, layer, epoch=0):
        """The effect of BN off minus before on the decades of a layer's relative gradient, 9 layers."""
        return difference(results[name(9, init, "before")], results[name(9, init, "off")], partial(log_norm, layer=layer, epoch=epoch))

    paired = partial(statistics.paired, key="val_accuracy")

    def pair(depth, init):
        return [results[name(depth, init, bn)] for bn in ("off", "before")]

    def gains(depth, init, other):
        return interaction(pair(depth, other), pair(depth, init))

    return [
        claim("student report", "vanishing gradients, and so infinitesimally small updates, spoil the 9-layer network without BN",
              "log10 of layer 1's relative gradient before training, Xavier, BN off minus before", vanished("Xavier", 1), -1,
              "decades", **{"in the last epoch": vanished("Xavier", 1, -1), "layer 9": vanished("Xavier", 9),
                            "He": vanished("He", 1), "sigma 1e-3": vanished("1e-3", 1)}),
        claim(DOCUMENT, "a proper initialisation is key for deep networks",
              "validation accuracy of He minus sigma 1e-2, 9 layers, BN off",
              paired(results[name(9, "1e-2", "off")], results[name(9, "He", "off")]), +1,
              **{"Xavier minus 1e-2": paired(results[name(9, "1e-2", "off")], results[name(9, "Xavier", "off")]),
                 "BN before": paired(results[name(9, "1e-2", "before")], results[name(9, "He", "before")])}),
        claim(DOCUMENT, "BN makes training stable for a range of initialisations",
              "mean validation accuracy over six initialisations, BN before minus off, 9 layers",
              paired(over_inits(results, 9, "off"), over_inits(results, 9, "before")), +1,
              **{f"{depth} layers": paired(over_inits(results, depth, "off"), over_inits(results, depth, "before"))
                 for depth in (3, 20)}),
        claim(DOCUMENT, "BN's gain with 9 layers does not depend on the initialisation",
              "its gain from Xavier minus its gain from He (validation accuracy, BN before minus off)",
              gains(9, "Xavier", "He"), 0, **{"3 layers": gains(3, "Xavier", "He")}),
    ]


def tables_of(results):
    def cells(labels, columns):
        return {column: tables.percent(results[label], "val_accuracy") for column, label in zip(columns, labels)}

    norms = [{"BN": bn, "initial weights": init, "layer": layer}
             | {when: tables.summary([log_norm(result, layer, epoch) for result in results[name(9, init, bn)]])
                for when, epoch in (("log10 at the start", 0), ("log10 in the last epoch", -1))}
             for bn in PLACES for init in INITS for layer in (1, 9)]
    return {
        "claims_maps_norms": norms,
        "claims_maps_init": [{"layers": depth, "BN": bn} | cells([name(depth, init, bn) for init in INITS], INITS)
                             for depth in DEPTHS for bn in PLACES],
        "claims_maps_eps": [{"layers": depth, "eps": eps} | cells([name(depth, init, "before", eps) for init in SIGMAS], SIGMAS)
                            for depth in (3, 9) for eps in EPSILONS],
    }


def figures(results):
    inits = {f"BN {bn}": {(str(depth), init): results[name(depth, init, bn)] for depth in DEPTHS for init in INITS} for bn in PLACES}
    epsilons = {f"{depth} layers": {(eps, init): results[name(depth, init, "before", eps)] for eps in EPSILONS for init in SIGMAS}
                for depth in (3, 9)}
    norms = {init: {bn: results[name(9, init, bn)] for bn in PLACES} for init in INITS}
    return {"claims-maps-norms": partial(plots.layers, "Relative gradients |dL/dW| / |W|, 9 layers, before training", norms, log_norm),
            "claims-maps-init": partial(plots.maps, "Validation accuracy after 10 epochs", inits, "layers", "initial weights"),
            "claims-maps-eps": partial(plots.maps, "Validation accuracy after 10 epochs, BN before", epsilons, "epsilon", "sigma")}
