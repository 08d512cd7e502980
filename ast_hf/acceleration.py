"""A detector's networks compiled by OpenVINO, as far as that is faster on this CPU: measured, not guessed.

OpenVINO fuses what lies between convolutions and is ahead on narrow networks; on the wide teacher and student of the
paper's presets our own tiles (`winograd`) are. So the trunk and the heads are compiled and timed one by one.
"""

from __future__ import annotations

import statistics
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ast_hf.arithmetic import computes_in_bf16
from ast_hf.errors import ASTError
from ast_hf.folding import fold_batch_norm
from ast_hf.graphs import versions

if TYPE_CHECKING:
    from ast_hf.inference import InferenceMixin
    from ast_hf.model import ASTDetector

TORCH, OPENVINO = "torch", "openvino"
_ROUNDS = 7


class AccelerationError(ASTError):
    """A detector cannot be accelerated."""


class Accelerated:
    """What computes in place of a detector's own trunk and heads; a copy or pickle of it is None.

    Args:
        model: On a CPU.

    Attributes:
        trunk: As `ASTDetector.features`.
        heads: As `ASTDetector.heads`.
        runtimes: "torch" or "openvino" for "trunk", where pictures go in, and for "heads", teacher and student.

    Raises:
        AccelerationError: OpenVINO is missing, or the detector is not on a CPU.
    """

    def __init__(self, model: ASTDetector) -> None:
        if model.device.type != "cpu":
            raise AccelerationError("OpenVINO is for CPUs, and this detector is on a GPU: load it with device='cpu'.")
        self.trunk: Callable[[Any], Tensor] = model.features
        self.heads: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]] = model.heads
        self.runtimes: dict[str, str] = {}
        self._state = _state(model)
        with torch.inference_mode():
            self._choose_trunk(model)
            self._choose_heads(model)

    def is_current(self, model: InferenceMixin) -> bool:
        """Whether the detector's weights and precision are still those that this was made for."""
        return self._state == _state(model)

    def _choose_trunk(self, model: ASTDetector) -> None:
        if model.backbone is None:
            return
        size, precision = model.config.image_size, _precision(model)
        pixel_values = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        compiled = _Compiled(fold_batch_norm(model.backbone.trunk), [pixel_values], precision)
        if _is_faster(lambda: compiled(pixel_values), lambda: model.features(pixel_values)):
            self.trunk = lambda given: compiled(given)[0]
        self.runtimes["trunk"] = TORCH if self.trunk == model.features else OPENVINO

    def _choose_heads(self, model: ASTDetector) -> None:
        inputs = torch.randn(
            1, model.config.input_channels, *model.map_size, generator=torch.Generator().manual_seed(0)
        )
        masked = model.config.uses_depth and model.config.foreground_dilation > 0
        mask = torch.ones(1, 1, *model.map_size) if masked else None
        given = [tensor for tensor in (inputs, mask) if tensor is not None]
        with model.computing_in("fp32"):  # OpenVINO rounds by itself
            compiled = _Compiled(_Heads(model), given, _precision(model))

        def heads(inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
            if (mask is not None) != masked:
                return model.heads(inputs, mask)
            anomaly_map, score = compiled(*(tensor for tensor in (inputs, mask) if tensor is not None))
            return anomaly_map, score

        if _is_faster(lambda: heads(inputs, mask), lambda: model.heads(inputs, mask)):
            self.heads = heads
        self.runtimes["heads"] = TORCH if self.heads == model.heads else OPENVINO

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


class _Heads(nn.Module):
    """`ASTDetector.heads` as a module, which can be exported."""

    def __init__(self, model: ASTDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.heads(inputs, mask)


class _Compiled:
    """A module compiled for any batch of inputs like these; threads take turns."""

    def __init__(self, module: nn.Module, example: list[Tensor], precision: str) -> None:
        try:
            import openvino
        except ImportError as error:
            raise AccelerationError("Accelerating needs OpenVINO: pip install openvino.") from error
        batch = torch.export.Dim("batch")
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # what the exporter's parts tell each other
            # A batch of two: one would be taken for a constant.
            inputs = tuple(torch.cat([tensor, tensor]) for tensor in example)
            program = torch.export.export(module, inputs, dynamic_shapes=[{0: batch} for _ in inputs])
            converted = openvino.convert_model(program)
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
        self._request, self._outputs = compiled.create_infer_request(), len(compiled.outputs)
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with self._lock:
            self._request.infer([tensor.numpy() for tensor in inputs])
            # Copies: the request's own memory holds the next results.
            return tuple(torch.tensor(self._request.get_output_tensor(i).data) for i in range(self._outputs))


def _state(model: InferenceMixin) -> object:
    return model.precision, versions((*model.parameters(), *model.buffers()))


def _precision(model: ASTDetector) -> str:
    return "bf16" if computes_in_bf16(model.device, model.precision) else "f32"


def _is_faster(new: Callable[[], object], old: Callable[[], object]) -> bool:
    """Whether the median of a few alternating calls is smaller."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for taken, run in zip(seconds, (new, old), strict=True):
            run()  # what the other one drove out of the caches comes back
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    return statistics.median(seconds[0]) < statistics.median(seconds[1])
