"""Magnetic tile defects: `MT_KIND/Imgs/NAME.jpg` with the mask `NAME.png` beside it; `MT_Free` is good.

The set has no official split. `train_filenames.txt`, where it is there, names the pictures of `MT_Free` to train on
(one a line, the split of DifferNet and CS-Flow); without it every fifth good part is kept for the test
(`split_every_fifth`). Some of the set's masks are blank.
"""

from __future__ import annotations

from pathlib import Path

from ast_hf.data.folders import find_images
from ast_hf.errors import DatasetError
from benchmark.datasets.base import Category, LabelledSample, Samples
from benchmark.datasets.listing import masked_samples, split_every_fifth

NAME = "magnetic_tile"
DEFECTS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg"})
_MASK_SUFFIXES = frozenset({".png"})


def find_categories(root: Path) -> list[str]:
    """Gives the set's one category where its good parts are there."""
    return [NAME] if (root / "MT_Free").is_dir() else []


def load_category(root: Path, name: str) -> Category:
    """Reads the set.

    Raises:
        ImageReadError: If a folder is missing or empty, or a defect has no mask.
        DatasetError: If the split names a missing picture.
    """
    train, test = _split_good(root)
    for defect in DEFECTS:
        folder = root / f"MT_{defect}" / "Imgs"
        test += masked_samples(folder, folder, defect, extensions=_IMAGE_SUFFIXES, mask_extensions=_MASK_SUFFIXES)
    return Category(NAME, name, train, test)


def _split_good(root: Path) -> tuple[Samples, Samples]:
    folder, table = root / "MT_Free" / "Imgs", root / "train_filenames.txt"
    good = [LabelledSample(path) for path in find_images(folder, _IMAGE_SUFFIXES)]
    if not table.is_file():
        return split_every_fifth(good)
    chosen = set(table.read_text(encoding="utf-8", errors="replace").split())
    if missing := sorted(chosen - {sample.image.name for sample in good}):
        raise DatasetError(
            f"{table} names {len(missing)} pictures that are not there, such as {folder / missing[0]}: download the "
            "set again, or remove the file for a split by name."
        )
    train = tuple(sample for sample in good if sample.image.name in chosen)
    return train, tuple(sample for sample in good if sample.image.name not in chosen)
