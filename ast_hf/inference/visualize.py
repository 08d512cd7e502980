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

import numpy as np
from PIL import Image

DEFAULT_OPACITY = 0.7  # of the colour over the picture where it is full

# Every eighth colour of inferno, (almost) perceptually uniform; linear in between it is met to 2 of 255.
_INFERNO = np.frombuffer(
    bytes.fromhex(
        "000004 040312 0b0724 150b37 210c4a 2e0a5a 3c0965 4a0c6b 57106d 63146e 70196e "
        "7d1e6d 89226a 962766 a32b61 af315c bb3755 c63e4d d14644 db4f3b e35932 eb6528 "
        "f1711e f67f14 f98d0a fb9c06 fcab0f fbba1f f9ca32 f5d949 f2e865 f3f586 fcffa4"
    ),
    dtype=np.uint8,
).reshape(-1, 3)


def heat_map(anomaly_map: np.ndarray, scale: float) -> Image.Image:
    """Colours a map (H, W) on the fixed scale of this module; good parts come out dark.

    Raises:
        ValueError: The map is not a finite (H, W) array, or the scale is not positive.
    """
    return Image.fromarray(_colours(relative_to(scale, anomaly_map)))


def overlay(
    image: Image.Image,
    anomaly_map: np.ndarray,
    scale: float,
    *,
    opacity: float = DEFAULT_OPACITY,
    region: np.ndarray | None = None,
) -> Image.Image:
    """Lays a map (H, W) over its picture of W x H pixels: what is normal stays as it is, what is anomalous glows.

    Args:
        scale: Map value at which a pixel counts as anomalous; there the colour has reached its full opacity.
        opacity: How much of the colour covers the picture there, in [0, 1].
        region: A bool array of any size over the picture: what lies outside was not looked at, and is dimmed.

    Raises:
        ValueError: As `heat_map`, or the picture has another size than the map.
    """
    relative = relative_to(scale, anomaly_map)
    if image.size != relative.shape[::-1]:
        raise ValueError(
            f"The picture is {image.size} pixels and the map {relative.shape[::-1]}: resize the map to it."
        )
    fade = np.clip(2 * relative - 1, 0, 1)
    alpha = opacity * fade * fade * (3 - 2 * fade)  # smooth at both ends: no edge where the colour begins
    cover, picture = Image.fromarray(np.rint(alpha * 255).astype(np.uint8)), image.convert("RGB")
    if region is not None:
        seen = Image.fromarray(region).resize(picture.size)
        picture = Image.composite(picture, picture.point(lambda value: value // 3), seen)
    return Image.composite(Image.fromarray(_colours(relative)), picture, cover)


def relative_to(scale: float, anomaly_map: np.ndarray) -> np.ndarray:
    """The map in units of the scale, float64 (H, W); errors as `heat_map`."""
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
