"""Rows of a run over many parts."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from ast_hf.errors import OutputError
from ast_hf.results import COLUMNS, RowWriter, csv_line, read_rows


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "a\r=1+1", "a\n=1"])
def test_a_file_name_is_no_formula(name: str) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_line({"image": name, "score": -0.5}), newline=""), COLUMNS)
    assert (row["image"], row["score"]) == (name if name.startswith("a") else f"'{name}", "-0.5")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_go_on_after_the_last_whole_one(kind: Literal["jsonl", "csv"], tmp_path: Path) -> None:
    def add(names: list[str]) -> Iterator[int]:
        for name in names:
            row = {"image": name, "regions": [{"area": 1}] * 20_000}
            RowWriter(kind, io.StringIO(), tmp_path, resume=True).add(row)
            yield path.stat().st_size

    path, names = tmp_path / f"results.{kind}", ['a "quoted"\nname', "b\n\n,", "c"]
    ends = list(add(names))
    whole = path.read_bytes()
    for cut in (0, 5, 50, *ends, ends[0] + 2, ends[0] + 15, ends[1] + 9, ends[2] - 1):
        path.write_bytes(whole[:cut])
        known = [row["image"] for row in read_rows(path)]
        assert known == names[: sum(end <= cut for end in ends)]
        list(add(names[len(known) :]))
        assert path.read_bytes() == whole


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", "no row\n"), ("a.jsonl", "[1]\n"), ("a.csv", "name\na\n")])
def test_a_file_of_something_else_is_not_gone_on_with(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OutputError, match="something else than rows"):
        list(read_rows(tmp_path / name))
    assert (tmp_path / name).read_text() == text
