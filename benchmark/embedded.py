"""`python -m benchmark.embedded`: makes the demonstration detectors and pictures that come with `ast_hf`.

All of it is drawn (`benchmark.synthetic`), so nothing of anybody's data is in the package. On one kind of CPU the same
versions of the libraries give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import ast_hf
from ast_hf import ASTDetector, ASTDetectorConfig, TrainingRecipe
from ast_hf.config import PRETRAINED
from ast_hf.data import Sample
from ast_hf.files import write_atomic
from ast_hf.training.features import prepare
from ast_hf.training.trainer import build, calibrate, fit
from benchmark.synthetic import DEFECTS, draw_part

_LOG = logging.getLogger(__name__)
_ASSETS = Path(ast_hf.__file__).parent / "assets"
# Three detectors have to fit into a few megabytes: narrower networks than the preset's, and more epochs for them.
_NARROW = {"coupling_kernel_sizes": (3, 3, 3), "teacher_channels": 32, "student_channels": 128, "image_score": "max"}
_RECIPE = TrainingRecipe.preset("compact", epochs=25, learning_rate=1e-3)
_TRAIN, _HELD_OUT, _GOOD, _EACH = 128, 40, 24, 8  # drawn parts to train on, to calibrate with, and to test on
_FIRST_EXAMPLE = 901  # none of the parts above; part 900 is of the one in twenty that give a false alarm


@dataclass(frozen=True)
class Demonstration:
    """A detector that comes with the package, and the defect of its example pictures."""

    name: str
    category: str
    defect: str
    modality: str = "rgb"


DEMONSTRATIONS = (
    Demonstration("demo-carpet", "carpet", "hole"),
    Demonstration("demo-juice-bottle", "juice_bottle", "missing_label"),
    Demonstration("demo-tire", "tire", "cut", "rgb+depth"),
)


def make_detector(demonstration: Demonstration, train: int = _TRAIN, held_out: int = _HELD_OUT) -> ASTDetector:
    """Trains a demonstration detector on so many drawn good parts, and calibrates it on others."""
    config = ASTDetectorConfig.preset("compact", modality=demonstration.modality, **_NARROW)
    detector = build(config, 0, backbone_weights=PRETRAINED)
    prepared = prepare(detector, _draw(demonstration, range(train + held_out)))
    fit(detector, prepared.select(range(train)), _RECIPE)
    detector.calibration = calibrate(detector, prepared.select(range(train, train + held_out)))
    return detector


def measure(detector: ASTDetector, demonstration: Demonstration) -> tuple[float, float, float]:
    """Image AUROC on drawn parts, and the shares of good and of defective ones above the threshold."""
    start = _TRAIN + _HELD_OUT
    good = _draw(demonstration, range(start, start + _GOOD))
    kinds = next(kinds for (_, category), kinds in DEFECTS.items() if category == demonstration.category)
    numbers = range(start + _GOOD, start + _GOOD + _EACH)
    samples = [*good, *(sample for kind in kinds for sample in _draw(demonstration, numbers, kind))]
    found = detector.predict([s.image for s in samples], [s.points for s in samples])
    above = np.array([prediction.is_anomalous for prediction in found])
    auroc = roc_auc_score(np.arange(len(found)) >= len(good), [prediction.score for prediction in found])
    return float(auroc), float(above[: len(good)].mean()), float(above[len(good) :].mean())


def write_examples(folder: Path, demonstration: Demonstration) -> None:
    """Writes a good and a defective part: PNG, and TIFF where there is a scan."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, defect in enumerate((None, demonstration.defect)):
        part = draw_part(demonstration.category, _FIRST_EXAMPLE + number, defect)
        stem, png = f"{demonstration.category}_{defect or 'good'}", io.BytesIO()
        Image.fromarray(part.rgb).save(png, "PNG", optimize=True)
        write_atomic(folder / f"{stem}.png", png.getvalue())
        if part.xyz is not None:
            tiff = io.BytesIO()
            # To 0.06 mm: what is left out is about the scanner's noise, which would not compress.
            points = np.round(part.xyz * 2**14) / np.float32(2**14)
            tifffile.imwrite(tiff, points.astype(np.float32), photometric="rgb", compression="deflate", predictor=True)
            write_atomic(folder / f"{stem}.tiff", tiff.getvalue())


def main() -> int:
    """Runs the command line and gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.embedded", description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=_ASSETS, help="default: the package's own assets")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)  # sums in another order would be other bytes
    for demonstration in DEMONSTRATIONS:
        model = make_detector(demonstration)
        folder = options.output / "checkpoints" / demonstration.name
        model.save_pretrained(folder, include_backbone=False, half_precision=True)
        # What is measured is what was saved, rounding included.
        figures = measure(ASTDetector.from_pretrained(folder, device="cpu"), demonstration)
        text = "%s: image AUROC %.3f, above the threshold %.2f of good and %.2f of defective parts"
        _LOG.info(text, demonstration.name, *figures)
        write_examples(options.output / "examples", demonstration)
    return 0


def _draw(demonstration: Demonstration, numbers: range, defect: str | None = None) -> list[Sample]:
    parts = [draw_part(demonstration.category, number, defect) for number in numbers]
    return [Sample(part.rgb, part.xyz) for part in parts]


if __name__ == "__main__":
    sys.exit(main())
