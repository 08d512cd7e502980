"""CUDA graphs: the kernels of a computation of fixed shape, recorded once and started with one call.

One picture is some six hundred kernels, each done in microseconds: started one by one, a GPU mostly waits for Python.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)

Function: TypeAlias = Callable[..., tuple[Tensor, ...]]

# Calls before a recording is made: libraries set themselves up in them, and what is asked for once or twice needs none.
_CALLS_BEFORE = 3
_MAX_KEPT = 4  # shapes a detector; each holds the memory of a pass


def aside(step: Callable[[], object], device: torch.device) -> None:
    """Runs a step on a stream of its own, as what is to be recorded must have been before."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)


def record(step: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Records a step that waits for nothing, without running it; calling the result runs it on the same tensors.

    Raises:
        RuntimeError: The step does something that cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    # What other threads do with the GPU meanwhile, such as pinning the next pictures, is no part of it.
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


def _recorded_if_possible(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    try:
        return record(step, device)
    except RuntimeError as error:
        _LOG.warning("No CUDA graph can be made here, which makes small batches slower: %s", error)
        return step


class Repeated:
    """A step to be run many times on the same tensors: on a GPU a few times as it is, then from a recording."""

    def __init__(self, step: Callable[[], object], device: torch.device) -> None:
        self._step, self._device, self._calls = step, device, 0

    def __call__(self) -> None:
        on_gpu = self._device.type == "cuda"
        if on_gpu and self._calls < _CALLS_BEFORE:
            aside(self._step, self._device)
        else:
            if on_gpu and self._calls == _CALLS_BEFORE:
                self._step = _recorded_if_possible(self._step, self._device)
            self._step()
        self._calls += 1


class Recorded:
    """A function of tensors, recorded on its first inputs for others of their shape; for one thread at a time."""

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        outputs: list[Tensor] = []

        def step() -> None:
            results = function(*self._inputs)
            outputs.extend(torch.empty_like(result) for result in results[len(outputs) :])
            for output, result in zip(outputs, results, strict=True):
                output.copy_(result)

        device = inputs[0].device
        aside(step, device)
        self._outputs, self._run = outputs, _recorded_if_possible(step, device)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._run()
        return tuple(output.clone() for output in self._outputs)


class Recordings:
    """What has been recorded of one function, by the shapes of its inputs; a copy or pickle of it is empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[Any, int] = {}
        self._kept: OrderedDict[Any, Recorded] = OrderedDict()
        self._state: Any = None

    def __reduce__(self) -> tuple[type[Recordings], tuple[()]]:
        return Recordings, ()

    def run(
        self, function: Function, inputs: Sequence[Tensor], state: Iterable[Tensor], setting: object = None
    ) -> tuple[Tensor, ...]:
        """What function(*inputs) gives, from a recording where inputs of this shape have come before.

        Args:
            function: The same one at every call; it computes on the inputs' GPU and waits for nothing.
            inputs: Tensors on a GPU.
            state: All other tensors that it computes with: when one has changed, what was recorded is void.
            setting: Whatever else the result depends on.
        """
        with self._lock:
            self._check(versions(state))
            key = (setting, *((tensor.shape, tensor.dtype, tensor.stride()) for tensor in inputs))
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= _CALLS_BEFORE:
                return function(*inputs)
            if key not in self._kept:
                self._kept[key] = Recorded(function, inputs)
            self._kept.move_to_end(key)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key](inputs)

    def _check(self, state: Any) -> None:
        if state != self._state:
            self._kept.clear()
            self._calls.clear()
            self._state = state


def versions(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """What differs after one of the tensors was replaced, moved, or changed in place."""
    return [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
