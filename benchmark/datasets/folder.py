"""A user's own data: pictures of good parts in one folder, and one folder a defect.

* `ROOT/train/good` or `ROOT/good`: what to train on;
* `ROOT/test/good`: what to test on; where it is not there, every fifth good part is kept for the test (`hold_out`);
* `ROOT/test/DEFECT`, or `ROOT/DEFECT` where there is no `ROOT/test`;
* `ROOT/validation/good`, `ROOT/ground_truth/DEFECT/NAME_mask.png` or `ROOT/masks/DEFECT/NAME.png`: as one likes. Where
  a defect has a folder of masks, each of its pictures must have one.

Pictures are taken from these folders themselves and not from folders inside them. "Good" may be written in any case.
"""

from __future__ import annotations

from pathlib import Path

from ast_hf.errors import DatasetError
from benchmark.datasets.base import Category, DatasetFacts, Sample
from benchmark.datasets.listing import GOOD, good_samples, hold_out, list_folders, list_images, masked_samples

NAME = "folder"
_MASKS = ("ground_truth", "masks")
_NO_DEFECTS = {GOOD, "train", "test", "validation", *_MASKS}


def find_categories(root: Path) -> list[str]:
    """Gives the folder's own name where good parts are there."""
    return [root.resolve().name] if _good_folders(root) else []


def load_category(root: Path, name: str) -> Category:
    """Reads the folder.

    Raises:
        DatasetError: If the good parts or the defects are missing, or some masks of a defect.
    """
    if len(folders := _good_folders(root)) != 1:
        raise DatasetError(
            f"{root} has {'both train/good and' if folders else 'neither train/good nor'} good: put the pictures of "
            "good parts into one of the two."
        )
    train = good_samples(folders[0])
    test_folder = _child(root, "test")
    test_good = _child(test_folder, GOOD) if test_folder else None
    train, test = (train, good_samples(test_good)) if test_good else hold_out(train)
    for defect in list_folders(test_folder or root):
        if defect.name.casefold() not in ({GOOD} if test_folder else _NO_DEFECTS):
            test += _defect_samples(root, defect)
    validation = _child(root, "validation", GOOD)
    return Category(NAME, name, train, test, good_samples(validation) if validation else ())


def _defect_samples(root: Path, folder: Path) -> tuple[Sample, ...]:
    masks = [child for name in _MASKS if (child := _child(root, name, folder.name))]
    if masks:
        return masked_samples(folder, masks[0], folder.name)
    return tuple(Sample(image, 1, folder.name) for image in list_images(folder))


def _good_folders(root: Path) -> list[Path]:
    return [child for names in (("train", GOOD), (GOOD,)) if (child := _child(root, *names))]


def _child(folder: Path, *names: str) -> Path | None:
    """Goes down the named folders, whatever the case they are written in; None where one is not there."""
    for name in names:
        found = [child for child in list_folders(folder) if child.name.casefold() == name.casefold()]
        if not found:
            return None
        folder = found[0]
    return folder


FACTS = DatasetFacts(
    name=NAME,
    categories=(),
    licence="the user's own",
    citation="",
    download_page="",
    has_masks=False,
    preset="compact",
    checkpoint_prefix="ast-folder-",
    find_categories=find_categories,
    load_category=load_category,
)
