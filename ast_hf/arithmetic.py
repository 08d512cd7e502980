"""Which arithmetic the networks compute in: bf16 where the machine is faster at it, fp32 otherwise.

Only convolutions are ever done in bf16. Exponentials, log-determinants and distances of the two outputs stay in fp32
(`flow.at_least_fp32`).
"""

from __future__ import annotations

import contextlib
from typing import Literal, TypeAlias

import torch

# "auto" is bf16 where that is faster; "fp32" is exact and, on one machine, the same to the bit at every run.
Precision: TypeAlias = Literal["auto", "fp32", "bf16"]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 convolutions are faster than fp32 ones there: CUDA since Ampere, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def computes_in_bf16(device: torch.device, precision: Precision) -> bool:
    """What a precision comes to on a device."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))


def arithmetic(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """A context in which convolutions compute so.

    In fp32 on a GPU also without TF32, which rounds to 10 bits, and with algorithms that add in a fixed order.
    """
    if computes_in_bf16(device, precision):
        return torch.autocast(device.type, torch.bfloat16)
    if device.type == "cuda":
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    return contextlib.nullcontext()
