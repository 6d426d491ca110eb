"""Convolutional networks on MNIST. (The MNIST homework)

    python run_mnist.py              one seed, 6 minutes on 2 cores
    python run_mnist.py --seeds 3    the published table

A fully connected and a convolutional network (twice convolution, ReLU, max pooling, then affine), trained with the softmax
loss and momentum, and variants of both with one change each: with batch normalization, with the SVM loss, without
momentum, with average pooling. The learning rates are the same. Expect over 98 % for the fully connected network with BN
and 99 % for the convolutional ones with momentum. One figure shows the filters of the first layer, another the first
digits that the convolutional network with BN misclassifies.

Where the data folder holds mnist_all.mat, the homework's own file, it is read in the place of the IDX files. It has the same
images in another order, so that the validation set and the results differ; results of one never take the place of the other's.
"""
from functools import partial

import nets
from lab import plots, workers
from lab.driver import accuracies, drive, gains
from lab.settings import row, run_main

SETTING = {"scale": "all", "n_train": 55_000, "n_val": 5_000, "n_s": 1_100, "n_cycles": 1, "eta_max": 0.03, "lam": 1e-4,
           "momentum": 0.9}
FULL = [["affine", 256], ["relu"], ["affine", 128], ["relu"], ["affine", 10]]
CONV = [["conv", 16, 5, 1, 2], ["relu"], ["max_pool", 2], ["conv", 32, 5, 1, 2], ["relu"], ["max_pool", 2], ["affine", 10]]
AVERAGED = [["avg_pool", *numbers] if kind == "max_pool" else [kind, *numbers] for kind, *numbers in CONV]
ROWS = [row(name, **{**SETTING, **config}) for name, config in {
    "fully connected":                {"specs": FULL},
    "fully connected, BN":            {"specs": nets.with_bn(FULL)},
    "fully connected, SVM loss":      {"specs": FULL, "loss": "svm"},
    "fully connected, no momentum":   {"specs": FULL, "momentum": 0.0},
    "convolutional":                  {"specs": CONV},
    "convolutional, BN":              {"specs": nets.with_bn(CONV), "pictures": 40},
    "convolutional, SVM loss":        {"specs": CONV, "loss": "svm"},
    "convolutional, no momentum":     {"specs": CONV, "momentum": 0.0},
    "convolutional, average pooling": {"specs": AVERAGED},
}.items()]


def train(raw, opts):
    if raw["paths"] and not opts.quiet:
        print(f"read from {', '.join(path.name for path in raw['paths'])}", flush=True)
    return workers.train(ROWS, raw, opts)


def report(results, published):
    pairs = [(name, name.partition(",")[0]) for name in results if "," in name]
    return {"mnist": accuracies(ROWS, results, published),
            "mnist_gain": gains([*pairs, ("convolutional", "fully connected")], results)}


def figures(results):
    drawn = {}
    for net in ("fully connected", "convolutional"):
        variants = {name.removeprefix(net).lstrip(", ") or "softmax loss, momentum": mine
                    for name, mine in results.items() if name.startswith(net)}
        title = f"{net.capitalize()} network, one change at a time"
        drawn[f"mnist-{net.replace(' ', '-')}"] = partial(plots.compared, title, variants)
    shown = results["convolutional, BN"][0]
    return drawn | {
        "mnist-filters": partial(plots.filters, "First layer of the convolutional network with BN", shown),
        "mnist-mistakes": partial(plots.mistakes, "Digits that the convolutional network with BN misclassifies", shown),
    }


if __name__ == "__main__":
    run_main(lambda: drive("mnist", __doc__, train, report, figures, dataset="mnist"))
