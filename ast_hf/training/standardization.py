"""What the training set says about the networks' inputs: mean and std of each channel, principal components."""

from __future__ import annotations

import torch
from torch import Tensor

from ast_hf.nn.network import ASTNetwork


@torch.no_grad()
def set_standardization(network: ASTNetwork, inputs: Tensor, mask: Tensor | None = None) -> None:
    """Sets each channel's mean and std, and the projection, from inputs (N, C, h, w), where they are configured.

    With a mask (N, 1, h, w), the same for all, only the cells that it lets through count.
    """
    if mask is not None:
        inputs = inputs[..., mask[0, 0] > 0][..., None]  # (N, C, cells, 1)
    if network.config.feature_normalization == "channel":
        network.input_mean.copy_(inputs.mean(dim=(0, 2, 3)))
        # A channel that never changes says nothing; the floor keeps it from being divided by zero.
        network.input_std.copy_(inputs.std(dim=(0, 2, 3)).clamp_min(1e-6))
    if network.config.feature_projection:
        network.projection.copy_(_principal_components(network, inputs))


def _principal_components(network: ASTNetwork, inputs: Tensor) -> Tensor:
    """(K, C): the directions of the standardised inputs (N, C, h, w) that vary most, the first K, on a common scale.

    A rotation and one factor: whitened, the directions that hardly vary would count as much as the others.
    """
    config = network.config
    cells = inputs.permute(0, 2, 3, 1).reshape(-1, config.input_channels)
    if config.feature_normalization == "channel":
        cells = (cells - network.input_mean) / network.input_std
    covariance = cells.T.double() @ cells.double() / len(cells)
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    kept = slice(config.input_channels - config.feature_projection, None)
    scale = values[kept].clamp_min(0).mean().sqrt().clamp_min(1e-6)
    return (vectors[:, kept].T / scale).float()
