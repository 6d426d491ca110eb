"""What the parts of run_claims.py share: lines of its two tables, and what they measure in results.

A part is a module with DATASET, TIME, train(raw, opts) -> results, numbers(results) and claims(results) -> lists of what
number and claim return, tables_of(results) -> {table: rows} and figures(results), see driver.drive.
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
    outcome, ours, (value, rounding) = "", "", figure(printed)
    if len(values):
        outcome, ours = statistics.compare_printed(value, values, rounding), tables.summary(values)
    if outcome == "runs in groups":
        ours = ", ".join(f"{value:.4g}" for value in sorted(values))
    low, high = statistics.further_run(values) if outcome in ("inside", "outside") else (np.nan, np.nan)
    return {"document": document, "place": place, "number": what, "setting": setting, "printed": printed, "ours": ours,
            "95 % of single runs": interval(low, high), "printed number": outcome, "runs": row}  # fmt: skip


def drawn(document, place, what, printed, setting, values):
    """The line of a printed number beside many draws of it, whose central 95 % take the place of the prediction interval."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {"document": document, "place": place, "number": what, "setting": setting, "printed": printed,
            "ours": f"{np.median(values):.4g}, median of {len(values):,} draws", "95 % of single runs": interval(low, high),
            "printed number": "inside" if low <= float(printed) <= high else "outside", "runs": ""}  # fmt: skip


def figure(printed):
    """A printed number and half a unit of its last digit; ~52 is 52 give or take a half."""
    digits, exponent = re.search(r"(\d*\.\d+|\d+)(e[+-]?\d+)?", printed).groups("e0")
    decimals = len(digits.partition(".")[2])
    return float(digits + exponent), 0.5 * 10.0**-decimals * float("1" + exponent)


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
    verdict = "holds" if holds else "fails"
    return {"document": document, "claim": words, "experiment": experiment, "measured": measured, "verdict": verdict}


def verdicts(claims):
    """The lines of the table of claims. The p of all primary effects are adjusted together, and so are all those elsewhere."""
    tested = [(i, c) for i, c in enumerate(claims) if c.get("sign")]
    p = statistics.holm({i: c["effect"]["p"] for i, c in tested})
    others = statistics.holm({(i, where): effect["p"] for i, c in tested for where, effect in c["elsewhere"].items()})
    return [line(c, p.get(i), lambda where, i=i: others.get((i, where))) for i, c in enumerate(claims)]


def line(c, p, p_elsewhere):
    """The line of one claim. p, p_elsewhere(setting): adjusted; None where the claim has no sign."""
    about = {name: c[name] for name in ("document", "claim", "experiment")}
    if "effect" not in c:
        return about | {"effect, 95 % interval (n)": c["measured"], "adjusted p": "", "verdict": c["verdict"], "elsewhere": ""}
    found = statistics.verdict(c["effect"], c["sign"], p, c["unit"])
    others = {
        where: statistics.verdict(effect, c["sign"], p_elsewhere(where), c["unit"]) for where, effect in c["elsewhere"].items()
    }
    texts = (f"{where}: {statistics.text(effect)}, {others[where]}" for where, effect in c["elsewhere"].items())
    if {found, *others.values()} >= {"holds", "fails"}:
        found = "depends on the setting"
    return about | {
        "effect, 95 % interval (n)": f"{statistics.text(c['effect'])} {c['unit']}",
        "adjusted p": "" if p is None or np.isnan(p) else f"{p:.2g}", "verdict": found, "elsewhere": "; ".join(texts),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- what is compared


def difference(before, after, measure):
    """The effect of after minus before, paired by seed, on measure(result) -> number."""
    pairs = [(measure(one), measure(other)) for one in before for other in after if one["seed"] == other["seed"]]
    return statistics.mean_difference([other - one for one, other in pairs])


def interaction(first, second, key="val_accuracy"):
    """The effect of the gain in second minus the gain in first, each a pair (before, after) of results, paired by seed."""
    arms = [{result["seed"]: 100 * result[key] for result in arm} for arm in (*first, *second)]
    seeds = [seed for seed in arms[0] if all(seed in arm for arm in arms)]
    return statistics.mean_difference([arms[3][seed] - arms[2][seed] - arms[1][seed] + arms[0][seed] for seed in seeds])


def gap(result):
    """Training minus validation accuracy at the end, in points; nan if the run diverged."""
    return 100 * (result.get("train_accuracy", np.nan) - result["val_accuracy"])


def at_equal_training(before, after):
    """The effect on validation accuracy, in points, at the training accuracy that both arms reach, paired by seed.

    The curves of both are followed to the lower of their highest training accuracies, linearly between epochs. It is nan if a
    run diverged.
    """
    differences = []
    for one, other in ((one, other) for one in before for other in after if one["seed"] == other["seed"]):
        level = min(max(result["history"].get("train_accuracy", [np.nan])) for result in (one, other))
        low, high = (reaching(result["history"], "train_accuracy", level, "val_accuracy") for result in (one, other))
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


def reaching(history, column, level, wanted="t"):
    """The value of the wanted column where another one first reaches a level, linearly between epochs; nan if it never does.

    It is that after the first epoch if the level is reached by then.
    """
    values = np.array(history.get(column, []))
    reached = np.flatnonzero(values >= level)
    if not len(reached):
        return np.nan
    part = slice(max(0, reached[0] - 1), reached[0] + 1)
    return float(np.interp(level, values[part], history[wanted][part]))


def updates_to(level):
    """Return a measure: the updates until the validation accuracy reaches a level, see reaching."""
    return lambda result: reaching(result["history"], "val_accuracy", level)


def seconds_to(level):
    """Return a measure: the seconds, by the clock, until the validation accuracy reaches a level, see reaching."""
    return lambda result: updates_to(level)(result) * result["duration_s"] / result["history"].get("t", [np.nan])[-1]


def largest_eta(trials, within=0.02):
    """Return {seed: log10 of the largest eta_max whose validation accuracy is at most `within` below the best of this seed}.

    Between the last eta_max that is as good and the next one, accuracy is taken to be linear in log10 eta_max. It is nan for a
    seed of which no training has learnt anything, and at most the largest eta_max of the trials.
    """
    found = {}
    for seed in {trial["seed"] for trial in trials}:
        mine = sorted((np.log10(t["config"]["eta_max"]), t["val_accuracy"]) for t in trials if t["seed"] == seed)
        etas, accuracies = np.array(mine).T
        level, i = accuracies.max() - within, len(mine) - 1
        while accuracies[i] < level:
            i -= 1
        part = slice(i, i + 2)
        learnt = accuracies.max() > 1 / len(trials[0]["data"]["classes"]) + CHANCE_MARGIN
        found[seed] = float(np.interp(-level, -accuracies[part], etas[part])) if learnt else np.nan
    return found


def eta_gain(before, after):
    """The effect of after minus before on the largest learning rate, in decades, paired by the seeds of the trials."""
    one, other = largest_eta(before), largest_eta(after)
    return statistics.mean_difference([other[seed] - one[seed] for seed in one if seed in other])
