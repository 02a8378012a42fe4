"""What a model says of a photo, whatever runs it: no torch here."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thaw.errors import UserError

UNSURE = "unsure"


@dataclass(frozen=True)
class Prediction:
    """What the model says of one photo; `label` is "unsure" below the threshold."""

    path: str
    label: str
    confidence: float
    probabilities: dict[str, float]


def check_threshold(threshold: Any) -> None:
    """Raise UserError unless the threshold is a number from 0 to 1, or None."""
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if threshold is not None and not (number and 0 <= threshold <= 1):
        raise UserError(f"Expected threshold to be a number from 0 to 1, got {threshold!r}.")


def decide(
    path: Path | str,
    classes: Sequence[str],
    probabilities: Sequence[float],
    threshold: float | None,
) -> Prediction:
    """The most probable class, or "unsure" if its probability is below the threshold."""
    confidence = max(probabilities)
    sure = threshold is None or confidence >= threshold
    label = classes[probabilities.index(confidence)] if sure else UNSURE
    by_class = dict(zip(classes, probabilities, strict=True))
    return Prediction(str(path), label, confidence, by_class)


def as_row(prediction: Prediction) -> dict[str, Any]:
    """A flat row: path, label, confidence, and one column a class."""
    row = asdict(prediction)
    return row | row.pop("probabilities")
