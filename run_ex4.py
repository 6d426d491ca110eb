"""Exercise 4: how far fully connected networks go on CIFAR-10, and what each change brings. (DD2424 Assignment 3)

    python run_ex4.py --seeds 2                two networks side by side, about an hour on 2 cores
    python run_ex4.py --ladder --seeds 5       what each change brings, about eight hours on 2 cores
    python run_ex4.py --search                 random search by successive halving, about two hours on 2 cores

The recipe: three hidden layers of 1024 units with BN, whitened pictures, mirrored and shifted mini-batches, dropout, Nesterov's
momentum and a cosine learning rate.

The ladder: from Exercise 3's 3-layer network with BN one change after the other is tried: momentum, width, mirror images,
shifts, colours, whitening, dropout, the place of BN, depth, Nesterov's momentum, the learning rate's schedule. A change is
kept if the validation accuracy gains from it on average. Then each kept change is taken out alone. All trainings have 20
epochs. Every one of these networks gets the same six trials of eta_max and lambda around the best so far, on a seed of their
own, and its seeds are trained with the best of the six. The test set is not used.

The search: 27 draws of all hyper-parameters are trained for 4 epochs, the best third of them again for 12, and the best third
of those for 36, each with a whole cosine. It uses the validation set alone.
"""
from functools import partial

import numpy as np

from lab import models, plots, tables, training, workers
from lab.driver import drive
from lab.settings import config, row, run_main

RECIPE = row("3 x 1024", hidden=3 * [1024], bn="before", rule="nesterov", momentum=0.9, eta_max=0.05, lam=2.5e-4, n_epochs=100,
             jitter={"share": 0.5, "s": 3}, zca=0.1, keep=0.9)

START = config(hidden=[50, 50], bn="before")  # Exercise 3: 2 cycles of 2 x 2250 updates, 20 epochs
WIDTH = 512
CHANGES = {  # name: what it does to a config c
    "momentum .9":           lambda c: {"momentum": 0.9},
    f"{WIDTH} units":        lambda c: {"hidden": [WIDTH] * 2},
    "mirror images":         lambda c: {"jitter": {**(c["jitter"] or {}), "share": 0.5}},
    "shifts by up to 3":     lambda c: {"jitter": {**(c["jitter"] or {}), "s": 3}},
    "colours":               lambda c: {"jitter": {**(c["jitter"] or {}), "brightness": 0.1, "contrast": 0.2, "colour": 0.05}},
    "whitening":             lambda c: {"zca": 0.1},
    "dropout of inputs":     lambda c: {"keep_input": 0.9},
    "dropout of units":      lambda c: {"keep": 0.9},
    "BN after the ReLU":     lambda c: {"bn": "after"},
    "BN off":                lambda c: {"bn": "off"},
    "4 layers":              lambda c: {"hidden": c["hidden"] + c["hidden"][-1:]},
    "Nesterov's momentum":   lambda c: {"rule": "nesterov", "momentum": 0.9},
    "cosine learning rate":  lambda c: {"n_epochs": 20},
}
TRIALS = [(1, 1), (2, 1), (0.5, 1), (1, 4), (1, 0.25), (0.5, 0.25)]  # factors of eta_max and lambda
TRIAL_SEED = 1000
FIRST = "3-layer BN of Exercise 3"


def climb(network):
    """Return the rungs of both ladders, dicts: name, kept (None backwards), results, below (those that they are compared with).

    network(name, config) returns the results of the seeds, with the best trial's eta_max and lambda around those of config.
    """
    best = network(FIRST, START)
    rungs, kept = [{"name": FIRST, "kept": True, "results": best, "below": best}], []
    for name, change in CHANGES.items():
        c = best[0]["config"]
        results = network(name, around(c, c | change(c)))
        gains = mean_accuracy(results) > mean_accuracy(best)
        rungs.append({"name": name, "kept": gains, "results": results, "below": best})
        if gains:
            best, kept = results, [*kept, name]
    for name in kept:
        c = START
        for other in kept:
            c = c if other == name else c | CHANGES[other](c)
        results = network(f"without: {name}", around(best[0]["config"], c))
        rungs.append({"name": f"without: {name}", "kept": None, "results": results, "below": best})
    return rungs


def around(best, c):
    """c with eta_max and lambda of best. With momentum .9 gradients act ten times as long, so that eta_max is a tenth."""
    eta_max = best["eta_max"] * (10 if best["momentum"] else 1) / (10 if c["momentum"] else 1)
    return c | {"eta_max": eta_max, "lam": best["lam"]}


def mean_accuracy(results):
    """The mean validation accuracy of results."""
    return np.mean([result["val_accuracy"] for result in results])


def train_ladder(raw, opts):
    results = {}

    def network(name, c):
        trials = [(row(f"{name}, trial", **c | {"eta_max": c["eta_max"] * eta, "lam": c["lam"] * lam}), TRIAL_SEED)
                  for eta, lam in TRIALS]
        how = {"test": False, "may_diverge": True}
        found = workers.train_runs(trials, raw, opts, **how)
        best = max(found[f"{name}, trial"], key=lambda trial: trial["val_accuracy"])["config"]
        results.update(found | workers.train([row(name, **best)], raw, opts, **how))
        return results[name]

    climb(network)
    return results


