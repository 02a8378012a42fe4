"""What a check is given, and what it answers: the one interface of all of them.

A check is a file with `find(context) -> list[Result]`, and a line in `thaw.checks.check.CHECKS`;
an issue of a new name has its place in `ISSUES`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from thaw.checks.facts import SIDE, File
from thaw.data.find import LeftOut
from thaw.data.folder import PhotoFolder
from thaw.data.splits import Sample

# In the order of what to do first.
ISSUES = (
    *("unreadable", "leak", "two_labels", "label", "duplicate", "near_duplicate"),
    *("shortcut", "group", "class", "small_class", "crop", "format"),
)
COLUMNS = ("issue", "path", "other", "score", "detail", "action")  # of check.csv


@dataclass(frozen=True)
class Finding:
    """Something about a photo, or about a class where `path` is its folder.

    `other` is the second photo, or the label that a photo seems to have. `score` is from 0 to 1:
    of findings of one issue, those with the highest come first.
    """

    issue: str
    path: str
    other: str = ""
    score: float = 1.0
    detail: str = ""

    def row(self) -> dict[str, str]:
        """A row of check.csv; the action is the user's to fill in."""
        values = (self.issue, self.path, self.other, f"{self.score:.3f}", self.detail, "")
        return dict(zip(COLUMNS, values, strict=True))


@dataclass(frozen=True)
class Result:
    """What a check says of an issue: a sentence, what to do, and the findings, worst first."""

    issue: str
    sentence: str
    advice: str = ""
    findings: Sequence[Finding] = ()

    @property
    def wrong(self) -> bool:
        """Whether there is something to do."""
        return bool(self.findings)


@dataclass(frozen=True)
class Pair:
    """Two photos, by their places: the same file, a copy of it, or two photos of one scene."""

    one: int
    other: int
    kind: Literal["same", "copy", "scene"]
    score: float = 1.0


@dataclass
class Context:
    """The photos, train and val first, and what is known of each, in the same order.

    `folds` and `logits` are of the photos that `judged` names: train and val photos whose class has
    enough of them for a probe that hasn't seen the photo. None where there are no two such classes.
    """

    data: PhotoFolder
    see: Any  # what the weights see of a photo: its transforms
    splits: list[str]
    samples: list[Sample]
    digests: list[str]
    files: list[File | None]
    looks: Tensor  # [N, SIDE² + 4], uint8
    features: Tensor  # [N, D]
    judged: list[int] = field(default_factory=list)  # places
    folds: Tensor | None = None  # [M]
    logits: Tensor | None = None  # [M, classes that have enough photos]
    pairs: list[Pair] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    @cached_property
    def used(self) -> list[int]:
        """Places of the photos of train and val; those of test are looked at for leaks alone."""
        return [i for i, split in enumerate(self.splits) if split != "test"]

    @property
    def labels(self) -> Tensor:
        """Labels `[M]` of the photos that are judged."""
        return self.labels_of(self.judged)

    def labels_of(self, places: Sequence[int]) -> Tensor:
        """Labels of these photos."""
        return torch.tensor([self.samples[i].label for i in places])

    @property
    def thumbnails(self) -> Tensor:
        """Grey, uint8 `[N, SIDE, SIDE]`."""
        return self.looks[:, : SIDE**2].reshape(-1, SIDE, SIDE)

    def path(self, place: int) -> str:
        """A photo's path below the root."""
        return self.samples[place].path

    def class_of(self, place: int) -> str:
        """The name of a photo's class."""
        return self.data.classes[self.samples[place].label]


def several(count: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> several(1, "photo"), several(1200, "photo"), several(2, "class", "classes")
    ('1 photo', '1,200 photos', '2 classes')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"
