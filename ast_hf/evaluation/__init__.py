"""How a calibrated detector does on parts of which it is known whether they are good: figures, and a report of them.

May import all of `ast_hf` but the command line and the page.
"""

import base64
import dataclasses
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from ast_hf._version import __version__
from ast_hf.data.sample import GOOD, LabelledSample
from ast_hf.errors import DatasetError, ImageReadError
from ast_hf.files import write_atomic
from ast_hf.inference import Predictor
from ast_hf.inference.calibration import CONFIDENCE
from ast_hf.inference.regions import draw_regions, regions
from ast_hf.metrics import image_auroc, segmentation_metrics
from ast_hf.training.progress import Progress

__all__ = ["Evaluation", "evaluate", "summarize", "write_report"]
_RESAMPLES = 1000
_FPR_LIMIT = 0.3
_SHOWN = 9  # parts of each kind in a report
_PIXELS = 480
_BINS = 48


@dataclass(frozen=True)
class Proportion:
    """`count` of `total` parts: the rate, and the bounds of its exact (Clopper-Pearson) 95 % interval."""

    count: int
    total: int
    rate: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: Iterable[bool]) -> "Proportion":
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
    """Figures of a detector on labelled parts; rates and areas are in [0, 1], intervals of 95 %.

    The interval of the AUROC is a percentile bootstrap, good and anomalous parts resampled apart. Where all anomalous
    parts score above all good ones it has no width: they are too few to show an error, not proof that there is none.
    """

    good: tuple[Part, ...]  # the highest score, the worst false alarm, first
    anomalous: tuple[Part, ...]  # the lowest score, the worst miss, first
    unreadable: tuple[str, ...]  # why others could not be used
    threshold: float  # the score above which a part was called anomalous
    target_false_positive_rate: float  # what the threshold is for
    image_auroc: float
    image_auroc_interval: tuple[float, float]
    false_positive_rate: Proportion  # good parts called anomalous
    recall: Proportion  # anomalous parts called anomalous
    recall_by_defect: dict[str, Proportion]
    lowest_anomalous_score: float  # a threshold just below it catches all of these anomalous parts
    held_out_above: Proportion  # held-out good parts of the calibration that such a threshold calls anomalous
    rate_to_catch_all: float  # the `false_positive_rate` to ask for to have such a threshold; where 1, there is none
    pixel_auroc: float | None  # at the pictures' own size; None without masks
    au_pro: float | None  # the same, up to a false positive rate of 0.3

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return dataclasses.asdict(self)


def evaluate(
    predictor: Predictor, samples: Sequence[LabelledSample], *, batch_size: int = 8, progress: Progress | None = None
) -> Evaluation:
    """Scores good and anomalous parts, and measures how well they are told apart.

    Those that cannot be read are left out, and named in the result; anomalous ones without a mask are left out of the
    figures of pixels. Where there are masks, the maps of all parts are held in memory, 5 bytes a pixel.

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


def summarize(evaluation: Evaluation) -> str:
    """The figures, and the worst misses and false alarms, as lines of text."""
    return _render("summary.txt", evaluation)


def write_report(
    path: Path, evaluation: Evaluation, predictor: Predictor, samples: Sequence[LabelledSample], title: str
) -> None:
    """Writes what `evaluate` gave for `predictor` and `samples` as one HTML file, which can be sent and printed.

    The parts that it shows are computed once more.
    """
    by_name = {sample.name: sample for sample in samples}
    good, anomalous = (
        [(part, *pictures) for part in parts[:_SHOWN] if (pictures := _pictures(predictor, by_name[part.image]))]
        for parts in (evaluation.good, evaluation.anomalous)
    )
    shown = (("Anomalous parts with the lowest scores", anomalous), ("Good parts with the highest scores", good))
    more = {"version": __version__, "date": date.today().isoformat(), "chart": _histogram(evaluation), "shown": shown}
    html = _render("report.html", evaluation, title=title, **more)
    write_atomic(path, html.encode("utf-8", "replace"))  # names of files may hold what is no text


def _render(template: str, evaluation: Evaluation, **more: Any) -> str:
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "keep_trailing_newline": True}
    environment = Environment(loader=PackageLoader(__name__, ""), autoescape=select_autoescape(), **options)
    environment.filters["percent"] = lambda rate: f"{100 * rate:.1f} %"
    environment.filters["bounds"] = lambda interval: "95 %: {:.1f} to {:.1f}".format(*(100 * rate for rate in interval))
    # A stranger's file name must not steer a terminal.
    environment.filters["printable"] = lambda text: text if text.isprintable() else ascii(text)
    return environment.get_template(template).render(e=evaluation, **more)


def _pictures(predictor: Predictor, sample: LabelledSample) -> list[str]:
    """A part's picture, its defects framed where there are masks, and its overlay; none if it has gone meanwhile."""
    prediction = next(predictor.stream([sample], overlay_size=_PIXELS))
    if isinstance(prediction, ImageReadError):
        return []
    picture = prediction.image
    if sample.masks:
        mask = Image.fromarray(sample.mask(prediction.size[::-1])).convert("L")
        mask = mask.resize(picture.size, Image.Resampling.BOX)
        picture = draw_regions(picture, regions(np.asarray(mask), 0.5))
    return [_data_url(picture), _data_url(prediction.overlay())]


def _data_url(image: Image.Image) -> str:
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()


def _histogram(evaluation: Evaluation) -> dict[str, Any]:
    """Scores on a logarithmic axis: where it ends, and bars (left, height) and threshold in percent of the chart."""
    scores = [[part.score for part in parts] for parts in (evaluation.good, evaluation.anomalous)]
    seen = [score for score in (*scores[0], *scores[1], evaluation.threshold) if score > 0] or [1.0]
    low, high = min(seen) / 1.05, max(seen) * 1.05
    counts = [np.histogram(np.clip(kind, low, high), np.geomspace(low, high, _BINS + 1))[0] for kind in scores]
    highest = max(count.max() for count in counts)
    bars = [[(100 * i / _BINS, 50 * n / highest) for i, n in enumerate(count) if n] for count in counts]
    threshold = 100 * np.log(max(evaluation.threshold, low) / low) / np.log(high / low)
    return {"low": low, "high": high, "width": 100 / _BINS, "good": bars[0], "bad": bars[1], "threshold": threshold}
