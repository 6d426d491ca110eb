"""Figures from results. The only importer of matplotlib; nothing is trained here.

Every function takes the lab (see experiment.open_lab), the file's name, what the title says of the net, and results;
it writes figures/<dataset>/<name>.png. Curves are means over the seeds with a band of +- one standard deviation.
"""
import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import tables

# colours that the colour-blind can tell apart (Okabe and Ito); the line's style tells the same without colour
STYLES = {
    "without BN": {"color": "#D55E00", "marker": "o", "linewidth": 2.5, "markersize": 7},  # seen behind another line
    "with BN": {"color": "#0072B2", "marker": "s"},
    "BN before the activation": {"color": "#0072B2", "marker": "s"},
    "BN after the activation": {"color": "#009E73", "marker": "^", "linestyle": "--"},
    "SVM loss": {"color": "#000000", "marker": "v", "linestyle": "--"},
    "without momentum": {"color": "#CC79A7", "marker": "D", "linestyle": ":"},
    "average pooling": {"color": "#E69F00", "marker": "^", "linestyle": "-."},
    "BN, eps 2.2e-16": {"color": "#0072B2", "marker": "s"},
    "BN, eps 1e-5": {"color": "#009E73", "marker": "^"},
}
STAGES = {"coarse": {"color": "#0072B2", "marker": "o"}, "fine 1": {"color": "#E69F00", "marker": "s"},
          "fine 2": {"color": "#D55E00", "marker": "^"}}
plt.rcParams.update({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "lines.linewidth": 1.5, "lines.markersize": 4,
                     "savefig.dpi": 130, "axes.titlesize": 10, "figure.titlesize": 12})


def band(axes, results, part, column, **style):
    """Draw one column of the histories against the update step: the mean over results, and +- sd around it."""
    spread(axes, results[0]["history"][part]["t"], np.array([result["history"][part][column] for result in results]).T, **style)


def spread(axes, x, values, **style):
    """Draw the mean of values (len(x), n) over the n seeds against x, and a band of +- sd around it."""
    mean = values.mean(axis=1)
    axes.plot(x, mean, **style)
    if values.shape[1] > 1:
        sd = values.std(axis=1, ddof=1)
        axes.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=0.2, linewidth=0)


def curves(lab, name, net, nets):
    """Cost, loss, accuracy and eta over training. nets: results by label, "without BN" or "with BN"."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for panel, what in zip(axes.flat, ("cost", "loss", "accuracy")):
        for label, results in nets.items():
            band(panel, results, "epoch", f"train_{what}", label=f"{label}, training", **STYLES[label])
            band(panel, results, "epoch", f"val_{what}", label=f"{label}, validation",
                 **STYLES[label] | {"marker": "", "linestyle": "--"})
        panel.set(xlabel="update step", ylabel=what)
    axes[0, 0].legend()
    band(axes[1, 1], next(iter(nets.values())), "update", "eta", color="black")
    axes[1, 1].set(xlabel="update step", ylabel="learning rate eta")
    save(lab, figure, name, net, averaged(next(iter(nets.values()))))


def compared(lab, name, net, nets):
    """Validation and training accuracy after each epoch, a line for each of nets, results by label."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for label, results in nets.items():
        band(axes[0], results, "epoch", "val_accuracy", label=label, **STYLES[label])
        band(axes[1], results, "epoch", "train_accuracy", label=label, **STYLES[label])
    for panel, what in zip(axes, ("validation", "training")):
        panel.set(xlabel="update step", ylabel=f"{what} accuracy")
    axes[0].legend()
    save(lab, figure, name, net, averaged(next(iter(nets.values()))))


def filters(lab, name, net, result):
    """The filters of the first layer, those of an image's planes together: grey, or in colour for three planes."""
    W = np.array(result["filters"])
    shades = (W - W.min()) / np.ptp(W)
    pictures(lab, name, f"{net}: {len(W)} filters of {W.shape[2]} x {W.shape[3]}", shades.transpose(0, 2, 3, 1),
             [f"{i}" for i in range(1, len(W) + 1)], f"seed {result['seed']}, white {W.max():.2f}, black {W.min():.2f}")


