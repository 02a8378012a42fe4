"""Groups: photos that come together (a clip, a burst, a patient), and should stay on one side.

Names are taken apart in a few usual ways. A way counts where photos of one group look more alike
than photos of one class do: their nearest neighbour is of their group far more often than chance.
"""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from thaw.checks.findings import Context, Finding, Result, several
from thaw.launch.cli import quoted

# What a group is called, searched for in the photo's path; the first that fits is suggested.
WAYS = (
    # clip07_0012.jpg, patient3-img2.png
    r"([^/]*?[A-Za-z][^/]*?)[-_ .]+[A-Za-z]{0,5}[-_ .]*[0-9]+[.][^./]+$",
    r"([^-_ /]+)[-_ ][^/]*$",  # patient3_left.jpg, 0012-b.jpg
    r"([A-Za-z]+[0-9]+)[^0-9/][^/]*$",  # cam2night.jpg
)
FOLDER = "folder"  # data.group=folder: the folder that a photo lies in
BURST = 3.0  # seconds between photos of one camera that belong together
CLEAR = 0.3  # share of photos whose nearest neighbour is of their group, beyond chance
FEWEST = 10  # photos that are in groups of several, or nothing is said
BLOCK = 1024  # photos that are compared with all at once
SHUFFLES = 20


def find(context: Context) -> list[Result]:
    """Suggest groups from names, from the time of the shot, and from photos of one scene."""
    labels = context.labels_of(context.used)
    nearest = _nearest(context, labels)
    for way in (FOLDER, *WAYS):
        groups = [group_of(context.path(i), way) for i in context.used]
        share, chance = _together(groups, labels, nearest)
        if share - chance >= CLEAR:
            why = f"{share:.0%} of their photos lie nearest to one of their group"
            why += f" ({chance:.0%} by chance)"
            advice = f"Set {setting(way)}, so that no group is on two sides."
            return [_result(context, groups, f"names suggest groups: {why}", advice)]
    bursts = _bursts(context)
    if _grouped(bursts) >= FEWEST:
        text = f"{several(_grouped(bursts), 'photo')} were taken within {BURST:g} s of another"
        advice = "Give them a group of their own: a column of data=table, or a folder."
        return [_result(context, bursts, text, advice)]
    return []


def setting(way: str) -> str:
    """What to type for a way to take names apart."""
    return shlex.quote(f"data.group={way if way == FOLDER else quoted(way)}")


def group_of(path: str, way: str) -> Hashable:
    """The group of a photo, None where its name has none.

    >>> group_of("train/cat/clip07_0012.jpg", WAYS[0]), group_of("a/b/123.jpg", WAYS[0])
    ('clip07', None)
    """
    if way == FOLDER:
        return path.rpartition("/")[0]
    found = re.search(way, path)
    return found[1] if found else None


def _grouped(groups: Sequence[Hashable]) -> int:
    """Photos that are in a group with another."""
    counts = Counter(group for group in groups if group is not None)
    return sum(count for count in counts.values() if count > 1)


def _nearest(context: Context, labels: Tensor) -> Tensor:
    """Each photo's nearest neighbour among train and val of its class `[M]`, by features."""
    features = context.features[context.used]
    features = F.normalize(features - features.mean(dim=0), dim=1)
    nearest = torch.full((len(features),), -1)
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        if len(own) < 2:
            continue
        for start in range(0, len(own), BLOCK):
            rows = own[start : start + BLOCK]
            alike = features[rows] @ features[own].T
            alike[torch.arange(len(rows)), start + torch.arange(len(rows))] = -2
            nearest[rows] = own[alike.argmax(dim=1)]
    return nearest


def _together(groups: Sequence[Hashable], labels: Tensor, nearest: Tensor) -> tuple[float, float]:
    """How often a photo's neighbour is of its group, and how often by chance; (0, 0) if unclear."""
    counts = Counter(group for group in groups if group is not None)
    if _grouped(groups) < max(FEWEST, len(groups) / 4):
        return 0.0, 0.0
    numbers = {group: number for number, group in enumerate(counts)}
    codes = torch.tensor([numbers.get(group, -1 - i) for i, group in enumerate(groups)])
    inside = {int(label): codes[labels == label].unique().numel() for label in labels.unique()}
    if min(inside.values()) < 3:  # the class by another name
        return 0.0, 0.0
    several_there = torch.tensor([counts.get(group, 0) > 1 for group in groups]) & (nearest >= 0)
    if not several_there.any():
        return 0.0, 0.0

    def share(codes: Tensor) -> float:
        same = codes == codes[nearest]
        return float(same[several_there].float().mean())

    generator, by_chance = torch.Generator().manual_seed(0), []
    for _ in range(SHUFFLES):
        mixed = codes.clone()
        for label in labels.unique():  # within a class: that it is alike is no news
            own = (labels == label).nonzero()[:, 0]
            mixed[own] = codes[own[torch.randperm(len(own), generator=generator)]]
        by_chance.append(share(mixed))
    return share(codes), sum(by_chance) / len(by_chance)


def _bursts(context: Context) -> list[Hashable]:
    """A number for photos of a camera that follow each other within seconds."""
    shots = []
    for row, place in enumerate(context.used):
        file = context.files[place]
        if file and file.taken:
            shots.append((file.camera or "", file.taken, row))
    groups: list[Hashable] = [None] * len(context.used)
    shots.sort()
    for number, (before, now) in enumerate(pairwise(shots)):
        close = (now[1] - before[1]).total_seconds() <= BURST
        if before[0] == now[0] and close:
            if groups[before[2]] is None:
                groups[before[2]] = number
            groups[now[2]] = groups[before[2]]
    return groups


def _result(context: Context, groups: Sequence[Hashable], text: str, advice: str) -> Result:
    members = defaultdict(list)
    for place, group in zip(context.used, groups, strict=True):
        if group is not None:
            members[group].append(place)
    found, across = [], 0
    for group, places in members.items():
        if len(places) < 2:
            continue
        splits = {context.splits[place] for place in places}
        across += len(splits) > 1
        first = places[0]
        other = next((p for p in places if context.splits[p] != context.splits[first]), places[1])
        detail = f"group {str(group)!r}: {len(places)} photos"
        detail += f" in {' and '.join(sorted(splits))}" if len(splits) > 1 else ""
        score = 1.0 if len(splits) > 1 else 0.5
        found.append(Finding("group", context.path(first), context.path(other), score, detail))
    found.sort(key=lambda finding: -finding.score)
    text = f"{text}; {several(len(found), 'group')} of several photos"
    if across:
        text += f", {across} on two sides: val accuracy is probably too good"
    return Result("group", text, advice, found)
