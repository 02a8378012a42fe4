"""Settle which photos are used, as what, in which split: the same again for the same settings."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thaw.data.listing import faults, fixes, groups
from thaw.data.listing.known import Known
from thaw.data.listing.listed import Listing, few
from thaw.data.splits import NAMES, Sample, cut, together
from thaw.errors import UserError
from thaw.files import write_csv

BROKEN = "can't be decoded: "  # how the reason begins why such a photo was dropped


@dataclass(frozen=True)
class Wishes:
    """What `data.*` asks for.

    Args:
        fractions: share of the photos that is cut off where a split isn't given.
        check: `warn` of leaks, refuse them (`strict`), or don't look (`off`).
        on_error: `exclude` photos that can't be decoded, unless they are too many, or `fail`. With
            `list`, for who looks at photos and won't train on them, they may be ever so many, and a
            split may be left without any.
        group: see `thaw.data.listing.groups`.
        fixes: see `thaw.data.listing.fixes`.
    """

    fractions: Mapping[str, float]
    seed: int = 0
    check: str = "warn"
    on_error: str = "exclude"
    group: str | None = None
    fixes: Path | None = None


@dataclass
class Settled:
    """The splits, and how they came about.

    Args:
        cut: how splits came about that aren't given.
        dropped: photos that are listed and not used: `path` and `reason`.
        relabelled: photos with another label: `path`, `from` and `to`.
        broken: photos of the splits that broke since the run began, and why.
        notes: what is to be said; likewise `warnings`.
    """

    classes: list[str]
    splits: dict[str, list[Sample]]
    cut: dict[str, str] = field(default_factory=dict)
    dropped: list[dict[str, str]] = field(default_factory=list)
    relabelled: list[dict[str, str]] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def settle(
    listing: Listing,
    wishes: Wishes,
    known: Known,
    before: Mapping[str, str] | None = None,
    out: Path | None = None,
) -> Settled:
    """Mend, group, check and share out the photos of a listing.

    Args:
        before: of the run that goes on, the photos that it left out when it began, and why; it
            leaves out no others.
        out: where photos that can't be decoded are listed, if they are many.

    Raises:
        UserError: naming all that is wrong with the photos.
    """
    done = Settled([], {})
    mended = ""
    if wishes.fixes:
        fixed = fixes.apply(wishes.fixes, listing)
        done.dropped, done.relabelled = fixed.dropped, fixed.relabelled
        listing.notes.append(fixed.note)
        mended = f", after data.fixes={wishes.fixes}," * bool(fixed.dropped or fixed.relabelled)
    groups.assign(listing, wishes.group)
    done.classes = sorted({entry.label for entry in listing.entries if entry.split == "train"})
    problems, warnings = faults.of_classes(listing, done.classes)
    more, warned = _leave_out_broken(listing, wishes, known, done, before, out)
    problems += more
    warnings += warned
    alike = known.alike([os.path.join(listing.root, entry.path) for entry in listing.entries])
    if wishes.check != "off":
        leaks, twice = faults.of_copies(listing.entries, alike, listing.splits)
        (problems if wishes.check == "strict" else warnings).extend(leaks)
        warnings += twice
    if not problems:
        problems += _share_out(listing, wishes, alike, done)
        counts = {
            split: Counter(done.classes[sample.label] for sample in done.splits[split])
            for split in NAMES
        }
        warnings += faults.of_counts(done.classes, counts)
    if problems:
        raise UserError(
            f"The photos in {listing.root}{mended} can't be used: " + "; ".join(problems) + "."
        )
    done.notes = listing.notes + (
        [f"not used: {', '.join(listing.unused)}"] if listing.unused else []
    )
    done.warnings = warnings
    return done


def _leave_out_broken(
    listing: Listing,
    wishes: Wishes,
    known: Known,
    done: Settled,
    before: Mapping[str, str] | None,
    out: Path | None,
) -> tuple[list[str], list[str]]:
    places = {entry.path: os.path.join(listing.root, entry.path) for entry in listing.entries}
    reasons = known.faults(list(places.values()))
    broken = {path: reasons[place] for path, place in places.items() if place in reasons}
    file = None
    listed = wishes.on_error == "list" and len(broken) < len(places)  # elsewhere
    if len(broken) > faults.SHOWN and out is not None and not listed:
        file = out / "broken.csv"
        write_csv(file, [{"path": path, "reason": why} for path, why in broken.items()])
    found = faults.of_broken(broken, listing.entries, wishes.on_error, file and str(file))
    gone = broken
    if before is not None:
        gone = {
            path: why.removeprefix(BROKEN)
            for path, why in before.items()
            if why.startswith(BROKEN) and path in places
        }
    done.broken = {path: why for path, why in broken.items() if path not in gone}
    mended = [path for path in gone if path not in broken]
    if done.broken:
        listing.notes.append(f"broken since the run began: {few(done.broken, faults.SHOWN)}")
    if mended:
        listing.notes.append(
            f"{few(mended)} could not be decoded when the run began, so it goes on without"
        )
    done.dropped += [{"path": path, "reason": BROKEN + why} for path, why in gone.items()]
    listing.entries[:] = [entry for entry in listing.entries if entry.path not in gone]
    return found


def _share_out(listing: Listing, wishes: Wishes, alike: list[int], done: Settled) -> list[str]:
    """Cut the splits that aren't given off train; returns what is wrong with the outcome."""
    entries = listing.entries
    labels = {name: label for label, name in enumerate(done.classes)}
    keys = together(alike, [entry.group for entry in entries])
    key_of = {entry.path: key for entry, key in zip(entries, keys, strict=True)}
    for split in NAMES:
        own = [entry for entry in entries if entry.split == split]
        own.sort(key=lambda e: (labels[e.label], *e.path.rpartition("/")))  # as ImageFolder
        done.splits[split] = [Sample(e.path, labels[e.label], e.group) for e in own]
    alone = len(set(alike)) == len(alike)
    whole = {"identical photos": not alone, "groups": any(entry.group for entry in entries)}
    kept = " and ".join(name for name, there in whole.items() if there)
    for split in ("test", "val"):  # test first, then val from the rest
        if split in listing.splits:
            continue
        fraction = wishes.fractions[split]
        left = 1 - wishes.fractions["test"] * ("test" in done.cut)
        share = min(fraction / left, 1.0)  # both are shares of all the photos
        train = done.splits["train"]
        done.splits["train"], done.splits[split] = cut(
            train, [key_of[sample.path] for sample in train], share, wishes.seed
        )
        done.cut[split] = f"{fraction:.0%} of the photos, stratified, seed {wishes.seed}"
        if whole["groups"]:
            done.cut[split] += ", groups kept whole"
    why = f", since {len(keys)} are few to share out"
    why += f" and {kept} stay together; add photos" if kept else "; add photos"
    if whole["groups"]:
        why += f", or make groups smaller: there are {len(set(keys))}"
    return [
        f"the {split} split has no photos{why if split in done.cut else ''}"
        for split in NAMES
        if not done.splits[split] and wishes.on_error != "list"
    ]
