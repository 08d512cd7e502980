"""The parts, one function a category: a scene, and the region (bool, H x W) of it that `Scene.damage` may choose from.
One generator draws the part and another its defect, so that the same part can be had with and without a defect.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from benchmark.synthetic.drawing import Array, Rng, Scene, box, coordinates, inside, noise, rgb, rounded, table, turned


def carpet(rng: Rng, flaw: Rng, defect: str | None) -> tuple[Scene, Array]:
    """A plain weave of tweed yarns that fills the picture."""
    scene = table(rng, (320, 320), (0.2, 0.2, 0.2), 0.03)
    along = coordinates((320, 320), -1500, -1500, rng.uniform(-0.06, 0.06))
    (i, s), (j, t) = (np.divmod(a / rng.uniform(9.5, 10.5) + 0.1 * noise(rng, a.shape, 40), 1) for a in along)
    over = 0.55 * (1 - 2 * ((i + j) % 2))
    warp = np.sqrt(1 - 0.9 * np.square(2 * s - 1)) + over * np.sin(np.pi * t)
    weft = np.sqrt(1 - 0.9 * np.square(2 * t - 1)) - over * np.sin(np.pi * s)
    fibre = np.where(warp > weft, noise(rng, s.shape, 4, 1), noise(rng, s.shape, 1, 4))
    scene.height[...] = 3.2 * np.maximum(warp, weft) + 0.28 * fibre
    tones = rng.normal(1, 0.07, (2, 300)).astype(np.float32)
    tone = np.where(warp > weft, tones[0][i.astype(int)], tones[1][j.astype(int)]) * (1 + 0.08 * fibre)
    scene.paint(np.ones_like(s), np.where(warp > weft, rgb((0.62, 0.57, 0.5)), rgb((0.44, 0.45, 0.49))) * tone)
    return scene, box(*coordinates(s.shape, 160, 160), 100, 100) < 0


def metal_nut(rng: Rng, flaw: Rng, defect: str | None) -> tuple[Scene, Array]:
    """A stamped nut with four skewed wings and a threaded bore on a dark mat."""
    scene = table(rng, (336, 336), (0.2, 0.21, 0.24), 0.07)
    x, y = coordinates(scene.height.shape, rng.uniform(160, 176), rng.uniform(160, 176), rng.uniform(0, 6.3))
    radius, turn = np.hypot(x, y), np.arctan2(-y if defect == "flip" else y, x)
    outline = radius - 108 - 26 * np.tanh(2.2 * np.cos(4 * turn - 0.026 * (radius - 70) + 0.9 * np.sin(4 * turn)))
    rolled = noise(rng, x.shape, 1, 3)
    plate = 12 * rounded(outline, 9) + 16 * inside(radius - 76, 7) - 3 * inside(np.abs(radius - 66) - 2, 5)
    plate += 0.06 * rolled + 0.8 * noise(rng, x.shape, 60)
    tone = 0.76 + 0.02 * rolled + 0.04 * noise(rng, x.shape, 8, 25) - 0.12 * inside(np.abs(radius - 76) - 1, 6)
    scene.lay(plate, rgb((1, 0.98, 0.95)) * tone, 0.75, outline)
    thread = 2.2 * np.sin(1.1 * radius + turn) - 12 + 0.5 * np.maximum(radius - 30, 0)
    scene.height[...] += (np.where(radius < 37, 0, thread) - scene.height) * inside(radius - 46, 2)
    scene.paint(inside(radius - 37, 2), (0.16, 0.17, 0.19), 0.05)
    metal = (outline < -1) & (radius > 48)
    scene.marks[metal & (defect == "flip")] = 1
    return scene, metal


def cookie(rng: Rng, flaw: Rng, defect: str | None) -> tuple[Scene, Array]:
    """A baked cookie with chocolate chips, some 1.5 cm high."""
    scene = table(rng, (320, 320), (0.62, 0.64, 0.66), 0.01)
    column, row = rng.uniform(150, 170, 2).tolist()
    x, y = coordinates(scene.height.shape, column, row)
    outline = np.hypot(x, y) - rng.uniform(104, 114) + 1.2 * noise(rng, x.shape, 9) + 2 * noise(rng, x.shape, 50)
    crumb, bumps = noise(rng, x.shape, 4), 2.2 * noise(rng, x.shape, 26)
    top = (30 + bumps + 0.8 * crumb) * rounded(outline, 34) + 6 * inside(outline + 60, 110)
    baked = np.clip(0.5 + 0.035 * bumps + 0.5 * np.exp(np.minimum(outline, 0) / 16), 0, 1)
    colour = rgb((0.86, 0.68, 0.43)) * (1 - baked) + rgb((0.62, 0.38, 0.18)) * baked
    scene.lay(top, colour * (1 + 0.06 * crumb), 0.04, outline)
    for _ in range(11):
        away, at = 88 * math.sqrt(rng.random()), rng.uniform(0, 6.3)
        part, dx, dy = scene.window(column + away * math.cos(at), row + away * math.sin(at), 20)
        chip = np.hypot(dx, dy) - rng.uniform(7, 11) + 1.6 * noise(rng, dx.shape, 6)
        part.lay(part.height + 5 * rounded(chip, 6) - 1, (0.27, 0.15, 0.09), 0.2, chip)
    return scene, outline < -12


def tire(rng: Rng, flaw: Rng, defect: str | None) -> tuple[Scene, Array]:
    """A toy tire of black rubber, 2.5 cm high."""
    scene = table(rng, (300, 400), (0.6, 0.6, 0.58), 0.01)
    x, y = coordinates(scene.height.shape, rng.uniform(185, 215), rng.uniform(145, 155), rng.uniform(0, 6.3))
    radius, turn = np.hypot(x, y), np.arctan2(y, x)
    lugs = np.tanh(4 * np.cos(30 * turn + 0.12 * (radius - 110)))
    outline = np.maximum(radius - 126 - 2.5 * lugs, 60 - radius)
    top = 12 + 44 * np.sqrt(np.clip(1 - np.square((radius - 94) / 37), 0, 1)) + 1.8 * lugs * inside(112 - radius, 6)
    top -= sum(2.2 * np.exp(-np.square((radius - ring) / 1.6)) for ring in (70, 80, 101))
    letters = np.tanh(5 * np.cos(23 * turn) + 5 * np.cos(7 * turn)) * np.tanh(3 * np.cos(9 * turn + radius / 2.5) + 1.5)
    top += 1.1 * inside(np.abs(radius - 90.5) - 5.5, 2) * np.maximum(letters, 0) + 0.12 * noise(rng, x.shape, 2)
    scene.lay(top, rgb((0.21, 0.21, 0.22)) * (1 + 0.05 * noise(rng, x.shape, 30)), 0.2, outline)
    return scene, outline < -3


def capsules(rng: Rng, flaw: Rng, defect: str | None) -> tuple[Scene, Array]:
    """Twelve two-coloured capsules, laid out on white paper."""
    scene, region = table(rng, (300, 400), (0.78, 0.78, 0.76), 0.012), np.zeros((300, 400), bool)
    for i in range(12):
        column, row = 65 + 90 * (i % 4) + rng.uniform(-6, 6), 55 + 95 * (i // 4) + rng.uniform(-6, 6)
        part, x, y = scene.window(column, row, 45, 0.8 + rng.uniform(-0.25, 0.25))
        cap = inside(x - 2)
        shell = box(x, y, 38, 16, 16) - cap
        part.lay(30 * rounded(shell, 17), rgb((0.9, 0.84, 0.66)) * (1 - cap) + rgb((0.2, 0.5, 0.32)) * cap, 0.25, shell)
        region |= np.hypot(*coordinates(region.shape, column, row)) < 13
    return scene, region


def pushpins(rng: Rng, flaw: Rng, defect: str | None) -> tuple[Scene, Array]:
    """A box of 5 x 3 compartments with one pin in each; one or two of them are faulty."""
    scene = table(rng, (256, 400), (0.3, 0.33, 0.38), 0.04)
    column, row = rng.uniform(197, 203), rng.uniform(125, 131)
    x, y = coordinates(scene.height.shape, column, row, rng.uniform(-0.012, 0.012))
    tray = box(x, y, 188, 117, 8)
    scene.lay(2 + rounded(tray, 3), (0.6, 0.64, 0.68), 0.12, tray)
    walls = np.minimum(37 - np.abs((x + 37) % 74 - 37), 38 - np.abs((y + 38) % 76 - 38)) - 2.5
    scene.height[...] += 9 * rounded(walls, 2) * inside(tray)
    scene.paint(0.55 * inside(np.maximum(walls, tray)), (0.87, 0.9, 0.93), 0.5)
    profile = ((-21, 7), (-17, 8), (-15, 4.6), (0, 6), (1, 10), (5, 10), (6, 2.2), (8, 1.3), (24, 1.1))
    faulty = flaw.permutation(15)[: int(flaw.integers(1, 3))].tolist() if defect else []
    for i in range(15):
        cx, cy, number = 74 * (i % 5 - 2), 76 * (i // 5 - 1), faulty.index(i) + 1 if i in faulty else 0
        at, angle = (column + cx + rng.uniform(-7, 7), row + cy + rng.uniform(-7, 7), 34), rng.uniform(0, 6.3)
        colour = rng.uniform(0.95, 1.02) * rgb((0.75, 0.16, 0.14) if number and defect == "color" else (0.9, 0.74, 0.1))
        if number and defect == "missing_pushpin":  # it could lie anywhere in its compartment
            scene.marks[box(x - cx, y - cy, 34, 35) < 0] = number
            continue
        for extra in range(2 if number and defect == "additional_pushpin" else 1):
            part, dx, dy = scene.window(*at, angle + 1.5 * extra)
            outline, top = turned(dx, dy, profile)
            metal = inside(6.5 - dx)
            part.lay(part.height + 1.5 * top, colour * (1 - metal) + 0.8 * metal, 0.28, outline)
            part.gloss[...] += inside(outline) * metal * (0.75 - part.gloss)
            if number and (extra or defect == "color"):
                part.marks[outline < 1] = number
    return scene, tray < -8


def juice_bottle(rng: Rng, flaw: Rng, defect: str | None) -> tuple[Scene, Array]:
    """A bottle of cherry or orange juice with a label that shows the fruit and one with letters."""
    scene = table(rng, (400, 240), (0.5, 0.51, 0.53), 0.012)
    orange, column, angle = int(rng.integers(2)), rng.uniform(114, 126), rng.uniform(-0.02, 0.02)
    x, y = coordinates(scene.height.shape, column, 206, angle)
    profile = ((-176, 17), (-166, 20), (-162, 17), (-120, 18), (-96, 26), (-72, 46), (-52, 56), (-30, 58), (174, 56))
    glass, top = turned(y, x, profile)
    scene.lay(0.9 * top, (0.6, 0.63, 0.64), 0.2, glass)
    scene.paint(0.75 * inside(np.abs(glass + 1.5) - 1.5), (0.16, 0.18, 0.19))
    scene.paint(inside(y + 158) * inside(glass), (0.8, 0.68, 0.4), 0.6)
    deep = 0.55 + 0.5 * np.sqrt(np.clip(-glass / 58, 0, 1))
    juice = rgb((0.95, 0.52, 0.05) if orange else (0.5, 0.04, 0.06)) * deep
    scene.paint(0.97 * inside(rng.uniform(-104, -98) - y) * inside(glass + 4), juice)
    places = (84, 2) if defect == "swapped_labels" else (22, 102)
    upper, lower = (y - place - rng.uniform(-2, 2) for place in places)
    picture, strip = box(x, upper, 45, 40, 4), box(x, lower, 45, 13, 3)
    scene.marks[(picture < 0) & (defect in ("wrong_fruit", "swapped_labels"))] = 1
    scene.marks[(strip < 0) & (defect in ("missing_label", "swapped_labels"))] = 1 + (defect == "swapped_labels")
    scene.paint(inside(picture), (0.93, 0.92, 0.88), 0.05)
    scene.paint(inside(np.abs(picture + 5) - 1), (0.3, 0.5, 0.32))
    if orange != (defect == "wrong_fruit"):
        fruit, colour = np.hypot(x, upper - 3) - 22, (0.95, 0.55, 0.1)
        green = np.hypot(x - 9, upper + 20) + np.hypot(x - 18, upper + 26) - 15
    else:
        fruit, colour = np.hypot(np.abs(x) - 13, upper - 12) - 12, (0.72, 0.06, 0.12)
        green = np.maximum(np.abs(np.abs(x) - 0.48 * (upper + 26)) - 1, np.abs(upper + 12) - 14)
    scene.paint(inside(fruit), rgb(colour) * (0.7 + 0.4 * rounded(fruit, 14) - 0.006 * (x + upper)))
    scene.paint(inside(green), (0.25, 0.42, 0.15))
    if defect != "missing_label":
        art = Image.new("L", (180, 48))
        ImageDraw.Draw(art).text((90, 24), "100% Juice", fill=255, font=ImageFont.load_default(28), anchor="mm")
        scene.paint(inside(strip), (0.93, 0.92, 0.88), 0.05)
        grey = np.asarray(art, np.float32) / 255
        scene.paint(ndimage.map_coordinates(grey, [2 * lower + 24, 2 * x + 90], order=1), (0.15, 0.2, 0.4))
    scene.paint(0.5 * inside(np.abs(x + 38) - 3, 3) * inside(-62 - y, 20) * inside(y - 150, 30), (1, 1, 1))
    return scene, glass < -10
