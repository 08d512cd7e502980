"""ROC curves and score histograms, drawn with matplotlib's objects alone: no pyplot, no state beside the picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from sklearn.metrics import auc, roc_curve

# Okabe and Ito's palette, which the colour-blind can tell apart; a second round is dashed.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


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
