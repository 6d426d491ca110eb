"""lab/probes.py: what experiments change in training or watch in it, on random data."""

from copy import deepcopy

import numpy as np
import pytest
from numpy.testing import assert_allclose

import gradcheck
import kbn
import nets
from lab import probes, settings, training

QUICK = {"n_train": 200, "n_val": 50, "n_batch": 20, "n_s": 10, "n_cycles": 2}  # 4 epochs
SMALL = settings.config(hidden=[8, 7], bn="before", **QUICK)


@pytest.fixture(scope="module")
def data():
    """A split of random images of 2 x 4 x 4 and of three classes, whose brightness goes with the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 310)
    images = (rng.integers(0, 100, (310, 32)) + 40 * labels[:, None]).astype(np.uint8)
    raw = {"title": "noise", "classes": ["a", "b", "c"], "shape": (2, 4, 4), "images": images[:250], "labels": labels[:250],
           "test_images": images[250:], "test_labels": labels[250:]}  # fmt: skip
    return training.split(raw, 200, 50)


def history(config, data, **options):
    return training.run(config, 3, data, test=False, **options)[0]["history"]


def test_order_once_is_one_random_order_for_ever_and_by_class_is_sorted():
    y, rng = np.array([2, 0, 1, 0, 2, 1, 1, 0]), np.random.default_rng(0)
    once, by_class = probes.order_of("once", y, 5), probes.order_of("by class", y, 5)
    first = once(8, rng)
    assert sorted(first) == list(range(8)) and np.array_equal(once(8, rng), first)
    assert np.array_equal(probes.order_of("once", y, 5)(8, rng), first)  # also after an interruption
    assert not np.array_equal(probes.order_of("once", y, 6)(8, rng), first)
    assert by_class(8, rng).tolist() == [1, 3, 7, 2, 5, 6, 0, 4]
    assert probes.order_of("each epoch", y, 5) is kbn.shuffle
    with pytest.raises(ValueError, match="order must be 'each epoch', 'once' or 'by class', not 'never'"):
        probes.order_of("never", y, 5)


@pytest.mark.parametrize("order", ["once", "by class"])
def test_order_of_a_config_reaches_training(order, data):
    assert history(SMALL | {"order": order}, data)["train_loss"] != history(SMALL, data)["train_loss"]


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_fixed_params_keep_their_initial_values_and_the_others_learn(rule, data):
    _, model = training.run(SMALL | {"fixed": ["gamma", "beta"], "rule": rule, "eta_max": 0.01}, 3, data)
    _, start = training.network(SMALL, data["shape"], 3, np.random.default_rng(3))
    same = {key for key, param in model["params"].items() if np.array_equal(param, start[key])}
    assert same == {"gamma1", "gamma2", "beta1", "beta2"}


@pytest.mark.parametrize("bn", ["before", "after"])
def test_gradient_of_grouped_statistics_passes_the_check_and_a_planted_mistake_does_not(bn):
    rng = np.random.default_rng(0)
    params = kbn.init_params([6, 5, 4, 3], rng, bn=bn, dtype=np.float64)
    X, Y, net = rng.standard_normal((6, 12)), kbn.one_hot(rng.integers(0, 3, 12), 3, np.float64), probes.grouped(kbn.MLP, 6)
    masks = kbn.dropout_masks(params, 12, 0.7, rng)
    P, cache = net.forward(X, params, bn=bn, masks=masks)
    grads = net.backward(Y, params, cache, 0.01)

    def cost(params):
        return kbn.compute_cost(X, Y, params, 0.01, bn=bn, masks=masks, net=net)[0]

    assert not any(row["failed"] for row in gradcheck.check(cost, params, grads, quiet=True))
    whole = kbn.backward(Y, params, kbn.forward(X, params, bn=bn, masks=masks)[1], 0.01)
    assert any(row["failed"] for row in gradcheck.check(cost, params, whole, quiet=True))
    first = kbn.forward(X[:, :6], params, bn=bn, masks={key: mask[:, :6] for key, mask in masks.items()})[1]
    assert_allclose(P[:, :6], first["P"], rtol=1e-12)
    second = kbn.forward(X[:, 6:], params, bn=bn, masks={key: mask[:, 6:] for key, mask in masks.items()})[1]
    assert_allclose(cache["v1"], (first["v1"] + second["v1"]) / 2, rtol=1e-12)


def test_one_group_is_the_whole_mini_batch_and_groups_that_do_not_fit_are_refused(data):
    assert history(SMALL | {"bn_group": 20}, data)["val_loss"] == pytest.approx(history(SMALL, data)["val_loss"], rel=1e-5)
    assert history(SMALL | {"bn_group": 5}, data)["val_loss"] != pytest.approx(history(SMALL, data)["val_loss"], rel=1e-3)
    with pytest.raises(ValueError, match="a mini-batch of 20 cannot be divided into groups of 15"):
        history(SMALL | {"bn_group": 15}, data)


def test_norms_are_those_of_the_loss_at_the_first_update_of_each_epoch(data):
    config = SMALL | {"norms": True, "lam": 0.1}
    found = history(config, data)
    rng = np.random.default_rng(3)
    _, params = training.network(config, data["shape"], 3, rng)
    (X, y), batch = data["train"], rng.permutation(200)[:20]
    grads = kbn.backward(kbn.one_hot(y[batch], 3), params, kbn.forward(X[:, batch], params)[1], 0.0)
    for l in (1, 2, 3):
        assert len(found[f"norm{l}"]) == 4
        assert found[f"norm{l}"][0] == pytest.approx(np.linalg.norm(grads[f"W{l}"]) / np.linalg.norm(params[f"W{l}"]), rel=1e-4)
    assert found["val_loss"] == history(config | {"norms": False}, data)["val_loss"]


@pytest.mark.parametrize(
    "config", [SMALL, settings.config(specs=nets.with_bn([["affine", 8], ["relu"], ["affine", 3]]), **QUICK)]
)
def test_moving_averages_side_by_side_are_those_of_trainings_with_each_alpha_also_after_an_interruption(config, data):
    watched, states = config | {"alphas": [0.5, 0.9], "n_eval": 200}, []
    found = history(watched, data, keep=lambda state: states.append(deepcopy(state)))
    for alpha in (0.5, 0.9):
        assert found[f"val_accuracy_alpha{alpha}"] == history(config | {"alpha": alpha}, data)["val_accuracy"]
    assert found["val_accuracy_alpha0.9"] == found["val_accuracy"] and len(found["val_accuracy_dataset"]) == 4
    assert history(watched, data, state=states[1]) == found


def test_mean_correlation_of_independent_equal_and_constant_rows():
    S = np.random.default_rng(0).standard_normal((3, 10_000))
    assert nets.mean_correlation(S) < 0.02
    assert nets.mean_correlation(np.vstack([S[:1], -2 * S[:1] + 5])) == pytest.approx(1)
    assert nets.mean_correlation(np.vstack([S[:1], S[:1], np.ones((1, 10_000))])) == pytest.approx(1)
    assert nets.mean_correlation(np.ones((2, 5))) == nets.mean_correlation(S[:1]) == 0
    expected = np.corrcoef(S[0], S[0] + S[1])[0, 1]
    assert nets.mean_correlation(np.vstack([S[0], S[0] + S[1]])) == pytest.approx(expected)
