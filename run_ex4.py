"""Exercise 4: how far fully connected networks go on CIFAR-10, and what each change brings. (DD2424 Assignment 3)

    python run_ex4.py --seeds 2                two networks side by side, about an hour on 2 cores
    python run_ex4.py --long --seeds 2         the same recipe for longer, about two and a half hours on 2 cores
    python run_ex4.py --ladder --seeds 5       what each change brings, about four hours on 2 cores
    python run_ex4.py --reverse --seeds 3      what the recipe owes to each of its parts, about three hours on 2 cores
    python run_ex4.py --search                 random search by successive halving, about an hour on 2 cores

The recipe: three hidden layers of 1024 units with BN, whitened pictures, mirrored and shifted mini-batches, dropout, Nesterov's
momentum and a cosine learning rate. Its table has single networks, their predictions averaged over the mirror image, and the
mean prediction of all networks.

The ladder: from Exercise 3's 3-layer network with BN one change after the other is tried. A change is kept if the mean
validation accuracy of the seeds gains from it. Then each kept change is taken out alone. All trainings have 20 epochs. Every
one of these networks gets the same six trials of eta_max and lambda around the best so far, on a seed of their own, and its
seeds are trained with the best of the six. The two changes whose loss costs most are checked with five times the epochs. The
last networks are averaged, over seeds and over the ends of one training's cycles. The test set is not used.

The reverse ladder: the recipe with a fifth of its epochs, and the same with each of its parts taken out alone, all with the
recipe's eta_max and lambda (ten times eta_max without momentum).

The search: 27 draws of all hyper-parameters are trained for 4 epochs, the best third of them again for 12, and the best third
of those for 36, each with a whole cosine. It uses the validation set alone.
"""

from functools import partial

import numpy as np

from lab import models, plots, statistics, tables, training, tuning, workers
from lab.driver import drive
from lab.settings import config, row, run_main

RECIPE = row("one hour", hidden=3 * [1024], bn="before", rule="nesterov", momentum=0.9, n_batch=250, eta_max=0.1, lam=2.5e-4,
             n_epochs=200, jitter={"share": 0.5, "s": 3}, zca=0.1, keep=0.9)
LONG = row("two and a half hours", **RECIPE["config"] | {"n_epochs": 500})

START = config(hidden=[50, 50], bn="before")  # Exercise 3: 2 cycles of 2 x 2250 updates, 20 epochs
EPOCHS, LONGER = 20, 5  # the budget of the ladder, and what it is multiplied by to check the largest gains
CHANGES = {  # name: what it does to a config c
    "momentum .9":           lambda c: {"momentum": 0.9},
    "256 units":             lambda c: {"hidden": [256, 256]},
    "mirror images":         lambda c: {"jitter": {**(c["jitter"] or {}), "share": 0.5}},
    "shifts by up to 3":     lambda c: {"jitter": {**(c["jitter"] or {}), "s": 3}},
    "colours":               lambda c: {"jitter": {**(c["jitter"] or {}), "brightness": 0.1, "contrast": 0.2, "colour": 0.05}},
    "whitening":             lambda c: {"zca": 0.1},
    "whitening with shifts": lambda c: {"zca": 0.1, "jitter": {**(c["jitter"] or {}), "s": 3}},
    "dropout of inputs":     lambda c: {"keep_input": 0.9},
    "dropout of units":      lambda c: {"keep": 0.9},
    "BN after the ReLU":     lambda c: {"bn": "after"},
    "BN off":                lambda c: {"bn": "off"},
    "4 layers":              lambda c: {"hidden": c["hidden"] + c["hidden"][-1:]},
    "Nesterov's momentum":   lambda c: {"rule": "nesterov", "momentum": 0.9},
    "cosine learning rate":  lambda c: {"n_epochs": EPOCHS},
    "label smoothing .1":    lambda c: {"smoothing": 0.1},
}
PARTS = {"whitening with shifts": ["shifts by up to 3", "whitening"]}  # tried together, taken out alone
TRIALS = [(1, 1), (2, 1), (0.5, 1), (1, 4), (1, 16), (1, 0.25)]  # factors of eta_max and lambda
FIRST, LAST, CYCLES = "3-layer BN of Exercise 3", "whitening after mirror and shift", "ends of the cycles of one training"


