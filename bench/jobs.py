"""Measure what a second job gains, and what it costs in memory, in a search for lambda.

    python bench/jobs.py        # about 4 minutes on 2 idle cores

It trains on CIFAR-10 if --data-dir or KBN_DATA_DIR names its folder, else on the built-in shapes, which have the same size.

wall time   of 8 runs of the 3-layer net with BN and n_s 750, with --jobs 1 and with --jobs 2, from standardising the data to
            the last result on disk. The start of the workers is included, the loading of the data is not. Medians
memory      highest proportional set size (PSS, /proc/PID/smaps_rollup) of the driver and its workers together, from the
            loading of the data on, measured in calls of its own, with n_s 200. PSS counts a page that several processes
            share once. Linux only

Each call is a fresh process with its own empty results. All must find the same validation accuracies. It writes
results/bench_jobs.md, .csv, .tex and .json (every round).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timing  # makes the project importable

from lab import data, settings, workers

RUNS = 8
MEASURED = [  # what, is it memory, n_s (memory does not grow with the number of updates), the jobs whose ratio is taken, aim
    (f"wall time of {RUNS} runs, s", False, 750, (1, 2), "at least 1.8"),
    ("peak memory, MiB", True, 200, (2, 1), "at most 1.3"),
]


def search(jobs, dataset, data_dir, n_s):
    """Train RUNS nets. Returns the seconds that it took, and the validation accuracies."""
    rows = [settings.row(f"lambda {lam:g}", hidden=[50, 50], bn="before", n_s=n_s, lam=float(lam))
            for lam in np.logspace(-5, -1, RUNS)]  # fmt: skip
    opts = settings.options(__doc__, list(data.DATASETS), argv=["--jobs", str(jobs), "--quiet"])
    raw = data.load(dataset, data_dir)
    with tempfile.TemporaryDirectory() as folder:
        opts.store = Path(folder)
        (opts.store / "runs").mkdir()
        start = time.perf_counter()
        results = workers.train_runs([(row, 0) for row in rows], raw, opts, test=False)
        return time.perf_counter() - start, [result["val_accuracy"] for row in rows for result in results[row["name"]]]


def in_new_process(memory, *args):
    """Call search(*args) in a fresh process. Returns its seconds, or with memory the peak in MiB, and the accuracies."""
    code = "import json, sys, jobs; print(json.dumps(jobs.search(*json.loads(sys.argv[1]))))"
    command, env = [sys.executable, "-c", code, json.dumps(args)], os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    samples = [0]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            if memory:
                samples.append(memory_of(process.pid))
            time.sleep(0.1)
        output = process.stdout.read()
    if process.returncode:
        raise settings.UserError(f"the search with {args[0]} job(s) failed; the reason is printed above")
    seconds, accuracies = json.loads(output)
    # Pages that change hands while the processes are read, one after another, count twice in one sample, not in two.
    peak = max(map(min, samples, samples[1:]), default=0)
    return peak if memory else seconds, accuracies


def memory_of(pid):
    """Return the proportional set size of a process and of all that it has started in MiB, 0 if it has just ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    except OSError:
        return 0
    return sum(map(int, re.findall(r"^Pss: *(\d+)", rollup, re.MULTILINE))) / 1024 + sum(map(memory_of, children))


def main():
    parser = timing.options(__doc__, rounds=3)
    parser.add_argument("--data-dir", metavar="DIR", help="folder of CIFAR-10 (default: $KBN_DATA_DIR)")
    opts = parser.parse_args()
    source = "cifar10" if opts.data_dir or os.environ.get("KBN_DATA_DIR") else "shapes", opts.data_dir
    folder, environment = settings.output_folder(opts, "results"), timing.environment()
    environment["dataset"] = data.load(*source)["title"]  # reports a wrong folder before anything is measured
    print(environment["dataset"], flush=True)
    rows, raw = [], {}
    for what, memory, n_s, (a, b), aim in MEASURED:
        if memory and not Path("/proc/self/smaps_rollup").exists():
            print("The memory is not measured: that needs Linux.")
            continue
        raw[what] = numbers = {1: [], 2: []}
        found = []
        for jobs in [1, 2] * (1 if memory else opts.rounds):
            number, accuracies = in_new_process(memory, jobs, *source, n_s)
            numbers[jobs].append(number)
            found.append(accuracies)
            print(f"{jobs} job(s): {what} {number:.1f}", flush=True)
        if any(accuracies != found[0] for accuracies in found):
            raise settings.UserError("the accuracies depend on the number of jobs, so their times are not comparable")
        medians = {jobs: float(np.median(values)) for jobs, values in numbers.items()}
        rows.append({"measured": what, "1 job": f"{medians[1]:.1f}", "2 jobs": f"{medians[2]:.1f}",
                     "ratio": f"{medians[a] / medians[b]:.2f}", "aim": aim})  # fmt: skip
    timing.report(folder, {"bench_jobs": rows}, {"environment": environment, "numbers": raw})


if __name__ == "__main__":
    settings.run_main(main)
