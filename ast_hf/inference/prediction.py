"""What a detector says about one part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from ast_hf.data.transforms import upsample_map
from ast_hf.inference.calibration import Calibration
from ast_hf.inference.regions import Region, regions
from ast_hf.inference.visualize import DEFAULT_OPACITY, overlay


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says about one part; without calibration it does not decide, and what decides is None."""

    name: str  # the file's path, or a stand-in for data without one
    # The picture as read, upright, RGB, perhaps scaled down to draw on; a grey height picture of a scan alone.
    image: Image.Image
    cells: np.ndarray  # (h, w) float32, the anomaly map as the networks give it; larger is more anomalous
    score: float  # the image score
    threshold: float | None = None  # the score above which a part is called anomalous
    is_anomalous: bool | None = None  # whether `score` is above `threshold`
    p_value: float | None = None  # how often a good part scores at least as high, in (0, 1]
    map_threshold: float | None = None  # the map value that good parts rarely exceed: the scale of heat maps
    full_size: tuple[int, int] | None = None  # (width, height) of the picture that `image` was scaled down from
    region: np.ndarray | None = None  # bool, of any size over the picture: the detector's region of interest

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of the part's own picture."""
        return self.full_size or self.image.size

    @cached_property
    def anomaly_map(self) -> np.ndarray:
        """(H, W) float32 over the part's own picture, pixel by pixel; made when first asked for."""
        return self._map_over(*self.size)

    def overlay(self, scale: float | None = None, *, opacity: float = DEFAULT_OPACITY) -> Image.Image:
        """The picture with its anomalous places coloured (`visualize.overlay`), on a scale that does not depend on it.

        `ValueError` where the detector is not calibrated, which gives the scale by default, and none was given.
        """
        cells = self._map_over(*self.image.size)
        return overlay(self.image, cells, self._scale(scale), opacity=opacity, region=self.region)

    def regions(self, scale: float | None = None, *, min_area: int = 1) -> list[Region]:
        """Connected places above the scale (see `overlay`), the strongest first, in pixels of the part's own picture.

        They are looked for at the size of `image`; those of fewer than `min_area` pixels are left out.
        """
        found = regions(self._map_over(*self.image.size), self._scale(scale))
        scaled = (region.scaled(self.image.size, self.size) for region in found)
        return [region for region in scaled if region.area >= min_area]

    def at_rate(self, calibration: Calibration, false_positive_rate: float | None = None) -> Prediction:
        """This prediction judged by a calibration, at its own false-positive rate or another one in (0, 1)."""
        threshold = calibration.threshold(false_positive_rate)
        return replace(
            self,
            threshold=threshold,
            is_anomalous=self.score > threshold,
            p_value=calibration.p_value(self.score),
            map_threshold=calibration.map_threshold(false_positive_rate),
        )

    def _map_over(self, width: int, height: int) -> np.ndarray:
        return upsample_map(torch.from_numpy(self.cells), (height, width)).numpy()

    def _scale(self, scale: float | None) -> float:
        scale = self.map_threshold if scale is None else scale
        if scale is None:
            raise ValueError("This detector is not calibrated: pass scale=, the map value that counts as anomalous.")
        return scale
