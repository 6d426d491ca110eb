"""lab/training.py: what decides a result. Data is split and standardised, a net made and trained, its accuracy measured."""

from copy import deepcopy

import numpy as np
import pytest

import jitter
import kbn
import nets
from lab import recipes, settings, training

SPECS = [["conv", 3, 3], ["bn"], ["relu"], ["max_pool", 2], ["dropout"], ["affine", 3]]
QUICK = {"n_train": 200, "n_val": 50, "n_batch": 20, "n_s": 15, "n_cycles": 1}
CONFIGS = {
    "3 layers": settings.config(hidden=[8, 7], bn="before", **QUICK),
    "convolution": settings.config(
        specs=SPECS, keep=0.9, alpha=0.99, watched=40, pictures=5, **QUICK | {"decay": 0.5, "n_epochs": 3}
    ),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.fixture
def raw():
    """Random images of which pixel 7 is constant and class and brightness go together, as data.load returns them."""
    rng = np.random.default_rng(0)
    labels, test_labels = rng.integers(0, 3, 250), rng.integers(0, 3, 60)
    images, test_images = (rng.integers(0, 100, (len(y), 32)) + 40 * y[:, None] for y in (labels, test_labels))
    images[:, 7], test_images[:, 7] = 33, 34
    return {
        "title": "noise", "classes": ["a", "b", "c"], "shape": (2, 4, 4), "images": images.astype(np.uint8), "labels": labels,
        "test_images": test_images.astype(np.uint8), "test_labels": test_labels,
    }  # fmt: skip


@pytest.mark.parametrize("scale", ["each", "all", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_split_standardises_with_the_training_images_alone(raw, scale, dtype):
    data = training.split(raw, 200, 40, scale, dtype=dtype)
    pixels = raw["images"][:200].T.astype(np.float64)
    mean, sd = pixels.mean(axis=1, keepdims=True), pixels.std(axis=1, keepdims=True)
    sd[7] = 1  # constant
    if scale == "all":
        mean, sd = np.full_like(mean, pixels.mean()), np.full_like(sd, pixels.std())
    sd = np.ones_like(sd) if scale == "none" else sd
    near = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(data["mean"], mean, rtol=near)
    np.testing.assert_allclose(data["sd"], sd, rtol=near)
    assert data["mean"].dtype == data["sd"].dtype == dtype and (data["classes"], data["shape"]) == (["a", "b", "c"], (2, 4, 4))
    for part, images, labels in [
        ("train", raw["images"][:200], raw["labels"][:200]), ("val", raw["images"][200:240], raw["labels"][200:240]),
        ("test", raw["test_images"], raw["test_labels"]),
    ]:  # fmt: skip
        X, y = data[part]
        assert X.shape == images.T.shape and X.dtype == dtype and X.flags.f_contiguous and np.array_equal(y, labels)
        np.testing.assert_allclose(X, (images.T - mean) / sd, atol=100 * near)


def test_scale_255_divides_by_255(raw):
    data = training.split(raw, 200, 40, "255")
    assert np.array_equal(data["train"][0], raw["images"][:200].T / np.float32(255)) and data["mean"].max() == 0


def test_split_with_a_seed_draws_the_images_of_training_and_validation(raw):
    raw["images"][:, 0] = np.arange(250)  # the image's number
    parts = [training.split(raw, 200, 40, "none", seed) for seed in (None, 1, 1, 0)]
    drawn = [np.rint(np.hstack([data[part][0][0] for part in ("train", "val")]) + data["mean"][0]) for data in parts]
    assert np.array_equal(drawn[0], np.arange(240)) and np.array_equal(drawn[1], drawn[2])
    assert not np.array_equal(drawn[1], drawn[3]) and max(drawn[3]) == 249 and len(set(drawn[3])) == 240
    for data, numbers in zip(parts, drawn):
        assert np.array_equal(np.hstack([data["train"][1], data["val"][1]]), raw["labels"][numbers.astype(int)])


def test_mean_and_sd_in_chunks_are_those_of_all_images(raw):
    for chunk in (1, 7, 1000):
        for a, b in zip(training.mean_and_sd(raw["images"], chunk=chunk), training.mean_and_sd(raw["images"]), strict=True):
            assert np.array_equal(a, b) and a.shape == (32, 1) and a.dtype == np.float64


def test_split_takes_the_sizes_of_the_assignment_by_default():
    blank = {"title": "blank", "images": np.zeros((50_000, 2), np.uint8), "labels": np.zeros(50_000, int), "classes": [],
             "test_images": np.zeros((10_000, 2), np.uint8), "test_labels": np.zeros(10_000, int), "shape": ()}  # fmt: skip
    data = training.split(blank)
    assert [data[part][0].shape for part in ("train", "val", "test")] == [(2, 45_000), (2, 5_000), (2, 10_000)]


def test_split_refuses_more_images_than_there_are_and_an_unknown_scale(raw):
    with pytest.raises(settings.UserError, match="noise has 250 training images: they cannot be split into 240 .* and 11"):
        training.split(raw, 240, 11)
    with pytest.raises(ValueError, match="scale must be 'each', 'all', 'none' or '255', not True"):
        training.split(raw, 200, 40, True)


@pytest.mark.parametrize("sigma", [None, "xavier", 0.1])
def test_network_is_that_of_hidden_or_of_specs(sigma):
    net, params = training.network(
        {**CONFIGS["3 layers"], "sigma": sigma, "sigma_b": 1}, (2, 4, 4), 3, np.random.default_rng(1)
    )
    expected = kbn.init_params([32, 8, 7, 3], np.random.default_rng(1), bn="before", sigma=sigma, sigma_b=1)
    assert net is kbn.MLP and all(np.array_equal(params[key], expected[key]) for key in expected | params)
    config = {**CONFIGS["convolution"], "sigma": sigma, "sigma_b": 0.5, "loss": "svm"}
    net, params = training.network(config, (2, 4, 4), 3, np.random.default_rng(1))
    expected = nets.init_params(SPECS, (2, 4, 4), np.random.default_rng(1), sigma=sigma, sigma_b=0.5)
    assert all(np.array_equal(params[key], expected[key]) for key in expected | params)
    cache = {"scores": np.zeros((3, 2))}
    assert net.loss(kbn.one_hot(np.array([0, 1]), 3), cache) == 2  # the SVM's
    hp = training.hyper_parameters(config)
    assert hp == kbn.DEFAULTS | {
        "n_batch": 20,
        "n_s": 15,
        "n_cycles": 1,
        "keep": 0.9,
        "alpha": 0.99,
    }  # bn "before", which specs need
    assert training.hyper_parameters(CONFIGS["3 layers"]) == hp | {"keep": 1.0, "alpha": 0.9}


@pytest.mark.parametrize("n, n_batch, n_epochs, decay", [(50, 20, 3, 0.8), (20, 20, 4, 0.5), (41, 10, 2, 1), (30, 10, 3, 0.0)])
def test_learning_rates_decay_after_each_epoch(n, n_batch, n_epochs, decay):
    config = settings.config(decay=decay, n_epochs=n_epochs, n_batch=n_batch, eta_max=0.05)
    expected = [0.05 * decay**epoch for epoch in range(n_epochs) for _ in range(n // n_batch)]
    assert training.learning_rates(config, n) == pytest.approx(expected, rel=1e-14)
    assert training.learning_rates(settings.config(), n) is None
    cosine = training.learning_rates(config | {"decay": None, "eta_min": 0.01}, n)
    assert cosine == recipes.cosine_etas(n_epochs * (n // n_batch), 0.05, 0.01)


def test_update_rule_jitter_and_dropout_of_inputs_of_a_config_reach_training(raw):
    data, change = training.split(raw, 200, 50, zca=0.1), {"share": 0.5, "s": 1, "brightness": 0.2, "colour": 0.1}
    config = CONFIGS["3 layers"] | {
        "rule": "adam",
        "eta_max": 0.01,
        "n_epochs": 2,
        "jitter": change,
        "keep_input": 0.8,
        "zca": 0.1,
    }
    result, model = training.run(config, 3, data)
    rng = np.random.default_rng(3)
    _, params = training.network(config, data["shape"], 3, rng)
    planes = data["W"] @ (np.repeat(np.eye(2, dtype=np.float32), 16, axis=0) * (255 / data["sd"]))
    own = jitter.build((2, 4, 4), **change, planes=planes)

    def both(X, rng):
        X = own(X, rng)
        X *= np.float32(1.25) * (rng.random(X.shape) < 0.8)
        return X

    etas, hp = recipes.cosine_etas(20, 0.01, config["eta_min"]), training.hyper_parameters(config)
    params, stats, _ = kbn.minibatch_gd(
        data["train"], data["val"], params, hp, rng, etas=etas, jitter=both, update=recipes.adam
    )
    assert np.array_equal(model["params"]["W1"], params["W1"] @ data["W"])
    for part in ("val", "test"):
        X, y = data[part]
        mirrored = np.stack([image.reshape(2, 4, 4)[:, :, ::-1].ravel() for image in X.T]).T
        P = sum(kbn.forward(pictures, params, stats)[0] for pictures in (X, mirrored))
        assert result[f"{part}_accuracy_mirror"] == (P.argmax(axis=0) == y).mean()
    assert "val_accuracy_mirror" not in training.run(config | {"jitter": {"s": 1}}, 3, data, test=False)[0]
    assert {"val_accuracy_mirror"} == {name for name in training.run(config, 3, data, test=False)[0] if "mirror" in name}


def test_jitter_of_a_config_is_nothing_or_dropout_of_inputs_alone(raw):
    data = training.split(raw, 200, 50)
    assert training.jitter_of(CONFIGS["3 layers"], data) is None
    f = training.jitter_of(CONFIGS["3 layers"] | {"keep_input": 0.8}, data)
    X = data["train"][0][:, :20]
    expected = X * kbn.draw_mask(X.shape, 0.8, np.random.default_rng(1), X)
    assert np.array_equal(f(X.copy("F"), np.random.default_rng(1)), expected)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_probabilities_are_the_mean_of_those_of_pictures_and_their_mirror_images(chunk, raw):
    config, data = CONFIGS["convolution"], training.split(raw, 200, 50)
    net, params = training.network(config, data["shape"], 3, np.random.default_rng(1))
    hp, stats = training.hyper_parameters(config) | {"eps": 0.5}, kbn.dataset_stats(data["train"][0], params, net=net)
    X, _ = data["test"]
    plain, other = (net.forward(pictures, params, stats, eps=0.5)[0] for pictures in (X, mirrored(X)))
    net.chunk = chunk
    np.testing.assert_allclose(training.probabilities(X, net, params, stats, hp), plain, rtol=1e-5)
    both = training.probabilities(X, net, params, stats, hp, data["shape"])
    np.testing.assert_allclose(both, (plain + other) / 2, rtol=1e-5)
    assert not np.allclose(plain, other, rtol=1e-2)


@every_config
def test_run_is_minibatch_gd_and_its_result_what_the_model_predicts(config, raw):
    data = training.split(raw, 200, 50)
    result, model = training.run(config, 3, data)
    rng = np.random.default_rng(3)
    net, start = training.network(config, data["shape"], 3, rng)
    hp, etas = training.hyper_parameters(config), training.learning_rates(config, 200)
    params, stats, history = kbn.minibatch_gd(data["train"], data["val"], start, hp, rng, etas=etas, net=net)
    assert model["hp"] == hp and all(np.array_equal(model["params"][key], params[key]) for key in params)
    place = {"bn": hp["bn"], "net": net}
    assert result["test_accuracy"] == kbn.accuracy(*data["test"], model["params"], model["stats"], **place) > 0.5
    for part in ("train", "val"):
        expected = kbn.evaluate(*data[part], params, stats, hp["lam"], **place)
        assert {name: result[f"{part}_{name}"] for name in expected} == expected
    assert history["epoch"].items() <= result["history"].items() and result["diverged"] == "" and result["duration_s"] > 0
    assert history["epoch"]["t"][-1] == 30
    assert training.run(config, 3, data)[0]["history"] == result["history"] != training.run(config, 4, data)[0]["history"]
    blind, _ = training.run(config, 3, data, test=False)
    assert not [name for name in blind if "test" in name or name == "pictures"]


def test_run_of_specs_watches_scores_keeps_pictures_and_predicts_with_the_statistics_of_the_dataset(raw):
    config, data = CONFIGS["convolution"], training.split(raw, 200, 50)
    result, model = training.run(config, 3, data)
    (X, y), (params, stats, hp, _), net = data["test"], model.values(), nets.build(SPECS, (2, 4, 4))
    whole = kbn.dataset_stats(data["train"][0], params, net=net)
    assert result["test_accuracy_dataset"] == kbn.accuracy(X, y, params, whole, net=net) != result["test_accuracy"]
    moments = nets.score_moments(SPECS, (2, 4, 4), data["train"][0][:, :40], params, hp["eps"])
    assert {name: result["history"][name][-1] for name in moments} == moments
    assert {len(column) for column in result["history"].values()} == {3}
    pictures, predicted = result["pictures"], net.forward(X, params, stats)[0].argmax(axis=0)
    wrong = np.flatnonzero(predicted != y)
    assert (pictures["n_wrong"], pictures["n_test"]) == (len(wrong), 60) and len(pictures["mistakes"]) == min(5, len(wrong)) > 0
    for mistake, i in zip(pictures["mistakes"], wrong):
        assert (mistake["class"], mistake["predicted"]) == (y[i], predicted[i])
        assert mistake["pixels"] == raw["test_images"][i].tolist()
    assert np.allclose(pictures["filters"], params["W1"], atol=1e-4) and pictures["shape"] == [2, 4, 4]


@every_config
def test_resumed_run_gives_the_same_result(config, raw):
    data, states = training.split(raw, 200, 50), []
    result, model = training.run(config, 3, data, keep=lambda state: states.append(deepcopy(state)))
    rest = []
    again, same_model = training.run(config, 3, data, state=states[1], keep=rest.append)
    del result["duration_s"], again["duration_s"]
    assert len(states) == 3 and len(rest) == 1 and again == result
    assert all(np.array_equal(model["params"][key], same_model["params"][key]) for key in model["params"])


def test_diverged_run_is_raised_or_recorded_at_chance(raw):
    config, data = settings.config(**QUICK | {"eta_max": 1e6}), training.split(raw, 200, 50)
    with pytest.raises(FloatingPointError, match="training diverged"):
        training.run(config, 0, data)
    for test in (True, False):
        result, model = training.run(config, 0, data, test=test, may_diverge=True)
        assert (
            model is None and result["history"] == {} and result["diverged"].startswith("training diverged: the loss of update")
        )
        assert result["val_accuracy"] == result.get("test_accuracy", 1 / 3) == 1 / 3 and ("test_accuracy" in result) == test


# ---------------------------------------------------------------------------------------------------- ZCA whitening

EPSILONS = [0.01, 0.5]


def random_pictures(n, dtype=np.float64):
    """X (32, n): pictures of shape (2, 4, 4) whose pixels are correlated and whose mean is not 0."""
    rng = np.random.default_rng(2)
    return (rng.standard_normal((32, 32)) @ rng.standard_normal((32, n)) + rng.random((32, 1))).astype(dtype)


def mirrored(X):
    """The mirror images of pictures X (32, n)."""
    return X.reshape(2, 4, 4, -1)[:, :, ::-1].reshape(X.shape)


def check_whitening(whitening, X, epsilon, shape):
    """Assert that W (X - mean) has the covariance of the formula, and that W is symmetric and has the eigenvectors of X's."""
    mean, W = whitening(X, epsilon, shape)
    both = X if shape is None else np.hstack([X, mirrored(X)])
    np.testing.assert_allclose(mean[:, 0], both.mean(axis=1), rtol=1e-12, atol=1e-13)
    w, U = np.linalg.eigh(np.cov(both, bias=True))
    expected = U * (w / (w + epsilon * w.mean())) @ U.T
    np.testing.assert_allclose(np.cov(W @ (both - mean), bias=True), expected, atol=1e-12)
    np.testing.assert_allclose(W, W.T, atol=1e-12 * abs(W).max())
    assert (np.linalg.eigvalsh(W) > 0).all()  # no other root of the inverse, such as that of PCA


@pytest.mark.parametrize("shape", [None, (2, 4, 4)], ids=["images", "images and mirror images"])
@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("n", [20, 50, 2_500])  # fewer images than dimensions: eigenvalues of 0; several chunks
def test_whitened_images_have_the_covariance_of_the_formula(n, epsilon, shape):
    check_whitening(training.whitening, random_pictures(n), epsilon, shape)


@pytest.mark.parametrize("chunk", [7, 50, 1000])
def test_whiten_changes_all_images_in_place(chunk):
    X = random_pictures(50)
    mean, W = training.whitening(X, 0.1)
    expected = W @ (X - mean)
    training.whiten(X, mean, W, chunk)
    np.testing.assert_allclose(X, expected, rtol=0, atol=1e-12 * abs(W).max())


def pca(X, epsilon, shape):
    """A planted mistake: the eigenvectors are not turned back."""
    w, U = np.linalg.eigh(np.cov(X, bias=True))
    return X.mean(axis=1, keepdims=True), ((w + epsilon * w.mean()) ** -0.5)[:, None] * U.T


def absolute_epsilon(X, epsilon, shape):
    """A planted mistake: epsilon is not relative to the mean eigenvalue."""
    w, U = np.linalg.eigh(np.cov(X, bias=True))
    return X.mean(axis=1, keepdims=True), U * (w + epsilon) ** -0.5 @ U.T


def centred_on_nothing(X, epsilon, shape):
    """A planted mistake: the mean stays in the covariance."""
    w, U = np.linalg.eigh(X @ X.T / X.shape[1])
    return X.mean(axis=1, keepdims=True), U * (w + epsilon * w.mean()) ** -0.5 @ U.T


@pytest.mark.parametrize("wrong", [pca, absolute_epsilon, centred_on_nothing])
def test_planted_mistake_in_whitening_fails_the_check(wrong):
    with pytest.raises(AssertionError):
        check_whitening(wrong, random_pictures(50), 0.1, None)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_whitening_and_mirroring_change_places_if_mirror_images_are_counted(epsilon):
    X = random_pictures(50)
    for shape, commutes in [((2, 4, 4), True), (None, False)]:
        mean, W = training.whitening(X, epsilon, shape)
        one, other = mirrored(W @ (X - mean)), W @ (mirrored(X) - mean)
        assert np.allclose(one, other, rtol=0, atol=1e-11 * abs(W).max()) == commutes


@pytest.mark.parametrize("epsilon", [0, -0.1, np.inf, np.nan])
def test_impossible_epsilon_is_refused_in_one_line(epsilon, raw):
    with pytest.raises(ValueError, match=f"zca, the epsilon of whitening, must be a number above 0, not {epsilon}$"):
        training.split(raw, 200, 40, zca=epsilon)


@pytest.mark.parametrize("scale", ["each", "all", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_split_whitens_all_parts_with_the_training_images_alone(raw, scale, dtype):
    plain, data = (training.split(raw, 200, 40, scale, zca=zca, dtype=dtype) for zca in (None, 0.1))
    offset, W = training.whitening(plain["train"][0], 0.1, raw["shape"])
    near = dict(rtol=0, atol=1e-4 if dtype == np.float32 else 1e-11)
    for part in ("train", "val", "test"):
        X, y = data[part]
        assert X.dtype == data["W"].dtype == data["mean"].dtype == dtype and X.flags.f_contiguous
        assert np.array_equal(y, plain[part][1])
        np.testing.assert_allclose(X, W @ (plain[part][0] - offset), **near)
    pixels = raw["test_images"].T.astype(dtype)
    np.testing.assert_allclose(data["W"] @ ((pixels - data["mean"]) / data["sd"]), data["test"][0], **near)
    assert plain["W"] is None and not np.allclose(plain["test"][0], data["test"][0], **near)


def test_other_validation_and_test_images_change_nothing_in_the_training_data(raw):
    data = training.split(raw, 200, 40, zca=0.1)
    others = {**raw, "images": raw["images"].copy(), "test_images": 255 - raw["test_images"]}
    others["images"][200:] = 255 - others["images"][200:]
    changed = training.split(others, 200, 40, zca=0.1)
    for name in ("mean", "sd", "W"):
        assert np.array_equal(data[name], changed[name])
    assert np.array_equal(data["train"][0], changed["train"][0]) and not np.allclose(data["val"][0], changed["val"][0])
    others["images"][0] = 255 - others["images"][0]
    assert not np.array_equal(data["W"], training.split(others, 200, 40, zca=0.1)["W"])


@pytest.mark.parametrize(
    "config",
    [
        settings.config(hidden=[8, 7], bn="before", zca=0.1, **QUICK),
        settings.config(specs=[["dropout"], ["affine", 8], ["relu"], ["affine", 3]], keep=0.9, pictures=5, zca=0.1, **QUICK),
    ],
    ids=["hidden", "specs"],
)
def test_model_of_whitened_data_takes_pixels_that_are_standardised_alone(config, raw):
    data = training.split(raw, 200, 50, zca=0.1)
    result, model = training.run(config, 3, data)
    net, _ = training.network(config, raw["shape"], 3, np.random.default_rng(0))
    X, X_val = (training.standardise(raw[part], data["mean"], data["sd"]) for part in ("test_images", "images"))
    arrays, place = (model["params"], model["stats"]), {"bn": model["hp"]["bn"], "net": net}
    assert result["test_accuracy"] == kbn.accuracy(X, raw["test_labels"], *arrays, **place)
    val = kbn.evaluate(X_val[:, 200:], raw["labels"][200:], *arrays, **place)
    assert val["loss"] == pytest.approx(result["val_loss"], rel=1e-4)
    for mistake in result.get("pictures", {"mistakes": []})["mistakes"]:
        assert mistake["pixels"] in raw["test_images"].tolist()
    assert "pictures" not in result or np.allclose(result["pictures"]["filters"], model["params"]["W1"], atol=1e-4)


def test_zca_is_refused_for_a_net_that_does_not_begin_with_an_affine_layer(raw):
    with pytest.raises(settings.UserError, match="zca needs a net whose first layer is affine, not 'conv'"):
        training.run({**CONFIGS["convolution"], "zca": 0.1}, 0, training.split(raw, 200, 50, zca=0.1))


def test_whitening_after_the_jitter_is_the_same_network_as_before_it_without_jitter(raw):
    config = CONFIGS["3 layers"] | {"zca": 0.1}
    first, model = training.run(config, 3, training.split(raw, 200, 50, zca=0.1))
    data = training.split(raw, 200, 50, zca=0.1, zca_last=True)
    last, other = training.run(config | {"zca_last": True}, 3, data)
    np.testing.assert_allclose(data["train"][0], training.standardise(raw["images"][:200], data["mean"], data["sd"]), atol=1e-5)
    assert last["history"]["train_loss"] == pytest.approx(first["history"]["train_loss"], rel=1e-4)
    np.testing.assert_allclose(other["params"]["W1"], model["params"]["W1"], atol=1e-4)
    shifted = {"jitter": {"s": 2, "colour": 0.3}}
    first, last = (training.run(c | shifted, 3, training.split(raw, 200, 50, zca=0.1, zca_last=c["zca_last"]))[0]
                   for c in (config, config | {"zca_last": True}))  # fmt: skip
    assert last["history"]["train_loss"] != pytest.approx(first["history"]["train_loss"], rel=1e-4)  # shifts do not commute


def test_smoothed_labels_reach_training_and_are_refused_without_softmax(raw):
    data, config = training.split(raw, 200, 50), CONFIGS["3 layers"] | {"smoothing": 0.2}
    rng, hp = np.random.default_rng(3), training.hyper_parameters(config)
    params = kbn.init_params([32, 8, 7, 3], rng, bn="before")
    params, *_ = kbn.minibatch_gd(data["train"], data["val"], params, hp, rng, net=recipes.smoothed(kbn.MLP, 0.2))
    assert np.array_equal(training.run(config, 3, data)[1]["params"]["W2"], params["W2"])
    config = settings.config(specs=[["affine", 3]], loss="svm", smoothing=0.2, **QUICK)
    with pytest.raises(settings.UserError, match="smoothing 0.2 needs the loss 'softmax', not 'svm'"):
        training.run(config, 3, data)


def test_snapshots_are_the_networks_at_the_ends_of_the_cycles_also_if_training_was_interrupted(raw):
    data = training.split(raw, 200, 50, zca=0.1)
    config = CONFIGS["3 layers"] | {"zca": 0.1, "momentum": 0.9, "n_s": 10, "n_cycles": 3, "snapshots": True}
    states = []
    _, model = training.run(config, 3, data, keep=lambda state: states.append(deepcopy(state)))
    assert len(model["snapshots"]) == 3 and len(states) == 6
    for i, snapshot in enumerate(model["snapshots"], start=1):
        _, other = training.run(config | {"n_cycles": i, "snapshots": False}, 3, data)
        assert other["snapshots"] == [] and snapshot.keys() == {"params", "stats"}
        for group in snapshot:
            assert snapshot[group].keys() == other[group].keys()
            assert all(np.array_equal(array, other[group][key]) for key, array in snapshot[group].items())
    for state in (states[2], states[-1]):
        _, again = training.run(config, 3, data, state=deepcopy(state))
        for one, other in zip(again["snapshots"], model["snapshots"], strict=True):
            assert all(np.array_equal(one["params"][key], other["params"][key]) for key in one["params"])


def test_snapshots_are_refused_if_cycles_do_not_end_with_an_epoch(raw):
    with pytest.raises(settings.UserError, match="snapshots need cycles of whole epochs.*30 updates are none: an epoch has 20"):
        training.run(CONFIGS["3 layers"] | {"n_batch": 10, "snapshots": True}, 0, training.split(raw, 200, 50))
