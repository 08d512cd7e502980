"""The exported graph computes what `ASTDetector.predict` does, and the file says what it is."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ast_hf import ASTDetector, Prediction, export
from ast_hf.calibration import Calibration
from ast_hf.export import ExportError, export_onnx
from ast_hf.images import upsample_map
from ast_hf.parts import Part, pixel_values, read_part, stack
from tests import tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

FileOf = Callable[[str], Path]

CALIBRATION = Calibration(tuple(n / 32 for n in range(30)), tuple(n / 4 for n in range(30)))
CHANGES: dict[str, dict[str, Any]] = {
    "rgb": {"feature_normalization": "channel"},
    "rgb+depth": {"feature_normalization": "channel"},
    "depth": {"position_channels": 0, "foreground_dilation": 0},
}
CPU = torch.device("cpu")
SAME, SMALLER, LARGER, WIDE = (64, 64), (37, 53), (211, 149), (301, 41)  # (width, height), with image_size 64
SCAN = (79, 61)  # there the scan's box fits in


@functools.cache
def detector(modality: str) -> ASTDetector:
    """A random detector in which no coupling is the identity, and which looks closely at what goes in."""
    torch.manual_seed(0)
    model = ASTDetector(tiny.config(modality, coupling_blocks=1, coupling_kernel_sizes=(3,), **CHANGES[modality]))
    for name, tensor in (*model.teacher.named_parameters(), *model.student.named_buffers()):
        if name.endswith(("gamma", "running_mean", "running_var")):
            tensor.data.uniform_(0.5, 1.5)
    if model.config.feature_normalization == "channel":
        read = [read_part(model.config, part) for part in parts_of(model, SMALLER, 4)]
        inputs = model.inputs(pixel_values(read, CPU), stack([r.depth for r in read], CPU))
        model.input_mean.copy_(inputs.mean((0, 2, 3)))
        model.input_deviation.copy_(inputs.std((0, 2, 3)))
    model.calibration = CALIBRATION
    return model


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> FileOf:
    """`file_of(modality)` is the detector's file, exported once: that takes seconds."""
    folder = tmp_path_factory.mktemp("onnx")
    return functools.cache(lambda modality: export_onnx(detector(modality), folder / f"{modality}.onnx"))


