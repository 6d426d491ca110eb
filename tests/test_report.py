"""The report shows the numbers of the results, keeps the student's text, and says in one line what it lacks."""

import csv
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import make_report
from lab import tables
from lab.settings import HOME

typst = pytest.importorskip("typst", reason="the report needs Typst: pip install -r requirements-report.txt")


@pytest.fixture
def folder(tmp_path):
    """The published results as a user's own, with blank figures."""
    shutil.copytree(HOME / "results" / "published", tmp_path / "results" / "cifar10")
    shutil.copy(HOME / "results" / "published" / "gradcheck.csv", tmp_path / "results")
    for name in (name for _, names in make_report.NEEDED.values() for name in names):
        path = tmp_path / "figures" / "cifar10" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1260, 560 if name.startswith("ex3") else 840), "grey").save(path)
    return tmp_path


def make(folder, *options):
    """Run make_report.py. Returns its exit status and its output in one string."""
    command = [sys.executable, HOME / "make_report.py", "--out", folder, *options]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def parts(folder, selector, label="cifar10"):
    """The parts of the report that the selector names, as JSON with ordinary spaces."""
    gradcheck = "/results/published/gradcheck.csv" if label == "published" else "/results/gradcheck.csv"
    inputs = {"results": f"/results/{label}", "figures": f"/figures/{label}", "gradcheck": gradcheck}
    found = typst.query(str(folder / "report" / "report.typ"), selector, root=str(folder), sys_inputs=inputs)
    return found.replace("\u00a0", " ")


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
    text = report.read_text(encoding="utf-8").replace("Your name", "Ada Lovelace") + "\nMy own conclusion.\n"
    report.write_text(text, encoding="utf-8")
    assert make(folder)[0] == 0 and report.read_text(encoding="utf-8") == text
    assert "My own conclusion." in parts(folder, "par")


def test_missing_results_are_named_with_the_commands_that_make_them(folder):
    (folder / "results" / "cifar10" / "ex2_runs.csv").unlink()
    (folder / "figures" / "cifar10" / "ex3-search.png").unlink()
    status, output = make(folder)
    lines = output.splitlines()
    assert status == 1 and len(lines) == 2 and not (folder / "report").exists()
    assert lines[0].endswith(f"ex2_runs.csv is missing; make it with python run_ex2.py --out {folder}")
    assert lines[1].endswith(f"ex3-search.png is missing; make it with python run_ex3.py --out {folder} --figures")


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
