"""Cut a net's module tree into its head and the stages before it.

Derived from the tree, not from a table per arch: it holds for every classifier of torchvision, and
for timm's.
"""

from collections.abc import Iterator

from torch import nn

from thaw.errors import UserError

# Fewer stages than this leave nothing to thaw step by step, so larger modules are opened.
MIN_STAGES_BEFORE_HEAD = 4


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
    owners = {n: [s for s, ps in stages.items() if any(is_in(n, p) for p in ps)] for n in names}
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


def is_in(name: str, path: str) -> bool:
    """Whether a parameter or module of this name lies at or below a path."""
    return name == path or name.startswith(path + ".")
