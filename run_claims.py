"""Every number that the five documents print and every claim that they make, like for like, with an interval and a verdict.

    python run_claims.py                     all parts, about six hours on 2 cores
    python run_claims.py --student           one part: --student, --assignment, --maps, --fashion, --cs231n or --mnist

Each part trains what is missing in the setting of its document: the student report in the one that its public code tells.
A printed number is compared with the 95 % prediction interval of one further run; a claim gets its verdict from its primary
effect, by the rule of lab/statistics.py. The tables numbers and claims are made from all parts that have results.
"""
from types import SimpleNamespace

from claims import assignment, common, cs231n, fashion, maps, mnist, student
from lab import data, driver, settings, store, tables

PARTS = {"student": student, "assignment": assignment, "maps": maps, "fashion": fashion, "cs231n": cs231n, "mnist": mnist}


def report(part):
    """The report of a part, as driver.drive takes it: its own tables."""
    return lambda results, published: part.tables_of(results)


def summarise(results, opts):
    """Write and print the tables numbers and claims of the parts in results, {part: results}."""
    own = all(next(iter(found.values()))[0]["data"]["name"] == PARTS[name].DATASET for name, found in results.items())
    label = "claims" + "-other-data" * (not own) + "-smoke" * opts.smoke
    folder = settings.output_folder(opts, "results", label)
    missing = [name for name in PARTS if name not in results]
    if missing:
        print(f"\nparts without results, which are left out below: {', '.join(missing)}")
    lines = {"numbers": [line for name in results for line in PARTS[name].numbers(results[name])],
             "claims": common.verdicts([claim for name in results for claim in PARTS[name].claims(results[name])])}
    for name, rows in lines.items():
        if rows:
            print(f"\n{name}\n\n{tables.write_table(folder / name, rows)}", end="")
    compared = [line["printed number"] for line in lines["numbers"] if line["printed number"] in ("inside", "outside")]
    if compared:
        print(f"\n{compared.count('inside')} of {len(compared)} printed numbers are inside; by chance about 1 in 20 is not")


def stored(name, opts):
    """The results of a part from an earlier run on the dataset of opts, by default its own, or None."""
    label = "published" if opts.publish else (opts.dataset or PARTS[name].DATASET) + "-smoke" * opts.smoke
    path = opts.out / "results" / label / f"claims_{name}"
    return store.read_runs(path) if path.with_name(f"{path.name}_runs.csv").exists() else None


def main():
    opts = settings.options(__doc__, list(data.DATASETS), seeds=10, others=PARTS)
    if opts.smoke:
        opts.seeds = min(2, opts.seeds)
    if opts.figures and not opts.experiment:
        raise settings.UserError(f"--figures {opts.figures[0]} needs the part that has it, such as --student")
    names, results = [opts.experiment] if opts.experiment else list(PARTS), {}
    if opts.figures is not None and not opts.experiment:
        names = [name for name in PARTS if stored(name, opts)] or names
    for name in names:
        part, own = PARTS[name], SimpleNamespace(**vars(opts) | {"made_for": PARTS[name].DATASET})
        if not (opts.quiet or opts.smoke) and opts.figures is None:
            print(f"\n{name}: {part.TIME}", flush=True)
        results[name] = driver.run_experiment(f"claims_{name}", own, part.train, report(part), part.figures)
    for name in PARTS:
        if name not in results and (found := stored(name, opts)):
            results[name] = found
    summarise({name: results[name] for name in PARTS if name in results}, opts)


if __name__ == "__main__":
    settings.run_main(main)
