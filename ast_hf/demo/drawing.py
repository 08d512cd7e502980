"""What is shown of predictions: HTML that says in words what it shows, reports for machines, and scans to turn."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ast_hf.inference import Calibration, Prediction
from ast_hf.results import prediction_row

_BINS = 40
_MAX_POINTS = 120_000
_TEXTURE = (1024, 1024)


def report(prediction: Prediction, detector: str, rate: float) -> dict[str, Any]:
    """A prediction for machines; boxes are (left, top, right, bottom) in pixels of the picture."""
    scale = {"map_threshold": prediction.map_threshold}
    return {"detector": detector, "false_positive_rate": rate, **prediction_row(prediction), **scale}


def verdict(prediction: Prediction, calibration: Calibration) -> str:
    """Verdict, histogram of good parts and gauge, one under the other on one scale, and what the threshold promises."""
    assert prediction.threshold is not None
    scores, ratio = calibration.scores, prediction.score / prediction.threshold
    higher, p = sum(score >= prediction.score for score in scores), calibration.p_value(prediction.score)
    least = "" if higher else f", the least that {len(scores)} can show"
    among = f"Of {len(scores)} good parts kept out of training {higher or 'none'} scored as high"
    among, counts = f"{among} (p\xa0=\xa0{p:.2g}{least}).", _count(scores, prediction.threshold)
    return str(_html().verdict(prediction, ratio, _position(ratio), counts, among, calibration.describe()))


def distribution(calibration: Calibration, scores: Sequence[float] = ()) -> str:
    """The histogram of held-out good scores, under that of other `scores` where there are some, with the threshold."""
    threshold, good = calibration.threshold(), f"{len(calibration.scores)} good parts kept out of training"
    above = sum(score > threshold for score in scores)
    new = f"These {len(scores)} pictures, {above} above the threshold" if scores else ""
    histograms = [(new, _count(scores, threshold), "new")] if scores else []
    histograms.append((good, _count(calibration.scores, threshold), ""))
    return str(_html().figure(f"Histogram of the scores of {good}. {new}", histograms))


def progress(text: str, done: int = 0, total: int = 0) -> str:
    """A line of text, which screen readers are told of, over a bar where there is something to count."""
    return str(_html().progress(text, done, total))


@cache
def _html() -> Any:
    """The template's macros; they escape what they are given."""
    loader = PackageLoader("ast_hf.demo", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html").module


def _count(scores: Sequence[float], threshold: float) -> np.ndarray:
    """A histogram of scores; bins are equally wide on the scale, not in score."""
    return np.histogram([_position(score / threshold) for score in scores], _BINS, (0, 1))[0]


def _position(ratio: float) -> float:
    """Where a score, in units of the threshold, lies on the scale of gauge and histogram, in [0, 1).

    As the colours of heat maps (`ast_hf.inference.visualize`): the threshold is in the middle, below it the scale is
    linear, above it has room for any score.
    """
    return max(0.0, ratio) / 2 if ratio < 1 else 1 - 0.5 / ratio


def write_cloud(path: Path, points: np.ndarray, colours: Image.Image, *, most: int = _MAX_POINTS) -> int:
    """Writes a binary glTF, centred and of size one, seen as the camera saw it; gives the number of points.

    Its vertices are the points. Neighbours on the grid are joined by triangles, because viewers draw a lone point as
    one pixel, with gaps around it; where no four of them meet, lone points have to do.

    Args:
        path: To write to.
        points: (H, W, 3), or (H, W) for z alone; points that were not measured (zero, not finite) are left out, and
            where there are none but those a ValueError is raised.
        colours: W x H pixels, such as an overlay; shown as they are, without light.
        most: Denser clouds are thinned out, evenly over the grid, to about this many points.
    """
    import trimesh  # takes most of a second, which pictures without a scan need not wait for
    from trimesh.exchange.gltf import export_glb

    z = points[..., 2] if points.ndim == 3 else points
    measured = np.isfinite(points.reshape(*z.shape, -1)).all(axis=2) & (z != 0)
    if not measured.any():
        raise ValueError("The scan has no measured point.")
    step = max(1, math.ceil(math.sqrt(measured.sum() / most)))
    first = np.argwhere(measured)[0] % step  # at least this point is kept
    kept = measured[first[0] :: step, first[1] :: step]
    y, x = (first + step * np.argwhere(kept)).T
    xyz = points[y, x].astype(np.float64)
    if points.ndim == 2:  # a square grid, with heights drawn to a fifth of its width
        low, high = np.percentile(xyz, (1, 99))
        xyz = np.stack([*(np.stack([x, y]) / max(z.shape)), (xyz - low) / max(high - low, 1e-12) / 5], axis=1)
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    # From camera axes (y down, z away) to the viewer's.
    vertices = (xyz - (low + high) / 2) / max(float((high - low).max()), 1e-12) * (1, -1, -1)
    numbers = np.where(kept, np.cumsum(kept).reshape(kept.shape) - 1, -1)
    a, b, c, d = (corner.ravel() for corner in (numbers[:-1, :-1], numbers[:-1, 1:], numbers[1:, :-1], numbers[1:, 1:]))
    cells = np.stack([b, a, c, d], axis=1)
    cells = cells[(cells >= 0).all(axis=1)]
    rgb = colours.convert("RGB")
    shape: Any
    if not len(cells):
        linear = 255 * (np.asarray(rgb)[y, x] / 255) ** 2.2  # as glTF has the colours of vertices
        shape = trimesh.PointCloud(vertices, linear.astype(np.uint8))
    else:
        uv = np.stack([(x + 0.5) / rgb.width, 1 - (y + 0.5) / rgb.height], axis=1)
        rgb.thumbnail(_TEXTURE)
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=rgb, doubleSided=True)
        visual = trimesh.visual.TextureVisuals(uv, material)
        shape = trimesh.Trimesh(vertices, cells, visual=visual, process=False)
    path.write_bytes(export_glb(shape, include_normals=False, tree_postprocessor=_make_unlit))
    return len(vertices)


def _make_unlit(tree: dict[str, Any]) -> None:
    tree["materials"] = [{**material, "extensions": {"KHR_materials_unlit": {}}} for material in tree["materials"]]
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
