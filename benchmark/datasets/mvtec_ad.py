"""MVTec AD: `CATEGORY/{train/good, test/DEFECT, ground_truth/DEFECT/NNN_mask.png}`; good parts have no masks."""

from __future__ import annotations

from pathlib import Path

from ast_hf.data.sample import GOOD
from benchmark.datasets.base import Category
from benchmark.datasets.listing import good_samples, list_folders, masked_samples


def load_category(root: Path, name: str) -> Category:
    """Reads one category's split.

    Raises:
        DatasetError, ImageReadError: If a split is missing or empty, or a defect has no mask.
    """
    folder = root / name
    test = good_samples(folder / "test" / GOOD)
    for defect in [child for child in list_folders(folder / "test") if child.name != GOOD]:
        test += masked_samples(defect, folder / "ground_truth" / defect.name, defect.name, suffix="_mask")
    return Category("mvtec_ad", name, good_samples(folder / "train" / GOOD), test)
