"""The folds' nets as one, which says the mean of their logits.

Where they share all but a linear head, one head of their mean weights says it, so that takes the
room and the time of one net. Thawed nets share nothing: all of them leave (`thaw.nets.ensemble`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from thaw.errors import UserError
from thaw.model import bundle
from thaw.nets.backbone import Backbone
from thaw.nets.ensemble import Ensemble
from thaw.training.schedule import Schedule

INSTEAD = "refit=all trains one net on all photos."
CLOSE = 1e-3  # logits that near are the same, whatever the last bits


@torch.inference_mode()
def check(backbone: Backbone) -> None:
    """Raise UserError unless what leaves a net is what a linear head says."""
    side = backbone.input_size
    photo = torch.linspace(-2, 2, 3 * side * side).view(1, 3, side, side)
    linear = isinstance(backbone.head, nn.Linear)
    if linear:
        backbone.eval()
        with backbone.reading() as read:
            logits = backbone(photo)
        linear = torch.allclose(backbone.head(read[-1]), logits, CLOSE, CLOSE)
    if not linear:
        raise UserError(
            f"Expected a net that ends in a linear head for refit=ensemble, but"
            f" {backbone.origin['name']} does more with what its head says, so the heads of its"
            f" folds don't make one; {INSTEAD}"
        )


def of(
    folds: Sequence[Path], schedule: Schedule, backbone: Backbone
) -> tuple[Backbone, Callable[[Backbone, Sequence[str]], None]]:
    """The net that the folds become, and what gives it its head after that was made anew.

    Args:
        schedule: by which the folds were trained.
        backbone: the net that they began as.
    """
    if schedule.trains_heads(backbone):
        return backbone, lambda net, _: put_mean_head(folds, net)
    whole = joined(folds, backbone)
    state = whole.head.state_dict()
    return whole, lambda net, _: net.head.load_state_dict(state) and None


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


def joined(folds: Sequence[Path], like: Backbone) -> Backbone:
    """The nets of folds side by side.

    Args:
        like: the net that they began as.

    Raises:
        UserError: a bundle is damaged.
    """
    net = Ensemble([bundle.load(fold).backbone.net for fold in folds])
    name = f"{len(folds)} × {like.origin['name']}"
    kwargs = {"nets": len(folds)}
    origin = {"source": "ensemble", "name": name, "kwargs": kwargs, "of": like.origin}
    return Backbone(net, like.transforms, origin, like.meta)
