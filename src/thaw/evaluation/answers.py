"""What a model says of labelled photos, as tensors."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from thaw.errors import UserError


@dataclass(frozen=True)
class Answers:
    """What a model says of labelled photos.

    Args:
        logits: `[N, classes]`, as the net gives them.
        labels: `[N]`.
        classes: names, in the order of the logits.
        photos: what each photo is called.
        root: the folder that these names begin in.
        temperature: what the logits are divided by.
        features: `[N, D]`, what the head read, where that was kept.

    Raises:
        UserError: there are no photos, or logits that are no numbers.
    """

    logits: Tensor
    labels: Tensor
    classes: list[str]
    photos: list[str]
    root: Path
    temperature: float = 1.0
    features: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    def __post_init__(self) -> None:
        broken = int((~self.logits.isfinite().all(dim=1)).sum())
        if broken:
            raise UserError(
                f"The net's answers to {broken} of {len(self.labels)} photos are no numbers, so"
                " training has diverged; lower the learning rate"
                " (finetune.phases.PHASE.lr)."
            )
        if not len(self.labels):
            raise UserError(f"Expected labelled photos in {self.root}, but there are none.")

    @cached_property
    def probabilities(self) -> Tensor:
        """`[N, classes]`, calibrated."""
        return (self.logits / self.temperature).softmax(dim=1)

    @cached_property
    def predicted(self) -> Tensor:
        """The most probable class, `[N]`."""
        return self.logits.argmax(dim=1)

    @cached_property
    def correct(self) -> Tensor:
        """Whether it is the right one, `[N]`."""
        return self.predicted == self.labels

    @cached_property
    def confidence(self) -> Tensor:
        """Its probability, `[N]`."""
        return self.probabilities.amax(dim=1)

    @cached_property
    def of_label(self) -> Tensor:
        """The probability of the right one, `[N]`."""
        return self.probabilities.gather(1, self.labels[:, None])[:, 0]

    def worst(self, most: int) -> list[int]:
        """Indices of the wrong labels that it was surest of."""
        order = self.confidence.argsort(descending=True, stable=True)
        return order[~self.correct[order]][:most].tolist()

    def least_sure(self, most: int) -> list[int]:
        """Indices of the photos that it was least sure of, right or wrong."""
        return self.confidence.argsort(stable=True)[:most].tolist()
