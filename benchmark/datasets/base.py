"""What every dataset reader gives, labelled samples in a category's official split, and what readers share.

Only names are looked at. No picture is opened before its pixels are asked for, so that a category of thousands of files
is read in a moment.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from ast_hf.data.folders import find_images, is_hidden, pair_files
from ast_hf.data.images import has_soft_edges, read_mask_values
from ast_hf.data.reading import FORMATS, decoding
from ast_hf.data.sample import LabelledSample
from ast_hf.errors import DatasetError
from benchmark.datasets.facts import DATASETS

Samples: TypeAlias = tuple[LabelledSample, ...]
_LOG = logging.getLogger(__name__)
_NAMED = 5  # in a sentence of the log


@dataclass(frozen=True)
class DefectConfig:
    """How much of a region of one defect has to be found for it to count as found whole (MVTec LOCO AD)."""

    defect_name: str  # e.g. "missing_pushpin"
    pixel_value: int  # the grey value that stands for this defect in a mask, 1 to 255
    saturation_threshold: float  # area in pixels, or a share (0 to 1) of the region's area
    relative_saturation: bool  # whether it is a share


@dataclass(frozen=True)
class Category:
    dataset: str  # as in `DATASETS`
    name: str
    train: Samples  # good parts
    test: Samples  # good and anomalous parts
    validation: Samples = ()  # good parts set aside by the dataset, kept out of both
    defects_config: tuple[DefectConfig, ...] = ()  # what a mask's grey value means (MVTec LOCO AD)

    @property
    def has_masks(self) -> bool:
        """Whether every anomalous test part has a mask, so that pixels can be measured."""
        return all(sample.masks for sample in self.test if sample.label)


def check_masks(category: Category) -> None:
    """Checks that the masks of all test parts are there, are pictures, and have the sizes of their pictures.

    Of pictures only headers are read: thousands take seconds. Where there are masks at all, each defect must have one,
    in a user's own data each part of a defect that has some. Masks of defects that mark nothing, those that mark most
    of a picture and those that `read_mask` cuts are named in the log. Raises a DatasetError where one is not there or
    has another size, and an ImageReadError where it is no picture.
    """
    own = not DATASETS[category.dataset].categories
    masked = {sample.defect for sample in category.test if sample.masks}
    blank, soft, large = list[Path](), list[Path](), list[Path]()
    for sample in category.test:
        if sample.label and not sample.masks and (sample.defect in masked if own else masked):
            raise DatasetError(f"{sample.image} has no mask, and others have one: add its mask, or remove the picture.")
        if not sample.masks:
            continue
        width, height = displayed_size(sample.image)
        masks = {path: read_mask_values(path) for path in sample.masks}
        for path, mask in masks.items():
            if mask.shape != (height, width):
                sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, {sample.image} has {width} x {height}"
                raise DatasetError(f"The mask {path} has {sizes}: a mask must have the size of its picture.")
        soft += [path for path, mask in masks.items() if has_soft_edges(mask)]
        large += [path for path, mask in masks.items() if np.count_nonzero(mask) > mask.size / 2]
        if sample.label and not any(mask.any() for mask in masks.values()):
            blank += sample.masks
    named = {
        "Masks of defects that mark nothing": blank,
        "Masks that mark more than half of their picture, where only the defect should not be black": large,
        "Masks with soft edges, after JPEG or resizing, cut at half their highest value": soft,
    }
    for what, paths in named.items():
        if paths:
            more = ", ..." if len(paths) > _NAMED else ""
            _LOG.warning("%s (%d): %s%s", what, len(paths), ", ".join(map(str, paths[:_NAMED])), more)


def displayed_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture, turned as `read_image` turns it; from its header."""
    with decoding(str(path)), Image.open(path, formats=FORMATS) as image:
        # Without this key a PNG would be decoded in search of EXIF data; TIFF's size is the displayed one already.
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if "exif" in image.info else 1
        return image.size[::-1] if orientation >= 5 else image.size


def list_folders(folder: Path) -> list[Path]:
    """The folders directly in a folder, hidden ones left out, by name; raises a DatasetError where there is none."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be listed ({error.strerror}): check the path, or unpack the dataset again."
        ) from error


def good_samples(folder: Path) -> Samples:
    return tuple(LabelledSample(image) for image in find_images(folder))


def masked_samples(folder: Path, masks: Path, defect: str, **pairing: Any) -> Samples:
    """The pictures of a defect with their masks, paired as by `ast_hf.data.folders.pair_files`."""
    pairs = pair_files(folder, masks, "mask", **pairing)
    return tuple(LabelledSample(image, label=1, defect=defect, masks=(mask,)) for image, mask in pairs)


def split_every_fifth(samples: Sequence[LabelledSample]) -> tuple[Samples, Samples]:
    """Good parts without a split of their own: what to train on, and every fifth, from the first on, for the test."""
    return tuple(sample for index, sample in enumerate(samples) if index % 5), tuple(samples[::5])
