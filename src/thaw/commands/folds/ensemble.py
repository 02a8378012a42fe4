"""The folds' nets as one: where they share all but a linear head, one of their mean weights says
the mean of their logits.

So it takes the room and the time of one net. Thawed nets share nothing: their ensemble would be k
times as large and slow, and the mean of their weights is no mean of their answers.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from thaw.errors import UserError
from thaw.model import bundle
from thaw.nets.backbone import Backbone
from thaw.training.schedule import Schedule

INSTEAD = "refit=all trains one net on all photos."


def check(schedule: Schedule, backbone: Backbone) -> None:
    """Raise UserError unless folds trained so have a linear head each, and share all else."""
    heads = all(schedule.trained(phase, backbone) == (["head"], []) for phase in schedule.phases)
    if not heads or not isinstance(backbone.head, nn.Linear):
        raise UserError(
            "Expected folds that train a linear head alone (finetune=head_only or probe) for"
            f" refit=ensemble, since only those make one net together; {INSTEAD}"
        )


@torch.no_grad()
def put_mean_head(folds: Sequence[Path], backbone: Backbone) -> None:
    """Give a net, with a head for these classes, the mean of the heads of folds.

    Raises:
        UserError: a fold's net differs from it elsewhere, or its bundle is damaged.
    """
    own = backbone.net.state_dict()
    head = [name for name in own if name.startswith(f"{backbone.head_path}.")]
    heads = []
    for fold in folds:
        state = bundle.load(fold).backbone.net.state_dict()
        if any(not torch.equal(state[n], own[n].cpu()) for n in own if n not in head):
            raise UserError(
                f"The net of {fold} isn't the one that refit=ensemble begins with but for the head;"
                f" {INSTEAD}"
            )
        heads.append({name: state[name] for name in head})
    for name in head:
        own[name].copy_(torch.stack([each[name] for each in heads]).mean(dim=0))
