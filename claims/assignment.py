"""The assignment DD2424 A3 in its own setting: what it expects, and its claims on BN, depth, initialisation and learning rates."""
from functools import partial

import numpy as np

from claims.common import at_equal_training, by_value, claim, difference, eta_gain, fact, gap, number, percent
from lab import gradients, plots, statistics, tables, tuning, workers
from lab.settings import config, row

DATASET, TIME = "cifar10", "about an hour on 2 cores with 10 seeds"
DOCUMENT = "assignment"
HIDDEN = {"3 layers": [50, 50], "6 layers": [50, 30, 20, 20, 10], "9 layers": [50, 30, 20, 20, 10, 10, 10, 10]}
PLACES = ["off", "before"]
ETAS = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
LAMS = [3e-4, 1e-3, 2e-3, 3e-3, 4e-3, 7e-3]
ORDERS = ["each epoch", "once", "by class"]
ALPHAS = [0.5, 0.8, 0.9, 0.99, 0.999]
SHORT = {"n_train": 4_500, "n_s": 225, "n_cycles": 1}  # 45 updates in an epoch, 10 epochs
CYCLES = [2, 3]  # of the 9-layer network with the 3-layer one's best lambda
FEW = 5  # seeds of the claims, and trials of each eta_max; the numbers have the seeds of --seeds


def name(net, bn, *more):
    return ", ".join([net, f"BN {bn}", *more])


NUMBERS = {name(net, bn, init): config(hidden=HIDDEN[net], bn=bn, sigma=sigma)
           for net in HIDDEN if net != "6 layers" for bn in PLACES for init, sigma in (("He", None), ("Xavier", "xavier"))}
ORDERED = {name("3 layers", bn, f"order {order}"): config(hidden=HIDDEN["3 layers"], bn=bn, order=order,
                                                          alphas=[0.9] if bn == "before" else [])
           for bn in PLACES for order in ORDERS}
AVERAGED = {name(net, "before", "alphas", length): config(hidden=HIDDEN[net], bn="before", alphas=ALPHAS, **change)
            for net in ("3 layers", "9 layers") for length, change in (("short", SHORT), ("default", {}))}
PENALTIES = {name("3 layers", bn, "lambda 0"): config(hidden=HIDDEN["3 layers"], bn=bn, lam=0.0) for bn in PLACES}
LONGER = {"default": [config(hidden=[50, 50], bn="before", n_cycles=3)],
          "best": [config(hidden=[50, 50], bn="before", n_cycles=3, lam=lam) for lam in LAMS]}


def longer(which):
    return f"3 layers, BN before, {which} lambda, 3 cycles"


def nine(n_cycles):
    return f"9 layers, BN before, best lambda of 3 layers, {n_cycles} cycles"


def train(raw, opts):
    few = min(FEW, opts.seeds)
    results = workers.train([row(label, **c) for label, c in NUMBERS.items()], raw, opts)
    singles = [(row(label, **c), seed) for label, c in (ORDERED | AVERAGED | PENALTIES).items() for seed in range(few)]
    results |= workers.train_runs(singles, raw, opts)
    for net, hidden in HIDDEN.items():
        for bn in PLACES:
            configs = [config(hidden=hidden, bn=bn, eta_max=eta) for eta in ETAS]
            results |= tuning.tuned(name(net, bn, "best eta_max"), configs, raw, opts, seeds=few, trials=FEW)
    for which, configs in LONGER.items():
        results |= tuning.tuned(longer(which), configs, raw, opts, seeds=opts.seeds, trials=3)
    best = {"hidden": HIDDEN["9 layers"], "bn": "before", "lam": results[longer("best")][0]["config"]["lam"]}
    return results | workers.train([row(nine(n), **best, n_cycles=n) for n in CYCLES], raw, opts)


def numbers(results):
    places = {"3 layers": ("off", "~52", "Exercise 2"), "3 layers BN": ("before", "~53.5", "Exercise 3")}
    return [number(DOCUMENT, place, f"{net}, test %", printed, f"default, {init}", percent(results[name("3 layers", bn, init)]),
                   name("3 layers", bn, init))
            for net, (bn, printed, place) in places.items() for init in ("He", "Xavier")]


def trials(results, net, bn):
    return results[name(net, bn, "best eta_max") + ", trial"]


def lost_by_averages(result):
    """Validation accuracy at the end with the statistics of n_eval training images minus with the moving averages, in points."""
    return 100 * (result["history"]["val_accuracy_dataset"][-1] - result["val_accuracy"])