def report_ladder(results, published):
    forwards, backwards = [], []
    for rung in climb(lambda name, _: results[name]):
        c, mine = rung["results"][0]["config"], rung["results"]
        line = {"change": rung["name"], "kept": {True: "yes", False: "no", None: ""}[rung["kept"]],
                "validation": tables.percent(mine, "val_accuracy"), "gain": tables.gain(rung["below"], mine, "val_accuracy"),
                "eta_max": c["eta_max"], "lambda": c["lam"], "parameters": parameters(c),
                "s per run": float(np.median([result["duration_s"] for result in mine]))}
        (backwards if rung["kept"] is None else forwards).append(line)
    forwards[0]["gain"] = ""
    for line in backwards:
        del line["kept"]
    return {"ex4_ladder": forwards, "ex4_ladder_reverse": backwards or [{"change": "none was kept"}]}


def parameters(c, d=3072, K=10):
    """The number of parameters of a network of config c."""
    dims = [d, *c["hidden"], K]
    return sum((m_in + 1) * m for m_in, m in zip(dims, dims[1:])) + (c["bn"] != "off") * 2 * sum(c["hidden"])


def figures_ladder(results):
    return {"ex4-ladder": partial(plots.ladder, "What each change brings, forwards and backwards",
                                  climb(lambda name, _: results[name]))}


ROUNDS = {4: 27, 12: 9, 36: 3}  # epochs: trials


def draw(rng):
    """One trial of the search: a config without its number of epochs."""
    return config(
        hidden=[int(rng.choice([256, 512, 1024]))] * int(rng.integers(2, 6)), bn=str(rng.choice(["off", "before", "after"])),
        rule="nesterov", momentum=0.9, eta_max=float(10 ** rng.uniform(-2.5, -0.5)), lam=float(10 ** rng.uniform(-5, -2.5)),
        keep=float(rng.uniform(0.7, 1)), keep_input=float(rng.uniform(0.8, 1)),
        zca=[None, 0.03, 0.1, 0.3, 1.0][rng.integers(5)],
        jitter={"share": 0.5, "s": int(rng.integers(5)), "contrast": float(rng.uniform(0, 0.4)),
                "brightness": float(rng.uniform(0, 0.2))})


def train_search(raw, opts):
    rng, results = np.random.default_rng(4), {}
    trials = [draw(rng) for _ in range(max(ROUNDS.values()))]
    for n_epochs, n in ROUNDS.items():
        runs = [(row(f"{n_epochs} epochs", **c | {"n_epochs": n_epochs}), TRIAL_SEED) for c in trials[:n]]
        results |= workers.train_runs(runs, raw, opts, test=False, may_diverge=True)
        trials = [result["config"] for result in ranked(results[f"{n_epochs} epochs"])]
    return results


def ranked(results):
    """The results, the highest validation accuracy first."""
    return sorted(results, key=lambda result: result["val_accuracy"], reverse=True)


def searched(c):
    """The hyper-parameters of a config c that the search draws, by name."""
    names = ("eta_max", "lam", "keep", "keep_input", "bn")
    return {"width": c["hidden"][0], "depth": len(c["hidden"]) + 1, **{name: c[name] for name in names},
            "zca": "off" if c["zca"] is None else c["zca"],
            **{name: c["jitter"][name] for name in ("s", "contrast", "brightness")}}


def report_search(results, published):
    best = [(name, result) for name in reversed(results) for result in ranked(results[name])][:10]
    return {"ex4_search": [{"trained for": name, "validation": tables.percent([result], "val_accuracy")}
                           | searched(result["config"]) for name, result in best]}


def figures_search(results):
    return {"ex4-search": partial(plots.trials, "Random search by successive halving", results, searched)}


def train(raw, opts):
    results = workers.train([RECIPE], raw, opts)
    add_ensembles(results[RECIPE["name"]], raw, opts)
    return results


def add_ensembles(results, raw, opts):
    """Add to each result the accuracies of the mean prediction of all networks up to its seed, mirror images included."""
    c = results[0]["config"]
    val = slice(c["n_train"], c["n_train"] + c["n_val"])
    parts = {"val": (raw["images"][val], raw["labels"][val]), "test": (raw["test_images"], raw["test_labels"])}
    for part, (images, y) in parts.items():
        P = 0
        for result in results:
            model = models.load(opts.store / "models" / f"{result['run']}.npz")
            X = training.standardise(images, model["mean"], model["sd"])
            P = P + training.probabilities(X, *(model[name] for name in ("net", "params", "stats", "hp")), raw["shape"])
            result[f"{part}_accuracy_ensemble"] = float((P.argmax(axis=0) == y).mean())


def report(results, published):
    mine, last = results[RECIPE["name"]], results[RECIPE["name"]][-1:]
    predictions = {"one network": (mine, ""), "mean over the mirror image": (mine, "_mirror"),
                   f"mean of {len(mine)} networks and mirror images": (last, "_ensemble")}
    return {"ex4": [{"network": RECIPE["name"], "prediction": name}
                    | {label: tables.percent(of, f"{part}_accuracy{key}") for part, label in (("val", "validation"), ("test", "test"))}
                    for name, (of, key) in predictions.items()]}


def figures(results):
    return {"ex4-recipe": partial(plots.curves, "The recipe of Exercise 4", results)}


if __name__ == "__main__":
    run_main(lambda: drive("ex4", __doc__, train, report, figures, others={
        "ladder": (train_ladder, report_ladder, figures_ladder), "search": (train_search, report_search, figures_search)}))
