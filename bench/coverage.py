"""Measure how often the 95 % intervals of lab/statistics.py cover what they should, on simulated runs.

    python bench/coverage.py        # a few seconds; no dataset

Test accuracies in % of 3, 5 and 10 runs are simulated, each 20,000 times. The numbers in the table have a standard error of at
most .4 points, those in the last column of at most 1.

mean of all runs         covered by the interval of mean_difference, Student's t
one further run          covered by the prediction interval of further_run
difference of two        covered by the interval of unpaired, Welch's t. The other arm is normal with a third of the standard
                         deviation: networks with BN differ less between seeds than deep ones without
in groups                the share of draws in which in_groups finds groups, so that no interval would be made
one further run, rest    as above in the other draws: where all runs succeed by chance, nothing warns of those that will fail

It writes results/bench_coverage.md, .csv and .tex.
"""

import os

import numpy as np
import timing  # noqa: F401 (makes the project importable)

from lab import settings, statistics, tables

DRAWS = 20_000
RUNS = {  # name: (function of rng and size, mean, standard deviation)
    "normal, sd 1": (lambda rng, size: rng.normal(50, 1, size), 50, 1),
    "skewed: 55 - lognormal, sigma 1": (lambda rng, size: 55 - rng.lognormal(0, 1, size), 55 - np.exp(0.5), np.sqrt(np.expm1(1) * np.e)),
    "20 % fail with 10.00, else normal, sd 1": (
        lambda rng, size: np.where(rng.random(size) < 0.2, 10, rng.normal(50, 1, size)), 42, np.sqrt(0.8 + 0.16 * 40**2)),
}  # fmt: skip


def covered(low, high, value):
    """The share of the draws, in %, in which value lies between low and high."""
    return f"{100 * np.mean((low <= value) & (value <= high)):.1f}"


def measure(name, n, rng):
    """A row of the table."""
    draw, mean, sd = RUNS[name]
    runs, further, other = draw(rng, (DRAWS, n)), draw(rng, DRAWS), rng.normal(mean, sd / 3, (DRAWS, n))
    of_mean, of_difference = statistics.mean_difference(runs), statistics.unpaired(other, runs)
    low, high = statistics.further_run(runs)
    split = statistics.in_groups(runs)
    return {
        "runs": name,
        "n": n,
        "mean of all runs, %": covered(of_mean["low"], of_mean["high"], mean),
        "one further run, %": covered(low, high, further),
        "difference of two, %": covered(of_difference["low"], of_difference["high"], 0),
        "in groups, %": f"{100 * split.mean():.1f}",
        "one further run, rest, %": covered(low[~split], high[~split], further[~split]),
    }


def main():
    parser = settings.parser(__doc__)
    settings.add_out(parser)
    folder, rng = settings.output_folder(parser.parse_args(), "results"), np.random.default_rng(0)
    path = folder / "bench_coverage"
    print(tables.write_table(path, [measure(name, n, rng) for name in RUNS for n in (3, 5, 10)]), end="")
    print(f"\nwritten to {os.path.relpath(path)}.*")


if __name__ == "__main__":
    settings.run_main(main)
