"""TensorBoard's GRAPHS tab: the net as its stages, one after another, with their layers inside."""

from typing import TYPE_CHECKING

from thaw.nets.backbone import Backbone

if TYPE_CHECKING:
    from tensorboard.compat.proto.graph_pb2 import GraphDef  # type: ignore[attr-defined]


def graph(backbone: Backbone) -> "GraphDef":
    """A node a layer that has parameters of its own, in a scope for its stage.

    Made of the module tree: tracing the net would take seconds, and show its arithmetic.
    """
    from tensorboard.compat.proto.graph_pb2 import GraphDef  # type: ignore[attr-defined]
    from tensorboard.compat.proto.versions_pb2 import VersionDef  # type: ignore[attr-defined]

    made = GraphDef(versions=VersionDef(producer=22))
    made.node.add(name="photos", op="Input")
    before = "photos"
    names = {id(module): name for name, module in backbone.net.named_modules()}
    for stage in backbone.stages:
        for module in backbone.modules_of(stage):
            own = [p for p in module.parameters(recurse=False)]
            if not own:
                continue
            inner = names[id(module)].removeprefix(f"{stage}.").replace(".", "/") or "layer"
            node = made.node.add(name=f"{stage}/{inner}", op=type(module).__name__, input=[before])
            node.attr["weights"].s = str([tuple(p.shape) for p in own]).encode()
            node.attr["parameters"].i = sum(p.numel() for p in own)
            before = node.name
    made.node.add(name="logits", op="Output", input=[before])
    return made
