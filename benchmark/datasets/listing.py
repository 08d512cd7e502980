"""Folders and file names to samples, the same way for every dataset.

Only names are looked at. No picture is opened before its pixels are asked for, so that a category of thousands of files
is read in a moment.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ast_hf.data.folders import EXTENSIONS, find_images, is_hidden, pair_files
from ast_hf.errors import DatasetError
from benchmark.datasets.base import LabelledSample, Samples


def list_folders(folder: Path) -> list[Path]:
    """Lists the folders directly in a folder, hidden ones left out, by name.

    Raises:
        DatasetError: If the folder is not there or cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be listed ({error.strerror}): check the path, or unpack the dataset again."
        ) from error


def good_samples(folder: Path) -> Samples:
    """Gives every picture under a folder as a good part."""
    return tuple(LabelledSample(image) for image in find_images(folder))


def masked_samples(
    folder: Path,
    masks: Path,
    defect: str,
    *,
    suffix: str = "",
    extensions: Collection[str] = EXTENSIONS,
    mask_extensions: Collection[str] = EXTENSIONS,
) -> Samples:
    """Gives the pictures of a defect with their masks, paired as by `ast_hf.data.folders.pair_files`."""
    pairs = pair_files(folder, masks, "mask", suffix=suffix, extensions=extensions, other_extensions=mask_extensions)
    return tuple(LabelledSample(image, label=1, defect=defect, masks=(mask,)) for image, mask in pairs)


def split_every_fifth(
    samples: Sequence[LabelledSample],
) -> tuple[Samples, Samples]:
    """Splits good parts that come without a split: every fifth in the given order (the first, the sixth, ...) is kept.

    Returns:
        What to train on, and the 20 % kept for the test.
    """
    train = tuple(sample for index, sample in enumerate(samples) if index % 5)
    return train, tuple(samples[::5])
