from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from FrEIA.framework import SequenceINN
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ast_hf.flow import FixedPermutation, build_teacher, positional_encoding


def random_teacher(channels: int, size: tuple[int, int], condition: int, seed: int = 0) -> SequenceINN:
    """A teacher that is far from the identity it starts as."""
    torch.manual_seed(seed)
    teacher = build_teacher(
        channels, size, condition_channels=condition, hidden_channels=6, kernel_sizes=(3, 1, 5), clamp=1.9
    )
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.9)
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


def test_a_new_teacher_only_permutes() -> None:
    teacher = build_teacher(6, (3, 3), condition_channels=0, hidden_channels=4, kernel_sizes=(3, 3), clamp=3.0)
    x = torch.randn(1, 6, 3, 3)
    z, log_jac = teacher(x)
    order = teacher[0].permutation[teacher[2].permutation]
    assert torch.equal(z, x[:, order])
    assert not log_jac.any()


def test_permutation_is_numpys_and_leaves_its_generator_alone() -> None:
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    layer = FixedPermutation([(7, 2, 2)], seed=3)
    assert np.array_equal(np.random.get_state()[1], before)
    assert layer.permutation.tolist() == np.random.RandomState(3).permutation(7).tolist()
    assert "permutation" in layer.state_dict()


def test_log_scale_stays_below_the_clamp() -> None:
    teacher = random_teacher(4, (2, 2), 0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1e4)
        _, log_jac = teacher(torch.randn(8, 4, 2, 2) * 100)
    assert log_jac.abs().max() <= 3 * 4 * 1.9 * 0.636 * np.pi / 2  # blocks x channels x largest |e(s)|


def test_teacher_pickles_and_copies() -> None:
    teacher = random_teacher(4, (2, 2), 0)
    x = torch.randn(1, 4, 2, 2)
    for twin in (pickle.loads(pickle.dumps(teacher)), copy.deepcopy(teacher)):
        assert torch.equal(twin(x)[0], teacher(x)[0])


def test_positional_encoding() -> None:
    encoding = positional_encoding(8, 3, 5)
    assert encoding.shape == (8, 3, 5)
    assert (encoding[:4] == encoding[:4, :1]).all(), "the first half depends on the column alone"
    assert (encoding[4:] == encoding[4:, :, :1]).all(), "the second half depends on the row alone"
    assert encoding[0, 0, 1] == pytest.approx(np.sin(1.0))
    assert positional_encoding(0, 3, 5).shape == (0, 3, 5)
