"""The verb predict."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ast_hf.cli.options import add_model, add_scoring, make_predictor
from ast_hf.config import ASTDetectorConfig
from ast_hf.errors import ASTError, ImageReadError
from ast_hf.files import check_folder, write_atomic

if TYPE_CHECKING:
    from ast_hf.data import Sample

_LOG = logging.getLogger(__name__)


def add(verbs: Any) -> None:
    """Registers the verb."""
    verb = verbs.add_parser(
        "predict",
        help="score pictures",
        description="Prints one row a picture on stdout. The exit status is 1 where a picture could not be used.",
    )
    add_model(verb)
    verb.add_argument(
        "paths", nargs="*", type=Path,
        help="pictures, or folders with all folders inside; for depth models folders with rgb/ and xyz/, or scans",
    )  # fmt: skip
    verb.add_argument(
        "--watch", type=Path, metavar="FOLDER",
        help="instead of paths: score what comes into this folder and all folders inside, until Ctrl-C; what has a row "
        "in --output is not scored again, so that it can be stopped and started at any time (pip install .[watch])",
    )  # fmt: skip
    verb.add_argument(
        "--settle", type=float, default=1.0, metavar="SECONDS",
        help="with --watch: a file that has not changed for so long is complete; one that cannot be read even after "
        "ten times as long gets a row that says so (default: 1)",
    )  # fmt: skip
    verb.add_argument("--output", type=Path, help="folder for overlays and for the rows as a file")
    verb.add_argument(
        "--format", choices=("jsonl", "csv", "coco"), default="jsonl",
        help="of the rows (default: jsonl); coco is one document at the end, with the regions as polygons",
    )  # fmt: skip
    verb.add_argument(
        "--min-region-area", type=int, default=1, metavar="PIXELS", help="leave smaller regions out (default: 1)"
    )
    verb.add_argument(
        "--overlay-size", type=int, default=2000, metavar="PIXELS",
        help="longest side of overlays, and of the maps that regions are found in; regions are told in pixels of the "
        "picture itself (default: 2000)",
    )  # fmt: skip
    verb.add_argument(
        "--raw-maps", choices=("npy", "tiff"), nargs="?", const="npy",
        help="also write each anomaly map, of the picture's own size: as float32 .npy, or as 16-bit TIFF, whose "
        "description says in what scale (default: npy)",
    )  # fmt: skip
    add_scoring(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Scores, and gives the exit status."""
    from ast_hf.cli import watch
    from ast_hf.coco import coco_document
    from ast_hf.inference.drift import DriftMonitor
    from ast_hf.results import PictureWriter, RowWriter, error_row, prediction_row

    if options.raw_maps and options.output is None:
        raise ASTError("--raw-maps needs --output, the folder that they go to.")
    if options.output is not None:
        check_folder(options.output)
    if bool(options.paths) == bool(options.watch):
        raise ASTError("Give pictures or folders to score, or --watch FOLDER, and not both.")
    if options.watch:
        return watch.run(options)
    predictor = make_predictor(options)
    if options.format == "coco" and predictor.calibration is None:
        raise ASTError("--format coco needs regions, and this detector is not calibrated to find any.")
    samples, unlisted = _list_samples(predictor.config, options.paths)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        if predictor.calibration is None:
            _LOG.warning("This detector is not calibrated: no overlays are drawn.")
    pictures = options.output and PictureWriter(options.output, [s.name for s in samples], raw_maps=options.raw_maps)
    results = predictor.stream(samples, batch_size=options.batch_size, overlay_size=options.overlay_size)
    is_coco, rows, failed = options.format == "coco", list[dict[str, Any]](), len(unlisted)
    add = rows.append if is_coco else RowWriter(options.format, sys.stdout, options.output).add
    monitor = DriftMonitor(predictor.calibration) if predictor.calibration else None
    for error in unlisted:
        add(error_row(error))
    for sample, result in zip(samples, results, strict=True):
        failed += isinstance(result, ImageReadError)
        if isinstance(result, ImageReadError):
            add(error_row(result, sample.name))
        else:
            row = prediction_row(result, min_area=options.min_region_area, polygons=is_coco)
            add({**row, **(pictures.write(result) if pictures else {})})
            if monitor:
                monitor.update(result.score, result.name)
    if is_coco:
        text = json.dumps(coco_document(rows)) + "\n"
        if options.output is None:
            sys.stdout.write(text)
        else:
            write_atomic(options.output / "results.json", text.encode())
    if monitor and monitor.alarm:
        _LOG.warning("%s", monitor.alarm)
    if failed:
        _LOG.error("%d of %d could not be used; their rows say why.", failed, len(samples) + len(unlisted))
    return 1 if failed else 0


def _list_samples(config: ASTDetectorConfig, paths: Sequence[Path]) -> tuple[list[Sample], list[ImageReadError]]:
    from ast_hf.data.samples import collect_samples, file_sample

    samples: list[Sample] = []
    unlisted: list[ImageReadError] = []
    for path in paths:
        try:
            samples += collect_samples(config, path) if path.is_dir() else [file_sample(config, path)]
        except ImageReadError as error:
            unlisted.append(error)
    return samples, unlisted
