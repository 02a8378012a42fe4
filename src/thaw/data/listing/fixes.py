"""`data.fixes`: drop and relabel photos as a checked table says; no file is touched."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from thaw.data.listing.listed import Listing, few, many
from thaw.data.listing.table import Row, below, read_rows, spellings
from thaw.errors import UserError

ACTIONS = "drop, label:NAME, keep or nothing"


@dataclass
class Fixed:
    """What was done: `split.json` holds both, and what is to be said."""

    dropped: list[dict[str, str]] = field(default_factory=list)
    relabelled: list[dict[str, str]] = field(default_factory=list)
    note: str = ""


def apply(file: Path, listing: Listing) -> Fixed:
    """Do with the photos of a listing what the column `action` says.

    Paths begin in the data's root, in the table's folder, or are absolute.

    Raises:
        UserError: naming all that can't be done.
    """
    table = read_rows(file, ["path", "action"], "data.fixes")
    entries = {entry.path: entry for entry in listing.entries}
    labels = {entry.label for entry in listing.entries}
    bare = {label.strip(): label for label in labels} | {label: label for label in labels}
    wanted: dict[str, dict[str, Row]] = {}
    unknown, wrong, others = [], [], []
    for row in table.rows:
        action = row["action"]
        if not action:
            continue
        kind, _, label = (part.strip() for part in action.partition(":"))
        kind = kind.lower()
        if kind not in ("drop", "keep", "label") or bool(label) != (kind == "label"):
            wrong.append(action)
            continue
        if kind == "label":
            if label not in bare:
                others.append(label)
                continue
            label = bare[label]
        path = _find(row["path"], file.parent, listing)
        if path is None:
            unknown.append(row["path"] or "a row without a path")
        else:
            wanted.setdefault(path, {})[f"label:{label}" if label else kind] = row
    problems = []
    if wrong:
        problems.append(f"expected {ACTIONS} in the column 'action', got {few(map(repr, wrong))}")
    if others:
        problems.append(
            f"expected one of the classes {few(sorted(labels), 20)} after 'label:', got"
            f" {few(map(repr, dict.fromkeys(others)))}"
        )
    if unknown:
        problems.append(f"there is no photo {few(unknown)} in {listing.root}")
    both = [f"{path} ({' and '.join(ways)})" for path, ways in wanted.items() if len(ways) > 1]
    if both:
        problems.append(f"rows contradict each other on {few(both)}")
    unlisted = [p for p, ways in wanted.items() if p not in entries and "drop" not in ways]
    unlisted = [path for path in unlisted if "keep" not in wanted[path]]
    if unlisted:
        problems.append(f"{few(unlisted)} isn't used, so it can't get another label")
    if problems:
        raise UserError(f"The table data.fixes={file} can't be used: " + "; ".join(problems) + ".")
    return _do(file, listing, {path: next(iter(ways.items())) for path, ways in wanted.items()})


def _do(file: Path, listing: Listing, wanted: dict[str, tuple[str, Row]]) -> Fixed:
    fixed, touched, kept = Fixed(), Counter[str](), []
    for entry in listing.entries:
        action, row = wanted.get(entry.path, ("keep", {}))
        kind, _, label = action.partition(":")
        if kind == "drop":
            why = row.get("issue") or "no issue named"
            fixed.dropped.append({"path": entry.path, "reason": f"data.fixes: {why}"})
            touched[entry.split] += 1
            continue
        if kind == "label" and label != entry.label:
            change = {"path": entry.path, "from": entry.label, "to": label}
            fixed.relabelled.append(change)
            touched[entry.split] += 1
            entry.label = label
        kept.append(entry)
    listing.entries[:] = kept
    fixed.note = (
        f"{many(len(fixed.dropped))} dropped and {len(fixed.relabelled):,} relabelled by"
        f" data.fixes={file}"
    )
    if not wanted:
        fixed.note = f"data.fixes={file} has no action, so it changes nothing"
    if touched["test"] and "test" in listing.splits:
        fixed.note += f"; {touched['test']:,} of them are test photos"
    return fixed


def _find(name: str, home: Path, listing: Listing) -> str | None:
    """The photo that a row means, as the listing calls it; or a file that isn't listed."""
    ways = [os.path.expanduser(way) for way in spellings(name)]
    places = [place / way for way in ways for place in (listing.root, home)]
    for place in places:
        if (path := below(place, listing.root)) in listing.known:
            return path
    for place in places:
        real = below(Path(os.path.realpath(place)), Path(os.path.realpath(listing.root)))
        if real in listing.known or os.path.isfile(place):  # which no name is too long for
            return real
    # Values are stripped, and names of folders may begin with a space.
    bare = [path for path in listing.known if path.strip() == name]
    return bare[0] if len(bare) == 1 else None
