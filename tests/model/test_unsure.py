"""Promises hold as often as they say, and are refused where val can't make them."""

import random

import numpy as np
import pytest
from conftest import refusal

from thaw.errors import UserError
from thaw.intervals import clopper_pearson_upper
from thaw.model import unsure


def world(rng, photos, noise=0.0):
    """Confidences, and whether each label is right: less sure is more often wrong."""
    confidence = rng.beta(6, 1, photos)
    wrong_share = np.clip((1 - confidence) * 1.1 + noise, 0, 1)
    return confidence, rng.random(photos) >= wrong_share, wrong_share


# --- an error -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photos", "target", "noise"),
    [(80, 0.1, 0.0), (80, 0.1, 0.05), (300, 0.1, 0.06), (300, 0.05, 0.02)],
)
def test_the_promised_error_holds_in_nine_of_ten_worlds(photos, target, noise):
    rng = np.random.default_rng(0)
    many, _, wrong_share = world(rng, 200_000, noise)  # stands for all photos there are
    broken, answered = 0, []
    for _ in range(300):
        confidence, correct, _ = world(rng, photos, noise)
        try:
            threshold = unsure.threshold_for_error(confidence.tolist(), correct.tolist(), target)
        except UserError:
            continue
        sure = many >= threshold
        broken += wrong_share[sure].mean() > target
        answered.append(sure.mean())
    assert broken / 300 <= 0.1 + 0.04  # what chance may add to 10% of 300
    assert answered, "nothing was ever promised, so nothing was tested"


def test_it_answers_as_many_as_the_bound_allows():
    confidence = [1 - i / 100 for i in range(100)]
    correct = [i < 60 or i % 2 == 0 for i in range(100)]  # good up to 60, then a coin
    threshold = unsure.threshold_for_error(confidence, correct, 0.1)
    answered = [c for c, sure in zip(correct, confidence, strict=True) if sure >= threshold]
    assert 60 < len(answered) < 75
    assert clopper_pearson_upper(answered.count(False), len(answered), 0.05) <= 0.1
    more = correct[: len(answered) + 1]
    assert clopper_pearson_upper(more.count(False), len(more), 0.05) > 0.1


def test_where_all_is_right_nothing_is_unsure():
    confidence = [0.5 + i / 400 for i in range(100)]
    assert unsure.threshold_for_error(confidence, [True] * 100, 0.05) == 0.0


def test_too_few_photos_are_refused_and_the_least_promise_is_named():
    confidence = [0.6 + i / 100 for i in range(36)]
    sentence = refusal(unsure.threshold_for_error, confidence, [True] * 36, 0.02)
    assert "36 val photos can't promise an error of 2%" in sentence
    assert "the least that they can promise is 6.2%" in sentence
    assert "takes 114 photos" in sentence
    assert unsure.threshold_for_error(confidence, [True] * 36, 0.062) == 0.0
    refusal(unsure.threshold_for_error, confidence, [True] * 36, 0.061)
    assert clopper_pearson_upper(0, 114, 0.1) <= 0.02 < clopper_pearson_upper(0, 113, 0.1)


def test_mistakes_of_the_surest_photos_are_refused_too():
    confidence = [0.6 + i / 1000 for i in range(300)]
    sentence = refusal(
        unsure.threshold_for_error, confidence, [i % 2 == 0 for i in range(300)], 0.1
    )
    assert "300 val photos can't promise an error of 10%" in sentence
    assert "the least that they can promise is 5" in sentence  # about a half


def test_one_photo_promises_little():
    assert "1 val photos" in refusal(unsure.threshold_for_error, [0.9], [True], 0.5)


def test_less_certainty_promises_more():
    confidence = [0.6 + i / 100 for i in range(36)]
    assert unsure.threshold_for_error(confidence, [True] * 36, 0.05, certainty=0.8) == 0.0
    refusal(unsure.threshold_for_error, confidence, [True] * 36, 0.05, 0.9)


def test_photos_of_one_confidence_are_answered_together():
    confidence = [0.9] * 50 + [0.5] * 50
    correct = [True] * 50 + [True] * 5 + [False] * 45
    threshold = unsure.threshold_for_error(confidence, correct, 0.1)
    assert 0.5 < threshold < 0.9


def test_the_order_of_the_photos_does_not_matter():
    rng = np.random.default_rng(1)
    confidence, correct, _ = world(rng, 200)
    pairs = list(zip(confidence.tolist(), correct.tolist(), strict=True))
    expected = unsure.threshold_for_error(*map(list, zip(*pairs, strict=True)), 0.1)
    random.Random(0).shuffle(pairs)
    assert unsure.threshold_for_error(*map(list, zip(*pairs, strict=True)), 0.1) == expected
    assert 0 < expected < 1


