"""Intervals, effects and verdicts agree with values worked out by hand, do not depend on order, and cover what they say."""

import csv
import warnings
from math import inf, isnan, nan

import numpy as np
import pytest
from conftest import HOME, call
from helpers import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import t as student

from lab import statistics

T2 = 4.302653  # the 97.5 % point of Student's t with 2 degrees of freedom, from a table
POINTS = st.integers(0, 10_000).map(lambda hits: hits / 100)  # accuracies on 10,000 images, in %


def runs(*pairs):
    return [{"seed": seed, "test_accuracy": accuracy} for seed, accuracy in pairs]


def effect(low, high, mean=None):
    return {"mean": (low + high) / 2 if mean is None else mean, "low": low, "high": high}


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_prediction_interval_is_that_of_one_further_run():
    assert statistics.further_run([1, 2, 3]) == pytest.approx((2 - T2 * (4 / 3) ** 0.5, 2 + T2 * (4 / 3) ** 0.5))
    assert np.array(statistics.further_run([[1, 2, 3], [4, 4, 4]])).T[1].tolist() == [4, 4]
    assert all(map(isnan, statistics.further_run([1.0])))


@pytest.mark.parametrize("printed, values, rounding, word", [
    (6.9, [1, 2, 3], 0, "inside"), (7.0, [1, 2, 3], 0, "outside"), (7.0, [1, 2, 3], 0.05, "inside"),  # 2 + 4.97
    (-2.9, [1, 2, 3], 0, "inside"), (-3.0, [1, 2, 3], 0, "outside"),
    (10, [10.0] * 5, 0, "inside"), (10.01, [10.0] * 5, 0, "outside"), (52.37, [100 * 0.5237] * 3, 0, "inside"),
    (10, [10.0], 0, "one run"), (40, [10, 50, 50], 0, "runs in groups"), (40, [nan, 50, 50], 0, "runs in groups"),
])  # fmt: skip
def test_printed_value_is_inside_the_interval_or_equal_to_equal_runs(printed, values, rounding, word):
    assert statistics.compare_printed(printed, values, rounding) == word


@pytest.mark.parametrize("values, grouped", [
    ([50.0], False), ([50, 51, 52, 54.9], False), ([50, 55.0], True), ([54, 10, 11, 53], True),
    ([10.1, 10.3, 43.5, 54.6, 81.8], True), ([48.5, 45.9, 49.8, 48.7, 49.7], False), ([nan, 50], True), ([inf, 50], True),
])  # fmt: skip
def test_runs_are_in_groups_if_two_neighbours_are_five_points_apart(values, grouped):
    assert statistics.in_groups(values) == grouped


@pytest.mark.parametrize("n", [3, 5, 10])
def test_groups_are_found_where_some_of_simulated_runs_fail_and_not_in_normal_runs(n):
    rng = np.random.default_rng(n)
    normal, fails = rng.normal(50, 1.5, (5000, n)), rng.random((5000, n)) < 0.2
    some = fails.any(axis=1) & ~fails.all(axis=1)
    assert statistics.in_groups(np.where(fails, 10, normal)[some]).all()
    assert statistics.in_groups(normal).mean() < 0.01


def test_paired_effect_is_that_of_equal_seeds_by_students_t():
    before, after = runs((0, 0.5), (1, 0.6), (2, 0.7)), runs((2, 0.73), (0, 0.51), (1, 0.62), (9, 1.0))
    found = statistics.paired(before, after)  # differences 1, 2, 3: t is 2 sqrt(3), with 2 degrees of freedom
    assert [found[name] for name in ("mean", "low", "high", "p", "n")] == pytest.approx(
        [2, 2 - T2 / 3**0.5, 2 + T2 / 3**0.5, 1 - (12 / 14) ** 0.5, 3]
    )
    assert statistics.text(found) == "+2.00 [-0.48, +4.48] (3)"
    assert statistics.text(statistics.paired(before[:1], after)) == "+1.00 (1)"


def test_unpaired_effect_is_that_of_means_with_variances_of_their_own():
    found = statistics.unpaired([1, 2, 3], [2, 4, 6])  # the variances of the means are 1 / 3 and 4 / 3
    t = student(2 * (5 / 3) ** 2 / ((1 / 3) ** 2 + (4 / 3) ** 2))  # by Welch's formula: 2.94 degrees of freedom, not 4
    assert [found[name] for name in ("mean", "low", "high", "p")] == pytest.approx(
        [2, 2 - t.ppf(0.975) * (5 / 3) ** 0.5, 2 + t.ppf(0.975) * (5 / 3) ** 0.5, 2 * t.sf(2 / (5 / 3) ** 0.5)]
    )
    assert statistics.text(found) == "+2.00 [-2.16, +6.16] (3 + 3)"


@pytest.mark.parametrize("found, mean, p", [
    (lambda: statistics.mean_difference([0.0, 0.0, 0.0]), 0, 1), (lambda: statistics.mean_difference([1.1] * 3), 1.1, 0),
    (lambda: statistics.mean_difference([100 * (0.53 - 0.52), 100 * (0.54 - 0.53)]), 1, 0),
    (lambda: statistics.unpaired([10.0] * 3, [10.0] * 5), 0, 1), (lambda: statistics.unpaired([52.1] * 3, [53.2] * 4), 1.1, 0),
])  # fmt: skip
def test_equal_values_give_an_interval_without_width_and_no_warning(found, mean, p):
    found = found()
    assert [found[name] for name in ("mean", "low", "high", "p")] == pytest.approx([mean, mean, mean, p])


