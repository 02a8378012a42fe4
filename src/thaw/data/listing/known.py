"""What was read of photos before: digests, and whether they decode. Unchanged files aren't read.

Kept in an SQLite file that all runs share: path, size and time of change tell whether a photo is
still the one that was read. Where it can't be written, nothing is kept.
"""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from rich import get_console
from rich.progress import track

from thaw.data.photos import broken_photos, digests

log = logging.getLogger(__name__)
FORMAT = 1  # raise it whenever a photo that decoded before may not, or the other way round
BUNCH = 512  # photos that are read before what was found is written
MANY = 2000  # photos from which on a bar shows that something is done
Version = tuple[str, int, int]  # path, bytes, time of change


class Known:
    """Digests and faults of photos, read once for each version of a file.

    Args:
        file: where they are kept; None keeps them in this process.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.memory: dict[str, dict[Version, str]] = {"digest": {}, "fault": {}}

    def digests(self, paths: Sequence[Path]) -> list[str]:
        """sha256 of each file's bytes.

        Raises:
            OSError: a file can't be read.
        """
        return self._ask("digest", paths, digests)

    def faults(self, paths: Sequence[Path]) -> dict[Path, str]:
        """Photos that don't decode, with the reason."""

        def why(some: list[Path]) -> list[str]:
            broken = broken_photos(some)
            return [broken.get(path, "") for path in some]

        found = zip(paths, self._ask("fault", paths, why), strict=True)
        return {path: reason for path, reason in found if reason}

    def alike(self, paths: Sequence[Path]) -> list[int]:
        """A number for each photo's content: photos of the same bytes have the same.

        Only photos of one size can be the same, so few are read.
        """
        sizes: dict[int, list[int]] = {}
        for i, path in enumerate(paths):
            sizes.setdefault(_version(path)[1], []).append(i)
        several = sorted(i for same in sizes.values() if len(same) > 1 for i in same)
        numbers, first = list(range(len(paths))), dict[str, int]()
        for i, digest in zip(several, self.digests([paths[i] for i in several]), strict=True):
            numbers[i] = first.setdefault(digest, i)
        return numbers

    def _ask(
        self, what: str, paths: Sequence[Path], read: Callable[[list[Path]], list[str]]
    ) -> list[str]:
        memory = self.memory[what]
        versions = [_version(path) for path in paths]
        missing = {v: p for v, p in zip(versions, paths, strict=True) if v not in memory}
        if missing:
            memory.update(self._kept(what, missing))
        unread = [(version, path) for version, path in missing.items() if version not in memory]
        faults: dict[Version, str] = {}
        bunches = [unread[i : i + BUNCH] for i in range(0, len(unread), BUNCH)]
        for bunch in _bar(bunches, len(unread)):
            found = read([path for _, path in bunch])
            fresh = {v: value for (v, _), value in zip(bunch, found, strict=True)}
            if what == "fault":  # asked again: who mends a disk or a permission changes no file
                faults.update({v: why for v, why in fresh.items() if why})
                fresh = {v: "" for v in fresh if v not in faults}
            memory.update(fresh)
            self._keep(what, fresh)
        return [faults.get(version) or memory.get(version, "") for version in versions]

    def _kept(self, what: str, missing: Iterable[Version]) -> dict[Version, str]:
        if self.file is None or not self.file.is_file():
            return {}
        try:
            with closing(self._open()) as db:
                db.execute("CREATE TEMP TABLE asked (path TEXT PRIMARY KEY)")
                rows = ((_text(path),) for path, _, _ in missing)
                db.executemany("INSERT OR IGNORE INTO asked VALUES (?)", rows)
                found = db.execute(
                    "SELECT path, size, time, value FROM known JOIN asked USING (path)"
                    " WHERE what = ?",
                    (what,),
                )
                rows = {(path, size, time): value for path, size, time, value in found}
        except sqlite3.Error as error:
            log.debug("%s can't be read: %s", self.file, error)
            return {}
        return {v: rows[key] for v in missing if (key := (_text(v[0]), v[1], v[2])) in rows}

    def _keep(self, what: str, fresh: dict[Version, str]) -> None:
        if self.file is None:
            return
        rows = [(what, _text(path), size, time, v) for (path, size, time), v in fresh.items()]
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as db, db:
                db.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?)", rows)
        except (sqlite3.Error, OSError) as error:  # full, read-only, damaged: it is only a memory
            log.debug("%s can't be written: %s", self.file, error)

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.file or ":memory:", timeout=10)
        db.execute("PRAGMA synchronous = OFF")
        db.execute(
            "CREATE TABLE IF NOT EXISTS known (what TEXT, path TEXT, size INTEGER, time INTEGER,"
            " value TEXT, PRIMARY KEY (what, path)) WITHOUT ROWID"
        )
        return db


def _version(path: Path) -> Version:
    name = os.path.abspath(path)
    try:
        stat = os.stat(name)
    except OSError:  # a link that leads nowhere
        return name, -1, 0
    return name, stat.st_size, stat.st_mtime_ns


def _text(path: str) -> str:
    """A path as SQLite takes it: names needn't be UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _bar(
    bunches: list[list[tuple[Version, Path]]], photos: int
) -> Iterable[list[tuple[Version, Path]]]:
    console = get_console()
    hidden = not console.is_terminal or photos < MANY
    return track(bunches, "reading photos", console=console, transient=True, disable=hidden)
