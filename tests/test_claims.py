"""run_claims.py: its measures on histories made by hand, and each claim in worlds in which it is plainly true or plainly false."""

import json
import random
from math import isnan, log, nan
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SMALL, call

import run_claims
from claims import assignment, common, fashion, maps, student
from lab import driver, statistics, store, tuning, workers
from lab.settings import UserError, config, row

SHARP = {"mean": 3.0, "low": 2.0, "high": 4.0, "p": 1e-9, "n": 5}
AGAINST = {"mean": -3.0, "low": -4.0, "high": -2.0, "p": 1e-9, "n": 5}
WEAK = {"mean": 1.0, "low": 0.1, "high": 1.9, "p": 0.03, "n": 5}


# ------------------------------------------------------------------------------------------------------- printed numbers


@pytest.mark.parametrize("printed, value, rounding", [
    ("53.60", 53.6, 0.005), ("~52", 52, 0.5), ("~53.5", 53.5, 0.05), ("1.40e-07", 1.4e-7, 0.5e-9), ("44.11 %", 44.11, 0.005),
    ("3e-6", 3e-6, 0.5e-6), ("9.81e-11", 9.81e-11, 0.5e-13), (".1", 0.1, 0.05),
])  # fmt: skip
def test_printed_number_is_read_with_half_a_unit_of_its_last_digit(printed, value, rounding):
    assert common.figure(printed) == pytest.approx((value, rounding), rel=1e-9)


@pytest.mark.parametrize("printed, values, outcome, ours, interval", [
    ("53.60", [53.0, 53.5, 54.0], "inside", "53.50 ± 0.50 (3)", "51.02 .. 55.98"),
    ("56.00", [53.0, 53.5, 54.0], "outside", "53.50 ± 0.50 (3)", "51.02 .. 55.98"),
    ("~56", [53.0, 53.5, 54.0], "inside", "53.50 ± 0.50 (3)", "51.02 .. 55.98"),  # it may be 55.6
    ("10.00", [10.0, 10.0], "inside", "10.00 ± 0.00 (2)", "10 .. 10"),
    ("10.01", [10.0, 10.0], "outside", "10.00 ± 0.00 (2)", "10 .. 10"),
    ("10.00", [48.2, 10.0, 47.9], "runs in groups", "10, 47.9, 48.2", ""), ("53.60", [53.0], "one run", "53.00 (1)", ""),
    ("53.60", [], "", "", ""), ("9.81e-11", [1e-12, 1e-12], "outside", "0.00 ± 0.00 (2)", "1e-12 .. 1e-12"),
])  # fmt: skip
def test_printed_number_is_inside_the_interval_of_one_further_run_or_not(printed, values, outcome, ours, interval):
    line = common.number("a report", "Table 1", "test %", printed, "its own", values, "a row")
    shown = line["ours"] if isinstance(line["ours"], str) else run_claims.tables.cell(line["ours"])
    assert (line["printed number"], shown, line["95 % of single runs"]) == (outcome, ours, interval)
    assert (line["printed"], line["runs"], line["place"]) == (printed, "a row", "Table 1")


# ---------------------------------------------------------------------------------------------------------------- claims


def verdicts(*claims):
    return [line["verdict"] for line in common.verdicts(list(claims))]


def claimed(effect, sign=+1, **elsewhere):
    return common.claim("a report", "words", "experiment", effect, sign, **elsewhere)


def test_p_of_all_primary_effects_are_adjusted_together_and_those_elsewhere_by_themselves():
    assert verdicts(claimed(WEAK)) == ["holds"]
    assert verdicts(claimed(WEAK), claimed(WEAK)) == ["too small to see (under 1.9 points)"] * 2
    assert verdicts(claimed(WEAK), claimed(SHARP, 0), common.fact("a report", "w", "e", "7", True)) == [
        "holds",
        "fails",
        "holds",
    ]
    assert verdicts(claimed(WEAK, there=WEAK), claimed(SHARP, -1)) == ["holds", "fails"]
    (line,) = common.verdicts([claimed(SHARP, here=WEAK, there=WEAK)])
    assert line["elsewhere"].count("too small to see") == 2 and line["verdict"] == "holds" and line["adjusted p"] == "1e-09"


