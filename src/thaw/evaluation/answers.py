"""What a model says of labelled photos, as tensors."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thaw.errors import UserError
from thaw.evaluation.confusion import Drawn, share_interval

RESAMPLES = 1000


@dataclass(frozen=True)
class Answers:
    """What a model says of labelled photos.

    Args:
        logits: `[N, classes]`, as the net gives them.
        labels: `[N]`.
        classes: names, in the order of the logits.
        photos: what each photo is called.
        root: the folder that these names begin in.
        temperature: what the logits are divided by; `[N, 1]` where each photo has its own.
        prior: each class's share of the photos trained on, where training weighed classes alike
            (`data.balance`). The label is then the class with the largest logit, as if each were
            equally likely; probabilities are those for photos in their real mix (Saerens et al.
            2002, equation 4), so the label needn't be the most probable class. A list a photo where
            each has its own.
        groups: what each photo belongs with; photos without are groups of one.
        features: `[N, D]`, what the head read, where that was kept.

    Raises:
        UserError: there are no photos, or logits that are no numbers.
    """

    logits: Tensor
    labels: Tensor
    classes: list[str]
    photos: list[str]
    root: Path
    temperature: float | Tensor = 1.0
    prior: list[float] | list[list[float]] | None = None
    groups: list[str | None] | None = None
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
    def calibrated(self) -> Tensor:
        """Logits `[N, classes]` whose softmax is `probabilities`."""
        shift = torch.tensor(self.prior).log() if self.prior else 0.0
        return self.logits / self.temperature + shift

    @cached_property
    def probabilities(self) -> Tensor:
        """`[N, classes]`, calibrated."""
        return self.calibrated.softmax(dim=1)

    @cached_property
    def predicted(self) -> Tensor:
        """The class that is said, `[N]`: the most probable one, unless there is a `prior`."""
        return self.logits.argmax(dim=1)

    @cached_property
    def correct(self) -> Tensor:
        """Whether it is the right one, `[N]`."""
        return self.predicted == self.labels

    @cached_property
    def confidence(self) -> Tensor:
        """Its probability, `[N]`."""
        return self.probabilities.gather(1, self.predicted[:, None])[:, 0]

    @cached_property
    def of_label(self) -> Tensor:
        """The probability of the right one, `[N]`."""
        return self.probabilities.gather(1, self.labels[:, None])[:, 0]

    @cached_property
    def group_of_each(self) -> Tensor | None:
        """The number of each photo's group, `[N]`; None where there are no groups."""
        if not self.groups or not any(self.groups):
            return None
        names = [name or i for i, name in enumerate(self.groups)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([numbers[name] for name in names])

    @cached_property
    def draws(self) -> Tensor:
        """How often each photo counts in each bootstrap sample `[draws, N]`.

        Where photos come in groups, whole groups are drawn (Field & Welsh 2007): what is alike in a
        group would make intervals too narrow.
        """
        photos, group = len(self.labels), self.group_of_each
        units = photos if group is None else int(group.max()) + 1
        draws = np.random.default_rng(0).multinomial(
            units, np.full(units, 1 / units), size=max(20, min(RESAMPLES, 10_000_000 // photos))
        )
        counts = torch.from_numpy(draws).float()
        if group is not None:
            counts = counts[:, group]
            counts *= photos / counts.sum(dim=1, keepdim=True)  # groups differ in size
        return counts

    @cached_property
    def drawn(self) -> Drawn | None:
        """Each class's counts in each draw; None where there are no groups."""
        if (group := self.group_of_each) is None:
            return None
        classes = len(self.classes)
        of, said = F.one_hot(self.labels, classes), F.one_hot(self.predicted, classes)
        hits, support, taken = (
            (self.draws @ each.float()).double().numpy() for each in (of * said, of, said)
        )
        groups, telling = (
            [len(group[each[:, c] > 0].unique()) for c in range(classes)] for each in (of, said)
        )
        return Drawn(hits, support, taken, groups, telling)

    def interval(self, right: Tensor, inside: Tensor | None = None) -> tuple[float, float]:
        """95% interval of the share of photos that are right `[N]`, of all or of those inside."""
        inside = torch.ones_like(right) if inside is None else inside
        hits, group = right & inside, self.group_of_each
        counts = int(hits.sum()), int(inside.sum())
        if group is None:
            return share_interval(*counts)
        drawn = [(self.draws @ each.float()).double().numpy() for each in (hits, inside)]
        return share_interval(*counts, (drawn[0], drawn[1]), len(group[inside].unique()))

    def worst(self, most: int) -> list[int]:
        """Indices of the wrong labels that it was surest of."""
        order = self.confidence.argsort(descending=True, stable=True)
        return order[~self.correct[order]][:most].tolist()

    def least_sure(self, most: int) -> list[int]:
        """Indices of the photos that it was least sure of, right or wrong."""
        return self.confidence.argsort(stable=True)[:most].tolist()
