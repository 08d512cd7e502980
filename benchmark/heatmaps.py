"""A sheet of heat maps to look at: defects beside their masks, and good parts, all on one scale."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ast_hf.calibration import DEFAULT_FALSE_POSITIVE_RATE, upper_bound
from ast_hf.checkpoint import write_whole
from ast_hf.images import read_image, upsample_map
from ast_hf.visualize import contact_sheet, overlay
from benchmark.datasets import Sample

SHEET_NAME = "heat_maps.png"
_SIDE = 640  # pixels of the longer side that is drawn; the sheet shows less


def write_sheet(
    path: Path, samples: Sequence[Sample], anomaly_maps: Tensor, *, defects: int = 8, good: int = 4
) -> None:
    """Draws some defects, each kind in turn, and some good parts.

    Args:
        path: The PNG to write.
        samples: N test parts.
        anomaly_maps: (N, h, w), theirs.
        defects: How many defective parts at most.
        good: How many good parts at most.
    """
    scale = display_scale(samples, anomaly_maps)
    rows, captions = [], []
    for index in choose(samples, defects, good):
        sample = samples[index]
        picture = read_image(sample.image)
        truth = _truth(picture, sample)
        picture.thumbnail((_SIDE, _SIDE))
        full = upsample_map(anomaly_maps[index], (picture.height, picture.width)).numpy()
        rows.append([picture, truth, overlay(picture, full, scale)])
        captions.append([f"{sample.defect} {sample.image.stem}"])
    png = io.BytesIO()
    contact_sheet(_halves(rows), _halves(captions, ["", "", ""]), headings=["part", "mask", "AST"] * 2).save(png, "PNG")
    write_whole(path, png.getvalue())


def display_scale(samples: Sequence[Sample], anomaly_maps: Tensor) -> float:
    """The map value that one good test part in twenty exceeds: for drawing alone, no figure depends on it.

    The tables' detectors train on every good image, so there are no held-out ones to take the scale from.
    """
    peaks = [float(anomaly_maps[i].max()) for i, sample in enumerate(samples) if not sample.label]
    return max(upper_bound(sorted(peaks), DEFAULT_FALSE_POSITIVE_RATE), 1e-12)


def choose(samples: Sequence[Sample], defects: int, good: int) -> list[int]:
    """Indices to draw: the kinds of defect in turn, each spread over its parts, then good parts."""
    kinds: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        kinds.setdefault(sample.defect if sample.label else "", []).append(index)
    fine = kinds.pop("", [])
    each = -(-defects // max(len(kinds), 1))
    turns = zip_longest(*(_spread(indices, each) for indices in kinds.values()))
    return [i for turn in turns for i in turn if i is not None][:defects] + _spread(fine, good)


def _spread(indices: Sequence[int], count: int) -> list[int]:
    count = min(count, len(indices))
    return [indices[round(i)] for i in np.linspace(0, len(indices) - 1, count)]


def _truth(picture: Image.Image, sample: Sample) -> Image.Image:
    """The mask, or a blank where a defect has none."""
    if sample.label and not sample.masks:
        return Image.new("L", picture.size, 127)
    return Image.fromarray(sample.mask((picture.height, picture.width)).astype(np.uint8) * 255)


def _halves(rows: list[list], filler: Sequence | None = None) -> list[list]:
    """Two rows of three side by side, so that the sheet is not a tower."""
    half = -(-len(rows) // 2)
    padded = [[*row, *(filler or [])][: 3 if filler else None] for row in rows]
    return [left + (right or []) for left, right in zip_longest(padded[:half], padded[half:])]
