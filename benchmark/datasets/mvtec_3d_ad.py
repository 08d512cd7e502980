"""MVTec 3D-AD: `CATEGORY/{train,validation,test}/DEFECT/{rgb/NNN.png, xyz/NNN.tiff, gt/NNN.png}`.

The point clouds are organised: (H, W, 3) float32, in metres, all zero where the sensor saw nothing.
"""

from __future__ import annotations

from pathlib import Path

from ast_hf.data.folders import pair_files, pair_scans
from ast_hf.data.sample import GOOD
from benchmark.datasets.base import Category, LabelledSample, Samples
from benchmark.datasets.listing import list_folders


def load_category(root: Path, name: str) -> Category:
    """Reads one category's split.

    Raises:
        DatasetError, ImageReadError: If a split is missing or empty, or a part has no scan, or a defect no mask.
    """
    folder = root / name
    train, validation, test = (_scans(folder / split / GOOD) for split in ("train", "validation", "test"))
    for defect in [child for child in list_folders(folder / "test") if child.name != GOOD]:
        test += _scans(defect)
    return Category("mvtec_3d_ad", name, train, test, validation)


def _scans(folder: Path) -> Samples:
    """Pairs the pictures of one folder with their scans and masks; good parts may have (blank) masks or none."""
    label = int(folder.name != GOOD)
    masks: dict[Path, Path] = {}
    if label or (folder / "gt").is_dir():
        masks = dict(pair_files(folder / "rgb", folder / "gt", "mask"))
    return tuple(
        LabelledSample(image, scan, label=label, defect=folder.name, masks=(masks[image],) if masks else ())
        for image, scan in pair_scans(folder)
    )
