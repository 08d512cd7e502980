"""The dataset readers, on small trees in every layout and on the real sets where they are there."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ast_hf.config import ASTDetectorConfig
from ast_hf.data import Sample
from ast_hf.errors import ASTError, DatasetError, ImageReadError
from benchmark.datasets import (
    DATASETS,
    Category,
    LabelledSample,
    check_masks,
    list_categories,
    load_category,
    missing_categories,
)
from benchmark.evaluate import saturated_regions

SIZE = (8, 12)  # height, width of every mask
DEFECTS_3D = {"train/good": 3, "validation/good": 2, "test/good": 2, "test/crack": 2, "test/hole": 1}
TILE_DEFECTS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
CATEGORIES = {
    **{"mvtec_ad": "bottle", "mvtec_3d_ad": "bagel", "mvtec_loco_ad": "pushpins", "visa": "candle"},
    **{"magnetic_tile": "magnetic_tile", "folder": "folder"},
}
PICTURES = {  # dataset -> names of pictures and scans in the category's folder -> how many
    # "a_scratch" comes before "good" in the alphabet and "worn" after it: neither order may make a label.
    "mvtec_ad": {"train/good/{}.png": 4, "test/good/{}.png": 2, "test/a_scratch/{}.png": 3, "test/worn/{}.png": 2},
    "mvtec_3d_ad": {f"{f}/{name}": n for f, n in DEFECTS_3D.items() for name in ("rgb/{}.png", "xyz/{}.tiff")},
    "mvtec_loco_ad": {
        **{"train/good/{}.png": 3, "validation/good/{}.png": 2, "test/good/{}.png": 2},
        **{"test/logical_anomalies/{}.png": 2, "test/structural_anomalies/{}.png": 1},
    },
    "visa": {"Data/Images/Normal/{}.JPG": 5, "Data/Images/Anomaly/{}.JPG": 3},
    "magnetic_tile": {"MT_Free/Imgs/{}.jpg": 10, **{f"MT_{kind}/Imgs/{{}}.jpg": 2 for kind in TILE_DEFECTS}},
    "folder": {"good/{}.jpg": 10, "dent/{}.png": 1, "zzz/{}.png": 1},
}
MASKS = {
    "mvtec_ad": {"ground_truth/a_scratch/{}_mask.png": 3, "ground_truth/worn/{}_mask.png": 2},
    "mvtec_3d_ad": {"test/crack/gt/{}.png": 2, "test/hole/gt/{}.png": 1},
    "mvtec_loco_ad": {
        **{"ground_truth/logical_anomalies/0/{}.png": 2, "ground_truth/logical_anomalies/1/{}.png": 1},
        "ground_truth/structural_anomalies/0/{}.png": 1,
    },
    "visa": {"Data/Masks/Anomaly/{}.png": 3},
    "magnetic_tile": {f"MT_{kind}/Imgs/{{}}.png": 2 for kind in TILE_DEFECTS},
    "folder": {},
}
ENTRY = {"defect_name": "extra", "pixel_value": 255, "saturation_threshold": 1, "relative_saturation": False}
SHARE = {"defect_name": "broken", "pixel_value": 254, "saturation_threshold": 1.0, "relative_saturation": True}
SPLIT = [
    "object,split,label,image,mask",
    *(f"candle,{'test' if i in (1, 3) else 'train'},normal,candle/Data/Images/Normal/{i}.JPG," for i in range(5)),
    *(f"candle,test,anomaly,candle/Data/Images/Anomaly/{i}.JPG,candle/Data/Masks/Anomaly/{i}.png" for i in range(3)),
    "capsules,train,normal,capsules/Data/Images/Normal/0.JPG,",
]
TEXTS = {
    "mvtec_loco_ad": ("pushpins/defects_config.json", json.dumps([ENTRY, SHARE])),
    "visa": ("split_csv/1cls.csv", "\n".join(SPLIT) + "\n"),
    "magnetic_tile": ("train_filenames.txt", "7.jpg\n2.jpg\n\n3.jpg\n"),
}


def marked(*pixels: tuple[int, int], value: int = 255) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    for pixel in pixels:
        mask[pixel] = value
    return mask


def put(path: Path, content: np.ndarray | str = "not a picture") -> Path:
    """Writes a mask, or a file that is no picture at all: listing must not open it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    else:
        Image.fromarray(content).save(path)
    return path


