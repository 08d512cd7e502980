"""MVTec LOCO AD: `CATEGORY/{train,validation,test}/TYPE/NNN.png` and `CATEGORY/ground_truth/TYPE/NNN/000.png, ...`.

TYPE is "good", "logical_anomalies" or "structural_anomalies". A part has one mask a defect, whose grey value says in
`CATEGORY/defects_config.json` which defect it is and how much of it has to be found (`DefectConfig`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ast_hf.errors import DatasetError
from ast_hf.images import read_image
from benchmark.datasets.base import Category, DatasetFacts, DefectConfig, Sample
from benchmark.datasets.listing import GOOD, good_samples, list_images, present_folders
from benchmark.metrics import SaturatedRegion, saturation_area

NAME = "mvtec_loco_ad"
CATEGORIES = ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")
ANOMALY_TYPES = ("logical_anomalies", "structural_anomalies")


def find_categories(root: Path) -> list[str]:
    """Lists the official categories that are in the dataset's folder."""
    return present_folders(root, CATEGORIES)


def load_category(root: Path, name: str) -> Category:
    """Reads one category's split; `Sample.defect` is one of `ANOMALY_TYPES`.

    Raises:
        DatasetError: If a split is missing or empty, a defect has no mask, or the saturation areas cannot be read.
    """
    folder = root / name
    test = good_samples(folder / "test" / GOOD)
    for kind in ANOMALY_TYPES:
        masks = folder / "ground_truth" / kind
        test += tuple(
            Sample(image, 1, kind, tuple(list_images(masks / image.stem)))
            for image in list_images(folder / "test" / kind)
        )
    return Category(
        dataset=NAME,
        name=name,
        train=good_samples(folder / "train" / GOOD),
        test=test,
        validation=good_samples(folder / "validation" / GOOD),
        defects_config=read_defects_config(folder / "defects_config.json"),
    )


def read_defects_config(path: Path) -> tuple[DefectConfig, ...]:
    """Reads the saturation areas of one category's defects.

    Raises:
        DatasetError: If the file is missing or holds anything else.
    """
    try:
        entries = json.loads(path.read_bytes())
        config = tuple(_defect_config(entry) for entry in entries)
        if not config or len({defect.pixel_value for defect in config}) < len(config):
            raise ValueError("it lists no defect, or one pixel value twice")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{path} cannot be used ({error}): unpack it again from the dataset's archive.") from error
    return config


def saturated_regions(sample: Sample, defects_config: Iterable[DefectConfig]) -> list[SaturatedRegion]:
    """Reads the regions that AU-sPRO measures a part by, one a mask; none for a good part or a blank mask.

    Raises:
        DatasetError: If a mask holds several values, or one that the configuration does not know.
        ImageReadError: If a mask cannot be read.
    """
    by_value = {config.pixel_value: config for config in defects_config}
    regions = []
    for path in sample.masks:
        values = np.asarray(read_image(path))[..., 0]  # grey: the three channels are the same
        marked = np.unique(values[values != 0]).tolist()
        if len(marked) > 1 or not by_value.keys() >= set(marked):
            raise DatasetError(
                f"{path} holds the values {marked}, but should hold one of {sorted(by_value)}: unpack it again."
            )
        for value in marked:
            config, mask = by_value[value], values != 0
            area = saturation_area(int(mask.sum()), config.saturation_threshold, config.relative_saturation)
            regions.append(SaturatedRegion(mask, area))
    return regions


def _defect_config(entry: dict[str, Any]) -> DefectConfig:
    config = DefectConfig(
        defect_name=str(entry["defect_name"]),
        pixel_value=int(entry["pixel_value"]),
        saturation_threshold=float(entry["saturation_threshold"]),
        relative_saturation=bool(entry["relative_saturation"]),
    )
    largest = 1 if config.relative_saturation else float("inf")
    if not (0 < config.pixel_value < 256 and 0 < config.saturation_threshold <= largest):
        raise ValueError(f"{entry} is out of range")
    return config


FACTS = DatasetFacts(
    name=NAME,
    categories=CATEGORIES,
    licence="CC BY-NC-SA 4.0",
    citation="Bergmann, Batzner, Fauser, Sattlegger, Steger: Beyond Dents and Scratches: Logical Constraints in "
    "Unsupervised Anomaly Detection and Localization, IJCV 2022",
    download_page="https://www.mvtec.com/company/research/datasets/mvtec-loco",
    has_masks=True,
    preset="mvtec-loco-ad",
    checkpoint_prefix="ast-loco-",
    find_categories=find_categories,
    load_category=load_category,
)
