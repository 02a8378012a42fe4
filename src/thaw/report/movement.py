"""What trained, stage by stage: at which rates, that the rest stood still, how far each moved."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from thaw.nets.backbone import Backbone
from thaw.training.schedule import stage_rates
from thaw.training.unfreezing import StagedUnfreezing


class Movement(Callback):
    """Remembers the pretrained weights of what thaws, and says how far they have come since.

    It keeps a copy of the parameters and statistics of these stages. Those that never train have no
    distance: the digests of `StagedUnfreezing` say that they are the same bit for bit.

    Args:
        backbone: with the weights that training begins with, those of a new head too.
    """

    def __init__(self, backbone: Backbone, staged: StagedUnfreezing) -> None:
        self.backbone, self.staged = backbone, staged
        schedule = staged.schedule
        parts = [schedule.trained(phase, backbone) for phase in schedule.phases]
        thawed = {stage for stages, norms in parts for stage in (*stages, *norms)}
        self.began = {
            stage: {
                name: tensor.detach().clone()
                for name, tensor in backbone.named_tensors_of(stage).items()
            }
            for stage in backbone.stages
            if stage in thawed and backbone.pretrained
        }
        self.phases: list[dict[str, Tensor]] = []  # that ended in this process, for TensorBoard
        self.ended_at: list[int] = []  # after so many steps
        self.starts = 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on is in a later phase."""
        self.starts = len(self.staged.starts)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At the end of a phase, see how far each parameter has come."""
        if len(self.staged.starts) > self.starts:
            self.starts = len(self.staged.starts)
            self.phases.append(self.of_parameters())
            self.ended_at.append(trainer.global_step)

    @torch.no_grad()
    def of_parameters(self) -> dict[str, Tensor]:
        """Stage → relative distance |w - w0| / |w0| of each of its parameters, `[parameters]`."""
        return {
            stage: torch.stack(
                [_apart([w], [before[name]]) for name, w in now.items() if before[name].any()]
            )
            for stage, before in self.began.items()
            if (now := self.backbone.named_parameters_of(stage))
        }

    @torch.no_grad()
    def of_stages(self) -> dict[str, float]:
        """Stage → relative distance of all its parameters together."""
        return {
            stage: float(_apart(list(now.values()), [before[name] for name in now]))
            for stage, before in self.began.items()
            if (now := self.backbone.named_parameters_of(stage))
        }

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Inside `with`, all but the head is as it was before training."""
        parts = {stage: kept for stage, kept in self.began.items() if stage != "head"}
        now = {s: {n: t.clone() for n, t in self._tensors(s).items()} for s in parts}
        self._put(parts)
        try:
            yield
        finally:
            self._put(now)

    def _tensors(self, stage: str) -> dict[str, Tensor]:
        return self.backbone.named_tensors_of(stage)

    @torch.no_grad()
    def _put(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        for stage, tensors in parts.items():
            for name, tensor in self._tensors(stage).items():
                tensor.copy_(tensors[name])

    def facts(self) -> dict[str, Any]:
        """The contents of `stages.json`; distances are those of the net as it is now."""
        staged, backbone, schedule = self.staged, self.backbone, self.staged.schedule
        moved, rates = self.of_stages(), stage_rates(schedule, backbone)
        return {
            "pretrained": backbone.pretrained,
            "unchanged": staged.unchanged(backbone),
            "phases": [
                {
                    "name": phase.name,
                    "epochs": phase.epochs,
                    "until": phase.until,
                    "solve": phase.solve,
                    "verified": phase.name in staged.verified,
                    "changed": staged.changed.get(phase.name, []),
                }
                for phase in schedule.phases
            ],
            "stages": [
                {
                    "name": stage,
                    "parameters": backbone.num_parameters(stage),
                    "lr": list(rates[stage]),
                    "moved": None if stage == "head" else moved.get(stage),
                }
                for stage in backbone.stages
            ],
        }


def _apart(now: list[Tensor], before: list[Tensor]) -> Tensor:
    """Norm of the difference over the norm at the start; 0 where nothing moved."""
    old = [tensor.to(other.device) for tensor, other in zip(before, now, strict=True)]
    far = sum(((a - b).square().sum() for a, b in zip(now, old, strict=True)), torch.tensor(0.0))
    size = sum((b.square().sum() for b in old), torch.tensor(0.0))
    return (far.sqrt() / size.sqrt().clamp(min=1e-12)).float().cpu()
