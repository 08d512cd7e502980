"""One part looked at: kept for its visitor, so that another false-positive rate redraws without the networks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ast_hf.calibration import Calibration
from ast_hf.demo.cloud import write_cloud
from ast_hf.demo.models import Detectors
from ast_hf.demo.uploads import DemoError, read_cloud, read_picture
from ast_hf.prediction import Prediction
from ast_hf.visualize import Region, draw_regions


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the networks said about a part, what its detector knows about good ones, and the part's scan if any."""

    detector: str
    prediction: Prediction
    calibration: Calibration
    points: np.ndarray | None = None
    # For files that outlive the handler that writes them; it goes with this object.
    temporary: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="ast-hf-", ignore_cleanup_errors=True)
    )

    def at_rate(self, rate: float) -> Prediction:
        """The prediction at another false-positive rate."""
        return self.prediction.at_rate(self.calibration, rate)


def inspect(detectors: Detectors, name: str | None, key: str | Path, image: str | None, scan: str | None) -> Inspection:
    """Reads and scores a part.

    Args:
        detectors: Where the detector comes from.
        name: What to call it.
        key: As `Detectors.predict`.
        image: Path of the uploaded picture.
        scan: Path of the uploaded point cloud.

    Raises:
        DemoError: Both are missing, the detector cannot be had, or they do not fit it.
        ImageReadError: One of them cannot be read.
    """
    if image is None and scan is None:
        raise DemoError("There is no picture yet: drop one, or choose an example.")
    picture = None if image is None else read_picture(image)
    points = None if scan is None else read_cloud(scan)
    (prediction,), calibration = detectors.predict(key, [picture], None if points is None else [points])
    return Inspection(name or str(key), prediction, calibration, points)


def report(prediction: Prediction, regions: Sequence[Region], detector: str, rate: float) -> dict[str, Any]:
    """A prediction and its regions for machines; boxes are (left, top, right, bottom) in pixels of the picture."""
    fields = ("score", "threshold", "is_anomalous", "p_value", "map_threshold")
    return {
        "detector": detector,
        "false_positive_rate": rate,
        **{field: getattr(prediction, field) for field in fields},
        "width": prediction.image.width,
        "height": prediction.image.height,
        "regions": [{**asdict(region), "box": list(region.box)} for region in regions],
    }


def draw(inspection: Inspection, rate: float, folder: Path) -> tuple[Prediction, dict[str, Any]]:
    """The prediction at a false-positive rate and its report, both also drawn into a folder.

    There will be original.png, overlay.png, regions.png and result.json.
    """
    prediction = inspection.at_rate(rate)
    regions = prediction.regions()
    values = report(prediction, regions, inspection.detector, rate)
    outlined = draw_regions(prediction.image, regions)
    for name, picture in (("original", prediction.image), ("overlay", prediction.overlay()), ("regions", outlined)):
        picture.save(folder / f"{name}.png", compress_level=1)  # a visitor waits: a third of the time for more bytes
    (folder / "result.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return prediction, values


def save_map(inspection: Inspection, folder: Path) -> Path:
    """Writes the raw anomaly map, float32 (height, width), for `numpy.load`."""
    np.save(folder / "anomaly_map.npy", inspection.prediction.anomaly_map, allow_pickle=False)
    return folder / "anomaly_map.npy"


def save_cloud(inspection: Inspection, rate: float, folder: Path) -> Path | None:
    """Writes the scan in the colours of the overlay at a false-positive rate; None where there is no scan."""
    if inspection.points is None:
        return None
    write_cloud(folder / "point_cloud.glb", inspection.points, inspection.at_rate(rate).overlay())
    return folder / "point_cloud.glb"
