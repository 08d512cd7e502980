"""The student: a plain residual network, deliberately unlike the teacher (paper, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ast_hf.config import ASTDetectorConfig
from ast_hf.nn.precision import at_least_fp32


class ResidualBlock(nn.Module):
    """(conv - batch norm - leaky ReLU) twice, plus the input."""

    def __init__(self, channels: int, negative_slope: float, kernel_size: int) -> None:
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
    """Maps [condition, features] to the teacher's output: conv - residual blocks of a width - conv, zero padding.

    The kernel size is odd, and of every convolution; 3 in the paper.
    """

    def __init__(self, config: ASTDetectorConfig, width: int, kernel_size: int) -> None:
        super().__init__()
        channels, slope, padding = config.network_channels, config.student_negative_slope, kernel_size // 2
        self.conv_in = nn.Conv2d(config.position_channels + channels, width, kernel_size, padding=padding)
        self.activation = nn.LeakyReLU(slope)
        self.blocks = nn.Sequential(*(ResidualBlock(width, slope, kernel_size) for _ in range(config.student_blocks)))
        self.conv_out = nn.Conv2d(width, channels, kernel_size, padding=padding)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Maps x (B, C, h, w), with condition (B, P, h, w), to (B, C, h, w)."""
        if condition is not None:
            x = torch.cat((condition, x), dim=1)
        return at_least_fp32(self.conv_out(self.blocks(self.activation(self.conv_in(x)))))
