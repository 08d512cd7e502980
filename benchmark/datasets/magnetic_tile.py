"""Magnetic tile defects: `MT_KIND/Imgs/NAME.jpg` with the mask `NAME.png` beside it; `MT_Free` is good.

The set has no official split. `train_filenames.txt`, where it is there, names the pictures of `MT_Free` to train on
(one a line, the split of DifferNet and CS-Flow); without it every fifth good part is kept for the test (`hold_out`).
Some of the set's masks are blank.
"""

from __future__ import annotations

from pathlib import Path

from ast_hf.errors import DatasetError
from benchmark.datasets.base import Category, DatasetFacts, Sample
from benchmark.datasets.listing import GOOD, hold_out, index_by_stem, list_files

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
        DatasetError: If a folder is missing or empty, a defect has no mask, or the split names a missing picture.
    """
    train, test = _split(
        [Sample(path, 0, GOOD) for path in list_files(root / "MT_Free" / "Imgs", _IMAGE_SUFFIXES)], root
    )
    for defect in DEFECTS:
        test += _defects(root / f"MT_{defect}" / "Imgs", defect)
    return Category(NAME, name, train, test)


def _split(good: list[Sample], root: Path) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    table = root / "train_filenames.txt"
    if not table.is_file():
        return hold_out(good)
    try:
        chosen = set(table.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{table} cannot be read ({error}): mend it, or remove it for a split by name.") from error
    if missing := sorted(chosen - {sample.image.name for sample in good}):
        example = root / "MT_Free" / "Imgs" / missing[0]
        raise DatasetError(
            f"{table} names {len(missing)} pictures that are not there, such as {example}: download the set again, or "
            "remove the file for a split by name."
        )
    train = tuple(sample for sample in good if sample.image.name in chosen)
    return train, tuple(sample for sample in good if sample.image.name not in chosen)


def _defects(folder: Path, defect: str) -> tuple[Sample, ...]:
    masks = index_by_stem(list_files(folder, _MASK_SUFFIXES))
    images = list_files(folder, _IMAGE_SUFFIXES)
    if missing := [image for image in images if image.stem not in masks]:
        raise DatasetError(f"{missing[0]} has no mask: {missing[0].with_suffix('.png')} is missing; download it again.")
    return tuple(Sample(image, 1, defect, (masks[image.stem],)) for image in images)


FACTS = DatasetFacts(
    name=NAME,
    categories=(NAME,),
    licence="none stated; for research, with citation",
    citation="Huang, Qiu, Yuan: Surface defect saliency of magnetic tile, The Visual Computer 2020",
    download_page="https://github.com/abin24/Magnetic-tile-defect-datasets.",
    has_masks=True,
    preset="compact",
    checkpoint_prefix="ast-",
    find_categories=find_categories,
    load_category=load_category,
)
