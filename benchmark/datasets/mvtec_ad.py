"""MVTec AD: `CATEGORY/{train/good, test/DEFECT, ground_truth/DEFECT/NNN_mask.png}`; good parts have no masks."""

from __future__ import annotations

from pathlib import Path

from benchmark.datasets.base import Category, DatasetFacts
from benchmark.datasets.listing import GOOD, good_samples, list_defects, masked_samples, present_folders

NAME = "mvtec_ad"
CATEGORIES = (
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
)


def find_categories(root: Path) -> list[str]:
    """Lists the official categories that are in the dataset's folder."""
    return present_folders(root, CATEGORIES)


def load_category(root: Path, name: str) -> Category:
    """Reads one category's split.

    Raises:
        DatasetError: If a split is missing or empty, or a defect has no mask.
    """
    folder = root / name
    test = good_samples(folder / "test" / GOOD)
    for defect in list_defects(folder / "test"):
        test += masked_samples(defect, folder / "ground_truth" / defect.name, defect.name)
    return Category(NAME, name, good_samples(folder / "train" / GOOD), test)


FACTS = DatasetFacts(
    name=NAME,
    categories=CATEGORIES,
    licence="CC BY-NC-SA 4.0",
    citation="Bergmann, Fauser, Sattlegger, Steger: MVTec AD - A Comprehensive Real-World Dataset for Unsupervised "
    "Anomaly Detection, CVPR 2019",
    download_page="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    has_masks=True,
    preset="mvtec-ad",
    checkpoint_prefix="ast-mvtec-",
    find_categories=find_categories,
    load_category=load_category,
)
