"""Metrics against golden values, their definitions in exact fractions, and scikit-learn."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy import ndimage

import ast_hf.metrics.ranking
from ast_hf.metrics import (
    SaturatedRegion,
    au_pro,
    au_spro,
    average_precision,
    f1_max,
    image_auroc,
    pixel_auroc,
    pro_curve,
    segmentation_metrics,
    spro_curve,
)

GOLDEN = Path(__file__).parents[1] / "golden"
LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)


def components(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """8-connected components."""
    numbered, count = ndimage.label(mask, np.ones((3, 3)))
    return [{(int(r), int(c)) for r, c in np.argwhere(numbered == k)} for k in range(1, count + 1)]


def region_of(pixels: set[tuple[int, int]], shape: tuple[int, int], saturation: float) -> SaturatedRegion:
    """A region as the metric takes it."""
    mask = np.zeros(shape, bool)
    mask[tuple(np.transpose(list(pixels)))] = True
    return SaturatedRegion(mask, saturation)


def brute_force_area(maps: list, defects: list[list[tuple[set, Fraction]]], limit: Fraction) -> float:
    """Area under (s)PRO by its definition: every pixel compared with every threshold, in exact fractions."""
    inside = [set().union(*(pixels for pixels, _ in image)) for image in defects]
    ok = [m[r, c] for m, i in zip(maps, inside, strict=True) for r, c in np.ndindex(m.shape) if (r, c) not in i]
    points = [(Fraction(0), Fraction(0))]
    for threshold in sorted({score for m in maps for score in m.ravel().tolist()}, reverse=True):
        overlaps = [
            min(Fraction(sum(m[p] >= threshold for p in pixels)) / saturation, Fraction(1))
            for m, image in zip(maps, defects, strict=True)
            for pixels, saturation in image
        ]
        points.append((Fraction(sum(score >= threshold for score in ok), len(ok)), sum(overlaps) / len(overlaps)))
    area = Fraction(0)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return float(area / limit)


def golden_images(name: str) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, float]]:
    """Maps, masks and expected values of a golden file."""
    golden = load_file(GOLDEN / f"{name}.safetensors")
    expected = {key.removeprefix("expected."): v.item() for key, v in golden.items() if key.startswith("expected.")}
    return list(golden["anomaly_maps"]), list(golden["ground_truth"]), expected


@pytest.mark.parametrize("name", ["segmentation_metrics", "segmentation_metrics_ties"])
def test_golden_values(name: str) -> None:
    maps, masks, expected = golden_images(name)
    scores, labels = [m.max() for m in maps], [m.any() for m in masks]
    pixels = segmentation_metrics(maps, masks, LIMITS)
    measured = {f"aupro_{limit}": pixels.au_pro[limit] for limit in LIMITS} | {
        "pixel_auroc": pixels.pixel_auroc,
        "pixel_ap": pixels.pixel_average_precision,
        "image_auroc_max": image_auroc(scores, labels),
        "image_ap_max": average_precision(scores, labels),
    }
    assert measured == pytest.approx(expected, abs=1e-7)
    # Where nothing saturates early AU-sPRO is AU-PRO.
    regions = [[region_of(pixels, mask.shape, len(pixels)) for pixels in components(mask)] for mask in masks]
    curve = spro_curve(maps, regions)
    assert {limit: curve.area(limit) for limit in LIMITS} == pytest.approx(pixels.au_pro, abs=1e-7)


@st.composite
def tied_images(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Up to three tiny maps of four distinct scores, with at least one ok and one defective pixel."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3))
    sizes = [height * width for height, width in shapes]
    total = sum(sizes)
    scores = np.array(draw(st.lists(st.integers(0, 3), min_size=total, max_size=total)), np.float32)
    defective = np.array(draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    if defective.all() or not defective.any():
        shapes, scores, defective = [*shapes, (1, 2)], np.append(scores, [1, 1]), np.append(defective, [True, False])
    ends = np.cumsum([height * width for height, width in shapes])[:-1]
    maps = [part.reshape(shape) for part, shape in zip(np.split(scores, ends), shapes, strict=True)]
    return maps, [part.reshape(shape) for part, shape in zip(np.split(defective, ends), shapes, strict=True)]


fractions = st.fractions(min_value=Fraction(1, 100), max_value=1, max_denominator=100)


@settings(max_examples=60)
@given(tied_images(), fractions)
def test_au_pro_equals_its_definition(images: tuple[list, list], limit: Fraction) -> None:
    maps, masks = images
    defects = [[(region, Fraction(len(region))) for region in components(mask)] for mask in masks]
    assert au_pro(maps, masks, float(limit)) == pytest.approx(brute_force_area(maps, defects, limit), abs=1e-9)


@settings(max_examples=60)
@given(tied_images(), fractions, st.data())
def test_au_spro_equals_its_definition(images: tuple[list, list], limit: Fraction, data: st.DataObject) -> None:
    maps, masks = images
    defects, regions = [], []
    for mask in masks:
        inside = [(int(r), int(c)) for r, c in np.argwhere(mask)]
        pixel_sets = st.sets(st.sampled_from(inside), min_size=1) if inside else st.nothing()
        chosen = data.draw(st.lists(pixel_sets, max_size=2)) if inside else []  # sets may overlap and be disconnected
        chosen = [*chosen, set(inside)] if inside else chosen
        defects.append([(pixels, data.draw(fractions) * len(pixels)) for pixels in chosen])
        regions.append([region_of(pixels, mask.shape, float(saturation)) for pixels, saturation in defects[-1]])
    expected = brute_force_area(maps, defects, limit)
    assert au_spro(maps, regions, float(limit)) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40)
@given(tied_images())
def test_metrics_of_single_scores_equal_scikit_learns_and_every_threshold(images: tuple[list, list]) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels = (np.concatenate([array.ravel() for array in arrays]) for arrays in images)
    expected = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    pixels = segmentation_metrics(*images)
    assert (pixels.pixel_auroc, pixels.pixel_average_precision) == pytest.approx(expected, abs=1e-12)
    assert (image_auroc(scores, labels), average_precision(scores, labels)) == pytest.approx(expected, abs=1e-12)
    f1 = {t: 2 * sum(labels & (scores >= t)) / (sum(labels) + sum(scores >= t)) for t in sorted(set(scores.tolist()))}
    best, threshold = f1_max(scores, labels)
    assert best == pytest.approx(max(f1.values()))
    assert threshold == max(t for t, value in f1.items() if value == pytest.approx(best))


def test_all_at_once_is_each_alone_and_only_the_order_of_the_scores_counts() -> None:
    maps, masks, _ = golden_images("segmentation_metrics")
    copies = [m.copy() for m in maps]
    together = segmentation_metrics(maps, masks, LIMITS)
    assert together.pixel_auroc == pixel_auroc(maps, masks)
    assert together.au_pro == {limit: au_pro(maps, masks, limit) for limit in LIMITS}
    assert segmentation_metrics([np.exp(m.astype(np.float64)) for m in maps], masks, LIMITS) == together
    assert all(map(np.array_equal, maps, copies)), "maps are left as they were"
    curve = pro_curve(maps, masks)
    for rate in (curve.false_positive_rate, curve.rate):
        assert rate[0] == 0.0 and rate[-1] == 1.0 and (np.diff(rate) >= 0).all()


def test_ok_scores_are_held_in_chunks_which_do_not_change_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks, _ = golden_images("segmentation_metrics")
    at_once = segmentation_metrics(maps, masks)
    for size in (1, 1000, 4000):
        monkeypatch.setattr(ast_hf.metrics.ranking, "PIXELS_A_CHUNK", size)
        assert segmentation_metrics(maps, masks) == at_once
    monkeypatch.setattr(ast_hf.metrics.ranking, "PIXELS_A_CHUNK", 1 << 16)
    maps = list(np.random.default_rng(0).random((24, 256, 256), dtype=np.float32))
    masks = [np.zeros((256, 256), np.uint8) for _ in maps]
    masks[0][:16, :16] = 1
    tracemalloc.start()
    try:
        segmentation_metrics(maps, masks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * sum(mask.size for mask in masks)  # a byte a pixel, and chunks; the maps are four bytes a pixel
