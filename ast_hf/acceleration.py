"""A detector's networks compiled by OpenVINO, as far as that is faster on this CPU: measured, not guessed.

OpenVINO fuses what lies between convolutions and is ahead on narrow networks; on the wide teacher and student of the
paper's presets our own tiles (`winograd`) are, best with both at once, each on half of the threads. So
the trunk and the heads are compiled one by one, and every mixture is timed as a whole: two libraries' threads in one
process may get in each other's way.
"""

from __future__ import annotations

import importlib.util
import itertools
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ast_hf.errors import ASTError
from ast_hf.folding import fold_batch_norm
from ast_hf.graphs import versions

if TYPE_CHECKING:
    from ast_hf.inference import InferenceMixin
    from ast_hf.model import ASTDetector

TORCH, OPENVINO, AT_ONCE = "torch", "openvino", "torch, both at once"
_CALLS = 9  # to time a mixture by


class AccelerationError(ASTError):
    """A detector cannot be accelerated."""


def can_accelerate(device: torch.device) -> bool:
    """Whether OpenVINO is installed and the device a CPU."""
    return device.type == "cpu" and importlib.util.find_spec("openvino") is not None


class Accelerated:
    """What computes in place of a detector's own trunk and heads; a copy or pickle of it is None.

    Args:
        model: On a CPU.

    Attributes:
        trunk: As `ASTDetector.features`.
        heads: As `ASTDetector.heads`.
        runtimes: "torch" or "openvino" for "trunk", where pictures go in, and for "heads", teacher and student; those
            may also be "torch, both at once".

    Raises:
        AccelerationError: OpenVINO is missing, or the detector is not on a CPU.
    """

    def __init__(self, model: ASTDetector) -> None:
        if model.device.type != "cpu":
            raise AccelerationError("OpenVINO is for CPUs, and this detector is on a GPU: load it with device='cpu'.")
        self._state = _state(model)
        config, generator = model.config, torch.Generator().manual_seed(0)
        pixel_values = torch.randn(1, 3, config.image_size, config.image_size, generator=generator)
        inputs = torch.randn(1, config.input_channels, *model.map_size, generator=generator)
        mask = torch.ones(1, 1, *model.map_size) if config.uses_depth and config.foreground_dilation else None
        trunks: dict[str, Callable[[Any], Tensor]] = {TORCH: model.features}
        heads: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {TORCH: model.heads}
        if torch.get_num_threads() > 1:
            heads[AT_ONCE] = _heads_at_once(model, torch.get_num_threads() // 2)
        heads[OPENVINO] = _heads(model, inputs, mask)
        if model.backbone is not None:
            trunks[OPENVINO] = _trunk(model, pixel_values)

        def seconds(choice: tuple[str, str]) -> float:
            first = trunks[choice[0]] if model.backbone is not None else lambda given: None
            return _median_seconds(lambda: (first(pixel_values), heads[choice[1]](inputs, mask)))

        with torch.inference_mode():
            fastest = min(itertools.product(trunks, heads), key=seconds)
        self.trunk, self.heads = trunks[fastest[0]], heads[fastest[1]]
        self.runtimes = {"trunk": fastest[0]} if model.backbone is not None else {}
        self.runtimes["heads"] = fastest[1]

    def is_current(self, model: InferenceMixin) -> bool:
        """Whether the detector's weights and precision are still those that this was made for."""
        return self._state == _state(model)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _trunk(model: ASTDetector, pixel_values: Tensor) -> Callable[[Any], Tensor]:
    assert model.backbone is not None
    compiled = _Compiled(fold_batch_norm(model.backbone.trunk), [pixel_values], model)
    return lambda given: compiled([given])[0]


def _heads(model: ASTDetector, inputs: Tensor, mask: Tensor | None) -> Callable[..., tuple[Tensor, Tensor]]:
    masked = mask is not None
    compiled = _Compiled(_Heads(model), [inputs] if mask is None else [inputs, mask], model)

    def heads(inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if (mask is not None) != masked:
            return model.heads(inputs, mask)
        anomaly_map, score = compiled([inputs] if mask is None else [inputs, mask])
        return anomaly_map, score

    return heads


def _heads_at_once(model: ASTDetector, threads: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """Teacher and student at the same time, with so many threads each: for one part, whose work is little for all."""
    pool = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(threads,))
    teach, study = torch.inference_mode()(model.teach), torch.inference_mode()(model.study)

    def heads(inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if len(inputs) > 1:  # enough for all threads, and two networks would drive each other out of the caches
            return model.heads(inputs, mask)
        inputs = model.standardize(inputs)
        taught, studied = pool.submit(teach, inputs), pool.submit(study, inputs)
        output = model.judge(taught.result(), studied.result(), mask)
        return output.anomaly_map, output.score

    return heads


class _Heads(nn.Module):
    """`ASTDetector.heads` as a module, which can be exported."""

    def __init__(self, model: ASTDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.heads(inputs, mask)


class _Compiled:
    """A module compiled for one part at a time, as OpenVINO is fastest at; threads take turns."""

    def __init__(self, module: nn.Module, example: list[Tensor], model: ASTDetector) -> None:
        try:
            import onnxscript  # noqa: F401 (torch's exporter is built on it)
            import openvino
        except ImportError as error:
            raise AccelerationError(
                f"Accelerating needs {error.name}: pip install openvino onnx onnxscript."
            ) from error
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if model.effective_precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        with warnings.catch_warnings(), torch.no_grad(), model.computing_in("fp32"):  # OpenVINO rounds by itself
            warnings.simplefilter("ignore")  # what the exporter's parts tell each other
            # By way of ONNX, from which OpenVINO fuses more than from torch.export's own programs.
            program: Any = torch.onnx.export(module, tuple(example), dynamo=True, verbose=False)
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(program.model_proto.SerializeToString()), "CPU", settings)
        self._request, self._outputs = compiled.create_infer_request(), len(compiled.outputs)
        self._lock = threading.Lock()

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        with self._lock:
            parts = [self._one(part) for part in zip(*(tensor.split(1) for tensor in inputs), strict=True)]
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def _one(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        self._request.infer([tensor.numpy() for tensor in inputs])
        # Copies: the request's own memory holds the next results.
        return [torch.tensor(self._request.get_output_tensor(i).data) for i in range(self._outputs)]


def _state(model: InferenceMixin) -> object:
    return model.effective_precision, versions((*model.parameters(), *model.buffers()))


def _median_seconds(run: Callable[[], object]) -> float:
    run(), run()
    seconds = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
