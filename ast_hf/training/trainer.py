"""Training: features once, the teacher by maximum likelihood, its targets once, the student by regression."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from ast_hf.config import DEFAULT_FALSE_POSITIVE_RATE, PRETRAINED, ASTDetectorConfig, Precision, TrainingRecipe
from ast_hf.data.images import read_image
from ast_hf.data.sample import Sample
from ast_hf.data.samples import collect_samples
from ast_hf.data.transforms import upsample_map
from ast_hf.detector import ASTDetector
from ast_hf.errors import ASTError, ConfigError
from ast_hf.inference.calibration import Calibration, check_rate
from ast_hf.nn.losses import distance_map, nll_map
from ast_hf.nn.network import ASTNetwork
from ast_hf.nn.precision import autocast, resolve_precision
from ast_hf.training.features import FeatureCache, PreparedSamples, default_cache_folder, prepare
from ast_hf.training.progress import Progress, progress_bars
from ast_hf.training.standardization import set_standardization

_LOG = logging.getLogger(__name__)
MIN_SAMPLES = 10
# A tenth of a small set is too few to set a threshold with; of a very small one a third has to do.
_ENOUGH_TO_CALIBRATE = 8


class TrainingError(ASTError, RuntimeError):
    """Training ended without a usable model."""


def train(
    config: ASTDetectorConfig,
    good_images: Any,
    recipe: TrainingRecipe | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    *,
    points: Any = None,
    false_positive_rate: float = DEFAULT_FALSE_POSITIVE_RATE,
    backbone_weights: str | Path | None = PRETRAINED,
    cache_folder: str | Path | Literal[False] | None = None,
    progress: Progress | None = None,
) -> ASTDetector:
    """Trains a detector on good parts alone and calibrates it on those it did not see.

    Args:
        config: What to build.
        good_images: A folder, or a sequence of pictures or a dataset (`data.samples.collect_samples`).
        recipe: How to train; the paper's by default.
        device: Where; CUDA where there is one, by default.
        seed: Fixes initial weights, hold-out and order: on one device the same seed gives the same model.
        points: Point clouds, one a picture, for depth modalities.
        false_positive_rate: Share of good parts that the threshold may call anomalous, in (0, 1).
        backbone_weights: "pretrained" takes timm's from the Hub, a path reads a safetensors file.
        cache_folder: Where features are kept for the next run, at most 4 GiB of them; by default
            `features.default_cache_folder()`, and False keeps none.
        progress: Called as training goes on; a progress bar on a terminal by default.

    Raises:
        ConfigError: There are too few images to train on and calibrate with, or the rate is outside (0, 1).
        ImageReadError: An image cannot be used.
        TrainingError: The loss stopped being finite.
    """
    recipe = recipe or TrainingRecipe()
    check_rate(false_positive_rate)  # now, rather than after an hour of training
    samples = collect_samples(config, good_images, points)
    fitted, held_out = hold_out(len(samples), recipe, seed)
    config = fit_image_size(config, samples) if recipe.keep_aspect else config
    detector = build(config, seed, backbone_weights=backbone_weights).place(device)
    bars = progress_bars() if progress is None else contextlib.nullcontext(progress)
    with bars as report:
        cache = None
        if detector.backbone is not None and cache_folder is not False:
            cache = FeatureCache(Path(cache_folder or default_cache_folder()), detector, recipe.precision)
        prepared = prepare(
            detector,
            samples,
            precision=recipe.precision,
            cache=cache,
            on_batch=lambda done, total: report("features", done, total),
        )
        fit(detector, prepared.select(fitted), recipe, seed=seed, progress=report)
        if held_out:
            held = prepared.select(held_out)
            detector.calibration = calibrate(detector, held, false_positive_rate, precision=recipe.precision)
    return detector


def fit_image_size(config: ASTDetectorConfig, samples: Sequence[Sample]) -> ASTDetectorConfig:
    """The configuration with pictures of the samples' median aspect, at the same area and in multiples of 32 pixels.

    Where `image_size` is (height, width) already, or height maps go in, which are square, it stays as it is.
    """
    if isinstance(config.image_size, tuple) or config.uses_depth:
        return config
    some = (sample.image for sample in samples[:: max(1, len(samples) // 50)])
    sizes = [read_image(image).size for image in some if image is not None]
    aspect = median(width / height for width, height in sizes)
    sides = (config.image_size / aspect**0.5, config.image_size * aspect**0.5)
    height, width = (max(32, 32 * round(side / 32)) for side in sides)
    if height != width:
        _LOG.info("Pictures are resized to %d x %d pixels (height x width), after their median aspect.", height, width)
        return replace(config, image_size=(height, width))
    return config


def build(config: ASTDetectorConfig, seed: int, *, backbone_weights: str | Path | None = PRETRAINED) -> ASTDetector:
    """An untrained detector whose initial weights the seed fixes; the caller's random numbers are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ASTDetector(config, backbone_weights=backbone_weights)


