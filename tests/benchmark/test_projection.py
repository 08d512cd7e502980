"""From the pace of a few steps to the hours of a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ast_hf import ASTDetectorConfig, TrainingRecipe
from benchmark import projection
from benchmark.plan import official_datasets
from benchmark.projection import PARTS, Pace, Projection, main, measure, project
from tests import tiny


def test_every_dataset_of_all_is_counted() -> None:
    assert set(PARTS) == set(official_datasets())


def test_hours_are_those_of_all_parts_and_steps() -> None:
    hours = project("mvtec_ad", "rgb", TrainingRecipe(epochs=240, batch_size=8), Pace(part=1, step=10, test_part=2))
    assert hours.jobs == 15
    assert hours.features == pytest.approx((3629 + 1725) / 3600)
    assert hours.training == pytest.approx(10 * 240 * 3629 / 8 / 3600)
    assert hours.evaluation == pytest.approx(2 * 1725 / 3600)
    assert hours.total == hours.features + hours.training + hours.evaluation


@pytest.mark.parametrize("modality", ["rgb", "depth", "rgb+depth"])
def test_paces_are_measured_in_every_modality(modality: str) -> None:
    config = tiny.config(modality=modality)
    pace = measure(config, TrainingRecipe(batch_size=2, precision="fp32"), torch.device("cpu"))
    assert pace.part > 0 and pace.test_part > 0


def test_the_command_prints_and_keeps_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[ASTDetectorConfig] = []
    monkeypatch.setattr(projection, "measure", lambda config, *_: measured.append(config) or Pace(0.1, 0.5, 0.2))
    assert main(["--device", "cpu", "--output", str(tmp_path / "hours.json")]) == 0
    assert len(measured) == len(set(measured)) == 5  # MVTec AD, LOCO and VisA share one
    printed, kept = capsys.readouterr().out, json.loads((tmp_path / "hours.json").read_text())
    assert all(name in printed for name in PARTS)
    by_modality = [(row["dataset"], row["modality"]) for row in kept["hours"]]
    assert ("mvtec_3d_ad", "rgb+depth") in by_modality and len(by_modality) == 7
    row = Projection(**{k: v for k, v in kept["hours"][0].items() if k != "total"})
    assert row.total == kept["hours"][0]["total"]
