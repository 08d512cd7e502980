"""The dataset readers, on small trees in every layout and on the real sets where they are there."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ast_hf.config import ASTDetectorConfig
from ast_hf.errors import DatasetError
from benchmark.datasets import (
    DATASETS,
    Category,
    Sample,
    checkpoint_name,
    list_categories,
    load_category,
    missing_categories,
)
from benchmark.datasets.listing import hold_out
from benchmark.datasets.mvtec_loco_ad import saturated_regions

SIZE = (8, 12)  # height, width of every mask in the trees
BLANK = np.zeros(SIZE, np.uint8)


def marked(*pixels: tuple[int, int], value: int = 255) -> np.ndarray:
    mask = BLANK.copy()
    for pixel in pixels:
        mask[pixel] = value
    return mask


def put(path: Path, mask: np.ndarray | None = None) -> Path:
    """Writes a mask, or a file that is no picture at all: listing must not open it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if mask is None:
        path.write_bytes(b"not a picture")
    else:
        Image.fromarray(mask).save(path)
    return path


def write_mvtec_ad(root: Path) -> Path:
    folder = root / "bottle"
    for index in range(4):
        put(folder / f"train/good/{index:03}.png")
    for index in range(2):
        put(folder / f"test/good/{index:03}.png")
    # "a_scratch" comes before "good" in the alphabet and "worn" after it: neither order may make a label.
    for defect, count in (("a_scratch", 3), ("worn", 2)):
        for index in range(count):
            put(folder / f"test/{defect}/{index:03}.png")
            put(folder / f"ground_truth/{defect}/{index:03}_mask.png", marked((index, 0)))
    return folder


def write_mvtec_3d_ad(root: Path) -> Path:
    folder = root / "bagel"
    counts = {"train/good": 3, "validation/good": 2, "test/good": 2, "test/crack": 2, "test/hole": 1}
    for part, count in counts.items():
        for index in range(count):
            put(folder / part / f"rgb/{index:03}.png")
            put(folder / part / f"xyz/{index:03}.tiff")
            put(folder / part / f"gt/{index:03}.png", BLANK if part.endswith("good") else marked((index, 1)))
    return folder


def write_mvtec_loco_ad(root: Path) -> Path:
    folder = root / "pushpins"
    counts = {"train/good": 3, "validation/good": 2, "test/good": 2}
    counts |= {"test/logical_anomalies": 2, "test/structural_anomalies": 1}
    for part, count in counts.items():
        for index in range(count):
            put(folder / part / f"{index:03}.png")
    truth = folder / "ground_truth"
    put(truth / "logical_anomalies/000/000.png", marked((0, 0), (0, 1), (0, 2), value=255))
    put(truth / "logical_anomalies/000/001.png", marked((0, 2), (3, 3), value=254))
    put(truth / "logical_anomalies/001/000.png", marked((1, 1), value=255))
    put(truth / "structural_anomalies/000/000.png", marked((2, 2), value=254))
    config = [
        {"defect_name": "extra", "pixel_value": 255, "saturation_threshold": 2, "relative_saturation": False},
        {"defect_name": "broken", "pixel_value": 254, "saturation_threshold": 1.0, "relative_saturation": True},
    ]
    (folder / "defects_config.json").write_text(json.dumps(config))
    return folder


def write_visa(root: Path) -> Path:
    folder = root / "candle/Data"
    rows = [("object", "split", "label", "image", "mask")]
    for index in range(5):
        split = "test" if index in (1, 3) else "train"
        put(folder / f"Images/Normal/{index:04}.JPG")
        rows.append(("candle", split, "normal", f"candle/Data/Images/Normal/{index:04}.JPG", ""))
    for index in range(3):
        put(folder / f"Images/Anomaly/{index:03}.JPG")
        put(folder / f"Masks/Anomaly/{index:03}.png", marked((index, 0), value=1) | marked((index, 1), value=5))
        names = (f"candle/Data/Images/Anomaly/{index:03}.JPG", f"candle/Data/Masks/Anomaly/{index:03}.png")
        rows.append(("candle", "test", "anomaly", *names))
    rows.append(("capsules", "train", "normal", "capsules/Data/Images/Normal/000.JPG", ""))
    table = root / "split_csv/1cls.csv"
    table.parent.mkdir(parents=True)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root / "candle"


