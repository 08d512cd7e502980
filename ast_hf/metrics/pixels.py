"""Anomaly maps and masks, checked and gathered: from (H, W) arrays of many images to the scores that are ranked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from ast_hf.metrics.ranking import Ranking, rank

Images = list[tuple[np.ndarray, np.ndarray]]  # (anomaly map, boolean mask), (H, W) each

PIXELS_A_CHUNK = 1 << 26
_NO_DEFECT = "None of the images has a defective pixel, so nothing can be found: give at least one defective image."
_NO_OK = "None of the images has an ok pixel, so there is no false positive rate: give masks that leave pixels out."


def check_counts(anomaly_maps: Sequence, others: Sequence, name: str) -> None:
    """Raises a ValueError unless there is one of the others for each map."""
    if len(anomaly_maps) != len(others):
        raise ValueError(
            f"There are {len(anomaly_maps)} anomaly maps but {len(others)} {name}: give one each an image."
        )


def check_shapes(index: int, map_shape: tuple[int, ...], other_shape: tuple[int, ...], name: str) -> None:
    """Raises a ValueError unless both shapes are the same (H, W)."""
    if len(map_shape) != 2 or map_shape != other_shape:
        raise ValueError(
            f"Anomaly map {index} has shape {map_shape} but its {name} has shape {other_shape}: both must "
            "be the same (H, W). Resize the map to the mask, not the mask to the map."
        )


def as_real(values: ArrayLike, name: str) -> np.ndarray:
    """The values as floats of at least 32 bits, without a copy where they are. Raises a ValueError if one is NaN."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, but its type is {array.dtype}.")
    array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    if array.size and np.isnan(array.min()):  # the minimum is NaN if anything is
        where = tuple(np.argwhere(np.isnan(array))[0].tolist())
        raise ValueError(f"{name} is NaN at {where if len(where) > 1 else where[0]}: a NaN cannot be ranked.")
    return array


def pair_images(anomaly_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> Images:
    """Checks maps and masks and makes the masks boolean; float maps are not copied.

    Raises:
        ValueError: The sequences do not match, a map holds NaN, or there is no defective or no ok pixel.
    """
    check_counts(anomaly_maps, masks, "masks")
    images = []
    for index, (anomaly_map, mask) in enumerate(zip(anomaly_maps, masks, strict=True)):
        values, defective = as_real(anomaly_map, f"Anomaly map {index}"), np.asarray(mask) != 0
        check_shapes(index, values.shape, defective.shape, "mask")
        images.append((values, defective))
    if not any(mask.any() for _, mask in images):
        raise ValueError(_NO_DEFECT)
    if all(mask.all() for _, mask in images):
        raise ValueError(_NO_OK)
    return images


def rank_pixels(images: Images) -> Ranking:
    """Ranks all defective against all ok pixels; the positives are in the order in which the masks select them."""
    return rank(np.concatenate([anomaly_map[mask] for anomaly_map, mask in images]), ok_chunks(images))


def ok_chunks(images: Images) -> Iterator[np.ndarray]:
    """The scores of all ok pixels, a limited number of whole images at a time."""
    firsts, pixels = [], PIXELS_A_CHUNK
    for index, (_, mask) in enumerate(images):
        if pixels >= PIXELS_A_CHUNK:
            firsts.append(index)
            pixels = 0
        pixels += mask.size
    for first, end in pairwise([*firsts, len(images)]):
        group = images[first:end]
        stops = np.cumsum([mask.size - np.count_nonzero(mask) for _, mask in group])
        scores = np.empty(stops[-1], np.result_type(*(anomaly_map for anomaly_map, _ in group)))
        for (anomaly_map, mask), start, stop in zip(group, [0, *stops[:-1]], stops, strict=True):
            scores[start:stop] = anomaly_map[~mask]
        yield scores


def region_weights(images: Images) -> np.ndarray:
    """One over the area of the region around each defective pixel, in the order in which the masks select them."""
    from scipy import ndimage  # a fifth of a second, which those who only list datasets need not wait for

    weights = []
    for _, mask in images:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # labelling the whole image would be slow
            inside = ndimage.label(box, structure=np.ones((3, 3)))[0][box]
            weights.append(1.0 / np.bincount(inside)[inside])
    return np.concatenate(weights)
