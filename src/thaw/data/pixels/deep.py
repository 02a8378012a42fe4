"""Photos of more than 8 bits a channel: which of their values is white.

A camera's 12 bits come in files of 16, and floats in any range, so a format says little. White is
the smallest of 8, 10, 12, 14, 16, 24 or 32 bits that holds the largest value there is; for floats
it is 1, or the smallest 2**n - 1 that holds it. In training the values are those of all train and
val photos, and the bundle remembers; without either, they are the photo's own. Below 0 is black.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from PIL import Image

White = Mapping[str, float]  # by kind, `integer` or `float`
BITS = {"integer": (8, 10, 12, 14, 16, 24, 32), "float": range(1, 130)}
ROWS = 2**21  # pixels that are in memory as floats at a time
# Pillow decodes 16-bit colours to the upper of their two bytes; told the other byte order, to the
# lower one.
SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def kind(image: Image.Image) -> str | None:
    """`integer` or `float` for a photo of more than 8 bits, which isn't loaded yet; else None."""
    if image.mode == "F":
        return "float"
    return "integer" if image.mode.startswith("I") or _coloured(image) else None


def _coloured(image: Image.Image) -> bool:
    """Whether a channel of a colour photo, opened and not loaded, has 16 bits."""
    tiles = getattr(image, "tile", [])
    return bool(tiles) and _raw_mode(tiles[0])[:-1] in ("RGB;16", "RGBA;16", "RGBX;16")


def _raw_mode(tile: tuple) -> str:
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


class Values:
    """The values of a deep photo, as many rows at a time as fit into memory.

    Args:
        opened: opens the photo, once more for the lower bytes of colours.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[Image.Image]]) -> None:
        with opened() as image:
            found, coloured = kind(image), _coloured(image)
            assert found, "the photo is deep"
            self.kind, self.upper = found, image
            tags = getattr(image, "tag_v2", {})
            # Pillow reads whole numbers of 32 bits as if they had a sign.
            self.unsigned = tags.get(258) == (32,) and tags.get(339, (1,)) == (1,)
            image.load()
        self.lower: Image.Image | None = None
        extrema: Any = image.getextrema() if coloured else ()
        if coloured and max(high for _, high in extrema[:3]) < 64:  # 14 bits will do
            with opened() as image:
                image.tile = [  # type: ignore[attr-defined]
                    tile._replace(args=_swapped(tile.args))
                    for tile in image.tile  # type: ignore[attr-defined]
                ]
                image.load()
            self.lower = image
        self.coloured = coloured

    def __iter__(self) -> Iterator[np.ndarray]:
        """Rows `[h, W]` or `[h, W, 3]` of whole numbers or floats, from top to bottom."""
        width, height = self.upper.size
        step = max(1, ROWS // width)
        for top in range(0, height, step):
            box = (0, top, width, min(top + step, height))
            part = self.upper.crop(box)
            if self.coloured:
                values = np.asarray(part)[..., :3].astype(np.uint16)
                lower = self.lower and np.asarray(self.lower.crop(box))[..., :3]
                yield values << 8 | (values if lower is None else lower)
            elif self.kind == "float":
                yield np.nan_to_num(np.asarray(part), posinf=0, neginf=0)
            else:
                values = np.asarray(part.convert("I"))
                yield values.view(np.uint32) if self.unsigned else values

    def peak(self) -> float:
        """The largest value."""
        return float(max(rows.max() for rows in self))

    def seen(self, white: float | None) -> Image.Image:
        """The photo in 8 bits, RGB, from black to `white`, or to that of its own."""
        if white is None:
            white = white_of([(self.kind, self.peak())])[self.kind]
        shown = Image.new("RGB" if self.coloured else "L", self.upper.size)
        top, few = 0, self.kind == "integer" and white < 2**16
        table = (np.arange(2**16) * 255 // white).clip(0, 255).astype(np.uint8)
        for rows in self:
            part = np.clip(rows, 0, white)
            part = table[part.astype(np.uint16)] if few else part * (255 / white)
            shown.paste(Image.fromarray(part.astype(np.uint8)), (0, top))
            top += len(rows)
        return shown.convert("RGB")


def _swapped(arguments: str | tuple) -> str | tuple:
    if isinstance(arguments, tuple):
        return (_swapped(arguments[0]), *arguments[1:])
    return arguments[:-1] + SWAPPED[arguments[-1]]


def white_of(peaks: Iterable[tuple[str, float]]) -> dict[str, float]:
    """For each kind of photo, the white of photos whose kinds and largest values these are."""
    white: dict[str, float] = {}
    for kind, peak in peaks:
        least = next(2.0**bits - 1 for bits in BITS[kind] if peak < 2.0**bits)
        if kind == "float" and peak <= 1:
            least = 1.0
        white[kind] = max(white.get(kind, 0), least)
    return white
