"""Large pictures in tiles, and a region of interest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ast_hf import ASTDetector, ConfigError, ImageReadError, TrainingRecipe, train
from ast_hf.export import export_onnx
from ast_hf.training import fit, trainer
from ast_hf.training.features import PreparedSamples
from ast_hf.training.steps import GradientStep
from tests import tiny

NO_FILES = {"backbone_weights": None, "cache_folder": False}


def test_tiles_give_the_features_that_each_has_beside_its_neighbours() -> None:
    lite = {"backbone": "tf_efficientnet_lite0", "backbone_layer": "blocks.2", "feature_channels": 40}
    whole, tiled = tiny.detector(image_size=128, **lite), tiny.detector(image_size=(64, 32), tiles=(2, 4), **lite)
    tiled.load_state_dict(whole.state_dict())
    assert whole.map_size == tiled.map_size == (16, 16)
    picture = torch.randn(2, 3, 128, 128)
    # What a cell of this layer sees is less than the margin; at the picture's borders the padding differs.
    ours, theirs = (network.extract_features(picture)[..., 6:10, 6:10] for network in (tiled, whole))
    torch.testing.assert_close(ours, theirs)


def test_training_on_crops_gives_a_map_of_the_whole() -> None:
    config = tiny.config(tiles=(1, 2), local_channels=(8, 8))
    detector = train(config, [np.asarray(tiny.picture(i, (160, 80))) for i in range(12)], tiny.RECIPE, **NO_FILES)
    prediction = detector.predict(tiny.picture(0, (160, 80)))
    assert prediction.cells.shape == (4, 8) and prediction.anomaly_map.shape == (80, 160)


@pytest.mark.parametrize(("tiles", "steps"), [((1, 1), 2), ((1, 2), 4), ((3, 2), 12)])
def test_an_epoch_has_as_many_crops_of_each_picture_as_there_are_tiles(
    tiles: tuple[int, int], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    class Counted(GradientStep):
        def __call__(self, *batch: torch.Tensor | None) -> torch.Tensor:
            shapes.append(tuple(batch[0].shape))
            return super().__call__(*batch)

    monkeypatch.setattr(trainer, "GradientStep", Counted)
    network = tiny.detector(tiles=tiles)
    fit(network, PreparedSamples(torch.randn(16, 48, *network.map_size), None), TrainingRecipe(epochs=1))
    assert shapes == [(8, 48, 4, 4)] * 2 * steps  # of teacher and student


def test_tiles_are_for_pictures_and_have_a_limit() -> None:
    with pytest.raises(ConfigError, match="height maps"):
        tiny.config("rgb+depth", tiles=(2, 2))
    with pytest.raises(ConfigError, match="16384"):
        tiny.config(image_size=4096, tiles=(5, 1))


@pytest.mark.parametrize("modality", ["rgb", "rgb+depth"])
def test_what_lies_outside_of_the_region_has_no_say(modality: str, tmp_path: Path) -> None:
    region = np.zeros((60, 80), dtype=bool)
    region[:, :40] = True
    Image.fromarray(region).save(tmp_path / "region.png")
    pictures, scans = ([make(i) for i in range(12)] for make in (tiny.picture, tiny.scan))
    points = scans if modality == "rgb+depth" else None
    trained = train(
        tiny.config(modality), pictures, tiny.RECIPE, points=points, region=tmp_path / "region.png", **NO_FILES
    )
    trained.save_pretrained(tmp_path / "model")
    detector = ASTDetector.from_pretrained(tmp_path / "model", device="cpu")
    good, scan = tiny.picture(50), None if points is None else scans[0]
    outside, inside = good.copy(), good.copy()
    outside.paste((0, 0, 0), (50, 10, 75, 50))
    inside.paste((0, 0, 0), (5, 10, 30, 50))
    scores = [detector.predict(picture, scan).score for picture in (good, outside, inside)]
    assert scores[0] == scores[1] != scores[2]
    assert not detector.predict(good, scan).cells[:, 2:].any()
    if modality == "rgb":
        export_onnx(detector, tmp_path / "model.onnx")  # compares the two


def test_a_region_without_white_is_refused() -> None:
    with pytest.raises(ImageReadError, match="nothing white"):
        train(
            tiny.config(),
            [tiny.picture(i) for i in range(12)],
            tiny.RECIPE,
            region=np.zeros((60, 80), bool),
            **NO_FILES,
        )
