"""Which folders are splits: by the names that people give them, and by what lies in them."""

import os
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

from thaw.data.find import is_clutter, is_photo
from thaw.data.listing.listed import Listing, counts, few, many
from thaw.data.listing.tree import CALLED, Parts, Tree, label_of
from thaw.data.splits import NAMES
from thaw.errors import UserError


def named(
    tree: Tree, base: Parts, names: Mapping[str, str | None], listing: Listing
) -> dict[str, Parts]:
    """The folder of each split that is there.

    Raises:
        UserError: a name that leads nowhere, out of the root, or where another leads.
    """
    place, inside = tree.root.joinpath(*base), tree.folders(base)
    roles: dict[str, Parts] = {}
    problems = []
    claimed = {name for name in names.values() if name}
    for split in NAMES:
        name = names[split]
        if name is None:
            continue
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name[:1] in ("/", "~") or not name.strip() or ":" in name[:2]:
            problems.append(
                f"expected data.{split} to be the name of a folder in {place}, got {name!r}"
            )
        elif not parts:  # "."
            if split == "train":
                roles[split] = base
            else:
                problems.append(f"data.{split}={name} is {place} itself, which holds all photos")
        elif place.joinpath(*parts).is_dir():
            roles[split] = (*base, *parts)
        elif name == split:
            alike = [f for f in inside if f.lower() in CALLED[split] and f not in claimed]
            if len(alike) > 1:
                problems.append(
                    f"{' and '.join(alike)} may each be the {split} split; set"
                    f" data.{split} to one of them"
                )
            elif alike:
                roles[split] = (*base, alike[0])
                listing.notes.append(f"{split} is {place / alike[0]}")
        elif base or not wrapped(tree, base):
            problems.append(
                f"data.{split}={name!r} names no folder in {place}, which holds {inside}; set"
                " data.train, data.val and data.test to what the splits are called"
            )
    real = {split: Path(os.path.realpath(tree.root.joinpath(*f))) for split, f in roles.items()}
    for split in roles:
        for other in roles:
            if NAMES.index(split) < NAMES.index(other) and real[split] == real[other]:
                problems.append(f"data.{split} and data.{other} are the same folder, {real[split]}")
            elif split != other and real[split] in real[other].parents and roles[split] != base:
                problems.append(f"data.{other} lies inside data.{split}, {real[split]}")
    if problems:
        raise UserError(f"The splits of {tree.root} can't be used: " + "; ".join(problems) + ".")
    return roles


def wrapped(tree: Tree, base: Parts) -> str | None:
    """The one folder that has all photos, none of them directly: a wrapper around the data set."""
    own = tree.below(base)
    tops = {p[0] for p in own}
    if len(tops) == 1 and all(len(p) > 2 for p in own):
        return tops.pop()
    return None


def labelled(
    tree: Tree,
    base: Parts,
    roles: dict[str, Parts],
    classes: str | None,
    names: Mapping[str, str | None],
) -> dict[str, Parts]:
    """Of the folders called like splits, those that are: with class folders in them.

    `train/` with photos and no folders, beside other such folders, is a class: trains.
    """
    if classes == "name":
        return {
            split: folder
            for split, folder in roles.items()
            if split == "train" or any(label_of(p, classes) for p in tree.below(folder))
        }
    bare = {s for s, f in roles.items() if (own := tree.below(f)) and all(len(p) == 1 for p in own)}
    others = {
        p[len(base)] for p in tree.photos if p[: len(base)] == base and len(p) == len(base) + 2
    }
    if bare and bare == set(roles) and others - {folder[-1] for folder in roles.values() if folder}:
        return {}
    for split in sorted(bare, key=NAMES.index):
        place, own = tree.root.joinpath(*roles[split]), tree.below(roles[split])
        if split == "train":
            raise UserError(_flat(tree, place, own, bare == set(roles) and len(roles) > 1))
        if names[split] != split:
            raise UserError(
                f"Expected one folder a class in data.{split}={names[split]}, but its"
                f" {many(len(own))} are in none, so nothing says what is on them."
            )
    return {split: folder for split, folder in roles.items() if split not in bare}


def _flat(tree: Tree, place: Path, own: list[Parts], roles_alone: bool = False) -> str:
    """What to say where photos lie in no class folder."""
    named = [label for p in own if (label := label_of(p, "name"))]
    kinds = Counter(named)
    says = f"Expected one folder a class in {place}, but {many(len(own))} lie there in none"
    ways = []
    if len(kinds) > 1 and len(named) > len(own) / 2 and min(kinds.values()) > 1:
        ways.append(
            f"if their names begin with their class ({counts(named)}), add data.classes=name"
        )
    tables = [
        f.path for f in tree.left_out if f.path.suffix.lower() in (".csv", ".tsv", ".parquet")
    ]
    table = str(tables[0]) if tables else "labels.csv"
    ways.append(f"if a table says what is on them, use data=table data.file={table}")
    if roles_alone:
        ways.append("if these folders are classes, add data.train=. data.val=null data.test=null")
    parent = place.parent
    beside = [] if roles_alone else _beside(place)
    if beside:
        ways.append(
            f"if {place.name!r} is one of the classes, beside {few(beside)}, use data.root={parent}"
        )
    return says + "; " + "; ".join(ways) + "; else put them into one folder a class."


def _beside(place: Path) -> list[str]:
    """Folders beside a folder that might be further classes."""
    found = []
    try:
        for entry in sorted(os.scandir(place.resolve().parent), key=lambda e: e.name):
            if entry.is_dir() and not is_clutter(entry.name) and entry.name != place.resolve().name:
                with os.scandir(entry.path) as inside:
                    if any(is_photo(file.name) for file in islice(inside, 100)):
                        found.append(entry.name)
    except OSError:
        return found
    return found


def what_is_a_class(
    tree: Tree,
    place: Path,
    base: Parts,
    classes: str | None,
    names: Mapping[str, str | None],
) -> str | None:
    """What is a class in a folder without splits.

    Raises:
        UserError: that can't be told.
    """
    own = tree.below(base)
    if classes == "name":
        return classes
    if all(len(p) == 1 for p in own):
        raise UserError(_flat(tree, place, own))
    if classes is None and not any(len(p) == 2 for p in own):
        top, leaf, path = (
            few(sorted({label for p in own if (label := label_of(p, how))}), 4)
            for how in ("top", "leaf", "path")
        )
        raise UserError(
            f"Expected class folders with photos, or a folder {names['train']!r}, in {place}, but"
            f" its folders {tree.folders(base)} hold no photos themselves; say what is a class with"
            f" data.classes=top ({top}), data.classes=leaf ({leaf}) or data.classes=path ({path}),"
            " or set data.train, data.val and data.test to what the splits are called."
        )
    return classes
