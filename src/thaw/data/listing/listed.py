"""What a folder or a table says: photos with a class and a split, and what isn't used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thaw.data.pixels.opening import printable


@dataclass
class Entry:
    """A photo as it is listed.

    Args:
        path: below the listing's root, with `/`; absolute where it lies elsewhere.
        label: its class's name.
        split: train, val or test; where no val or test is given, it is cut from train.
        group: what it belongs with: a table's column, or the folders between class and photo.
    """

    path: str
    label: str
    split: str
    group: str | None = None


@dataclass
class Listing:
    """Photos in the order of their paths, and all that is to be said of how they were found.

    Args:
        root: what paths begin in.
        splits: those that are given, and where: a folder's name, or a column's.
        empty: classes without photos, as (split, class).
        notes: what was chosen where several things were possible.
        unused: what else lies there, and why it isn't used.
        known: files that lie there and aren't listed.
        groups: what a table's column of groups is called, if there is one.
    """

    root: Path
    entries: list[Entry] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)
    empty: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    groups: str | None = None


def few(names: Iterable[object], most: int = 3) -> str:
    """The first names of many, and how many more there are.

    >>> few(["a", "b", "c", "d"]), few(["a", "b"])
    ('a, b, c and 1 more', 'a, b')
    """
    every = [printable(str(name)) for name in names]
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def many(count: int, what: str = "photo") -> str:
    """So many of something, in words.

    >>> many(1), many(1200, "row")
    ('1 photo', '1,200 rows')
    """
    return f"{count:,} {what}{'s' if count != 1 else ''}"


def counts(labels: Sequence[str]) -> str:
    """How many of each label there are, the most frequent first: `cat (12), dog (3)`."""
    found: dict[str, int] = {}
    for label in labels:
        found[label] = found.get(label, 0) + 1
    return few((f"{k} ({n:,})" for k, n in sorted(found.items(), key=lambda x: -x[1])), 5)