def write_tree(dataset: str, root: Path) -> Path:
    """Writes a dataset with its one category to `root`; gives the category's folder."""
    folder = root / CATEGORIES[dataset] if dataset not in ("magnetic_tile", "folder") else root
    for name, count in PICTURES[dataset].items():
        for index in range(count):
            put(folder / name.format(index))
    for name, count in MASKS[dataset].items():
        for index in range(count):
            put(folder / name.format(index), marked((index, 0), (index, 1), value=255 - index))
    for name, text in [TEXTS[dataset]] if dataset in TEXTS else []:
        put(root / name, text)
    return folder


def load(dataset: str, data_root: Path) -> Category:
    return load_category(dataset, CATEGORIES[dataset], data_root)


def load_folder(root: Path) -> Category:
    (name,) = list_categories("folder", root)
    return load_category("folder", name, root)


def counts(samples: tuple[LabelledSample, ...]) -> dict[str, int]:
    return dict(Counter(sample.defect for sample in samples))


@pytest.mark.parametrize("dataset", CATEGORIES)
def test_labels_follow_names_splits_are_apart_and_no_picture_is_opened(dataset: str, tmp_path: Path) -> None:
    write_tree(dataset, tmp_path / dataset)
    category = load(dataset, tmp_path)  # the pictures in the trees are no pictures
    assert (category.dataset, category.name) == (dataset, CATEGORIES[dataset])
    assert all(sample.label == 0 for sample in category.train + category.validation)
    assert {sample.label for sample in category.test} == {0, 1}
    samples = category.train + category.validation + category.test
    for sample in samples:
        assert isinstance(sample, Sample) and (sample.label == 0) == (sample.defect == "good")
        assert sample.image.is_file() and all(mask.is_file() for mask in sample.masks)
    assert len({sample.image for sample in samples}) == len(samples)
    assert pickle.loads(pickle.dumps(category)) == category and hash(category)
    assert category.has_masks == (dataset != "folder")
    for sample in category.test if category.has_masks else ():
        mask = sample.mask(SIZE)
        assert mask.shape == SIZE and mask.dtype == bool and mask.any() == bool(sample.label)


@pytest.mark.parametrize("dataset", CATEGORIES)
def test_data_root_may_be_the_dataset_and_clutter_is_ignored(dataset: str, tmp_path: Path) -> None:
    write_tree(dataset, tmp_path / dataset)
    before = load(dataset, tmp_path)
    assert load(dataset, tmp_path / dataset) == before
    for folder in [folder for folder in (tmp_path / dataset).rglob("*") if folder.is_dir()]:
        for name in ("Thumbs.db", ".DS_Store", "._000.png", ".hidden.jpg", "notes.txt", ".cache/0.png"):
            put(folder / name)
    (tmp_path / dataset / "__MACOSX").mkdir()
    assert load(dataset, tmp_path) == before
    renamed = (tmp_path / dataset).rename(tmp_path / "mine")
    assert list_categories(dataset, renamed) == [CATEGORIES[dataset] if dataset != "folder" else "mine"]


