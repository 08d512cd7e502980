"""Figures of one trained detector on one category's test set, in two protocols that are never mixed.

"raw": maps and masks at the pictures' own resolution, as MVTec's evaluation code asks for. "paper": as AST's authors
evaluated, maps bicubic and masks bilinear (> 0, which enlarges them) at 192 x 192 pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ast_hf import metrics
from ast_hf.config import Precision
from ast_hf.data.images import read_image
from ast_hf.data.transforms import upsample_map
from ast_hf.errors import DatasetError
from ast_hf.inference.calibration import Calibration
from ast_hf.nn.losses import image_score, nll_map
from ast_hf.nn.network import ASTNetwork
from ast_hf.nn.precision import autocast
from ast_hf.training.features import PreparedSamples
from benchmark.datasets import Category, DefectConfig, LabelledSample
from benchmark.datasets.base import displayed_size

PAPER_SIZE = (192, 192)
# Image scores and the names of their AUROCs: the detector's own, the paper's mean and max, and the teacher's alone.
IMAGE_AUROCS = {
    "score": "image_auroc",
    "mean": "image_auroc_mean",
    "max": "image_auroc_max",
    "teacher_mean": "teacher_image_auroc_mean",
    "teacher_max": "teacher_image_auroc_max",
}


@dataclass(frozen=True)
class Evaluation:
    anomaly_maps: Tensor  # (N, h, w) at feature resolution, masked as in training
    paper_maps: Tensor  # (N, 192, 192), the authors' evaluation: masked once more, then bicubic
    scores: Mapping[str, Tensor]  # (N,) each, by the keys of `IMAGE_AUROCS`


@torch.inference_mode()
def score_samples(network: ASTNetwork, samples: PreparedSamples, precision: Precision) -> Evaluation:
    """Runs teacher and student over prepared samples."""
    maps, papers, scores = [], [], []
    with autocast(network.device, precision):
        for rows in torch.arange(len(samples)).split(16):
            batch = samples.select(rows)
            output = network.score_inputs(batch.inputs, batch.mask)
            nll = nll_map(output.teacher_z, output.log_jac, output.mask)
            twice = output.anomaly_map if output.mask is None else output.anomaly_map * output.mask[:, 0]
            paper = upsample_map(twice, PAPER_SIZE)
            own = output.score, image_score(output.anomaly_map, "mean"), image_score(paper, "max")
            scores.append(torch.stack([*own, image_score(nll, "mean"), image_score(nll, "max")]).cpu())
            maps.append(output.anomaly_map.cpu())
            papers.append(paper.cpu())
    columns = torch.cat(scores, dim=1)
    return Evaluation(torch.cat(maps), torch.cat(papers), dict(zip(IMAGE_AUROCS, columns, strict=True)))


def measure(evaluation: Evaluation, calibration: Calibration | None, category: Category) -> dict[str, Any]:
    """All figures that the category allows: of images, of the calibrated threshold, of pixels, and LOCO AD's own.

    Raises a DatasetError where a mask does not fit its picture, or `saturated_regions` cannot tell what it marks.
    """
    figures = {**image_figures(evaluation, category), **decision_figures(evaluation, calibration, category)}
    if category.has_masks:
        sizes = [displayed_size(sample.image)[::-1] for sample in category.test]
        maps = [upsample_map(small, size).numpy() for small, size in zip(evaluation.anomaly_maps, sizes, strict=True)]
        figures |= pixel_figures(evaluation, maps, category)
        if category.defects_config:
            figures |= overlap_figures(maps, category)
    return figures


def image_figures(evaluation: Evaluation, category: Category) -> dict[str, float]:
    """Image-level figures: each kind of anomaly is ranked against all good parts, and a figure is the mean over kinds,
    as MVTec's evaluation code has it.
    """
    by_kind: dict[str, dict[str, float]] = {}
    for kind, rows in kinds_of_anomaly(category).items():
        labels = [category.test[row].label for row in rows]
        scores = {name: values[rows].numpy() for name, values in evaluation.scores.items()}
        by_kind[kind] = {IMAGE_AUROCS[name]: metrics.image_auroc(values, labels) for name, values in scores.items()}
        by_kind[kind]["image_ap"] = metrics.average_precision(scores["score"], labels)
        by_kind[kind]["image_f1_max"], _ = metrics.f1_max(scores["score"], labels)
    of_kinds = {f"image_auroc_{kind}": figures["image_auroc"] for kind, figures in by_kind.items() if kind}
    return _mean_of(by_kind) | of_kinds


def kinds_of_anomaly(category: Category) -> dict[str, list[int]]:
    """Rows of the test set to evaluate together: "logical" and "structural" with all good ones for LOCO, else all."""
    if not category.defects_config:
        return {"": list(range(len(category.test)))}
    kinds = sorted({sample.defect for sample in category.test if sample.label})
    rows = [[i for i, s in enumerate(category.test) if not s.label or s.defect == kind] for kind in kinds]
    return dict(zip([kind.removesuffix("_anomalies") for kind in kinds], rows, strict=True))


def decision_figures(evaluation: Evaluation, calibration: Calibration | None, category: Category) -> dict[str, Any]:
    """How the calibrated threshold does on the test set: false-positive rate on good parts, recall on defects."""
    if calibration is None:
        return {}
    anomalous = evaluation.scores["score"].numpy() > calibration.threshold()
    defective = np.array([sample.label for sample in category.test], dtype=bool)
    return {
        "calibration_parts": len(calibration.scores),
        "target_false_positive_rate": calibration.false_positive_rate,
        "false_positive_rate": float(anomalous[~defective].mean()),
        "recall": float(anomalous[defective].mean()),
    }


def pixel_figures(evaluation: Evaluation, maps: Sequence[np.ndarray], category: Category) -> dict[str, float]:
    """Pixel-level figures in both protocols; `maps` are (H, W), as large as the test set's pictures."""
    masks = [sample.mask(raw.shape) for sample, raw in zip(category.test, maps, strict=True)]
    small = [paper_mask(mask) for mask in masks]
    raw = metrics.segmentation_metrics(maps, masks, fpr_limits=(0.05, 0.3))
    return {
        "pixel_auroc_paper": metrics.pixel_auroc(list(evaluation.paper_maps.numpy()), small),
        "pixel_auroc": raw.pixel_auroc,
        "au_pro_0.3": raw.au_pro[0.3],
        "au_pro_0.05": raw.au_pro[0.05],
    }


