"""What computes a predictor's maps and scores: PyTorch as it is, `torch.compile`, or OpenVINO."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from ast_hf.config import Precision
from ast_hf.errors import RuntimeUnavailableError
from ast_hf.inference.graphs import CudaGraphs
from ast_hf.nn.network import ASTNetwork, MapAndScore
from ast_hf.nn.precision import autocast

RuntimeName: TypeAlias = Literal["torch", "compile", "openvino"]
# (pixel_values, depth, foreground), as `ASTNetwork.forward`, to anomaly_map (B, h, w) and score (B,).
Runtime: TypeAlias = Callable[[Tensor | None, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


def make_runtime(name: RuntimeName, network: ASTNetwork, precision: Precision) -> Runtime:
    """Builds a runtime for a network as it is now.

    Raises:
        RuntimeUnavailableError: It is not known, its package is missing, or it is not for the network's device.
    """
    if name == "torch":
        return TorchRuntime(network, precision)
    if name == "compile":
        return TorchRuntime(network, precision, compile=True)
    if name == "openvino":
        from ast_hf.inference.openvino import OpenVINORuntime

        return OpenVINORuntime(network, precision)
    raise RuntimeUnavailableError(f"There is no runtime {name!r}: choose torch, compile or openvino.")


class TorchRuntime:
    """PyTorch, in bf16 where that is asked for, perhaps compiled; on a GPU replayed as CUDA graphs."""

    def __init__(self, network: ASTNetwork, precision: Precision, *, compile: bool = False) -> None:
        self._network, self._device, self._precision = network, network.device, precision
        self._fixed: Callable[..., tuple[Tensor, ...]] | None = None
        if compile or self._device.type == "cuda":
            fixed = eval_copy(network)
            if precision == "bf16" and self._device.type == "cuda":
                _cast_convolutions(fixed)
            module = MapAndScore(fixed)
            if compile:
                module.compile()
            self._fixed = CudaGraphs(module, self._device) if self._device.type == "cuda" else module

    def __call__(
        self, pixel_values: Tensor | None, depth: Tensor | None, foreground: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        module = self._fixed or MapAndScore(in_eval_mode(self._network))
        with torch.inference_mode(), autocast(self._device, self._precision):
            anomaly_map, score = module(pixel_values, depth, foreground)
        return anomaly_map, score


def in_eval_mode(network: ASTNetwork) -> ASTNetwork:
    """The network itself where all of it is in eval mode, else a copy that is (`eval_copy`).

    So a prediction in the middle of training moves no batch statistics, and no mode has to be set back.
    """
    return eval_copy(network) if any(module.training for module in network.modules()) else network


def eval_copy(network: ASTNetwork) -> ASTNetwork:
    """A copy in eval mode with the same tensors in it."""
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, shared).eval()


def _cast_convolutions(network: ASTNetwork) -> None:
    """Casts once what autocast casts at every call, a tenth of the time of one picture; the numbers are the same."""
    backbone = network.backbone if network.config.backbone_precision == "auto" else None
    for part in (backbone, network.teacher, network.student, network.local):
        for module in part.modules() if part is not None else ():
            if isinstance(module, nn.Conv2d):
                for name, parameter in module.named_parameters(recurse=False):  # which the original shares
                    setattr(module, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))
