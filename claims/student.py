"""The student report on the assignment, in its own setting, which its public code tells.

GitHub mark-antal-csizmadia/nn-blocks, assigments/assignment_3/Assignment3.py, commit 30faca0. numpy's legacy seed 12 there
gives the report's lambdas digit by digit. Its penalty is 1/2 reg ||W||^2, so that its lambda is 2 lam.
"""
from functools import partial

import numpy as np

from claims.common import claim, number, percent
from lab import gradients, plots, statistics, tables, workers
from lab.settings import config, row

DATASET, TIME = "cifar10", "about an hour on 2 cores with 10 seeds"
DOCUMENT = "student report"
NETS = {"3 layers": [50, 50], "9 layers": [50, 30, 20, 20, 10, 10, 10, 10]}
SETTING = {"sigma": "xavier", "sigma_b": 1.0, "eps": 1e-5, "lam": 0.0025}
WORDS = "its own"


def own(net, bn, **changes):
    """A config of the report's setting, but for the split. bn: whether it has BN."""
    return config(**{"hidden": NETS[net], "bn": "after" if bn else "off", **SETTING, **changes})


PRINTED = {  # row: (place, config, printed test accuracy)
    "3 layers":    ("3.1", own("3 layers", False), "53.60"),
    "3 layers BN": ("3.1", own("3 layers", True),  "53.23"),
    "9 layers":    ("3.2", own("9 layers", False), "44.11"),
    "9 layers BN": ("3.2", own("9 layers", True),  "50.19"),
    "3 layers BN, lambda 7.86e-3, 3 cycles": ("3.3", own("3 layers", True, lam=3.93e-3, n_cycles=3), "53.92"),
}
SIGMAS = [1e-1, 1e-3, 1e-4]
TABLE_4 = {("3 layers", False): ["53.46", "51.93", "10.00"], ("3 layers", True): ["53.60", "53.46", "53.50"],
           ("9 layers", False): ["10.00", "10.00", "10.00"], ("9 layers", True): ["51.92", "50.79", "10.00"]}
for (net, bn), cells in TABLE_4.items():
    for sigma, cell in zip(SIGMAS, cells, strict=True):
        PRINTED[f"{net}{' BN' * bn}, sigma {sigma:g}"] = ("Table 4", own(net, bn, sigma=sigma, sigma_b=sigma), cell)
SEARCH = {  # lambda and validation accuracy of each trial
    "Table 1": ("4.14e-5 51.06, 9.12e-3 52.80, 1.13e-4 51.00, 1.36e-3 51.32, 1.14e-5 51.46, "
                "4.73e-2 51.14, 4.01e-2 51.28, 1.36e-5 50.42, 6.73e-2 50.98, 3.54e-5 50.04"),
    "Table 2": "7.86e-3 53.40, 1.00e-2 52.62, 8.26e-3 53.38, 9.25e-3 52.16, 7.35e-3 52.64",
    "Table 3": "6.77e-3 52.82, 8.62e-3 52.68, 7.12e-3 52.48, 7.97e-3 51.98, 6.34e-3 52.58",
}
TRIALS = {f"lambda {pair.split()[0]}": (table, float(pair.split()[0]), pair.split()[1])
          for table, pairs in SEARCH.items() for pair in pairs.split(", ")}

# From the assignment's setting to the report's, one point after the other; the last step, the random split, is own's.
STEPS = {
    "the assignment's setting": {},
    "BN after the ReLU":        {"bn": "after"},
    "lambda halved":            {"lam": 0.0025},
    "weights N(0, 1/m_in)":     {"sigma": "xavier"},
    "biases N(0, 1)":           {"sigma_b": 1.0},
    "eps 1e-5":                 {"eps": 1e-5},
}
LAST_STEP = "random validation images"
PATHS = {  # network: (its config in the assignment's setting, its row in the report's, the steps that change nothing)
    "3 layers":    (config(hidden=NETS["3 layers"]),              "3 layers",    ["BN after the ReLU", "eps 1e-5"]),
    "3 layers BN": (config(hidden=NETS["3 layers"], bn="before"), "3 layers BN", []),
    "9 layers":    (config(hidden=NETS["9 layers"]),              "9 layers",    ["BN after the ReLU", "eps 1e-5"]),
    "9 layers BN": (config(hidden=NETS["9 layers"], bn="before"), "9 layers BN", []),
    "3 layers, sigma 0.001": (config(hidden=NETS["3 layers"], sigma=1e-3), "3 layers, sigma 0.001",
                              ["BN after the ReLU", "eps 1e-5", "weights N(0, 1/m_in)"]),
}


def path_of(net):
    """The steps of a network's path, pairs (step, config), without the last one."""
    c, idle = PATHS[net][0], PATHS[net][2]
    steps = []
    for step, change in STEPS.items():
        if step not in idle:
            change = {"sigma_b": 1e-3} if step.startswith("biases") and c["sigma"] == 1e-3 else change
            c = c | change
            steps.append((step, c))
    return steps


