"""What a confusion matrix (a row a label, a column a prediction) tells. No torch here."""

from typing import Any

from thaw.intervals import wilson


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


def struggles(confusion: list[list[int]], classes: list[str]) -> str:
    """The class with the lowest recall that is sure, in words.

    >>> struggles([[70, 0], [6, 77]], ["ants", "bees"])
    'It struggles with bees: 6 of 83 are taken for ants.'
    """
    missed = {i: sum(row) - row[i] for i, row in enumerate(confusion) if sum(row) > row[i]}
    total = sum(map(sum, confusion))
    if not missed:
        return f"It gets all {total} photos right."
    # By the interval's upper end: one photo of one class, missed, says little.
    upper = {i: wilson(confusion[i][i], sum(confusion[i]))[1] for i in missed}
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
    text = f"It struggles with {classes[worst]}: {what}."
    rest = total - support
    right = sum(row[i] for i, row in enumerate(confusion)) - row[worst]
    if rest and right / rest <= upper[worst]:
        text += " That may be chance: its 95% interval includes how the others do."
    return text