def test_one_run_gives_no_interval_and_no_warning():
    for found in (statistics.mean_difference([2.0]), statistics.unpaired([1.0], [3.0]), statistics.unpaired([1.0], [2, 3, 4])):
        assert found["mean"] == 2 and all(isnan(found[name]) for name in ("low", "high", "p"))


def test_share_is_exact():
    found = statistics.share(5, 5)  # low ** 5 is .025, and p is 2 / 2 ** 5
    assert [found[name] for name in ("mean", "low", "high", "p")] == pytest.approx([100, 100 * 0.025**0.2, 100, 1 / 16])
    found = statistics.share(9, 10)  # p: 2 (1 + 10) / 2 ** 10
    assert [found[name] for name in ("mean", "low", "high", "p")] == pytest.approx([90, 55.50, 99.75, 22 / 1024], abs=5e-3)


def test_holms_p_are_those_of_a_worked_example():
    # four p; times 4, 3, 2, 1 from the smallest on, and never smaller than the one before
    assert statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert statistics.holm({"a": 0.7, "b": nan, "c": 0.02, "d": 0.8}) == pytest.approx(
        {"a": 1, "b": nan, "c": 0.06, "d": 1}, nan_ok=True
    )
    assert statistics.holm({}) == {}


@pytest.mark.parametrize("found, sign, p, word", [
    (effect(1, 3), +1, 0.049, "holds"), (effect(1, 3), -1, 0.049, "fails"),
    (effect(-3, -1), -1, 0.01, "holds"), (effect(-3, -1), +1, 0.01, "fails"),
    (effect(0.1, 3), +1, 0.05, "too small to see (under 3.0 points)"),
    (effect(-4.11, 3), +1, 0.9, "too small to see (under 4.2 points)"),
    (effect(-3, 0.7), -1, 0.2, "too small to see (under 3.0 points)"),
    (effect(0, 0), +1, 1, "too small to see (under 0.1 points)"),
    (effect(-0.5, 0.5), 0, None, "holds"), (effect(0.1, 0.4), 0, 0.001, "holds"),
    (effect(0.6, 2), 0, None, "fails"), (effect(-2, -0.6), 0, None, "fails"),
    (effect(0.4, 2), 0, 0.001, "undecided"), (effect(-2, 0.1), 0, None, "undecided"), (effect(-2, 2), 0, None, "undecided"),
    (effect(nan, nan, 3), +1, nan, "undecided"), (effect(nan, nan, 0), 0, nan, "undecided"),
])  # fmt: skip
def test_verdict_follows_the_rule(found, sign, p, word):
    assert statistics.verdict(found, sign, p) == word


def test_verdict_on_a_share_is_about_one_half_and_has_its_unit():
    rarely = statistics.share(1, 20)
    assert statistics.verdict(rarely, +1, rarely["p"]) == "fails" and statistics.verdict(rarely, -1, rarely["p"]) == "holds"
    assert statistics.verdict(statistics.share(5, 10), +1, 1.0, unit="%").endswith("(under 31.3 %)")  # 18.7 to 81.3


@examples(50)
@given(st.lists(st.tuples(POINTS, POINTS), min_size=2, max_size=8), st.randoms())
def test_order_of_the_seeds_and_names_of_the_arms_do_not_matter(values, random):
    before, after = (runs(*enumerate(value / 100 for value in arm)) for arm in zip(*values))
    found, swapped = statistics.paired(before, after), statistics.paired(after, before)
    assume(found["high"] - found["low"] > 1e-6)
    shuffled = [random.sample(arm, len(arm)) for arm in (before, after)]
    assert statistics.paired(*shuffled) == pytest.approx(found)
    assert (swapped["mean"], swapped["low"], swapped["high"]) == pytest.approx((-found["mean"], -found["high"], -found["low"]))
    assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)


@examples(50)
@given(st.dictionaries(st.text(), st.floats(0, 1), max_size=6))
def test_holms_p_lie_between_those_given_and_bonferronis_in_the_same_order(p_values):
    adjusted = statistics.holm(p_values)
    assert all(p <= adjusted[claim] <= min(1, len(p_values) * p) for claim, p in p_values.items())
    claims = sorted(p_values, key=p_values.get)
    assert [adjusted[claim] for claim in claims] == sorted(adjusted.values())


def test_published_coverage_is_that_of_the_intervals(tmp_path):
    call("bench/coverage.py", "--out", tmp_path, cwd=tmp_path)
    tables = []
    for path in (tmp_path / "results", HOME / "results" / "published"):
        with (path / "bench_coverage.csv").open(newline="", encoding="utf-8") as file:
            tables.append([list(row.values()) for row in csv.DictReader(file)])
    for mine, published in zip(*tables, strict=True):
        assert mine[0] == published[0] and np.array(mine[1:], float) == pytest.approx(np.array(published[1:], float), abs=2)
        if mine[0].startswith("normal"):
            assert np.array(mine[2:5], float) == pytest.approx(95, abs=0.6)
