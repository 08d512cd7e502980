"""The readers of the official sets and of a user's own: from a dataset's folder and a category's name to its split.

They raise a DatasetError or an ImageReadError where a split is missing or empty, or a part lacks its scan or mask.
"""

import csv
import json
from collections.abc import Set
from pathlib import Path, PurePosixPath

from ast_hf.data.folders import GOOD_NAMES, find_images, pair_files, pair_scans
from ast_hf.data.sample import GOOD
from ast_hf.errors import DatasetError
from benchmark.datasets import base
from benchmark.datasets.base import Category, DefectConfig, LabelledSample, Samples

_SPLITS = ("train", "validation", "test")
_VISA_COLUMNS = ("split", "label", "image", "mask")
_MASK_FOLDERS = ("ground_truth", "masks")
_NO_DEFECTS = {"train", "test", "validation", *_MASK_FOLDERS}


def mvtec_ad(root: Path, name: str) -> Category:
    """`CATEGORY/{train/good, test/DEFECT, ground_truth/DEFECT/NNN_mask.png}`; good parts have no masks."""
    folder = root / name
    test = base.good_samples(folder / "test" / GOOD)
    for defect in _defects(folder):
        test += base.masked_samples(defect, folder / "ground_truth" / defect.name, defect.name, suffix="_mask")
    return Category("mvtec_ad", name, base.good_samples(folder / "train" / GOOD), test)


def mvtec_3d_ad(root: Path, name: str) -> Category:
    """`CATEGORY/{train,validation,test}/DEFECT/{rgb/NNN.png, xyz/NNN.tiff, gt/NNN.png}`.

    The point clouds are organised: (H, W, 3) float32, in metres, all zero where the sensor saw nothing.
    """
    folder = root / name
    train, validation, test = (_scans(folder / split / GOOD) for split in _SPLITS)
    for defect in _defects(folder):
        test += _scans(defect)
    return Category("mvtec_3d_ad", name, train, test, validation)


def mvtec_loco_ad(root: Path, name: str) -> Category:
    """`CATEGORY/{train,validation,test}/TYPE/NNN.png` and `CATEGORY/ground_truth/TYPE/NNN/000.png, ...`.

    TYPE, and `LabelledSample.defect`, is "good", "logical_anomalies" or "structural_anomalies". A part has one mask a
    defect, whose grey value says in `CATEGORY/defects_config.json` which defect it is and how much of it has to be
    found (`DefectConfig`).
    """
    folder = root / name
    train, validation, test = (base.good_samples(folder / split / GOOD) for split in _SPLITS)
    for kind in ("logical_anomalies", "structural_anomalies"):
        images, masks = folder / "test" / kind, folder / "ground_truth" / kind
        for image in find_images(images):
            regions = find_images(masks / image.relative_to(images).with_suffix(""))
            test += (LabelledSample(image, label=1, defect=kind, masks=tuple(regions)),)
    return Category("mvtec_loco_ad", name, train, test, validation, _defects_config(folder / "defects_config.json"))


def visa(root: Path, name: str) -> Category:
    """`CATEGORY/Data/{Images,Masks}/{Normal,Anomaly}` and the one-class split in `split_csv/1cls.csv`.

    The masks number the kinds of defect (1, 2, ...): every value but 0 is a defect. The split does not name the kind,
    so that `LabelledSample.defect` is "anomaly".
    """
    table = root / "split_csv" / "1cls.csv"
    splits: dict[str, list[LabelledSample]] = {"train": [], "test": []}
    for row in _visa_rows(table, name):
        match row:
            case ("train" | "test") as split, "normal", image, _ if image:
                splits[split].append(LabelledSample(_listed_file(root, name, image)))
            case "test", "anomaly", image, mask if image and mask:
                picture, truth = (_listed_file(root, name, file) for file in (image, mask))
                splits["test"].append(LabelledSample(picture, label=1, defect="anomaly", masks=(truth,)))
            case _:
                raise DatasetError(f"{table} has a row {row}: take the one-class split from the archive.")
    return Category("visa", name, tuple(splits["train"]), tuple(splits["test"]))


def magnetic_tile(root: Path, name: str) -> Category:
    """`MT_KIND/Imgs/NAME.jpg` with the mask `NAME.png` beside it, of which some are blank; `MT_Free` is good.

    The set has no official split. `train_filenames.txt`, where it is there, names the pictures of `MT_Free` to train on
    (one a line, the split of DifferNet and CS-Flow); without it every fifth good part is kept for the test.
    """
    folder, table, suffixes = root / "MT_Free" / "Imgs", root / "train_filenames.txt", frozenset({".jpg", ".jpeg"})
    good = [LabelledSample(path) for path in find_images(folder, suffixes)]
    train, test = base.split_every_fifth(good)
    if table.is_file():
        chosen = set(table.read_text(encoding="utf-8", errors="replace").split())
        if missing := sorted(chosen - {sample.image.name for sample in good}):
            raise DatasetError(
                f"{table} names {len(missing)} pictures that are not there, such as {folder / missing[0]}: download "
                "the set again, or remove the file for a split by name."
            )
        train = tuple(sample for sample in good if sample.image.name in chosen)
        test = tuple(sample for sample in good if sample.image.name not in chosen)
    for defect in ("Blowhole", "Break", "Crack", "Fray", "Uneven"):
        folder = root / f"MT_{defect}" / "Imgs"
        test += base.masked_samples(folder, folder, defect, extensions=suffixes, other_extensions=frozenset({".png"}))
    return Category("magnetic_tile", name, train, test)


