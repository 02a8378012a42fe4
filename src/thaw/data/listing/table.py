"""Labels from a table: columns `path` and `label`, and `split` and `group` where they are known."""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

from thaw.data.find import counted, find
from thaw.data.listing.listed import Entry, Listing, few, many
from thaw.data.listing.tree import CALLED
from thaw.errors import UserError
from thaw.escape import uncell

Row = dict[str, str]
NOTHING = ("nan", "NaN")  # what pandas and NumPy make of nothing
SHOWN = 80  # letters of a value
END = "\x03"  # a line after the last one: a value that it ends in has no end of its own


@dataclass(frozen=True)
class Table:
    """A table that was read: its columns as they are called in lower case, its rows, its note."""

    columns: list[str]
    rows: list[Row]
    note: str | None = None


def read(
    file: Path, root: Path | None, names: Mapping[str, str | None], group: str | None = None
) -> Listing:
    """List the photos that a table names; paths begin in its own folder, or in `root`.

    Args:
        names: what each split is called in the column `split`.
        group: `data.group`, which may be the name of another column than `group`.

    Raises:
        UserError: the table can't be read, or says two things of one photo.
    """
    table = read_rows(file, ["path", "label"], "data.file")
    home = root or file.parent
    if not home.is_dir():
        raise UserError(f"Expected a folder of photos in data.root={home}, but there is none.")
    by = next((c for c in (group and group.lower(), "group") if c in table.columns), None)
    listing = Listing(home, groups=by, notes=[table.note] if table.note else [])
    places = list(dict.fromkeys([file.parent, home]))
    gone, bare, strange, told = [], [], Counter[str](), defaultdict[str, list[Entry]](list)
    unsplit, seen = [], dict[str, str | None]()
    for row in table.rows:
        name, label = row["path"], row["label"]
        if not name and not label:
            continue
        if name not in seen:
            seen[name] = _place(name, places, home)
        path = seen[name]
        if path is None:
            short = name if len(name) <= SHOWN else f"{name[:SHOWN]}…"
            gone.append(short or "a row without a path")
            continue
        if not label:
            bare.append(path)
            continue
        split = _split(row.get("split", ""), names)
        if split is None:
            strange[row["split"]] += 1
            continue
        if not split:
            unsplit.append(path)
        folder = PurePosixPath(path).parent
        own = (row.get(by) or None) if by and group != "folder" else str(folder)
        told[path].append(Entry(path, label, split or "train", own))
    _check_once(file, told, strange, names)
    listing.entries = sorted((same[0] for same in told.values()), key=lambda entry: entry.path)
    given = {entry.split for entry in listing.entries if "split" in table.columns}
    listing.splits = {split: "the column 'split'" for split in given} or {"train": str(file)}
    if unsplit and len(given) > 1:
        listing.notes.append(f"{many(len(unsplit), 'row')} without a split, which count as train")
    twice = sum(len(same) - 1 for same in told.values())
    if twice:
        listing.notes.append(f"{many(twice, 'row')} saying the same again")
    if gone:
        listing.unused.append(f"{many(len(gone), 'row')} without a photo ({few(gone)})")
    if bare:
        listing.unused.append(f"{many(len(bare), 'row')} without a label ({few(bare)})")
    if not listing.entries:
        raise UserError(
            f"Expected photos and labels in data.file={file}, but none of its"
            f" {many(len(table.rows), 'row')} has both: {'; '.join(listing.unused) or 'none'};"
            f" paths begin in {' or '.join(map(str, places))}."
        )
    _account(listing, home, told.keys() | set(bare))
    return listing


def read_rows(file: Path, needed: Sequence[str], setting: str) -> Table:
    """The rows of a CSV file (of any delimiter) or a Parquet file; values are text, stripped.

    Thaw's own tables are read as what `thaw.files.write_csv` was given.

    Args:
        needed: columns that must be there; their case doesn't matter.
        setting: what named the file.

    Raises:
        UserError: there is no such file, or it is no such table.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        why = "is a folder" if file.is_dir() else str(error.strerror or error).lower()
        raise UserError(
            f"Expected a table in {setting}={file}, but it can't be read: {why}."
        ) from (error)
    if data[:4] == b"PAR1" or file.suffix.lower() in (".parquet", ".pq"):
        lines, note = _parquet(file, setting), None
        numbers = range(1, len(lines) + 1)
    elif data[:4] == b"PK\x03\x04":
        raise UserError(
            f"Expected a CSV or Parquet file in {setting}={file}, but this is an Excel"
            " file (or a zip); save it as CSV."
        )
    else:
        text, note = _decoded(file, data)
        numbered = _csv(file, text, needed, setting)
        numbers, lines = numbered.keys(), [*numbered.values()]
    header = [str(name).strip().lower() for name in lines[0]] if lines else []
    missing = [name for name in needed if name not in header]
    if missing:
        raise UserError(
            f"Expected the columns {', '.join(needed)} in {setting}={file}, whose first"
            f" line has {few(header, 10) or 'nothing'}; it lacks {', '.join(missing)}."
        )
    double = [name for name, count in Counter(header).items() if count > 1 and name in needed]
    if double:
        raise UserError(
            f"Expected each column once in {setting}={file}, but it has"
            f" {', '.join(double)} more than once."
        )
    each = zip(numbers, lines, strict=True)
    long = [number for number, line in each if any(map(str, line[len(header) :]))]
    if long:
        raise UserError(
            f"Expected {len(header)} values in each line of {setting}={file}, but line"
            f" {few(long)} has more; a value with the delimiter in it needs quotes."
        )
    rows = [
        {name: _text(v) for name, v in zip(header, [*line, *[""] * len(header)], strict=False)}
        for line in lines[1:]
    ]
    return Table(header, rows, note)


def _text(value: Any) -> str:
    """A value as text; nothing for what means that there is none."""
    if isinstance(value, float) and value.is_integer():  # whole numbers, of which some are missing
        value = int(value)
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return "" if value is None or text.strip() in NOTHING else text.strip()


def spellings(name: str) -> list[str]:
    """How a file may be called that a table names: with `/` for `\\`, and as macOS has accents.

    >>> spellings("a\\\\b.jpg")
    ['a\\\\b.jpg', 'a/b.jpg']
    """
    ways = [name, name.replace("\\", "/")] if name else []
    return list(dict.fromkeys(ways + [normalize(f, way) for f in ("NFC", "NFD") for way in ways]))


def below(path: Path, root: Path) -> str:
    """A path below a root, or absolute where it lies elsewhere."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _place(name: str, places: Sequence[Path], home: Path) -> str | None:
    """The photo that a row names."""
    for way in spellings(name):
        for place in places:
            path = place / os.path.expanduser(way)
            try:
                if path.is_file():
                    return below(path, home)
            except (OSError, ValueError):  # a name that no file can have
                continue
    return None