@pytest.mark.parametrize("sign, primary, elsewhere, word", [
    (+1, SHARP, [SHARP], "holds"), (+1, SHARP, [SHARP, AGAINST], "depends on the setting"), (+1, SHARP, [WEAK, WEAK], "holds"),
    (-1, SHARP, [AGAINST], "depends on the setting"), (0, SHARP, [AGAINST], "fails"),
    (0, {"mean": 0, "low": -0.1, "high": 0.1, "p": 1, "n": 5}, [AGAINST], "depends on the setting"),
    (+1, WEAK, [AGAINST], "depends on the setting"), (+1, SHARP, [{**AGAINST, "p": 0.03}, WEAK], "holds"),
])  # fmt: skip
def test_verdict_depends_on_the_setting_only_if_the_claim_holds_in_one_and_fails_in_another(sign, primary, elsewhere, word):
    assert verdicts(claimed(primary, sign, **{str(i): effect for i, effect in enumerate(elsewhere)})) == [word]


def test_claim_without_an_interval_is_undecided_and_shows_no_p():
    (line,) = common.verdicts([claimed(statistics.mean_difference([2.0]))])
    assert (line["verdict"], line["adjusted p"], line["effect, 95 % interval (n)"]) == ("undecided", "", "+2.00 (1) points")
    assert common.verdicts([common.fact("a report", "words", "experiment", "7", False)])[0]["verdict"] == "fails"


# ------------------------------------------------------------------------------------------------------ what is measured


def run(seed, eta_max=0.1, duration_s=10.0, **history):
    """A result whose accuracies at the end are those of its history; {} is that of a diverged run."""
    ends = {name: column[-1] for name, column in history.items() if name.endswith("accuracy")}
    return {"seed": seed, "config": {"eta_max": eta_max}, "data": {"classes": range(10)}, "duration_s": duration_s,
            "history": history, "val_accuracy": 0.1} | ends  # fmt: skip


CURVE = run(0, t=[100, 200, 300, 400], val_accuracy=[0.2, 0.6, 0.5, 0.8])
DIVERGED = run(0)


@pytest.mark.parametrize("level, updates", [(0.4, 150), (0.6, 200), (0.7, 367), (0.8, 400), (0.81, nan), (0.1, 100)])
def test_updates_and_seconds_to_a_level_are_those_at_its_first_crossing(level, updates):
    assert common.updates_to(level)(CURVE) == pytest.approx(updates, abs=0.5, nan_ok=True)
    assert common.seconds_to(level)(CURVE) == pytest.approx(updates / 40, abs=0.05, nan_ok=True)  # 10 s, 400 updates


def test_diverged_run_makes_an_effect_undecided_and_no_error():
    for measure in (common.updates_to(0.5), common.seconds_to(0.5), common.gap):
        assert isnan(measure(DIVERGED))
    good = run(0, t=[1], train_accuracy=[0.5], val_accuracy=[0.4])
    for effect in (common.at_equal_training([good], [DIVERGED]), common.at_equal_training([DIVERGED], [good])):
        assert isnan(effect["mean"])


def test_gap_and_difference_are_in_points_and_paired_by_seed():
    one = [run(seed, train_accuracy=[0.9], val_accuracy=[0.8]) for seed in (0, 1)]
    other = [run(seed, train_accuracy=[0.9], val_accuracy=[0.8 + seed / 100]) for seed in (2, 1, 0)]
    assert common.difference(one, other, common.gap)["mean"] == pytest.approx(-0.5)  # gaps 10, 9 minus 10, 10
    assert common.difference(one, other, common.gap)["n"] == 2


