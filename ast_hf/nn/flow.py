"""The teacher: a conditional normalizing flow with a log-determinant for every pixel.

FrEIA's own couplings sum the log-determinant over the whole map. AST masks its loss pixel by pixel (paper,
equation 2), so the coupling here returns `log_jac` of shape (B, h, w); `SequenceINN` adds those up unchanged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from FrEIA.framework import SequenceINN
from FrEIA.modules import InvertibleModule
from torch import Tensor, nn
from torch.nn.functional import conv2d

from ast_hf.nn.precision import at_least_fp32

Dims: TypeAlias = Iterable[tuple[int, ...]]
_OUTPUT_LIMIT = 1e6  # keeps a diverging flow finite; the value is the authors'


def positional_encoding(channels: int, height: int, width: int) -> Tensor:
    """2D sine/cosine encoding, (channels, height, width) in [-1, 1] (paper, section 3.2; Vaswani et al. 2017).

    Of the channels, a multiple of 4 or 0, the first half encodes the column, the second the row, interleaved.
    """
    half = channels // 2
    # Built on the CPU in float32 whatever the default device, so that every device sees the same values.
    count = functools.partial(torch.arange, dtype=torch.float32, device="cpu")
    frequencies = torch.exp(count(0, half, 2) * (-math.log(1e4) / max(half, 1)))
    columns, rows = (frequencies[:, None] * count(side) for side in (width, height))
    columns, rows = (torch.stack((angles.sin(), angles.cos()), dim=1).flatten(0, 1) for angles in (columns, rows))
    return torch.cat((columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)))


class FixedPermutation(InvertibleModule):
    """Reorders the channels by NumPy's legacy `permutation` of a seed, as the authors' weights expect.

    A buffer, so that a checkpoint holds it, and of a generator of its own: nobody else's random numbers change.
    """

    permutation: Tensor

    def __init__(self, dims_in: Dims, *, seed: int) -> None:
        super().__init__(dims_in)
        order = torch.from_numpy(np.random.RandomState(seed).permutation(self.dims_in[0][0]))
        self.register_buffer("permutation", order)

    def forward(
        self, x_or_z: Sequence[Tensor], c: Sequence[Tensor] | None = None, rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], float]:
        order = torch.argsort(self.permutation) if rev else self.permutation
        return (x_or_z[0].index_select(1, order),), 0.0

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return input_dims


class _ReplicatePaddedConv2d(nn.Conv2d):
    """A convolution with replicate padding whose gradients, unlike PyTorch's, a GPU adds in one order."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, padding_mode="replicate")

    def forward(self, input: Tensor) -> Tensor:
        if not (input.is_cuda and torch.is_grad_enabled()):
            return super().forward(input)
        if torch.is_autocast_enabled("cuda"):  # so that what is laid together is half as large
            input = input.to(torch.get_autocast_dtype("cuda"))
        reach = self.kernel_size[0] // 2
        for dim in (3, 2):
            first, last = input.narrow(dim, 0, 1), input.narrow(dim, -1, 1)
            input = torch.cat([*[first] * reach, input, *[last] * reach], dim=dim)
        return conv2d(input, self.weight, self.bias)


class CouplingNet(nn.Module):
    """Scale and shift of one half from the other: conv - ReLU - conv, times a learned scalar that starts at 0."""

    def __init__(self, in_channels: int, width: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv1 = _ReplicatePaddedConv2d(in_channels, width, kernel_size)
        self.conv2 = _ReplicatePaddedConv2d(width, out_channels, kernel_size)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return at_least_fp32(self.conv2(self.conv1(x).relu())) * self.gamma


class AffineCoupling(InvertibleModule):
    """Affine coupling on both halves with a soft-clamped scale (paper, equation 1; Ardizzone et al. 2019).

    y1 = exp(e(s2)) x1 + t2 with (s2, t2) = net2([x2, cond]), then y2 = exp(e(s1)) x2 + t1 with
    (s1, t1) = net1([y1, cond]), and e(s) = clamp * 0.636 * atan(s / clamp).

    `dims_in` is [(C, h, w)] and `dims_c` [(P, h, w)] of the condition, or none; the kernel size is odd.
    """

    def __init__(self, dims_in: Dims, dims_c: Dims = (), *, clamp: float, width: int, kernel_size: int) -> None:
        super().__init__(dims_in, dims_c)
        channels, condition = self.dims_in[0][0], sum(dims[0] for dims in self.dims_c)
        self.split, self.clamp = (channels // 2, channels - channels // 2), clamp
        self.net1 = CouplingNet(self.split[0] + condition, width, 2 * self.split[1], kernel_size)
        self.net2 = CouplingNet(self.split[1] + condition, width, 2 * self.split[0], kernel_size)

    def forward(
        self, x_or_z: Sequence[Tensor], c: Sequence[Tensor] | None = None, rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor], Tensor]:
        """Maps (B, C, h, w) to (B, C, h, w) and log|det J| of that direction, (B, h, w)."""
        a, b = x_or_z[0].split(self.split, dim=1)
        if rev:
            log_s1, t1 = self._scale_and_shift(self.net1, a, c)
            b = (b - t1) * (-log_s1).exp()
            log_s2, t2 = self._scale_and_shift(self.net2, b, c)
            a = (a - t2) * (-log_s2).exp()
        else:
            log_s2, t2 = self._scale_and_shift(self.net2, b, c)
            a = log_s2.exp() * a + t2
            log_s1, t1 = self._scale_and_shift(self.net1, a, c)
            b = log_s1.exp() * b + t1
        log_jac = log_s1.sum(dim=1) + log_s2.sum(dim=1)  # (B, h, w)
        return (torch.cat((a, b), dim=1).clamp(-_OUTPUT_LIMIT, _OUTPUT_LIMIT),), -log_jac if rev else log_jac

    def _scale_and_shift(self, net: CouplingNet, x: Tensor, c: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        s, t = net(torch.cat((x, *c), dim=1) if c else x).chunk(2, dim=1)
        return self.clamp * 0.636 * torch.atan(s / self.clamp), t

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return input_dims


def build_teacher(
    channels: int,
    map_size: tuple[int, int],
    *,
    condition_channels: int,
    hidden_channels: int,
    kernel_sizes: Sequence[int],
    clamp: float,
) -> SequenceINN:
    """The teacher: for every kernel size, a fixed permutation and an affine coupling.

    It maps x (B, C, h, w), with `c=[condition (B, P, h, w)]` where `condition_channels` is not 0, to (z (B, C, h, w),
    log_jac (B, h, w)); `rev=True` inverts.
    """
    flow = SequenceINN(channels, *map_size)
    condition = {"cond": 0, "cond_shape": (condition_channels, *map_size)} if condition_channels else {}
    for seed, kernel_size in enumerate(kernel_sizes):
        flow.append(FixedPermutation, seed=seed)
        flow.append(AffineCoupling, clamp=clamp, width=hidden_channels, kernel_size=kernel_size, **condition)
    return flow
