"""`data.group`: photos of one patient, clip or camera, which must stay on one side."""

import re
from collections.abc import Sequence

from thaw.data.listing.listed import Entry, Listing, few, many
from thaw.errors import UserError


def assign(listing: Listing, group: str | None) -> None:
    """Give each photo its group, as `data.group` says; without it, that of a table's column.

    The listing has that of the column, or else the folders between class and photo.

    Args:
        group: `folder`: the folders between class and photo · `column`: that of a table · else a
            regular expression that is searched in the photo's path, whose first bracket, or whole
            match, is the group.

    Raises:
        UserError: no photo gets a group so, or all get the same.
    """
    entries, column = listing.entries, listing.groups
    if not entries or (group is None and column is None):
        _set(entries, [None] * len(entries))
        return
    if group is None or group.lower() == column:
        group = "column"
    if group == "column" and column is None:
        raise UserError(
            "Expected a column 'group' for data.group=column, but there is none; a table has one,"
            " which data=table data.file=FILE reads."
        )
    if group not in ("folder", "column"):
        _set(entries, [_match(group, entry.path) for entry in entries])
    found = {entry.group for entry in entries} - {None}
    alone = [entry.path for entry in entries if entry.group is None]
    wanted = {
        "folder": "folders between the class folders and the photos",
        "column": "values in the column",
    }.get(group, "matches in the photos' paths")
    if not found:
        raise UserError(
            f"Expected {wanted} for data.group={group}, but no photo has any; paths"
            f" look like {entries[0].path}."
        )
    if len(found) == 1 and not alone:
        raise UserError(
            f"Expected data.group={group} to tell groups apart, but it puts all"
            f" {len(entries):,} photos into one, {found.pop()!r}."
        )
    note = f"{len(found):,} groups (data.group={group}), none of which is parted"
    if alone:
        note += f"; {many(len(alone))} in none ({few(alone)})"
    listing.notes.append(note)


def _match(expression: str, path: str) -> str | None:
    try:
        match = re.search(expression, path)
    except re.error as error:
        raise UserError(
            f"Expected data.group to be 'folder', 'column' or a regular expression, got"
            f" {expression!r}: {error}."
        ) from error
    if match is None:
        return None
    parts = [part for part in match.groups() if part]
    return "/".join(parts) if parts else match[0] or None


def _set(entries: Sequence[Entry], groups: Sequence[str | None]) -> None:
    for entry, group in zip(entries, groups, strict=True):
        entry.group = group
