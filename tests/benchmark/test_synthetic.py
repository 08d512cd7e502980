"""The drawn datasets: whole, repeatable, in the layouts that the readers take, and with defects where the masks are."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from ast_hf.data import DepthProcessor, read_image, read_scan
from ast_hf.errors import DatasetError
from benchmark.datasets import check_masks, list_categories, load_category
from benchmark.evaluate import saturated_regions
from benchmark.synthetic import DEFECTS, Counts, draw_part, layouts, write_synthetic

ONE = Counts(train=1, validation=1, good=1, anomalous=1)
EVERY_DEFECT = [(category, defect) for (_, category), defects in DEFECTS.items() for defect in defects]
SCANNED = [category for dataset, category in DEFECTS if dataset == "mvtec_3d_ad"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("data") / "synthetic", counts=ONE)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One category of each kind of file, so that whole trees are written quickly."""
    few = {key: DEFECTS[key] for key in (("mvtec_3d_ad", "cookie"), ("visa", "capsules"))}
    monkeypatch.setattr(layouts, "DEFECTS", few)


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(("dataset", "category"), DEFECTS)
def test_every_category_is_read_with_masks_that_fit(tree: Path, dataset: str, category: str) -> None:
    assert list_categories(dataset, tree) == [name for of, name in DEFECTS if of == dataset]
    read = load_category(dataset, category, tree)
    check_masks(read)
    assert (len(read.train), len(read.validation)) == (1, int(dataset in ("mvtec_3d_ad", "mvtec_loco_ad")))
    labels = [sample.label for sample in read.test]
    assert (labels.count(0), labels.count(1)) == (1, len(DEFECTS[dataset, category]))
    for sample in read.train + read.validation + read.test:
        mask = sample.mask(read_image(sample.image).size[::-1])
        assert mask.any() == bool(sample.label) and mask.mean() < 0.5
        if dataset == "mvtec_3d_ad":
            assert read_scan(sample.points).shape == (*mask.shape, 3)
    if dataset == "visa":  # whose masks number the kinds
        values = [int(np.asarray(read_image(sample.masks[0])).max()) for sample in read.test if sample.label]
        assert sorted(values) == list(range(1, 1 + len(DEFECTS[dataset, category])))


@pytest.mark.parametrize("category", [name for of, name in DEFECTS if of == "mvtec_loco_ad"])
def test_loco_regions_saturate_by_pixels_and_by_share(tree: Path, category: str) -> None:
    read = load_category("mvtec_loco_ad", category, tree)
    assert {config.defect_name for config in read.defects_config} == set(DEFECTS["mvtec_loco_ad", category])
    assert {config.relative_saturation for config in read.defects_config} == {True, False}
    regions = [saturated_regions(sample, read.defects_config) for sample in read.test if sample.label]
    shares = [region.saturation_area / np.count_nonzero(region.mask) for found in regions for region in found]
    assert all(regions) and min(shares) < 0.5 and max(shares) == 1  # a missing thing is marked anywhere in its place


@pytest.mark.parametrize("category", SCANNED)
def test_the_foreground_of_a_scan_is_the_object(category: str) -> None:
    part = draw_part(category, 3)
    depth, foreground = DepthProcessor(size=96)(part.xyz)
    rows, columns = np.indices((96, 96)) / 95 - 0.5
    from_middle = np.hypot(rows * part.rgb.shape[0], columns * part.rgb.shape[1])
    found = foreground[0].numpy() > 0
    assert found[(from_middle > 75) & (from_middle < 90)].mean() > 0.97  # pixels of the picture, inside both objects
    assert found[from_middle > 150].mean() < 0.01
    assert 0.5 < float(depth.max() - depth.min()) < 4  # centimetres
    lost = np.all(part.xyz == 0, axis=2)
    assert 0.001 < lost.mean() < 0.1 and np.array_equal(lost, part.xyz[..., 2] == 0)


@pytest.mark.parametrize("category", SCANNED)
@pytest.mark.parametrize("hollow", [True, False])
def test_depth_changes_where_something_is_missing(category: str, hollow: bool) -> None:
    good, bad = draw_part(category, 5), draw_part(category, 5, "hole" if hollow else "contamination")
    seen = np.logical_and(good.xyz[..., 2] > 0, bad.xyz[..., 2] > 0)
    sunk = (bad.xyz - good.xyz)[..., 2]  # away from the camera
    inside, outside = sunk[seen & bad.masks[0]], sunk[seen & ~bad.masks[0]]
    assert np.median(np.abs(outside)) < 2e-4
    assert np.median(inside) > 3e-3 if hollow else np.median(inside) < 2e-4


@pytest.mark.parametrize(("category", "defect"), EVERY_DEFECT)
def test_a_defect_changes_the_same_part_where_the_mask_is(category: str, defect: str) -> None:
    good, bad = draw_part(category, 4), draw_part(category, 4, defect)
    mask = np.any(bad.masks, axis=0)
    assert mask.shape == bad.rgb.shape[:2] == good.rgb.shape[:2]
    assert all(region.any() for region in bad.masks) and not good.masks
    change = np.abs(bad.rgb.astype(int) - good.rgb).mean(axis=2)
    assert change[mask].mean() > max(1.2, 3 * change[~mask].mean())  # a missing pin's mask is mostly unchanged floor


def test_the_same_settings_give_the_same_bytes_and_others_other_ones(small: None, tmp_path: Path) -> None:
    first = digests(write_synthetic(tmp_path / "first", counts=ONE))
    assert digests(write_synthetic(tmp_path / "second", counts=ONE)) == first
    other = digests(write_synthetic(tmp_path / "other", counts=ONE, seed=1))
    assert other.keys() == first.keys()
    pictures = [path for path in first if path.endswith((".JPG", ".tiff")) or "/rgb/" in path]
    assert all(other[path] != first[path] for path in pictures)
    assert len({first[path] for path in pictures}) == len(pictures)


def test_a_finished_tree_is_kept_another_replaced_and_a_stranger_not_touched(small: None, tmp_path: Path) -> None:
    root = write_synthetic(tmp_path / "data", counts=ONE)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_synthetic(root, counts=ONE)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    write_synthetic(root, counts=Counts(train=2, validation=1, good=1, anomalous=1))
    assert len(load_category("visa", "capsules", root).train) == 2
    with pytest.raises(DatasetError, match="no synthetic data"):
        write_synthetic(tmp_path, counts=ONE)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_interrupted_write_leaves_nothing(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "data", counts=ONE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("category", "defect"), [("bottle", None), ("carpet", "flip"), ("carpet", "")])
def test_what_cannot_be_drawn_is_an_error(category: str, defect: str | None) -> None:
    with pytest.raises(DatasetError, match="choose"):
        draw_part(category, 0, defect)
