"""When to say "unsure", with a promise; and sets of labels in place of one. No torch here.

Every promise is made on val and speaks of photos like those of val. It counts val's photos as fresh
ones, though they have also chosen the epoch and the temperature; test shows whether that matters.
"""

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from thaw.errors import UserError
from thaw.intervals import binomial_cdf, clopper_pearson_upper, wilson

CERTAINTY = 0.9


def threshold_for_error(
    confidence: Sequence[float],
    correct: Sequence[bool],
    target: float,
    certainty: float = CERTAINTY,
) -> float:
    """The lowest threshold above which at most a share `target` of the answers is wrong.

    With probability `certainty` over the draw of the val photos the true share is within the
    target (selective classification: Geifman & El-Yaniv 2017). Learn then Test (Angelopoulos et al.
    2021): "the k most confident photos" are tested by the exact binomial test, which Clopper &
    Pearson's bound inverts, with k growing from its start until a test fails. There are two starts
    where photos allow: the fewest that can pass, and half of all; each has half the `alpha`. It
    takes for granted that photos of less confidence are not less often wrong.

    Args:
        confidence: of each val photo.
        correct: whether its label was right.

    Raises:
        UserError: these photos can't promise that much; it names what they can.
    """
    curve = risk_coverage(confidence, correct)
    answered = _answered(*curve, target, certainty)
    if not answered:
        steps = (step / 1000 for step in range(1, 1000))
        least = next((x for x in steps if _answered(*curve, x, certainty)), None)
        raise UserError(
            f"{len(confidence)} val photos can't promise an error of {_percent(target)} with"
            f" {_percent(certainty)} certainty:"
            + (f" the least that they can promise is {_percent(least)}, and" if least else "")
            + f" {_percent(target)} takes {_fewest(target, 1 - certainty)} photos without a mistake"
            " among them."
        )
    return _below(sorted(confidence, reverse=True), answered)


def _answered(
    answered: Sequence[int], wrong: Sequence[int], target: float, certainty: float
) -> int:
    """How many of the surest val photos may be answered, given `risk_coverage`; 0: no promise."""
    photos, alpha = answered[-1], 1 - certainty
    starts = [_fewest(target, alpha)]
    if 2 * _fewest(target, alpha / 2) < photos:
        alpha /= 2
        starts = [_fewest(target, alpha), photos // 2]
    best = 0
    for start in starts:
        for k, errors in zip(answered, wrong, strict=True):
            if k >= start and binomial_cdf(errors, k, target) > alpha:
                break
            if k >= start:
                best = max(best, k)
    return best


def _fewest(target: float, alpha: float) -> int:
    """Photos that it takes to promise an error, when none of them is wrong."""
    return math.ceil(math.log(alpha) / math.log1p(-target))


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def threshold_for_coverage(
    confidence: Sequence[float], target: float, certainty: float = CERTAINTY
) -> float:
    """The highest threshold that still answers a share `target` of the photos.

    With probability `certainty` over the draw of the val photos: the share below the threshold is
    bounded after Clopper & Pearson, which for an order statistic is exact (Wilks 1941).

    Raises:
        UserError: these photos can't promise that much; it names what they can.
    """
    photos, alpha = len(confidence), 1 - certainty
    most = 1 - clopper_pearson_upper(0, photos, alpha)
    if target > most:
        raise UserError(
            f"{photos} val photos can't promise that {_percent(target)} are answered with"
            f" {_percent(certainty)} certainty; the most that they can promise is"
            f" {_percent(math.floor(1000 * most) / 1000)}."
        )
    # Val photos that may be left unsure: as many as keep their bound within 1 - target.
    fits = bisect(range(photos), alpha, key=lambda k: binomial_cdf(k, photos, 1 - target))
    below = max(fits - 1, 0)
    return _below(sorted(confidence, reverse=True), photos - below)


def _below(ranked: Sequence[float], answered: int) -> float:
    """A threshold between the last photo that is answered and the next; 0 where all are."""
    if answered == len(ranked):
        return 0.0
    return (ranked[answered - 1] + ranked[answered]) / 2


def outcome(
    confidence: Sequence[float], correct: Sequence[bool], threshold: float
) -> dict[str, Any]:
    """What a threshold does to labelled photos: shares unsure and wrong, with 95% intervals.

    `error` is the share of wrong labels among the photos that are answered; None where none is.
    """
    answered = [right for sure, right in zip(confidence, correct, strict=True) if sure >= threshold]
    photos, unsure, wrong = len(correct), len(correct) - len(answered), answered.count(False)
    low, high = wilson(unsure, photos)
    facts = {"threshold": threshold, "photos": photos, "answered": len(answered), "unsure": unsure}
    facts |= {"rejection": unsure / photos, "rejection_low": low, "rejection_high": high}
    facts |= {"wrong": wrong, "error": None, "error_low": None, "error_high": None}
    if answered:
        low, high = wilson(wrong, len(answered))
        facts |= {"error": wrong / len(answered), "error_low": low, "error_high": high}
    return facts


def risk_coverage(
    confidence: Sequence[float], correct: Sequence[bool]
) -> tuple[list[int], list[int]]:
    """For every threshold, the strictest first: how many photos are answered, how many wrongly."""
    ranked = sorted(zip(confidence, correct, strict=True), reverse=True)
    wrong = list(accumulate(not right for _, right in ranked))
    photos = len(ranked)  # those of one confidence are answered together
    ends = [k for k in range(1, photos + 1) if k == photos or ranked[k][0] < ranked[k - 1][0]]
    return ends, [wrong[k - 1] for k in ends]


# --- prediction sets ------------------------------------------------------------------------------


def conformal_scores(own: Sequence[float]) -> list[float]:
    """What `label_set` needs of val: each photo's probability of its own label, the lowest first.

    They are rounded down to 6 digits, which can only make the sets larger.
    """
    return sorted(math.floor(p * 1e6) / 1e6 for p in own)


def set_cutoff(scores: Sequence[float], coverage: float) -> float:
    """The probability from which on a label belongs to the set.

    Split conformal prediction (Vovk et al. 2005) with the least ambiguous sets (Sadinle et al.
    2019): the set holds the right label with probability `coverage` at least, on average over the
    draw of the val photos.

    Raises:
        UserError: val has too few photos for that coverage.
    """
    photos = len(scores)
    rank = math.floor((photos + 1) * (1 - coverage) + 1e-9)
    if rank < 1:
        raise UserError(
            f"{photos} val photos can't promise sets that hold the right label of"
            f" {_percent(coverage)} of the photos; the most that they can promise is"
            f" {_percent(math.floor(1000 * photos / (photos + 1)) / 1000)}."
        )
    return scores[rank - 1]


def label_set(probabilities: Mapping[str, float], cutoff: float) -> list[str]:
    """The labels from `cutoff` on, the most probable first; at least one."""
    ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
    return [name for i, name in enumerate(ranked) if i == 0 or probabilities[name] >= cutoff]
