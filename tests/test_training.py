from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ast_hf import ASTDetector, ConfigError, ImageReadError, TrainingRecipe, train
from ast_hf.features import FeatureCache, PreparedParts, prepare
from ast_hf.parts import Part, as_parts
from ast_hf.training import TrainingError, build, calibrate, fit, hold_out, progress_bars, select
from tests import tiny


def prepared(count: int = 12, seed: int = 0, config=None) -> tuple[ASTDetector, PreparedParts]:
    model = build(config or tiny.config(), seed, backbone_weights=None)
    return model, prepare(model, [Part(tiny.picture(i)) for i in range(count)])


def test_train_learns_and_calibrates(tmp_path: Path) -> None:
    """The whole way on pictures with an obvious defect: the student-teacher distance tells them apart."""
    recipe = TrainingRecipe(epochs=12, learning_rate=2e-3)
    config = tiny.config(feature_normalization="channel", image_score="max", student_channels=16)
    good = [tiny.picture(i) for i in range(48)]
    model = train(config, good, recipe, "cpu", backbone_weights=None, cache_folder=tmp_path, progress=silent)
    assert model.calibration is not None
    assert len(model.calibration.scores) == 8
    new_good = [p.score for p in model.predict([tiny.picture(i) for i in range(100, 116)])]
    defects = [p.score for p in model.predict([tiny.picture(i, defect=True) for i in range(200, 216)])]
    assert min(defects) > max(new_good)


def silent(stage: str, done: int, total: int, loss: float | None = None) -> None:
    """A progress callback that says nothing."""


def test_same_seed_same_model_and_global_generator_untouched(tmp_path: Path) -> None:
    def run(seed: int) -> dict[str, Tensor]:
        good = [tiny.picture(i) for i in range(20)]
        torch.manual_seed(123)
        before = torch.random.get_rng_state()
        model = train(tiny.config(), good, tiny.RECIPE, "cpu", seed, backbone_weights=None, cache_folder=tmp_path)
        assert torch.equal(torch.random.get_rng_state(), before)
        return model.state_dict()

    first, again, other = run(3), run(3), run(4)
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    assert any(not torch.equal(v, other[k]) for k, v in first.items())


def test_losses_fall_and_are_reported() -> None:
    model, parts = prepared(16)
    seen: dict[str, list[tuple[int, int, float]]] = {"teacher": [], "student": []}
    recipe = TrainingRecipe(epochs=6, learning_rate=1e-3, calibration_fraction=0)
    fit(model, parts, recipe, progress=lambda stage, *at: seen[stage].append(at))
    for epochs in seen.values():
        assert [epoch[:2] for epoch in epochs] == [(i, 6) for i in range(1, 7)]
        assert epochs[-1][2] < epochs[0][2]
    assert not model.training
    assert not model.teacher.training


def test_the_student_trains_on_targets_of_the_trained_teacher() -> None:
    """Targets computed once equal those recomputed in every epoch, for the teacher is frozen by then."""
    model, parts = prepared(8)
    fit(model, parts, tiny.RECIPE)
    with torch.no_grad():
        distance = model.compare(parts.inputs).anomaly_map.mean()
    untrained = build(tiny.config(), 0, backbone_weights=None)
    untrained.teacher.load_state_dict(model.teacher.state_dict())
    with torch.no_grad():
        assert distance < untrained.compare(parts.inputs).anomaly_map.mean()


def test_backbone_and_its_statistics_do_not_change() -> None:
    model, parts = prepared()
    before = model.backbone.digest()
    fit(model, parts, tiny.RECIPE)
    assert model.backbone.digest() == before


def test_standardisation_is_that_of_the_training_set() -> None:
    model, parts = prepared(config=tiny.config(feature_normalization="channel"))
    fit(model, parts, TrainingRecipe(epochs=0))
    standard = model.standardize(parts.inputs)
    torch.testing.assert_close(standard.mean(dim=(0, 2, 3)), torch.zeros(48), atol=1e-4, rtol=0)
    live = parts.inputs.std(dim=(0, 2, 3)) > 1e-5
    torch.testing.assert_close(standard.std(dim=(0, 2, 3))[live], torch.ones(int(live.sum())), atol=1e-3, rtol=0)


def test_mask_keeps_the_background_out_of_the_loss() -> None:
    config = tiny.config("depth")
    model = build(config, 0, backbone_weights=None)
    parts = prepare(model, [Part(points=tiny.scan(i)) for i in range(8)])
    masked = PreparedParts(parts.inputs, torch.zeros_like(parts.foreground))
    losses: list[float] = []
    fit(model, masked, tiny.RECIPE, progress=lambda stage, done, total, loss: losses.append(loss))
    assert losses == [0.0] * 4


