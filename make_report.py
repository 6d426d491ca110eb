"""The report that DD2424's Assignment 3 asks for, made of results/ alone.

    python make_report.py                                            # report/report.pdf, .typ and .md
    python make_report.py --results results/shapes --out elsewhere

(i) the gradient check, (ii), (iii) the loss curves with and without BN, (iv) the search for lambda, (v) the sensitivity to
initialisation, the setting of every run, and the equations. Every number comes from a file of the results, every judgement
from such numbers by a rule that the report states. A missing result is named there with the command that makes it (and the
exit status is 1). The PDF needs Typst: pip install -r requirements-report.txt
"""

import argparse
import csv
import itertools
import json
import math
import re
import shlex
import statistics
import sys
from pathlib import Path

import gradcheck
import plots
import tables

HOME = Path(__file__).resolve().parent
FAILS = 0.5  # points: a cell fails whose mean test accuracy is no farther from chance
NOTHING = 0.001  # BN normalises next to nothing where it can be expected to leave less of the variance 1
WIDE = 2.0  # points: seeds whose accuracies have a larger sd end far apart
DRIVERS = {"ex2": "run_ex2.py --seeds 5", "ex3": "run_ex3.py --seeds 5", "sensitivity": "run_sensitivity.py --seeds 3"}
CURVES = {"3-layer": "ex3-3-layer", "6-layer": "ex3-6-layer", "9-layer": "ex3-9-layer"}


class Missing(Exception):
    """A result is missing or damaged. One line: which file, the command that makes it."""


# ------------------------------------------------------------ the text: blocks, and inline parts (kind, content) in them


def say(template, **fields):
    """Inline parts of a template with $math$, `code`, *emphasis* and [ref:label]; fields are inserted as plain text."""
    parts = []
    for i, piece in enumerate(re.split(r"(\$[^$]+\$|`[^`]+`|\*[^*]+\*|\[ref:[\w-]+\])", template)):
        kind = {"$": "math", "`": "code", "*": "emphasis", "[": "ref"}[piece[0]] if i % 2 else "plain"
        content = {"plain": piece, "ref": piece[5:-1]}.get(kind, piece[1:-1])
        parts.append((kind, content if kind in ("math", "ref") else content.format_map(fields)))
    return [part for part in parts if part[1]]


def text(*sentences):
    """A paragraph of sentences, each inline parts."""
    return {
        "block": "text",
        "parts": [part for i, sentence in enumerate(sentences) for part in ([("plain", " ")] if i else []) + sentence],
    }


def items(*sentences):
    """A list of sentences."""
    return {"block": "list", "items": sentences}


def heading(title):
    return {"block": "heading", "parts": say("{title}", title=title)}


def table(label, caption, rows, wide=()):
    """A table of text cells, rows[0] its head; wide: the columns whose text may be broken."""
    return {"block": "table", "label": label, "caption": caption, "rows": rows, "wide": wide}


def figure(label, caption, path):
    """A picture; path from the report."""
    return {"block": "figure", "label": label, "caption": caption, "path": path}


def equations(*rows):
    """Rows of pairs: A's number, LaTeX."""
    return {"block": "equations", "rows": rows}


def attempt(driver, make, results, *arguments):
    """The blocks that make(results, *arguments) returns, or one that says what is missing for them of a driver's results."""
    try:
        return make(results, *arguments)
    except Missing as error:
        what = str(error)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # files that are whole, but not of one kind
        what = (
            f"the results of {driver} do not fit together ({type(error).__name__}: {' '.join(str(error).split())}); "
            f"{command(results, driver)} makes them"
        )
    return [{"block": "missing", "parts": say("{what}", what=what)}]


# --------------------------------------------------------------------------------------------------------- the results


def command(results, name):
    """The command that makes the results of this name."""
    root = results.parent.parent
    if name == "gradcheck":
        return "python gradcheck.py" + ("" if root == HOME else f" --out {shlex.quote(str(results.parent))}")
    dataset, smoke = results.name.removesuffix("-smoke"), results.name.endswith("-smoke")
    return (
        f"python {DRIVERS[name]}"
        + (f" --dataset {shlex.quote(dataset)}" if dataset != "cifar10" else "")
        + " --smoke" * smoke
        + ("" if root == HOME else f" --out {shlex.quote(str(root))}")
    )


def read_csv(results, name, driver, numbers):
    """The rows of results/<dataset>/<name>.csv; columns whose names begin with one of numbers as numbers. Raises Missing."""
    path = (results.parent if name == "gradcheck" else results) / f"{name}.csv"
    shown = path.relative_to(results.parent.parent)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {key: number(value) if key.startswith(numbers) else value for key, value in row.items()}
                for row in csv.DictReader(file, strict=True)
            ]
        if not rows or not all(any(key.startswith(start) for key in rows[0]) for start in numbers):
            raise ValueError
        return rows
    except FileNotFoundError:
        raise Missing(f"{shown} is missing; {command(results, driver)} makes it") from None
    except (OSError, ValueError, TypeError, AttributeError, csv.Error):
        raise Missing(f"{shown} is damaged; {command(results, driver)} makes it") from None


def number(text):
    return float(text) if text else math.nan


def read_figure(results, name, driver):
    """The description of a figure and its runs: in its dicts and lists, and in a list. Raises Missing."""
    path = results / "figures" / f"{name}.json"
    if not path.exists():
        raise Missing(f"{path.relative_to(results.parent.parent)} is missing; {command(results, driver)} makes it")
    try:
        description = plots.describe(path)
        return description, *plots.read_runs(path, description)
    except plots.CannotDraw as error:
        raise Missing(str(error).replace(f"{results.parent.parent}/", "")) from None


def drawn(results, name, driver, label, caption, out):
    """The block of a figure, drawn for out/figures. Raises Missing."""
    read_figure(results, name, driver)
    try:
        path = plots.draw(results / "figures" / f"{name}.json", out / "figures", "svg")
    except plots.CannotDraw as error:
        raise Missing(str(error).replace(f"{results.parent.parent}/", "")) from None
    return [figure(label, caption, path.relative_to(out).as_posix())]


