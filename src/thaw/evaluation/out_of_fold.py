"""What folds say of the photos that they haven't seen, brought together: an answer a photo.

The interval of a pooled share takes photos as independent. The folds' nets share most of their
train photos, so it is somewhat too narrow (Bates, Hastie & Tibshirani 2024, "Cross-validation: what
does it estimate and how well does it do it?"); no unbiased estimate of its width exists (Bengio &
Grandvalet 2004).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from thaw.evaluation import scores
from thaw.evaluation.answers import Answers
from thaw.evaluation.unfamiliar import share
from thaw.files import write_tensors
from thaw.model.familiar.level import judged
from thaw.model.familiar.store import Familiar
from thaw.runs import read
from thaw.runs.schema import Wrong

FILE = "answers.safetensors"  # in a fold's folder


@dataclass(frozen=True)
class OutOfFold:
    """Answers to all photos, each by the fold that hadn't seen it.

    Args:
        answers: the logits are as the folds' nets give them; temperature and prior are the folds'.
        distance: `[N]`, to the train photos of the fold; likewise `familiarity`, its p-value.
        fold: `[N]`, the number of the fold, from 1.
        promise: of how many are called unfamiliar, of the fold whose val can promise least.
    """

    answers: Answers
    distance: Tensor
    familiarity: Tensor
    fold: Tensor
    promise: dict[str, Any]


def keep(folder: Path, test: Mapping[str, Tensor], familiar: Familiar) -> None:
    """Write what a fold's net says of its test photos.

    Args:
        folder: the fold's.
        test: raw `logits` `[n, classes]`, `features` `[n, D]`, and `index` `[n]` in the split.
    """
    distance = familiar.distance(test["features"])
    tensors = {
        "logits": test["logits"].float().contiguous(),
        "index": test["index"].contiguous(),
        "distance": distance,
        "familiarity": familiar.familiarity(test["features"]),
    }
    write_tensors(folder / FILE, tensors)


def gathered(run: Path) -> OutOfFold:
    """What the finished folds of a run have left, in the order of the run's test photos.

    Raises:
        UserError: a file is damaged.
    """
    whole = read.split(run)
    places = {path: i for i, path in enumerate(whole.paths("test"))}
    labels = {name: i for i, name in enumerate(whole.classes)}
    rows: list[tuple[int, read.Photo]] = []
    parts: dict[str, list[Tensor]] = {}
    priors: list[list[float]] = []
    promises: list[dict[str, Any]] = []
    for number, fold in enumerate(read.folds(run), start=1):
        found, info = _tensors(fold, len(labels)), read.read_json(fold / "model" / "model.json")
        photos = read.split(fold).photos["test"]
        with read.damage(fold / FILE):
            own = [photos[i] for i in found["index"].tolist()]
            rows += [(places[photo.path], photo) for photo in own]
        found["temperature"] = torch.full((len(own), 1), info["temperature"])
        found["fold"] = torch.full((len(own),), number)
        priors += [info["prior"] or []] * len(own)
        keys = ("level", "refused", "val/images", "train/judged")
        promises.append({k: v for k, v in info["unfamiliar"].items() if k in keys})
        for key, tensor in found.items():
            parts.setdefault(key, []).append(tensor)
    order = sorted(range(len(rows)), key=lambda i: rows[i][0])
    joined = {key: torch.cat(tensors)[order] for key, tensors in parts.items()}
    photos = [rows[i][1] for i in order]
    answers = Answers(
        joined["logits"],
        torch.tensor([labels[photo.label] for photo in photos]),
        whole.classes,
        [photo.path for photo in photos],
        whole.root,
        joined["temperature"],
        [priors[i] for i in order] if all(priors) else None,
        [photo.group for photo in photos],
    )
    least = min(promises, key=judged)
    return OutOfFold(answers, joined["distance"], joined["familiarity"], joined["fold"], least)


def facts(found: OutOfFold, threshold: float | None = None) -> dict[str, Any]:
    """As `scores.facts`, of all photos."""
    told = scores.facts(found.answers, threshold)
    told["unfamiliar"] = dict(found.promise)
    if not found.promise["refused"]:
        told["unfamiliar"] |= share(found.familiarity, found.promise["level"])
    return told


def _tensors(fold: Path, classes: int) -> dict[str, Tensor]:
    path = fold / FILE
    with read.damage(path):
        if not path.is_file():
            raise FileNotFoundError
        try:
            with safe_open(path, "pt") as file:
                names = ("logits", "index", "distance", "familiarity")
                found = {name: file.get_tensor(name) for name in names}
        except Exception as error:  # of safetensors' own class
            raise Wrong(str(error)) from error
        photos = len(found["index"])
        shapes = {name: (photos,) for name in found} | {"logits": (photos, classes)}
        for name, shape in shapes.items():
            if tuple(found[name].shape) != shape:
                raise Wrong(f"{name} is {tuple(found[name].shape)}, not {shape}")
        return found
