"""Pictures of a run: ROC curves, score histograms, and sheets of heat maps.

Drawn with matplotlib's objects alone: no pyplot, no state beside the picture.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image
from sklearn.metrics import auc, roc_curve
from torch import Tensor

from ast_hf.config import DEFAULT_FALSE_POSITIVE_RATE
from ast_hf.data.images import read_image
from ast_hf.data.transforms import upsample_map
from ast_hf.files import write_atomic
from ast_hf.inference.calibration import upper_bound
from ast_hf.inference.visualize import overlay
from benchmark.datasets import LabelledSample

SHEET_NAME = "heat_maps.png"
# Okabe and Ito's palette, which the colour-blind can tell apart; a second round is dashed.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_SIDE = 400  # pixels of the longer side that is drawn


def write_png(path: Path, figure: Figure, dpi: int) -> None:
    """Draws a figure into a file; the same figure gives the same bytes."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    write_atomic(path, png.getvalue())


class Scores(NamedTuple):
    """Labels (N,), 1 for defective, and scores (N,) of one category, and the calibrated threshold if there is one."""

    labels: np.ndarray
    scores: np.ndarray
    threshold: float | None


def read_scores(folder: Path) -> Scores:
    """Reads a job's scores.csv; raises a `ValueError` that says what of it is not there or damaged."""
    calibration, threshold = folder / "model" / "calibration.json", None
    try:
        with (folder / "scores.csv").open(newline="") as file:
            rows = [(int(row["label"]), float(row["score"])) for row in csv.DictReader(file)]
        labels, scores = np.array(rows).T
        if set(labels) != {0, 1} or not np.isfinite(scores).all():
            raise ValueError("scores.csv needs finite scores of good and of defective parts")
        if calibration.is_file():
            threshold = float(json.loads(calibration.read_text())["threshold"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{folder} is left out of the plots ({error}): run the job again with --force.") from error
    return Scores(labels, scores, threshold)


def roc_curves(parts: Mapping[str, Scores], title: str) -> Figure:
    """Draws one curve a category into one pair of axes."""
    figure = Figure(figsize=(7.4, 5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="false-positive rate [%]", ylabel="true-positive rate [%]")
    axes.set(xlim=(-1, 101), ylim=(-1, 101), aspect="equal")
    curves = {name: roc_curve(s.labels, s.scores, drop_intermediate=False)[:2] for name, s in parts.items()}
    areas = {name: auc(*curve) for name, curve in curves.items()}
    panels = [axes]
    if min(areas.values()) > 0.9:  # good detectors crowd into a corner and leave the other one empty to show it larger
        panels.append(axes.inset_axes((0.4, 0.09, 0.56, 0.56), xlim=(0, 20), ylim=(80, 100.4)))
        panels[1].tick_params(labelsize=8)
        axes.indicate_inset((0, 80, 20, 20.4), edgecolor="0.4")
    for i, (name, curve) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": _COLOURS[i % 8], "linestyle": ("-", "--", ":")[i // 8 % 3], "linewidth": 1.6}
        for panel in panels:
            panel.plot(*(100 * np.stack(curve)), **style, label=f"{name}  {100 * areas[name]:.2f}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title="AUROC [%]", alignment="left", frameon=False)
    return figure


def score_histograms(parts: Mapping[str, Scores], title: str) -> Figure:
    """Draws good against defective parts, one small picture a category."""
    columns, rows = min(len(parts), 4), -(-len(parts) // 4)
    figure = Figure(figsize=(max(2.9 * columns, 5), 2.2 * rows + 1), layout="constrained")
    figure.suptitle(title)
    named: dict[str, Any] = {}
    for i, (name, part) in enumerate(parts.items()):
        axes = figure.add_subplot(rows, columns, i + 1, title=name)
        axes.set(xlabel="anomaly score" * (i + columns >= len(parts)), ylabel="test parts" * (i % columns == 0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        low, high = part.scores.min(), part.scores.max()
        spread = low > 0 and high / low > 5  # squared distances: then their magnitudes are what tells them apart
        bins = np.geomspace(low, high, 25) if spread else np.linspace(low, high if high > low else low + 1, 25)
        if spread:
            axes.set_xscale("log", subs=[])  # no minor ticks, and major ones where people expect them
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
        for label, colour, text in ((0, _COLOURS[0], "good"), (1, _COLOURS[1], "defective")):
            named[text] = axes.hist(part.scores[part.labels == label], bins.tolist(), color=colour, alpha=0.6)[2]
        if part.threshold is not None:
            named["calibrated threshold"] = axes.axvline(part.threshold, color="black", linestyle="--", linewidth=1.2)
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def write_sheet(path: Path, samples: Sequence[LabelledSample], anomaly_maps: Tensor, bits: int | None = None) -> None:
    """Draws some of N test parts by their maps (N, h, w) into a PNG: eight defects, each kind in turn, four good ones.

    All are on one scale: the map value that one good test part in twenty exceeds, for drawing alone, as no figure
    depends on it. The tables' detectors train on every good image, so there are no held-out ones to take it from.
    `bits` is the detector's `image_bits`. Raises a DatasetError where a mask does not fit its picture.
    """
    peaks = [float(one.max()) for one, sample in zip(anomaly_maps, samples, strict=True) if not sample.label]
    scale = max(upper_bound(sorted(peaks), DEFAULT_FALSE_POSITIVE_RATE), 1e-12)
    chosen = choose(samples, defects=8, good=4)
    rows = -(-len(chosen) // 2)  # two parts side by side, so that the sheet is not a tower
    figure = Figure(figsize=(12, 2.2 * rows), layout="constrained")
    grid = figure.subplots(rows, 6, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, index in enumerate(chosen):
        sample = samples[index]
        picture = read_image(sample.image, bits=bits)
        truth = Image.new("L", picture.size, 127)  # where a defect has no mask
        if sample.masks or not sample.label:
            truth = Image.fromarray(sample.mask((picture.height, picture.width)).astype(np.uint8) * 255)
        picture.thumbnail((_SIDE, _SIDE))
        full = upsample_map(anomaly_maps[index], (picture.height, picture.width)).numpy()
        titles = (f"{sample.defect} {sample.image.stem}"[:28], "mask", "AST")
        for column, shown in enumerate((picture, truth, overlay(picture, full, scale))):
            axes = grid[place // 2, 3 * (place % 2) + column]
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
            axes.set_title(titles[column], fontsize=8)
    write_png(path, figure, dpi=110)


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
    return [indices[round(i)] for i in np.linspace(0, len(indices) - 1, min(count, len(indices)))]
