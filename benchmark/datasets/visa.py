"""VisA: `CATEGORY/Data/{Images,Masks}/{Normal,Anomaly}` and the one-class split in `split_csv/1cls.csv`.

The masks number the kinds of defect (1, 2, ...): every value but 0 is a defect. The split does not name the kind, so
that `Sample.defect` is "anomaly".
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ast_hf.errors import DatasetError
from benchmark.datasets.base import Category, DatasetFacts, Sample
from benchmark.datasets.listing import GOOD, index_by_stem, list_images, present_folders

NAME = "visa"
CATEGORIES = (
    "candle",
    "capsules",
    "cashew",
    "chewinggum",
    "fryum",
    "macaroni1",
    "macaroni2",
    "pcb1",
    "pcb2",
    "pcb3",
    "pcb4",
    "pipe_fryum",
)
_COLUMNS = {"object", "split", "label", "image", "mask"}


def find_categories(root: Path) -> list[str]:
    """Lists the official categories that are in the dataset's folder."""
    return present_folders(root, CATEGORIES)


def load_category(root: Path, name: str) -> Category:
    """Reads one category's split.

    Raises:
        DatasetError: If the split file, a folder, a picture or a mask is missing.
    """
    table = root / "split_csv" / "1cls.csv"
    rows = [row for row in _read_split(table) if row["object"] == name]
    files = _find_files(root / name, {row[column] for row in rows for column in ("image", "mask") if row[column]})
    splits: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in rows:
        match (row["split"], row["label"], row["image"], row["mask"]):
            case ("train" | "test") as split, "normal", image, _ if image:
                splits[split].append(Sample(files[image], 0, GOOD))
            case "test", "anomaly", image, mask if image and mask:
                splits["test"].append(Sample(files[image], 1, "anomaly", (files[mask],)))
            case unknown:
                raise DatasetError(f"{table} has a row {unknown}: take the one-class split from the archive.")
    return Category(NAME, name, tuple(splits["train"]), tuple(splits["test"]))


def _find_files(folder: Path, listed: Iterable[str]) -> dict[str, Path]:
    """Maps the split's paths to files by folder and stem, as copies of the set have other endings than the split."""
    paths = {name: PurePosixPath(name) for name in listed}
    for path in paths.values():
        if path.parts[:1] != (folder.name,) or ".." in path.parts:
            raise DatasetError(f"The split lists {path}, which is not in {folder}: take it from the archive.")
    parents = {path.parent for path in paths.values()}
    indices = {parent: index_by_stem(list_images(folder.parent / parent)) for parent in parents}
    for path in paths.values():
        if path.stem not in indices[path.parent]:
            raise DatasetError(f"{folder.parent / path} is in the split and not there: unpack the dataset again.")
    return {name: indices[path.parent][path.stem] for name, path in paths.items()}


def _read_split(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = _COLUMNS - set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{table} cannot be read ({error}): it is part of the archive and of {FACTS.download_page}."
        ) from error
    if missing:
        raise DatasetError(f"{table} lacks the columns {sorted(missing)}: take the file from the archive.")
    return rows


FACTS = DatasetFacts(
    name=NAME,
    categories=CATEGORIES,
    licence="CC BY 4.0",
    citation="Zou, Jeong, Pemula, Zhang, Dabeer: SPot-the-Difference Self-Supervised Pre-training for Anomaly "
    "Detection and Segmentation, ECCV 2022",
    download_page="https://github.com/amazon-science/spot-diff",
    has_masks=True,
    preset="visa",
    checkpoint_prefix="ast-visa-",
    find_categories=find_categories,
    load_category=load_category,
)