NEEDED = """
    mvtec_ad/bottle/train  mvtec_ad/bottle/test/good  mvtec_ad/bottle/ground_truth/worn
    mvtec_ad/bottle/ground_truth/worn/1_mask.png
    mvtec_3d_ad/bagel/train/good/rgb  mvtec_3d_ad/bagel/validation  mvtec_3d_ad/bagel/test/good/xyz
    mvtec_3d_ad/bagel/test/crack/gt  mvtec_3d_ad/bagel/train/good/xyz/1.tiff  mvtec_3d_ad/bagel/test/crack/gt/1.png
    mvtec_loco_ad/pushpins/validation/good  mvtec_loco_ad/pushpins/test/logical_anomalies
    mvtec_loco_ad/pushpins/ground_truth/logical_anomalies/1  mvtec_loco_ad/pushpins/defects_config.json
    visa/split_csv/1cls.csv  visa/candle/Data/Images/Normal  visa/candle/Data/Masks/Anomaly/1.png
    magnetic_tile/MT_Free/Imgs  magnetic_tile/MT_Crack/Imgs/1.png  magnetic_tile/MT_Free/Imgs/2.jpg
"""


@pytest.mark.parametrize("path", NEEDED.split())
def test_what_is_missing_is_named(path: str, tmp_path: Path) -> None:
    dataset = path.split("/")[0]
    write_tree(dataset, tmp_path / dataset)
    shutil.move(tmp_path / path, tmp_path / "gone")
    with pytest.raises(ASTError, match=path):
        load(dataset, tmp_path)
    if (tmp_path / "gone").is_dir():  # an empty folder is no better
        (tmp_path / path).mkdir()
        with pytest.raises(ASTError, match=path):
            load(dataset, tmp_path)


@pytest.mark.parametrize("dataset", ["mvtec_ad", "mvtec_3d_ad", "magnetic_tile"])
def test_two_masks_of_one_name_are_not_guessed_between(dataset: str, tmp_path: Path) -> None:
    write_tree(dataset, tmp_path / dataset)
    mask = next(mask for sample in load(dataset, tmp_path).test for mask in sample.masks)
    shutil.copy(mask, mask.with_suffix(".PNG"))
    with pytest.raises(ImageReadError, match="ending"):
        load(dataset, tmp_path)


def test_unknown_names_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    folder = write_tree("mvtec_ad", tmp_path / "mvtec_ad")
    with pytest.raises(DatasetError, match="mvtec_loco_ad"):
        list_categories("mvtec", tmp_path)
    with pytest.raises(DatasetError, match=r"mvtec_ad.*there: bottle.*hazelnut.*mvtec\.com"):
        load_category("mvtec_ad", "cable", tmp_path)
    with pytest.raises(DatasetError, match=str(tmp_path / "visa")):
        load_category("visa", "candle", tmp_path)
    with pytest.raises(DatasetError, match="absent"):
        list_categories("mvtec_ad", tmp_path / "absent")
    for defect in ("a_scratch", "worn"):
        shutil.rmtree(folder / "test" / defect)
    with pytest.raises(DatasetError, match="4 parts to train on and 2 good and 0 anomalous"):
        load("mvtec_ad", tmp_path)


def test_missing_categories_are_listed_in_official_order(tmp_path: Path) -> None:
    official = list(DATASETS["mvtec_ad"].categories)
    assert missing_categories("mvtec_ad", tmp_path) == official and list_categories("mvtec_ad", tmp_path) == []
    for name in ("zipper", "cable", "not_official"):
        (tmp_path / "mvtec_ad" / name).mkdir(parents=True)
    assert list_categories("mvtec_ad", tmp_path) == ["cable", "zipper"]
    assert missing_categories("mvtec_ad", tmp_path) == [name for name in official if name not in ("cable", "zipper")]


def test_facts_are_whole() -> None:
    numbers = {"mvtec_ad": 15, "mvtec_3d_ad": 10, "mvtec_loco_ad": 5, "visa": 12, "magnetic_tile": 1}
    assert {name: len(facts.categories) for name, facts in DATASETS.items()} == {**numbers, "folder": 0, "hub": 0}
    for name, facts in DATASETS.items():
        ASTDetectorConfig.preset(facts.preset)
        assert facts.name == name and facts.title and facts.licence and "\n" not in facts.citation
        assert bool(facts.citation) == (name in numbers) and (not facts.limit or "table" in facts.limit)
        assert facts.download_page.startswith("https://") == (name != "folder")
        creative_commons = facts.licence.startswith("CC")
        assert facts.hub_licence == (facts.licence.lower().replace(" ", "-") if creative_commons else "other")
    names = [DATASETS[dataset].checkpoint_prefix + category for dataset, category in CATEGORIES.items()]
    assert names[:3] == ["ast-mvtec-bottle", "ast-mvtec3d-bagel", "ast-loco-pushpins"]
    assert names[3:] == ["ast-visa-candle", "ast-magnetic_tile", "ast-folder-folder"]


