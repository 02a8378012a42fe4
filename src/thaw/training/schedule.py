"""Schedules: which stages train in which phase, for how long, at which learning rate.

Nothing here trains, or imports torch. Every question about time has one answer, a function of the
phase and of how many epochs of it have passed, so it can be printed and drawn as well as applied.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from thaw.errors import UserError

if TYPE_CHECKING:
    from thaw.nets.backbone import Backbone

ANNEALS = ("none", "cosine", "linear")
BATCH_NORMS = ("eval", "train")


@dataclass(frozen=True)
class Phase:
    """One part of a schedule.

    Args:
        train: `head`, the number n of last blocks that train with it, `all`, a list of stages, or
            `norms` (the head and every norm layer's affine parameters).
        epochs: how long, at most.
        lr: learning rate of the head; a stage `d` before it gets `lr * lr_decay ** d`.
        solve: the head is solved to its optimum (`thaw.training.probe`) in place of epochs; such a
            phase has `train: head` and nothing else.
        warmup: epochs of linear warm-up from 0.
        anneal: how the learning rate goes to 0 after the warm-up: none, cosine, linear.
        until: `converged` ends the phase when val loss hasn't improved for `patience` epochs by
            more than `min_delta`; with `restore_best` its best weights go into the next phase.
    """

    name: str
    train: str | int | list[str]
    epochs: int = 1
    lr: float = 0.0
    solve: bool = False
    lr_decay: float = 1.0
    warmup: float = 0.0
    anneal: str = "none"
    until: str | None = None
    patience: int = 2
    min_delta: float = 0.0
    restore_best: bool = True

    def problems(self) -> list[str]:
        """What is wrong with the values, each in a few words."""

        def number(value: object, low: float, high: float = 1e9, whole: bool = False) -> bool:
            kinds = int if whole else int | float
            return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high

        checks = {
            "train": (_is_train(self.train), "head, a number of blocks, all, norms or stage names"),
            "epochs": (number(self.epochs, 1, 1e5, whole=True), "a whole number from 1 to 100000"),
            "lr": (number(self.lr, 0), "a number from 0"),
            "solve": (isinstance(self.solve, bool), "true or false"),
            "lr_decay": (number(self.lr_decay, 0), "a number from 0"),
            "warmup": (number(self.warmup, 0), "a number of epochs from 0"),
            "anneal": (self.anneal in ANNEALS, f"one of {ANNEALS}"),
            "until": (self.until in (None, "converged"), "null or converged"),
            "patience": (number(self.patience, 1, whole=True), "a whole number from 1"),
            "min_delta": (number(self.min_delta, 0), "a number from 0"),
            "restore_best": (isinstance(self.restore_best, bool), "true or false"),
        }
        where = f"finetune.phases.{self.name}"
        problems = [
            f"expected {where}.{key} to be {valid}, got {getattr(self, key)!r}"
            for key, (good, valid) in checks.items()
            if not good
        ]
        if not problems and self.warmup > self.epochs:
            problems.append(
                f"expected {where}.warmup to be no longer than its {self.epochs} epochs, got"
                f" {self.warmup}"
            )
        return problems

    def factor(self, elapsed: float) -> float:
        """Share of the learning rate that applies `elapsed` epochs into the phase.

        >>> Phase("p", "all", 4, 1e-3, warmup=2, anneal="linear").factor(1.0)
        0.5
        >>> Phase("p", "all", 4, 1e-3, warmup=2, anneal="linear").factor(3.0)
        0.5
        """
        if elapsed < self.warmup:
            return elapsed / self.warmup
        rest = min((elapsed - self.warmup) / max(self.epochs - self.warmup, 1e-9), 1.0)
        if self.anneal == "cosine":
            return 0.5 * (1 + math.cos(math.pi * rest))
        return 1 - rest if self.anneal == "linear" else 1.0


_KEYS = [field.name for field in fields(Phase) if field.name != "name"]


def _is_train(train: object) -> bool:
    if isinstance(train, list):
        return bool(train) and all(isinstance(stage, str) for stage in train)
    if isinstance(train, int):
        return not isinstance(train, bool) and train >= 0
    return train in ("head", "all", "norms")


def _unsolvable(where: str, given: Mapping[str, Any]) -> list[str]:
    """What is wrong with a phase to be solved, each in a few words."""
    problems = [
        f"{where}.{key} says nothing to a phase that is solved ({where}.solve=false asks for epochs"
        " and lr)"
        for key in given
        if key not in ("train", "solve") and key in _KEYS
    ]
    if given.get("train", "head") != "head":
        valid = f"head, which alone can be solved ({where}.solve=true)"
        problems.append(f"expected {where}.train to be {valid}, got {given.get('train')!r}")
    return problems


class Schedule:
    """Phases in order; everything about time is asked here.

    Args:
        phases: name → the fields of `Phase`.
        lr_decay: for phases that set none.
        batch_norm: `eval` keeps the pretrained statistics in thawed stages, `train` moves them.
        lr_find: search the first phase's learning rate before training (`thaw.training.lr_find`).

    Raises:
        UserError: naming every wrong key and value.
    """

    def __init__(
        self,
        phases: Mapping[str, Mapping[str, Any]],
        lr_decay: float = 1.0,
        batch_norm: str = "eval",
        lr_find: bool = False,
    ) -> None:
        problems: list[str] = []
        if not isinstance(phases, Mapping) or not phases:
            problems.append(f"expected finetune.phases to hold at least one phase, got {phases!r}")
            phases = {}
        if batch_norm not in BATCH_NORMS:
            valid = f"one of {BATCH_NORMS}"
            problems.append(f"expected finetune.batch_norm to be {valid}, got {batch_norm!r}")
        if not isinstance(lr_decay, int | float) or isinstance(lr_decay, bool) or not lr_decay >= 0:
            problems.append(f"expected finetune.lr_decay to be a number from 0, got {lr_decay!r}")
            lr_decay = 1.0
        if not isinstance(lr_find, bool):
            problems.append(f"expected finetune.lr_find to be true or false, got {lr_find!r}")
        self.phases: list[Phase] = []
        for name, given in phases.items():
            where = f"finetune.phases.{name}"
            if not isinstance(given, Mapping):
                problems.append(f"expected {where} to be a mapping, got {given!r}")
                continue
            needed = ("train",) if given.get("solve") is True else ("train", "epochs", "lr")
            missing = [key for key in needed if key not in given]
            unknown = [key for key in given if key not in _KEYS]
            problems += [f"expected {where}.{key} to be set" for key in missing]
            problems += [f"{where}.{key} is unknown, valid are {_KEYS}" for key in unknown]
            if given.get("solve") is True:
                problems += _unsolvable(where, given)
            elif given.get("until") is None:  # what only its end would read
                unread = [key for key in ("patience", "min_delta", "restore_best") if key in given]
                problems += [f"{where}.{key} needs {where}.until=converged" for key in unread]
            if not missing and not unknown:
                phase = Phase(**{"name": name, "lr_decay": lr_decay, **given})
                problems += phase.problems()
                self.phases.append(phase)
        if problems:
            raise UserError("The schedule can't be used: " + "; ".join(problems) + ".")
        if lr_find is True and self.phases[0].solve:
            raise UserError(
                "Expected finetune.lr_find to be false where the first phase is solved: it has no"
                " learning rate to search."
            )
        self.batch_norm, self.lr_find = batch_norm, lr_find
        self.lengths: dict[str, int] = {}  # after how many epochs phases end, if that is known

    def ending_after(self, lengths: Mapping[str, int]) -> "Schedule":
        """The same, whose phases end after so many epochs; those of 0 are left out.

        Learning rates are those that they'd have in the whole phase.
        """
        other = copy.copy(self)
        other.phases = [phase for phase in self.phases if lengths[phase.name]]
        other.lengths = {name: epochs for name, epochs in lengths.items() if epochs}
        return other

    def length(self, phase: Phase) -> int:
        """Epochs of a phase, at most."""
        return self.lengths.get(phase.name, phase.epochs)

    @property
    def epochs(self) -> int:
        """Length in epochs, at most (phases that end on convergence may be shorter)."""
        return sum(map(self.length, self.phases))

    def check(self, backbone: "Backbone") -> None:
        """Raise UserError for phases that name stages this backbone doesn't have."""
        blocks = [stage for stage in backbone.stages if stage != "head"]
        problems = []
        for phase in self.phases:
            where = f"finetune.phases.{phase.name}.train"
            if isinstance(phase.train, int) and phase.train > len(blocks):
                problems.append(
                    f"expected {where} to be at most {len(blocks)} (blocks before the head), got"
                    f" {phase.train}"
                )
            if isinstance(phase.train, list):
                unknown = [stage for stage in phase.train if stage not in backbone.stages]
                if unknown:
                    problems.append(
                        f"expected {where} to name stages of this arch {list(backbone.stages)},"
                        f" got {unknown}"
                    )
            if phase.solve and not backbone.pretrained:
                problems.append(
                    f"finetune.phases.{phase.name}.solve fits a head to what pretrained weights"
                    " see, and these are random; finetune=from_scratch trains the whole net"
                )
            if phase.solve and backbone.head.bias is None:
                problems.append(
                    f"finetune.phases.{phase.name}.solve needs a head with a bias, and this one"
                    " has none; finetune=head_only trains it"
                )
        if problems:
            raise UserError("The schedule doesn't fit the arch: " + "; ".join(problems) + ".")

    def trained(self, phase: Phase, backbone: "Backbone") -> tuple[list[str], list[str]]:
        """Stages that train in a phase, and stages of which only the norm layers do."""
        stages = list(backbone.stages)
        if not backbone.pretrained or phase.train == "all":
            return stages, []  # random weights are nothing to preserve
        if phase.train == "head":
            return ["head"], []
        if phase.train == "norms":
            return ["head"], stages[:-1]
        if isinstance(phase.train, int):
            return stages[-1 - phase.train :], []
        return [stage for stage in stages if stage in phase.train], []

    def trains_heads(self, backbone: "Backbone") -> bool:
        """Whether nothing but the head trains, in any phase."""
        return all(self.trained(phase, backbone) == (["head"], []) for phase in self.phases)

    def apply(self, phase: Phase, backbone: "Backbone") -> None:
        """Freeze and thaw the backbone as the phase says."""
        trained, norms = self.trained(phase, backbone)
        backbone.thaw(trained, norms, self.batch_norm if backbone.pretrained else "train")

    def trainable(self, backbone: "Backbone") -> int:
        """Parameters that train in one phase or another."""
        names: set[str] = set()
        for phase in self.phases:
            self.apply(phase, backbone)
            names |= {name for name, p in backbone.named_parameters() if p.requires_grad}
        self.apply(self.phases[0], backbone)
        own = dict(backbone.named_parameters())
        return sum(own[name].numel() for name in names)

    def lr(self, phase: Phase, stage: str, backbone: "Backbone", elapsed: float) -> float:
        """Learning rate of a stage `elapsed` epochs into a phase; 0 where it is frozen."""
        trained, norms = self.trained(phase, backbone)
        if stage not in trained and stage not in norms:
            return 0.0
        stages = list(backbone.stages)
        distance = len(stages) - 1 - stages.index(stage)
        return phase.lr * phase.lr_decay**distance * phase.factor(elapsed)


def stage_rates(schedule: Schedule, backbone: "Backbone") -> dict[str, Sequence[float]]:
    """Learning rate of each stage in each phase, at its full height; 0 where it is frozen."""
    return {
        stage: [
            schedule.lr(phase, stage, backbone, elapsed=phase.warmup if phase.warmup else 0.0)
            for phase in schedule.phases
        ]
        for stage in backbone.stages
    }
