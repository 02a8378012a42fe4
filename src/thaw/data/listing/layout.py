"""What a folder holds: which of its folders are splits, which are classes, and what isn't used.

The layout is that of torchvision's `ImageFolder`: `root/<split>/<class>/…`, or `root/<class>/…`.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from thaw.data.find import LeftOut, counted, find, is_clutter, is_photo
from thaw.data.listing.listed import Entry, Listing, counts, few, photos
from thaw.data.splits import NAMES
from thaw.errors import UserError

CALLED = {  # what people call splits, in lower case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
CLASSES = ("top", "leaf", "path", "name")
# `cat.0.jpg`, `dog_12.jpg`, `Siamese cat (3).jpg`: a word, and a number that sets photos apart.
NAMED = re.compile(r"([^\W\d_][^\d/]*?)[\s._(-]*\d+[)]?\.\w+$")

Parts = tuple[str, ...]  # of a path below a folder


class Tree:
    """The photos below a folder, and what else lies there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        found = find(root)
        begin = len(str(root / "x")) - 1
        self.photos: list[Parts] = [tuple(str(p)[begin:].split(os.sep)) for p in found.photos]
        self.left_out: list[LeftOut] = found.left_out
        self.passed = {left.path for left in found.left_out}

    def folders(self, below: Parts = ()) -> list[str]:
        """Folders in a folder, without what systems leave there."""
        folder = self.root.joinpath(*below)
        names = sorted(name for name in os.listdir(folder) if not is_clutter(name))
        return [n for n in names if (folder / n).is_dir() and folder / n not in self.passed]

    def below(self, folder: Parts) -> list[Parts]:
        """Photos below a folder, as parts of their paths below it."""
        depth = len(folder)
        return [p[depth:] for p in self.photos if p[:depth] == folder and len(p) > depth]


def read(root: Path, names: Mapping[str, str | None], classes: str | None = None) -> Listing:
    """List the photos in `root/<split>/<class>/`, or in `root/<class>/` where nothing is split.

    Args:
        names: folders of the splits, below `root`; None for one that is to be cut from train.
        classes: what is a class: the `top` folder, the innermost (`leaf`), the whole `path`, or
            the beginning of a photo's `name`; None for `top`, where that is no riddle.

    Raises:
        UserError: nothing to train on is found, with what to type where it can be told.
    """
    if not root.is_dir():
        raise UserError(
            f"Expected a folder of photos in data.root={root}, but there is none; it holds"
            " one folder a class, or train/ and test/ with one folder a class in each."
        )
    tree = Tree(root)
    if not tree.photos:
        holds = few(tree.folders(), 5) or "no folders"
        besides = f" (left out: {counted(tree.left_out)})" if tree.left_out else ""
        raise UserError(
            f"Expected photos in the class folders of data.root={root}, but there are none"
            f"{besides}; it holds {holds}."
        )
    listing = Listing(root, known={"/".join(p) for p in tree.photos})
    base: Parts = ()
    while not (roles := _roles(tree, base, names, listing)) and (inner := _wrapped(tree, base)):
        base = (*base, inner)
    if base:
        listing.notes.append(
            f"photos are in {root.joinpath(*base)}, the only folder with photos in {root}"
        )
    place = root.joinpath(*base)
    roles = _labelled(tree, base, roles, classes, names)
    if "train" not in roles and roles:
        raise UserError(
            f"Expected a folder {names['train']!r} in {place}, which holds {tree.folders(base)};"
            " set data.train, data.val and data.test to what the splits are called."
        )
    if not roles:
        roles = {"train": base}
        classes = _flat_or_nested(tree, place, base, classes, names)
    others = {folder for split, folder in roles.items() if split != "train"}
    for split, folder in roles.items():
        listing.splits[split] = "/".join(folder) or "."
        own = tree.below(folder)
        if split == "train":
            cut = len(folder)
            own = [p for p in own if not any((*folder, *p)[: len(o)] == o for o in others)]
            skip = {o[cut] for o in others if o[:cut] == folder and len(o) > cut}
        else:
            skip = set()
        _list(tree, split, folder, own, skip, classes, listing)
    _say_nested(listing, classes)
    _account(tree, listing, base, roles, names)
    listing.entries.sort(key=lambda entry: entry.path)
    return listing


def one(root: Path, known: Sequence[str]) -> Listing:
    """List the photos of a folder that holds class folders and no splits; all are called test.

    Args:
        known: the classes that are looked for: they tell which folders are classes.

    Raises:
        UserError: there is no photo in a folder of one of them.
    """
    if not root.is_dir():
        raise UserError(f"Expected a folder of photos in --data {root}, but there is none.")
    tree = Tree(root)
    base: Parts = ()
    while not set(tree.folders(base)) & set(known) and (inner := _wrapped(tree, base)):
        base = (*base, inner)

    def label_all(how: str) -> list[tuple[Parts, str | None]]:
        return [(p, label_of(p, how)) for p in tree.below(base)]

    hits = {how: sum(label in known for _, label in label_all(how)) for how in CLASSES[:3]}
    best = max(hits, key=hits.__getitem__)  # the first of equals
    place = root.joinpath(*base)
    splits = [f for f in tree.folders(base) if any(f.lower() in n for n in CALLED.values())]
    inside = {p[1] for p in tree.below(base) if p[0] in splits and len(p) > 2}
    if splits and inside & set(known) and not hits["top"]:
        raise UserError(
            f"Expected one folder a class in --data {root}, but it holds the splits {splits}; name"
            f" one of them: --data {place / splits[-1]}."
        )
    if not hits[best]:
        holds = tree.folders(base) or ("photos, but no folders" if tree.photos else "no folders")
        raise UserError(
            f"Expected one folder a class in {place}, of the classes {list(known)}, with photos in"
            f" them, got {holds}."
        )
    listing = Listing(root, splits={"test": "/".join(base) or "."})
    _list(tree, "test", base, tree.below(base), set(), best, listing)
    _account(tree, listing, base, {"test": base}, {})
    listing.entries.sort(key=lambda entry: entry.path)
    return listing


