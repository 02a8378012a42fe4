"""Find photos below a folder, and say of whatever else lies there why it is left out."""

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from thaw.errors import UserError

EXTENSIONS = {  # and the format that each says, as `format_of` calls it
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    ".png": "PNG",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    ".webp": "WEBP",
    ".gif": "GIF",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), "PPM"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".jpf", ".j2c"), "JPEG2000"),
    ".avif": "AVIF",
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
}
# What cameras write beside photos. Many are TIFF by their first bytes, with a thumbnail in front.
RAW = {
    *(".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".kdc", ".mrw", ".nef", ".nrw", ".orf"),
    *(".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}

MANIFEST = "shapes.json"  # what data=shapes drew: Thaw's own, so not a word about it

# What operating systems, NAS and editors leave in folders; names in lower case.
SYSTEM = {
    *("__macosx", "icon\r", "network trash folder", "temporary items"),  # macOS
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler"),  # Windows
    *("system volume information", "lost+found", "__pycache__"),
    "imagenotfound.gif",  # what a site sent in place of a photo: hymenoptera's, for one
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@transcode"),  # Synology, QNAP
}
THUMBNAILS = ("synophoto_thumb", "synofile_thumb", "synothumb")


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that isn't used, and why: its extension, or a few words."""

    path: Path
    reason: str


@dataclass
class Found:
    """What lies below a folder: photos in the order of their paths, and what isn't used."""

    photos: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def find(root: Path) -> Found:
    """Find the photos below a folder, which may itself be hidden: one that is named is meant.

    A file with a photo's extension is taken for one; whether it decodes comes later. A file without
    any extension is a photo if it begins as one. Links are followed, unless they lead in a circle.
    """
    photos, left_out = walk(root)
    return Found([*map(Path, photos)], left_out)


def walk(root: Path) -> tuple[list[str], list[LeftOut]]:
    """As `find`, with paths as text: of 100,000 photos, making a `Path` of each takes a second."""
    photos: list[str] = []
    left_out: list[LeftOut] = []
    _walk(str(root), [], photos, left_out)
    left_out.sort(key=lambda left: left.path)
    return photos, left_out


def _walk(
    folder: str, above: list[tuple[int, int]], photos: list[str], left_out: list[LeftOut]
) -> None:
    try:
        here = _identity(os.stat(folder))
        with os.scandir(folder) as inside:
            entries = sorted(inside, key=lambda entry: entry.name)
    except OSError:
        left_out.append(LeftOut(Path(folder), "folder that can't be read"))
        return
    if here in above:
        left_out.append(LeftOut(Path(folder), "link in a circle"))
        return
    for entry in entries:
        name, path = entry.name, os.path.join(folder, entry.name)
        if name == MANIFEST:
            continue
        if is_clutter(name):
            left_out.append(LeftOut(Path(path), "hidden or of the system"))
            continue
        try:
            if entry.is_dir():
                _walk(path, [*above, here], photos, left_out)
                continue
            # Known without asking the disk, but for links.
            regular = entry.is_file() or stat.S_ISREG(entry.stat().st_mode)
        except OSError as error:  # ELOOP: a link to itself
            reason = "dead link" if isinstance(error, FileNotFoundError) else "link in a circle"
            left_out.append(LeftOut(Path(path), reason))
            continue
        if reason := _no_photo(path, regular):
            left_out.append(LeftOut(Path(path), reason))
        else:
            photos.append(path)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left by a system and not by a user."""
    name = name.lower()
    return name.startswith((".", "~$", *THUMBNAILS)) or name in SYSTEM


def _no_photo(path: str, regular: bool) -> str:
    """Why a file is left out; empty for a photo."""
    if not regular:
        return "neither file nor folder"  # reading a pipe would wait forever
    if os.path.splitext(path)[1].lower() in EXTENSIONS:
        return ""
    suffix = Path(path).suffix.lower()
    if suffix in RAW:
        return f"{suffix} (camera raw: export it as JPEG)"
    if not begins_as_photo(Path(path)):
        return suffix or "without extension"
    return f"{suffix} that is a photo by its content (rename it)" if suffix else ""


def begins_as_photo(path: Path) -> bool:
    """Whether the first bytes are those of a format that Thaw reads."""
    try:
        with path.open("rb") as file:
            return format_of(file.read(32)) is not None
    except OSError:
        return False


def format_of(head: bytes) -> str | None:
    """The format, as Pillow calls it, of a file with these first 32 bytes; None if it is no photo.

    `HEIF` has the brands of photos alone: films are in the same container.
    """
    if head[4:8] == b"ftyp":
        brands = {head[i : i + 4] for i in (8, *range(16, len(head) - 3, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIF" if brands & {b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"} else None
    if head[:4] == b"RIFF":
        return "WEBP" if head[8:12] == b"WEBP" else None
    if head[:1] == b"P":
        return "PPM" if head[1:2] in b"123456fF" and head[2:3].isspace() else None
    signatures = {
        b"\xff\xd8\xff": "JPEG",
        b"\x89PNG\r\n\x1a\n": "PNG",
        b"BM": "BMP",
        b"GIF8": "GIF",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"II+\0": "TIFF",
        b"MM\0+": "TIFF",
        b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
        b"\xff\x4f\xff\x51": "JPEG2000",
    }
    return next((name for begin, name in signatures.items() if head.startswith(begin)), None)


def counted(left_out: Iterable[LeftOut]) -> str:
    """What was left out, in numbers: `6 .txt, 2 dead link`."""
    counts = Counter(left.reason for left in left_out)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def is_photo(path: Path | str, root: Path | None = None) -> bool:
    """Whether the name is that of a photo, and nothing that is hidden or left by a system.

    Args:
        root: the folder below which no part of the path may be hidden.
    """
    path = Path(path)
    parts = path.relative_to(root).parts if root else (path.name,)
    return path.suffix.lower() in EXTENSIONS and not any(map(is_clutter, parts))


def find_photos(places: Iterable[Path], left_out: list[LeftOut] | None = None) -> list[Path]:
    """Photos that are named or lie below the folders named, sorted within each.

    Args:
        left_out: gets what else lies below the folders.

    Raises:
        UserError: a place doesn't exist, or no photo is found.
    """
    places = list(places)
    missing = [str(place) for place in places if not place.exists()]
    if missing:
        names = ", ".join(missing)
        raise UserError(f"Expected photos or folders of photos, but there is no {names}.")
    found, others = list[Path](), list[LeftOut]()
    for place in places:
        inside = find(place) if place.is_dir() else Found([place])
        found += inside.photos
        others += inside.left_out
    if not found:
        besides = f" (left out: {counted(others)})" if others else ""
        raise UserError(
            f"Found no photos in {[str(place) for place in places]}{besides}; their names end in"
            f" one of {', '.join(EXTENSIONS)}."
        )
    if left_out is not None:
        left_out += others
    return found


def find_and_tell(places: Iterable[Path]) -> list[Path]:
    """As `find_photos`; what isn't used is told on stderr, in the words of training.

    Raises:
        UserError: as `find_photos`.
    """
    left_out: list[LeftOut] = []
    paths = find_photos(places, left_out)
    if left_out:
        print(f"not used: {counted(left_out)}", file=sys.stderr)
    return paths
