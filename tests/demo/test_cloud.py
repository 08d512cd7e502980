from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ast_hf.demo.cloud import write_cloud
from tests import tiny


def read_glb(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    data = path.read_bytes()
    magic, version, size, length, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, size, kind) == (b"glTF", 2, len(data), b"JSON")
    scene = json.loads(data[20 : 20 + length])
    body = data[28 + length :]
    assert struct.unpack_from("<I4s", data, 20 + length) == (len(body), b"BIN\0")
    kinds = {5126: "<f4", 5123: "<u2", 5125: "<u4"}
    widths = {"VEC3": 3, "VEC4": 4, "SCALAR": 1}
    arrays = []
    for accessor in scene["accessors"]:
        view = scene["bufferViews"][accessor["bufferView"]]
        part = body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        array = np.frombuffer(part, kinds[accessor["componentType"]]).reshape(-1, widths[accessor["type"]])
        assert len(array) == accessor["count"]
        arrays.append(array)
    return scene, arrays


def test_points_come_out_upright_centred_and_in_their_colours(tmp_path: Path) -> None:
    y, x = np.mgrid[:3, :4].astype(np.float32)
    points = np.stack([x, y, np.ones_like(x)], axis=2)
    picture = Image.new("RGB", (4, 3), (255, 188, 0))
    assert write_cloud(tmp_path / "a.glb", points, picture) == 12
    scene, (positions, colours, triangles) = read_glb(tmp_path / "a.glb")
    assert positions[0] == pytest.approx([-0.5, 1 / 3, 0])  # top left: x to the right, y up
    assert positions[-1] == pytest.approx([0.5, -1 / 3, 0])
    assert (colours / 65535)[0] == pytest.approx([1, 0.503, 0, 1], abs=1e-3)
    assert len(triangles) == 3 * 2 * 6 and triangles.max() == 11
    assert scene["accessors"][0]["max"] == pytest.approx([0.5, 1 / 3, 0])


@given(seed=st.integers(0, 1000), share=st.floats(0.01, 1), most=st.integers(1, 5000), flat=st.booleans())
def test_only_measured_points_are_written(
    tmp_path_factory: pytest.TempPathFactory, seed: int, share: float, most: int, flat: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "cloud.glb"
    points = tiny.scan(seed)
    rng = np.random.default_rng(seed)
    points[rng.random(points.shape[:2]) > share] = rng.choice([0, np.nan, np.inf])
    points[7, 9] = 0.5
    written = write_cloud(path, points[..., 2] if flat else points, tiny.picture(seed), most=most)
    _, (positions, _, *triangles) = read_glb(path)
    measured = np.isfinite(points).all(axis=2) & (points[..., 2] != 0)
    assert 1 <= written == len(positions) <= measured.sum()
    assert np.isfinite(positions).all() and np.abs(positions).max() <= 0.6
    if most >= measured.sum():
        assert written == measured.sum()
    for corners in triangles:
        assert corners.max() < written


def test_a_scan_without_a_point_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no measured point"):
        write_cloud(tmp_path / "a.glb", np.zeros((60, 80, 3), dtype=np.float32), tiny.picture(0))