def climb(network):
    """Return the rungs of the ladders, three lists of dicts: forwards, backwards, and what is tried at the end.

    A rung has a name, kept (whether it gained), results, and below, the results that they are compared with.
    network(name, config, tuned=True) returns the results of the seeds; tuned with the best trial's eta_max and lambda around
    those of config.
    """
    best = network(FIRST, START)
    forwards = [rung(FIRST, best, best)]
    for name, change in CHANGES.items():
        c = best[0]["config"]
        forwards.append(rung(name, network(name, around(c, c | change(c))), best))
        best = forwards[-1]["results"] if forwards[-1]["kept"] else best
    c, kept, backwards = best[0]["config"], ingredients(forwards), []
    for name in kept:
        rest = START
        for other in kept:
            rest = rest if other == name else rest | CHANGES[other](rest)
        backwards.append(rung(f"without: {name}", network(f"without: {name}", around(c, rest)), best) | {"kept": True})
    long = network(f"{LONGER} times the epochs", longer(c), tuned=False)
    more = [rung(f"{LONGER} times the epochs", long, best)]
    for step in sorted(backwards, key=lambda step: step["gain"])[:2]:
        name = f"{LONGER} times the epochs, {step['name']}"
        more.append(rung(name, network(name, longer(step["results"][0]["config"]), tuned=False), long))
    if c["zca"] and c["jitter"]:
        more.append(rung(LAST, network(LAST, c | {"zca_last": True}, tuned=False), best))
    return forwards, backwards, more


def ingredients(forwards):
    """The names of the changes that were kept, without repetitions, parts instead of what was tried together."""
    kept = [part for step in forwards[1:] if step["kept"] for part in PARTS.get(step["name"], [step["name"]])]
    return list(dict.fromkeys(kept))


def rung(name, results, below):
    """A rung of a ladder; gain is its mean gain in validation accuracy over those below it."""
    gain = np.mean([result["val_accuracy"] for result in results]) - np.mean([result["val_accuracy"] for result in below])
    return {"name": name, "results": results, "below": below, "gain": gain, "kept": gain > 0 or results is below}


def around(best, c):
    """c with eta_max and lambda of best. With momentum .9 gradients act ten times as long, so that eta_max is a tenth."""
    eta_max = best["eta_max"] * (10 if best["momentum"] else 1) / (10 if c["momentum"] else 1)
    return c | {"eta_max": eta_max, "lam": best["lam"]}


def longer(c):
    """c with LONGER times the epochs."""
    return c | ({"n_epochs": LONGER * c["n_epochs"]} if c["n_epochs"] else {"n_s": LONGER * c["n_s"]})


def train_ladder(raw, opts):
    announce(f"the ladder trains about {50 * opts.seeds} networks of 20 epochs, four hours on 2 cores with 5 seeds", opts)
    results = {}

    def network(name, c, tuned=True):
        configs = [c | {"eta_max": c["eta_max"] * eta, "lam": c["lam"] * lam} for eta, lam in TRIALS] if tuned else [c]
        results.update(tuning.tuned(name, configs, raw, opts, seeds=opts.seeds, test=False, keep=True))
        return results[name]

    _, _, more = climb(network)
    best, long = more[0]["below"], more[0]["results"]
    c = best[0]["config"] | {"n_epochs": None, "n_cycles": LONGER, "n_s": START["n_s"] * START["n_cycles"], "snapshots": True}
    whole = tuning.tuned(CYCLES, [c], raw, opts, seeds=1, test=False, keep=True)[CYCLES][0]
    whole |= {"history": {}, "duration_s": whole["duration_s"] / LONGER}
    whole = {key: value for key, value in whole.items() if not key.startswith("val_accuracy")}
    results[CYCLES] = [whole | {"run": f"{whole['run']}-cycle{i}"} for i in range(1, LONGER + 1)]
    for nets in (best, long, results[CYCLES]):
        add_ensembles(nets, raw, opts, ("val",))
    return results