def accuracy(row, part):
    """Mean, sd and number of a table's row, in percent."""
    return row[part], row[f"{part}_sd"], int(row[f"{part}_n"])


def shown(mean, sd, n, digits=2):
    """A mean over n seeds for people."""
    return f"{mean:.{digits}f} ({n})" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f} ({n})"


def summary(values):
    """Mean, sd (nan for one value) and number of values."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values)


def cells(rows, *columns):
    """The cells of a table of results for people: columns, validation, test, and what A and B report."""
    reported = [key for key in rows[0] if key.startswith(("A (", "B ("))]
    head = [*columns, "validation, %", "test, %", *reported]
    return [
        head,
        *(
            [
                *(row[key] for key in columns),
                *("" if math.isnan(row[part]) else shown(*accuracy(row, part)) for part in ("validation", "test")),
                *(row[key] for key in reported),
            ]
            for row in rows
        ),
    ]


# ------------------------------------------------------------------------------------------------------------ the rules


def two_errors(one, other):
    """Two standard errors of the difference of two summaries; nan where one is of a single seed."""
    return 2 * math.sqrt(one[1] ** 2 / one[2] + other[1] ** 2 / other[2])


def verdict(one, other):
    """Whether the second of two summaries is more or less than the first."""
    difference, bar = other[0] - one[0], two_errors(one, other)
    if math.isnan(bar):
        return "no verdict from single seeds"
    return "no difference beyond the spread" if abs(difference) <= bar else "a gain" if difference > 0 else "a loss"


def compared(one, other):
    """The difference of two summaries, and the verdict."""
    bar = "" if math.isnan(two_errors(one, other)) else f" (two standard errors: {two_errors(one, other):.2f})"
    return f"{other[0] - one[0]:+.2f} points{bar}, {verdict(one, other)}"


def listed(words):
    """Words as a list in a sentence."""
    words = list(words)
    return ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1] if words else "none"


def counted(values):
    """Whole numbers: "0..4" where none is left out."""
    values = sorted(values)
    whole = len(values) > 2 and values == list(range(values[0], values[-1] + 1))
    return f"{values[0]}..{values[-1]}" if whole else ", ".join(map(str, values))


def ranged(values):
    """Numbers, or how many and their range where they are more than three."""
    values = sorted(values)
    return (
        ", ".join(f"{x:.3g}" for x in values) if len(values) <= 3 else f"{len(values)} of {values[0]:.1e} .. {values[-1]:.1e}"
    )


# --------------------------------------------------------------------------------------------------------- the sections


def gradient_section(results):
    rows = read_csv(results, "gradcheck", "gradcheck", ("entries", "kinks", "complex", "central"))
    places = dict.fromkeys(row["bn"] for row in rows)
    groups = {
        net: {bn: [row for row in rows if (row["net"], row["bn"]) == (net, bn)] for bn in places}
        for net in dict.fromkeys(row["net"] for row in rows)
    }
    failed = [row for row in rows if row["verdict"] != "ok"]
    relative, absolute = ([row for row in rows if row["judged"] == judged] for judged in ("relative", "absolute"))
    lams = listed(dict.fromkeys(f"{number(row['lam']):g}" for row in rows))
    sizes = listed(dict.fromkeys(row["n"] for row in rows))
    worst = ", ".join(f"{row['parameter']} of {row['net']}, BN {row['bn']}" for row in failed[:3])

    def largest(rows, method):
        return f"{max(row[method] for row in rows):.1e}" if rows else ""

    head = ["hidden nodes", "entries", *(f"{bn}: {method}" for bn in places for method in ("complex", "central"))]
    body = [
        [
            net,
            f"{sum(row['entries'] for group in by_bn.values() for row in group):.0f}",
            *(
                largest([row for row in group if row["judged"] == "relative"], method)
                for group in by_bn.values()
                for method in ("complex", "central")
            ),
        ]
        for net, by_bn in groups.items()
    ]
    bars = gradcheck.BARS
    judgement = say("None of the {n} gradients fails: the gradient computations are taken to be free of bugs.", n=len(rows))
    if failed:
        judgement = say(
            "*{bad} of the {n} gradients fail* ({worst}): the gradient computations are not right.",
            bad=len(failed),
            n=len(rows),
            worst=worst,
        )
    return [
        text(
            say(
                "The gradients (21)–(37) of the cost (20), $a$, were compared with two numerical ones, $n$, in float64: complex steps "
                "[SQ], $\\mathrm{Im} f(x + i h) / h$, which are exact to rounding, and central differences. Nets of {nets} hidden nodes, "
                "BN {places} the ReLU, lambda {lams}, mini-batches of {sizes} examples (of 2 would be vacuous: BN then "
                "passes nothing back). The error of a parameter is $\\max |a - n| / \\max(|a|, |n|)$ over its entries; it must not "
                "exceed {c:g} and {d:g}. Biases under BN have the gradient 0 and are judged absolutely, against {ca:g} and {da:g}. "
                "[ref:tab-gradients] shows the largest errors.",
                nets=listed(f"({net})" for net in groups),
                places=listed(places),
                lams=lams,
                sizes=sizes,
                c=bars["relative"]["complex"],
                d=bars["relative"]["central"],
                ca=bars["absolute"]["complex"],
                da=bars["absolute"]["central"],
            ),
            say(
                "Over all {n:.0f} entries the largest are {c} by complex steps and {d} by central differences; {absolute}{kinks:.0f} entries "
                "were left out of the central differences, because a ReLU switches there.",
                n=sum(row["entries"] for row in rows),
                c=largest(relative, "complex"),
                d=largest(relative, "central"),
                kinks=sum(row["kinks"] for row in rows),
                absolute=f"in the biases under BN {largest(absolute, 'complex')} and {largest(absolute, 'central')}; "
                if absolute
                else "",
            ),
            judgement,
        ),
        table(
            "tab-gradients",
            say(
                "Largest relative errors over all parameters of a net, by both methods, with BN {places} the ReLU.",
                places=listed(places),
            ),
            [head, *body],
        ),
    ]


def depth_section(results):
    rows = read_csv(results, "ex2", "ex2", ("validation", "test"))
    default = [row for row in rows if row["setting"] == "default"]
    sentences = [
        say(
            "{other} against {one}: {verdict}.",
            one=one["network"],
            other=other["network"],
            verdict=compared(accuracy(one, "test"), accuracy(other, "test")),
        )
        for one, other in itertools.pairwise(default)
    ]
    lead = say("[ref:tab-ex2] is Exercise 2. Test accuracy without BN as the net gets deeper:")
    caption = say("Exercise 2, without BN. Accuracy, mean ± sd (number of seeds); A, B and A2 as reported there.")
    return accuracies(lead, sentences, "tab-ex2", caption, rows)


def normalised_section(results):
    rows = read_csv(results, "ex3", "ex3", ("validation", "test"))
    by_name = {(row["network"], row["setting"]): row for row in rows}
    pairs = [(row, by_name[key]) for row in rows if (key := (f"{row['network']} BN", row["setting"])) in by_name]
    sentences = []
    for plain, normalised in pairs:
        one, other = accuracy(plain, "test"), accuracy(normalised, "test")
        spread = "" if math.isnan(one[1] + other[1]) else f"; the sd over the seeds goes from {one[1]:.2f} to {other[1]:.2f}"
        sentences.append(say("{net}: {verdict}{spread}.", net=plain["network"], verdict=compared(one, other), spread=spread))
    lead = say("[ref:tab-ex3] is Exercise 3. What BN changes in the test accuracy:")
    caption = say("Exercise 3. Accuracy, mean ± sd (number of seeds); A and B as reported there.")
    return accuracies(lead, sentences, "tab-ex3", caption, rows)


def accuracies(lead, sentences, label, caption, rows):
    """The blocks of an exercise: what its table is, what follows from it, and the table of its networks and settings."""
    return [text(lead), items(*sentences), table(label, caption, cells(rows, "network", "setting"), wide=[1])]


def loss_section(results, net, out):
    name = CURVES[net]
    _, runs, _ = read_figure(results, name, "ex3")

    def loss(part, nets):
        return shown(*summary([result["history"]["epoch"][f"{part}_loss"][-1] for result in nets]), digits=3)

    sentences = [
        say(
            "{label}: training {train}, validation {val}.",
            label=label[:1].upper() + label[1:],
            train=loss("train", nets),
            val=loss("val", nets),
        )
        for label, nets in runs.items()
    ]
    caption = say(
        "{net} net with and without BN: cost, loss, accuracy and learning rate over training. Filled markers: training set; "
        "hollow: validation set; band: ± sd.",
        net=net,
    )
    return [
        *drawn(results, name, "ex3", f"fig-{name}", caption, out),
        text(say("Loss of the {net} net at the end ([ref:fig-{name}]).".replace("{name}", name), net=net), *sentences),
    ]


def search_section(results, out):
    trials = read_csv(results, "ex3_search", "ex3", ("seed", "lambda", "validation"))
    stages = {
        stage: [trial for trial in trials if trial["stage"] == stage]
        for stage in dict.fromkeys(trial["stage"] for trial in trials)
    }
    best = {
        int(seed): max((trial for trial in trials if trial["seed"] == seed), key=lambda trial: trial["validation"])
        for seed in sorted({trial["seed"] for trial in trials})
    }
    draws = attempt_value(lambda: read_figure(results, "ex3-search", "ex3")[0]["more"]["draws"], {})
    longer = attempt_value(lambda: {result["seed"]: result for result in read_figure(results, "ex3-best-lambda", "ex3")[2]}, {})
    winner = max(best, key=lambda seed: best[seed]["validation"])
    sentences = [
        say(
            "{stage}: {n} trials{draw}, lambda between {low:.2e} and {high:.2e}.",
            stage=stage.capitalize(),
            n=len(chosen),
            draw=f", each drawn as {draws[stage]}" if stage in draws else "",
            low=min(trial["lambda"] for trial in chosen),
            high=max(trial["lambda"] for trial in chosen),
        )
        for stage, chosen in stages.items()
    ]
    sentences.append(
        say(
            "*The best of all {n} trials is lambda {lam:.2e}* (seed {seed}), with a validation accuracy of {val:.2f} %{test}.",
            n=len(trials),
            lam=best[winner]["lambda"],
            seed=winner,
            val=best[winner]["validation"],
            test=tested(longer, winner, best),
        )
    )
    head = ["seed", "trials", *(f"best of {stage}" for stage in stages), "best lambda", "validation, %", "test, %"]
    body = []
    for seed, trial in best.items():
        mine = [[other for other in chosen if other["seed"] == seed] for chosen in stages.values()]
        tops = [max(chosen, key=lambda trial: trial["validation"]) for chosen in mine]
        body.append(
            [
                str(seed),
                str(sum(map(len, mine))),
                *(f"{top['lambda']:.2e}: {top['validation']:.2f} %" for top in tops),
                f"{trial['lambda']:.2e}",
                f"{trial['validation']:.2f}",
                f"{100 * longer[seed]['test_accuracy']:.2f}" if fits(longer, seed, best) else "missing",
            ]
        )
    rows = attempt_value(
        lambda: {(row["network"], row["setting"]): row for row in read_csv(results, "ex3", "ex3", ("validation", "test"))}, {}
    )
    pair = [rows.get(("3-layer BN", setting)) for setting in ("default", "best lambda, 3 cycles")]
    if all(pair):
        sentences.append(
            say(
                "Over all seeds, the test accuracy with each seed's best lambda and the longer training is {mean} %; against "
                "the default setting that is {verdict}.",
                mean=shown(*accuracy(pair[1], "test")),
                verdict=compared(*(accuracy(row, "test") for row in pair)),
            )
        )
    missing = [] if longer else attempt("ex3", lambda results: read_figure(results, "ex3-best-lambda", "ex3") and [], results)
    return [
        text(
            say("One search for each seed, 3-layer net with BN, on the validation set ([ref:fig-search], [ref:tab-search])."),
            *sentences,
        ),
        *attempt(
            "ex3",
            drawn,
            results,
            "ex3-search",
            "ex3",
            "fig-search",
            say("Validation accuracy of every trial of the search for lambda."),
            out,
        ),
        table(
            "tab-search",
            say(
                "The search for each seed: the best lambda and its validation accuracy in each stage and in all. Test: of "
                "the net trained longer with the best lambda, the only one of the search that saw the test set."
            ),
            [head, *body],
        ),
        *missing,
    ]


def attempt_value(read, otherwise):
    """What read() returns, or otherwise where a result is missing or of another form."""
    try:
        return read()
    except (Missing, LookupError, TypeError):
        return otherwise


def fits(longer, seed, best):
    """Whether the longer training of a seed is of its best lambda."""
    return (
        seed in longer
        and "test_accuracy" in longer[seed]
        and math.isclose(longer[seed]["config"].get("lam", math.nan), best[seed]["lambda"], rel_tol=1e-9)
    )


def tested(longer, seed, best):
    """What the longer training of a seed gave, in words."""
    if not fits(longer, seed, best):
        return ""
    return f"; trained for {longer[seed]['config']['n_cycles']} cycles, it has a test accuracy of {100 * longer[seed]['test_accuracy']:.2f} %"


def sensitivity_section(results, out):
    rows = read_csv(results, "sensitivity", "sensitivity", ("validation", "test"))
    grid = {}
    for row in rows:
        sigma, _, bn = row["setting"].removeprefix("sigma ").partition(", ")
        grid[row["network"], bn, sigma] = row
    nets, variants, sigmas = (list(dict.fromkeys(key[i] for key in grid)) for i in range(3))
    reported = next((key for key in rows[0] if key.startswith("B (")), None)

    def cell(key):
        row = grid.get(key)
        return (
            ""
            if row is None
            else shown(*accuracy(row, "test")) + (f"; B {row[reported]}" if reported and row[reported] else "")
        )

    blocks = [
        text(
            say(
                "Every weight is drawn from N(0, sigma²) instead. [ref:tab-sensitivity] has the test accuracies; the curves are in"
            ),
            *([("ref", plot_label(net)), ("plain", "," if net != nets[-1] else ".")] for net in nets),
        ),
        table(
            "tab-sensitivity",
            say("Weights from N(0, sigma²): test accuracy in %, mean ± sd (number of seeds), and what B reports."),
            [
                ["network", "", *(f"sigma {sigma}" for sigma in sigmas)],
                *([net, bn, *(cell((net, bn, sigma)) for sigma in sigmas)] for net in nets for bn in variants),
            ],
        ),
    ]
    blocks += attempt("sensitivity", sensitivity_comment, results, grid)
    for net in nets:
        blocks += attempt(
            "sensitivity",
            drawn,
            results,
            f"sensitivity-{net}",
            "sensitivity",
            plot_label(net),
            say("{net} net from weights N(0, sigma²): loss and accuracy over training. Band: ± sd.", net=net),
            out,
        )
    return blocks


def plot_label(net):
    """The label of a net's sensitivity figure."""
    return "fig-sensitivity-" + re.sub(r"[^\w-]", "-", net)


