"""The student: a plain residual network, deliberately unlike the teacher (paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ast_hf.nn.precision import at_least_fp32


class ResidualBlock(nn.Module):
    """(conv - batch norm - leaky ReLU) twice, plus the input."""

    def __init__(self, channels: int, negative_slope: float, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        self.norm2 = nn.BatchNorm2d(channels)
        self.activation = nn.LeakyReLU(negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.norm1(self.conv1(x)))
        return x + self.activation(self.norm2(self.conv2(hidden)))


class Student(nn.Module):
    """Maps [condition, features] to the teacher's output: conv - residual blocks - conv, zero padding.

    Args:
        channels: C, channels of the features and of the output.
        condition_channels: P, channels of the positional encoding, put before the features.
        hidden_channels: Width of the blocks.
        blocks: Number of residual blocks.
        negative_slope: Of every leaky ReLU.
        kernel_size: Odd, of every convolution; 3 in the paper.
    """

    def __init__(
        self,
        channels: int,
        *,
        condition_channels: int,
        hidden_channels: int,
        blocks: int,
        negative_slope: float,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(condition_channels + channels, hidden_channels, kernel_size, padding=kernel_size // 2)
        self.activation = nn.LeakyReLU(negative_slope)
        self.blocks = nn.Sequential(
            *(ResidualBlock(hidden_channels, negative_slope, kernel_size) for _ in range(blocks))
        )
        self.conv_out = nn.Conv2d(hidden_channels, channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps x (B, C, h, w), with condition (B, P, h, w), to (B, C, h, w)."""
        if condition is not None:
            x = torch.cat((condition, x), dim=1)
        return at_least_fp32(self.conv_out(self.blocks(self.activation(self.conv_in(x)))))