@pytest.mark.parametrize("modality", ["depth", "rgb+depth"])
def test_3d_from_folders(modality: str, tmp_path: Path) -> None:
    import tifffile

    for folder in ("rgb", "xyz"):
        (tmp_path / folder).mkdir()
    for i in range(18):
        tiny.picture(i).save(tmp_path / "rgb" / f"{i}.png")
        tifffile.imwrite(tmp_path / "xyz" / f"{i}.tiff", tiny.scan(i), photometric="rgb")
    config = tiny.config(modality)
    model = train(config, tmp_path, tiny.RECIPE, "cpu", backbone_weights=None, cache_folder=tmp_path / "c")
    image = tiny.picture(0) if config.uses_rgb else None
    prediction = model.predict(image, tiny.scan(0))
    assert prediction.anomaly_map.shape == (60, 80)
    assert prediction.image.size == (80, 60)
    (tmp_path / "xyz" / "3.tiff").unlink()
    if config.uses_rgb:
        with pytest.raises(ImageReadError, match=r"do not pair up.*: 3"):
            as_parts(config, tmp_path)


def test_hold_out_takes_a_tenth_and_at_least_8_or_a_third() -> None:
    recipe = TrainingRecipe()
    assert [len(x) for x in hold_out(10, recipe, 0)] == [7, 3]
    assert [len(x) for x in hold_out(24, recipe, 0)] == [16, 8]
    assert [len(x) for x in hold_out(761, recipe, 0)] == [684, 77]
    fitted, held = hold_out(50, recipe, 0)
    assert sorted(fitted + held) == list(range(50))
    assert hold_out(50, recipe, 0) == (fitted, held) != hold_out(50, recipe, 1)
    assert hold_out(3, TrainingRecipe(calibration_fraction=0), 0) == ([0, 1, 2], [])
    for count, fraction in ((9, 0.1), (0, 0)):
        with pytest.raises(ConfigError, match="images"):
            hold_out(count, TrainingRecipe(calibration_fraction=fraction), 0)


def test_fewer_parts_than_a_batch_still_train() -> None:
    model, parts = prepared(3)
    before = model.student.head.weight.clone()
    fit(model, parts, tiny.RECIPE)
    assert not torch.equal(model.student.head.weight, before)


def test_divergence_is_an_error() -> None:
    model, parts = prepared(8)
    with pytest.raises(TrainingError, match="epoch 1"):
        fit(model, PreparedParts(parts.inputs * float("inf"), None), tiny.RECIPE)


def test_calibrate_uses_the_models_own_scores() -> None:
    model, parts = prepared(9)
    calibrate(model, parts, 0.1, batch_size=4)
    with torch.no_grad():
        output = model.compare(parts.inputs)
    assert model.calibration is not None
    assert model.calibration.false_positive_rate == 0.1
    assert model.calibration.scores == pytest.approx(sorted(output.score.tolist()), rel=1e-5)
    assert model.calibration.peaks == pytest.approx(sorted(output.anomaly_map.amax((1, 2)).tolist()), rel=1e-5)


def test_select_keeps_mask_and_inputs_together() -> None:
    parts = PreparedParts(torch.arange(3.0).view(3, 1, 1, 1), torch.arange(3.0).view(3, 1, 1, 1))
    chosen = select(parts, [2, 0])
    assert chosen.inputs.flatten().tolist() == chosen.foreground.flatten().tolist() == [2, 0]


