"""The verbs predict and evaluate: what a detector says about parts, and how right it is."""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ast_hf.cli.options import LOG, SCORING, add, make_predictor
from ast_hf.config import ASTDetectorConfig
from ast_hf.errors import ASTError, ImageReadError
from ast_hf.files import check_folder, write_atomic

if TYPE_CHECKING:
    from ast_hf.data import Sample


def register(verbs: Any) -> None:
    """Registers the verbs."""
    predict = verbs.add_parser(
        "predict",
        help="score pictures",
        description="Prints one row a picture on stdout. The exit status is 1 where a picture could not be used.",
    )
    add(predict, "model")
    paths = "pictures, or folders with all folders inside; for depth models folders with rgb/ and xyz/, or scans"
    add(predict, "paths", nargs="*", type=Path, help=paths)
    add(
        predict, "--watch", type=Path, metavar="FOLDER",
        help="instead of paths: score what comes into this folder and all folders inside, until Ctrl-C; what has a row "
        "in --output is not scored again, so that it can be stopped and started at any time (pip install .[watch])",
    )  # fmt: skip
    add(
        predict, "--settle", type=float, default=1.0, metavar="SECONDS",
        help="with --watch: a file that has not changed for so long is complete; one that cannot be read even after "
        "ten times as long gets a row that says so (default: 1)",
    )  # fmt: skip
    add(predict, "--output", required=False, help="folder for overlays and for the rows as a file")
    add(
        predict, "--format", choices=("jsonl", "csv", "coco"), default="jsonl",
        help="of the rows (default: jsonl); coco is one document at the end, with the regions as polygons",
    )  # fmt: skip
    area = "leave smaller regions out (default: 1)"
    add(predict, "--min-region-area", type=int, default=1, metavar="PIXELS", help=area)
    add(
        predict, "--overlay-size", type=int, default=2000, metavar="PIXELS",
        help="longest side of overlays, and of the maps that regions are found in; regions are told in pixels of the "
        "picture itself (default: 2000)",
    )  # fmt: skip
    add(
        predict, "--raw-maps", choices=("npy", "tiff"), nargs="?", const="npy",
        help="also write each anomaly map, of the picture's own size: as float32 .npy, or as 16-bit TIFF, whose "
        "description says in what scale (default: npy)",
    )  # fmt: skip
    add(predict, *SCORING)
    predict.set_defaults(run=_predict)

    evaluate = verbs.add_parser(
        "evaluate",
        help="measure a detector on good and defective parts",
        description="Prints how well good and defective parts are told apart, and what the threshold makes of them. "
        "The exit status is 1 where a picture could not be used.",
    )
    folder = "good/ and a folder a kind of defect; masks in ground_truth/KIND/NAME_mask.png, or beside the pictures"
    add(evaluate, "model")
    add(evaluate, "folder", type=Path, help=folder)
    add(evaluate, "--format", choices=("text", "json"), default="text", help="of the figures (default: text)")
    add(evaluate, "--report", type=Path, metavar="FILE", help="also write them with pictures, as one HTML file")
    add(evaluate, *SCORING)
    evaluate.set_defaults(run=_evaluate)


def _predict(options: argparse.Namespace) -> int:
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
    is_coco, calibration = options.format == "coco", predictor.calibration
    if is_coco and calibration is None:
        raise ASTError("--format coco needs regions, and this detector is not calibrated to find any.")
    samples, unlisted = _list_samples(predictor.config, options.paths)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        if calibration is None:
            LOG.warning("This detector is not calibrated: no overlays are drawn.")
    pictures = options.output and PictureWriter(options.output, [s.name for s in samples], raw_maps=options.raw_maps)
    monitor = DriftMonitor(calibration) if calibration else None
    rows, failed = list[dict[str, Any]](), 0
    results = predictor.stream(samples, batch_size=options.batch_size, overlay_size=options.overlay_size)
    add_row = rows.append if is_coco else RowWriter(options.format, sys.stdout, options.output).add
    names = [*(error.source for error in unlisted), *(sample.name for sample in samples)]
    for name, result in zip(names, chain(unlisted, results), strict=True):
        if isinstance(result, ImageReadError):
            failed += 1
            add_row(error_row(result, name))
            continue
        row = prediction_row(result, min_area=options.min_region_area, polygons=is_coco)
        add_row({**row, **(pictures.write(result) if pictures else {})})
        if monitor:
            monitor.update(result.score, result.name)
    if is_coco:
        text = json.dumps(coco_document(rows)) + "\n"
        if options.output is None:
            sys.stdout.write(text)
        else:
            write_atomic(options.output / "results.json", text.encode())
    if monitor and monitor.alarm:
        LOG.warning("%s", monitor.alarm)
    if failed:
        LOG.error("%d of %d could not be used; their rows say why.", failed, len(names))
    return 1 if failed else 0


def _list_samples(config: ASTDetectorConfig, paths: Sequence[Path]) -> "tuple[list[Sample], list[ImageReadError]]":
    from ast_hf.data.samples import collect_samples, file_sample

    samples, unlisted = [], []
    for path in paths:
        try:
            samples += collect_samples(config, path) if path.is_dir() else [file_sample(config, path)]
        except ImageReadError as error:
            unlisted.append(error)
    return samples, unlisted


def _evaluate(options: argparse.Namespace) -> int:
    from ast_hf.data.labelled import labelled_samples
    from ast_hf.evaluation import evaluate, summarize, write_report
    from ast_hf.training.progress import progress_bars

    if options.report is not None:
        check_folder(options.report.parent)
    predictor = make_predictor(options)
    samples = labelled_samples(predictor.config, options.folder)
    with progress_bars() as progress:
        evaluation = evaluate(predictor, samples, batch_size=options.batch_size, progress=progress)
    as_json = json.dumps({"model": options.model, "folder": str(options.folder), **evaluation.to_dict()}, indent=2)
    sys.stdout.write(as_json + "\n" if options.format == "json" else summarize(evaluation))
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        write_report(options.report, evaluation, predictor, samples, f"{options.model} on {options.folder}")
        LOG.info("Written to %s", options.report)
    for reason in evaluation.unreadable:
        LOG.error("%s", reason)
    return 1 if evaluation.unreadable else 0
