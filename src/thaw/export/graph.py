"""A trained model as one graph: photos in, probabilities and familiarity out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.nn import functional as F

from thaw.data.pixels.resize import ResizeAndCrop
from thaw.errors import UserError
from thaw.model.bundle import Model
from thaw.model.familiar import store
from thaw.model.familiar.store import Familiar
from thaw.model.onnx import FAMILIARITY
from thaw.nets.fit import Padded

SHAPES = ({0: Dim("batch"), 1: Dim("height"), 2: Dim("width")},)


class PhotosToProbabilities(nn.Module):
    """uint8 RGB photos `[B, H, W, 3]` of any size → probabilities `[B, classes]`.

    Resize, crop, normalisation, net, temperature and softmax, as `Model.predict` does them; and
    familiarity `[B]`, where the model can tell it.

    Raises:
        UserError: the net's photos are resized in a way that `ResizeAndCrop` doesn't know.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        transforms = model.transforms
        (crop,) = transforms.crop_size
        # What is padded is resized to fit inside the square.
        size = [] if isinstance(transforms, Padded) else transforms.resize_size
        self.pixels = ResizeAndCrop(size, crop, transforms.interpolation.value)
        self.net, self.temperature = model.backbone.net, model.temperature
        self.shift = nn.Buffer(torch.as_tensor(model.shift))
        self.mean = nn.Buffer(torch.tensor(transforms.mean).view(3, 1, 1))
        self.std = nn.Buffer(torch.tensor(transforms.std).view(3, 1, 1))
        self.reading = model.backbone.reading
        self.familiarity: Familiarity | None = None
        if model.familiar is not None and model.level is not None:
            self.familiarity = Familiarity(model.familiar)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Photos `[B, H, W, 3]` → probabilities `[B, classes]`, familiarity `[B]`."""
        values = self.pixels(images).permute(0, 3, 1, 2).float() / 255
        with self.reading() as read:
            logits = self.net((values - self.mean) / self.std)
        probabilities = (logits / self.temperature + self.shift).softmax(dim=1)
        if self.familiarity is None:
            return probabilities
        return probabilities, self.familiarity(read[-1])


class Familiarity(nn.Module):
    """Features `[B, D]` → conformal p-values `[B]`, as `Familiar` has them."""

    def __init__(self, familiar: Familiar) -> None:
        super().__init__()
        self.rows = nn.Buffer(familiar.rows)
        self.sizes = nn.Buffer(familiar.rows.float().norm(dim=1).clamp(min=1e-12))
        self.scale, self.scores = nn.Buffer(familiar.scale), nn.Buffer(familiar.scores)

    def forward(self, features: Tensor) -> Tensor:
        """Features `[B, D]` → `[B]`."""
        likeness = F.normalize(features / self.scale, dim=1) @ self.rows.float().T / self.sizes
        return store.p_values(store.distance(likeness), self.scores)


def trace(model: Model) -> ExportedProgram:
    """The graph of all that is between a photo and its probabilities (torch.export).

    Raises:
        UserError: torch can't trace this net.
    """
    whole = PhotosToProbabilities(model).eval()
    example = torch.zeros(2, 48, 64, 3, dtype=torch.uint8)
    with _refusing(model.info["arch"]["name"]):
        graph = torch.export.export(whole, (example,), dynamic_shapes=SHAPES)
    for module in graph.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it holds paths of this machine
    return graph


def write_onnx(
    graph: ExportedProgram, file: Path, facts: Mapping[str, str], name: str
) -> list[str]:
    """Write `graph` as ONNX, with `facts` as its metadata.

    Returns:
        The names of the nodes that the net itself became.

    Raises:
        UserError: there is no ONNX operator for something in the net.
    """
    with _refusing(name):
        program = torch.onnx.export(
            graph,
            input_names=["images"],
            output_names=["probabilities", FAMILIARITY][: len(graph.graph_signature.user_outputs)],
            dynamic_shapes=SHAPES,
            verbose=False,
        )
    assert program is not None
    net = []
    for node in program.model.graph.all_nodes():
        if "'net'" in node.metadata_props.get("pkg.torch.onnx.name_scopes", ""):
            net.append(node.name or "")
        node.metadata_props.clear()  # only those who mend exporters need it
    program.model.metadata_props.update(facts)
    program.save(file)
    return net


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of any class: torch runs the net's own code
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{name} can't be exported, torch says: {reason[0]}") from error
