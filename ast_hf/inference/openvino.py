"""A network compiled by OpenVINO for this CPU: it fuses what lies between convolutions, from backbone to score."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ast_hf.config import Precision
from ast_hf.errors import RuntimeUnavailableError
from ast_hf.nn.network import ASTNetwork, MapAndScore


def openvino_runtime(network: ASTNetwork, precision: Precision) -> Callable[..., tuple[Tensor, Tensor]]:
    """A `runtimes.Runtime`, compiled for one part at a time, as OpenVINO is fastest at; threads take turns.

    Compiling takes seconds, half a minute with the paper's presets.
    """
    if network.device.type != "cpu":
        raise RuntimeUnavailableError("OpenVINO is for CPUs: load the detector with device='cpu'.")
    try:
        import onnxscript  # noqa: F401 (torch's exporter is built on it)
        import openvino
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"The runtime openvino needs {error.name}: pip install openvino onnx onnxscript."
        ) from error
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    examples, core = _example_inputs(network), openvino.Core()
    # By way of ONNX, from which OpenVINO fuses more than from torch.export's own programs.
    program = to_onnx(MapAndScore(copy.deepcopy(network).eval()), examples)
    compiled = core.compile_model(core.read_model(program.model_proto.SerializeToString()), "CPU", settings)
    request, lock = compiled.create_infer_request(), threading.Lock()

    def infer(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        request.infer([tensor.numpy() for tensor in inputs])
        # Copies: the request's own memory holds the next results.
        return [torch.tensor(request.get_output_tensor(i).data) for i in range(2)]

    def compute(*inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        given = dict(zip(("pixel_values", "depth", "foreground"), inputs, strict=True))
        split = [tensor.split(1) for name in examples if (tensor := given[name]) is not None]
        with lock:
            parts = [infer(part) for part in zip(*split, strict=True)]
        maps, scores = zip(*parts, strict=True)
        return torch.cat(maps), torch.cat(scores)

    return compute


def _example_inputs(network: ASTNetwork) -> dict[str, Tensor]:
    """Random inputs of `ASTNetwork.forward` for one part, by name, as far as the modality needs them."""
    config, generator = network.config, torch.Generator().manual_seed(0)
    size, inputs = (1, 1, config.depth_size, config.depth_size), {}
    if config.uses_rgb:
        inputs["pixel_values"] = torch.randn(1, 3, *config.image_shape, generator=generator)
    if config.uses_depth:
        inputs["depth"] = torch.randn(size, generator=generator)
    if config.uses_depth and config.foreground_dilation:
        inputs["foreground"] = torch.ones(size)
    return inputs


def to_onnx(module: torch.nn.Module, inputs: dict[str, Tensor], **options: Any) -> Any:
    """`torch.onnx.export` of a module with inputs by name, without the exporter's own messages."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # what the exporter's parts tell each other
        return torch.onnx.export(module, kwargs=inputs, dynamo=True, verbose=False, **options)
