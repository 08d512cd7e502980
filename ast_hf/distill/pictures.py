"""Pictures to learn features from, drawn by chance: textures, surfaces, shapes and scenes, and bundled photographs.

What a trunk is distilled on decides what it can tell apart. No data set is needed, and none that a detector is later
measured on is used: a picture is a pure function of a seed and of a few photographs that scikit-image, scikit-learn
and matplotlib bring along. Arrays are float32 (H, W) or (H, W, 3) in about [0, 1] until the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import fft, ndimage
from scipy.spatial import cKDTree

Array = np.ndarray
Rng = np.random.Generator


def draw_picture(rng: Rng, size: int, photographs: Sequence[Array] = ()) -> Array:
    """Draws a picture, uint8 (size, size, 3).

    Args:
        rng: Decides everything.
        size: Of a side, in pixels.
        photographs: uint8 (H, W, 3) each, as `bundled_photographs` gives them; a quarter of the pictures are crops of
            them, and a few more are mixtures.
    """
    picture = _draw(rng, size, photographs)
    if rng.random() < 0.3:  # another thing lies there, or is printed there
        cover = _cover(rng, size)[..., None]
        picture = picture + (_draw(rng, size, photographs) - picture) * cover
    if rng.random() < 0.4:
        picture = _marked(rng, picture)
    picture = _develop(rng, picture)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def bundled_photographs() -> list[Array]:
    """The photographs that installed packages hold, uint8 (H, W, 3); without those packages, fewer or none."""
    folders = {
        "skimage": ("data", "*.png *.jpg"),
        "sklearn": ("datasets/images", "*.jpg"),
        "matplotlib": ("mpl-data/sample_data", "*.jpg"),
    }
    found: list[Array] = []
    for package, (folder, patterns) in folders.items():
        spec = find_spec(package)  # no import: a second each
        root = Path(spec.origin).parent / folder if spec and spec.origin else Path(folder)
        for path in sorted(path for pattern in patterns.split() for path in root.glob(pattern)):
            with Image.open(path) as image:
                if min(image.size) >= 200:
                    found.append(np.asarray(image.convert("RGB")))
    return found


def _draw(rng: Rng, size: int, photographs: Sequence[Array]) -> Array:
    if len(photographs) and rng.random() < 0.25:
        return _photograph(rng, size, photographs)
    kinds: Sequence[Callable[[Rng, int], Array]] = (
        _noise_picture, _noise_picture, _waves, _lattice, _leaves, _leaves, _cells, _fractal, _surface, _surface,
        _sheet, _sheet, _sheet, _scene, _scene, _scene, _writing,
    )  # fmt: skip
    return kinds[int(rng.integers(len(kinds)))](rng, size)


def _photograph(rng: Rng, size: int, photographs: Sequence[Array]) -> Array:
    """A turned, mirrored and scaled crop."""
    photo = photographs[int(rng.integers(len(photographs)))]
    side = int(min(*photo.shape[:2], size * math.exp(rng.uniform(-1.2, 1.2))))
    top, left = (int(rng.integers(extent - side + 1)) for extent in photo.shape[:2])
    crop = Image.fromarray(photo[top : top + side, left : left + side])
    square = crop.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    turned = np.rot90(np.asarray(square, np.float32) / 255, int(rng.integers(4)))
    return turned[:, ::-1] if rng.random() < 0.5 else turned


# ---- fields: what the pictures are made of ----


def _noise(rng: Rng, size: int, slope: float | None = None) -> Array:
    """Noise whose amplitude falls as frequency ** -slope, perhaps stretched along a direction; mean 0, deviation 1."""
    slope = rng.uniform(0.3, 2.2) if slope is None else slope
    angle, stretch = rng.uniform(0, math.pi), math.exp(rng.uniform(0, 2.5)) if rng.random() < 0.3 else 1.0
    fy, fx = fft.fftfreq(size)[:, None], fft.rfftfreq(size)
    along, across = fx * math.cos(angle) + fy * math.sin(angle), fy * math.cos(angle) - fx * math.sin(angle)
    frequency = np.hypot(along * stretch, across / math.sqrt(stretch)).astype(np.float32)
    low, high = sorted(np.exp(rng.uniform(math.log(1 / size), math.log(0.7), 2))) if rng.random() < 0.4 else (0.0, 1.0)
    gain = (frequency + 0.5 / size) ** -slope * ((frequency >= low) & (frequency <= high * 2))
    gain[0, 0] = 0
    field = fft.irfft2(fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) * gain, (size, size))
    return (field / (field.std() + 1e-9)).astype(np.float32)


def _coordinates(rng: Rng, size: int, warp: float = 0.0) -> tuple[Array, Array]:
    """x and y in [-1, 1] along axes turned at random, bent by smooth noise."""
    angle, ramp = rng.uniform(0, 2 * math.pi), np.linspace(-1, 1, size, dtype=np.float32)
    x = ramp * math.cos(angle) + ramp[:, None] * math.sin(angle)
    y = ramp[:, None] * math.cos(angle) - ramp * math.sin(angle)
    return (x + warp * _noise(rng, size, 2.5), y + warp * _noise(rng, size, 2.5)) if warp else (x, y)


def _wave(rng: Rng, phase: Array) -> Array:
    """A periodic profile in [0, 1] of a phase in periods: sine, square, saw or thin lines."""
    kind, fraction = rng.integers(4), phase - np.floor(phase)
    if kind == 0:
        return 0.5 + 0.5 * np.sin(2 * math.pi * phase)
    if kind == 1:
        return np.clip((np.abs(fraction - 0.5) - rng.uniform(0.1, 0.4)) * rng.uniform(5, 40) + 0.5, 0, 1)
    return fraction if kind == 2 else np.exp(-np.square((fraction - 0.5) / rng.uniform(0.02, 0.2)))


def _shape(rng: Rng, x: Array, y: Array) -> Array:
    """Signed distance, roughly, to a disc, box, star, ring or blob of size 1."""
    kind, radius, angle = rng.integers(5), np.hypot(x, y), np.arctan2(y, x)
    if kind == 0:
        return np.hypot(x, y * rng.uniform(1, 2.5)) - 1
    if kind == 1:
        return np.maximum(np.abs(x), np.abs(y) * rng.uniform(1, 4)) - 1
    if kind == 2:
        corners, depth = rng.integers(3, 13), rng.uniform(0.05, 0.4)
        return radius * (1 + depth * np.cos(corners * angle)) - 1
    if kind == 3:
        return np.abs(radius - rng.uniform(0.5, 0.9)) - rng.uniform(0.05, 0.3)
    waves = sum(rng.normal() / k * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 7))
    return radius - 1 - 0.2 * np.asarray(waves, np.float32)


def _cover(rng: Rng, size: int) -> Array:
    """Where a second picture shows, in [0, 1]: a shape, a half, the peaks of noise, or everywhere a little."""
    kind = rng.integers(4)
    if kind == 3:
        return np.full((size, size), rng.uniform(0.2, 0.6), np.float32)
    x, y = _coordinates(rng, size)
    if kind == 0:
        scale = rng.uniform(0.2, 0.8)
        edge = -_shape(rng, (x - rng.uniform(-0.6, 0.6)) / scale, (y - rng.uniform(-0.6, 0.6)) / scale) * scale
    else:
        edge = x - rng.uniform(-0.5, 0.5) if kind == 1 else 0.2 * (_noise(rng, size, 1.8) - rng.uniform(0, 1.5))
    return np.clip(edge * rng.choice([5, 30, size]) + 0.5, 0, 1)


def _palette(rng: Rng, values: Array) -> Array:
    """Colours (H, W, 3) for values in [0, 1], along a random line through colours that are alike or wild."""
    stops = int(rng.integers(2, 7))
    spread = rng.choice([0.08, 0.25, 0.6])
    colours = np.clip(rng.uniform(0.05, 0.95, 3) + spread * rng.standard_normal((stops, 3)), 0, 1)
    if rng.random() < 0.4:  # one hue, from dark to light
        colours = np.clip(colours.mean(0) * np.linspace(rng.uniform(0, 0.9), 1.5, stops)[:, None], 0, 1)
    places = np.linspace(0, 1, stops)
    return np.stack([np.interp(values, places, colours[:, c]).astype(np.float32) for c in range(3)], axis=-1)


def _unit(field: Array) -> Array:
    return (field - field.min()) / (np.ptp(field) + 1e-9)


# ---- pictures ----


def _noise_picture(rng: Rng, size: int) -> Array:
    if rng.random() < 0.5:
        return _palette(rng, np.clip(0.5 + rng.uniform(0.1, 0.4) * _noise(rng, size), 0, 1))
    fields = np.stack([_noise(rng, size) for _ in range(3)], axis=-1)
    mix = np.ones((3, 3)) + rng.uniform(0, 1.5) * rng.standard_normal((3, 3))
    return 0.5 + rng.uniform(0.03, 0.15) * fields @ mix.astype(np.float32) + rng.uniform(-0.3, 0.3, 3)


def _waves(rng: Rng, size: int) -> Array:
    """Gratings, weaves and their moirés."""
    x, y = _coordinates(rng, size, rng.choice([0.0, 0.01, 0.05]))
    counts = np.exp(rng.uniform(math.log(2), math.log(size / 8), 2))
    first, second = _wave(rng, x * counts[0]), _wave(rng, y * (counts[0] if rng.random() < 0.6 else counts[1]))
    joined = (first * second, np.maximum(first, second), 0.5 * (first + second), first)[rng.integers(4)]
    return _palette(rng, np.clip(joined + rng.uniform(0, 0.15) * _noise(rng, size), 0, 1))


def _lattice(rng: Rng, size: int) -> Array:
    """One shape again and again, in rows that may be shifted, with every cell a little different."""
    x, y = _coordinates(rng, size, rng.choice([0.0, 0.01]))
    count = math.exp(rng.uniform(math.log(2), math.log(size / 14)))
    row = np.floor(y * count)
    x = x * count + 0.5 * (row % 2 if rng.random() < 0.5 else 0)
    column = np.floor(x)
    chance = np.sin(row * 127.1 + column * 311.7 + rng.uniform(0, 9)) * 43758.5
    chance -= np.floor(chance)
    cell = _shape(rng, (x - column - 0.5) / rng.uniform(0.25, 0.55), (y * count - row - 0.5) / rng.uniform(0.25, 0.55))
    lit = np.clip(0.5 - cell * rng.uniform(1, 8), 0, 1) * (1 - rng.uniform(0, 0.7) * chance)
    return _palette(rng, np.clip(lit + rng.uniform(0, 0.1) * _noise(rng, size), 0, 1))


def _leaves(rng: Rng, size: int) -> Array:
    """Dead leaves: shapes of power-law sizes, each over those before it, plain or of one of a few textures."""
    count = int(rng.integers(15, 250))
    radii = np.minimum(size * rng.uniform(0.01, 0.04) * rng.random(count) ** -0.8, size / 2)
    art = Image.new("L", (size, size))
    draw = ImageDraw.Draw(art)
    for number in range(count):
        corners = int(rng.integers(3, 9)) if rng.random() < 0.6 else 24
        turns = np.sort(rng.random(corners)) if corners < 9 else np.arange(24) / 24
        reach = radii[number] * (1 if corners == 24 else rng.uniform(0.6, 1.2, corners))
        place = rng.uniform(0, size, 2)
        points = np.stack([np.cos(2 * math.pi * turns), np.sin(2 * math.pi * turns)], 1) * np.reshape(reach, (-1, 1))
        draw.polygon([tuple(point) for point in (points + place).tolist()], fill=int(rng.integers(1, 256)))
    labels = np.asarray(art)
    colours = np.clip(rng.uniform(0.1, 0.9, 3) + rng.choice([0.1, 0.3]) * rng.standard_normal((256, 3)), 0, 1)
    picture = colours.astype(np.float32)[labels]
    texture = np.stack([_noise(rng, size), _noise(rng, size), _wave(rng, _coordinates(rng, size)[0] * 20) - 0.5])
    amount = rng.uniform(0, 0.15, (256, 1)).astype(np.float32)
    return picture + amount[labels] * np.take_along_axis(texture, (labels % 3)[None].astype(np.intp), 0)[0][..., None]


def _cells(rng: Rng, size: int) -> Array:
    """Pebbles, cracks and tissues: distances to scattered points, or the gaps between their cells."""
    count = int(math.exp(rng.uniform(math.log(8), math.log(1500))))
    grid = (
        np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
        + rng.choice([0.0, 3.0]) * _noise(rng, size)[..., None]
    )
    near, which = cKDTree(rng.uniform(0, size, (count, 2))).query(grid, k=2)
    reach = size / math.sqrt(count)
    gap = np.clip((near[..., 1] - near[..., 0]) / reach * rng.uniform(1, 8), 0, 1)
    tone = rng.random(count)[which[..., 0]]
    values = (gap, 1 - near[..., 0] / reach, 0.7 * tone + 0.3 * gap, tone)[rng.integers(4)]
    return _palette(rng, np.clip(values + rng.uniform(0, 0.08) * _noise(rng, size), 0, 1))


def _fractal(rng: Rng, size: int) -> Array:
    """Noise bent by noise, as marble and smoke are, or a Julia set."""
    if rng.random() < 0.7:
        shift = rng.uniform(3, 25) * np.stack([_noise(rng, size, 1.8), _noise(rng, size, 1.8)])
        field = ndimage.map_coordinates(_noise(rng, size), np.indices((size, size)) + shift, order=1, mode="wrap")
        bands = rng.choice([0, 1, 4])
        return _palette(rng, _wave(rng, bands * field) if bands else _unit(field))
    x, y = _coordinates(rng, size)
    z = (x + 1j * y).astype(np.complex64) * rng.uniform(0.3, 1.5)
    constant, steps = 0.7885 * np.exp(1j * rng.uniform(0, 2 * math.pi)), np.zeros((size, size), np.float32)
    for _ in range(30):
        z = np.where(np.abs(z) < 4, z * z + constant, z)
        steps += np.abs(z) < 4
    return _palette(rng, steps / 30)


def _surface(rng: Rng, size: int) -> Array:
    """A rough or patterned surface under a lamp: cast, brushed, hammered, knurled."""
    x, y = _coordinates(rng, size, rng.choice([0.0, 0.02]))
    relief = _noise(rng, size, rng.uniform(0.8, 2.0))
    if rng.random() < 0.4:
        relief = rng.uniform(0.1, 0.5) * relief + 3 * _wave(rng, x * rng.uniform(3, 30)) * _wave(
            rng, y * rng.uniform(3, 30)
        )
    albedo = _palette(rng, np.clip(0.5 + rng.uniform(0, 0.2) * _noise(rng, size), 0, 1))
    return _lit(rng, relief * rng.uniform(0.5, 4), albedo)


def _sheet(rng: Rng, size: int) -> Array:
    """Rolled, brushed, drawn or sawn material: streaks along one direction, often the picture's own, and its edges."""
    wide = size * 3 // 2  # so that it can be turned
    streaks = np.repeat(rng.standard_normal((1, wide), dtype=np.float32), wide, axis=0)
    streaks = rng.uniform(0, 1) * ndimage.gaussian_filter1d(streaks, rng.uniform(0.4, 3), axis=1)
    for _ in range(2):  # some end inside of the picture
        length, width = math.exp(rng.uniform(1, 4.5)), math.exp(rng.uniform(-1, 1.5))
        layer = ndimage.gaussian_filter(rng.standard_normal((wide, wide), dtype=np.float32), (length, width))
        streaks = streaks + rng.uniform(0, 1) * layer / (layer.std() + 1e-9)
    grain = rng.uniform(0, 1) * rng.standard_normal((wide, wide), dtype=np.float32)
    relative = rng.uniform(0.02, 0.2) * (streaks + grain) + rng.uniform(0, 0.2) * _noise(rng, wide, 2.0)
    across = np.linspace(-1, 1, wide, dtype=np.float32)
    lamp = 1 - rng.uniform(0, 0.6) * np.square(across - rng.uniform(-0.5, 0.5))  # a bent sheet has a bright line
    if rng.random() < 0.4:
        lamp = lamp * np.where(np.abs(across) < rng.uniform(0.5, 0.68), 1, rng.uniform(0, 0.5))
    angle = rng.choice([0.0, rng.normal(0, 4), rng.uniform(-90, 90)], p=[0.5, 0.2, 0.3])
    turned = ndimage.rotate(lamp * (1 + relative), angle, reshape=False, order=1, mode="reflect")
    margin = (wide - size) // 2
    tone = np.rot90(turned[margin : margin + size, margin : margin + size], int(rng.integers(2)))
    tint = rng.uniform(0.08, 0.75) * (1 + rng.choice([0.0, 0.1, 0.3]) * rng.standard_normal(3))
    return np.asarray(tone[..., None] * tint, np.float32)


