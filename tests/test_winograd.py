"""Convolutions by tiles give what plain ones give, and know when their weights have changed."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ast_hf import winograd
from ast_hf.winograd import Conv2d, Tiling, convolve, transform_weights

WIDE = 384  # channels in and out, enough for the tiles to be used
# Kernels and how they can be cut up; a kernel of 7 in 3 x 3 parts, which no detector has.
TILINGS = [(3, Tiling(2, 3)), (3, Tiling(3, 3)), (5, Tiling(2, 5)), (5, Tiling(3, 3)), (7, Tiling(3, 3))]


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, mode: str) -> Tensor:
    reach = weight.shape[-1] // 2
    return F.conv2d(F.pad(x, (reach,) * 4, mode=mode), weight, bias)


def wide(kernel: int = 3, **settings: object) -> Conv2d:
    torch.manual_seed(0)
    return Conv2d(WIDE, WIDE, kernel, padding=kernel // 2, **settings)  # type: ignore[arg-type]


@given(
    st.sampled_from(TILINGS),
    st.sampled_from(["constant", "replicate"]),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.booleans(),
)
def test_tiles_equal_a_plain_convolution(
    case: tuple[int, Tiling], mode: str, channels: tuple[int, int, int], size: tuple[int, int], has_bias: bool
) -> None:
    (kernel, tiling), (batch, into, out) = case, channels
    generator = torch.Generator().manual_seed(batch + 10 * into + 100 * out)
    x = torch.randn(batch, into, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(out, into, kernel, kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(out, generator=generator, dtype=torch.float64) if has_bias else None
    actual = convolve(x, transform_weights(weight, tiling), kernel, tiling, mode, bias)
    assert torch.allclose(actual, plain(x, weight, bias, mode), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [3, 5])
def test_single_precision_loses_no_more_than_a_plain_convolution(kernel: int) -> None:
    conv, x = wide(kernel), torch.randn(2, WIDE, 12, 12).relu()
    assert conv._tiling(x, x.dtype)
    with torch.no_grad():
        exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=kernel // 2)  # type: ignore[union-attr]
        assert (conv(x) - exact).abs().max() < 2e-5 * exact.abs().max()


def test_gradients_equal_those_of_a_plain_convolution() -> None:
    conv = wide()
    x = torch.randn(2, WIDE, 6, 6, requires_grad=True)
    gradients = []
    for output in (conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)):
        gradients.append(torch.autograd.grad(output.square().sum(), [x, conv.weight, conv.bias]))
    for actual, expected in zip(*gradients, strict=True):
        assert (actual - expected).abs().max() < 2e-5 * expected.abs().max()


def test_changed_weights_are_used() -> None:
    conv, x = wide(), torch.randn(1, WIDE, 6, 6)
    changes = [
        lambda: conv.weight.mul_(2),
        lambda: conv.load_state_dict({k: v + 1 for k, v in conv.state_dict().items()}),
        lambda: conv.load_state_dict({k: v.clone() - 3 for k, v in conv.state_dict().items()}, assign=True),
        lambda: setattr(conv.weight, "data", torch.randn_like(conv.weight)),
        lambda: conv.train().eval(),
    ]
    with torch.no_grad():
        conv(x)
        for change in changes:
            change()
            expected = F.conv2d(x, conv.weight, conv.bias, padding=1)
            assert (conv(x) - expected).abs().max() < 2e-5 * expected.abs().max()


def test_weights_are_prepared_once_and_stay_out_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x, calls = wide(), torch.randn(1, WIDE, 6, 6), []
    monkeypatch.setattr(winograd, "transform_weights", lambda *given: calls.append(None) or transform_weights(*given))
    with torch.inference_mode():
        conv(x), conv(x)
    assert len(calls) == 1
    saved = io.BytesIO()
    torch.save(conv, saved)
    assert copy.deepcopy(conv)._prepared is None
    assert len(saved.getvalue()) < 1.1 * 4 * WIDE * WIDE * 9
    assert set(conv.state_dict()) == {"weight", "bias"}


def test_maps_of_other_sizes_take_the_weights_of_their_own_tiles() -> None:
    conv = wide()
    with torch.no_grad():
        for side in (12, 10, 1, 12):
            x = torch.randn(1, WIDE, side, side)
            expected = F.conv2d(x, conv.weight, conv.bias, padding=1)
            assert (conv(x) - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize(
    "settings",
    [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": 0}, {"out_channels": 64}, {"kernel_size": 7}],
)
def test_what_tiles_are_not_for_goes_the_plain_way(settings: dict[str, int]) -> None:
    conv = Conv2d(**{"in_channels": WIDE, "out_channels": WIDE, "kernel_size": 3, "padding": 1, **settings})  # type: ignore[arg-type]
    x = torch.zeros(1, WIDE, 8, 8)
    assert conv._tiling(x, torch.float32) is None
    assert wide()._tiling(x, torch.float64) is None
    assert wide()._tiling(x.to("meta"), torch.float32) is None


@pytest.mark.parametrize(
    ("kernel", "side", "dtype", "tiling"),
    [
        (3, 24, torch.float32, Tiling(3, 3)),
        (3, 24, torch.bfloat16, Tiling(3, 3)),
        (3, 10, torch.float32, Tiling(2, 3)),  # tiles of 3 would stick out by 2 pixels
        (3, 1, torch.float32, None),
        (5, 24, torch.float32, Tiling(2, 5)),
        (5, 24, torch.bfloat16, Tiling(3, 3)),
        (5, 12, torch.bfloat16, None),  # too many tiles only see the padding
    ],
)
def test_the_tiles_with_the_fewest_multiplications_are_taken(
    kernel: int, side: int, dtype: torch.dtype, tiling: Tiling | None
) -> None:
    assert wide(kernel)._tiling(torch.zeros(1, WIDE, side, side), dtype) == tiling


def test_multiplications_are_counted_as_they_are_done() -> None:
    for kernel, tiling in TILINGS:
        weights = transform_weights(torch.zeros(1, 1, kernel, kernel), tiling)
        border = (tiling.parts(kernel) - 1) * tiling.outputs  # of tiles that only the border needs
        for side in (1, 4, 9, 24):
            tiles = tiling.tiles(side + border) ** 2
            assert tiling.products(kernel, side, side) == weights.numel() * tiles


@pytest.mark.parametrize("kernel", [3, 5])
def test_in_bf16_less_than_two_bits_are_lost(kernel: int) -> None:
    conv, x = wide(kernel), torch.randn(1, WIDE, 24, 24).relu()
    with torch.no_grad():
        exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=kernel // 2)  # type: ignore[union-attr]
        with torch.autocast("cpu", torch.bfloat16):
            errors = [
                (y - exact).square().mean().sqrt()
                for y in (conv(x), F.conv2d(x, conv.weight, conv.bias, padding=kernel // 2))
            ]
        again = conv(x)
        assert conv._tiling(x, torch.bfloat16) == Tiling(3, 3)
    assert 0 < errors[0] < 4 * errors[1]
    assert (again - exact).abs().max() < 2e-5 * exact.abs().max()  # fp32 after bf16: other weights are kept
    assert conv._prepared is None or conv._prepared[1].dtype == torch.float32


def test_weights_are_cast_once_for_the_plain_way_too() -> None:
    conv, x = Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 6, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        conv(x)
        kept = conv._prepared
        conv(x)
        assert conv._prepared is kept and kept is not None and kept[1].dtype == torch.bfloat16
        conv.weight.mul_(0)
        assert conv(x).sub(conv.bias[:, None, None].bfloat16()).abs().max() == 0  # type: ignore[index]
