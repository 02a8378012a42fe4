"""Download files and folders of photos: resumed, checked, and put in place whole or not at all.

requests, rich and filelock are imported where they are used, so that importing this is cheap.
"""

import hashlib
import logging
import os
import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

from thaw import screen
from thaw.errors import UserError

TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of the body
ATTEMPTS = 4
BACKOFF = 1.0  # seconds before the second attempt, doubled before each later one
CHUNK, MB = 1 << 18, 10**6  # bytes
MAX_UNZIPPED = 20 * 10**9  # bytes
MAX_RATIO = 200  # unzipped bytes per byte of archive: photos hardly shrink, zip bombs do

log = logging.getLogger(__name__)


def download(url: str, path: Path, sha256: str | None = None) -> Path:
    """Download `url` to `path` unless it is there; return `path`.

    `sha256` is a hex digest or the beginning of one. Raises `UserError`, whatever went wrong.
    """
    if path.is_file():
        return path
    with _explained(f"{url} cannot be fetched", f"the file at {path.absolute()}"), _locked(path):
        if not path.is_file():  # another process may have put it there while this one waited
            part = path.with_name(f"{path.name}.part")
            _fill(part, url, sha256)
            part.replace(path)
    return path


def fetch_folder(url: str, root: Path, sha256: str | None = None, inner: str | None = None) -> None:
    """Download a zip of photos and put it at `root`, unless `root` is there and not empty.

    `inner` is the folder inside the archive that becomes `root`; without it, `root` gets all of
    the archive. Raises `UserError`, whatever went wrong.
    """
    root = root.resolve()  # so that "beside" means the same disk, even if `root` is a link
    with _explained(f"{url} cannot be fetched", f"the unzipped folder at {root}"):
        if _has_content(root):  # asked before the lock, which a read-only disk would refuse
            return
        with _locked(root):
            if _has_content(root):
                return
            archive = root.with_name(f"{root.name}.zip.part")
            unzipped = root.with_name(f".{root.name}.unzipping")
            _fill(archive, url, sha256)
            try:
                shutil.rmtree(unzipped, ignore_errors=True)  # of a run that was killed
                unzip(archive, unzipped)
                source = unzipped / (inner or "")
                if not _has_content(source):
                    raise UserError(f"the archive has nothing in {inner or 'it'}")
                if root.exists():
                    root.rmdir()
                source.rename(root)
            finally:
                shutil.rmtree(unzipped, ignore_errors=True)
                archive.unlink(missing_ok=True)


def unzip(archive: Path, folder: Path) -> None:
    """Unpack `archive` into `folder`, without the clutter that macOS adds.

    Raises `UserError` if it would write outside `folder`, holds links, or expands to more than
    `MAX_UNZIPPED` bytes or `MAX_RATIO` times its size; these checks come before the first file is
    written. A damaged archive or a full disk raises it too, and may leave some files behind.
    """
    with _explained(f"{archive.name} cannot be unzipped"), zipfile.ZipFile(archive) as zipped:
        members = zipped.infolist()
        for member in members:
            name = PureWindowsPath(member.filename)  # knows / and \ and drives, on every system
            if name.anchor or ".." in name.parts:
                raise UserError(f"its member {member.filename!r} lies outside the folder")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise UserError(f"its member {member.filename!r} is a symbolic link")
        # The sizes are the archive's own claim, but zipfile never writes more than they say.
        size = sum(member.file_size for member in members)
        if size > min(MAX_UNZIPPED, MAX_RATIO * archive.stat().st_size):
            raise UserError(f"it would expand to {size:,} bytes, more than a folder of photos can")
        folder.mkdir(parents=True, exist_ok=True)
        for member in members:
            parts = PureWindowsPath(member.filename).parts
            if "__MACOSX" not in parts and ".DS_Store" not in parts:
                zipped.extract(member, folder)


