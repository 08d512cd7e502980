"""The three networks together: what goes in, and what they cost."""

import subprocess
import sys

import pytest
import torch

from ast_hf import ASTDetector, ASTDetectorConfig, ConfigError
from ast_hf.nn.losses import distance_map, image_score, nll_map
from tests import tiny


def test_losses_and_their_masks_by_hand() -> None:
    z = torch.tensor([[1.0, 2.0], [3.0, 0.0]]).view(1, 2, 1, 2)  # channels x columns
    log_jac, mask = torch.tensor([[[0.5, -1.0]]]), torch.tensor([[[[0.5, 0.0]]]])
    assert nll_map(z, log_jac).tolist() == [[[0.5 * (1 + 9) - 0.5, 0.5 * 4 + 1.0]]]
    assert nll_map(z, log_jac, mask).tolist() == [[[0.5 * 0.5 * (1 + 9) - 0.5 * 0.5, 0.0]]]
    assert distance_map(torch.zeros_like(z), z).tolist() == [[[(1 + 9) / 2, 4 / 2]]]
    assert distance_map(torch.zeros_like(z), z, mask).tolist() == [[[2.5, 0.0]]]


def test_what_is_no_part_is_not_anomalous() -> None:
    depth, foreground = torch.rand(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    foreground[..., :4, :4] = 1
    anomaly_map = tiny.detector("depth")(depth=depth, foreground=foreground).anomaly_map[0]
    assert anomaly_map[0, 0] > 0 and not anomaly_map[2:].any() and not anomaly_map[:, 2:].any()


def test_missing_and_misshapen_inputs_are_named() -> None:
    network = tiny.detector("rgb+depth")
    with pytest.raises(ValueError, match="needs depth"):
        network(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"pixel_values is \(1, 3, 32, 32\)"):
        network(torch.rand(1, 3, 32, 32), torch.rand(1, 1, 16, 16))


def test_config_that_does_not_fit_the_backbone_says_what_would() -> None:
    with pytest.raises(ConfigError, match="feature_channels=48"):
        ASTDetector(tiny.config(feature_channels=50))
    with pytest.raises(ConfigError, match="depth_size=16"):
        ASTDetector(tiny.config("rgb+depth", depth_size=32))


# Counted in the authors' code (thousands); their student has one parameter more, which it never uses.
@pytest.mark.parametrize(
    ("preset", "teacher", "student"),
    [
        ("mvtec-3d-ad", 3_891, 82_601),
        ("mvtec-3d-ad-depth", 853, 76_998),
        ("mvtec-3d-ad-rgb", 3_251, 81_422),
        ("mvtec-ad", 51_981, 81_422),
    ],
)
def test_parameter_counts_are_the_papers(preset: str, teacher: int, student: int) -> None:
    with torch.device("meta"):
        network = ASTDetector(ASTDetectorConfig.preset(preset))
    counts = [sum(p.numel() for p in part.parameters()) for part in (network.teacher, network.student)]
    assert [round(count / 1000) for count in counts] == [teacher, student]


def test_a_detector_of_depth_alone_needs_no_timm() -> None:
    code = "import sys; sys.modules['timm'] = None; from tests import tiny;"
    code += "tiny.detector('depth').predict(None, tiny.scan(0))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_top_score_is_the_mean_of_the_highest_cells() -> None:
    maps = torch.arange(20.0).view(1, 4, 5).repeat(2, 1, 1)
    assert image_score(maps, "top", 0.1).tolist() == [18.5, 18.5]
    assert image_score(maps, "top", 0.001).tolist() == image_score(maps, "max").tolist()
    assert image_score(maps, "top", 1.0).tolist() == image_score(maps, "mean").tolist()


def test_oblong_pictures_give_oblong_maps() -> None:
    detector = tiny.detector(image_size=(64, 128), student_kernel_size=1, image_score="top")
    prediction = detector.predict(tiny.picture(0, (100, 50)))
    assert detector.map_size == (4, 8) and prediction.anomaly_map.shape == (50, 100)
