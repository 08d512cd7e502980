"""The verb update."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ast_hf.cli.options import add_model
from ast_hf.cli.train import add_output, check_output, save
from ast_hf.config import PRESETS, TrainingRecipe, parse_overrides
from ast_hf.errors import ASTError


def add(verbs: Any) -> None:
    """Registers the verb."""
    verb = verbs.add_parser(
        "update",
        help="make a detector know good parts that came later",
        description="Makes a new detector of one and of good parts that came later: a new lot, other light. It learns "
        "from most of them and keeps the others for the threshold, as train does. The old detector stays as it was.",
    )
    add_model(verb)
    verb.add_argument("folder", help="pictures of the new good parts, as they came, not the false alarms alone")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--earlier", metavar="FOLDER", help="what it was trained on, so that it forgets none of that")
    how.add_argument(
        "--recalibrate-only", action="store_true", help="set the threshold anew and learn nothing: takes seconds"
    )
    verb.add_argument("--steps", type=int, default=60, help="of each optimiser (default: 60)")
    verb.add_argument(
        "--preset", default="compact", choices=list(PRESETS), help="what the detector was trained by (default: compact)"
    )
    verb.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields of the preset's recipe")
    add_output(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Updates and saves."""
    from ast_hf.detector import ASTDetector
    from ast_hf.training.update import recalibrate, update

    config_changes, recipe_changes = parse_overrides(options.set)
    if config_changes:
        raise ASTError(f"--set {', '.join(config_changes)}: that is part of the detector and stays; train a new one.")
    if Path(options.model).resolve() == options.output.resolve():
        raise ASTError(f"{options.output} is the old detector's folder: give another one as --output.")
    check_output(options)
    detector = ASTDetector.from_pretrained(options.model, device=options.device)
    if options.recalibrate_only:
        change = recalibrate
    else:
        recipe = TrainingRecipe.preset(options.preset, **recipe_changes)
        change = partial(update, recipe=recipe, earlier=options.earlier, steps=options.steps, seed=options.seed)
    save(change(detector, options.folder, cache_folder=False if options.no_feature_cache else None), options)
    return 0
