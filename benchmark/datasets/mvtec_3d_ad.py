"""MVTec 3D-AD: `CATEGORY/{train,validation,test}/DEFECT/{rgb/NNN.png, xyz/NNN.tiff, gt/NNN.png}`.

The point clouds are organised: (H, W, 3) float32, in metres, all zero where the sensor saw nothing.
"""

from __future__ import annotations

from pathlib import Path

from ast_hf.errors import DatasetError
from benchmark.datasets.base import Category, DatasetFacts, Sample
from benchmark.datasets.listing import GOOD, index_by_stem, list_defects, list_files, list_images, present_folders

NAME = "mvtec_3d_ad"
CATEGORIES = ("bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire")
_POINT_SUFFIXES = frozenset({".tif", ".tiff"})


def find_categories(root: Path) -> list[str]:
    """Lists the official categories that are in the dataset's folder."""
    return present_folders(root, CATEGORIES)


def load_category(root: Path, name: str) -> Category:
    """Reads one category's split.

    Raises:
        DatasetError: If a split is missing or empty, or a part has no scan, or a defect no mask.
    """
    folder = root / name
    train, validation, test = (_scans(folder / split / GOOD) for split in ("train", "validation", "test"))
    for defect in list_defects(folder / "test"):
        test += _scans(defect)
    return Category(NAME, name, train, test, validation)


def _scans(folder: Path) -> tuple[Sample, ...]:
    """Pairs the pictures of one folder with their scans and masks; good parts may have (blank) masks or none."""
    label = int(folder.name != GOOD)
    points = index_by_stem(list_files(folder / "xyz", _POINT_SUFFIXES))
    masks = index_by_stem(list_images(folder / "gt")) if label or (folder / "gt").is_dir() else {}
    samples = []
    for image in list_images(folder / "rgb"):
        if image.stem not in points:
            raise DatasetError(f"{image} has no scan: {folder / 'xyz' / image.stem}.tiff is missing; unpack it again.")
        if label and image.stem not in masks:
            raise DatasetError(f"{image} has no mask: {folder / 'gt' / image.stem}.png is missing; unpack it again.")
        mask = (masks[image.stem],) if image.stem in masks else ()
        samples.append(Sample(image, label, folder.name, mask, points[image.stem]))
    return tuple(samples)


FACTS = DatasetFacts(
    name=NAME,
    categories=CATEGORIES,
    licence="CC BY-NC-SA 4.0",
    citation="Bergmann, Jin, Sattlegger, Steger: The MVTec 3D-AD Dataset for Unsupervised 3D Anomaly Detection and "
    "Localization, VISAPP 2022",
    download_page="https://www.mvtec.com/company/research/datasets/mvtec-3d-ad",
    has_masks=True,
    preset="mvtec-3d-ad",
    checkpoint_prefix="ast-mvtec3d-",
    find_categories=find_categories,
    load_category=load_category,
    modalities=("rgb+depth", "rgb", "depth"),
)
