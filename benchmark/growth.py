"""`python -m benchmark.growth`: how training time and memory grow with pictures, epochs and size, as lines in a plot.

Every point is a process of its own, so that its peak memory is its own. Features are random, which changes neither.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.progress import track

from ast_hf.checkpoint import write_whole
from ast_hf.config import PRESETS, ASTDetectorConfig, TrainingRecipe
from ast_hf.features import PreparedParts
from ast_hf.memory import keep_freed_memory
from ast_hf.model import ASTDetector, default_device
from ast_hf.training import fit
from benchmark.timing import describe, peak_memory, versions

PICTURES, EPOCHS, SIZES = (50, 100, 200, 400, 800, 1600), (1, 2, 4, 8), (256, 384, 512, 768)
_FEW = 100  # pictures, where something else grows
_LABELS = {"pictures": "training pictures", "epochs": "epochs of teacher and of student", "size": "pixels of a side"}


@dataclass(frozen=True)
class Point:
    """One training run: seconds, and the peak of the process's memory (on a GPU, of what is allocated there)."""

    pictures: int
    epochs: int
    size: int
    seconds: float
    peak_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    options = parser().parse_args(arguments)
    size = ASTDetectorConfig.preset(options.preset).image_size
    wanted = {(n, 1, size) for n in PICTURES} | {(_FEW, n, size) for n in EPOCHS} | {(_FEW, 1, side) for side in SIZES}
    points = [alone(options.preset, options.device, *each) for each in track(sorted(wanted), "Measuring")]
    device = default_device(options.device)
    text = json.dumps({**versions(device), "preset": options.preset, "points": [asdict(p) for p in points]}, indent=1)
    drawn = io.BytesIO()
    figure(points, size, f"{options.preset}, {describe(device)}").savefig(drawn, format="png", dpi=110)
    options.output.mkdir(parents=True, exist_ok=True)
    write_whole(options.output / "growth.json", f"{text}\n".encode())
    write_whole(options.output / "growth.png", drawn.getbuffer())
    print(f"{options.output / 'growth.png'}, growth.json")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.growth", description=__doc__.partition(": ")[2])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="compact")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--output", type=Path, default=Path("runs/growth"), help="folder (default: %(default)s)")
    return parser


def alone(preset: str, device: str | None, pictures: int, epochs: int, size: int) -> Point:
    """`measure` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, preset, device, pictures, epochs, size).result()


def measure(preset: str, device: str | None, pictures: int, epochs: int, size: int) -> Point:
    """Trains on random features of so many pictures; the features themselves are no part of the time."""
    keep_freed_memory()
    model = ASTDetector(ASTDetectorConfig.preset(preset, image_size=size)).to(default_device(device))
    inputs = torch.randn(pictures, model.config.input_channels, *model.map_size, device=model.device)
    recipe = TrainingRecipe.preset(preset, epochs=epochs)
    started = time.monotonic()
    fit(model, PreparedParts(inputs, None), recipe)
    seconds = time.monotonic() - started  # the loss of the last epoch was fetched: a GPU has ended too
    return Point(pictures, epochs, size, seconds, peak_memory(model.device))


def figure(points: Sequence[Point], size: int, title: str) -> Figure:
    """Time against pictures and against epochs, and memory against pictures and against size."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    figure.suptitle(f"Training, {title}", fontsize=11)
    by_pictures = [p for p in points if (p.epochs, p.size) == (1, size)]
    by_epochs = [p for p in points if (p.pictures, p.size) == (_FEW, size)]
    by_size = [p for p in points if (p.pictures, p.epochs) == (_FEW, 1)]
    panels = (
        (by_pictures, "pictures", "seconds", f"one epoch of each, {size} px"),
        (by_epochs, "epochs", "seconds", f"{_FEW} pictures, {size} px"),
        (by_pictures, "pictures", "gigabytes", f"one epoch of each, {size} px"),
        (by_size, "size", "gigabytes", f"{_FEW} pictures, one epoch of each"),
    )
    for number, (line, x, y, what) in enumerate(panels, 1):
        axes = figure.add_subplot(2, 2, number, title=what, ylabel=y)
        axes.set_xlabel(_LABELS[x])
        line = sorted(line, key=lambda point: getattr(point, x))
        values = [p.seconds if y == "seconds" else p.peak_bytes / 1e9 for p in line]
        axes.plot([getattr(p, x) for p in line], values, "o-", color="#0072B2")
        axes.set(xlim=(0, None), ylim=(0, 1.08 * max(values)))
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
