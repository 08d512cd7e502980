from __future__ import annotations

import torch

from ast_hf.scoring import distance_map, image_score, nll_map


def test_nll_by_hand() -> None:
    z = torch.tensor([[1.0, 2.0], [3.0, 0.0]]).view(1, 2, 1, 2)  # channels x columns
    log_jac = torch.tensor([[[0.5, -1.0]]])
    assert nll_map(z, log_jac).tolist() == [[[0.5 * (1 + 9) - 0.5, 0.5 * 4 + 1.0]]]
    half = torch.tensor([[[[0.5, 0.0]]]])
    assert nll_map(z, log_jac, half).tolist() == [[[0.5 * 0.5 * (1 + 9) - 0.5 * 0.5, 0.0]]]


def test_distance_by_hand() -> None:
    teacher, student = torch.zeros(1, 2, 1, 2), torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 1, 2)
    assert distance_map(teacher, student).tolist() == [[[(1 + 9) / 2, (4 + 16) / 2]]]
    assert distance_map(teacher, student, torch.tensor([[[[0.5, 0.0]]]])).tolist() == [[[2.5, 0.0]]]


def test_image_score_counts_masked_pixels() -> None:
    maps = torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]])
    assert image_score(maps, "mean").tolist() == [2.0, 1.0]
    assert image_score(maps, "max").tolist() == [4.0, 1.0]