def write_magnetic_tile(root: Path) -> Path:
    for index in range(10):
        put(root / f"MT_Free/Imgs/exp{index}.jpg")
        put(root / f"MT_Free/Imgs/exp{index}.png", BLANK)
    for index, defect in enumerate(("Blowhole", "Break", "Crack", "Fray", "Uneven")):
        for name in (f"exp{index}", f"exp{index + 5}"):
            put(root / f"MT_{defect}/Imgs/{name}.jpg")
            put(root / f"MT_{defect}/Imgs/{name}.png", marked((0, index), value=7))
    (root / "train_filenames.txt").write_text("exp7.jpg\nexp2.jpg\n\nexp3.jpg\n")
    return root


def write_folder(root: Path) -> Path:
    for index in range(10):
        put(root / f"good/part{index}.jpg")
    put(root / "dent/x.png")
    put(root / "zzz/x.png")
    return root


LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "mvtec_ad": (write_mvtec_ad, "bottle"),
    "mvtec_3d_ad": (write_mvtec_3d_ad, "bagel"),
    "mvtec_loco_ad": (write_mvtec_loco_ad, "pushpins"),
    "visa": (write_visa, "candle"),
    "magnetic_tile": (write_magnetic_tile, "magnetic_tile"),
    "folder": (write_folder, "folder"),
}


def build(dataset: str, data_root: Path) -> Path:
    """Writes a small tree of a dataset; gives the folder of its one category."""
    return LAYOUTS[dataset][0](data_root / dataset)


def load(dataset: str, data_root: Path) -> Category:
    return load_category(dataset, LAYOUTS[dataset][1], data_root)


def counts(samples: tuple[Sample, ...]) -> dict[str, int]:
    return dict(Counter(sample.defect for sample in samples))


# ---------------------------------------------------------------------------------------------------- every dataset


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_labels_follow_names_and_no_picture_is_opened(dataset: str, tmp_path: Path) -> None:
    build(dataset, tmp_path)
    category = load(dataset, tmp_path)  # the pictures in the trees are no pictures
    assert (category.dataset, category.name) == (dataset, LAYOUTS[dataset][1])
    assert all(sample.label == 0 for sample in category.train + category.validation)
    assert {sample.label for sample in category.test} == {0, 1}
    for sample in category.train + category.validation + category.test:
        assert (sample.label == 0) == (sample.defect == "good")
        assert sample.image.is_file() and all(mask.is_file() for mask in sample.masks)


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_no_picture_is_in_two_splits(dataset: str, tmp_path: Path) -> None:
    build(dataset, tmp_path)
    category = load(dataset, tmp_path)
    images = [sample.image for sample in category.train + category.validation + category.test]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_data_root_may_be_the_folder_of_the_dataset(dataset: str, tmp_path: Path) -> None:
    build(dataset, tmp_path)
    assert load(dataset, tmp_path / dataset) == load(dataset, tmp_path)
    assert list_categories(dataset, tmp_path / dataset) == list_categories(dataset, tmp_path) == [LAYOUTS[dataset][1]]
    renamed = (tmp_path / dataset).rename(tmp_path / "mine")
    (name,) = list_categories(dataset, renamed)
    assert name == (LAYOUTS[dataset][1] if dataset != "folder" else "mine")
    assert len(load_category(dataset, name, renamed).test) > 0


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_clutter_is_ignored(dataset: str, tmp_path: Path) -> None:
    build(dataset, tmp_path)
    before = load(dataset, tmp_path)
    for folder in [folder for folder in (tmp_path / dataset).rglob("*") if folder.is_dir()]:
        for name in ("Thumbs.db", ".DS_Store", "._000.png", ".hidden.jpg", "notes.txt"):
            put(folder / name)
        (folder / ".cache").mkdir()
    (tmp_path / dataset / "__MACOSX").mkdir()
    assert load(dataset, tmp_path) == before


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_records_travel_between_processes(dataset: str, tmp_path: Path) -> None:
    build(dataset, tmp_path)
    category = load(dataset, tmp_path)
    assert pickle.loads(pickle.dumps(category)) == category
    hash(category)


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_every_mask_of_the_tree_is_read(dataset: str, tmp_path: Path) -> None:
    build(dataset, tmp_path)
    category = load(dataset, tmp_path)
    assert category.has_masks == (dataset != "folder")
    if category.has_masks:
        for sample in category.test:
            mask = sample.mask(SIZE)
            assert mask.shape == SIZE and mask.dtype == bool and mask.any() == bool(sample.label)