def test_importing_the_datasets_needs_no_torch() -> None:
    code = "import sys, benchmark.datasets, benchmark.download; sys.exit(bool({'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_mask_is_the_union_and_any_value_but_zero_counts(tmp_path: Path) -> None:
    masks = (put(tmp_path / "0.png", marked((0, 0), value=1)), put(tmp_path / "1.png", marked((5, 7), (0, 0), value=9)))
    mask = LabelledSample(tmp_path / "x.png", label=1, defect="hole", masks=masks).mask(SIZE)
    assert mask.dtype == bool and np.argwhere(mask).tolist() == [[0, 0], [5, 7]]
    blank = (put(tmp_path / "blank.png", marked()),)
    assert not LabelledSample(tmp_path / "x.png", masks=blank).mask(SIZE).any()
    assert not LabelledSample(tmp_path / "x.png", label=1, defect="hole", masks=blank).mask(SIZE).any()
    with pytest.raises(DatasetError, match="good part"):
        LabelledSample(tmp_path / "x.png", masks=masks).mask(SIZE)
    with pytest.raises(DatasetError, match="12 x 8 pixels"):
        LabelledSample(tmp_path / "x.png", label=1, masks=masks).mask(SIZE[::-1])
    with pytest.raises(DatasetError, match="no mask"):
        LabelledSample(tmp_path / "x.png", label=1).mask(SIZE)


def category_of(*samples: LabelledSample, dataset: str = "mvtec_ad") -> Category:
    return Category(dataset, "bottle", (), samples)


def test_masks_that_fit_pass_by_the_headers_of_pictures(tmp_path: Path) -> None:
    image, mask = put(tmp_path / "image.png", marked()), put(tmp_path / "mask.png", marked((0, 0)))
    image.write_bytes(image.read_bytes()[:45])  # the header and nothing else
    turned, phone = Image.Exif(), tmp_path / "phone.jpg"
    turned[0x0112] = 6  # a phone held upright: shown as 12 x 8
    Image.new("RGB", SIZE).save(phone, exif=turned)
    holes = [LabelledSample(path, label=1, defect="hole", masks=(mask,)) for path in (image, phone)]
    check_masks(category_of(*holes))
    unmasked = LabelledSample(image, label=1, defect="cut")
    check_masks(category_of(unmasked))
    check_masks(category_of(unmasked, *holes, dataset="folder"))


def test_masks_that_are_blank_or_lossy_or_upside_down_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, lossy = put(tmp_path / "image.png", marked()), put(tmp_path / "lossy.jpg", marked((2, 2), (2, 3), (5, 9)))
    blank, mask = (put(tmp_path / name, marked(*pixels)) for name, pixels in (("blank.png", []), ("m.png", [(0, 0)])))
    masks = [(lossy,), (blank,), (blank, mask), (mask,), (put(tmp_path / "inverse.png", 255 - marked((0, 0))),)]
    check_masks(
        category_of(LabelledSample(image, masks=(blank,)), *(LabelledSample(image, label=1, masks=m) for m in masks))
    )
    named = [("mark nothing", blank), ("more than half", masks[4][0]), ("soft edges", lossy)]
    for (what, path), message in zip(named, caplog.messages, strict=True):
        assert what in message and message.endswith(f"(1): {path}")


