"""The exported graph computes what `ASTDetector.predict` does, and the file says what it is."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ast_hf import ASTDetector, Prediction
from ast_hf.cli import main
from ast_hf.data import Sample
from ast_hf.data.samples import load_sample, stack
from ast_hf.data.transforms import upsample_map
from ast_hf.export import MIN_OPSET, ExportError, export_onnx
from ast_hf.inference import Calibration
from ast_hf.training.features import prepare
from ast_hf.training.trainer import set_standardization
from tests import tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

FileOf = Callable[[str], Path]
SAME, SMALLER, LARGER, WIDE = (64, 64), (37, 53), (211, 149), (301, 41)  # (width, height), with image_size 64
SCAN = (79, 61)  # there the scan's box fits in


@functools.cache
def detector(modality: str) -> ASTDetector:
    """A random detector that looks closely at what goes in."""
    bare: dict[str, Any] = {"position_channels": 0, "foreground_dilation": 0} if modality == "depth" else {}
    bare |= {"local_channels": (8, 8)} if modality == "rgb" else {}
    model = tiny.detector(modality, coupling_kernel_sizes=(3,), feature_normalization="channel", **bare)
    set_standardization(model, prepare(model, tiny.samples(model.config, 4, SCAN), precision="fp32").inputs)
    return model


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> FileOf:
    """`file_of(modality)` is the detector's file, exported once: that takes seconds."""
    folder = tmp_path_factory.mktemp("onnx")
    return functools.cache(lambda modality: export_onnx(detector(modality), folder / f"{modality}.onnx"))


def run(model: ASTDetector, file: Path, samples: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Score (B,) and map (B, H, W) from the file, with the inputs that it asks for."""
    loaded = [load_sample(model.config, sample) for sample in samples]
    values: dict[str, Any] = {"image": np.stack([np.asarray(r.picture) for r in loaded])}
    values |= {k: stack([getattr(r, k) for r in loaded], model.device) for k in ("depth", "foreground")}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs = {i.name: np.asarray(values[i.name]) for i in session.get_inputs()}
    score, anomaly_map = session.run(["score", "anomaly_map"], inputs)
    return score, anomaly_map


def assert_same(found: tuple[np.ndarray, np.ndarray], expected: list[Prediction], slack: float = 1) -> None:
    np.testing.assert_allclose(found[0], [p.score for p in expected], rtol=1e-3 * slack)
    for actual, prediction in zip(found[1], expected, strict=True):
        assert actual.shape == prediction.anomaly_map.shape
        assert np.abs(actual - prediction.anomaly_map).max() <= 1e-2 * slack * np.ptp(prediction.anomaly_map)


# Of the size that the network takes there are no grey levels to round.
@pytest.mark.parametrize(
    ("modality", "size", "slack"),
    [("rgb", SAME, 1e-2), ("rgb", SMALLER, 1), ("rgb", LARGER, 1), ("rgb", WIDE, 1), ("rgb+depth", SCAN, 1)],
)
def test_the_file_computes_what_predict_does(file_of: FileOf, modality: str, size: Any, slack: float) -> None:
    model = detector(modality)
    for count in (1, 3):
        samples = tiny.samples(model.config, count, size)
        scans = [sample.points for sample in samples] if modality != "rgb" else None
        expected = model.predict([sample.image for sample in samples], scans)
        assert_same(run(model, file_of(modality), samples), expected, slack)


@torch.inference_mode()
def test_depth_alone_gives_a_map_of_depth_size(file_of: FileOf) -> None:
    model = detector("depth")
    samples = tiny.samples(model.config, 3, SCAN)
    scores, maps = run(model, file_of("depth"), samples)
    output = model(depth=stack([load_sample(model.config, sample).depth for sample in samples], model.device))
    wanted = upsample_map(output.anomaly_map, (16, 16)).numpy()
    np.testing.assert_allclose(scores, output.score, rtol=1e-5)
    np.testing.assert_allclose(maps, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("modality", "names"), [("rgb", ["image"]), ("rgb+depth", ["image", "depth", "foreground"]), ("depth", ["depth"])]
)
def test_the_file_says_what_it_is_and_nothing_of_this_machine(file_of: FileOf, modality: str, names: list[str]) -> None:
    proto, calibration = onnx.load(file_of(modality)), detector(modality).calibration
    metadata = {p.key: p.value for p in proto.metadata_props}
    assert [i.name for i in proto.graph.input] == names
    assert json.loads(metadata["config"]) == detector(modality).config.to_dict()
    assert Calibration.from_dict(json.loads(metadata["calibration"])) == calibration
    assert float(metadata["threshold"]) == calibration.threshold()
    assert float(metadata["map_threshold"]) == calibration.map_threshold()
    assert int(metadata["opset"]) == proto.opset_import[0].version == MIN_OPSET
    assert b".py" not in file_of(modality).read_bytes()


def test_the_command_line_exports_with_half_of_the_weights(file_of: FileOf, tmp_path: Path) -> None:
    model, file = detector("rgb"), tmp_path / "half.onnx"
    model.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--output", str(file), "--half-precision"]) == 0
    assert file.stat().st_size < 0.7 * file_of("rgb").stat().st_size
    samples = tiny.samples(model.config, 2, SAME)
    assert_same(run(model, file, samples), model.predict([sample.image for sample in samples]), slack=10)


def test_a_graph_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnxruntime.InferenceSession.run
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *given: [output * 1.1 for output in right(*given)])
    with pytest.raises(ExportError, match="score is off by"):
        export_onnx(detector("depth"), tmp_path / "detector.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match="folder that exists"):
        export_onnx(detector("rgb"), tmp_path / "missing" / "detector.onnx")
    with pytest.raises(ExportError, match="opset=17"):
        export_onnx(detector("rgb"), tmp_path / "detector.onnx", opset=17)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExportError, match="pip install"):
        export_onnx(detector("rgb"), tmp_path / "detector.onnx")
