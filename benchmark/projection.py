"""`python -m benchmark.projection`: how long `python -m benchmark.run --all` takes here, from what a few steps take.

Every job is taken to compute its features anew and to have the machine to itself. A run is shorter where features are
found in the cache, or where several jobs share a GPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ast_hf.checkpoint import write_whole
from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from ast_hf.features import prepare
from ast_hf.images import upsample_map
from ast_hf.memory import keep_freed_memory
from ast_hf.model import ASTDetector, default_device, placed
from ast_hf.parts import Part
from ast_hf.training import fit
from benchmark.datasets import DATASETS
from benchmark.evaluate import Evaluation, score_parts
from benchmark.metrics import segmentation_metrics
from benchmark.plan import settings
from benchmark.synthetic import draw_part
from benchmark.timing import describe, stopwatch, versions

_BATCHES = 2  # of parts, for every measurement
_EPOCHS = (2, 2, 6)  # of fits: what the last takes longer than the one before is pure steps, with nothing of the start
_SIZE = (800, 800)  # pixels of a part, about the mean over the datasets


@dataclass(frozen=True)
class Parts:
    """How many parts a dataset has in all its categories."""

    good: int  # to train and calibrate with
    test: int


# MVTec AD (Bergmann et al. 2019), MVTec 3D-AD (2022, validation parts among the good ones), MVTec LOCO AD (2022), and
# the one-class split of VisA (Zou et al. 2022); DifferNet's split of magnetic tile.
PARTS = {
    "mvtec_ad": Parts(3629, 1725),
    "mvtec_3d_ad": Parts(2656 + 294, 1197),
    "mvtec_loco_ad": Parts(1772 + 304, 1568),
    "visa": Parts(8659, 2162),
    "magnetic_tile": Parts(761, 583),
}


@dataclass(frozen=True)
class Pace:
    """Seconds of one configuration on one machine."""

    part: float  # from files to the networks' inputs
    step: float  # a batch through the teacher's and the student's training
    test_part: float  # its maps, scores and figures


@dataclass(frozen=True)
class Projection:
    """Hours for all jobs of a dataset in one modality."""

    dataset: str
    modality: str
    jobs: int
    features: float
    training: float
    evaluation: float

    @property
    def total(self) -> float:
        """Hours."""
        return self.features + self.training + self.evaluation


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    options = parser().parse_args(arguments)
    keep_freed_memory()
    device = default_device(options.device)
    paces: dict[ASTDetectorConfig, Pace] = {}
    jobs = [(dataset, modality) for dataset in PARTS for modality in DATASETS[dataset].modalities]
    projections = []
    for dataset, modality in track(jobs, "Measuring", console=Console(stderr=True)):
        config, recipe = settings(DATASETS[dataset].preset, (), None, modality)
        if config not in paces:
            paces[config] = measure(config, recipe, device)
        projections.append(project(dataset, modality, recipe, paces[config]))
    Console().print(table(projections, describe(device)))
    if options.output:
        hours = [{**asdict(p), "total": p.total} for p in projections]
        facts = {**versions(device), "hours": hours, "seconds": [asdict(pace) for pace in paces.values()]}
        write_whole(options.output, (json.dumps(facts, indent=1) + "\n").encode())
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.projection", description=__doc__.partition(": ")[2])
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write hours and paces as JSON")
    return parser


def measure(config: ASTDetectorConfig, recipe: TrainingRecipe, device: torch.device) -> Pace:
    """Times a detector with random weights on a drawn part, everything once before it counts."""
    model, count = placed(ASTDetector(config), device), _BATCHES * recipe.batch_size
    with TemporaryDirectory() as folder:
        parts = [draw(Path(folder), model)] * count
        prepared = prepare(model, parts)
        part = stopwatch(lambda: prepare(model, parts), device) / count
    fits = [replace(recipe, epochs=epochs) for epochs in _EPOCHS]
    *_, start, whole = (stopwatch(functools.partial(fit, model, prepared, few), device) for few in fits)
    step = (whole - start) / (_BATCHES * (_EPOCHS[-1] - _EPOCHS[-2]))
    evaluation = score_parts(model, prepared)
    scores = stopwatch(lambda: score_parts(model, prepared), device)
    return Pace(part, step, (scores + stopwatch(lambda: figures(evaluation), device)) / count)


def draw(folder: Path, model: ASTDetector) -> Part:
    """A part in files, of the size that those of the datasets have."""
    drawn = draw_part("cookie", 0)
    Image.fromarray(drawn.rgb).resize(_SIZE).save(folder / "part.png")
    if not model.config.uses_depth:
        return Part(folder / "part.png")
    assert drawn.xyz is not None
    rows, columns = (np.arange(pixels) * have // pixels for pixels, have in zip(_SIZE, drawn.xyz.shape, strict=False))
    tifffile.imwrite(folder / "part.tiff", drawn.xyz[rows][:, columns], photometric="rgb")
    return Part(folder / "part.png" if model.config.uses_rgb else None, folder / "part.tiff")


def figures(evaluation: Evaluation) -> None:
    """The costliest figures: those of all pixels, in the pictures' own size, with a defect on every other part."""
    maps = [upsample_map(anomaly_map, _SIZE).numpy() for anomaly_map in evaluation.anomaly_maps]
    masks = [np.zeros(_SIZE, bool) for _ in maps]
    for mask in masks[::2]:
        mask[100:200, 100:200] = True
    segmentation_metrics(maps, masks, fpr_limits=(0.05, 0.3))


def project(dataset: str, modality: str, recipe: TrainingRecipe, pace: Pace) -> Projection:
    """From a few steps to all of them; that incomplete batches are dropped is left out."""
    parts = PARTS[dataset]
    seconds = (
        pace.part * (parts.good + parts.test),
        pace.step * recipe.epochs * parts.good / recipe.batch_size,
        pace.test_part * parts.test,
    )
    return Projection(dataset, modality, len(DATASETS[dataset].categories), *(s / 3600 for s in seconds))


def table(projections: Sequence[Projection], device: str) -> Table:
    """Hours by dataset and modality, and in all."""
    table = Table("dataset", "modality", title=f"Hours, {device}", title_justify="left", show_footer=True)
    table.columns[0].footer = "all"
    for column in ("jobs", "features", "training", "evaluation", "total"):
        total = sum(getattr(p, column) for p in projections)
        table.add_column(column, justify="right", footer=_short(total))
    for p in projections:
        values = (p.jobs, p.features, p.training, p.evaluation, p.total)
        table.add_row(p.dataset, p.modality, *map(_short, values))
    return table


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}" if value < 10 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
