"""What a few runs say: intervals, effects and verdicts. No other rule decides in this project what a difference of runs means.

Values are in points unless a caller says otherwise. An effect is a dict: mean, low and high (the ends of its 95 % interval),
p (two-sided) and n. Where one run gives no interval, low, high and p are nan. Runs that are all equal have an interval without
width, so that a comparison with them is one of equality. bench/coverage.py measures what the intervals cover.

A verdict is the same rule for every claim:

a difference    "holds" if its p, adjusted by Holm over all such claims of the same table, is below .05 and the effect has the
                claimed sign; "fails" if p is below .05 and it has the other sign; else "too small to see (under x points)"
no difference   ("the same", "unnecessary") "holds" if the 95 % interval lies within +-.5 points, "fails" if it lies wholly
                outside, else "undecided". No p is used, and nothing is adjusted
several         if the settings that a claim names have different verdicts, its author writes "depends on" and what on
"""

import math
import warnings

import numpy as np

ALPHA, MARGIN, GAP = 0.05, 0.5, 5.0  # MARGIN: see "no difference" above; GAP: see in_groups

# scipy.stats is imported in the functions that need it, because it loads a second BLAS, which workers do not need.


def further_run(values):
    """Return the ends of the 95 % prediction interval of one further run, given values (..., n). Both are nan if n is 1.

    It assumes that all runs, the further one among them, are independent draws from one normal distribution.
    """
    from scipy.stats import t

    values = np.asarray(values, float)
    n = values.shape[-1]
    if n < 2:
        return np.nan, np.nan
    half = t.ppf(1 - ALPHA / 2, n - 1) * values.std(axis=-1, ddof=1) * np.sqrt(1 + 1 / n)
    return values.mean(axis=-1) - half, values.mean(axis=-1) + half


def in_groups(values):
    """Whether runs (..., n) fall into groups, so that no interval should be made of them: two neighbours are GAP apart or more.

    It assumes that runs of one setting which all train leave no such gap. In some 160 sets of three and more accuracies
    published before this rule was made, the widest gap was 3.5 points, but for four sets with 5.9 to 33 points, in which
    trainings are unstable. A gap relative to the range would not do: of three values one gap is always half of the range.
    A run that is not finite is a group of its own. Weaker skewness cannot be seen in so few runs; bench/coverage.py says what
    it costs.
    """
    return (~(np.diff(np.sort(values)) < GAP)).any(axis=-1)


def compare_printed(printed, values, rounding=0.0):
    """Compare the printed value of one run with values (n,) of the same setting: "inside" further_run or "outside".

    rounding is half a unit of the last printed digit. Where no interval can be made: "one run" or "runs in groups".
    """
    if len(values) < 2:
        return "one run"
    if in_groups(values):
        return "runs in groups"
    low, high = further_run(values)
    slack = rounding + 1e-9 * abs(printed)
    return "inside" if low - slack <= printed <= high + slack else "outside"


def effect(test, n, *values, **options):
    """Return the effect that a t test of scipy.stats finds in values (..., n)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of values that are all equal, and of one value
        found = test(*values, axis=-1, **options)
        low, high = found.confidence_interval(1 - ALPHA)
    p = np.where(np.isnan(found.pvalue) & (low == high), 1.0, found.pvalue)[()]  # nan: all differences are 0
    return {"low": low, "high": high, "p": p, "n": n}


def mean_difference(differences):
    """The effect in differences (..., n), by Student's t. It assumes that they are independent draws from one normal distribution."""
    from scipy.stats import ttest_1samp

    differences = np.asarray(differences, float)
    return {"mean": differences.mean(axis=-1)} | effect(ttest_1samp, differences.shape[-1], differences, popmean=0)


def paired(before, after, key="test_accuracy"):
    """The effect of after minus before, lists of results, on 100 key, paired by seed. It assumes what mean_difference assumes."""
    pairs = [(one[key], other[key]) for one in before for other in after if one["seed"] == other["seed"]]
    return mean_difference([100 * (other - one) for one, other in pairs])


def unpaired(before, after):
    """The effect of after (..., m) minus before (..., n), by Welch's t. n is text: runs before + runs after.

    It assumes that the runs of each arm are independent draws from a normal distribution of its own, of any variance.
    """
    from scipy.stats import ttest_ind

    before, after = np.asarray(before, float), np.asarray(after, float)
    mean, n = after.mean(axis=-1) - before.mean(axis=-1), f"{before.shape[-1]} + {after.shape[-1]}"
    return {"mean": mean} | effect(ttest_ind, n, after, before, equal_var=False)


def share(k, n):
    """The share of k successes in n trials in % as an effect, with the exact binomial interval. p and null are of one half.

    It assumes that the trials are independent and have the same probability of success.
    """
    from scipy.stats import binomtest

    test = binomtest(k, n)
    low, high = test.proportion_ci(1 - ALPHA, method="exact")
    return {"mean": 100 * k / n, "low": 100 * low, "high": 100 * high, "p": test.pvalue, "n": n, "null": 50}


def holm(p_values):
    """Return {claim: adjusted p} of {claim: p}, by S. Holm's step-down rule (Scand. J. Statist. 6, 1979). A p of nan is no test.

    It assumes nothing about how the claims depend on one another.
    """
    adjusted, largest = dict(p_values), 0.0
    claims = sorted((claim for claim in p_values if not math.isnan(p_values[claim])), key=p_values.get)
    for i, claim in enumerate(claims):
        largest = max(largest, min(1.0, (len(claims) - i) * p_values[claim]))
        adjusted[claim] = largest
    return adjusted


def verdict(effect, sign, p=None, unit="points"):
    """Return the verdict of the rule above. sign: +1 or -1 as the claim has it, 0 for no difference. p: adjusted by holm."""
    mean, low, high = (effect[name] - effect.get("null", 0) for name in ("mean", "low", "high"))
    if math.isnan(low):
        return "undecided"
    if sign == 0:
        within, outside = low >= -MARGIN and high <= MARGIN, high < -MARGIN or low > MARGIN
        return "holds" if within else "fails" if outside else "undecided"
    if p < ALPHA:
        return "holds" if mean * sign > 0 else "fails"
    tenths = max(1, math.ceil(10 * max(abs(low), abs(high)) - 1e-6))
    return f"too small to see (under {tenths / 10:.1f} {unit})"


def text(effect):
    """An effect as text: its mean, its interval if it has one, and n."""
    low, high = effect["low"], effect["high"]
    ends = "" if math.isnan(low) else f" [{low:+.2f}, {high:+.2f}]"
    return f"{effect['mean']:+.2f}{ends} ({effect['n']})"
