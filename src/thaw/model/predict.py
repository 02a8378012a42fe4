"""Predictions for people (a line a photo, a figure) and for programs (CSV, JSON)."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw import files
from thaw.data import grid
from thaw.data.find import find_and_tell
from thaw.data.photos import BrokenPhoto
from thaw.errors import UserError
from thaw.escape import joined, printable
from thaw.launch import cli
from thaw.model import batch, unsure
from thaw.model.prediction import UNFAMILIAR, Prediction, as_row, aside
from thaw.page.figure import write_figure
from thaw.runs import read
from thaw.screen import rows, say

if TYPE_CHECKING:
    from thaw.model.bundle import Model

MOST_IN_FIGURE = 64


def predict(
    run: Path,
    photos: list[Path],
    threshold: float | None = None,
    top_k: int | None = None,
    coverage: float | None = None,
    csv: str | None = None,
    json: str | None = None,
    figure: Path | None = None,
    explain: Path | None = None,
    output: Path | None = None,
    unfamiliar_level: float | None = None,
    similar: int = 0,
) -> list[Prediction]:
    """Label photos and print a line for each; the rest goes where it is asked for.

    Args:
        threshold: confidence below which the label is "unsure"; the bundle's own if None.
        top_k: how many of the most probable labels a line tells.
        coverage: give each photo a set of labels that holds the right one with this probability.
        csv: a file for one row a photo (path, label, confidence, a column a class), or `-` for the
            screen instead of the lines; `json` likewise.
        figure: an image of the photos with their labels; `explain`, of where the labels come from.
        unfamiliar_level: share of photos like val's that may be called unfamiliar; the bundle's own
            if None, and at 0 none is called that.
        similar: how many of the train photos most like each photo are told, and drawn beside it.
        output: a .csv or .parquet file in place of all that, for any number of photos.

    Returns:
        What was found; nothing with `output`, which holds it.

    Raises:
        UserError: no bundle, no photos, or more coverage than val can promise; or, after the
            others were labelled, photos that can't be decoded.
    """
    paths = find_and_tell(photos)
    if (figure or explain) and len(paths) * (1 + similar) > MOST_IN_FIGURE:
        beside = f", with {similar} beside each" if similar else ""
        raise UserError(
            f"A figure shows at most {MOST_IN_FIGURE} photos, got {len(paths)}{beside}."
        )
    if explain is not None and run.suffix == ".onnx":
        raise UserError(
            "--explain needs the gradients of a run or a bundle; an ONNX file has none."
        )
    if output is not None:
        batch.check(output)
    model = load_model(run)
    cutoff = None if coverage is None else cutoff_of(model, run, coverage)
    broken: list[BrokenPhoto] = []
    about = {"level": unfamiliar_level, "similar": similar}
    predictions = model.predict(paths, threshold, on_broken=broken.append, **about)
    if output is not None:
        batch.write(predictions, output, len(paths), broken, cutoff)
        return []
    quiet = "-" in (csv, json)
    width = min(max(len(str(path)) for path in paths), 60)
    found: list[Prediction] = []
    sets: list[list[str]] = []
    for prediction in predictions:
        found.append(prediction)
        if cutoff is not None:
            sets.append(unsure.label_set(prediction.probabilities, cutoff))
        if not quiet:
            line = _line(prediction, sets[-1] if sets else None, top_k)
            like = (f"    like {s.path} ({s.label}, {s.likeness:.2f})" for s in prediction.similar)
            rows(f"{prediction.path:<{width}}  {line}", *like)
    sample = model.familiar.sample if similar else ""
    if sample and not quiet:
        say(sample)
    if broken and not found:
        raise broken[0]
    if csv is not None:
        _write(csv, _csv(found, sets))
    if json is not None:
        _write(json, _json(found, sets, sample))
    if figure is not None and similar:
        from thaw.model.familiar.similar import draw as draw_similar

        draw_similar(figure, found, model.familiar, model.white)
    elif figure is not None:
        draw(figure, found, sets)
    if explain is not None:
        from thaw.model import explain as grad_cam

        grad_cam.draw(explain, model, found)
    if broken:  # what could be labelled is
        raise UserError("\n".join(map(str, broken)))
    return found


def cutoff_of(model: Any, run: Path, coverage: float) -> float:
    """From which probability on a label belongs to a photo's set.

    Raises:
        UserError: val can't promise so much, or the model doesn't hold what val said.
    """
    if not model.conformal:
        raise UserError(
            f"The model in {run} doesn't hold what val said of it, which --coverage needs; a run"
            " of this Thaw stores it, and so does thaw evaluate with --target-coverage."
        )
    return unsure.set_cutoff(model.conformal, coverage)


def _line(prediction: Prediction, labels: list[str] | None, top_k: int | None) -> str:
    """What is said of a photo: its label or set of labels, and how probable they are."""
    probabilities = prediction.probabilities
    ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)
    if prediction.label == aside(UNFAMILIAR, probabilities):
        return f"{prediction.label:<12}{prediction.beside}"
    text = prediction.label if labels is None else _either(labels)
    shown = ranked[:top_k] if top_k else labels
    if shown:
        return f"{text:<12} " + ", ".join(f"{name} {probabilities[name]:.1%}" for name in shown)
    doubt = f" {prediction.beside}" if prediction.beside else ""
    return f"{text:<12} {prediction.confidence:6.1%}{doubt}"


def _either(labels: list[str]) -> str:
    return " or ".join(labels)


def load_model(run: Path) -> Any:
    """The model of a run, a bundle, or an ONNX file; only the first two need torch."""
    if run.suffix == ".onnx":
        from thaw.model import onnx

        return onnx.load(run)
    return loaded(run)


def loaded(run: Path) -> "Model":
    """The model of a run or a bundle, on a GPU where there is one, as fast as this machine can."""
    read.bundle(run)  # before what takes seconds
    cli.say_loading()
    import torch

    from thaw.launch import memory
    from thaw.model import bundle

    memory.keep_memory()
    model = bundle.load(run)
    model.backbone.arrange(torch.channels_last)
    if torch.cuda.is_available():
        model.backbone.to("cuda")
    return model


def _csv(found: list[Prediction], sets: list[list[str]]) -> str:
    rows = [as_row(prediction) for prediction in found]
    if sets:
        rows = [row | {"labels": joined(s)} for row, s in zip(rows, sets, strict=True)]
    return files.csv_text(rows)


def _json(found: list[Prediction], sets: list[list[str]], sample: str) -> str:
    more = {"sample": sample} if sample else {}
    rows = [asdict(prediction) | more for prediction in found]
    for row, labels in zip(rows, sets, strict=False):
        row["labels"] = labels
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _write(place: str, text: str) -> None:
    if place == "-":  # what is piped to a program stays as it is
        print(printable(text, keep="\n") if sys.stdout.isatty() else text, end="")
    else:
        files.write(Path(place), text)


def draw(path: Path, found: list[Prediction], sets: list[list[str]]) -> None:
    """Draw the photos in a grid, each with its label and confidence above it."""
    labels = [_either(labels) for labels in sets] or [prediction.label for prediction in found]
    tiles = [
        (prediction.path, label + (prediction.beside or f" ({prediction.confidence:.1%})"), "black")
        for prediction, label in zip(found, labels, strict=True)
    ]
    write_figure(path, grid.draw(tiles, side=max(320, 640 // len(found))))
