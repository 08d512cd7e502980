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

import benchmark.pixels
from benchmark.metrics import (
    SaturatedRegion,
    au_pro,
    au_spro,
    average_precision,
    f1_max,
    image_auroc,
    pixel_auroc,
    pixel_average_precision,
    pro_curve,
    segmentation_metrics,
    spro_curve,
)

GOLDEN = Path(__file__).parents[1] / "golden"
LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)


def disc_images(count: int = 5, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Float maps of different, odd sizes with one to three defects each; the last image is good."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(count):
        height, width = rng.integers(31, 60, size=2)
        rows, columns = np.mgrid[:height, :width]
        mask = np.zeros((height, width), np.uint8)
        for _ in range(0 if index == count - 1 else rng.integers(1, 4)):
            centre = rng.integers(0, height), rng.integers(0, width)
            mask[np.hypot(rows - centre[0], columns - centre[1]) < rng.integers(2, 8)] = rng.integers(1, 256)
        maps.append((rng.normal(size=mask.shape) + 1.5 * (mask != 0)).astype(np.float32))
        masks.append(mask)
    return maps, masks


def components(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """8-connected components by flood fill."""
    left = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    found = []
    while left:
        region, front = set(), [left.pop()]
        while front:
            r, c = front.pop()
            region.add((r, c))
            near = {(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            front.extend(near)
        found.append(region)
    return found


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


def argsort_area(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """AU-PRO as MVTec's code goes about it: one argsort of all pixels, cumulative sums, last of equal scores kept."""
    scores, false_positives, overlaps, count = [], [], [], 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, regions = ndimage.label(mask, np.ones((3, 3)))
        overlap = np.zeros(mask.shape)
        for region in range(1, regions + 1):
            overlap[labels == region] = 1 / np.sum(labels == region)
        scores.append(anomaly_map.ravel())
        false_positives.append(labels.ravel() == 0)
        overlaps.append(overlap.ravel())
        count += regions
    flat = np.concatenate(scores)
    order = np.argsort(flat)[::-1]
    keep = np.append(np.diff(flat[order]) != 0, True)
    x = np.cumsum(np.concatenate(false_positives)[order])[keep] / np.concatenate(false_positives).sum()
    y = np.cumsum(np.concatenate(overlaps)[order])[keep] / count
    x, y = np.append(0, x), np.append(0, y)
    at_limit = np.interp(limit, x, y)
    x, y = np.append(x[x < limit], limit), np.append(y[x < limit], at_limit)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / limit)


# --- golden values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["segmentation_metrics", "segmentation_metrics_ties"])
def test_golden_values(name: str) -> None:
    golden = load_file(GOLDEN / f"{name}.safetensors")
    maps, masks = list(golden["anomaly_maps"]), list(golden["ground_truth"])
    expected = {key.removeprefix("expected."): v.item() for key, v in golden.items() if key.startswith("expected.")}
    scores, labels = [m.max() for m in maps], [m.any() for m in masks]
    measured = {f"aupro_{limit}": au_pro(maps, masks, limit) for limit in LIMITS} | {
        "pixel_auroc": pixel_auroc(maps, masks),
        "pixel_ap": pixel_average_precision(maps, masks),
        "image_auroc_max": image_auroc(scores, labels),
        "image_ap_max": average_precision(scores, labels),
    }
    assert measured == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", ["segmentation_metrics", "segmentation_metrics_ties"])
def test_au_spro_is_au_pro_where_nothing_saturates_early(name: str) -> None:
    golden = load_file(GOLDEN / f"{name}.safetensors")
    maps, regions = list(golden["anomaly_maps"]), []
    for mask in golden["ground_truth"]:
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions.append([SaturatedRegion(labels == k, np.count_nonzero(labels == k)) for k in range(1, count + 1)])
    curve = spro_curve(maps, regions)
    for limit in LIMITS:
        assert curve.area(limit) == pytest.approx(golden[f"expected.aupro_{limit}"].item(), abs=1e-7)
    assert au_spro(maps, regions) == curve.area(0.05)


# --- against the definitions -----------------------------------------------------------------------------------------


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
        regions.append([])
        for pixels, saturation in defects[-1]:
            region = np.zeros(mask.shape, bool)
            region[tuple(np.transpose(list(pixels)))] = True
            regions[-1].append(SaturatedRegion(region, float(saturation)))
    expected = brute_force_area(maps, defects, limit)
    assert au_spro(maps, regions, float(limit)) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20)
@given(tied_images())
def test_pixel_and_image_metrics_equal_scikit_learns(images: tuple[list, list]) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    maps, masks = images
    scores, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    expected = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    assert (pixel_auroc(maps, masks), pixel_average_precision(maps, masks)) == pytest.approx(expected, abs=1e-12)
    assert (image_auroc(scores, labels), average_precision(scores, labels)) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60)
@given(tied_images())
def test_f1_max_tries_every_threshold(images: tuple[list, list]) -> None:
    scores, labels = np.concatenate([m.ravel() for m in images[0]]), np.concatenate([m.ravel() for m in images[1]])
    f1 = {t: 2 * sum(labels & (scores >= t)) / (sum(labels) + sum(scores >= t)) for t in sorted(set(scores.tolist()))}
    best, threshold = f1_max(scores, labels)
    assert best == pytest.approx(max(f1.values()))
    assert threshold == max(t for t, value in f1.items() if value == pytest.approx(best))


@pytest.mark.parametrize("limit", LIMITS)
def test_untied_maps_equal_an_argsort_of_every_pixel(limit: float) -> None:
    maps, masks = disc_images()
    assert au_pro(maps, masks, limit) == pytest.approx(argsort_area(maps, masks, limit), abs=1e-9)


# --- invariants ------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(tied_images(), st.randoms(use_true_random=False))
def test_order_of_images_and_of_tied_pixels_does_not_matter(images: tuple[list, list], random) -> None:
    pairs = list(zip(*images, strict=True))
    random.shuffle(pairs)
    shuffled = [m[::-1, ::-1] for m, _ in pairs], [m[::-1, ::-1] for _, m in pairs]
    before, after = segmentation_metrics(*images), segmentation_metrics(*shuffled)
    assert after.au_pro == pytest.approx(before.au_pro, abs=1e-12)
    assert (after.pixel_auroc, after.pixel_average_precision) == pytest.approx(
        (before.pixel_auroc, before.pixel_average_precision), abs=1e-12
    )


def test_all_at_once_is_each_alone() -> None:
    maps, masks = disc_images()
    together = segmentation_metrics(maps, masks, LIMITS)
    assert together.pixel_auroc == pixel_auroc(maps, masks)
    assert together.pixel_average_precision == pixel_average_precision(maps, masks)
    assert together.au_pro == {limit: au_pro(maps, masks, limit) for limit in LIMITS}


def test_only_the_order_of_the_scores_counts() -> None:
    maps, masks = disc_images()
    stretched = [np.exp(3 * m.astype(np.float64)) for m in maps]
    assert segmentation_metrics(stretched, masks) == segmentation_metrics(maps, masks)


@pytest.mark.parametrize("size", [1, 1000, 4000])
def test_chunks_do_not_change_the_values(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    maps, masks = disc_images()
    at_once = segmentation_metrics(maps, masks)
    monkeypatch.setattr(benchmark.pixels, "_PIXELS_A_CHUNK", size)
    assert segmentation_metrics(maps, masks) == at_once


def test_the_rates_never_fall_and_end_at_one() -> None:
    curve = pro_curve(*disc_images())
    for rate in (curve.false_positive_rate, curve.rate):
        assert rate[0] == 0.0 and rate[-1] == 1.0 and (np.diff(rate) >= 0).all()


def test_maps_and_masks_are_left_as_they_were() -> None:
    maps, masks = disc_images()
    before = [m.copy() for m in maps], [m.copy() for m in masks]
    segmentation_metrics(maps, masks)
    assert all(map(np.array_equal, maps, before[0])) and all(map(np.array_equal, masks, before[1]))


def test_ok_scores_are_not_all_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark.pixels, "_PIXELS_A_CHUNK", 1 << 16)
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