def test_interaction_is_the_second_gain_minus_the_first_of_the_same_seeds():
    def arm(*accuracies):
        return [run(seed, val_accuracy=[accuracy]) for seed, accuracy in enumerate(accuracies)]

    found = common.interaction((arm(0.5, 0.5), arm(0.6, 0.5)), (arm(0.2, 0.2), arm(0.5, 0.3)[::-1]))
    assert (found["mean"], found["n"]) == (pytest.approx(15), 2)  # 30 - 10 and 10 - 0


def test_validation_is_compared_where_both_reach_the_lower_of_their_best_training_accuracies():
    slow = [run(0, t=[1, 2, 3], train_accuracy=[0.5, 0.6, 0.55], val_accuracy=[0.4, 0.5, 0.9])]
    fast = [run(0, t=[1, 2, 3], train_accuracy=[0.5, 0.7, 0.9], val_accuracy=[0.4, 0.5, 0.6])]
    assert common.at_equal_training(slow, fast)["mean"] == pytest.approx(-5)  # at .6: .5, and .45 half-way to .7
    assert common.at_equal_training(fast, slow)["mean"] == pytest.approx(5)


def trials(seed, *accuracies):
    return [run(seed, eta, val_accuracy=[accuracy]) for eta, accuracy in zip((0.01, 0.1, 1.0, 10.0), accuracies)]


@pytest.mark.parametrize("accuracies, largest", [
    ((0.50, 0.60, 0.40, 0.1), -0.9), ((0.60, 0.50, 0.60, 0.50), 0.2), ((0.5, 0.6, 0.59, 0.585), 1),
    ((0.60, 0.1, 0.1, 0.1), -1.96), ((0.1, 0.15, 0.1, 0.1), nan),
])  # fmt: skip
def test_largest_eta_is_where_accuracy_falls_two_points_below_the_best(accuracies, largest):
    assert common.largest_eta(trials(7, *accuracies))[7] == pytest.approx(largest, nan_ok=True)


def test_gain_in_eta_is_in_decades_of_each_seed():
    off = trials(0, 0.6, 0.58, 0.1, 0.1) + trials(1, 0.58, 0.6, 0.58, 0.1)
    on = trials(1, 0.5, 0.6, 0.6, 0.58) + trials(0, 0.5, 0.58, 0.6, 0.58)
    gain = common.eta_gain(off, on)
    assert (gain["mean"], gain["n"]) == (pytest.approx(1.5), 2)  # -1 and 0 to 1
    assert common.by_value(off, "eta_max") == {eta: [off[i], off[i + 4]] for i, eta in enumerate((0.01, 0.1, 1.0, 10.0))}


# ------------------------------------------------------------------------------------ worlds in which claims hold or fail


def results_of(world, runs, epochs=10, noise=2e-4):
    """What workers.train_runs returns for runs if training gives what world(config) says.

    final: the accuracy at the end. gap: training minus validation accuracy there. ramp: the epochs until it is reached,
    linearly. dataset: test accuracy that the statistics of the training set gain. columns: (offset of the first epoch, of the
    later ones) of further columns of validation accuracy. Every run has its own noise in final.
    """
    results = {}
    for row_, seed in runs:
        c, rng = row_["config"], random.Random(json.dumps([row_["name"], row_["config"], seed]))
        told = {"gap": 0.05, "ramp": 5, "dataset": 0.0, "columns": {}} | world(c)
        final, n = told["final"] + rng.gauss(0, noise), np.arange(1, epochs + 1)
        rise = np.minimum(1, n / told["ramp"])
        columns = {"t": 100 * n, "val_accuracy": final * rise, "train_accuracy": (final + told["gap"]) * rise}
        columns |= {name: final + np.where(n == 1, *offsets) for name, offsets in told["columns"].items()}
        result = {"row": row_["name"], "seed": seed, "run": f"{row_['name']}-{seed}", "config": c, "duration_s": 10.0,
                  "diverged": "",
                  "data": {"name": "made", "title": "made by hand", "note": "", "files": "other", "classes": list(range(10))},
                  "history": {name: column.tolist() for name, column in columns.items()}, "train_accuracy": final + told["gap"],
                  "val_accuracy": final, "test_accuracy": final, "test_accuracy_dataset": final + told["dataset"]}  # fmt: skip
        results.setdefault(row_["name"], []).append(result)
    return results


