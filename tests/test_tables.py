"""Files are written whole or not at all; tables show means and standard deviations, the same in every format."""

import csv
import os

import numpy as np
import pytest

from lab import tables

ROWS = [{"network": "a & b_1", "test": (51.0, 1.41421, 2), "note": "~52 %", "lambda": 0.00123456},
        {"network": "9-layer", "test": (10.0, np.nan, 1), "note": ">", "lambda": 1e-7}]  # fmt: skip


def test_write_replaces_the_whole_file_or_leaves_it(tmp_path, monkeypatch):
    path = tmp_path / "a"
    tables.write(path, "alt: ä")
    tables.write(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        tables.write(path, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and path.read_bytes() == b"old"


def test_summary_is_the_mean_and_the_deviation_divided_by_n_minus_1():
    mean, sd, n = tables.percent([{"a": 0.5}, {"a": 0.52}], "a")
    assert (round(mean, 9), round(sd, 9), n) == (51, round(2**0.5, 9), 2)
    mean, sd, n = tables.summary([3.0])
    assert (mean, n) == (3, 1) and np.isnan(sd)


def test_table_is_written_in_three_formats_with_full_precision_in_the_csv(tmp_path):
    markdown = tables.write_table(tmp_path / "x", ROWS)
    assert markdown == (
        "| network | test             | note  | lambda   |\n|---------|------------------|-------|----------|\n"
        "| a & b_1 | 51.00 ± 1.41 (2) | ~52 % | 0.001235 |\n| 9-layer | 10.00 (1)        | >     | 1e-07    |\n"
    )
    assert (tmp_path / "x.md").read_text(encoding="utf-8") == markdown
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["network", "test", "test_sd", "test_n", "note", "lambda"],
            ["a & b_1", "51.0", "1.41421", "2", "~52 %", "0.00123456"],
            ["9-layer", "10.0", "nan", "1", ">", "1e-07"],
        ]
    assert (tmp_path / "x.tex").read_text(encoding="utf-8") == (
        "\\begin{tabular}{llll}\n\\toprule\nnetwork & test & note & lambda \\\\\n\\midrule\n"
        "a \\& b\\_1 & 51.00 $\\pm$ 1.41 (2) & $\\sim$52 \\% & 0.001235 \\\\\n9-layer & 10.00 (1) & $>$ & 1e-07 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )
