"""A scan as a coloured surface that a browser can turn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MAX_POINTS = 120_000
_TEXTURE = (1024, 1024)


def write_cloud(path: Path, points: np.ndarray, colours: Image.Image, *, most: int = MAX_POINTS) -> int:
    """Writes a binary glTF, centred and of size one, seen as the camera saw it (x to the right, y up).

    Its vertices are the points. Neighbours on the grid are joined by triangles, because viewers draw a lone point as
    one pixel, with gaps around it; where no four of them meet, lone points have to do.

    Args:
        path: To write to.
        points: (H, W, 3), or (H, W) for z alone; points that were not measured (zero, not finite) are left out.
        colours: W x H pixels, such as an overlay; shown as they are, without light.
        most: Denser clouds are thinned out, evenly over the grid, to about this many points.

    Returns:
        How many points were written.

    Raises:
        ValueError: No point was measured.
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
    rgb, faces = colours.convert("RGB"), _triangles(kept)
    shape: Any
    if not len(faces):
        linear = 255 * (np.asarray(rgb)[y, x] / 255) ** 2.2  # as glTF has the colours of vertices
        shape = trimesh.PointCloud(vertices, linear.astype(np.uint8))
    else:
        uv = np.stack([(x + 0.5) / rgb.width, 1 - (y + 0.5) / rgb.height], axis=1)
        rgb.thumbnail(_TEXTURE)
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=rgb, doubleSided=True)
        visual = trimesh.visual.TextureVisuals(uv, material)
        shape = trimesh.Trimesh(vertices, faces, visual=visual, process=False)
    path.write_bytes(export_glb(shape, include_normals=False, tree_postprocessor=_make_unlit))
    return len(vertices)


def _triangles(there: np.ndarray) -> np.ndarray:
    """Two triangles, as numbers of points, for each cell of the grid (H, W) whose four corners are there: (N, 3)."""
    number = np.cumsum(there).reshape(there.shape) - 1
    whole = there[:-1, :-1] & there[:-1, 1:] & there[1:, :-1] & there[1:, 1:]
    a, b, c, d = (n[whole] for n in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]))
    return np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)])


def _make_unlit(tree: dict[str, Any]) -> None:
    tree["materials"] = [{**material, "extensions": {"KHR_materials_unlit": {}}} for material in tree["materials"]]
    tree["extensionsUsed"] = [*tree.get("extensionsUsed", []), "KHR_materials_unlit"]
