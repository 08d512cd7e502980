"""A sheet of heat maps to look at: defects beside their masks, and good parts, all on one scale."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ast_hf.config import DEFAULT_FALSE_POSITIVE_RATE
from ast_hf.data.images import read_image
from ast_hf.data.transforms import upsample_map
from ast_hf.files import write_atomic
from ast_hf.inference.calibration import upper_bound
from ast_hf.inference.visualize import overlay
from benchmark.datasets import LabelledSample

SHEET_NAME = "heat_maps.png"
_SIDE = 400  # pixels of the longer side that is drawn


def write_sheet(path: Path, samples: Sequence[LabelledSample], anomaly_maps: Tensor, bits: int | None = None) -> None:
    """Draws some of N test parts by their maps (N, h, w) into a PNG: eight defects, each kind in turn, four good ones.

    `bits` is the detector's `image_bits`.

    Raises:
        DatasetError: A mask does not fit its picture.
    """
    scale, chosen = display_scale(samples, anomaly_maps), choose(samples, defects=8, good=4)
    rows = -(-len(chosen) // 2)  # two parts side by side, so that the sheet is not a tower
    figure = Figure(figsize=(12, 2.2 * rows), layout="constrained")
    grid = figure.subplots(rows, 6, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, index in enumerate(chosen):
        sample = samples[index]
        picture = read_image(sample.image, bits=bits)
        truth = _truth(picture, sample)
        picture.thumbnail((_SIDE, _SIDE))
        full = upsample_map(anomaly_maps[index], (picture.height, picture.width)).numpy()
        titles = (f"{sample.defect} {sample.image.stem}"[:28], "mask", "AST")
        for column, shown in enumerate((picture, truth, overlay(picture, full, scale))):
            axes = grid[place // 2, 3 * (place % 2) + column]
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
            axes.set_title(titles[column], fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    write_atomic(path, png.getvalue())


def display_scale(samples: Sequence[LabelledSample], anomaly_maps: Tensor) -> float:
    """The map value that one good test part in twenty exceeds: for drawing alone, no figure depends on it.

    The tables' detectors train on every good image, so there are no held-out ones to take the scale from.
    """
    peaks = [float(anomaly_maps[i].max()) for i, sample in enumerate(samples) if not sample.label]
    return max(upper_bound(sorted(peaks), DEFAULT_FALSE_POSITIVE_RATE), 1e-12)


def choose(samples: Sequence[LabelledSample], defects: int, good: int) -> list[int]:
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


def _truth(picture: Image.Image, sample: LabelledSample) -> Image.Image:
    """The mask, or a blank where a defect has none."""
    if sample.label and not sample.masks:
        return Image.new("L", picture.size, 127)
    return Image.fromarray(sample.mask((picture.height, picture.width)).astype(np.uint8) * 255)
