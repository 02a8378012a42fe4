"""A new run from an old one: its net and settings, more photos or classes, and a verdict.

What the old run was tested on stays test, so that both are judged on photos that neither has seen;
photos are known again by their bytes, whatever they are called now.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from thaw.commands.one_run import one_run
from thaw.comparison.verdict import by_group, p_text, paired_p
from thaw.data.folder import PhotoFolder
from thaw.data.listing.listed import few, many
from thaw.data.splits import NAMES, Sample, together
from thaw.errors import UserError
from thaw.launch.build import make
from thaw.model import bundle
from thaw.nets.backbone import Backbone
from thaw.runs import read
from thaw.runs.folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Old:
    """The run that a new one begins from.

    Args:
        splits: the split of each photo, by the sha256 of its bytes.
        answers: what the old model said of each test photo, by the same.
    """

    run: Path
    classes: list[str]
    splits: dict[str, str]
    answers: dict[str, read.Answer]


def go_on_from(
    cfg: DictConfig, run: RunFolder, choices: Mapping[str, str], sweep: bool = False
) -> float:
    """Train as `one_run` does, from an old run's weights, and say which of the two is better.

    Raises:
        UserError: the old run isn't finished, its photos are gone, or the new ones lack a class.
    """
    data = make(cfg.data, "data", seed=cfg.seed)
    assert isinstance(data, PhotoFolder)
    data.of(run.path).checked().ready()
    old = known(Path(cfg.from_run).expanduser(), data)
    own = data.shared_out(kept_apart(data, old), data.cut)
    own.wishes = data.wishes
    log.info("begins from %s: photos that it knew stay in its splits", old.run)
    start = partial(begin_with, bundle.load(old.run))
    judge = partial(verdict, old, own)
    loss = one_run(cfg, run, choices, sweep, data=own.of(run.path), start=start, judge=judge)
    if run.writes:
        tell(run.metrics)
    return loss


def known(folder: Path, data: PhotoFolder) -> Old:
    """What is known of the old run's photos; they are read again, where they lie or in `data`.

    Raises:
        UserError: it isn't finished, or test photos of it can't be found.
    """
    status = read.status(folder)
    if status.get("state") != "done":
        state = status.get("state", "no run")
        raise UserError(f"Expected a finished run in from_run={folder}, but it is {state}.")
    place = folder / "refit" if read.folds(folder) else folder
    split = read.split(place) if (place / "split.json").is_file() else None
    if split is None or not split.photos["test"]:
        raise UserError(
            f"The model in from_run={folder} has seen all its photos, so nothing is left to judge"
            " it on; begin from a run that was tested on photos of its own."
        )
    if not split.photos["val"]:
        raise UserError(
            f"The model in from_run={folder} was trained on all photos of its folds, so none is"
            " left that could choose an epoch of a new one and calibrate it; train folds anew, with"
            " the new photos among them."
        )
    missing = [name for name in split.classes if name not in data.classes]
    if missing:
        raise UserError(
            f"Expected photos of all classes of {folder}, but {data.root} has none of"
            f" {few(missing)}; classes may be added, not taken away."
        )
    photos = [photo.path for name in NAMES for photo in split.photos[name]]
    there = {}
    for path in photos:
        files = [root / path for root in (split.root, data.root) if (root / path).is_file()]
        if files:
            there[path] = files[0]
    if gone := [path for path in split.paths("test") if path not in there]:
        raise UserError(
            f"{many(len(gone))} that {folder} was tested on {_are(len(gone))} gone from"
            f" {split.root} ({few(gone)}), so the two can't be compared; put them back."
        )
    digests = dict(zip(there, data.known.digests([*there.values()]), strict=True))
    splits = {
        digests[photo.path]: name
        for name in ("train", "val", "test")  # what is in two counts as the last of them
        for photo in split.photos[name]
        if photo.path in digests
    }
    answers = {digests[a.path]: a for a in read.predictions(place) if a.path in digests}
    return Old(folder, split.classes, splits, answers)


def kept_apart(data: PhotoFolder, old: Old) -> dict[str, list[Sample]]:
    """The splits, in which each photo of the old run is where it was; what belongs with it, too.

    Of what is new, and of splits that are given as folders, the data decides; but whatever the old
    run was tested on is test.
    """
    places = [(name, sample) for name in NAMES for sample in data.splits[name]]
    digests = [digest for name in NAMES for digest in data.digests(name)]
    keys = together(digests, [sample.group for _, sample in places])
    held: dict[int, set[str]] = {}
    for digest, key in zip(digests, keys, strict=True):
        held.setdefault(key, set()).add(old.splits.get(digest, ""))
    found: dict[str, list[Sample]] = {name: [] for name in NAMES}
    for (name, sample), key in zip(places, keys, strict=True):
        if "test" in held[key]:
            name = "test"
        elif name in data.cut or name == "train":
            before = [split for split in ("val", "train") if split in held[key]]
            name = before[0] if before else name
        found[name].append(sample)
    return found


def begin_with(model: bundle.Model, backbone: Backbone, classes: Sequence[str]) -> None:
    """Put a model's weights into a net; of the head, the rows of classes that it knows.

    Raises:
        UserError: it is another net.
    """
    state, own = model.backbone.net.state_dict(), backbone.net.state_dict()
    head = {f"{backbone.head_path}.weight", f"{backbone.head_path}.bias"}
    odd = [n for n in own if n not in state or (n not in head and own[n].shape != state[n].shape)]
    if odd or len(own) != len(state):
        raise UserError(
            f"Expected the net of from_run, {model.backbone.origin['name']}, but arch says"
            f" {backbone.origin['name']}; leave arch out, or begin anew."
        )
    rows = [(classes.index(name), i) for i, name in enumerate(model.classes)]
    new, before = zip(*rows, strict=True)
    with torch.no_grad():
        for name, tensor in own.items():
            if name in head:
                tensor[list(new)] = state[name][list(before)].to(tensor)
            else:
                tensor.copy_(state[name])


def verdict(old: Old, data: PhotoFolder, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the two do on the old test photos, photo by photo: `from_run/…` of `metrics.json`.

    Args:
        rows: of the new run's `predictions.csv`; copies of a photo count once.
    """
    digests = dict(zip([s.path for s in data.splits["test"]], data.digests("test"), strict=True))
    both: dict[str, tuple[read.Answer, Mapping[str, Any]]] = {}
    for row in rows:
        digest = digests[row["path"]]
        was = old.answers.get(digest)
        if was and (digest not in both or row["label"] == was.label):
            both[digest] = (was, row)
    same = [(was, now) for was, now in both.values() if was.label == now["label"]]
    told: dict[str, Any] = {"from_run/images": len(same), "from_run/aside": len(both) - len(same)}
    told |= {"from_run/missing": len(old.answers) - len(both)}
    if not same:
        return told
    before = np.array([was.label == was.prediction for was, _ in same])
    after = np.array([now["label"] == now["prediction"] for _, now in same])
    gains = after.astype(int) - before
    told |= {"from_run/better": int((gains > 0).sum()), "from_run/worse": int((gains < 0).sum())}
    group_of = {sample.path: sample.group for sample in data.splits["test"]}
    keys = together([group_of[now["path"]] for _, now in same])
    told |= {"from_run/p": paired_p(by_group(gains, keys))}
    return told | {"from_run/acc_before": float(before.mean()), "from_run/acc": float(after.mean())}


def tell(found: Mapping[str, Any]) -> None:
    """Say the verdict that a run's metrics hold."""
    if not (count := found["from_run/images"]):
        log.warning("No old test photo is left with its label, so there is no verdict.")
        return
    worse, better = found["from_run/worse"], found["from_run/better"]
    aside, missing = found["from_run/aside"], found.get("from_run/missing", 0)
    some = f"{count} of " if aside or missing else ""
    log.info(
        "against before %d %s got worse, %d better, %s: %.1f%% of %sthe old run's %d test photos"
        " are right, %.1f%% were",
        *(worse, "photo" if worse == 1 else "photos", better, p_text(found["from_run/p"])),
        *(100 * found["from_run/acc"], some, count + aside + missing),
        100 * found["from_run/acc_before"],
    )
    if aside:
        log.info("               %s with another label now %s left out", many(aside), _are(aside))
    if missing:
        log.info(
            "               %s that the old run was tested on %s not in this run's test split",
            *(many(missing), _are(missing)),
        )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
