"""VisA: `CATEGORY/Data/{Images,Masks}/{Normal,Anomaly}` and the one-class split in `split_csv/1cls.csv`.

The masks number the kinds of defect (1, 2, ...): every value but 0 is a defect. The split does not name the kind, so
that `LabelledSample.defect` is "anomaly".
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from ast_hf.errors import DatasetError
from benchmark.datasets.base import Category, LabelledSample

_COLUMNS = ("split", "label", "image", "mask")


def load_category(root: Path, name: str) -> Category:
    """Reads one category's split.

    Raises:
        DatasetError: If the split file, a picture or a mask is missing, or the split is none.
    """
    table = root / "split_csv" / "1cls.csv"
    splits: dict[str, list[LabelledSample]] = {"train": [], "test": []}
    for row in _read_split(table, name):
        match row:
            case ("train" | "test") as split, "normal", image, _ if image:
                splits[split].append(LabelledSample(_find_file(root, name, image)))
            case "test", "anomaly", image, mask if image and mask:
                files = [_find_file(root, name, file) for file in (image, mask)]
                splits["test"].append(LabelledSample(files[0], label=1, defect="anomaly", masks=(files[1],)))
            case _:
                raise DatasetError(f"{table} has a row {row}: take the one-class split from the archive.")
    return Category("visa", name, tuple(splits["train"]), tuple(splits["test"]))


def _read_split(table: Path, category: str) -> list[tuple[str, ...]]:
    """Gives the values of `_COLUMNS` in the category's rows."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, restval=""))
        values = [tuple(row[column] for column in _COLUMNS) for row in rows if row["object"] == category]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DatasetError(f"{table} cannot be used ({error!r}): take the file from the archive.") from error
    if not values:
        raise DatasetError(f"{table} has no row of {category!r}: take the file from the archive.")
    return values


def _find_file(root: Path, category: str, listed: str) -> Path:
    path = PurePosixPath(listed)
    if path.parts[:1] != (category,) or ".." in path.parts:
        raise DatasetError(f"The split lists {listed}, which is not in {root / category}: take it from the archive.")
    if not (root / path).is_file():
        raise DatasetError(f"{root / path} is in the split and not there: unpack the dataset again.")
    return root / path