NEEDED_FOLDERS = (
    "mvtec_ad/bottle/train/good",
    "mvtec_ad/bottle/test/good",
    "mvtec_ad/bottle/ground_truth/worn",
    "mvtec_3d_ad/bagel/train/good/rgb",
    "mvtec_3d_ad/bagel/validation/good/xyz",
    "mvtec_3d_ad/bagel/test/good/xyz",
    "mvtec_3d_ad/bagel/test/crack/gt",
    "mvtec_loco_ad/pushpins/train/good",
    "mvtec_loco_ad/pushpins/validation/good",
    "mvtec_loco_ad/pushpins/test/good",
    "mvtec_loco_ad/pushpins/test/logical_anomalies",
    "mvtec_loco_ad/pushpins/test/structural_anomalies",
    "mvtec_loco_ad/pushpins/ground_truth/logical_anomalies/001",
    "visa/candle/Data/Images/Normal",
    "visa/candle/Data/Masks/Anomaly",
    "magnetic_tile/MT_Free/Imgs",
    "magnetic_tile/MT_Crack/Imgs",
)


@pytest.mark.parametrize("folder", NEEDED_FOLDERS)
@pytest.mark.parametrize("gone", ["folder", "files"])
def test_a_missing_or_empty_folder_is_named(folder: str, gone: str, tmp_path: Path) -> None:
    dataset = folder.split("/")[0]
    build(dataset, tmp_path)
    if gone == "folder":
        shutil.rmtree(tmp_path / folder)
    else:
        for file in (tmp_path / folder).iterdir():
            file.unlink()
    with pytest.raises(DatasetError) as caught:
        load(dataset, tmp_path)
    assert str(tmp_path / folder) in str(caught.value) and "unpack" in str(caught.value)


