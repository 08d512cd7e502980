"""The detectors that come with the package: they load without a Hub, tell their examples apart, and are small."""

from pathlib import Path

import pytest
import torch

import ast_hf
from ast_hf import ASTDetector, ASTDetectorConfig, TrainingRecipe, from_pretrained
from ast_hf.hub import available_checkpoints
from benchmark import embedded
from benchmark.embedded import DEMONSTRATIONS, Demonstration

ASSETS = Path(ast_hf.__file__).parent / "assets"


@pytest.fixture(autouse=True)
def cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Hub, no local store."""
    monkeypatch.setenv("AST_HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_assets_are_small() -> None:
    sizes = {path.relative_to(ASSETS): path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()}
    assert sizes[Path("ast-tiny.safetensors")] <= 8e6
    assert sum(size for path, size in sizes.items() if path.suffix == ".safetensors") <= 15e6


@pytest.mark.parametrize("demonstration", DEMONSTRATIONS, ids=lambda d: d.category)
def test_its_examples_lie_on_either_side_of_the_threshold(demonstration: Demonstration) -> None:
    assert demonstration.name in available_checkpoints()
    model = from_pretrained(demonstration.name, device="cpu")
    examples = ASSETS / "examples"
    verdicts = []
    for kind in ("good", demonstration.defect):
        scan = examples / f"{demonstration.category}_{kind}.tiff"
        picture = examples / f"{demonstration.category}_{kind}.png"
        verdicts.append(model.predict(picture, scan if model.config.uses_depth else None).is_anomalous)
    assert verdicts == [False, True]


def test_the_same_command_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_TRAIN", 10)
    monkeypatch.setattr(embedded, "_HELD_OUT", 4)
    monkeypatch.setattr(embedded, "_RECIPE", TrainingRecipe(epochs=1))
    for name in ("first", "second"):
        embedded.make_detector(DEMONSTRATIONS[0]).save_pretrained(tmp_path / name, include_backbone=False)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_the_trunk_is_not_random_and_loads_by_name() -> None:
    trained = ASTDetector(ASTDetectorConfig.preset("compact"), backbone_weights="pretrained").backbone
    assert trained is not None
    loud = trained(torch.rand(1, 3, 384, 384)).std()
    assert 0.05 < loud < 20
