"""Folders of labelled parts are read as the benchmarks' own readers do, and as people lay them out."""

from dataclasses import replace
from pathlib import Path

import pytest

from ast_hf.data.labelled import labelled_samples
from ast_hf.errors import DatasetError
from benchmark.datasets import load_category
from benchmark.synthetic.layouts import Counts, write_category
from tests import tiny

RGB = tiny.config()


@pytest.mark.parametrize(
    ("dataset", "category", "modality"),
    [
        ("mvtec_ad", "carpet", "rgb"),
        ("mvtec_3d_ad", "tire", "rgb"),
        ("mvtec_3d_ad", "tire", "rgb+depth"),
        ("mvtec_loco_ad", "pushpins", "rgb"),
    ],
)
def test_official_layouts(tmp_path: Path, dataset: str, category: str, modality: str) -> None:
    write_category(tmp_path, dataset, category, Counts(train=1, validation=1, good=2, anomalous=2), seed=0)
    found = labelled_samples(tiny.config(modality), tmp_path / category)
    expected = load_category(dataset, category, tmp_path).test
    expected = [sample if modality != "rgb" else replace(sample, points=None) for sample in expected]
    assert {replace(s, masks=tuple(sorted(s.masks))) for s in found} == set(expected) and len(found) == len(expected)


@pytest.mark.parametrize("mask", ["bad/000_mask.bmp", "masks/bad/000.png", "../ground_truth/bad/000_mask.png"])
def test_layouts_of_ones_own(tmp_path: Path, mask: str) -> None:
    tiny.folder_of_pictures(tmp_path / "parts" / "OK", 2)
    tiny.folder_of_pictures(tmp_path / "parts" / "bad", 1)
    path = tmp_path / "parts" / mask
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny.picture(0).save(path)
    samples = labelled_samples(RGB, tmp_path / "parts")
    assert [(Path(sample.name).name, sample.defect) for sample in samples] == [
        ("000.png", "good"), ("001.png", "good"), ("000.png", "bad")
    ]  # fmt: skip
    assert [[path.resolve() for path in sample.masks] for sample in samples] == [[], [], [path.resolve()]]
    tiny.picture(1).save(tmp_path / "parts" / "bad" / "001.png")
    with pytest.raises(DatasetError, match=r"001.png has no mask"):
        labelled_samples(RGB, tmp_path / "parts")


@pytest.mark.parametrize(("folders", "there"), [(["good"], "good"), (["a", "b", "masks"], "a, b"), ([], "none")])
def test_good_and_defective_parts_must_be_there(tmp_path: Path, folders: list[str], there: str) -> None:
    for folder in folders:
        tiny.folder_of_pictures(tmp_path / folder, 1)
    with pytest.raises(DatasetError, match=f"must hold .* called good, normal, ok, .* its folders are: {there}.$"):
        labelled_samples(RGB, tmp_path if folders else tmp_path / "missing")