def sensitivity_comment(results, grid):
    """Which cells fail, what the seeds do, and the part of epsilon."""
    shares, chance = expected_shares(results, list(dict.fromkeys(net for net, _, _ in grid)))
    test = {key: accuracy(row, "test") for key, row in grid.items()}
    failing = [key for key in test if abs(test[key][0] - chance) <= FAILS]
    variants = list(dict.fromkeys(bn for _, bn, _ in grid))
    sentences = [
        say(
            "A cell *fails* when its mean test accuracy is within {bar:g} points of chance, {chance:g} %.",
            bar=FAILS,
            chance=chance,
        )
    ]
    for bn in variants:
        mine, bad = [key for key in test if key[1] == bn], [key for key in failing if key[1] == bn]
        sentences.append(
            say(
                "{bn}: {n} of {all} fail{which}.",
                bn=bn[0].upper() + bn[1:],
                n=len(bad),
                all=len(mine),
                which=f" ({named(bad)})" if bad else "",
            )
        )
    wide = [key for key in test if test[key][1] > WIDE]
    if wide:
        sentences.append(
            say(
                "Seeds end far apart (sd above {bar:g} points) in {cells}.",
                bar=WIDE,
                cells=listed(f"{key[0]}, sigma {key[2]}, {key[1]} (sd {test[key][1]:.2f})" for key in wide),
            )
        )
    gains = {}
    for net, bn, sigma in test:
        if bn != "without BN" and (net, "without BN", sigma) in test:
            words = verdict(test[net, "without BN", sigma], test[net, bn, sigma])
            gains.setdefault((bn, words), []).append(f"{net} {sigma}")
    for bn in dict.fromkeys(bn for bn, _ in gains):
        sentences.append(
            say(
                "{bn} against none: {words}.",
                bn=bn,
                words="; ".join(f"{words} in {listed(cells)}" for (other, words), cells in gains.items() if other == bn),
            )
        )
    sentences += epsilon_part(test, failing, [bn for bn in variants if bn != "without BN"], shares)
    sigmas = dict.fromkeys(sigma for _, _, sigma in grid)
    body = [
        [net, bn, *(f"{shares[net, bn, sigma]:.2g}" if (net, bn, sigma) in shares else "" for sigma in sigmas)]
        for net, bn in dict.fromkeys((net, bn) for net, bn, _ in shares)
    ]
    explained = (
        [
            text(
                say(
                    "Why epsilon matters: BN leaves each score the variance $v / (v + \\epsilon)$ instead of 1, by (11). Before training "
                    "$v = m \\sigma^2 u$ can be expected in a layer with $m$ inputs of variance $u$; $u$ is 1 for the standardised images and "
                    "$(\\pi - 1) / (2 \\pi)$ times the variance of the scores after a ReLU. [ref:tab-shares] follows that to the last hidden layer."
                )
            ),
            table(
                "tab-shares",
                say(
                    "Variance that BN is expected to leave the scores of the last hidden layer before training, from the "
                    "settings of the runs."
                ),
                [["network", "", *(f"sigma {sigma}" for sigma in sigmas)], *body],
            ),
        ]
        if body
        else []
    )
    return [items(*sentences), *explained]


