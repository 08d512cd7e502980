"""Heat maps on a scale that does not depend on the picture, regions, and sheets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageChops

from ast_hf.visualize import Region, contact_sheet, draw_regions, heat_map, overlay, regions

SCALE = 0.02
# Map values, in units of the scale.
maps = arrays(np.float32, (6, 9), elements=st.floats(-0.5, 20, width=32))


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def colour(value: float) -> np.ndarray:
    return np.asarray(heat_map(np.full((1, 1), value * SCALE), SCALE))[0, 0].astype(int)


# Colours


@pytest.mark.parametrize(("value", "position"), [(0, 0), (0.5, 0.25), (1, 0.5), (2, 0.75), (10, 0.95), (1e9, 1)])
def test_colours_are_inferno_at_the_documented_positions(value: float, position: float) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    reference = np.array(matplotlib.colormaps["inferno"](float(position))[:3]) * 255
    assert np.abs(colour(value) - reference).max() <= 3


def test_brightness_rises_with_the_value_without_end() -> None:
    values = np.concatenate([np.linspace(0, 3, 40), np.geomspace(3.2, 50, 12)])
    brightness = [colour(value) @ (0.2126, 0.7152, 0.0722) for value in values]
    assert (np.diff(brightness) > 0).all()


def test_overshoot_below_zero_is_zero() -> None:
    assert np.array_equal(colour(-3), colour(0))


@given(maps, st.integers(0, 53))
def test_a_pixel_is_drawn_alike_whatever_the_rest_of_the_map(values: np.ndarray, index: int) -> None:
    place = np.unravel_index(index, values.shape)
    other = np.zeros_like(values)
    other[place] = values[place]
    grey = Image.new("RGB", values.shape[::-1], "grey")
    for draw in (heat_map, lambda values, scale: overlay(grey, values, scale)):
        whole, alone = np.asarray(draw(values, 1.0)), np.asarray(draw(other, 1.0))
        assert np.array_equal(whole[place], alone[place])


@given(maps, st.floats(1e-6, 1e6))
def test_only_the_ratio_to_the_scale_counts(values: np.ndarray, factor: float) -> None:
    one, other = np.asarray(heat_map(values, 1.0)), np.asarray(heat_map(values.astype(np.float64) * factor, factor))
    assert np.abs(one.astype(int) - other).max() <= 1


# Overlay


def test_what_is_normal_stays_as_it_is(picture: Image.Image) -> None:
    values = np.random.default_rng(0).uniform(-0.2, 0.5, (40, 60)) * SCALE
    assert np.array_equal(overlay(picture, values, SCALE), picture)


def test_what_is_anomalous_glows(picture: Image.Image) -> None:
    values = np.zeros((40, 60))
    values[10:20, 30:50] = SCALE
    laid = np.asarray(overlay(picture, values, SCALE, opacity=0.6)).astype(float)
    expected = 0.4 * np.asarray(picture)[10:20, 30:50] + 0.6 * colour(1)
    assert np.abs(laid[10:20, 30:50] - expected).max() < 2
    assert np.array_equal(laid[:10], np.asarray(picture)[:10])


def test_an_opaque_overlay_is_the_heat_map(picture: Image.Image) -> None:
    values = np.random.default_rng(0).uniform(1, 5, (40, 60)) * SCALE
    assert np.array_equal(overlay(picture, values, SCALE, opacity=1), heat_map(values, SCALE))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_overlays_are_rgb(picture: Image.Image, mode: str) -> None:
    assert overlay(picture.convert(mode), np.zeros((40, 60)), SCALE).mode == "RGB"


def test_a_map_of_another_size_is_refused(picture: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"\(60, 40\) pixels and the map \(40, 60\)"):
        overlay(picture, np.zeros((60, 40)), SCALE)


@pytest.mark.parametrize(
    ("values", "scale", "reason"),
    [
        (np.full((40, 60), np.nan), SCALE, "not finite"),
        (np.full((40, 60), np.inf), SCALE, "not finite"),
        (np.zeros((1, 40, 60)), SCALE, "shape"),
        (np.zeros((0, 60)), SCALE, "shape"),
        (np.zeros((40, 60)), 0.0, "scale"),
        (np.zeros((40, 60)), -1.0, "scale"),
        (np.zeros((40, 60)), np.nan, "scale"),
        (np.zeros((40, 60)), np.inf, "scale"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(
    picture: Image.Image, values: np.ndarray, scale: float, reason: str
) -> None:
    for draw in (heat_map, regions, lambda values, scale: overlay(picture, values, scale)):
        with pytest.raises(ValueError, match=reason):
            draw(values, scale)


# Regions


def test_regions_are_connected_and_the_strongest_comes_first() -> None:
    values = np.zeros((20, 30))
    values[2:5, 3:7] = 2
    values[5, 7] = 2.5  # joined over a corner
    values[10:12, 20:29] = 3
    values[15, 15] = 1  # at the scale, not above
    assert regions(values, 1.0) == [Region((20, 10, 29, 12), 18, 3.0), Region((3, 2, 8, 6), 13, 2.5)]


def test_a_good_part_has_no_regions() -> None:
    assert regions(np.full((20, 30), 0.9), 1.0) == []


@given(maps)
def test_regions_hold_every_pixel_above_the_scale_once(values: np.ndarray) -> None:
    found = regions(values, 1.0)
    assert sum(region.area for region in found) == (values > 1).sum()
    for region in found:
        left, top, right, bottom = region.box
        assert values[top:bottom, left:right].max() >= region.peak > 1
        assert region.area <= (right - left) * (bottom - top)


@pytest.mark.parametrize("background", ["black", "white", "grey", "red"])
def test_frames_show_on_any_background_and_leave_the_inside_free(background: str) -> None:
    plain = Image.new("RGB", (60, 40), background)
    drawn = draw_regions(plain, [Region((20, 10, 40, 30), 100, 1.0)])
    difference = ImageChops.difference(plain, drawn).convert("L")
    assert difference.getextrema()[1] > 60  # type: ignore[operator]
    assert difference.crop((20, 10, 40, 30)).getbbox() is None
    assert difference.getbbox() is not None
    assert ImageChops.difference(plain, draw_regions(plain, [])).getbbox() is None


def test_frames_at_the_border_are_cut_off(picture: Image.Image) -> None:
    assert draw_regions(picture, [Region((0, 0, 60, 40), 2400, 1.0)]).size == picture.size


# Sheets


def test_a_sheet_shows_every_picture_whole() -> None:
    rows = [[Image.new("RGB", (100, 50), "red"), Image.new("L", (30, 90))], [Image.new("RGBA", (64, 64), "lime")]]
    sheet = contact_sheet(rows, tile=64)
    counts = {tuple(colour): count for count, colour in sheet.getcolors(sheet.width * sheet.height) or []}
    assert counts[(255, 0, 0)] == 64 * 32
    assert counts[(0, 0, 0)] == 21 * 64
    assert counts[(0, 255, 0)] == 64 * 64


def test_captions_and_headings_stay_within_their_columns() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    text = "a caption that is much longer than the picture over it is wide\nand has two lines"
    sheet = np.asarray(contact_sheet([[picture, picture]], [["", text]], headings=["", text], tile=64))
    ink = np.argwhere((sheet < 128).any(axis=2))
    assert ink[:, 1].min() >= 64 + 2 * 2
    assert ink[:, 1].max() < sheet.shape[1] - 2
    assert ink[:, 0].min() < 30 < 64 < ink[:, 0].max()


def test_an_empty_sheet_is_refused() -> None:
    for rows in ([], [[], []]):
        with pytest.raises(ValueError, match="no pictures"):
            contact_sheet(rows)
