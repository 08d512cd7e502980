"""bf16 is used where it was asked for or is faster, nowhere else, and costs only its own rounding."""

import pytest
import torch

from ast_hf.nn.precision import autocast, resolve_precision
from tests import tiny

CPU = torch.device("cpu")


@pytest.mark.parametrize("fast", [False, True])
def test_auto_is_what_the_machine_is_faster_at(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast}, raising=False)
    for precision, expected in (("auto", "bf16" if fast else "fp32"), ("fp32", "fp32"), ("bf16", "bf16")):
        assert resolve_precision(CPU, precision) == expected  # type: ignore[arg-type]


@torch.inference_mode()
def test_bf16_rounds_and_does_no_more() -> None:
    network, pixel_values, outputs = tiny.detector(), torch.randn(2, 3, 64, 64), []
    for precision in ("fp32", "bf16", "fp32"):
        with autocast(CPU, precision):  # type: ignore[arg-type]
            outputs.append(network(pixel_values))
    for name in ("anomaly_map", "score", "teacher_z", "student_z", "log_jac"):
        exact, rounded, again = (getattr(output, name) for output in outputs)
        assert rounded.dtype == torch.float32
        assert torch.equal(again, exact), "nothing of the bf16 pass is left behind"
        assert 0 < (rounded - exact).abs().max() / exact.abs().max() < 0.03, name


def test_features_are_exact_where_the_configuration_says_so() -> None:
    pictures, results = torch.randn(2, 3, 64, 64), []
    for backbone_precision in ("auto", "fp32"):
        network = tiny.detector(backbone_precision=backbone_precision)
        with autocast(network.device, "bf16"):
            results.append(network.extract_features(pictures))
    exact = tiny.detector().extract_features(pictures)
    assert torch.equal(results[1], exact) and not torch.equal(results[0].float(), exact)
