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
    "BN, eps 2.2e-16": {"color": "#0072B2", "marker": "s"},
    "BN, eps 1e-5": {"color": "#009E73", "marker": "^"},
}
STAGES = {"coarse": {"color": "#0072B2", "marker": "o"}, "fine 1": {"color": "#E69F00", "marker": "s"},
          "fine 2": {"color": "#D55E00", "marker": "^"}}
plt.rcParams.update({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "lines.linewidth": 1.5, "lines.markersize": 4,
                     "savefig.dpi": 130, "axes.titlesize": 10, "figure.titlesize": 12})


def band(axes, results, part, column, **style):
    """Draw one column of the histories against the update step: the mean over results, and +- sd around it."""
    t = results[0]["history"][part]["t"]
    values = np.array([result["history"][part][column] for result in results])
    mean = values.mean(axis=0)
    axes.plot(t, mean, **style)
    if len(results) > 1:
        sd = values.std(axis=0, ddof=1)
        axes.fill_between(t, mean - sd, mean + sd, color=style["color"], alpha=0.2, linewidth=0)


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
