"""What a machine refuses, in a sentence: a full disk, a folder that isn't there, too little memory.

Libraries tell it in many ways; some wrap the system's error, some only quote it.
"""

import errno
import os
import re
import sqlite3
from collections.abc import Iterator

# What to do about it, by the system's number.
ADVICE = {
    errno.ENOSPC: "make room, or choose another place (hydra.run.dir=…, cache.dir=…, --out …)",
    errno.EDQUOT: "make room, or choose another place (hydra.run.dir=…, cache.dir=…, --out …)",
    errno.EFBIG: "the system limits how large a file may be (ulimit -f)",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "choose another place, or ask for the right to use this one",
    errno.EPERM: "choose another place, or ask for the right to use this one",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or lower data.workers",
    errno.ENFILE: "raise the limit on open files (ulimit -n), or lower data.workers",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENAMETOOLONG: "choose a shorter name",
}
QUOTED = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]|errno:? (\d+)")
MEMORY = re.compile(
    r"can't allocate memory|out of memory|not enough memory|Cannot allocate memory|bad_alloc"
    r"|Unable to allocate",
    re.IGNORECASE,
)
SHARED = re.compile(r"shared memory|/torch_\d|/dev/shm|Bus error", re.IGNORECASE)
KILLED = re.compile(r"DataLoader worker.*(exited unexpectedly|killed by signal)", re.DOTALL)


class Refused(BaseException):
    """A UserError on its way out past Hydra, which would print more about it."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        super().__init__(sentence)


def sentence(error: BaseException) -> str | None:
    """What the machine refused; None if it is no such failure."""
    chain = list(_chain(error))
    texts = "\n".join(str(found) for found in chain)
    if KILLED.search(texts) or (SHARED.search(texts) and "RuntimeError" in map(_name, chain)):
        where = "/dev/shm is too small" if SHARED.search(texts) else "it ran out of memory"
        return (
            f"A loader process of data.workers was killed, most likely since {where}; use fewer of"
            " them, a smaller data.batch_size, or none (data.workers=0)."
        )
    if any(isinstance(found, MemoryError) for found in chain) or MEMORY.search(texts):
        size = re.search(r"allocate ([\d.]+ ?\w*)", texts)
        amount = f" (it asked for {size[1]})" if size else ""
        return (
            f"There isn't enough memory{amount}; use a smaller data.batch_size, a smaller arch, or"
            " fewer data.workers."
        )
    for found in chain:
        if isinstance(found, OSError) and found.errno:
            return _of_system(found.errno, found.filename)
        if isinstance(found, sqlite3.OperationalError):
            return f"The study's database can't be used: {found}."
    if quoted := QUOTED.search(texts):
        return _of_system(int(next(filter(None, quoted.groups()))), None)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from; what a native library caught, it doesn't name as a cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        native = type(error) is RuntimeError or type(error).__name__ == "SafetensorError"
        error = error.__cause__ or (error.__context__ if native else None)


def _name(error: BaseException) -> str:
    return type(error).__name__


def _of_system(number: int, place: object) -> str:
    what = os.strerror(number)
    where = f"{os.fsdecode(place)}: " if isinstance(place, str | bytes | os.PathLike) else ""
    advice = f"; {ADVICE[number]}" if number in ADVICE else ""
    return f"{where}{what[:1].lower() if where else what[:1]}{what[1:]}{advice}."
