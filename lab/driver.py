"""The frame of a driver: train or read results, write and print the tables, draw the figures."""

import os
import sys

from lab import data, plots, settings, statistics, store, tables, tuning
from lab.settings import HOME, UserError


def drive(name, doc, train, report, figures, dataset="cifar10", seeds=1, others=None):
    """Run an experiment from the command line.

    name: of its files. doc: the driver's docstring. dataset: the one that the experiment is made for. seeds: how
    many it has by default.
    train(raw, opts) -> results {row name: [result, ...]}, see workers.train.
    report(results, published) -> {table name: rows}; published: the published results, or {} if none are comparable.
    figures(results) -> {figure name: function that returns the figure}.
    others {option: (train, report, figures)}: further experiments of the driver, whose files are called name_option.
    """
    opts = settings.options(doc, list(data.DATASETS), dataset, seeds=seeds, others=others or ())
    if opts.experiment:
        name, (train, report, figures) = f"{name}_{opts.experiment}", others[opts.experiment]
    run_experiment(name, opts, train, report, figures)


def run_experiment(name, opts, train, report, figures):
    """Run an experiment with opts from settings.options. The other arguments: see drive. Returns its results."""
    raw = open_data(opts) if opts.figures is None else None
    label = (raw["name"] if raw else opts.dataset or opts.made_for) + "-smoke" * opts.smoke
    opts.store = opts.out / "results" / label
    folders = {kind: settings.output_folder(opts, kind, label) for kind in ("results", "figures")}
    path = folders["results"] / name
    if raw:
        results = train_all(train, raw, opts, path)
        store.write_runs(path, results)  # not read back: another driver may have written its own in between
    else:
        results = store.read_runs(path)
    if not opts.figures:
        write_tables(report(results, published_results(name, results, opts)), results, folders["results"])
    draw_figures(figures(results), opts, folders["figures"])
    if not opts.quiet:
        places = {kind: os.path.relpath(folder) for kind, folder in folders.items()}
        print(f"\ntables in {places['results']}, figures in {places['figures']}")
    return results


def open_data(opts):
    """Load the dataset, or a synthetic one, with a clear message, if none was asked for and the driver's own is unavailable."""
    name = opts.dataset or opts.made_for
    try:
        raw = data.load(name, opts.data_dir, opts.smoke)
    except data.Unavailable as error:
        if opts.dataset or opts.publish:
            raise
        fallback = data.FALLBACK[name]
        raw = data.load(fallback, small=opts.smoke)
        print(f"{error}\nSo everything below is on the built-in synthetic set '{fallback}', NOT on {name}.", file=sys.stderr)
    if opts.smoke:
        raw["title"], raw["files"] = f"{raw['title']}, smoke test", f"a small part: {raw['files']}"
    if raw["note"]:
        if opts.publish:
            raise UserError(f"these results are not published: {raw['note']}")
        print(f"Note: {raw['note']}.", file=sys.stderr)
    return raw


def train_all(train, raw, opts, path):
    """Prepare the folders and train. Raises UserError if published results would be replaced by ones of fewer seeds."""
    if opts.publish and path.with_name(f"{path.name}_runs.csv").exists():
        used = {result["seed"] for of_row in store.read_runs(path).values() for result in of_row}
        seeds = max(seed for seed in used if seed < tuning.TRIAL_SEED) + 1
        if opts.seeds < seeds:
            raise UserError(f"the published results have {seeds} seeds, not {opts.seeds}; use --seeds {seeds} or more")
    for folder in (opts.store / "runs", opts.store / "models"):
        folder.mkdir(parents=True, exist_ok=True)
    if not opts.quiet:
        images = f"{len(raw['labels'])} training and {len(raw['test_labels'])} test images"
        where = f"cluster {opts.cluster}" if opts.cluster else f"{opts.jobs} job(s)"
        print(f"{raw['title']}: {images}, {opts.seeds} seed(s), {where}", flush=True)
    try:
        return train(raw, opts)
    except KeyboardInterrupt:
        again = "the same command without --fresh" if opts.fresh else "the same command"
        raise KeyboardInterrupt(f"; the finished runs are kept, and {again} continues where it stopped") from None


def published_results(name, results, opts):
    """Return the published results, if they exist and are of the same whole data as a user's results; else {}."""
    path = HOME / "results" / "published" / name
    about = next(iter(results.values()))[0]["data"]
    same = about["name"] == opts.made_for and not about["note"]
    if opts.publish or opts.smoke or not same or not path.with_name(f"{name}_runs.csv").exists():
        return {}
    return store.read_runs(path)


def write_tables(named, results, folder):
    """Write each of the named tables and print it, with its name above, or if it has accuracies, the dataset's title and note."""
    about = next(iter(results.values()))[0]["data"]
    title = about["title"] + f" ({about['note']})" * bool(about["note"])
    for name, rows in named.items():
        summaries = any(isinstance(cell, tuple) for cell in rows[0].values())
        head = f"{title}; accuracies in %: mean ± sd (number of seeds)" if summaries else name.replace("_", " ")
        print(f"\n{head}\n\n{tables.write_table(folder / name, rows)}", end="")


def draw_figures(named, opts, folder):
    """Draw the named figures that opts asks for, by default all. Raises UserError for an unknown name."""
    unknown = [name for name in opts.figures or [] if name not in named]
    if unknown:
        raise UserError(f"there is no figure {unknown[0]!r}; there are {', '.join(named)}")
    for name in opts.figures or named:
        plots.save(named[name](), folder / f"{name}.{opts.format}")


def reported(row, results):
    """Return what documents report for a row.

    It is {} if the results have another config than the row, or were not trained on the whole official data.
    """
    whole = results[0]["data"]["files"] in ("official", "same images in another order")
    return row["reported"] if whole and results[0]["config"] == row["config"] else {}


def accuracies(rows, results, published):
    """Return an accuracy table: for each of rows its validation and test accuracy, the published test accuracy if there is one,
    and what documents report for the row, if the results are of its own config and of official data."""
    settings = any(row["setting"] for row in rows)
    documents = dict.fromkeys(document for row in rows for document in row["reported"])
    table = []
    for row in rows:
        mine = results[row["name"]]
        line = {"network": row["name"]} | ({"setting": row["setting"]} if settings else {})
        line |= {"validation": tables.percent(mine, "val_accuracy"), "test": tables.percent(mine, "test_accuracy")}
        if published:
            line["published test"] = tables.percent(published[row["name"]], "test_accuracy") if row["name"] in published else ""
        table.append(line | {document: reported(row, mine).get(document, "") for document in documents})
    return table


def gains(pairs, results):
    """Return a table of what rows gain over others on the test set, paired by seed. pairs: names of rows (network, against)."""
    return [{"network": network, "against": against,
             "gain, 95 % interval": statistics.text(statistics.paired(results[against], results[network]))}
            for network, against in pairs]  # fmt: skip