def named(keys):
    """Cells of one variant in words: "9-layer 1e-01, 1e-03"."""
    groups = {}
    for net, _, sigma in keys:
        groups.setdefault(net, []).append(sigma)
    return "; ".join(f"{net}, sigma {', '.join(sigmas)}" for net, sigmas in groups.items())


def epsilon_part(test, failing, variants, shares):
    """Sentences on the cells of which one epsilon fails and another does not, and on the other cells."""
    sentences = []
    for one, other in itertools.combinations(variants, 2):
        decided, verdicts = [], {}
        for net, bn, sigma in test:
            if bn == one and (net, other, sigma) in test:
                pair = (net, one, sigma), (net, other, sigma)
                words = verdict(test[pair[0]], test[pair[1]])
                if (pair[0] in failing) != (pair[1] in failing) and not words.startswith("no difference"):
                    decided.append((*sorted(pair, key=lambda key: key not in failing), words))
                else:
                    verdicts.setdefault(words, []).append(f"{net} {sigma}")
        for bad, good, words in decided:
            sentences.append(
                say(
                    "Epsilon {decides} {net}, sigma {sigma}: with {good} it reaches {mean} %, with {bad} it fails{share}.",
                    decides="may decide" if words.startswith("no") else "decides",
                    net=bad[0],
                    sigma=bad[2],
                    good=good[1],
                    bad=bad[1],
                    mean=shown(*test[good]),
                    share=share_words(shares.get(bad)),
                )
            )
        if verdicts:
            sentences.append(
                say(
                    "In the {which} cells, {other} against {one}: {words}.",
                    which="other" if decided else "same",
                    one=one,
                    other=other,
                    words="; ".join(f"{words} in {listed(cells)}" for words, cells in verdicts.items()),
                )
            )
    return sentences


