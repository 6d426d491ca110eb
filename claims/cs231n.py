"""The CS231n report: its validation accuracy, and its claims on BN with weights of 13 scales, overfitting, gradients, dropout
and learning rates, on the networks of run_solver.py.
"""
from functools import partial

import numpy as np

import nets
import run_solver
from claims.common import (
    CHANCE_MARGIN,
    at_equal_training,
    best_value,
    by_value,
    claim,
    difference,
    drawn,
    eta_gain,
    gap,
    number,
)
from lab import plots, statistics, tables, tuning, workers
from lab.settings import config, row

DATASET, TIME = "cifar10", "about 50 minutes of one core"
DOCUMENT = "CS231n report"
FEW = 5  # seeds of the claims; the numbers have those of --seeds
SIGMAS, PLACES = run_solver.SIGMAS, run_solver.PLACES

TWO, FIFTY = run_solver.ROWS
SCALES = {each["name"]: each["config"] | {"norms": True} for each in run_solver.SCALES}
START = {"n_train": 500, "n_epochs": 1, "eta_max": 0.0, "eta_min": 0.0}  # only for the norms of the gradients before training
SMALLEST = 1e-20  # float32 cannot hold the square of a smaller norm

ETAS = [3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
NETS = {"2-layer": TWO["config"] | {"n_train": 10_000, "n_val": 5_000, "n_epochs": 5},
        "8-layer": config(**run_solver.SCALED | {"specs": run_solver.DEEP, "sigma": 0.1, "n_val": 5_000, "momentum": 0.0})}
KEEPS = [1.0, 0.9, 0.7, 0.5]
OVERFITTING = {"hidden": [200, 200], "lam": 0.0, "n_train": 5_000, "n_s": 500, "n_cycles": 1, "n_eval": 1_000}  # 20 epochs


def rates(net, bn):
    return f"{net}, SGD, BN {bn}"


def dropout(bn, with_dropout):
    return f"2 x 200 units, BN {bn}, {'with' if with_dropout else 'no'} dropout"


ARMS = {rates(net, bn): [config(**c | {"specs": nets.with_bn(c["specs"], bn), "eta_max": eta}) for eta in ETAS]
        for net, c in NETS.items() for bn in PLACES}
ARMS |= {dropout(bn, with_dropout): [config(**OVERFITTING, bn=bn, keep=keep, eta_max=eta)
                                     for keep in KEEPS if (keep < 1) == with_dropout for eta in (0.01, 0.03, 0.1, 0.3, 1.0)]
         for bn in PLACES for with_dropout in (False, True)}


def at_start(name):
    return f"{name}, before training"


def train(raw, opts):
    few = min(FEW, opts.seeds)
    runs = [(TWO, seed) for seed in range(opts.seeds)] + [(FIFTY, seed) for seed in range(2 * opts.seeds)]
    results = workers.train_runs(runs, raw, opts, keep=False)
    rows = [row(name, **c) for name, c in SCALES.items()] + [row(at_start(name), **c | START) for name, c in SCALES.items()]
    runs = [(each, seed) for each in rows for seed in range(few)]
    results |= workers.train_runs(runs, raw, opts, test=False, may_diverge=True)
    for name, configs in ARMS.items():
        trials = 2 if "dropout" in name else FEW
        results |= tuning.tuned(name, configs, raw, opts, seeds=few, trials=trials, test=False)
    return results


def numbers(results):
    setting = "{} epoch; 100 units, sigma 1e-3, images 49,001 to 50,000 for validation (the report tells none of these)"
    curves = [np.multiply(100, result["history"]["val_accuracy"]) for result in results[TWO["name"]]]
    epochs = {"last": [curve[-1] for curve in curves], "best": [curve.max() for curve in curves]}
    lines = [number(DOCUMENT, "Q3, 6", "2-layer network, validation %", "53.80", setting.format(epoch), values, TWO["name"])
             for epoch, values in epochs.items()]
    small = results[TWO["name"]][0]["config"]["n_train"] < TWO["config"]["n_train"]  # a smoke test
    losses, errors = run_solver.draw_gradients(*[20] * small)
    for i, (reg, (loss, *printed)) in enumerate(run_solver.REPORTED.items()):
        words = f"3-layer network of 15, 20, 30, 10 units, 2 examples, reg {reg:g}"
        lines.append(drawn(DOCUMENT, "Q3, initial loss", f"initial loss, reg {reg:g}", loss, words, losses[:, i]))
        lines += [drawn(DOCUMENT, "Q3, gradient check", f"relative error of {name}, reg {reg:g}", error, words, values)
                  for name, error, values in zip(run_solver.NAMES, printed, errors[:, :, i].T, strict=True)]
    return lines


def learnt(result):
    """Whether the best validation accuracy is CHANCE_MARGIN above that of chance. A diverged training has learnt nothing."""
    return max(result["history"].get("val_accuracy", [0])) >= 1 / len(result["data"]["classes"]) + CHANCE_MARGIN


def log_norm(result, layer, epoch=0):
    """log10 of a layer's relative gradient |dL/dW| / |W| at the first update of an epoch; 20 after a diverged training."""
    norms = result["history"].get(f"norm{layer}", [1 / SMALLEST])
    return float(np.log10(max(norms[epoch], SMALLEST)))


def over_scales(results, bn, measure, place=str):
    """For each seed a result with the sum of measure(result) over the scales. place: of the name of the rows."""
    by_seed = zip(*(results[place(run_solver.name(sigma, bn))] for sigma in SIGMAS))
    return [{"seed": runs[0]["seed"], "sum": sum(map(measure, runs))} for runs in by_seed]


def claims(results):
    def of_scales(measure, place=str):
        """The effect of BN before minus off on the sum of measure over the scales."""
        return difference(*(over_scales(results, bn, measure, place) for bn in PLACES), lambda r: r["sum"])

    def distance(measure):
        return lambda result: abs(measure(result)) / len(SIGMAS)

    def gain(bn):
        return statistics.paired(results[dropout(bn, False)], results[dropout(bn, True)], "val_accuracy")

    off, before = (plots.converged(results[rates("8-layer", bn)]) for bn in PLACES)
    etas = {net: eta_gain(*(results[f"{rates(net, bn)}, trial"] for bn in PLACES)) for net in NETS}
    fitted = [result["train_accuracy"] == 1 for result in results[FIFTY["name"]]]
    return [
        claim(DOCUMENT, "BN is much more robust to a bad initialisation",
              "how many of 13 scales of the initial weights train (best validation accuracy 10 points above chance), 8 layers, "
              "BN before minus off", of_scales(learnt), +1, "scales"),
        claim(DOCUMENT, "BN avoids overfitting",
              "validation accuracy at equal training accuracy, BN before minus off, 8 layers, each at its best eta",
              at_equal_training(off, before), +1,
              **{"training minus validation accuracy at the end, BN off minus before": difference(before, off, gap)}),
        # Without BN small weights let the gradients of all layers vanish together, so that a ratio of two layers shows nothing.
        claim(DOCUMENT, "BN prevents vanishing and exploding gradients",
              "decades between the norms of dL/dW1 and W1 before training (20 at most), mean over 13 scales, 8 layers, "
              "BN before minus off", of_scales(distance(lambda r: log_norm(r, 1)), at_start), -1, "decades",
              **{"at the last epoch": of_scales(distance(lambda r: log_norm(r, 1, -1))),
                 "between layers 1 and 8": of_scales(distance(lambda r: log_norm(r, 1) - log_norm(r, 8)), at_start)}),
        claim(DOCUMENT, "BN eliminates the need for dropout", "validation accuracy, the best keep of .9, .7, .5 minus keep 1, "
              "2 x 200 units with BN on 5,000 images, each at its best eta_max", gain("before"), 0),
        claim(DOCUMENT, "without BN the same network needs dropout", "the same comparison without BN", gain("off"), +1),
        claim(DOCUMENT, "BN allows much higher learning rates",
              "largest eta within 2 points of the best, BN before minus off, 8 layers, SGD with decay",
              etas["8-layer"], +1, "decades", **{"2 layers": etas["2-layer"]}),
        claim(DOCUMENT, "a 3-layer network overfits 50 examples", "share of trainings that end with 100 % training accuracy",
              statistics.share(sum(fitted), len(fitted)), +1, "%"),
    ]


def tables_of(results):
    def mean_norm(name, layer, epoch=0):
        return tables.summary([log_norm(result, layer, epoch) for result in results[name]])

    scales = [{"sigma": f"{sigma:g}", "BN": bn, "best validation": run_solver.best_epoch(results[name], "val_accuracy"),
               "log10 of layer 1's relative gradient": mean_norm(at_start(name), 1),
               "of layer 8": mean_norm(at_start(name), 8),
               "of layer 1 in the last epoch": mean_norm(name, 1, -1),
               "diverged": sum(bool(r["diverged"]) for r in results[name])}
              for bn in PLACES for sigma in SIGMAS for name in [run_solver.name(sigma, bn)]]
    etas = [{"network": net, "BN": bn, "eta": f"{eta:g}", "validation": tables.percent(mine, "val_accuracy")}
            for net in NETS for bn in PLACES for eta, mine in by_value(results[f"{rates(net, bn)}, trial"], "eta_max").items()]
    keeps = [{"BN": bn, "keep": f"{keep:g}", "best eta_max": f"{best[0]['config']['eta_max']:g}",
              "validation, trials": tables.percent(best, "val_accuracy")}
             for bn in PLACES for with_dropout in (False, True)
             for keep, mine in by_value(results[f"{dropout(bn, with_dropout)}, trial"], "keep").items()
             for best in [best_value(mine, "eta_max")]]
    return {"claims_cs231n_scales": scales, "claims_cs231n_eta": etas, "claims_cs231n_dropout": keeps}


def figures(results):
    norms = {f"log10, {when}": {bn: {sigma: results[place(run_solver.name(sigma, bn))] for sigma in SIGMAS} for bn in PLACES}
             for when, place in (("before training", at_start), ("last epoch", str))}
    etas = {net: {bn: by_value(results[f"{rates(net, bn)}, trial"], "eta_max") for bn in PLACES} for net in NETS}
    keeps = {f"BN {bn}": {f"keep {keep:g}": by_value(mine, "eta_max") for with_dropout in (False, True)
                          for keep, mine in by_value(results[f"{dropout(bn, with_dropout)}, trial"], "keep").items()}
             for bn in PLACES}
    return {
        "claims-cs231n-norms": partial(plots.swept, "Relative gradient |dL/dW1| / |W1|, 8-layer network", norms,
                                       "sigma of the initial weights",
                                       [partial(log_norm, layer=1), partial(log_norm, layer=1, epoch=-1)]),
        "claims-cs231n-eta": partial(plots.swept, "SGD with a decaying learning rate", etas, "eta_max", "val_accuracy"),
        "claims-cs231n-dropout": partial(plots.swept, "Dropout, 2 x 200 units, 5,000 images", keeps, "eta_max", "val_accuracy"),
    }
