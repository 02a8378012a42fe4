"""What is wrong with listed photos: problems that stop a run, and warnings that are true."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from thaw.data.listing.listed import Entry, Listing, few, many
from thaw.data.splits import NAMES
from thaw.launch.cli import door

MOST_BROKEN = 0.05  # of all photos; with more, something else is wrong
SHOWN = 10  # broken photos that are named


def of_classes(listing: Listing, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Problems and warnings with the classes of each split."""
    problems, warnings = [], []
    held: dict[str, set[str]] = defaultdict(set)
    for entry in listing.entries:
        held[entry.split].add(entry.label)
    where = {split: _place(listing, split) for split in listing.splits}
    for split, name in listing.empty:
        if split == "train":
            problems.append(f"class {name!r} has no photos in {where[split]}")
        elif name not in classes:
            warnings.append(f"{where[split]}/{name} is empty, and no class of train")
    named = {name for split, name in listing.empty if split == "train"}
    if listing.entries and not held["train"] and not named:
        others = ", ".join(
            f"{n:,} of {s}" for s, n in Counter(e.split for e in listing.entries).items()
        )
        return [f"no photo is of train ({others})"], warnings
    if len(classes) < 2:
        problems.append(
            f"expected 2 classes or more in {where.get('train', listing.root)}, got"
            f" {sorted({*classes, *named})}"
        )
    for split in ("val", "test"):
        if split not in listing.splits:
            continue
        unknown = sorted(held[split] - set(classes) - named)
        missing = [name for name in classes if name not in held[split]]
        if not held[split]:
            problems.append(
                f"the {split} split, {where[split]}, has no photos; without it, {split}"
                " is cut from train"
            )
        elif unknown:
            problems.append(
                f"expected the classes of train {list(classes)} in {where[split]}, which also has"
                f" {unknown}" + (f" and lacks {missing}" if missing else "")
            )
    return problems, warnings


def of_counts(classes: Sequence[str], counts: Mapping[str, Counter[str]]) -> list[str]:
    """Warnings of classes that are too few to learn, to choose by, or to be judged.

    Args:
        counts: photos of each class, by split.
    """
    warnings = []
    alone = [name for name in classes if sum(counts[split][name] for split in NAMES) == 1]
    if alone:
        warnings.append(f"there is a single photo of {few(alone, 10)}")
    for split, what in (
        ("val", "the best epoch is chosen without"),
        ("test", "nothing tells how well the model knows"),
    ):
        missing = [name for name in classes if not counts[split][name]]
        if missing:
            them = "it" if len(missing) == 1 else "them"
            warnings.append(f"no {split} photo shows {few(missing, 10)}: {what} {them}")
    return warnings


def of_copies(
    entries: Sequence[Entry], alike: Sequence[int], given: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Leaks between given splits, and photos with two labels; both by content or group."""
    contents, groups = defaultdict[int, list[Entry]](list), defaultdict[str, list[Entry]](list)
    for entry, number in zip(entries, alike, strict=True):
        contents[number].append(entry)
        if entry.group is not None:
            groups[entry.group].append(entry)
    leaks, labels = [], []
    copies = [same for same in contents.values() if len({e.split for e in same}) > 1]
    if copies:
        shown = (" = ".join(entry.path for entry in same) for same in copies)
        pairs = " and ".join(s for s in NAMES if any(e.split == s for c in copies for e in c))
        leaks.append(
            f"{many(len(copies))} {_are(len(copies))} in {pairs} at once, byte for byte:"
            f" {few(shown)}"
        )
    parted = {g: same for g, same in groups.items() if len({e.split for e in same}) > 1}
    if parted:
        shown = (
            f"{g} ({', '.join(sorted({e.split for e in same}))})" for g, same in parted.items()
        )
        leaks.append(
            f"{len(parted):,} of {len(groups):,} groups {_are(len(parted))} in several splits at"
            f" once: {few(shown)}"
        )
    two = [same for same in contents.values() if len({e.label for e in same}) > 1]
    if two:
        shown = (" = ".join(entry.path for entry in same) for same in two)
        labels.append(
            f"{many(len(two))} {'have' if len(two) > 1 else 'has'} two labels, byte for"
            f" byte the same: {few(shown)}"
        )
    return leaks, labels


def of_broken(
    broken: Mapping[str, str], entries: Sequence[Entry], on_error: str, file: str | None
) -> tuple[list[str], list[str]]:
    """A problem or a warning, where photos can't be decoded.

    Args:
        broken: why, by path.
        on_error: see `Wishes`.
        file: where all are listed, if there are more than are named.
    """
    if not broken:
        return [], []
    whole = {entry.label for entry in entries if entry.path not in broken}
    lost = sorted({entry.label for entry in entries} - whole)
    names = reasons(broken)
    if len(broken) > SHOWN and file:
        names += f", all in {file}"
    says = f"{many(len(broken))} of {len(entries):,} can't be decoded"
    if not whole:
        return [f"no photo of {len(entries):,} can be decoded: {names}"], []
    if on_error != "list" and lost:
        says += f", which leaves {few(lost)} without any"
    elif on_error == "exclude" and len(broken) > MOST_BROKEN * len(entries):
        says += f", more than {MOST_BROKEN:.0%}"
    elif on_error != "fail":
        return [], [f"{says} and {_are(len(broken))} left out: {names}"]
    return [f"{says}; repair or remove them ({door('check')} lists them): {names}"], []


def undecoded(broken: Mapping[str, str], total: int) -> str:
    """That photos can't be decoded, of so many, and why, by path.

    >>> undecoded({"a.jpg": "the file is empty"}, 20)
    "1 photo of 20 can't be decoded and is left out: a.jpg (the file is empty)"
    """
    says = f"{many(len(broken))} of {total:,} can't be decoded and {_are(len(broken))} left out"
    return f"{says}: {reasons(broken)}"


def reasons(broken: Mapping[str, str]) -> str:
    """The first photos that can't be decoded, and why."""
    return few((f"{path} ({why})" for path, why in broken.items()), SHOWN)


def _place(listing: Listing, split: str) -> str:
    name = listing.splits[split]
    return str(listing.root / name) if (listing.root / name).is_dir() else name


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
