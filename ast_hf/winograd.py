"""Convolutions by Winograd's minimal filtering, which need 2.25 to 2.8 times fewer multiplications.

PyTorch has them for CUDA but not for CPUs, where the wide convolutions of teacher and student are most of AST's time.
A tile of 2 x 2 outputs is used: larger ones save more multiplications but lose digits and read larger weights, and with
this one the results are no less exact than a plain convolution's. In bf16 (under autocast) kernels of 3 lose a bit at
most; those of 5 would lose three.

Source: A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TILE = 2  # outputs of a tile along each axis
# Points of the interpolation, in the order they are used; the last one is infinity.
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)
# Kernel sizes that lose no digits by it.
_KERNELS = {torch.float32: (3, 5), torch.bfloat16: (3,)}
# Multiplications a pixel, in and out channels multiplied, from which on the transforms are worth their time.
_MIN_CHANNEL_PRODUCT = 2**17


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that goes the faster way where there is one: wide, stride 1, fp32 or bf16, on a CPU."""

    # What `weight` was prepared from and for, and the result.
    _prepared: tuple[tuple[int, int, torch.dtype, bool], Tensor] | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.compiler.is_compiling():
            return super()._conv_forward(input, weight, bias)
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        if not self._is_faster_by_tiles(input, dtype):
            weight = self._prepare(weight, dtype, in_tiles=False)
            return super()._conv_forward(input, weight, bias)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return convolve(input.to(dtype), self._prepare(weight, dtype, in_tiles=True), self.kernel_size[0], mode, bias)

    def _is_faster_by_tiles(self, input: Tensor, dtype: torch.dtype) -> bool:
        kernel = self.kernel_size[0]
        return (
            input.device.type == "cpu"
            and self.in_channels * self.out_channels >= _MIN_CHANNEL_PRODUCT
            and kernel in _KERNELS.get(dtype, ())
            and self.kernel_size == (kernel, kernel)
            and (self.stride, self.dilation, self.groups) == ((1, 1), (1, 1), 1)
            and self.padding == (kernel // 2, kernel // 2)
        )

    def _prepare(self, weight: Tensor, dtype: torch.dtype, *, in_tiles: bool) -> Tensor:
        """The weights as they are computed with, kept from call to call where no gradient is wanted."""
        if not in_tiles and weight.dtype == dtype:
            return weight
        if torch.is_grad_enabled() and weight.requires_grad:
            self._prepared = None
            return (transform_weights(weight) if in_tiles else weight).to(dtype)
        version = (weight.data_ptr(), 0 if weight.is_inference() else weight._version, dtype, in_tiles)
        kept = self._prepared  # one look, since other threads may be here too
        if kept is None or kept[0] != version:
            with torch.inference_mode(False), torch.no_grad():
                kept = self._prepared = (version, (transform_weights(weight) if in_tiles else weight).to(dtype))
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}  # copies and pickles make their own


def transform_weights(weight: Tensor) -> Tensor:
    """Weights (K, C, r, r) as `convolve` takes them: (t * t, K, C) with t = r + 1."""
    K, C, r, _ = weight.shape
    matrix = _matrices(r)[1].to(weight.dtype)
    with torch.autocast("cpu", enabled=False):  # rounded once, when they are whole
        return (matrix @ weight.reshape(K * C, r * r).T).view(-1, K, C)


def convolve(x: Tensor, weights: Tensor, kernel: int, padding_mode: str, bias: Tensor | None = None) -> Tensor:
    """Cross-correlation of x (B, C, h, w) with stride 1, whose result (B, K, h, w) is of the same size.

    Args:
        x: On a CPU.
        weights: (t * t, K, C), from `transform_weights`, of the type of x.
        kernel: Its odd size r.
        padding_mode: Of `torch.nn.functional.pad`.
        bias: (K,), or None.
    """
    B, C, h, w = x.shape
    t, K, reach = kernel + _TILE - 1, weights.shape[1], kernel // 2
    rows, columns = -(-h // _TILE), -(-w // _TILE)
    x = F.pad(x, (reach, reach, reach, reach), mode=padding_mode)
    x = F.pad(x, (0, columns * _TILE - w, 0, rows * _TILE - h))  # for the tiles that stick out
    # Position in the tile first: then both transforms and the products are plain matrix products.
    tiles = x.unfold(2, t, _TILE).unfold(3, t, _TILE).permute(4, 5, 1, 0, 2, 3).reshape(t * t, -1)
    to_tiles, _, from_tiles = (matrix.to(x.dtype) for matrix in _matrices(kernel))
    products = torch.bmm(weights, (to_tiles @ tiles).view(t * t, C, -1))
    outputs = (from_tiles @ products.view(t * t, -1)).view(_TILE, _TILE, K, B, rows, columns)
    y = outputs.permute(3, 2, 4, 0, 5, 1).reshape(B, K, rows * _TILE, columns * _TILE)[:, :, :h, :w]
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


@functools.cache
def _matrices(kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of input, weights and products, each for both axes at once, in float64.

    With V(n) the values of polynomials of n coefficients at all points, Toom-Cook multiplies polynomials as
    V(t)^-1 [V(a) x * V(b) y]; a correlation is its transpose.
    """
    size = kernel + _TILE - 1
    values = {n: _values(n, size) for n in (_TILE, kernel, size)}
    to_tiles = np.linalg.inv(values[size]).T
    # Rows may be scaled against each other; weights of about their own size keep the most digits.
    scale = np.abs(values[kernel]).max(axis=1)
    axes = (to_tiles * scale[:, None], values[kernel] / scale[:, None], values[_TILE].T)
    to_tiles2, weights2, from_tiles2 = (torch.from_numpy(np.kron(axis, axis)) for axis in axes)
    return to_tiles2, weights2, from_tiles2


def _values(coefficients: int, size: int) -> np.ndarray:
    """(size, coefficients): the powers of each point, and at infinity the leading coefficient."""
    values = np.vander(_POINTS[: size - 1], coefficients, increasing=True)
    return np.vstack([values, np.eye(coefficients)[-1]])
