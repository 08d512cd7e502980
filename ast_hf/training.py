"""Training: features once, the teacher by maximum likelihood, its targets once, the student by regression."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ast_hf.backbone import PRETRAINED
from ast_hf.calibration import DEFAULT_FALSE_POSITIVE_RATE, Calibration, check_rate
from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from ast_hf.errors import ASTError, ConfigError
from ast_hf.features import FeatureCache, PreparedParts, default_cache_folder, prepare
from ast_hf.graphs import Repeated
from ast_hf.model import ASTDetector, placed
from ast_hf.parts import as_parts
from ast_hf.scoring import distance_map, nll_map

MIN_PARTS = 10
# A tenth of a small set is too few to set a threshold with; of a very small one a third has to do.
_ENOUGH_TO_CALIBRATE = 8


class TrainingError(ASTError, RuntimeError):
    """Training ended without a usable model."""


class Progress(Protocol):
    """Told how far training has come."""

    def __call__(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        """`done` of `total` parts or epochs of a stage ("features", "teacher", "student"); the epoch's mean loss."""


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
    cache_folder: str | Path | None = None,
    progress: Progress | None = None,
) -> ASTDetector:
    """Trains a detector on good parts alone and calibrates it on those it did not see.

    Args:
        config: What to build.
        good_images: A folder, or a sequence of pictures or a dataset (`parts.as_parts`).
        recipe: How to train; the paper's by default.
        device: Where; CUDA where there is one, by default.
        seed: Fixes initial weights, hold-out and order: on one device the same seed gives the same model.
        points: Point clouds, one a picture, for depth modalities.
        false_positive_rate: Share of good parts that the threshold may call anomalous, in (0, 1).
        backbone_weights: "pretrained" takes timm's from the Hub, a path reads a safetensors file.
        cache_folder: Where features are kept for the next run; `features.default_cache_folder()` by default.
        progress: Called as training goes on; a progress bar on a terminal by default.

    Raises:
        ConfigError: There are too few images to train on and calibrate with, or the rate is outside (0, 1).
        ImageReadError: An image cannot be used.
        TrainingError: The loss stopped being finite.
    """
    recipe = recipe or TrainingRecipe()
    check_rate(false_positive_rate)  # now, rather than after an hour of training
    parts = as_parts(config, good_images, points)
    fitted, held_out = hold_out(len(parts), recipe, seed)
    model = placed(build(config, seed, backbone_weights=backbone_weights), device)
    bars = progress_bars() if progress is None else contextlib.nullcontext(progress)
    with bars as report, model.computing_in(recipe.precision):
        cache = None
        if model.backbone is not None:
            cache = FeatureCache(Path(cache_folder or default_cache_folder()), model)
        prepared = prepare(model, parts, cache=cache, on_batch=lambda done, total: report("features", done, total))
        fit(model, select(prepared, fitted), recipe, seed=seed, progress=report)
        if held_out:
            calibrate(model, select(prepared, held_out), false_positive_rate)
    return model


def build(config: ASTDetectorConfig, seed: int, *, backbone_weights: str | Path | None = PRETRAINED) -> ASTDetector:
    """An untrained detector whose initial weights the seed fixes; the caller's random numbers are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ASTDetector(config, backbone_weights=backbone_weights)


def hold_out(count: int, recipe: TrainingRecipe, seed: int) -> tuple[list[int], list[int]]:
    """Splits `count` parts at random into those to fit and those to calibrate with.

    Raises:
        ConfigError: Fewer would be left to fit than one batch, or than are held out.
    """
    if recipe.calibration_fraction == 0:
        if count == 0:
            raise ConfigError("There are no images to train on.")
        return list(range(count)), []
    if count < MIN_PARTS:
        raise ConfigError(
            f"{count} images are too few to train and calibrate: give at least {MIN_PARTS} good ones, "
            "or set calibration_fraction=0 to train without a threshold."
        )
    held = max(min(_ENOUGH_TO_CALIBRATE, count // 3), math.ceil(count * recipe.calibration_fraction))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[held:]), sorted(order[:held])


def select(prepared: PreparedParts, indices: Sequence[int]) -> PreparedParts:
    """Some of the parts."""
    rows = torch.as_tensor(indices, device=prepared.inputs.device)
    return PreparedParts(prepared.inputs[rows], None if prepared.foreground is None else prepared.foreground[rows])


def fit(
    model: ASTDetector,
    parts: PreparedParts,
    recipe: TrainingRecipe,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Trains teacher and then student of `model`, in place; the model is in eval mode afterwards."""
    set_standardization(model, parts.inputs)
    generator = torch.Generator().manual_seed(seed)
    fit_teacher(model, parts, recipe, generator, progress)
    fit_student(model, parts, recipe, generator, progress)


