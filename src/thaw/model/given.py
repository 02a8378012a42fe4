"""What a model may be asked about: photos on disk, in folders, or in memory."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from thaw.data.find import find_photos
from thaw.data.photos import BrokenPhoto, load_photo
from thaw.data.pixels.deep import White
from thaw.errors import UserError

Photo = Path | str | Image.Image | np.ndarray
PLAIN = ("RGB", "L", "RGBA", "LA", "1", "CMYK", "YCbCr", "P")
TAKEN = (
    "a path, a folder of photos, a PIL image, an array of uint8 [H, W, 3] (RGB) or [H, W], or"
    " several of them"
)


def each(photos: Photo | Iterable[Photo]) -> Iterator[tuple[Path | str, Photo]]:
    """Every photo given, with what it is called: its path, or "photo 0" by its place.

    Raises:
        UserError: `photos` is nothing of the kind.
    """
    if isinstance(photos, Photo):
        photos = [photos]
    try:
        given = iter(photos)
    except TypeError as error:
        raise UserError(f"Expected {TAKEN}, got {_what(photos)}.") from error
    return _each(given)


def _each(photos: Iterator[Photo]) -> Iterator[tuple[Path | str, Photo]]:
    for place, photo in enumerate(photos):
        if not isinstance(photo, str | Path):
            yield f"photo {place}", photo
        elif Path(photo).is_dir():
            yield from ((path, path) for path in find_photos([Path(photo)]))
        else:
            yield photo, photo


def upright(photo: Photo, name: Path | str, white: White | None = None) -> Image.Image:
    """A photo as RGB with its EXIF rotation applied, from wherever it is.

    Raises:
        BrokenPhoto: it can't be decoded.
        UserError: it is no photo.
    """
    if isinstance(photo, str | Path):
        return load_photo(photo, white)
    if isinstance(photo, np.ndarray):
        grey_or_rgb = photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] == 3)
        if photo.dtype != np.uint8 or not grey_or_rgb or photo.size == 0:
            raise UserError(f"Expected of {name} {TAKEN}, got {_what(photo)}.")
        photo = Image.fromarray(np.ascontiguousarray(photo))
    if not isinstance(photo, Image.Image):
        raise UserError(f"Expected of {name} {TAKEN}, got {_what(photo)}.")
    try:
        if photo.mode in PLAIN and "transparency" not in photo.info:
            return ImageOps.exif_transpose(photo).convert("RGB")
        file = io.BytesIO()  # of the rest, a file's reader knows best
        photo.save(file, "PNG" if photo.mode in ("P", "RGB") else "TIFF")
        return load_photo(file, white)
    except Exception as error:  # a file that is opened but not read yet may be damaged
        reason = getattr(error, "reason", str(error)) or type(error).__name__
        raise BrokenPhoto(name, reason) from error


def _what(given: Any) -> str:
    if hasattr(given, "shape") and hasattr(given, "dtype"):
        kind = type(given).__name__
        return f"{'an array' if kind == 'ndarray' else f'a {kind}'} of {given.dtype}" + (
            f" {list(given.shape)}"
        )
    return f"a {type(given).__name__}"
