"""What moves when: the phases of a schedule, and the callback that applies them.

A phase is applied as a pure function of the epoch: every stage is set every time, on fit start and
on each epoch start, so resuming can't forget one. All parameter groups exist from the first step;
freezing changes `requires_grad` and eval mode, never the optimizer (ULMFiT's gradual unfreezing,
Howard & Ruder 2018, arXiv 1801.06146, without its late parameter groups).
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from thaw.backbone import Backbone, digest
from thaw.errors import UserError

log = logging.getLogger(__name__)
MONITOR = "val/loss"  # a proper score: on a small val split accuracies tie, losses don't
ANNEALS = ("none", "cosine", "linear")
BATCH_NORMS = ("eval", "train")
T = TypeVar("T")


@dataclass(frozen=True)
class Phase:
    """One part of a schedule.

    Args:
        train: `head`, the number n of last blocks that train with it, `all`, a list of stages, or
            `norms` (the head and every norm layer's affine parameters).
        epochs: how long, at most.
        lr: learning rate of the head; a stage `d` before it gets `lr * lr_decay ** d`.
        warmup: epochs of linear warm-up from 0.
        anneal: how the learning rate goes to 0 after the warm-up: none, cosine, linear.
        until: `converged` ends the phase when val loss hasn't improved for `patience` epochs by
            more than `min_delta`; with `restore_best` its best weights go into the next phase.
    """

    name: str
    train: str | int | list[str]
    epochs: int
    lr: float
    lr_decay: float = 1.0
    warmup: float = 0.0
    anneal: str = "none"
    until: str | None = None
    patience: int = 2
    min_delta: float = 0.0
    restore_best: bool = True

    def problems(self) -> list[str]:
        """What is wrong with the values, each in a few words."""

        def number(value: object, low: float, whole: bool = False) -> bool:
            kinds = int if whole else int | float
            return isinstance(value, kinds) and not isinstance(value, bool) and low <= value < 1e9

        checks = {
            "train": (_is_train(self.train), "head, a number of blocks, all, norms or stage names"),
            "epochs": (number(self.epochs, 1, whole=True), "a whole number from 1"),
            "lr": (number(self.lr, 0), "a number from 0"),
            "lr_decay": (number(self.lr_decay, 0), "a number from 0"),
            "warmup": (number(self.warmup, 0), "a number of epochs from 0"),
            "anneal": (self.anneal in ANNEALS, f"one of {ANNEALS}"),
            "until": (self.until in (None, "converged"), "null or converged"),
            "patience": (number(self.patience, 1, whole=True), "a whole number from 1"),
            "min_delta": (number(self.min_delta, 0), "a number from 0"),
            "restore_best": (isinstance(self.restore_best, bool), "true or false"),
        }
        return [
            f"expected finetune.phases.{self.name}.{key} to be {valid}, got {getattr(self, key)!r}"
            for key, (good, valid) in checks.items()
            if not good
        ]

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


def _is_train(train: object) -> bool:
    if isinstance(train, list):
        return bool(train) and all(isinstance(stage, str) for stage in train)
    if isinstance(train, int):
        return not isinstance(train, bool) and train >= 0
    return train in ("head", "all", "norms")


class Schedule:
    """Phases in order; everything about time is asked here.

    Args:
        phases: name → the fields of `Phase`.
        lr_decay: for phases that set none.
        batch_norm: `eval` keeps the pretrained statistics in thawed stages, `train` moves them.

    Raises:
        UserError: naming every wrong key and value.
    """

    def __init__(
        self,
        phases: Mapping[str, Mapping[str, Any]],
        lr_decay: float = 1.0,
        batch_norm: str = "eval",
    ) -> None:
        allowed = [field.name for field in fields(Phase) if field.name != "name"]
        problems = [] if phases else ["expected finetune.phases to hold at least one phase"]
        if batch_norm not in BATCH_NORMS:
            valid = f"one of {BATCH_NORMS}"
            problems.append(f"expected finetune.batch_norm to be {valid}, got {batch_norm!r}")
        self.phases: list[Phase] = []
        for name, given in phases.items():
            where = f"finetune.phases.{name}"
            if not isinstance(given, Mapping):
                problems.append(f"expected {where} to be a mapping, got {given!r}")
                continue
            missing = [key for key in ("train", "epochs", "lr") if key not in given]
            unknown = [key for key in given if key not in allowed]
            problems += [f"expected {where}.{key} to be set" for key in missing]
            problems += [f"{where}.{key} is unknown, valid are {allowed}" for key in unknown]
            if not missing and not unknown:
                phase = Phase(**{"name": name, "lr_decay": lr_decay, **given})
                problems += phase.problems()
                self.phases.append(phase)
        if problems:
            raise UserError("The schedule can't be used: " + "; ".join(problems) + ".")
        self.batch_norm = batch_norm

    @property
    def epochs(self) -> int:
        """Length in epochs, at most (phases that end on convergence may be shorter)."""
        return sum(phase.epochs for phase in self.phases)

    def check(self, backbone: Backbone) -> None:
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
        if problems:
            raise UserError("The schedule doesn't fit the arch: " + "; ".join(problems) + ".")

    def trained(self, phase: Phase, backbone: Backbone) -> tuple[list[str], list[str]]:
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

    def apply(self, phase: Phase, backbone: Backbone) -> None:
        """Freeze and thaw the backbone as the phase says."""
        trained, norms = self.trained(phase, backbone)
        backbone.thaw(trained, norms, self.batch_norm if backbone.pretrained else "train")

    def trainable(self, backbone: Backbone) -> int:
        """Parameters that train in one phase or another."""
        names: set[str] = set()
        for phase in self.phases:
            self.apply(phase, backbone)
            names |= {name for name, p in backbone.named_parameters() if p.requires_grad}
        self.apply(self.phases[0], backbone)
        own = dict(backbone.named_parameters())
        return sum(own[name].numel() for name in names)

    def lr(self, phase: Phase, stage: str, backbone: Backbone, elapsed: float) -> float:
        """Learning rate of a stage `elapsed` epochs into a phase; 0 where it is frozen."""
        trained, norms = self.trained(phase, backbone)
        if stage not in trained and stage not in norms:
            return 0.0
        stages = list(backbone.stages)
        distance = len(stages) - 1 - stages.index(stage)
        return phase.lr * phase.lr_decay**distance * phase.factor(elapsed)


class StagedUnfreezing(Callback):
    """Applies a schedule to `module.backbone`, and proves that what was frozen didn't change.

    Its state (when each phase began, digests of what is frozen, the phase's best weights) is in
    the checkpoint: where phases end on convergence, the epoch alone doesn't tell the phase.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.starts = [0]  # first epoch of each phase that has begun
        self.frozen: dict[str, str] = {}
        self.best_loss, self.stale = math.inf, 0
        self.best_weights: dict[str, Tensor] = {}
        self.applied: str | None = None  # the phase that this process trains
        self.verified: list[str] = []  # phases after which what they froze was found unchanged

    @property
    def finished(self) -> bool:
        """Whether every phase is over."""
        return len(self.starts) > len(self.schedule.phases)

    @property
    def phase(self) -> Phase:
        """The phase that is being trained."""
        return self.schedule.phases[min(len(self.starts), len(self.schedule.phases)) - 1]

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors only, so that the checkpoint loads with `weights_only=True`."""
        return {
            "starts": list(self.starts),
            "frozen": dict(self.frozen),
            "best_loss": self.best_loss,
            "stale": self.stale,
            "best_weights": self.best_weights,
            "verified": list(self.verified),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint."""
        vars(self).update(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the phase; Lightning skips `on_train_epoch_start` where it resumes in an epoch."""
        self.schedule.apply(self.phase, _backbone(pl_module))
        trainer.should_stop = self.finished  # resumed between the last epoch and the test

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the phase, and remember what is frozen when it begins."""
        backbone = _backbone(pl_module)
        self.schedule.apply(self.phase, backbone)
        if self.phase.name != self.applied:
            self.applied = self.phase.name
            pl_module.phase_changed()  # type: ignore[operator]
        if trainer.current_epoch == self.starts[-1]:
            self.frozen = backbone.frozen_digest()
            self.best_loss, self.stale, self.best_weights = math.inf, 0, {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set every group's learning rate, a pure function of the schedule and the step."""
        elapsed = trainer.current_epoch - self.starts[-1] + batch_idx / trainer.num_training_batches
        backbone = _backbone(pl_module)
        rates = {s: self.schedule.lr(self.phase, s, backbone, elapsed) for s in backbone.stages}
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rates[group["stage"]]
        if batch_idx == 0 or self.phase.warmup or self.phase.anneal != "none":
            for logger in trainer.loggers:
                logger.log_metrics({f"lr/{s}": lr for s, lr in rates.items()}, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, on val, whether the phase is over; the checkpoint is written after this."""
        backbone = _backbone(pl_module)
        phase, epoch = self.phase, trainer.current_epoch
        converged = phase.until is not None and self._converged(trainer, backbone)
        if not converged and epoch + 1 - self.starts[-1] < phase.epochs:
            return
        self._check_frozen(backbone)
        if converged:
            log.info("Phase %s converged: val loss %.4f is its best.", phase.name, self.best_loss)
        if phase.until is not None and phase.restore_best:
            self._restore(trainer, backbone)
        self.starts.append(epoch + 1)
        trainer.should_stop = self.finished

    def _converged(self, trainer: Trainer, backbone: Backbone) -> bool:
        loss = float(trainer.callback_metrics[MONITOR])
        self.stale = 0 if loss < self.best_loss - self.phase.min_delta else self.stale + 1
        if loss < self.best_loss:
            self.best_loss = loss
            trained = [*backbone.trained, *backbone.trained_norms]
            self.best_weights = {
                name: tensor.detach().clone()
                for stage in trained
                for name, tensor in backbone.named_tensors_of(stage).items()
            }
        return self.stale >= self.phase.patience

    def _restore(self, trainer: Trainer, backbone: Backbone) -> None:
        """Put the phase's best weights back; their optimizer moments belong to later weights."""
        own = dict(backbone.net.named_parameters()) | dict(backbone.net.named_buffers())
        if all(torch.equal(own[name], best) for name, best in self.best_weights.items()):
            return
        with torch.no_grad():
            for name, best in self.best_weights.items():
                own[name].copy_(best)
                trainer.optimizers[0].state.pop(own[name], None)
        log.info("The best weights of phase %s were restored.", self.phase.name)

    def _check_frozen(self, backbone: Backbone) -> None:
        now = backbone.frozen_digest()
        digests = gathered(digest(dict(backbone.net.state_dict())))
        if len(set(digests)) > 1:
            raise RuntimeError(f"Ranks differ after phase {self.phase.name}: {digests}.")
        changed = [stage for stage, before in self.frozen.items() if now.get(stage) != before]
        if changed:
            raise RuntimeError(
                f"Frozen stages {changed} changed in phase {self.phase.name}; something outside"
                " Thaw wrote to them."
            )
        self.verified.append(self.phase.name)


def _backbone(module: LightningModule) -> Backbone:
    backbone = module.backbone
    assert isinstance(backbone, Backbone)
    return backbone


def stage_rates(schedule: Schedule, backbone: Backbone) -> dict[str, Sequence[float]]:
    """Learning rate of each stage in each phase, at its full height; 0 where it is frozen."""
    return {
        stage: [
            schedule.lr(phase, stage, backbone, elapsed=phase.warmup if phase.warmup else 0.0)
            for phase in schedule.phases
        ]
        for stage in backbone.stages
    }


def gathered(value: T) -> list[T]:
    """This value of every rank, in their order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
