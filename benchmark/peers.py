"""`python -m benchmark.peers`: one picture through anomalib's detectors and through ours, in turn in one process.

Needs `pip install anomalib`. Only networks are timed, from the normalised picture to the map, on both sides: decoding
and resizing are the same for all. Weights are random; PatchCore's memory is as large as MVTec AD's bottle makes it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ast_hf.acceleration import can_accelerate
from ast_hf.checkpoint import write_whole
from ast_hf.config import ASTDetectorConfig
from ast_hf.memory import keep_freed_memory
from ast_hf.model import ASTDetector, default_device, placed
from benchmark.timing import describe, race, stopwatch, versions

_PRESETS = ("mvtec-ad", "compact-b0", "compact")
# A tenth of the patches of 209 pictures, 28 x 28 each, which is anomalib's default for PatchCore.
_MEMORY_BANK = (209 * 28 * 28 // 10, 1536)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    options = parser().parse_args(arguments)
    if importlib.util.find_spec("anomalib") is None:
        print("The peers come from anomalib: pip install anomalib.", file=sys.stderr)
        return 2
    keep_freed_memory()
    device = default_device(options.device)
    detectors = {**ours(device), **peers()}
    with torch.inference_mode():
        runs = {name: _prepared(network, size, device) for name, (network, size) in detectors.items()}
        seconds = race(runs, options.rounds)
    milliseconds = {name: 1e3 * float(np.median(taken)) for name, taken in seconds.items()}
    print(f"One picture, PyTorch in fp32 unless it says otherwise, {describe(device)}")
    for name, figure in sorted(milliseconds.items(), key=lambda item: item[1]):
        print(f"{figure:9.1f} ms  {name}, {detectors[name][1]} px")
    if options.output:
        results = {**versions(device), "milliseconds": milliseconds, "seconds": seconds}
        write_whole(options.output, (json.dumps(results, indent=1) + "\n").encode())
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmark.peers", description=__doc__.partition(": ")[2])
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="repetitions (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all repetitions as JSON")
    return parser


def ours(device: torch.device) -> Mapping[str, tuple[nn.Module, int]]:
    """Our detectors by name, with the size of their pictures: in fp32, and as fast as they are on this machine."""
    found: dict[str, tuple[nn.Module, int]] = {}
    for preset in _PRESETS:
        config = ASTDetectorConfig.preset(preset)
        exact, fast = (placed(ASTDetector(config), device) for _ in range(2))
        exact.precision = "fp32"
        runtimes = set(fast.accelerate().values()) if can_accelerate(device) else {"torch"}
        found[f"AST, {preset}"] = exact, config.image_size
        found[f"AST, {preset}, {fast.effective_precision}, {' and '.join(sorted(runtimes))}"] = (
            _Fast(fast),
            config.image_size,
        )
    return found


class _Fast(nn.Module):
    """A detector by its fastest way."""

    def __init__(self, model: ASTDetector) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.maps_and_scores(pixel_values)


def peers() -> Mapping[str, tuple[nn.Module, int]]:
    """anomalib's networks by name, with the size of their pictures."""
    import torchvision
    from anomalib.models.image.csflow import torch_model as csflow
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel, EfficientAdModelSize
    from anomalib.models.image.fastflow.torch_model import FastflowModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    # It would fetch ImageNet's weights, which change no time.
    csflow.efficientnet_b5 = lambda weights=None: torchvision.models.efficientnet_b5()
    patchcore = PatchcoreModel(["layer2", "layer3"], "wide_resnet50_2", pre_trained=False)
    patchcore.memory_bank = torch.randn(_MEMORY_BANK)
    return {
        "FastFlow, ResNet-18": (FastflowModel((256, 256), "resnet18", pre_trained=False), 256),
        "EfficientAD-S": (EfficientAdModel(model_size=EfficientAdModelSize.S), 256),
        "EfficientAD-M": (EfficientAdModel(model_size=EfficientAdModelSize.M), 256),
        "PatchCore, WideResNet-50": (patchcore, 224),
        "CS-Flow, EfficientNet-B5": (csflow.CsFlowModel((768, 768), cross_conv_hidden_channels=1024), 768),
    }


def _prepared(network: nn.Module, size: int, device: torch.device) -> Callable[[], float]:
    network.eval().to(device)
    pixels = torch.rand(1, 3, size, size, device=device)
    return lambda: stopwatch(lambda: network(pixels), device)


if __name__ == "__main__":
    sys.exit(main())
