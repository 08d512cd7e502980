"""The command line, `python -m ast_hf`. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ast_hf.backbone import PRETRAINED
from ast_hf.calibration import DEFAULT_FALSE_POSITIVE_RATE
from ast_hf.checkpoint import write_whole
from ast_hf.commands import add_hub_commands
from ast_hf.config import PRESETS, ASTDetectorConfig, TrainingRecipe, parse_changes
from ast_hf.errors import ASTError, ImageReadError
from ast_hf.hub import store
from ast_hf.memory import keep_freed_memory
from ast_hf.model import ASTDetector
from ast_hf.parts import Part, as_parts
from ast_hf.prediction import Prediction, try_predict_parts
from ast_hf.training import train

_LOG = logging.getLogger(__name__)
_COLUMNS = ("image", "score", "threshold", "is_anomalous", "p_value", "regions", "overlay", "raw_map", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit status: 0, or 1 where a picture could not be used, or 2 where nothing could be done.
    """
    options = parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("ast_hf").setLevel(logging.INFO)  # and nothing of what exporters and others tell themselves
    keep_freed_memory()
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
    _add_train(verbs)
    _add_predict(verbs)
    add_hub_commands(verbs.add_parser)
    return top


def _add_train(verbs: Any) -> None:
    verb = verbs.add_parser(
        "train",
        help="train a detector on a folder of good parts",
        description="Trains on good parts alone. A tenth of them, at least 8 or a third, is kept for the threshold.",
    )
    verb.add_argument("folder", help="pictures of good parts; for depth presets a folder with rgb/ and xyz/")
    verb.add_argument("--preset", default="compact", choices=list(PRESETS), help="what to train (default: compact)")
    verb.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    verb.add_argument("--name", help="also keep it under this name, for predict NAME and from_pretrained(NAME)")
    verb.add_argument("--epochs", type=int, help="epochs of teacher and of student (default: the preset's)")
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields of preset or recipe")
    verb.add_argument(
        "--backbone-weights", default=PRETRAINED, help="safetensors file in timm's names (default: from the Hub)"
    )
    verb.add_argument(
        "--false-positive-rate",
        type=float,
        default=DEFAULT_FALSE_POSITIVE_RATE,
        help="share of good parts that the threshold may call anomalous (default: 0.05)",
    )
    verb.add_argument("--half-precision", action="store_true", help="store the weights in fp16")
    _add_common(verb)
    verb.add_argument("--seed", type=int, default=0, help="the same seed gives the same detector (default: 0)")
    verb.set_defaults(run=_train)


def _add_predict(verbs: Any) -> None:
    verb = verbs.add_parser(
        "predict",
        help="score pictures",
        description="Prints one row a picture on stdout. The exit status is 1 where a picture could not be used.",
    )
    verb.add_argument("model", help="name, Hub id or folder of a detector")
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
        "--accelerate", action="store_true",
        help="first find out, which takes seconds, where OpenVINO is faster on this CPU (pip install .[openvino])",
    )  # fmt: skip
    _add_common(verb)
    verb.set_defaults(run=_predict)