def share_words(share):
    """What the variance that BN leaves the scores says of a cell that fails."""
    if share is None:
        return ""
    if share < NOTHING:
        return f", where BN can be expected to normalise next to nothing (it leaves the variance {share:.2g} instead of 1)"
    return f", although BN can be expected to leave the variance {share:.2g}"


def expected_shares(results, nets):
    """By net, variant and sigma the variance that BN leaves the last hidden layer's scores before training; chance, in %."""
    shares, chance = {}, None
    for net in nets:
        _, runs, flat = read_figure(results, f"sensitivity-{net}", "sensitivity")
        chance = 100 / flat[0]["dataset"]["classes"]
        for title, by_bn in runs.items():
            for bn, trained in by_bn.items():
                config, shape = trained[0]["config"], trained[0]["dataset"].get("shape")
                if config["batch_norm"] and shape:
                    u, share = 1.0, 1.0
                    for m in [math.prod(shape), *config["hidden"][:-1]]:
                        v = m * config["sigma"] ** 2 * u
                        share = v / (v + config["eps"])
                        u = share * (math.pi - 1) / (2 * math.pi)
                    shares[net, bn, title.removeprefix("sigma ")] = share
    return shares, chance


def settings_section(results):
    described = [(path.stem, name) for name in DRIVERS for path in sorted((results / "figures").glob(f"{name}-*.json"))]
    if not described:
        raise Missing(
            f"{(results / 'figures').relative_to(results.parent.parent)} describes no runs; "
            + listed(command(results, name) for name in DRIVERS)
            + " make them"
        )
    groups, used, complaints = {}, {}, []
    for figure_name, driver in described:
        try:
            description, _, flat = read_figure(results, figure_name, driver)
        except Missing as error:
            complaints.append({"block": "missing", "parts": say("{what}", what=str(error))})
            continue
        for result in flat:
            run = json.dumps([result["config"], result["seed"]])
            if run not in used:
                used[run] = result
                config = dict(result["config"])
                lam, sigma = config.pop("lam"), config.pop("sigma")
                key = json.dumps([config, sigma is None, description["kind"] == "search"])
                group = groups.setdefault(key, {"config": config, "lam": set(), "sigma": set(), "seed": set(), "runs": 0})
                for what, value in (("lam", lam), ("sigma", sigma), ("seed", result["seed"])):
                    group[what].add(value)
                group["runs"] += 1
    if not used:
        return complaints
    configs = [group["config"] for group in groups.values()]
    default = next((config for config in configs if config["hidden"] == [50, 50]), configs[0])

    def worded(config):
        return ", ".join(
            f"{key} {value:g}" if isinstance(value, (int, float)) else f"{key} {value}"
            for key, value in config.items()
            if key not in ("hidden", "batch_norm")
        )

    body = [
        [
            " ".join(map(str, group["config"]["hidden"])),
            "yes" if group["config"]["batch_norm"] else "no",
            worded({key: value for key, value in group["config"].items() if value != default.get(key)}) or "–",
            "He" if group["sigma"] == {None} else ranged(group["sigma"]),
            ranged(group["lam"]),
            counted(group["seed"]),
            str(group["runs"]),
        ]
        for group in groups.values()
    ]
    common = worded(default)
    versions = listed(
        dict.fromkeys(", ".join(f"{key} {value}" for key, value in result["versions"].items()) for result in used.values())
    )
    codes = listed(dict.fromkeys(str(result.get("code")) for result in used.values()))
    data = listed(
        dict.fromkeys(
            f"{result['dataset']['name']}{' [KR]' * (result['dataset']['name'] == 'cifar10')} "
            f"(fingerprint {result['dataset']['fingerprint']})"
            for result in used.values()
        )
    )
    return [
        text(
            say(
                "All {n} runs together took {minutes:.0f} minutes of one core. Where [ref:tab-settings] does not say otherwise: {common}. "
                "Dataset: {data}. Code: version {codes} ({versions}).",
                n=len(used),
                minutes=sum(result.get("duration_s", 0) for result in used.values()) / 60,
                common=common,
                data=data,
                codes=codes,
                versions=versions,
            )
        ),
        table(
            "tab-settings",
            say("The setting of every run. sigma: standard deviation of the initial weights (He: of He et al.)."),
            [["hidden nodes", "BN", "differs from the default in", "sigma", "lambda", "seeds", "runs"], *body],
            wide=[0, 2],
        ),
        *complaints,
    ]


