"""The model that leaves a run of folds: one net, trained on all photos that are in the folds, or
the folds' own together (`ensemble`).

There is no val: each phase lasts as long as it did, in the median, in the folds' best nets. What
val is for else is told by the folds' answers to photos that they hadn't seen: temperature, sets of
labels and the cut of "unfamiliar". Those speak of this recipe on somewhat fewer photos, so they are
rather too careful than too bold (as cross-conformal predictors: Vovk 2015, Barber et al. 2021). How
good the model is, the folds tell too: nothing that it was trained on can.
"""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from thaw.commands import one_run
from thaw.commands.folds import ensemble
from thaw.commands.one_run import Training
from thaw.data.folder import PhotoFolder
from thaw.evaluation import calibrate, scores
from thaw.evaluation.answers import Answers
from thaw.evaluation.out_of_fold import OutOfFold
from thaw.evaluation.unfamiliar import on_known
from thaw.files import write_csv, write_json
from thaw.launch import cli
from thaw.model import bundle, unsure
from thaw.model.familiar.store import Familiar
from thaw.report import loggers
from thaw.report import metrics as report
from thaw.runs import read
from thaw.runs.folder import RunFolder
from thaw.training.schedule import Schedule

NOTHING = Schedule({"none": {"train": "head", "epochs": 1, "lr": 0.0}})  # all stays as it is


def wanted(cfg: DictConfig, run: RunFolder) -> str | None:
    """The refit that is asked for, or in which the run broke off; None without any."""
    before = RunFolder(run.path / "refit").settings or {}
    return cfg.refit or before.get("refit")


def refit(
    kind: str,
    cfg: DictConfig,
    run: RunFolder,
    data: PhotoFolder,
    found: OutOfFold,
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """Train on all photos, write `model/`, and open the test split where one is given.

    Args:
        kind: `all`, or `ensemble`, which trains nothing.
        data: all photos.
        metrics: the folds'.

    Returns:
        What `metrics.json` is to hold further; `given/…` is of the test split.
    """
    folder = RunFolder(run.path / "refit", run.writes)
    folder.path.mkdir(exist_ok=True)
    given = [] if "test" in data.cut else data.splits["test"]
    train = [s for name in data.splits if name != "test" or not given for s in data.splits[name]]
    whole = data.shared_out({"train": train, "val": [], "test": given}, {}).of(folder.path)
    parts = one_run.build(cfg, folder.path, sweep=True, data=whole)
    parts = replace(parts, settings=parts.settings | {"refit": kind})
    more: dict[str, Any] = {"refit": kind, "refit/images": len(train)}
    start = None
    if kind == "ensemble":
        net, start = ensemble.of(read.folds(run.path), parts.schedule, parts.backbone)
        parts = replace(parts, backbone=net, schedule=NOTHING)
        more["refit/nets"] = len(net.blocks)
    else:
        lengths = epochs(run.path, parts.schedule)
        parts = replace(parts, schedule=parts.schedule.ending_after(lengths))
        more["refit/epochs"] = parts.schedule.epochs
    with cli.quiet(), loggers.closing(parts.loggers):
        try:
            training = one_run.assemble(parts, folder, start)
            one_run.begin(training, parts)
            if kind == "all":
                one_run.fit(training)
                one_run.take_best(training)
        except BaseException as error:
            known = isinstance(error, Exception)
            folder.end("failed" if known else "interrupted", error, keep=True)
            raise
        nothing = torch.empty(0, training.module.backbone.in_features)
        familiar = one_run.seen_in_training(training, nothing).judged_by(found.distance)
        facts = calibrated(found, whole)
        more |= _test(training, facts, familiar, folder.path) if given else {}
    more |= report.cost(parts.backbone)
    facts |= {"white": whole.white, "data_sha256": whole.digest()}
    told = {"metrics": {**metrics, **more}, "folds": metrics["folds"], "refit": kind}
    place = (run.path / "model", parts.backbone, whole.classes, familiar)
    more["model/bytes"] = bundle.save(*place, **facts, **told)
    more["model/temperature"] = facts["temperature"]
    for checkpoint in folder.checkpoints.glob("*.ckpt"):
        checkpoint.unlink()
    return more


def epochs(run: Path, schedule: Schedule) -> dict[str, int]:
    """How long each phase is to be: the median of the folds' best nets; 0 where most had none."""
    every = [_of_best(read.history(fold), schedule) for fold in read.folds(run)]
    names = [phase.name for phase in schedule.phases]
    return {name: statistics.median_high([own[name] for own in every]) for name in names}


def _of_best(rows: list[dict[str, Any]], schedule: Schedule) -> dict[str, int]:
    """Epochs of each phase that are in a fold's best net."""
    best = min(rows, key=lambda row: row["val/loss"])["epoch"]
    found = {}
    for phase in schedule.phases:
        own = [row for row in rows if row["phase"] == phase.name and row["epoch"] <= best]
        if own and phase.until and phase.restore_best:  # what came after its best was undone
            last = min(own, key=lambda row: row["val/loss"])["epoch"]
            own = [row for row in own if row["epoch"] <= last]
        found[phase.name] = len(own)
    return found


def calibrated(found: OutOfFold, data: PhotoFolder) -> dict[str, Any]:
    """What `bundle.save` is to be told: temperature, conformal scores, prior."""
    prior = None if data.balance == "none" else data.class_shares()
    shift = torch.tensor(prior).log() if prior else 0.0
    temperature = calibrate.fit(found.answers.logits, found.answers.labels, shift)
    answers = replace(found.answers, temperature=temperature, prior=prior)
    conformal = unsure.conformal_scores(answers.of_label.tolist())
    return {"temperature": temperature, "conformal": conformal, "prior": prior}


def _test(
    training: Training, facts: Mapping[str, Any], familiar: Familiar, folder: Path
) -> dict[str, Any]:
    """Open the test split that is given, once; writes what comes out into the refit's folder."""
    module, data = training.module, training.data
    training.trainer.test(module, [data.test_dataloader()], verbose=False)
    test = module.results(0)
    samples = [data.splits["test"][i] for i in test["index"].tolist()]
    photos, groups = [s.path for s in samples], [s.group for s in samples]
    by = (facts["temperature"], facts["prior"], groups)
    answers = Answers(test["logits"], test["label"], data.classes, photos, data.root, *by)
    told = scores.facts(answers, conformal=facts["conformal"])
    told["unfamiliar"] = on_known(familiar, test["features"])
    write_json(folder / "evaluation.json", told)
    said = {"logits": answers.calibrated, "predicted": answers.predicted}
    known = familiar.familiarity(test["features"])
    labels = answers.labels.tolist()
    rows = report.predictions(photos, labels, said, data.classes, known)
    write_csv(folder / "predictions.csv", rows)
    keys = ("acc", "acc_low", "acc_high", "loss", "ece", "balanced_acc", "f1")
    found = {f"given/{key}": told["scores"][key] for key in keys}
    return found | {
        "given/images": len(photos),
        "given/unfamiliar": told["unfamiliar"].get("share"),
    }
