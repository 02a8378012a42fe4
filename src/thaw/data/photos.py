"""Photo files: finding them, and decoding each the same way wherever Thaw meets it."""

import hashlib
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from thaw.errors import UserError

# torchvision's IMG_EXTENSIONS, written out: importing them would import torch.
IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# 16-bit grey: `.convert("RGB")` would clip it to white.
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class BrokenPhoto(UserError):
    """A photo can't be decoded, for this reason."""

    def __init__(self, path: Path | str | BinaryIO, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"Expected a photo in {path}, but it can't be decoded ({reason}); repair or remove it."
        )


class _Quiet:
    """Without warnings, in threads too: the first to enter silences them, the last undoes it.

    With `warnings.catch_warnings` in each, a thread may restore what another had set.
    """

    def __init__(self) -> None:
        self.lock, self.inside = Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.caught.__exit__(*error)


quiet = _Quiet()


def load_photo(path: Path | str | BinaryIO, least: int | None = None) -> Image.Image:
    """Decode a photo: EXIF rotation applied, then RGB, whatever mode it was stored in.

    Args:
        least: decode a JPEG to an eighth, a quarter or half of its size, as long as both sides
            have that many pixels, which is faster.

    Raises:
        BrokenPhoto: it is missing, no photo, or damaged.
    """
    with quiet:  # damaged EXIF blocks and the like don't harm the pixels
        try:
            with Image.open(path) as image:
                if least:
                    image.draft(None, (least, least))
                ImageOps.exif_transpose(image, in_place=True)  # no copy where nothing is turned
                image.load()
                return _to_rgb(image)
        except Exception as error:
            raise BrokenPhoto(path, _reason(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_MODES:
        # 16 bits to 8; files with mode I hold 16-bit values too (PNG)
        return image.convert("I").point(lambda value: value / 257, "L").convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the way that Pillow asks for
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error) or type(error).__name__


def is_photo(path: Path | str, root: Path | None = None) -> bool:
    """Whether the name is that of a photo: ImageFolder's extensions, and nothing hidden.

    Args:
        root: the folder below which no part of the path may be hidden.
    """
    path = Path(path)
    parts = path.relative_to(root).parts if root else (path.name,)
    hidden = any(part.startswith(".") for part in parts)
    return path.suffix.lower() in IMG_EXTENSIONS and not hidden


def find_photos(places: Iterable[Path]) -> list[Path]:
    """Photos that are named or lie below the folders named, sorted within each.

    Raises:
        UserError: a place doesn't exist, or no photo is found.
    """
    places = list(places)
    missing = [str(place) for place in places if not place.exists()]
    if missing:
        raise UserError(f"Expected photos or folders of photos, but there is no {missing}.")
    found: list[Path] = []
    for place in places:
        inside = sorted(path for path in place.rglob("*") if is_photo(path, place))
        found += inside if place.is_dir() else [place]
    if not found:
        raise UserError(
            f"Found no photos in {[str(place) for place in places]}; their names end in one of"
            f" {', '.join(IMG_EXTENSIONS)}."
        )
    return found


def broken_photos(paths: list[Path]) -> dict[Path, str]:
    """Photos that don't decode, with the reason. JPEGs are decoded at 1/8 size, which is fast."""
    unseen = [path for path in paths if _version(path) not in _whole]
    with ThreadPoolExecutor() as pool:
        reasons = dict(zip(unseen, pool.map(_why_broken, unseen), strict=True))
    _whole.update(_version(path) for path, reason in reasons.items() if not reason)
    return {path: reason for path, reason in reasons.items() if reason}


def digests(paths: list[Path]) -> list[str]:
    """sha256 of files' bytes, which are read again only if their size or time has changed."""
    versions = [_version(path) for path in paths]
    unread = [version for version in versions if version not in _digests]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda v: hashlib.sha256(v[0].read_bytes()).hexdigest(), unread)
        _digests.update(zip(unread, found, strict=True))
    return [_digests[version] for version in versions]


# All jobs of a sweep ask for the same photos.
_whole: set[tuple[Path, int, int]] = set()  # that decoded
_digests: dict[tuple[Path, int, int], str] = {}


def _version(path: Path) -> tuple[Path, int, int]:
    try:
        stat = path.stat()
    except OSError:  # a link that leads nowhere
        return path, 0, 0
    return path, stat.st_size, stat.st_mtime_ns


def _why_broken(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.draft(None, (image.width // 8, image.height // 8))
            image.load()
    except Exception as error:
        return _reason(error)
    return None