# --- a coverage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("photos", "target"), [(36, 0.8), (100, 0.9), (500, 0.5)])
def test_the_promised_coverage_holds_in_nine_of_ten_worlds(photos, target):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        threshold = unsure.threshold_for_coverage(rng.random(photos).tolist(), target)
        covered.append(1 - threshold)  # of uniform confidences
    share = np.mean(np.array(covered) >= target)
    assert share >= 0.9 - 0.03
    assert np.mean(covered) < target + 0.12, "and not more is answered than it takes"


def test_a_coverage_that_leaves_no_photo_unsure_is_refused():
    confidence = [0.6 + i / 100 for i in range(36)]
    sentence = refusal(unsure.threshold_for_coverage, confidence, 0.95)
    assert "36 val photos can't promise that 95% are answered" in sentence
    assert "the most that they can promise is 93.8%" in sentence
    assert unsure.threshold_for_coverage(confidence, 0.938) <= 0.6


# --- what comes of it -----------------------------------------------------------------------------


def test_the_outcome_counts_what_is_unsure_and_what_is_wrong():
    confidence = [0.9, 0.8, 0.7, 0.6]
    found = unsure.outcome(confidence, [True, False, True, False], 0.7)
    assert (found["answered"], found["unsure"], found["wrong"]) == (3, 1, 1)
    assert found["rejection"] == 0.25
    assert found["error"] == pytest.approx(1 / 3)
    for key in ("rejection", "error"):
        assert found[f"{key}_low"] < found[key] < found[f"{key}_high"]


def test_where_nothing_is_answered_there_is_no_error():
    found = unsure.outcome([0.5, 0.6], [True, True], 0.7)
    assert found["rejection"] == 1
    assert found["error"] is None


def test_risk_and_coverage_are_those_of_each_threshold():
    rng = np.random.default_rng(3)
    confidence, correct, _ = world(rng, 50)
    confidence = np.round(confidence, 1)  # many are equal
    answered, wrong = unsure.risk_coverage(confidence.tolist(), correct.tolist())
    thresholds = np.unique(confidence)[::-1]
    assert answered == [int((confidence >= t).sum()) for t in thresholds]
    assert wrong == [int((~correct[confidence >= t]).sum()) for t in thresholds]


# --- sets of labels -------------------------------------------------------------------------------


def test_sets_hold_the_right_label_as_often_as_promised():
    rng = np.random.default_rng(0)
    held, sizes = 0, []
    for _ in range(2000):
        own = rng.beta(3, 1, 40)  # 39 of val, 1 to come
        cutoff = unsure.set_cutoff(unsure.conformal_scores(own[1:].tolist()), 0.9)
        p = own[0]
        labels = unsure.label_set(
            {"right": p, "other": (1 - p) * 0.7, "third": (1 - p) * 0.3}, cutoff
        )
        held += "right" in labels
        sizes.append(len(labels))
    assert 0.9 - 0.02 <= held / 2000 <= 0.95 + 0.02
    assert np.mean(sizes) < 2


@pytest.mark.parametrize(
    ("photos", "coverage", "rank"),
    [(19, 0.95, 1), (38, 0.95, 1), (39, 0.95, 2), (9, 0.9, 1), (99, 0.9, 10)],
)
def test_the_cutoff_is_the_conformal_quantile(photos, coverage, rank):
    scores = [i / 1000 for i in range(1, photos + 1)]
    assert unsure.set_cutoff(scores, coverage) == scores[rank - 1]


def test_more_coverage_than_val_can_promise_is_refused():
    sentence = refusal(unsure.set_cutoff, [0.5] * 18, 0.95)
    assert "18 val photos" in sentence
    assert "94.7%" in sentence


def test_a_set_begins_with_the_most_probable_label_and_is_never_empty():
    probabilities = {"a": 0.2, "b": 0.45, "c": 0.35}
    assert unsure.label_set(probabilities, 0.3) == ["b", "c"]
    assert unsure.label_set(probabilities, 0.9) == ["b"]
    assert unsure.label_set(probabilities, 0.0) == ["b", "c", "a"]


def test_scores_are_sorted_and_rounded_down():
    assert unsure.conformal_scores([0.12345678, 0.9999999, 0.05]) == [0.05, 0.123456, 0.999999]
