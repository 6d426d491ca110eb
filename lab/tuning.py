"""Arms of a comparison that are tuned alike: the same trials for each, on seeds that are used for nothing else."""

import numpy as np

from lab import workers
from lab.settings import row

TRIAL_SEED = 1000  # the first of the seeds of trials


def tuned(name, configs, raw, opts, *, seeds, trials=1, test=True, keep=None):
    """Train each of configs with some trial seeds, and the one of highest mean validation accuracy with seeds 0 .. seeds - 1.

    A diverged training counts with the accuracy of chance. trials: how many trial seeds. test, keep: see workers.train_runs.
    A smoke test has one trial of the first and one of the last config.
    Returns {name: results} and, if there are several configs, "name, trial": the results of all trials, in their order.
    """
    if opts.smoke:
        configs, trials = configs[:: max(1, len(configs) - 1)], 1
    results, best, trial = {}, configs[0], f"{name}, trial"
    if len(configs) > 1:
        runs = [(row(trial, **config), TRIAL_SEED + i) for config in configs for i in range(trials)]
        results = workers.train_runs(runs, raw, opts, test=False, may_diverge=True)
        accuracies = np.reshape([result["val_accuracy"] for result in results[trial]], (len(configs), trials))
        best = configs[int(accuracies.mean(axis=1).argmax())]
    runs = [(row(name, **best), seed) for seed in range(seeds)]
    return results | workers.train_runs(runs, raw, opts, test=test, keep=keep, may_diverge=True)