EQUATIONS = [
    [
        ("12", r"\mathbf{s}_i^{(l)} = W_l \mathbf{x}_i^{(l-1)} + \mathbf{b}_l"),
        ("13", r"\mu^{(l)} = \frac{1}{n} \sum_{i=1}^{n} \mathbf{s}_i^{(l)}"),
    ],
    [
        ("14", r"v_j^{(l)} = \frac{1}{n} \sum_{i=1}^{n} (s_{ij}^{(l)} - \mu_j^{(l)})^2"),
        (
            "11, 15",
            r"\hat{\mathbf{s}}_i^{(l)} = \mathrm{diag}(\mathbf{v}^{(l)} + \epsilon)^{-\frac{1}{2}} (\mathbf{s}_i^{(l)} - \mu^{(l)})",
        ),
    ],
    [
        ("16", r"\tilde{\mathbf{s}}_i^{(l)} = \gamma_l \odot \hat{\mathbf{s}}_i^{(l)} + \beta_l"),
        ("17", r"\mathbf{x}_i^{(l)} = \max(0, \tilde{\mathbf{s}}_i^{(l)})"),
    ],
    [
        ("18", r"\mathbf{s}_i = W_k \mathbf{x}_i^{(k-1)} + \mathbf{b}_k"),
        ("19", r"\mathbf{p}_i = \mathrm{softmax}(\mathbf{s}_i)"),
    ],
    [("20", r"J = \frac{1}{n} \sum_{i=1}^{n} -\log p_{i, y_i} + \lambda \sum_{l=1}^{k} \|W_l\|^2")],
    [
        (
            "38, 39",
            r"\mu_{\mathrm{av}} = \alpha \mu_{\mathrm{av}} + (1 - \alpha) \mu, \quad v_{\mathrm{av}} = \alpha v_{\mathrm{av}} + (1 - \alpha) v",
        )
    ],
]
BACKWARD = [
    [("21", r"G = P - Y")],
    [
        (
            "22, 28",
            r"\frac{\partial J}{\partial W_l} = \frac{1}{n} G X^{(l-1) T} + 2 \lambda W_l, \quad \frac{\partial J}{\partial \mathbf{b}_l} = \frac{1}{n} G \mathbf{1}_n",
        )
    ],
    [("23, 29", r"G \leftarrow W_l^T G"), ("24, 30", r"G \leftarrow G \odot \mathrm{Ind}(X^{(l-1)} > 0)")],
    [
        (
            "25",
            r"\frac{\partial J}{\partial \gamma_l} = \frac{1}{n} (G \odot \hat{S}^{(l)}) \mathbf{1}_n, \quad \frac{\partial J}{\partial \beta_l} = \frac{1}{n} G \mathbf{1}_n",
        ),
        ("26", r"G \leftarrow G \odot (\gamma_l \mathbf{1}_n^T)"),
    ],
    [
        (
            "31–34",
            r"G_1 = G \odot ((v + \epsilon)^{-0.5} \mathbf{1}_n^T), \quad G_2 = G \odot ((v + \epsilon)^{-1.5} \mathbf{1}_n^T)",
        )
    ],
    [
        ("35, 36", r"D = S^{(l)} - \mu^{(l)} \mathbf{1}_n^T, \quad \mathbf{c} = (G_2 \odot D) \mathbf{1}_n"),
        (
            "37",
            r"G \leftarrow G_1 - \frac{1}{n} G_1 \mathbf{1}_n \mathbf{1}_n^T - \frac{1}{n} D \odot (\mathbf{c} \mathbf{1}_n^T)",
        ),
    ],
]
REFERENCES = [
    "[A] KTH, DD2424 Deep Learning in Data Science, Assignment 3: k-layer networks with batch normalization. Equation numbers are its own.",
    "[B] A student's report of A, KTH, April 2021. [A2] A public solution of Assignment 2 of the same course.",
    "[BN] S. Ioffe, C. Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift. ICML 2015.",
    "[HE] K. He, X. Zhang, S. Ren, J. Sun: Delving Deep into Rectifiers. ICCV 2015.",
    "[SM] L. N. Smith: Cyclical Learning Rates for Training Neural Networks. WACV 2017.",
    "[SQ] W. Squire, G. Trapp: Using Complex Variables to Estimate Derivatives of Real Functions. SIAM Review 40 (1), 1998.",
    "[KR] A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. Technical report, 2009 (CIFAR-10).",
]


