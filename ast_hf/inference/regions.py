"""The connected places of an anomaly map above its scale: boxes, areas, outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ast_hf.inference.visualize import relative_to


@dataclass(frozen=True)
class Region:
    """A connected anomalous place."""

    box: tuple[int, int, int, int]  # (left, top, right, bottom) in pixels as `PIL.Image.crop` takes it
    area: int  # pixels above the scale
    peak: float  # the largest map value
    # Its pixels, bool, over the box; in a picture that was scaled down of fewer pixels than the box has.
    mask: np.ndarray = field(repr=False, compare=False)

    def to_dict(self, *, polygon: bool = False) -> dict[str, Any]:
        """Box, area and peak, JSON-ready, and the polygon where asked for."""
        outline = {"polygon": self.polygon} if polygon else {}
        return {"box": self.box, "area": self.area, "peak": self.peak, **outline}

    @property
    def polygon(self) -> list[tuple[float, float]]:
        """Its outline, without holes, as (x, y) in pixels; (0, 0) is the upper left corner of the picture."""
        from scipy import ndimage
        from skimage.measure import approximate_polygon, find_contours

        # Without holes and within a frame there is one outline, and it closes.
        (outline,) = find_contours(np.pad(ndimage.binary_fill_holes(self.mask), 1), 0.5, fully_connected="high")
        # Nearer than any pixel's centre (0.354): it stays around the same ones, with a third of the points.
        points = approximate_polygon(outline, 0.35)[:-1, ::-1] - 0.5
        left, top, right, bottom = self.box
        height, width = self.mask.shape
        points = points * ((right - left) / width, (bottom - top) / height) + (left, top)
        return [(x, y) for x, y in points.round(2).tolist()]

    def scaled(self, size: tuple[int, int], new_size: tuple[int, int]) -> Region:
        """The same place in a picture of another (width, height); its box holds every pixel that is touched."""
        if size == new_size:
            return self
        (w, h), (width, height), (left, top, right, bottom) = size, new_size, self.box
        box = (left * width // w, top * height // h, -(-right * width // w), -(-bottom * height // h))
        return replace(self, box=box, area=round(self.area * width * height / (w * h)))


def regions(anomaly_map: np.ndarray, scale: float) -> list[Region]:
    """Places of a map (H, W) above the scale, 8-connected, the strongest one first; errors as for `heat_map`."""
    from skimage.measure import label, regionprops

    relative_to(scale, anomaly_map)  # refuses what is no map
    values, found = np.asarray(anomaly_map), []
    for place in regionprops(label(values > scale, connectivity=2), values):
        top, left, bottom, right = place.bbox
        found.append(Region((left, top, right, bottom), int(place.area), float(place.intensity_max), place.image))
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
