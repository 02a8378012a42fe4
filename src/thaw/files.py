"""Files that are whole or absent at any moment. Nothing here imports torch."""

import csv
import errno
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from thaw.errors import UserError
from thaw.escape import cell

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

if TYPE_CHECKING:
    from torch import Tensor

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path to write to; what is there at the end takes the place of `path`, whole.

    After an error nothing is left of it. What killed processes left of earlier ones is removed.

    Raises:
        OSError: the folder can't be made or written.
    """
    with _partial(path, Path.touch) as partial:
        yield partial
        os.replace(partial, path)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A folder to write in, beside `path`; gone at the end, with what was not moved out of it.

    For what makes many files, or further ones beside what it is told to write. What killed
    processes left of theirs is removed.

    Raises:
        OSError: the folder can't be made or written.
    """
    with _partial(path, Path.mkdir) as partial:
        yield partial


@contextmanager
def _partial(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """What `make` makes beside `path`, gone at the end."""
    new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    remove_left_overs(path.parent, path.name)
    own = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    partial = path.with_name(f".{path.name[:200]}.{own}.partial")
    lock = _locked(partial, make)
    try:
        yield partial
    finally:
        _remove(partial)
        os.close(lock)
        for folder in new:
            with suppress(OSError):  # what was made for nothing is empty
                folder.rmdir()


def _locked(partial: Path, make: Callable[[Path], None]) -> int:
    """A handle on the new file or folder: until it is closed, others see that it is in use."""
    while True:
        with suppress(FileNotFoundError):
            partial.parent.mkdir(parents=True, exist_ok=True)  # another may just have removed it
            make(partial)
            handle = os.open(partial if fcntl else os.devnull, os.O_RDONLY)
            if fcntl:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(handle, fcntl.LOCK_EX)
            if partial.exists():
                return handle
            os.close(handle)  # another process took it for a left-over, in between


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def remove_left_overs(folder: Path, name: str = "*") -> None:
    """Remove what killed processes were writing in a folder; living ones are left alone.

    Args:
        name: of the file that was to be; of all by default.
    """
    if fcntl is None:
        return
    kept = "*" if name == "*" else re.sub(r"([*?[])", r"[\1]", name[:200])
    for partial in folder.glob(f".{kept}.*-*.partial"):
        with suppress(OSError):
            handle = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                _remove(partial)
            finally:
                os.close(handle)


def reserve(file: IO[bytes], size: int) -> None:
    """Claim space on the disk for what is about to be written: `truncate` what isn't needed.

    A native writer may not survive a disk that fills up under it; this raises before it begins.

    Raises:
        OSError: there isn't that much.
    """
    if hasattr(os, "posix_fallocate") and size > 0:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in FULL:  # others: this file system can't, but it may have the space
                raise OSError(error.errno, error.strerror, file.name) from None


def check_inputs(*inputs: tuple[str, Path | None]) -> None:
    """See before the work whether what it needs is there.

    Args:
        inputs: what it is for the user, such as `--data`, and where; None is nothing.

    Raises:
        UserError: a line for each that isn't.
    """
    missing = [f"There is no {path} ({what})." for what, path in inputs if path and not _is(path)]
    if missing:
        raise UserError("\n".join(missing))


def _is(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name longer than any can be, or with a NUL
        return False


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], facts: dict[str, str] | None = None):
    """As `write`, for tensors and what is said of them, as safetensors; they are on the disk then.

    Raises:
        OSError: they can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with scratch(path) as folder:  # safetensors writes to a file of its own name, then renames it
        partial = folder / path.name
        try:
            save_file(dict(tensors), partial, facts)
        except SafetensorError as error:  # its own kind for a full disk
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else 0, str(error), str(path)) from error
        partial.chmod(0o666 & ~_umask())  # which only the owner could read
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


PICTURES = (".png", ".svg", ".pdf")
FOLDER = ()  # in place of suffixes


def check_outputs(*outputs: tuple[str, Path | str | None, Sequence[str]]) -> None:
    """See before the work whether what it makes can be written.

    Folders that are missing are made when something is written.

    Args:
        outputs: the option, such as `--csv`; where to, None and `-` being nowhere; the suffixes
            that the file may have, or `FOLDER`.

    Raises:
        UserError: a line for each that can't.
    """
    problems = [
        problem
        for option, place, suffixes in outputs
        if place is not None and place != "-"
        if (problem := _why_not(option, Path(place), suffixes))
    ]
    if problems:
        raise UserError("\n".join(problems))


def _why_not(option: str, path: Path, suffixes: Sequence[str]) -> str | None:
    folder = suffixes == FOLDER
    said = f"Expected {'a folder' if folder else 'a file'} that can be written in {option} {path}"
    if suffixes and path.suffix.lower() not in suffixes:
        return f"{said}, whose name ends in {' or '.join(suffixes)}."
    try:
        if path.exists() and path.is_dir() != folder:
            return f"{said}, but it is a {'file' if folder else 'folder'}."
        place = path if folder else path.parent
        above = next(p for p in (place, *place.absolute().parents) if p.exists())
        if not above.is_dir():
            return f"{said}, but {above} is a file."
        with tempfile.TemporaryFile(dir=above) as file:
            file.write(b"1")
            file.flush()
    except OSError as error:
        return f"{said}, but {(error.strerror or str(error)).lower()}."
    return None


def write(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one.

    Bytes of a file name that are no text become `\\udc…`, which in JSON stands for the same bytes.
    """
    with beside(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


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
    write(path, csv_text(rows))


def csv_text(rows: Sequence[Mapping[str, Any]], header: bool = True) -> str:
    """Rows of the same columns as CSV; no text in it is a formula to a spreadsheet."""
    lines = [_csv_line(rows[0])] if header else []
    return "".join([*lines, *(_csv_line(row.values()) for row in rows)])


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # with it, either sign in a cell is quoted
    writer.writerow(cell(value) if isinstance(value, str) else value for value in values)
    return text.getvalue().removesuffix("\r\n") + "\n"