def report_ladder(results, published):
    forwards, backwards, more = climb(lambda name, *_, **__: results[name])
    best = more[0]["below"]
    singles = [result | {"val_accuracy": result["val_accuracy_mirror"]} for result in best]
    mean = {"seed": best[-1]["seed"], "val_accuracy": np.mean([result["val_accuracy"] for result in singles])}
    together = [best[-1] | {"val_accuracy": best[-1]["val_accuracy_ensemble"]}]
    more += [rung("predictions averaged over mirror images", singles, best),
             rung(f"and over {len(best)} networks", together, [mean])]
    tables_of = {"ex4_ladder": forwards, "ex4_ladder_reverse": backwards, "ex4_ladder_more": more}
    lines = {name: [line(step) for step in steps] for name, steps in tables_of.items()}
    lines["ex4_ladder"] = [{"kept": "yes" if step["kept"] else "no"} | line for step, line in zip(forwards, lines["ex4_ladder"])]
    lines["ex4_ladder"][0]["gain"] = ""
    return {name: rows for name, rows in lines.items() if rows}


def line(step):
    """The line of a rung in its table."""
    mine, c = step["results"], step["results"][0]["config"]
    return {"change": step["name"], "validation": tables.percent(mine, "val_accuracy"),
            "gain": statistics.text(statistics.paired(step["below"], mine, "val_accuracy")),
            "eta_max": c["eta_max"], "lambda": c["lam"],
            "updates": mine[0]["history"].get("t", [0])[-1], "parameters": parameters(c),
            "s per run": float(np.median([result["duration_s"] for result in mine]))}


def parameters(c, d=3072, K=10):
    """The number of parameters of a network of config c."""
    dims = [d, *c["hidden"], K]
    return sum((m_in + 1) * m for m_in, m in zip(dims, dims[1:])) + (c["bn"] != "off") * 2 * sum(c["hidden"])


def figures_ladder(results):
    forwards, backwards, more = climb(lambda name, *_, **__: results[name])
    nets = {"seeds": more[0]["below"], f"seeds, {LONGER} times the epochs": more[0]["results"], CYCLES: results[CYCLES]}
    panels = {"one after the other, from the top": forwards[1:], "each taken out of all that were kept": backwards}
    return {"ex4-ladder": partial(plots.ladder, "What each change brings, forwards and backwards", panels),
            "ex4-ensembles": partial(plots.ensembles, "Mean predictions of several networks and mirror images", nets)}


