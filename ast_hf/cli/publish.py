"""The verbs push, convert and export: a trained detector for others."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ast_hf.cli.options import add_backbone_weights, add_half_precision, add_model
from ast_hf.config import PRESETS, ASTDetectorConfig, parse_overrides
from ast_hf.files import check_folder, write_or_rescue

_LOG = logging.getLogger(__name__)


def add(verbs: Any) -> None:
    """Registers the verbs."""
    for verb in (_add_push, _add_convert, _add_export):
        verb(verbs)


def _add_push(verbs: Any) -> None:
    verb = verbs.add_parser(
        "push",
        help="upload a detector to the Hub",
        description="Uploads one detector with its model card. Those of a benchmark's run: python -m benchmark.push.",
    )
    add_model(verb)
    verb.add_argument("--org", required=True, help="organisation or user on the Hub")
    verb.add_argument("--name", help="of the repository (default: the folder's)")
    verb.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    add_half_precision(verb)
    add_backbone_weights(verb, default=None)
    verb.set_defaults(run=_push)


def _add_convert(verbs: Any) -> None:
    verb = verbs.add_parser("convert", help="make a checkpoint of the weights that the authors' code saves")
    verb.add_argument("teacher", type=Path, help="their *_teacher.pth; only from someone you trust")
    verb.add_argument("student", type=Path, help="their *_student.pth")
    verb.add_argument("--preset", default="mvtec-3d-ad", choices=list(PRESETS), help="what they were trained as")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields of the preset")
    add_backbone_weights(verb)
    verb.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    verb.set_defaults(run=_convert)


def _add_export(verbs: Any) -> None:
    verb = verbs.add_parser("export", help="write a detector in another format")
    add_model(verb)
    verb.add_argument("--format", choices=["onnx"], default="onnx", help="(default: onnx)")
    add_half_precision(verb)
    verb.add_argument("--output", type=Path, required=True, help="file to write")
    verb.set_defaults(run=_export)


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
    check_folder(options.output)
    detector = load_original(options.teacher, options.student, config, backbone_weights=options.backbone_weights)
    write_or_rescue(detector.save_pretrained, options.output)
    _LOG.info("Saved to %s; the authors' files hold no threshold, so it gives scores and no verdicts.", options.output)
    return 0


def _export(options: argparse.Namespace) -> int:
    from ast_hf.detector import ASTDetector
    from ast_hf.export import export_onnx

    check_folder(options.output.parent)
    detector = ASTDetector.from_pretrained(options.model, device="cpu")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    export_onnx(detector, options.output, half_precision=options.half_precision)
    _LOG.info("Written to %s", options.output)
    return 0
