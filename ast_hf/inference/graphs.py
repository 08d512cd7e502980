"""CUDA graphs: what a module does on a GPU is recorded once for every shape, and replayed without Python."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

Outputs: TypeAlias = tuple[Tensor, ...]
# Shapes that are recorded, at most: each keeps its inputs and outputs on the GPU.
_MAX_SHAPES = 8


@dataclass
class CudaGraphs:
    """Calls a function of tensors on a GPU; from the second time that its inputs have a shape, by a CUDA graph.

    The first time it runs as it is: a size that does not come again is not worth recording. Of one picture a GPU
    computes the networks three times as fast as Python asks for them. Call it in inference mode; threads take turns.
    """

    function: Callable[..., Outputs]
    device: torch.device
    _recorded: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, list[Tensor | None], Outputs]] = field(
        default_factory=dict
    )
    _seen: set[tuple[object, ...]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, *inputs: Tensor | None) -> Outputs:
        """The outputs, which belong to the caller."""
        shapes = tuple(None if tensor is None else tuple(tensor.shape) for tensor in inputs)
        with self._lock, torch.cuda.device(self.device):
            if shapes not in self._recorded:
                if shapes not in self._seen or len(self._recorded) == _MAX_SHAPES:
                    self._seen.add(shapes)
                    return self.function(*inputs)
                self._recorded[shapes] = self._record(inputs)
            graph, kept, outputs = self._recorded[shapes]
            for ours, theirs in zip(kept, inputs, strict=True):
                if ours is not None and theirs is not None:
                    ours.copy_(theirs, non_blocking=True)
            graph.replay()
            return tuple(output.clone() for output in outputs)  # the next replay writes into the same memory

    def _record(self, inputs: tuple[Tensor | None, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None], Outputs]:
        graph, kept = torch.cuda.CUDAGraph(), [None if tensor is None else tensor.clone() for tensor in inputs]
        self.function(*kept)  # libraries choose algorithms, and compilers compile, when they first see such tensors
        # Other threads, such as those that read pictures, may go on allocating.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self.function(*kept)
        return graph, kept, outputs
