from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ast_hf.demo.drawing import write_cloud
from tests import tiny


def read(path: Path) -> Any:
    """The only mesh, or cloud of points, in the file."""
    (geometry,) = trimesh.load_scene(path, process=False).geometry.values()
    return geometry


def test_points_come_out_upright_centred_and_in_their_colours_without_light(tmp_path: Path) -> None:
    y, x = np.mgrid[:3, :4].astype(np.float32)
    colours = np.random.default_rng(0).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    path, points = tmp_path / "a.glb", np.stack([x, y, np.ones_like(x)], axis=2)
    assert write_cloud(path, points, Image.fromarray(colours)) == 12
    mesh = read(path)
    assert mesh.vertices[0] == pytest.approx([-0.5, 1 / 3, 0])  # top left: x to the right, y up
    assert mesh.vertices[-1] == pytest.approx([0.5, -1 / 3, 0])
    assert len(mesh.faces) == 3 * 2 * 2 and mesh.faces.max() == 11
    assert mesh.visual.material.doubleSided and b'"extensions":{"KHR_materials_unlit":{}}' in path.read_bytes()
    u, v = (mesh.visual.uv * (4, 3)).astype(int).T  # from the left and from the bottom
    shown = np.asarray(mesh.visual.material.baseColorTexture)
    assert np.array_equal(shown[2 - v, u], colours.reshape(-1, 3))


def test_lone_points_are_drawn_too(tmp_path: Path) -> None:
    points = np.zeros((9, 9, 3), dtype=np.float32)
    points[::4, ::4] = 1
    assert write_cloud(tmp_path / "a.glb", points, Image.new("RGB", (9, 9), (255, 188, 0))) == 9
    assert (read(tmp_path / "a.glb").colors[0, :3] / 255) == pytest.approx([1, 0.503, 0], abs=0.02)  # linear


@given(seed=st.integers(0, 1000), share=st.floats(0.01, 1), most=st.integers(1, 5000), flat=st.booleans())
def test_only_measured_points_are_written(
    tmp_path_factory: pytest.TempPathFactory, seed: int, share: float, most: int, flat: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "cloud.glb"
    points, rng = tiny.scan(seed), np.random.default_rng(seed)
    points[rng.random(points.shape[:2]) > share] = rng.choice([0, np.nan, np.inf])
    points[7, 9] = 0.5
    written = write_cloud(path, points[..., 2] if flat else points, tiny.picture(seed), most=most)
    vertices = read(path).vertices
    measured = np.isfinite(points).all(axis=2) & (points[..., 2] != 0)
    assert 1 <= written == len(vertices) <= measured.sum()
    assert np.isfinite(vertices).all() and np.abs(vertices).max() <= 0.6
    assert written == measured.sum() or most < measured.sum()


def test_a_scan_without_a_point_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no measured point"):
        write_cloud(tmp_path / "a.glb", np.zeros((60, 80, 3), dtype=np.float32), tiny.picture(0))
