"""What a model keeps of its train photos: enough to see that a photo is unlike all of them.

The score of a photo is its mean cosine distance to the nearest of them (Sun et al. 2022, "Deep
nearest neighbours"), on what the head reads, each feature divided by the root of its spread over
train. What counts as far is a conformal p-value on val (Bates et al. 2023): of photos like those of
val, at most a share `level` gets a p-value that low. Where nothing before the head was trained,
train photos are as new to the features as val's, so they are counted as well, each by its distance
to the others (Laxhammar & Falkman 2011; the photo that is asked about isn't among those others,
which can only make the p-value larger). See docs/unfamiliar.md for what it was chosen against.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from thaw.data.photos import digests
from thaw.errors import UserError
from thaw.escape import printable
from thaw.files import write_tensors
from thaw.model.familiar.level import why_refused
from thaw.model.prediction import Similar

FILE = "familiar.safetensors"
LEVEL = 0.05  # share of photos like val's that may be called unfamiliar
NEIGHBOURS = 5
DIGITS = 16  # of a photo's sha256: 64 bits, which nobody guesses
LARGEST = 200_000_000  # bytes of a file that may be a photo
BYTES = 1_500_000  # of what is kept, however many train photos there are
CLOSE = 1e-5  # scores that near are the same: equal photos tie, whatever the last bits


@dataclass(frozen=True)
class Familiar:
    """Train photos as directions in feature space, and how far from them photos new to the net are.

    Args:
        rows: int8 `[M, D]`, a row a train photo that is kept; only its direction counts.
        labels: `[M]`, their classes' indices.
        scale: `[D]`, what features are divided by.
        scores: `[n]`, distances of val, and of train where `alike` says so; the lowest first.
        photos: paths of the photos kept, below `root`.
        root: the folder of photos, as training was told it.
        seen: train photos there were.
        contents: the sha256 of each photo's bytes, cut to `DIGITS`; none if it isn't known.
        alike: where train photos are among the scores: a key for each of `photos`, the same for
            those that belong together; else none.
    """

    rows: Tensor
    labels: Tensor
    scale: Tensor
    scores: Tensor
    photos: list[str]
    root: str
    seen: int
    contents: list[str]
    alike: list[int] = field(default_factory=list)

    @cached_property
    def directions(self) -> Tensor:
        """`[M, D]`, of length 1."""
        return F.normalize(self.rows.float(), dim=1)

    @property
    def sample(self) -> str:
        """What is to be said beside similar photos where not all train photos are kept; else ""."""
        kept = len(self.rows)
        if kept >= self.seen:
            return ""
        return f"Looked for among {kept:,} of the {self.seen:,} train photos, drawn by chance."

    def likeness(self, features: Tensor) -> Tensor:
        """Features `[B, D]` → cosine to each train photo that is kept, `[B, M]`."""
        return F.normalize(features / self.scale, dim=1) @ self.directions.T

    def distance(self, features: Tensor) -> Tensor:
        """Features `[B, D]` → mean cosine distance to the nearest train photos, `[B]`."""
        return distance(self.likeness(features))

    def familiarity(self, features: Tensor) -> Tensor:
        """Features `[B, D]` → conformal p-values `[B]`, from 1 / (n + 1) to 1."""
        return p_values(self.distance(features), self.scores)

    def nearest(self, features: Tensor, most: int, classes: Sequence[str]) -> list[list[Similar]]:
        """The train photos most like each photo, the nearest first."""
        likeness = self.likeness(features)
        values, places = likeness.topk(min(most, likeness.shape[1]), dim=1)
        return [
            [
                Similar(self.photos[i], classes[int(self.labels[i])], value)
                for value, i in zip(row, indices, strict=True)
            ]
            for row, indices in zip(values.tolist(), places.tolist(), strict=True)
        ]

    def file_of(self, photo: str) -> Path | None:
        """Where a train photo is; None if it isn't there any more, or another is.

        A bundle that was sent may name any file of this machine. Who made it doesn't know what is
        in them, unless he has that photo himself.
        """
        path = Path(self.root, photo)
        try:
            if not path.is_file() or path.stat().st_size > LARGEST:
                return None
            known = {*zip(self.photos, self.contents, strict=False)}
            return path if (photo, digests([path])[0][:DIGITS]) in known else None
        except (OSError, ValueError):  # what can't be read, and what is no name of a file
            return None

    def judged_by(self, distances: Tensor) -> "Familiar":
        """The same train photos, and others' distances in place of val's: `[n]`."""
        return replace(self, scores=(distances + CLOSE).sort().values, alike=[])

    def save(self, folder: Path) -> None:
        """Write it into a bundle."""
        tensors = {name: getattr(self, name).contiguous() for name in DTYPES}
        facts = {name: json.dumps(getattr(self, name)) for name in ("photos", "contents", "alike")}
        facts |= {"root": self.root, "seen": str(self.seen)}
        write_tensors(folder / FILE, tensors, facts)

    def facts(self, level: float = LEVEL) -> dict[str, Any]:
        """What `model.json` says of it."""
        return {
            "level": level,
            "refused": why_refused(len(self.scores), level),
            "val/images": len(self.scores) - len(self.alike),
            "train/judged": len(self.alike),
            "train/images": self.seen,
            "train/kept": len(self.rows),
        }


DTYPES = {
    "rows": torch.int8,
    "labels": torch.int64,
    "scale": torch.float32,
    "scores": torch.float32,
}


def fit(
    train: Tensor,
    labels: Tensor,
    val: Tensor,
    photos: list[str] | None = None,
    root: str = "",
    contents: list[str] | None = None,
    most_bytes: int = BYTES,
    alike: Sequence[int] = (),
) -> Familiar:
    """Learn what is familiar from what the head reads, without augmentation.

    Args:
        train: features `[N, D]`; `labels` `[N]` are theirs, `photos` their paths, `contents` the
            sha256 of their bytes.
        val: features `[n, D]` of photos that nothing was trained on.
        most_bytes: of the rows kept; where photos are more, each class keeps some of its own, as
            many as the other classes as far as it has them, chosen by chance.
        alike: where train photos are as new to the net as val's: a key for each, the same for those
            that belong together (copies, groups). They are counted with val's if all are kept.
    """
    train, val = train.float(), val.float()
    spread = train.std(dim=0, correction=0)
    # A feature that train never moves would else be infinitely far at the first that does.
    scale = (spread + 1e-3 * train.std(correction=0)).clamp(min=1e-12).sqrt()
    kept = _some_of_each(labels, max(NEIGHBOURS, most_bytes // train.shape[1]))
    rows = F.normalize(train[kept] / scale, dim=1)
    rows = rows / rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
    names = [photos[i] if photos else "" for i in kept.tolist()]
    found = Familiar(
        (127 * rows).round().to(torch.int8),
        labels[kept].long(),
        scale,
        torch.empty(0),
        names,
        root,
        len(train),
        [contents[i][:DIGITS] for i in kept.tolist()] if contents else [],
    )
    if not alike or len(kept) < len(train):
        return found.judged_by(found.distance(val))
    own = to_others(found.likeness(train), torch.tensor(alike))
    return replace(found.judged_by(torch.cat([found.distance(val), own])), alike=list(alike))


def to_others(likeness: Tensor, alike: Tensor) -> Tensor:
    """Distance of each train photo to the nearest of those that don't belong with it.

    Args:
        likeness: `[N, N]`, of all to all; `alike` `[N]` is their keys.
    """
    return distance(likeness.masked_fill(alike[:, None] == alike, -1))


def _some_of_each(labels: Tensor, most: int) -> Tensor:
    """Indices of at most so many photos, of the classes alike."""
    if len(labels) <= most:
        return torch.arange(len(labels))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    order = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    starts = (counts.cumsum(0) - counts)[labels[order]]
    turn = torch.arange(len(labels)) - starts  # 0 for the first of each class, then 1, …
    return order[turn.argsort(stable=True)[:most]].sort().values


def distance(likeness: Tensor) -> Tensor:
    """Cosines to all that is kept `[B, M]` → mean distance to the nearest, `[B]`."""
    return 1 - likeness.topk(min(NEIGHBOURS, likeness.shape[1]), dim=1).values.mean(dim=1)


def p_values(distance: Tensor, scores: Tensor) -> Tensor:
    """Share of the photos with a score, this one among them, that are as far or farther, `[B]`."""
    farther = (scores >= distance[:, None]).sum(dim=1)
    return (1 + farther).float() / (len(scores) + 1)


def load(path: Path, features: int, classes: int) -> Familiar:
    """What a bundle's file holds, for a head that reads so many features.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            found = Familiar(
                **{name: file.get_tensor(name) for name in DTYPES},
                photos=json.loads(facts["photos"]),
                contents=json.loads(facts.get("contents", "[]")),
                alike=json.loads(facts.get("alike", "[]")),
                root=facts["root"],
                seen=int(facts["seen"]),
            )
        _check(found, features, classes)
    except Exception as error:  # of safetensors, of the system, of values
        reason = printable(" ".join(str(error).split())[:200]) or type(error).__name__
        raise UserError(f"{path} is damaged ({reason}).") from error
    return found


