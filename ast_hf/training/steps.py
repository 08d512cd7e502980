"""Forward and backward pass of a batch; on a GPU recorded once and replayed, so that it never waits for Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ast_hf.config import Precision
from ast_hf.nn.precision import autocast

# Calls that are computed as usual before one is recorded: libraries choose their algorithms and take memory in them.
_WARM_UP = 3


class GradientStep:
    """Sets a network's gradients for a batch and gives its loss.

    A GPU computes many of our steps faster than Python asks for them. There the fourth call records a CUDA graph, and
    every call from then on replays it: batches must keep their shapes, and all that is computed must be on the GPU.

    Args:
        network: Whose parameters the gradients are of, on one device.
        loss_of: Maps a batch's tensors to a scalar.
        precision: Arithmetic of the convolutions.
    """

    def __init__(self, network: nn.Module, loss_of: Callable[..., Tensor], precision: Precision) -> None:
        self._network, self._loss_of, self._precision = network, loss_of, precision
        self._device = next(network.parameters()).device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0

    def __call__(self, *batch: Tensor | None) -> Tensor:
        """The loss, detached; on a GPU the next call overwrites it."""
        if self._stream is None:
            return self._compute(*batch)
        if self._graph is None:
            self._calls += 1
            if self._calls <= _WARM_UP:
                return self._compute_beside(self._stream, *batch)
            self._graph = self._record(self._stream, *batch)
        for kept, tensor in zip(self._batch, batch, strict=True):
            if kept is not None and tensor is not None:
                kept.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._loss

    def _compute(self, *batch: Tensor | None) -> Tensor:
        # Without gradients the backward pass makes new ones in place of adding to the old.
        self._network.zero_grad(set_to_none=True)
        with autocast(self._device, self._precision):
            loss = self._loss_of(*batch)
        with autocast(self._device, "fp32"):  # what was computed in bf16 stays so, all else is exact
            loss.backward()
        return loss.detach()

    def _compute_beside(self, stream: torch.cuda.Stream, *batch: Tensor | None) -> Tensor:
        """On the stream that records later, as what the backward pass sets up belongs to one."""
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            loss = self._compute(*batch)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return loss

    def _record(self, stream: torch.cuda.Stream, *batch: Tensor | None) -> torch.cuda.CUDAGraph:
        graph, self._batch = torch.cuda.CUDAGraph(), [None if tensor is None else tensor.clone() for tensor in batch]
        # Other threads, such as those that read pictures, may go on allocating.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._loss = self._compute(*self._batch)
        return graph
