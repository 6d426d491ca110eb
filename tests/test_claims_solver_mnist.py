"""claims/cs231n.py and claims/mnist.py on made-up results: which worlds make their claims hold and fail, and what they draw."""

from types import SimpleNamespace

import numpy as np
import pytest

import nets
import run_solver
from claims import common, cs231n, mnist
from lab import plots, settings, tables, training, workers

CIFAR10, MNIST = (3, 32, 32), (1, 28, 28)
CLASSES = [str(k) for k in range(10)]


def outcome(val=0.5, train=0.9, loss=0.5, **columns):
    """What a made-up training measures; columns of the history are pairs, after its first and its last epoch."""
    pairs = {"val_accuracy": (0.1, val), "train_accuracy": (0.1, train), "train_loss": (2.0, 2 * loss - 2.0), **columns}
    history = {"t": [100, 200]} | {name: list(pair) for name, pair in pairs.items()}
    return {"val_accuracy": val, "train_accuracy": train, "train_loss": loss, "diverged": "", "history": history}


def diverged():
    return {"val_accuracy": 0.1, "diverged": "training diverged", "history": {}}


def results_of(part, shape, measured, monkeypatch, smoke=False, seeds=5):
    """The results of a part whose trainings are replaced by measured(config); each config must be one that can be trained."""
    about = {"title": "made up", "note": "", "classes": CLASSES, "shape": list(shape), "name": "made up"}

    def train_runs(runs, raw, opts, **how):
        results = {}
        for row, seed in runs:
            config = settings.smoke(row["config"]) if smoke else row["config"]
            training.hyper_parameters(config)
            if config["specs"]:
                nets.shapes_of(config["specs"], shape)
            assert config["n_batch"] <= config["n_train"]
            about_run = {
                "seed": seed,
                "config": config,
                "data": about,
                "duration_s": 1.0,
                "row": row["name"],
                "run": row["name"],
            }
            results.setdefault(row["name"], []).append(about_run | measured(config))
        return results

    monkeypatch.setattr(workers, "train_runs", train_runs)
    return part.train(None, SimpleNamespace(seeds=seeds, smoke=smoke))


def has_bn(config):
    return config["bn"] != "off" or bool(config["specs"]) and ["bn"] in config["specs"]


def solver_world(good):
    """measured(config) for networks of the CS231n report that behave as it claims if good, else in the opposite way."""

    def measured(config):
        bn = has_bn(config)
        better = bn == good
        if config["n_train"] == 50:
            return outcome(0.2, 1.0 if good else 0.99)
        if config["hidden"]:  # what dropout is worth, with the best eta_max .1 and the best keep .7
            gain = (0 if good else 0.05) if bn else (0.05 if good else -0.05)
            loss = abs(np.log10(config["eta_max"] / 0.1)) / 100 + abs(config["keep"] - 0.7) / 100 * (config["keep"] < 1)
            return outcome(0.4 - loss + gain * (config["keep"] < 1))
        if config["norms"]:  # the 13 scales
            if not better and config["sigma"] > 0.1:
                return diverged()
            gradient = 0.1 if better else 1e-9
            return outcome(0.3 if better else 0.15, norm1=(gradient, gradient), norm8=(0.1, 0.1))
        highest = 0.3 if better else 0.01
        return outcome((0.45 if better else 0.4) if config["eta_max"] <= highest else 0.1, 0.8 if better else 0.9)

    return measured


def mnist_world(good):
    """The same for the MNIST homework."""

    def measured(config):
        kinds = [kind for kind, *_ in config["specs"]]
        eta = config["eta_max"]
        if config["watched"]:
            low, high = (20, 30) if good else (30, 20)
            columns = {f"S{l}_correlation": (0.01 * low, 0.01 * low) for l in range(1, 10)}
            return outcome(**columns | {"S8_correlation": (0.01 * low, 0.01 * high)})
        if config["n_batch"] == config["n_train"]:
            rises = eta > 1 if good else eta < 1
            return outcome(train_loss=(1.0, 2.0 if rises else 0.5))
        better = {
            "rule": config["rule"] != "momentum" or config["momentum"] > 0,
            "relu": kinds[1] not in ("sigmoid", "tanh"),
            "learnt": not config["fixed"],
            "whitened": config["zca"] is not None,
            "standardised": config["scale"] != "255",
            "pooling": kinds[0] == "affine" or "max_pool" in kinds,
        }
        score = sum(better.values()) / 100 * (1 if good else -1)
        return outcome(0.8 + score, 0.9 if kinds[0] == "conv" else 0.9 + score, loss=0.5 - score)

    return measured


