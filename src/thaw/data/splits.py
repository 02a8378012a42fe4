"""Share photos out: which stay together, a share cut off, and k folds. Nothing imports torch."""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """A photo: its path below the data's root, its class as an index, and what it belongs with."""

    path: str
    label: int
    group: str | None = None


def together(*facts: Sequence[Hashable]) -> list[int]:
    """A key for each photo; photos with the same key may not be parted.

    Args:
        facts: of each photo, in the same order; those alike in one of them (but None) belong
            together, and so do those that only a third links.

    >>> together(["p1", "p1", None, "p2"], ["x", "y", "y", "z"])
    [0, 0, 0, 3]
    """
    parents = list(range(len(facts[0])))

    def first(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for values in facts:
        seen: dict[Hashable, int] = {}
        for i, value in enumerate(values):
            if value is not None:
                a, b = sorted((first(i), first(seen.setdefault(value, i))))
                parents[b] = a
    return [first(i) for i in range(len(parents))]


def cut(
    samples: list[Sample], keys: Sequence[Hashable], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Cut a share of each class off: (kept, cut off), both in the order of `samples`.

    Photos with the same key stay together; each class keeps a photo at least, and gives one where
    it has two. What can't be shared out evenly so comes as near to it as it can.
    """
    groups = _groups(samples, keys)
    order = sorted(groups, key=lambda group: samples[group[0]].path)
    random.Random(seed).shuffle(order)
    counts = Counter(sample.label for sample in samples)
    wanted = {
        label: min(max(round(fraction * count), 1), count - 1) for label, count in counts.items()
    }
    off: set[int] = set()
    rest = []
    for group in order:
        needs = _labels(samples, group)
        if all(needs[label] <= wanted[label] for label in needs):
            off.update(group)
            for label in needs:
                wanted[label] -= needs[label]
        else:
            rest.append((group, needs))
    kept = counts - Counter(samples[i].label for i in off)
    while rest:  # groups that are more than is wanted, as long as they bring it nearer
        costs = [
            sum(abs(wanted[label] - n) - abs(wanted[label]) for label, n in needs.items())
            if all(kept[label] > n for label, n in needs.items())
            else len(samples)
            for _, needs in rest
        ]
        best = min(range(len(rest)), key=costs.__getitem__)
        if costs[best] == len(samples) or (costs[best] >= 0 and off):
            break
        group, needs = rest.pop(best)
        off.update(group)
        for label, n in needs.items():
            wanted[label] -= n
            kept[label] -= n
    parts = [s for i, s in enumerate(samples) if i not in off], [samples[i] for i in sorted(off)]
    return parts


def folds(samples: Sequence[Sample], keys: Sequence[Hashable], k: int, seed: int) -> list[int]:
    """The fold of each photo, 0 to k - 1: stratified, and photos with the same key in one.

    The largest groups are dealt out first, each to the fold that is furthest behind in its classes
    and, where several are, has the fewest photos. As scikit-learn's `StratifiedGroupKFold` does it.
    """
    groups = sorted(_groups(samples, keys), key=lambda group: samples[group[0]].path)
    random.Random(seed).shuffle(groups)
    groups.sort(key=len, reverse=True)  # stable: chance decides among equals
    held: list[Counter[int]] = [Counter() for _ in range(k)]
    found = [0] * len(samples)
    for group in groups:
        needs = _labels(samples, group)
        fold = min(
            range(k),
            key=lambda f: (sum(held[f][label] * n for label, n in needs.items()), held[f].total()),
        )
        held[fold].update(needs)
        for i in group:
            found[i] = fold
    return found


def _labels(samples: Sequence[Sample], group: Sequence[int]) -> dict[int, int]:
    """Photos of each class in a group, which may be of several."""
    found: dict[int, int] = {}
    for i in group:
        found[samples[i].label] = found.get(samples[i].label, 0) + 1
    return found


def _groups(samples: Sequence[Sample], keys: Sequence[Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        groups[key].append(i)
    return list(groups.values())
