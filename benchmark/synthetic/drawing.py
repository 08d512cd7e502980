"""From shapes to pictures: distance fields, noise, and a lit height map that gives colour and depth alike.

Lengths and heights are pixels, distances negative inside a shape, colours as displayed in [0, 1]; arrays are float32.
Edges are smoothed by their distance: drawing at twice the size instead would take four times as long.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

Rng = np.random.Generator
Array = np.ndarray
Colour = Sequence[float] | Array


@dataclass(frozen=True)
class Scene:
    """What the camera looks down on; a window of it is a view, so that drawing in the window draws on the scene."""

    height: Array  # (H, W) above the table
    albedo: Array  # (3, H, W) reflectance, linear
    gloss: Array  # (H, W) from matt (0) to a mirror (1) that shows its surroundings in its own colour
    marks: Array  # uint8 (H, W), the number of the defect that a pixel belongs to, or 0

    def window(self, column: float, row: float, reach: float, angle: float = 0.0) -> tuple["Scene", Array, Array]:
        """What is within `reach` of a point, and its `coordinates` from there."""
        top, left = max(int(row - reach), 0), max(int(column - reach), 0)
        at = ..., slice(top, int(row + reach) + 2), slice(left, int(column + reach) + 2)
        part = Scene(self.height[at], self.albedo[at], self.gloss[at], self.marks[at])
        return part, *coordinates(part.height.shape, column - left, row - top, angle)

    def paint(self, cover: Array, colour: Colour, gloss: float | None = None) -> None:
        """Covers the surface with a colour, (3,) or (3, H, W), as far as `cover` (H, W) in [0, 1] says."""
        self.albedo[...] += (np.square(rgb(colour)) - self.albedo) * cover
        if gloss is not None:
            self.gloss[...] += (gloss - self.gloss) * cover

    def lay(self, top: Array, colour: Colour, gloss: float, distance: Array) -> None:
        """Lays a solid of height `top` and outline `distance` on what is there."""
        self.height[...] += (np.maximum(top, self.height) - self.height) * inside(distance)
        self.paint(inside(distance), colour, gloss)

    def damage(self, rng: Rng, defect: str, region: Array, high: float, *colours: Colour) -> None:
        """Leaves a spot or long mark, `high` above the surface or below it, somewhere in `region` (bool, H x W)."""
        row, column = rng.choice(np.argwhere(region)).tolist()
        x, y = coordinates(region.shape, column, row, rng.uniform(0, 6.3))
        ragged, size = noise(rng, x.shape, 4) + 2.5 * noise(rng, x.shape, 25), rng.uniform(9, 17)
        ragged -= ragged[row, column]  # so that some of it is in the region
        outline = box(x, y + ragged, 35, 2) if defect in ("crack", "cut", "scratch") else np.hypot(x, y) - size + ragged
        cover = inside(outline, 3) * region
        self.height[...] += cover * high * rounded(outline - 2, 8)
        self.paint(0.85 * cover, colours[rng.integers(len(colours))])
        self.marks[cover > 0.35] = 1


def table(rng: Rng, shape: tuple[int, int], colour: Colour, grain: float) -> Scene:
    """An empty table top (H, W) whose tone and height are a little uneven."""
    albedo = np.square(rgb(colour) * (1 + grain * (noise(rng, shape, 2) + noise(rng, shape, 60))))
    height = 4 * grain * noise(rng, shape, 3)
    return Scene(height, albedo, np.full(shape, 0.05, np.float32), np.zeros(shape, np.uint8))


def rgb(colour: Colour) -> Array:
    """A colour as (3, 1, 1), to be multiplied with (H, W)."""
    return np.asarray(colour, np.float32).reshape(3, *(np.shape(colour)[1:] or (1, 1)))


def coordinates(shape: tuple[int, ...], column: float, row: float, angle: float = 0) -> tuple[Array, Array]:
    """x and y (H, W) from a point, along axes turned by `angle`."""
    x = np.arange(shape[1], dtype=np.float32) - column
    y = np.arange(shape[0], dtype=np.float32)[:, None] - row
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def noise(rng: Rng, shape: tuple[int, ...], rows: float, columns: float | None = None) -> Array:
    """Noise (H, W) of mean 0 and deviation 1 with features of about this size."""
    frequency = np.square(fft.fftfreq(shape[0])[:, None] * 2 * rows)
    frequency = 1 + frequency + np.square(fft.rfftfreq(shape[1]) * 2 * (columns or rows))
    frequency[0, 0] = np.inf
    white = fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    field = fft.irfft2(white / (frequency * np.sqrt(frequency)).astype(np.float32), shape)
    return field / field.std()


def inside(distance: Array, soft: float = 1.0) -> Array:
    """1 inside a shape and 0 outside, over an edge `soft` wide."""
    return np.clip(0.5 - distance / soft, 0, 1)


def rounded(distance: Array, edge: float) -> Array:
    """Height in [0, 1] of a solid whose rim is rounded over `edge`."""
    return np.sqrt(1 - np.square(1 - np.clip(-distance / edge, 0, 1)))


def box(x: Array, y: Array, width: float, height: float, corner: float = 0.0) -> Array:
    """Distance to a box of half sides `width` and `height` with rounded corners."""
    dx, dy = np.abs(x) - (width - corner), np.abs(y) - (height - corner)
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner


def turned(x: Array, y: Array, profile: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    """Distance to and height of a part turned on a lathe, whose profile lists (place along x, radius)."""
    places, radii = zip(*profile, strict=True)
    fine = np.arange(places[0] - 4, places[-1] + 4, 0.5)
    outline = ndimage.gaussian_filter1d(np.interp(fine, places, radii, left=-3, right=-3), 2)
    radius = np.interp(x, fine, outline).astype(np.float32)
    return np.abs(y) - radius, np.sqrt(np.maximum(radius * np.abs(radius) - y * y, 0))


def photograph(scene: Scene, rng: Rng) -> Array:
    """Lights the scene from a lamp at the upper left and takes its picture: uint8 (H, W, 3)."""
    height, gloss, azimuth, tangent = scene.height, scene.gloss, rng.uniform(-2.7, -2.0), rng.uniform(0.9, 1.3)
    lx, ly, lz = (v / math.hypot(1, tangent) for v in (math.cos(azimuth), math.sin(azimuth), tangent))
    lit, padded = np.ones_like(height), np.pad(height, 36, mode="edge")
    for reach in (1.5, 3, 5, 8, 12, 18, 26, 35):  # towards the lamp, which is large, so that shadows are soft
        row, column = 36 + round(reach * math.sin(azimuth)), 36 + round(reach * math.cos(azimuth))
        higher = padded[row : row + height.shape[0], column : column + height.shape[1]] - height
        lit = np.minimum(lit, 0.5 + (tangent - higher / reach) / 0.6)
    lit = ndimage.uniform_filter(ndimage.uniform_filter(np.maximum(lit, 0), 3), 3)
    gy, gx = (np.clip(slope, -3, 3) for slope in np.gradient(height))
    nz = 1 / np.sqrt(1 + gx * gx + gy * gy)
    nx, ny = -gx * nz, -gy * nz
    hidden = ndimage.uniform_filter(ndimage.uniform_filter(height, 9), 9) - height
    sky = (0.75 + 0.25 * nz) / (1 + 0.06 * np.maximum(hidden, 0))
    off = np.square(2 * nz * nx - lx) + np.square(2 * nz * ny - ly)  # of the mirrored view from the lamp
    shine = 0.18 - 0.2 * ny * nz + 0.85 * np.exp(-2.4 * off) * (0.4 + 0.6 * lit) + gloss * lit * np.exp(-40 * off)
    body = (0.38 * sky + 0.85 * lit * np.maximum(nx * lx + ny * ly + nz * lz, 0)) * (1 - 0.85 * gloss)
    x, y = coordinates(height.shape, *(side / 2 for side in height.shape[::-1]))
    falloff = 1.08 + (lx * x + ly * y) / (10 * x.max()) - 0.16 * (x * x + y * y) / (x.max() ** 2 + y.max() ** 2)
    shine *= sky * gloss
    picture = (scene.albedo * (body + shine * gloss) + shine * (1 - gloss)) * falloff * rng.uniform(0.93, 1.07)
    picture *= 1 + 0.015 * rng.standard_normal((3, 1, 1), dtype=np.float32)
    picture = np.sqrt(ndimage.gaussian_filter(np.maximum(picture, 0), (0, 0.5, 0.5), truncate=3))
    picture = np.minimum(picture, 1 - 0.2 * np.exp(np.minimum(4 - 5 * picture, 0)))  # highlights fade out softly
    picture += 0.009 * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.ascontiguousarray(np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0))


def scan(scene: Scene, rng: Rng, pixel: float = 5e-4) -> Array:
    """x, y, z float32 (H, W, 3) in metres above a tilted table; 0 where nothing was seen, often on steep walls."""
    x, y = coordinates(scene.height.shape, *(side / 2 for side in scene.height.shape[::-1]))
    tilt = rng.uniform(-0.03, 0.03) * x + rng.uniform(-0.03, 0.03) * y
    z = 0.5 + pixel * (tilt - scene.height) + 4e-5 * rng.standard_normal(x.shape, dtype=np.float32)
    seen = rng.random(x.shape, dtype=np.float32) > 0.002 + 0.3 * (np.hypot(*np.gradient(scene.height)) > 2.5)
    return np.stack([x * pixel * z / 0.5, y * pixel * z / 0.5, z], axis=2) * seen[..., None]