def label_of(parts: Parts, classes: str | None) -> str | None:
    """The class of a photo with this path below its split; None where it has none.

    >>> [label_of(("pets", "cat", "1.jpg"), how) for how in ("top", "leaf", "path")]
    ['pets', 'cat', 'pets/cat']
    >>> label_of(("cat.0.jpg",), "name")
    'cat'
    """
    if classes == "name":
        match = NAMED.match(parts[-1])
        return match[1] if match else None
    if len(parts) < 2:
        return None
    return {"leaf": parts[-2], "path": "/".join(parts[:-1])}.get(classes or "top", parts[0])


# --- splits ---------------------------------------------------------------------------------------


def _roles(
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
        elif base or not _wrapped(tree, base):
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


def _wrapped(tree: Tree, base: Parts) -> str | None:
    """The one folder that has all photos, none of them directly: a wrapper around the data set."""
    own = tree.below(base)
    tops = {p[0] for p in own}
    if len(tops) == 1 and all(len(p) > 2 for p in own):
        return tops.pop()
    return None


def _labelled(
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
                f" {photos(len(own))} are in none, so nothing says what is on them."
            )
    return {split: folder for split, folder in roles.items() if split not in bare}


def _flat(tree: Tree, place: Path, own: list[Parts], roles_alone: bool = False) -> str:
    """What to say where photos lie in no class folder."""
    named = [label for p in own if (label := label_of(p, "name"))]
    kinds = Counter(named)
    says = f"Expected one folder a class in {place}, but {photos(len(own))} lie there in none"
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


def _flat_or_nested(
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


# --- photos ---------------------------------------------------------------------------------------


def _list(
    tree: Tree,
    split: str,
    folder: Parts,
    own: list[Parts],
    skip: set[str],
    classes: str | None,
    listing: Listing,
) -> None:
    before = "/".join(folder) + "/" if folder else ""
    stray = []
    for parts in own:
        label = label_of(parts, classes)
        if label is None:
            stray.append(before + "/".join(parts))
            continue
        rest = {"leaf": parts[:-2], "path": (), "name": parts[:-1]}.get(
            classes or "top", parts[1:-1]
        )
        listing.entries.append(
            Entry(before + "/".join(parts), label, split, "/".join(rest) or None)
        )
    if stray:
        why = "whose names don't begin with a word" if classes == "name" else "in no class folder"
        listing.unused.append(
            f"{len(stray):,} stray photo{'s' if len(stray) > 1 else ''} {why} ({few(stray)})"
        )
    if classes in (None, "top"):
        there = {p[0] for p in own if len(p) > 1}
        listing.empty += [(split, f) for f in tree.folders(folder) if f not in there | skip]


def _say_nested(listing: Listing, classes: str | None) -> None:
    """Say what was taken for classes, where something else might have been."""
    if classes == "name":
        listing.notes.append("classes are what the photos' names begin with (data.classes=name)")
        return
    options: dict[str, set[str]] = defaultdict(set)
    for entry in listing.entries:
        below = entry.path[len(listing.splits[entry.split]) + 1 :]
        if listing.splits[entry.split] == ".":
            below = entry.path
        for how in CLASSES[:3]:
            options[how].add(label_of(tuple(below.split("/")), how) or "")
    chosen = classes or "top"
    others = [h for h in CLASSES[:3] if h != chosen and options[h] != options[chosen]]
    if others and len(options["path"]) > 1:
        words = {h: f"data.classes={h} ({few(sorted(options[h]), 4)})" for h in CLASSES[:3]}
        listing.notes.append(
            f"folders are nested: classes are {words[chosen]}; possible as well:"
            f" {', '.join(words[h] for h in others)}"
        )


def _account(
    tree: Tree,
    listing: Listing,
    base: Parts,
    roles: Mapping[str, Parts],
    names: Mapping[str, str | None],
) -> None:
    """Say what isn't used of all that lies in the root, and why."""
    used = set(roles.values())
    ways: list[str] = []
    if base not in used:
        for name in tree.folders(base):
            folder = (*base, name)
            if any(f[: len(folder)] == folder for f in used):
                continue
            own = tree.below(folder)
            split = next((s for s, called in CALLED.items() if name.lower() in called), None)
            why = ""
            if split and own and all(len(p) == 1 for p in own):
                why = " in no class folder, so without a label"
            elif split and names:
                why = f"; name it with data.{split}={name}"
            ways.append(f"{name}/ ({photos(len(own))}{why})")
        loose = [p[0] for p in tree.below(base) if len(p) == 1]
        if loose:
            ways.append(f"{len(loose):,} stray photo{'s' if len(loose) > 1 else ''} ({few(loose)})")
    for depth in range(len(base)):
        loose = [p for p in tree.below(base[:depth]) if len(p) == 1]
        ways += [f"{photos(len(loose))} in {tree.root.joinpath(*base[:depth])}"] * bool(loose)
    listing.unused = ways + listing.unused
    if tree.left_out:
        listing.unused.append(counted(tree.left_out))
