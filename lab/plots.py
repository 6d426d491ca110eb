"""Figures of results, as matplotlib Figures. Nothing is trained here, and no file is read.

Each kind of figure is a function of a title and of results (of training) in dicts, whose last level holds lists of results,
one for each seed. nets are {place of BN ("off", "before", "after") or a label of your own: results}. A line is the mean of
the seeds in a band of ± one standard deviation, unless something else is said. Accuracies are drawn in percent.
"""

import io
import math
import textwrap

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from lab import statistics, tables

WIDTH = 6.3  # inches: the text of an A4 page
LABELS = {"off": "BN off", "before": "BN before", "after": "BN after"}  # the ReLU
# Colours that the colour-blind can tell apart (Okabe and Ito). Markers and line styles show the same without colour.
STYLES = {
    "off": {"color": "#D55E00", "marker": "o", "linestyle": "-", "linewidth": 1.8, "markersize": 5},  # seen behind others
    "before": {"color": "#0072B2", "marker": "s", "linestyle": "-"},
    "after": {"color": "#009E73", "marker": "^", "linestyle": "--"},
}
OTHERS = cycler(color=["#E69F00", "#CC79A7", "k", "#56B4E9", "gray"], marker="PDvX<", linestyle=["-.", ":", "--", "-", "--"])
NUMBERS = {
    "cost": "cost, nats", "loss": "loss, nats", "accuracy": "accuracy, %", "train_loss": "training loss, nats",
    "train_accuracy": "training accuracy, %", "val_accuracy": "validation accuracy, %", "test_accuracy": "test accuracy, %",
}  # fmt: skip
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}  # nothing that changes with time
matplotlib.rcParams.update({
    "font.size": 8, "axes.titlesize": 8, "figure.titlesize": 8.5, "figure.labelsize": 8, "legend.frameon": False,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "lines.linewidth": 1.2, "lines.markersize": 4,
    "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False,
    "figure.constrained_layout.use": True, "savefig.dpi": 200, "pdf.fonttype": 42, "svg.hashsalt": "kbn",
})  # fmt: skip


def save(figure, path):
    """Write a figure to path, which ends in .png, .pdf or .svg. Equal figures give equal bytes. Raises OSError."""
    image, suffix = io.BytesIO(), path.suffix[1:]
    figure.savefig(image, format=suffix, metadata=METADATA[suffix])
    tables.write(path, image.getvalue())


def finish(axes, title, nested, several="mean ± sd of {} seeds", training_curves=False):
    """Finish the figure of axes with a title, a line about the results (several: what is drawn of many seeds), and a legend.

    training_curves: whether the figure has some, which are measured on a sample of the training set.
    """
    figure, results = axes.flat[0].figure, list({id(result): result for result in flat(nested)}.values())
    data, seeds = results[0]["data"], sorted({result["seed"] for result in results})
    about = [data["title"], data["note"], several.format(len(seeds)) if len(seeds) > 1 else f"seed {seeds[0]}"]
    if n := len(results) - len(converged(results)):
        about.append(f"{n} of {len(results)} runs diverged")
    if training_curves:
        configs = [result["config"] for result in results]
        samples = {c["n_eval"] for c in configs if c.get("n_eval", math.inf) < c.get("n_train", 0)}
        about += [f"training curves on {n:,} of the training images" for n in sorted(samples)]
    lines = textwrap.wrap(title, 95) + textwrap.wrap("; ".join(filter(None, about)), 95)
    figure.suptitle("\n".join(lines), parse_math=False)
    entries = {label: line for panel in axes.flat for line, label in zip(*panel.get_legend_handles_labels())}
    if entries:
        entries = dict(sorted(entries.items(), key=lambda entry: entry[0] in ("chance", "diverged")))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=2 if len(entries) in (4, 6) else 3)
    return figure


def flat(nested):
    """The results in dicts of lists."""
    return nested if isinstance(nested, list) else [result for part in nested.values() for result in flat(part)]


def converged(results):
    """The results of runs that did not diverge. A diverged run has no history, and its accuracy is that of chance."""
    return [result for result in results if not result["diverged"]]