def overlap_figures(maps: Sequence[np.ndarray], category: Category) -> dict[str, float]:
    """AU-sPRO of MVTec LOCO AD at two limits, for each kind of anomaly and their mean; maps as `pixel_figures`."""
    regions = [saturated_regions(sample, category.defects_config) for sample in category.test]
    by_kind: dict[str, dict[str, float]] = {}
    for kind, rows in kinds_of_anomaly(category).items():
        curve = metrics.spro_curve([maps[row] for row in rows], [regions[row] for row in rows])
        by_kind[kind] = {f"au_spro_{limit}": curve.area(limit) for limit in (0.05, 0.3)}
    of_kinds = {f"{name}_{kind}": value for kind, values in by_kind.items() for name, value in values.items()}
    return _mean_of(by_kind) | of_kinds


def saturated_regions(sample: LabelledSample, defects_config: Iterable[DefectConfig]) -> list[metrics.SaturatedRegion]:
    """The regions that AU-sPRO measures a part by, one a mask; none for a good part or a blank mask.

    Raises a DatasetError where a mask holds several values, or one that the configuration does not know.
    """
    by_value, regions = {config.pixel_value: config for config in defects_config}, []
    for path in sample.masks:
        values = np.asarray(read_image(path))[..., 0]  # grey: the three channels are the same
        marked = np.unique(values[values != 0]).tolist()
        if len(marked) > 1 or not by_value.keys() >= set(marked):
            known = f"but should hold one of {sorted(by_value)}"
            raise DatasetError(f"{path} holds the values {marked}, {known}: unpack it again.")
        for value in marked:
            config, mask = by_value[value], values != 0
            area = metrics.saturation_area(int(mask.sum()), config.saturation_threshold, config.relative_saturation)
            regions.append(metrics.SaturatedRegion(mask, area))
    return regions


def _mean_of(by_kind: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(figures[name] for figures in by_kind.values()) for name in next(iter(by_kind.values()))}


def paper_mask(mask: np.ndarray) -> np.ndarray:
    """A raw mask (H, W) as the authors evaluate it: bilinear without antialiasing to 192 x 192, all above 0 set."""
    pixels = torch.from_numpy(mask.astype(np.float32))[None, None]
    return (torch.nn.functional.interpolate(pixels, PAPER_SIZE, mode="bilinear")[0, 0] > 0).numpy()
