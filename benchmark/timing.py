"""What the commands that measure time have in common."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch

import ast_hf

_LONG = 2.0  # seconds


def stopwatch(run: Callable[[], Any], device: torch.device) -> float:
    """The seconds of a call, with all that it has a GPU do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had so far; on a GPU, of what tensors took there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def race(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Lets contenders, which give their own seconds, take turns; the first round does not count.

    At its turn a contender runs twice and the second counts: the first brings back what the other one drove out of
    the caches, and wakes the threads. One that takes seconds does not feel either, and runs once.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            taken = contender()
            if taken < _LONG:
                taken = contender()
            if number:
                seconds[name].append(taken)
    return seconds


def versions(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "device": describe(device),
        "threads": torch.get_num_threads(),
        "ast_hf": ast_hf.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


def describe(device: torch.device) -> str:
    """The device's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
