"""Training: features once, the teacher by maximum likelihood, its targets once, the student by regression."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from ast_hf.config import DEFAULT_FALSE_POSITIVE_RATE, PRETRAINED, ASTDetectorConfig, Precision, TrainingRecipe
from ast_hf.data.sample import Sample
from ast_hf.data.samples import collect_good_samples
from ast_hf.data.transforms import upsample_map
from ast_hf.detector import ASTDetector, default_device
from ast_hf.errors import ASTError, ConfigError
from ast_hf.inference.calibration import Calibration, check_rate
from ast_hf.nn.losses import distance_map, nll_map
from ast_hf.nn.network import ASTNetwork, Pair
from ast_hf.nn.precision import autocast, resolve_precision
from ast_hf.training.features import FeatureCache, PreparedSamples, default_cache_folder, prepare
from ast_hf.training.fitting import fit_config, fit_region, set_standardization
from ast_hf.training.progress import Progress, progress_bars
from ast_hf.training.steps import GradientStep

MIN_SAMPLES = 10
# A tenth of a small set is too few to set a threshold with; of a very small one a third has to do.
_ENOUGH_TO_CALIBRATE = 8
_BATCH_SIZE = 32  # where nothing is learnt


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
        recipe, device, progress: By default the paper's, CUDA where there is one, and a bar on a terminal.
        seed: Fixes initial weights, hold-out and order: on one device the same seed gives the same model.
        points: Point clouds, one a picture, for depth modalities.
        region: A mask of the pictures' aspect (a path, PIL image or bool array), white where is looked, now and later.
        false_positive_rate: Share of good parts that the threshold may call anomalous, in (0, 1).
        backbone_weights: As for `Backbone`.
        cache_folder: For at most 4 GiB of features; `features.default_cache_folder()` by default, False keeps none.

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
    with progress_bars(progress) as report:
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
    """Splits `count` samples at random into those to fit and those to calibrate with; `ConfigError` for too few."""
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
    samples = replace(samples, inputs=network.standardize(samples.inputs))
    generator = torch.Generator().manual_seed(seed)
    wide = _PairFit(network, samples, network.config.tiles, recipe, generator, progress)
    wide.run()
    if network.local is not None:
        recipe = replace(recipe, feature_noise=recipe.local_noise, epochs=recipe.local_epochs)
        replace(wide, pair=network.local, recipe=recipe, targets=None).run("local ")


@dataclass
class _PairFit:
    """A pair that learns from standardised samples.

    Of whole maps without noise the frozen teacher's targets are computed once: it sees no batch statistics and no
    augmentation, so they are the same in every epoch. Else they are its answers to what the student sees.
    """

    pair: Pair
    samples: PreparedSamples
    tiles: tuple[int, int]
    recipe: TrainingRecipe
    generator: torch.Generator  # of order, crops and noise; the CPU's, so that every device sees the same
    progress: Progress | None
    targets: Tensor | None = None

    def run(self, prefix: str = "") -> None:
        self._optimize(self.pair.teacher, self._teacher_loss, f"{prefix}teacher")
        if not self.recipe.feature_noise and self.tiles == (1, 1):
            with autocast(self.samples.inputs.device, self.recipe.precision):
                self.targets = self._teach(self.samples.inputs, self.pair.positional_encoding)
        self._optimize(self.pair.student, self._student_loss, f"{prefix}student")

    @torch.no_grad()
    def _teach(self, inputs: Tensor, encoding: Tensor) -> Tensor:
        return torch.cat([self.pair.teacher_forward(batch, encoding)[0] for batch in inputs.split(_BATCH_SIZE)])

    def _teacher_loss(self, inputs: Tensor, mask: Tensor | None, encoding: Tensor, _: Tensor | None) -> Tensor:
        return nll_map(*self.pair.teacher_forward(inputs, encoding), mask).mean()

    def _student_loss(self, inputs: Tensor, mask: Tensor | None, encoding: Tensor, target: Tensor | None) -> Tensor:
        target = self._teach(inputs, encoding) if target is None else target
        return distance_map(target, self.pair.student_forward(inputs, encoding), mask).mean()

    def _draw(self, rows: Tensor) -> tuple[Tensor | None, ...]:
        """What a step sees, whole maps or crops of a tile's size: inputs, mask, positional encoding, and targets."""
        batch, sides = self.samples.select(rows), self.samples.inputs.shape[2:]
        crop = [side // count for side, count in zip(sides, self.tiles, strict=True)]
        # From beyond the borders, and moved inside: else cells there, which look different, would hardly be learnt.
        y, x = (
            int(torch.randint(-part, side + 1, (), generator=self.generator).clamp(0, side - part))
            if side > part
            else 0
            for side, part in zip(sides, crop, strict=True)
        )
        window = (..., slice(y, y + crop[0]), slice(x, x + crop[1]))
        inputs, mask = batch.inputs[window], None if batch.mask is None else batch.mask[window]
        if noise := self.recipe.feature_noise:
            inputs = inputs + noise * torch.randn(inputs.shape, generator=self.generator).to(inputs.device)
        targets = None if self.targets is None else self.targets[rows]
        return inputs, mask, self.pair.positional_encoding[window], targets

    def _optimize(self, network: nn.Module, loss_of: Callable[..., Tensor], stage: str) -> None:
        """Adam over shuffled batches; the last incomplete batch of an epoch is dropped.

        An epoch draws as many crops of each map as it has tiles: of fewer their cells would be learnt too seldom.
        """
        recipe, device = self.recipe, self.samples.inputs.device
        count = len(self.samples) * math.prod(self.tiles)
        step, rate = GradientStep(network, loss_of, recipe.precision), recipe.learning_rate
        optimizer = Adam(network.parameters(), lr=rate, weight_decay=recipe.weight_decay, fused=True)
        batch_size, epochs = min(recipe.batch_size, count), recipe.epochs_for(count)
        scheduler = None
        if recipe.schedule == "one-cycle":
            scheduler = OneCycleLR(optimizer, rate, epochs * (count // batch_size), pct_start=0.1)
        network.train()
        try:
            for epoch in range(epochs):
                order = torch.randperm(count, generator=self.generator).to(device) % len(self.samples)
                total, batches = torch.zeros((), device=device), order[: count - count % batch_size].split(batch_size)
                for rows in batches:
                    loss = step(*self._draw(rows))
                    optimizer.step()
                    if scheduler is not None:
                        scheduler.step()
                    total.add_(loss)
                mean = total.item() / len(batches)  # read once an epoch, so that a GPU never waits
                if not math.isfinite(mean):
                    fault = f"The loss is {mean} in epoch {epoch + 1}"
                    raise TrainingError(f"{fault}: lower the learning rate or the clamp.")
                if self.progress is not None:
                    self.progress(stage, epoch + 1, epochs, mean)
        finally:
            network.eval()


@torch.no_grad()
def calibrate(
    network: ASTNetwork,
    samples: PreparedSamples,
    false_positive_rate: float = DEFAULT_FALSE_POSITIVE_RATE,
    *,
    precision: Precision = "auto",
) -> Calibration:
    """What good samples that the network was not trained on say about thresholds."""
    config, scores, peaks = network.config, [], []
    shown = config.image_shape if config.uses_rgb else (config.depth_size, config.depth_size)
    with autocast(network.device, precision):
        for rows in torch.arange(len(samples)).split(_BATCH_SIZE):
            batch = samples.select(rows)
            output = network.score_inputs(batch.inputs, batch.mask)
            scores += output.score.tolist()
            # Of the map as it is shown: between the cells bicubic upsampling overshoots, by up to 41 %.
            peaks += upsample_map(output.anomaly_map, shown).amax(dim=(1, 2)).clamp_min(0).tolist()
    resolved = resolve_precision(network.device, precision)
    return Calibration(tuple(scores), tuple(peaks), false_positive_rate, resolved)
