"""The second, local pair beside the paper's."""

import torch

from ast_hf.nn.losses import distance_map
from tests import tiny


def test_the_local_pair_judges_a_cell_by_itself_and_its_place() -> None:
    network = tiny.detector(local_channels=(8, 8))
    for name, parameter in network.local.teacher.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(0.5)
    inputs = torch.randn(1, 48, 4, 4)
    changed = inputs.clone()
    changed[..., 1, 2] += 1
    wide, local = (
        (distance_map(pair.teacher_forward(inputs)[0], pair.student_forward(inputs))
         != distance_map(pair.teacher_forward(changed)[0], pair.student_forward(changed)))
        for pair in (network, network.local)
    )  # fmt: skip
    assert local.nonzero().tolist() == [[0, 1, 2]] and wide.sum() > 1
    same = inputs[..., :1, :1].expand(1, 48, 4, 4)
    place = distance_map(network.local.teacher_forward(same)[0], network.local.student_forward(same))
    assert place.unique().numel() == 16


def test_map_and_score_are_geometric_means_over_the_pairs() -> None:
    network, inputs = tiny.detector(local_channels=(8, 8), local_share=0.25), torch.randn(2, 48, 4, 4)
    mask = torch.rand(2, 1, 4, 4)
    output, local = network.score_inputs(inputs, mask), network.local
    wide_map = distance_map(output.teacher_z, output.student_z, mask)
    local_map = distance_map(local.teacher_forward(inputs)[0], local.student_forward(inputs), mask)
    torch.testing.assert_close(output.anomaly_map, (wide_map**3 * local_map) ** 0.25)
    highest = local_map.flatten(1).topk(2).values.mean(1)  # a tenth of 16 cells
    torch.testing.assert_close(output.score, (wide_map.mean((1, 2)) * highest).sqrt())
