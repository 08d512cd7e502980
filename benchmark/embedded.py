"""`python -m benchmark.embedded`: makes the detectors and example pictures that come with `ast_hf`.

The demonstrations and all pictures are drawn (`benchmark.synthetic`), so none of anybody's pictures is in the package;
`ast-mvtec-bottle` is trained on MVTec AD's bottles, whose licence lies beside it. On one kind of CPU the same versions
of the libraries give the same bytes.
"""

import argparse
import io
import logging
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
import torch
from PIL import Image

import ast_hf
from ast_hf import ASTDetector, ASTDetectorConfig, TrainingRecipe
from ast_hf.config import PRETRAINED
from ast_hf.data import Sample
from ast_hf.files import write_atomic
from ast_hf.metrics import image_auroc
from ast_hf.training.features import prepare
from ast_hf.training.fitting import fit_depth_range
from ast_hf.training.trainer import build, calibrate, fit, train
from benchmark.datasets import DATASETS, load_category
from benchmark.synthetic import DEFECTS, draw_part

_LOG = logging.getLogger(__name__)
_ASSETS = Path(ast_hf.__file__).parent / "assets"
_RECIPE = TrainingRecipe.preset("compact")
_BOTTLE = "ast-mvtec-bottle"
_TRAIN, _HELD_OUT, _GOOD, _EACH = 128, 40, 24, 8  # drawn parts to train on, to calibrate with, and to test on
_FIRST_EXAMPLE = 901  # none of the parts above; part 900 is of the one in twenty that give a false alarm


class Demonstration(NamedTuple):
    """A detector that comes with the package, and the defect of its example pictures."""

    name: str
    category: str
    defect: str
    modality: str = "rgb"

    def draw(self, numbers: range, defect: str | None = None) -> list[Sample]:
        return [Sample(part.rgb, part.xyz) for part in (draw_part(self.category, i, defect) for i in numbers)]


DEMONSTRATIONS = (
    Demonstration("demo-carpet", "carpet", "hole"),
    Demonstration("demo-juice-bottle", "juice_bottle", "missing_label"),
    Demonstration("demo-tire", "tire", "cut", "rgb+depth"),
)


def make_detector(demonstration: Demonstration, train: int = _TRAIN, held_out: int = _HELD_OUT) -> ASTDetector:
    """Trains a demonstration detector on so many drawn good parts, and calibrates it on others."""
    samples = demonstration.draw(range(train + held_out))
    config = fit_depth_range(ASTDetectorConfig.preset("compact", modality=demonstration.modality), samples)
    detector = build(config, 0, backbone_weights=PRETRAINED)
    prepared = prepare(detector, samples)
    fit(detector, prepared.select(range(train)), _RECIPE)
    detector.calibration = calibrate(detector, prepared.select(range(train, train + held_out)))
    return detector


def make_bottle(data_root: Path, folder: Path) -> None:
    """Trains and calibrates `ast-mvtec-bottle` as a user would, and writes it with the licence of its data."""
    category, facts = load_category("mvtec_ad", "bottle", data_root), DATASETS["mvtec_ad"]
    licence = (_ASSETS / "checkpoints" / _BOTTLE / "LICENSE").read_bytes()
    detector = train(ASTDetectorConfig.preset("compact"), category.train, _RECIPE, device="cpu", cache_folder=False)
    found = detector.predict([sample.image for sample in category.test])
    auroc = image_auroc([prediction.score for prediction in found], [sample.label for sample in category.test])
    detector.metrics = {
        "dataset": facts.name, "category": category.name, "preset": "compact", "seeds": [0],
        "title": facts.title, "licence": facts.hub_licence, "limit": facts.limit,
        "figures": {"image_auroc": auroc},
        "protocol": "A tenth of the good parts was held out for the threshold.",
    }  # fmt: skip
    detector.save_pretrained(folder, include_backbone=False, half_precision=True)
    write_atomic(folder / "LICENSE", licence)
    _LOG.info("%s: image AUROC %.4f", folder.name, auroc)


def measure(detector: ASTDetector, demonstration: Demonstration) -> tuple[float, float, float]:
    """Image AUROC on drawn parts, and the shares of good and of defective ones above the threshold."""
    start = _TRAIN + _HELD_OUT
    samples = demonstration.draw(range(start, start + _GOOD))
    for kind in next(kinds for (_, category), kinds in DEFECTS.items() if category == demonstration.category):
        samples += demonstration.draw(range(start + _GOOD, start + _GOOD + _EACH), kind)
    found = detector.predict([s.image for s in samples], [s.points for s in samples])
    above, defective = np.array([prediction.is_anomalous for prediction in found]), np.arange(len(found)) >= _GOOD
    auroc = image_auroc([prediction.score for prediction in found], defective)
    return auroc, float(above[~defective].mean()), float(above[defective].mean())


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
    parser = argparse.ArgumentParser(prog="python -m benchmark.embedded", description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=_ASSETS, help="default: the package's own assets")
    parser.add_argument("--data-root", type=Path, help=f"folder of the datasets: also make {_BOTTLE}")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)  # sums in another order would be other bytes
    for demonstration in DEMONSTRATIONS:
        folder = options.output / "checkpoints" / demonstration.name
        make_detector(demonstration).save_pretrained(folder, include_backbone=False, half_precision=True)
        # What is measured is what was saved, rounding included.
        figures = measure(ASTDetector.from_pretrained(folder, device="cpu"), demonstration)
        text = "%s: image AUROC %.3f, above the threshold %.2f of good and %.2f of defective parts"
        _LOG.info(text, demonstration.name, *figures)
        write_examples(options.output / "examples", demonstration)
    if options.data_root is not None:
        make_bottle(options.data_root, options.output / "checkpoints" / _BOTTLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
