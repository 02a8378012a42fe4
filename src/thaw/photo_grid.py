"""Photos in a grid, each with a few words above it."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from thaw.photos import load_photo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
GAP, LINE, TITLE = 24, 20, 48  # pixels: between two photos, a line of words, the title


def figure(
    tiles: Sequence[tuple[Image.Image | Path | str, str, str]], title: str = "", side: int = 280
) -> "Figure":
    """Draw photos, each a tuple of photo or path, words, colour of the words; save it with `DPI`.

    Nothing is scaled twice, and there are no axes: a dozen of them would take a second.

    Args:
        side: pixels of a photo's longer side.

    Raises:
        UserError: a photo can't be decoded.
    """
    from matplotlib.figure import Figure  # needs no backend: nothing is shown

    columns = min(math.ceil(math.sqrt(4 / 3 * len(tiles))), len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    used = columns * (side + GAP) - GAP
    width = max(used + 2 * GAP, 480)
    title = textwrap.fill(title, width // 11)  # pixels of a letter
    y = TITLE + GAP * title.count("\n") if title else GAP
    pasted: list[tuple[int, int, np.ndarray]] = []
    written: list[tuple[float, int, str, str]] = []
    for row in rows:
        texts = ["\n".join(textwrap.fill(s, side // 10) for s in t.split("\n")) for _, t, _ in row]
        y += LINE * max(text.count("\n") + 1 for text in texts) + 6
        photos = [
            ImageOps.contain(
                what if isinstance(what, Image.Image) else load_photo(what), (side, side)
            )
            for what, _, _ in row
        ]
        for i, photo in enumerate(photos):
            left = (width - used) // 2 + i * (side + GAP)
            pasted.append((left + (side - photo.width) // 2, y, np.asarray(photo)))
            written.append((left + side / 2, y - 8, texts[i], row[i][2]))
        y += max(photo.height for photo in photos) + GAP
    drawn = Figure(figsize=(width / DPI, y / DPI), dpi=DPI)
    canvas = np.full((y, width, 3), 255, np.uint8)
    for left, top, photo in pasted:
        canvas[top : top + photo.shape[0], left : left + photo.shape[1]] = photo
    drawn.figimage(canvas)
    style: dict[str, Any] = {"ha": "center", "fontsize": 9.5, "parse_math": False}
    for x, bottom, text, colour in written:
        drawn.text(x / width, 1 - bottom / y, text, va="bottom", color=colour, **style)
    if title:
        drawn.text(0.5, 1 - 14 / y, title, ha="center", va="top", fontsize=12)
    return drawn
