"""One part looked at: kept for its visitor, so that another false-positive rate redraws without the networks."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ast_hf.demo.cloud import write_cloud
from ast_hf.demo.detectors import Detectors, Key
from ast_hf.demo.uploads import DemoError, read_cloud, read_picture, shown_name
from ast_hf.inference import Calibration, Prediction
from ast_hf.inference.regions import draw_regions
from ast_hf.inference.visualize import DEFAULT_OPACITY
from ast_hf.results import prediction_row


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a detector said about a part, what it knows about good ones, and the part's scan if any."""

    detector: str
    prediction: Prediction
    calibration: Calibration
    points: np.ndarray | None = None


def inspect(detectors: Detectors, name: str, key: Key, image: str | None, scan: str | None) -> Inspection:
    """Reads and scores a part: the files of its picture and its scan, as they were uploaded.

    Raises:
        DemoError: Both are missing, one cannot be read, the detector cannot be had, or they do not fit it.
    """
    if image is None and scan is None:
        raise DemoError("There is no picture yet: drop one, or choose an example.")
    picture = None if image is None else read_picture(image)
    points = None if scan is None else read_cloud(scan)
    (prediction,), calibration = detectors.predict(key, [picture], None if points is None else [points])
    return Inspection(name, replace(prediction, name=shown_name(str(image or scan))), calibration, points)


def report(prediction: Prediction, detector: str, rate: float) -> dict[str, Any]:
    """A prediction for machines; boxes are (left, top, right, bottom) in pixels of the picture."""
    scale = {"map_threshold": prediction.map_threshold}
    return {"detector": detector, "false_positive_rate": rate, **prediction_row(prediction), **scale}


def draw(
    inspection: Inspection, rate: float, folder: Path, opacity: float = DEFAULT_OPACITY
) -> tuple[Prediction, dict[str, Any], dict[str, str]]:
    """The prediction at a false-positive rate, its report, and both as files in `folder`; `opacity` is the overlay's.

    The files by their stem: original, overlay, regions (PNG), result (JSON), anomaly_map (.npy, float32, H x W), and
    where there is a scan point_cloud in the colours of the overlay (GLB).
    """
    prediction = inspection.prediction.at_rate(inspection.calibration, rate)
    overlay, outlined = prediction.overlay(opacity=opacity), draw_regions(prediction.image, prediction.regions())
    values = report(prediction, inspection.detector, rate)
    for name, picture in (("original", prediction.image), ("overlay", overlay), ("regions", outlined)):
        picture.save(folder / f"{name}.png", compress_level=1)  # a visitor waits: a third of the time for more bytes
    (folder / "result.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    np.save(folder / "anomaly_map.npy", prediction.anomaly_map, allow_pickle=False)
    if inspection.points is not None:
        write_cloud(folder / "point_cloud.glb", inspection.points, overlay)
    return prediction, values, {path.stem: str(path) for path in folder.iterdir()}