def _marked(rng: Rng, picture: Array) -> Array:
    """A picture with what defects are made of: cracks, scratches, pits and stains, faint or strong."""
    size = len(picture)
    for _ in range(int(rng.integers(1, 6))):
        art = Image.new("L", (size, size))
        draw, kind = ImageDraw.Draw(art), rng.integers(4)
        start, soft = rng.uniform(0, size, 2), rng.uniform(0, 1)
        if kind == 3:
            stain = 0.3 * size * rng.uniform(0.1, 1) - np.hypot(*(np.indices((size, size)) - start[:, None, None]))
            cover = np.clip(stain / rng.uniform(2, 30) + _noise(rng, size, 1.8), 0, 1)
        else:
            if kind == 2:
                for x, y in start + rng.normal(0, size / 6, (int(rng.integers(1, 12)), 2)):
                    radius = math.exp(rng.uniform(-0.7, 1.8))
                    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
            else:  # a crack wanders, a scratch does not
                steps = rng.normal(0, 6, (int(rng.integers(4, 20)), 2)) * kind + rng.normal(0, 8, 2)
                path = start + np.cumsum(steps, axis=0)
                draw.line([tuple(point) for point in path.tolist()], fill=255, width=int(rng.integers(1, 4)))
            cover = ndimage.gaussian_filter(np.asarray(art, np.float32) / 255, soft)
        other = rng.uniform(0, 1.3) if rng.random() < 0.8 else rng.uniform(0, 1, 3)
        picture = picture * (1 - (cover := rng.uniform(0.1, 1) * cover[..., None])) + cover * other * picture.mean()
    return picture.astype(np.float32)


