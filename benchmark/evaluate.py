"""Figures of one trained detector on one category's test set, in two protocols that are never mixed.

"raw": maps and masks at the pictures' own resolution, as MVTec's evaluation code asks for. "paper": as AST's authors
evaluated, maps bicubic and masks bilinear (> 0, which enlarges them) at 192 x 192 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ast_hf.features import PreparedParts
from ast_hf.images import read_image, upsample_map
from ast_hf.model import ASTDetector
from ast_hf.scoring import image_score, nll_map
from benchmark.datasets import Category, Sample
from benchmark.datasets.mvtec_loco_ad import saturated_regions
from benchmark.metrics import average_precision, f1_max, image_auroc, pixel_auroc, segmentation_metrics, spro_curve

PAPER_SIZE = (192, 192)


@dataclass(frozen=True)
class Evaluation:
    """What a detector said about N test parts.

    Attributes:
        anomaly_maps: (N, h, w) at feature resolution, masked as in training.
        nll_maps: (N, h, w), the teacher's own negative log-likelihood.
        paper_maps: (N, 192, 192), the authors' evaluation: masked once more, then bicubic.
        scores: (N,), the detector's image scores.
    """

    anomaly_maps: Tensor
    nll_maps: Tensor
    paper_maps: Tensor
    scores: Tensor


@torch.inference_mode()
def score_parts(model: ASTDetector, parts: PreparedParts, batch_size: int = 16) -> Evaluation:
    """Runs teacher and student over prepared parts."""
    maps, nlls, papers, scores = [], [], [], []
    for rows in torch.arange(len(parts), device=parts.inputs.device).split(batch_size):
        output = model.compare(parts.inputs[rows], None if parts.foreground is None else parts.foreground[rows])
        mask = output.foreground
        maps.append(output.anomaly_map.cpu())
        nlls.append(nll_map(output.teacher_z, output.log_jac, mask).cpu())
        twice = output.anomaly_map if mask is None else output.anomaly_map * mask[:, 0]
        papers.append(upsample_map(twice, PAPER_SIZE).cpu())
        scores.append(output.score.cpu())
    return Evaluation(torch.cat(maps), torch.cat(nlls), torch.cat(papers), torch.cat(scores))


def image_figures(evaluation: Evaluation, category: Category) -> dict[str, float]:
    """Image-level figures: the detector's own score, the paper's mean and max, and the teacher alone.

    Where a dataset tells kinds of anomaly apart (MVTec LOCO AD: logical and structural), each kind is ranked against
    all good parts, and a figure is the mean over the kinds, as MVTec's evaluation code has it.
    """
    scores = {
        "image_auroc": evaluation.scores,
        "image_auroc_mean": image_score(evaluation.anomaly_maps, "mean"),
        "image_auroc_max": image_score(evaluation.paper_maps, "max"),
        "teacher_image_auroc_mean": image_score(evaluation.nll_maps, "mean"),
        "teacher_image_auroc_max": image_score(evaluation.nll_maps, "max"),
    }
    by_kind: dict[str, dict[str, float]] = {}
    for kind, rows in kinds_of_anomaly(category).items():
        labels = [category.test[row].label for row in rows]
        by_kind[kind] = {name: image_auroc(values[rows].numpy(), labels) for name, values in scores.items()}
        by_kind[kind]["image_ap"] = average_precision(evaluation.scores[rows].numpy(), labels)
        by_kind[kind]["image_f1_max"], _ = f1_max(evaluation.scores[rows].numpy(), labels)
    figures = _mean_of(by_kind)
    return figures | {f"image_auroc_{kind}": by_kind[kind]["image_auroc"] for kind in by_kind if kind}


def kinds_of_anomaly(category: Category) -> dict[str, list[int]]:
    """Rows of the test set to evaluate together: "logical" and "structural" with all good ones for LOCO, else all."""
    if not category.defects_config:
        return {"": list(range(len(category.test)))}
    kinds = {sample.defect for sample in category.test if sample.label}
    return {
        kind.removesuffix("_anomalies"): [i for i, s in enumerate(category.test) if not s.label or s.defect == kind]
        for kind in sorted(kinds)
    }


def raw_maps(evaluation: Evaluation, category: Category) -> list[np.ndarray]:
    """The anomaly maps (H, W) at the resolution of the test set's own pictures."""
    return [
        upsample_map(anomaly_map, read_image(sample.image).size[::-1]).numpy()
        for anomaly_map, sample in zip(evaluation.anomaly_maps, category.test, strict=True)
    ]


def pixel_figures(evaluation: Evaluation, maps: Sequence[np.ndarray], samples: Sequence[Sample]) -> dict[str, float]:
    """Pixel-level figures in both protocols.

    Args:
        evaluation: Of the test set.
        maps: Its `raw_maps`.
        samples: The test set.

    Raises:
        DatasetError: A mask does not fit its picture.
    """
    masks = [sample.mask(raw.shape) for sample, raw in zip(samples, maps, strict=True)]
    raw = segmentation_metrics(maps, masks, fpr_limits=(0.05, 0.3))
    return {
        "pixel_auroc_paper": pixel_auroc(list(evaluation.paper_maps.numpy()), [paper_mask(mask) for mask in masks]),
        "pixel_auroc": raw.pixel_auroc,
        "au_pro_0.3": raw.au_pro[0.3],
        "au_pro_0.05": raw.au_pro[0.05],
    }


def overlap_figures(maps: Sequence[np.ndarray], category: Category) -> dict[str, float]:
    """AU-sPRO of MVTec LOCO AD at two limits, for each kind of anomaly and their mean.

    Args:
        maps: The test set's `raw_maps`: saturation areas are pixels of the raw pictures.
        category: With its `defects_config`.

    Raises:
        DatasetError: A mask holds a value that the category's configuration does not know.
    """
    regions = [saturated_regions(sample, category.defects_config) for sample in category.test]
    by_kind: dict[str, dict[str, float]] = {}
    for kind, rows in kinds_of_anomaly(category).items():
        curve = spro_curve([maps[row] for row in rows], [regions[row] for row in rows])
        by_kind[kind] = {f"au_spro_{limit}": curve.area(limit) for limit in (0.05, 0.3)}
    of_kinds = {f"{name}_{kind}": value for kind, values in by_kind.items() for name, value in values.items()}
    return _mean_of(by_kind) | of_kinds


def _mean_of(by_kind: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Each figure's mean over the kinds of anomaly."""
    return {name: fmean(figures[name] for figures in by_kind.values()) for name in next(iter(by_kind.values()))}


def paper_mask(mask: np.ndarray) -> np.ndarray:
    """A raw mask (H, W) as the authors evaluate it: bilinear without antialiasing to 192 x 192, all above 0 set."""
    soft = torch.nn.functional.interpolate(
        torch.from_numpy(mask.astype(np.float32))[None, None], size=PAPER_SIZE, mode="bilinear", align_corners=False
    )
    return (soft[0, 0] > 0).numpy()


def decision_figures(model: ASTDetector, evaluation: Evaluation, samples: Sequence[Sample]) -> dict[str, Any]:
    """How the calibrated threshold does on the test set: false-positive rate on good parts, recall on defects."""
    if model.calibration is None:
        return {}
    anomalous = evaluation.scores.numpy() > model.calibration.threshold()
    defective = np.array([sample.label for sample in samples], dtype=bool)
    return {
        "calibration_parts": len(model.calibration.scores),
        "target_false_positive_rate": model.calibration.false_positive_rate,
        "false_positive_rate": float(anomalous[~defective].mean()),
        "recall": float(anomalous[defective].mean()),
    }
