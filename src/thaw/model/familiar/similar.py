"""The train photos most like a photo, shown beside it: the explanation that everybody can check."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from thaw.data import grid
from thaw.data.photos import BrokenPhoto, load_photo
from thaw.data.pixels.deep import White
from thaw.model.familiar.store import Familiar
from thaw.model.prediction import Prediction, Similar
from thaw.page.figure import write_figure

SIDE, SMALL = 240, 160  # pixels of a photo in the figure, and of a thumbnail on the page


def draw(
    path: Path,
    predictions: Sequence[Prediction],
    familiar: Familiar,
    white: White | None = None,
) -> None:
    """Draw a row a photo: the photo with its label, then the train photos that it is most like.

    Args:
        familiar: knows the train photos; one that isn't there any more is an empty square.
        white: of photos of more than 8 bits.
    """
    tiles: list[tuple[Image.Image | Path | str, str, str]] = []
    for prediction in predictions:
        words = f"{Path(prediction.path).name}\n{prediction.label}{prediction.beside}"
        tiles.append((load_photo(prediction.path, white), words, "black"))
        for similar in prediction.similar:
            photo = _photo(familiar, similar, white) or Image.new("RGB", (SIDE, SIDE), "#e8edf0")
            tiles.append((photo, f"{similar.label} ({similar.likeness:.2f})", "#6b7780"))
    beside = max(len(prediction.similar) for prediction in predictions)
    title = "Left, the photo; then the train photos most like it"
    write_figure(path, grid.draw(tiles, title, SIDE, columns=1 + beside))


def thumbnail(familiar: Familiar, similar: Similar, white: White | None = None) -> str | None:
    """A train photo as the address of a picture that a page can show; None if it isn't there."""
    photo = _photo(familiar, similar, white)
    if photo is None:
        return None
    jpeg = io.BytesIO()
    ImageOps.contain(photo, (SMALL, SMALL)).save(jpeg, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()


def _photo(familiar: Familiar, similar: Similar, white: White | None) -> Image.Image | None:
    path = familiar.file_of(similar.path)
    try:
        return load_photo(path, white) if path else None
    except (BrokenPhoto, OSError):
        return None