def _lit(rng: Rng, height: Array, albedo: Array) -> Array:
    """Shades a height map in pixels: a lamp, the sky, and a shine."""
    gy, gx = np.gradient(height)
    nz = 1 / np.sqrt(1 + gx * gx + gy * gy)
    azimuth, steep = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 1.2)
    lx, ly, lz = math.cos(azimuth) * math.cos(steep), math.sin(azimuth) * math.cos(steep), math.sin(steep)
    facing = np.clip((-gx * lx - gy * ly + lz) * nz, 0, 1)
    half = math.sqrt(2 + 2 * lz)
    shine = np.clip((-gx * lx - gy * ly + lz + 1) * nz / half, 0, 1) ** rng.uniform(8, 80)
    sky = rng.uniform(0.2, 0.5) * nz
    return albedo * (sky + facing)[..., None] + rng.choice([0.0, 0.2, 0.6]) * shine[..., None]


def _scene(rng: Rng, size: int) -> Array:
    """Lit solids of a few shapes on a ground, perhaps turned on a lathe: what parts on a table look like."""
    ground = (_noise_picture, _waves, _surface)[rng.integers(3)](rng, size) if rng.random() < 0.5 else None
    albedo = np.empty((size, size, 3), np.float32)
    albedo[:] = rng.uniform(0.02, 0.95, 3) if rng.random() < 0.5 else rng.uniform(0.02, 0.95)
    albedo = albedo if ground is None else ground
    height = rng.uniform(0, 0.4) * _noise(rng, size, 1.0)
    for _ in range(int(rng.integers(1, 7))):
        x, y = _coordinates(rng, size)
        radius = math.exp(rng.uniform(math.log(0.08), math.log(0.9)))
        x, y = (
            (x - rng.uniform(-0.7, 0.7) * (1 - radius)) / radius,
            (y - rng.uniform(-0.7, 0.7) * (1 - radius)) / radius,
        )
        outline = _shape(rng, x, y)
        inside = np.clip(0.5 - outline * radius * size / 2, 0, 1)
        depth = np.clip(-outline, 0, rng.uniform(0.05, 1))
        if rng.random() < 0.4:  # rings of a part turned on a lathe
            profile = ndimage.gaussian_filter1d(rng.uniform(0, 1, 40), rng.uniform(0.3, 3))
            depth = np.interp(np.hypot(x, y), np.linspace(0, 1.2, 40), profile)
        height = height + inside * rng.uniform(0.1, 0.8) * radius * size / 2 * np.sqrt(np.maximum(depth, 0))
        texture = rng.uniform(0, 0.15) * _noise(rng, size)
        colour = rng.uniform(0.02, 0.95, 3) if rng.random() < 0.6 else np.full(3, rng.uniform(0.1, 0.9))
        albedo += inside[..., None] * (colour.astype(np.float32) * (1 + texture[..., None]) - albedo)
    return _lit(rng, ndimage.gaussian_filter(height, rng.uniform(0.5, 2)), albedo)


