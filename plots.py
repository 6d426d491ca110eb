"""Figures from results. The only importer of matplotlib; nothing is trained here.

    python plots.py                                        # draw every figure of results/ again
    python plots.py results/cifar10 --format pdf --out DIR

A driver calls figure(). That describes the figure in results/<dataset>/figures/<name>.json: its kind, what its title
says, the command that makes it, and its runs by the names of their files. It is drawn from this description and the files
in results/<dataset>/runs, by whom and when it may be. Curves are means over the seeds with a band of +- one standard
deviation.
"""

import argparse
import io
import json
import shlex
import sys
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import tables

HOME = Path(__file__).resolve().parent
FORMATS = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}  # what else would differ each time
WIDTH = 6.3  # inches: 16 cm, the text of a page, so that letters are printed in their own size
# colours that the colour-blind can tell apart (Okabe and Ito); the marker tells the same without colour
STYLES = {
    "without BN": {"color": "#D55E00", "marker": "o", "linewidth": 2.2, "markersize": 5},  # seen behind another line
    "with BN": {"color": "#0072B2", "marker": "s"},
    "BN before the activation": {"color": "#0072B2", "marker": "s"},
    "BN after the activation": {"color": "#009E73", "marker": "^", "linestyle": "--"},
    "SVM loss": {"color": "#000000", "marker": "v", "linestyle": "--"},
    "without momentum": {"color": "#CC79A7", "marker": "D", "linestyle": ":"},
    "average pooling": {"color": "#E69F00", "marker": "^", "linestyle": "-."},
    "BN, eps 2.2e-16": {"color": "#0072B2", "marker": "s"},
    "BN, eps 1e-5": {"color": "#009E73", "marker": "^", "linestyle": "--"},
}
OTHERS = [
    {"color": "#56B4E9", "marker": "P"},
    {"color": "#E69F00", "marker": "X"},
    {"color": "#CC79A7", "marker": "D"},
    {"color": "#000000", "marker": "v"},
    {"color": "#F0E442", "marker": "*"},
    {"color": "#009E73", "marker": "<"},
]
STAGES = {
    "coarse": {"color": "#0072B2", "marker": "o"},
    "fine 1": {"color": "#E69F00", "marker": "s"},
    "fine 2": {"color": "#D55E00", "marker": "^"},
}
WORDS = {"val": "validation", "train": "training"}
UNITS = {"accuracy": "accuracy, %", "loss": "loss, nats", "cost": "cost J, nats"}
plt.rcParams.update(
    {
        "font.size": 8,
        "axes.titlesize": 8.5,
        "axes.labelsize": 8,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "legend.fontsize": 8,
        "figure.titlesize": 9,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "lines.linewidth": 1.3,
        "lines.markersize": 3.5,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
        "svg.hashsalt": "kbn",
        "legend.frameon": False,
    }
)


class CannotDraw(Exception):
    """A figure cannot be drawn. One line: which figure and file, what is wrong, the command that makes it."""


# ------------------------------------------------------------------------------------------- descriptions and pictures


def figure(lab, kind, name, net, runs, **more):
    """Describe a figure in results/<dataset>/figures/<name>.json, and draw figures/<dataset>/<name>.png from it.

    lab: see experiment.open_lab. kind: a key of KINDS. net: what the title says beside dataset and seeds. runs: results
    of experiment.train in dicts and lists, as the function of that kind takes them; more: its other arguments, which
    JSON can hold.
    """
    description = {"kind": kind, "dataset": lab["title"], "net": net, "command": lab["command"]}
    description |= {"more": more, "runs": named(runs)}
    path = lab["results"] / "figures" / f"{name}.json"
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in description.items()]
    tables.write(path, "{" + ",\n ".join(lines) + "}\n")
    draw(path, lab["figures"])


def named(runs):
    """runs with each result replaced by the name of its file."""
    if isinstance(runs, list):
        return [named(part) for part in runs]
    return runs["name"] if "config" in runs else {str(label): named(part) for label, part in runs.items()}


