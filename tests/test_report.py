"""The report says what the results say, names what is missing, and invents nothing."""

import csv
import itertools
import json
import math
import re
import shutil
import subprocess
import sys

import pytest
from conftest import HOME, call, environment, made_result

import experiment
import gradcheck
import make_report
import plots
import tables

NETS = {"3-layer": [50, 50], "6-layer": [50, 30, 20, 20, 10], "9-layer": [50, 30, 20, 20, 10, 10, 10, 10]}
BN = {
    "without BN": {"batch_norm": False},
    "BN, eps 2.2e-16": {"batch_norm": True},
    "BN, eps 1e-5": {"batch_norm": True, "eps": 1e-5},
}
SIGMAS = [0.1, 0.001, 0.0001]
FAILING = [("9-layer", "without BN", 0.1), ("9-layer", "BN, eps 1e-5", 0.0001)]
EVIL = '#eval("1") *b* _i_ `r` $x$ @l <t> [h] | \\ // /* -- ~ = "q" £'


def result(config, seed, test):
    """A result as experiment writes it."""
    about = {"dataset": {"name": "shapes", "fingerprint": "f00d", "classes": 10, "shape": [3, 32, 32]}, "code": "c0de"}
    numbers = {"val_accuracy": test - 0.01, "test_accuracy": test, "duration_s": 1.0}
    return made_result(config, seed, test, 4, **about, versions={"numpy": "9.9"}, **numbers)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A small hand-made folder of results of all experiments: results/shapes."""
    root = tmp_path_factory.mktemp("made")
    lab = {
        "title": "toy & co",
        "command": "python run_x.py",
        "results": root / "results" / "shapes",
        "figures": root / "figures" / "shapes",
    }
    for folder in (lab["results"] / "runs", lab["results"] / "figures", lab["figures"]):
        folder.mkdir(parents=True)

    def train(test, seeds, **changes):
        trained = [result(experiment.config(**changes), seed, test + 0.002 * seed) for seed in range(seeds)]
        for one in trained:
            tables.write(lab["results"] / "runs" / f"{one['name']}.json", json.dumps(one))
        return trained

    def write(name, rows):
        tables.write(lab["results"] / f"{name}.csv", tables.comma_separated([experiment.for_programs(row) for row in rows]))

    reported = {"A (CIFAR-10)": EVIL, "B (CIFAR-10)": "12.3"}
    plain = {net: train(0.5 - 0.01 * len(hidden), 3, hidden=hidden) for net, hidden in NETS.items()}
    normalised = {net: train(0.5, 3, hidden=hidden, batch_norm=True) for net, hidden in NETS.items()}
    write("ex2", [experiment.row(net, "default", plain[net], **reported) for net in NETS])
    longer = train(0.55, 3, hidden=[50, 50], batch_norm=True, lam=0.02, n_cycles=3)
    trials = {"coarse": train(0.4, 3, batch_norm=True, lam=0.01), "fine 1": train(0.45, 3, batch_norm=True, lam=0.02)}
    write(
        "ex3_search",
        [
            {"seed": trial["seed"], "stage": stage, "lambda": trial["config"]["lam"], "validation": 100 * trial["val_accuracy"]}
            for stage, results in trials.items()
            for trial in results
        ],
    )
    write(
        "ex3",
        [
            experiment.row(net + bn, "default", nets[net], **reported)
            for net in NETS
            for bn, nets in (("", plain), (" BN", normalised))
        ]
        + [experiment.row("3-layer BN", "best lambda, 3 cycles", longer, **reported)],
    )
    for net in NETS:
        plots.figure(lab, "curves", f"ex2-{net}", net, {"without BN": plain[net]})
        plots.figure(lab, "curves", f"ex3-{net}", net, {"without BN": plain[net], "with BN": normalised[net]})
    plots.figure(lab, "curves", "ex3-best-lambda", "3-layer", {"with BN": longer})
    plots.figure(
        lab, "search", "ex3-search", "3-layer", trials, draws={"coarse": "10^U(-5, -1)", "fine 1": "U(0.8, 1.2) x best"}
    )
    cells = {
        key: train(*((0.1, 1) if key in FAILING else (0.5, 3)), hidden=NETS[key[0]], sigma=key[2], **BN[key[1]])
        for key in itertools.product(("3-layer", "9-layer"), BN, SIGMAS)
    }
    write(
        "sensitivity",
        [experiment.row(net, f"sigma {sigma:.0e}, {bn}", nets, **reported) for (net, bn, sigma), nets in cells.items()],
    )
    for net in ("3-layer", "9-layer"):
        plots.figure(
            lab,
            "sensitivity",
            f"sensitivity-{net}",
            net,
            {f"sigma {sigma:.0e}": {bn: cells[net, bn, sigma] for bn in BN} for sigma in SIGMAS},
        )
    shutil.copy(HOME / "results" / "gradcheck.csv", root / "results")
    return lab["results"]


@pytest.fixture
def results(made, tmp_path):
    """A copy of made that a test may damage."""
    shutil.copytree(made.parent, tmp_path / "results")
    return tmp_path / "results" / "shapes"


@pytest.fixture
def quick(monkeypatch):
    """No PDF and no pictures: what the report says is tested, not how it looks."""
    monkeypatch.setattr(make_report, "pdf", lambda source, path: None)
    monkeypatch.setattr(plots, "draw", lambda path, folder, format: folder / f"{path.stem}.{format}")


def make(results, *options):
    """Make the report beside the results. Returns the exit status and report.md."""
    out = results.parent.parent / "report"
    status = make_report.main(["--results", str(results), "--out", str(out), *options])
    return status, (out / "report.md").read_text(encoding="utf-8")


def markdown_tables(text):
    """The tables of a Markdown text: lists of rows, dicts by the heads, unescaped."""
    found = []
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [
            [re.sub(r"\\(.)", r"\1", cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in lines.splitlines()
        ]
        found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_numbers_are_those_of_the_results(made, quick):
    status, text = make(made)
    assert status == 0 and "Missing" not in text
    gradients, ex3, ex2, search, sensitivity, shares, settings = markdown_tables(text)
    for name, shown in (("ex3", ex3), ("ex2", ex2)):
        for row, line in zip(read(made / f"{name}.csv"), shown, strict=True):
            for part in ("validation", "test"):
                assert line[f"{part}, %"] == f"{float(row[part]):.2f} ± {float(row[f'{part}_sd']):.2f} ({row[f'{part}_n']})"
            assert (line["network"], line["setting"], line["A (CIFAR-10)"]) == (
                row["network"],
                row["setting"],
                " ".join(EVIL.split()),
            )
    rows = read(made / "sensitivity.csv")
    cells = [cell for line in sensitivity for head, cell in line.items() if head.startswith("sigma")]
    for row, cell in zip(rows, cells, strict=True):
        mean, sd = float(row["test"]), float(row["test_sd"])
        assert cell == (f"{mean:.2f} (1); B 12.3" if math.isnan(sd) else f"{mean:.2f} ± {sd:.2f} (3); B 12.3")
    checked = read(made.parent / "gradcheck.csv")
    assert sum(int(line["entries"]) for line in gradients) == sum(int(row["entries"]) for row in checked)
    errors = [float(row["complex"]) for row in checked if (row["net"], row["bn"], row["judged"]) == ("8", "before", "relative")]
    assert gradients[0]["before: complex"] == f"{max(errors):.1e}"
    assert [(line["best lambda"], line["validation, %"], line["test, %"]) for line in search] == [
        ("2.00e-02", f"{44 + 0.2 * seed:.2f}", f"{55 + 0.2 * seed:.2f}") for seed in range(3)
    ]
    assert sum(int(line["runs"]) for line in settings) == len(list((made / "runs").iterdir()))
    assert float(shares[-1]["sigma 1e-04"]) < 1e-9 < float(shares[1]["sigma 1e-04"]) and len(shares) == 4


def test_the_comments_follow_from_the_numbers(made, quick):
    _, text = make(made)
    assert "3-layer: +2.00 points (two standard errors: 0.33), a gain" in text
    assert "Without BN: 1 of 6 fail (9-layer, sigma 1e-01)" in text and "BN, eps 2.2e-16: 0 of 6 fail" in text
    assert (
        "Epsilon may decide 9-layer, sigma 1e-04: with BN, eps 2.2e-16 it reaches 50.20 ± 0.20 (3) %, with BN, eps 1e-5 it fails"
        in text
    )
    assert "None of the 412 gradients fails" in text and "lambda 2.00e-02" in text and "10^U(-5, -1)" in text


def test_another_result_makes_another_report(results, quick):
    _, before = make(results)
    path = results / "ex3.csv"
    rows = read(path)
    rows[1]["test"] = "48.21"
    path.write_text(tables.comma_separated(rows))
    _, after = make(results)
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    comment, row, longer = (new for _, new in changed)
    assert "no difference beyond the spread" in comment and "48.21 ±" in row and "+6.99 points" in longer
    rows = read(results.parent / "gradcheck.csv")
    rows[0]["verdict"] = "FAIL: complex"
    (results.parent / "gradcheck.csv").write_text(tables.comma_separated(rows))
    assert "the gradient computations are not right" in make(results)[1]


@pytest.mark.parametrize(
    "gone, named",
    [
        ("../gradcheck.csv", "results/gradcheck.csv is missing; python gradcheck.py --out"),
        ("ex2.csv", "results/shapes/ex2.csv is missing; python run_ex2.py --seeds 5 --dataset shapes --out"),
        ("ex3.csv", "results/shapes/ex3.csv is missing; python run_ex3.py --seeds 5 --dataset shapes --out"),
        ("ex3_search.csv", "results/shapes/ex3_search.csv is missing; python run_ex3.py"),
        ("sensitivity.csv", "results/shapes/sensitivity.csv is missing; python run_sensitivity.py --seeds 3"),
        ("figures/ex3-9-layer.json", "results/shapes/figures/ex3-9-layer.json is missing; python run_ex3.py"),
        ("figures/ex3-best-lambda.json", "results/shapes/figures/ex3-best-lambda.json is missing; python run_ex3.py"),
        ("runs/50-50_bn_seed=1.json", "results/shapes/runs/50-50_bn_seed=1.json is missing; python run_x.py"),
        ("runs", "and 2 more like it"),
        ("figures", "results/shapes/figures describes no runs"),
    ],
)
def test_what_is_missing_is_named_with_its_command(gone, named, results, quick, capsys):
    path = results / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    status, text = make(results)
    errors = capsys.readouterr().err
    assert status == 1 and named in errors and "Missing" in text and len(markdown_tables(text)) >= 3
    if path.suffix == ".csv":
        for damage in (
            "",
            "a,b\n1,2\n",
            'network,setting\n"',
            "\x00",
            "seed,stage,lambda,validation,test\nx,x,x,x,x,x\n",
        ):
            path.write_text(damage)
            assert make(results)[0] == 1
            assert named.replace("missing", "damaged") in capsys.readouterr().err


def test_a_results_folder_of_nothing_is_all_missing(tmp_path, quick, capsys):
    (tmp_path / "results" / "shapes-smoke").mkdir(parents=True)
    status, text = make(tmp_path / "results" / "shapes-smoke")
    assert status == 1 and "--dataset shapes --smoke" in text and "Traceback" not in text and not markdown_tables(text)


def test_what_is_typed_wrong_is_named_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for options in (["--results", "no where"], ["--out", tmp_path / "file"]):
        job = call("make_report", *options, cwd=tmp_path)
        assert job.returncode == 1 and len(job.stderr.splitlines()) == 1 and "error" in job.stderr


def test_every_equation_is_written_in_typst():
    for rows in (make_report.EQUATIONS, make_report.BACKWARD):
        for row in rows:
            assert len(row) in (1, 2) and all(make_report.typst_math(latex) for _, latex in row)
            assert not re.search(
                r"[^ ]_|_[^ ]|[<>*]|\\[^a-zA-Z]", "".join(make_report.markdown_math(latex) for _, latex in row)
            )
    assert make_report.typst_math(r"\frac{1}{n} G^{T}") == "frac(1, n) G ^(T)"
    with pytest.raises(ValueError, match="nothing"):
        make_report.typst_math(r"\nothing")


def test_without_typst_there_is_text_and_a_hint(made, tmp_path):
    (tmp_path / "typst.py").write_text("raise ImportError")
    env = environment(PYTHONPATH=f"{tmp_path}:{HOME}")
    job = subprocess.run(
        [sys.executable, HOME / "make_report.py", "--results", made, "--out", tmp_path / "out"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0
    assert job.stderr.splitlines() == ["make_report.py: the PDF needs Typst: pip install -r requirements-report.txt"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"figures", "report.md", "report.typ"}


def test_the_pdf_has_at_most_6_pages(made):
    typst = pytest.importorskip("typst", reason="the PDF is not tested without Typst: pip install -r requirements-report.txt")
    assert make(made)[0] == 0
    out = made.parent.parent / "report"
    assert (out / "report.pdf").read_bytes().startswith(b"%PDF")
    pages = typst.compile(str(out / "report.typ"), format="svg")
    assert len(pages if isinstance(pages, list) else [pages]) <= 6
    assert all(path.suffix == ".svg" for path in (out / "figures").iterdir()) and len(list((out / "figures").iterdir())) == 6


def test_what_stands_in_the_data_is_shown_in_the_pdf_as_it_is(made, tmp_path):
    typst = pytest.importorskip("typst", reason="the PDF is not tested without Typst: pip install -r requirements-report.txt")
    samples = [
        EVIL,
        "1. one",
        "- a",
        "+ a",
        "= a",
        "/ a: b",
        "http://a.b",
        "...",
        "a\nb",
        "",
        "\\",
        "]",
        "#",
        "//",
        "/*",
        "*/",
        "--",
        "'",
        '"',
        "@a",
        "<a>",
        "$",
    ]
    for text in samples:
        blocks = [
            make_report.text(make_report.say("{x} `{x}` *{x}*", x=text)),
            make_report.items(make_report.say("{x}", x=text)),
            make_report.table("t", make_report.say("{x}", x=text), [["a", text], [text, "b"]]),
        ]
        (tmp_path / "x.typ").write_text(make_report.typst(blocks), encoding="utf-8")
        typst.compile(str(tmp_path / "x.typ"))
        cells = json.loads(typst.query(str(tmp_path / "x.typ"), "<t>"))[0]["body"]["children"]
        expected = text.replace("\n", " ")
        assert {expected, "a" + expected} <= {letters(cell) for cell in cells}


def letters(content):
    """The text of what Typst makes of a source."""
    if isinstance(content, list):
        return "".join(map(letters, content))
    kind = content["func"]
    if kind == "smartquote":
        return '"' if content.get("double", True) else "'"
    return {"text": content.get("text"), "symbol": content.get("text"), "space": " "}.get(kind) or "".join(
        letters(content[part]) for part in ("body", "children", "child") if part in content
    )


def test_results_that_do_not_fit_together_are_named(results, quick, capsys):
    for path, change in (
        ("runs/50-50_seed=0.json", {"config": {}}),
        ("runs/50-50_bn_seed=1.json", {"history": {"epoch": {}}}),
        ("figures/sensitivity-9-layer.json", {"runs": {"a": {}}}),
        ("figures/ex3-search.json", {"more": {}}),
    ):
        whole = (results / path).read_text()
        (results / path).write_text(json.dumps(json.loads(whole) | change))
        assert make(results)[0] == (0 if "search" in path else 1)  # which is drawn by plots
        assert "Traceback" not in (said := capsys.readouterr().err) and said.count("makes") == said.count("\n")
        (results / path).write_text(whole)


def test_the_bars_of_the_gradient_check_are_its_own(made, quick):
    assert (
        f"must not exceed {gradcheck.BARS['relative']['complex']:g} and {gradcheck.BARS['relative']['central']:g}"
        in make(made)[1]
    )
