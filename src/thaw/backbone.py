"""A pretrained net as Thaw sees it: its transforms, its head, and one ordered partition of stages.

Freezing, learning rates, logs, digests and tests all read this one partition, so they can't
disagree. The idea of an ordered and complete partition is open_clip's `layer_groups`.
"""

import hashlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification

from thaw.errors import UserError

# Fewer stages than this leave nothing to thaw step by step, so larger modules are opened.
MIN_STAGES_BEFORE_HEAD = 4
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
        origin: plain values with which `thaw.pretrained.build` makes this net again.
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
        self.stages = partition(net, self.head_path)  # stage → paths of its modules and parameters
        self.trained: frozenset[str] = frozenset(self.stages)
        self.trained_norms: frozenset[str] = frozenset()
        self.batch_norm = "train"

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

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` → logits `[B, classes]`."""
        return self.net(images)

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

    # --- what a stage holds -------------------------------------------------------------------

    def named_parameters_of(self, stage: str) -> dict[str, nn.Parameter]:
        """Parameters of a stage by their names in `net`."""
        return self._tensors_of(stage, dict(self.net.named_parameters()))

    def named_tensors_of(self, stage: str) -> dict[str, Tensor]:
        """Parameters and buffers of a stage by their names in `net`."""
        return self._tensors_of(
            stage, dict(self.net.named_parameters()) | dict(self.net.named_buffers())
        )

    def modules_of(self, stage: str) -> Iterator[nn.Module]:
        """Modules of a stage; those that it holds whole, with everything below."""
        paths = dict(self.net.named_modules())
        for path in self.stages[stage]:
            if path in paths:
                yield from paths[path].modules()

    def _tensors_of(self, stage: str, tensors: dict[str, Any]) -> dict[str, Any]:
        paths = self.stages[stage]
        return {n: t for n, t in tensors.items() if any(_is_in(n, path) for path in paths)}

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

    def train(self, mode: bool = True) -> "Backbone":
        """As `nn.Module.train`, but frozen stages stay in eval mode whoever calls it."""
        super().train(mode)
        if not mode:
            return self
        for stage in self.stages:
            for module in self.modules_of(stage):
                frozen = stage not in self.trained
                fixed_bn = self.batch_norm == "eval" and isinstance(
                    module, nn.modules.batchnorm._BatchNorm
                )
                module.training = not (frozen or fixed_bn)
        # Containers that stages share may hold functional dropout before the head (timm's do).
        held = {id(module) for stage in self.stages for module in self.modules_of(stage)}
        for module in self.net.modules():
            if id(module) not in held:
                module.training = "head" in self.trained
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


def find_head(net: nn.Module) -> str:
    """Path of the layer that makes the logits: the last Linear or Conv2d of the module tree.

    Raises:
        UserError: there is none, or it is a Conv2d that isn't 1×1.
    """
    classifier = getattr(net, "get_classifier", lambda: None)()  # timm's word on it
    layers = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    path, head = layers[-1] if layers else ("", None)
    several = classifier is not None and classifier is not head
    if several or isinstance(getattr(net, "aux_head", None), nn.Linear):
        raise UserError(
            f"Expected a net with one head at its end, but {type(net).__name__} has others or none;"
            " choose another arch.name."
        )
    if not path or (isinstance(head, nn.Conv2d) and head.kernel_size != (1, 1)):
        raise UserError(
            f"Expected a net that ends in a Linear or a 1×1 Conv2d, but {type(net).__name__} ends"
            f" in {head}; choose another arch.name."
        )
    return path


def partition(net: nn.Module, head_path: str) -> dict[str, list[str]]:
    """Cut the module tree into stages: name → paths of modules and parameters, in forward order.

    The containers above the head are opened; then the largest module is opened until at least four
    stages precede the head. A Linear, a Conv2d or a block begins a stage; norm layers join the
    stage before them and layers without parameters the stage after. Parameters that belong to an
    opened container itself (a class token, say) are the stem's.

    Raises:
        UserError: a parameter or buffer is in no stage or in two.
    """
    opened = {""} | {head_path.rsplit(".", i)[0] for i in range(1, head_path.count(".") + 1)}
    stages = _group(net, opened, head_path)
    while len(stages) <= MIN_STAGES_BEFORE_HEAD:
        closed = [
            (sum(p.numel() for p in net.get_submodule(path).parameters()), path)
            for name, paths in stages.items()
            for path in paths
            if name != "head" and any(True for _ in net.get_submodule(path).children())
        ]
        if not closed:
            break
        opened.add(max(closed, key=lambda size_path: size_path[0])[1])
        stages = _group(net, opened, head_path)

    first = next(iter(stages))
    for path in sorted(opened):
        module = net.get_submodule(path)
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        stages[first] += [f"{path}.{name}".lstrip(".") for name, _ in own]
    if first != "head":
        # A block that is itself called so keeps its name with a mark: timm has some.
        taken = {"stem": "stem_", "head/": "head_"}
        stages = {
            "stem" if name == first else taken.get(name, name): paths
            for name, paths in stages.items()
        }

    names = [n for n, _ in [*net.named_parameters(), *net.named_buffers()]]
    owners = {n: [s for s, ps in stages.items() if any(_is_in(n, p) for p in ps)] for n in names}
    wrong = {name: found for name, found in owners.items() if len(found) != 1}
    if wrong:
        raise UserError(
            f"Stages must hold every parameter of {type(net).__name__} once, but these are in none"
            f" or in several: {wrong}; this net can't be trained in stages."
        )
    return stages


def _group(net: nn.Module, opened: set[str], head_path: str) -> dict[str, list[str]]:
    """Stages that result from opening these modules."""
    stages: dict[str, list[str]] = {}
    waiting: list[str] = []  # modules without parameters, until the next stage begins
    for path, module in _children(net, opened):
        parameters = list(module.parameters())
        only_scales = all(p.ndim <= 1 for p in parameters)  # norm layers, layer scale
        if path == head_path:
            stages["head"] = [*waiting, path]
            waiting = []
        elif path == "head":
            stages["head/"] = [*waiting, path]  # a block of this name, which isn't the head
            waiting = []
        elif not parameters:
            waiting.append(path)
        elif only_scales and stages and "head" not in stages:
            stages[next(reversed(stages))] += [*waiting, path]
            waiting = []
        else:
            stages[path] = [*waiting, path]
            waiting = []
    stages.setdefault("head", []).extend(waiting)
    return stages


def _children(
    net: nn.Module, opened: set[str], prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    for name, child in net.get_submodule(prefix).named_children():
        path = f"{prefix}.{name}".lstrip(".")
        if path in opened:
            yield from _children(net, opened, path)
        else:
            yield path, child


def check_order(backbone: Backbone) -> None:
    """Run an empty photo through the net, and see that stages run in the order of the module tree.

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
    size = backbone.input_size
    with torch.inference_mode():
        backbone.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    order = list(dict.fromkeys(ran))
    if order != [stage for stage in backbone.stages if stage in order] or order[-1] != "head":
        raise UserError(
            f"Expected a net that runs its blocks one after another, but {backbone.origin['name']}"
            f" runs them as {order}; choose another arch.name."
        )


def _is_in(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")