def test_progress_bars_show_loss_and_time(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bars(disable=False) as report:
        report("test set", 2, 4)
        report("teacher", 1, 3, 0.5)
    out, err = capfd.readouterr()
    assert not out
    assert "test set" in err
    assert "part/s" in err or "?part" in err
    assert "loss 0.5" in err
    with progress_bars() as report:  # stderr is no terminal here
        report("features", 1, 1)
    assert capfd.readouterr() == ("", "")


class TestFeatureCache:
    def test_features_are_computed_once_per_content(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = build(tiny.config(), 0, backbone_weights=None)
        folder = tiny.folder_of_pictures(tmp_path / "a", 3)
        first = prepare(model, as_parts(model.config, folder), cache=FeatureCache(tmp_path / "cache", model))
        monkeypatch.setattr(type(model.backbone), "forward", lambda *args: pytest.fail("computed again"))
        (folder / "000.png").rename(folder / "other name.png")
        again = prepare(model, as_parts(model.config, folder), cache=FeatureCache(tmp_path / "cache", model))
        assert torch.equal(again.inputs[[2, 0, 1]], first.inputs)

    def test_a_break_changes_nothing(self, tmp_path: Path) -> None:
        """Whether all features come from the cache, some do or none: the same bits in the same layout."""
        model = build(tiny.config(), 0, backbone_weights=None)
        parts = as_parts(model.config, tiny.folder_of_pictures(tmp_path / "a", 11))
        cache = FeatureCache(tmp_path / "cache", model)
        results = [prepare(model, parts, cache=cache), prepare(model, parts, cache=cache)]
        for part in parts[2:5] + parts[9:]:
            assert part.image is not None
            cache.path(part.image).unlink()
        results.append(prepare(model, parts, cache=cache))
        for result in results:
            assert torch.equal(result.inputs, results[0].inputs)
            assert result.inputs.stride() == results[0].inputs.contiguous().stride()

    def test_a_full_disk_keeps_no_features(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = build(tiny.config(), 0, backbone_weights=None)
        (tmp_path / "cache").write_text("a file where the folder should be")
        parts = as_parts(model.config, tiny.folder_of_pictures(tmp_path / "a", 2))
        assert len(prepare(model, parts, cache=FeatureCache(tmp_path / "cache", model))) == 2
        assert "are not kept" in caplog.text

    def test_key_covers_everything_features_depend_on(self, tmp_path: Path) -> None:
        image = tiny.picture(0)
        changes = ({}, {"image_size": 96, "depth_size": 24}, {"backbone_padding": 64}, {"backbone_layer": "blocks.3.0"})
        models = [build(tiny.config(**change), 0, backbone_weights=None) for change in changes]
        models.append(build(tiny.config(), 1, backbone_weights=None))  # other weights
        paths = {FeatureCache(tmp_path, model).path(image) for model in models}
        assert len(paths) == len(models)
        cache = FeatureCache(tmp_path, models[0])
        assert cache.path(image) == cache.path(tiny.picture(0)) != cache.path(tiny.picture(1))
        assert cache.path(np.asarray(image)) != cache.path(image.convert("L"))

    def test_palette_and_orientation_are_part_of_the_key(self, tmp_path: Path) -> None:
        cache = FeatureCache(tmp_path, build(tiny.config(), 0, backbone_weights=None))
        indices = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
        palettes = []
        for shift in (0, 7):
            picture = indices.convert("P")
            picture.putpalette([(value + shift) % 256 for value in range(768)])
            palettes.append(picture)
        turned = tiny.picture(0)
        turned.getexif()[0x0112] = 6
        pictures = [*palettes, tiny.picture(0), turned]
        assert len({cache.path(picture) for picture in pictures}) == len(pictures)

    def test_streams_are_kept_by_what_they_hold(self, tmp_path: Path) -> None:
        model = build(tiny.config(), 0, backbone_weights=None)
        encoded = [io.BytesIO(), io.BytesIO()]
        for seed, stream in enumerate(encoded):
            tiny.picture(seed).save(stream, "PNG")
            stream.seek(0)
        cached = prepare(model, as_parts(model.config, encoded), cache=FeatureCache(tmp_path, model))
        plain = prepare(model, [Part(tiny.picture(seed)) for seed in range(2)])
        assert torch.equal(cached.inputs, plain.inputs)

    def test_damaged_entries_are_computed_again(self, tmp_path: Path) -> None:
        model = build(tiny.config(), 0, backbone_weights=None)
        cache, parts = FeatureCache(tmp_path, model), [Part(tiny.picture(0))]
        first = prepare(model, parts, cache=cache)
        cache.path(parts[0].image).write_bytes(b"half a file")
        assert torch.equal(prepare(model, parts, cache=cache).inputs, first.inputs)
        assert cache.get(parts[0].image) is not None


def test_parts_from_datasets_and_pairs() -> None:
    config = tiny.config()
    assert as_parts(config, [{"image": "a.png", "label": 0}, ("b.png", 1), Part("c.png"), "d.png"]) == [
        Part("a.png"),
        Part("b.png"),
        Part("c.png"),
        Part("d.png"),
    ]
    assert as_parts(tiny.config("depth"), None, ["a.tiff"]) == [Part(points="a.tiff")]
    with pytest.raises(ImageReadError, match="2 pictures came with 1 scans"):
        as_parts(tiny.config("rgb+depth"), ["a.png", "b.png"], ["a.tiff"])
