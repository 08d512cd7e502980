"""One job from data to figures: trains and saves a detector, evaluates it, and writes its folder; the result file last.

The two steps are apart: where an earlier attempt has trained the detector, it is only evaluated. Below them are the
networks of those variants of AST that the library alone cannot build.
"""

import io
import logging
import platform
import subprocess
import time
from collections import OrderedDict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import timm
import torch
from torch import Tensor, nn

import ast_hf
from ast_hf.config import PRETRAINED, ASTDetectorConfig, TrainingRecipe
from ast_hf.data import Sample
from ast_hf.data.folders import mark_output
from ast_hf.detector import ASTDetector
from ast_hf.errors import ASTError
from ast_hf.files import write_atomic, write_or_rescue
from ast_hf.hub.names import store_backbone
from ast_hf.nn.flow import build_teacher
from ast_hf.nn.precision import resolve_precision
from ast_hf.results import csv_line
from ast_hf.training.features import FeatureCache, PreparedSamples, default_cache_folder, prepare
from ast_hf.training.fitting import fit_config
from ast_hf.training.progress import Progress
from ast_hf.training.trainer import build, calibrate, fit, hold_out
from benchmark.datasets import Category, LabelledSample, check_masks, load_category
from benchmark.evaluate import Evaluation, measure, score_samples
from benchmark.jobs import AST, MODEL_NAME, RANDOM_TRUNK, RAW_PATCHES, SYMMETRIC, Job, job_folder, write_result
from benchmark.plots import SHEET_NAME, write_sheet
from benchmark.tables import published

_LOG = logging.getLogger(__name__)
_SPECIAL = (*SYMMETRIC, RANDOM_TRUNK, RAW_PATCHES)  # no checkpoint of these would load


def run_job(job: Job, output: Path, *, device: str | None = None, progress: Progress) -> None:
    """Trains and evaluates one detector, or evaluates the one that is there from an earlier attempt.

    Its files go to jobs/ID/ in the run's folder `output`. Raises an ASTError where the data or the backbone's weights
    are not as they should be, or the loss stopped being finite.
    """
    category, folder = load_category(job.dataset, job.category, job.data_root, job.good), job_folder(output, job)
    check_masks(category)  # now, rather than after hours of training
    folder.mkdir(parents=True, exist_ok=True)
    detector = _load_detector(job, category, folder / MODEL_NAME, device)
    if detector is None:
        detector = _train(job, category, device, progress)
        if job.variant not in _SPECIAL:
            if detector.backbone is not None:
                store_backbone(detector.backbone)
            write_or_rescue(partial(detector.save_pretrained, include_backbone=False), folder / MODEL_NAME)
    _evaluate(job, output, detector, category, progress)


def _load_detector(job: Job, category: Category, folder: Path, device: str | None) -> ASTDetector | None:
    """The detector that an earlier attempt at a job has saved, or None where there is none, or not a whole one."""
    if job.variant in _SPECIAL or not folder.is_dir():
        return None
    weights = None if job.backbone_weights == PRETRAINED else job.backbone_weights
    try:
        detector = ASTDetector.from_pretrained(folder, device=device, backbone_weights=weights)
    except ASTError as error:
        _LOG.info("Trained again: %s", error)
        return None
    return detector if detector.config == _fitted_config(job, category) else None


def _fitted_config(job: Job, category: Category) -> ASTDetectorConfig:
    return fit_config(ASTDetectorConfig.from_dict(job.config), category.train, TrainingRecipe.from_dict(job.recipe))


def _train(job: Job, category: Category, device: str | None, progress: Progress) -> ASTDetector:
    """Trains on good parts: on all of them, as the paper does, unless the recipe holds some out.

    The threshold comes from those held out, or else from the dataset's own validation split, which serves for nothing
    else. The detector's metrics hold the receipt and the seconds that it took.
    """
    started, recipe = time.monotonic(), TrainingRecipe.from_dict(job.recipe)
    detector = build_variant(_fitted_config(job, category), job.variant, job.seed, job.backbone_weights).place(device)
    good, held = _prepare(job, detector, category.train, "train set", progress), None
    fitted, held_out = hold_out(len(good), recipe, job.seed)
    if held_out:
        good, held = good.select(fitted), good.select(held_out)
    elif category.validation:
        held = _prepare(job, detector, category.validation, "validation set", progress)
    prepared = time.monotonic()
    fit(detector, good, recipe, seed=job.seed, progress=progress)
    if held is not None:
        detector.calibration = calibrate(detector, held, precision=recipe.precision)
    seconds = {"features": prepared - started, "training": time.monotonic() - prepared}
    detector.metrics = {"receipt": _receipt(detector, recipe, len(category.train)), "seconds": seconds}
    return detector


