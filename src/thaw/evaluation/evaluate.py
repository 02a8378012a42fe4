"""Evaluate a trained model again: on its run's own photos, or on any labelled folder."""

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thaw.comparison.figures import run_curves
from thaw.data.listing import layout
from thaw.data.listing.faults import undecoded
from thaw.data.photos import BrokenPhoto
from thaw.data.stream import BATCH
from thaw.errors import UserError
from thaw.evaluation import figures as evaluate_figures
from thaw.evaluation import out_of_fold
from thaw.evaluation import unfamiliar as worth
from thaw.evaluation.answers import Answers
from thaw.evaluation.scores import facts
from thaw.evaluation.terminal import show
from thaw.files import write_json
from thaw.model import bundle, unsure
from thaw.model.predict import loaded
from thaw.runs import read
from thaw.screen import say, steps

log = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """Photos below a root, what is on them, and what they belong with."""

    root: Path
    photos: list[str]
    labels: list[int]
    groups: list[str | None] | None = None


def evaluate(
    run: Path,
    data: Path | None = None,
    out: Path | None = None,
    threshold: float | None = None,
    target_error: float | None = None,
    target_coverage: float | None = None,
    certainty: float = unsure.CERTAINTY,
    unfamiliar: Path | None = None,
) -> dict[str, Any]:
    """Print, write and draw how good a model is; a target also chooses its threshold, on val.

    Args:
        run: a run folder; with `data` and `out`, a bundle will do.
        data: a folder with a folder a class, in place of the run's test photos.
        out: where `evaluation.json` and `figures/` go: the run folder, or below it
            `evaluations/NAME` for other data.
        threshold: confidence below which a photo is left unsure; the bundle's own by default.
        target_error: promise that at most this share of the answers is wrong. The threshold is
            stored in the bundle; `target_coverage` likewise, the share that is answered.
        certainty: the probability that the promise holds.
        unfamiliar: a folder of photos that are of none of the classes, to see how many are noticed.

    Raises:
        UserError: no bundle, no photos, or a promise that val can't make; nothing is stored then.
    """
    if data is None and read.folds(run):
        target = (target_error, target_coverage, certainty)
        return _folds(run, out or run, threshold, target, unfamiliar)
    model = loaded(run)
    split = None if data else read_split(run)
    if out is None:
        if data is not None and not (run / "split.json").is_file():
            raise UserError(f"{run} is no run folder, so --out has to say where the figures go.")
        out = run / "evaluations" / data.resolve().name if data else run
    if unfamiliar is not None:
        worth.strangers(model, unfamiliar)  # what is wrong with them is told first
    chosen: dict[str, Any] = {}
    val: Answers | None = None
    if target_error is not None or target_coverage is not None:
        assert split is not None, "thresholds come from val alone"
        val = answer(model, own_photos(split, "val", model.classes), "val")
        chosen = _choose(val, target_error, target_coverage, certainty)
        model.conformal = chosen["conformal"]
    promise = None
    if threshold is None:
        threshold, promise = _in_force(model, chosen)
    if split is None:
        assert data is not None
        labelled = _labelled_folder(data, model.classes)
    else:
        labelled = own_photos(split, "test", model.classes)
    answers = answer(model, labelled, "photos" if data else "test")
    found = facts(answers, threshold, model.conformal)
    if found["unsure"]:
        found["unsure"]["promise"] = promise
    drawings: dict[str, Any] = {}
    if model.familiar is not None:
        if split is not None and val is None and len(model.classes) > 2:
            val = answer(model, own_photos(split, "val", model.classes), "val")
        found["unfamiliar"], drawings = _unfamiliar(model, val, answers, unfamiliar)
    if split is not None:
        with suppress(UserError):  # a damaged history costs its figure, no more
            if best := read.metrics(run).get("best/epoch"):
                drawings["learning_curves"] = run_curves(read.history(run), int(best))
    if chosen:
        bundle.change(run, **chosen)
    write_json(out / "evaluation.json", found)
    figures = evaluate_figures.draw(answers, found, out / "figures", drawings)
    show(found)
    say("", f"written: {out / 'evaluation.json'}, {len(figures)} figures in {out / 'figures'}")
    return found


def _folds(
    run: Path,
    out: Path,
    threshold: float | None,
    target: tuple[float | None, float | None, float],
    unfamiliar: Path | None,
) -> dict[str, Any]:
    """As `evaluate`, of a run of folds: what each of them said of photos that it hadn't seen.

    A threshold and what is unfamiliar are those of the model of all photos, if there is one.
    """
    pooled, chosen = out_of_fold.gathered(run), {}
    drawings: dict[str, Any] = {}
    far = promise = None
    asked = target[:2] != (None, None) or unfamiliar is not None
    if asked or (run / "model").is_dir():
        model = loaded(run)
        if target[:2] != (None, None):
            told = replace(pooled.answers, temperature=model.temperature, prior=model.prior)
            chosen = _choose(told, *target)
        if threshold is None:
            threshold, promise = _in_force(model, chosen)
        if unfamiliar is not None:
            far, drawings = _far(model, unfamiliar, pooled.distance)
    found = out_of_fold.facts(pooled, threshold)
    found["unfamiliar"]["far"] = far
    if found["unsure"]:
        found["unsure"]["promise"] = promise
    if chosen:
        bundle.change(run, **chosen)
    write_json(out / "evaluation.json", found)
    figures = evaluate_figures.draw(pooled.answers, found, out / "figures", drawings)
    say(f"{len(read.folds(run))} folds: each photo is told by the net that hadn't seen it")
    show(found)
    say("", f"written: {out / 'evaluation.json'}, {len(figures)} figures in {out / 'figures'}")
    return found


