"""Features on disk: what a frozen prefix makes of photos, kept by content and shared by all runs.

A folder a prefix, in it files of rows ("segments") that never change once they are there: written
beside, synced, renamed. So readers need no lock, and a kill or a full disk leaves nothing half
done. What is asked for by content can't be stale; what is damaged counts as absent and is made
again. The least recently used segments go when there are more than `max_gb`.
"""

import json
import logging
import mmap
import os
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from torch import Tensor

from thaw.errors import UserError
from thaw.files import remove_left_overs, write_tensors

log = logging.getLogger(__name__)
TOUCHED = 64 * 2**20  # bytes read from a mapped file before its pages are given back
CHUNK = 2**20  # bytes that a checksum takes at once
DTYPES = {  # as safetensors calls them
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U8": torch.uint8,
}


class FeatureCache:
    """Features by prefix and photo, at most `max_gb` of them.

    Args:
        dir: the folder; it is made when something is written.
        max_gb: bound on the size of all, in 1e9 bytes.
        enabled: False keeps and finds nothing.

    Raises:
        UserError: a value is of the wrong kind.
    """

    def __init__(self, dir: str, max_gb: float = 10.0, enabled: bool = True) -> None:
        number = isinstance(max_gb, int | float) and not isinstance(max_gb, bool) and max_gb > 0
        checks: dict[str, tuple[bool, object, str]] = {
            "enabled": (isinstance(enabled, bool), enabled, "true or false"),
            "max_gb": (number, max_gb, "a number above 0"),
            "dir": (isinstance(dir, str) and bool(dir), dir, "a folder"),
        }
        wrong = [
            f"expected cache.{key} to be {valid}, got {value!r}"
            for key, (good, value, valid) in checks.items()
            if not good
        ]
        if wrong:
            raise UserError("The cache settings can't be used: " + "; ".join(wrong) + ".")
        self.dir, self.enabled = Path(os.path.expanduser(dir)), enabled
        self.max_bytes = int(max_gb * 1e9)
        self.shelves: dict[str, Shelf] = {}  # those of this process: their segments are in use

    def shelf(self, key: str) -> "Shelf":
        """The features of one prefix, which `key` names."""
        if key not in self.shelves:
            self.shelves[key] = Shelf(self.dir / key)
        return self.shelves[key]

    def make_room(self) -> None:
        """Drop the least recently used segments until the rest fits; none that this process uses.

        Another process that has one open keeps reading it: the file goes when it is closed.
        """
        used = {path for shelf in self.shelves.values() for path in shelf.segments}
        for folder in self.dir.glob("*/"):
            remove_left_overs(folder)
        ages = []
        for path in self.dir.glob("*/*.safetensors"):
            try:
                facts = path.stat()
            except FileNotFoundError:  # another process dropped it
                continue
            ages.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in ages)
        for _, size, path in sorted(ages):
            if total <= self.max_bytes:
                return
            if path not in used:
                path.unlink(missing_ok=True)
                total -= size


