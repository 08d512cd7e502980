"""Scoring pictures as they come: reading, batching, and results in the picture's own frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ast_hf.errors import ImageReadError
from ast_hf.images import upsample_map
from ast_hf.parts import Part, ReadPart, ahead, read_part, stack
from ast_hf.visualize import Region, overlay, regions

if TYPE_CHECKING:
    from ast_hf.calibration import Calibration
    from ast_hf.model import ASTDetector


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


def predict_all(model: ASTDetector, image: Any, points: Any = None, *, batch_size: int = 8) -> Any:
    """`ASTDetector.predict`: one prediction for one part, a list for a list."""
    if isinstance(image, (list, tuple)) or isinstance(points, (list, tuple)):
        return list(predict_parts(model, _pair(image, points), batch_size=batch_size))
    return next(predict_parts(model, [Part(image, points)]))


def predict_parts(model: ASTDetector, parts: Iterable[Part], *, batch_size: int = 8) -> Iterator[Prediction]:
    """Predictions one after another; the next pictures are read while these are computed.

    Raises:
        ImageReadError: A part cannot be used.
    """
    for result in try_predict_parts(model, parts, batch_size=batch_size):
        if isinstance(result, ImageReadError):
            raise result
        yield result


def try_predict_parts(
    model: ASTDetector, parts: Iterable[Part], *, batch_size: int = 8
) -> Iterator[Prediction | ImageReadError]:
    """As `predict_parts`, in the order of `parts`, with the error in place of a part that cannot be used."""
    source = ahead(lambda part: _try_read(model, part), parts)
    while batch := list(islice(source, batch_size)):
        good = [entry for entry in batch if not isinstance(entry, ImageReadError)]
        results = iter(_predict_batch(model, good) if good else ())
        for entry in batch:
            yield entry if isinstance(entry, ImageReadError) else next(results)


def _try_read(model: ASTDetector, part: Part) -> tuple[Part, ReadPart] | ImageReadError:
    try:
        return part, read_part(model.config, part)
    except ImageReadError as error:
        return error


@torch.inference_mode()
def _predict_batch(model: ASTDetector, batch: Sequence[tuple[Part, ReadPart]]) -> list[Prediction]:
    read = [entry for _, entry in batch]
    output = model(
        stack([r.pixel_values for r in read], model.device),
        stack([r.depth for r in read], model.device),
        stack([r.foreground for r in read], model.device),
    )
    scores, maps = output.score.tolist(), output.anomaly_map.cpu()
    return [
        _prediction(model, part.name, r.picture, score, anomaly_map)
        for (part, r), score, anomaly_map in zip(batch, scores, maps, strict=True)
    ]


def _prediction(
    model: ASTDetector, name: str, picture: Image.Image, score: float, anomaly_map: torch.Tensor
) -> Prediction:
    full = upsample_map(anomaly_map, (picture.height, picture.width)).numpy()
    prediction = Prediction(name, picture, full, score)
    return prediction if model.calibration is None else prediction.at_rate(model.calibration)


def _pair(image: Any, points: Any) -> list[Part]:
    images = list(image) if image is not None else [None] * len(points)
    scans = list(points) if points is not None else [None] * len(images)
    if len(images) != len(scans):
        raise ValueError(f"{len(images)} pictures came with {len(scans)} scans: give one scan a picture.")
    return [Part(i, s) for i, s in zip(images, scans, strict=True)]
