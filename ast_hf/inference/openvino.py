"""A network compiled by OpenVINO for this CPU: it fuses what lies between convolutions, from backbone to score."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import torch
from torch import Tensor

from ast_hf.config import Precision
from ast_hf.errors import RuntimeUnavailableError
from ast_hf.nn.network import ASTNetwork, MapAndScore


class OpenVINORuntime:
    """A network as it is now, compiled for one part at a time, as OpenVINO is fastest at; threads take turns.

    Compiling takes seconds, half a minute with the paper's presets.

    Raises:
        RuntimeUnavailableError: OpenVINO is missing, or the network is not on a CPU.
    """

    def __init__(self, network: ASTNetwork, precision: Precision) -> None:
        if network.device.type != "cpu":
            raise RuntimeUnavailableError("OpenVINO is for CPUs: load the detector with device='cpu'.")
        inputs = example_inputs(network)
        self._names = list(inputs)
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            import onnxscript  # noqa: F401 (torch's exporter is built on it)
            import openvino
        except ImportError as error:
            raise RuntimeUnavailableError(
                f"The runtime openvino needs {error.name}: pip install openvino onnx onnxscript."
            ) from error
        # By way of ONNX, from which OpenVINO fuses more than from torch.export's own programs.
        program = to_onnx(MapAndScore(copy.deepcopy(network).eval()), inputs)
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(program.model_proto.SerializeToString()), "CPU", settings)
        self._request, self._lock = compiled.create_infer_request(), threading.Lock()

    def __call__(
        self, pixel_values: Tensor | None, depth: Tensor | None, foreground: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        given = {"pixel_values": pixel_values, "depth": depth, "foreground": foreground}
        inputs = [tensor for name in self._names if (tensor := given[name]) is not None]
        if len(inputs) < len(self._names):
            raise ValueError(f"This detector needs {', '.join(self._names)}.")
        with self._lock:
            parts = [self._infer(part) for part in zip(*(tensor.split(1) for tensor in inputs), strict=True)]
        maps, scores = zip(*parts, strict=True)
        return torch.cat(maps), torch.cat(scores)

    def _infer(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        self._request.infer([tensor.numpy() for tensor in inputs])
        # Copies: the request's own memory holds the next results.
        anomaly_map, score = (torch.tensor(self._request.get_output_tensor(i).data) for i in range(2))
        return anomaly_map, score


def example_inputs(network: ASTNetwork) -> dict[str, Tensor]:
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