def _evaluate(job: Job, output: Path, detector: ASTDetector, category: Category, progress: Progress) -> None:
    """Measures a trained detector on the test set, and writes all that a job leaves."""
    started, folder = time.monotonic(), job_folder(output, job)
    test = _prepare(job, detector, category.test, "test set", progress)
    progress("evaluation", 0, 1)
    evaluation = score_samples(detector, test, job.recipe["precision"])
    figures = measure(evaluation, detector.calibration, category)
    mark_output(folder)
    _write_scores(folder, category, evaluation)
    write_sheet(folder / SHEET_NAME, category.test, evaluation.anomaly_maps, detector.config.image_bits)
    trained = detector.metrics or {}
    seconds = {**trained.get("seconds", {}), "evaluation": time.monotonic() - started}
    receipt = {
        **trained.get("receipt", {}),
        "test_good": sum(s.label == 0 for s in category.test),
        "test_defective": sum(s.label for s in category.test),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    seconds["total"] = sum(seconds.values())
    known = {name: published(job.dataset, job.config["modality"], name, job.category) for name in figures}
    # For drawn data and ablations nothing is published.
    papers = {k: f"{v} ({v.by})" for k, v in known.items() if v and (job.data, job.variant) == ("files", AST)}
    write_result(output, job, {"figures": figures, "seconds": seconds, "published": papers, "receipt": receipt})
    progress("evaluation", 1, 1)


def _prepare(
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


def _write_scores(folder: Path, category: Category, evaluation: Evaluation) -> None:
    """scores.csv, a row a test part, and anomaly_maps.npy at feature resolution in the same order."""
    columns = ["image", "defect", "label", *evaluation.scores]
    lines = [csv_line(dict(zip(columns, columns, strict=True)), columns)]
    for sample, row in zip(category.test, zip(*evaluation.scores.values(), strict=True), strict=True):
        values = [str(sample.image), sample.defect, sample.label, *(float(f"{score:.8g}") for score in row)]
        lines.append(csv_line(dict(zip(columns, values, strict=True)), columns))
    maps = io.BytesIO()
    np.save(maps, evaluation.anomaly_maps.numpy())
    write_atomic(folder / "anomaly_maps.npy", maps.getvalue())
    write_atomic(folder / "scores.csv", "".join(lines).encode())


def _receipt(detector: ASTDetector, recipe: TrainingRecipe, train_parts: int) -> dict[str, Any]:
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


def build_variant(config: ASTDetectorConfig, variant: str, seed: int, backbone_weights: str) -> ASTDetector:
    """An untrained detector of a variant (`jobs.VARIANTS`); other arguments as `trainer.build`."""
    if variant == RAW_PATCHES and not timm.is_model(raw_patches.__name__):
        timm.models.register_model(raw_patches)
    weights = None if variant in (RAW_PATCHES, RANDOM_TRUNK) else backbone_weights
    detector = build(config, seed, backbone_weights=weights)
    if variant in SYMMETRIC:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = SymmetricStudent(config, detector.map_size, repeats=SYMMETRIC[variant])
        # The detector's student is typed by what the configuration describes; all that is asked of it is forward.
        detector.add_module("student", student.eval())
    return detector


class SymmetricStudent(nn.Module):
    """A student with the teacher's own architecture: a flow, `repeats` times as deep.

    Being as bijective as the teacher, it follows it too well outside of the training distribution (paper, section 4.4).
    """

    def __init__(self, config: ASTDetectorConfig, map_size: tuple[int, int], repeats: int) -> None:
        super().__init__()
        self.flow = build_teacher(
            config.network_channels,
            map_size,
            condition_channels=config.position_channels,
            hidden_channels=config.teacher_channels,
            kernel_sizes=config.coupling_kernel_sizes * repeats,
            clamp=config.coupling_clamp,
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps x (B, C, h, w), with condition (B, P, h, w), to (B, C, h, w)."""
        return self.flow(x, c=None if condition is None else [condition])[0]


def raw_patches(pretrained: bool = False, **settings: Any) -> nn.Sequential:
    """No trunk, in timm's terms: the 8 x 8 mean colours (192 channels) of every patch of 32 x 32 pixels."""
    patches = nn.Conv2d(3, 192, 32, stride=32, bias=False)
    cells = torch.eye(64).view(64, 8, 8).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2) / 16
    with torch.no_grad():
        patches.weight.copy_(torch.einsum("ij,pyx->ipjyx", torch.eye(3), cells).flatten(0, 1))
    return nn.Sequential(OrderedDict(patches=patches))
