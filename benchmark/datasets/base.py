"""What every dataset reader gives: labelled samples in a category's official split, and what is known beforehand."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image

from ast_hf.data.images import read_mask
from ast_hf.data.reading import FORMATS, decoding
from ast_hf.data.sample import Sample
from ast_hf.errors import DatasetError, ImageReadError
from benchmark.datasets.facts import FACTS

GOOD = "good"


@dataclass(frozen=True)
class LabelledSample(Sample):
    """One part of a dataset.

    Attributes:
        image: The picture.
        points: The organised point cloud of the part, where there is one.
        label: 0 for a good part, 1 for an anomalous one.
        defect: "good", or the name of the defect as the dataset spells it.
        masks: The pictures that mark the defect: none where the dataset has none, several where it has one a region.
    """

    image: Path = field()  # without a default, unlike the base's
    points: Path | None = None
    _: KW_ONLY
    label: int = 0
    defect: str = GOOD
    masks: tuple[Path, ...] = ()

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """Gives the anomalous pixels: the union of the masks, every value but 0 being a defect.

        Args:
            size: Height and width of the picture in pixels; the masks must have the same.

        Returns:
            Bool, (height, width). A good part has none set. A defect may have none set either, where its mask is blank.

        Raises:
            DatasetError: For a defect without masks, a mask of another size than the picture, or a good part with a
                mask that marks something.
            ImageReadError: If a mask cannot be read.
        """
        if self.label and not self.masks:
            raise DatasetError(f"{self.image} has no mask: measure such a dataset by its image scores only.")
        union = np.zeros(size, dtype=bool)
        for path in self.masks:
            mask = read_mask(path)
            if mask.shape != union.shape:
                sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, {self.image} has {size[1]} x {size[0]}"
                raise DatasetError(f"The mask {path} has {sizes}: a mask must have the size of its picture.")
            union |= mask
        if not self.label and union.any():
            raise DatasetError(f"{self.masks[0]} marks a defect on a good part: correct the mask or move the picture.")
        return union


Samples: TypeAlias = tuple[LabelledSample, ...]


@dataclass(frozen=True)
class DefectConfig:
    """How much of a region of one defect has to be found for it to count as found whole (MVTec LOCO AD)."""

    defect_name: str  # e.g. "missing_pushpin"
    pixel_value: int  # the grey value that stands for this defect in a mask, 1 to 255
    saturation_threshold: float  # area in pixels, or a share (0 to 1) of the region's area
    relative_saturation: bool  # whether it is a share


@dataclass(frozen=True)
class Category:
    """One category with its official split."""

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

    Only headers are read: thousands of files take seconds. Where there are masks at all, each defect must have one, in
    a user's own data each part of a defect that has some.

    Raises:
        DatasetError: One does not; it names the file and says what to do.
    """
    own = category.dataset in [facts.name for facts in FACTS if not facts.categories]
    masked = {sample.defect for sample in category.test if sample.masks}
    for sample in category.test:
        if sample.label and not sample.masks and (sample.defect in masked if own else masked):
            raise DatasetError(f"{sample.image} has no mask, and others have one: add its mask, or remove the picture.")
        if not sample.masks:
            continue
        image_size = _displayed_size(sample.image)
        for mask in sample.masks:
            if (size := _displayed_size(mask)) != image_size:
                sizes = f"{size[0]} x {size[1]} pixels, {sample.image} has {image_size[0]} x {image_size[1]}"
                raise DatasetError(f"The mask {mask} has {sizes}: a mask must have the size of its picture.")


def _displayed_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture, turned as `read_image` and `read_mask` turn it; from its header."""
    try:
        with decoding(str(path)), Image.open(path, formats=FORMATS) as image:
            # Without this key a PNG would be decoded in search of EXIF data; TIFF's size is the displayed one already.
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if "exif" in image.info else 1
            return image.size[::-1] if orientation >= 5 else image.size
    except ImageReadError as error:
        raise DatasetError(f"{error} Correct this file of the test set before training on it.") from error