def describe(path):
    """Read the description of a figure. Raises CannotDraw."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(description, dict) and all(
            isinstance(description.get(key), str) for key in ("kind", "dataset", "net", "command")
        ):
            return description
    except (OSError, ValueError):
        pass
    raise CannotDraw(f"{path.stem}: its description {path} is missing or damaged; the driver that wrote it writes it again")


def read_runs(path, description):
    """The results that a description names, in its dicts and lists, and a flat list of them. Raises CannotDraw."""
    folder, found, wrong = path.parent.parent / "runs", {}, []

    def read(runs):
        if isinstance(runs, list):
            return [read(part) for part in runs]
        if isinstance(runs, dict):
            return {label: read(part) for label, part in runs.items()}
        file = folder / f"{runs}.json"
        if runs not in found:
            try:
                found[runs] = json.loads(file.read_text(encoding="utf-8"))
                found[runs]["config"], found[runs]["seed"], found[runs]["val_accuracy"], found[runs]["history"]["epoch"]
            except FileNotFoundError:
                wrong.append(f"{file} is missing")
            except (OSError, ValueError, KeyError, TypeError):
                wrong.append(f"{file} is damaged")
        return found.get(runs)

    runs = read(description.get("runs"))
    if wrong:
        more = f" (and {len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
        raise CannotDraw(f"{path.stem}: {wrong[0]}{more}; {command(path, description)} makes it")
    return runs, list(found.values())


def command(path, description):
    """The command that makes a figure and its runs."""
    root = path.resolve().parents[3]
    return description["command"] + ("" if root == HOME else f" --out {shlex.quote(str(root))}")


def draw(path, folder, format="png"):
    """Draw the figure that path describes into folder. Returns the picture's path. Raises CannotDraw, OSError."""
    description = describe(path)
    runs, results = read_runs(path, description)
    try:
        drawn = KINDS[description["kind"]](runs, **description.get("more", {}))
        n = len({result["seed"] for result in results})
        seeds = (
            f"seed {results[0]['seed']}" if n == 1 else SEVERAL.get(description["kind"], "mean ± sd of {n} seeds").format(n=n)
        )
        title = textwrap.wrap(f"{description['dataset']}: {description['net']}", 95)
        drawn.suptitle("\n".join([*title, seeds]))
        image = io.BytesIO()
        drawn.savefig(image, format=format, metadata=FORMATS[format])
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, StopIteration) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise CannotDraw(
            f"{path.stem}: its description and results do not fit together ({what}); {command(path, description)} makes both"
        ) from None
    finally:
        plt.close("all")
    folder.mkdir(parents=True, exist_ok=True)
    tables.write(folder / f"{path.stem}.{format}", image.getvalue())
    return folder / f"{path.stem}.{format}"


# ---------------------------------------------------------------------------------------------------------- all kinds


def styles(labels):
    """The style of each label: the one that it has in all figures, or one that no label before it has."""
    others = iter(OTHERS * len(labels))
    return {label: STYLES[label] if label in STYLES else next(others) for label in labels}


def column(result, part, name):
    """A column of a result's history; accuracies in percent."""
    return np.array(result["history"][part][name]) * (100 if name.endswith("accuracy") else 1)


def words(name):
    """A column's name and unit for an axis: "val_accuracy" is "validation accuracy, %"."""
    return " ".join(UNITS.get(word, WORDS.get(word, word)) for word in name.replace("_", " ").split())