def in_student_report(c, s):
    """A world in which all claims of the student report hold (s = 1) or fail (s = -1)."""
    bn, deep, drawn = c["bn"] != "off", len(c["hidden"]) > 2, isinstance(c["sigma"], float)
    final = 0.5 + s * bn * (0.05 * deep + 0.1 * drawn) + 0.03 * bn * (s < 0) * (not deep)
    return {"final": final - s * 0.03 * abs(log(2 * c["lam"] / 7e-3)) + s * 0.01 * (c["n_cycles"] - 2)}


def in_assignment(c, s):
    """Learning rates above a limit cost 10 points."""
    bn, deep = c["bn"] != "off", len(c["hidden"]) > 5
    limit = {(True, 1): 3.0, (True, -1): 0.03}.get((bn, s), (0.1 if s > 0 else 3.0) if deep else 1.0)
    best_lam = c["lam"] not in assignment.LAMS if s < 0 else c["lam"] != 0.005
    order = {"each epoch": 0.0, "once": 0.02, "by class": 0.05}[c["order"]]
    final = 0.6 - s * 0.02 * len(c["hidden"]) + s * 0.05 * bn * deep - 0.1 * (c["eta_max"] > 1.01 * limit)
    columns = {"val_accuracy_dataset": (s * order, s * order)}
    for alpha in c["alphas"]:
        same = -0.02 * (s < 0) * (alpha == 0.9)
        columns[f"val_accuracy_alpha{alpha}"] = same - s * 0.05 * (alpha > 0.9), same
    return {"final": final - s * order + 0.02 * best_lam, "gap": 0.08 - 0.03 * s * bn, "columns": columns}


def in_maps(c, s):
    before = c["bn"] == "before"
    norm = 100.0 if before else 100.0 * 10.0 ** (-2 * s)
    final = 0.4 + s * 0.05 * before - s * 0.1 * (c["sigma"] == 0.01) + 0.03 * (s < 0) * before * (c["sigma"] == "xavier")
    return {"final": final, "columns": {f"norm{l}": (norm, norm) for l in range(1, 10)} if c["norms"] else {}}


def in_fashion(c, s):
    kinds = [kind for kind, *_ in c["specs"]]
    bn, after, depth = "bn" in kinds, kinds.index("bn") > kinds.index("relu") if "bn" in kinds else False, kinds.count("relu")
    limit = (3.0 if s > 0 else 0.1) if bn else 0.3
    size = 0 if c["n_batch"] in (50, 100) else 0.03 if bn else 0.03 - 0.015 * s
    final = 0.5 + s * 0.01 * depth * bn - s * size - 0.1 * (c["eta_max"] > 1.01 * limit) + 0.03 * (s < 0) * after
    ramp = 5 + 2 * s * (c["scale"] == "255") - 3 * s * bn
    return {"final": final, "gap": 0.08 - 0.03 * s * bool(c["bn_group"]), "ramp": ramp, "dataset": 0.02 * (s < 0)}  # fmt: skip


WORLDS = {student: in_student_report, assignment: in_assignment, maps: in_maps, fashion: in_fashion}


@pytest.fixture
def imagine(monkeypatch):
    """Return a function: the results of a part's train() where training gives what world(config, s) says."""

    def train(part, world, s=1, asked=None):
        def train_runs(runs, raw, opts, **how):
            if asked is not None:
                asked.extend(runs)
            return results_of(lambda c: world(c, s), runs)

        monkeypatch.setattr(workers, "train_runs", train_runs)
        return part.train({}, SimpleNamespace(seeds=10, smoke=False))

    return train


