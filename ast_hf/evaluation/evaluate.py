"""Figures of a calibrated detector on labelled parts, with 95 % intervals for what is counted and for the AUROC."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ast_hf.data.sample import GOOD, LabelledSample
from ast_hf.errors import DatasetError, ImageReadError
from ast_hf.inference import Predictor
from ast_hf.inference.calibration import CONFIDENCE
from ast_hf.metrics import image_auroc, segmentation_metrics
from ast_hf.training.progress import Progress

_RESAMPLES = 1000
_FPR_LIMIT = 0.3


@dataclass(frozen=True)
class Proportion:
    """`count` of `total` parts: the rate, and the bounds of its exact (Clopper-Pearson) 95 % interval."""

    count: int
    total: int
    rate: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: Iterable[bool]) -> Proportion:
        """The share of at least one part that is true."""
        from scipy.stats import binomtest  # a second of import

        values = list(hits)
        interval = binomtest(sum(values), len(values)).proportion_ci(CONFIDENCE, method="exact")
        return cls(sum(values), len(values), sum(values) / len(values), float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Part:
    """What was said about one part; `defect` is "good" where it has none."""

    image: str
    defect: str
    score: float
    is_anomalous: bool


@dataclass(frozen=True)
class Evaluation:
    """Figures of a detector on labelled parts; rates and areas are in [0, 1].

    Attributes:
        good: The good parts, the highest score (the worst false alarm) first.
        anomalous: The anomalous parts, the lowest score (the worst miss) first.
        unreadable: Why others could not be used.
        threshold: The score above which a part was called anomalous.
        target_false_positive_rate: What the threshold is for.
        image_auroc: Area under the ROC curve.
        image_auroc_interval: Percentile bootstrap, good and anomalous parts resampled apart. Where all anomalous parts
            score above all good ones it has no width: they are too few to show an error, not proof that there is none.
        false_positive_rate: Good parts called anomalous.
        recall: Anomalous parts called anomalous.
        recall_by_defect: The same for each kind.
        lowest_anomalous_score: A threshold just below it catches all of these anomalous parts.
        held_out_above: Held-out good parts of the calibration that such a threshold calls anomalous.
        rate_to_catch_all: The `false_positive_rate` to ask for to have such a threshold; where 1, there is none.
        pixel_auroc, au_pro: At the pictures' own size, AU-PRO up to a false positive rate of 0.3; None without masks.
    """

    good: tuple[Part, ...]
    anomalous: tuple[Part, ...]
    unreadable: tuple[str, ...]
    threshold: float
    target_false_positive_rate: float
    image_auroc: float
    image_auroc_interval: tuple[float, float]
    false_positive_rate: Proportion
    recall: Proportion
    recall_by_defect: dict[str, Proportion]
    lowest_anomalous_score: float
    held_out_above: Proportion
    rate_to_catch_all: float
    pixel_auroc: float | None
    au_pro: float | None

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return dataclasses.asdict(self)


def evaluate(
    predictor: Predictor, samples: Sequence[LabelledSample], *, batch_size: int = 8, progress: Progress | None = None
) -> Evaluation:
    """Scores good and anomalous parts, and measures how well they are told apart.

    Where there are masks, the maps of all parts are held in memory, 5 bytes a pixel.

    Args:
        predictor: Of a calibrated detector.
        samples: The parts. Those that cannot be read are left out, and named in the result; those without a mask are
            left out of the figures of pixels.
        batch_size: How many are computed at once.
        progress: Told how far it has come.

    Raises:
        DatasetError: The detector is not calibrated, no good or no anomalous part can be read, or a mask does not fit.
    """
    if (calibration := predictor.calibration) is None:
        raise DatasetError(
            "This detector has no threshold to evaluate: train it with calibration_fraction above 0, so that good "
            "parts are held out for one."
        )
    parts, unreadable, maps, masks = defaultdict[str, list[Part]](list), [], [], []
    has_masks = any(sample.masks for sample in samples if sample.label)
    results = predictor.stream(samples, batch_size=batch_size, overlay_size=1)  # no picture is looked at
    for done, (sample, result) in enumerate(zip(samples, results, strict=True), start=1):
        if isinstance(result, ImageReadError):
            unreadable.append(str(result))
        else:
            parts[sample.defect].append(Part(sample.name, sample.defect, result.score, bool(result.is_anomalous)))
            if has_masks and (sample.masks or not sample.label):
                maps.append(result.anomaly_map)
                masks.append(sample.mask(result.anomaly_map.shape))
        if progress is not None:
            progress("parts", done, len(samples))
    good = sorted(parts.pop(GOOD, []), key=lambda part: -part.score)
    anomalous = sorted((part for kind in parts.values() for part in kind), key=lambda part: part.score)
    if not (good and anomalous):
        raise DatasetError(f"None of the {len(samples)} parts is {'anomalous' if good else 'good'} and can be read.")
    lowest = anomalous[0].score
    pixels = segmentation_metrics(maps, masks, (_FPR_LIMIT,)) if any(mask.any() for mask in masks) else None
    area, interval = _auroc([part.score for part in good], [part.score for part in anomalous])
    return Evaluation(
        good=tuple(good),
        anomalous=tuple(anomalous),
        unreadable=tuple(unreadable),
        threshold=calibration.threshold(),
        target_false_positive_rate=calibration.false_positive_rate,
        image_auroc=area,
        image_auroc_interval=interval,
        false_positive_rate=Proportion.of(part.is_anomalous for part in good),
        recall=Proportion.of(part.is_anomalous for part in anomalous),
        recall_by_defect={kind: Proportion.of(part.is_anomalous for part in parts[kind]) for kind in sorted(parts)},
        lowest_anomalous_score=lowest,
        held_out_above=Proportion.of(score >= lowest for score in calibration.scores),
        rate_to_catch_all=calibration.p_value(lowest),  # the rate whose threshold is the next lower held-out score
        pixel_auroc=None if pixels is None else pixels.pixel_auroc,
        au_pro=None if pixels is None else pixels.au_pro[_FPR_LIMIT],
    )


def _auroc(good: Sequence[float], anomalous: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The area and its bootstrap interval."""
    labels, random = np.repeat([0, 1], [len(good), len(anomalous)]), np.random.default_rng(0)
    areas = [
        image_auroc(np.concatenate([random.choice(good, len(good)), random.choice(anomalous, len(anomalous))]), labels)
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(areas, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return image_auroc([*good, *anomalous], labels), (float(low), float(high))
