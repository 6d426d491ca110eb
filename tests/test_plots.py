"""Figures are drawn from results alone, and what is missing for one is named."""

import ast
import json
import shutil

import numpy as np
import pytest
from conftest import HOME, call, made_result

import experiment
import plots


def result(seed=0, scale=1.0, **changes):
    """A small result, such as experiment.train returns."""
    setting = experiment.config(**{"hidden": [50, 50], **changes})
    return made_result(setting, seed, scale, 5, val_accuracy=scale / 2, test_accuracy=0.5)


@pytest.fixture
def lab(tmp_path):
    """A lab whose results hold two nets of two seeds."""
    lab = {
        "title": "toy",
        "command": "python run_ex3.py --seeds 2",
        "results": tmp_path / "results" / "toy",
        "figures": tmp_path / "figures" / "toy",
        "nets": {"without BN": [result(0), result(1)], "with BN": [result(seed, 0.8, batch_norm=True) for seed in (0, 1)]},
    }
    for folder in (lab["results"] / "runs", lab["results"] / "figures", lab["figures"]):
        folder.mkdir(parents=True)
    keep(lab, lab["nets"])
    return lab


def keep(lab, runs):
    """Write the results in dicts and lists as experiment does."""
    for part in runs if isinstance(runs, list) else runs.values():
        if "config" in part:
            (lab["results"] / "runs" / f"{part['name']}.json").write_text(json.dumps(part))
        else:
            keep(lab, part)


def test_the_pictures_are_the_same_to_the_byte_every_time(lab, tmp_path):
    plots.figure(lab, "curves", "öne", "3-layer [50, 50]", lab["nets"])
    first = (lab["figures"] / "öne.png").read_bytes()
    for format, begin in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        drawn = [plots.draw(lab["results"] / "figures" / "öne.json", tmp_path / str(i), format).read_bytes() for i in range(2)]
        assert drawn[0] == drawn[1] and drawn[0].startswith(begin)
        assert format != "png" or drawn[0] == first


def test_a_description_names_its_runs_and_holds_no_data(lab):
    plots.figure(lab, "curves", "one", "3-layer [50, 50]", lab["nets"])
    description = json.loads((lab["results"] / "figures" / "one.json").read_text())
    assert description == {
        "kind": "curves",
        "dataset": "toy",
        "net": "3-layer [50, 50]",
        "command": "python run_ex3.py --seeds 2",
        "more": {},
        "runs": {"without BN": ["50-50_seed=0", "50-50_seed=1"], "with BN": ["50-50_bn_seed=0", "50-50_bn_seed=1"]},
    }


def test_what_is_swept_and_searched_comes_back_from_the_description(lab):
    by_value = {"with BN": {0.1: [result(sigma=0.1)], 1.0: [result(sigma=1.0)]}}
    trials = {"coarse": [result(lam=lam) for lam in (0.1, 0.2)], "fine 1": [result(lam=0.3)]}
    for runs in (by_value, trials):
        keep(lab, runs)
    plots.figure(
        lab,
        "swept",
        "swept",
        "net",
        {"a": by_value, "b": by_value},
        what="sigma",
        numbers=["best val_accuracy", "last train_loss"],
    )
    plots.figure(lab, "search", "search", "net", trials, draws={"coarse": "U", "fine 1": "V"})
    runs, results = plots.read_runs(
        lab["results"] / "figures" / "swept.json", plots.describe(lab["results"] / "figures" / "swept.json")
    )
    assert list(runs["a"]["with BN"]) == ["0.1", "1.0"] and len(results) == 2
    assert plots.number_of(results[0], "best val_accuracy") == 100 and plots.number_of(results[0], "val_accuracy") == 50
    assert plots.number_of(results[0], "last train_loss") == results[0]["history"]["epoch"]["train_loss"][-1]
    assert {path.stem for path in lab["figures"].iterdir()} == {"swept", "search"}