def find_folder(root: Path, good: str = "") -> list[str]:
    """The own name of a folder for the reader `folder` where good parts are there."""
    return [root.resolve().name] if _good_folder(root, _good_names(good)) else []


def folder(root: Path, name: str, good: str = "") -> Category:
    """A user's own data: pictures of good parts in one folder, and one folder a defect.

    * `ROOT/train/good` or else `ROOT/good`: what to train on;
    * `ROOT/test/good`: what to test on; where it is not there, every fifth good part is kept (`split_every_fifth`);
    * `ROOT/test/DEFECT`, or `ROOT/DEFECT` where there is no `ROOT/test`;
    * `ROOT/validation/good`, `ROOT/ground_truth/DEFECT/NAME_mask.png` or `ROOT/masks/DEFECT/NAME.png`: as one likes.
      Where a defect has a folder of masks, each of its pictures must have one.

    Pictures in folders inside these are taken as well, as by `python -m ast_hf train`. "Normal" and "ok" are understood
    for "good", in any case, or else the name `good` that the user gives.
    """
    names = _good_names(good)
    if not (train_folder := _good_folder(root, names)):
        parents = [path for path in (root, _child(root, {"train"})) if path]
        there = [f"{path.relative_to(root)}/" for parent in parents for path in base.list_folders(parent)]
        raise DatasetError(
            f"{root} holds {', '.join(there) or 'no folders'}, and none of good parts: call theirs "
            f"{', '.join(sorted(GOOD_NAMES))} (in any case), in train/ or by itself, or give its name by --good."
        )
    train, test_folder = base.good_samples(train_folder), _child(root, {"test"})
    test_good = _child(test_folder, names) if test_folder else None
    train, test = (train, base.good_samples(test_good)) if test_good else base.split_every_fifth(train)
    for defect in base.list_folders(test_folder or root):
        if defect.name.casefold() in (names if test_folder else names | _NO_DEFECTS):
            continue
        masks = [child for of in _MASK_FOLDERS if (child := _child(root, {of}, {defect.name.casefold()}))]
        if masks:
            test += base.masked_samples(defect, masks[0], defect.name, suffix="_mask")
        else:
            test += tuple(LabelledSample(image, label=1, defect=defect.name) for image in find_images(defect))
    validation = _child(root, {"validation"}, names)
    return Category("folder", name, train, test, base.good_samples(validation) if validation else ())


def _defects(folder: Path) -> list[Path]:
    return [child for child in base.list_folders(folder / "test") if child.name != GOOD]


def _scans(folder: Path) -> Samples:
    """Pairs the pictures of one folder with their scans and masks; good parts may have (blank) masks or none."""
    label = int(folder.name != GOOD)
    masks: dict[Path, Path] = {}
    if label or (folder / "gt").is_dir():
        masks = dict(pair_files(folder / "rgb", folder / "gt", "mask"))
    return tuple(
        LabelledSample(image, scan, label=label, defect=folder.name, masks=(masks[image],) if masks else ())
        for image, scan in pair_scans(folder)
    )


def _defects_config(path: Path) -> tuple[DefectConfig, ...]:
    try:
        config = tuple(DefectConfig(**entry) for entry in json.loads(path.read_bytes()))
        for defect in config:
            most = 1 if defect.relative_saturation else float("inf")
            if not (0 < defect.pixel_value < 256 and 0 < defect.saturation_threshold <= most):
                raise ValueError(f"{defect} is out of range")
        if not config or len({defect.pixel_value for defect in config}) < len(config):
            raise ValueError("it lists no defect, or one pixel value twice")
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} cannot be used ({error}): unpack it again from the dataset's archive.") from error
    return config


def _visa_rows(table: Path, category: str) -> list[tuple[str, ...]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, restval=""))
        values = [tuple(row[column] for column in _VISA_COLUMNS) for row in rows if row["object"] == category]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DatasetError(f"{table} cannot be used ({error!r}): take the file from the archive.") from error
    if not values:
        raise DatasetError(f"{table} has no row of {category!r}: take the file from the archive.")
    return values


def _listed_file(root: Path, category: str, listed: str) -> Path:
    path = PurePosixPath(listed)
    if path.parts[:1] != (category,) or ".." in path.parts:
        raise DatasetError(f"The split lists {listed}, which is not in {root / category}: take it from the archive.")
    if not (root / path).is_file():
        raise DatasetError(f"{root / path} is in the split and not there: unpack the dataset again.")
    return root / path


def _good_names(good: str) -> Set[str]:
    return {good.casefold()} if good else GOOD_NAMES


def _good_folder(root: Path, names: Set[str]) -> Path | None:
    return _child(root, {"train"}, names) or _child(root, names)


def _child(folder: Path, *names: Set[str]) -> Path | None:
    """Goes down to a folder of one of the names, whatever their case, and on; None where there is none."""
    for any_of in names:
        found = [child for child in base.list_folders(folder) if child.name.casefold() in any_of]
        if not found:
            return None
        if len(found) > 1:
            raise DatasetError(f"{found[0]} and {found[1]} may be meant: rename one, or give the name by --good.")
        folder = found[0]
    return folder
