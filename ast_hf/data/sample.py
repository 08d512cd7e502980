"""What is known of one part before anything is read: where its picture and its point cloud are. No torch."""

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import numpy as np

from ast_hf.data.images import ImageSource, read_mask
from ast_hf.data.reading import ImageFile, source_name
from ast_hf.errors import DatasetError

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One part: its picture, its organised point cloud, or both, as `read_image` and `read_scan` take them."""

    image: ImageSource | None = None
    points: ImageFile | np.ndarray | None = None

    @property
    def name(self) -> str:
        """The file's path, or a stand-in for data without one."""
        return source_name(self.image if self.image is not None else self.points)


@dataclass(frozen=True)
class LabelledSample(Sample):
    """One part of a dataset."""

    image: Path = field()  # without a default, unlike the base's
    points: Path | None = None
    _: KW_ONLY
    label: int = 0  # or 1 for an anomalous part
    defect: str = GOOD  # or the name of the defect as the dataset spells it
    masks: tuple[Path, ...] = ()  # the pictures that mark the defect, several where there is one a region

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """The anomalous pixels, bool, of a picture of `size` (H, W): the union of the masks, which may be blank.

        Raises a `DatasetError` for a defect without masks, a mask of another size than the picture, or a good part with
        a mask that marks something.
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
