"""`python -m benchmark.embedded`: makes the demonstration detectors and pictures that come with `ast_hf`.

All of it is drawn (`benchmark.synthetic`), so nothing of anybody's data is in the package. On one kind of CPU the same
versions of the libraries give the same bytes; the weights of `ast-tiny` have to be there first (`ast_hf.distill`).
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import ast_hf
from ast_hf import ASTDetector, ASTDetectorConfig, TrainingRecipe
from ast_hf.backbone import PRETRAINED
from ast_hf.checkpoint import write_whole
from ast_hf.parts import Part
from ast_hf.prediction import predict_parts
from ast_hf.training import build, calibrate, fit, prepare, select
from benchmark.synthetic import DEFECTS, draw_part

_LOG = logging.getLogger(__name__)
_ASSETS = Path(ast_hf.__file__).parent / "assets"
# Three detectors have to fit into a few megabytes: narrower networks than the preset's, and more epochs for them.
_NARROW = {"coupling_blocks": 3, "coupling_kernel_sizes": (3, 3, 3), "teacher_channels": 32, "student_channels": 128}
_RECIPE = TrainingRecipe.preset("compact", epochs=25, learning_rate=1e-3)
_TRAIN, _HELD_OUT, _GOOD, _EACH = 128, 40, 24, 8  # drawn parts to train on, to calibrate with, and to test on
_FIRST_EXAMPLE = 901  # none of the parts above; part 900 is of the one in twenty that give a false alarm


@dataclass(frozen=True)
class Demonstration:
    """A detector that comes with the package, and the defect of its example pictures."""

    category: str
    defect: str
    changes: dict[str, object]

    @property
    def name(self) -> str:
        return f"demo-{self.category.replace('_', '-')}"


DEMONSTRATIONS = (
    Demonstration("carpet", "hole", {"image_score": "max"}),
    Demonstration("juice_bottle", "missing_label", {"image_score": "max"}),
    Demonstration("tire", "cut", {"modality": "rgb+depth", "image_score": "max"}),
)


def make_detector(demonstration: Demonstration) -> ASTDetector:
    """Trains and calibrates a demonstration detector on drawn good parts."""
    config = ASTDetectorConfig.preset("compact", **{**_NARROW, **demonstration.changes})
    model = build(config, 0, backbone_weights=PRETRAINED)
    prepared = prepare(model, list(_parts(demonstration, range(_TRAIN + _HELD_OUT))))
    fit(model, select(prepared, range(_TRAIN)), _RECIPE)
    calibrate(model, select(prepared, range(_TRAIN, _TRAIN + _HELD_OUT)))
    return model


def measure(model: ASTDetector, demonstration: Demonstration) -> tuple[float, float, float]:
    """Image AUROC on drawn parts, and the shares of good and of defective ones above the threshold."""
    start = _TRAIN + _HELD_OUT
    good = [p.score for p in predict_parts(model, _parts(demonstration, range(start, start + _GOOD)))]
    kinds = next(kinds for (_, category), kinds in DEFECTS.items() if category == demonstration.category)
    numbers = range(start + _GOOD, start + _GOOD + _EACH)
    bad = [p.score for kind in kinds for p in predict_parts(model, _parts(demonstration, numbers, kind))]
    assert model.calibration is not None
    above = np.asarray([*good, *bad]) > model.calibration.threshold()
    auroc = roc_auc_score([0] * len(good) + [1] * len(bad), [*good, *bad])
    return float(auroc), float(above[: len(good)].mean()), float(above[len(good) :].mean())


def write_examples(folder: Path, demonstration: Demonstration) -> None:
    """Writes a good and a defective part: PNG, and TIFF where there is a scan."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, defect in enumerate((None, demonstration.defect)):
        part = draw_part(demonstration.category, _FIRST_EXAMPLE + number, defect)
        stem, png = f"{demonstration.category}_{defect or 'good'}", io.BytesIO()
        Image.fromarray(part.rgb).save(png, "PNG", optimize=True)
        write_whole(folder / f"{stem}.png", png.getvalue())
        if part.xyz is not None:
            tiff = io.BytesIO()
            # To 0.06 mm: what is left out is about the scanner's noise, which would not compress.
            points = np.round(part.xyz * 2**14) / np.float32(2**14)
            tifffile.imwrite(tiff, points.astype(np.float32), photometric="rgb", compression="deflate", predictor=True)
            write_whole(folder / f"{stem}.tiff", tiff.getvalue())


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
        _LOG.info("%s: image AUROC %.3f, above the threshold %.2f of good and %.2f of defective parts",
                  demonstration.name, *figures)  # fmt: skip
        write_examples(options.output / "examples", demonstration)
    return 0


def _parts(demonstration: Demonstration, numbers: range, defect: str | None = None) -> Iterator[Part]:
    for number in numbers:
        part = draw_part(demonstration.category, number, defect)
        yield Part(part.rgb, part.xyz)


if __name__ == "__main__":
    sys.exit(main())
