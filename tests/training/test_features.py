"""Features: computed once for what a picture holds, the same bits from the cache, and no more kept than allowed."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ast_hf import ASTDetector, train
from ast_hf.data.samples import collect_samples
from ast_hf.files import home
from ast_hf.training.features import FeatureCache, prepare
from ast_hf.training.trainer import build
from tests import tiny


@pytest.fixture
def detector() -> ASTDetector:
    return build(tiny.config(), 0, backbone_weights=None)


def test_features_are_computed_once(detector: ASTDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = tiny.folder_of_pictures(tmp_path / "a", 3), FeatureCache(tmp_path / "cache", detector)
    first = prepare(detector, collect_samples(detector.config, folder), cache=cache)
    monkeypatch.setattr(type(detector.backbone), "forward", lambda *args: pytest.fail("computed again"))
    (folder / "000.png").rename(folder / "other name.png")
    again = prepare(detector, collect_samples(detector.config, folder), cache=cache)
    assert torch.equal(again.inputs[[2, 0, 1]], first.inputs)
    streams = [io.BytesIO(path.read_bytes()) for path in sorted(folder.iterdir())]  # which can be read once
    assert torch.equal(prepare(detector, collect_samples(detector.config, streams), cache=cache).inputs, again.inputs)


def test_a_break_changes_nothing(detector: ASTDetector, tmp_path: Path) -> None:
    """Whether all features come from the cache, some do or none, and whatever was damaged: the same bits and layout."""
    samples = collect_samples(detector.config, tiny.folder_of_pictures(tmp_path / "a", 11))
    cache = FeatureCache(tmp_path / "cache", detector)
    results = [prepare(detector, samples, cache=cache) for cache in (None, cache, cache)]
    for sample in samples[2:5]:
        cache.path(sample.image).unlink()
    cache.path(samples[9].image).write_bytes(b"half a file")
    (tmp_path / "file").touch()  # where no folder can be made
    results += [prepare(detector, samples, cache=cache) for cache in (cache, FeatureCache(tmp_path / "file", detector))]
    for result in results:
        assert torch.equal(result.inputs, results[0].inputs)
        assert result.inputs.stride() == results[0].inputs.contiguous().stride()
    assert cache.get(samples[9].image) is not None


def test_the_entries_used_longest_ago_go_first(detector: ASTDetector, tmp_path: Path) -> None:
    samples, cache = tiny.samples(detector.config, 4), FeatureCache(tmp_path, detector)
    prepare(detector, samples[:3], cache=cache)
    paths = [cache.path(sample.image) for sample in samples]
    for age, path in enumerate(paths[:3]):
        os.utime(path, (1000 + age, 1000 + age))
    assert cache.get(samples[0].image) is not None, "which uses it"
    small = FeatureCache(tmp_path, detector, max_bytes=3 * paths[0].stat().st_size)
    prepare(detector, samples[3:], cache=small)
    assert [path.exists() for path in paths] == [True, False, True, True]


@pytest.mark.parametrize(("given", "by_default", "there"), [(None, 10, 0), ("there", 0, 10), (False, 0, 0)])
def test_training_keeps_features_where_told(given: str | None, by_default: int, there: int, tmp_path: Path) -> None:
    folder, samples = tmp_path / given if given else given, tiny.samples(tiny.config(), 10)
    train(tiny.config(), samples, tiny.RECIPE, "cpu", backbone_weights=None, cache_folder=folder)
    counts = [len(list(place.glob("??/*.safetensors"))) for place in (home() / "features", tmp_path / "there")]
    assert counts == [by_default, there]


def test_a_place_that_keeps_nothing_is_told_of_once(
    detector: ASTDetector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    prepare(detector, tiny.samples(detector.config, 3), cache=FeatureCache(tmp_path / "file", detector))
    assert caplog.text.count("Features are not kept") == 1


def test_key_is_all_that_features_depend_on(detector: ASTDetector, tmp_path: Path) -> None:
    changes = ({}, {"image_size": 96}, {"backbone_padding": 64}, {"backbone_layer": "blocks.3.0"})
    networks = [build(tiny.config(**change), 0, backbone_weights=None) for change in changes]
    networks.append(build(tiny.config(), 1, backbone_weights=None))  # other weights
    caches = [*(FeatureCache(tmp_path, n, "fp32") for n in networks), FeatureCache(tmp_path, detector, "bf16")]
    assert len({cache.path(tiny.picture(0)) for cache in caches}) == len(caches)
    path, picture, turned = caches[0].path, tiny.picture(0), tiny.picture(0)
    assert path(picture) == path(tiny.picture(0)) == path(np.asarray(picture))
    turned.getexif()[0x0112] = 6
    palettes = [Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P") for _ in range(2)]
    palettes[1].putpalette([(value + 7) % 256 for value in range(768)])
    assert len({path(image) for image in (picture, tiny.picture(1), picture.convert("L"), turned, *palettes)}) == 6