@pytest.mark.parametrize("part", WORLDS, ids=lambda part: part.__name__)
@pytest.mark.parametrize("s, word", [(1, "holds"), (-1, "fails")])
def test_each_claim_holds_in_a_world_in_which_it_is_true_and_fails_in_one_in_which_it_is_false(s, word, part, imagine):
    claims = [claim for claim in part.claims(imagine(part, WORLDS[part], s)) if "effect" in claim]
    claims = [claim for claim in claims if "gradient check" not in claim["claim"]]  # it is about draws, not about trainings
    assert len(claims) > 2 and len({claim["claim"] for claim in claims}) == len(claims)
    for line in common.verdicts(claims):
        others = [text.rpartition(", ")[2] for text in line["elsewhere"].split("; ") if text]
        assert {line["verdict"], *others} == {word}, line


@pytest.mark.parametrize("part", WORLDS, ids=lambda part: part.__name__)
def test_tables_and_figures_of_each_part_are_made_of_its_results(part, imagine):
    results = imagine(part, WORLDS[part])
    assert all(run_claims.tables.markdown(rows) for rows in part.tables_of(results).values())
    assert all(draw().axes for draw in part.figures(results).values())
    assert part.DATASET in run_claims.data.DATASETS and part.TIME


# ----------------------------------------------------------------------------------------------------- the student report

# (3-layer without and with BN, 9-layer without and with BN) by sigma, %
TABLE_4 = {0.1: (53.46, 53.60, 10, 51.92), 1e-3: (51.93, 53.46, 10, 50.79), 1e-4: (10, 53.50, 10, 10)}
MAIN = {("3 layers", False): 53.60, ("3 layers", True): 53.23, ("9 layers", False): 44.11, ("9 layers", True): 50.19}


def test_student_reports_runs_are_in_its_own_setting(imagine):
    asked = []
    imagine(student, in_student_report, asked=asked)
    asked = [(r["name"], r["config"], seed) for r, seed in asked if ":" not in r["name"]]  # without the steps to the setting
    assert {name for name, _, _ in asked} == {*student.PRINTED, *student.TRIALS} and len(asked) == 10 * (17 + 20)
    for name, c, seed in asked:
        sigma = float(name.partition("sigma ")[2] or "nan")
        lam = float(name.partition("lambda ")[2].partition(",")[0] or 0.005) / 2
        assert (c["sigma"], c["sigma_b"]) == (("xavier", 1.0) if isnan(sigma) else (sigma, sigma)), name
        assert (c["bn"], c["eps"]) == ("after" if "BN" in name or name.startswith("lambda") else "off", 1e-5), name
        assert (c["lam"], c["split_seed"], c["n_cycles"]) == (pytest.approx(lam), seed, 3 if "3 cycles" in name else 2), name
        assert len(c["hidden"]) == (8 if name.startswith("9") else 2), name
        changed = {key for key, value in config().items() if c[key] != value}
        assert changed <= {"hidden", "bn", "eps", "lam", "sigma", "sigma_b", "split_seed", "n_cycles"}, name


def test_student_reports_numbers_are_those_that_it_prints():
    printed = {name: float(text) for name, (_, _, text) in student.PRINTED.items()}
    cells = {f"{net}{' BN' * bn}, sigma {sigma:g}": TABLE_4[sigma][2 * deep + bn]
             for deep, net in enumerate(student.NETS) for bn in (False, True) for sigma in TABLE_4}  # fmt: skip
    assert len(cells) == 12
    main = {f"{net}{' BN' * bn}": value for (net, bn), value in MAIN.items()}
    assert printed == cells | main | {"3 layers BN, lambda 7.86e-3, 3 cycles": 53.92}
    tables = [table for table, _, _ in student.TRIALS.values()]
    assert [tables.count(f"Table {i}") for i in (1, 2, 3)] == [10, 5, 5]
    best = max(student.TRIALS.values(), key=lambda trial: float(trial[2]))
    assert best == ("Table 2", 7.86e-3, "53.40")


