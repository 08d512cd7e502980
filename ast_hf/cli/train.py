"""The verbs train and update: a detector of good parts, and of good parts that came later."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ast_hf.cli.options import LOG, add
from ast_hf.config import DEFAULT_FALSE_POSITIVE_RATE, ASTDetectorConfig, TrainingRecipe, parse_overrides
from ast_hf.errors import ASTError
from ast_hf.files import check_folder, write_or_rescue


def register(verbs: Any) -> None:
    """Registers the verbs."""
    train = verbs.add_parser(
        "train",
        help="train a detector on a folder of good parts",
        description="Trains on good parts alone. A tenth of them, at least 8 or a third, is kept for the threshold. "
        "Features of the pictures are kept for the next run in ~/.cache/ast_hf/features, at most 4 GiB of them.",
    )
    add(train, "folder", help="pictures of good parts, in it and all folders inside; for depth presets rgb/ and xyz/")
    add(train, "--preset", help="what to train (default: compact)")
    add(train, "--epochs", type=int, help="epochs of teacher and of student (default: the preset's)")
    tiles = "cut pictures into tiles of the preset's size, for small defects on large pictures, such as 2x2"
    add(train, "--tiles", type=_tiles, metavar="ROWSxCOLUMNS", help=tiles)
    add(train, "--region", type=Path, help="mask of the pictures' aspect, white where is looked, black where never")
    add(train, "--set", help="other fields of preset or recipe")
    add(train, "--backbone-weights")
    rate = "share of good parts that the threshold may call anomalous (default: 0.05)"
    add(train, "--false-positive-rate", default=DEFAULT_FALSE_POSITIVE_RATE, help=rate)
    train.set_defaults(run=_train)

    update = verbs.add_parser(
        "update",
        help="make a detector know good parts that came later",
        description="Makes a new detector of one and of good parts that came later: a new lot, other light. It learns "
        "from most of them and keeps the others for the threshold, as train does. The old detector stays as it was.",
    )
    add(update, "model")
    add(update, "folder", help="pictures of the new good parts, as they came, not the false alarms alone")
    how = update.add_mutually_exclusive_group()
    add(how, "--earlier", metavar="FOLDER", help="what it was trained on, so that it forgets none of that")
    add(how, "--recalibrate-only", action="store_true", help="set the threshold anew and learn nothing: takes seconds")
    add(update, "--steps", type=int, default=60, help="of each optimiser (default: 60)")
    add(update, "--preset", help="what the detector was trained by (default: compact)")
    add(update, "--set", help="other fields of the preset's recipe")
    update.set_defaults(run=_update)

    for verb in (train, update):
        add(verb, "--output")
        add(verb, "--name", help="also keep it under this name, for predict NAME and from_pretrained(NAME)")
        cache = {"dest": "cache_folder", "action": "store_const", "const": False}  # as `train` takes it
        add(verb, "--no-feature-cache", **cache, help="neither look for kept features nor keep any")
        add(verb, "--half-precision", "--device")
        add(verb, "--seed", type=int, default=0, help="the same seed gives the same detector (default: 0)")


def _tiles(text: str) -> tuple[int, int]:
    rows, by, columns = text.lower().partition("x")
    if not (by and rows.isdigit() and columns.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: give rows x columns, such as 2x2")
    return int(rows), int(columns)


def _train(options: argparse.Namespace) -> None:
    from ast_hf.training import train

    config_changes, recipe_changes = parse_overrides(options.set)
    if options.epochs is not None:
        recipe_changes["epochs"] = options.epochs
    if options.tiles is not None:
        config_changes["tiles"] = options.tiles
    config = ASTDetectorConfig.preset(options.preset, **config_changes)
    recipe = TrainingRecipe.preset(options.preset, **recipe_changes)
    _check_output(options)
    same = ("device", "seed", "region", "false_positive_rate", "backbone_weights", "cache_folder")
    _save(train(config, options.folder, recipe, **{name: getattr(options, name) for name in same}), options)


def _update(options: argparse.Namespace) -> None:
    from ast_hf.detector import ASTDetector
    from ast_hf.training.update import recalibrate, update

    config_changes, recipe_changes = parse_overrides(options.set)
    if config_changes:
        raise ASTError(f"--set {', '.join(config_changes)}: that is part of the detector and stays; train a new one.")
    if Path(options.model).resolve() == options.output.resolve():
        raise ASTError(f"{options.output} is the old detector's folder: give another one as --output.")
    _check_output(options)
    detector = ASTDetector.from_pretrained(options.model, device=options.device)
    if options.recalibrate_only:
        change = recalibrate
    else:
        recipe = TrainingRecipe.preset(options.preset, **recipe_changes)
        change = partial(update, recipe=recipe, earlier=options.earlier, steps=options.steps, seed=options.seed)
    _save(change(detector, options.folder, cache_folder=options.cache_folder), options)


def _check_output(options: argparse.Namespace) -> None:
    """Tries whether the detector can be saved: now, rather than after hours of training."""
    from ast_hf.hub.names import available_checkpoints, check_name

    check_folder(options.output)
    if options.name:
        check_name(options.name)
        if options.name in available_checkpoints():
            LOG.warning("There is a detector %s, which this one will take the place of.", options.name)


def _save(detector: Any, options: argparse.Namespace) -> None:
    """Saves, and says the threshold and what it takes for a promise of the rate asked for."""
    from ast_hf.hub.names import store
    from ast_hf.inference.calibration import CONFIDENCE, parts_to_promise, rate_to_promise

    write_or_rescue(partial(detector.save_pretrained, half_precision=options.half_precision), options.output)
    LOG.info("Saved to %s", options.output)
    if options.name:
        LOG.info("Stored as %s, in %s", options.name, store(detector, options.name))
    if (calibration := detector.calibration) is not None:
        rate, count = calibration.false_positive_rate, len(calibration.scores)
        needed = parts_to_promise(rate)
        more = f"{needed - count} more such parts and " if needed > count else ""
        lower = f"--false-positive-rate {rate_to_promise(rate, max(count, needed)):.3g}"
        promise = f"Less than {100 * rate:.3g} % with {100 * CONFIDENCE:g} % confidence takes {more}{lower}."
        LOG.info("%s %s", calibration.describe(), promise)
