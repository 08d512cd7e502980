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
    """What a detector says about one part.

    Attributes:
        name: The file's path, or a stand-in for data without one.
        image: The picture as read, upright, RGB, perhaps scaled down to draw on; a grey height picture where only a
            scan was given.
        cells: (h, w) float32, the anomaly map as the networks give it; larger is more anomalous.
        score: The image score.
        threshold: The score above which a part is called anomalous, or None without calibration.
        is_anomalous: Whether `score` is above `threshold`, or None without calibration.
        p_value: How often a good part scores at least as high, in (0, 1], or None without calibration.
        map_threshold: The map value that good parts rarely exceed: the scale of heat maps; None without calibration.
        region: bool (H, W) of any size over the picture, the detector's region of interest, or None where it has none.
        full_size: (width, height) in pixels of the picture that `image` was scaled down from, or None if it was not.
    """

    name: str
    image: Image.Image
    cells: np.ndarray
    score: float
    threshold: float | None = None
    is_anomalous: bool | None = None
    p_value: float | None = None
    map_threshold: float | None = None
    full_size: tuple[int, int] | None = None
    region: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of the part's own picture."""
        return self.full_size or self.image.size

    @cached_property
    def anomaly_map(self) -> np.ndarray:
        """(H, W) float32 over the part's own picture, pixel by pixel; made when first asked for."""
        return self._map_over(*self.size)

    def overlay(self, scale: float | None = None, *, opacity: float = DEFAULT_OPACITY) -> Image.Image:
        """The picture with its anomalous places coloured, on a scale that does not depend on this picture.

        Args:
            scale: Map value at which a pixel counts as anomalous; `map_threshold` by default.
            opacity: How much of the colour covers the picture there, in [0, 1].

        Raises:
            ValueError: The detector is not calibrated and no scale was given.
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
        """This prediction with threshold, verdict, p-value and heat-map scale of a calibration.

        Args:
            calibration: The detector's.
            false_positive_rate: Another rate than the calibration's own, in (0, 1).
        """
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
