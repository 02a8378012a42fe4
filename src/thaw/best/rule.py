"""Which of two ways to train is taken, by what each says of photos that it hasn't seen.

The rule is the one-standard-error rule of Breiman et al. 1984 ("Classification and Regression
Trees", 3.4.3), on pairs: ways are tried from the simple to the complex, and the one that leads
stays unless another's loss is lower by more than one standard error of the difference, photo by
photo (group by group, where photos come in groups). Loss is cross-entropy after a temperature: of
few photos it tells more than accuracy does, and how sure a way is is calibrated at the end anyway.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from thaw.comparison.verdict import by_group, in_groups, p_text, paired_p
from thaw.evaluation import calibrate

CLEAR = 2.0  # standard errors from which on more photos are taken to change nothing


@dataclass(frozen=True)
class Duel:
    """One way against another, on the photos that both were asked about unseen.

    `gain` is how much lower the first one's loss is (nats a photo), `error` its standard error;
    `points` how many more photos in a hundred it gets right, `p` McNemar's of that. `groups` is how
    many groups the photos come in, None where each stands alone.
    """

    photos: int
    gain: float
    error: float
    points: float
    p: float
    groups: int | None = None

    @property
    def ahead(self) -> bool:
        """Whether the first is better by more than one standard error."""
        return self.gain > self.error

    @property
    def behind(self) -> bool:
        """Whether it is worse by more than one."""
        return -self.gain > self.error

    @property
    def clear(self) -> bool:
        """Whether further photos would hardly turn it over."""
        return abs(self.gain) > CLEAR * self.error

    def __str__(self) -> str:
        low, high = (self.gain + side * 1.96 * self.error for side in (-1, 1))
        return (
            f"loss {-self.gain:+.3f} (95% interval {-high:+.3f} to {-low:+.3f}), accuracy"
            f" {self.points:+.1f} points ({p_text(self.p)}) on {self.photos} photos"
            f"{in_groups(self.groups)}"
        )


def duel(first: Tensor, second: Tensor, labels: Tensor, keys: Sequence[int] = ()) -> Duel:
    """Compare two ways.

    Args:
        first: logits `[N, classes]`, NaN for photos that weren't asked about; likewise `second`.
        labels: `[N]`.
        keys: what each photo belongs to: photos of a group are right or wrong together. None given,
            each stands alone.
    """
    both = asked(first) & asked(second)
    if not both.any():
        return Duel(0, 0.0, math.inf, 0.0, 1.0)
    photos, labels = int(both.sum()), labels[both]
    _, unit = torch.tensor(keys or range(len(both)))[both].unique(return_inverse=True)
    losses = [calibrated_losses(logits[both], labels) for logits in (first, second)]
    right = [logits[both].argmax(dim=1) == labels for logits in (first, second)]
    gains, lead = losses[1] - losses[0], right[0].int() - right[1].int()
    units, mean = int(unit.max()) + 1, float(gains.mean())
    # Of groups as of single photos, the squares of what they add to the mean's error add up.
    sums = gains.new_zeros(units).index_add_(0, unit, gains - mean)
    error = math.sqrt(float(sums.square().sum()) / max(units - 1, 1) * units) / photos
    p = paired_p(by_group(lead.numpy(), unit.tolist()))
    return Duel(
        photos,
        mean,
        error if units > 1 else math.inf,
        100 * float(lead.double().mean()),
        p,
        units if units < photos else None,
    )


def asked(logits: Tensor) -> Tensor:
    """Which photos a way has been asked about `[N]`."""
    return ~logits.isnan().any(dim=1)


def calibrated_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each photo `[N]`, with the temperature that suits them all."""
    temperature = calibrate.fit(logits, labels)
    return F.cross_entropy(logits.double() / temperature, labels, reduction="none")


def simplest(ways: Sequence[Tensor], labels: Tensor, keys: Sequence[int] = ()) -> int:
    """Which way is taken of several that were asked about all photos, the simplest first."""
    losses = torch.stack([calibrated_losses(logits, labels).mean() for logits in ways])
    best = int(losses.argmin())
    return next(i for i in range(len(ways)) if not duel(ways[best], ways[i], labels, keys).ahead)
