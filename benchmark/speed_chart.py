"""What `benchmark.speed` measured, as bars."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_LABELS = {"ours": "ours", "accelerated": "ours, with OpenVINO", "reference": "reference"}
_COLOURS = {"ours": "#0072B2", "accelerated": "#56B4E9", "reference": "#999999"}


def draw(facts: Mapping[str, Any]) -> bytes:
    """A PNG with a panel a preset and a group of bars a step, of the networks' steps that the reference has too.

    Args:
        facts: As speed.json holds them.
    """
    results = facts["results"]
    figure = Figure(figsize=(9.5, 0.9 + 2.8 * len(results)), layout="constrained")
    figure.suptitle(f"Median milliseconds, {facts['device']}", fontsize=11)
    handles: dict[str, Any] = {}
    for number, result in enumerate(results, 1):
        axes = figure.add_subplot(len(results), 1, number, title=result["preset"])
        axes.title.set_fontsize(11)
        # Filling a scan's holes is no part of what the others add up to.
        steps = [m for m in result["measurements"] if "reference" in m["seconds"] and "scan" not in m["name"]]
        for place, step in enumerate(steps):
            for row, who in enumerate(who for who in _LABELS if who in step["seconds"]):
                value = 1e3 * float(np.median(step["seconds"][who])) / step["count"]
                handles[who] = axes.barh(place + 0.27 * (row - 1), value, 0.25, color=_COLOURS[who])
                axes.annotate(
                    f" {value:.0f}" if value >= 100 else f" {value:.3g}",
                    (value, place + 0.27 * (row - 1)),
                    va="center",
                    fontsize=8,
                )
        axes.set_yticks(range(len(steps)), [step["name"] for step in steps])
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        [handles[who] for who in _LABELS if who in handles], [_LABELS[who] for who in _LABELS if who in handles],
        loc="outside lower center", ncols=3, frameon=False,
    )  # fmt: skip
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()