@pytest.mark.parametrize("net", student.PATHS)
def test_path_to_the_student_reports_setting_changes_one_thing_a_step_and_ends_there_but_for_the_split(net):
    path = [c for _, c in student.path_of(net)]
    own = student.PRINTED[student.PATHS[net][1]][1]
    without_bn = own["bn"] == "off"
    start = config(hidden=own["hidden"], bn="off" if without_bn else "before", sigma=1e-3 if "sigma" in net else None)
    assert path[0] == start and own["split_seed"] is None
    assert path[-1] | ({"eps": own["eps"]} if without_bn else {}) == own
    for one, other in zip(path, path[1:]):
        assert sum(one[key] != other[key] for key in one) == 1
    assert len(path) == {"3 layers": 4, "9 layers": 4, "3 layers, sigma 0.001": 3}.get(net, 6)


# ---------------------------------------------------------------------------------------------------------- the driver


def test_parts_are_trained_one_after_the_other_and_the_tables_are_made_of_all_that_are_there(tmp_path):
    def claims_of(part):
        job = call("run_claims.py", *SMALL, "--seeds", 1, "--jobs", 1, f"--{part}", "--out", tmp_path, cwd=tmp_path)
        return job.stdout, (tmp_path / "results" / "claims-other-data-smoke" / "claims.csv").read_text()

    out, table = claims_of("assignment")
    assert "parts without results, which are left out below: student, maps" in out
    assert "deeper networks are harder to train" in table and "undoubtedly" not in table
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*assignment*")}
    n = len(list(tmp_path.rglob("runs/*.json")))
    out, table = claims_of("student")
    assert "deeper networks are harder to train" in table and "undoubtedly" in table
    assert "left out below: maps" in out and "3 layers, BN off, He, seed" not in out
    assert before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*assignment*")}.items()
    assert len(list(tmp_path.rglob("runs/*.json"))) == n + sum(len(mine) for mine in read(tmp_path, "student").values())
    numbers = (tmp_path / "results" / "claims-other-data-smoke" / "numbers.md").read_text()
    assert numbers in out and numbers.count("| one run") == 17 + 20 + 4
    assert read(tmp_path, "student").keys() >= student.PRINTED.keys()


def read(out, part):
    return store.read_runs(out / "results" / "shapes-smoke" / f"claims_{part}")


def test_figure_without_its_part_is_one_line(tmp_path):
    job = call("run_claims.py", *SMALL, "--figures", "claims-student-search", "--out", tmp_path, cwd=tmp_path, status=1)
    assert job.stderr == "run_claims.py: error: --figures claims-student-search needs the part that has it, such as --student\n"


def test_smoke_test_has_one_trial_of_the_first_and_the_last_config(monkeypatch):
    monkeypatch.setattr(workers, "train_runs", lambda runs, *_, **__: results_of(lambda c: {"final": c["eta_max"]}, runs))
    configs = [config(eta_max=eta / 10) for eta in range(1, 6)]
    found = tuning.tuned("net", configs, {}, SimpleNamespace(smoke=True), seeds=2, trials=3)
    assert [(t["config"]["eta_max"], t["seed"]) for t in found["net, trial"]] == [(0.1, 1000), (0.5, 1000)]
    whole = tuning.tuned("net", configs, {}, SimpleNamespace(smoke=False), seeds=2, trials=3)
    assert len(whole["net, trial"]) == 15 and [(r["config"]["eta_max"], r["seed"]) for r in whole["net"]] == [
        (0.5, 0),
        (0.5, 1),
    ]


def test_seeds_of_trials_do_not_count_as_published_seeds(tmp_path, monkeypatch):
    runs = [(row("net"), seed) for seed in (0, 1, tuning.TRIAL_SEED)]
    monkeypatch.setattr(store, "read_runs", lambda path: results_of(lambda c: {"final": 0.5}, runs))
    (tmp_path / "net_runs.csv").touch()
    opts = SimpleNamespace(publish=True, seeds=2, store=tmp_path, quiet=True)
    assert driver.train_all(lambda raw, opts: "trained", {}, opts, tmp_path / "net") == "trained"
    opts.seeds = 1
    with pytest.raises(UserError, match="the published results have 2 seeds, not 1"):
        driver.train_all(lambda raw, opts: "trained", {}, opts, tmp_path / "net")