def _has_content(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _fill(part: Path, url: str, sha256: str | None) -> None:
    """Bring `part` to the full, checked content of `url`, from what it already holds."""
    from requests import RequestException

    headers = {"Accept-Encoding": "identity"}  # so that lengths and ranges count the file's bytes
    what = f"downloading {part.name.removesuffix('.part')}"
    screen.tell(f"{what} …")
    with screen.Steps(what, 0, "MB") as shown:
        for attempt in range(ATTEMPTS):
            if not (sha256 or "If-Range" in headers):  # nothing would tell a mix of two versions
                part.unlink(missing_ok=True)
            try:
                _receive(part, url, headers, lambda n, of: shown.at(n // MB, (of or 0) // MB))
                break
            except RequestException as error:
                status = 0 if error.response is None else error.response.status_code
                may_pass = status >= 500 or status in (0, 408, 429)
                malformed = isinstance(error, ValueError)  # the address
                if malformed or not may_pass or attempt == ATTEMPTS - 1:
                    raise
                log.debug("%s: %s; trying again", url, _reason(error))
                time.sleep(BACKOFF * 2**attempt)
    if sha256:
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(sha256.lower()):
            part.unlink()
            raise UserError(f"its SHA-256 checksum is {digest} instead of {sha256}")


def _receive(
    part: Path, url: str, headers: dict[str, str], report: Callable[[int, int | None], None]
) -> None:
    """Ask once for what `part` lacks, and append it; `headers` keeps the ETag for the next time."""
    import requests

    done = part.stat().st_size if part.exists() else 0
    wanted = {"Range": f"bytes={done}-"} if done else {}
    with requests.get(url, headers=headers | wanted, timeout=TIMEOUT, stream=True) as response:
        appends = response.status_code == 206
        given = response.headers.get("Content-Range", "")
        if response.status_code == 416 and given == f"bytes */{done}":
            return  # it was complete: the earlier run ended between the last byte and the rename
        if response.status_code == 416 or (appends and not given.startswith(f"bytes {done}-")):
            part.unlink(missing_ok=True)  # longer than the file, or not the range asked for
            raise requests.exceptions.ChunkedEncodingError(given)
        response.raise_for_status()
        if not appends:
            done = 0  # the server sends all of it: it knows no ranges, or the file has changed
        headers.pop("If-Range", None)
        etag = response.headers.get("ETag", "W/")
        if not etag.startswith("W/"):  # a weak one does not promise the same bytes
            headers["If-Range"] = etag
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if done else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                done += file.write(chunk)
                report(done, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise requests.exceptions.ChunkedEncodingError(f"{done} of {total} bytes")


def _reason(error: Exception) -> str:
    """Say in plain words what went wrong."""
    import requests.exceptions as web

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, web.RequestException) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}".strip()
    if isinstance(error, web.Timeout) or "timed out" in str(error):
        return "the connection timed out"  # within the body, requests calls it a ConnectionError
    for kind, words in (
        ((web.InvalidURL, web.InvalidSchema, web.MissingSchema), "it is not an http(s) address"),
        (web.ChunkedEncodingError, "the server did not send all of it"),
        (web.ProxyError, "the proxy cannot be reached or refuses"),
        (web.SSLError, "the server's certificate cannot be verified"),
        (web.ConnectionError, "the server cannot be reached (is there a network?)"),
        (zipfile.BadZipFile, "it is damaged or not a zip archive"),
    ):
        if isinstance(error, kind):
            return words
    if isinstance(error, OSError) and error.strerror:  # "no space left on device", say
        return f"{error.strerror.lower()} {error.filename or ''}".strip()
    return f"{type(error).__name__}, {' '.join(str(error).split())}"


@contextmanager
def _explained(problem: str, missing: str = "") -> Iterator[None]:
    """Turn whatever goes wrong inside into one sentence, with what the user can put where."""
    try:
        yield
    except Exception as error:  # a damaged archive alone fails in more ways than one can list
        remedy = f"; if you have it, put {missing} yourself" if missing else ""
        raise UserError(f"{problem}: {_reason(error)}{remedy}") from error


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Wait until no other thread or process fetches `target`, then make the others wait.

    The kernel drops this lock with its process, so whoever holds it may resume what is there; a
    pid in the partial name could not be told alive from dead across containers and machines.
    """
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        yield