def test_mistakes_are_drawn_without_the_dataset(lab):
    raw = {
        "classes": ["cat", "dog"],
        "shape": (1, 2, 2),
        "test_labels": np.array([0, 1, 1]),
        "test_images": np.arange(12, dtype=np.uint8).reshape(3, 4),
    }
    for wrong in ([[0, 1], [2, 0]], []):
        one = result() | {"mistakes": wrong}
        keep(lab, [one])
        plots.figure(lab, "mistakes", "mistakes", "net", one, **plots.images_of(raw, one))
        more = plots.describe(lab["results"] / "figures" / "mistakes.json")["more"]
        assert [image["pixels"] for image in more["images"].values()] == [raw["test_images"][i].tolist() for i, _ in wrong]


def test_a_missing_run_is_named_and_the_other_figures_are_drawn(lab, tmp_path):
    plots.figure(lab, "curves", "both", "net", lab["nets"])
    plots.figure(lab, "curves", "plain", "net", {"without BN": lab["nets"]["without BN"]})
    for path in lab["figures"].iterdir():
        path.unlink()
    missing = lab["results"] / "runs" / "50-50_bn_seed=1.json"
    for damage, said in (
        (missing.unlink, "is missing"),
        (lambda: missing.write_text("{"), "is damaged"),
        (lambda: missing.write_text("[]"), "is damaged"),
        (lambda: missing.write_text('{"seed": 1}'), "is damaged"),
    ):
        damage()
        job = call("plots", lab["results"], "--out", tmp_path / "pictures", cwd=tmp_path)
        assert job.returncode == 1 and {path.name for path in (tmp_path / "pictures" / "toy").iterdir()} == {"plain.png"}
        [line] = job.stderr.splitlines()
        assert f"both: {missing} {said}; python run_ex3.py --seeds 2 --out {tmp_path} makes it" in line
    shutil.rmtree(lab["results"] / "runs")
    assert "(and 3 more like it)" in call("plots", lab["results"], cwd=tmp_path).stderr


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{}",
        '{"kind": 3, "dataset": "", "net": "", "command": ""}',
        '{"kind": "pie", "dataset": "", "net": "", "command": "c", "runs": {}}',
        '{"kind": "curves", "dataset": "", "net": "", "command": "c", "runs": {}}',
        '{"kind": "curves", "dataset": "", "net": "", "command": "c", "runs": {"x": "50-50_seed=0"}}',
        '{"kind": "swept", "dataset": "", "net": "", "command": "c", "runs": {"x": {"y": {"z": ["50-50_seed=0"]}}}, "more": {}}',
    ],
)
def test_a_damaged_description_is_named_in_one_line(damage, lab, tmp_path):
    (lab["results"] / "figures" / "broken.json").write_text(damage)
    with pytest.raises(plots.CannotDraw, match="broken") as error:
        plots.draw(lab["results"] / "figures" / "broken.json", tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_figures_is_named(tmp_path):
    job = call("plots", tmp_path / "no where", cwd=tmp_path)
    assert job.returncode == 1 and len(job.stderr.splitlines()) == 1 and "no where" in job.stderr


def test_plots_alone_imports_matplotlib_and_trains_nothing():
    importers = [script.name for script in HOME.glob("*.py") if "matplotlib" in imports(script)]
    assert importers == ["plots.py"] and not {"experiment", "kbn", "nets", "datasets"} & imports(HOME / "plots.py")


def imports(script):
    """The top-level modules that a script imports."""
    nodes = list(ast.walk(ast.parse(script.read_text(encoding="utf-8"))))
    return {name.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for name in node.names} | {
        node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module
    }


def test_labels_without_a_style_get_different_ones():
    labels = ["with BN", "a", "b", "c"]
    assert len({(style["color"], style["marker"]) for style in plots.styles(labels).values()}) == 4
    assert plots.styles(["a", "with BN"])["with BN"] == plots.styles(labels)["with BN"]
