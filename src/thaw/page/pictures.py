"""Thumbnails in a page: small JPEGs as data URIs, bounded in number, each photo decoded once."""

import base64
import io
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from thaw.data.photos import BrokenPhoto, load_photo

QUALITY = 70


class Thumbnails:
    """Data URIs of photos below a root.

    Args:
        white: of photos of more than 8 bits, see `thaw.data.pixels.deep`.
        most: thumbnails in all, of 3 to 5 kB each.
        side: pixels of the longer side.
    """

    def __init__(
        self, root: Path, white: Mapping[str, float] | None = None, most: int = 400, side: int = 160
    ) -> None:
        self.root, self.white, self.most, self.side = root, dict(white or {}), most, side
        self.made: dict[str, str] = {}

    def of(self, path: str) -> str:
        """ "" where the path isn't a photo, or there are enough."""
        self.make([path])
        return self.made.get(path, "")

    def make(self, paths: Iterable[str]) -> None:
        """Make those of these photos that are missing, while there is room."""
        new = [path for path in dict.fromkeys(paths) if path not in self.made]
        new = new[: max(0, self.most - sum(map(bool, self.made.values())))]
        if len(new) == 1:
            self.made[new[0]] = self._make(new[0])
        elif new:
            with ThreadPoolExecutor() as pool:
                self.made.update(zip(new, pool.map(self._make, new), strict=True))

    def _make(self, path: str) -> str:
        try:
            file = self.root / path
            photo = load_photo(file, self.white, least=self.side) if file.is_file() else None
        except (BrokenPhoto, OSError, ValueError):  # a name too long, or with a zero byte
            return ""
        return data_uri(photo, self.side) if photo else ""


def data_uri(photo: Image.Image, side: int) -> str:
    """A photo as a JPEG within its address."""
    photo.thumbnail((side, side))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def link(to: Path, start: Path) -> str:
    """The address of a file, relative to the folder that a page is in."""
    from urllib.parse import quote

    return quote(os.fsencode(Path(os.path.relpath(to, start)).as_posix()))
