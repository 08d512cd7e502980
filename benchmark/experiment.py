"""One job from data to figures: trains and saves a detector, evaluates it, and writes its folder; the result file last.

The two steps are apart: where an earlier attempt has trained the detector, it is only evaluated.
"""

from __future__ import annotations

import io
import logging
import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import timm
import torch

import ast_hf
from ast_hf.config import PRETRAINED, ASTDetectorConfig, TrainingRecipe
from ast_hf.data import Sample
from ast_hf.data.folders import mark_output
from ast_hf.detector import ASTDetector
from ast_hf.errors import ASTError
from ast_hf.files import write_atomic, write_or_rescue
from ast_hf.hub.names import store_backbone
from ast_hf.nn.precision import resolve_precision
from ast_hf.results import csv_line
from ast_hf.training.features import FeatureCache, PreparedSamples, default_cache_folder, prepare
from ast_hf.training.fitting import fit_config
from ast_hf.training.progress import Progress
from ast_hf.training.trainer import calibrate, fit, hold_out
from benchmark.ablations import build_variant
from benchmark.datasets import Category, LabelledSample, check_masks, load_category
from benchmark.evaluate import Evaluation, measure, score_samples
from benchmark.heatmaps import SHEET_NAME, write_sheet
from benchmark.jobs import MODEL_NAME, Job, job_folder, write_result
from benchmark.published import published
from benchmark.variants import AST, SPECIAL

_LOG = logging.getLogger(__name__)


def run_job(job: Job, output: Path, *, device: str | None = None, progress: Progress) -> None:
    """Trains and evaluates one detector, or evaluates the one that is there from an earlier attempt.

    Args:
        job: What to do; its files go to jobs/ID/ in the run's folder `output`.
        output: The run's folder.
        device: Where; CUDA where there is one, by default.
        progress: Told how far it has come.

    Raises:
        ASTError: The data or the backbone's weights are not as they should be, or the loss stopped being finite.
    """
    category, folder = load_category(job.dataset, job.category, job.data_root, job.good), job_folder(output, job)
    check_masks(category)  # now, rather than after hours of training
    folder.mkdir(parents=True, exist_ok=True)
    detector = load_detector(job, category, folder / MODEL_NAME, device)
    if detector is None:
        detector = train_detector(job, category, device, progress)
        if job.variant not in SPECIAL:
            if detector.backbone is not None:
                store_backbone(detector.backbone)
            write_or_rescue(partial(detector.save_pretrained, include_backbone=False), folder / MODEL_NAME)
    evaluate_detector(job, output, detector, category, progress)


def load_detector(job: Job, category: Category, folder: Path, device: str | None) -> ASTDetector | None:
    """The detector that an earlier attempt at a job has saved, or None where there is none, or not a whole one."""
    if job.variant in SPECIAL or not folder.is_dir():
        return None
    weights = None if job.backbone_weights == PRETRAINED else job.backbone_weights
    try:
        detector = ASTDetector.from_pretrained(folder, device=device, backbone_weights=weights)
    except ASTError as error:
        _LOG.info("Trained again: %s", error)
        return None
    return detector if detector.config == detector_config(job, category) else None


def detector_config(job: Job, category: Category) -> ASTDetectorConfig:
    """The job's configuration with what comes from its training set (`training.fitting`)."""
    config, recipe = ASTDetectorConfig.from_dict(job.config), TrainingRecipe.from_dict(job.recipe)
    return fit_config(config, category.train, recipe)


def train_detector(job: Job, category: Category, device: str | None, progress: Progress) -> ASTDetector:
    """Trains on good parts: on all of them, as the paper does, unless the recipe holds some out.

    The threshold comes from those held out, or else from the dataset's own validation split, which serves for nothing
    else. The detector's metrics hold the receipt and the seconds that it took.
    """
    started, recipe = time.monotonic(), TrainingRecipe.from_dict(job.recipe)
    detector = build_variant(detector_config(job, category), job.variant, job.seed, job.backbone_weights).place(device)
    good, held = prepare_samples(job, detector, category.train, "train set", progress), None
    fitted, held_out = hold_out(len(good), recipe, job.seed)
    if held_out:
        good, held = good.select(fitted), good.select(held_out)
    elif category.validation:
        held = prepare_samples(job, detector, category.validation, "validation set", progress)
    prepared = time.monotonic()
    fit(detector, good, recipe, seed=job.seed, progress=progress)
    if held is not None:
        detector.calibration = calibrate(detector, held, precision=recipe.precision)
    seconds = {"features": prepared - started, "training": time.monotonic() - prepared}
    detector.metrics = {"receipt": training_receipt(detector, recipe, len(category.train)), "seconds": seconds}
    return detector