def train(raw, opts):
    seeds, few = range(opts.seeds), range(min(5, opts.seeds))
    tested = [(row(name, **c | {"split_seed": seed}), seed) for name, (_, c, _) in PRINTED.items() for seed in seeds]
    trials = [(row(name, **own("3 layers", True, lam=lam / 2, split_seed=seed)), seed)
              for name, (_, lam, _) in TRIALS.items() for seed in seeds]
    steps = [(row(f"{net}: {step}", **c), seed) for net in PATHS for step, c in path_of(net) for seed in few]
    how = {"may_diverge": True}
    return (workers.train_runs(tested, raw, opts, **how) | workers.train_runs(trials, raw, opts, test=False, **how)
            | workers.train_runs(steps, raw, opts, **how))


def numbers(results):
    lines = [number(DOCUMENT, place, f"{name}, test %", printed, WORDS, percent(results[name]), name)
             for name, (place, _, printed) in PRINTED.items()]
    lines += [number(DOCUMENT, table, f"{name}, validation %", printed, WORDS, percent(results[name], "val_accuracy"), name)
                    for name, (table, _, printed) in TRIALS.items()]
    small = results["3 layers"][0]["config"]["n_train"] < PRINTED["3 layers"][1]["n_train"]  # a smoke test
    return [*lines, *check_lines(n_draws=1 if small else 10)]


def check_lines(n_draws):
    """The lines of the report's gradient check, which prints the range of the errors."""
    checks = gradients.report_errors(0, n_draws)
    return [{"document": DOCUMENT, "place": "2.2", "number": f"largest relative error of a gradient, hidden nodes {c['hidden nodes']}",
             "setting": f"{c['n']} points, {c['d']} dimensions, BN {c['BN']}, reg {c['reg']}", "printed": "10e-7 .. 10e-4",
             "ours": f"{c['median']}, median", "95 % of single runs": f"{c['5 %']} .. {c['95 %']} (90 %)",
             "printed number": "inside" if float(c["95 %"]) <= 1e-3 and float(c["median"]) >= 1e-9 else "outside", "runs": ""}
            for c in checks]


def mean_of_table(results, table):
    """For each seed a result with the mean validation accuracy of a table's trials."""
    rows = [results[name] for name, (where, _, _) in TRIALS.items() if where == table]
    return [{"seed": of_seed[0]["seed"], "val_accuracy": np.mean([r["val_accuracy"] for r in of_seed])} for of_seed in zip(*rows)]


def mean_of_sigmas(results, net, bn):
    """For each seed a result with the mean test accuracy over the sigmas of Table 4."""
    rows = [results[f"{net}{' BN' * bn}, sigma {sigma:g}"] for sigma in SIGMAS]
    return [{"seed": of_seed[0]["seed"], "test_accuracy": np.mean([r["test_accuracy"] for r in of_seed])} for of_seed in zip(*rows)]


def claims(results):
    paired = statistics.paired
    coarse, fine, finer = (mean_of_table(results, table) for table in SEARCH)
    return [
        claim(DOCUMENT, "BN undoubtedly improves the 9-layer network", "test accuracy with BN minus without, its own setting",
              paired(results["9 layers"], results["9 layers BN"]), +1),
        claim(DOCUMENT, "BN does not significantly improve the 3-layer network", "the same with 3 layers",
              paired(results["3 layers"], results["3 layers BN"]), 0),
        claim(DOCUMENT, "with BN the network is more robust to the initialisation",
              "mean test accuracy over sigma 1e-1, 1e-3, 1e-4 with BN minus without, 3 layers",
              paired(mean_of_sigmas(results, "3 layers", False), mean_of_sigmas(results, "3 layers", True)), +1,
              **{"9 layers": paired(mean_of_sigmas(results, "9 layers", False), mean_of_sigmas(results, "9 layers", True))}),
        claim(DOCUMENT, "validation accuracy generally increases from the coarse search to the finer ones",
              "mean validation accuracy of the 5 lambdas of Table 2 minus that of the 10 of Table 1",
              paired(coarse, fine, "val_accuracy"), +1, **{"Table 3 minus Table 2": paired(fine, finer, "val_accuracy")}),
        claim(DOCUMENT, "the best lambda improves the 3-layer network over the default",
              "lambda 7.86e-3 for 3 cycles minus the default lambda for 2, as the report compares them",
              paired(results["3 layers BN"], results["3 layers BN, lambda 7.86e-3, 3 cycles"]), +1),
    ]


def settings_table(results):
    """What each point of the setting is worth: a line for each step of each network."""
    lines = []
    for net, (_, last, _) in PATHS.items():
        steps = [(step, results[f"{net}: {step}"]) for step, _ in path_of(net)]
        steps.append((LAST_STEP, results[last][: len(steps[0][1])]))
        before = None
        for step, mine in steps:
            gain = statistics.text(statistics.paired(before, mine)) if before else ""
            lines.append({"network": net, "step": step, "test": tables.percent(mine, "test_accuracy"), "gain": gain})
            before = mine
    return lines


def tables_of(results):
    return {"claims_student_setting": settings_table(results)}


def figures(results):
    found = {table: [r for name, (where, _, _) in TRIALS.items() if where == table for r in results[name]] for table in SEARCH}
    return {"claims-student-search": partial(plots.search, "The student report's 20 lambdas, in its own setting", found)}
