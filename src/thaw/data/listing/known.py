"""What was read of photos before: digests, and that they decode. Unchanged files aren't read again.

Kept in an SQLite file that all runs share: path, size and time of change tell whether a photo is
still the one that was read. Where it can't be written, only this process remembers.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import PIL

from thaw.data.photos import (
    Name,
    Seen,
    Version,
    broken_photos,
    contents,
    decoded,
    digests,
    version,
)
from thaw.screen import steps

log = logging.getLogger(__name__)
BUNCH = 512  # photos that are read before what was found is written
MANY = 2000  # photos from which on a bar shows that something is done
SEEN = f"seen with Pillow {PIL.__version__}"  # another one may read other photos


class Known:
    """Digests and faults of photos, read once for each version of a file.

    Args:
        file: where they are kept; None keeps them in this process.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file

    def digests(self, paths: Sequence[str | Path]) -> list[str]:
        """sha256 of each file's bytes.

        Raises:
            OSError: a file can't be read.
        """
        versions = [version(path) for path in paths]
        self._recall("sha256", versions, contents, str)
        for bunch in _bar([p for p, v in zip(paths, versions, strict=True) if v not in contents]):
            found = zip(bunch, digests(bunch), strict=True)
            self._keep("sha256", {version(path): digest for path, digest in found})
        found = zip(paths, versions, strict=True)  # one may have changed meanwhile
        return [contents.get(v) or digests([path])[0] for path, v in found]

    def faults(self, paths: Sequence[Name]) -> dict[Name, str]:
        """Photos that don't decode, with the reason. Those are read again each time."""
        versions = [version(path) for path in paths]
        self._recall(SEEN, versions, decoded, _seen)
        found: dict[Name, str] = {}
        for bunch in _bar([p for p, v in zip(paths, versions, strict=True) if v not in decoded]):
            broken = broken_photos(bunch)
            found |= broken
            fresh = (version(path) for path in bunch if path not in broken)
            self._keep(SEEN, {v: json.dumps(asdict(decoded[v])) for v in fresh if v in decoded})
        return found

    def alike(self, paths: Sequence[str | Path]) -> list[int]:
        """A number for each photo's content: photos of the same bytes have the same.

        Only photos of one size can be the same, so few are read.
        """
        sizes: dict[int, list[int]] = {}
        for i, path in enumerate(paths):
            sizes.setdefault(version(path)[1], []).append(i)
        several = sorted(i for same in sizes.values() if len(same) > 1 for i in same)
        numbers, first = list(range(len(paths))), dict[str, int]()
        for i, digest in zip(several, self.digests([paths[i] for i in several]), strict=True):
            numbers[i] = first.setdefault(digest, i)
        return numbers

    # --- the file -----------------------------------------------------------------------------

    def _recall(
        self,
        what: str,
        versions: Iterable[Version],
        memory: dict[Version, Any],
        read: Callable[[str], Any],
    ) -> None:
        missing = [v for v in versions if v not in memory]
        if not missing or self.file is None or not self.file.is_file():
            return
        try:
            with closing(self._open()) as db:
                db.execute("CREATE TEMP TABLE asked (path TEXT PRIMARY KEY)")
                asked = ((_text(path),) for path, _, _ in missing)
                db.executemany("INSERT OR IGNORE INTO asked VALUES (?)", asked)
                rows = db.execute(
                    "SELECT path, size, time, value FROM known JOIN asked USING (path)"
                    " WHERE what = ?",
                    (what,),
                )
                kept = {(path, size, time): value for path, size, time, value in rows}
            for v in missing:
                if (value := kept.get((_text(v[0]), v[1], v[2]))) is not None:
                    memory[v] = read(value)
        except (sqlite3.Error, ValueError, TypeError) as error:
            log.debug("%s can't be read: %s", self.file, error)

    def _keep(self, what: str, fresh: dict[Version, str]) -> None:
        if self.file is None or not fresh:
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


@cache  # most photos are alike in it
def _seen(value: str) -> Seen:
    facts = json.loads(value)
    peak = facts["peak"]
    return Seen(facts["format"], None if peak is None else (str(peak[0]), float(peak[1])))


def _text(path: str) -> str:
    """A path as SQLite takes it: from the root on, and names needn't be UTF-8."""
    name = path if os.path.isabs(path) else os.path.abspath(path)
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _bar(paths: list[Any]) -> Iterable[list[Any]]:
    bunches = [paths[i : i + BUNCH] for i in range(0, len(paths), BUNCH)]
    return steps(bunches, "reading photos", len(paths), each=BUNCH, quiet=len(paths) < MANY)
