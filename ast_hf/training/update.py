"""Good parts that came later join a detector: to learn from and calibrate with, or to calibrate with alone."""

from __future__ import annotations

import copy
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

from ast_hf.config import DEFAULT_FALSE_POSITIVE_RATE, Precision, TrainingRecipe
from ast_hf.data.samples import collect_good_samples
from ast_hf.detector import ASTDetector
from ast_hf.errors import ConfigError
from ast_hf.inference.calibration import Calibration
from ast_hf.training.features import PreparedSamples
from ast_hf.training.progress import Progress, progress_bars
from ast_hf.training.trainer import calibrate, fit, hold_out, prepare_cached

_LOG = logging.getLogger(__name__)
# Of the recipe's learning rate: at all of it students learn a few new parts by heart, and the others are forgotten.
_LEARNING_RATE_SHARE = 0.1


def update(
    detector: ASTDetector,
    good_images: Any,
    recipe: TrainingRecipe | None = None,
    *,
    points: Any = None,
    earlier: Any = None,
    steps: int = 60,
    seed: int = 0,
    cache_folder: str | Path | Literal[False] | None = None,
    progress: Progress | None = None,
) -> ASTDetector:
    """A detector that has also learnt from good parts that came later; the one it is made of stays as it was.

    Some of the new parts are held out as in `train`; on the others teachers and students go on learning, at a tenth of
    the learning rate. With `earlier` they see as many of the parts they know, whose held-out ones are scored again and
    calibrate too (`join`). Without it they forget those, and the threshold is for parts like the new ones alone.

    Args:
        detector: Computes where it is, in its calibration's precision; standardisation, projection and region stay.
        good_images, points: All new parts, as for `train`; for some picked by score the threshold promises nothing.
        recipe, seed: What the detector was trained by and with; they say which of the earlier parts were held out.
        earlier: All parts that `train` was given, in the same form.
        steps: Of each optimiser, rounded up to whole epochs.

    Raises:
        ConfigError: There are too few new parts, or `earlier` is not what the detector was trained on.
        ImageReadError, TrainingError: As for `train`.
    """
    stored, recipe = detector.calibration, recipe or TrainingRecipe()
    recipe = replace(recipe, precision=stored.precision if stored else recipe.precision)
    new = collect_good_samples(detector.config, good_images, points)
    old = [] if earlier is None else collect_good_samples(detector.config, earlier)
    fitted, held_out = hold_out(len(new), recipe, seed)
    split = hold_out(len(old), recipe, seed) if old else ([], [])
    known, known_held_out = ([len(new) + row for row in rows] for rows in split)
    updated = copy.deepcopy(detector)
    updated.metrics = None  # which are of the other networks
    with progress_bars(progress) as report:
        prepared = prepare_cached(detector, [*new, *old], recipe.precision, cache_folder, report)
        if known_held_out and stored:
            _check_held_out(stored, _calibrated(detector, prepared.select(known_held_out), recipe.precision))
        most = steps * recipe.batch_size // 2 // math.prod(detector.config.tiles)  # an epoch takes each so often
        rows = _balanced(fitted, known, most, seed)
        rate = recipe.learning_rate * _LEARNING_RATE_SHARE
        gentle = replace(recipe, epochs=1, local_epochs=1, min_steps=steps, learning_rate=rate)
        fit(updated, prepared.select(rows), gentle, seed=seed, progress=report, standardize=False)
    lots = [prepared.select(rows) for rows in (known_held_out, held_out) if rows]
    found = [_calibrated(updated, lot, recipe.precision) for lot in lots]
    updated.calibration = reduce(join, found) if found else None
    return updated


def recalibrate(
    detector: ASTDetector,
    good_images: Any,
    *,
    points: Any = None,
    cache_folder: str | Path | Literal[False] | None = None,
    progress: Progress | None = None,
) -> ASTDetector:
    """The same networks with a threshold in which good parts that came later have a say; takes seconds.

    The stored scores hold, as the networks are the same; all new parts calibrate beside them (`join`). Arguments and
    errors as for `update`.
    """
    new = collect_good_samples(detector.config, good_images, points)
    if not new:
        raise ConfigError("There are no good parts to calibrate with.")
    stored, updated = detector.calibration, copy.deepcopy(detector)
    precision = stored.precision if stored else "auto"
    with progress_bars(progress) as report:
        found = _calibrated(updated, prepare_cached(detector, new, precision, cache_folder, report), precision)
    updated.calibration = join(stored, found) if stored else found
    return updated


def join(earlier: Calibration, new: Calibration) -> Calibration:
    """What the scores of earlier and of new good parts say together; new ones that are higher decide alone.

    Beside many earlier scores a few higher ones hardly move the threshold: of magnetic tiles at a longer exposure, 20
    beside 100 earlier ones, that of all called 12.8 % anomalous where 5 % were asked for, and that of the new ones
    4.8 %. A one-sided Mann-Whitney test at a level of 20 % says whether they are higher, which came to 4.9 % (with 6
    new ones 8.7 %; a level of 5 % to 5.9 % and 10.8 %), and where nothing has changed costs two or three defects in a
    hundred. Lower ones never decide alone, so that parts as they were keep their verdicts.
    """
    from scipy.stats import mannwhitneyu  # a second of import

    if mannwhitneyu(new.scores, earlier.scores, alternative="greater").pvalue < 0.2:
        _LOG.info("The new parts score higher than the earlier ones: the threshold comes from the new ones alone.")
        return new
    return replace(earlier, scores=(*earlier.scores, *new.scores), peaks=(*earlier.peaks, *new.peaks))


def _balanced(new: Sequence[int], known: Sequence[int], most: int, seed: int) -> list[int]:
    """Row numbers of an epoch: as many new parts as known ones, the fewer of them repeated, and no more than `most`."""
    if not known:
        return list(new)
    count = min(max(len(new), len(known)), max(most, 1))
    draw = random.Random(seed)
    return [row for rows in (new, known) for row in islice(cycle(draw.sample(rows, len(rows))), count)]


def _calibrated(detector: ASTDetector, samples: PreparedSamples, precision: Precision) -> Calibration:
    rate = detector.calibration.false_positive_rate if detector.calibration else DEFAULT_FALSE_POSITIVE_RATE
    return calibrate(detector, samples, rate, precision=precision)


def _check_held_out(stored: Calibration, found: Calibration) -> None:
    """Raises `ConfigError` where parts that should have been held out do not score as those did."""
    pairs = zip(stored.scores, found.scores, strict=False)
    if len(stored.scores) != len(found.scores) or not all(math.isclose(a, b, rel_tol=0.02) for a, b in pairs):
        raise ConfigError(
            "The earlier parts that should have been held out do not score as those that this detector was calibrated "
            "with: give all parts that it was trained on, its recipe and its seed. A detector that was updated is not "
            "updated with earlier parts again: start from the one before, with all parts that came since."
        )
