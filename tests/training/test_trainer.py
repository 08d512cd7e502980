"""Training: teacher, student and threshold, from good parts alone; the same seed gives the same detector."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ast_hf import ASTDetector, ConfigError, TrainingRecipe, train
from ast_hf.config import Precision
from ast_hf.inference import Predictor
from ast_hf.nn.precision import resolve_precision
from ast_hf.training.features import PreparedSamples, prepare
from ast_hf.training.fitting import set_standardization
from ast_hf.training.trainer import TrainingError, build, fit, hold_out
from tests import tiny

NO_FILES = {"backbone_weights": None, "cache_folder": False}


def prepared(count: int = 12, **changes: object) -> tuple[ASTDetector, PreparedSamples]:
    detector = build(tiny.config(**changes), 0, backbone_weights=None)
    return detector, prepare(detector, tiny.samples(detector.config, count))


def test_train_learns_and_calibrates() -> None:
    """The whole way on pictures with an obvious defect: the student-teacher distance tells them apart."""
    config = tiny.config(feature_normalization="channel", image_score="max", student_channels=16)
    good = [tiny.picture(i) for i in range(48)]
    detector = train(config, good, TrainingRecipe(epochs=12, learning_rate=2e-3), "cpu", **NO_FILES)
    assert detector.calibration is not None and len(detector.calibration.scores) == 8
    new_good = [p.score for p in detector.predict([tiny.picture(i) for i in range(100, 116)])]
    defects = [p.score for p in detector.predict([tiny.picture(i, defect=True) for i in range(200, 216)])]
    assert min(defects) > max(new_good)


@pytest.mark.parametrize("modality", ["rgb", "depth", "rgb+depth"])
def test_the_calibration_is_of_what_is_shown_of_parts_held_out(modality: str) -> None:
    """Between the cells of the feature map the shown one overshoots by far more than this allows."""
    samples, recipe = tiny.samples(tiny.config(modality), 24), TrainingRecipe(epochs=3)
    detector = train(tiny.config(modality), samples, recipe, "cpu", false_positive_rate=0.01, **NO_FILES)
    shown = list(Predictor(detector).stream(samples[i] for i in hold_out(24, recipe, 0)[1]))
    peaks = sorted(float(prediction.anomaly_map.max()) for prediction in shown)
    assert peaks == pytest.approx(detector.calibration.peaks, rel=0.02)
    assert sorted(p.score for p in shown) == pytest.approx(detector.calibration.scores, rel=0.02)
    assert not any(prediction.is_anomalous or prediction.regions() for prediction in shown)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_same_seed_same_model_and_global_generator_untouched(precision: Precision) -> None:
    def run(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(123)
        before, recipe = torch.random.get_rng_state(), TrainingRecipe(epochs=2, precision=precision)
        detector = train(tiny.config(), tiny.samples(tiny.config(), 20), recipe, "cpu", seed, **NO_FILES)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert detector.calibration.precision == resolve_precision(detector.device, precision)
        return detector.state_dict()

    first, again, other = run(3), run(3), run(4)
    assert all(torch.equal(v, again[k]) and v.dtype != torch.bfloat16 for k, v in first.items())
    assert any(not torch.equal(v, other[k]) for k, v in first.items())


def test_losses_fall_are_reported_and_leave_the_backbone_alone() -> None:
    detector, samples = prepared(16)
    seen: dict[str, list[tuple[int, int, float]]] = {"teacher": [], "student": []}
    digest, recipe = detector.backbone.digest(), TrainingRecipe(epochs=6, learning_rate=1e-3)
    fit(detector, samples, recipe, progress=lambda stage, *at: seen[stage].append(at))
    for epochs in seen.values():
        assert [epoch[:2] for epoch in epochs] == [(i, 6) for i in range(1, 7)]
        assert epochs[-1][2] < epochs[0][2]
    assert detector.backbone.digest() == digest
    assert not any(module.training for module in detector.modules())


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_a_fit_that_is_stopped_leaves_eval_mode(stage: str) -> None:
    def stop(at: str, done: int, total: int, loss: float | None = None) -> None:
        if at == stage:
            raise KeyboardInterrupt

    detector, samples = prepared(8)
    with pytest.raises(KeyboardInterrupt):
        fit(detector, samples, tiny.RECIPE, progress=stop)
    assert not any(module.training for module in detector.modules())


def test_mask_keeps_the_background_out_of_the_losses() -> None:
    detector, samples = prepared(modality="depth")
    losses: list[float | None] = []
    masked = PreparedSamples(samples.inputs, torch.zeros_like(samples.mask))
    fit(detector, masked, tiny.RECIPE, progress=lambda stage, done, total, loss=None: losses.append(loss))
    assert losses == [0.0] * 4


def test_standardisation_is_that_of_the_training_set() -> None:
    detector, samples = prepared(feature_normalization="channel")
    fit(detector, samples, TrainingRecipe(epochs=1))
    standard, live = detector.standardize(samples.inputs), samples.inputs.std(dim=(0, 2, 3)) > 1e-5
    torch.testing.assert_close(standard.mean(dim=(0, 2, 3)), torch.zeros(48), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(dim=(0, 2, 3))[live], torch.ones(int(live.sum())), atol=1e-3, rtol=0)


def test_hold_out_takes_a_tenth_and_at_least_8_or_a_third() -> None:
    recipe = TrainingRecipe()
    assert [[len(x) for x in hold_out(n, recipe, 0)] for n in (10, 24, 761)] == [[7, 3], [16, 8], [684, 77]]
    fitted, held = hold_out(50, recipe, 0)
    assert sorted(fitted + held) == list(range(50))
    assert hold_out(50, recipe, 0) == (fitted, held) != hold_out(50, recipe, 1)
    assert hold_out(3, TrainingRecipe(calibration_fraction=0), 0) == ([0, 1, 2], [])


@pytest.mark.parametrize(("count", "fraction"), [(9, 0.1), (0, 0), (10, 0.9), (100, 0.51)])
def test_too_few_to_fit_or_to_calibrate_with_are_refused(count: int, fraction: float) -> None:
    with pytest.raises(ConfigError, match="images"):
        hold_out(count, TrainingRecipe(calibration_fraction=fraction), 0)


def test_divergence_is_an_error() -> None:
    detector, samples = prepared(8)
    with pytest.raises(TrainingError, match="epoch 1"):
        fit(detector, PreparedSamples(samples.inputs * float("inf"), None), tiny.RECIPE)


def test_the_projection_keeps_what_varies_most_on_one_scale() -> None:
    detector, samples = prepared(feature_projection=6, feature_normalization="channel")
    set_standardization(detector, samples.inputs)
    plain = (samples.inputs - samples.inputs.mean((0, 2, 3), keepdim=True)) / samples.inputs.std(
        (0, 2, 3), keepdim=True
    ).clamp_min(1e-6)
    cells = plain.permute(0, 2, 3, 1).reshape(-1, plain.shape[1]).double()
    values = torch.linalg.eigvalsh(cells.T @ cells / len(cells))[-6:]
    seen = detector.standardize(samples.inputs)
    assert seen.shape[1] == 6 and seen.square().mean().item() == pytest.approx(1, rel=1e-3)
    expected = (values / values.mean()).float()
    torch.testing.assert_close(seen.square().mean((0, 2, 3)), expected, rtol=1e-3, atol=1e-4)


def test_noise_and_one_cycle_learn_by_the_seed() -> None:
    detectors = [prepared()[0] for _ in range(3)]
    for detector, seed in zip(detectors, (0, 0, 1), strict=True):
        _, samples = prepared()
        recipe = TrainingRecipe(epochs=2, feature_noise=0.2, schedule="one-cycle", learning_rate=1e-3, precision="fp32")
        fit(detector, samples, recipe, seed=seed)
    weights = [next(iter(detector.student.parameters())) for detector in detectors]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("size", "expected"), [((100, 50), (32, 96)), ((60, 60), 64)])
def test_pictures_keep_their_aspect_where_the_recipe_says_so(size: tuple[int, int], expected: object) -> None:
    samples = [np.asarray(tiny.picture(seed, size)) for seed in range(12)]
    detector = train(tiny.config(), samples, TrainingRecipe(epochs=1, keep_aspect=True), **NO_FILES)
    assert detector.config.image_size == expected
