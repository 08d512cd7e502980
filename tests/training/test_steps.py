"""Gradients of a batch, and on a GPU the same from a recorded graph; skipped without one."""

from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from ast_hf import ASTDetector, TrainingRecipe, train
from ast_hf.nn.precision import autocast
from ast_hf.training.steps import GradientStep
from tests import tiny
from tests.training.test_trainer import NO_FILES

CALLS = 8
FIELDS = {"feature_normalization": "channel", "student_channels": 16, "local_channels": (8, 16), "tiles": (1, 2)}
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@DEVICES
def test_each_call_gives_the_loss_and_gradients_of_its_batch_alone(device: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(device)
    step = GradientStep(network, lambda x, scale, _: (network(x).square() * scale).mean(), "fp32")
    for _ in range(CALLS):
        x, scale = torch.randn(4, 2, 5, 5, device=device), torch.rand(1, device=device)
        loss, gradients = step(x, scale, None).clone(), [p.grad.clone() for p in network.parameters()]
        with autocast(x.device, "fp32"):
            expected = (network(x).square() * scale).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        for ours, theirs in zip(gradients, torch.autograd.grad(expected, list(network.parameters())), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def learn(device: str, precision: str = "fp32", **changes: object) -> tuple[ASTDetector, list[float]]:
    losses, recipe = list[float](), TrainingRecipe(epochs=4, local_epochs=4, learning_rate=2e-3, precision=precision)
    config, good = tiny.config(**{**FIELDS, **changes}), [tiny.picture(seed) for seed in range(40)]
    progress = lambda stage, done, total, loss=None: losses.append(loss)  # noqa: E731
    detector = train(config, good, recipe, device, progress=progress, **NO_FILES)
    return detector, [loss for loss in losses if loss is not None]


@pytest.mark.gpu
def test_a_gpu_learns_what_a_cpu_learns_and_its_checkpoint_goes_to_a_cpu(tmp_path: Path) -> None:
    (ours, losses), (theirs, expected) = learn("cuda"), learn("cpu")
    assert len(losses) == 16 and losses == pytest.approx(expected, rel=1e-3)
    assert ours.calibration.scores == pytest.approx(theirs.calibration.scores, rel=1e-2)
    ours.save_pretrained(tmp_path)
    back = ASTDetector.from_pretrained(tmp_path, device="cpu")
    for seed in range(3):
        score = ours.predict(tiny.picture(seed)).score
        assert back.predict(tiny.picture(seed)).score == pytest.approx(score, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_too_the_same_seed_gives_the_same_bits(precision: str) -> None:
    first, again = (learn("cuda", precision)[0].state_dict() for _ in range(2))
    assert all(torch.equal(v, again[k]) for k, v in first.items())


@pytest.mark.gpu
def test_bf16_on_a_gpu_tells_defects_apart_as_well() -> None:
    pictures = [tiny.picture(seed, defect=seed % 2 == 1) for seed in range(100, 140)]
    found = []
    for device, precision in (("cuda", "bf16"), ("cpu", "fp32")):
        detector, _ = learn(device, precision, tiles=(1, 1), image_score="max")
        scores = [p.score for p in detector.predict(pictures)]
        found.append(roc_auc_score([seed % 2 for seed in range(40)], scores))
    assert found[0] == pytest.approx(found[1], abs=0.002) and found[0] > 0.9