def report(results, out):
    """All blocks of the report, its figures drawn into out/figures."""
    described = [name for name in CURVES.values() if (results / "figures" / f"{name}.json").exists()]
    dataset = attempt_value(lambda: read_figure(results, described[0], "ex3")[0]["dataset"], results.name)
    return [
        {"block": "title", "parts": say("k-layer networks with batch normalization on {dataset}", dataset=dataset)},
        text(
            say(
                "Report of Assignment 3 [A], in the order that it asks for. Every number is taken from the results of the experiments. "
                "Means and standard deviations (sd, divided by $n - 1$) are over seeds, which draw the initial weights and the order of the "
                "examples. Two means differ *beyond the spread* when they do so by more than two standard errors of their difference, "
                "$2 \\sqrt{s_1^2 / n_1 + s_2^2 / n_2}$."
            )
        ),
        heading("The network"),
        text(
            say(
                "Scores $\\mathbf{s}$ of the layers $l = 1, \\ldots, k - 1$, normalised in training by the mean and variance of the "
                "mini-batch [BN], then the last layer; prediction normalises by the moving averages. Without BN (13)–(16) are left out."
            )
        ),
        equations(*EQUATIONS),
        text(
            say(
                "Backward, for $l = k, \\ldots, 1$; hidden layers with BN pass (25)–(37), where (37) is written with the "
                "$\\mathbf{1}_n^T$ that A leaves to the reader. Weights start from He initialisation [HE]; the learning rate is cyclical [SM]."
            )
        ),
        equations(*BACKWARD),
        heading("(i) Are the gradients right?"),
        *attempt("gradcheck", gradient_section, results),
        heading("(ii) Loss of the 3-layer net with and without BN"),
        *attempt("ex3", loss_section, results, "3-layer", out),
        *attempt("ex3", normalised_section, results),
        heading("(iii) Loss of the deep nets with and without BN"),
        *attempt("ex2", depth_section, results),
        *attempt("ex3", loss_section, results, "6-layer", out),
        *attempt("ex3", loss_section, results, "9-layer", out),
        heading("(iv) The search for lambda"),
        *attempt("ex3", search_section, results, out),
        heading("(v) Sensitivity to initialisation"),
        *attempt("sensitivity", sensitivity_section, results, out),
        heading("The setting of every run"),
        *attempt("ex3", settings_section, results),
        heading("Sources"),
        *(text(say("{line}", line=line)) | {"small": True} for line in REFERENCES if "CIFAR" not in line or "CIFAR" in dataset),
    ]


def numbered(blocks):
    """What each label is called: "Table 1", "Figure 2"."""
    count, names = {"table": 0, "figure": 0}, {}
    for block in blocks:
        if block["block"] in count:
            count[block["block"]] += 1
            names[block["label"]] = f"{block['block'].capitalize()} {count[block['block']]}"
    return names


# ------------------------------------------------------------------------------------------------------------- Markdown


def markdown(blocks):
    """The report as Markdown."""
    names, parts = numbered(blocks), []

    def inline(pieces):
        shape = {
            "plain": markdown_plain,
            "math": lambda s: f"${markdown_math(s)}$",
            "code": "`{}`".format,
            "emphasis": lambda s: f"*{markdown_plain(s)}*",
            "ref": lambda label: names.get(label, "(missing)"),
        }
        return "".join(shape[kind](content) for kind, content in pieces)

    for block in blocks:
        match block["block"]:
            case "title":
                parts.append(f"# {inline(block['parts'])}\n")
            case "heading":
                parts.append(f"## {inline(block['parts'])}\n")
            case "text":
                parts.append(f"{inline(block['parts'])}\n")
            case "list":
                parts.append("".join(f"- {inline(item)}\n" for item in block["items"]))
            case "missing":
                parts.append(f"**Missing:** {inline(block['parts'])}\n")
            case "equations":
                parts += [f"$$\n{markdown_math(latex)} \\quad ({label})\n$$\n" for row in block["rows"] for label, latex in row]
            case "table":
                parts += [
                    f"**{names[block['label']]}.** {inline(block['caption'])}\n",
                    tables.markdown([list(map(markdown_plain, row)) for row in block["rows"]]),
                ]
            case "figure":
                name, path = names[block["label"]], block["path"].replace(" ", "%20")
                parts += [f"![{name}]({path})\n", f"**{name}.** {inline(block['caption'])}\n"]
    return "\n".join(parts)


def one_line(text):
    """Text without line breaks and control characters."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def markdown_math(latex):
    """LaTeX that no Markdown takes for emphasis or HTML."""
    return latex.replace("_", " _ ").replace("\\|", "\\Vert ").replace(">", "\\gt ")


def markdown_plain(text):
    """Text that Markdown shows as it is."""
    text = re.sub(r"([\\`*_\[\]<>|$~&#])", r"\\\1", one_line(text))
    return re.sub(r"^(\s*)([-+=])", r"\1\\\2", re.sub(r"^(\s*\d+)([.)](?:\s|$))", r"\1\\\2", text))


# ---------------------------------------------------------------------------------------------------------------- Typst

PREAMBLE = """#set document(title: {title}, date: none)
#set page(paper: "a4", margin: (x: 2.3cm, top: 1.9cm, bottom: 1.9cm), numbering: "1 / 1")
#set text(size: 10pt, lang: "en")
#set par(justify: true, leading: 0.58em, spacing: 0.85em)
#set smartquote(enabled: false)
#set table(stroke: none, inset: (x: 3pt, y: 2.6pt))
#show table.cell.where(y: 0): strong
#set figure(gap: 0.6em)
#show figure: set block(above: 1.1em, below: 1.1em)
#show figure.caption: set text(size: 9pt)
#show figure.where(kind: table): set block(breakable: true)
#show figure.where(kind: table): set figure.caption(position: top)
#show figure.where(kind: table): set text(size: 8.5pt)
#show figure.where(kind: table): set par(justify: false)
#show heading: set block(above: 1.2em, below: 0.7em)
#show heading: set text(size: 11.5pt)
#show math.equation.where(block: true): set block(above: 0.5em, below: 0.5em)
#show math.equation.where(block: true): set text(size: 9.5pt)
"""
SYMBOLS = {
    "mu": "mu",
    "sigma": "sigma",
    "epsilon": "epsilon",
    "gamma": "gamma",
    "beta": "beta",
    "lambda": "lambda",
    "alpha": "alpha",
    "pi": "pi",
    "odot": "dot.o",
    "sum": "sum",
    "partial": "partial",
    "max": "max",
    "log": "log",
    "quad": "quad",
    "leftarrow": "arrow.l",
    "ldots": "dots",
    "|": 'class("normal", bar.v.double)',
}
FUNCTIONS = {"frac": ("frac", 2), "hat": ("hat", 1), "tilde": ("tilde", 1), "sqrt": ("sqrt", 1)}


def typst_math(latex):
    """The LaTeX that this file uses, in Typst's notation. Raises ValueError for any other."""
    tokens = re.findall(r"\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\S", latex)[::-1]

    def group():
        if tokens[-1] != "{":
            return item()
        tokens.pop()
        inner = []
        while tokens[-1] != "}":
            inner.append(item())
        tokens.pop()
        return " ".join(inner)

    def word():
        return group().replace(" ", "")

    def item():
        token = tokens.pop()
        name = token[1:]
        if token[0] != "\\":
            return {
                "^": lambda: f"^({group()})",
                "_": lambda: f"_({group()})",
                ",": lambda: "\\,",
                "/": lambda: "\\/",
                ">": lambda: "gt",
                "|": lambda: 'class("normal", bar.v)',
            }.get(token, lambda: token)()
        if name in FUNCTIONS:
            function, n = FUNCTIONS[name]
            return f"{function}({', '.join(group() for _ in range(n))})"
        if name == "mathbf":
            return f"upright(bold({group()}))"
        if name == "mathrm":
            return f'upright("{word()}")'
        if name not in SYMBOLS:
            raise ValueError(f"{token} is not known in {latex}")
        return SYMBOLS[name]

    parts = []
    while tokens:
        parts.append(item())
    return " ".join(parts)


