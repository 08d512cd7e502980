"""The drawn pictures: any seed gives one, the same seed the same, and they differ."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_hf.distill import pictures
from ast_hf.distill.pictures import bundled_photographs, draw_picture


@given(st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_every_seed_gives_a_picture_and_the_same_one_again(seed: int) -> None:
    first, again = (draw_picture(np.random.default_rng(seed), 48) for _ in range(2))
    assert first.shape == (48, 48, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)


def test_pictures_differ_and_use_the_whole_range() -> None:
    drawn = np.stack([draw_picture(np.random.default_rng(seed), 32) for seed in range(200)])
    assert len({picture.tobytes() for picture in drawn}) == 200
    assert drawn.min() == 0 and drawn.max() == 255
    assert (drawn.std(axis=(1, 2, 3)) > 2).mean() > 0.9  # hardly any is plain


def test_photographs_are_cropped_turned_and_used_in_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_cover", lambda rng, size: np.zeros((size, size), np.float32))
    monkeypatch.setattr(pictures, "_marked", lambda rng, picture: picture)
    monkeypatch.setattr(pictures, "_develop", lambda rng, picture: picture)
    photo = np.full((90, 70, 3), (255, 0, 255), np.uint8)
    drawn = [draw_picture(np.random.default_rng(seed), 32, [photo]) for seed in range(300)]
    share = np.mean([(picture == (255, 0, 255)).all() for picture in drawn])
    assert 0.18 < share < 0.32


def test_bundled_photographs_come_with_installed_packages() -> None:
    photographs = bundled_photographs()
    assert len(photographs) >= 2  # scikit-learn's two; more with scikit-image
    assert all(photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 for photo in photographs)
