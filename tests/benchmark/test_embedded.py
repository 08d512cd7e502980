"""The detectors that come with the package: they load without a Hub, tell their examples apart, and are small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ast_hf
from ast_hf import ASTDetector, ASTDetectorConfig, from_pretrained
from ast_hf.hub import available_checkpoints
from benchmark.embedded import DEMONSTRATIONS, Demonstration, make_detector, measure

ASSETS = Path(ast_hf.__file__).parent / "assets"


def test_assets_are_small() -> None:
    sizes = {path.relative_to(ASSETS): path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()}
    weights = [size for path, size in sizes.items() if path.suffix == ".safetensors"]
    assert len(weights) == 4 and max(weights) <= 6e6
    # The bottles' licence is not the package's.
    assert Path("checkpoints/ast-mvtec-bottle/LICENSE") in sizes


@pytest.mark.parametrize("demonstration", DEMONSTRATIONS, ids=lambda d: d.category)
def test_its_examples_lie_on_either_side_of_the_threshold(demonstration: Demonstration) -> None:
    assert demonstration.name in available_checkpoints()
    model = from_pretrained(demonstration.name, device="cpu")
    verdicts = []
    for kind in ("good", demonstration.defect):
        example = ASSETS / "examples" / f"{demonstration.category}_{kind}.png"
        scan = example.with_suffix(".tiff") if model.config.uses_depth else None
        verdicts.append(model.predict(example, scan).is_anomalous)
    assert verdicts == [False, True]


@pytest.mark.slow
def test_the_embedded_detectors_are_as_good_as_they_were() -> None:
    auroc, false_alarms, recall = measure(from_pretrained("demo-tire", device="cpu"), DEMONSTRATIONS[2])
    assert auroc > 0.9
    assert false_alarms < 0.15
    assert recall > 0.8


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        make_detector(DEMONSTRATIONS[0], train=8, held_out=3).save_pretrained(tmp_path / name, include_backbone=False)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_the_trunk_is_not_random_and_loads_by_name() -> None:
    trained = ASTDetector(ASTDetectorConfig.preset("compact"), backbone_weights="pretrained").backbone
    assert trained is not None
    assert 0.05 < trained(torch.rand(1, 3, 384, 384)).std() < 20
