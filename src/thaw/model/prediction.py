"""What a model says of a photo, whatever runs it: no torch here."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thaw.errors import UserError

UNSURE = "unsure"


def aside(word: str, classes: Collection[str]) -> str:
    """What Thaw says in place of a class, as no class is called.

    >>> aside("unsure", ["ants", "bees"]), aside("unsure", ["ants", "unsure"])
    ('unsure', '(unsure)')
    """
    while word in classes:
        word = f"({word})"
    return word


@dataclass(frozen=True)
class Prediction:
    """What the model says of one photo; `label` is "unsure" below the threshold.

    Where a class is called that, the word for it is "(unsure)".
    """

    path: str
    label: str
    confidence: float
    probabilities: dict[str, float]


def decide(
    path: Path | str,
    classes: Sequence[str],
    probabilities: Sequence[float],
    threshold: float | None,
) -> Prediction:
    """The most probable class, or "unsure" if its probability is below the threshold.

    Raises:
        UserError: probabilities are no numbers.
    """
    if not all(map(math.isfinite, probabilities)):
        raise UserError(f"The model's answer to {path} isn't a number, so the model is damaged.")
    confidence = max(probabilities)
    sure = threshold is None or confidence >= threshold
    label = classes[probabilities.index(confidence)] if sure else aside(UNSURE, classes)
    by_class = dict(zip(classes, probabilities, strict=True))
    return Prediction(str(path), label, confidence, by_class)


def as_row(prediction: Prediction) -> dict[str, Any]:
    """A flat row: path, label, confidence, and a column `p:CLASS` for each class."""
    row = asdict(prediction)
    return row | columns(row.pop("probabilities"))


def columns(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Columns of a table, named so that no class can have the name of another column."""
    return {f"p:{name}": probability for name, probability in probabilities.items()}
