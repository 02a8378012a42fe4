"""Photo files: decoding each the same way wherever Thaw meets it."""

import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from thaw.errors import UserError

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


_quiet = _Quiet()


def load_photo(path: Path | str | BinaryIO) -> Image.Image:
    """Decode a photo: EXIF rotation applied, then RGB, whatever mode it was stored in.

    Raises:
        BrokenPhoto: it is missing, no photo, or damaged.
    """
    with _quiet:  # damaged EXIF blocks and the like don't harm the pixels
        try:
            with Image.open(path) as image:
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
