"""MVTec LOCO AD: `CATEGORY/{train,validation,test}/TYPE/NNN.png` and `CATEGORY/ground_truth/TYPE/NNN/000.png, ...`.

TYPE is "good", "logical_anomalies" or "structural_anomalies". A part has one mask a defect, whose grey value says in
`CATEGORY/defects_config.json` which defect it is and how much of it has to be found (`DefectConfig`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ast_hf.data.folders import find_images
from ast_hf.data.images import read_image
from ast_hf.data.sample import GOOD
from ast_hf.errors import DatasetError
from benchmark.datasets.base import Category, DefectConfig, LabelledSample
from benchmark.datasets.listing import good_samples

if TYPE_CHECKING:
    from ast_hf.metrics import SaturatedRegion

ANOMALY_TYPES = ("logical_anomalies", "structural_anomalies")


def load_category(root: Path, name: str) -> Category:
    """Reads one category's split; `LabelledSample.defect` is one of `ANOMALY_TYPES`.

    Raises:
        ImageReadError: If a split is missing or empty, or a defect has no mask.
        DatasetError: If the saturation areas cannot be read.
    """
    folder = root / name
    test = good_samples(folder / "test" / GOOD)
    for kind in ANOMALY_TYPES:
        images, masks = folder / "test" / kind, folder / "ground_truth" / kind
        test += tuple(
            LabelledSample(image, label=1, defect=kind, masks=tuple(find_images(masks / name.with_suffix(""))))
            for image in find_images(images)
            for name in [image.relative_to(images)]
        )
    return Category(
        dataset="mvtec_loco_ad",
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
        config = tuple(DefectConfig(**entry) for entry in json.loads(path.read_bytes()))
        for defect in config:
            most = 1 if defect.relative_saturation else float("inf")
            if not (0 < defect.pixel_value < 256 and 0 < defect.saturation_threshold <= most):
                raise ValueError(f"{defect} is out of range")
        if not config or len({defect.pixel_value for defect in config}) < len(config):
            raise ValueError("it lists no defect, or one pixel value twice")
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} cannot be used ({error}): unpack it again from the dataset's archive.") from error
    return config


def saturated_regions(sample: LabelledSample, defects_config: Iterable[DefectConfig]) -> list[SaturatedRegion]:
    """Reads the regions that AU-sPRO measures a part by, one a mask; none for a good part or a blank mask.

    Raises:
        DatasetError: If a mask holds several values, or one that the configuration does not know.
        ImageReadError: If a mask cannot be read.
    """
    from ast_hf.metrics import SaturatedRegion, saturation_area  # not with the reader: scipy takes a while

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