@pytest.mark.parametrize("split", ["mvtec_ad/bottle/train", "mvtec_ad/bottle/test", "mvtec_3d_ad/bagel/validation"])
def test_a_missing_split_is_named(split: str, tmp_path: Path) -> None:
    dataset = split.split("/")[0]
    build(dataset, tmp_path)
    shutil.rmtree(tmp_path / split)
    with pytest.raises(DatasetError, match=split):
        load(dataset, tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "mvtec_ad/bottle/ground_truth/worn/001_mask.png",
        "mvtec_3d_ad/bagel/train/good/xyz/001.tiff",
        "mvtec_3d_ad/bagel/test/crack/gt/001.png",
        "mvtec_loco_ad/pushpins/defects_config.json",
        "visa/split_csv/1cls.csv",
        "visa/candle/Data/Images/Normal/0001.JPG",
        "visa/candle/Data/Masks/Anomaly/001.png",
        "magnetic_tile/MT_Crack/Imgs/exp2.png",
        "magnetic_tile/MT_Free/Imgs/exp2.jpg",
    ],
)
def test_a_missing_file_is_named(file: str, tmp_path: Path) -> None:
    dataset = file.split("/")[0]
    build(dataset, tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(DatasetError) as caught:
        load(dataset, tmp_path)
    assert str(tmp_path / file) in str(caught.value)


@pytest.mark.parametrize("dataset", ["mvtec_ad", "magnetic_tile", "visa"])
def test_two_masks_of_one_name_are_not_guessed_between(dataset: str, tmp_path: Path) -> None:
    folder = build(dataset, tmp_path)
    mask = next(iter(sorted(folder.rglob("*_mask.png" if dataset == "mvtec_ad" else "*M*/*/*.png"))))
    shutil.copy(mask, mask.with_suffix(".PNG"))
    with pytest.raises(DatasetError, match="ending"):
        load(dataset, tmp_path)


# ---------------------------------------------------------------------------------------------------- the table


def test_unknown_names_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    build("mvtec_ad", tmp_path)
    with pytest.raises(DatasetError, match="mvtec_loco_ad"):
        list_categories("mvtec", tmp_path)
    with pytest.raises(DatasetError, match="hazelnut"):
        load_category("mvtec_ad", "bottles", tmp_path)
    with pytest.raises(DatasetError, match=r"mvtec_ad.*there: bottle.*mvtec\.com"):
        load_category("mvtec_ad", "cable", tmp_path)
    with pytest.raises(DatasetError, match=str(tmp_path / "visa")):
        load_category("visa", "candle", tmp_path)
    with pytest.raises(DatasetError, match="absent"):
        list_categories("mvtec_ad", tmp_path / "absent")


def test_missing_categories_are_listed_in_official_order(tmp_path: Path) -> None:
    official = list(DATASETS["mvtec_ad"].categories)
    assert missing_categories("mvtec_ad", tmp_path) == official and list_categories("mvtec_ad", tmp_path) == []
    for name in ("zipper", "cable", "not_official"):
        (tmp_path / "mvtec_ad" / name).mkdir(parents=True)
    assert list_categories("mvtec_ad", tmp_path) == ["cable", "zipper"]
    assert missing_categories("mvtec_ad", tmp_path) == [name for name in official if name not in ("cable", "zipper")]
    assert missing_categories("magnetic_tile", tmp_path) == ["magnetic_tile"]
    assert missing_categories("folder", tmp_path) == []


def test_facts_are_whole() -> None:
    assert {name: len(facts.categories) for name, facts in DATASETS.items()} == {
        "mvtec_ad": 15,
        "mvtec_3d_ad": 10,
        "mvtec_loco_ad": 5,
        "visa": 12,
        "magnetic_tile": 1,
        "folder": 0,
        "hub": 0,
    }
    for name, facts in DATASETS.items():
        ASTDetectorConfig.preset(facts.preset)
        assert facts.name == name and facts.licence and "\n" not in facts.citation
        own = name in ("folder", "hub")  # a user's own data, from wherever they are
        assert facts.has_masks == bool(facts.citation) == bool(facts.categories) == (not own)
        assert facts.download_page.startswith("https://") == (name != "folder")


def test_checkpoints_are_named_after_dataset_and_category() -> None:
    names = [("mvtec_ad", "bottle"), ("mvtec_3d_ad", "bagel"), ("mvtec_loco_ad", "pushpins"), ("visa", "candle")]
    names += [("magnetic_tile", "magnetic_tile"), ("folder", "bolts")]
    assert [checkpoint_name(*name) for name in names] == [
        "ast-mvtec-bottle",
        "ast-mvtec3d-bagel",
        "ast-loco-pushpins",
        "ast-visa-candle",
        "ast-magnetic_tile",
        "ast-folder-bolts",
    ]


# ---------------------------------------------------------------------------------------------------- samples


def test_mask_is_the_union_and_any_value_but_zero_counts(tmp_path: Path) -> None:
    masks = (put(tmp_path / "0.png", marked((0, 0), value=1)), put(tmp_path / "1.png", marked((5, 7), (0, 0), value=9)))
    mask = Sample(tmp_path / "x.png", 1, "hole", masks).mask(SIZE)
    assert mask.dtype == bool and sorted(zip(*np.nonzero(mask), strict=True)) == [(0, 0), (5, 7)]


def test_mask_of_a_good_part_is_zero_and_a_blank_mask_allowed(tmp_path: Path) -> None:
    assert not Sample(tmp_path / "x.png", 0, "good").mask((3, 5)).any()
    blank = put(tmp_path / "blank.png", BLANK)
    assert not Sample(tmp_path / "x.png", 0, "good", (blank,)).mask(SIZE).any()
    assert not Sample(tmp_path / "x.png", 1, "hole", (blank,)).mask(SIZE).any()


def test_masks_that_contradict_are_refused(tmp_path: Path) -> None:
    mask = put(tmp_path / "mask.png", marked((0, 0)))
    with pytest.raises(DatasetError, match="good part"):
        Sample(tmp_path / "x.png", 0, "good", (mask,)).mask(SIZE)
    with pytest.raises(DatasetError, match="12 x 8 pixels"):
        Sample(tmp_path / "x.png", 1, "hole", (mask,)).mask(SIZE[::-1])
    with pytest.raises(DatasetError, match="no mask"):
        Sample(tmp_path / "x.png", 1, "hole").mask(SIZE)


@given(st.integers(2, 300))
def test_hold_out_keeps_a_fifth_and_loses_none(count: int) -> None:
    samples = [Sample(Path(f"{index:03}.png"), 0, "good") for index in range(count)]
    train, test = hold_out(samples)
    assert sorted(train + test, key=lambda sample: sample.image) == samples
    assert len(test) == -(-count // 5) and train


# ---------------------------------------------------------------------------------------------------- one dataset each


def test_mvtec_ad_pairs_each_picture_with_its_mask(tmp_path: Path) -> None:
    folder = build("mvtec_ad", tmp_path)
    (folder / "test/worn/001.png").rename(folder / "test/worn/001.JPG")
    (folder / "train/good/000.png").rename(folder / "train/good/000.Jpeg")
    put(folder / "ground_truth/good/000_mask.png", BLANK)  # some copies have blank masks of good parts
    category = load("mvtec_ad", tmp_path)
    assert len(category.train) == 4 and category.validation == ()
    assert counts(category.test) == {"good": 2, "a_scratch": 3, "worn": 2}
    worn = [sample for sample in category.test if sample.defect == "worn"]
    assert [sample.image.name for sample in worn] == ["000.png", "001.JPG"]
    assert worn[1].masks == (folder / "ground_truth/worn/001_mask.png",) and worn[1].mask(SIZE)[1, 0]


def test_mvtec_ad_without_defects_is_refused(tmp_path: Path) -> None:
    folder = build("mvtec_ad", tmp_path)
    for defect in ("a_scratch", "worn"):
        shutil.rmtree(folder / "test" / defect)
    with pytest.raises(DatasetError, match="no folder of defects"):
        load("mvtec_ad", tmp_path)


def test_mvtec_3d_ad_pairs_picture_scan_and_mask(tmp_path: Path) -> None:
    folder = build("mvtec_3d_ad", tmp_path)
    category = load("mvtec_3d_ad", tmp_path)
    assert (len(category.train), len(category.validation)) == (3, 2)
    assert counts(category.test) == {"good": 2, "crack": 2, "hole": 1}
    for sample in category.train + category.validation + category.test:
        assert sample.points == sample.image.parents[1] / "xyz" / f"{sample.image.stem}.tiff"
    crack = next(sample for sample in category.test if sample.image.match("crack/rgb/001.png"))
    assert crack.masks == (folder / "test/crack/gt/001.png",) and crack.mask(SIZE)[1, 1]
    put(folder / "test/good/gt/000.png", marked((0, 0)))
    with pytest.raises(DatasetError, match="good part"):
        load("mvtec_3d_ad", tmp_path).test[0].mask(SIZE)
    for good in ("train/good", "validation/good", "test/good"):
        shutil.rmtree(folder / good / "gt")
    assert not load("mvtec_3d_ad", tmp_path).test[0].mask(SIZE).any()


def test_mvtec_loco_ad_keeps_the_kinds_and_regions_apart(tmp_path: Path) -> None:
    folder = build("mvtec_loco_ad", tmp_path)
    category = load("mvtec_loco_ad", tmp_path)
    assert (len(category.train), len(category.validation)) == (3, 2)
    assert counts(category.test) == {"good": 2, "logical_anomalies": 2, "structural_anomalies": 1}
    assert [(config.defect_name, config.pixel_value) for config in category.defects_config] == [
        ("extra", 255),
        ("broken", 254),
    ]
    logical = next(sample for sample in category.test if sample.label)
    truth = folder / "ground_truth/logical_anomalies/000"
    assert logical.masks == (truth / "000.png", truth / "001.png")
    assert logical.mask(SIZE).sum() == 4
    regions = saturated_regions(logical, category.defects_config)
    assert [(region.mask.sum(), region.saturation_area) for region in regions] == [(3, 2), (2, 2)]
    assert saturated_regions(category.test[0], category.defects_config) == []


@pytest.mark.parametrize("mask", [marked((0, 0), value=7), marked((0, 0)) | marked((1, 1), value=254)])
def test_mvtec_loco_ad_refuses_masks_of_unknown_or_mixed_values(mask: np.ndarray, tmp_path: Path) -> None:
    build("mvtec_loco_ad", tmp_path)
    category = load("mvtec_loco_ad", tmp_path)
    sample = Sample(tmp_path / "x.png", 1, "logical_anomalies", (put(tmp_path / "odd.png", mask),))
    with pytest.raises(DatasetError, match=r"odd\.png"):
        saturated_regions(sample, category.defects_config)


ENTRY = {"defect_name": "x", "pixel_value": 255, "saturation_threshold": 0.5, "relative_saturation": True}


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[]",
        "{}",
        "3",
        "[3]",
        '{"defect_name": 1}',
        json.dumps([ENTRY, ENTRY]),
        json.dumps([ENTRY | {"pixel_value": 0}]),
        json.dumps([ENTRY | {"saturation_threshold": 2}]),
        json.dumps([ENTRY | {"saturation_threshold": -1, "relative_saturation": False}]),
        json.dumps([{key: value for key, value in ENTRY.items() if key != "relative_saturation"}]),
    ],
)
def test_mvtec_loco_ad_refuses_a_damaged_config(text: str, tmp_path: Path) -> None:
    folder = build("mvtec_loco_ad", tmp_path)
    (folder / "defects_config.json").write_text(text)
    with pytest.raises(DatasetError, match=r"defects_config\.json"):
        load("mvtec_loco_ad", tmp_path)


