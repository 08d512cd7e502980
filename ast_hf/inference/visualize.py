"""Anomaly maps drawn for people, always on one fixed scale.

`scale` is the map value at which a pixel counts as anomalous (a calibrated detector's `map_threshold`). A map is never
stretched to its own maximum, which would make every good part look broken. In heat maps and overlays alike:

    value      0        scale/2    scale      2 scale    10 scale    without end
    colour     black    violet     crimson    orange     yellow      pale yellow     (matplotlib's inferno)
    position   0        1/4        1/2        3/4        19/20       1
    overlay    clear    clear      covered, and above alike

The position in the colour map is linear up to the scale and 1 - scale / (2 value) above, which goes on without a kink:
good parts stay dark, and a defect of many times the scale still shows where it is worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

# Every eighth colour of inferno, (almost) perceptually uniform; linear in between it is met to 2 of 255.
_INFERNO = np.frombuffer(
    bytes.fromhex(
        "000004 040312 0b0724 150b37 210c4a 2e0a5a 3c0965 4a0c6b 57106d 63146e 70196e "
        "7d1e6d 89226a 962766 a32b61 af315c bb3755 c63e4d d14644 db4f3b e35932 eb6528 "
        "f1711e f67f14 f98d0a fb9c06 fcab0f fbba1f f9ca32 f5d949 f2e865 f3f586 fcffa4"
    ),
    dtype=np.uint8,
).reshape(-1, 3)


@dataclass(frozen=True)
class Region:
    """A connected anomalous place.

    Attributes:
        box: (left, top, right, bottom) in pixels, right and bottom exclusive, as `PIL.Image.crop` takes it.
        area: Pixels above the scale.
        peak: The largest map value.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float


def heat_map(anomaly_map: np.ndarray, scale: float) -> Image.Image:
    """Colours a map (H, W) on the fixed scale of this module; good parts come out dark.

    Raises:
        ValueError: The map is not a finite (H, W) array, or the scale is not positive.
    """
    return Image.fromarray(_colours(_relative(anomaly_map, scale)))


def overlay(image: Image.Image, anomaly_map: np.ndarray, scale: float, *, opacity: float = 0.7) -> Image.Image:
    """Lays a map (H, W) over its picture: what is normal stays as it is, what is anomalous glows.

    Args:
        image: The picture, W x H pixels.
        anomaly_map: Larger is more anomalous.
        scale: Map value at which a pixel counts as anomalous; there the colour has reached its full opacity.
        opacity: How much of the colour covers the picture there, in [0, 1].

    Returns:
        RGB, W x H.

    Raises:
        ValueError: As `heat_map`, or the picture has another size than the map.
    """
    relative = _relative(anomaly_map, scale)
    if image.size != relative.shape[::-1]:
        raise ValueError(
            f"The picture is {image.size} pixels and the map {relative.shape[::-1]}: resize the map to it."
        )
    fade = np.clip(2 * relative - 1, 0, 1)
    alpha = opacity * fade * fade * (3 - 2 * fade)  # smooth at both ends: no edge where the colour begins
    cover = Image.fromarray(np.rint(alpha * 255).astype(np.uint8))
    return Image.composite(Image.fromarray(_colours(relative)), image.convert("RGB"), cover)


def regions(anomaly_map: np.ndarray, scale: float) -> list[Region]:
    """Places of a map (H, W) above the scale, 8-connected, the one with the highest peak first.

    Raises:
        ValueError: As `heat_map`.
    """
    from scipy import ndimage

    _relative(anomaly_map, scale)
    labels, count = ndimage.label(np.asarray(anomaly_map) > scale, structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    peaks = ndimage.maximum(anomaly_map, labels, np.arange(1, count + 1))
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    found = [Region(box, int(area), float(peak)) for box, area, peak in zip(boxes, areas, peaks, strict=True)]
    return sorted(found, key=lambda region: region.peak, reverse=True)


def draw_regions(image: Image.Image, regions: Sequence[Region]) -> Image.Image:
    """Draws a frame around each region, white between black lines so that it shows on any background."""
    drawn = image.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    line = max(1, round(max(image.size) / 300))
    for region in regions:
        left, top, right, bottom = region.box
        # Outwards, so that the frame hides nothing of what it points at.
        for reach, colour in ((3 * line, "black"), (2 * line, "white"), (line, "black")):
            frame = (left - reach, top - reach, right - 1 + reach, bottom - 1 + reach)
            draw.rectangle(frame, outline=colour, width=line)
    return drawn


def _relative(anomaly_map: np.ndarray, scale: float) -> np.ndarray:
    """The map in units of the scale."""
    values = np.asarray(anomaly_map, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"The anomaly map has shape {values.shape}; give one map (H, W).")
    if not np.isfinite(values).all():
        raise ValueError("The anomaly map holds values that are not finite: check the model's weights and its input.")
    if not 0 < scale < np.inf:
        raise ValueError(f"The scale is {scale}; give the positive map value at which a pixel counts as anomalous.")
    return values / scale


def _colours(relative: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): this module's colours; what bicubic resizing threw below zero is black, like zero."""
    positions = np.where(relative < 1, relative / 2, 1 - 0.5 / np.maximum(relative, 1))
    anchors = np.linspace(0, 1, len(_INFERNO))
    channels = [np.interp(positions, anchors, _INFERNO[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
