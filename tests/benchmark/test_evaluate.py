"""Kinds of anomaly that are measured apart, as MVTec LOCO AD asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.datasets import Category, DefectConfig, Sample
from benchmark.evaluate import Evaluation, image_figures, kinds_of_anomaly, overlap_figures, raw_maps
from benchmark.metrics import image_auroc

KINDS = ("logical_anomalies", "structural_anomalies")


@pytest.fixture
def category(tmp_path: Path) -> Category:
    """Four good parts, three with a logical and two with a structural defect; masks cover a known quarter."""
    samples = []
    for index, defect in enumerate(["good"] * 4 + [KINDS[0]] * 3 + [KINDS[1]] * 2):
        Image.new("RGB", (40, 20)).save(tmp_path / f"{index}.png")
        masks = ()
        if defect != "good":
            mask = np.zeros((20, 40), np.uint8)
            mask[:10, :20] = 200 + KINDS.index(defect)
            Image.fromarray(mask).save(tmp_path / f"{index}_mask.png")
            masks = (tmp_path / f"{index}_mask.png",)
        samples.append(Sample(tmp_path / f"{index}.png", int(defect != "good"), defect, masks))
    config = (DefectConfig("a", 200, 50, False), DefectConfig("b", 201, 1.0, True))
    return Category("mvtec_loco_ad", "pushpins", (), tuple(samples), defects_config=config)


def evaluation(scores: list[float], maps: torch.Tensor) -> Evaluation:
    papers = maps.repeat_interleave(48, 1).repeat_interleave(48, 2)
    return Evaluation(maps, maps, papers, torch.tensor(scores))


def test_each_kind_is_ranked_against_all_good_parts(category: Category) -> None:
    scores = [0.1, 0.2, 0.3, 0.4, 0.9, 0.9, 0.15, 0.8, 0.35]
    figures = image_figures(evaluation(scores, torch.rand(9, 4, 4)), category)
    logical = image_auroc([*scores[:4], *scores[4:7]], [0] * 4 + [1] * 3)
    structural = image_auroc([*scores[:4], *scores[7:]], [0] * 4 + [1] * 2)
    assert figures["image_auroc_logical"] == logical
    assert figures["image_auroc_structural"] == structural
    assert figures["image_auroc"] == pytest.approx((logical + structural) / 2)


def test_without_kinds_there_is_one_ranking(category: Category) -> None:
    plain = Category("mvtec_ad", "bottle", (), category.test)
    assert kinds_of_anomaly(plain) == {"": list(range(9))}
    scores = [0.1, 0.2, 0.3, 0.4, 0.9, 0.9, 0.15, 0.8, 0.35]
    figures = image_figures(evaluation(scores, torch.rand(9, 4, 4)), plain)
    assert figures["image_auroc"] == image_auroc(scores, [0] * 4 + [1] * 5)
    assert not [name for name in figures if "logical" in name]


def test_overlap_is_measured_per_kind_at_the_pictures_size(category: Category) -> None:
    maps = torch.zeros(9, 2, 4)
    maps[4:7, 0, :1] = 1.0  # half of the logical masks' width, which their saturation area of 50 pixels makes enough
    found = raw_maps(evaluation([0.0] * 9, maps), category)
    assert {m.shape for m in found} == {(20, 40)}
    exact = [np.where(np.arange(40) < 10, 1.0, 0.0) * (np.arange(20) < 10)[:, None] * (4 <= i < 7) for i in range(9)]
    figures = overlap_figures(exact, category)
    assert figures["au_spro_0.05_logical"] == 1.0
    # The structural defects are not found at all: their curve rises only with the straight line to (1, 1).
    assert figures["au_spro_0.05_structural"] == pytest.approx(0.025)
    assert figures["au_spro_0.05"] == pytest.approx((1.0 + 0.025) / 2)
