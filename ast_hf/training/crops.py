"""What one step of training sees."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType
from typing import TypeAlias

import torch
from torch import Tensor

Window: TypeAlias = tuple[EllipsisType, slice, slice]  # rows and columns, the last two dimensions


@dataclass(frozen=True)
class Crops:
    """Standardised inputs (N, C, h, w) and their mask (N, 1, h, w), drawn whole or as crops of a tile's size."""

    inputs: Tensor
    mask: Tensor | None
    tiles: tuple[int, int] = (1, 1)

    def draw(self, rows: Tensor, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Window]:
        """A batch with Gaussian noise of a deviation, its mask, and the window of the map that it shows.

        The generator is the CPU's, so that every device sees the same.
        """
        crop = [side // count for side, count in zip(self.inputs.shape[2:], self.tiles, strict=True)]
        # From beyond the borders, and moved inside: else cells there, which look different, would hardly be learnt.
        y, x = (
            min(max(int(torch.randint(-part, side + 1, (), generator=generator)), 0), side - part) if side > part else 0
            for side, part in zip(self.inputs.shape[2:], crop, strict=True)
        )
        window = (..., slice(y, y + crop[0]), slice(x, x + crop[1]))
        inputs, mask = self.inputs[rows][window], None if self.mask is None else self.mask[rows][window]
        if noise:
            inputs = inputs + noise * torch.randn(inputs.shape, generator=generator).to(inputs.device)
        return inputs, mask, window
