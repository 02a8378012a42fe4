"""A frozen part of a net, faster on a CPU: convolution, BatchNorm and activation in one step.

A frozen BatchNorm is a fixed scale and shift, so it goes into the weights of the convolution before
it (Jacob et al. 2018, arXiv:1712.05877, section 3.2; `torch.nn.utils.fusion`). oneDNN applies the
activation while a result is still at hand, and gets the weights once in the order it likes best.
What comes out differs from the net's own forward in the last bits.
"""

import logging
from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

log = logging.getLogger(__name__)
ACTIVATIONS: dict[type, tuple[str, list[float]]] = {  # oneDNN's names for them
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.SiLU: ("swish", []),
}
NOTHING = (nn.Identity, nn.modules.dropout._DropoutNd)  # in eval mode


def fused(part: nn.Module, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """What `part` does in eval mode, for images `[B, C, H, W]` of one size on the CPU.

    The part and its weights stay as they are. Where nothing can be fused, it comes back itself.

    Args:
        dtype: of the convolutions, as autocast would have them. In bfloat16 the scale of BatchNorm
            is in the weights before they are rounded, and its shift isn't rounded at all.
    """
    if not torch.backends.mkldnn.is_available():
        return part
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return part
    try:
        graph = Layers().trace(part)
    except Exception as error:  # whatever control flow makes of fx's proxies
        log.debug("not fused: %s", error)
        return part
    named = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
    found: dict[str, Any] = {name: attrgetter(name)(part) for name in named}
    calls = Counter(named)
    for node in list(graph.nodes):
        if node.op == "call_module" and is_plain(found[node.target]) and calls[node.target] == 1:
            found[node.target] = _fuse(graph, node, found, dtype)
    some = any(isinstance(layer, FusedConv) for layer in found.values())
    return fx.GraphModule(found, graph) if some else part


class Layers(fx.Tracer):
    """Steps are layers: what has no modules inside, and what torch makes of several."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        plain = isinstance(m, _BatchNorm) or not any(True for _ in m.children())
        return plain or super().is_leaf_module(m, module_qualified_name)


def is_same(layer: nn.Module) -> bool:
    """Whether it is timm's convolution that pads as TensorFlow does: until the output is as large
    as the input divided by the stride, and what is odd of it behind.
    """
    return type(layer).__name__ == "Conv2dSame"


def same_padding(conv: nn.Conv2d, shape: torch.Size) -> list[int]:
    """Rows and columns that such a convolution adds to maps of this shape `[B, C, H, W]`."""
    sides = zip(shape[2:], conv.stride, conv.kernel_size, strict=True)
    return [max((-(-size // step) - 1) * step + kernel - size, 0) for size, step, kernel in sides]


def is_plain(layer: nn.Module) -> bool:
    """Whether it is a convolution whose arguments say all that it does."""
    return (
        (type(layer) is nn.Conv2d or is_same(layer))
        and isinstance(layer.padding, tuple)
        and layer.padding_mode == "zeros"
        and not (is_same(layer) and layer.dilation != (1, 1))
    )


def _fuse(graph: fx.Graph, node: fx.Node, found: dict[str, Any], dtype: torch.dtype) -> "FusedConv":
    """Take out the steps that only this convolution feeds, as long as they can be done with it."""
    conv, activation = found[str(node.target)], None
    while activation is None and len(node.users) == 1:
        user = next(iter(node.users))
        layer = found.get(str(user.target)) if user.op == "call_module" else None
        rest: list[nn.Module] = []
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            conv = fuse_conv_bn_eval(conv, layer)
            rest = [m for m in layer.children() if not isinstance(m, NOTHING)]  # timm's have some
            if len(rest) == 1 and type(rest[0]) in ACTIVATIONS:
                activation = rest.pop()
        elif type(layer) in ACTIVATIONS:
            activation = layer
        elif not isinstance(layer, NOTHING):
            break
        if rest:
            user.target = f"{user.target}_rest"  # under its own name it may run elsewhere too
            found[user.target] = nn.Sequential(*rest)
            break
        user.replace_all_uses_with(node)
        graph.erase_node(user)
    return FusedConv(conv, activation, dtype)


class FusedConv(nn.Module):
    """A convolution and the activation after it, as oneDNN's one step, for images of one size."""

    def __init__(
        self, conv: nn.Conv2d, activation: nn.Module | None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.conv, self.dtype = conv, dtype
        self.after = ACTIVATIONS[type(activation)] if activation else ("none", [])
        self.packed: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` → maps."""
        if self.packed is None:
            self._pack(images.shape)
        run = torch.ops.mkldnn._convolution_pointwise
        return run(images.to(self.dtype), self.packed, self.conv.bias, *self.how, *self.after, "")

    def _pack(self, shape: torch.Size) -> None:
        conv, weight, padding = self.conv, self.conv.weight.detach(), [*self.conv.padding]
        if is_same(conv):
            for axis, more in enumerate(same_padding(conv, shape)):
                padding[axis] = -(-more // 2)
                if more % 2:  # one more behind than before: in its place, a zero before the weights
                    weight = F.pad(weight, (0, 0, 1, 0) if axis == 0 else (1, 0))
        self.how = (padding, [*conv.stride], [*conv.dilation], conv.groups)
        pack = torch.ops.mkldnn._reorder_convolution_weight
        self.packed = pack(weight.to(self.dtype), *self.how, [*shape])