def _in_force(
    model: bundle.Model, chosen: dict[str, Any]
) -> tuple[float | None, dict[str, Any] | None]:
    """The threshold and its promise: those just chosen, or else those that the model holds."""
    info = {"threshold": model.threshold, "promise": model.info.get("promise")} | chosen
    return info["threshold"], info["promise"]


def _choose(
    val: Answers, target_error: float | None, target_coverage: float | None, certainty: float
) -> dict[str, Any]:
    """What `model.json` is to say: the threshold, what it promises, and val's scores."""
    confidence, photos = val.confidence.tolist(), len(val.labels)
    if target_error is not None:
        correct = val.correct.tolist()
        threshold = unsure.threshold_for_error(confidence, correct, target_error, certainty)
    else:
        assert target_coverage is not None
        threshold = unsure.threshold_for_coverage(confidence, target_coverage, certainty)
    promise = {"error": target_error, "coverage": target_coverage}
    return {
        "threshold": threshold,
        "promise": promise | {"certainty": certainty, "val/images": photos},
        "conformal": unsure.conformal_scores(val.of_label.tolist()),
    }


def _unfamiliar(
    model: bundle.Model, val: Answers | None, answers: Answers, folder: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What calling photos unfamiliar is worth, and figures by name."""
    familiar = model.familiar
    assert familiar is not None
    level = model.info["unfamiliar"]["level"]
    found = worth.on_known(familiar, answers.features, level)
    found["left_out"] = worth.left_out(familiar, val, answers, level) if val else {}
    found["far"], drawings = None, {}
    if folder is not None:
        found["far"], drawings = _far(model, folder, familiar.distance(answers.features))
    return found, drawings


def _far(model: bundle.Model, folder: Path, known: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is noticed of photos of none of the classes, and the figure.

    Args:
        known: distances `[N]` of photos of the classes.
    """
    found, distances = worth.far(model, folder, known)
    assert model.familiar is not None
    groups = {"of the classes": known, "/".join(folder.parts[-2:]): distances}
    told = (model.familiar.scores, model.info["unfamiliar"]["level"])
    return found, {"unfamiliar": worth.figure(groups, *told)}


def answer(model: bundle.Model, labelled: Labelled, what: str) -> Answers:
    """Let the model label photos; those that can't be decoded are named and left out."""
    root, photos, labels, groups = labelled
    paths = {root / photo: i for i, photo in enumerate(photos)}
    broken: list[BrokenPhoto] = []
    logits, features, seen = [], [], []
    batches = model.outputs_of(paths, on_broken=broken.append)
    for batch, answered, read_by_head in steps(
        batches, f"labelling {what}", len(paths), each=BATCH
    ):
        logits.append(answered)
        features.append(read_by_head)
        seen += [paths[Path(path)] for path in batch]
    if broken:
        said = {Path(str(e.path)).relative_to(root).as_posix(): e.reason for e in broken}
        say(f"{undecoded(said, len(paths))}.")
    if not seen:
        raise UserError(f"Expected labelled photos in {root}, but none can be decoded.")
    return Answers(
        torch.cat(logits),
        torch.tensor([labels[i] for i in seen]),
        model.classes,
        [photos[i] for i in seen],
        root,
        model.temperature,
        model.prior,
        groups and [groups[i] for i in seen],
        torch.cat(features),
    )


def read_split(run: Path) -> read.Split:
    path = run / "split.json"
    if not path.is_file():
        raise UserError(
            f"Expected a run folder, but there is no {path}, which names the photos; with --data"
            " DIR a bundle can be evaluated on other photos."
        )
    split = read.split(run)
    if not split.root.is_dir():
        raise UserError(
            f"Expected the run's photos in {split.root} (see {path}), but there is no such folder;"
            " start in the folder where the run was started, or name other photos with --data DIR."
        )
    return split


def own_photos(split: read.Split, name: str, classes: list[str]) -> Labelled:
    """Photos of a split, with the labels that the run knew them by."""
    photos = split.photos[name]
    unknown = sorted({photo.label for photo in photos} - {*classes})
    if unknown:
        raise UserError(f"The photos in {split.root} are of {unknown}, which the model lacks.")
    labels = [classes.index(photo.label) for photo in photos]
    return Labelled(split.root, split.paths(name), labels, [photo.group for photo in photos])


def _labelled_folder(root: Path, classes: list[str]) -> Labelled:
    """Photos of a folder a class; says which classes are unknown, and which are missing."""
    listing = layout.one(root, classes)
    known = [entry for entry in listing.entries if entry.label in classes]
    names = {entry.label for entry in listing.entries} | {name for _, name in listing.empty}
    unknown, missing = sorted(names - set(classes)), sorted(set(classes) - names)
    for note in listing.notes:
        say(note)
    if unknown:
        say(f"left out, since the model doesn't know them: {', '.join(unknown)}")
    if missing:
        say(f"no photos of: {', '.join(missing)}")
    if listing.unused:
        say(f"not used: {', '.join(listing.unused)}")
    labels = [classes.index(entry.label) for entry in known]
    return Labelled(root, [entry.path for entry in known], labels)
