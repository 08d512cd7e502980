from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ast_hf import ASTDetector
from ast_hf.demo import batch
from ast_hf.demo.models import Detectors
from ast_hf.demo.uploads import Upload
from tests import tiny


def uploads(folder: Path) -> list[Upload]:
    """Five pictures, the last one with a defect, and a file that is none in their middle."""
    found = []
    for i in range(5):
        tiny.picture(i, defect=i == 4).save(folder / f"{i}.png")
        found.append(Upload(f"{i}.png", folder / f"{i}.png"))
    (folder / "=cmd.png").write_text("no picture")
    return [*found[:2], Upload("=cmd.png", folder / "=cmd.png"), *found[2:]]


@pytest.mark.usefixtures("stored")
def test_rows_grow_and_a_bad_file_costs_itself_alone(tmp_path: Path) -> None:
    parts = uploads(tmp_path)
    steps = list(batch.run(Detectors(), "plate", "plate", parts, 0.05, tmp_path))
    assert [len(rows) for rows in steps] == [4, 6]
    rows = steps[-1]
    assert [row.values["image"] for row in rows] == [part.name for part in parts]
    model = ASTDetector.from_pretrained("plate")
    expected = [model.predict(part.path).score for part in parts if part.name != "=cmd.png"]
    assert [row.values["score"] for row in rows if row.overlay] == pytest.approx(expected, rel=1e-4)
    assert rows[2].overlay is None and rows[2].cells[1].startswith("Not read: this is not a picture")
    assert all(row.overlay.is_file() for row in rows if row.overlay)


@pytest.mark.usefixtures("stored")
def test_the_table_has_the_worst_first_and_no_formulas(tmp_path: Path) -> None:
    *_, rows = batch.run(Detectors(), "plate", "plate", uploads(tmp_path), 0.05, tmp_path)
    best = batch.by_score(rows)
    ratios = [row.ratio for row in best]
    assert ratios == sorted(ratios, reverse=True) and best[-1].values["image"] == "=cmd.png"
    batch.write_csv(best, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["image"] for line in lines[:-1]] == [row.values["image"] for row in best[:-1]]
    assert lines[-1]["image"] == "'=cmd.png" and lines[-1]["error"] and not lines[-1]["score"]
    assert float(lines[0]["score"]) == best[0].values["score"]
    assert json.loads(lines[0]["regions"]) == best[0].values["regions"]
