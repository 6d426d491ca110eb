"""Make the PDF report that the assignment asks for.

    python make_report.py                of your own results: gradcheck.py, run_ex2.py, run_ex3.py, run_sensitivity.py
    python make_report.py --published    of the published results, to see what the report looks like

The first call copies handin/report.typ to report/report.typ. This copy is yours: write your name and your discussion into
it. Every call compiles it to report/report.pdf and fills in the tables, numbers and figures of the results.
The compiler is a Python package: pip install -r requirements-report.txt
"""

import os
import re
import sys
from pathlib import Path

from lab.data import DATASETS
from lab.settings import HOME, UserError, make_folder, parser, run_main
from lab.tables import write

NEEDED = {  # driver: the experiment and the figures that the report shows
    "run_ex2.py": ("ex2", []),
    "run_ex3.py": ("ex3", ["ex3-3-layer", "ex3-6-layer", "ex3-9-layer", "ex3-search"]),
    "run_sensitivity.py": ("sensitivity", ["sensitivity-3-layer", "sensitivity-9-layer"]),
}


def missing_files(opts, results, figures, gradcheck):
    """Return {the command of each script whose results the report lacks: the first file that is missing}."""
    place = " --publish" if opts.published else f" --out {opts.out}" if opts.out != HOME else ""
    data = f" --dataset {opts.dataset}" * (opts.dataset != "cifar10") + " --smoke" * opts.smoke
    missing = {} if gradcheck.exists() else {f"gradcheck.py{place}": gradcheck}
    for driver, (experiment, names) in NEEDED.items():
        runs, pictures = results / f"{experiment}_runs.csv", [figures / f"{name}.png" for name in names]
        if not runs.exists():
            missing[driver + data + place] = runs
        elif lacking := [path for path in pictures if not path.exists()]:
            missing[f"{driver}{data}{place} --figures"] = lacking[0]
    return missing


def compile_report(report, **inputs):
    """Return the PDF of a Typst file; inputs: the paths that it reads results from."""
    try:
        import typst
    except ImportError:
        raise UserError("the report needs the Typst compiler: pip install -r requirements-report.txt") from None
    root = Path(os.path.commonpath([report.parents[1], *inputs.values()]))  # Typst reads nothing outside
    inputs = {name: f"/{path.relative_to(root).as_posix()}" for name, path in inputs.items()}
    try:
        return typst.compile(str(report), root=str(root), sys_inputs=inputs)
    except typst.TypstError as error:
        line = re.search(rf"{report.name}:(\d+)", error.diagnostic)
        raise UserError(f"{report}{f', line {line[1]}' if line else ''}: {error.message}") from None


def main():
    options = parser(__doc__)
    options.add_argument("--published", action="store_true", help="report the published results")
    options.add_argument("--dataset", choices=DATASETS, default="cifar10", help="report results on another dataset")
    options.add_argument("--smoke", action="store_true", help="report the results of a quick trial")
    options.add_argument("--out", type=Path, default=HOME, metavar="DIR", help="folder of results/ and report/ (default: here)")
    opts = options.parse_args()
    opts.out = opts.out.resolve()

    home, label = (HOME, "published") if opts.published else (opts.out, opts.dataset + "-smoke" * opts.smoke)
    results, figures = home / "results" / label, home / "figures" / label
    gradcheck = results / "gradcheck.csv" if opts.published else home / "results" / "gradcheck.csv"
    if missing := missing_files(opts, results, figures, gradcheck):
        for command, path in missing.items():
            print(f"make_report.py: error: {path} is missing; make it with python {command}", file=sys.stderr)
        return 1
    report = make_folder(opts.out / "report") / "report.typ"
    if not report.exists():
        write(report, (HOME / "handin" / "report.typ").read_bytes())
    pdf = report.with_name("report-published.pdf" if opts.published else "report.pdf")
    write(pdf, compile_report(report, results=results, figures=figures, gradcheck=gradcheck))
    print(pdf)


if __name__ == "__main__":
    run_main(main)
