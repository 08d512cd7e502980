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
    """Builds a runtime for a network as it is now; on a GPU PyTorch's are replayed as CUDA graphs.

    Raises:
        RuntimeUnavailableError: It is not known, its package is missing, or it is not for the network's device.
    """
    if name == "openvino":
        from ast_hf.inference.openvino import openvino_runtime

        return openvino_runtime(network, precision)
    if name not in ("torch", "compile"):
        raise RuntimeUnavailableError(f"There is no runtime {name!r}: choose torch, compile or openvino.")
    device = network.device
    fixed: Callable[..., tuple[Tensor, ...]] | None = None
    if name == "compile" or device.type == "cuda":
        module = MapAndScore(_eval_copy(network))
        if precision == "bf16" and device.type == "cuda":
            _cast_convolutions(module.network)
        if name == "compile":
            module.compile()
        fixed = CudaGraphs(module, device) if device.type == "cuda" else module

    def compute(*inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        module = fixed or MapAndScore(_in_eval_mode(network))
        with torch.inference_mode(), autocast(device, precision):
            anomaly_map, score = module(*inputs)
        return anomaly_map, score

    return compute


def _in_eval_mode(network: ASTNetwork) -> ASTNetwork:
    """The network, or a copy where it is in training: no batch statistics move, and no mode has to be set back."""
    return _eval_copy(network) if any(module.training for module in network.modules()) else network


def _eval_copy(network: ASTNetwork) -> ASTNetwork:
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
