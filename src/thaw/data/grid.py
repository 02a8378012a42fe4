"""Photos in a grid, each with a few words above it."""

import importlib.util
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from thaw.data.photos import load_photo
from thaw.escape import drawn

GAP, LINE, TITLE = 24, 20, 48  # pixels: between two photos, a line of words, the title
SMALL, LARGE = 16, 20  # pixels: letters of the words, of the title


def draw(
    tiles: Sequence[tuple[Image.Image | Path | str, str, str]],
    title: str = "",
    side: int = 280,
    columns: int | None = None,
) -> Image.Image:
    """Draw photos, each a tuple of photo or path, words, colour of the words.

    Pillow pastes pixels as they are; matplotlib, which resamples them, would take ten times as
    long.

    Args:
        side: pixels of a photo's longer side.
        columns: photos in a row; about as many as make the whole a third wider than high if None.

    Raises:
        UserError: a photo can't be decoded.
    """
    columns = columns or min(math.ceil(math.sqrt(4 / 3 * len(tiles))), len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    used = columns * (side + GAP) - GAP
    width = max(used + 2 * GAP, 480)
    title = textwrap.fill(drawn(title), width // 11)  # pixels of a letter
    y = TITLE + GAP * title.count("\n") if title else GAP
    pasted: list[tuple[Image.Image, tuple[int, int]]] = []
    written: list[tuple[tuple[float, int], str, str]] = []
    for row in rows:
        texts = [
            "\n".join(textwrap.fill(s, side // 10) for s in drawn(t).split("\n")) for _, t, _ in row
        ]
        y += LINE * max(text.count("\n") + 1 for text in texts) + 6
        photos = [
            ImageOps.contain(
                what if isinstance(what, Image.Image) else load_photo(what), (side, side)
            )
            for what, _, _ in row
        ]
        for i, photo in enumerate(photos):
            left = (width - used) // 2 + i * (side + GAP)
            pasted.append((photo, (left + (side - photo.width) // 2, y)))
            written.append(((left + side / 2, y - 4), texts[i], row[i][2]))
        y += max(photo.height for photo in photos) + GAP
    grid = Image.new("RGB", (width, y), "white")
    for photo, place in pasted:
        grid.paste(photo, place)
    pen, small, large = ImageDraw.Draw(grid), _font(SMALL), _font(LARGE)
    for place, text, colour in written:
        pen.text(place, text, colour, small, anchor="md", align="center")
    pen.text((width / 2, 14), title, "black", large, anchor="ma", align="center")
    return grid


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font of the other figures, found without the time that importing matplotlib takes."""
    found = importlib.util.find_spec("matplotlib")
    assert found, "matplotlib comes with Thaw"
    fonts = Path(str(found.origin)).with_name("mpl-data") / "fonts" / "ttf"
    return ImageFont.truetype(fonts / "DejaVuSans.ttf", size)