def _add_common(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")


def _train(options: argparse.Namespace) -> int:
    config_changes, recipe_changes = parse_changes(options.set)
    if options.epochs is not None:
        recipe_changes["epochs"] = options.epochs
    model = train(
        ASTDetectorConfig.preset(options.preset, **config_changes),
        options.folder,
        TrainingRecipe.preset(options.preset, **recipe_changes),
        options.device,
        options.seed,
        false_positive_rate=options.false_positive_rate,
        backbone_weights=options.backbone_weights,
    )
    model.save_pretrained(options.output, half_precision=options.half_precision)
    _LOG.info("Saved to %s", options.output)
    if options.name:
        _LOG.info("Stored as %s, in %s", options.name, store(model, options.name))
    if model.calibration is not None:
        _LOG.info(
            "Threshold %.5g: from %d held-out good parts, for a false-positive rate of %g %%",
            model.calibration.threshold(), len(model.calibration.scores), 100 * model.calibration.false_positive_rate,
        )  # fmt: skip
    return 0


def _predict(options: argparse.Namespace) -> int:
    if options.raw_maps and options.output is None:
        raise ASTError("--raw-maps needs --output, the folder that they go to.")
    model = ASTDetector.from_pretrained(options.model, device=options.device)
    if options.accelerate:
        _LOG.info("Computed by %s", " and ".join(f"{who} ({what})" for what, who in model.accelerate().items()))
    if options.false_positive_rate is not None and model.calibration is not None:
        model.calibration = dataclasses.replace(model.calibration, false_positive_rate=options.false_positive_rate)
    parts, unlisted = _list_parts(model.config, options.paths)
    if options.output is not None and model.calibration is None:
        _LOG.warning("This detector is not calibrated: no overlays are drawn.")
    outputs = _Outputs(options.output, [part.name for part in parts], options.raw_maps)
    rows = _Rows(options.format)
    failed = len(unlisted)
    for error in unlisted:
        rows.add(_error_row(error))
    for part, result in zip(parts, try_predict_parts(model, parts, batch_size=options.batch_size), strict=True):
        failed += isinstance(result, ImageReadError)
        if isinstance(result, ImageReadError):
            rows.add({**_error_row(result), "image": part.name})
        else:
            rows.add({**_row(result), **outputs.write(result)})
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        write_whole(options.output / f"results.{options.format}", rows.text().encode())
    if failed:
        _LOG.error("%d of %d could not be used; their rows say why.", failed, len(parts) + len(unlisted))
    return 1 if failed else 0


def _list_parts(config: ASTDetectorConfig, paths: Sequence[Path]) -> tuple[list[Part], list[ImageReadError]]:
    parts: list[Part] = []
    unlisted: list[ImageReadError] = []
    for path in paths:
        try:
            parts += as_parts(config, path) if path.is_dir() else [_file_part(config, path)]
        except ImageReadError as error:
            unlisted.append(error)
    return parts, unlisted


def _file_part(config: ASTDetectorConfig, path: Path) -> Part:
    if not config.uses_depth:
        return Part(path)
    if not config.uses_rgb:
        return Part(points=path)
    # MVTec 3D-AD's layout: .../rgb/000.png beside .../xyz/000.tiff
    return Part(path, path.parent.parent / "xyz" / f"{path.stem}.tiff")


def _row(prediction: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {"image": prediction.name, "score": prediction.score}
    if prediction.threshold is not None:
        row |= {"threshold": prediction.threshold, "is_anomalous": prediction.is_anomalous}
        row |= {"p_value": prediction.p_value}
        row["regions"] = [dataclasses.asdict(region) for region in prediction.regions()]
    return row


def _error_row(error: ImageReadError) -> dict[str, Any]:
    return {"image": error.source, "error": error.reason}


class _Rows:
    """Rows in the chosen format: printed as they come and kept for the file."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._kept: list[str] = []
        if kind == "csv":
            self._print(dict(zip(_COLUMNS, _COLUMNS, strict=True)))

    def add(self, row: dict[str, Any]) -> None:
        self._print(row)

    def text(self) -> str:
        return "".join(self._kept)

    def _print(self, row: dict[str, Any]) -> None:
        if self._kind == "jsonl":
            line = json.dumps(row) + "\n"
        else:
            cells = io.StringIO()
            values = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
            csv.DictWriter(cells, _COLUMNS, restval="", lineterminator="\n").writerow(values)
            line = cells.getvalue()
        self._kept.append(line)
        sys.stdout.write(line)
        sys.stdout.flush()


class _Outputs:
    """Overlays and raw maps in folders that mirror the inputs', so that equal names never meet."""

    def __init__(self, folder: Path | None, names: Sequence[str], raw_maps: bool) -> None:
        self._folder, self._raw_maps = folder, raw_maps
        parents = [os.path.dirname(os.path.abspath(name)) for name in names]
        try:
            self._root = os.path.commonpath(parents) if parents else ""
        except ValueError:  # several drives
            self._root = ""

    def write(self, prediction: Prediction) -> dict[str, str]:
        """Writes what was asked for and returns where, by column."""
        if self._folder is None:
            return {}
        written: dict[str, str] = {}
        if prediction.map_threshold is not None:
            png = io.BytesIO()
            prediction.overlay().save(png, "PNG")
            written["overlay"] = self._write("overlays", prediction.name, ".png", png.getvalue())
        if self._raw_maps:
            raw = io.BytesIO()
            np.save(raw, prediction.anomaly_map)
            written["raw_map"] = self._write("raw_maps", prediction.name, ".npy", raw.getvalue())
        return written

    def _write(self, kind: str, name: str, suffix: str, data: bytes) -> str:
        assert self._folder is not None
        relative = os.path.relpath(os.path.abspath(name), self._root) if self._root else os.path.basename(name)
        # The picture's own suffix stays: a.png and a.jpg are two pictures.
        path = self._folder / kind / (relative + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
        return str(path)
