"""Convolutional nets on MNIST. (Document D)

    python run_mnist.py              one seed, about 10 minutes on 2 cores
    python run_mnist.py --seeds 3    the README's table

A fully connected and a convolutional net (twice convolution, ReLU, max pooling, then affine), trained with the softmax loss
and momentum; and what becomes of them when one thing is changed: with batch normalization, with the SVM loss, without
momentum, with average pooling. The learning rates are the same. Expect over 98 % for the fully connected net with BN, over
99 % for the convolutional ones.
Writes results/<dataset>/mnist.md and .csv, every run in results/<dataset>/runs, and figures/<dataset>/mnist-*.png: curves,
the filters of the first layer, and the first test digits that the convolutional net with BN takes for others.
"""

import experiment
import nets
import plots

SETTING = {
    "scale": "all",
    "n_train": 55_000,
    "n_val": 5_000,
    "n_s": 1_100,
    "n_cycles": 1,
    "eta_max": 0.03,
    "lam": 1e-4,
    "momentum": 0.9,
}
NETS = {
    "fully connected": [["affine", 256], ["relu"], ["affine", 128], ["relu"], ["affine", 10]],
    "convolutional": [
        ["conv", 16, 5, 1, 2],
        ["relu"],
        ["max_pool", 2],
        ["conv", 32, 5, 1, 2],
        ["relu"],
        ["max_pool", 2],
        ["affine", 10],
    ],
}


def variants(specs):
    """The config of each variant of a net, by its name in the table."""
    averaged = [["avg_pool", *numbers] if kind == "max_pool" else [kind, *numbers] for kind, *numbers in specs]
    configs = {
        "without BN": {"specs": specs},
        "with BN": {"specs": nets.with_bn(specs)},
        "SVM loss": {"specs": specs, "loss": "svm"},
        "without momentum": {"specs": specs, "momentum": 0.0},
    }
    if averaged != specs:
        configs["average pooling"] = {"specs": averaged}
    return {name: SETTING | config for name, config in configs.items()}


def main():
    cells = {(net, variant): config for net, specs in NETS.items() for variant, config in variants(specs).items()}
    lab = experiment.open_lab(experiment.options(__doc__, dataset="mnist"), len(cells))
    results = dict(zip(cells, experiment.train_all_seeds(lab, [experiment.config(**config) for config in cells.values()])))
    experiment.write_table(lab, "mnist", [experiment.row(net, variant, trained) for (net, variant), trained in results.items()])
    for net in NETS:
        plots.figure(
            lab,
            "compared",
            f"mnist-{net.replace(' ', '-')}",
            f"{net} net, one thing changed at a time",
            {variant: trained for (other, variant), trained in results.items() if other == net},
        )
    normalised = results["convolutional", "with BN"][0]
    plots.figure(lab, "filters", "mnist-filters", "first layer of the convolutional net with BN", normalised)
    plots.figure(
        lab, "mistakes", "mnist-mistakes", "convolutional net with BN", normalised, **plots.images_of(lab["raw"], normalised)
    )


if __name__ == "__main__":
    experiment.guarded(main)
