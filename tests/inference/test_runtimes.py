"""Whatever computes, the predictions are the same."""

import copy
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ast_hf import ASTDetector, ASTError
from ast_hf.errors import RuntimeUnavailableError
from ast_hf.inference import Predictor
from ast_hf.inference.runtimes import RuntimeName
from tests import tiny

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
on_gpu = pytest.param("cuda", marks=pytest.mark.gpu)


def assert_same(detector: ASTDetector, runtime: RuntimeName, batch_sizes: tuple[int, ...]) -> None:
    """The runtime against plain PyTorch on a CPU, both in fp32."""
    samples = tiny.samples(detector.config, 5)
    predictor = Predictor(detector, runtime=runtime, precision="fp32")
    expected = list(Predictor(copy.deepcopy(detector).cpu(), precision="fp32").stream(samples))
    for batch_size in batch_sizes:
        for ours, theirs in zip(predictor.stream(samples, batch_size=batch_size), expected, strict=True):
            assert ours.score == pytest.approx(theirs.score, rel=1e-4)
            assert abs(ours.anomaly_map - theirs.anomaly_map).max() <= 1e-4 * abs(theirs.anomaly_map).max()


@needs_openvino
@pytest.mark.parametrize("modality", ["rgb", "rgb+depth", "depth"])
def test_openvino_computes_the_same_for_any_batch(modality: str) -> None:
    assert_same(tiny.detector(modality, feature_normalization="channel", local_channels=(8, 8)), "openvino", (1, 3))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", on_gpu])
def test_compiled_networks_compute_the_same_for_any_batch(device: str) -> None:
    assert_same(tiny.detector("rgb+depth").place(device), "compile", (1, 5))


@pytest.mark.gpu
def test_a_gpu_computes_the_same_and_in_fp32_every_time() -> None:
    detector = tiny.detector("rgb+depth").place("cuda")
    predictor, (sample,) = Predictor(detector, precision="fp32"), tiny.samples(detector.config, 1)
    assert len({predictor.predict(sample.image, sample.points).score for _ in range(3)}) == 1
    assert_same(detector, "torch", (1, 2, 5))


@needs_openvino
def test_openvino_takes_the_network_as_it_is_in_eval_mode_and_threads_take_turns() -> None:
    detector, threads = tiny.detector(), torch.get_num_threads()
    expected = [detector.predict(tiny.picture(seed)).score for seed in range(8)]
    predictor = Predictor(detector.train(), runtime="openvino")
    detector.student.conv_out.bias.data.add_(1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: predictor.predict(tiny.picture(seed)).score, range(8)))
    assert found == pytest.approx(expected, rel=1e-4)
    assert detector.student.training and torch.get_num_threads() == threads


def test_what_cannot_be_used_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"no runtime 'tensorrt': choose torch, compile or openvino"):
        Predictor(tiny.detector(), runtime="tensorrt")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ASTError, match=r"needs openvino: pip install openvino"):
        Predictor(tiny.detector(), runtime="openvino")