def test_visa_follows_the_split_file(tmp_path: Path) -> None:
    folder = build("visa", tmp_path)
    category = load("visa", tmp_path)
    assert [sample.image.name for sample in category.train] == ["0000.JPG", "0002.JPG", "0004.JPG"]
    assert [sample.image.name for sample in category.test if not sample.label] == ["0001.JPG", "0003.JPG"]
    assert counts(category.test) == {"good": 2, "anomaly": 3}
    assert category.test[-1].mask(SIZE).sum() == 2
    for image in (folder / "Data/Images/Normal").iterdir():
        image.rename(image.with_suffix(".png"))
    assert [sample.image.name for sample in load("visa", tmp_path).train] == ["0000.png", "0002.png", "0004.png"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("candle,train,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png", "has a row"),
        ("candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,", "has a row"),
        ("candle,test,odd,candle/Data/Images/Anomaly/000.JPG,", "has a row"),
        ("candle,test", "has a row"),
        ("candle,validation,normal,candle/Data/Images/Normal/0000.JPG,", "has a row"),
        ("candle,test,normal,.,", "not in"),
        ("candle,test,normal,/etc/passwd,", "not in"),
        ("candle,test,normal,candle/../../secret/000.JPG,", "not in"),
        ("candle,test,normal,candle/Data/Images/Normal/9999.JPG,", "9999"),
    ],
)
def test_visa_refuses_a_wrong_split_file(row: str, message: str, tmp_path: Path) -> None:
    build("visa", tmp_path)
    with (tmp_path / "visa/split_csv/1cls.csv").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(DatasetError, match=message):
        load("visa", tmp_path)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"", b"\xff\xfe\x00"])
