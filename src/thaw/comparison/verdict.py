"""Which differences between classifiers are more than noise, and sentences that say so.

Nothing here imports torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

ALPHA = 0.05  # a difference counts from here on: it would come by chance once in 20 times
POWER = 0.8  # chance to find a difference that is there, for the number of photos it would take


@dataclass(frozen=True)
class Pair:
    """Two configurations on the same test photos, `a` before `b` in the leaderboard.

    `only_a` counts the photos that `a` gets right and `b` wrong (with several seeds, the photos by
    which their averages differ), `lead` is how much more accurate `a` is. `groups` is the number of
    groups that the photos come in, None where each stands alone. `p_holm` is `p` corrected for all
    the pairs that were looked at. `needed` is the number of photos it would take to tell them
    apart, in groups of the same size, None where they are right equally often. `seeds` says in how
    many of the shared seeds the one that leads is ahead, and how many there are.
    """

    a: str
    b: str
    photos: int
    only_a: float
    only_b: float
    lead: float
    p: float
    p_holm: float
    needed: int | None
    corrected: bool
    seeds: tuple[int, int]
    groups: int | None = None

    @property
    def tested_on(self) -> str:
        """The photos, and the groups that they come in."""
        return f"{self.photos} photos{in_groups(self.groups)}"

    @property
    def told_apart(self) -> bool:
        """Whether the difference is more than noise."""
        return self.p_holm < ALPHA

    @property
    def sentence(self) -> str:
        """What one may say of the two."""
        p = f"{p_text(self.p_holm)}{', Holm' if self.corrected else ''}"
        points = f"{100 * abs(self.lead):.1f} points"
        if self.told_apart:
            better, worse = (self.a, self.b) if self.lead > 0 else (self.b, self.a)
            ahead, seeds = self.seeds
            but = f", though with {ahead} of {seeds} seeds only" if ahead < seeds else ""
            return f"{better} beats {worse} by {points} on the same {self.tested_on} ({p}){but}"
        apart = f"{self.a} and {self.b} can't be told apart on {self.tested_on}"
        if self.only_a == self.only_b == 0:
            return f"{apart} ({p}): they are right on the same ones"
        if self.needed is None:
            return f"{apart} ({p}): they are right equally often, so no number of photos would do"
        such = " in such groups" if self.groups else ""
        return f"{apart} ({points}, {p}); it would take about {_about(self.needed):,} photos{such}"


def in_groups(groups: int | None) -> str:
    """What follows a number of photos that come in groups.

    >>> in_groups(40), in_groups(None)
    (' in 40 groups', '')
    """
    return f" in {groups} group{'s' if groups > 1 else ''}" if groups else ""


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def p_text(p: float) -> str:
    """A p-value as it is written.

    >>> p_text(0.00021), p_text(0.0034), p_text(0.2149), p_text(1.0)
    ('p < 0.001', 'p = 0.003', 'p = 0.21', 'p = 1')
    """
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2g}"


def _about(number: int) -> int:
    """Two digits of a number, rounded up: more would claim what an estimate can't know."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return math.ceil(number / unit) * unit


def by_group(differences: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    """The sum of each group's differences `[groups]`, of differences `[photos]`.

    Photos of a patient or a clip are right or wrong together, so it is groups that chance may turn
    the other way round: as if they were so many photos, p would be far too small.

    Args:
        keys: what each photo belongs to.

    >>> by_group(np.array([1, 1, -1, 0]), [7, 7, 2, 9]).tolist()
    [-1, 2, 0]
    """
    names, places = np.unique(np.asarray(keys, int), return_inverse=True)
    sums = np.zeros(len(names), int)
    np.add.at(sums, places, differences)
    return sums


def paired_p(differences: np.ndarray) -> float:
    """Two-sided p of paired differences, exact: how often chance alone gives one so far from 0.

    If neither is better, a photo's two results might as well have been the other way round: every
    sign pattern of the differences is equally likely (the permutation test of Fisher 1935, Pitman
    1937), and the distribution of their sum is computed in full, nothing is drawn at random.

    For one seed each the differences are 1, 0 and -1, and this is McNemar's exact test (McNemar
    1947; a binomial test of the photos that only one gets right). For several seeds they are the
    differences of the average over seeds: a photo stays one photo, however many models see it, so
    3 seeds on 153 photos don't pass for 459 photos. The trained models are taken as they are:
    whether new seeds would give the like is not in this p.

    Args:
        differences: whole numbers `[photos]`, or `[groups]` (`by_group`) where photos have groups.
    """
    total = int(abs(differences).sum())
    spread = np.ones(1)  # spread[t]: chance that the positive differences add up to t
    for step in abs(differences[differences != 0]):
        wider = np.zeros(len(spread) + int(step))
        wider[: len(spread)] += spread / 2
        wider[step:] += spread / 2
        spread = wider
    smaller = (total - abs(int(differences.sum()))) // 2
    return min(1.0, 2 * float(spread[: smaller + 1].sum()))


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): among all, 5% stays 5%.

    >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = largest
    return corrected


def photos_needed(
    differences: np.ndarray, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Photos at which a difference as large as this one is found with the chance `power`.

    Connor (1987, Biometrics 43, p. 209) for McNemar's test, two-sided: with d the mean difference
    and s the share of photos on which the two differ,
    N = ((z(1 - alpha / 2) sqrt(s) + z(power) sqrt(s - d²)) / d)². For averages over seeds, s is the
    mean square of the differences, which it equals for one seed. None where d is 0.

    Args:
        differences: of each photo `[photos]`, in any unit.
        alpha: the p below which a difference counts.
    """
    mean, square = float(differences.mean()), float((differences.astype(float) ** 2).mean())
    if mean == 0:
        return None
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    spread = math.sqrt(max(0.0, square - mean**2))
    return math.ceil(((z_alpha * math.sqrt(square) + z_power * spread) / mean) ** 2)
