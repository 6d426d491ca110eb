"""What the parts of run_claims.py share: lines of its two tables, and what they measure in results.

A part is a module with DATASET, TIME, train(raw, opts) -> results, numbers(results) and claims(results) -> lines,
tables(results) -> {table: rows} and figures(results), see driver.drive.
"""

import re

import numpy as np

from lab import statistics, tables

CHANCE_MARGIN = 0.1  # a network has learnt if its accuracy is this far above that of chance


# ------------------------------------------------------------------------------------------------- the table of numbers


def number(document, place, what, printed, setting, values, row=""):
    """The line of a printed number beside values of runs in its setting, in the same unit.

    printed: as the document has it. row: of the runs' CSV. Runs in groups are all shown.
    """
    figure, outcome = float(re.sub("[^0-9.e-]", "", printed)), ""
    if len(values):
        outcome = statistics.compare_printed(figure, values, rounding(printed))
    low, high = statistics.further_run(values) if outcome in ("inside", "outside") else (np.nan, np.nan)
    return {"document": document, "place": place, "number": what, "setting": setting, "printed": printed,
            "ours": tables.summary(values) if len(values) else "", "95 % of single runs": interval(low, high),
            "printed number": outcome, "runs": row}  # fmt: skip


def drawn(document, place, what, printed, setting, values):
    """The line of a printed number beside many draws of it, whose central 95 % take the place of the prediction interval."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {"document": document, "place": place, "number": what, "setting": setting, "printed": printed,
            "ours": f"{np.median(values):.4g}, median of {len(values):,} draws", "95 % of single runs": interval(low, high),
            "printed number": "inside" if low <= float(printed) <= high else "outside", "runs": ""}  # fmt: skip


def rounding(printed):
    """Half a unit of the last digit of a printed number; ~52 means 52 give or take a half."""
    digits, _, exponent = printed.lstrip("~").partition("e")
    decimals = len(digits.partition(".")[2])
    return 0.5 * 10.0 ** (int(exponent or 0) - decimals)


def interval(low, high):
    """An interval as text, "" if there is none."""
    return "" if np.isnan(low) else f"{low:.4g} .. {high:.4g}"


def percent(results, key="test_accuracy"):
    """The numbers results[...][key] in percent."""
    return [100 * result[key] for result in results]


# ------------------------------------------------------------------------------------------------- the table of claims


def claim(document, words, experiment, effect, sign, unit="points", **elsewhere):
    """A claim: its own words, the experiment that can refute it, and its primary effect, see lab/statistics.py.

    sign: that of the effect that the claim predicts, 0 for no effect. elsewhere {setting: effect}: the same effect in other
    settings.
    """
    return {"document": document, "claim": words, "experiment": experiment, "effect": effect, "sign": sign, "unit": unit,
            "elsewhere": elsewhere}  # fmt: skip


def fact(document, words, experiment, measured, holds):
    """A claim that needs no statistics, because it is about a number that is the same in all runs."""
    return {"document": document, "claim": words, "experiment": experiment, "measured": measured, "verdict": "holds" if holds else "fails"}


def verdicts(claims):
    """The lines of the table of claims: the p of all primary effects are adjusted together."""
    p = statistics.holm({i: c["effect"]["p"] for i, c in enumerate(claims) if c.get("sign")})
    return [line(c, p.get(i)) for i, c in enumerate(claims)]


def line(c, p):
    """The line of one claim, whose adjusted p is p."""
    about = {name: c[name] for name in ("document", "claim", "experiment")}
    if "effect" not in c:
        return about | {"effect, 95 % interval (n)": c["measured"], "adjusted p": "", "verdict": c["verdict"], "elsewhere": ""}
    found = statistics.verdict(c["effect"], c["sign"], p, c["unit"])
    others = {where: statistics.verdict(effect, c["sign"], effect["p"], c["unit"]) for where, effect in c["elsewhere"].items()}
    if {found, *others.values()} >= {"holds", "fails"}:
        found = "depends on the setting"
    return about | {
        "effect, 95 % interval (n)": f"{statistics.text(c['effect'])} {c['unit']}", "adjusted p": "" if p is None else f"{p:.2g}",
        "verdict": found,
        "elsewhere": "; ".join(f"{where}: {statistics.text(effect)}, {others[where]}" for where, effect in c["elsewhere"].items()),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- what is compared


def difference(before, after, measure):
    """The effect of after minus before, paired by seed, on measure(result) -> number."""
    pairs = [(measure(one), measure(other)) for one in before for other in after if one["seed"] == other["seed"]]
    return statistics.mean_difference([other - one for one, other in pairs])


def gap(result):
    """Training minus validation accuracy at the end, in points."""
    return 100 * (result["train_accuracy"] - result["val_accuracy"])


def at_equal_training(before, after):
    """The effect on validation accuracy, in points, at the training accuracy that both arms reach, paired by seed.

    The curves of both are followed to the lower of their highest training accuracies, linearly between epochs.
    """
    differences = []
    for one, other in ((one, other) for one in before for other in after if one["seed"] == other["seed"]):
        curves = [(np.maximum.accumulate(r["history"]["train_accuracy"]), r["history"]["val_accuracy"]) for r in (one, other)]
        level = min(train[-1] for train, _ in curves)
        low, high = (np.interp(level, train, val) for train, val in curves)
        differences.append(100 * (high - low))
    return statistics.mean_difference(differences)


def by_value(results, key):
    """Return {value of config[key]: its results}, in order of appearance."""
    found = {}
    for result in results:
        found.setdefault(result["config"][key], []).append(result)
    return found


def best_value(results, key):
    """Return the results of the value of config[key] whose mean validation accuracy is highest."""
    return max(by_value(results, key).values(), key=lambda mine: np.mean([result["val_accuracy"] for result in mine]))


def updates_to(level, column="val_accuracy"):
    """Return a measure: the updates until a column of the history reaches a level, linearly between epochs; nan if it never does."""

    def measure(result):
        values = np.maximum.accumulate(result["history"].get(column, []))
        if not len(values) or values[-1] < level:
            return np.nan
        return float(np.interp(level, values, result["history"]["t"]))

    return measure


def seconds_to(level):
    """Return a measure: the seconds of training until the validation accuracy reaches a level, see updates_to."""
    updates = updates_to(level)
    return lambda result: updates(result) * result["duration_s"] / result["history"]["t"][-1]


def largest_eta(trials, within=0.02):
    """Return {seed: log10 of the largest eta_max} whose validation accuracy is at most `within` below the best of the same seed.

    It is nan for a seed of which no training has learnt anything.
    """
    found = {}
    for seed in {trial["seed"] for trial in trials}:
        mine = {trial["config"]["eta_max"]: trial["val_accuracy"] for trial in trials if trial["seed"] == seed}
        best = max(mine.values())
        learnt = best > 1 / len(trials[0]["data"]["classes"]) + CHANCE_MARGIN
        found[seed] = np.log10(max(eta for eta in mine if mine[eta] >= best - within)) if learnt else np.nan
    return found


def eta_gain(before, after):
    """The effect of after minus before on the largest learning rate, in decades, paired by the seeds of the trials."""
    one, other = largest_eta(before), largest_eta(after)
    return statistics.mean_difference([other[seed] - one[seed] for seed in one if seed in other])
