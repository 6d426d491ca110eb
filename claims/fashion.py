"""The Fashion-MNIST homework: scaling, learning rates, speed, noise, size of the mini-batch, place and statistics of BN, depth.

A fully connected network on 10,000 images, 1,000 updates of 100 images (10 epochs) unless something else is said. The
convolutional network has BN where the homework has it: between the convolution and the pooling.
"""
from functools import partial

import numpy as np

import nets
from claims.common import at_equal_training, by_value, claim, difference, eta_gain, gap, interaction, seconds_to, updates_to
from lab import plots, statistics, tables, tuning
from lab.settings import config
from run_fashion import MLP

DATASET, TIME = "fashion-mnist", "about half an hour on 2 cores with 10 seeds"
DOCUMENT = "Fashion-MNIST homework"
CNN = [["conv", 8, 3, 1, 1], ["relu"], ["max_pool", 2], ["conv", 16, 3, 1, 1], ["relu"], ["max_pool", 2], ["affine", 10]]
NETS = {"MLP": MLP, "CNN": CNN}
PLACES = ["off", "before", "after"]
SETTING = {"scale": "all", "n_train": 10_000, "n_s": 500, "n_cycles": 1, "lam": 1e-4}
ETAS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
BOLD = {"MLP": [*ETAS, 10.0, 30.0, 100.0], "CNN": [*ETAS, 10.0]}  # up to where training fails
SCALES = [("255", "off"), ("each", "off"), ("all", "off"), ("255", "before"), ("each", "before")]
GROUPS = {"groups of 10": 10, "groups of 25": 25, "whole mini-batches": None}
BATCHES = [10, 25, 50, 100, 250, 1000]
MODERATE = [50, 100]
DEPTHS = [2, 4, 8, 16]
FEW = 3  # seeds of the convolutional networks


def searched(specs, bn, etas=ETAS, **changes):
    """The configs of a search over eta_max."""
    return [config(specs=nets.with_bn(specs, bn), **SETTING | changes, eta_max=eta) for eta in etas]


def name(what, bn):
    return f"{what}, BN {bn}"


