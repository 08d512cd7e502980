"""What a detector keeps of its training set's cameras and scanners, and what it then refuses."""

from pathlib import Path

import numpy as np
import pytest

from ast_hf import ASTDetector, ImageReadError, TrainingRecipe, train
from ast_hf.data import Sample
from ast_hf.training.fitting import fit_config
from tests import tiny

RECIPE = TrainingRecipe(epochs=1)
LEVELS = [np.asarray(tiny.picture(seed)).astype(np.uint16) for seed in range(12)]
PICTURES = [levels << 4 for levels in LEVELS]  # 12 bits


def test_the_bits_of_the_training_set_go_with_the_detector(tmp_path: Path) -> None:
    trained = train(tiny.config(), PICTURES, RECIPE, "cpu", backbone_weights=None, cache_folder=tmp_path / "cache")
    trained.save_pretrained(tmp_path / "saved")
    detector = ASTDetector.from_pretrained(tmp_path / "saved", device="cpu")
    assert detector.config.image_bits == 12
    scores = [detector.predict(picture).score for picture in (PICTURES[0], LEVELS[0].astype(np.uint8))]
    assert scores[0] == scores[1] == trained.predict(PICTURES[0]).score
    with pytest.raises(ImageReadError, match=r"has 14 bits a colour .* have 12"):
        detector.predict(PICTURES[0] * 4)


@pytest.mark.parametrize(
    ("pictures", "given", "bits"),
    [
        (PICTURES, None, 12),
        ([*PICTURES, PICTURES[0] >> 2, LEVELS[0].astype(np.uint8)], None, 12),
        ([PICTURES[0] >> 2, PICTURES[0] << 4], None, 16),
        ([tiny.picture(0)], None, None),
        (PICTURES, 14, 14),
    ],
)
def test_the_bits_hold_every_picture(pictures: list[np.ndarray], given: int | None, bits: int | None) -> None:
    samples = [Sample(picture) for picture in pictures]
    recipe = TrainingRecipe(keep_aspect=True)  # for which pictures are read
    assert fit_config(tiny.config(image_bits=given), samples, recipe).image_bits == bits


@pytest.mark.parametrize("modality", ["depth", "rgb+depth"])
def test_scans_elsewhere_are_refused(modality: str) -> None:
    config = tiny.config(modality)
    samples = tiny.samples(config, 12)
    detector = train(config, samples, RECIPE, "cpu", backbone_weights=None, cache_folder=False)
    assert detector.config.depth_range == pytest.approx((0.48, 0.5), abs=1e-3)
    image, points = samples[0].image, tiny.scan(0)
    with pytest.raises(ImageReadError, match="convert it to metres"):
        detector.predict(image, points * 1000)
    with pytest.raises(ImageReadError, match="same unit, direction and origin"):
        detector.predict(image, -points)
    points[:2] = -9999
    empty = np.where(points == -9999, 0, points)
    assert detector.predict(image, points).score == detector.predict(image, empty).score
    with pytest.raises(ImageReadError, match="convert it to metres"):
        train(config, [Sample(s.image, s.points * 1000) for s in samples], RECIPE, "cpu", backbone_weights=None)
