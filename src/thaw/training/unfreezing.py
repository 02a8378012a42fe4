"""The callback that applies a schedule's phases, and proves that what was frozen didn't change.

A phase is applied as a pure function of the epoch: every stage is set every time, on fit start and
on each epoch start, so resuming can't forget one. All parameter groups exist from the first step;
freezing changes `requires_grad` and eval mode, never the optimizer (ULMFiT's gradual unfreezing,
Howard & Ruder 2018, arXiv 1801.06146, without its late parameter groups).
"""

import logging
import math
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from thaw.nets.backbone import Backbone, digest
from thaw.training.schedule import Phase, Schedule

log = logging.getLogger(__name__)
MONITOR = "val/loss"  # a proper score: on a small val split accuracies tie, losses don't
T = TypeVar("T")


class StagedUnfreezing(Callback):
    """Applies a schedule to `module.backbone`.

    Its state (when each phase began, digests of what is frozen, the phase's best weights) is in
    the checkpoint: where phases end on convergence, the epoch alone doesn't tell the phase.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.starts = [0]  # first epoch of each phase that has begun
        self.frozen: dict[str, str] = {}
        self.best_loss, self.stale = math.inf, 0
        self.best_weights: dict[str, Tensor] = {}
        self.moving: set[str] = set()  # stages that train in one phase or another
        self.applied: str | None = None  # the phase that this process trains
        self.verified: list[str] = []  # phases after which what they froze was found unchanged
        self.changed: dict[str, list[str]] = {}  # phase → stages that weren't

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
            "changed": dict(self.changed),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a checkpoint."""
        vars(self).update(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the phase; Lightning skips `on_train_epoch_start` where it resumes in an epoch."""
        backbone = _backbone(pl_module).train()
        self.schedule.apply(self.phase, backbone)
        parts = [self.schedule.trained(phase, backbone) for phase in self.schedule.phases]
        self.moving = {stage for stages, norms in parts for stage in (*stages, *norms)}
        trainer.should_stop = self.finished  # resumed between the last epoch and the test

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the phase, and remember what is frozen when it begins."""
        backbone = _backbone(pl_module)
        self.schedule.apply(self.phase, backbone.train())
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
                told = {f"lr/{s}": lr for s, lr in rates.items() if s in self.moving}
                logger.log_metrics(told, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, on val, whether the phase is over; the checkpoint is written after this."""
        backbone = _backbone(pl_module)
        phase, epoch = self.phase, trainer.current_epoch
        waits = phase.until is not None and not self.schedule.lengths
        converged = waits and self._converged(trainer, backbone)
        if not converged and epoch + 1 - self.starts[-1] < self.schedule.length(phase):
            return
        self._check_frozen(backbone)
        if converged:
            log.info("Phase %s converged: val loss %.4f is its best.", phase.name, self.best_loss)
        if waits and phase.restore_best:
            self._restore(trainer, backbone)
        self.starts.append(epoch + 1)
        trainer.should_stop |= self.finished

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See what was frozen where something else has ended the phase."""
        if not self.finished and self.applied is not None:
            self._check_frozen(_backbone(pl_module))

    def unchanged(self, backbone: Backbone) -> bool:
        """Whether all that was frozen is as it was: in each phase that began, and in the end."""
        began = [phase.name for phase in self.schedule.phases[: len(self.starts)]]
        phases = [self.schedule.trained(phase, backbone) for phase in self.schedule.phases]
        moved = {stage for stages, norms in phases for stage in (*stages, *norms)}
        for stage, before in self.frozen.items():
            if stage not in moved and digest(backbone.named_tensors_of(stage)) != before:
                self._tell("the end", [stage])
        return self.verified == began and not self.changed

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
        if dist.is_available() and dist.is_initialized():
            digests = gathered(digest(dict(backbone.net.state_dict())))
            if len(set(digests)) > 1:
                raise RuntimeError(f"Ranks differ after phase {self.phase.name}: {digests}.")
        changed = [stage for stage, before in self.frozen.items() if now.get(stage) != before]
        if changed:
            self._tell(self.phase.name, changed)
        else:
            self.verified.append(self.phase.name)

    def _tell(self, phase: str, stages: list[str]) -> None:
        """A run with what changed is whole, so it goes on; that it isn't what was asked for is
        said here, in `metrics.json` and in the result.
        """
        self.changed[phase] = [*self.changed.get(phase, []), *stages]
        log.error(
            "Frozen stages %s changed in phase %s: something outside Thaw wrote to them, such as"
            " one of callbacks.",
            *(stages, phase),
        )


def _backbone(module: LightningModule) -> Backbone:
    backbone = module.backbone
    assert isinstance(backbone, Backbone)
    return backbone


def gathered(value: T) -> list[T]:
    """This value of every rank, in their order."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
