"""Training: features once, the teacher by maximum likelihood, its targets once, the student by regression."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from ast_hf.config import DEFAULT_FALSE_POSITIVE_RATE, PRETRAINED, ASTDetectorConfig, Precision, TrainingRecipe
from ast_hf.data.sample import Sample
from ast_hf.data.samples import collect_good_samples
from ast_hf.data.transforms import upsample_map
from ast_hf.detector import ASTDetector, default_device
from ast_hf.errors import ASTError, ConfigError
from ast_hf.inference.calibration import Calibration, check_rate
from ast_hf.nn.losses import distance_map, nll_map
from ast_hf.nn.network import ASTNetwork
from ast_hf.nn.pair import Pair
from ast_hf.nn.precision import autocast, resolve_precision
from ast_hf.training.crops import Crops
from ast_hf.training.features import FeatureCache, PreparedSamples, default_cache_folder, prepare
from ast_hf.training.fitting import fit_config, fit_region
from ast_hf.training.progress import Progress, progress_bars
from ast_hf.training.standardization import set_standardization
from ast_hf.training.steps import GradientStep

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
    region: Any = None,
    false_positive_rate: float = DEFAULT_FALSE_POSITIVE_RATE,
    backbone_weights: str | Path | None = PRETRAINED,
    cache_folder: str | Path | Literal[False] | None = None,
    progress: Progress | None = None,
) -> ASTDetector:
    """Trains a detector on good parts alone and calibrates it on those it did not see.

    Args:
        config: What to build.
        good_images: A folder, or a sequence of pictures or a dataset (`data.samples.collect_good_samples`).
        recipe: How to train; the paper's by default.
        device: Where; CUDA where there is one, by default.
        seed: Fixes initial weights, hold-out and order: on one device the same seed gives the same model.
        points: Point clouds, one a picture, for depth modalities.
        region: A mask of the pictures' aspect (a path, PIL image or bool array): only what is white in it is looked
            at, now and later. None looks at all.
        false_positive_rate: Share of good parts that the threshold may call anomalous, in (0, 1).
        backbone_weights: "pretrained" takes timm's from the Hub, a path reads a safetensors file.
        cache_folder: Where features are kept for the next run, at most 4 GiB of them; by default
            `features.default_cache_folder()`, and False keeps none.
        progress: Called as training goes on; a progress bar on a terminal by default.

    Raises:
        ConfigError: There are too few images to train on and calibrate with, or the rate is outside (0, 1).
        ImageReadError: An image cannot be used, or the folder is a dataset's root and no folder of good parts.
        TrainingError: The loss stopped being finite.
    """
    recipe = recipe or TrainingRecipe()
    check_rate(false_positive_rate)  # now, rather than after an hour of training
    device = default_device(device)
    samples = collect_good_samples(config, good_images, points)
    fitted, held_out = hold_out(len(samples), recipe, seed)
    config = replace(fit_config(config, samples, recipe), region=region is not None)
    detector = build(config, seed, backbone_weights=backbone_weights)
    if region is not None:
        detector.region.copy_(fit_region(config, region))
    detector.place(device)
    bars = progress_bars() if progress is None else contextlib.nullcontext(progress)
    with bars as report:
        prepared = prepare_cached(detector, samples, recipe.precision, cache_folder, report)
        fit(detector, prepared.select(fitted), recipe, seed=seed, progress=report)
        if held_out:
            held = prepared.select(held_out)
            detector.calibration = calibrate(detector, held, false_positive_rate, precision=recipe.precision)
    return detector


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


def prepare_cached(
    detector: ASTDetector,
    samples: Sequence[Sample],
    precision: Precision,
    cache_folder: str | Path | Literal[False] | None,
    progress: Progress,
) -> PreparedSamples:
    """`features.prepare` with the cache that `train` is told of."""
    cache = None
    if detector.backbone is not None and cache_folder is not False:
        cache = FeatureCache(Path(cache_folder or default_cache_folder()), detector, precision)
    return prepare(detector, samples, precision=precision, cache=cache, on_batch=partial(progress, "features"))


def fit(
    network: ASTNetwork,
    samples: PreparedSamples,
    recipe: TrainingRecipe,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    standardize: bool = True,
) -> None:
    """Trains each pair's teacher and then its student, in place; in eval mode afterwards, however it ends.

    Without `standardize` mean, deviation and projection stay as they are, for networks that are trained on.
    """
    if standardize:
        set_standardization(network, samples.inputs, samples.mask if network.config.region else None)
    crops = Crops(network.standardize(samples.inputs), samples.mask, network.config.tiles)
    generator = torch.Generator().manual_seed(seed)
    fit_teacher(network, crops, recipe, generator, progress)
    fit_student(network, crops, recipe, generator, progress)
    if network.local is not None:
        recipe = replace(recipe, feature_noise=recipe.local_noise, epochs=recipe.local_epochs)
        fit_teacher(network.local, crops, recipe, generator, progress, stage="local teacher")
        fit_student(network.local, crops, recipe, generator, progress, stage="local student")


def fit_teacher(
    pair: Pair,
    crops: Crops,
    recipe: TrainingRecipe,
    generator: torch.Generator,
    progress: Progress | None = None,
    stage: str = "teacher",
) -> None:
    """Trains a pair's teacher in place; `generator` draws order, crops and noise."""

    def draw(rows: Tensor) -> tuple[Tensor | None, ...]:
        inputs, mask, window = crops.draw(rows, recipe.feature_noise, generator)
        return inputs, mask, pair.positional_encoding[window]

    def loss(inputs: Tensor, mask: Tensor | None, encoding: Tensor) -> Tensor:
        return nll_map(*pair.teacher_forward(inputs, encoding), mask).mean()

    _optimize(pair.teacher, draw, loss, len(crops.inputs), recipe, generator, stage, progress)


