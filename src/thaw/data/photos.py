"""Photo files: decoding each the same way wherever Thaw meets it."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeVar

from PIL import Image

from thaw.data.find import EXTENSIONS
from thaw.data.pixels import deep
from thaw.data.pixels.opening import opened, printable, reason
from thaw.errors import UserError

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


class BrokenPhoto(UserError):
    """A photo can't be decoded, for this reason."""

    def __init__(self, path: Path | str | BinaryIO, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"Expected a photo in {printable(str(path))}, but it can't be decoded ({reason});"
            " repair or remove it."
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


def load_photo(
    path: Path | str | BinaryIO, white: deep.White | None = None, least: int | None = None
) -> Image.Image:
    """Decode a photo: EXIF rotation applied, then RGB of 8 bits, whatever it was stored in.

    Of animations and many pages it is the first.

    Args:
        white: the value of white where a channel has more than 8 bits, by kind; see `deep`.
        least: decode a JPEG to an eighth, a quarter or half of its size, as long as both sides
            have that many pixels, which is faster.

    Raises:
        BrokenPhoto: it is missing, no photo, too large, or damaged.
    """
    with quiet:  # damaged EXIF blocks and the like don't harm the pixels
        try:
            with opened(path) as image:
                kind = deep.kind(image)
                if kind is None:
                    if least:
                        image.draft(None, (least, least))
                    image.load()
                    seen = _to_rgb(image)
                else:
                    values = deep.Values(partial(opened, path))
                    image, seen = values.upper, values.seen((white or {}).get(kind))
                turn = _turn(image)
                return seen if turn is None else seen.transpose(turn)
        except Exception as error:
            raise BrokenPhoto(path, reason(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the way that Pillow asks for
    return image if image.mode == "RGB" else image.convert("RGB")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What puts a photo upright, once it is loaded; TIFF and HEIF have turned theirs by then."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # a damaged block doesn't harm the pixels
        return None
    orientation = image.info.get("only_in_exif", orientation)
    return TURNS.get(orientation) if isinstance(orientation, int) else None


# --- many of them ---------------------------------------------------------------------------------


Version = tuple[str, int, int]  # path, bytes, time of change
Name = TypeVar("Name", str, Path)  # of a file


@dataclass(frozen=True)
class Seen:
    """What is known of a photo that decodes.

    Args:
        format: that of its content.
        peak: kind and largest value, where a channel has more than 8 bits.
    """

    format: str
    peak: tuple[str, float] | None


def broken_photos(paths: Sequence[Name]) -> dict[Name, str]:
    """Photos that don't decode, with the reason. JPEGs are decoded at 1/8 size, which is fast."""
    unseen = [path for path in paths if version(path) not in decoded]
    with ThreadPoolExecutor() as pool:
        found = dict(zip(unseen, pool.map(_look, unseen), strict=True))
    whole = {path: seen for path, seen in found.items() if isinstance(seen, Seen)}
    decoded.update((version(path), seen) for path, seen in whole.items())
    return {path: seen for path, seen in found.items() if isinstance(seen, str)}


def white_of(paths: Sequence[str | Path]) -> dict[str, float]:
    """What is white in photos of more than 8 bits, which `broken_photos` has seen; see `deep`."""
    return deep.white_of(seen.peak for _, seen in _seen(paths) if seen.peak)


def misnamed(paths: Sequence[str | Path]) -> Counter[str]:
    """How many photos that `broken_photos` has seen have another format's name: `.jpg: PNG`."""
    named = ((os.path.splitext(path)[1].lower(), seen.format) for path, seen in _seen(paths))
    return Counter(f"{n}: {f}" for n, f in named if n and EXTENSIONS.get(n) != f)


def _seen(paths: Sequence[str | Path]) -> Iterator[tuple[str | Path, Seen]]:
    for path in paths:
        if seen := decoded.get(version(path)):
            yield path, seen


def digests(paths: Sequence[str | Path]) -> list[str]:
    """sha256 of files' bytes, which are read again only if their size or time has changed."""
    versions = [version(path) for path in paths]
    unread = [version for version in versions if version not in contents]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda v: hashlib.sha256(Path(v[0]).read_bytes()).hexdigest(), unread)
        contents.update(zip(unread, found, strict=True))
    return [contents[version] for version in versions]


# All jobs of a sweep ask for the same photos.
decoded: dict[Version, Seen] = {}  # that decoded
contents: dict[Version, str] = {}  # sha256


def version(path: str | Path) -> Version:
    """What tells whether a photo is still the one that was read."""
    name = os.fspath(path)
    try:
        stat = os.stat(name)
    except OSError:  # a link that leads nowhere
        return name, 0, 0
    return name, stat.st_size, stat.st_mtime_ns


def _look(path: str | Path) -> Seen | str:
    """What is to be known of a photo, or why it is broken."""
    with quiet:
        try:
            with opened(path) as image:
                format = "JPEG" if image.format == "MPO" else str(image.format)
                if kind := deep.kind(image):
                    return Seen(format, (kind, deep.Values(partial(opened, path)).peak()))
                if format == "JPEG":
                    image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
                image.load()
        except Exception as error:
            return reason(error)
    return Seen(format, None)
