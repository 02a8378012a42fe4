"""Every two configurations, photo by photo, on the test photos that both were tested on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from thaw.comparison.configurations import Configuration
from thaw.comparison.verdict import ALPHA, Pair, by_group, holm, paired_p, photos_needed
from thaw.data.splits import together
from thaw.errors import UserError
from thaw.runs.finished import Run


def check_same_photos(runs: Sequence[Run]) -> None:
    """Raise UserError unless all runs, or at least all of one seed, have the same test photos."""
    if len({frozenset(run.right) for run in runs}) == 1:
        return
    for seed in {run.seed for run in runs}:  # a test split that is cut differs from seed to seed
        _check_alike([run for run in runs if run.seed == seed])


def _check_alike(runs: Sequence[Run]) -> None:
    by_photos: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        by_photos.setdefault(frozenset(run.right), []).append(run)
    if len(by_photos) == 1:
        return
    (most, usual), (other, odd) = sorted(by_photos.items(), key=lambda item: -len(item[1]))[:2]
    shared = len(most & other)
    relabelled = len({path for path, _ in most} & {path for path, _ in other}) - shared
    labels = f", and {relabelled} have another label" if relabelled > 0 else ""
    raise UserError(
        "Expected runs that were tested on the same photos with the same labels, but"
        f" {_listed(odd)} had {len(other)} test photos, of which {shared} are among the"
        f" {len(most)} of {_listed(usual)}{labels}; compare each test set's runs alone."
    )


def _listed(runs: Sequence[Run]) -> str:
    names = [str(run.path) for run in runs[:2]]
    if len(runs) > 2:
        names = [", ".join(names), f"{len(runs) - 2} more"]
    return " and ".join(names)


def every_two(configurations: Sequence[Configuration]) -> list[Pair]:
    """Every two on the same test photos; p-values are corrected for the number of pairs.

    Raises:
        UserError: two have no seed in common, and each seed has test photos of its own.
    """
    both = list(combinations(configurations, 2))
    differences = _differences(configurations)
    values = [paired_p(difference.groups) for difference in differences]
    found = []
    for (a, b), difference, p, corrected in zip(
        both, differences, values, holm(values), strict=True
    ):
        each, groups = difference.photos, difference.groups
        lead = float(each.sum()) / difference.most
        # As strict as Holm may be: or fewer photos than there are could seem enough.
        needed = photos_needed(groups, alpha=ALPHA / len(both))
        found.append(
            Pair(
                a=a.name,
                b=b.name,
                photos=len(each),
                only_a=float(each.clip(min=0).sum()) * len(each) / difference.most,
                only_b=float((-each).clip(min=0).sum()) * len(each) / difference.most,
                lead=lead,
                p=p,
                p_holm=corrected,
                needed=needed and math.ceil(needed * len(each) / len(groups)),
                corrected=len(both) > 1,
                seeds=_seeds_ahead(a, b, lead),
                groups=len(groups) if len(groups) < len(each) else None,
            )
        )
    return found


@dataclass(frozen=True)
class _Difference:
    """How much more often one configuration is right than another, in whole numbers.

    Args:
        photos: of each photo `[photos]`.
        groups: of each group that photos come in, summed `[groups]`; else as `photos`.
        most: what it would add up to if the first were always right and the second never.
    """

    photos: np.ndarray
    groups: np.ndarray
    most: int


def _differences(configurations: Sequence[Configuration]) -> list[_Difference]:
    """Of every two."""
    runs = [run for configuration in configurations for run in configuration.runs]
    photos = sorted(runs[0].right)
    if any(run.right.keys() != runs[0].right.keys() for run in runs):
        return [_differences_by_seed(a, b) for a, b in combinations(configurations, 2)]
    keys = _groups(photos, runs)
    right = [
        (len(c.runs), np.sum([[run.right[photo] for photo in photos] for run in c.runs], axis=0))
        for c in configurations
    ]
    found = []
    for (seeds_a, of_a), (seeds_b, of_b) in combinations(right, 2):
        times = math.lcm(seeds_a, seeds_b)
        each = of_a * (times // seeds_a) - of_b * (times // seeds_b)
        found.append(_Difference(each, by_group(each, keys), times * len(photos)))
    return found


def _differences_by_seed(a: Configuration, b: Configuration) -> _Difference:
    """As `_differences`, where each seed has test photos of its own: of the seeds of both."""
    shared = _shared_seeds(a, b)
    if not shared:
        _check_alike([*a.runs, *b.runs])
    difference: dict[tuple[str, str], int] = {}
    for of_a, of_b in shared:
        for photo, right in of_a.right.items():
            difference[photo] = difference.get(photo, 0) + right - of_b.right[photo]
    each, keys = np.array(list(difference.values())), _groups([*difference], [*a.runs, *b.runs])
    return _Difference(each, by_group(each, keys), sum(len(of_a.right) for of_a, _ in shared))


def _groups(photos: Sequence[tuple[str, str]], runs: Sequence[Run]) -> list[int]:
    """What each photo belongs to, by all runs: they may have been grouped in several ways."""
    known: list[dict[str, str]] = []
    for run in runs:
        if run.groups not in known:
            known.append(run.groups)
    return together(*([groups.get(path) for path, _ in photos] for groups in known))


def _shared_seeds(a: Configuration, b: Configuration) -> list[tuple[Run, Run]]:
    of_b = {run.seed: run for run in b.runs}
    return [(run, of_b[run.seed]) for run in a.runs if run.seed in of_b]


def _seeds_ahead(a: Configuration, b: Configuration, lead: float) -> tuple[int, int]:
    shared = _shared_seeds(a, b)
    gaps = [x.metrics["test/acc"] - y.metrics["test/acc"] for x, y in shared]
    return sum(gap * lead > 0 for gap in gaps), len(shared)
