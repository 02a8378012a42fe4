"""What a confusion matrix (a row a label, a column a prediction) tells. No torch here."""

import math
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thaw.intervals import wilson

BALANCED = ("balanced_acc", "f1", "worst_recall")  # as `by_class` calls them
Z = 1.959963984540054  # of 95%
Counts = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Drawn:
    """Of photos that come in groups, what each class's counts are when whole groups are drawn.

    Args:
        hits: photos of the class that are right `[draws, classes]`; likewise `support`, photos of
            the class, and `taken`, photos that are taken for it.
        groups: how many groups have photos of the class `[classes]`; likewise `said`, photos that
            are taken for it.
    """

    hits: Counts
    support: Counts
    taken: Counts
    groups: list[int]
    said: list[int]


def share_interval(
    hits: int, of: int, drawn: tuple[Counts, Counts] | None = None, groups: int = 0, z: float = Z
) -> tuple[float, float]:
    """95% interval of a share: Wilson's, or a wider one where photos come in groups.

    What is alike in a group makes Wilson's too narrow, so whole groups are drawn (Field & Welsh
    2007). If all photos are right, or none, all draws are the same: then it is so many groups that
    are.

    Args:
        drawn: the two counts in each draw of whole groups `[draws]`; None without groups.
        groups: that the photos are in.
    """
    low, high = wilson(hits, of, z)
    if drawn is None:
        return low, high
    if hits in (0, of):
        wide = wilson(groups * hits / of, groups, z)
    else:
        there = drawn[1] > 0
        tail = statistics.NormalDist().cdf(-z)
        wide = np.quantile(drawn[0][there] / drawn[1][there], [tail, 1 - tail]).tolist()
    return min(low, wide[0]), max(high, wide[1])