def typst_plain(text):
    """Text that Typst shows as it is."""
    text = re.sub(r"([\\#$*_~`<>@\[\]])", r"\\\1", one_line(text))
    text = re.sub(r"(?<=[/\-.])(?=[/*\-.])", r"\\", text)  # comments, dashes, dots
    return re.sub(r"^(\s*)([-+=/])", r"\1\\\2", re.sub(r"^(\s*\d+)(\.(?:\s|$))", r"\1\\\2", text))


def typst_string(text):
    return '"' + one_line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def typst(blocks):
    """The report as a Typst source, beside which its figures lie."""
    names, parts = numbered(blocks), []

    def inline(pieces):
        shape = {
            "plain": typst_plain,
            "math": lambda s: f"${typst_math(s)}$",
            "code": lambda s: f"#raw({typst_string(s)});",
            "emphasis": lambda s: f"#emph[{typst_plain(s)}];",
            "ref": lambda label: f"#ref(<{label}>);" if label in names else "(missing)",
        }
        return "".join(shape[kind](content) for kind, content in pieces)

    for block in blocks:
        match block["block"]:
            case "title":
                title = "".join(content for _, content in block["parts"])
                parts += [
                    PREAMBLE.format(title=typst_string(title)),
                    f'#align(center, text(size: 15pt, weight: "bold")[{inline(block["parts"])}])\n',
                ]
            case "heading":
                parts.append(f"= {inline(block['parts'])}\n")
            case "text":
                words = inline(block["parts"])
                parts.append(f"#par(hanging-indent: 1.5em, text(size: 9pt)[{words}])\n" if block.get("small") else f"{words}\n")
            case "list":
                parts.append("".join(f"- {inline(item)}\n" for item in block["items"]))
            case "missing":
                parts.append(f"#block(stroke: 0.5pt, inset: 5pt, width: 100%)[*Missing:* {inline(block['parts'])}]\n")
            case "equations":
                cell = '  grid.cell(colspan: {}, math.equation(block: true, numbering: _ => "({})", $ {} $)),'
                lines = [cell.format(3 - len(row), label, typst_math(latex)) for row in block["rows"] for label, latex in row]
                head = "#grid(columns: (1fr, 1.08fr), column-gutter: 8pt, row-gutter: 3pt, align: horizon,"
                parts.append("\n".join([head, *lines, ")\n"]))
            case "table":
                n = len(block["rows"][0])
                widths = ", ".join("1fr" if i in block["wide"] else "auto" for i in range(n))
                rows = ["  " + ", ".join(f"[{typst_plain(cell)}]" for cell in row) + "," for row in block["rows"]]
                rows[0] = f"  table.header({rows[0].strip()}),"
                thick, thin = "  table.hline(stroke: 0.8pt),", "  table.hline(stroke: 0.4pt),"
                parts.append(
                    "\n".join(
                        [
                            f"#figure(caption: [{inline(block['caption'])}], kind: table, table(",
                            f"  columns: ({widths},), align: left + horizon,",
                            thick,
                            rows[0],
                            thin,
                            *rows[1:],
                            thick,
                            f")) <{block['label']}>\n",
                        ]
                    )
                )
            case "figure":
                parts.append(
                    f"#figure(caption: [{inline(block['caption'])}], placement: auto,\n"
                    f"  image({typst_string(block['path'])}, width: 16cm)) <{block['label']}>\n"
                )
    return "\n".join(parts)


# ----------------------------------------------------------------------------------------------------------- the script


def pdf(source, path):
    """Set the Typst source in a PDF. Returns a line that says why that cannot be done, or None."""
    try:
        import typst as compiler
    except ImportError:
        return "the PDF needs Typst: pip install -r requirements-report.txt"
    try:
        tables.write(path, compiler.compile(str(source)))
    except compiler.TypstError as error:
        return f"{source} cannot be set: {' '.join(str(error).split())}"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=HOME / "results" / "cifar10",
        metavar="DIR",
        help="default: results/cifar10 beside this script",
    )
    parser.add_argument("--out", type=Path, default=HOME / "report", metavar="DIR", help="default: report, beside this script")
    args = parser.parse_args(argv)
    results, out = args.results.resolve(), args.out.resolve()
    if not results.is_dir():
        print(
            f"make_report.py: error: {args.results}: there is no such folder; the drivers make it, see --help", file=sys.stderr
        )
        return 1
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        blocks = report(results, out)
        tables.write(out / "report.md", markdown(blocks))
        tables.write(out / "report.typ", typst(blocks))
        problem = pdf(out / "report.typ", out / "report.pdf")
    except OSError as error:
        print(f"make_report.py: error: {error}; name a folder with --out", file=sys.stderr)
        return 1
    missing = dict.fromkeys(
        "".join(content for _, content in block["parts"]) for block in blocks if block["block"] == "missing"
    )
    for line in [*missing, *([problem] if problem else [])]:
        print(f"make_report.py: {line}", file=sys.stderr)
    print(out / ("report.md" if problem else "report.pdf"))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # for letters that the terminal lacks
    sys.exit(main())
