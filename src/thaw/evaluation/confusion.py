"""What a confusion matrix (a row a label, a column a prediction) tells. No torch here."""

import math
import statistics
from typing import Any

import numpy as np

from thaw.intervals import wilson

BALANCED = ("balanced_acc", "f1", "worst_recall")  # as `by_class` calls them


def per_class(confusion: list[list[int]]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class with Wilson's intervals.

    None for a class that has no photos, and for the precision of one that is never predicted.
    F1 = 2J / (1 + J), where J is a share: of the photos that are of the class or taken for it,
    those that are both. Its interval is that of J.
    """
    rows = []
    for i, row in enumerate(confusion):
        hits, support, taken = row[i], sum(row), sum(other[i] for other in confusion)
        facts: dict[str, Any] = {"support": support, "predicted": taken}
        for key, of in (("precision", taken), ("recall", support), ("f1", support + taken - hits)):
            values = (hits / of, *wilson(hits, of)) if support and of else (None, None, None)
            if key == "f1":
                values = tuple(None if v is None else 2 * v / (1 + v) for v in values)
            facts |= dict(zip((key, f"{key}_low", f"{key}_high"), values, strict=True))
        rows.append(facts)
    return rows


def by_class(confusion: list[list[int]], classes: list[str]) -> dict[str, Any]:
    """What classes with few photos count in as much as others, with 95% intervals.

    `balanced_acc` is the mean of the recalls; its interval combines Wilson's of each (Zou & Donner
    2008, "MOVER"). `worst_recall` is the lowest recall, that of `worst_class`: the upper end is the
    lowest of all recalls' upper ends at 0.025 / classes, as any class may truly be the worst
    (Bonferroni), the lower the lowest of their lower ends. `f1` is the mean of the classes' F1, its
    interval of 1000 bootstrap samples of the photos. Classes without photos have no say.

    >>> found = by_class([[9, 1], [0, 2]], ["a", "b"])
    >>> found["balanced_acc"], found["worst_recall"], found["worst_class"]
    (0.95, 0.9, 'a')
    """
    rows = per_class(confusion)
    seen = [i for i, row in enumerate(rows) if row["support"]]
    recalls = {i: rows[i]["recall"] for i in seen}
    balanced = statistics.mean(recalls.values())
    below, above = (
        math.hypot(*(rows[i]["recall"] - rows[i][f"recall_{end}"] for i in seen)) / len(seen)
        for end in ("low", "high")
    )
    worst = min(seen, key=lambda i: (recalls[i], i))
    z = statistics.NormalDist().inv_cdf(1 - 0.025 / len(seen))
    low, high = _f1_interval(confusion)
    return {
        "balanced_acc": balanced,
        "balanced_acc_low": max(0.0, balanced - below),
        "balanced_acc_high": min(1.0, balanced + above),
        "f1": statistics.mean(rows[i]["f1"] for i in seen),
        "f1_low": low,
        "f1_high": high,
        "worst_recall": recalls[worst],
        "worst_recall_low": min(rows[i]["recall_low"] for i in seen),
        "worst_recall_high": min(wilson(confusion[i][i], sum(confusion[i]), z)[1] for i in seen),
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
    scores = np.where(of > 0, 2 * hits / np.maximum(of, 1), np.nan)[counts.sum(axis=1) > 0]
    low, high = np.quantile(np.nanmean(scores, axis=0), [0.025, 0.975])
    return float(low), float(high)


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
