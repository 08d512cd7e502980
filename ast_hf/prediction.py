"""Scoring pictures as they come: reading, batching, and results in the picture's own frame."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ast_hf.errors import ImageReadError
from ast_hf.images import upsample_map
from ast_hf.parts import Part, ReadPart, ahead, pixel_values, read_part, stack
from ast_hf.visualize import Region, overlay, regions

if TYPE_CHECKING:
    from ast_hf.calibration import Calibration
    from ast_hf.model import ASTDetector

_Item = TypeVar("_Item")


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
    on_gpu = model.device.type == "cuda"
    read = ahead(lambda part: _try_read(model, part), parts, workers=_readers() if on_gpu else 2)
    batches = iter(lambda: list(islice(read, batch_size)), [])
    started = (_Batch(model, batch) for batch in batches)
    # A GPU computes a batch while the results of the one before are fetched and brought to the pictures' sizes.
    for batch in one_behind(started) if on_gpu else started:
        yield from batch.results()


def one_behind(items: Iterable[_Item]) -> Iterator[_Item]:
    """The same items, each when the next one has been made."""
    source = iter(items)
    for previous in islice(source, 1):
        for item in source:
            yield previous
            previous = item
        yield previous


def _try_read(model: ASTDetector, part: Part) -> tuple[Part, ReadPart] | ImageReadError:
    try:
        return part, read_part(model.config, part)
    except ImageReadError as error:
        return error


def _readers() -> int:
    """Threads that keep up with a GPU; decoding a picture takes several times as long as computing its map there."""
    return min(os.cpu_count() or 1, 16)


class _Batch:
    """Parts under way: a GPU may still be computing when this has been made."""

    @torch.inference_mode()
    def __init__(self, model: ASTDetector, entries: Sequence[tuple[Part, ReadPart] | ImageReadError]) -> None:
        self._model, self._entries = model, entries
        self._outputs: list[Tensor] = []
        self._fetched: torch.cuda.Event | None = None
        read = [entry[1] for entry in entries if not isinstance(entry, ImageReadError)]
        if not read:
            return
        outputs = model.maps_and_scores(
            pixel_values(read, model.device),
            stack([part.depth for part in read], model.device),
            stack([part.foreground for part in read], model.device),
        )
        # Asked for now, so that they do not queue up behind the next batch.
        self._outputs = [output.to("cpu", non_blocking=True) for output in outputs]
        if model.device.type == "cuda":
            self._fetched = torch.cuda.Event()
            self._fetched.record(torch.cuda.current_stream(model.device))

    def results(self) -> Iterator[Prediction | ImageReadError]:
        """A prediction or an error for each part, in their order."""
        if self._fetched is not None:
            self._fetched.synchronize()
        outputs = zip(*self._outputs, strict=True)
        for entry in self._entries:
            if isinstance(entry, ImageReadError):
                yield entry
            else:
                anomaly_map, score = next(outputs)
                yield _prediction(self._model, entry[0].name, entry[1].picture, score.item(), anomaly_map)


def _prediction(model: ASTDetector, name: str, picture: Image.Image, score: float, anomaly_map: Tensor) -> Prediction:
    full = upsample_map(anomaly_map, (picture.height, picture.width)).numpy()
    prediction = Prediction(name, picture, full, score)
    return prediction if model.calibration is None else prediction.at_rate(model.calibration)


def _pair(image: Any, points: Any) -> list[Part]:
    images = list(image) if image is not None else [None] * len(points)
    scans = list(points) if points is not None else [None] * len(images)
    if len(images) != len(scans):
        raise ValueError(f"{len(images)} pictures came with {len(scans)} scans: give one scan a picture.")
    return [Part(i, s) for i, s in zip(images, scans, strict=True)]
