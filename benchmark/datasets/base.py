"""What every dataset reader gives: parts, categories, and what is known of a dataset beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ast_hf.errors import DatasetError
from ast_hf.images import read_mask


@dataclass(frozen=True)
class Sample:
    """One part of a dataset.

    Attributes:
        image: The picture.
        label: 0 for a good part, 1 for an anomalous one.
        defect: "good", or the name of the defect as the dataset spells it.
        masks: The pictures that mark the defect: none where the dataset has none, several where it has one a region.
        points: The organised point cloud of the part, where there is one.
    """

    image: Path
    label: int
    defect: str
    masks: tuple[Path, ...] = ()
    points: Path | None = None

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
                raise DatasetError(
                    f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels and its picture {self.image} is "
                    f"{size[1]} x {size[0]}: a mask must have the size of its picture."
                )
            union |= mask
        if not self.label and union.any():
            raise DatasetError(f"{self.masks[0]} marks a defect on a good part: correct the mask or move the picture.")
        return union


@dataclass(frozen=True)
class DefectConfig:
    """How much of a region of one defect has to be found for it to count as found whole (MVTec LOCO AD).

    Attributes:
        defect_name: The defect, e.g. "missing_pushpin".
        pixel_value: The grey value that stands for this defect in a mask, 1 to 255.
        saturation_threshold: Area in pixels, or a share of the region where `relative_saturation` is set.
        relative_saturation: Whether the threshold is a share (0 to 1) of the region's area.
    """

    defect_name: str
    pixel_value: int
    saturation_threshold: float
    relative_saturation: bool


@dataclass(frozen=True)
class Category:
    """One category with its official split.

    Attributes:
        dataset: Name of the dataset, as in `DATASETS`.
        name: Name of the category.
        train: Good parts to train on.
        test: Good and anomalous parts to measure on.
        validation: Good parts set aside by the dataset, kept out of both.
        defects_config: What a mask's grey value means, where the dataset says it (MVTec LOCO AD).
    """

    dataset: str
    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    validation: tuple[Sample, ...] = ()
    defects_config: tuple[DefectConfig, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether every anomalous test part has a mask, so that pixels can be measured."""
        return all(sample.masks for sample in self.test if sample.label)


@dataclass(frozen=True)
class DatasetFacts:
    """What the benchmark knows of a dataset before any of it is there.

    Attributes:
        name: Name of the dataset, which is also the name of its folder.
        categories: All official categories in their official order; empty for a user's own data.
        licence: Under what terms the data may be used.
        citation: The paper to cite, on one line.
        download_page: Where the data come from; empty for a user's own data.
        has_masks: Whether every defect of the official data has a mask.
        preset: The configuration preset that is used unless another is named.
        checkpoint_prefix: What stands before the category in the name of a checkpoint.
        find_categories: Dataset folder -> the categories that are in it, in official order; none where it is another's.
        load_category: Dataset folder, category -> its split.
        modalities: The values of `ASTDetectorConfig.modality` that the data allow; each gets tables of its own.
    """

    name: str
    categories: tuple[str, ...]
    licence: str
    citation: str
    download_page: str
    has_masks: bool
    preset: str
    checkpoint_prefix: str
    find_categories: Callable[[Path], list[str]]
    load_category: Callable[[Path, str], Category]
    modalities: tuple[str, ...] = ("rgb",)
