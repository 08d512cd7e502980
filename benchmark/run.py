"""`python -m benchmark.run`: trains and evaluates AST on datasets and writes tables, plots and heat maps.

Every finished job leaves a result file; a run that is started again goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ast_hf.backbone import PRETRAINED
from ast_hf.config import PRESETS, ASTDetectorConfig, TrainingRecipe, parse_changes
from ast_hf.errors import ASTError
from ast_hf.training import progress_bars
from benchmark.datasets import DATASETS, list_categories
from benchmark.jobs import Job, folder_of, make_job, read_result
from benchmark.report import write_report
from benchmark.worker import run_job

_LOG = logging.getLogger("benchmark")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, or 1 where a job failed, or 2 where none could be made."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        jobs = plan(options)
    except ASTError as error:
        _LOG.error("%s", error)
        return 2
    failed = [job for job in jobs if not _done(job, options)]
    results = [result for job in jobs if (result := read_result(options.output, job)) is not None]
    if results:
        _LOG.info("\n%s", write_report(options.output, results))
    for job in failed:
        _LOG.error("Failed: %s (see %s)", job.id, folder_of(options.output, job) / "error.txt")
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", nargs="+", required=True, choices=list(DATASETS), help="datasets to run")
    parser.add_argument("--categories", nargs="+", help="categories to run (default: all that are there)")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder that holds the datasets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="one detector a seed (default: 0)")
    parser.add_argument("--preset", choices=list(PRESETS), help="what to train (default: the dataset's own)")
    parser.add_argument("--epochs", type=int, help="epochs of teacher and of student (default: the preset's)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields of configuration or recipe"
    )
    parser.add_argument(
        "--backbone-weights", default=PRETRAINED, help="safetensors file in timm's names (default: from the Hub)"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder for all results")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--force", action="store_true", help="run finished jobs again")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def plan(options: argparse.Namespace) -> list[Job]:
    """The jobs that the options ask for: every dataset, category and seed.

    Raises:
        ASTError: A dataset, category or setting is not known, or nothing is there.
    """
    jobs = []
    for dataset in options.datasets:
        preset = options.preset or DATASETS[dataset].preset
        config, recipe = settings(preset, options.set, options.epochs)
        for category in options.categories or list_categories(dataset, options.data_root):
            for seed in options.seeds:
                jobs.append(
                    make_job(
                        dataset,
                        category,
                        seed,
                        preset=preset,
                        config=config,
                        recipe=recipe,
                        data_root=options.data_root,
                        backbone_weights=options.backbone_weights,
                    )
                )
    if not jobs:
        raise ASTError(f"{options.data_root} holds none of: {', '.join(options.datasets)}. Give --data-root.")
    return jobs


def settings(preset: str, changes: Sequence[str], epochs: int | None) -> tuple[ASTDetectorConfig, TrainingRecipe]:
    """Configuration and recipe of a preset with changes; all good images are trained on, as in the paper."""
    config_changes, recipe_changes = parse_changes(changes)
    recipe: dict[str, Any] = {"calibration_fraction": 0.0, **recipe_changes}
    if epochs is not None:
        recipe["epochs"] = epochs
    return ASTDetectorConfig.preset(preset, **config_changes), TrainingRecipe.preset(preset, **recipe)


def _done(job: Job, options: argparse.Namespace) -> bool:
    """Runs a job unless its result is there; a failure is written down and the others go on."""
    if not options.force and read_result(options.output, job) is not None:
        _LOG.info("%s: done before", job.id)
        return True
    _LOG.info("%s", job.id)
    try:
        with progress_bars(disable=options.quiet or None) as progress:
            run_job(job, options.output, device=options.device, progress=progress)
    except Exception as error:
        folder = folder_of(options.output, job)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc())
        _LOG.error("%s failed: %s", job.id, error)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
