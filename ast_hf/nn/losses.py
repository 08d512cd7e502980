"""The two losses and what becomes of them at test time: anomaly maps and image scores."""

from __future__ import annotations

from typing import Literal

from torch import Tensor


def nll_map(z: Tensor, log_jac: Tensor, mask: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of every pixel up to a constant, the teacher's loss (paper, equation 2).

    0.5 * sum_c(m z^2) - m log_jac, (B, h, w), of the teacher's output z (B, C, h, w), its log-determinant log_jac
    (B, h, w), and a mask m (B, 1, h, w) in [0, 1], or None for all ones.
    """
    nll = 0.5 * z.square().sum(dim=1) - log_jac
    return nll if mask is None else mask[:, 0] * nll


def distance_map(teacher_z: Tensor, student_z: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared distance of the two outputs at every pixel: the student's loss and the anomaly map (equations 3, 4).

    mean_c(m (z_t - z_s)^2), (B, h, w), not negative, of outputs (B, C, h, w) and a mask as for `nll_map`.
    """
    distance = (teacher_z - student_z).square().mean(dim=1)
    return distance if mask is None else mask[:, 0] * distance


def image_score(anomaly_map: Tensor, reduction: Literal["mean", "max", "top"], fraction: float = 0.1) -> Tensor:
    """One number an image: (B, H, W) to (B,), over all pixels (masked ones count as 0, as in the paper).

    "top" is the mean of the highest pixels, as many as the fraction of all in (0, 1], and one at least.
    """
    flat = anomaly_map.flatten(1)
    if reduction == "top":
        return flat.topk(max(1, round(fraction * flat.shape[1])), dim=1).values.mean(dim=1)
    return flat.mean(dim=1) if reduction == "mean" else flat.amax(dim=1)
