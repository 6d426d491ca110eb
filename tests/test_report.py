"""The report shows the numbers of the results, keeps the student's text, and says in one line what it lacks."""

import csv
import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import make_report
from lab import tables
from lab.settings import HOME

typst = pytest.importorskip("typst", reason="the report needs Typst: pip install -r requirements-report.txt")

OTHERS = ["solver", "mnist", "fashion"]


@pytest.fixture
def folder(tmp_path):
    """The published results as a user's own, with blank figures; those of all documents as if they were on CIFAR-10."""
    shutil.copytree(HOME / "results" / "published", tmp_path / "results" / "cifar10")
    shutil.copy(HOME / "results" / "published" / "gradcheck.csv", tmp_path / "results")
    drivers = [driver for _, _, drivers in make_report.DOCUMENTS.values() for driver in drivers.values()]
    for name in (name for _, _, names in drivers for name in names):
        path = tmp_path / "figures" / "cifar10" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1260, 840 if name.startswith("sensitivity") else 560), "grey").save(path)
    return tmp_path


def make(folder, *options):
    """Run make_report.py. Returns its exit status and its output in one string."""
    command = [sys.executable, HOME / "make_report.py", "--out", folder, *options]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def make_other(folder, document, *options):
    """The same for another document, of the results of the fixture."""
    return make(folder, "--document", document, "--dataset", "cifar10", *options)


def parts(folder, selector, label="cifar10", document="report", **words):
    """The parts of the report that the selector names, as JSON with ordinary spaces."""
    gradcheck = "/results/published/gradcheck.csv" if label == "published" else "/results/gradcheck.csv"
    inputs = {"results": f"/results/{label}", "figures": f"/figures/{label}", "gradcheck": gradcheck} | words
    found = typst.query(str(folder / "report" / f"{document}.typ"), selector, root=str(folder), sys_inputs=inputs)
    return found.replace("\u00a0", " ")


def words_of(folder, document, **words):
    """All words of a report's paragraphs and list items in one string."""
    texts = "".join(parts(folder, selector, document=document, **words) for selector in ("par", "list"))
    text = " ".join(re.findall(r'"text":\s*"((?:[^"\\]|\\.)*)"', texts))
    return re.sub(r"\s+(?=[.,:)])|(?<=\()\s+", "", re.sub(r"\s+", " ", text))


def change(path, edit):
    """Change each line of a CSV file by edit, a function of a dict."""
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        edit(line)
    path.write_text(tables.comma_separated(lines), encoding="utf-8")


def test_report_shows_means_of_the_runs_on_six_pages_at_most(folder):
    assert make(folder) == (0, f"{folder / 'report' / 'report.pdf'}\n")
    assert (folder / "report" / "report.pdf").read_bytes().startswith(b"%PDF")
    assert len(typst.compile(str(folder / "report" / "report.typ"), root=str(folder), format="png", ppi=10)) <= 6
    table = parts(folder, "<networks>")
    with open(folder / "results" / "cifar10" / "ex3_runs.csv", newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    for row in ("3-layer", "6-layer BN", "9-layer"):
        values = [100 * float(run["test_accuracy"]) for run in runs if run["row"] == row]
        assert tables.cell(tables.summary(values)) in table, row
    assert "+0.30" in table and "10.00 ± 0.00 (3)" in parts(folder, "<sensitivities>")


def test_report_says_whose_numbers_it_shows(folder):
    make(folder)
    assert "those of my own runs" in parts(folder, "par") and "published" not in parts(folder, "par")
    for kind in ("results", "figures"):
        (folder / kind / "cifar10").rename(folder / kind / "published")
    assert "published results of kbn" in parts(folder, "par", "published")


def test_published_report_reads_the_published_results_of_the_project(tmp_path):
    assert make(tmp_path, "--published") == (0, f"{tmp_path / 'report' / 'report-published.pdf'}\n")


def test_report_of_one_seed_has_no_standard_deviations(folder):
    for path in (folder / "results" / "cifar10").glob("*_runs.csv"):
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([head, *(line for line in lines if "-seed0-" in line)]), encoding="utf-8")
    assert make(folder)[0] == 0
    assert "53.33 (1)" in parts(folder, "<networks>") and "±" not in parts(folder, "<networks>")


def test_edited_report_is_compiled_and_stays_as_it_is(folder):
    make(folder)
    report = folder / "report" / "report.typ"
    text = report.read_text(encoding="utf-8").replace("DD2424 Deep", "My Deep") + "\nMy own conclusion.\n"
    report.write_text(text, encoding="utf-8")
    assert make(folder)[0] == 0 and report.read_text(encoding="utf-8") == text
    assert "My own conclusion." in parts(folder, "par") and "My Deep" in parts(folder, "par")