def hold_out(count: int, recipe: TrainingRecipe, seed: int) -> tuple[list[int], list[int]]:
    """Splits `count` samples at random into those to fit and those to calibrate with.

    Raises:
        ConfigError: There are too few, or fewer would be left to fit than are held out.
    """
    if recipe.calibration_fraction == 0:
        if count == 0:
            raise ConfigError("There are no images to train on.")
        return list(range(count)), []
    if count < MIN_SAMPLES:
        raise ConfigError(
            f"{count} images are too few to train and calibrate: give at least {MIN_SAMPLES} good ones, "
            "or set calibration_fraction=0 to train without a threshold."
        )
    held = max(min(_ENOUGH_TO_CALIBRATE, count // 3), math.ceil(count * recipe.calibration_fraction))
    if count - held < held:
        raise ConfigError(
            f"calibration_fraction={recipe.calibration_fraction} holds {held} of {count} images out and leaves "
            f"{count - held} to train on: give a smaller one, such as 0.1."
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[held:]), sorted(order[:held])


def fit(
    network: ASTNetwork,
    samples: PreparedSamples,
    recipe: TrainingRecipe,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Trains teacher and then student, in place; the network is in eval mode afterwards, however it ends."""
    set_standardization(network, samples.inputs)
    generator = torch.Generator().manual_seed(seed)
    fit_teacher(network, samples, recipe, generator, progress)
    fit_student(network, samples, recipe, generator, progress)


def fit_teacher(
    network: ASTNetwork,
    samples: PreparedSamples,
    recipe: TrainingRecipe,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> None:
    """Trains the teacher of a standardised network in place; `generator` draws the order of the samples."""
    inputs, mask = network.standardize(samples.inputs), samples.mask

    def loss(rows: Tensor) -> Tensor:
        z, log_jac = network.teacher_forward(_noisy(inputs[rows], recipe.feature_noise, generator))
        return nll_map(z, log_jac, None if mask is None else mask[rows]).mean()

    _optimize(network.teacher, loss, len(samples), recipe, generator, "teacher", progress)


def fit_student(
    network: ASTNetwork,
    samples: PreparedSamples,
    recipe: TrainingRecipe,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> None:
    """Trains the student of a network whose teacher is trained, in place.

    Without noise the frozen teacher's targets are computed once: it sees no batch statistics and no augmentation, so
    they are the same in every epoch. With noise they are its answers to the noisy inputs.
    """
    inputs, mask = network.standardize(samples.inputs), samples.mask
    targets = inputs[:0]
    if not recipe.feature_noise:
        with autocast(network.device, recipe.precision):
            targets = teacher_targets(network, inputs)

    def loss(rows: Tensor) -> Tensor:
        seen = _noisy(inputs[rows], recipe.feature_noise, generator)
        target = teacher_targets(network, seen) if recipe.feature_noise else targets[rows]
        return distance_map(target, network.student_forward(seen), None if mask is None else mask[rows]).mean()

    _optimize(network.student, loss, len(samples), recipe, generator, "student", progress)


def _noisy(inputs: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Inputs with Gaussian noise; the generator is the CPU's, so that every device sees the same."""
    if not deviation:
        return inputs
    return inputs + deviation * torch.randn(inputs.shape, generator=generator).to(inputs.device)


@torch.no_grad()
def teacher_targets(network: ASTNetwork, inputs: Tensor, batch_size: int = 32) -> Tensor:
    """The teacher's z for standardised inputs (N, C, h, w)."""
    return torch.cat([network.teacher_forward(batch)[0] for batch in inputs.split(batch_size)])


@torch.no_grad()
def calibrate(
    network: ASTNetwork,
    samples: PreparedSamples,
    false_positive_rate: float = DEFAULT_FALSE_POSITIVE_RATE,
    *,
    precision: Precision = "auto",
    batch_size: int = 32,
) -> Calibration:
    """What good samples that the network was not trained on say about thresholds."""
    config, scores, peaks = network.config, [], []
    shown = config.image_shape if config.uses_rgb else (config.depth_size, config.depth_size)
    with autocast(network.device, precision):
        for rows in torch.arange(len(samples)).split(batch_size):
            batch = samples.select(rows)
            output = network.score_inputs(batch.inputs, batch.mask)
            scores += output.score.tolist()
            # Of the map as it is shown: between the cells bicubic upsampling overshoots, by up to 41 %.
            peaks += upsample_map(output.anomaly_map, shown).amax(dim=(1, 2)).clamp_min(0).tolist()
    resolved = resolve_precision(network.device, precision)
    return Calibration(tuple(scores), tuple(peaks), false_positive_rate, resolved)


def _optimize(
    network: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    count: int,
    recipe: TrainingRecipe,
    generator: torch.Generator,
    stage: str,
    progress: Progress | None,
) -> None:
    """Adam over shuffled batches of row numbers; the last incomplete batch of an epoch is dropped."""
    device = next(network.parameters()).device
    optimizer = torch.optim.Adam(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    batch_size, epochs = min(recipe.batch_size, count), recipe.epochs_for(count)
    scheduler = None
    if recipe.schedule == "one-cycle" and epochs:
        scheduler = OneCycleLR(optimizer, recipe.learning_rate, epochs * (count // batch_size), pct_start=0.1)
    network.train()
    try:
        for epoch in range(epochs):
            order, total = torch.randperm(count, generator=generator).to(device), torch.zeros((), device=device)
            batches = order[: count - count % batch_size].split(batch_size)
            for rows in batches:
                optimizer.zero_grad(set_to_none=True)
                with autocast(device, recipe.precision):
                    loss = loss_of(rows)
                loss.backward()
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                total.add_(loss.detach())
            mean = total.item() / len(batches)  # read once an epoch, so that a GPU never waits
            if not math.isfinite(mean):
                raise TrainingError(f"The loss is {mean} in epoch {epoch + 1}: lower the learning rate or the clamp.")
            if progress is not None:
                progress(stage, epoch + 1, epochs, mean)
    finally:
        network.eval()
