"""AST as the paper's code computes it, in eager fp32, to measure our speed against.

The networks are ours and the numbers they give are the same; what differs is how they are run: the trunk of
`efficientnet_pytorch` (or ours) with its batch norms, plain convolutions in PyTorch's default layout, the teacher
computed again at every step of the student, the loss fetched at every step, and point clouds filled pixel by pixel.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ast_hf.config import TrainingRecipe
from ast_hf.images import read_image, to_pixel_values, upsample_map
from ast_hf.model import ASTDetector
from ast_hf.scoring import distance_map, nll_map


class ReferenceDetector:
    """An `ASTDetector`'s teacher and student with plain convolutions, and a trunk with batch norms.

    Args:
        model: Stays as it is.

    Attributes:
        trunk_name: Which package's network computes the features.
    """

    def __init__(self, model: ASTDetector) -> None:
        self.model = copy.deepcopy(model)
        self.model.precision = "fp32"
        self.trunk_name, self._trunk = _trunk(model)
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d):
                module.__class__ = nn.Conv2d  # ours without what makes it fast
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def features(self, pixel_values: Tensor) -> Tensor:
        """The trunk's features (B, C, h, w) of pictures (B, 3, H, W)."""
        return self._trunk(pixel_values.contiguous())

    def predict(self, files: Sequence[Path]) -> list[np.ndarray]:
        """The anomaly maps (H, W) of picture files, in one batch."""
        pictures = [read_image(file) for file in files]
        pixel_values = torch.stack([to_pixel_values(picture, self.model.config.image_size) for picture in pictures])
        inputs = self.model.standardize(self.features(pixel_values.to(self.model.device)))
        maps = distance_map(self.model.teach(inputs)[0], self.model.study(inputs)).cpu()
        return [
            upsample_map(anomaly_map, (picture.height, picture.width)).numpy()
            for anomaly_map, picture in zip(maps, pictures, strict=True)
        ]

    def optimizer(self, network: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
        """Adam as it comes."""
        return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)

    def teacher_step(self, inputs: Tensor, optimizer: torch.optim.Optimizer) -> float:
        """One step of the teacher on standardised inputs (B, C, h, w); gives the loss, for which it waits."""
        return _step(optimizer, nll_map(*self.model.teach(inputs)).mean())

    def student_step(self, inputs: Tensor, optimizer: torch.optim.Optimizer) -> float:
        """One step of the student, for which the teacher computes its targets again."""
        with torch.no_grad():
            target = self.model.teach(inputs)[0]
        return _step(optimizer, distance_map(target, self.model.study(inputs)).mean())


def fill_holes(z: np.ndarray, rounds: int) -> np.ndarray:
    """`ast_hf.depth.fill_holes`, one pixel after another."""
    height, width = z.shape
    for _ in range(rounds):
        filled = z.copy()
        for row in range(1, height):
            for column in range(1, width):
                if z[row, column] == 0:
                    window = z[row - 1 : row + 2, column - 1 : column + 2]
                    if count := np.count_nonzero(window):
                        filled[row, column] = window.sum(dtype=np.float64) / count
        z = filled
    return z


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _trunk(model: ASTDetector) -> tuple[str, Callable[[Tensor], Tensor]]:
    assert model.backbone is not None
    name = model.config.backbone.partition(".")[0]
    if name.startswith("tf_efficientnet_b") and importlib.util.find_spec("efficientnet_pytorch"):
        from efficientnet_pytorch import EfficientNet

        network = EfficientNet.from_name(name.removeprefix("tf_").replace("_", "-")).eval().to(model.device)
        trunk: Any = model.backbone.trunk
        stages = int(model.config.backbone_layer.rpartition(".")[2]) + 1
        blocks = network._blocks[: sum(len(stage) for stage in trunk.blocks[:stages])]
        return "efficientnet_pytorch", nn.Sequential(network._conv_stem, network._bn0, network._swish, *blocks)
    trunk = copy.deepcopy(model.backbone.trunk)
    return f"{name} with batch norms", trunk.to(memory_format=torch.contiguous_format)
