"""Modular nets and the solver, on CIFAR-10. (Document C)

    python run_solver.py              one seed, about 3 minutes on 2 cores
    python run_solver.py --seeds 3    the README's table

The two-layer net with plain SGD and a learning rate that decays after each epoch; a three-layer net that must learn 50
examples by heart; an 8-layer net with and without BN, its weights drawn with standard deviations from 1e-4 to 1; and
the gradient table of a three-layer net. Expect about 53 % validation accuracy for the two layers, 100 % training accuracy
on the 50 examples, and that BN trains from far more scales.
Writes results/<dataset>/solver*.md and .csv, every run in results/<dataset>/runs, and figures/<dataset>/solver-*.png.
"""

import numpy as np

import experiment
import gradcheck
import kbn
import nets
import plots
import tables

# C's nets see pixels of 0..255 less the mean image, its solver multiplies eta by decay after each epoch
SOLVER = {"scale": "none", "schedule": "step", "n_val": 1_000, "lam": 0.0}
ROWS = [
    (
        "2-layer",
        "SGD, eta 1e-3, decay .8, 10 epochs",
        SOLVER | {"specs": [["affine", 100], ["relu"], ["affine", 10]], "n_train": 49_000, "sigma": 1e-3, "eta_max": 1e-3},
        "val. 53.80",
    ),
    (
        "3-layer",
        "50 examples, 20 epochs",
        SOLVER
        | {
            "specs": [["affine", 100], ["relu"], ["affine", 100], ["relu"], ["affine", 10]],
            "n_train": 50,
            "sigma": 1e-2,
            "n_batch": 25,
            "n_epochs": 20,
            "eta_max": 1e-2,
            "decay": 1.0,
        },
        "training 100",
    ),
]
DEEP = [["affine", 50], ["relu"]] * 7 + [["affine", 10]]
SCALED = {
    "n_train": 5_000,
    "n_val": 1_000,
    "n_batch": 50,
    "schedule": "step",
    "n_epochs": 15,
    "eta_max": 1e-2,
    "decay": 0.9,
    "momentum": 0.9,
    "lam": 0.0,
}
SIGMAS = [float(f"{sigma:.2g}") for sigma in np.logspace(-4, 0, 13)]
VARIANTS = {"without BN": DEEP, "with BN": nets.with_bn(DEEP)}
REGS = {
    0.0: ["1.40e-07", "2.98e-06", "1.05e-07", "8.84e-09", "1.31e-09", "9.81e-11"],  # C's errors of W1..W3, b1..b3
    3.14: ["1.13e-07", "8.49e-08", "5.27e-08", "1.27e-06", "1.43e-09", "2.22e-10"],
}


def gradient_table(seed=0):
    """The gradients of a three-layer net by both numerical methods, for C's two reg = 2 lambda. Raises if one is wrong."""
    specs, shape = [["affine", 20], ["relu"], ["affine", 30], ["relu"], ["affine", 10]], (15,)
    net, rows = nets.build(specs, shape), []
    for reg, reported in REGS.items():
        rng = np.random.default_rng(seed)
        params = nets.init_params(specs, shape, rng, sigma=5e-2, dtype=np.float64)
        X, Y = rng.standard_normal((15, 9)), kbn.one_hot(rng.integers(10, size=9), 10, np.float64)
        _, cache = net["forward"](X, params)
        checked = {
            row["parameter"]: row
            for row in gradcheck.check(
                lambda params: kbn.compute_cost(X, Y, params, reg / 2, net=net)[0],
                params,
                net["backward"](Y, params, cache, reg / 2),
            )
        }
        for name, theirs in zip(["W1", "W2", "W3", "b1", "b2", "b3"], reported):
            if checked[name]["failed"]:
                raise ArithmeticError(f"the gradient of {name} is wrong: {checked[name]}")
            rows.append([f"{reg:g}", name, *(f"{checked[name][method]:.1e}" for method in ("complex", "central")), theirs])
    return tables.markdown([["reg", "parameter", "complex step", "central difference", "C"], *rows])


def main():
    cells = [(label, sigma) for label in VARIANTS for sigma in SIGMAS]
    lab = experiment.open_lab(experiment.options(__doc__), len(ROWS) + len(cells))
    results = experiment.train_all_seeds(lab, [experiment.config(**config) for _, _, config, _ in ROWS])
    scaled = experiment.train_all_seeds(
        lab,
        [experiment.config(**SCALED, specs=VARIANTS[label], sigma=sigma) for label, sigma in cells],
        test=False,
        may_diverge=True,
    )

    experiment.write_table(
        lab,
        "solver",
        [
            experiment.row(network, setting, trained, training=best(trained, "train_accuracy"), **{"C (CIFAR-10)": C})
            for (network, setting, _, C), trained in zip(ROWS, results)
        ],
    )
    experiment.write_table(
        lab,
        "solver_scales",
        [
            {
                "network": "8-layer",
                "setting": f"sigma {sigma:.1e}, {label}",
                "best validation": best(trained, "val_accuracy"),
                "best training": best(trained, "train_accuracy"),
                "diverged": sum("diverged" in result for result in trained),
            }
            for (label, sigma), trained in zip(cells, scaled)
        ],
    )
    table = gradient_table()
    tables.write(lab["results"] / "solver_gradients.md", table)
    print(f"\nRelative errors of the gradients of a three-layer net\n\n{table}")

    for (network, setting, _, _), trained, name in zip(ROWS, results, ("solver-2-layer", "solver-50-examples")):
        plots.figure(lab, "curves", name, f"{network}, {setting}", {"without BN": trained})
    by_scale = {
        label: {sigma: trained for (other, sigma), trained in zip(cells, scaled) if other == label} for label in VARIANTS
    }
    plots.figure(
        lab,
        "swept",
        "solver-scales",
        "8-layer, 7 x 50 hidden nodes, 5,000 images",
        dict.fromkeys(["validation", "training", "training loss"], by_scale),
        what="sigma of the initial weights",
        numbers=["best val_accuracy", "best train_accuracy", "last train_loss"],
    )


def best(results, column):
    """Summary of the best epoch of each result."""
    return experiment.summary([{column: max(result["history"]["epoch"][column])} for result in results], column)


if __name__ == "__main__":
    experiment.guarded(main)
