"""One job from data to figures: trains, evaluates, and writes its folder; the result file last."""

from __future__ import annotations

import contextlib
import csv
import io
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import timm
import torch

import ast_hf
from ast_hf.checkpoint import write_whole
from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from ast_hf.features import FeatureCache, PreparedParts, default_cache_folder, prepare
from ast_hf.hub import store_backbone
from ast_hf.model import ASTDetector, placed
from ast_hf.parts import Part
from ast_hf.scoring import image_score
from ast_hf.training import Progress, build, calibrate, fit, hold_out, select
from benchmark.ablations import AST, change_model, is_model_of_its_own
from benchmark.datasets import Category, Sample, load_category
from benchmark.evaluate import (
    Evaluation,
    decision_figures,
    image_figures,
    overlap_figures,
    pixel_figures,
    raw_maps,
    score_parts,
)
from benchmark.heatmaps import SHEET_NAME, write_sheet
from benchmark.jobs import Job, folder_of, write_result
from benchmark.published import published

MAPS_NAME = "anomaly_maps.npy"
SCORES_NAME = "scores.csv"


def run_job(job: Job, output: Path, *, device: str | None = None, progress: Progress) -> None:
    """Trains and evaluates one detector.

    Args:
        job: What to do.
        output: The run's folder; the job's files go to jobs/ID/ in it.
        device: Where; CUDA where there is one, by default.
        progress: Told how far it has come.
    """
    started = time.monotonic()
    config, recipe = ASTDetectorConfig.from_dict(job.config), TrainingRecipe.from_dict(job.recipe)
    category = load_category(job.dataset, job.category, job.data_root)
    model = placed(build(config, job.seed, backbone_weights=job.backbone_weights), device)
    model.precision = recipe.precision
    change_model(model, job.variant, job.seed)
    with shared_cache(job, model) as cache:
        good, test, validation = prepare_category(model, category, cache, progress)
    seconds = {"features": time.monotonic() - started}
    train_detector(model, good, validation, recipe, job.seed, progress)
    seconds["training"] = time.monotonic() - started - seconds["features"]
    progress("evaluation", 0, 1)
    evaluation = score_parts(model, test)
    figures = measure(model, category, evaluation)
    seconds["total"] = time.monotonic() - started
    folder = folder_of(output, job)
    folder.mkdir(parents=True, exist_ok=True)
    if not is_model_of_its_own(job.variant):
        model.save_pretrained(folder / "model", include_backbone=False)
        if model.backbone is not None:
            store_backbone(model.backbone)
    write_scores(folder, category, evaluation)
    write_sheet(folder / SHEET_NAME, category.test, evaluation.anomaly_maps)
    facts = {"published": published_figures(job, figures), "receipt": receipt(model, category)}
    write_result(output, job, {"figures": figures, "seconds": seconds, **facts})
    progress("evaluation", 1, 1)


def prepare_category(
    model: ASTDetector, category: Category, cache: FeatureCache | None, progress: Progress
) -> tuple[PreparedParts, PreparedParts, PreparedParts | None]:
    """What goes into the networks of the train, the test and, where there is one, the validation set."""

    def prepared(samples: tuple[Sample, ...], stage: str) -> PreparedParts:
        parts = [Part(s.image, s.points if model.config.uses_depth else None) for s in samples]
        return prepare(model, parts, cache=cache, on_batch=lambda done, total: progress(stage, done, total))

    good, test = prepared(category.train, "train set"), prepared(category.test, "test set")
    return good, test, prepared(category.validation, "validation set") if category.validation else None


@contextlib.contextmanager
def shared_cache(job: Job, model: ASTDetector) -> Iterator[FeatureCache | None]:
    """The feature cache, held by one job of a category at a time: seeds and modes after it find its features there."""
    if model.backbone is None:
        yield None
        return
    folder = default_cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / f".{job.dataset}-{job.category}-{model.backbone.digest()[:16]}.lock"):
        yield FeatureCache(folder, model)


def train_detector(
    model: ASTDetector,
    good: PreparedParts,
    validation: PreparedParts | None,
    recipe: TrainingRecipe,
    seed: int,
    progress: Progress,
) -> None:
    """Fits `model` to good parts: to all of them, as the paper does, unless the recipe holds some out.

    The threshold comes from those held out, or else from the dataset's own validation split, which serves for nothing
    else.
    """
    fitted, held_out = hold_out(len(good), recipe, seed)
    fit(model, select(good, fitted), recipe, seed=seed, progress=progress)
    if held_out:
        calibrate(model, select(good, held_out))
    elif validation is not None:
        calibrate(model, validation)


def measure(model: ASTDetector, category: Category, evaluation: Evaluation) -> dict[str, Any]:
    """All figures that the category allows."""
    figures = {**image_figures(evaluation, category), **decision_figures(model, evaluation, category.test)}
    if category.has_masks:
        maps = raw_maps(evaluation, category)
        figures |= pixel_figures(evaluation, maps, category.test)
        if category.defects_config:
            figures |= overlap_figures(maps, category)
    return figures


def published_figures(job: Job, figures: Mapping[str, Any]) -> dict[str, str]:
    """What is published of AST for this very category, by figure; for drawn data and ablations nothing is."""
    if (job.data, job.variant) != ("files", AST):
        return {}
    known = {name: published(job.dataset, job.config["modality"], name, job.category) for name in figures}
    return {name: f"{paper} ({paper.by})" for name, paper in known.items() if paper is not None}


def write_scores(folder: Path, category: Category, evaluation: Evaluation) -> None:
    """scores.csv, a row a test part, and the maps at feature resolution in the same order."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["image", "defect", "label", "score", "mean", "max", "teacher_mean"])
    columns = (
        evaluation.scores,
        image_score(evaluation.anomaly_maps, "mean"),
        image_score(evaluation.paper_maps, "max"),
        image_score(evaluation.nll_maps, "mean"),
    )
    for sample, *values in zip(category.test, *(c.tolist() for c in columns), strict=True):
        rows.writerow([sample.image, sample.defect, sample.label, *(f"{v:.8g}" for v in values)])
    maps = io.BytesIO()
    np.save(maps, evaluation.anomaly_maps.numpy())
    write_whole(folder / MAPS_NAME, maps.getvalue())
    write_whole(folder / SCORES_NAME, table.getvalue().encode())


def receipt(model: ASTDetector, category: Category) -> dict[str, Any]:
    """What the figures depend on besides the job's own settings."""
    device = model.device
    return {
        "commit": _commit(),
        "ast_hf": ast_hf.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "arithmetic": model.effective_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "backbone_sha256": None if model.backbone is None else model.backbone.digest(),
        "train_parts": len(category.train),
        "test_good": sum(s.label == 0 for s in category.test),
        "test_defective": sum(s.label for s in category.test),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The commit this code was run from, with "-dirty" where it was changed since; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