WORLDS = [(cs231n, CIFAR10, solver_world), (mnist, MNIST, mnist_world)]
ALWAYS = {"pooling reduces the number of parameters"}  # of the networks themselves, not of results


@pytest.mark.parametrize("part, shape, world", WORLDS)
@pytest.mark.parametrize("good, verdict", [(True, "holds"), (False, "fails")])
def test_claims_hold_where_results_are_as_the_document_says_and_fail_where_they_are_opposite(
    part, shape, world, good, verdict, monkeypatch
):
    lines = common.verdicts(part.claims(results_of(part, shape, world(good), monkeypatch)))
    assert {line["claim"]: line["verdict"] for line in lines} == {
        line["claim"]: "holds" if line["claim"] in ALWAYS else verdict for line in lines
    }


@pytest.mark.parametrize("part, shape, world", WORLDS)
@pytest.mark.parametrize("smoke", [False, True])
def test_tables_and_figures_are_made_of_all_results_of_a_part(part, shape, world, smoke, monkeypatch, tmp_path):
    results = results_of(part, shape, world(True), monkeypatch, smoke, seeds=2 if smoke else 5)
    for name, rows in part.tables_of(results).items():
        assert name.startswith("claims_") and len({tuple(row) for row in rows}) == 1
        assert {line.count("|") for line in tables.markdown(rows).splitlines()} == {len(rows[0]) + 1}
    for name, figure in part.figures(results).items():
        plots.save(figure(), tmp_path / f"{name}.png")
    assert len(list(tmp_path.iterdir())) == len(part.figures(results))


def test_numbers_are_those_of_the_last_and_of_the_best_epoch(monkeypatch):
    results = results_of(cs231n, CIFAR10, lambda config: outcome(0.53, val_accuracy=(0.55, 0.53)), monkeypatch, seeds=3)
    monkeypatch.setattr(run_solver, "draw_gradients", lambda *few: (np.full((50, 2), 2.3), np.full((50, 6, 2), 1e-7)))
    last, best, *drawn = cs231n.numbers(results)
    assert len(drawn) == 14 and {line["printed number"] for line in drawn} == {"outside"}
    assert (last["ours"][0], best["ours"][0]) == pytest.approx((53, 55)) and last["printed"] == best["printed"] == "53.80"
    assert last["setting"].startswith("last epoch") and best["setting"].startswith("best epoch")


@pytest.mark.parametrize("history, norm", [
    ({"norm1": [1e-3, 10.0]}, -3), ({"norm1": [0.0, 0.0]}, -20), ({"norm1": [1e-30]}, -20), ({}, 20),
])  # fmt: skip
def test_log_norm_is_bounded_below_and_counts_a_diverged_training_as_an_exploded_one(history, norm):
    assert cs231n.log_norm({"history": history}, 1) == pytest.approx(norm)


def test_a_diverged_training_has_learnt_nothing_and_the_loss_of_chance():
    result = diverged() | {"data": {"classes": CLASSES}}
    assert not cs231n.learnt(result) and mnist.mean_loss(result) == pytest.approx(np.log(10))
    assert mnist.mean_loss({"history": {"train_loss": [2.0, 1.0]}, "data": {"classes": CLASSES}}) == 1.5
    assert mnist.rises([{"history": {"train_loss": [3.0, 2.0, 2.0, 2.5]}}, {"history": {}}]) == (2, 4)


def test_pairs_won_by_momentum_are_counted_by_network_and_in_all(monkeypatch):
    def measured(config):  # momentum wins but in the 9-layer network
        return outcome(loss=0.4 if (config["momentum"] > 0) != (len(config["specs"]) == 17) else 0.5)

    results = results_of(mnist, MNIST, measured, monkeypatch)
    lines = {line["network"]: line for line in mnist.pairs_won(results)}
    assert {net: line["pairs"] for net, line in lines.items()} == {
        "3 layers": 5, "6 layers": 5, "9 layers": 5, "convolutional": 5, "all": 20,
    }  # fmt: skip
    assert lines["9 layers"]["won by momentum, %"].startswith("+0.00") and lines["all"]["won by momentum, %"].startswith(
        "+75.00"
    )


def test_best_value_is_that_of_the_highest_mean_and_values_keep_their_order():
    trials = [
        {"config": {"eta_max": eta}, "val_accuracy": val} for eta, val in ((0.3, 0.5), (0.1, 0.4), (0.3, 0.2), (0.1, 0.4))
    ]
    assert list(common.by_value(trials, "eta_max")) == [0.3, 0.1] and common.by_value(trials, "eta_max")[0.3] == trials[::2]
    assert common.best_value(trials, "eta_max") == trials[1::2]
