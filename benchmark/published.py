"""Published figures, each with its source, to print beside measured ones (published.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmark.variants import AST


@dataclass(frozen=True)
class Published:
    """One published figure in percent; without a category it is the mean over all.

    `verified` tells what was read in `source`, or in the notes that it names, from what was kept in memory; `by` is
    whose run it is, `std` the standard deviation over runs.
    """

    dataset: str
    modality: str
    figure: str
    value: float
    std: float | None
    source: str
    verified: bool
    by: str
    category: str | None = None
    variant: str = AST
    method: str = AST

    def __str__(self) -> str:
        return f"{self.value:.1f}" + (f" ± {self.std}" if self.std else "") + "†" * (not self.verified)


def published(
    dataset: str, modality: str, figure: str, category: str | None = None, *, variant: str = AST
) -> Published | None:
    """AST's published figure, by default its mean over all categories; None where none is known."""
    return read_published()[0].get((dataset, modality, figure, category, variant, AST))


def context(dataset: str, modality: str) -> tuple[list[Published], list[str]]:
    """Means over all categories that other methods reach, and what to know: where AST is behind, or in doubt."""
    here, (figures, notes) = (dataset, modality), read_published()
    others = [p for p in figures.values() if (p.dataset, p.modality) == here and p.method != AST]
    return others, [note["text"] for note in notes if (note["dataset"], note["modality"]) == here]


@cache
def read_published() -> tuple[dict[tuple[str | None, ...], Published], list[dict[str, str]]]:
    """All of published.json: the figures by what they are of, and the notes, which name their dataset and modality."""
    content = json.loads(Path(__file__).with_name("published.json").read_text())
    figures: dict[tuple[str | None, ...], Published] = {}
    for group in content["groups"]:
        shared = {k: v for k, v in group.items() if k not in ("key", "values")}
        for name, printed in group["values"].items():
            shared["value"], shared["std"] = printed if isinstance(printed, list) else (printed, None)
            p = Published(**shared, **({} if name == "average" else {group["key"]: name}))
            figures[p.dataset, p.modality, p.figure, p.category, p.variant, p.method] = p
    return figures, content["notes"]
