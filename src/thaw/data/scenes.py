"""What `data=shapes` draws: five textured things in clutter.

Classes differ in structure alone (outline, veins, whorls, gills, spots): what ImageNet features
know well. Palette, ground, clutter, light, pose, blur and noise come from the same distributions
for every class, so that colour statistics and simple filters give nothing away.

Everything is a relief: a `Thing` has an outline, a height and a tone at each pixel, and one
renderer, `_paint`, lights it, colours it and lets it cast a shadow. A photo is a ground, clutter,
the thing itself and a little more clutter in front, each painted over the last.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Field = NDArray[np.floating[Any]]  # float32 throughout, for speed
Rng = np.random.Generator


class Thing(NamedTuple):
    inside: Field  # above 0 within the outline; any scale, as `_paint` divides by the slope
    height: Field  # in units of the thing's radius
    tone: Field  # 0 to 1: where along the palette


# --- Five things, each in its own frame: x to the right, y up, radius about 1 ----------------


def _butterfly(x: Field, y: Field, rng: Rng) -> Thing:
    u = np.abs(x) * rng.uniform(0.9, 1.2)
    r, angle = np.hypot(u, y), np.arctan2(y, u)
    fore = rng.uniform(1.05, 1.25) * _lobe(angle - rng.uniform(0.6, 0.75), rng.uniform(1.4, 1.7))
    hind = rng.uniform(0.8, 0.95) * _lobe(angle + rng.uniform(0.6, 0.8), rng.uniform(1.5, 1.9))
    reach = np.maximum(np.maximum(fore, hind) + 0.03 * np.cos(angle * 22), 0.05)
    along = r / reach
    veins = _line(np.sin(angle * int(rng.integers(6, 9))), 0.25) * (along > 0.3)
    margin = along > rng.uniform(0.74, 0.84)
    spots = margin * (np.hypot((along - 0.9) * 12, np.sin(angle * 11)) < 0.7)
    body = 1 - (u / 0.09) ** 2 - ((y + 0.05) / 0.5) ** 2
    feeler = 0.025 - np.abs(u - 0.6 * (y - 0.35)) - 9 * np.maximum(np.abs(y - 0.6) - 0.25, 0)
    wing_tone = 0.45 + 0.3 * (along - 0.5) - 0.4 * np.maximum(veins, margin) + 0.8 * spots
    tone = np.where(np.maximum(body, feeler) > 0, 0.1, wing_tone)
    height = 0.12 * np.sqrt(np.maximum(body, 0)) - 0.02 * veins + 0.15 * u * u
    return Thing(np.maximum(np.maximum(reach - r, feeler), 0.1 * body), height, tone)


def _leaf(x: Field, y: Field, rng: Rng) -> Thing:
    u = np.abs(x + rng.uniform(-0.25, 0.25) * y * y)
    t = np.clip((y + 0.75) / 1.8, 0, 1)
    teeth = rng.uniform(0.03, 0.09) * _fraction(t * int(rng.integers(9, 16)))
    width = rng.uniform(0.55, 0.75) * np.sin(np.pi * t ** rng.uniform(0.65, 0.9))
    stalk = 0.045 - u - 9 * np.maximum(np.abs(y + 0.85) - 0.25, 0)
    branch = (y - u * rng.uniform(0.5, 1.0)) * rng.uniform(4, 6.5)
    veins = np.maximum(_line(np.sin(np.pi * branch), 0.22), _line(u, 0.04))
    quilt = np.abs(np.sin(np.pi * branch)) * np.minimum(u * 4, 1)
    inside = np.maximum(width * (1 + teeth * 2) - u - 0.02, stalk)
    return Thing(inside, 0.07 * quilt + 0.1 * u, 0.35 + 0.15 * quilt + 0.5 * veins)


def _mushroom(x: Field, y: Field, rng: Rng) -> Thing:
    v = y - rng.uniform(0.0, 0.15) + 0.12 * x * x
    top, lip = rng.uniform(0.7, 0.95), rng.uniform(0.14, 0.26)
    cap = 1 - (x / rng.uniform(0.85, 1.0)) ** 2 - (v / np.where(v > 0, top, lip)) ** 2
    half = rng.uniform(0.17, 0.26) + rng.uniform(0.05, 0.15) * np.maximum(-y, 0) ** 2
    stem = np.minimum(half - np.abs(x + 0.1 * np.sin(2 * y)), np.minimum(y + 1, 0.1 - v))
    gills = np.sin(np.arctan2(x, v + 0.9) * int(rng.integers(50, 80)))
    warts = _dots(x * (1 + 0.3 * x * x), v * 1.2, rng.uniform(2.5, 4), rng)
    is_cap, is_gill = cap > 0, (cap > 0) & (v < 0)
    dome = np.sqrt(np.maximum(cap, 0)) * 0.6 + 0.12 * warts
    column = np.sqrt(np.maximum(half**2 - x * x, 0)) + 0.01 * np.sin(x * 60)
    height = np.where(is_gill, 0.3 + 0.02 * gills, np.where(is_cap, dome, column))
    tone = np.where(is_gill, 0.8 + 0.1 * gills, np.where(is_cap, 0.2 + 0.7 * (warts > 0.2), 0.9))
    return Thing(np.maximum(cap * 0.5, stem), height, tone)


def _shell(x: Field, y: Field, rng: Rng) -> Thing:
    growth = rng.uniform(1.8, 2.6)  # how much wider each whorl is than the last
    r, turn = np.hypot(x, y) + 1e-3, _fraction(np.arctan2(y, x) / (2 * np.pi))
    spiral = np.log(r / 1.15) / np.log(growth) + turn  # 0 on the outline, -1 a whorl further in
    across = _fraction(spiral)
    tube = np.sqrt(np.maximum(across * (1 - across), 0))
    ribs = np.sin(2 * np.pi * int(rng.integers(14, 24)) * (turn - 0.08 * (across - 0.5) ** 2))
    bands = np.sin(2 * np.pi * int(rng.integers(1, 4)) * across)
    mix = rng.uniform(0.2, 0.8)
    tone = 0.5 + 0.35 * (mix * ribs + (1 - mix) * bands) - 0.4 * (tube < 0.2)
    return Thing(-spiral, r * (0.8 * tube + 0.05 * ribs), tone)


def _starfish(x: Field, y: Field, rng: Rng) -> Thing:
    r = np.hypot(x, y)
    turn = 5 / (2 * np.pi) * (np.arctan2(x, y) + rng.uniform(-0.4, 0.4) * r)
    angle = (_fraction(turn) - 0.5) * (2 * np.pi / 5)  # the same in each arm
    along, off = r * np.cos(angle), np.abs(r * np.sin(angle))
    width = rng.uniform(0.36, 0.46) * np.maximum(1.15 - along, 0) ** rng.uniform(0.7, 1.0)
    inside = width - off
    knobs = _dots(x, y, rng.uniform(6, 9), rng)
    row = (off < 0.05) * (np.sin(along * 40) > -0.3)
    height = 0.5 * np.sqrt(np.maximum(inside, 0)) + 0.05 * knobs + 0.04 * row
    return Thing(inside, height, 0.3 + 0.35 * knobs + 0.5 * row + 0.3 * r * (off / (width + 0.1)))


THINGS = (_butterfly, _leaf, _mushroom, _shell, _starfish)
DRAWERS = {thing.__name__[1:]: thing for thing in THINGS}
CLASSES: tuple[str, ...] = tuple(sorted(DRAWERS))


# --- What every photo shares -----------------------------------------------------------------


def _line(value: Field, width: float) -> Field:
    """1 where `value` is 0, falling to 0 at `width`."""
    return np.maximum(1 - np.abs(value) / width, 0)


def _fraction(value: Field) -> Field:
    return value - np.floor(value)


def _lobe(angle: Field, narrow: float) -> Field:
    return np.sqrt(np.maximum(np.cos(np.clip(angle * narrow, -1.57, 1.57)), 0))


def _dots(x: Field, y: Field, per_unit: float, rng: Rng) -> Field:
    """Round bumps, one to each cell of a grid, with their own place and size: 0 to 1."""
    column, row = np.floor(x * per_unit), np.floor(y * per_unit)
    cell = (row.astype(int) & 15) * 16 + (column.astype(int) & 15)
    dx, dy, big = (part.take(cell) for part in rng.random((3, 256), dtype=np.float32))
    dx = x * per_unit - column - 0.35 - 0.3 * dx
    dy = y * per_unit - row - 0.35 - 0.3 * dy
    return np.sqrt(np.maximum(1 - (dx * dx + dy * dy) / (0.22 + 0.13 * big) ** 2, 0))


def _noise(rng: Rng, size: int, across: int, down: int, octaves: int) -> Field:
    """Smooth noise about 0, within -1 to 1, its coarsest octave so many cells across and down."""
    field = rng.random((down, across), dtype=np.float32) - 0.5
    for octave in range(1, octaves):
        finer = rng.random((down << octave, across << octave), dtype=np.float32) - 0.5
        field = 2 * _resized(field, *finer.shape) + finer
    return _resized(field * 2 ** (1 - octaves), size, size)


def _resized(field: Field, rows: int, columns: int) -> Field:
    return np.asarray(Image.fromarray(field).resize((columns, rows), Image.Resampling.BICUBIC))


def _ground(x: Field, y: Field, rng: Rng) -> Thing:
    grain, streaks = _noise(rng, len(x), 6, 6, 4), _noise(rng, len(x), 3, 20, 3)
    scale = rng.uniform(5, 12)
    relief = [
        lambda: 0.10 * grain,  # sand
        lambda: 0.07 * streaks,  # wood
        lambda: 0.05 * np.sin(x * scale * 4) * np.sin(y * scale * 4) + 0.03 * grain,  # cloth
        lambda: 0.10 * _dots(x + grain * 0.1, y + streaks * 0.05, scale, rng),  # pebbles
        lambda: 0.12 * np.abs(grain) + 0.08 * np.abs(streaks),  # bark
    ][rng.integers(5)]()
    tone = 0.5 + rng.uniform(0.2, 0.4) * grain + rng.uniform(1, 3) * (relief - relief.mean())
    return Thing(np.ones_like(x), relief, tone)


def _clutter(x: Field, y: Field, rng: Rng, least: int, most: int) -> Thing:
    """Pebbles, twigs and blades: one bent ellipse, from round to long."""
    inside, tone = np.full_like(x, -1), np.zeros_like(x)
    for _ in range(rng.integers(least, most, endpoint=True)):
        u, v = _pose(x, y, rng, rng.uniform(0.1, 0.25), 1.1)
        long = rng.uniform(1, 4)
        v = v * long - rng.uniform(-0.5, 0.5) * u * u
        item = 1 - (u / long) ** 2 * 2 - v * v / long * 2
        np.copyto(tone, rng.random() + 0.2 * np.sin(v * rng.uniform(2, 9)), where=item > 0)
        inside = np.maximum(inside, item)
    return Thing(inside, 0.15 * np.sqrt(np.maximum(inside, 0)), tone)


def _pose(x: Field, y: Field, rng: Rng, radius: float, reach: float) -> tuple[Field, Field]:
    """The frame of something of this radius, turned and placed at random."""
    angle = rng.uniform(-math.pi, math.pi)
    cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
    dx, dy = x - rng.uniform(-reach, reach), y - rng.uniform(-reach, reach)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _palette(rng: Rng) -> Field:
    """Red, green and blue of 256 colours of one tint, dark and light in random order."""
    value = rng.permutation([0.25, 0.5, 0.75, 1]) + rng.uniform(-0.1, 0, 4)
    wash = 0.5 * rng.random(3) + 0.5 * rng.random((4, 3))
    stops = value[:, None] * (1 - rng.uniform(0.3, 0.9) * wash)
    at = np.linspace(0, 3, 256)
    return np.stack([np.interp(at, range(4), part) for part in stops.T]).astype(np.float32)


def _paint(canvas: Field, thing: Thing, radius: float, light: Field, rng: Rng) -> None:
    """Lay `thing`, of this radius in pixels, on the canvas: its shadow first, then itself."""
    size = canvas.shape[-1]
    down, right = np.gradient(thing.inside)
    cover = np.clip(thing.inside / np.sqrt(down**2 + right**2 + 1e-8) + 0.5, 0, 1)
    dx, dy = (light[:2] * size / 16).astype(int).tolist()
    mask = Image.fromarray((cover * 255).astype(np.uint8)).crop((dx, dy, dx + size, dy + size))
    soft = _resized(np.asarray(mask.reduce(max(size // 20, 1)), np.float32), size, size)
    canvas *= 1 - soft * np.float32(0.6 / 255)
    grain = _noise(rng, size, 24, 24, 2)
    down, right = np.gradient((thing.height + 0.03 * grain) * radius)
    facing = (light[2] - right * light[0] - down * light[1]) / np.sqrt(1 + right**2 + down**2)
    lit = np.maximum(facing, 0)
    shade = lit + 0.35 + rng.uniform(0, 0.4) * (((lit**2) ** 2) ** 2) ** 2  # ** 16 is far slower
    tone = np.clip((thing.tone + 0.15 * grain) * 255, 0, 255).astype(np.uint8)
    for channel, colours in zip(canvas, _palette(rng), strict=True):
        channel += cover * (colours.take(tone) * shade - channel)


def photo(name: str, size: int, rng: Rng) -> Image.Image:
    """Draw a thing of a class, `size` pixels square."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(axis, -axis)
    around, lift = rng.uniform(-math.pi, math.pi), rng.uniform(0.5, 0.9)
    flat = math.sqrt(1 - lift**2)
    light = np.array([flat * math.cos(around), flat * math.sin(around), lift], np.float32)
    canvas = np.zeros((3, size, size), np.float32)
    _paint(canvas, _ground(*_pose(x, y, rng, 1, 0.5), rng), size / 2, light, rng)
    _paint(canvas, _clutter(x, y, rng, 3, 8), size / 2, light, rng)
    radius = rng.uniform(0.6, 0.85)
    u, v = _pose(x, y, rng, radius, 0.25)
    bend, skew = 0.12 * _noise(rng, size, 3, 3, 1), 0.12 * _noise(rng, size, 3, 3, 1)
    _paint(canvas, DRAWERS[name](u + bend, v + skew, rng), size / 2 * radius, light, rng)
    _paint(canvas, _clutter(x, y, rng, 1, 2), size / 2, light, rng)
    canvas *= (rng.uniform(0.8, 1.3) * rng.uniform(0.9, 1.1, (3, 1, 1))).astype(np.float32)
    canvas += rng.uniform(0, 0.15) * (rng.random(canvas.shape, dtype=np.float32) - 0.5)
    pixels = np.clip(canvas * 255, 0, 255).astype(np.uint8)
    photo = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return photo.filter(ImageFilter.BoxBlur(rng.uniform(0, 0.8) * size / 160))
