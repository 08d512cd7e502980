"""The verbs push, convert and export: a trained detector for others."""

import argparse
from pathlib import Path
from typing import Any

from ast_hf.cli.options import LOG, add
from ast_hf.config import ASTDetectorConfig, parse_overrides
from ast_hf.files import check_folder, write_or_rescue


def register(verbs: Any) -> None:
    """Registers the verbs."""
    push = verbs.add_parser(
        "push",
        help="upload a detector to the Hub",
        description="Uploads one detector with its model card. Those of a benchmark's run: python -m benchmark.push.",
    )
    add(push, "model")
    add(push, "--org", required=True, help="organisation or user on the Hub")
    add(push, "--name", help="of the repository (default: the folder's)")
    add(push, "--private", action="store_true", default=None, help="make a new repository private")
    add(push, "--half-precision")
    add(push, "--backbone-weights", default=None)
    push.set_defaults(run=_push)

    convert = verbs.add_parser("convert", help="make a checkpoint of the weights that the authors' code saves")
    add(convert, "teacher", type=Path, help="their *_teacher.pth; only from someone you trust")
    add(convert, "student", type=Path, help="their *_student.pth")
    add(convert, "--preset", default="mvtec-3d-ad", help="what they were trained as")
    add(convert, "--set", help="other fields of the preset")
    add(convert, "--backbone-weights", "--output")
    convert.set_defaults(run=_convert)

    export = verbs.add_parser("export", help="write a detector in another format")
    add(export, "model")
    add(export, "--format", choices=["onnx"], default="onnx", help="(default: onnx)")
    add(export, "--half-precision")
    add(export, "--output", help="file to write")
    export.set_defaults(run=_export)


def _push(options: argparse.Namespace) -> None:
    from ast_hf.detector import ASTDetector

    detector = ASTDetector.from_pretrained(options.model, device="cpu", backbone_weights=options.backbone_weights)
    repo_id = f"{options.org}/{options.name or Path(options.model).resolve().name}"
    commit = detector.push_to_hub(repo_id, private=options.private, half_precision=options.half_precision)
    LOG.info("Pushed to %s", commit.commit_url)


def _convert(options: argparse.Namespace) -> None:
    from ast_hf.original import load_original

    config = ASTDetectorConfig.preset(options.preset, **parse_overrides(options.set)[0])
    check_folder(options.output)
    detector = load_original(options.teacher, options.student, config, backbone_weights=options.backbone_weights)
    write_or_rescue(detector.save_pretrained, options.output)
    LOG.info("Saved to %s; the authors' files hold no threshold, so it gives scores and no verdicts.", options.output)


def _export(options: argparse.Namespace) -> None:
    from ast_hf.detector import ASTDetector
    from ast_hf.export import export_onnx

    check_folder(options.output.parent)
    detector = ASTDetector.from_pretrained(options.model, device="cpu")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    export_onnx(detector, options.output, half_precision=options.half_precision)
    LOG.info("Written to %s", options.output)
