"""The method on arrays of another library: numpy's protocols only, and the same bits."""

from types import SimpleNamespace

import numpy as np
import pytest
from strict import Strict

import jitter
import kbn
import nets
from lab import recipes

CONV = [
    ["conv", 4, 3, 1, 1],
    ["bn"],
    ["relu"],
    ["max_pool", 2],
    ["conv", 3, 2],
    ["relu"],
    ["avg_pool", 3],
    ["affine", 8],
    ["bn"],
    ["tanh"],
    ["dropout"],
    ["affine", 5],
]
CASES = {
    "3-layer": ([32, 9, 7, 5], {"bn": "off"}),
    "BN before, momentum": ([32, 9, 7, 5], {"bn": "before", "momentum": 0.9}),
    "BN after, dropout": ([32, 9, 7, 5], {"bn": "after", "keep": 0.7}),
    "convolutions": (CONV, {"keep": 0.8, "momentum": 0.5}),
}


def case(name):
    """Return train, val, params, hp and net of a case."""
    rng = np.random.default_rng(3)
    shape, hp = CASES[name]
    d = 32 if shape is not CONV else 2 * 8 * 8
    data = [(rng.standard_normal((d, n)).astype(np.float32), rng.integers(5, size=n)) for n in (60, 30)]
    hp |= {"n_batch": 8, "n_s": 9, "n_cycles": 1, "lam": 0.01, "n_eval": 20}
    if shape is CONV:
        return *data, nets.init_params(CONV, (2, 8, 8), rng), hp, nets.build(CONV, (2, 8, 8))
    return *data, kbn.init_params(shape, rng, bn=hp["bn"], sigma_b=0.1), hp, kbn.MLP


def strict(arrays):
    """Return a dict or a tuple of arrays as strict ones."""
    if isinstance(arrays, dict):
        return {name: Strict(array) for name, array in arrays.items()}
    return tuple(map(Strict, arrays))


def reverse(X, rng):
    """A jitter: turn the order of the numbers of each example around, or not."""
    return X[::-1] if rng.random() < 0.5 else X


@pytest.mark.parametrize("name", CASES)
def test_whole_trainings_on_strict_arrays_give_the_bits_of_numpy(name):
    train, val, params, hp, net = case(name)
    results = []
    for move in (lambda arrays: arrays, strict):
        norms = []
        options = {
            "net": net,
            "jitter": reverse,
            "order": lambda n, rng: np.argsort(rng.random(n)),
            "penalty": SimpleNamespace(value=lambda W, lam: lam * abs(W).sum(), gradient=lambda W, lam: lam * np.sign(W)),
            "observe": lambda t, params, grads, cache: norms.append(abs(grads["W1"]).max()),
        }  # noqa: B023
        *arrays, history = kbn.minibatch_gd(move(train), move(val), move(params), hp, np.random.default_rng(1), **options)
        place = {"bn": hp.get("bn", "before"), "net": net}
        stats = kbn.dataset_stats(move(train)[0], arrays[0], **place)
        scores = kbn.evaluate(*move(val), arrays[0], stats, 0.01, **place)
        results.append(([*arrays, stats], history, scores, kbn.floats(norms)))
    (mine, *numbers), (theirs, *their_numbers) = results
    assert numbers == their_numbers
    for a, b in zip(mine, theirs, strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key].array) for key in a)
    assert all(type(array) is Strict for array in theirs[0].values())


@pytest.mark.parametrize("update", [
    recipes.nesterov, recipes.adam, recipes.rmsprop, recipes.beta_lasso(kbn.update_params, 1e-3, 50),
    recipes.averaging(recipes.nesterov),
])  # fmt: skip
def test_training_by_a_recipe_on_strict_arrays_gives_the_bits_of_numpy(update):
    train, val, params, hp, _ = case("BN before, momentum")
    planes, results = np.float32(np.eye(2).repeat(16, axis=0)), []
    for move in (lambda arrays: arrays, strict):
        f = jitter.build((2, 4, 4), share=0.5, s=2, brightness=0.1, contrast=0.2, colour=0.3, planes=move((planes,))[0])
        options = {"net": recipes.smoothed(kbn.MLP, 0.1), "jitter": f, "update": update, "etas": recipes.cosine_etas(12, 0.01)}
        start = Strict.reads
        results.append(kbn.minibatch_gd(move(train), move(val), move(params), hp, np.random.default_rng(1), **options))
    (mine, *_, history), (theirs, *_, their_history) = results
    assert history == their_history and Strict.reads - start < 40
    assert all(np.array_equal(mine[key], theirs[key].array) for key in mine)


def test_nothing_is_read_back_within_an_epoch():
    train, val, params, hp, net = case("BN before, momentum")
    reads = []
    for n_batch in (20, 4):  # 3 and 15 updates in an epoch
        start = Strict.reads
        hp |= {"n_batch": n_batch}
        etas = [0.01] * (60 // n_batch)
        kbn.minibatch_gd(strict(train), strict(val), strict(params), hp, np.random.default_rng(1), net=net, etas=etas)
        reads.append(Strict.reads - start)
    assert reads[0] == reads[1] < 40


@pytest.mark.parametrize("mistake", [
    lambda X: np.take(X, [0], axis=1, mode="clip"), lambda X: np.asarray(X), lambda X: X + np.ones(3),
    lambda X: np.add(X, np.ones((1, 1))), lambda X: X[np.arange(2)], lambda X: np.sort(X),
])  # fmt: skip
def test_the_stand_in_refuses_what_would_fail_on_a_gpu(mistake):
    with pytest.raises((TypeError, KeyError)):
        mistake(Strict(np.ones((3, 3))))
