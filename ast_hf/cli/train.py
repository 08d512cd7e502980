"""The verb train."""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ast_hf.cli.options import add_backbone_weights, add_device, add_half_precision
from ast_hf.config import DEFAULT_FALSE_POSITIVE_RATE, PRESETS, ASTDetectorConfig, TrainingRecipe, parse_overrides
from ast_hf.files import check_folder, write_or_rescue

if TYPE_CHECKING:
    from ast_hf.detector import ASTDetector
    from ast_hf.inference import Calibration

_LOG = logging.getLogger(__name__)


def add(verbs: Any) -> None:
    """Registers the verb."""
    verb = verbs.add_parser(
        "train",
        help="train a detector on a folder of good parts",
        description="Trains on good parts alone. A tenth of them, at least 8 or a third, is kept for the threshold. "
        "Features of the pictures are kept for the next run in ~/.cache/ast_hf/features, at most 4 GiB of them.",
    )
    verb.add_argument(
        "folder", help="pictures of good parts, in it and all folders inside; for depth presets rgb/ and xyz/"
    )
    verb.add_argument("--preset", default="compact", choices=list(PRESETS), help="what to train (default: compact)")
    verb.add_argument("--epochs", type=int, help="epochs of teacher and of student (default: the preset's)")
    verb.add_argument(
        "--tiles", type=_tiles, metavar="ROWSxCOLUMNS",
        help="cut pictures into tiles of the preset's size, for small defects on large pictures, such as 2x2",
    )  # fmt: skip
    verb.add_argument(
        "--region", type=Path, help="mask of the pictures' aspect, white where is looked, black where never"
    )
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields of preset or recipe")
    add_backbone_weights(verb)
    verb.add_argument(
        "--false-positive-rate",
        type=float,
        default=DEFAULT_FALSE_POSITIVE_RATE,
        help="share of good parts that the threshold may call anomalous (default: 0.05)",
    )
    add_output(verb)
    verb.set_defaults(run=run)


def add_output(verb: argparse.ArgumentParser) -> None:
    """How a detector is made and where it goes, for `check_output` and `save`."""
    verb.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    verb.add_argument("--name", help="also keep it under this name, for predict NAME and from_pretrained(NAME)")
    verb.add_argument("--no-feature-cache", action="store_true", help="neither look for kept features nor keep any")
    add_half_precision(verb)
    add_device(verb)
    verb.add_argument("--seed", type=int, default=0, help="the same seed gives the same detector (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Trains and saves."""
    from ast_hf.training import train

    config_changes, recipe_changes = parse_overrides(options.set)
    if options.epochs is not None:
        recipe_changes["epochs"] = options.epochs
    if options.tiles is not None:
        config_changes["tiles"] = options.tiles
    config = ASTDetectorConfig.preset(options.preset, **config_changes)
    recipe = TrainingRecipe.preset(options.preset, **recipe_changes)
    check_output(options)
    detector = train(
        config,
        options.folder,
        recipe,
        options.device,
        options.seed,
        region=options.region,
        false_positive_rate=options.false_positive_rate,
        backbone_weights=options.backbone_weights,
        cache_folder=False if options.no_feature_cache else None,
    )
    save(detector, options)
    return 0


def check_output(options: argparse.Namespace) -> None:
    """Tries whether the detector can be saved: now, rather than after hours of training."""
    from ast_hf.hub.names import available_checkpoints, check_name

    check_folder(options.output)
    if options.name:
        check_name(options.name)
        if options.name in available_checkpoints():
            _LOG.warning("There is a detector %s, which this one will take the place of.", options.name)


def save(detector: ASTDetector, options: argparse.Namespace) -> None:
    """Saves, and says the threshold."""
    from ast_hf.hub.names import store

    write_or_rescue(partial(detector.save_pretrained, half_precision=options.half_precision), options.output)
    _LOG.info("Saved to %s", options.output)
    if options.name:
        _LOG.info("Stored as %s, in %s", options.name, store(detector, options.name))
    if (calibration := detector.calibration) is not None:
        _LOG.info("%s %s", calibration.describe(), _how_to_promise(calibration))


def _tiles(text: str) -> tuple[int, int]:
    rows, by, columns = text.lower().partition("x")
    if not (by and rows.isdigit() and columns.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: give rows x columns, such as 2x2")
    return int(rows), int(columns)


def _how_to_promise(calibration: Calibration) -> str:
    from ast_hf.inference.calibration import CONFIDENCE, parts_to_promise, rate_to_promise

    rate, count = calibration.false_positive_rate, len(calibration.scores)
    needed = parts_to_promise(rate)
    more = f"{needed - count} more such parts and " if needed > count else ""
    lower = rate_to_promise(rate, max(count, needed))
    return (
        f"Less than {100 * rate:.3g} % with {100 * CONFIDENCE:g} % confidence takes {more}"
        f"--false-positive-rate {lower:.3g}."
    )
