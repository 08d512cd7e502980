"""A user's own data: pictures of good parts in one folder, and one folder a defect.

* `ROOT/train/good` or else `ROOT/good`: what to train on;
* `ROOT/test/good`: what to test on; where it is not there, every fifth good part is kept (`split_every_fifth`);
* `ROOT/test/DEFECT`, or `ROOT/DEFECT` where there is no `ROOT/test`;
* `ROOT/validation/good`, `ROOT/ground_truth/DEFECT/NAME_mask.png` or `ROOT/masks/DEFECT/NAME.png`: as one likes. Where
  a defect has a folder of masks, each of its pictures must have one.

Pictures in folders inside these are taken as well, as by `python -m ast_hf train`. "Normal" and "ok" are understood for
"good", in any case, or else the name that the user gives.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from ast_hf.data.folders import GOOD_NAMES, find_images
from ast_hf.errors import DatasetError
from benchmark.datasets.base import Category, LabelledSample, Samples
from benchmark.datasets.listing import good_samples, list_folders, masked_samples, split_every_fifth

_MASKS = ("ground_truth", "masks")
_NO_DEFECTS = {"train", "test", "validation", *_MASKS}


def find_categories(root: Path, good: str = "") -> list[str]:
    """Gives the folder's own name where good parts are there; `good` is what their folders are called."""
    return [root.resolve().name] if _good_folder(root, _good_names(good)) else []


def load_category(root: Path, name: str, good: str = "") -> Category:
    """Reads the folder; `good` as in `find_categories`.

    Raises:
        DatasetError, ImageReadError: If the good parts or the defects are missing, or some masks of a defect.
    """
    names = _good_names(good)
    if not (train_folder := _good_folder(root, names)):
        raise DatasetError(explain_missing(root))
    train = good_samples(train_folder)
    test_folder = _child(root, {"test"})
    test_good = _child(test_folder, names) if test_folder else None
    train, test = (train, good_samples(test_good)) if test_good else split_every_fifth(train)
    for defect in list_folders(test_folder or root):
        if defect.name.casefold() not in (names if test_folder else names | _NO_DEFECTS):
            test += _defect_samples(root, defect)
    validation = _child(root, {"validation"}, names)
    return Category("folder", name, train, test, good_samples(validation) if validation else ())


def explain_missing(root: Path) -> str:
    """Says what folders there are where good parts are not found, and what they should be called."""
    parents = [path for path in (root, _child(root, {"train"})) if path]
    there = [f"{path.relative_to(root)}/" for parent in parents for path in list_folders(parent)]
    return (
        f"{root} holds {', '.join(there) or 'no folders'}, and none of good parts: call theirs "
        f"{', '.join(sorted(GOOD_NAMES))} (in any case), in train/ or by itself, or give its name by --good."
    )


def _defect_samples(root: Path, folder: Path) -> Samples:
    masks = [child for name in _MASKS if (child := _child(root, {name}, {folder.name.casefold()}))]
    if masks:
        return masked_samples(folder, masks[0], folder.name, suffix="_mask")
    return tuple(LabelledSample(image, label=1, defect=folder.name) for image in find_images(folder))


def _good_names(good: str) -> Set[str]:
    return {good.casefold()} if good else GOOD_NAMES


def _good_folder(root: Path, names: Set[str]) -> Path | None:
    return _child(root, {"train"}, names) or _child(root, names)


def _child(folder: Path, *names: Set[str]) -> Path | None:
    """Goes down to a folder of one of the names, whatever their case, and on; None where there is none."""
    for any_of in names:
        found = [child for child in list_folders(folder) if child.name.casefold() in any_of]
        if not found:
            return None
        if len(found) > 1:
            raise DatasetError(f"{found[0]} and {found[1]} may be meant: rename one, or give the name by --good.")
        folder = found[0]
    return folder