def _check(found: Familiar, features: int, classes: int) -> None:
    """Raise ValueError unless it is all as `fit` makes it."""
    for name, dtype in DTYPES.items():
        if getattr(found, name).dtype is not dtype:
            raise ValueError(f"{name} is no {dtype}")
    rows, photos = len(found.rows), found.photos
    if found.rows.ndim != 2 or found.rows.shape[1] != features or not rows:
        raise ValueError(f"rows are {tuple(found.rows.shape)}, the head reads {features}")
    shapes = {"labels": (rows,), "scale": (features,), "scores": (found.scores.numel(),)}
    for name, shape in shapes.items():
        if getattr(found, name).shape != shape:
            raise ValueError(f"{name} is {tuple(getattr(found, name).shape)}, not {shape}")
    if not (found.scale.isfinite().all() and (found.scale > 0).all()):
        raise ValueError("scale isn't above 0")
    if not found.scores.isfinite().all() or (found.scores.diff() < 0).any():
        raise ValueError("scores aren't in rising order")
    if found.labels.min() < 0 or found.labels.max() >= classes:
        raise ValueError("a label is of no class")
    if not isinstance(photos, list) or len(photos) != rows:
        raise ValueError("photos aren't as many as rows")
    if not isinstance(found.contents, list) or len(found.contents) not in (0, rows):
        raise ValueError("contents aren't as many as rows")
    if not all(isinstance(text, str) for text in photos + found.contents):
        raise ValueError("a photo's path or sha256 is no text")
    keys = found.alike
    if not isinstance(keys, list) or len(keys) not in (0, rows) or len(keys) > len(found.scores):
        raise ValueError("keys aren't as many as rows")
    if not all(isinstance(key, int) and 0 <= key < rows for key in keys):
        raise ValueError("a key is of no photo")
