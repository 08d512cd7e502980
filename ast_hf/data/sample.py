"""What is known of one part before anything is read: where its picture and its point cloud are. No torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ast_hf.data.images import ImageSource, read_mask
from ast_hf.data.reading import ImageFile, source_name
from ast_hf.errors import DatasetError

Scan: TypeAlias = "ImageFile | np.ndarray"

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One part: its picture, its organised point cloud, or both, as `read_image` and `read_scan` take them."""

    image: ImageSource | None = None
    points: Scan | None = None

    @property
    def name(self) -> str:
        """The file's path, or a stand-in for data without one."""
        return source_name(self.image if self.image is not None else self.points)


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
        """Gives the anomalous pixels: the union of the masks, as `read_mask` reads them.

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
