"""Folders and file names to samples, the same way for every dataset.

Only names are looked at. No picture is opened before its pixels are asked for, so that a category of thousands of files
is read in a moment.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ast_hf.data.images import EXTENSIONS
from ast_hf.errors import DatasetError
from benchmark.datasets.base import LabelledSample, Samples


def list_files(folder: Path, suffixes: Collection[str] = EXTENSIONS) -> list[Path]:
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


def good_samples(folder: Path) -> Samples:
    """Gives every picture directly in a folder as a good part."""
    return tuple(LabelledSample(image) for image in list_files(folder))


def masked_samples(images: Sequence[Path], masks: Sequence[Path], defect: str, suffix: str = "") -> Samples:
    """Gives the pictures of a defect with their masks, paired as by `pair_by_stem`."""
    pairs = zip(images, pair_by_stem(images, masks, suffix), strict=True)
    return tuple(LabelledSample(image, label=1, defect=defect, masks=(mask,)) for image, mask in pairs)


def pair_by_stem(images: Sequence[Path], others: Sequence[Path], suffix: str = "") -> list[Path]:
    """Finds to each picture `NNN.*` the file `NNN{suffix}.*`, or else `NNN.*`, among some in another folder.

    Raises:
        DatasetError: If a picture has none, or two files differ by their ending only.
    """
    # Without endings, as these change where pictures have been re-encoded.
    by_stem: dict[str, Path] = {}
    for path in others:
        if (twin := by_stem.setdefault(path.stem, path)) is not path:
            raise DatasetError(f"{twin} and {path} differ by their ending only: remove the one that is not meant.")
    paired = []
    for image in images:
        other = by_stem.get(image.stem + suffix) or by_stem.get(image.stem)
        if other is None:
            expected = others[0].with_name(f"{image.stem}{suffix}{others[0].suffix}")
            raise DatasetError(f"{image} lacks {expected}: unpack the dataset again or add the file.")
        paired.append(other)
    return paired


def split_every_fifth(
    samples: Sequence[LabelledSample],
) -> tuple[Samples, Samples]:
    """Splits good parts that come without a split: every fifth in the given order (the first, the sixth, ...) is kept.

    Returns:
        What to train on, and the 20 % kept for the test.
    """
    train = tuple(sample for index, sample in enumerate(samples) if index % 5)
    return train, tuple(samples[::5])
