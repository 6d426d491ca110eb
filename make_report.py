"""Make a PDF report from results: of the assignment, or of one of the other documents.

    python make_report.py                      the assignment: of your own results of gradcheck.py, run_ex2.py, run_ex3.py and
                                               run_sensitivity.py, and of run_ex4.py and run_ex4.py --ladder if there are some
    python make_report.py --document solver    another document: of run_solver.py, or with mnist or fashion of its driver
    python make_report.py --published          of the published results, to see what the report looks like

The first call copies the report's text from handin/ to report/ as a Typst file, report.typ or one with the document's name.
This copy is yours: write your discussion into it. Every call compiles it to a PDF beside it and fills in the tables, numbers
and figures of the results. --name and --id say who you are; they and the date and time of the call are on the first page.
The compiler is a Python package: pip install -r requirements-report.txt
"""

import os
import re
import sys
from datetime import datetime
from pathlib import Path

from lab.data import DATASETS
from lab.settings import HOME, UserError, make_folder, parser, run_main
from lab.tables import write

DOCUMENTS = {  # document: its text in handin/, its dataset, and what it shows of each driver: an experiment, tables and figures
    "assignment": ("report", "cifar10", {
        "run_ex2.py": ("ex2", [], []),
        "run_ex3.py": ("ex3", [], ["ex3-3-layer", "ex3-6-layer", "ex3-9-layer", "ex3-search"]),
        "run_sensitivity.py": ("sensitivity", [], ["sensitivity-3-layer", "sensitivity-9-layer"]),
    }),
    "solver": ("solver", "cifar10", {
        "run_solver.py": ("solver", ["solver", "solver_scales", "solver_gradients"],
                          ["solver-2-layer", "solver-50-examples", "solver-scales"]),
    }),
    "mnist": ("mnist", "mnist", {
        "run_mnist.py": ("mnist", ["mnist", "mnist_gain"], ["mnist-fully-connected", "mnist-convolutional", "mnist-filters", "mnist-mistakes"]),
    }),
    "fashion": ("fashion", "fashion-mnist", {
        "run_fashion.py": ("fashion", ["fashion", "fashion_gain", "fashion_prediction"],
                           ["fashion-MLP", "fashion-CNN", "fashion-gaps", "fashion-MLP-scores"]),
    }),
}  # fmt: skip
BONUS = (  # tables and figures of Exercise 4
    ["ex4_runs", "ex4", "ex4_ladder_runs", "ex4_ladder", "ex4_ladder_reverse", "ex4_ladder_more"], ["ex4-ladder", "ex4-ensembles"],
)  # fmt: skip


def missing_files(opts, drivers, results, figures, gradcheck):
    """Return {the command of each script whose results the report lacks: the first file that is missing}."""
    place = " --publish" if opts.published else f" --out {opts.out}" if opts.out != HOME else ""
    data = f" --dataset {opts.dataset}" * (opts.dataset is not None) + " --smoke" * opts.smoke
    missing = {f"gradcheck.py{place}": gradcheck} if gradcheck and not gradcheck.exists() else {}
    for driver, (experiment, tables, names) in drivers.items():
        runs = results / f"{experiment}_runs.csv"
        drawn = [results / f"{table}.csv" for table in tables] + [figures / f"{name}.png" for name in names]
        if not runs.exists():
            missing[driver + data + place] = runs
        elif lacking := [path for path in drawn if not path.exists()]:
            missing[f"{driver}{data}{place} --figures"] = lacking[0]
    return missing


def compile_report(report, paths, words):
    """Return the PDF of a Typst file. paths: what it reads results from. words: the other strings that it takes."""
    try:
        import typst
    except ImportError:
        raise UserError("the report needs the Typst compiler: pip install -r requirements-report.txt") from None
    root = Path(os.path.commonpath([report.parents[1], *paths.values()]))  # Typst reads nothing outside
    paths = {name: f"/{path.relative_to(root).as_posix()}" for name, path in paths.items()}
    try:
        return typst.compile(str(report), root=str(root), sys_inputs=paths | words)
    except typst.TypstError as error:
        line = re.search(r"([\w-]+\.typ):(\d+)", error.diagnostic)
        place = f"{report.with_name(line[1])}, line {line[2]}" if line else report
        raise UserError(f"{place}: {error.message}") from None


def main():
    options = parser(__doc__)
    options.add_argument("--document", choices=DOCUMENTS, default="assignment", help="whose report (default: the assignment)")
    options.add_argument("--name", help="your name, for the first page")
    options.add_argument("--id", help="your student id, for the first page")
    options.add_argument("--published", action="store_true", help="report the published results")
    options.add_argument("--dataset", choices=DATASETS, help="report results on another dataset")
    options.add_argument("--smoke", action="store_true", help="report the results of a quick trial")
    options.add_argument("--out", type=Path, default=HOME, metavar="DIR", help="folder of results/ and report/ (default: here)")
    opts = options.parse_args()
    opts.out = opts.out.resolve()
    text, dataset, drivers = DOCUMENTS[opts.document]

    home, label = (HOME, "published") if opts.published else (opts.out, (opts.dataset or dataset) + "-smoke" * opts.smoke)
    paths = {"results": home / "results" / label, "figures": home / "figures" / label}
    if opts.document == "assignment":
        paths["gradcheck"] = (paths["results"] if opts.published else home / "results") / "gradcheck.csv"
    claims = home / "results" / ("published" if opts.published else "claims" + "-smoke" * opts.smoke) / "claims.csv"
    if claims.exists():
        paths["claims"] = claims
    if missing := missing_files(opts, drivers, paths["results"], paths["figures"], paths.get("gradcheck")):
        for command, path in missing.items():
            print(f"make_report.py: error: {path} is missing; make it with python {command}", file=sys.stderr)
        return 1
    now = datetime.now()
    words = {"date": f"{now.day} {now:%B %Y, %H:%M}"}
    for key, word in {"name": opts.name, "id": opts.id}.items():
        if word is not None:
            words[key] = word.encode(errors="surrogateescape").decode(errors="replace")  # a shell may send any bytes
    bonus = [paths["results"] / f"{table}.csv" for table in BONUS[0]] + [paths["figures"] / f"{name}.png" for name in BONUS[1]]
    if all(path.exists() for path in bonus):
        words["exercise4"] = "yes"
    report = make_folder(opts.out / "report") / f"{text}.typ"
    source = (HOME / "handin" / report.name).read_text(encoding="utf-8")
    for name in (report.name, *re.findall(r'#import "(.+?)"', source)):
        if not report.with_name(name).exists():
            write(report.with_name(name), (HOME / "handin" / name).read_bytes())
    pdf = report.with_name(f"{text}-published.pdf" if opts.published else f"{text}.pdf")
    write(pdf, compile_report(report, paths, words))
    print(pdf)


if __name__ == "__main__":
    run_main(main)
