"""The command line, `python -m ast_hf`. Results go to stdout, everything else to stderr.

A verb imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ast_hf.config import (
    DEFAULT_FALSE_POSITIVE_RATE,
    PRESETS,
    PRETRAINED,
    ASTDetectorConfig,
    TrainingRecipe,
    parse_overrides,
)
from ast_hf.errors import ASTError, ImageReadError

if TYPE_CHECKING:
    from ast_hf.data import Sample

_LOG = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit status: 0, or 1 where a picture could not be used, or 2 where nothing could be done.
    """
    options = parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("ast_hf").setLevel(logging.INFO)  # and nothing of what exporters and others tell themselves
    try:
        return options.run(options)
    except (ASTError, OSError) as error:
        _LOG.error("%s", error)
        return 2
    except KeyboardInterrupt:
        _LOG.error("Stopped; what was written so far is whole.")
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line's verbs and options."""
    top = argparse.ArgumentParser(prog="python -m ast_hf", description="AST: industrial anomaly detection.")
    verbs = top.add_subparsers(required=True, metavar="train|predict|push|convert|export")
    for add in (_add_train, _add_predict, _add_push, _add_convert, _add_export):
        add(verbs)
    return top


def _add_train(verbs: Any) -> None:
    verb = verbs.add_parser(
        "train",
        help="train a detector on a folder of good parts",
        description="Trains on good parts alone. A tenth of them, at least 8 or a third, is kept for the threshold. "
        "Features of the pictures are kept for the next run in ~/.cache/ast_hf/features, at most 4 GiB of them.",
    )
    verb.add_argument("folder", help="pictures of good parts; for depth presets a folder with rgb/ and xyz/")
    verb.add_argument("--preset", default="compact", choices=list(PRESETS), help="what to train (default: compact)")
    verb.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    verb.add_argument("--name", help="also keep it under this name, for predict NAME and from_pretrained(NAME)")
    verb.add_argument("--epochs", type=int, help="epochs of teacher and of student (default: the preset's)")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields of preset or recipe")
    _add_backbone_weights(verb)
    verb.add_argument(
        "--false-positive-rate",
        type=float,
        default=DEFAULT_FALSE_POSITIVE_RATE,
        help="share of good parts that the threshold may call anomalous (default: 0.05)",
    )
    verb.add_argument("--no-feature-cache", action="store_true", help="neither look for kept features nor keep any")
    _add_half_precision(verb)
    _add_device(verb)
    verb.add_argument("--seed", type=int, default=0, help="the same seed gives the same detector (default: 0)")
    verb.set_defaults(run=_train)


def _add_predict(verbs: Any) -> None:
    verb = verbs.add_parser(
        "predict",
        help="score pictures",
        description="Prints one row a picture on stdout. The exit status is 1 where a picture could not be used.",
    )
    _add_model(verb)
    verb.add_argument(
        "paths", nargs="+", type=Path,
        help="pictures, or folders of them; for depth models folders with rgb/ and xyz/, or scans",
    )  # fmt: skip
    verb.add_argument("--output", type=Path, help="folder for overlays and for the rows as a file")
    verb.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="of the rows (default: jsonl)")
    verb.add_argument(
        "--false-positive-rate", type=float, help="another rate for the threshold than the one it was trained with"
    )
    verb.add_argument("--raw-maps", action="store_true", help="also write each anomaly map as float32 .npy")
    verb.add_argument("--batch-size", type=int, default=8, help="pictures computed at once (default: 8)")
    verb.add_argument(
        "--runtime", choices=("torch", "compile", "openvino"), default="torch",
        help="what computes (default: torch); openvino is the fastest on a CPU (pip install .[openvino]), compile on a "
        "GPU, and both need up to a minute at the start",
    )  # fmt: skip
    verb.add_argument(
        "--accelerate", dest="runtime", action="store_const", const="openvino", help="the same as --runtime openvino"
    )
    _add_device(verb)
    verb.set_defaults(run=_predict)


def _add_push(verbs: Any) -> None:
    verb = verbs.add_parser(
        "push",
        help="upload a detector to the Hub",
        description="Uploads one detector with its model card. Those of a benchmark's run: python -m benchmark.push.",
    )
    _add_model(verb)
    verb.add_argument("--org", required=True, help="organisation or user on the Hub")
    verb.add_argument("--name", help="of the repository (default: the folder's)")
    verb.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    _add_half_precision(verb)
    _add_backbone_weights(verb, default=None)
    verb.set_defaults(run=_push)


def _add_convert(verbs: Any) -> None:
    verb = verbs.add_parser("convert", help="make a checkpoint of the weights that the authors' code saves")
    verb.add_argument("teacher", type=Path, help="their *_teacher.pth; only from someone you trust")
    verb.add_argument("student", type=Path, help="their *_student.pth")
    verb.add_argument("--preset", default="mvtec-3d-ad", choices=list(PRESETS), help="what they were trained as")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields of the preset")
    _add_backbone_weights(verb)
    verb.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    verb.set_defaults(run=_convert)


