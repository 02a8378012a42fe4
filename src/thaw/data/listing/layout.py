"""What a folder holds: which of its folders are splits, which are classes, and what isn't used.

The layout is that of torchvision's `ImageFolder`: `root/<split>/<class>/…`, or `root/<class>/…`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from thaw.data.find import counted
from thaw.data.listing.listed import Entry, Listing, few, many
from thaw.data.listing.roles import labelled, named, what_is_a_class, wrapped
from thaw.data.listing.tree import CALLED, CLASSES, Parts, Tree, label_of
from thaw.errors import UserError


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
    while not (roles := named(tree, base, names, listing)) and (inner := wrapped(tree, base)):
        base = (*base, inner)
    if base:
        listing.notes.append(
            f"photos are in {root.joinpath(*base)}, the only folder with photos in {root}"
        )
    place = root.joinpath(*base)
    roles = labelled(tree, base, roles, classes, names)
    if "train" not in roles and roles:
        raise UserError(
            f"Expected a folder {names['train']!r} in {place}, which holds {tree.folders(base)};"
            " set data.train, data.val and data.test to what the splits are called."
        )
    if not roles:
        roles = {"train": base}
        classes = what_is_a_class(tree, place, base, classes, names)
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
    while not set(tree.folders(base)) & set(known) and (inner := wrapped(tree, base)):
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
        listing.unused.append(f"{many(len(stray), 'stray photo')} {why} ({few(stray)})")
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
            ways.append(f"{name}/ ({many(len(own))}{why})")
        loose = [p[0] for p in tree.below(base) if len(p) == 1]
        if loose:
            ways.append(f"{many(len(loose), 'stray photo')} ({few(loose)})")
    for depth in range(len(base)):
        loose = [p for p in tree.below(base[:depth]) if len(p) == 1]
        ways += [f"{many(len(loose))} in {tree.root.joinpath(*base[:depth])}"] * bool(loose)
    listing.unused = ways + listing.unused
    if tree.left_out:
        listing.unused.append(counted(tree.left_out))
