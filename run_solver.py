"""Modular networks and the solver, on CIFAR-10. (The CS231n report)

    python run_solver.py              one seed, under 2 minutes on 2 cores
    python run_solver.py --seeds 3    the published tables

A two-layer network, trained by plain SGD with a learning rate that decays after each epoch; a three-layer network that
overfits 50 examples; an 8-layer network with BN off and before the ReLU, from initial weights of 13 scales between 1e-4
and 1; and the report's gradient errors and initial losses of a three-layer network, among those of 1,000 draws of it.
Expect about 54 % validation accuracy for two layers, 100 % training accuracy on the 50 examples, and that BN trains from
far more scales.
"""
from functools import partial

import numpy as np

import kbn
import nets
from lab import gradients, plots, tables, workers
from lab.driver import accuracies, drive
from lab.settings import row, run_main

SOLVER = {"scale": "none", "n_val": 1_000, "lam": 0.0}  # pixels minus the mean image
TWO = [["affine", 100], ["relu"], ["affine", 10]]
THREE = [["affine", 100], ["relu"], ["affine", 100], ["relu"], ["affine", 10]]
ROWS = [
    row("2-layer", **SOLVER, specs=TWO, n_train=49_000, sigma=1e-3, eta_max=1e-3, decay=0.8, n_epochs=10,
        setting="eta 1e-3, decay .8, 10 epochs; not in the report: 100 units, sigma 1e-3, split, last epoch",
        reported={"CS231n report, validation": "53.80"}),
    row("50 examples", **SOLVER, specs=THREE, n_train=50, sigma=1e-2, n_batch=25, eta_max=1e-2, decay=1.0, n_epochs=20,
        setting="3-layer, 20 epochs"),
]
DEEP = [["affine", 50], ["relu"]] * 7 + [["affine", 10]]
SIGMAS = [float(f"{sigma:.2g}") for sigma in np.logspace(-4, 0, 13)]
SCALED = {"n_train": 5_000, "n_val": 1_000, "n_batch": 50, "eta_max": 1e-2, "decay": 0.9, "n_epochs": 15, "momentum": 0.9,
          "lam": 0.0}
PLACES = ["off", "before"]


def name(sigma, bn):
    return f"8-layer, sigma {sigma:g}, BN {bn}"


SCALES = [row(name(sigma, bn), specs=nets.with_bn(DEEP, bn), sigma=sigma, **SCALED) for bn in PLACES for sigma in SIGMAS]
CHECKED, NAMES = [["affine", 20], ["relu"], ["affine", 30], ["relu"], ["affine", 10]], ["W1", "W2", "W3", "b1", "b2", "b3"]
REPORTED = {  # the CS231n report's initial loss and gradient errors of W1..W3, b1..b3 for its reg, which is 2 lambda
    0.0:  ["2.29461318783", "1.40e-07", "2.98e-06", "1.05e-07", "8.84e-09", "1.31e-09", "9.81e-11"],
    3.14: ["6.71422109668", "1.13e-07", "8.49e-08", "5.27e-08", "1.27e-06", "1.43e-09", "2.22e-10"],
}


def train(raw, opts):
    return workers.train(ROWS, raw, opts) | workers.train(SCALES, raw, opts, test=False, may_diverge=True)


