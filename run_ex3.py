"""Exercise 3: batch normalization, and the search for lambda. (DD2424 Assignment 3) The main job.

    python run_ex3.py              one seed, 4 to 5 minutes on 2 cores
    python run_ex3.py --seeds 5    the published tables

The 3-, 6- and 9-layer networks with BN off and before the ReLU in the default setting; a search for lambda on the
validation set, 10 draws from 1e-5 .. 1e-1, 5 around the best of them and 5 around the best of these, repeated for each
seed; then 3 cycles with the best lambda. Expect no measurable gain from BN with 3 layers, 2 points with 6 and 3 points with 9.
"""
from functools import partial

import numpy as np

from lab import plots, statistics, tables, workers
from lab.driver import accuracies, drive
from lab.settings import row, run_main

SIX, NINE = [50, 30, 20, 20, 10], [50, 30, 20, 20, 10, 10, 10, 10]
ROWS = [
    row("3-layer",    hidden=[50, 50],              reported={"assignment": "~52"}),
    row("3-layer BN", hidden=[50, 50], bn="before", reported={"assignment": "~53.5"}),
    row("6-layer",    hidden=SIX),
    row("6-layer BN", hidden=SIX,      bn="before"),
    row("9-layer",    hidden=NINE,                  reported={"assignment": "drops by quite a bit"}),
    row("9-layer BN", hidden=NINE,     bn="before", reported={"assignment": "not bad!"}),
]
SEARCHED = {"hidden": [50, 50], "bn": "before"}
STAGES = {  # how many lambdas each stage of the search draws, and how; best is the best lambda of the stage before
    "coarse": (10, lambda rng, n, best: 10 ** rng.uniform(-5, -1, n)),
    "fine 1": (5, lambda rng, n, best: best * rng.uniform(0.8, 1.2, n)),
    "fine 2": (5, lambda rng, n, best: best * rng.uniform(0.8, 1.2, n)),
}
LONGER = "best lambda, 3 cycles"


def train(raw, opts):
    results = workers.train(ROWS, raw, opts)
    rngs = [np.random.default_rng([seed, 3]) for seed in range(opts.seeds)]
    centres = [None] * opts.seeds
    for stage, (n, draw) in STAGES.items():
        trials = [(row(stage, **SEARCHED, lam=float(lam), setting=f"lambda {lam:.3g}"), seed) for seed, rng in enumerate(rngs)
                  for lam in draw(rng, n, centres[seed])]
        found = workers.train_runs(trials, raw, opts, test=False)
        centres = [best_trial(found, seed)["config"]["lam"] for seed in range(opts.seeds)]
        results |= found
    longer = [(row(LONGER, **SEARCHED, lam=best_trial(results, seed)["config"]["lam"], n_cycles=3), seed)
              for seed in range(opts.seeds)]
    return results | workers.train_runs(longer, raw, opts)


def trials_of(results, seed):
    """The trials of this seed's search in results, as pairs (stage, result)."""
    return [(stage, trial) for stage in STAGES for trial in results.get(stage, []) if trial["seed"] == seed]


def best_trial(results, seed):
    """The trial in results of this seed with the highest validation accuracy."""
    return max((trial for _, trial in trials_of(results, seed)), key=lambda trial: trial["val_accuracy"])


def report(results, published):
    seeds = [result["seed"] for result in results[LONGER]]
    longer = row(LONGER, setting="the best of 20 lambdas, for each seed", **SEARCHED)
    search = [{"seed": seed, "stage": stage, "lambda": trial["config"]["lam"], "validation, %": 100 * trial["val_accuracy"]}
              for seed in seeds for stage, trial in trials_of(results, seed)]
    found = [{"seed": seed, "trials": len(trials_of(results, seed)), "best lambda": best_trial(results, seed)["config"]["lam"],
              "validation": tables.percent([best_trial(results, seed)], "val_accuracy"),
              "test, 3 cycles": tables.percent([result], "test_accuracy")}
             for seed, result in zip(seeds, results[LONGER], strict=True)]
    gains = [{"network": net, "BN off": tables.percent(results[net], "test_accuracy"),
              "BN before": tables.percent(results[f"{net} BN"], "test_accuracy"),
              "gain in test accuracy, 95 % interval": statistics.text(
                  statistics.paired(results[net], results[f"{net} BN"]))}
             for net in ("3-layer", "6-layer", "9-layer")]
    return {"ex3_search": search, "ex3_best": found, "ex3": accuracies([*ROWS, longer], results, published),
            "ex3_gain": gains}


def figures(results):
    places = {net: {"off": results[net], "before": results[f"{net} BN"]} for net in ("3-layer", "6-layer", "9-layer")}
    drawn = {f"ex3-{net}": partial(plots.curves, f"{net} network, BN off and before", nets) for net, nets in places.items()}
    return drawn | {
        "ex3-depth": partial(plots.dots, "Networks of 3, 6 and 9 layers, BN off and before", places, "test_accuracy",
                             "test accuracy, %"),
        "ex3-search": partial(plots.search, "Search for lambda, 3-layer network, BN before",
                              {stage: results[stage] for stage in STAGES}),
    }


if __name__ == "__main__":
    run_main(lambda: drive("ex3", __doc__, train, report, figures))