def test_masks_that_cannot_be_used_are_found(tmp_path: Path) -> None:
    image, mask = put(tmp_path / "image.png", marked()), put(tmp_path / "mask.png", marked((0, 0)))
    small = tmp_path / "small.png"
    Image.new("L", (9, 9)).save(small)
    masked = LabelledSample(image, label=1, defect="hole", masks=(mask,))
    wrong = {
        r"small\.png has 9 x 9 pixels, .*image\.png has 12 x 8": LabelledSample(image, label=1, masks=(mask, small)),
        r"mask\.png has 12 x 8 pixels, .*small\.png has 9 x 9": LabelledSample(small, masks=(mask,)),  # a good part
        r"absent\.png": LabelledSample(image, label=1, masks=(tmp_path / "absent.png",)),
        r"text\.png.* picture": LabelledSample(image, label=1, masks=(put(tmp_path / "text.png"),)),
        r"image\.png has no mask, and others": LabelledSample(image, label=1, defect="cut"),
    }
    for message, sample in wrong.items():
        with pytest.raises(ASTError, match=message):
            check_masks(category_of(masked, sample))
    with pytest.raises(DatasetError, match="no mask, and others"):
        check_masks(category_of(masked, LabelledSample(image, label=1, defect="hole"), dataset="folder"))


def test_mvtec_ad_pairs_each_picture_with_its_mask(tmp_path: Path) -> None:
    folder = write_tree("mvtec_ad", tmp_path / "mvtec_ad")
    (folder / "test/worn/1.png").rename(folder / "test/worn/1.JPG")
    put(folder / "ground_truth/good/0_mask.png", marked())  # some copies have blank masks of good parts
    category = load("mvtec_ad", tmp_path)
    assert len(category.train) == 4 and category.validation == ()
    assert counts(category.test) == {"good": 2, "a_scratch": 3, "worn": 2}
    assert category.test[-1].image.name == "1.JPG" and category.test[-1].mask(SIZE)[1, 0]
    assert category.test[-1].masks == (folder / "ground_truth/worn/1_mask.png",)


def test_mvtec_3d_ad_pairs_picture_scan_and_mask(tmp_path: Path) -> None:
    folder = write_tree("mvtec_3d_ad", tmp_path / "mvtec_3d_ad")
    for index in range(2):
        put(folder / f"test/good/gt/{index}.png", marked())  # good parts may have masks
    category = load("mvtec_3d_ad", tmp_path)
    assert (len(category.train), len(category.validation)) == (3, 2)
    assert counts(category.test) == {"good": 2, "crack": 2, "hole": 1}
    for sample in category.train + category.validation + category.test:
        assert sample.points == sample.image.parents[1] / "xyz" / f"{sample.image.stem}.tiff"
        assert bool(sample.masks) == (sample in category.test)
    crack = next(sample for sample in category.test if sample.image.match("crack/rgb/1.png"))
    assert crack.masks == (folder / "test/crack/gt/1.png",) and crack.mask(SIZE)[1, 1]


def test_mvtec_loco_ad_keeps_the_kinds_and_regions_apart(tmp_path: Path) -> None:
    folder = write_tree("mvtec_loco_ad", tmp_path / "mvtec_loco_ad")
    category = load("mvtec_loco_ad", tmp_path)
    assert (len(category.train), len(category.validation)) == (3, 2)
    assert counts(category.test) == {"good": 2, "logical_anomalies": 2, "structural_anomalies": 1}
    defects = [(config.defect_name, config.pixel_value) for config in category.defects_config]
    assert defects == [("extra", 255), ("broken", 254)]
    logical = next(sample for sample in category.test if sample.label)
    truth = folder / "ground_truth/logical_anomalies/0"
    assert logical.masks == (truth / "0.png", truth / "1.png") and logical.mask(SIZE).sum() == 4
    regions = saturated_regions(logical, category.defects_config)
    assert [(region.mask.sum(), region.saturation_area) for region in regions] == [(2, 1), (2, 2)]
    assert saturated_regions(category.test[0], category.defects_config) == []
    for mask in (marked((0, 0), value=7), marked((0, 0)) | marked((1, 1), value=254)):
        odd = LabelledSample(tmp_path / "x.png", label=1, masks=(put(tmp_path / "odd.png", mask),))
        with pytest.raises(DatasetError, match=r"odd\.png"):
            saturated_regions(odd, category.defects_config)


