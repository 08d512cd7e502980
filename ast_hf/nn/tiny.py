"""`ast-tiny`: a small backbone of our own for CPUs, whose weights come with the package.

Plain 3x3 convolutions throughout. Depthwise ones, of which EfficientNet is made, save multiplications that a CPU does
not wait for: at 384 px its blocks spend their time on memory, and this chain does three times the work in a fifth of
it. Batch norms are folded into the convolutions for inference, as in every backbone.

Its head gives the principal components of what it learnt of the large network's channels, each of variance 1: a flow on
all of them, which repeat each other, does worse and takes longer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

NAME = "ast-tiny"
STRIDE = 32
CHANNELS = 64
WEIGHTS = Path(__file__).parents[1] / "assets" / "ast-tiny.safetensors"


class TinyBackbone(nn.Sequential):
    """Maps pictures (B, 3, H, W), ImageNet-normalised, to features (B, channels, H / 32, W / 32).

    Args:
        channels: Of the features.
        widths: Of the stem at stride 4 and of the stages at strides 8, 16 and 32.
        blocks: Residual blocks of each stage.
    """

    def __init__(
        self, channels: int = CHANNELS, widths: Sequence[int] = (32, 64, 128, 192), blocks: Sequence[int] = (1, 2, 2)
    ) -> None:
        chain: OrderedDict[str, nn.Module] = OrderedDict(stem=_convolution(3, widths[0], 7, stride=4))
        for number, count in enumerate(blocks, 1):
            down = _convolution(widths[number - 1], widths[number], 3, stride=2)
            chain[f"stage{number}"] = nn.Sequential(down, *(ResidualBlock(widths[number]) for _ in range(count)))
        # Linear, since the features to be learnt have either sign.
        chain["head"] = nn.Conv2d(widths[-1], channels, 1)
        super().__init__(chain)


class ResidualBlock(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))) without a change of shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(x + self.norm2(self.conv2(hidden)))


def _convolution(channels: int, width: int, size: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
