"""A scan as a coloured point cloud that a browser can turn."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MAX_POINTS = 120_000


def write_cloud(path: Path, points: np.ndarray, colours: Image.Image, *, most: int = MAX_POINTS) -> int:
    """Writes a binary glTF, centred and of size one, seen as the camera saw it (x to the right, y up).

    Its vertices are the points. Neighbours on the grid are joined by triangles, because viewers draw a lone point as
    one pixel, with gaps around it.

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
    z = points[..., 2] if points.ndim == 3 else points
    valid = np.isfinite(points.reshape(*z.shape, -1)).all(axis=2) & (z != 0)
    if not valid.any():
        raise ValueError("The scan has no measured point.")
    xyz = points.astype(np.float64) if points.ndim == 3 else _on_grid(z.astype(np.float64), valid)
    step = max(1, math.ceil(math.sqrt(valid.sum() / most)))
    row, column = (int(index) % step for index in np.argwhere(valid)[0])  # at least this one point is kept
    valid, xyz, rgb = (a[row::step, column::step] for a in (valid, xyz, np.asarray(colours.convert("RGB"))))
    low, high = xyz[valid].min(axis=0), xyz[valid].max(axis=0)
    positions = (xyz[valid] - (low + high) / 2) / max(float((high - low).max()), 1e-12)
    # From camera axes (y down, z away) to the viewer's.
    _write_glb(path, (positions * (1, -1, -1)).astype("<f4"), _linear(rgb[valid]), _triangles(valid))
    return len(positions)


def _on_grid(z: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Points for heights without x and y: a square grid, with heights drawn to a fifth of its width."""
    low, high = np.percentile(z[valid], (1, 99))
    y, x = np.mgrid[: z.shape[0], : z.shape[1]] / max(z.shape)
    return np.stack([x, y, (z - low) / max(high - low, 1e-12) / 5], axis=2)


def _linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB uint8 (N, 3) as glTF's vertex colours: linear RGBA, uint16 (N, 4)."""
    levels = np.arange(256) / 255
    curve = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    colours = np.full((len(rgb), 4), 65535, dtype="<u2")
    colours[:, :3] = np.rint(curve * 65535).astype("<u2")[rgb]
    return colours


def _triangles(valid: np.ndarray) -> np.ndarray:
    """Two triangles, as numbers of points, for each cell of the grid (H, W) whose four corners are there: (N, 3)."""
    number = np.cumsum(valid).reshape(valid.shape) - 1
    whole = valid[:-1, :-1] & valid[:-1, 1:] & valid[1:, :-1] & valid[1:, 1:]
    a, b, c, d = (n[whole] for n in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]))
    return np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)]).astype("<u4")


def _write_glb(path: Path, positions: np.ndarray, colours: np.ndarray, triangles: np.ndarray) -> None:
    """glTF 2.0, section 4.4: a header, a JSON chunk that describes, and a chunk with the arrays."""
    arrays = [positions, colours, triangles] if len(triangles) else [positions, colours]
    offsets = np.cumsum([0, *(array.nbytes for array in arrays)]).tolist()
    bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    accessors: list[dict[str, Any]] = [
        {"bufferView": 0, "componentType": 5126, "count": len(positions), "type": "VEC3", **bounds},
        {"bufferView": 1, "componentType": 5123, "count": len(colours), "type": "VEC4", "normalized": True},
        {"bufferView": 2, "componentType": 5125, "count": triangles.size, "type": "SCALAR"},
    ]
    primitive: dict[str, Any] = {"attributes": {"POSITION": 0, "COLOR_0": 1}, "material": 0, "mode": 0}
    if len(triangles):
        primitive |= {"indices": 2, "mode": 4}
    scene = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}],
        "extensionsUsed": ["KHR_materials_unlit"],
        "accessors": accessors[: len(arrays)],
        "bufferViews": [
            {"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes}
            for offset, array in zip(offsets, arrays, strict=False)
        ],
        "buffers": [{"byteLength": offsets[-1]}],
    }
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(array.tobytes() for array in arrays)  # all of them are multiples of four bytes
    with path.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(data)))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(data), b"BIN\0") + data)