WRONG_ENTRIES = [
    *({"pixel_value": 0}, {"pixel_value": "1"}, {"colour": 1}, {"saturation_threshold": -1}),
    *({"saturation_threshold": 2, "relative_saturation": True}, {"pixel_value": 254}),  # the last is given twice
]


@pytest.mark.parametrize(
    "text",
    ["[", "[]", "{}", "3", "[3]", json.dumps([{"defect_name": "x"}])]
    + [json.dumps([ENTRY | wrong, SHARE]) for wrong in WRONG_ENTRIES],
)
def test_mvtec_loco_ad_refuses_a_damaged_config(text: str, tmp_path: Path) -> None:
    folder = write_tree("mvtec_loco_ad", tmp_path / "mvtec_loco_ad")
    (folder / "defects_config.json").write_text(text)
    with pytest.raises(DatasetError, match=r"defects_config\.json"):
        load("mvtec_loco_ad", tmp_path)


def test_visa_follows_the_split_file(tmp_path: Path) -> None:
    write_tree("visa", tmp_path / "visa")
    category = load("visa", tmp_path)
    assert [sample.image.name for sample in category.train] == ["0.JPG", "2.JPG", "4.JPG"]
    assert [sample.image.name for sample in category.test if not sample.label] == ["1.JPG", "3.JPG"]
    assert counts(category.test) == {"good": 2, "anomaly": 3} and category.test[-1].mask(SIZE)[2, 0]


WRONG_TABLES = {
    "\n".join([*SPLIT, row]): message
    for row, message in {
        "candle,train,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png": "has a row",
        "candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,": "has a row",
        "candle,test": "has a row",
        "candle,validation,normal,candle/Data/Images/Normal/0.JPG,": "has a row",
        "candle,test,normal,.,": "not in",
        "candle,test,normal,/etc/passwd,": "not in",
        "candle,test,normal,candle/../../secret/0.JPG,": "not in",
        "candle,test,normal,candle/Data/Images/Normal/99.JPG,": r"99\.JPG is in the split and not there",
    }.items()
} | dict.fromkeys(["a,b\n1,2\n", "", "\xff", SPLIT[0]], r"1cls\.csv")


@pytest.mark.parametrize("table", WRONG_TABLES)
def test_visa_refuses_a_wrong_split_file(table: str, tmp_path: Path) -> None:
    write_tree("visa", tmp_path / "visa")
    (tmp_path / "visa/split_csv/1cls.csv").write_text(table, encoding="latin-1")
    with pytest.raises(DatasetError, match=WRONG_TABLES[table]):
        load("visa", tmp_path)


def test_magnetic_tile_follows_the_list_or_keeps_every_fifth(tmp_path: Path) -> None:
    table = write_tree("magnetic_tile", tmp_path / "magnetic_tile") / "train_filenames.txt"
    category = load("magnetic_tile", tmp_path)
    assert [sample.image.name for sample in category.train] == ["2.jpg", "3.jpg", "7.jpg"]
    assert counts(category.test) == {"good": 7} | dict.fromkeys(TILE_DEFECTS, 2)
    table.write_text("".join(f"{index}.jpg\n" for index in range(10)))
    with pytest.raises(DatasetError, match="10 parts to train on and 0 good and 10 anomalous"):
        load("magnetic_tile", tmp_path)
    table.unlink()
    category = load("magnetic_tile", tmp_path)
    assert [sample.image.stem for sample in category.test if not sample.label] == ["0", "5"]


