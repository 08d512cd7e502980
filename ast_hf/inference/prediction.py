"""What a detector says about one part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ast_hf.inference.calibration import Calibration
from ast_hf.inference.visualize import Region, overlay, regions


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says about one part.

    Attributes:
        name: The file's path, or a stand-in for data without one.
        image: The picture as read, upright, RGB; a grey height picture where only a scan was given.
        anomaly_map: (H, W) float32 over `image`, pixel by pixel; larger is more anomalous.
        score: The image score.
        threshold: The score above which a part is called anomalous, or None without calibration.
        is_anomalous: Whether `score` is above `threshold`, or None without calibration.
        p_value: How often a good part scores at least as high, in (0, 1], or None without calibration.
        map_threshold: The map value that good parts rarely exceed: the scale of heat maps; None without calibration.
    """

    name: str
    image: Image.Image
    anomaly_map: np.ndarray
    score: float
    threshold: float | None = None
    is_anomalous: bool | None = None
    p_value: float | None = None
    map_threshold: float | None = None

    def overlay(self, scale: float | None = None) -> Image.Image:
        """The picture with its anomalous places coloured, on a scale that does not depend on this picture.

        Args:
            scale: Map value at which a pixel counts as anomalous; `map_threshold` by default.

        Raises:
            ValueError: The detector is not calibrated and no scale was given.
        """
        return overlay(self.image, self.anomaly_map, self._scale(scale))

    def regions(self, scale: float | None = None) -> list[Region]:
        """Connected places above the scale (see `overlay`), the strongest first."""
        return regions(self.anomaly_map, self._scale(scale))

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

    def _scale(self, scale: float | None) -> float:
        scale = self.map_threshold if scale is None else scale
        if scale is None:
            raise ValueError("This detector is not calibrated: pass scale=, the map value that counts as anomalous.")
        return scale