def fit_student(
    pair: Pair,
    crops: Crops,
    recipe: TrainingRecipe,
    generator: torch.Generator,
    progress: Progress | None = None,
    stage: str = "student",
) -> None:
    """Trains the student of a pair whose teacher is trained; arguments as `fit_teacher`.

    Of whole maps without noise the frozen teacher's targets are computed once: it sees no batch statistics and no
    augmentation, so they are the same in every epoch. Else they are its answers to what the student sees.
    """
    once, targets = not recipe.feature_noise and crops.tiles == (1, 1), crops.inputs[:0]
    if once:
        with autocast(targets.device, recipe.precision):
            targets = teacher_targets(pair, crops.inputs)

    def draw(rows: Tensor) -> tuple[Tensor | None, ...]:
        inputs, mask, window = crops.draw(rows, recipe.feature_noise, generator)
        return inputs, mask, pair.positional_encoding[window], targets[rows] if once else None

    def loss(inputs: Tensor, mask: Tensor | None, encoding: Tensor, target: Tensor | None) -> Tensor:
        target = teacher_targets(pair, inputs, encoding) if target is None else target
        return distance_map(target, pair.student_forward(inputs, encoding), mask).mean()

    _optimize(pair.student, draw, loss, len(crops.inputs), recipe, generator, stage, progress)


@torch.no_grad()
def teacher_targets(pair: Pair, inputs: Tensor, encoding: Tensor | None = None, batch_size: int = 32) -> Tensor:
    """The teacher's z for standardised inputs (N, C, h, w), whole maps or crops with their positional encoding."""
    return torch.cat([pair.teacher_forward(batch, encoding)[0] for batch in inputs.split(batch_size)])


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
    draw: Callable[[Tensor], tuple[Tensor | None, ...]],
    loss_of: Callable[..., Tensor],
    count: int,
    recipe: TrainingRecipe,
    generator: torch.Generator,
    stage: str,
    progress: Progress | None,
) -> None:
    """Adam over shuffled batches that are drawn by row numbers; the last incomplete batch of an epoch is dropped."""
    device, step = next(network.parameters()).device, GradientStep(network, loss_of, recipe.precision)
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
                loss = step(*draw(rows))
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                total.add_(loss)
            mean = total.item() / len(batches)  # read once an epoch, so that a GPU never waits
            if not math.isfinite(mean):
                raise TrainingError(f"The loss is {mean} in epoch {epoch + 1}: lower the learning rate or the clamp.")
            if progress is not None:
                progress(stage, epoch + 1, epochs, mean)
    finally:
        network.eval()
