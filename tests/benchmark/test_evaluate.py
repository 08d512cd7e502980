"""Figures of a category: kinds of anomaly measured apart, as MVTec LOCO AD asks for, masks, and what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ast_hf.inference import Calibration
from ast_hf.metrics import image_auroc
from benchmark.datasets import Category, DefectConfig, LabelledSample
from benchmark.evaluate import IMAGE_AUROCS, Evaluation, image_figures, measure, overlap_figures, paper_mask
from benchmark.plots import choose

KINDS = ("logical_anomalies", "structural_anomalies")
SCORES = [0.1, 0.2, 0.3, 0.4, 0.9, 0.9, 0.15, 0.8, 0.35]


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
        label = int(defect != "good")
        samples.append(LabelledSample(tmp_path / f"{index}.png", label=label, defect=defect, masks=masks))
    config = (DefectConfig("a", 200, 50, False), DefectConfig("b", 201, 1.0, True))
    return Category("mvtec_loco_ad", "pushpins", (), tuple(samples), defects_config=config)


def evaluation(maps: torch.Tensor) -> Evaluation:
    papers = maps.repeat_interleave(48, 1).repeat_interleave(48, 2)
    return Evaluation(maps, papers, dict.fromkeys(IMAGE_AUROCS, torch.tensor(SCORES)))


def test_each_kind_is_ranked_against_all_good_parts(category: Category) -> None:
    figures = image_figures(evaluation(torch.rand(9, 4, 4)), category)
    logical = image_auroc(SCORES[:7], [0] * 4 + [1] * 3)
    structural = image_auroc([*SCORES[:4], *SCORES[7:]], [0] * 4 + [1] * 2)
    assert figures["image_auroc_logical"] == logical
    assert figures["image_auroc_structural"] == structural
    assert figures["image_auroc"] == pytest.approx((logical + structural) / 2)
    plain = image_figures(evaluation(torch.rand(9, 4, 4)), Category("mvtec_ad", "bottle", (), category.test))
    assert plain["image_auroc"] == image_auroc(SCORES, [0] * 4 + [1] * 5)
    assert not [name for name in plain if "logical" in name]


def test_overlap_is_measured_per_kind(category: Category) -> None:
    # Half of the logical masks' width, which their saturation area of 50 pixels makes enough.
    maps = [np.where(np.arange(40) < 10, 1.0, 0.0) * (np.arange(20) < 10)[:, None] * (4 <= i < 7) for i in range(9)]
    figures = overlap_figures(maps, category)
    assert figures["au_spro_0.05_logical"] == 1.0
    # The structural defects are not found at all: their curve rises only with the straight line to (1, 1).
    assert figures["au_spro_0.05_structural"] == pytest.approx(0.025)
    assert figures["au_spro_0.05"] == pytest.approx((1.0 + 0.025) / 2)


def test_all_figures_of_a_category_are_at_the_pictures_size(category: Category) -> None:
    maps = torch.zeros(9, 4, 4)
    maps[4:, :2, :2] = 1.0  # where the masks are
    figures = measure(evaluation(maps), Calibration((0.25, 0.3, 0.32), (1.0,), 0.25), category)
    assert figures["pixel_auroc"] > 0.99
    assert 0.95 < figures["pixel_auroc_paper"] < figures["pixel_auroc"]  # those masks are enlarged
    assert figures["au_pro_0.3"] > 0.95
    assert (figures["calibration_parts"], figures["target_false_positive_rate"]) == (3, 0.25)
    assert figures["false_positive_rate"] == 1 / 4  # 0.4 is above 0.32
    assert figures["recall"] == 4 / 5
    assert {"au_spro_0.05", "au_spro_0.3_logical", "image_ap", "teacher_image_auroc_max"} <= figures.keys()


def test_paper_mask_enlarges() -> None:
    mask = np.zeros((384, 384), bool)
    mask[100, 100] = True
    assert paper_mask(mask).shape == (192, 192)
    assert paper_mask(mask).sum() == 1
    assert paper_mask(np.ones((100, 50), bool)).all()
    one = np.zeros((96, 96), bool)
    one[48, 48] = True
    assert paper_mask(one).sum() == 16  # bilinear upsampling spreads one pixel over 4 x 4


def test_choose_takes_each_kind_in_turn() -> None:
    kinds = ["good"] * 5 + ["a"] * 6 + ["b"] * 2
    samples = [LabelledSample(Path(str(i)), label=int(kind != "good"), defect=kind) for i, kind in enumerate(kinds)]
    assert choose(samples, defects=4, good=2) == [5, 11, 10, 12, 0, 4]