def draw_gradients(n_draws=1_000, seed=0):
    """Draw a three-layer network and two examples, as CS231n's notebook does. Returns the initial losses and gradient errors.

    The losses (n_draws, 2) are for both reg of REPORTED, the errors (n_draws, 6, 2) also for W1..W3, b1..b3. The error of a
    parameter is the largest |a - n| / max(1e-8, |a| + |n|) of an entry, n by central differences with the step 1e-5. Those
    above 1e-4 are, with few exceptions, of a ReLU that switches within the step.
    """
    net, lam = nets.build(CHECKED, (15,)), np.array(list(REPORTED))[:, None] / 2
    losses, errors = [], []
    for draw in range(n_draws):
        rng = np.random.default_rng([seed, draw])
        params = nets.init_params(CHECKED, (15,), rng, sigma=5e-2, dtype=np.float64)
        X, Y = rng.standard_normal((15, 2)), kbn.one_hot(rng.integers(10, size=2), 10, np.float64)
        cost = partial(gradients.stacked_cost, X, Y, lam=lam)
        cache = net.forward(X, params)[1]
        grads = [net.backward(Y, params, cache, one) for one in lam[:, 0]]
        pairs = [(np.stack([grad[key].ravel() for grad in grads]), gradients.slopes(cost, params, key, 1e-5)) for key in NAMES]
        errors.append([(abs(a - n) / np.maximum(1e-8, abs(a) + abs(n))).max(axis=1) for a, n in pairs])
        losses.append(cost(params)[:, 0])
    return np.array(losses), np.array(errors)


def gradient_tables(losses, errors):
    """Return two tables: where the report's numbers lie among those of draw_gradients. A quantile is the share not above it."""
    of_gradients, of_losses = [], []
    for i, (reg, (loss, *printed)) in enumerate(REPORTED.items()):
        cells = {"mean": f"{losses[:, i].mean():.4f}", "standard deviation": f"{losses[:, i].std(ddof=1):.4f}"}
        of_losses.append({"reg": f"{reg:g}", "CS231n report": loss, **cells, "its quantile": quantile(loss, losses[:, i])})
        for key, error, drawn in zip(NAMES, printed, errors[:, :, i].T, strict=True):
            cells = {"median": f"{np.median(drawn):.1e}", "smallest": f"{drawn.min():.1e}", "largest": f"{drawn.max():.1e}"}
            of_gradients.append({"reg": f"{reg:g}", "parameter": key, "CS231n report": error, **cells,
                                 "its quantile": quantile(error, drawn)})
    return {"solver_gradients": of_gradients, "solver_losses": of_losses}


def quantile(printed, drawn):
    """The share of drawn numbers that are not above the printed one."""
    return f"{np.mean(drawn <= float(printed)):.3f}"


def best_epoch(results, column):
    """The summary of each result's best epoch, in percent; chance if it diverged."""
    return tables.summary([100 * max(result["history"].get(column, [result["val_accuracy"]])) for result in results])


def report(results, published):
    solver = [line | {"best validation": best_epoch(results[line["network"]], "val_accuracy"),
                      "best training": best_epoch(results[line["network"]], "train_accuracy")}
              for line in accuracies(ROWS, results, published)]
    scales = [{"network": "8-layer", "sigma": f"{sigma:g}", "BN": bn,
               "best validation": best_epoch(results[name(sigma, bn)], "val_accuracy"),
               "best training": best_epoch(results[name(sigma, bn)], "train_accuracy"),
               "diverged": sum(bool(result["diverged"]) for result in results[name(sigma, bn)])}
              for bn in PLACES for sigma in SIGMAS]
    return {"solver": solver, "solver_scales": scales, **gradient_tables(*draw_gradients())}


def figures(results):
    def best(column):
        return lambda result: 100 * max(result["history"][column])

    numbers = {"best validation accuracy, %": best("val_accuracy"), "best training accuracy, %": best("train_accuracy"),
               "training loss, nats": lambda result: result["history"]["train_loss"][-1]}
    scales = {bn: {sigma: results[name(sigma, bn)] for sigma in SIGMAS} for bn in PLACES}
    return {
        "solver-2-layer": partial(plots.curves, "2-layer network, SGD with a decaying learning rate", {"off": results["2-layer"]}),
        "solver-50-examples": partial(plots.curves, "3-layer network on 50 examples", {"off": results["50 examples"]}),
        "solver-scales": partial(plots.swept, "8-layer network, 5,000 images", dict.fromkeys(numbers, scales),
                                 "sigma of the initial weights", list(numbers.values())),
    }


if __name__ == "__main__":
    run_main(lambda: drive("solver", __doc__, train, report, figures))
