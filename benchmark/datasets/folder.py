"""A user's own data: pictures of good parts in one folder, and one folder a defect.

* `ROOT/train/good` or else `ROOT/good`: what to train on;
* `ROOT/test/good`: what to test on; where it is not there, every fifth good part is kept (`split_every_fifth`);
* `ROOT/test/DEFECT`, or `ROOT/DEFECT` where there is no `ROOT/test`;
* `ROOT/validation/good`, `ROOT/ground_truth/DEFECT/NAME_mask.png` or `ROOT/masks/DEFECT/NAME.png`: as one likes. Where
  a defect has a folder of masks, each of its pictures must have one.

Pictures are taken from these folders themselves and not from folders inside them. "Good" may be written in any case.
"""

from __future__ import annotations

from pathlib import Path

from ast_hf.errors import DatasetError
from benchmark.datasets.base import GOOD, Category, LabelledSample, Samples
from benchmark.datasets.listing import good_samples, list_files, list_folders, masked_samples, split_every_fifth

_MASKS = ("ground_truth", "masks")
_NO_DEFECTS = {GOOD, "train", "test", "validation", *_MASKS}


def find_categories(root: Path) -> list[str]:
    """Gives the folder's own name where good parts are there."""
    return [root.resolve().name] if _good_folder(root) else []


def load_category(root: Path, name: str) -> Category:
    """Reads the folder.

    Raises:
        DatasetError: If the good parts or the defects are missing, or some masks of a defect.
    """
    if not (good := _good_folder(root)):
        raise DatasetError(f"{root} has neither train/good/ nor good/: put pictures of good parts into one of them.")
    train = good_samples(good)
    test_folder = _child(root, "test")
    test_good = _child(test_folder, GOOD) if test_folder else None
    train, test = (train, good_samples(test_good)) if test_good else split_every_fifth(train)
    for defect in list_folders(test_folder or root):
        if defect.name.casefold() not in ({GOOD} if test_folder else _NO_DEFECTS):
            test += _defect_samples(root, defect)
    validation = _child(root, "validation", GOOD)
    return Category("folder", name, train, test, good_samples(validation) if validation else ())


def _defect_samples(root: Path, folder: Path) -> Samples:
    images = list_files(folder)
    masks = [child for name in _MASKS if (child := _child(root, name, folder.name))]
    if masks:
        return masked_samples(images, list_files(masks[0]), folder.name, suffix="_mask")
    return tuple(LabelledSample(image, label=1, defect=folder.name) for image in images)


def _good_folder(root: Path) -> Path | None:
    return _child(root, "train", GOOD) or _child(root, GOOD)


def _child(folder: Path, *names: str) -> Path | None:
    """Goes down the named folders, whatever the case they are written in; None where one is not there."""
    for name in names:
        found = [child for child in list_folders(folder) if child.name.casefold() == name.casefold()]
        if not found:
            return None
        folder = found[0]
    return folder
