"""Numbers from logits, with how far they can be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from thaw.errors import UserError
from thaw.evaluation import calibrate
from thaw.evaluation import figures as evaluate_figures
from thaw.evaluation.answers import Answers
from thaw.evaluation.confusion import BALANCED, by_class, per_class, struggles
from thaw.files import write_json
from thaw.model import unsure

BINS = 15  # of the calibration error, as Guo et al. 2017
LISTED = 12  # photos among the worst mistakes, and among the least sure
SETS = 0.95  # coverage of the prediction sets that are tried out


def scores(logits: Tensor, labels: Tensor, predicted: Tensor | None = None) -> dict[str, float]:
    """Loss, top-1, macro F1 and ECE (15 bins, Guo et al. 2017) of logits `[N, classes]`.

    Args:
        predicted: the class that is said of each photo `[N]`, if not the most probable one.
    """
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1) if predicted is None else predicted
    confidence = logits.softmax(dim=1).gather(1, predicted[:, None])[:, 0]
    correct = predicted == labels
    return {
        "acc": float(correct.double().mean()),
        "loss": float(F.cross_entropy(logits, labels)),
        "f1": float(multiclass_f1_score(predicted, labels, classes, average="macro")),
        "ece": float(binary_calibration_error(confidence, correct.long(), n_bins=BINS)),
    }


@dataclass(frozen=True)
class Report:
    """What a run's val and test photos say of its model.

    Args:
        temperature: to divide logits by.
        bundle: what `bundle.save` is to be told.
        metrics: what `metrics.json` is to hold further.
        struggles: the class that it struggles with, in words.
        test: what the model that leaves says of the test photos: `logits`, whose softmax are its
            probabilities `[N, classes]`, and the class `predicted` `[N]`.
    """

    temperature: float
    bundle: dict[str, Any]
    metrics: dict[str, Any]
    struggles: str
    test: dict[str, Tensor]


def report(
    val: Mapping[str, Tensor],
    test: Mapping[str, Tensor],
    classes: list[str],
    photos: list[str],
    root: Path,
    run: Path,
    groups: list[str | None] | None = None,
    figures: bool = True,
    prior: list[float] | None = None,
    unfamiliar: dict[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Report:
    """Calibrate on val, evaluate on test; writes `evaluation.json` and `figures/` into `run`.

    Args:
        val: `logits` `[N, classes]` and `label` `[N]`; likewise `test`.
        photos: the test photos' paths below `root`.
        groups: what each test photo belongs with.
        prior: see `Answers`.
        unfamiliar: what is told of test photos that are called that.
        more: figures by name that are drawn as well.
        figures: False leaves them to `thaw evaluate`: they take a second or two.

    Raises:
        UserError: training has diverged.
    """
    names = [""] * len(val["label"])
    shift = torch.tensor(prior).log() if prior else 0.0
    raw = Answers(val["logits"], val["label"], classes, names, root, prior=prior)
    temperature = calibrate.fit(raw.logits, raw.labels, shift)
    seen = replace(raw, temperature=temperature)
    answers = Answers(
        test["logits"], test["label"], classes, photos, root, temperature, prior, groups
    )
    conformal = unsure.conformal_scores(seen.of_label.tolist())
    found = facts(answers, conformal=conformal)
    found["unfamiliar"] = unfamiliar
    write_json(run / "evaluation.json", found)
    if figures:
        evaluate_figures.draw(answers, found, run / "figures", more)
    before, after = (scores(a.calibrated, a.labels, a.predicted) for a in (raw, seen))
    tested = found["scores"]
    metrics = {
        "temperature": temperature,
        "test/brier": tested["brier"],
        "test/ece_uncalibrated": tested["ece_uncalibrated"],
        "test/loss_uncalibrated": tested["loss_uncalibrated"],
        **{f"test/{key}": tested[key] for key in tested if key.startswith(BALANCED)},
        "test/worst_class": tested["worst_class"],
        "test/acc_low": tested["acc_low"],
        "test/acc_high": tested["acc_high"],
        **({"test/groups": tested["groups"]} if "groups" in tested else {}),
        "val/images": len(seen.labels),
        "val/ece": after["ece"],
        "val/ece_uncalibrated": before["ece"],
        "val/loss_calibrated": after["loss"],  # `val/loss` is what chose the epoch
    }
    if prior:
        metrics["test/ece_uncorrected"] = tested["ece_uncorrected"]
    bundle = {"temperature": temperature, "conformal": conformal, "prior": prior}
    leaving = {"logits": answers.calibrated, "predicted": answers.predicted}
    return Report(temperature, bundle, metrics, found["struggles"], leaving)


def facts(
    answers: Answers, threshold: float | None = None, conformal: list[float] | None = None
) -> dict[str, Any]:
    """The contents of `evaluation.json`: plain values, shares with 95% intervals.

    Args:
        threshold: confidence from which on a photo is answered.
        conformal: `unsure.conformal_scores` of val.
    """
    confusion = multiclass_confusion_matrix(
        answers.predicted, answers.labels, len(answers.classes)
    ).tolist()
    confidence, correct = answers.confidence.tolist(), answers.correct.tolist()
    classes = dict(zip(answers.classes, per_class(confusion, answers.drawn), strict=True))
    return {
        "data": str(answers.root),
        "photos": len(answers.labels),
        "temperature": float(torch.as_tensor(answers.temperature, dtype=torch.double).median()),
        "scores": _scores(answers) | by_class(confusion, answers.classes, answers.drawn),
        "struggles": struggles(confusion, answers.classes),
        "classes": classes,
        "confusion": confusion,  # a row a label, a column a prediction
        "confidence": {
            "correct": _spread(answers.confidence[answers.correct]),
            "wrong": _spread(answers.confidence[~answers.correct]),
        },
        "reliability": _reliability(answers),
        "reliability_uncalibrated": _reliability(replace(answers, temperature=1.0)),
        "unsure": None if threshold is None else unsure.outcome(confidence, correct, threshold),
        "sets": None if conformal is None else _sets(answers, conformal),
        "unfamiliar": None,  # for those who have what the head read
        "worst": _rows(answers, answers.worst(LISTED)),
        "least_sure": _rows(answers, answers.least_sure(LISTED)),
    }


def _scores(answers: Answers) -> dict[str, float]:
    """Accuracy; loss, Brier and ECE with bootstrap intervals, and uncalibrated."""
    photos, labels, draws = len(answers.labels), answers.labels, answers.draws
    calibrated = answers.calibrated
    found = scores(calibrated, labels, answers.predicted)
    low, high = answers.interval(answers.correct)
    values = {"acc": found["acc"], "acc_low": low, "acc_high": high}
    if answers.group_of_each is not None:
        values["groups"] = int(answers.group_of_each.max()) + 1
    losses = F.cross_entropy(calibrated, labels, reduction="none")
    for key, each in (("loss", losses), ("brier", _brier(answers.probabilities, labels))):
        low, high = (draws @ each / photos).quantile(torch.tensor([0.025, 0.975])).tolist()
        values |= {key: float(each.mean()), f"{key}_low": low, f"{key}_high": high}
    gaps = F.one_hot(_bin(answers.confidence), BINS) * (
        answers.confidence - answers.correct.float()
    ).unsqueeze(1)
    again = (draws @ gaps).abs().sum(dim=1) / photos
    # A calibration error is too large on few photos, and larger still when they are drawn again:
    # the basic bootstrap (Davison & Hinkley 1997) turns the interval over.
    high, low = (2 * found["ece"] - again.quantile(torch.tensor([0.025, 0.975]))).tolist()
    values |= {"ece": found["ece"], "ece_low": max(0.0, low), "ece_high": max(0.0, high)}
    raw = replace(answers, temperature=1.0)
    before = scores(raw.calibrated, labels, raw.predicted)
    values |= {
        "loss_uncalibrated": before["loss"],
        "ece_uncalibrated": before["ece"],
        "brier_uncalibrated": float(_brier(raw.probabilities, labels).mean()),
    }
    if answers.prior:  # as if each class were equally likely, in test too
        values["ece_uncorrected"] = scores(answers.logits / answers.temperature, labels)["ece"]
    return values


def _brier(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of each photo's probabilities from the truth, `[N]`, 0 to 2 (Brier 1950)."""
    return (probabilities - F.one_hot(labels, probabilities.shape[1])).square().sum(dim=1)


