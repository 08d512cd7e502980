"""Students of other builds learn what AST's own learns, and what was measured is not measured again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ast_hf import ASTDetectorConfig
from benchmark import students
from benchmark.students import Design, Result
from tests import tiny
from tests.benchmark.tiny_run import write_category, write_trunk


@pytest.mark.parametrize("kind", list(students.BLOCKS))
def test_every_kind_maps_features_to_the_teachers_output(kind: str) -> None:
    config = tiny.config()
    design = Design(16, 2, kind)
    student = design.student(config, seed=1).eval()
    x, condition = torch.randn(2, config.input_channels, 4, 4), torch.randn(2, config.position_channels, 4, 4)
    assert student(x, condition).shape == x.shape
    assert students.parameters(design, config) == sum(p.numel() for p in student.parameters())
    again = design.student(config, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(), strict=True))


def test_narrow_kinds_are_smaller() -> None:
    sizes = [students.parameters(Design(64, 4, kind), tiny.config()) for kind in students.BLOCKS]
    assert sizes == sorted(sizes, reverse=True)


def test_designs_are_read_from_the_command_line() -> None:
    assert Design.parse("256x4") == Design(256, 4, "plain")
    assert Design.parse("64x2-separable") == Design(64, 2, "separable")
    for text in ("256", "x4", "256x4-round", "-1x4"):
        with pytest.raises(argparse.ArgumentTypeError, match="WIDTHxBLOCKS"):
            Design.parse(text)


def test_the_command_measures_draws_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_category(tmp_path / "data" / "mvtec_ad" / "bottle")
    monkeypatch.setattr(ASTDetectorConfig, "preset", lambda name: tiny.config())
    command = ["--data-root", str(tmp_path / "data"), "--categories", "mvtec_ad/bottle", "--seeds", "0", "1"]
    command += ["--epochs", "2", "--device", "cpu", "--output", str(tmp_path / "out")]
    weights = ["--backbone-weights", str(write_trunk(tmp_path))]
    assert students.main([*command, *weights, "--designs", "8x1", "8x1-separable"]) == 0
    kept = json.loads((tmp_path / "out" / "students.json").read_text())
    assert [(r["seed"], r["design"]["kind"]) for r in kept["results"]] == [
        (0, "plain"), (0, "separable"), (1, "plain"), (1, "separable"),
    ]  # fmt: skip
    assert all(0 <= r["image_auroc"] <= 1 for r in kept["results"]) and len(kept["milliseconds"]) == 2
    assert "8 x 1 separable" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "students.png") as drawn:
        assert drawn.width > 400
    monkeypatch.setattr(students, "fit_teacher", lambda *args: pytest.fail("measured again"))
    assert students.main([*command, *weights, "--designs", "8x1", "8x1-separable"]) == 0
    assert json.loads((tmp_path / "out" / "students.json").read_text())["results"] == kept["results"]


def test_figures_over_seeds() -> None:
    design = Design(8, 1, "plain")
    results = [Result(design, "a", seed, 12, auroc) for seed, auroc in enumerate((0.9, 1.0))]
    assert students.mean_and_deviation(results, design, "a") == (pytest.approx(95), pytest.approx(5))
    assert students.mean_and_deviation(results, design, "b") is None
