"""Nets and weights that come from files which nobody vouches for: bounded, checked, tried out."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from thaw import escape
from thaw.errors import UserError
from thaw.nets.backbone import Backbone

MAKERS = (torch.empty, torch.zeros, torch.ones, torch.randn, torch.rand, torch.full)
OVERHEAD = 5000  # elements that the smallest tensor counts for: a layer takes time, too


def fill(backbone: Backbone, weights: Path, file: Path) -> None:
    """Put the weights in, if they are the net's: names, shapes, types, and finite numbers."""
    try:
        state = load_file(weights)
    except Exception as error:  # of safetensors, and of the system
        reason = escape.printable(str(error)[:200]) or type(error).__name__
        raise UserError(f"{weights} is damaged ({reason}).") from error
    own = backbone.net.state_dict()
    wrong = [name for name in own.keys() ^ state.keys()]
    wrong += [n for n in own.keys() & state.keys() if _kind(own[n]) != _kind(state[n])]
    if wrong:
        raise UserError(
            f"{weights} doesn't fit the arch and the {backbone.head.weight.shape[0]} classes of"
            f" {file}: {len(wrong)} tensors are missing, unknown, or of another shape,"
            f" {ascii(min(wrong))[:100]} for one."
        )
    broken = [n for n, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise UserError(
            f"{weights} is damaged (values of {ascii(broken[0])[:100]} are no finite numbers)."
        )
    backbone.net.load_state_dict(state)


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype


@torch.inference_mode()
def try_out(backbone: Backbone, file: Path) -> None:
    """See that the net takes photos of the size that it is said to see, by a black one."""
    try:
        side = backbone.input_size
        good = bool(backbone.eval()(torch.zeros(1, 3, side, side)).isfinite().all())
        reason = "the net's answers are no finite numbers"
    except Exception as error:
        good, reason = False, f"the net can't see these photos: {str(error)[:200]}"
    if not good:
        reason = escape.printable(" ".join(reason.split()))
        raise UserError(f"{file} is damaged (transforms or weights: {reason}).")


class Bounded(TorchFunctionMode):
    """Inside `with`, nets can be built until their tensors have more than `most` elements."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count what `torch.empty` and the like are asked for, before they make it."""
        if func in MAKERS:
            shape = args[0] if len(args) == 1 and isinstance(args[0], Sequence) else args
            sizes = [size for size in shape if isinstance(size, int)]
            self.left -= max(math.prod(sizes), OVERHEAD)
            if self.left < 0:
                raise ValueError("the net is larger than its weights")
        return func(*args, **(kwargs or {}))
