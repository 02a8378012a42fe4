"""What a run of folds reports: the folds' numbers brought together, as one run's."""

import logging
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torchmetrics import Metric

from thaw.evaluation import figures as evaluate_figures
from thaw.evaluation import out_of_fold
from thaw.evaluation.confusion import BALANCED
from thaw.evaluation.out_of_fold import OutOfFold
from thaw.files import write_csv, write_json
from thaw.launch.cli import door
from thaw.report import metrics, terminal
from thaw.report.page.facts import ensemble
from thaw.runs import read
from thaw.runs.folder import RunFolder
from thaw.screen import command
from thaw.training import plugins

log = logging.getLogger(__name__)
ADDED = ("seconds/fit", "seconds/test", "seconds/features", "seconds/familiar")


def report(
    run: Path, found: OutOfFold, further: Mapping[str, partial[Metric]], figures: bool
) -> tuple[dict[str, Any], str]:
    """The contents of `metrics.json`, and the class that the nets struggle with, in words.

    `test/*` is that of all photos, each told by the fold that hadn't seen it; seconds are added up;
    all else is the folds' mean. Writes `evaluation.json`, and `figures/` if wanted.
    """
    folds = [read.metrics(fold) for fold in read.folds(run)]
    facts = out_of_fold.facts(found)
    write_json(run / "evaluation.json", facts)
    if figures:
        evaluate_figures.draw(found.answers, facts, run / "figures")
    answers, tested = found.answers, facts["scores"]
    kept = ("acc", "acc_low", "acc_high", "loss", "ece", "ece_uncalibrated", "brier")
    kept += ("loss_uncalibrated", "ece_uncorrected", "groups")
    values = {key: value for key, value in _mean(folds).items() if not key.startswith("test/")}
    values |= {
        f"test/{key}": v for key, v in tested.items() if key in kept or key.startswith(BALANCED)
    }
    values |= {"test/images": len(answers.labels), "test/worst_class": tested["worst_class"]}
    accuracies = [fold["test/acc"] for fold in folds]
    values |= {"folds": len(folds), "folds/acc_sd": statistics.stdev(accuracies)}
    values |= {"folds/acc_min": min(accuracies), "folds/acc_max": max(accuracies)}
    values["test/unfamiliar"] = facts["unfamiliar"].get("share")
    more = plugins.measure(further, answers.calibrated, answers.labels, None)
    values |= {f"test/{name}": value for name, value in more.items()}
    return values, facts["struggles"]


def _mean(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each number that all have: the sum of `ADDED`, the mean of others; whole ones stay so."""
    values: dict[str, Any] = {}
    for key in folds[0]:
        every = [fold.get(key) for fold in folds]
        if all(isinstance(value, bool) for value in every):
            values[key] = all(every)
        elif (numbers := [v for v in every if isinstance(v, int | float)]) and None not in every:
            mean = sum(numbers) if key in ADDED else statistics.fmean(numbers)
            values[key] = round(mean) if all(isinstance(v, int) for v in numbers) else mean
    return values


def predictions(found: OutOfFold) -> list[dict[str, Any]]:
    """Rows of `predictions.csv`: what the fold that hadn't seen a photo says of it, and which."""
    answers = found.answers
    told = {"logits": answers.calibrated, "predicted": answers.predicted}
    known = None if found.promise["refused"] else found.familiarity
    rows = metrics.predictions(
        answers.photos, answers.labels.tolist(), told, answers.classes, known
    )
    return [row | {"fold": fold} for row, fold in zip(rows, found.fold.tolist(), strict=True)]


def write_history(run: Path) -> None:
    """Write `history.csv`: the mean of the folds that had so many epochs."""
    histories = [read.history(fold) for fold in read.folds(run)]
    rows = []
    for epoch in range(1, max(map(len, histories)) + 1):
        there = [rows[epoch - 1] for rows in histories if len(rows) >= epoch]
        keys = [key for key in there[0] if all(key in row for row in there)]
        mean = {key: statistics.fmean(row[key] for row in there) for key in keys if key != "phase"}
        rows.append(mean | {"epoch": epoch, "phase": there[0]["phase"]})
    write_csv(run / "history.csv", [dict.fromkeys(rows[0], "") | row for row in rows])


def show(values: dict[str, Any], struggles: str, run: RunFolder) -> None:
    """The last block: what came out, and what to type next."""
    k = values["folds"]
    between = f"{values['folds/acc_min']:.1%} to {values['folds/acc_max']:.1%}"
    rows = terminal.scored(values, struggles) | {
        "confidence": f"{values['test/ece']:.1%} off on average, each fold calibrated on its val",
        "folds": f"{k} nets, {between} each (sd {values['folds/acc_sd']:.1%}); all of the above is"
        " of photos that they hadn't seen",
        "val accuracy": f"{values['val/acc']:.1%}  (mean of the folds' best epochs)",
        "time": f"{values['seconds/fit']:.1f} s training, {values['seconds/test']:.1f} s test;"
        f" {terminal.latency_words(values)}",
    }
    if "given/acc" in values:
        low, high = values["given/acc_low"], values["given/acc_high"]
        photos = f"95% interval {low:.1%} to {high:.1%}, {values['given/images']} photos"
        rows["given test"] = f"{values['given/acc']:.1%}  ({photos}): the model below, opened once"
    if "refit" in values:
        if values["refit"] == "ensemble":
            how = ensemble(values)
        else:
            epochs = f"{values['refit/epochs']} epoch{'s' if values['refit/epochs'] > 1 else ''}"
            how = f"{epochs} as in the folds' median"
        rows["model"] = (
            f"{values['model/bytes'] / 1e6:.1f} MB, of all {values['refit/images']}"
            f" photos, {how}; how good it is, the folds tell"
        )
        follow = command(door("predict"), f"{run} PHOTO")
    else:
        rows["model"] = "none of all photos yet"
        follow = command(door("train"), f"resume={run} refit=all")
    terminal.show_rows(rows, values, run)
    log.info("next\n%s", follow)
    if (run.path / "tensorboard").is_dir():
        log.info("  tensorboard --logdir outputs")
