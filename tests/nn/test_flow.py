"""The teacher: a bijection, with the log-determinant of every pixel."""

import numpy as np
import pytest
import torch
from FrEIA.framework import SequenceINN
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ast_hf.nn.flow import FixedPermutation, build_teacher, positional_encoding


def random_teacher(channels: int, size: tuple[int, int], condition: int, seed: int = 0) -> SequenceINN:
    """A teacher that is far from the identity it starts as."""
    torch.manual_seed(seed)
    teacher = build_teacher(
        channels, size, condition_channels=condition, hidden_channels=6, kernel_sizes=(3, 1, 5), clamp=1.9
    )
    for name, parameter in teacher.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(0.9)
    return teacher


def conditions(condition: int, batch: int, size: tuple[int, int]) -> list[Tensor] | None:
    return [positional_encoding(condition, *size).expand(batch, -1, -1, -1)] if condition else None


@settings(max_examples=20)
@given(st.integers(2, 9), st.integers(1, 4), st.integers(1, 5), st.sampled_from([0, 4, 8]), st.integers(0, 99))
def test_inverse_restores_input_and_cancels_log_jac(channels: int, height: int, width: int, condition: int, seed: int):
    size = (height, width)
    teacher = random_teacher(channels, size, condition, seed)
    x, c = torch.randn(2, channels, *size), conditions(condition, 2, size)
    with torch.no_grad():
        z, log_jac = teacher(x, c=c)
        restored, inverse_log_jac = teacher(z, c=c, rev=True)
    assert log_jac.shape == (2, *size)
    torch.testing.assert_close(restored, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inverse_log_jac, -log_jac, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("condition", [0, 4])
def test_log_jac_sums_to_the_determinant_of_autograd(condition: int) -> None:
    size = (2, 2)
    teacher = random_teacher(4, size, condition).double()
    c = None if not condition else [t.double() for t in conditions(condition, 1, size) or ()]
    x = torch.randn(1, 4, *size, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda flat: teacher(flat.view_as(x), c=c)[0].flatten(), x.flatten())
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(teacher(x, c=c)[1].sum(), expected, rtol=1e-9, atol=1e-9)


def test_a_new_teacher_permutes_as_numpy_does_and_no_more() -> None:
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    teacher = build_teacher(6, (3, 3), condition_channels=0, hidden_channels=4, kernel_sizes=(3, 3), clamp=3.0)
    assert np.array_equal(np.random.get_state()[1], before), "nobody else's random numbers change"
    x = torch.randn(1, 6, 3, 3)
    z, log_jac = teacher(x)
    first, second = (torch.from_numpy(np.random.RandomState(seed).permutation(6)) for seed in range(2))
    assert torch.equal(z, x[:, first[second]])
    assert not log_jac.any()
    assert "permutation" in FixedPermutation([(7, 2, 2)], seed=3).state_dict()