WITHOUT = {  # what the recipe has: how it is taken out of a config c
    "momentum":             lambda c: {"rule": "momentum", "momentum": 0.0, "eta_max": 10 * c["eta_max"]},
    "Nesterov's form":      lambda c: {"rule": "momentum"},
    "width":                lambda c: {"hidden": [256] * len(c["hidden"])},
    "the last hidden layer": lambda c: {"hidden": c["hidden"][:-1]},
    "mirror images":        lambda c: {"jitter": {**c["jitter"], "share": 0.0}},
    "shifts":               lambda c: {"jitter": {**c["jitter"], "s": 0}},
    "whitening":            lambda c: {"zca": None},
    "dropout of units":     lambda c: {"keep": 1.0},
    "BN":                   lambda c: {"bn": "off"},
    "cosine learning rate": lambda c: {"n_epochs": None, "n_cycles": 1, "n_s": c["n_epochs"] * c["n_train"] // c["n_batch"] // 2},
}
SHORTER = 5  # of the recipe's epochs, one in so many
WHOLE = f"the recipe in {RECIPE['config']['n_epochs'] // SHORTER} epochs"


def train_reverse(raw, opts):
    announce(f"the reverse ladder trains {len(WITHOUT) + 1} networks with each seed, about three hours on 2 cores with 3 seeds", opts)
    c = RECIPE["config"] | {"n_epochs": RECIPE["config"]["n_epochs"] // SHORTER}
    rows = [row(WHOLE, **c), *(row(f"without: {name}", **c | change(c)) for name, change in WITHOUT.items())]
    return workers.train(rows, raw, opts, test=False, may_diverge=True)


def rungs_of_reverse(results):
    """The rungs of the reverse ladder, see climb."""
    return [rung(name, mine, results[WHOLE]) | {"kept": True} for name, mine in results.items() if name != WHOLE]


def report_reverse(results, published):
    whole = line(rung(WHOLE, results[WHOLE], results[WHOLE])) | {"gain": ""}
    return {"ex4_reverse": [whole, *map(line, rungs_of_reverse(results))]}


def figures_reverse(results):
    return {"ex4-reverse": partial(plots.ladder, "What the recipe owes to its parts", {f"taken out of {WHOLE}": rungs_of_reverse(results)})}


ROUNDS = {4: 27, 12: 9, 36: 3}  # epochs: trials


def draw(rng):
    """One trial of the search: a config without its number of epochs."""
    return config(
        hidden=[int(rng.choice([256, 512, 1024]))] * int(rng.integers(2, 6)), bn=str(rng.choice(["off", "before", "after"])),
        rule="nesterov", momentum=0.9, n_batch=250,
        eta_max=float(10 ** rng.uniform(-2.5, -0.5)), lam=float(10 ** rng.uniform(-5, -2.5)),
        keep=float(rng.uniform(0.7, 1)), keep_input=float(rng.uniform(0.8, 1)),
        zca=[None, 0.03, 0.1, 0.3, 1.0][rng.integers(5)],
        jitter={"share": 0.5, "s": int(rng.integers(5)), "contrast": float(rng.uniform(0, 0.4)),
                "brightness": float(rng.uniform(0, 0.2))})


def train_search(raw, opts):
    announce("the search trains 39 networks, about an hour on 2 cores", opts)
    rng, results = np.random.default_rng(4), {}
    trials = [draw(rng) for _ in range(max(ROUNDS.values()))]
    for n_epochs, n in ROUNDS.items():
        runs = [(row(f"{n_epochs} epochs", **c | {"n_epochs": n_epochs}), tuning.TRIAL_SEED) for c in trials[:n]]
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


def train(recipe, raw, opts):
    announce(f"each network takes about {recipe['name']} with two of them side by side", opts)
    results = workers.train([recipe], raw, opts)
    add_ensembles(results[recipe["name"]], raw, opts, ("val", "test"))
    return results


def add_ensembles(results, raw, opts, parts):
    """Add to each result the accuracies of the mean prediction of all networks up to its own, mirror images included.

    What a result lacks of its network's own accuracies is added as well. parts: "val" and "test", or one of them.
    """
    c = results[0]["config"]
    val = slice(c["n_train"], c["n_train"] + c["n_val"])
    data = {"val": (raw["images"][val], raw["labels"][val]), "test": (raw["test_images"], raw["test_labels"])}
    nets = [models.load(opts.store / "models" / f"{result['run']}.npz") for result in results]
    for part in parts:
        (images, y), total = data[part], 0
        for result, model in zip(results, nets):
            X = training.standardise(images, model["mean"], model["sd"])
            net = [model[name] for name in ("net", "params", "stats", "hp")]
            alone, mirrored = training.probabilities(X, *net), training.probabilities(X, *net, raw["shape"])
            total = total + mirrored
            result.setdefault(f"{part}_accuracy", share_of_hits(alone, y))
            result.setdefault(f"{part}_accuracy_mirror", share_of_hits(mirrored, y))
            result[f"{part}_accuracy_ensemble"] = share_of_hits(total, y)


def share_of_hits(P, y):
    """The share of the columns of P (K, n) whose largest entry is that of y (n,)."""
    return float((P.argmax(axis=0) == y).mean())


def report(results, published):
    ((name, mine),) = results.items()
    last = mine[-1:]
    predictions = {"one network": (mine, ""), "mean over the mirror image": (mine, "_mirror"),
                   f"mean of {len(mine)} networks and mirror images": (last, "_ensemble")}
    parts = {"val": "validation", "test": "test"}
    return {f"ex4{suffix(results)}": [
        {"training": name, "prediction": prediction}
        | {label: tables.percent(of, f"{part}_accuracy{key}") for part, label in parts.items()}
        for prediction, (of, key) in predictions.items()]}


def suffix(results):
    """What the names of the files of a recipe's results end with."""
    return "_long" if LONG["name"] in results else ""


def figures(results):
    return {f"ex4-recipe{suffix(results)}": partial(plots.curves, "The recipe of Exercise 4", results)}


def announce(text, opts):
    """Print what begins, and how long it will take."""
    if not opts.quiet:
        print(text, flush=True)


if __name__ == "__main__":
    run_main(lambda: drive("ex4", __doc__, partial(train, RECIPE), report, figures, seeds=2, others={
        "long": (partial(train, LONG), report, figures), "ladder": (train_ladder, report_ladder, figures_ladder),
        "reverse": (train_reverse, report_reverse, figures_reverse),
        "search": (train_search, report_search, figures_search)}))
