"""What TensorBoard is told when a run ends; nothing of it costs time while it trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch import Tensor

from thaw.data.folder import PhotoFolder
from thaw.escape import printable
from thaw.nets.backbone import Backbone
from thaw.report.board import pictures
from thaw.report.board.graph import graph
from thaw.report.board.words import texts
from thaw.report.movement import Movement

CURVES = 24  # classes with a precision-recall curve: those with the lowest recall
POINTS = 300  # photos in the projector
AXES = 50  # principal components of their features, of which the projector shows three


@dataclass(frozen=True)
class Told:
    """What a board is made of.

    Args:
        test: `logits` `[N, classes]`, `features` `[N, D]` and `label` `[N]` of the test photos.
        photos: the test photos' paths.
        settings: all that may vary between runs, by dotted key.
    """

    run: Path
    data: PhotoFolder
    backbone: Backbone
    movement: Movement
    test: Mapping[str, Tensor]
    photos: Sequence[str]
    settings: Mapping[str, Any]


def tell(told: Told, step: int, logger: TensorBoardLogger) -> None:
    """Write the tabs beside the curves; the run's folder holds its results."""
    writer = logger.experiment
    for tag, text in texts(told.run, told.settings).items():
        writer.add_text(printable(tag), printable(text, keep="\n"), step)
    for tag, picture in _pictures(told).items():
        _image(writer, tag, picture, step)
    for ended, moved in zip(told.movement.ended_at, told.movement.phases, strict=True):
        for stage, distances in moved.items():
            finite = distances[distances.isfinite()].clamp(max=1e9)  # what diverged has no bin
            if len(finite):
                writer.add_histogram(f"moved from its start/{stage}", finite, ended)
    _precision_recall(writer, told, step)
    _projector(writer, told)
    _graph(writer, told.backbone)


def _graph(writer: Any, backbone: Backbone) -> None:
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]

    whole = Event(graph_def=graph(backbone).SerializeToString())
    writer._get_file_writer().add_event(whole)


def _pictures(told: Told) -> dict[str, bytes]:
    """PNG files by tag: those in the order of reading have numbers."""
    made = {"pictures/1 a batch of training": pictures.png(pictures.batch(told.data))}
    drawn = {path.stem: path.read_bytes() for path in sorted(told.run.glob("figures/*.png"))}
    for number, name in enumerate(("worst_mistakes", "least_sure"), start=2):
        if name in drawn:
            made[f"pictures/{number} {name.replace('_', ' ')}"] = drawn.pop(name)
    made |= {f"pictures/4 {name.replace('_', ' ')}": file for name, file in drawn.items()}
    found = pictures.filters(told.backbone, told.movement)
    return made | {tag: pictures.png(picture) for tag, picture in found.items()}


def _image(writer: Any, tag: str, content: bytes, step: int) -> None:
    """A PNG as it is: torch's `add_image` would decode it and encode it again."""
    import io

    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]

    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
    summary = Summary(value=[Summary.Value(tag=printable(tag), image=picture)])
    writer._get_file_writer().add_summary(summary, step)


def _precision_recall(writer: Any, told: Told, step: int) -> None:
    """A curve a class, of those with the lowest recall where there are many."""
    labels, probabilities = told.test["label"], told.test["logits"].softmax(dim=1)
    right = (probabilities.argmax(dim=1) == labels).double()
    recall = {c: float(right[labels == c].mean()) for c in labels.unique().tolist()}
    for c in sorted(recall, key=lambda c: (recall[c], c))[:CURVES]:
        tag = printable(told.data.classes[c])
        writer.add_pr_curve(tag, (labels == c).numpy(), probabilities[:, c].numpy(), step)


def _projector(writer: Any, told: Told) -> None:
    """Test photos where the head sees them, with thumbnails and labels."""
    every = len(told.photos)
    if every < 3:
        return
    chosen = torch.arange(0, every, -(-every // POINTS))
    features = told.test["features"][chosen].double()
    centred = features - features.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # of few photos, not of all features
    axes = min(AXES, len(chosen) - 1, features.shape[1])
    places = (vectors * values.clamp(min=0).sqrt()).flip(1)[:, : max(axes, 2)]
    said, classes = told.test["predicted"][chosen].tolist(), told.data.classes
    rows = [
        [
            _cell(classes[label]),
            _cell(classes[other]),
            str(label == other),
            _cell(told.photos[int(i)]),
        ]
        for i, label, other in zip(
            chosen.tolist(), told.test["label"][chosen].tolist(), said, strict=True
        )
    ]
    thumbnails = pictures.sprites(told.data, [told.photos[int(i)] for i in chosen.tolist()])
    header = ["label", "prediction", "right", "photo"]
    rmtree(Path(writer.get_logdir(), "00000"), ignore_errors=True)  # of a run that was killed here
    name = "test photos as the head sees them"
    writer.add_embedding(places.float(), rows, thumbnails, tag=name, metadata_header=header)


def _cell(text: str) -> str:
    return printable(text).replace("\t", " ")
