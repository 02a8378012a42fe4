"""Cut a net in two: a frozen prefix, whose answer never changes, and a tail that trains.

The net's own forward is traced (torch.fx) with every member of a stage as one opaque step, so a
member keeps its code and its train or eval mode, and only what glues members together is recorded.
The cut lies behind the last step after which one tensor carries everything, before anything that
trains or is random. Both halves call the net's own modules; no weight is copied.
"""

import hashlib
import inspect
import logging
from collections.abc import Iterable
from functools import cached_property

from torch import Tensor, fx, nn

from thaw.nets.backbone import Backbone, digest
from thaw.nets.stages import is_in

log = logging.getLogger(__name__)


class Cut:
    """A place in a backbone's forward, for the stages that train now.

    Args:
        graph: the forward in eval mode.
        node: the name of the step that the prefix ends with; the input's is the empty prefix.
        tails: the rest of the forward in train and in eval mode, features `[B, …]` → logits.
    """

    def __init__(
        self, backbone: Backbone, graph: fx.Graph, node: str, tails: dict[bool, fx.GraphModule]
    ) -> None:
        self.backbone, self.graph, self.node, self.tails = backbone, graph, node, tails
        self.steps = [n.name for n in graph.nodes]

    @property
    def depth(self) -> int:
        """How many steps the prefix has; of two cuts of a net, the deeper has more."""
        return self.steps.index(self.node)

    def tail(self, features: Tensor) -> Tensor:
        """Features at the cut `[B, …]` → logits `[B, classes]`, in the backbone's mode."""
        return self.tails[self.backbone.training](features)

    def between(self, before: "Cut | None" = None) -> fx.GraphModule:
        """What leads to this cut: from images `[B, 3, H, W]`, or from the features at `before`."""
        return _part(self.backbone.net, self.graph, before and before.node, self.node)

    @cached_property
    def prefix_digest(self) -> str:
        """sha256 of the prefix, which is frozen: the net's kind, its steps, weights and buffers."""
        part = _part(self.backbone.net, self.graph, None, self.node)
        steps = f"{self.backbone.origin if self.depth else ''} {part.code}"
        tensors = digest(dict(part.state_dict()))
        return hashlib.sha256(f"{steps} {tensors}".encode()).hexdigest()


def cut(backbone: Backbone, stages: Iterable[str] | None = None) -> Cut | None:
    """The deepest cut before what trains; None, with the reason in the log, where there is none.

    Args:
        stages: those that will not be the same for two passes over a photo; those that train now
            if None.
    """
    moving = set(backbone.trained if stages is None else stages)
    modes = {module: module.training for module in backbone.modules()}
    try:
        graphs = {mode: _trace(backbone.train(mode)) for mode in (True, False)}
        found = {mode: _last_single(backbone, graphs[mode], moving) for mode in graphs}
        steps = {mode: [n.name for n in graphs[mode].nodes] for mode in graphs}
        until = {mode: steps[mode][: steps[mode].index(found[mode]) + 1] for mode in graphs}
        if until[True] != until[False]:
            raise RuntimeError("what is frozen runs otherwise in train mode")
        node = found[False]
        tails = {m: _part(backbone.net, graph, node, None) for m, graph in graphs.items()}
    except Exception as error:  # whatever control flow makes of fx's proxies
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.info("%s can't be cut, so nothing is cached: %s", backbone.origin["name"], reason)
        return None
    finally:
        for module, mode in modes.items():
            module.training = mode
    return Cut(backbone, graphs[False], node, tails)


class _Tracer(fx.Tracer):
    """Steps are the members of stages; only containers that stages share are looked into."""

    def __init__(self, members: Iterable[str]) -> None:
        super().__init__()
        self.members = set(members)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.members


def _trace(backbone: Backbone) -> fx.Graph:
    tracer = _Tracer(path for paths in backbone.stages.values() for path in paths)
    arguments = inspect.signature(backbone.net.forward).parameters.values()
    defaults = {a.name: a.default for a in arguments if a.default is not a.empty}
    graph = tracer.trace(backbone.net, concrete_args=defaults or None)
    for node in list(graph.nodes)[1:]:  # fx keeps the defaults as inputs, and asserts that they are
        if node.op == "placeholder":
            _erase(graph, node)
    return graph


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


def _last_single(backbone: Backbone, graph: fx.Graph, moving: set[str]) -> str:
    """Name of the last step, before anything that moves, whose result is all that is used later."""
    owners = {path: stage for stage, paths in backbone.stages.items() for path in paths}
    modules, parameters = dict(backbone.net.named_modules()), dict(backbone.net.named_parameters())
    order = {node: place for place, node in enumerate(graph.nodes)}
    last_use = {node: max((order[user] for user in node.users), default=-1) for node in graph.nodes}
    best, live = "", []
    for node in graph.nodes:
        if _moves(node, owners, modules, parameters, moving):
            break
        if node.op != "get_attr":  # parameters are there on either side
            live = [n for n in [*live, node] if last_use[n] > order[node]]
        if live == [node]:
            best = node.name
    return best


def _moves(
    node: fx.Node,
    owners: dict[str, str],
    modules: dict[str, nn.Module],
    parameters: dict[str, nn.Parameter],
    moving: set[str],
) -> bool:
    """Whether a step trains, is random in training, or ends the net."""
    target = str(node.target)
    if node.op == "call_module":
        module = modules[target]
        trains = any(p.requires_grad for p in module.parameters())
        held = any(True for _ in module.state_dict())
        return trains or (owners[target] in moving and (held or _is_random(module)))
    if node.op == "get_attr":
        owner = next((s for path, s in owners.items() if is_in(target, path)), None)
        return owner in moving or (target in parameters and parameters[target].requires_grad)
    name = getattr(node.target, "__name__", target)
    return node.op == "output" or "drop" in name


def _is_random(module: nn.Module) -> bool:
    """Whether it holds dropout or stochastic depth, which are told by their names: each library
    has classes of its own (Dropout2d, DropPath, DropBlock2d, StochasticDepth, PatchDropout).
    """
    names = (type(m).__name__.lower() for m in module.modules())
    return any("drop" in name or "stochastic" in name for name in names)


def _part(net: nn.Module, graph: fx.Graph, start: str | None, stop: str | None) -> fx.GraphModule:
    """The steps after `start` (from the input if None) up to `stop` (to the output if None)."""
    part, copies = fx.Graph(), {}
    nodes = list(graph.nodes)
    names = [node.name for node in nodes]
    first = names.index(start) if start else 0
    last = names.index(stop) if stop else len(nodes) - 1
    copies[nodes[first]] = part.placeholder("x")
    for place, node in enumerate(nodes[: last + 1]):
        if node.op == "get_attr" or place > first:
            copies[node] = part.node_copy(node, copies.__getitem__)
    if stop:
        part.output(copies[nodes[last]])
    part.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return fx.GraphModule(net, part)
