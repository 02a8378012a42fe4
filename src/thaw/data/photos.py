"""Photo files: decoding each the same way wherever Thaw meets it."""

import ctypes
import hashlib
import logging
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import PIL
from PIL import Image, UnidentifiedImageError

from thaw.data import deep
from thaw.data.find import format_of
from thaw.errors import UserError

MEGAPIXELS = 120  # of a photo, decoded; phones make 108
LONGEST = 100_000  # pixels of a side
SLOW_MEGAPIXELS = 4  # of a photo that is decoded in Python
SCANS = 1500  # megapixels times the passes that a progressive JPEG takes over them
# What undoes each EXIF orientation, as `ImageOps.exif_transpose`.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what is wrong is said by `BrokenPhoto`


class BrokenPhoto(UserError):
    """A photo can't be decoded, for this reason."""

    def __init__(self, path: Path | str | BinaryIO, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"Expected a photo in {printable(str(path))}, but it can't be decoded ({reason});"
            " repair or remove it."
        )


class _Unfit(Exception):
    """A reason in our own words."""


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


def load_photo(path: Path | str | BinaryIO, white: deep.White | None = None) -> Image.Image:
    """Decode a photo: EXIF rotation applied, then RGB of 8 bits, whatever it was stored in.

    Of animations and many pages it is the first.

    Args:
        white: the value of white where a channel has more than 8 bits, by kind; see `deep`.

    Raises:
        BrokenPhoto: it is missing, no photo, too large, or damaged.
    """
    with _quiet:  # damaged EXIF blocks and the like don't harm the pixels
        try:
            with opened(path) as image:
                kind = deep.kind(image)
                if kind is None:
                    image.load()
                    seen = _to_rgb(image)
                else:
                    values = deep.Values(partial(opened, path))
                    image, seen = values.upper, values.seen((white or {}).get(kind))
                turn = _turn(image)
                return seen if turn is None else seen.transpose(turn)
        except Exception as error:
            raise BrokenPhoto(path, _reason(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the way that Pillow asks for
    return image if image.mode == "RGB" else image.convert("RGB")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What puts a photo upright, once it is loaded."""
    try:
        orientation = image.getexif().get(
            ORIENTATION
        )  # TIFF and HEIF have turned theirs themselves
    except Exception:  # a damaged block doesn't harm the pixels
        return None
    orientation = image.info.get("only_in_exif", orientation)
    return TURNS.get(orientation) if isinstance(orientation, int) else None


# --- opening --------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path | str | BinaryIO) -> Iterator[Image.Image]:
    """A photo that is known by its content, within the limits, and not loaded yet.

    Only the reader of its format sees it: Pillow has others, of which one starts a program.
    """
    head = _head(path)
    kind = format_of(head)
    if kind is None:
        raise _Unfit(_what(head))
    if kind == "WEBP":  # it makes room for its pixels on opening
        _check_size(*_webp_size(head))
    if kind == "HEIF":
        _read_heif()
    _quieten_libtiff()
    try:
        image = Image.open(path, formats=[kind])
    except (UnidentifiedImageError, SyntaxError) as error:
        raise _Unfit(f"a damaged {kind}, or of a sort that can't be read") from error
    with image:
        _check_size(*image.size)
        slow = any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", []))
        if slow and _megapixels(image) > SLOW_MEGAPIXELS:
            raise _Unfit(
                f"a {kind} of this sort may have {SLOW_MEGAPIXELS} megapixels, it has"
                f" {_megapixels(image):.0f}"
            )
        if image.info.get("progressive"):
            _check_scans(path, image)
        if kind == "HEIF":
            start = _head(path, 2**16)
            # These turn a HEIF, and have done so on opening; some programs write EXIF alone.
            if b"irot" not in start and b"imir" not in start:
                image.info["only_in_exif"] = image.info.get("original_orientation")
        yield image


def _head(path: Path | str | BinaryIO, count: int = 32) -> bytes:
    """A file's first bytes."""
    if isinstance(path, Path | str):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # reading a pipe would wait forever
            raise _Unfit("a folder" if stat.S_ISDIR(mode) else "neither file nor folder")
        with open(path, "rb", buffering=0) as file:
            start = file.read(count)
    else:
        path.seek(0)
        start = path.read(count)
        path.seek(0)
    if not start:
        raise _Unfit("the file is empty")
    return start


def _check_size(width: int, height: int) -> None:
    megapixels = width * height / 1e6
    if megapixels > MEGAPIXELS:
        raise _Unfit(f"it has {megapixels:,.0f} megapixels, and at most {MEGAPIXELS} are decoded")
    if max(width, height) > LONGEST:
        raise _Unfit(
            f"it is {max(width, height):,} pixels long, and at most {LONGEST:,} are decoded"
        )


def _megapixels(image: Image.Image) -> float:
    return image.width * image.height / 1e6


def _check_scans(path: Path | str | BinaryIO, image: Image.Image) -> None:
    """A progressive JPEG may go over its pixels thousands of times."""
    content = Path(path).read_bytes() if isinstance(path, Path | str) else _all(path)
    if _megapixels(image) * content.count(b"\xff\xda") > SCANS:
        raise _Unfit("a progressive JPEG with too many passes")


def _all(file: BinaryIO) -> bytes:
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    return content


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height of a WebP, in whichever of its three ways they are stored."""
    if head[12:16] == b"VP8X":
        sides = (int.from_bytes(head[i : i + 3], "little") + 1 for i in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        sides = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    else:
        sides = (side & 0x3FFF for side in struct.unpack("<HH", head[26:30].ljust(4, b"\0")))
    width, height = sides
    return width, height


@cache
def _read_heif() -> None:
    from pillow_heif import register_heif_opener  # only those who have such photos wait for it

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


@cache
def _quieten_libtiff() -> None:
    """libtiff writes to stderr what is wrong with a file, in words for programmers."""
    folder = Path(PIL.__file__).parent
    for place in (folder.with_name("pillow.libs"), folder / ".dylibs"):
        for library in place.glob("libtiff*"):
            for handler in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
                getattr(ctypes.CDLL(str(library)), handler)(None)


# --- reasons --------------------------------------------------------------------------------------


def _what(head: bytes) -> str:
    """What a file is that is no photo."""
    others = {
        "a web page": (b"<!doctype html", b"<html", b"<head", b"<body"),
        "an SVG drawing": (b"<svg", b"<?xml"),
        "a PDF": (b"%pdf",),
        "an archive": (b"pk\3\4", b"rar!", b"7z\xbc\xaf", b"\x1f\x8b"),
        "a Photoshop file": (b"8bps",),
        "an EPS": (b"%!ps",),
        "a pointer of Git LFS: git lfs pull": (b"version https://git-lfs",),
    }
    lower = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for name, begins in others.items():
        if lower.startswith(begins):
            return f"not an image, but {name}"
    if head[4:8] == b"ftyp":
        return "not an image, but a film"
    if len(head) >= 16 and all(byte in b"\t\r\n" or 32 <= byte != 127 for byte in head):
        return "not an image, but text" if head.isascii() else "not an image"
    return "not an image"


def _reason(error: Exception) -> str:
    known: dict[type[Exception], str] = {
        FileNotFoundError: "no such file",
        PermissionError: "there is no permission to read it",
        MemoryError: "it needs more memory than there is",
        Image.DecompressionBombError: f"it has more than {MEGAPIXELS} megapixels",
    }
    text = printable(str(error)) or type(error).__name__
    return known.get(type(error), text if len(text) < 200 else text[:200] + "…")


def printable(text: str) -> str:
    """On one line, without the codes that make a terminal do things, and in valid UTF-8."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


# --- many of them ---------------------------------------------------------------------------------


def broken_photos(paths: list[Path]) -> dict[Path, str]:
    """Photos that don't decode, with the reason. JPEGs are decoded at 1/8 size, which is fast."""
    unseen = [path for path in paths if _version(path) not in _whole]
    with ThreadPoolExecutor() as pool:
        found = dict(zip(unseen, pool.map(_look, unseen), strict=True))
    whole = {path: seen for path, seen in found.items() if not isinstance(seen, str)}
    _whole.update((_version(path), seen) for path, seen in whole.items())
    return {path: seen for path, seen in found.items() if isinstance(seen, str)}


def white_of(paths: list[Path]) -> dict[str, float]:
    """What is white in photos of more than 8 bits, which `broken_photos` has seen; see `deep`."""
    return deep.white_of(peak for path in paths if (peak := _whole.get(_version(path))))


def digests(paths: list[Path]) -> list[str]:
    """sha256 of files' bytes, which are read again only if their size or time has changed."""
    versions = [_version(path) for path in paths]
    unread = [version for version in versions if version not in _digests]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda v: hashlib.sha256(v[0].read_bytes()).hexdigest(), unread)
        _digests.update(zip(unread, found, strict=True))
    return [_digests[version] for version in versions]


Peak = tuple[str, float]  # kind and largest value of a photo of more than 8 bits
# All jobs of a sweep ask for the same photos.
_whole: dict[tuple[Path, int, int], Peak | None] = {}  # that decoded
_digests: dict[tuple[Path, int, int], str] = {}


def _version(path: Path) -> tuple[Path, int, int]:
    try:
        stat = path.stat()
    except OSError:  # a link that leads nowhere
        return path, 0, 0
    return path, stat.st_size, stat.st_mtime_ns


def _look(path: Path) -> Peak | str | None:
    """Why a photo is broken; or what is to be known of a whole one."""
    with _quiet:
        try:
            with opened(path) as image:
                if kind := deep.kind(image):
                    return kind, deep.Values(partial(opened, path)).peak()
                if image.format in ("JPEG", "MPO"):
                    image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
        except Exception as error:
            return _reason(error)
    return None
