"""Ways to train, and what they cost: measured on a few photos before all are paid for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thaw.data.splits import Sample
from thaw.launch import conf
from thaw.shortlist.words import Net

HEAD = "probe"  # of a frozen net, on cached features
THAWS = ("probe_last_block", "probe_full")  # from the simple to the complex
AT_LEAST = 3.0  # times a forward pass that a photo takes in training: forward, and backward twice


@dataclass(frozen=True)
class Way:
    """A net and a schedule of `conf/finetune`."""

    net: Net
    recipe: str

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"{self.net.name} {self.recipe}"

    @property
    def words(self) -> list[str]:
        """That mean it in training."""
        return [*self.net.words, f"finetune={self.recipe}"]


@dataclass(frozen=True)
class Cost:
    """Seconds that training takes: before the first step, and for a photo in all its epochs.

    `val` is a val photo's part, in all epochs and once more at the end; `look` is once.
    """

    start: float
    train: float
    val: float
    look: float

    def of(self, train: int, val: int) -> float:
        """Of so many photos."""
        return self.start + train * self.train + val * self.val


def rehearsal(samples: Sequence[Sample], number: int) -> list[Sample]:
    """Some photos, of each class one at least: classes take turns."""
    turn: Counter[int] = Counter()
    rank = []
    for i, sample in enumerate(samples):
        rank.append((turn[sample.label], i))
        turn[sample.label] += 1
    return [samples[i] for _, i in sorted(rank)[: max(number, len(turn))]]


def thawed_epochs(way: Way) -> int:
    """Epochs in which a way trains all of its net."""
    phases = conf.composed([f"finetune={way.recipe}"]).finetune.phases
    return sum(phase.epochs for phase in phases.values() if phase.train == "all")


def once(phases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Words that make each phase of a schedule an epoch long; those that are solved have none.

    >>> once({"head": {"train": "head", "solve": True}, "all": {"epochs": 3, "warmup": 1}})
    ['finetune.phases.all.epochs=1', 'finetune.phases.all.warmup=0']
    """
    short = {"epochs": 1, "warmup": 0}
    return [
        f"finetune.phases.{name}.{key}={value}"
        for name, phase in phases.items()
        for key, value in short.items()
        if key in phase
    ]