def _split(value: str, names: Mapping[str, str | None]) -> str | None:
    """Which split a value names; empty for none, None for one that isn't known."""
    if not value:
        return ""
    for split, name in names.items():
        if name is not None and value == name:
            return split
    return next(
        (s for s, called in CALLED.items() if names[s] == s and value.lower() in called), None
    )


def _check_once(
    file: Path,
    told: Mapping[str, list[Entry]],
    strange: Counter[str],
    names: Mapping[str, str | None],
) -> None:
    problems = []
    for what in ("label", "split", "group"):
        values = {path: {getattr(e, what) for e in same} for path, same in told.items()}
        two = [path for path, found in values.items() if len(found) > 1]
        if two:
            says = ", ".join(sorted(map(str, values[two[0]])))
            problems.append(
                f"{many(len(two))} {'have' if len(two) > 1 else 'has'} more than one {what}"
                f" ({two[0]}: {says}{f', and {len(two) - 1:,} more' if len(two) > 1 else ''})"
            )
    if strange:
        valid = ", ".join(name for name in names.values() if name)
        problems.append(
            f"expected {valid} or nothing in the column 'split', got"
            f" {few(f'{k!r} ({n:,} times)' for k, n in strange.items())}"
        )
    if problems:
        raise UserError(f"The table data.file={file} can't be used: " + "; ".join(problems) + ".")


def _account(listing: Listing, root: Path, told: set[str]) -> None:
    found = find(root)
    rest = [path for p in found.photos if (path := below(p, root)) not in told]
    listing.known = set(rest) | told
    if rest:
        listing.unused.append(f"{many(len(rest))} without a row ({few(rest)})")
    others = [
        left for left in found.left_out if left.path.suffix.lower() not in (".csv", ".parquet")
    ]
    if others:
        listing.unused.append(counted(others))


def _decoded(file: Path, data: bytes) -> tuple[str, str | None]:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace"), f"{file.name} is read as UTF-16"
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", errors="surrogateescape")
        if any("\x7f" < c < "\udc80" or c > "\udcff" for c in text):
            return text, None  # UTF-8 but for names of files, which are any bytes
        return data.decode("cp1252", errors="replace"), f"{file.name} is no UTF-8: read as Latin-1"


def _csv(file: Path, text: str, needed: Sequence[str], setting: str) -> dict[int, list[str]]:
    """Rows that hold something, by the line in which each begins."""
    if "\0" in text:
        raise UserError(f"Expected a CSV or Parquet file in {setting}={file}, but it is no text.")
    text = re.sub(r"\A\s*sep=.\s*\n", "\n", text)  # a line for Excel
    first = next((line for line in text.splitlines() if line.strip()), "")

    def fits(delimiter: str) -> tuple[int, int]:
        header = next(csv.reader([first], delimiter=delimiter), [])
        known = {name.strip().lower() for name in header} & set(needed)
        return len(known), len(header)

    delimiter = max(",;\t|", key=fits)
    try:
        reader = csv.reader(
            io.StringIO(f"{text}\n{END}", newline=""), delimiter=delimiter, skipinitialspace=True
        )
        lines, begin = dict[int, list[str]](), 1
        for line in reader:
            if line and line[-1].endswith(END) and line != [END]:
                raise UserError(
                    f"Expected a CSV file in {setting}={file}, but in line {begin} a value begins"
                    ' with a quote (") that is never closed.'
                )
            if line != [END] and any(value.strip() for value in line):
                lines[begin] = [uncell(value) for value in line]
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"Expected a CSV file in {setting}={file}, but: {error}.") from error
    return lines


def _parquet(file: Path, setting: str) -> list[list[Any]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"Parquet files such as {setting}={file} need pyarrow: pip install"
            ' "thaw-vision[parquet]"; or save it as CSV.'
        ) from error
    try:
        table = parquet.read_table(file)
    except (arrow.ArrowException, OSError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"Expected a Parquet file in {setting}={file}, but: {why}.") from error
    columns = [column.to_pylist() for column in table.columns]
    rows = zip(*columns, strict=True)
    return [table.column_names, *map(list, rows)]
