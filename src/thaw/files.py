"""Files that are whole or absent at any moment. Nothing here imports torch."""

import csv
import errno
import io
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from thaw.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

DPI = 120  # of figures
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path to write to; what is there at the end takes the place of `path`, whole.

    After an error nothing is left of it. What killed processes left of earlier ones is removed.

    Raises:
        OSError: the folder can't be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_overs(path.parent, path.name)
    own = f"{os.getpid()}-{threading.get_native_id()}"
    partial = path.with_name(f".{path.name[:200]}.{own}.partial")
    lock = _locked(partial)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
        lock.close()


def _locked(partial: Path) -> IO[bytes]:
    """The new file, held until it is closed, so that others see it is being written."""
    while True:
        file = partial.open("wb")
        if fcntl:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if partial.exists():
            return file
        file.close()  # another process took it for a left-over, in between


def remove_left_overs(folder: Path, name: str = "*") -> None:
    """Remove what killed processes were writing in a folder; living ones are left alone.

    Args:
        name: of the file that was to be; of all by default.
    """
    if fcntl is None:
        return
    kept = "*" if name == "*" else re.sub(r"([*?[])", r"[\1]", name[:200])
    for partial in folder.glob(f".{kept}.*-*.partial"):
        with suppress(OSError), partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
            partial.unlink()


def reserve(path: Path, size: int) -> None:
    """Claim space on the disk for a file that is about to be written into.

    Native writers don't survive a disk that fills up under them; this raises before they begin.

    Raises:
        OSError: there isn't that much.
    """
    if not hasattr(os, "posix_fallocate") or size <= 0:
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in FULL:
                raise OSError(error.errno, error.strerror, str(path)) from None
        finally:
            os.ftruncate(file.fileno(), 0)


def check_output(
    path: Path, option: str, suffixes: Sequence[str] = (), folder: bool = False
) -> None:
    """Raise UserError unless a file, or with `folder` a folder, can be written there.

    Folders above it that are missing are made when it is written.

    Args:
        option: how the user gave it, such as `--csv`.
        suffixes: what the file's name may end in.
    """
    kind = "a folder" if folder else "a file"
    said = f"Expected {kind} that can be written in {option} {path}"
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{said}, whose name ends in {' or '.join(suffixes)}.")
    try:
        if path.exists() and path.is_dir() != folder:
            raise UserError(f"{said}, but it is a {'file' if folder else 'folder'}.")
        place = path if folder else path.parent
        above = next(p for p in (place, *place.absolute().parents) if p.exists())
        if not above.is_dir():
            raise UserError(f"{said}, but {above} is a file.")
        if not folder and path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "it may not be written")
        with tempfile.TemporaryFile(dir=above) as file:
            file.write(b"1")
    except OSError as error:
        raise UserError(f"{said}, but {error.strerror or error}.") from error


def write(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one."""
    with beside(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """As `write`, for plain values."""
    write(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_over(path: Path, values: Any) -> None:
    """As `write_json`, but on a full disk into the file that is there: better than the old."""
    try:
        write_json(path, values)
    except OSError as error:
        if error.errno not in FULL or not path.is_file():
            raise
        text = json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"
        with path.open("r+b") as file:  # what the file has already needs no new space
            file.write(text)
            file.truncate()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """As `write`, for rows of the same columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def write_figure(path: Path, figure: "Figure | Image") -> None:
    """As `write`, for a figure of matplotlib's or a picture of Pillow's, as PNG."""
    from PIL.Image import Image

    # The best compression would take as long as the drawing, for a tenth of the size.
    fast: dict[str, Any] = {"compress_level": 1}
    with beside(path) as partial:
        if isinstance(figure, Image):
            figure.save(partial, format="PNG", **fast)
            return
        figure.set_dpi(DPI)
        if engine := figure.get_layout_engine():
            # `savefig` would draw all of the figure once more, to find out where things are.
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(partial, dpi=DPI, format="png", pil_kwargs=fast)
