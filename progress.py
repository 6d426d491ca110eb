"""How far a driver is: one bar for all its runs; without a terminal a whole line now and then.

The bar is a tqdm bar; its unit is a run, its end the best validation accuracy so far.
"""

import sys
import threading

from tqdm import tqdm

SECONDS = 30  # between two lines, where there is no terminal


class Lines:
    """A stream for tqdm that writes whole lines to stderr: no carriage return, no line twice, none before the first run."""

    last = ""

    def write(self, text):
        line = text.strip()
        if line and line != self.last and not line.startswith("0 of"):
            self.last = line
            print(line, file=sys.stderr, flush=True)

    def flush(self):
        sys.stderr.flush()


def bar(total, quiet):
    """The bar for a job of so many runs; shown on stderr unless quiet."""
    if quiet or sys.stderr.isatty():
        runs = tqdm(total=total, unit="run", disable=quiet, dynamic_ncols=True, delay=1)
        threading.Thread(target=keep_moving, args=(runs,), daemon=True).start()
    else:
        runs = tqdm(
            total=total,
            file=Lines(),
            mininterval=SECONDS,
            maxinterval=SECONDS,
            miniters=1,
            bar_format="{n_fmt} of {total_fmt} runs in {elapsed}, {remaining} left{postfix}",
        )
    runs.best, runs.more = 0.0, None  # validation accuracy; results found after the first ones
    return runs


def keep_moving(runs):
    """Let the bar's clock tick while the runs in hand take their time."""
    ticks = threading.Event()
    while not ticks.wait(1) and not runs.disable and runs.n < runs.total:
        runs.refresh()


def found(runs, results):
    """Take results that were there already out of the bar's account, and say so: of the first ones at once."""
    if results:
        runs.total -= len(results)
        runs.leave = runs.total > 0
        runs.clear()
        if runs.more is not None:
            runs.more += len(results)
        else:
            runs.more = 0
            if not runs.disable:
                runs_are = "1 run is" if len(results) == 1 else f"{len(results)} runs are"
                print(f"{runs_are} in the results already (--fresh trains again)", flush=True)
        best(runs, results)


def close(runs):
    """End the bar, and say how many more results were there already."""
    if runs.more and not runs.disable:  # as it is once closed
        print(f"and {runs.more} more")
    runs.close()


def trained(runs, result):
    """Count one run more."""
    best(runs, [result])
    runs.update()


def best(runs, results):
    """Show the best validation accuracy so far."""
    runs.best = max([runs.best, *(result["val_accuracy"] for result in results)])
    runs.set_postfix_str(f"best validation {100 * runs.best:.2f} %", refresh=False)
