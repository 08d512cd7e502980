"""An evaluation as text, and as one HTML file with its pictures inside that can be sent and printed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image
from PIL.Image import Resampling

from ast_hf._version import __version__
from ast_hf.data.sample import LabelledSample
from ast_hf.errors import ImageReadError
from ast_hf.evaluation.evaluate import Evaluation
from ast_hf.files import write_atomic
from ast_hf.inference import Predictor
from ast_hf.inference.regions import draw_regions, regions

_SHOWN = 9  # parts of each kind
_PIXELS = 480
_BINS = 48


def summarize(evaluation: Evaluation) -> str:
    """The figures, and the worst misses and false alarms, as lines of text."""
    return _render("summary.txt", evaluation)


def write_report(
    path: Path, evaluation: Evaluation, predictor: Predictor, samples: Sequence[LabelledSample], title: str
) -> None:
    """Writes the report; the parts that it shows are computed once more.

    Args:
        path: Of the HTML file.
        evaluation: What `evaluate` gave for `predictor` and `samples`.
        predictor: As there.
        samples: As there.
        title: What was evaluated on what.
    """
    by_name = {sample.name: sample for sample in samples}
    good, anomalous = (
        [(part, *pictures) for part in parts[:_SHOWN] if (pictures := _pictures(predictor, by_name[part.image]))]
        for parts in (evaluation.good, evaluation.anomalous)
    )
    html = _render(
        "report.html",
        evaluation,
        title=title,
        version=__version__,
        date=date.today().isoformat(),
        chart=_histogram(evaluation),
        shown=(("Anomalous parts with the lowest scores", anomalous), ("Good parts with the highest scores", good)),
    )
    write_atomic(path, html.encode("utf-8", "replace"))  # names of files may hold what is no text


def _render(template: str, evaluation: Evaluation, **more: Any) -> str:
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
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
        mask = Image.fromarray(sample.mask(prediction.size[::-1])).convert("L").resize(picture.size, Resampling.BOX)
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
