"""Convolutions by Winograd's minimal filtering, which need 1.8 to 3.2 times fewer multiplications.

PyTorch has them for CUDA but not for CPUs, where the wide convolutions of teacher and student are most of AST's time.
Larger tiles than these save more multiplications, but lose digits and read larger weights. In fp32 the results are
about as exact as a plain convolution's; in bf16 (under autocast) less than two bits are lost.

Source: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4; for the choice of
points B. Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks,
ACM TOMS 2020.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Multiplications a pixel, in and out channels multiplied, from which on the transforms are worth their time.
_MIN_CHANNEL_PRODUCT = 2**17
# Times fewer multiplications than a plain convolution's from which on they are.
_MIN_SAVING = 1.5


@dataclass(frozen=True)
class Tiling:
    """How a convolution is cut up: along each axis into tiles of outputs, and a larger kernel into smaller ones.

    Attributes:
        outputs: Of a tile, along each axis.
        taps: Of the kernels that are computed with, along each axis. Where the convolution's own is larger, it is the
            sum of several, `taps` apart; `outputs` must then be as many, so that all of them share their tiles.
    """

    outputs: int
    taps: int

    @property
    def size(self) -> int:
        """Inputs of a tile along each axis."""
        return self.outputs + self.taps - 1

    def parts(self, kernel: int) -> int:
        """How many small kernels make up a kernel along each axis."""
        return -(-kernel // self.taps)

    def tiles(self, pixels: int) -> int:
        """How many tiles cover so many outputs along an axis."""
        return -(-pixels // self.outputs)

    def products(self, kernel: int, height: int, width: int) -> int:
        """Multiplications for every pair of an input and an output channel; a plain convolution's are kernel^2 h w."""
        parts = self.parts(kernel)
        tiles = (self.tiles(height) + parts - 1) * (self.tiles(width) + parts - 1)
        return self.size**2 * parts**2 * tiles


