"""MVTec 3D-AD: `CATEGORY/{train,validation,test}/DEFECT/{rgb/NNN.png, xyz/NNN.tiff, gt/NNN.png}`.

The point clouds are organised: (H, W, 3) float32, in metres, all zero where the sensor saw nothing.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.datasets.base import GOOD, Category, LabelledSample, Samples
from benchmark.datasets.listing import list_files, list_folders, pair_by_stem

_POINT_SUFFIXES = frozenset({".tif", ".tiff"})


def load_category(root: Path, name: str) -> Category:
    """Reads one category's split.

    Raises:
        DatasetError: If a split is missing or empty, or a part has no scan, or a defect no mask.
    """
    folder = root / name
    train, validation, test = (_scans(folder / split / GOOD) for split in ("train", "validation", "test"))
    for defect in [child for child in list_folders(folder / "test") if child.name != GOOD]:
        test += _scans(defect)
    return Category("mvtec_3d_ad", name, train, test, validation)


def _scans(folder: Path) -> Samples:
    """Pairs the pictures of one folder with their scans and masks; good parts may have (blank) masks or none."""
    label = int(folder.name != GOOD)
    images = list_files(folder / "rgb")
    points = pair_by_stem(images, list_files(folder / "xyz", _POINT_SUFFIXES))
    masks: list[tuple[Path, ...]] = [()] * len(images)
    if label or (folder / "gt").is_dir():
        masks = [(mask,) for mask in pair_by_stem(images, list_files(folder / "gt"))]
    return tuple(
        LabelledSample(image, scan, label=label, defect=folder.name, masks=mask)
        for image, scan, mask in zip(images, points, masks, strict=True)
    )