def styles(nets, panels=None):
    """The style of each of nets with its label: that of STYLES, or the next of OTHERS in order of appearance in panels."""
    labels = dict.fromkeys(label for part in (panels or {"": nets}).values() for label in part)
    others = dict(zip((label for label in labels if label not in STYLES), OTHERS()))
    return {label: (STYLES | others)[label] | {"label": LABELS.get(label, str(label))} for label in nets}


def number_of(result, number):
    """A number of a result, in percent if it is an accuracy. number: its key, or a function of the result."""
    return number(result) if callable(number) else result[number] * (100 if number.endswith("accuracy") else 1)


def spread(axes, x, values, **style):
    """Draw the mean over the seeds of values, for each x a list of numbers, and a band of ± one standard deviation."""
    mean, sd, n = np.array([tables.summary(numbers) for numbers in values]).reshape(-1, 3).T
    axes.plot(x, mean, **style)
    if any(n > 1):
        axes.fill_between(x, mean - sd, mean + sd, color=style["color"], alpha=0.2, linewidth=0)


def draw_histories(axes, nets, name, label="{}", **changes):
    """Draw a column of the histories against the update step. label: what the legend says of each of nets."""
    for turn, (place, style) in enumerate(styles(nets).items()):
        style |= changes | {"label": label.format(style["label"])}
        if histories := [result["history"] for result in converged(nets[place])]:
            steps, values = histories[0]["t"], np.array([history[name] for history in histories]).T
            every = -(-len(steps) // 8)  # markers take turns, since lines may coincide
            style["markevery"] = (len(steps) - 1 - turn) % every, every
            spread(axes, steps, values * (100 if name.endswith("accuracy") else 1), **style)
    axes.set(xlim=(0, None), xlabel="update step")


def draw_chance(axes, nested):
    """Draw a dotted line at the accuracy of chance if a curve comes near it; else it would squeeze the curves."""
    chance = 100 / len(flat(nested)[0]["data"]["classes"])
    if axes.dataLim.y0 < 1.5 * chance:
        axes.axhline(chance, color="black", linestyle=":", linewidth=1, label="chance")


def mark_diverged(axes, x, results, color, turn=0):
    """Put a cross at the foot of the axes if one of the results diverged."""
    if len(converged(results)) < len(results):
        axes.plot(x, 0.03 + 0.05 * turn, "x", color=color, transform=axes.get_xaxis_transform(), label="diverged")


def curves(title, nets):
    """Cost, loss and accuracy on training and validation data during training. Without a penalty the cost is the loss."""
    names = ["cost", "loss", "accuracy"] if any(result["config"]["lam"] for result in flat(nets)) else ["loss", "accuracy"]
    axes, net = Figure((WIDTH, 2.8)).subplots(1, len(names), squeeze=False), "{}, " if len(nets) > 1 else ""
    for panel, name in zip(axes.flat, names):
        draw_histories(panel, nets, f"train_{name}", f"{net}training", linestyle="-")
        draw_histories(panel, nets, f"val_{name}", f"{net}validation", linestyle="--", linewidth=1, markerfacecolor="white")
        panel.set_ylabel(NUMBERS[name])
    draw_chance(axes[0, -1], nets)
    return finish(axes, title, nets, training_curves=True)


def compared(title, nets):
    """Validation and training accuracy during training."""
    axes = Figure((WIDTH, 3)).subplots(1, 2)
    for panel, name in zip(axes, ("val_accuracy", "train_accuracy")):
        draw_histories(panel, nets, name)
        draw_chance(panel, nets)
        panel.set_ylabel(NUMBERS[name])
    return finish(axes, title, nets, training_curves=True)


def search(title, stages):
    """Validation accuracy against lambda, a ring with the seed at each seed's best trial. stages: {stage: all its trials}."""
    axes = Figure((WIDTH, 3.2)).subplots(squeeze=False)
    panel, best = axes[0, 0], {}
    for stage, style in styles(stages).items():
        style |= {"linestyle": "", "alpha": 0.8, "label": f"{stage}: {len(stages[stage])} trials"}
        for trial in stages[stage]:
            x, y, seed = trial["config"]["lam"], number_of(trial, "val_accuracy"), trial["seed"]
            mark_diverged(panel, x, [trial], style["color"])
            if not trial["diverged"]:
                panel.plot(x, y, **style)
                best[seed] = max(best.get(seed, (y, x)), (y, x))
    for turn, (seed, (y, x)) in enumerate(sorted(best.items(), key=lambda item: item[1][1])):
        side, align = (-6, "right") if turn < len(best) / 2 else (6, "left")
        panel.annotate(f"seed {seed}", (x, y), (side, 0), textcoords="offset points", ha=align, va="center", fontsize=7)
        panel.plot(x, y, "o", color="black", markerfacecolor="none", markersize=8, label="best trial of each seed")
    panel.set(xscale="log", xlabel="lambda", ylabel=NUMBERS["val_accuracy"])
    return finish(axes, title, stages, "searches with {} seeds")


def sensitivity(title, panels):
    """Training loss above, validation accuracy below, a line for each seed. panels: {"sigma 1e-1": nets}, a column each."""
    axes = Figure((WIDTH, 4.2)).subplots(2, len(panels), squeeze=False, sharex=True, sharey="row")
    for (loss, accuracy), (head, nets) in zip(axes.T, panels.items()):
        for seed in sorted({result["seed"] for result in flat(nets)}):
            of_seed = {place: [result for result in results if result["seed"] == seed] for place, results in nets.items()}
            draw_histories(loss, of_seed, "train_loss", linewidth=0.9, markersize=3)
            draw_histories(accuracy, of_seed, "val_accuracy", linewidth=0.9, markersize=3)
        draw_chance(accuracy, panels)
        loss.set(title=head, xlabel="")
    axes[0, 0].set_ylabel(NUMBERS["train_loss"])
    axes[1, 0].set_ylabel(NUMBERS["val_accuracy"])
    return finish(axes, title, panels, "a line for each of {} seeds", training_curves=True)


def swept(title, panels, what, number):
    """A number of each result against a value, on a logarithmic axis.

    panels: {panel title: {place or label: {value: results}}}. what: the name of the value. number: a key of the results.
    It may also be a function of a result, or a list of keys and functions, one for each panel; the panels' titles then name it.
    """
    axes = Figure((WIDTH, 3)).subplots(1, len(panels), squeeze=False, sharey=isinstance(number, str))
    numbers = number if isinstance(number, list) else [number] * len(panels)
    for panel, (head, nets), key in zip(axes.flat, panels.items(), numbers, strict=True):
        for turn, (place, style) in enumerate(styles(nets, panels).items()):
            values = {x: [number_of(result, key) for result in converged(results)] for x, results in nets[place].items()}
            drawn = [x for x in values if values[x]]
            spread(panel, drawn, [values[x] for x in drawn], **style)
            for x, results in nets[place].items():
                panel.plot([x] * len(values[x]), values[x], ".", color=style["color"], markersize=3)
                mark_diverged(panel, x, results, style["color"], turn)
        panel.set(xscale="log", xlabel=what, ylabel=head)
        ticks = sorted({x for results in nets.values() for x in results})
        if len(ticks) <= min(8, 24 // len(panels)):  # few enough to be read
            panel.set_xticks(ticks, [f"{x:g}" for x in ticks])
            panel.minorticks_off()
        if isinstance(number, str):
            panel.set(title=head, ylabel=NUMBERS[number] if panel is axes[0, 0] else "")
    return finish(axes, title, panels, "mean ± sd of {} seeds, a dot for each")


def scores(title, nets):
    """Mean (above) and standard deviation (below) of the scores of each layer. The results are of watched runs."""
    layers = dict.fromkeys(name[:-5] for result in flat(nets) for name in result["history"] if name.endswith("_mean"))
    axes = Figure((WIDTH, 3.8)).subplots(2, max(1, len(layers)), squeeze=False, sharex=True, sharey="row")
    for (mean, sd), layer in zip(axes.T, layers):
        draw_histories(mean, nets, f"{layer}_mean")
        draw_histories(sd, nets, f"{layer}_sd")
        mean.set(title=f"layer {layer[1:]}", xlabel="")
    axes[0, 0].set_ylabel("mean of the scores")
    axes[1, 0].set_ylabel("standard deviation\nof the scores")
    return finish(axes, title, nets)


def dots(title, panels, number, ylabel):
    """A number of each result: a dot for each seed beside mean ± sd. panels: {panel title: nets}. number: see number_of."""
    axes = Figure((WIDTH, 3)).subplots(1, len(panels), squeeze=False, sharey=True)
    for panel, (head, nets) in zip(axes.flat, panels.items()):
        for x, (place, style) in enumerate(styles(nets, panels).items()):
            mark_diverged(panel, x, nets[place], style["color"])
            if values := [number_of(result, number) for result in converged(nets[place])]:
                panel.errorbar(x, *tables.summary(values)[:2], capsize=4, **style | {"linewidth": 1.2, "label": None})
                panel.plot([x + 0.2] * len(values), values, ".", color=style["color"])
        panel.set(title=head, xlim=(-0.5, len(nets) - 0.3))
        panel.set_xticks(range(len(nets)), [textwrap.fill(style["label"], 9) for style in styles(nets).values()])
    axes[0, 0].set_ylabel(ylabel)
    return finish(axes, title, panels, "mean ± sd of {} seeds, a dot for each")


def gaps(title, panels):
    """Training minus test accuracy after training. panels: {panel title: nets}."""
    ylabel = "training accuracy minus\ntest accuracy, points"
    figure = dots(title, panels, lambda result: 100 * (result["train_accuracy"] - result["test_accuracy"]), ylabel)
    for axes in figure.axes:
        axes.axhline(0, color="black", linewidth=0.8)
    return figure


def filters(title, result):
    """The filters of the first layer of a result with pictures: grey for one plane, in colour for three."""
    W = np.array(result["pictures"]["filters"])
    foot = f"{len(W)} filters of {W.shape[2]} x {W.shape[3]}; black is {W.min():.2f}, white {W.max():.2f}"
    return pictures(title, result, (W - W.min()) / np.ptp(W), [str(i) for i in range(1, len(W) + 1)], foot)


def mistakes(title, result):
    """The misclassified test images of a result with pictures, each with its true and its predicted class."""
    kept = result["pictures"]
    wrong, names = kept["mistakes"], [textwrap.shorten(name, 14, placeholder="…") for name in kept["classes"]]
    shades = np.array([mistake["pixels"] for mistake in wrong]).reshape(-1, *kept["shape"]) / 255
    texts = [f"{names[mistake['class']]}\n{names[mistake['predicted']]}" for mistake in wrong]
    foot = f"{len(wrong)} of {kept['n_wrong']:,} mistakes on {kept['n_test']:,} test images"
    return pictures(title, result, shades, texts, f"{foot}\nunder each image: true class above, predicted class below")


def pictures(title, result, shades, texts, foot):
    """Images (n, planes, h, w) of 0..1, each with its text below."""
    rows, lines = max(1, -(-len(shades) // 8)), 1 + max((text.count("\n") for text in texts), default=0)
    figure = Figure((WIDTH, 0.75 + rows * (0.78 + 0.13 * lines)))
    figure.supxlabel(foot)
    axes = figure.subplots(rows, 8, subplot_kw={"frame_on": False, "xticks": [], "yticks": []})
    for panel, image, text in zip(axes.flat, shades.transpose(0, 2, 3, 1), texts):
        panel.imshow(image, cmap="gray", vmin=0, vmax=1)
        panel.set_title(text, y=0, pad=-3, va="top", fontsize=7, parse_math=False)
    return finish(axes, title, [result])


def maps(title, panels, rows, columns):
    """Mean validation accuracy as a map, a panel each. panels: {panel title: {(row, column): results}}; rows, columns: axes."""
    axes = Figure((WIDTH, 2.6)).subplots(1, len(panels), squeeze=False, sharey=True)
    for panel, (head, cells) in zip(axes.flat, panels.items()):
        down, across = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
        means = np.array([[tables.percent(cells[row, column], "val_accuracy")[0] for column in across] for row in down])
        panel.imshow(means, vmin=10, vmax=55, cmap="cividis", aspect="auto")
        for (i, j), mean in np.ndenumerate(means):
            panel.text(j, i, f"{mean:.0f}", ha="center", va="center", color="k" if mean > 35 else "w", fontsize=7)
        panel.set(title=head, xlabel=columns)
        panel.set_xticks(range(len(across)), across)
        panel.set_yticks(range(len(down)), down)
        panel.grid(False)
    axes[0, 0].set_ylabel(rows)
    return finish(axes, title, panels, "mean of {} seeds, %")


def layers(title, panels, number):
    """number(result, layer) of each layer, mean ± sd over the seeds. panels: {panel title: nets}, all of one depth."""
    axes = Figure((WIDTH, 2.6)).subplots(1, len(panels), squeeze=False, sharey=True)
    for panel, (head, nets) in zip(axes.flat, panels.items()):
        for place, style in styles(nets, panels).items():
            x = range(1, len(nets[place][0]["config"]["hidden"]) + 2)
            spread(panel, x, [[number(result, layer) for result in converged(nets[place])] for layer in x], **style)
        panel.set(title=head, xlabel="layer")
        panel.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("log10")
    return finish(axes, title, panels)


def ladder(title, panels, key="val_accuracy"):
    """What changes bring: bars from the accuracy before a change to the one after it, with the gain's 95 % interval.

    panels: {panel title: rungs}, dicts of name, kept, results and below, what they are compared with. What was not kept is
    hollow.
    """
    n = max(map(len, panels.values()))
    axes = Figure((WIDTH, 1 + 0.17 * n)).subplots(1, len(panels), squeeze=False)
    for panel, (head, rungs) in zip(axes.flat, panels.items()):
        for y, rung in enumerate(rungs):
            gain = statistics.paired(rung["below"], rung["results"], key)
            start, colour = tables.percent(rung["below"], key)[0], "#0072B2" if gain["mean"] > 0 else "#D55E00"
            face = colour if rung["kept"] else "none"
            panel.barh(y, gain["mean"], 0.6, left=start, edgecolor=colour, facecolor=face)
            ends = np.nan_to_num([[gain["mean"] - gain["low"]], [gain["high"] - gain["mean"]]])
            panel.errorbar(start + gain["mean"], y, xerr=ends, color="k", capsize=2)
        panel.set_yticks(range(len(rungs)), [rung["name"].removeprefix("without: ") for rung in rungs])
        panel.set(title=head, xlabel=NUMBERS[key])
        panel.set_ylim(n - 0.4, -0.6)
    rungs = [rung for of_panel in panels.values() for rung in of_panel]
    about = "95 % intervals over {} paired seeds" + "; hollow: not kept" * any(not rung["kept"] for rung in rungs)
    return finish(axes, title, {rung["name"]: rung["results"] for rung in rungs}, about)


def ensembles(title, nets):
    """Validation accuracy of the mean prediction of m networks against m, and crosses for the networks alone."""
    axes = np.array([Figure((WIDTH, 3)).subplots()])
    for label, style in styles(nets).items():
        m = range(1, len(nets[label]) + 1)
        axes[0].plot(m, [100 * result["val_accuracy_ensemble"] for result in nets[label]], **style)
        axes[0].plot(m, [100 * result["val_accuracy_mirror"] for result in nets[label]], "x", color=style["color"])
    axes[0].set(xlabel="m, number of networks", ylabel="validation accuracy, %")
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    return finish(axes, title, nets, "networks of {} seeds; crosses: each network alone")


def trials(title, rounds, numbers):
    """Validation accuracy of all trials of a search against each of their numbers. rounds: {name: results}.

    numbers(config): a dict of numbers and words by name. A number that spans a factor of 20 gets a logarithmic axis.
    """
    names = list(numbers(flat(rounds)[0]["config"]))
    axes = Figure((WIDTH, 1.6 * -(-len(names) // 4) + 0.8)).subplots(-(-len(names) // 4), 4, sharey=True)
    for panel, name in zip(axes.flat, names):
        values = [numbers(result["config"])[name] for result in flat(rounds)]
        words = any(isinstance(value, str) for value in values)
        for label, style in styles(rounds).items():
            x = [numbers(result["config"])[name] for result in rounds[label]]
            y = [100 * result["val_accuracy"] for result in rounds[label]]
            panel.plot([str(value) for value in x] if words else x, y, **style | {"linestyle": "none"})
        if not words and min(values) > 0 and max(values) > 20 * min(values):
            panel.set_xscale("log")
        panel.set_xlabel(name)
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    for panel in axes[:, 0]:
        panel.set_ylabel("validation, %")
    return finish(axes, title, rounds, "{} seeds")
