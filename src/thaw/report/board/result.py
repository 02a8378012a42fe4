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
from thaw.errors import UserError
from thaw.escape import printable
from thaw.model.bundle import Model
from thaw.report.board import pictures
from thaw.report.board.graph import graph
from thaw.report.board.words import texts
from thaw.report.movement import Movement

CURVES = 24  # classes with a precision-recall curve: those with the lowest recall
POINTS = 300  # photos in the projector
FIRST = ("worst_mistakes", "least_sure", "explanations")  # of the figures
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
    model: Model
    movement: Movement
    test: Mapping[str, Tensor]
    photos: Sequence[str]
    settings: Mapping[str, Any]


def tell(told: Told, step: int, logger: TensorBoardLogger) -> None:
    """Write the tabs beside the curves; the run's folder holds its results."""
    writer = logger.experiment
    made = {"1 a batch of training": pictures.batch(told.data)}
    made |= pictures.filters(told.model.backbone, told.movement)
    tell_files(told.run, told.settings, step, logger, made)
    for ended, moved in zip(told.movement.ended_at, told.movement.phases, strict=True):
        for stage, distances in moved.items():
            finite = distances[distances.isfinite()].clamp(max=1e9)  # what diverged has no bin
            if len(finite):
                writer.add_histogram(f"moved from its start/{stage}", finite, ended)
    _precision_recall(writer, told, step)
    _projector(writer, told)
    _graph(writer, told.model.backbone)


def tell_files(
    run: Path,
    settings: Mapping[str, Any],
    step: int,
    logger: TensorBoardLogger,
    more: Mapping[str, Image.Image] | None = None,
) -> None:
    """Write what a run's files say: its texts, and its figures beside other pictures."""
    writer = logger.experiment
    for tag, text in texts(run, settings).items():
        writer.add_text(printable(tag), printable(text, keep="\n"), step)
    shown = _figures(run) | {name: pictures.png(made) for name, made in (more or {}).items()}
    for name, picture in shown.items():
        _image(writer, f"pictures/{name}", picture, step)


def _graph(writer: Any, backbone: Any) -> None:
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]

    whole = Event(graph_def=graph(backbone).SerializeToString())
    writer._get_file_writer().add_event(whole)


def _figures(run: Path) -> dict[str, bytes]:
    """PNG files of a run by what they are called, with numbers in the order of reading."""
    first = {name: number for number, name in enumerate(FIRST, start=2)}
    return {
        f"{first.get(path.stem, 2 + len(FIRST))} {path.stem.replace('_', ' ')}": path.read_bytes()
        for path in sorted(run.glob("figures/*.png"))
    }


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
    """Test photos where the head sees them, before training and now, with thumbnails and labels."""
    every = len(told.photos)
    if every < 3:
        return
    chosen = torch.arange(0, every, -(-every // POINTS))
    photos = [told.photos[int(i)] for i in chosen.tolist()]
    labels, said = (told.test[key][chosen].tolist() for key in ("label", "predicted"))
    classes = told.data.classes
    rows = [
        [_cell(classes[label]), _cell(classes[other]), str(label == other), _cell(photo)]
        for label, other, photo in zip(labels, said, photos, strict=True)
    ]
    thumbnails = pictures.sprites(told.data, photos)
    header = ["label", "prediction", "right", "photo"]
    rmtree(Path(writer.get_logdir(), "00000"), ignore_errors=True)  # of a run that was killed here
    shown = {"test photos now": told.test["features"][chosen]}
    if (before := _before(told, photos)) is not None:
        shown["test photos before training"] = before
    for name, features in shown.items():
        told_of = {"metadata": rows, "label_img": thumbnails, "metadata_header": header}
        writer.add_embedding(_places(features), tag=name, **told_of)


def _before(told: Told, photos: Sequence[str]) -> Tensor | None:
    """What the head would have read of photos before training, `[N, D]`; None if the same."""
    moved = told.movement.of_stages()
    if not any(far for stage, far in moved.items() if stage != "head"):
        return None
    try:
        with told.movement.undone():
            return torch.from_numpy(told.model.embed([told.data.root / path for path in photos]))
    except UserError:  # a photo has gone or broken meanwhile
        return None


def _places(features: Tensor) -> Tensor:
    """Features `[N, D]` along the axes in which they vary most, `[N, axes]`."""
    centred = features.double() - features.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # of few photos, not of all features
    axes = min(AXES, len(features) - 1, features.shape[1])
    return (vectors * values.clamp(min=0).sqrt()).flip(1)[:, : max(axes, 2)].float()


def _cell(text: str) -> str:
    return printable(text).replace("\t", " ")
