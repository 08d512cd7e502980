"""Published figures, each with its source, to print beside measured ones (published.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmark.ablations import AST


@dataclass(frozen=True)
class Published:
    """One published figure in percent; without a category it is the mean over all.

    `verified` tells what was read in `source`, or in the notes that it names, from what was kept in memory; `by` is
    whose run it is, `deviation` that over runs.
    """

    dataset: str
    modality: str
    figure: str
    value: float
    deviation: float | None
    source: str
    verified: bool
    by: str
    category: str | None = None
    variant: str = AST
    method: str = AST

    def __str__(self) -> str:
        return f"{self.value:.1f}" + (f" ± {self.deviation}" if self.deviation else "") + "†" * (not self.verified)


def published(
    dataset: str, modality: str, figure: str, category: str | None = None, *, variant: str = AST
) -> Published | None:
    """AST's published figure, by default its mean over all categories; None where none is known."""
    return _content()[0].get((dataset, modality, figure, category, variant, AST))


def context(dataset: str, modality: str) -> tuple[list[Published], list[str]]:
    """Means over all categories that other methods reach, and what to know: where AST is behind, or in doubt."""
    here, (figures, notes) = (dataset, modality), _content()
    others = [p for p in figures.values() if (p.dataset, p.modality) == here and p.method != AST]
    return others, [note["text"] for note in notes if (note["dataset"], note["modality"]) == here]


@cache
def _content() -> tuple[dict[Any, Published], list[dict[str, str]]]:
    content = json.loads(Path(__file__).with_name("published.json").read_text())
    figures = {}  # by what they are of
    for group in content["groups"]:
        shared = {k: v for k, v in group.items() if k not in ("key", "values")}
        for name, printed in group["values"].items():
            shared["value"], shared["deviation"] = printed if isinstance(printed, list) else (printed, None)
            p = Published(**shared, **({} if name == "average" else {group["key"]: name}))
            figures[p.dataset, p.modality, p.figure, p.category, p.variant, p.method] = p
    return figures, content["notes"]