# Points of the interpolation by a tile's inputs, in the order they are used; the last one is infinity. These keep the
# most digits; powers of 2, so that the transforms of inputs and products are exact even in bf16.
_POINTS = {4: (0.0, 1.0, -1.0), 5: (0.0, 0.5, -1.0, 2.0), 6: (0.0, 1.0, -1.0, 2.0, -2.0)}
# By kernel size. Tiles of 6 inputs would lose over three bits in bf16: there kernels of 5 are sums of kernels of 3.
_TILINGS = {
    torch.float32: {3: (Tiling(2, 3), Tiling(3, 3)), 5: (Tiling(2, 5),)},
    torch.bfloat16: {3: (Tiling(2, 3), Tiling(3, 3)), 5: (Tiling(3, 3),)},
}


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that goes the faster way where there is one: wide, stride 1, fp32 or bf16, on a CPU."""

    # What `weight` was prepared from and for, and the result.
    _prepared: tuple[tuple[int, int, torch.dtype, Tiling | None], Tensor] | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.compiler.is_compiling():
            return super()._conv_forward(input, weight, bias)
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        tiling = self._tiling(input, dtype)
        weight = self._prepare(weight, dtype, tiling)
        if tiling is None:
            return super()._conv_forward(input, weight, bias)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return convolve(input.to(dtype), weight, self.kernel_size[0], tiling, mode, bias)

    def _tiling(self, input: Tensor, dtype: torch.dtype) -> Tiling | None:
        """The tiling with the fewest multiplications, or None where a plain convolution is faster."""
        kernel, (height, width) = self.kernel_size[0], input.shape[-2:]
        if not (
            input.device.type == "cpu"
            and self.in_channels * self.out_channels >= _MIN_CHANNEL_PRODUCT
            and self.kernel_size == (kernel, kernel)
            and (self.stride, self.dilation, self.groups) == ((1, 1), (1, 1), 1)
            and self.padding == (kernel // 2, kernel // 2)
        ):
            return None
        products = {t: t.products(kernel, height, width) for t in _TILINGS.get(dtype, {}).get(kernel, ())}
        best = min(products, key=products.__getitem__, default=None)
        return best if best and _MIN_SAVING * products[best] <= kernel**2 * height * width else None

    def _prepare(self, weight: Tensor, dtype: torch.dtype, tiling: Tiling | None) -> Tensor:
        """The weights as they are computed with, kept from call to call where no gradient is wanted."""
        if tiling is None and weight.dtype == dtype:
            return weight
        if torch.is_grad_enabled() and weight.requires_grad:
            self._prepared = None
            return _as_computed(weight, dtype, tiling)
        version = (weight.data_ptr(), 0 if weight.is_inference() else weight._version, dtype, tiling)
        kept = self._prepared  # one look, since other threads may be here too
        if kept is None or kept[0] != version:
            with torch.inference_mode(False), torch.no_grad():
                kept = self._prepared = (version, _as_computed(weight, dtype, tiling))
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}  # copies and pickles make their own


def transform_weights(weight: Tensor, tiling: Tiling) -> Tensor:
    """Weights (K, C, r, r) as `convolve` takes them: (t * t, K, n * n * C) for tiles of t inputs and n parts."""
    K, C, r, _ = weight.shape
    n, taps = tiling.parts(r), tiling.taps
    weight = F.pad(weight, (0, n * taps - r, 0, n * taps - r))
    by_tap = weight.view(K, C, n, taps, n, taps).permute(3, 5, 0, 2, 4, 1).reshape(taps * taps, -1)
    with torch.autocast("cpu", enabled=False):  # rounded once, when they are whole
        return (_matrices(tiling)[1].to(weight.dtype) @ by_tap).view(-1, K, n * n * C)


def convolve(
    x: Tensor, weights: Tensor, kernel: int, tiling: Tiling, padding_mode: str, bias: Tensor | None = None
) -> Tensor:
    """Cross-correlation of x (B, C, h, w) with stride 1, whose result (B, K, h, w) is of the same size.

    Args:
        x: On a CPU.
        weights: From `transform_weights`, of the type of x.
        kernel: Its odd size r.
        tiling: Of the weights.
        padding_mode: Of `torch.nn.functional.pad`.
        bias: (K,), or None.
    """
    B, C, h, w = x.shape
    t, m, n, K = tiling.size, tiling.outputs, tiling.parts(kernel), weights.shape[1]
    rows, columns = tiling.tiles(h), tiling.tiles(w)
    x = F.pad(x, (kernel // 2,) * 4, mode=padding_mode)
    bottom, right = (
        (tiles + n - 1) * m + t - m - have for tiles, have in zip((rows, columns), x.shape[2:], strict=True)
    )
    x = F.pad(x, (0, right, 0, bottom))  # for the tiles that stick out
    # Position in the tile first: then both transforms and the products are plain matrix products.
    tiles = x.unfold(2, t, m).unfold(3, t, m).permute(4, 5, 1, 0, 2, 3).reshape(t * t, -1)
    to_tiles, _, from_tiles = (matrix.to(x.dtype) for matrix in _matrices(tiling))
    transformed = (to_tiles @ tiles).view(t * t, C, B, rows + n - 1, columns + n - 1)
    if n > 1:  # each part of the kernel sees the tiles that lie as far off as it does
        offsets = [(slice(i, i + rows), slice(j, j + columns)) for i in range(n) for j in range(n)]
        transformed = torch.cat([transformed[..., down, along] for down, along in offsets], dim=1)
    products = torch.bmm(weights, transformed.view(t * t, n * n * C, -1))
    outputs = (from_tiles @ products.view(t * t, -1)).view(m, m, K, B, rows, columns)
    y = outputs.permute(3, 2, 4, 0, 5, 1).reshape(B, K, rows * m, columns * m)[:, :, :h, :w]
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def _as_computed(weight: Tensor, dtype: torch.dtype, tiling: Tiling | None) -> Tensor:
    return (weight if tiling is None else transform_weights(weight, tiling)).to(dtype)


@functools.cache
def _matrices(tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of inputs, weights and products, each for both axes at once, in float64.

    With V(n) the values of polynomials of n coefficients at all points, Toom-Cook multiplies polynomials as
    V(t)^-1 [V(a) x * V(b) y]; a correlation is its transpose.
    """
    to_tiles = np.linalg.inv(_values(tiling, tiling.size)).T
    # Rows may be scaled against each other. So, that of the inputs has no fractions but those of the points.
    points = _POINTS[tiling.size]
    scale = np.array([*(np.prod([a - b for b in points if b != a]) for a in points), 1.0])
    weights = _values(tiling, tiling.taps) / scale[:, None]
    axes = (to_tiles * scale[:, None], weights, _values(tiling, tiling.outputs).T)
    to_tiles2, weights2, from_tiles2 = (torch.from_numpy(np.kron(axis, axis)) for axis in axes)
    return to_tiles2, weights2, from_tiles2


def _values(tiling: Tiling, coefficients: int) -> np.ndarray:
    """(size, coefficients): the powers of each point, and at infinity the leading coefficient."""
    values = np.vander(_POINTS[tiling.size], coefficients, increasing=True)
    return np.vstack([values, np.eye(coefficients)[-1]])