def evaluate_detector(job: Job, output: Path, detector: ASTDetector, category: Category, progress: Progress) -> None:
    """Measures a trained detector on the test set, and writes all that a job leaves."""
    started, folder = time.monotonic(), job_folder(output, job)
    test = prepare_samples(job, detector, category.test, "test set", progress)
    progress("evaluation", 0, 1)
    evaluation = score_samples(detector, test, job.recipe["precision"])
    figures = measure(evaluation, detector.calibration, category)
    mark_output(folder)
    write_scores(folder, category, evaluation)
    write_sheet(folder / SHEET_NAME, category.test, evaluation.anomaly_maps, detector.config.image_bits)
    trained = detector.metrics or {}
    seconds = {**trained.get("seconds", {}), "evaluation": time.monotonic() - started}
    receipt = {
        **trained.get("receipt", {}),
        "test_good": sum(s.label == 0 for s in category.test),
        "test_defective": sum(s.label for s in category.test),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    facts = {"published": published_figures(job, figures), "receipt": receipt}
    write_result(output, job, {"figures": figures, "seconds": {**seconds, "total": sum(seconds.values())}, **facts})
    progress("evaluation", 1, 1)


def prepare_samples(
    job: Job, detector: ASTDetector, samples: tuple[LabelledSample, ...], stage: str, progress: Progress
) -> PreparedSamples:
    """What goes into the networks of some samples.

    The feature cache is held by one job of a category at a time: seeds and modes after it find its features there.
    """
    inputs = [Sample(s.image, s.points if detector.config.uses_depth else None) for s in samples]
    precision = job.recipe["precision"]
    settings: dict[str, Any] = {"precision": precision, "on_batch": partial(progress, stage)}
    if detector.backbone is None:
        return prepare(detector, inputs, **settings)
    folder = default_cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / f".{job.dataset}-{job.category}-{detector.backbone.digest()[:16]}.lock"):
        return prepare(detector, inputs, cache=FeatureCache(folder, detector, precision), **settings)


def published_figures(job: Job, figures: Mapping[str, Any]) -> dict[str, str]:
    """What is published of AST for this very category, by figure; for drawn data and ablations nothing is."""
    if (job.data, job.variant) != ("files", AST):
        return {}
    known = {name: published(job.dataset, job.config["modality"], name, job.category) for name in figures}
    return {name: f"{paper} ({paper.by})" for name, paper in known.items() if paper is not None}


def write_scores(folder: Path, category: Category, evaluation: Evaluation) -> None:
    """scores.csv, a row a test part, and anomaly_maps.npy at feature resolution in the same order."""
    columns = ["image", "defect", "label", *evaluation.scores]
    lines = [csv_line(dict(zip(columns, columns, strict=True)), columns)]
    for index, sample in enumerate(category.test):
        scores = {name: float(f"{values[index]:.8g}") for name, values in evaluation.scores.items()}
        facts = {"image": str(sample.image), "defect": sample.defect, "label": sample.label}
        lines.append(csv_line({**facts, **scores}, columns))
    maps = io.BytesIO()
    np.save(maps, evaluation.anomaly_maps.numpy())
    write_atomic(folder / "anomaly_maps.npy", maps.getvalue())
    write_atomic(folder / "scores.csv", "".join(lines).encode())


def training_receipt(detector: ASTDetector, recipe: TrainingRecipe, train_parts: int) -> dict[str, Any]:
    """What a detector depends on besides its job's own settings."""
    device = detector.device
    return {
        "commit": _commit(),
        "ast_hf": ast_hf.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "arithmetic": resolve_precision(device, recipe.precision),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "backbone_sha256": None if detector.backbone is None else detector.backbone.digest(),
        "train_parts": train_parts,
    }


def _commit() -> str | None:
    """The commit this code was run from, with "-dirty" where it was changed since; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