def run(model: ASTDetector, file: str | Path | bytes, parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Score (B,) and map (B, H, W) from the file, with the inputs that it asks for."""
    read = [read_part(model.config, part) for part in parts]
    values: dict[str, Any] = {"image": np.stack([np.asarray(r.picture) for r in read])}
    values |= {k: stack([getattr(r, k) for r in read], CPU) for k in ("depth", "foreground")}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    score, anomaly_map = session.run(
        ["score", "anomaly_map"], {i.name: np.asarray(values[i.name]) for i in session.get_inputs()}
    )
    return score, anomaly_map


def parts_of(model: ASTDetector, size: tuple[int, int], count: int) -> list[Part]:
    config = model.config
    return [
        Part(
            tiny.picture(seed, size, defect=seed == 1) if config.uses_rgb else None,
            tiny.scan(seed, size) if config.uses_depth else None,
        )
        for seed in range(count)
    ]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [SAME, SMALLER, LARGER, WIDE], ids=["same", "smaller", "larger", "wide"])
def test_the_file_computes_what_predict_does(file_of: FileOf, size: tuple[int, int], count: int) -> None:
    parts = parts_of(detector("rgb"), size, count)
    scores, maps = run(detector("rgb"), file_of("rgb"), parts)
    _assert_same(scores, maps, detector("rgb").predict([p.image for p in parts]))


@pytest.mark.parametrize("count", [1, 3])
def test_with_depth_too(file_of: FileOf, count: int) -> None:
    model = detector("rgb+depth")
    parts = parts_of(model, SCAN, count)
    scores, maps = run(model, file_of("rgb+depth"), parts)
    _assert_same(scores, maps, model.predict([p.image for p in parts], [p.points for p in parts]))


@pytest.mark.parametrize("count", [1, 3])
def test_depth_alone_gives_a_map_of_depth_size(file_of: FileOf, count: int) -> None:
    model = detector("depth")
    parts = parts_of(model, SCAN, count)
    scores, maps = run(model, file_of("depth"), parts)
    with torch.inference_mode():
        output = model(depth=stack([read_part(model.config, part).depth for part in parts], CPU))
    wanted = upsample_map(output.anomaly_map, (16, 16)).numpy()
    np.testing.assert_allclose(scores, output.score, rtol=1e-5)
    np.testing.assert_allclose(maps, wanted, atol=1e-5 * np.abs(wanted).max())


def _assert_same(scores: np.ndarray, maps: np.ndarray, expected: list[Prediction]) -> None:
    np.testing.assert_allclose(scores, [p.score for p in expected], rtol=1e-3)
    for actual, prediction in zip(maps, expected, strict=True):
        assert actual.shape == prediction.anomaly_map.shape
        assert np.abs(actual - prediction.anomaly_map).max() <= 1e-2 * np.ptp(prediction.anomaly_map)


def test_without_grey_levels_to_round_the_two_agree_to_float_precision(file_of: FileOf) -> None:
    model = detector("rgb")
    scores, maps = run(model, file_of("rgb"), parts_of(model, SAME, 2))
    expected = model.predict([p.image for p in parts_of(model, SAME, 2)])
    np.testing.assert_allclose(scores, [p.score for p in expected], rtol=1e-5)
    for actual, prediction in zip(maps, expected, strict=True):
        assert np.abs(actual - prediction.anomaly_map).max() <= 1e-5 * np.ptp(prediction.anomaly_map)


@pytest.mark.parametrize(
    ("modality", "names"),
    [("rgb", ["image"]), ("rgb+depth", ["image", "depth", "foreground"]), ("depth", ["depth"])],
)
def test_inputs_are_those_of_the_modality(file_of: FileOf, modality: str, names: list[str]) -> None:
    assert [i.name for i in onnx.load(file_of(modality)).graph.input] == names


def test_metadata_says_what_the_file_is(file_of: FileOf) -> None:
    proto = onnx.load(file_of("rgb"))
    metadata = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(metadata["config"]) == detector("rgb").config.to_dict()
    assert Calibration.from_dict(json.loads(metadata["calibration"])) == CALIBRATION
    assert float(metadata["threshold"]) == CALIBRATION.threshold()
    assert float(metadata["map_threshold"]) == CALIBRATION.map_threshold()
    assert int(metadata["opset"]) == proto.opset_import[0].version == export.MIN_OPSET


def test_no_paths_of_this_machine_are_in_the_file(file_of: FileOf) -> None:
    assert b".py" not in file_of("rgb").read_bytes()


def test_the_detector_stays_as_it_was(file_of: FileOf) -> None:
    file_of("rgb")
    assert detector("rgb").backbone is not None


def test_half_precision_halves_the_weights_and_little_else(file_of: FileOf) -> None:
    proto, model = onnx.load(file_of("rgb")), detector("rgb")
    whole = proto.ByteSize()
    export._halve(proto)
    assert proto.ByteSize() < 0.7 * whole
    parts = parts_of(model, SAME, 2)
    (scores, maps), (wanted, wanted_maps) = (
        run(model, proto.SerializeToString(), parts),
        run(model, file_of("rgb"), parts),
    )
    np.testing.assert_allclose(scores, wanted, rtol=1e-2)
    assert 0 < np.abs(maps - wanted_maps).max() <= 1e-1 * np.ptp(wanted_maps)


def test_a_graph_that_computes_something_else_is_not_written(
    file_of: FileOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = file_of("rgb")

    def wrong(graph: object, opset: int) -> Any:
        proto = onnx.load(right)
        tail = next(t for t in proto.graph.initializer if t.name.endswith("student.tail.bias"))
        tail.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tail) + 1, tail.name))
        return proto

    monkeypatch.setattr(export, "_translate", wrong)
    with pytest.raises(ExportError, match="score is off by"):
        export_onnx(detector("rgb"), tmp_path / "detector.onnx")
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(
    file_of: FileOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    proto = onnx.load(file_of("rgb"))
    (tmp_path / "detector.onnx").write_bytes(b"earlier")
    monkeypatch.setattr(export, "_translate", lambda graph, opset: proto)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ExportError, match="No space left"):
        export_onnx(detector("rgb"), tmp_path / "detector.onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"earlier"]


def test_what_cannot_be_exported_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector("rgb")
    with pytest.raises(ExportError, match="folder that exists"):
        export_onnx(model, tmp_path / "missing" / "detector.onnx")
    with pytest.raises(ExportError, match="opset=17"):
        export_onnx(model, tmp_path / "detector.onnx", opset=17)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match="pip install"):
        export_onnx(model, tmp_path / "detector.onnx")
    assert not list(tmp_path.iterdir())
