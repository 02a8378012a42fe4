"""What a model says of a photo, whatever runs it: no torch here."""

from dataclasses import asdict, dataclass
from typing import Any

UNSURE = "unsure"


@dataclass(frozen=True)
class Prediction:
    """What the model says of one photo; `label` is "unsure" below the threshold."""

    path: str
    label: str
    confidence: float
    probabilities: dict[str, float]


def as_row(prediction: Prediction) -> dict[str, Any]:
    """A flat row: path, label, confidence, and one column a class."""
    row = asdict(prediction)
    return row | row.pop("probabilities")
