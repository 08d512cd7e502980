"""Rows of a run over many parts."""

import csv
import io

import pytest

from ast_hf.results import COLUMNS, csv_line


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "a\r=1+1", "a\n=1"])
def test_a_file_name_is_no_formula(name: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_line({"image": name, "score": -0.5}), newline=""), COLUMNS)
    assert (row["image"], row["score"]) == (name if name.startswith("a") else f"'{name}", "-0.5")