def test_missing_results_are_named_with_the_commands_that_make_them(folder):
    (folder / "results" / "cifar10" / "ex2_runs.csv").unlink()
    (folder / "figures" / "cifar10" / "ex3-search.png").unlink()
    status, output = make(folder)
    lines = output.splitlines()
    assert status == 1 and len(lines) == 2 and not (folder / "report").exists()
    assert lines[0].endswith(f"ex2_runs.csv is missing; make it with python run_ex2.py --out {folder}")
    assert lines[1].endswith(f"ex3-search.png is missing; make it with python run_ex3.py --out {folder} --figures")


@pytest.mark.parametrize("document", OTHERS)
def test_missing_file_of_another_document_is_named_with_the_command_that_makes_it(document, folder):
    (folder / "figures" / "cifar10" / f"{make_report.DOCUMENTS[document][2][f'run_{document}.py'][2][-1]}.png").unlink()
    command = f"run_{document}.py --dataset cifar10 --out {folder}"
    assert make_other(folder, document)[1].endswith(f".png is missing; make it with python {command} --figures\n")
    (folder / "results" / "cifar10" / f"{document}_runs.csv").unlink()
    status, output = make_other(folder, document)
    assert status == 1 and output.count("\n") == 1
    assert output.endswith(f"{document}_runs.csv is missing; make it with python {command}\n")


@pytest.mark.parametrize("options, words", [(["--dataset", "cifar"], "'cifar'"), (["--out", "a file"], "gradcheck.csv")])
def test_wrong_option_is_named(options, words, folder):
    (folder / "a file").write_text("")
    status, output = make(folder, *options)
    assert status > 0 and "make_report.py: error: " in output and words in output and "Traceback" not in output


def test_error_of_typst_is_one_line_with_the_line_of_the_report(folder):
    (folder / "report").mkdir()
    (folder / "report" / "report.typ").write_text("= Title\n\n#nonsense\n")
    status, output = make(folder)
    assert status == 1 and output.endswith("report.typ, line 3: unknown variable: nonsense\n") and output.count("\n") == 1
    assert not (folder / "report" / "report.pdf").exists()


def test_without_typst_the_command_that_installs_it_is_named(folder):
    (folder / "typst.py").write_text("raise ImportError")
    status, output = make(folder)
    assert status == 1 and output.count("\n") == 1 and "pip install -r requirements-report.txt" in output


# --------------------------------------------------------------------------------------------------- the other documents


@pytest.mark.parametrize("document", OTHERS)
def test_report_of_another_document_is_made_of_own_and_of_published_results(document, folder):
    assert make_other(folder, document) == (0, f"{folder / 'report' / f'{document}.pdf'}\n")
    assert make_other(folder, document, "--published") == (0, f"{folder / 'report' / f'{document}-published.pdf'}\n")
    assert (folder / "report" / f"{document}.pdf").read_bytes().startswith(b"%PDF")
    text = words_of(folder, document)
    assert "those of my own runs" in text and "published results" not in text


@pytest.mark.parametrize("gain, words", [
    ("+4.90 [+4.10, +5.70] (3)", "gains +4.90"), ("-4.90 [-5.70, -4.10] (3)", "loses -4.90"),
    ("+0.20 [-0.10, +0.50] (3)", "makes no measurable difference (+0.20"), ("+0.20 (1)", "differs by +0.20 points (one seed)"),
])  # fmt: skip
def test_verdict_on_a_gain_goes_by_its_interval(gain, words, folder):
    change(folder / "results" / "cifar10" / "mnist_gain.csv", lambda line: line.update({"gain, 95 % interval": gain}))
    assert make_other(folder, "mnist")[0] == 0
    text = words_of(folder, "mnist")
    assert text.count(words) == 8 and text.count("against") >= 8


@pytest.mark.parametrize("document, name", [("mnist", "MNIST homework"), ("solver", "CS231n report"),
                                            ("fashion", "Fashion-MNIST homework")])  # fmt: skip
def test_answers_of_run_claims_stand_in_the_report_of_their_document(document, name, folder):
    assert make_other(folder, document)[0] == 0
    assert "run_claims.py" in words_of(folder, document)
    about = {"experiment": "a minus b", "effect, 95 % interval (n)": "+1.00 [+0.50, +1.50] (5) points", "verdict": "holds"}
    rows = [{"document": who, "claim": f"the claim of the {who}"} | about for who in (name, "assignment")]
    claims = folder / "results" / "claims"
    claims.mkdir(parents=True)
    tables.write_table(claims / "claims", rows)
    assert make_other(folder, document)[0] == 0
    text = parts(folder, "table", document=document, claims="/results/claims/claims.csv")
    assert f"the claim of the {name}" in text and "the claim of the assignment" not in text


def test_first_page_has_the_name_the_id_and_the_date_and_time_as_they_are_given(folder):
    name, student = 'Ada #x $y *z* <a> @b "q" \\ `c` 李', "#panic()"
    for document in make_report.DOCUMENTS:
        assert make_other(folder, document, "--name", name, "--id", student)[0] == 0
        page = parts(folder, "par", document=make_report.DOCUMENTS[document][0], name=name, id=student, date="1 May 2026, 9:30")
        for text in ("Ada #x $y *z* <a> @b", "`c` 李", student, "1 May 2026, 9:30"):
            assert text in page.partition("The networks were trained")[0], (document, text)


def test_name_of_any_bytes_is_harmless(folder):
    assert make_other(folder, "mnist", "--name", b"Ada \xff")[0] == 0


def atoms(formula):
    """The letters, digits and signs of a formula in LaTeX or Typst, in their order and without what only arranges them."""
    formula = re.sub(
        r"#d\b|(?<![a-z])(partial|frac|left|right|mathrm|mathbf|text|bold|q?quad)(?![a-z])", " ", formula.replace("\\", " ")
    )
    return "".join(re.findall(r"[A-Za-z0-9=+<>!'-]", formula.replace(" gt ", ">").replace(" ne ", "!=")))


def test_formulas_of_the_reports_are_those_of_the_page():
    page, text = (path.read_text(encoding="utf-8") for path in (HOME / "docs/derivations.md", HOME / "handin/derivations.typ"))
    marked = re.findall(r"\$\$\n((?:(?!\$\$).)*?) \\qquad \\text\{\((T\d+)\)\}\n\$\$", page, re.DOTALL)
    page = {mark: atoms(formula) for formula, mark in marked}
    ours = dict(re.findall(r'#tagged\("\((T\d+)\)", \$ (.*?)\. \$\)', text, re.DOTALL))
    assert len(ours) == 7 and all(atoms(formula).startswith(page[mark]) for mark, formula in ours.items())


# ------------------------------------------------------------------------------------------------------------ Exercise 4


def rung(name, validation, gain, **more):
    cells = {"change": name, "validation": (validation, 0.3, 3), "gain": gain and f"{gain} [-1.00, +2.00] (3)"}
    return more | cells | {"eta_max": 0.1, "lambda": 0.005, "updates": 100, "parameters": 156910, "s per run": 1.0}


def test_page_on_exercise_4_names_the_largest_gains_if_all_its_results_exist(folder):
    results, figures = folder / "results" / "cifar10", folder / "figures" / "cifar10"
    steps = {"start": "", "wide": "+3.50", "mirror": "+1.25", "bad": "-9.00", "small": "+0.10"}
    ladder = [rung(name, 53.0, gain, kept="no" if name == "bad" else "yes") for name, gain in steps.items()]
    reverse = [
        rung(f"without: {name}", 57.0, gain) for name, gain in {"wide": "-0.20", "mirror": "-2.50", "small": "-1.10"}.items()
    ]
    recipe = [{"network": "wide", "prediction": name, "validation": (70.0, 0.2, 2), "test": (test, 0.2, n)}
              for name, test, n in (("one network", 70.5, 2), ("mean of 2 networks", 79.0, 1))]  # fmt: skip
    written = {"ex4": recipe, "ex4_ladder": ladder, "ex4_ladder_reverse": reverse, "ex4_ladder_more": reverse}
    for name, rows in written.items():
        tables.write_table(results / name, rows)
    for name in ("ex4", "ex4_ladder"):
        shutil.copy(results / "ex2_runs.csv", results / f"{name}_runs.csv")
    Image.new("L", (1260, 680), "grey").save(figures / "ex4-ladder.png")
    assert make(folder)[0] == 0 and "Neyshabur" not in words_of(folder, "report")
    pages = (folder / "report" / "report.pdf").stat().st_size
    Image.new("L", (840, 600), "grey").save(figures / "ex4-ensembles.png")
    assert make(folder)[0] == 0 and (folder / "report" / "report.pdf").stat().st_size > pages + 1000
    text = words_of(folder, "report", exercise4="yes")
    assert "they are those of wide (+3.50 points) and mirror (+1.25 points)" in text
    assert "losses are those of mirror (−2.50 points) and small (−1.10 points)" in text
    assert "is 0.38 points above the former and 6.19 points below the latter" in text
    assert text.count("78.62 %") == 1 and "Lin, Memisevic, Konda: How far" in text and "Neyshabur: Towards" in text