def _add_export(verbs: Any) -> None:
    verb = verbs.add_parser("export", help="write a detector in another format")
    _add_model(verb)
    verb.add_argument("--format", choices=["onnx"], default="onnx", help="(default: onnx)")
    _add_half_precision(verb)
    verb.add_argument("--output", type=Path, required=True, help="file to write")
    verb.set_defaults(run=_export)


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", help="name, Hub id or folder of a detector")


def _add_device(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")


def _add_half_precision(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--half-precision", action="store_true", help="store the weights in fp16")


def _add_backbone_weights(verb: argparse.ArgumentParser, default: str | None = PRETRAINED) -> None:
    verb.add_argument(
        "--backbone-weights", default=default, help="safetensors file in timm's names (default: from the Hub)"
    )


def _train(options: argparse.Namespace) -> int:
    from ast_hf.hub import store
    from ast_hf.training import train

    config_changes, recipe_changes = parse_overrides(options.set)
    if options.epochs is not None:
        recipe_changes["epochs"] = options.epochs
    detector = train(
        ASTDetectorConfig.preset(options.preset, **config_changes),
        options.folder,
        TrainingRecipe.preset(options.preset, **recipe_changes),
        options.device,
        options.seed,
        false_positive_rate=options.false_positive_rate,
        backbone_weights=options.backbone_weights,
        cache_folder=False if options.no_feature_cache else None,
    )
    detector.save_pretrained(options.output, half_precision=options.half_precision)
    _LOG.info("Saved to %s", options.output)
    if options.name:
        _LOG.info("Stored as %s, in %s", options.name, store(detector, options.name))
    if (calibration := detector.calibration) is not None:
        _LOG.info(
            "Threshold %.5g: from %d held-out good parts, for a false-positive rate of %g %%",
            calibration.threshold(), len(calibration.scores), 100 * calibration.false_positive_rate,
        )  # fmt: skip
    return 0


def _predict(options: argparse.Namespace) -> int:
    from ast_hf.detector import ASTDetector
    from ast_hf.inference import Predictor
    from ast_hf.results import PictureWriter, RowWriter, error_row, prediction_row

    if options.raw_maps and options.output is None:
        raise ASTError("--raw-maps needs --output, the folder that they go to.")
    detector = ASTDetector.from_pretrained(options.model, device=options.device)
    if options.false_positive_rate is not None and detector.calibration is not None:
        rate = options.false_positive_rate
        detector.calibration = dataclasses.replace(detector.calibration, false_positive_rate=rate)
    predictor = Predictor(detector, runtime=options.runtime)
    samples, unlisted = _list_samples(detector.config, options.paths)
    if options.output is not None and detector.calibration is None:
        _LOG.warning("This detector is not calibrated: no overlays are drawn.")
    pictures = options.output and PictureWriter(options.output, [s.name for s in samples], raw_maps=options.raw_maps)
    rows, failed = RowWriter(options.format, sys.stdout), len(unlisted)
    for error in unlisted:
        rows.add(error_row(error))
    for sample, result in zip(samples, predictor.stream(samples, batch_size=options.batch_size), strict=True):
        failed += isinstance(result, ImageReadError)
        if isinstance(result, ImageReadError):
            rows.add(error_row(result, sample.name))
        else:
            rows.add({**prediction_row(result), **(pictures.write(result) if pictures else {})})
    if options.output is not None:
        rows.save(options.output)
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


def _push(options: argparse.Namespace) -> int:
    from ast_hf.detector import ASTDetector

    detector = ASTDetector.from_pretrained(options.model, device="cpu", backbone_weights=options.backbone_weights)
    repo_id = f"{options.org}/{options.name or Path(options.model).resolve().name}"
    commit = detector.push_to_hub(repo_id, private=options.private, half_precision=options.half_precision)
    _LOG.info("Pushed to %s", commit.commit_url)
    return 0


def _convert(options: argparse.Namespace) -> int:
    from ast_hf.original import load_original

    config = ASTDetectorConfig.preset(options.preset, **parse_overrides(options.set)[0])
    detector = load_original(options.teacher, options.student, config, backbone_weights=options.backbone_weights)
    detector.save_pretrained(options.output)
    _LOG.info("Saved to %s; the authors' files hold no threshold, so it gives scores and no verdicts.", options.output)
    return 0


def _export(options: argparse.Namespace) -> int:
    from ast_hf.detector import ASTDetector
    from ast_hf.export import export_onnx

    detector = ASTDetector.from_pretrained(options.model, device="cpu")
    export_onnx(detector, options.output, half_precision=options.half_precision)
    _LOG.info("Written to %s", options.output)
    return 0
