"""What every script writes its results with: whole files, Markdown tables, CSV."""

import contextlib
import csv
import io
import os
import platform
import time


def write(path, content):
    """Write content, text or bytes, to path whole or not at all. Raises OSError."""
    scratch = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.scratch")
    try:
        scratch.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def clear_scratch(folder, age=600):
    """Remove what a process that was killed in write left in folder more than age seconds ago."""
    for scratch in folder.glob(".*.scratch"):
        with contextlib.suppress(FileNotFoundError):  # another driver may have just made it whole
            if time.time() - scratch.stat().st_mtime > age:
                scratch.unlink()


def markdown(cells):
    """A Markdown table of rows of text, the first of them its head, with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def comma_separated(rows):
    """CSV of rows, dicts with the same keys, with these as its head."""
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
