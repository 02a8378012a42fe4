"""What a photo is like apart from what it shows: facts of the file, and a look at the pixels.

A look is a thumbnail in grey and a few numbers on light and colour. It is taken while a photo is
decoded for the net anyway, and kept beside the features, by content.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from thaw.data.cache import FeatureCache
from thaw.data.photos import BrokenPhoto, load_photo, quiet
from thaw.data.pixels import deep
from thaw.data.pixels.opening import opened

SIDE = 64  # pixels of a thumbnail
LIGHT = ("brightness", "contrast")  # mean and deviation of grey
COLOUR = ("blueness", "redness")  # mean Cb and Cr: colour apart from light
SHELF = "looks-1"  # another number takes all looks anew
SOME = 512  # looks that are written at once


@dataclass(frozen=True)
class File:
    """Facts of a photo file that its header tells; sizes in pixels, as the photo is shown."""

    bytes: int
    width: int
    height: int
    format: str  # JPEG, PNG, …
    deep: bool  # more than 8 bits a channel
    mode: str
    frames: int
    quality: float | None  # mean step of a JPEG's quantisation: 1 is nearly lossless, 60 is poor
    camera: str | None
    taken: datetime | None
    turned: bool  # EXIF says that it is to be rotated


def read_file(path: Path) -> File | None:
    """Facts of a file, None where its header can't be read."""
    with quiet:
        try:
            with opened(path) as image:
                exif = image.getexif()
                turned = exif.get(ExifTags.Base.Orientation, 1)
                width, height = image.size if turned not in (5, 6, 7, 8) else image.size[::-1]
                tables = getattr(image, "quantization", None)
                names = [exif.get(tag) for tag in (ExifTags.Base.Make, ExifTags.Base.Model)]
                camera = " ".join(str(name).strip("\0 ") for name in names if name)
                return File(
                    bytes=path.stat().st_size,
                    width=width,
                    height=height,
                    format="JPEG" if image.format == "MPO" else image.format or "",
                    deep=deep.kind(image) is not None,
                    mode=image.mode,
                    frames=1 if image.format == "MPO" else int(getattr(image, "n_frames", 1)),
                    quality=float(np.mean(tables[0])) if tables else None,
                    camera=camera or None,
                    taken=_taken(exif),
                    turned=turned not in (0, 1),
                )
        except Exception:  # whatever a damaged file makes Pillow raise
            return None


def _taken(exif: Image.Exif) -> datetime | None:
    text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
    try:
        return datetime.strptime(str(text)[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:  # none, or of a camera whose clock was never set
        return None


def read_files(paths: Sequence[Path]) -> list[File | None]:
    """Facts of each file."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_file, paths))


def look(image: Image.Image) -> Tensor:
    """A thumbnail and numbers of an RGB photo, uint8 `[SIDE² + 4]`."""
    luma, cb, cr = image.resize((SIDE, SIDE), Image.Resampling.BOX).convert("YCbCr").split()
    grey = np.asarray(luma)
    numbers = [grey.mean(), grey.std(), np.asarray(cb).mean(), np.asarray(cr).mean()]
    return torch.from_numpy(np.append(grey, np.round(numbers)).astype(np.uint8))


class Looks:
    """Looks by a photo's digest; those that the cache has aren't taken again.

    Args:
        white: see `load_photo`.
    """

    def __init__(self, cache: FeatureCache, white: deep.White | None = None) -> None:
        self.white = white
        self.shelf = cache.shelf(SHELF) if cache.enabled else None
        self.taken: dict[str, Tensor] = {}

    def see(self, digest: str, image: Image.Image) -> None:
        """Take a look at a photo that is decoded for something else."""
        if self.shelf is None or digest not in self.shelf.places:
            self.taken[digest] = look(image)

    def all(self, paths: Mapping[str, Path]) -> dict[str, Tensor]:
        """The look of each photo, by digest; those that don't decode are left out."""
        if self.shelf is not None:
            self.shelf.refresh()
        kept = set(self.shelf.places) if self.shelf is not None else set()
        missing = [d for d in paths if d not in kept and d not in self.taken]

        def take(digest: str) -> tuple[str, Tensor] | None:
            try:
                return digest, look(load_photo(paths[digest], self.white, least=2 * SIDE))
            except BrokenPhoto:
                return None

        with ThreadPoolExecutor() as pool:
            self.taken.update(found for found in pool.map(take, missing) if found)
        self._keep()
        here = [digest for digest in paths if digest in kept]
        rows = self.shelf.rows(here).take(range(len(here))) if self.shelf and here else []
        found = self.taken | dict(zip(here, rows, strict=True))
        return {digest: found[digest] for digest in paths if digest in found}

    def _keep(self) -> None:
        if self.shelf is None or not self.taken:
            return
        try:
            with self.shelf.writing():
                names = self.shelf.missing(list(self.taken))
                for start in range(0, len(names), SOME):
                    some = names[start : start + SOME]
                    self.shelf.add(some, torch.stack([self.taken[name] for name in some]))
        except OSError:  # they are taken again next time
            return
