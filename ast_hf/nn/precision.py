"""Which arithmetic the networks compute in: bf16 where the machine is faster at it, fp32 otherwise.

Only convolutions are ever done in bf16. Exponentials, log-determinants and distances of the two outputs stay in fp32
(`at_least_fp32`).
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import Tensor

from ast_hf.config import Precision


def _has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 convolutions are faster than fp32 ones there: CUDA since Ampere, CPUs with AVX512-BF16 or AMX."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    # Of torch 2.11 and newer; with an older one a CPU computes in fp32.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_precision(device: torch.device, precision: Precision) -> Literal["fp32", "bf16"]:
    """What a precision comes to on a device."""
    return "bf16" if precision == "bf16" or (precision == "auto" and _has_fast_bf16(device)) else "fp32"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """A context in which convolutions compute in this precision.

    In fp32 on a GPU also without TF32, which rounds to 10 bits, and with algorithms that add in a fixed order.
    """
    if resolve_precision(device, precision) == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    if device.type == "cuda":
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    return contextlib.nullcontext()


def at_least_fp32(x: Tensor) -> Tensor:
    """Casts half precision up: exponentials, log-determinants and distances do not survive it."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