def test_folder_with_one_good_folder_keeps_a_fifth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_tree("folder", tmp_path / "bolts"))
    category = load_folder(Path("."))
    assert category.name == "bolts" and not category.has_masks
    assert len(category.train) == 8 and counts(category.test) == {"good": 2, "dent": 1, "zzz": 1}
    put(Path("validation/good/0.png"))  # no defect
    shutil.move("good", "train/good")
    assert counts(load_folder(Path(".")).test) == {"good": 2, "dent": 1, "zzz": 1}
    put(Path("masks/dent/y.png"), marked())
    with pytest.raises(ImageReadError, match=r"0\.png: its mask is missing: add .*0_mask\.png"):
        load_folder(Path("."))
    shutil.rmtree("train")
    with pytest.raises(DatasetError, match=r"none of good parts: call theirs good"):
        load_category("folder", "bolts", Path("."))


@pytest.mark.parametrize(
    ("normal", "abnormal", "good"),
    [("normal", "abnormal", ""), ("OK", "NG", ""), ("ok", "ko", ""), ("Gut", "normal", "gut")],
)
def test_folder_understands_other_names_and_enters_folders(
    normal: str, abnormal: str, good: str, tmp_path: Path
) -> None:
    for name in (
        f"train/{normal}/0.png",
        f"train/{normal}/line/1.png",
        f"test/{normal}/0.png",
        f"test/{abnormal}/a/0.png",
    ):
        put(tmp_path / name)
    put(tmp_path / "masks" / abnormal / "a" / "0.png", marked((4, 4)))
    (name,) = list_categories("folder", tmp_path, good)
    category = load_category("folder", name, tmp_path, good)
    assert [sample.image.name for sample in category.train] == ["0.png", "1.png"]
    assert counts(category.test) == {"good": 1, abnormal: 1} and category.has_masks


def test_folder_says_what_it_found_and_what_it_understands(tmp_path: Path) -> None:
    put(tmp_path / "train" / "fine" / "0.png")
    with pytest.raises(DatasetError, match=r"holds train/, train/fine/, and none of good.* good, normal, ok .*--good"):
        load_category("folder", tmp_path.name, tmp_path)
    for name in ("good", "OK"):
        put(tmp_path / name / "0.png")
    with pytest.raises(DatasetError, match=r"(OK|good) and \S*(good|OK) may be meant.*--good"):
        load_folder(tmp_path)


@pytest.mark.parametrize("train", ["train/good", "good", "Train/Good"])
@pytest.mark.parametrize("masks", ["ground_truth/Dent/x_mask.png", "masks/dent/x.png", None])
def test_folder_with_test_and_masks(train: str, masks: str | None, tmp_path: Path) -> None:
    for index in range(5):
        put(tmp_path / "p" / train / f"{index}.bmp")
    for name in ("test/Good/0.png", "test/Dent/x.jpg", "validation/good/0.png", "notes/0.png"):
        put(tmp_path / "p" / name)  # notes are no defect where there is a test folder
    if masks:
        put(tmp_path / "p" / masks, marked((4, 4)))
    category = load_folder(tmp_path / "p")
    assert (len(category.train), len(category.validation)) == (5, 1)
    assert counts(category.test) == {"good": 1, "Dent": 1} and category.has_masks == bool(masks)
    assert not masks or np.argwhere(category.test[-1].mask(SIZE)).tolist() == [[4, 4]]


TILES = {"good": 191, "Blowhole": 115, "Break": 85, "Crack": 57, "Fray": 32, "Uneven": 103}
BOTTLES = {"good": 20, "broken_large": 20, "broken_small": 22, "contamination": 21}


@pytest.mark.parametrize(
    ("dataset", "name", "train", "test"),
    [("mvtec_ad", "bottle", 209, BOTTLES), ("magnetic_tile", "magnetic_tile", 761, TILES)],
)
def test_the_real_sets(dataset: str, name: str, train: int, test: dict[str, int], shared: Path) -> None:
    category = load_category(dataset, name, shared / "data")
    assert len(category.train) == train and counts(category.test) == test and category.has_masks
    check_masks(category)
    sample = next(sample for sample in category.test if sample.defect in ("Break", "contamination"))
    with Image.open(sample.image) as image:
        assert 0 < sample.mask(image.size[::-1]).mean() < 0.5
