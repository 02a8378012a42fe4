"""Photo files are opened by their content, within limits; or what is wrong with them is said."""

import ctypes
import logging
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from threading import RLock
from typing import BinaryIO

import PIL
from PIL import Image, UnidentifiedImageError

from thaw.data.find import format_of

MEGAPIXELS = 120  # of a photo, decoded; phones make 108
# Decoders of these formats keep pixels several times.
MOST = {kind: 80 for kind in ("WEBP", "JPEG2000", "AVIF", "HEIF")}
LARGE_MEGAPIXELS = 64  # from which on photos are decoded one at a time, however many threads ask
LONGEST = 100_000  # pixels of a side
SLOW_MEGAPIXELS = 4  # of a photo that is decoded in Python
SCANS = 1500  # megapixels times the passes that a progressive JPEG takes over them

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what is wrong is said by `reason`
_one_large = RLock()


class _Unfit(Exception):
    """A reason in our own words."""


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
        _check_size(kind, *_webp_size(head))
    if kind == "HEIF":
        _read_heif()
    _quieten_libtiff()
    try:
        image = Image.open(path, formats=[kind])
    except (UnidentifiedImageError, SyntaxError) as error:
        raise _Unfit(f"a damaged {kind}, or of a sort that can't be read") from error
    with image:
        _check_size(kind, *image.size)
        large = _megapixels(image) > LARGE_MEGAPIXELS
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
        with _one_large if large else nullcontext():
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


def _check_size(kind: str, width: int, height: int) -> None:
    megapixels, most = width * height / 1e6, MOST.get(kind, MEGAPIXELS)
    if megapixels > most:
        raise _Unfit(f"it has {megapixels:,.0f} megapixels, and at most {most} are decoded")
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


def reason(error: Exception) -> str:
    """In a few words, why a photo can't be decoded."""
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
