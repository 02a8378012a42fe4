"""Nets that are built to be looked at: their tensors have shapes, and no numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FILLERS = (Tensor.uniform_, Tensor.normal_, Tensor.clamp_)


class WithoutMemory(TorchFunctionMode):
    """Inside `with`, nets of any size are built at once: their tensors are on the meta device.

    `torch.device("meta")` would also put there what builders compute with, which some can't do.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """As torch calls it."""
        if func in FILLERS and args[0].is_meta:
            return args[0]  # there is nothing to fill, and pretending takes time
        place = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **{**(kwargs or {}), **place})