def _bin(confidence: Tensor) -> Tensor:
    """Which of the bins of equal width each photo is in, `[N]`, as torchmetrics has it."""
    edges = torch.linspace(0, 1, BINS + 1)
    return (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=BINS - 1)


def _reliability(answers: Answers) -> list[dict[str, float]]:
    """For each bin that has photos: mean confidence, and accuracy with its interval."""
    rows = []
    for number in _bin(answers.confidence).unique().tolist():
        inside = _bin(answers.confidence) == number
        photos, right = int(inside.sum()), int((answers.correct & inside).sum())
        low, high = answers.interval(answers.correct, inside)
        row = {"from": number / BINS, "to": (number + 1) / BINS, "photos": photos}
        row |= {"confidence": float(answers.confidence[inside].mean())}
        rows.append(row | {"acc": right / photos, "acc_low": low, "acc_high": high})
    return rows


def _spread(confidence: Tensor) -> dict[str, Any]:
    if not len(confidence):
        return {"photos": 0, "mean": None, "median": None}
    values = {"mean": float(confidence.mean()), "median": float(confidence.median())}
    return {"photos": len(confidence), **values}


def _rows(answers: Answers, indices: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "path": answers.photos[i],
            "label": answers.classes[answers.labels[i]],
            "prediction": answers.classes[answers.predicted[i]],
            "confidence": float(answers.confidence[i]),
        }
        for i in indices
    ]


def _sets(answers: Answers, conformal: list[float]) -> dict[str, float] | None:
    """How often a prediction set holds the right label, and how many labels it has."""
    try:
        cutoff = unsure.set_cutoff(conformal, SETS)
    except UserError:  # val is too small for any set but that of all labels
        return None
    inside = answers.probabilities >= cutoff
    inside[torch.arange(len(inside)), answers.predicted] = True
    held = inside.gather(1, answers.labels[:, None])[:, 0]
    low, high = answers.interval(held)
    share = {"held": float(held.double().mean()), "held_low": low, "held_high": high}
    return {"coverage": SETS, **share, "labels": float(inside.sum(dim=1).float().mean())}
