"""A pretrained net as Thaw sees it: its transforms, its head, and one ordered partition of stages.

Freezing, learning rates, logs, digests and tests all read this one partition, so they can't
disagree. The idea of an ordered and complete partition is open_clip's `layer_groups`.
"""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification

from thaw.errors import UserError
from thaw.nets.ensemble import Ensemble
from thaw.nets.stages import find_head, is_in, partition

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.instancenorm._InstanceNorm,
)


class Backbone(nn.Module):
    """A classifier with its own transforms and ordered, complete, named stages (stem → … → head).

    Args:
        net: maps images `[B, 3, H, W]` to logits `[B, classes]`.
        transforms: what `net` was trained to see; PIL image → `[3, H, W]`.
        origin: plain values with which `thaw.nets.pretrained.build` makes this net again.
        meta: what is known of the weights: `accuracy` (ImageNet top-1, percent), `categories`,
            `licence`, `url`, `source`; None where unknown.
        pretrained: False for a net with random weights, which has nothing to preserve.

    Raises:
        UserError: the net doesn't end in a Linear or 1×1 Conv2d, or a parameter is in no stage.
    """

    def __init__(
        self,
        net: nn.Module,
        transforms: ImageClassification,
        origin: dict[str, Any],
        meta: dict[str, Any] | None = None,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        self.net = net
        self.transforms = transforms
        self.origin = origin
        self.meta = meta or {}
        self.pretrained = pretrained
        self.head_path = find_head(net)
        # stage → paths of its modules and parameters
        self.stages = net.stages if isinstance(net, Ensemble) else partition(net, self.head_path)
        self.trained: frozenset[str] = frozenset(self.stages)
        self.trained_norms: frozenset[str] = frozenset()
        self.batch_norm = "train"
        self.memory_format = torch.contiguous_format
        self._look_up()

    @property
    def input_size(self) -> int:
        """Side of the square the net sees, in pixels."""
        return self.transforms.crop_size[0]

    @property
    def head(self) -> nn.Linear | nn.Conv2d:
        """The last layer, which turns features into logits."""
        head = self.net.get_submodule(self.head_path)
        assert isinstance(head, nn.Linear | nn.Conv2d)
        return head

    @property
    def in_features(self) -> int:
        """Features (Linear) or channels (1×1 Conv2d) that the head reads."""
        return self.head.in_features if isinstance(self.head, nn.Linear) else self.head.in_channels

    @property
    def blocks(self) -> list[list[str]]:
        """The stages before the head, in a row for each net; of an ensemble there are several."""
        rows: dict[str, list[str]] = {}
        for stage in self.stages:
            if stage != "head":
                net = stage.partition(".")[0] if isinstance(self.net, Ensemble) else ""
                rows.setdefault(net, []).append(stage)
        return [*rows.values()]

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` → logits `[B, classes]`."""
        return self.net(images)

    def arrange(self, memory_format: torch.memory_format) -> None:
        """Keep weights in this order, and have images come in it; convolutions are fastest in
        `torch.channels_last`.
        """
        self.memory_format = memory_format
        self.to(memory_format=memory_format)

    def stage_outputs(self, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Logits of images `[B, 3, H, W]`, and what each stage's last module made."""
        outputs: dict[str, Any] = dict.fromkeys(self.stages)
        modules = dict(self.net.named_modules())
        hooks = [
            modules[path].register_forward_hook(
                lambda _, __, output, stage=stage: outputs.update({stage: output})
            )
            for stage, paths in self.stages.items()
            for path in paths
            if path in modules
        ]
        try:
            return self(images), outputs
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def reading(self) -> Iterator[list[Tensor]]:
        """Inside `with`, what the head reads is put into the list: features `[B, D]` a batch, their
        mean over places where it reads maps.
        """
        read: list[Tensor] = []

        def keep(head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            (x,) = inputs
            if isinstance(head, nn.Conv2d):
                x = x.flatten(2).mean(dim=2)
            read.append((x.flatten(1, -2).mean(dim=1) if x.ndim > 2 else x).float())

        hook = self.head.register_forward_pre_hook(keep)
        try:
            yield read
        finally:
            hook.remove()

    def reset_head(self, classes: int) -> None:
        """Put a fresh head for `classes` in place of the old one; the dropout before it stays."""
        old = self.head
        kwargs = {"device": old.weight.device, "dtype": old.weight.dtype}
        if isinstance(old, nn.Linear):
            head: nn.Module = nn.Linear(old.in_features, classes, old.bias is not None, **kwargs)
        else:
            bias = old.bias is not None
            head = nn.Conv2d(old.in_channels, classes, kernel_size=1, bias=bias, **kwargs)
        self.net.set_submodule(self.head_path, head)
        if hasattr(self.net, "num_classes"):  # timm and some torchvision nets keep a count
            self.net.num_classes = classes  # type: ignore[assignment]
        self._look_up()

    # --- what a stage holds -------------------------------------------------------------------

    def _look_up(self) -> None:
        """Find each stage's modules and tensors once: there are hundreds, asked for each epoch."""
        modules = dict(self.net.named_modules())
        kinds = {
            "parameters": [name for name, _ in self.net.named_parameters()],
            "buffers": [name for name, _ in self.net.named_buffers()],
        }
        self._held = {
            stage: [m for path in paths if path in modules for m in modules[path].modules()]
            for stage, paths in self.stages.items()
        }
        held = {id(module) for found in self._held.values() for module in found}
        self._shared = [module for module in modules.values() if id(module) not in held]
        self._places = {
            (stage, kind): {
                name: (modules[name.rpartition(".")[0]], name.rpartition(".")[2])
                for name in names
                if any(is_in(name, path) for path in paths)
            }
            for stage, paths in self.stages.items()
            for kind, names in kinds.items()
        }

    def named_parameters_of(self, stage: str) -> dict[str, nn.Parameter]:
        """Parameters of a stage by their names in `net`."""
        places = self._places[stage, "parameters"].items()
        return {name: module._parameters[own] for name, (module, own) in places}  # type: ignore[misc]

    def named_tensors_of(self, stage: str) -> dict[str, Tensor]:
        """Parameters and buffers of a stage by their names in `net`."""
        places = self._places[stage, "buffers"].items()
        buffers = {name: module._buffers[own] for name, (module, own) in places}
        return {**self.named_parameters_of(stage), **buffers}  # type: ignore[dict-item]

    def modules_of(self, stage: str) -> list[nn.Module]:
        """Modules of a stage; those that it holds whole, with everything below."""
        return self._held[stage]

    # --- freezing -----------------------------------------------------------------------------

    def thaw(
        self, stages: Collection[str], norms: Collection[str] = (), batch_norm: str = "eval"
    ) -> None:
        """Train exactly these stages. Every stage is set each time, so calls don't add up.

        A frozen stage gets no gradient and stays in eval mode: no update, no BatchNorm drift, no
        dropout. Of the stages in `norms` only the affine parameters of norm layers train.

        Args:
            batch_norm: in thawed stages, `eval` keeps BatchNorm's pretrained statistics (its affine
                parameters still train), `train` lets them move.
        """
        self.trained, self.trained_norms = frozenset(stages), frozenset(norms) - frozenset(stages)
        self.batch_norm = batch_norm
        for stage in self.stages:
            for parameter in self.named_parameters_of(stage).values():
                self._set_grad(parameter, stage in self.trained)
            if stage in self.trained_norms:
                for module in self.modules_of(stage):
                    if isinstance(module, NORMS):
                        for parameter in module.parameters(recurse=False):
                            self._set_grad(parameter, True)
        self.train(self.training)

    @staticmethod
    def _set_grad(parameter: nn.Parameter, on: bool) -> None:
        parameter.requires_grad_(on)
        if not on:
            parameter.grad = None  # a left-over gradient would still be applied by the optimizer

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but frozen stages stay in eval mode whoever calls it."""
        modes = dict.fromkeys(self.modules(), mode)
        if mode:
            for stage in self.stages:
                for module in self.modules_of(stage):
                    fixed_bn = self.batch_norm == "eval" and isinstance(
                        module, nn.modules.batchnorm._BatchNorm
                    )
                    modes[module] = stage in self.trained and not fixed_bn
            # Containers that stages share may hold functional dropout before the head (timm's do).
            modes |= dict.fromkeys(self._shared, "head" in self.trained)
        for module, training in modes.items():
            if module.training != training:  # to set an attribute of a module takes its time
                module.training = training
        return self

    def frozen_digest(self) -> dict[str, str]:
        """Digest of all that must not change now (parameters and buffers), stage by stage."""
        digests = {}
        for stage in self.stages:
            if stage in self.trained:
                continue
            tensors = self.named_tensors_of(stage)
            digests[stage] = digest({n: t for n, t in tensors.items() if not t.requires_grad})
        return digests

    def num_parameters(self, stage: str) -> int:
        """Parameters in a stage."""
        return sum(p.numel() for p in self.named_parameters_of(stage).values())


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes, types and bytes, in the order given."""
    sha = hashlib.sha256()
    for name, tensor in tensors.items():
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        sha.update(data.numpy().data)
    return sha.hexdigest()


def check_order(backbone: Backbone) -> None:
    """Run an empty photo through the net, and see that stages run in the order of the module tree.

    A small photo, where the net takes it: a large one has a net run for a tenth of a second.

    Raises:
        UserError: they don't, so "the last block" wouldn't be the last.
    """
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, stage=stage: ran.append(stage))
        for stage in backbone.stages
        for module in backbone.modules_of(stage)
        if any(True for _ in module.parameters(recurse=False))
    ]
    training = backbone.training
    backbone.eval()
    with torch.inference_mode():
        try:
            backbone(torch.zeros(1, 3, 64, 64))
        except Exception:  # a net whose positions or windows are of its own size
            ran.clear()
            backbone(torch.zeros(1, 3, backbone.input_size, backbone.input_size))
    backbone.train(training)
    for hook in hooks:
        hook.remove()
    order = list(dict.fromkeys(ran))
    if order != [stage for stage in backbone.stages if stage in order] or order[-1] != "head":
        raise UserError(
            f"Expected a net that runs its blocks one after another, but {backbone.origin['name']}"
            f" runs them as {order}; choose another arch.name."
        )