MODELS = {name("MLP", bn): searched(MLP, bn, BOLD["MLP"]) for bn in PLACES}
CONVOLUTIONAL = {name("CNN", bn): searched(CNN, bn, BOLD["CNN"], n_s=150) for bn in PLACES}  # 3 epochs
ARMS = {name(f"scale {scale}", bn): searched(MLP, bn, scale=scale) for scale, bn in SCALES}
ARMS |= {name(what, "before"): searched(MLP, "before", bn_group=size, lam=0.0, n_s=1_000) for what, size in GROUPS.items()}
ARMS |= {name(f"n_batch {n}", bn): searched(MLP, bn, n_batch=n, n_s=50_000 // n) for bn in ("off", "before") for n in BATCHES}
ARMS |= {name(f"{depth} hidden layers", bn): searched([["affine", 64], ["relu"]] * depth + [["affine", 10]], bn)
         for depth in DEPTHS for bn in ("off", "before")}


def train(raw, opts):
    few, results = min(FEW, opts.seeds), {}
    for label, configs in MODELS.items():
        results |= tuning.tuned(label, configs, raw, opts, seeds=opts.seeds, trials=5, keep=False)
    for label, configs in CONVOLUTIONAL.items():
        results |= tuning.tuned(label, configs, raw, opts, seeds=few, trials=3, keep=False)
    for label, configs in ARMS.items():
        results |= tuning.tuned(label, configs, raw, opts, seeds=opts.seeds, trials=2, test=False)
    return results


def numbers(results):
    return []


def trials(results, what, bn):
    """The trials of a search, {eta_max: results}."""
    return by_value(results[name(what, bn) + ", trial"], "eta_max")


def ranked(results, bn, sizes=BATCHES):
    """Sizes of the mini-batch from the worst to the best, by the mean validation accuracy of their best trials."""
    def best(n):
        return max(tables.percent(of_eta, "val_accuracy")[0] for of_eta in trials(results, f"n_batch {n}", bn).values())

    return sorted(sizes, key=best)


def area(result):
    """The mean validation accuracy over the epochs, in %: the higher, the faster an accuracy was reached."""
    return 100 * float(np.mean(result["history"].get("val_accuracy", [result["val_accuracy"]])))


def relative(before, after, measure_to):
    """The effect of after minus before on measure_to(level), in % of the mean of before.

    The level is the lowest validation accuracy at the end of all runs of both arms: all of them reach it, and late.
    """
    measure = measure_to(min(result["val_accuracy"] for result in before + after))
    whole = np.mean([measure(result) for result in before])
    return difference(before, after, lambda result: 100 * measure(result) / whole)


def claims(results):
    paired = partial(statistics.paired, key="val_accuracy")

    def arms(what, *places):
        return [results[name(what, bn)] for bn in places]

    def scaled(scale, other, bn):
        return difference(results[name(f"scale {other}", bn)], results[name(f"scale {scale}", bn)], area)

    def bolder(net, bn):
        return eta_gain(*(results[name(net, place) + ", trial"] for place in ("off", bn)))

    def of_groups(size, effect):
        return effect(*(results[name(what, "before")] for what in ("whole mini-batches", f"groups of {size}")))

    def of_sizes(bn, n, other):
        return results[name(f"n_batch {other}", bn)], results[name(f"n_batch {n}", bn)]

    def of_moderate(bn):
        others = [n for n in BATCHES if n not in MODERATE]
        return paired(*of_sizes(bn, ranked(results, bn, MODERATE)[-1], ranked(results, bn, others)[-1]))

    def worst_and_best(bn):
        worst, *_, best = ranked(results, bn)
        return of_sizes(bn, best, worst)

    def by_dataset(net, bn):
        return statistics.mean_difference([100 * (result.get("test_accuracy_dataset", np.nan) - result["test_accuracy"])
                                           for result in results[name(net, bn)]])

    deeper = {depth: arms(f"{depth} hidden layers", "off", "before") for depth in DEPTHS}
    return [
        claim(DOCUMENT, "dividing by 255 works, but standardising the inputs helps in faster convergence",
              "mean validation accuracy over 10 epochs, each pixel standardised minus divided by 255, at the best eta_max, BN off",
              scaled("each", "255", "off"), +1,
              **{"all pixels standardised together": scaled("all", "255", "off"),
                 "BN before": scaled("each", "255", "before")}),
        claim(DOCUMENT, "BN allows for more aggressive learning rates",
              "largest eta_max within 2 points of the best, BN before minus off", bolder("MLP", "before"), +1, unit="decades",
              **{"BN after": bolder("MLP", "after"), "CNN": bolder("CNN", "before"), "CNN, BN after": bolder("CNN", "after")}),
        claim(DOCUMENT, "BN leads to faster training",
              "updates to a validation accuracy that all runs reach late, BN before minus off, each at its best eta_max",
              relative(*arms("MLP", "off", "before"), updates_to), -1, unit="% of those without BN",
              **{"seconds by the clock": relative(*arms("MLP", "off", "before"), seconds_to),
                 "BN after": relative(*arms("MLP", "off", "after"), updates_to),
                 "BN after, seconds by the clock": relative(*arms("MLP", "off", "after"), seconds_to)}),
        claim(DOCUMENT, "the noise of the mini-batches' estimates is a form of regularisation",
              "validation accuracy at equal training accuracy, statistics of groups of 10 minus of the mini-batch of 100, "
              "lambda 0, 2,000 updates", of_groups(10, at_equal_training), +1,
              **{"groups of 25": of_groups(25, at_equal_training),
                 "training minus validation accuracy at the end (less is more regular)":
                     of_groups(10, lambda whole, groups: difference(groups, whole, gap))}),
        claim(DOCUMENT, "BN works best for mini-batches of 50 to 100",
              "validation accuracy after 10 epochs, the better of 50 and 100 minus the best of 10, 25, 250 and 1000 (chosen by "
              "trials), each at its best eta_max, BN before", of_moderate("before"), +1, **{"BN off": of_moderate("off")}),
        claim(DOCUMENT, "with BN the choice of batch size is even more significant than without",
              "validation accuracy after 10 epochs, the best size minus the worst (chosen by trials), BN before minus off",
              interaction(worst_and_best("off"), worst_and_best("before")), +1),
        claim(DOCUMENT, "BN can be applied before or after the activation",
              "validation accuracy, BN after minus before, each at its best eta_max",
              paired(*arms("MLP", "before", "after")), 0, CNN=paired(*arms("CNN", "before", "after"))),
        claim(DOCUMENT, "moving averages predict as well as the statistics of the entire dataset",
              "test accuracy with the statistics of the training set minus with the moving averages, BN before",
              by_dataset("MLP", "before"), 0,
              **{"BN after": by_dataset("MLP", "after"), "CNN": by_dataset("CNN", "before"),
                 "CNN, BN after": by_dataset("CNN", "after")}),
        claim(DOCUMENT, "adding BN always helps when dealing with deeper layers",
              "BN's gain in validation accuracy with 16 hidden layers minus with 2, each at its best eta_max",
              interaction(deeper[2], deeper[16]), +1,
              **{f"the gain itself with {depth}": paired(*deeper[depth]) for depth in (4, 8, 16)}),
    ]


def tables_of(results):
    etas = [{"network": net, "BN": bn, "eta_max": eta, "validation": tables.percent(of_eta, "val_accuracy")}
            for net in NETS for bn in PLACES for eta, of_eta in trials(results, net, bn).items()]
    arms = [{"network": label, "best eta_max": results[label][0]["config"]["eta_max"],
             "validation": tables.percent(results[label], "val_accuracy")} for label in MODELS | CONVOLUTIONAL | ARMS]
    return {"claims_fashion_eta": etas, "claims_fashion": arms}


def figures(results):
    def against(values, what):
        nets = {bn: {x: results[name(what.format(x), bn)] for x in values} for bn in ("off", "before")}
        return {"each at its best eta_max": nets}

    etas = {net: {bn: trials(results, net, bn) for bn in PLACES} for net in NETS}
    drawn = {
        "eta": ("Learning rates, BN off, before and after", etas, "eta_max"),
        "batch": ("Size of the mini-batch, equal epochs", against(BATCHES, "n_batch {}"), "n_batch"),
        "depth": ("Depth, 64 units a layer", against(DEPTHS, "{} hidden layers"), "hidden layers"),
    }
    return {f"claims-fashion-{figure}": partial(plots.swept, *about, "val_accuracy") for figure, about in drawn.items()}