def claims(results):
    def best(net, bn):
        return results[name(net, bn, "best eta_max")]

    def ordered(bn, order):
        return results[name("3 layers", bn, f"order {order}")]

    def averaged(net, length, alpha, other, epoch):
        column = "val_accuracy_alpha{:g}".format
        return statistics.mean_difference([100 * (r["history"][column(alpha)][epoch] - r["history"][column(other)][epoch])
                                           for r in results[name(net, "before", "alphas", length)]])

    def growth(bn, method):
        rngs = (np.random.default_rng([15, draw]) for draw in range(20))
        errors = np.array([gradients.errors_of_weights(gradients.NINE, gradients.D, bn, rng) for rng in rngs])[:, :, method]
        return statistics.mean_difference(np.log10(errors[:, 0] / errors[:, -1]))

    paired = statistics.paired
    weights = {net: sum(m_in * m for m_in, m in zip([3072, *hidden], [*hidden, 10])) for net, hidden in HIDDEN.items()}
    off, before = (results[name("3 layers", bn, "lambda 0")] for bn in PLACES)
    return [
        claim(DOCUMENT, "it seems to be important to shuffle the training data before each epoch",
              "test accuracy with a new order before each epoch minus one random order for ever, 3 layers with BN",
              paired(ordered("before", "once"), ordered("before", "each epoch")), +1,
              **{"BN off": paired(ordered("off", "once"), ordered("off", "each epoch")),
                 "minus an order by class": paired(ordered("before", "by class"), ordered("before", "each epoch"))}),
        claim(DOCUMENT, "shuffling is good for the estimates of BN's means and variances",
              "validation accuracy that the moving averages lose against the statistics of training images, with an order by class "
              "minus with a new order before each epoch, 3 layers",
              difference(ordered("before", "each epoch"), ordered("before", "by class"), lost_by_averages), +1,
              **{"one random order for ever": difference(ordered("before", "each epoch"), ordered("before", "once"),
                                                         lost_by_averages)}),
        claim(DOCUMENT, "deeper networks are harder to train", "test accuracy of 3 minus 9 layers, BN off, each at its best eta_max",
              paired(best("9 layers", "off"), best("3 layers", "off")), +1,
              **{"BN before": paired(best("9 layers", "before"), best("3 layers", "before"))}),
        claim(DOCUMENT, "without BN a deep network needs a relatively small eta_max",
              "largest eta_max within 2 points of the best, 9 minus 3 layers, BN off",
              eta_gain(trials(results, "3 layers", "off"), trials(results, "9 layers", "off")), -1, unit="decades"),
        claim(DOCUMENT, "BN allows higher learning rates", "largest eta_max within 2 points of the best, BN before minus off, 9 layers",
              eta_gain(trials(results, "9 layers", "off"), trials(results, "9 layers", "before")), +1, unit="decades",
              **{"3 layers": eta_gain(trials(results, "3 layers", "off"), trials(results, "3 layers", "before"))}),
        claim(DOCUMENT, "BN helps to train a 9-layer network", "test accuracy, BN before minus off, each at its best eta_max",
              paired(best("9 layers", "off"), best("9 layers", "before")), +1,
              **{"both at eta_max .1, He": paired(results[name("9 layers", "off", "He")], results[name("9 layers", "before", "He")]),
                 "both at eta_max .1, Xavier": paired(results[name("9 layers", "off", "Xavier")],
                                                      results[name("9 layers", "before", "Xavier")])}),
        claim(DOCUMENT, "BN acts as a form of regularisation",
              "validation accuracy at equal training accuracy, BN before minus off, 3 layers, lambda 0",
              at_equal_training(off, before), +1,
              **{"training minus validation accuracy at the end (less is more regular)": difference(before, off, gap)}),
        claim(DOCUMENT, "alpha about .9 is right for the default training",
              "validation accuracy at the end with alpha .9 minus .99, 3 layers", averaged("3 layers", "default", 0.9, 0.99, -1), 0,
              **{".9 minus .5": averaged("3 layers", "default", 0.9, 0.5, -1)}),
        claim(DOCUMENT, "if training is shorter, alpha must be smaller",
              "validation accuracy after 45 updates with alpha .9 minus .99, 3 layers", averaged("3 layers", "short", 0.9, 0.99, 0), +1,
              **{"9 layers": averaged("9 layers", "short", 0.9, 0.99, 0)}),
        claim(DOCUMENT, "the best lambda of a search is worth training with for longer",
              "test accuracy after 3 cycles, the best of 6 lambdas minus .005", paired(results[longer("default")], results[longer("best")]), +1),
        claim(DOCUMENT, "the discrepancies of the gradient check grow for the earlier layers",
              "log10 of the central differences' error in W1 over that in W9, 9 layers, BN off, 20 draws", growth("off", 1), +1,
              "decades", **{"BN before": growth("before", 1), "complex steps": growth("off", 0)}),
        fact(DOCUMENT, "the 9-layer network has the same number of weights as the 3-layer one", "their numbers of weights",
             f"{weights['9 layers']:,} and {weights['3 layers']:,}", abs(weights["9 layers"] / weights["3 layers"] - 1) < 0.01),
    ]


def tables_of(results):
    etas = [{"network": net, "BN": bn, "eta_max": eta, "validation": tables.percent(of_eta, "val_accuracy")}
            for net in HIDDEN for bn in PLACES for eta, of_eta in by_value(trials(results, net, bn), "eta_max").items()]
    nets = [name("9 layers", "before", "He"), *map(nine, CYCLES)]
    return {"claims_assignment_eta": etas, "claims_assignment_nine": [
        {"network": net, "lambda": results[net][0]["config"]["lam"], "test": tables.percent(results[net], "test_accuracy")}
        for net in nets]}


def figures(results):
    panels = {net: {bn: by_value(trials(results, net, bn), "eta_max") for bn in PLACES} for net in HIDDEN}
    return {"claims-assignment-eta": partial(plots.swept, "Learning rates, BN off and before", panels, "eta_max", "val_accuracy")}