def fit_teacher(
    model: ASTDetector,
    parts: PreparedParts,
    recipe: TrainingRecipe,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> None:
    """Trains the teacher of a standardised `model` in place; `generator` draws the order of the parts."""
    inputs, mask = model.standardize(parts.inputs), parts.foreground

    def loss(rows: Tensor) -> Tensor:
        z, log_jac = model.teach(inputs[rows])
        return nll_map(z, log_jac, None if mask is None else mask[rows]).mean()

    with model.computing_in(recipe.precision):
        _optimize(model.teacher, loss, len(parts), recipe, generator, "teacher", progress)


def fit_student(
    model: ASTDetector,
    parts: PreparedParts,
    recipe: TrainingRecipe,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> None:
    """Trains the student of a `model` whose teacher is trained, in place.

    The frozen teacher's targets are computed once: it sees no batch statistics and no augmentation, so they are the
    same in every epoch.
    """
    inputs, mask = model.standardize(parts.inputs), parts.foreground

    def loss(rows: Tensor) -> Tensor:
        return distance_map(targets[rows], model.study(inputs[rows]), None if mask is None else mask[rows]).mean()

    with model.computing_in(recipe.precision):
        targets = teacher_targets(model, inputs)
        _optimize(model.student, loss, len(parts), recipe, generator, "student", progress)


@torch.no_grad()
def set_standardization(model: ASTDetector, inputs: Tensor) -> None:
    """Sets each channel's mean and deviation from inputs (N, C, h, w), where the configuration asks for it."""
    if model.config.feature_normalization == "channel":
        model.input_mean.copy_(inputs.mean(dim=(0, 2, 3)))
        # A channel that never changes says nothing; the floor keeps it from being divided by zero.
        model.input_deviation.copy_(inputs.std(dim=(0, 2, 3)).clamp_min(1e-6))


@torch.no_grad()
def teacher_targets(model: ASTDetector, inputs: Tensor, batch_size: int = 32) -> Tensor:
    """The teacher's z for standardised inputs (N, C, h, w)."""
    return torch.cat([model.teach(batch)[0] for batch in inputs.split(batch_size)])


@torch.no_grad()
def calibrate(
    model: ASTDetector,
    parts: PreparedParts,
    false_positive_rate: float = DEFAULT_FALSE_POSITIVE_RATE,
    batch_size: int = 32,
) -> None:
    """Sets `model.calibration` from good parts that the model was not trained on."""
    scores, peaks = [], []
    for rows in torch.arange(len(parts)).split(batch_size):
        batch = select(parts, rows.tolist())
        output = model.compare(batch.inputs, batch.foreground)
        scores += output.score.tolist()
        peaks += output.anomaly_map.amax(dim=(1, 2)).tolist()
    model.calibration = Calibration(tuple(scores), tuple(peaks), false_positive_rate, model.effective_precision)


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
        network.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
        capturable=device.type == "cuda",
    )
    # Its first steps are not recorded, which it would warn of.
    optimizer._warned_capturable_if_run_uncaptured = True
    batch_size = min(recipe.batch_size, count)
    # What a step reads and adds to stays where it is, so that it can be recorded.
    rows, total = torch.zeros(batch_size, dtype=torch.long, device=device), torch.zeros((), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(rows)
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())

    run = Repeated(step, device)
    network.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(count, generator=generator).to(device)
        batches = order[: count - count % batch_size].split(batch_size)
        for batch in batches:
            rows.copy_(batch)
            run()
        mean = total.item() / len(batches)  # read once an epoch, so that a GPU never waits
        total.zero_()
        if not math.isfinite(mean):
            raise TrainingError(f"The loss is {mean} in epoch {epoch + 1}: lower the learning rate or the clamp.")
        if progress is not None:
            progress(stage, epoch + 1, recipe.epochs, mean)
    network.eval()


@contextlib.contextmanager
def progress_bars(*, disable: bool | None = None) -> Iterator[Progress]:
    """A `Progress` that draws one bar a stage on stderr, with loss and time left; on a terminal only, by default."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def report(stage: str, done: int, total: int, loss: float | None = None) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            unit = "epoch" if stage in ("teacher", "student") else "part"
            bars[stage] = tqdm(total=total, desc=f"{stage:8}", unit=unit, disable=disable)
        if loss is not None:
            bars[stage].set_postfix_str(f"loss {loss:.4g}", refresh=False)
        bars[stage].update(done - bars[stage].n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()