def test_visa_refuses_another_table(content: bytes, tmp_path: Path) -> None:
    build("visa", tmp_path)
    (tmp_path / "visa/split_csv/1cls.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=r"1cls\.csv"):
        load("visa", tmp_path)


def test_visa_category_without_rows_is_refused(tmp_path: Path) -> None:
    build("visa", tmp_path)
    (tmp_path / "visa/cashew").mkdir()
    with pytest.raises(DatasetError, match=r"cashew.* 0 parts to train on"):
        load_category("visa", "cashew", tmp_path)


def test_magnetic_tile_follows_the_list(tmp_path: Path) -> None:
    build("magnetic_tile", tmp_path)
    category = load("magnetic_tile", tmp_path)
    assert [sample.image.name for sample in category.train] == ["exp2.jpg", "exp3.jpg", "exp7.jpg"]
    assert counts(category.test) == {"good": 7} | dict.fromkeys(("Blowhole", "Break", "Crack", "Fray", "Uneven"), 2)
    assert all(sample.image.suffix == ".jpg" for sample in category.train + category.test)
    crack = next(sample for sample in category.test if sample.defect == "Crack")
    assert np.argwhere(crack.mask(SIZE)).tolist() == [[0, 2]]


def test_magnetic_tile_without_the_list_keeps_every_fifth(tmp_path: Path) -> None:
    folder = build("magnetic_tile", tmp_path)
    (folder / "train_filenames.txt").unlink()
    category = load("magnetic_tile", tmp_path)
    assert [sample.image.stem for sample in category.test if not sample.label] == ["exp0", "exp5"]
    assert len(category.train) == 8 and load("magnetic_tile", tmp_path) == category


def test_magnetic_tile_with_nothing_left_to_test_is_refused(tmp_path: Path) -> None:
    folder = build("magnetic_tile", tmp_path)
    (folder / "train_filenames.txt").write_text("".join(f"exp{index}.jpg\n" for index in range(10)))
    with pytest.raises(DatasetError, match="10 parts to train on and 0 good and 10 anomalous"):
        load("magnetic_tile", tmp_path)


# ---------------------------------------------------------------------------------------------------- a user's folder


def load_folder(root: Path) -> Category:
    (name,) = list_categories("folder", root)
    return load_category("folder", name, root)


def test_folder_with_one_good_folder_keeps_a_fifth(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "bolts")
    category = load_folder(root)
    assert category.name == "bolts" and not category.has_masks
    assert len(category.train) == 8 and counts(category.test) == {"good": 2, "dent": 1, "zzz": 1}
    assert load_folder(root) == category


def test_folder_takes_its_name_from_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_folder(tmp_path / "bolts"))
    assert load_folder(Path(".")).name == "bolts"


