"""A driver for the tests: nets of a second each, with all that a checkpoint must keep, and a trial of a search."""

import os

import experiment

experiment.CLUSTER_TIMEOUT = float(os.environ.get("CLUSTER_TIMEOUT", 20))
experiment.SMOKE = {"n_train": 1_000, "n_val": 500}
SETTING = {"hidden": [12], "n_batch": 20, "n_s": 600, "n_cycles": 2, "eta_max": 0.02, "momentum": 0.9, "keep": 0.8}
NETS = [SETTING | {"batch_norm": True}, SETTING | {"hidden": [12, 8]}]
TRIAL = SETTING | {"batch_norm": True, "lam": 1e-3}


def main():
    lab = experiment.open_lab(experiment.options(__doc__), len(NETS) + 1)
    results = experiment.train_all_seeds(lab, [experiment.config(**net) for net in NETS])
    experiment.train(lab, [(experiment.config(**TRIAL), seed) for seed in range(lab["opts"].seeds)], test=False)
    experiment.write_table(
        lab, "small", [experiment.row("small", str(net["hidden"]), nets) for net, nets in zip(NETS, results)]
    )


if __name__ == "__main__":
    experiment.guarded(main)
