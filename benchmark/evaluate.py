"""Figures of one trained detector on one category's test set, in two protocols that are never mixed.

"raw": maps and masks at the pictures' own resolution, as MVTec's evaluation code asks for. "paper": as AST's authors
evaluated, maps bicubic and masks bilinear (> 0, which enlarges them) at 192 x 192 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ast_hf.features import PreparedParts
from ast_hf.images import read_image, upsample_map
from ast_hf.model import ASTDetector
from ast_hf.scoring import image_score, nll_map
from benchmark.datasets import Sample
from benchmark.metrics import average_precision, f1_max, image_auroc, pixel_auroc, segmentation_metrics

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


def image_figures(evaluation: Evaluation, labels: Sequence[int]) -> dict[str, float]:
    """Image-level figures: the detector's own score, the paper's mean and max, and the teacher alone."""
    f1, _ = f1_max(evaluation.scores.numpy(), labels)
    return {
        "image_auroc": image_auroc(evaluation.scores.numpy(), labels),
        "image_auroc_mean": image_auroc(image_score(evaluation.anomaly_maps, "mean").numpy(), labels),
        "image_auroc_max": image_auroc(image_score(evaluation.paper_maps, "max").numpy(), labels),
        "teacher_image_auroc_mean": image_auroc(image_score(evaluation.nll_maps, "mean").numpy(), labels),
        "teacher_image_auroc_max": image_auroc(image_score(evaluation.nll_maps, "max").numpy(), labels),
        "image_ap": average_precision(evaluation.scores.numpy(), labels),
        "image_f1_max": f1,
    }


def pixel_figures(evaluation: Evaluation, samples: Sequence[Sample]) -> dict[str, float]:
    """Pixel-level figures in both protocols.

    Raises:
        DatasetError: A defect has no mask.
    """
    masks = [sample.mask(read_image(sample.image).size[::-1]) for sample in samples]
    raw_maps = [
        upsample_map(anomaly_map, mask.shape).numpy()
        for anomaly_map, mask in zip(evaluation.anomaly_maps, masks, strict=True)
    ]
    raw = segmentation_metrics(raw_maps, masks, fpr_limits=(0.05, 0.3))
    return {
        "pixel_auroc_paper": pixel_auroc(list(evaluation.paper_maps.numpy()), [paper_mask(mask) for mask in masks]),
        "pixel_auroc": raw.pixel_auroc,
        "au_pro_0.3": raw.au_pro[0.3],
        "au_pro_0.05": raw.au_pro[0.05],
    }


def paper_mask(mask: np.ndarray) -> np.ndarray:
    """A raw mask (H, W) as the authors evaluate it: bilinear without antialiasing to 192 x 192, all above 0 set."""
    soft = torch.nn.functional.interpolate(
        torch.from_numpy(mask.astype(np.float32))[None, None], size=PAPER_SIZE, mode="bilinear", align_corners=False
    )
    return (soft[0, 0] > 0).numpy()


def decision_figures(model: ASTDetector, evaluation: Evaluation, labels: Sequence[int]) -> dict[str, Any]:
    """How the calibrated threshold does on the test set: false-positive rate on good parts, recall on defects."""
    if model.calibration is None:
        return {}
    anomalous = evaluation.scores.numpy() > model.calibration.threshold()
    defective = np.asarray(labels, dtype=bool)
    return {
        "calibration_parts": len(model.calibration.scores),
        "target_false_positive_rate": model.calibration.false_positive_rate,
        "false_positive_rate": float(anomalous[~defective].mean()),
        "recall": float(anomalous[defective].mean()),
    }