@pytest.mark.parametrize("train", ["train/good", "good", "Train/Good"])
@pytest.mark.parametrize("masks", ["ground_truth/Dent/x_mask.png", "masks/dent/x.png", None])
def test_folder_with_test_and_masks(train: str, masks: str | None, tmp_path: Path) -> None:
    for index in range(5):
        put(tmp_path / "p" / train / f"{index}.bmp")
    put(tmp_path / "p/test/Good/0.png")
    put(tmp_path / "p/test/Dent/x.jpg")
    put(tmp_path / "p/validation/good/0.png")
    put(tmp_path / "p/notes/0.png")  # is no defect where there is a test folder
    if masks:
        put(tmp_path / "p" / masks, marked((4, 4)))
    category = load_folder(tmp_path / "p")
    assert (len(category.train), len(category.validation)) == (5, 1)
    assert counts(category.test) == {"good": 1, "Dent": 1} and category.has_masks == bool(masks)
    if masks:
        assert np.argwhere(category.test[-1].mask(SIZE)).tolist() == [[4, 4]]


def test_folder_without_test_takes_the_defects_beside_train(tmp_path: Path) -> None:
    for name in ("train/good/0.png", "train/good/1.png", "validation/good/0.png", "Dent/x.png", "hole/x.png"):
        put(tmp_path / "p" / name)
    for name in ("ground_truth/dent/x_mask.png", "masks/hole/x.png"):
        put(tmp_path / "p" / name, marked((1, 2)))
    category = load_folder(tmp_path / "p")
    assert counts(category.test) == {"good": 1, "Dent": 1, "hole": 1} and len(category.train) == 1
    assert category.has_masks and all(sample.mask(SIZE).any() == bool(sample.label) for sample in category.test)


def test_folder_with_some_masks_of_a_defect_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "bolts")
    put(root / "masks/dent/y.png", BLANK)
    with pytest.raises(DatasetError, match=r"x\.png has no mask"):
        load_folder(root)


def test_folder_layouts_that_cannot_be_used_are_explained(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "bolts")
    with pytest.raises(DatasetError, match="bolts"):
        load_category("folder", "nuts", root)
    put(root / "train/good/0.png")
    with pytest.raises(DatasetError, match="both"):
        load_folder(root)
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "dent")
    shutil.rmtree(root / "zzz")
    with pytest.raises(DatasetError, match="0 anomalous"):
        load_folder(root)
    shutil.rmtree(root / "good")
    with pytest.raises(DatasetError, match="neither train/good nor good"):
        load_category("folder", "bolts", root)
    put(root / "good/0.png")
    put(root / "dent/0.png")
    with pytest.raises(DatasetError, match="0 parts to train on and 1 good"):
        load_folder(root)


# ---------------------------------------------------------------------------------------------------- the real sets


def test_the_real_bottle(shared: Path) -> None:
    category = load_category("mvtec_ad", "bottle", shared / "data")
    assert len(category.train) == 209
    assert counts(category.test) == {"good": 20, "broken_large": 20, "broken_small": 22, "contamination": 21}
    assert category.has_masks and "cable" in missing_categories("mvtec_ad", shared / "data")
    sample = category.test[-1]
    with Image.open(sample.image) as image:
        assert 0 < sample.mask(image.size[::-1]).mean() < 0.5


def test_the_real_magnetic_tiles(shared: Path) -> None:
    category = load_category("magnetic_tile", "magnetic_tile", shared / "data")
    assert len(category.train) == 761
    assert counts(category.test) == {
        "good": 191,
        "Blowhole": 115,
        "Break": 85,
        "Crack": 57,
        "Fray": 32,
        "Uneven": 103,
    }
    sample = next(sample for sample in category.test if sample.defect == "Break")
    with Image.open(sample.image) as image:
        assert 0 < sample.mask(image.size[::-1]).mean() < 1
