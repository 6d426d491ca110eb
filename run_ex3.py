"""Exercise 3: batch normalization, and the search for lambda. (DD2424 Assignment 3) The main job.

    python run_ex3.py              one seed, under 4 minutes on 2 cores
    python run_ex3.py --seeds 5    the README's table

The 3-, 6- and 9-layer networks with BN in the default setting, beside the same without it; a search for lambda on the
validation set, 10 draws from 1e-5 .. 1e-1 and twice 5 around the best so far, made anew for each seed; then 3 cycles with
the best. Expect that BN changes nothing beyond the noise in 3 layers, and that it gains points in 9.
Writes results/<dataset>/ex3*.md and .csv, every run in results/<dataset>/runs, and figures/<dataset>/ex3-*.png.
"""

import numpy as np

import experiment
import plots

# network, setting, config, test accuracy that document A reports, that B reports; each without BN, then with it
ROWS = [
    ("3-layer", "default", {"hidden": [50, 50]}, "~52", "53.60"),
    ("3-layer BN", "default", {"hidden": [50, 50], "batch_norm": True}, "~53.5", "53.23"),
    ("6-layer", "default", {"hidden": [50, 30, 20, 20, 10]}, "", ""),
    ("6-layer BN", "default", {"hidden": [50, 30, 20, 20, 10], "batch_norm": True}, "", ""),
    ("9-layer", "default", {"hidden": [50, 30, 20, 20, 10, 10, 10, 10]}, "drops by quite a bit", "44.11"),
    ("9-layer BN", "default", {"hidden": [50, 30, 20, 20, 10, 10, 10, 10], "batch_norm": True}, "not bad!", "50.19"),
]
SEARCHED = {"hidden": [50, 50], "batch_norm": True}
COARSE, LOG_RANGE = 10, (-5, -1)  # the coarse search draws lambda = 10^U(-5, -1), 10 times
FINE, AROUND_BEST = 5, (0.8, 1.2)  # each of the two fine ones U(.8, 1.2) times the best so far, 5 times
DRAWS = {"coarse": f"10^U{LOG_RANGE}", "fine 1": f"U{AROUND_BEST} x best", "fine 2": f"U{AROUND_BEST} x best"}


def search(lab):
    """Search for lambda once for each seed. Returns the trials, results of experiment.train, by stage."""
    rngs = [np.random.default_rng([seed, 3]) for seed in range(lab["opts"].seeds)]
    trials = {}
    for stage in ("coarse", "fine 1", "fine 2"):
        runs = []
        for seed, rng in enumerate(rngs):
            if stage == "coarse":
                lams = 10 ** rng.uniform(*LOG_RANGE, COARSE)
            else:
                lams = rng.uniform(*AROUND_BEST, FINE) * best(trials, seed)["config"]["lam"]
            runs += [(experiment.config(**SEARCHED, lam=lam), seed) for lam in lams.tolist()]
        trials[stage] = experiment.train(lab, runs, test=False)
    return trials


def best(trials, seed):
    """The trial of this seed with the highest validation accuracy so far."""
    mine = (trial for stage in trials.values() for trial in stage if trial["seed"] == seed)
    return max(mine, key=lambda trial: trial["val_accuracy"])


def main():
    lab = experiment.open_lab(experiment.options(__doc__), len(ROWS) + COARSE + 2 * FINE + 1)
    results = experiment.train_all_seeds(lab, [experiment.config(**config) for _, _, config, _, _ in ROWS])
    trials = search(lab)
    winners = [best(trials, seed) for seed in range(lab["opts"].seeds)]
    lams = [winner["config"]["lam"] for winner in winners]
    longer = experiment.train(
        lab, [(experiment.config(**SEARCHED, lam=lam, n_cycles=3), seed) for seed, lam in enumerate(lams)]
    )

    table = [
        experiment.row(network, setting, nets, **{"A (CIFAR-10)": A, "B (CIFAR-10)": B})
        for (network, setting, _, A, B), nets in zip(ROWS, results)
    ]
    table += [
        {
            "network": "3-layer BN",
            "setting": "best lambda of 20: " + ", ".join(f"{lam:.2e}" for lam in lams),
            "validation": experiment.summary(winners, "val_accuracy"),
            "test": "",
            "A (CIFAR-10)": "",
            "B (CIFAR-10)": "val. 53.40 at 7.86e-03",
        },
        experiment.row("3-layer BN", "best lambda, 3 cycles", longer, **{"A (CIFAR-10)": "", "B (CIFAR-10)": "53.92"}),
    ]
    found = [
        {"seed": trial["seed"], "stage": stage, "lambda": trial["config"]["lam"], "validation": 100 * trial["val_accuracy"]}
        for stage, chosen in trials.items()
        for trial in chosen
    ]
    experiment.write_table(lab, "ex3_search", found)
    experiment.write_table(lab, "ex3", table)

    for (network, _, config, _, _), plain, normalised in zip(ROWS[::2], results[::2], results[1::2]):
        plots.figure(
            lab, "curves", f"ex3-{network}", f"{network} {config['hidden']}", {"without BN": plain, "with BN": normalised}
        )
    plots.figure(lab, "curves", "ex3-best-lambda", "3-layer [50, 50] with BN, best lambda, 3 cycles", {"with BN": longer})
    plots.figure(lab, "search", "ex3-search", "3-layer [50, 50] with BN, search for lambda", trials, draws=DRAWS)


if __name__ == "__main__":
    experiment.guarded(main)