def mistakes(lab, name, net, result):
    """The first test images that a net took for others, each with its class and the predicted one."""
    raw, wrong = lab["raw"], result["mistakes"]
    shades = raw["test_images"][[i for i, _ in wrong]].reshape(-1, *raw["shape"]).transpose(0, 2, 3, 1) / 255
    words = [f"{raw['classes'][raw['test_labels'][i]]}, taken for\n{raw['classes'][predicted]}" for i, predicted in wrong]
    n = round(len(raw["test_labels"]) * (1 - result["test_accuracy"]))
    pictures(lab, name, f"{net}: {len(wrong)} of its {n} mistakes in {len(raw['test_labels'])} test images", shades, words,
             f"seed {result['seed']}")


def pictures(lab, name, net, shades, words, seeds):
    """Images (n, h, w, planes) of 0..1, each under its words."""
    columns = min(8, len(words))
    figure, axes = plt.subplots(-(-len(words) // columns), columns, squeeze=False, layout="constrained",
                                figsize=(10, 1 + 1.45 * -(-len(words) // columns)))
    for panel in axes.flat:
        panel.axis("off")
    for panel, image, text in zip(axes.flat, shades, words):
        panel.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
        panel.set_title(text, fontsize=8)
    save(lab, figure, name, net, seeds)


def swept(lab, name, net, what, panels):
    """A number of each result against what is swept, on a logarithmic axis, a panel for each number.

    panels: by title pairs of the number, a function of a result, and results by label, by value.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(0.5 + 4.2 * len(panels), 4.6), squeeze=False, layout="constrained")
    for panel, (title, (number, nets)) in zip(axes.flat, panels.items()):
        for label, by_value in nets.items():
            values = np.array([[number(result) for result in results] for results in by_value.values()])
            spread(panel, list(by_value), values, label=label, **STYLES[label])
        panel.set(xscale="log", xlabel=what, title=title)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(nets))
    save(lab, figure, name, net, averaged(next(iter(next(iter(nets.values())).values()))))


def scores(lab, name, net, nets):
    """Mean (above) and standard deviation (below) of each layer's scores over training. nets: watched results by label."""
    names = [column.removesuffix("_mean") for column in next(iter(nets.values()))[0]["history"]["epoch"] if column.endswith("_mean")]
    figure, axes = plt.subplots(2, len(names), figsize=(0.5 + 3.6 * len(names), 6.5), sharex=True, layout="constrained")
    for (mean, sd), layer in zip(axes.T, names):
        for label, results in nets.items():
            band(mean, results, "epoch", f"{layer}_mean", label=label, **STYLES[label])
            band(sd, results, "epoch", f"{layer}_sd", **STYLES[label])
        mean.set_title(f"layer {layer.removeprefix('S')}")
        sd.set_xlabel("update step")
    axes[0, 0].set_ylabel("mean of the scores")
    axes[1, 0].set_ylabel("standard deviation of the scores")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(nets))
    save(lab, figure, name, net, averaged(next(iter(nets.values()))))


def search(lab, name, net, trials):
    """Validation accuracy of every trial of the search for lambda."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for stage, style in STAGES.items():
        chosen = [trial for trial in trials if trial["stage"] == stage]
        axes.plot([trial["lambda"] for trial in chosen], [trial["val_accuracy"] for trial in chosen], linestyle="",
                  label=f"{stage} ({len(chosen)} trials)", alpha=0.8, **style)
    axes.set(xscale="log", xlabel="lambda", ylabel="validation accuracy after training")
    axes.legend()
    n = len({trial["seed"] for trial in trials})
    save(lab, figure, name, net, "one search" if n == 1 else f"{n} searches, one for each seed")


def sensitivity(lab, name, net, panels):
    """Training loss (above) and validation accuracy (below), a column for each sigma. panels: results by label, by sigma."""
    figure, axes = plt.subplots(2, len(panels), figsize=(11, 6.5), sharex=True, sharey="row", layout="constrained")
    for (loss, accuracy), (title, nets) in zip(axes.T, panels.items()):
        for label, results in nets.items():
            band(loss, results, "epoch", "train_loss", label=label, **STYLES[label])
            band(accuracy, results, "epoch", "val_accuracy", **STYLES[label])
        loss.set_title(title)
        accuracy.set_xlabel("update step")
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("validation accuracy")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STYLES))
    save(lab, figure, name, net, averaged(next(iter(next(iter(panels.values())).values()))))


def averaged(results):
    """What the title says of the seeds."""
    return "one seed" if len(results) == 1 else f"mean ± sd of {len(results)} seeds"


def save(lab, figure, name, net, seeds):
    """Title the figure with dataset, net and seeds, and write it."""
    figure.suptitle(f"{lab['title']}: {net}\n{seeds}")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    plt.close(figure)
    tables.write(lab["figures"] / f"{name}.png", image.getvalue())
