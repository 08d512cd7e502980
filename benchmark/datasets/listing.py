"""Folders and file names to parts, the same way for every dataset.

Only names are looked at. No picture is opened before its pixels are asked for, so that a category of thousands of files
is read in a moment.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from ast_hf.errors import DatasetError
from ast_hf.images import EXTENSIONS
from benchmark.datasets.base import Sample

GOOD = "good"


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Lists the files directly in a folder that end in one of the suffixes (any case), hidden ones left out, by name.

    Raises:
        DatasetError: If the folder is not there, cannot be read or holds no such file.
    """
    names = [entry.name for entry in _scan(folder) if entry.is_file() and Path(entry.name).suffix.lower() in suffixes]
    if not names:
        raise DatasetError(
            f"{folder} holds no {'/'.join(sorted(suffixes))} file: put the files directly into it, or unpack the "
            "dataset again."
        )
    return [folder / name for name in sorted(names)]


def list_images(folder: Path) -> list[Path]:
    """Lists the pictures (`ast_hf.images.EXTENSIONS`) directly in a folder, by name; see `list_files`."""
    return list_files(folder, EXTENSIONS)


def list_folders(folder: Path) -> list[Path]:
    """Lists the folders directly in a folder, hidden ones left out, by name.

    Raises:
        DatasetError: If the folder is not there or cannot be read.
    """
    return sorted(folder / entry.name for entry in _scan(folder) if entry.is_dir())


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be listed ({error.strerror}): check the path, or unpack the dataset again."
        ) from error


def good_samples(folder: Path) -> tuple[Sample, ...]:
    """Gives every picture directly in a folder as a good part."""
    return tuple(Sample(image, 0, GOOD) for image in list_images(folder))


def list_defects(test: Path) -> list[Path]:
    """Lists a test folder's folders other than "good", one a defect.

    Raises:
        DatasetError: If there is none.
    """
    folders = [folder for folder in list_folders(test) if folder.name != GOOD]
    if not folders:
        raise DatasetError(f"{test} has no folder of defects: add one a defect beside {GOOD}/, named after it.")
    return folders


def masked_samples(images: Path, masks: Path, defect: str) -> tuple[Sample, ...]:
    """Pairs the pictures of a defect with their masks, `NNN.*` with `NNN_mask.*` or else `NNN.*`.

    Raises:
        DatasetError: If a folder is missing or empty, or a picture has no mask.
    """
    by_stem = index_by_stem(list_images(masks))
    samples = []
    for image in list_images(images):
        mask = by_stem.get(f"{image.stem}_mask") or by_stem.get(image.stem)
        if mask is None:
            raise DatasetError(
                f"{image} has no mask: {masks / image.stem}_mask.png is missing; unpack the dataset again or add it."
            )
        samples.append(Sample(image, 1, defect, (mask,)))
    return tuple(samples)


def index_by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Maps names without their ending to paths, as the ending changes where pictures have been re-encoded.

    Raises:
        DatasetError: If two of the files differ by their ending only.
    """
    index: dict[str, Path] = {}
    for path in paths:
        if (other := index.setdefault(path.stem, path)) is not path:
            raise DatasetError(f"{other} and {path} differ by their ending only: remove the one that is not meant.")
    return index


def present_folders(root: Path, names: Iterable[str]) -> list[str]:
    """Gives those of the names that are folders in `root`."""
    return [name for name in names if (root / name).is_dir()]


def hold_out(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Splits good parts that come without a split: every fifth in the given order (the first, the sixth, ...) is kept.

    Returns:
        What to train on, and the 20 % kept for the test.
    """
    train = tuple(sample for index, sample in enumerate(samples) if index % 5)
    return train, tuple(samples[::5])
