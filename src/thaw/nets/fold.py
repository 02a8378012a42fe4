"""A part of a net that trains, faster on a CPU.

A BatchNorm whose statistics stay as they are is a scale and a shift, so it goes into the weights of
the convolution before it, anew in each step, and gradients go through to both (as in
`thaw.nets.fuse`, which does it once for frozen parts). That spares reading and writing every map
twice.

In bfloat16, oneDNN has no fast code for some gradients of depthwise convolutions: those of maps at
a stride above 1 and those of kernels above 3×3 take 4 to 50 times as long as in float32. They are
computed in float32 here.
"""

import logging
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from thaw.nets.fuse import Layers, is_plain, is_same, same_padding

log = logging.getLogger(__name__)


def folded(part: nn.Module) -> Callable[[Tensor], Tensor]:
    """What `part` does in the modes that its modules are in now, with gradients, for a CPU.

    It computes with the part's own weights, whatever they are by then. Where nothing can be folded,
    it is the part's own forward.
    """
    if not any(is_plain(module) for module in part.modules()):
        return part.forward
    try:
        graph = Layers().trace(part)
    except Exception as error:  # whatever control flow makes of fx's proxies
        log.debug("not folded: %s", error)
        return part.forward
    names = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
    found: dict[str, Any] = {name: attrgetter(name)(part) for name in names}
    for node in list(graph.nodes):
        conv = found.get(str(node.target)) if node.op == "call_module" else None
        if conv is None or not is_plain(conv):
            continue
        norm = _fixed_norm(node, found)
        if norm is not None or conv.groups > 1:
            node.target = f"{node.name}_folded"
            found[node.target] = FoldedConv(conv, norm)
        if norm is not None:
            _take_out(graph, node, norm, found)
    some = any(isinstance(layer, FoldedConv) for layer in found.values())
    return fx.GraphModule(found, graph).forward if some else part.forward


def _fixed_norm(node: fx.Node, found: dict[str, Any]) -> _BatchNorm | None:
    """The BatchNorm that alone reads a step, if its statistics stay as they are."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    norm = found.get(str(user.target)) if user and user.op == "call_module" else None
    fixed = isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None
    return norm if fixed else None


def _take_out(graph: fx.Graph, node: fx.Node, norm: _BatchNorm, found: dict[str, Any]) -> None:
    """Leave of a BatchNorm's step what timm's do after it: dropout, an activation."""
    user = next(iter(node.users))
    rest = [layer for layer in norm.children() if not isinstance(layer, nn.Identity)]
    if rest:
        user.target = f"{user.name}_rest"
        found[user.target] = nn.Sequential(*rest)
    else:
        user.replace_all_uses_with(node)
        graph.erase_node(user)


class FoldedConv(nn.Module):
    """A convolution, and the BatchNorm after it if there is one, whose statistics are fixed."""

    def __init__(self, conv: nn.Conv2d, norm: _BatchNorm | None) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` → maps."""
        conv, norm, weight, bias = self.conv, self.norm, self.conv.weight, self.conv.bias
        if norm is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = torch.rsqrt(norm.running_var + norm.eps)
            scale = scale if norm.weight is None else scale * norm.weight
            bias = (0 if bias is None else bias) - norm.running_mean
            bias = bias * scale if norm.bias is None else torch.addcmul(norm.bias, bias, scale)
            weight = weight * scale.reshape(-1, 1, 1, 1)
        padding: Any = conv.padding
        if is_same(conv):
            rows, columns = same_padding(conv, maps.shape)
            sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
            maps, padding = F.pad(maps, sides), (0, 0)
        how = (conv.stride, padding, conv.dilation, conv.groups)
        depthwise = conv.groups == conv.in_channels and conv.groups > 1
        if depthwise and torch.is_autocast_enabled("cpu"):
            kind = torch.get_autocast_dtype("cpu")
            biased = None if bias is None else bias.to(kind)
            return _Depthwise.apply(maps.to(kind), weight.to(kind), biased, *how)
        return F.conv2d(maps, weight, bias, *how)


class _Depthwise(torch.autograd.Function):
    """`conv2d` in a type of 16 bits, whose slow gradients are computed in float32."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.how = how
        return F.conv2d(maps, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (maps, weight), (gradient,) = ctx.saved_tensors, gradients
        stride, padding, dilation = map(list, ctx.how[:3])
        large = max(weight.shape[2:]) > 3
        slow = (max(stride) > 1, large, large)  # the bias's comes with the weight's
        found: list[Tensor | None] = [None, None, None]
        for kind in (gradient.dtype, torch.float32):
            here = [
                wanted and late == (kind is torch.float32)
                for wanted, late in zip(ctx.needs_input_grad[:3], slow, strict=True)
            ]
            if any(here):
                # Maps are read for the weight's gradient only; else their size is all that counts.
                seen = maps.to(kind) if any(here[1:]) else torch.empty_like(maps, dtype=kind)
                made = torch.ops.aten.convolution_backward(
                    *(gradient.to(kind), seen, weight.to(kind), [weight.shape[0]]),
                    *(stride, padding, dilation, False, [0, 0], ctx.how[3], here),
                )
                for place in (0, 1, 2):
                    if here[place]:
                        found[place] = made[place].to(gradient.dtype)
        return *found, None, None, None, None
