"""Verdict, gauge and histogram as HTML that says in words what it shows, for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ast_hf.inference import Calibration, Prediction

_CROSS = '<circle cx="12" cy="12" r="10"/><path d="M8 8l8 8M16 8l-8 8"/>'
_TICK = '<circle cx="12" cy="12" r="10"/><path d="M7 12.5l3.5 3.5L17 9"/>'
_BINS = 40


def position(ratio: float) -> float:
    """Where a score, in units of the threshold, lies on the scale of gauge and histogram, in [0, 1).

    As the colours of heat maps (`ast_hf.inference.visualize`): the threshold is in the middle, below it the scale is
    linear, above it has room for any score.
    """
    return max(0.0, ratio) / 2 if ratio < 1 else 1 - 0.5 / ratio


def verdict(prediction: Prediction, calibration: Calibration) -> str:
    """Verdict, histogram of good parts and gauge, one under the other on one scale, and what the threshold promises."""
    assert prediction.threshold is not None
    ratio = prediction.score / prediction.threshold
    kind, icon, title = ("defect", _CROSS, "Defect") if prediction.is_anomalous else ("good", _TICK, "No defect found")
    times, among = f"{ratio:.{0 if ratio >= 100 else 2}f}", _among_good(prediction.score, calibration)
    label = f"Score {prediction.score:.4g}, threshold {prediction.threshold:.4g}. {among}"
    return f"""<div class="ast-{kind}" role="status">
<div class="ast-verdict"><svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2"
 stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{icon}</svg>
<div><strong>{title}</strong><span>The score is {times} times the threshold. {escape(among)}</span></div></div>
{_figure(label, _bars(calibration.scores, prediction.threshold), position(ratio))}
<p class="ast-chart">{escape(calibration.describe())}</p></div>"""


def distribution(calibration: Calibration, scores: Sequence[float] = ()) -> str:
    """The histogram of held-out good scores, under that of other `scores` where there are some, with the threshold."""
    threshold, good = calibration.threshold(), f"{len(calibration.scores)} good parts kept out of training"
    above = sum(score > threshold for score in scores)
    new = f"These {len(scores)} pictures, {above} above the threshold" if scores else ""
    bars = f"<p>{new}</p>{_bars(scores, threshold, 'new')}" if scores else ""
    bars += f"<p>{good}</p>{_bars(calibration.scores, threshold)}"
    return _figure(f"Histogram of the scores of {good}. {new}", bars)


def _figure(label: str, bars: str, mark: float | None = None) -> str:
    """Histograms over the scale, with the threshold through both, and perhaps a gauge up to a `mark` in [0, 1)."""
    parts = [] if mark is None else [("fill", "width"), ("mark", "left")]
    gauge = "".join(f'<div class="ast-{part}" style="{side}:{mark:.1%}"></div>' for part, side in parts)
    return f"""<figure class="ast-chart" role="img" aria-label="{escape(label)}">{bars}
<div class="ast-track">{gauge}</div><div class="ast-limit"></div>
<div class="ast-scale" aria-hidden="true"><span style="left:0">0</span><span style="left:50%">threshold</span>
<span style="left:75%">2&times;</span><span style="left:95%">10&times;</span></div></figure>"""


def _among_good(score: float, calibration: Calibration) -> str:
    scores = calibration.scores
    higher, p = sum(other >= score for other in scores), calibration.p_value(score)
    least = f", the least that {len(scores)} can show" if not higher else ""
    among = f"Of {len(scores)} good parts kept out of training {higher or 'none'} scored as high"
    return f"{among} (p\xa0=\xa0{p:.2g}{least})."


def _bars(scores: Sequence[float], threshold: float, kind: str = "") -> str:
    """A histogram of scores; bins are equally wide on the scale, not in score."""
    counts = [0] * _BINS
    for score in scores:
        counts[min(_BINS - 1, int(position(score / threshold) * _BINS))] += 1
    rectangles = "".join(
        f'<rect x="{i + 0.1}" y="{1 - n / max(counts):.3f}" width="0.8" height="{n / max(counts):.3f}"/>'
        for i, n in enumerate(counts)
        if n
    )
    return f'<svg class="ast-bars {kind}" viewBox="0 0 {_BINS} 1" preserveAspectRatio="none">{rectangles}</svg>'


def progress(text: str, done: int = 0, total: int = 0) -> str:
    """A line of text, which screen readers are told of, over a bar where there is something to count."""
    bar = f'<div class="ast-track"><div class="ast-fill" style="width:{done / total:.1%}"></div></div>' if total else ""
    return f'<div class="ast-status" role="status">{escape(text)}{bar}</div>'