class Shelf:
    """The features of one prefix: a row a photo, found by the photo's name (a digest)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.segments: dict[Path, Segment] = {}
        self.places: dict[str, tuple[Segment, int]] = {}

    def refresh(self) -> None:
        """See what other processes have added; damaged files are removed."""
        for path in sorted(self.path.glob("*.safetensors")):
            if path in self.segments:
                continue
            try:
                segment = Segment(path)
            except FileNotFoundError:
                continue
            except Exception as error:  # whatever a damaged file makes the reader raise
                log.warning("%s is damaged (%s) and is made again.", path, error)
                path.unlink(missing_ok=True)
                continue
            self.segments[path] = segment
            for row, name in enumerate(segment.names):
                self.places.setdefault(name, (segment, row))

    def missing(self, names: Sequence[str]) -> list[str]:
        """Of these, those that have no features yet, each once."""
        return [name for name in dict.fromkeys(names) if name not in self.places]

    def add(self, names: Sequence[str], features: Tensor) -> None:
        """Keep features `[N, …]` of the photos named.

        Raises:
            OSError: they can't be written; nothing is left of them.
        """
        path = self.path / f"{uuid.uuid4().hex}.safetensors"
        last = features.ndim == 4  # channels last, as convolutions want them
        rows = (features.permute(0, 2, 3, 1) if last else features).contiguous()
        facts = {"names": json.dumps(list(names)), "crc32": str(_crc32(rows)), "last": str(last)}
        write_tensors(path, {"features": rows}, facts)
        self.refresh()

    def rows(self, names: Sequence[str]) -> "Rows":
        """The features of these photos, in this order; they count as used now.

        Raises:
            KeyError: one has none.
        """
        places = [self.places[name] for name in names]
        for segment in {id(s): s for s, _ in places}.values():
            try:
                os.utime(segment.path)
            except OSError:  # dropped by another process, but open here; or a foreign owner's
                continue
        return Rows(places)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside `with`, no other process computes features of this prefix.

        Raises:
            OSError: the folder can't be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another run is computing features with this net: waiting until it is done")
            lock.acquire()
        try:
            self.refresh()
            yield
        finally:
            lock.release()


class Segment:
    """One file of features, mapped into memory.

    Raises:
        ValueError: what is in the file isn't what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            piece = file.get_slice("features")
            shape, kind = piece.get_shape(), piece.get_dtype()
        self.names: list[str] = json.loads(facts["names"])
        self.last = facts["last"] == "True"
        dtype = DTYPES[kind]
        with path.open("rb") as file:
            begin = 8 + int.from_bytes(file.read(8), "little")  # safetensors: length, header, data
            file.seek(begin)
            crc = 0
            while chunk := file.read(CHUNK):  # not through the map: its pages would stay
                crc = zlib.crc32(chunk, crc)
            if str(crc) != facts["crc32"] or len(self.names) != shape[0]:
                raise ValueError("its checksum differs")
            # Private and writable, since torch wants it so; nothing writes.
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flat = torch.frombuffer(self.map, dtype=dtype, offset=begin)
        self.features = flat.reshape(shape)
        self.touched = 0

    def take(self, rows: Tensor) -> Tensor:
        """A copy of these rows as they are stored."""
        found = self.features.index_select(0, rows)
        self.touched += found.nbytes
        if self.touched > TOUCHED and hasattr(self.map, "madvise"):
            self.map.madvise(mmap.MADV_DONTNEED)  # or a process would seem to hold all that it read
            self.touched = 0
        return found


class Rows:
    """Features of photos in an order: `take([3, 7])` is `[2, …]`."""

    def __init__(self, places: list[tuple[Segment, int]]) -> None:
        segments = {id(segment): segment for segment, _ in places}
        numbers = {key: number for number, key in enumerate(segments)}
        self.segments = list(segments.values())
        self.places = torch.tensor([[numbers[id(s)], row] for s, row in places])

    def __len__(self) -> int:
        return len(self.places)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self.segments[0].features[0].nbytes

    def take(self, indices: Sequence[int]) -> Tensor:
        """Features of the photos at these places `[N, …]`, a copy."""
        wanted = self.places[torch.as_tensor(indices)]
        owners = wanted[:, 0].unique().tolist() if len(self.segments) > 1 else [0]
        if len(owners) == 1:
            rows = self.segments[owners[0]].take(wanted[:, 1])
        else:
            parts = [(wanted[:, 0] == owner).nonzero()[:, 0] for owner in owners]
            taken = zip(owners, parts, strict=True)
            found = [self.segments[owner].take(wanted[part, 1]) for owner, part in taken]
            rows = torch.cat(found)[torch.cat(parts).argsort()]
        return rows.permute(0, 3, 1, 2) if self.segments[0].last else rows


def _crc32(rows: Tensor) -> int:
    return zlib.crc32(rows.reshape(-1).view(torch.uint8).numpy().data)
