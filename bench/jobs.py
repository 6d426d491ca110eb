"""What a second job brings, and what it costs in memory, on the search for lambda.

    python bench/jobs.py

About 4 minutes on 2 cores, which should have nothing else to do. On CIFAR-10 where --data-dir or KBN_DATA_DIR names its
folder, else on the built-in shapes, which are of the same size.

speed-up   wall time of the same runs with --jobs 1 over that with --jobs 2, from the first run's start to the last
           result on disk, the start of the workers included, the loading of the data not; the two take turns, and the
           ratio is that of the medians. The search is shortened: 8 lambdas, n_s 750
memory     peak of the proportional set size (PSS, /proc/PID/smaps_rollup) of the driver and its workers together, with
           --jobs 2 over that with --jobs 1, from the loading of the data on; a page that several processes share counts
           once. Sampled in calls of its own, not to disturb the clock. Linux only

Each call is a fresh process with its own empty results. All must find the same validation accuracies.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

import joblib
import numpy as np

import experiment
import tables

SEARCHED = {"hidden": [50, 50], "batch_norm": True, "n_s": 750}
SHORT = SEARCHED | {"n_s": 200}  # for the memory, which does not grow with the updates
LAMS = 8
AIMS = {"speed-up": 1.8, "memory": 1.3}


def search(jobs, source, config):
    """Train config with LAMS lambdas, in a folder of its own. Returns the seconds and the validation accuracies."""
    with tempfile.TemporaryDirectory() as out:
        lab = experiment.open_lab(experiment.options(__doc__, [*source, "--jobs", str(jobs), "--out", out, "--quiet"]), LAMS)
        runs = [(experiment.config(**config, lam=float(lam)), 0) for lam in np.logspace(-5, -1, LAMS)]
        experiment.split(lab, *experiment.division(runs[0][0]))
        start = time.perf_counter()
        results = experiment.train(lab, runs, test=False)
        return time.perf_counter() - start, [result["val_accuracy"] for result in results]


def in_a_process(*args, watch=lambda: None):
    """search in a fresh process, while watch is called now and then. Raises CalledProcessError."""
    code = "import json, sys, jobs; print(json.dumps(jobs.search(*json.loads(sys.argv[1]))))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(args)],
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HOME / "bench")},
    )
    while process.poll() is None:
        watch()
        time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "search")
    return json.loads(process.stdout.read())


def descendants(pid):
    """The processes that pid has started, and those that these have."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [
        grandchild for path in children for child in path.read_text().split() for grandchild in [child, *descendants(child)]
    ]


def pss(pid):
    """The proportional set size of a process in bytes; 0 for one that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def peak_memory(*args):
    """The peak of the memory of search in bytes, its workers' included, and what it returns."""
    samples = []
    found = in_a_process(*args, watch=lambda: samples.append(sum(map(pss, descendants(os.getpid())))))
    return max(samples), found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        default=os.environ.get("KBN_DATA_DIR"),
        help="folder with CIFAR-10 (default: $KBN_DATA_DIR)",
    )
    parser.add_argument(
        "--rounds",
        type=experiment.at_least_one,
        default=3,
        metavar="N",
        help="how often the two take turns (default %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=HOME / "results" / "bench_jobs.json", metavar="FILE", help="default: %(default)s"
    )
    args = parser.parse_args()

    from step import cpu_model  # here, not above: it loads PyTorch, which the processes that are measured must not

    source = ["--dataset", "cifar10", "--data-dir", args.data_dir] if args.data_dir else ["--dataset", "shapes"]
    versions = {"python": platform.python_version(), "numpy": np.__version__, "joblib": joblib.__version__}
    print(
        f"{cpu_model()}, {joblib.cpu_count()} cores; {source[1]}; load {os.getloadavg()[0]:.2f}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )
    seconds, memory, found = {1: [], 2: []}, {}, {}
    for round_ in range(args.rounds):
        for jobs in seconds:
            wall, accuracies = in_a_process(jobs, source, SEARCHED)
            seconds[jobs].append(wall)
            assert found.setdefault("long", accuracies) == accuracies, "the number of jobs changes the results"
            print(f"round {round_ + 1}, {jobs} job(s): {wall:.1f} s for {LAMS} runs", flush=True)
    for jobs in seconds:
        memory[jobs], (_, accuracies) = peak_memory(jobs, source, SHORT)
        assert found.setdefault("short", accuracies) == accuracies, "the number of jobs changes the results"
        print(f"{jobs} job(s): peak memory {memory[jobs] / 2**20:.0f} MiB", flush=True)

    ratios = {"speed-up": float(np.median(seconds[1]) / np.median(seconds[2])), "memory": memory[2] / memory[1]}
    table = tables.markdown(
        [
            ["", "1 job", "2 jobs", "ratio", "aim"],
            [
                f"wall time of {LAMS} runs, s",
                *(f"{np.median(seconds[jobs]):.1f}" for jobs in (1, 2)),
                f"{ratios['speed-up']:.2f}",
                f">= {AIMS['speed-up']}",
            ],
            [
                "peak memory, MiB",
                *(f"{memory[jobs] / 2**20:.0f}" for jobs in (1, 2)),
                f"{ratios['memory']:.2f}",
                f"<= {AIMS['memory']}",
            ],
        ]
    )
    result = {
        "command": "python bench/jobs.py",
        "cpu": cpu_model(),
        "cores": joblib.cpu_count(),
        "versions": versions,
        "dataset": source[1],
        "config": experiment.config(**SEARCHED),
        "runs": LAMS,
        "seconds of each round": seconds,
        "peak PSS in bytes": memory,
        "ratios": ratios,
        "aims": AIMS,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tables.write(args.out, json.dumps(result, indent=1) + "\n")
    tables.write(args.out.with_suffix(".md"), table)
    print(f"\n{table}\nwritten to {args.out} and {args.out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
