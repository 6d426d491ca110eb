"""Files that are written whole, and tables as Markdown, CSV and LaTeX."""

import csv
import io
import os
import platform

import numpy as np


def write(path, content):
    """Write content (text or bytes) to path, whole or not at all. Raises OSError."""
    scratch = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.scratch")
    try:
        scratch.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def summary(values):
    """Mean, standard deviation (divided by n - 1; nan for one value) and number of values."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else np.nan, len(values)


def percent(results, key):
    """The summary of results[...][key], in percent."""
    return summary([100 * result[key] for result in results])


def cell(value):
    """A cell as text: a summary as mean ± sd (n), a number with four digits."""
    if not isinstance(value, tuple):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    mean, sd, n = value
    return f"{mean:.2f} ({n})" if n == 1 else f"{mean:.2f} ± {sd:.2f} ({n})"


def markdown(rows):
    """A Markdown table of rows, dicts with the same keys, in aligned columns."""
    cells = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def latex(rows):
    """The same table as a LaTeX tabular; it needs the package booktabs."""
    escapes = {"<": "$<$", ">": "$>$", "~": r"$\sim$", "±": r"$\pm$", "^": r"\^{}", "\\": r"\textbackslash{}"}
    escapes |= {c: f"\\{c}" for c in "&%$#_{}"}
    cells = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    head, *lines = (" & ".join(text.translate(str.maketrans(escapes)) for text in line) + r" \\" for line in cells)
    body = "\n".join(lines)
    return f"\\begin{{tabular}}{{{'l' * len(rows[0])}}}\n\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def comma_separated(rows):
    """CSV of rows, dicts with the same keys. A summary becomes three columns, such as test, test_sd and test_n."""
    flat = []
    for row in rows:
        flat.append({})
        for key, value in row.items():
            parts = zip(("", "_sd", "_n"), value) if isinstance(value, tuple) else [("", value)]
            flat[-1] |= {key + suffix: part for suffix, part in parts}
    text = io.StringIO()
    table = csv.DictWriter(text, dict.fromkeys(key for row in flat for key in row), restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(flat)
    return text.getvalue()


def write_table(path, rows):
    """Write rows, dicts with the same keys, to path.md, path.csv and path.tex. Returns the Markdown. Raises OSError."""
    for suffix, text in ((".md", markdown(rows)), (".csv", comma_separated(rows)), (".tex", latex(rows))):
        write(path.with_name(path.name + suffix), text)
    return markdown(rows)