def band(axes, results, part, name, **style):
    """Draw one column of the histories against the update step: the mean over results, and +- sd around it."""
    steps = results[0]["history"][part]["t"]
    spread(
        axes,
        steps,
        np.array([column(result, part, name) for result in results]).T,
        **{"markevery": max(1, len(steps) // 20), **style},
    )


def spread(axes, x, values, **style):
    """Draw the mean of values (len(x), n) over the n seeds against x, and a band of +- sd around it."""
    mean = values.mean(axis=1)
    axes.plot(x, mean, **style)
    if values.shape[1] > 1:
        sd = values.std(axis=1, ddof=1)
        axes.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=0.2, linewidth=0)


def legend_below(figure, axes, ncols):
    """The legend of one of the panels, below all of them, where it hides nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=ncols)


def panels(rows, columns, height, **options):
    """A figure of rows x columns panels, height inches high."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False, **options)


# ---------------------------------------------------------------- the kinds: runs as figure was given, results in the leaves


def curves(runs):
    """Cost, loss, accuracy and eta over training. runs: results by label, "without BN" or "with BN"."""
    figure, axes = panels(2, 2, 4.4, sharex=True)
    for panel, what in zip(axes.flat, ("cost", "loss", "accuracy")):
        for label, style in styles(runs).items():
            band(panel, runs[label], "epoch", f"train_{what}", label=f"{label}, training", **style)
            band(
                panel,
                runs[label],
                "epoch",
                f"val_{what}",
                label=f"{label}, validation",
                **style | {"linestyle": "--", "linewidth": 1, "markersize": 4, "markerfacecolor": "white"},
            )
        panel.set_ylabel(words(what))
    band(axes[1, 1], next(iter(runs.values())), "update", "eta", color="black")
    axes[1, 1].set(xlabel="update step", ylabel="learning rate eta")
    axes[1, 0].set_xlabel("update step")
    legend_below(figure, axes[0, 0], 2)
    return figure


def compared(runs):
    """Validation and training accuracy after each epoch, a line for each of runs, results by label."""
    figure, axes = panels(1, 2, 3.2)
    for label, style in styles(runs).items():
        for panel, name in zip(axes.flat, ("val_accuracy", "train_accuracy")):
            band(panel, runs[label], "epoch", name, label=label, **style)
            panel.set(xlabel="update step", ylabel=words(name))
    legend_below(figure, axes[0, 0], 3)
    return figure


def search(runs, draws):
    """Validation accuracy of every trial of the search for lambda. runs: results by stage; draws: how each stage draws it."""
    figure, axes = panels(1, 1, 3.6)
    axes = axes[0, 0]
    for stage, results in runs.items():
        axes.plot(
            [result["config"]["lam"] for result in results],
            [100 * result["val_accuracy"] for result in results],
            linestyle="",
            label=f"{stage}, lambda from {draws[stage]}: {len(results)} trials",
            alpha=0.8,
            **STAGES[stage],
        )
    trials = [result for results in runs.values() for result in results]
    best = [
        max((trial for trial in trials if trial["seed"] == seed), key=lambda trial: trial["val_accuracy"])
        for seed in {trial["seed"] for trial in trials}
    ]
    axes.plot(
        [trial["config"]["lam"] for trial in best],
        [100 * trial["val_accuracy"] for trial in best],
        linestyle="",
        marker="o",
        markersize=9,
        markerfacecolor="none",
        color="black",
        label="the best trial of a seed",
    )
    axes.set(xscale="log", xlabel="lambda", ylabel="validation accuracy after training, %")
    legend_below(figure, axes, 2)
    return figure


def sensitivity(runs):
    """Training loss (above) and validation accuracy (below), a column for each sigma. runs: results by label, by sigma."""
    figure, axes = panels(2, len(runs), 4.2, sharex=True, sharey="row")
    for (loss, accuracy), (title, nets) in zip(axes.T, runs.items()):
        for i, (label, style) in enumerate(styles(nets).items()):
            style = {"markevery": (i % len(nets), len(nets)), **style}  # markers that take turns, for lines that coincide
            band(loss, nets[label], "epoch", "train_loss", label=label, **style)
            band(accuracy, nets[label], "epoch", "val_accuracy", **style)
        loss.set_title(title)
        accuracy.set_xlabel("update step")
    axes[0, 0].set_ylabel(words("train_loss"))
    axes[1, 0].set_ylabel(words("val_accuracy"))
    legend_below(figure, axes[0, 0], 3)
    return figure


def swept(runs, what, numbers):
    """A number of each result against what is swept, on a logarithmic axis, a panel for each of numbers.

    runs: by the panels' titles, results by label, by value. numbers: "val_accuracy", "best val_accuracy" (of all epochs),
    "last train_loss", ... for each panel.
    """
    figure, axes = panels(1, len(runs), 3.2)
    for panel, (title, nets), number in zip(axes.flat, runs.items(), numbers, strict=True):
        for label, style in styles(nets).items():
            values = [[number_of(result, number) for result in results] for results in nets[label].values()]
            spread(panel, list(map(float, nets[label])), np.array(values), label=label, **style)
        panel.set(xscale="log", xlabel=what, ylabel=words(number), title="" if title in words(number) else title)
    legend_below(figure, axes[0, 0], 3)
    return figure


def number_of(result, name):
    """The number of a result that swept calls so."""
    which, _, name = name.rpartition(" ")
    if which not in ("", "best", "last"):
        raise ValueError(f"{which} {name}: there are best, last, or none")
    if not which:
        return 100 * result[name]
    return column(result, "epoch", name).max() if which == "best" else column(result, "epoch", name)[-1]


def scores(runs):
    """Mean (above) and standard deviation (below) of each layer's scores over training. runs: watched results by label."""
    names = [name.removesuffix("_mean") for name in next(iter(runs.values()))[0]["history"]["epoch"] if name.endswith("_mean")]
    figure, axes = panels(2, len(names), 4.2, sharex=True)
    for (mean, sd), layer in zip(axes.T, names):
        for label, style in styles(runs).items():
            band(mean, runs[label], "epoch", f"{layer}_mean", label=label, **style)
            band(sd, runs[label], "epoch", f"{layer}_sd", **style)
        mean.set_title(f"layer {layer.removeprefix('S')}")
        sd.set_xlabel("update step")
    axes[0, 0].set_ylabel("mean of scores")
    axes[1, 0].set_ylabel("sd of scores")
    legend_below(figure, axes[0, 0], 3)
    return figure


def filters(runs):
    """The filters of the first layer, an image's planes together: grey, or in colour for three planes. runs: a result."""
    W = np.array(runs["filters"])
    figure = pictures((W - W.min()) / np.ptp(W), [f"{i}" for i in range(1, len(W) + 1)])
    figure.supxlabel(f"{len(W)} filters of {W.shape[2]} x {W.shape[3]}; black {W.min():.2f}, white {W.max():.2f}", fontsize=8)
    return figure


def images_of(raw, result):
    """What mistakes needs of the dataset, raw (see datasets.load): the images that a result names, their classes."""
    images = {
        str(i): {"class": int(raw["test_labels"][i]), "pixels": raw["test_images"][i].tolist()} for i, _ in result["mistakes"]
    }
    return {"classes": list(raw["classes"]), "shape": list(raw["shape"]), "n_test": len(raw["test_labels"]), "images": images}


def mistakes(runs, classes, shape, n_test, images):
    """The first test images that a net took for others, each with its class and the predicted one. runs: a result."""
    wrong = [(images[str(i)], predicted) for i, predicted in runs["mistakes"]]
    shades = np.array([image["pixels"] for image, _ in wrong]).reshape(-1, *shape) / 255
    figure = pictures(
        shades,
        [
            f"{textwrap.fill(classes[image['class']], 16)}\n{textwrap.fill('not ' + classes[predicted], 16)}"
            for image, predicted in wrong
        ],
    )
    n = round(n_test * (1 - runs["test_accuracy"]))
    figure.supxlabel(f"{len(wrong)} of its {n} mistakes in {n_test} test images: what it is, not what the net says", fontsize=8)
    return figure


def pictures(shades, texts):
    """Images (n, planes, h, w) of 0..1, each under its text."""
    columns = min(8, max(1, len(texts)))
    rows = -(-len(texts) // columns) or 1
    lines = max((text.count("\n") + 1 for text in texts), default=1)
    figure, axes = panels(rows, columns, 0.9 + (0.72 + 0.13 * lines) * rows)
    for panel in axes.flat:
        panel.axis("off")
    for panel, image, text in zip(axes.flat, shades.transpose(0, 2, 3, 1), texts):
        panel.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
        panel.set_title(text, fontsize=7, pad=2)
    return figure


def gaps(runs):
    """Training less test accuracy after training: a dot for each seed, mean and +- sd. runs: results by net, by label."""
    figure, axes = panels(1, len(runs), 3.0, sharey=True)
    for panel, (net, labelled) in zip(axes.flat, runs.items()):
        for place, (label, style) in enumerate(styles(labelled).items()):
            values = np.array(
                [column(result, "epoch", "train_accuracy")[-1] - 100 * result["test_accuracy"] for result in labelled[label]]
            )
            sd = values.std(ddof=1) if len(values) > 1 else 0
            panel.errorbar([place], [values.mean()], [sd], capsize=4, label=label, **style | {"linestyle": "", "markersize": 6})
            panel.plot(np.full(len(values), place + 0.2), values, ".", color=style["color"], markersize=3)
        panel.set(title=net, xticks=[], xlim=(-0.5, len(labelled) - 0.3))
    axes[0, 0].set_ylabel("training - test accuracy, points")
    legend_below(figure, axes[0, 0], 3)
    return figure


KINDS = {
    function.__name__: function for function in (curves, compared, search, sensitivity, swept, scores, gaps, filters, mistakes)
}
SEVERAL = {"search": "{n} searches, one for each seed"}


# ---------------------------------------------------------------------------------------------------------- the script


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        metavar="RESULTS",
        help="folders such as results/cifar10 (default: all in results/ beside this script)",
    )
    parser.add_argument("--format", choices=FORMATS, default="png", help="default: png; pdf and svg are vector graphics")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write to DIR/<dataset>/ (default: figures/<dataset>/, where the drivers write)"
    )
    args = parser.parse_args(argv)
    wrong = []
    for folder in args.results or sorted(path.parent for path in HOME.glob("results/*/figures")):
        folder = folder.resolve()
        paths = sorted(folder.glob("figures/*.json"))
        if not paths:
            wrong.append(f"{folder} holds no descriptions of figures (figures/*.json); the drivers write them")
        for path in paths:
            try:
                print(draw(path, (args.out or folder.parent.parent / "figures") / folder.name, args.format))
            except (CannotDraw, OSError) as error:
                wrong.append(str(error))
    if not (wrong or args.results or any(HOME.glob("results/*/figures/*.json"))):
        wrong.append(f"{HOME / 'results'} holds no descriptions of figures; the drivers write them")
    for line in wrong:
        print(f"plots.py: error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # for letters that the terminal lacks
    sys.exit(main())
