"""The statistics against published examples, and against counting every case."""

from itertools import product
from math import comb

import numpy as np
import pytest

from thaw.comparison.verdict import Pair, holm, paired_p, photos_needed
from thaw.intervals import clopper_pearson_upper


def discordant(only_a: int, only_b: int, photos: int = 0) -> np.ndarray:
    """Differences of two models with one seed each: 1 where only `a` is right, -1 only `b`."""
    rest = max(0, photos - only_a - only_b)
    return np.array([1] * only_a + [-1] * only_b + [0] * rest)


@pytest.mark.parametrize(
    ("only_a", "only_b", "photos", "p"),
    [
        (1, 7, 21, 0.0703),  # Fagerland, Lydersen & Laake 2013, airway hyper-responsiveness: 0.070
        (6, 16, 161, 0.0525),  # the same, complete response: 0.053
        (150, 86, 1600, 3.716e-5),  # Agresti 1990, approval ratings, in R's ?mcnemar.test
    ],
)
def test_one_seed_is_mcnemars_exact_test(only_a, only_b, photos, p):
    assert paired_p(discordant(only_a, only_b, photos)) == pytest.approx(p, rel=1e-3)
    assert paired_p(discordant(only_b, only_a)) == paired_p(discordant(only_a, only_b, photos))


def test_mcnemars_exact_test_is_the_binomial_test():
    for only_a, only_b in product(range(8), range(8)):
        n, k = only_a + only_b, min(only_a, only_b)
        p = min(1, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
        assert paired_p(discordant(only_a, only_b)) == pytest.approx(p, rel=1e-12)


def test_several_seeds_against_every_pattern_of_signs():
    differences = np.array([3, 2, 2, 1, 1, -1, 3, 0, -2, 1])  # of 3 seeds each
    signs = np.array(list(product((-1, 1), repeat=len(differences))))
    sums = abs(signs @ differences)
    p = (sums >= abs(differences.sum())).mean()
    assert 0.01 < p < 0.5
    assert paired_p(differences) == pytest.approx(p, rel=1e-12)


def test_seeds_that_agree_are_no_further_photos():
    once = discordant(9, 2)
    assert paired_p(3 * once) == pytest.approx(paired_p(once), rel=1e-12)
    assert paired_p(np.tile(once, 3)) < 0.1 * paired_p(once)  # what pooling would claim


def test_no_difference():
    assert paired_p(discordant(0, 0, 50)) == 1
    assert paired_p(discordant(4, 4, 50)) == 1
    assert photos_needed(discordant(0, 0, 50)) is None
    assert photos_needed(discordant(4, 4, 50)) is None


def test_holm():
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_photos_needed_against_a_published_example():
    # p10 = 0.05 and p01 = 0.45 take 23 pairs: powersamplesize.com, "McNemar Z-test, 2-sided".
    assert photos_needed(discordant(5, 45, 100)) == 23
    assert photos_needed(3 * discordant(5, 45, 100)) == 23  # the unit doesn't matter


def test_so_many_photos_do_find_the_difference():
    """The chance that the exact test rejects, counted over all that might be observed."""
    only_a, only_b = 0.15, 0.05
    n = photos_needed(discordant(15, 5, 100))
    assert n == pytest.approx(155, abs=2)
    power = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            chance = comb(n, a) * comb(n - a, b) * only_a**a * only_b**b
            chance *= (1 - only_a - only_b) ** (n - a - b)
            if chance > 1e-9 and paired_p(discordant(a, b)) < 0.05:
                power += chance
    assert power == pytest.approx(0.8, abs=0.05)  # an exact test has a little less


def test_more_photos_are_needed_than_did_not_do():
    for only_a, only_b in product(range(12), range(12)):
        differences = discordant(only_a, only_b, 60)
        needed = photos_needed(differences)
        if paired_p(differences) >= 0.05 and needed is not None:
            assert needed > 60


def pair(**values) -> Pair:
    defaults = dict(
        a="A", b="B", photos=153, only_a=9.0, only_b=2.0, lead=7 / 153, p=0.003, p_holm=0.003,
        needed=120, corrected=False, seeds=(1, 1),
    )  # fmt: skip
    return Pair(**(defaults | values))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "A beats B by 4.6 points on the same 153 photos (p = 0.003)"),
        ({"lead": -7 / 153}, "B beats A by 4.6 points on the same 153 photos (p = 0.003)"),
        (
            {"corrected": True, "seeds": (2, 3)},
            "A beats B by 4.6 points on the same 153 photos (p = 0.003, Holm), though with 2 of 3"
            " seeds only",
        ),
        (
            {"p_holm": 0.0651, "needed": 1234},
            "A and B can't be told apart on 153 photos (4.6 points, p = 0.065); it would take about"
            " 1,300 photos",
        ),
        (
            {"only_a": 2.0, "lead": 0.0, "p": 1.0, "p_holm": 1.0, "needed": None},
            "A and B can't be told apart on 153 photos (p = 1): they are right equally often, so no"
            " number of photos would do",
        ),
        (
            {"only_a": 0.0, "only_b": 0.0, "lead": 0.0, "p_holm": 1.0, "needed": None},
            "A and B can't be told apart on 153 photos (p = 1): they are right on the same ones",
        ),
    ],
)
def test_sentence(values, sentence):
    assert pair(**values).sentence == sentence


@pytest.mark.parametrize(
    ("errors", "total", "upper"),
    [(81, 263, 0.3676), (15, 148, 0.1617), (0, 20, 0.1684), (1, 29, 0.1776)],
)
def test_clopper_pearson_against_a_published_table(errors, total, upper):
    """Newcombe 1998, table I, two-sided 95%."""
    assert clopper_pearson_upper(errors, total, 0.025) == pytest.approx(upper, abs=5e-5)


def test_clopper_pearson_is_exact():
    assert clopper_pearson_upper(0, 50, 0.05) == pytest.approx(1 - 0.05 ** (1 / 50), abs=1e-12)
    for errors, total, alpha in ((3, 40, 0.05), (39, 40, 0.1), (20, 40, 1e-4)):
        bound = clopper_pearson_upper(errors, total, alpha)
        terms = (comb(total, i) * bound**i * (1 - bound) ** (total - i) for i in range(errors + 1))
        assert sum(terms) == pytest.approx(alpha, rel=1e-9)
    assert clopper_pearson_upper(40, 40, 0.05) == clopper_pearson_upper(0, 0, 0.05) == 1
