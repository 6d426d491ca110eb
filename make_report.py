"""Make the PDF report that the assignment asks for.

    python make_report.py                of your own results: gradcheck.py, run_ex2.py, run_ex3.py, run_sensitivity.py
    python make_report.py --published    of the published results, to see what the report looks like

The first call copies handin/report.typ to report/report.typ. This copy is yours: write your name and your discussion into
it. Every call compiles it to report/report.pdf and fills in the tables, numbers and figures of the results.
The compiler is a Python package: pip install -r requirements-report.txt
"""

import re
from pathlib import Path

from lab.settings import HOME, UserError, parser, run_main
from lab.tables import write

NEEDED = {  # driver: the experiment and the figures that the report shows
    "run_ex2.py": ("ex2", []),
    "run_ex3.py": ("ex3", ["ex3-3-layer", "ex3-6-layer", "ex3-9-layer", "ex3-search"]),
    "run_sensitivity.py": ("sensitivity", ["sensitivity-3-layer", "sensitivity-9-layer"]),
}


def missing_files(opts, results, figures, gradcheck):
    """Return pairs (the first file that the report lacks of a script, the command that makes it)."""
    place = ["--publish"] * opts.published + (["--out", str(opts.out)] if opts.out != HOME else [])
    data = ["--dataset", opts.dataset] * (opts.dataset != "cifar10") + ["--smoke"] * opts.smoke
    missing = [] if gradcheck.exists() else [(gradcheck, ["gradcheck.py", *place])]
    for driver, (experiment, names) in NEEDED.items():
        runs, pictures = results / f"{experiment}_runs.csv", [figures / f"{name}.png" for name in names]
        if not runs.exists():
            missing.append((runs, [driver, *data, *place]))
        elif lacking := [path for path in pictures if not path.exists()]:
            missing.append((lacking[0], [driver, *data, *place, "--figures"]))
    return missing


def compile_report(report, **inputs):
    """Return the PDF of a Typst file in a folder below --out; inputs: the paths that it reads results from."""
    try:
        import typst
    except ImportError:
        raise UserError("the report needs the Typst compiler: pip install -r requirements-report.txt") from None
    root = report.parents[1]
    inputs = {name: f"/{path.relative_to(root).as_posix()}" for name, path in inputs.items()}
    try:
        return typst.compile(str(report), root=str(root), sys_inputs=inputs)
    except typst.TypstError as error:
        line = re.search(rf"{report.name}:(\d+)", error.diagnostic)
        raise UserError(f"{report}{f', line {line[1]}' if line else ''}: {error.message}") from None


def main():
    options = parser(__doc__)
    options.add_argument("--published", action="store_true", help="report the published results")
    options.add_argument("--dataset", metavar="NAME", default="cifar10", help="report results on another dataset")
    options.add_argument("--smoke", action="store_true", help="report the results of a quick trial")
    options.add_argument("--out", type=Path, default=HOME, metavar="DIR", help="folder of results/ and report/ (default: here)")
    opts = options.parse_args()
    opts.out = opts.out.resolve()

    label = "published" if opts.published else opts.dataset + "-smoke" * opts.smoke
    results, figures, report = opts.out / "results" / label, opts.out / "figures" / label, opts.out / "report" / "report.typ"
    gradcheck = opts.out / "results" / ("published" * opts.published) / "gradcheck.csv"
    if missing := missing_files(opts, results, figures, gradcheck):
        raise UserError("; ".join(f"{path} is missing: python {' '.join(command)}" for path, command in missing))
    report.parent.mkdir(exist_ok=True)
    if not report.exists():
        write(report, (HOME / "handin" / "report.typ").read_bytes())
    pdf = report.with_name("report-published.pdf" if opts.published else "report.pdf")
    write(pdf, compile_report(report, results=results, figures=figures, gradcheck=gradcheck))
    print(pdf)


if __name__ == "__main__":
    run_main(main)