def per_class(confusion: list[list[int]], drawn: Drawn | None = None) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class with `share_interval`.

    None for a class that has no photos, and for the precision of one that is never predicted.
    F1 = 2J / (1 + J), where J is a share: of the photos that are of the class or taken for it,
    those that are both. Its interval is that of J.
    """
    rows = []
    for i, row in enumerate(confusion):
        hits, support, taken = row[i], sum(row), sum(other[i] for other in confusion)
        facts: dict[str, Any] = {"support": support, "predicted": taken}
        for key, of in (("precision", taken), ("recall", support), ("f1", support + taken - hits)):
            values = (None, None, None)
            if support and of:
                again = drawn and (drawn.hits[:, i], _of(drawn, key)[:, i])
                groups = (
                    0 if drawn is None else (drawn.said if key == "precision" else drawn.groups)[i]
                )
                values = (hits / of, *share_interval(hits, of, again, groups))
            if key == "f1":
                values = tuple(None if v is None else 2 * v / (1 + v) for v in values)
            facts |= dict(zip((key, f"{key}_low", f"{key}_high"), values, strict=True))
        rows.append(facts)
    return rows


def _of(drawn: Drawn, key: str) -> Counts:
    """What hits are a share of."""
    if key == "f1":
        return drawn.support + drawn.taken - drawn.hits
    return drawn.taken if key == "precision" else drawn.support


def by_class(
    confusion: list[list[int]], classes: list[str], drawn: Drawn | None = None
) -> dict[str, Any]:
    """What classes with few photos count in as much as others, with 95% intervals.

    `balanced_acc` is the mean of the recalls; its interval combines Wilson's of each (Zou & Donner
    2008, "MOVER"). `worst_recall` is the lowest recall, that of `worst_class`: the upper end is the
    lowest of all recalls' upper ends at 0.025 / classes, as any class may truly be the worst
    (Bonferroni), the lower the lowest of their lower ends. `f1` is the mean of the classes' F1, its
    interval of 1000 bootstrap samples of the photos. Classes without photos have no say. Of photos
    that come in groups whole groups are drawn (`drawn`), and no interval is narrower than without.

    >>> found = by_class([[9, 1], [0, 2]], ["a", "b"])
    >>> found["balanced_acc"], found["worst_recall"], found["worst_class"]
    (0.95, 0.9, 'a')
    """
    rows = per_class(confusion, drawn)
    seen = [i for i, row in enumerate(rows) if row["support"]]
    recalls = {i: rows[i]["recall"] for i in seen}
    balanced = statistics.mean(recalls.values())
    below, above = (
        math.hypot(*(rows[i]["recall"] - rows[i][f"recall_{end}"] for i in seen)) / len(seen)
        for end in ("low", "high")
    )
    worst = min(seen, key=lambda i: (recalls[i], i))
    z = statistics.NormalDist().inv_cdf(1 - 0.025 / len(seen))
    upper = [
        share_interval(
            *(confusion[i][i], sum(confusion[i])),
            drawn and (drawn.hits[:, i], drawn.support[:, i]),
            drawn.groups[i] if drawn else 0,
            z,
        )[1]
        for i in seen
    ]
    low, high = _f1_interval(confusion)
    if drawn:
        low, high = _wider(low, high, _f1(drawn.hits, drawn.support + drawn.taken)[:, seen])
        recall = drawn.hits / np.where(drawn.support > 0, drawn.support, np.nan)
        ends = _wider(balanced - below, balanced + above, recall[:, seen])
        below, above = balanced - ends[0], ends[1] - balanced
    return {
        "balanced_acc": balanced,
        "balanced_acc_low": max(0.0, balanced - below),
        "balanced_acc_high": min(1.0, balanced + above),
        "f1": statistics.mean(rows[i]["f1"] for i in seen),
        "f1_low": low,
        "f1_high": high,
        "worst_recall": recalls[worst],
        "worst_recall_low": min(rows[i]["recall_low"] for i in seen),
        "worst_recall_high": min(upper),
        "worst_class": classes[worst],
    }


def _f1_interval(confusion: list[list[int]]) -> tuple[float, float]:
    """Of macro F1: photos in one cell of the matrix are alike, so cells are drawn for them."""
    counts = np.array(confusion)
    labels, predicted = counts.nonzero()
    cells = counts[labels, predicted]
    draws = np.random.default_rng(0).multinomial(cells.sum(), cells / cells.sum(), size=1000)
    hits, of = (np.zeros((len(counts), len(draws))) for _ in range(2))
    for label, said, drawn in zip(labels, predicted, draws.T, strict=True):
        of[label] += drawn
        of[said] += drawn
        if label == said:
            hits[label] += drawn
    scores = _f1(hits, of)[counts.sum(axis=1) > 0]
    low, high = np.quantile(np.nanmean(scores, axis=0), [0.025, 0.975])
    return float(low), float(high)


def _f1(hits: Counts, of: Counts) -> Counts:
    """F1, where `of` are the photos of a class and those that are taken for it, counted twice."""
    return np.where(of > 0, 2 * hits / np.maximum(of, 1e-9), np.nan)


def _wider(low: float, high: float, drawn: Counts) -> tuple[float, float]:
    """An interval that also holds 95% of the means over the classes `[draws, classes]`."""
    ends = np.quantile(np.nanmean(drawn, axis=1), [0.025, 0.975])
    return min(low, float(ends[0])), max(high, float(ends[1]))


def struggles(confusion: list[list[int]], classes: list[str]) -> str:
    """The class with the lowest recall that is sure, in words; and whether it may be chance.

    >>> struggles([[70, 0], [9, 74]], ["ants", "bees"])
    'It struggles with bees: 9 of 83 are taken for ants.'
    """
    seen = [i for i, row in enumerate(confusion) if sum(row)]
    missed = {
        i: sum(confusion[i]) - confusion[i][i] for i in seen if sum(confusion[i]) > confusion[i][i]
    }
    total = sum(map(sum, confusion))
    if not missed:
        return f"It gets all {total:,} photos right."
    # By the interval's upper end: one photo of one class, missed, says little. Of many classes one
    # is always the worst, so each gets its share of the 5% (Bonferroni).
    z = statistics.NormalDist().inv_cdf(1 - 0.025 / (1 if len(seen) < 3 else len(seen)))
    upper = {i: wilson(confusion[i][i], sum(confusion[i]), z)[1] for i in missed}
    worst = min(missed, key=lambda i: (upper[i], i))
    row = confusion[worst]
    support, errors = sum(row), missed[worst]
    other = max((i for i in range(len(row)) if i != worst), key=row.__getitem__)
    verb = "is" if errors == 1 else "are"
    if row[other] == errors:
        what = f"{errors} of {support} {verb} taken for {classes[other]}"
    elif row[other] > 1:
        what = f"{errors} of {support} are missed, {row[other]} of them taken for {classes[other]}"
    else:
        what = f"{errors} of {support} are missed, each taken for another class"
    rest = total - support
    if rest:
        # How far it is behind the others, with Newcombe's interval (1998, method 10).
        right = sum(row[i] for i, row in enumerate(confusion)) - row[worst]
        others, recall = right / rest, row[worst] / support
        reach = math.hypot(others - wilson(right, rest, z)[0], upper[worst] - recall)
        if others - recall <= reach:
            return (
                f"Of {classes[worst]}, {what}. That may be chance: so few photos can't tell it"
                " from the other classes."
            )
    return f"It struggles with {classes[worst]}: {what}."