def _writing(rng: Rng, size: int) -> Array:
    """Letters and lines in a few sizes on a plain or uneven ground."""
    art = Image.new("L", (size, size))
    draw = ImageDraw.Draw(art)
    for _ in range(int(rng.integers(2, 25))):
        x, y = rng.uniform(-20, size, 2)
        if rng.random() < 0.5:
            text = "".join(chr(c) for c in rng.integers(33, 127, int(rng.integers(1, 12))))
            draw.text((x, y), text, fill=255, font=ImageFont.load_default(int(rng.integers(8, size // 3))))
        else:
            points = np.cumsum(np.vstack([[x, y], rng.normal(0, size / 8, (4, 2))]), 0)
            draw.line([tuple(point) for point in points.tolist()], fill=255, width=int(rng.integers(1, 8)))
    cover = np.rot90(np.asarray(art, np.float32) / 255, int(rng.integers(4)))[..., None]
    ground = _palette(rng, np.clip(0.5 + 0.2 * _noise(rng, size), 0, 1))
    return ground + cover * (rng.uniform(0, 1, 3).astype(np.float32) - ground)


def _develop(rng: Rng, picture: Array) -> Array:
    """What lamp, lens and camera do: uneven light, blur, tone, colour cast or grey, and noise."""
    size = len(picture)
    if rng.random() < 0.4:
        picture = picture * (1 + rng.uniform(0.1, 0.5) * _coordinates(rng, size)[0])[..., None]
    if rng.random() < 0.3:
        picture = ndimage.gaussian_filter(picture, (blur := rng.uniform(0.3, 2), blur, 0))
    if rng.random() < 0.4:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    elif rng.random() < 0.3:
        picture = picture[..., rng.permutation(3)]
    picture = np.clip(picture, 0, 1) ** math.exp(rng.normal(0, 0.35))
    if rng.random() < 0.5:
        picture = (picture - 0.5) * math.exp(rng.normal(-0.2, 0.4)) + rng.uniform(0.35, 0.65)
    if rng.random() < 0.5:
        picture = picture + rng.uniform(0, 0.05) * rng.standard_normal(picture.shape, dtype=np.float32)
    return picture
