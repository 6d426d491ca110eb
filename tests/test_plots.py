"""Figures show the numbers of the results that they are given, say whose they are, and are the same bytes every time."""

import numpy as np
import pytest

from lab import plots

KINDS = ["curves", "compared", "search", "sensitivity", "swept", "scores", "dots", "gaps", "filters", "mistakes"]


def result(seed=0, value=0.5, diverged="", **config):
    """A small result whose numbers are near value."""
    names = [f"{part}_{what}" for part in ("train", "val") for what in ("cost", "loss", "accuracy")]
    names += [f"S{layer}_{moment}" for layer in (1, 2) for moment in ("mean", "sd")]
    history = {"t": [100, 200, 300]} | {name: [value - 0.2 + 0.02 * seed, value, value + 0.02 * seed] for name in names}
    after = {"history": {}} if diverged else {"history": history, "train_accuracy": value + 0.1, "train_loss": value}
    mistake = {"class": 0, "predicted": 1, "pixels": [0, 255, 255, 0]}
    return after | {
        "seed": seed, "config": {"lam": 0.01} | config, "diverged": diverged, "val_accuracy": value, "test_accuracy": value,
        "data": {"title": "toy set", "note": "only a part of it", "classes": ["cat", "dog"]},
        "pictures": {"filters": np.arange(16).reshape(4, 1, 2, 2).tolist(), "mistakes": [mistake], "classes": ["cat", "dog"],
                     "shape": [1, 2, 2], "n_wrong": 1, "n_test": 9},
    }  # fmt: skip


def draw(kind, seeds=2, **changes):
    """The figure of a kind. changes: of the first and the last of three nets."""
    changed, good = [result(seed, **changes) for seed in range(seeds)], [result(seed, 0.8, lam=0.1) for seed in range(seeds)]
    nets = {"off": changed, "before": good, "mine": changed}
    panels, by_value = {"panel": nets}, {"panel": {place: {0.1: results, 1.0: results} for place, results in nets.items()}}
    more = {"swept": [by_value, "eta", "val_accuracy"], "dots": [panels, "test_accuracy", "test accuracy, %"]}
    more |= {"sensitivity": [panels], "gaps": [panels], "filters": [good[0]], "mistakes": [good[0]]}
    return getattr(plots, kind)("a title", *more.get(kind, [nets]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("kind", "suffix"), [*((kind, "svg") for kind in KINDS), ("compared", "png"), ("compared", "pdf")])
def test_every_kind_is_drawn_without_warnings_and_to_the_same_bytes_twice(kind, suffix, tmp_path):
    paths = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for path in paths:
        plots.save(draw(kind), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second and first.startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[suffix])


@pytest.mark.parametrize("kind", KINDS)
def test_title_holds_dataset_note_and_seeds(kind):
    title = draw(kind, seeds=3).get_suptitle()
    assert title.startswith("a title\ntoy set; only a part of it; ")
    assert title.count("seed 0" if kind in ("filters", "mistakes") else "3 seeds") == 1


@pytest.mark.parametrize("kind", ["curves", "compared", "swept", "scores"])
def test_band_is_drawn_only_for_several_seeds(kind):
    assert all(axes.collections for axes in draw(kind).axes)
    assert not any(axes.collections for axes in draw(kind, seeds=1).axes)


def test_curve_is_the_mean_of_the_seeds_in_percent_and_its_band_one_standard_deviation():
    axes = draw("compared").axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[100, 31], [200, 50], [300, 51]])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [31 - np.sqrt(2), 51 + np.sqrt(2)])


def test_sensitivity_draws_a_line_for_each_seed():
    first, second = draw("sensitivity").axes[1].lines[::3][:2]
    np.testing.assert_allclose([first.get_ydata(), second.get_ydata()], [[30, 50, 50], [32, 50, 52]])


def test_gap_is_training_minus_test_accuracy_in_points():
    dots = [line.get_ydata() for line in draw("gaps").axes[0].lines if line.get_marker() == "."]
    np.testing.assert_allclose(dots, np.full((3, 2), 10))


def test_swept_draws_a_number_of_its_own_in_each_panel():
    nets = {"off": {0.1: [result()], 10: [result(value=0.7)]}}
    numbers = [lambda result: 2 * result["train_loss"], "train_loss", "val_accuracy"]
    figure = plots.swept("a title", {"twice the loss": nets, "loss": nets, "accuracy, %": nets}, "sigma", numbers)
    drawn = [axes.lines[0].get_xydata() for axes in figure.axes]
    np.testing.assert_allclose(drawn, [[[0.1, 1], [10, 1.4]], [[0.1, 0.5], [10, 0.7]], [[0.1, 50], [10, 70]]])
    assert figure.axes[0].get_ylabel() == "twice the loss"


def test_search_rings_the_best_trial_of_each_seed():
    stages = {"coarse": [result(0, 0.6, lam=1e-2), result(0, 0.4, lam=1e-3)], "fine": [result(1, 0.5, lam=1e-1)]}
    rings = [line.get_xydata()[0] for line in plots.search("", stages).axes[0].lines if line.get_markersize() == 8]
    np.testing.assert_allclose(rings, [[1e-2, 60], [1e-1, 50]])


@pytest.mark.parametrize("kind", ["search", "swept", "dots"])
def test_diverged_run_is_a_cross_at_the_foot_and_no_accuracy(kind):
    lines = draw(kind, value=0.1, diverged="overflow").axes[0].lines
    crosses = [line.get_ydata()[0] for line in lines if line.get_marker() == "x"]
    heights = [y for line in lines if line.get_marker() != "x" for y in line.get_ydata()]
    assert crosses and max(crosses) < 0.2 and set(heights) == {80}


@pytest.mark.parametrize("kind", ["curves", "compared", "sensitivity", "scores"])
def test_diverged_run_has_no_curve_and_is_counted_in_the_title(kind):
    figure = draw(kind, diverged="overflow")
    assert 0 < len(figure.axes[0].lines) < len(draw(kind).axes[0].lines)
    assert figure.get_suptitle().endswith("2 of 4 runs diverged")


def test_places_of_bn_have_the_same_style_in_all_figures_and_other_labels_differ():
    styles = plots.styles(["a", "before", "b", "c"])
    assert styles["before"] == plots.styles(["before", "off"])["before"] and styles["before"]["label"] == "BN before"
    assert len({style["marker"] for style in styles.values()}) == 4
    assert plots.styles(["c"], {"one": ["a", "before", "b"], "two": ["c"]})["c"] == styles["c"]


def test_chance_is_drawn_only_near_a_curve():
    legends = [plots.curves("", {"off": [result(value=value)]}).legends[0].get_texts() for value in (0.5, 0.99)]
    assert ["chance" in [text.get_text() for text in texts] for texts in legends] == [True, False]


def test_mistakes_name_the_true_class_above_the_predicted_one():
    figure = draw("mistakes")
    assert figure.axes[0].get_title() == "cat\ndog" and "true class above, predicted class below" in figure.get_supxlabel()
    assert figure.get_supxlabel().startswith("1 of 1 mistakes on 9 test images")


@pytest.mark.parametrize("kind", ["curves", "compared", "sensitivity"])
@pytest.mark.parametrize(
    "n_eval, words", [(5_000, "training curves on 5,000 of the training images"), (45_000, ""), (50_000, "")]
)
def test_training_curves_say_that_they_are_of_a_sample(kind, n_eval, words):
    shown = draw(kind, n_eval=n_eval, n_train=45_000).get_suptitle().replace("\n", " ")
    assert "training curves on" in shown if words else "training curves" not in shown
    assert words in shown
