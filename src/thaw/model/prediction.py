"""What a model says of a photo, whatever runs it: no torch here."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaw.errors import UserError

UNSURE, UNFAMILIAR = "unsure", "unfamiliar"


def aside(word: str, classes: Collection[str]) -> str:
    """What Thaw says in place of a class, as no class is called.

    >>> aside("unsure", ["ants", "bees"]), aside("unsure", ["ants", "unsure"])
    ('unsure', '(unsure)')
    """
    while word in classes:
        word = f"({word})"
    return word


@dataclass(frozen=True)
class Similar:
    """A train photo that a photo is like; `likeness` is a cosine, 1 for the same photo."""

    path: str
    label: str
    likeness: float


@dataclass(frozen=True)
class Prediction:
    """What the model says of one photo.

    `label` is "unfamiliar" where the photo is unlike all that the model was trained on, else
    "unsure" below the threshold. Where a class is called that, the word for it is "(unsure)".

    `familiarity` is a conformal p-value: the share of val's photos that are as far from the train
    photos, or farther; None where the model can't say. `similar` holds train photos, if asked for.
    `top` is the class that the label would be if nothing stood against it.
    """

    path: str
    label: str
    confidence: float
    probabilities: dict[str, float]
    familiarity: float | None = None
    similar: tuple[Similar, ...] = ()
    top: str = ""

    def __post_init__(self) -> None:
        if not self.top:
            top = max(self.probabilities, key=self.probabilities.__getitem__)
            object.__setattr__(self, "top", top)

    @property
    def beside(self) -> str:
        """What stands beside a label that is no class; empty for a class."""
        if self.label in self.probabilities:
            return ""
        unfamiliar = self.label == aside(UNFAMILIAR, self.probabilities)
        return f" (most like {self.top})" if unfamiliar else f" ({self.top}?)"


def is_unfamiliar(familiarity: float, level: float | None) -> bool:
    """Whether a p-value is that low; with room for the last bits, as an ONNX file has fewer."""
    return level is not None and familiarity <= level + 1e-6


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
    prior: Sequence[float] | None = None,
    familiarity: float | None = None,
    level: float | None = None,
    similar: Sequence[Similar] = (),
) -> Prediction:
    """The most probable class; "unfamiliar", or "unsure" if its probability is below the threshold.

    Args:
        level: familiarity up to which a photo is unfamiliar; None where nothing is.
        prior: each class's share of the photos trained on, if training weighed classes alike
            (`data.balance`): the label is then the class that would be the most probable if each
            were equally likely. Probabilities stay those for photos in their real mix.

    Raises:
        UserError: probabilities are no numbers.
    """
    numbers = [*probabilities, *([] if familiarity is None else [familiarity])]
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"The model's answer to {path} isn't a number, so the model is damaged.")
    scores = [
        p / share for p, share in zip(probabilities, prior or [1.0] * len(classes), strict=True)
    ]
    said = scores.index(max(scores))
    confidence, label = probabilities[said], classes[said]
    if familiarity is not None and is_unfamiliar(familiarity, level):
        label = aside(UNFAMILIAR, classes)
    elif threshold is not None and confidence < threshold:
        label = aside(UNSURE, classes)
    by_class = dict(zip(classes, probabilities, strict=True))
    more = (familiarity, tuple(similar), classes[said])
    return Prediction(str(path), label, confidence, by_class, *more)


def as_row(prediction: Prediction) -> dict[str, Any]:
    """A flat row: path, label, confidence, familiarity, and a column `p:CLASS` for each class."""
    row = {key: getattr(prediction, key) for key in ("path", "label", "confidence", "familiarity")}
    return row | columns(prediction.probabilities)


def columns(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Columns of a table, named so that no class can have the name of another column."""
    return {f"p:{name}": probability for name, probability in probabilities.items()}
