"""Write a trained model as one file that gives the same answers, and check that it does."""

import importlib.util
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import thaw
from thaw.data.find import find_photos
from thaw.data.photos import load_photo
from thaw.errors import UserError
from thaw.export import graph
from thaw.files import scratch
from thaw.model import bundle, onnx
from thaw.model.prediction import UNFAMILIAR, Prediction, aside, decide
from thaw.runs import read
from thaw.screen import say

LARGEST = 1e-3  # difference in probability; that of rounding is about 1e-6
DEAR = 0.01  # accuracy that 8 bits may cost without a word about it
Rows = dict[Path, Prediction]


def export(
    run: Path, out: Path | None = None, data: Path | None = None, int8: bool = False
) -> dict[str, dict[str, float]]:
    """Write `model.onnx` and `model.pt2`, each after it labelled every test photo as the bundle.

    Args:
        run: a run folder; with `data`, a bundle will do.
        out: the folder to write to; RUN/export by default.
        data: where the run's photos are now, or other photos to check with.
        int8: also write `model.int8.onnx`, calibrated on the run's val photos (where all were
            trained on, on those), and say what accuracy it costs.

    Returns:
        For each file `photos`, `alike` (how many of them get the bundle's most probable label, and
        are unfamiliar to both or to neither), `difference` and `familiarity` (the largest between
        probabilities, and between p-values); for int8 also `accuracy` and `accuracy_before`.

    Raises:
        UserError: packages or photos are missing, the net can't be exported, or answers differ;
            nothing is written then.
    """
    names = ("onnx", "onnxscript", "onnxruntime")
    missing = [name for name in names if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f"Export needs {', '.join(missing)}: {onnx.INSTALL}.")
    out = out or run / "export"
    if out.exists() and not out.is_dir():
        raise UserError(f"Expected a folder in --out {out}, but it is a file.")
    model = bundle.load(run)
    photos = _find(run, data, int8)
    expected = _rows(model.predict(photos.test, on_broken=lambda error: say(f"left out: {error}")))
    if not expected:
        raise UserError("Expected photos to check the export with, but none can be decoded.")
    name = model.info["arch"]["name"]
    facts = {key: json.dumps(value) for key, value in model.info.items()}
    facts["thaw_version"] = json.dumps(thaw.__version__)
    found: dict[str, dict[str, float]] = {}
    with _whole_or_nothing(out) as folder:
        traced = graph.trace(model)
        file = folder / "model.pt2"
        whole = io.BytesIO()  # on a full disk, its own writer would end the process
        torch.export.save(traced, whole, extra_files=facts)
        file.write_bytes(whole.getbuffer())
        found[file.name] = _same(file, expected, _rows_of_pt2(file, expected, model), model)
        file = folder / "model.onnx"
        nodes = graph.write_onnx(traced, file, facts, name)
        found[file.name] = _same(file, expected, _rows(onnx.load(file).predict(expected)), model)
        if int8:
            from thaw.export.int8 import calibrate, quantize

            small = folder / "model.int8.onnx"
            quantize(file, small, nodes, photos.val or photos.train, model.white)
            if model.familiar is not None and model.level is not None:
                known = [photos.root / photo for photo in model.familiar.photos]
                calibrate(file, small, model.familiar, photos.val, known, model.white)
            found[small.name] = _cost(small, expected, photos)
    say(f"written          {out}")
    return found


# --- photos ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photos:
    """What to calibrate on and to check with; `labels` are those of `test`, where known.

    A model of all photos has no val. Where no test split was given either, `test` are photos that
    it was trained on.
    """

    root: Path
    train: list[Path]
    val: list[Path]
    test: list[Path]
    labels: list[str]
    trained_on: bool = False


def _find(run: Path, data: Path | None, int8: bool) -> Photos:
    """The run's own photos; without int8, which needs those, all that are in `data` will do."""
    file = run / "refit" / "split.json"  # of the model of all photos that leaves folds
    file = file if file.is_file() else run / "split.json"
    if file.is_file():
        split = read.split(file.parent)
        root = data or split.root
        tested = split.photos["test"] or split.photos["train"]
        train, val = ([root / photo for photo in split.paths(name)] for name in ("train", "val"))
        test = [root / photo.path for photo in tested]
        gone = [p for p in (*test, *((*val, *train) if int8 else ())) if not p.is_file()]
        if not gone:
            labels = [photo.label for photo in tested]
            return Photos(root, train, val, test, labels, not split.photos["test"])
        if data is None or int8:
            raise UserError(
                f"Expected the run's photos in {root} (see {file}), but {len(gone)} are missing,"
                f" {gone[0]} for one; say with --data DIR where they are now."
            )
    elif data is None or int8:
        raise UserError(
            f"Expected a run folder, but there is no {file}, which names the photos to check with;"
            " without --int8, any photos will do: name them with --data DIR."
        )
    return Photos(Path(), [], [], find_photos([data]), [])


# --- checks ---------------------------------------------------------------------------------------


def _rows(predictions: Iterable[Prediction]) -> Rows:
    return {Path(prediction.path): prediction for prediction in predictions}


@torch.inference_mode()
def _rows_of_pt2(file: Path, photos: Iterable[Path], model: bundle.Model) -> Rows:
    run, rows = torch.export.load(file).module(), {}
    for photo in photos:
        image = torch.from_numpy(np.array(onnx.as_input(load_photo(photo, model.white))))
        out = run(image)
        probabilities, *more = out if isinstance(out, tuple) else (out,)
        familiarity = float(more[0][0]) if more and model.level is not None else None
        said = (probabilities[0].tolist(), model.threshold, model.prior, familiarity, model.level)
        rows[photo] = decide(photo, model.classes, *said)
    return rows


def _compare(expected: Rows, rows: Rows) -> dict[str, float]:
    alike = [_said(expected[photo]) == _said(rows[photo]) for photo in expected]
    pairs = [(expected[photo], rows[photo]) for photo in expected]
    difference = max(
        abs(was.probabilities[name] - now.probabilities[name])
        for was, now in pairs
        for name in was.probabilities
    )
    moved = max(abs((was.familiarity or 0) - (now.familiarity or 0)) for was, now in pairs)
    found = {"photos": len(alike), "alike": sum(alike), "difference": difference}
    return found | {"familiarity": moved}


def _said(prediction: Prediction) -> tuple[str, bool]:
    return prediction.top, prediction.label == aside(UNFAMILIAR, prediction.probabilities)


def _same(file: Path, expected: Rows, rows: Rows, model: bundle.Model) -> dict[str, float]:
    """How near a file's answers are; UserError if they aren't the bundle's.

    Familiarity may be a step apart: rounding can carry a photo past one of val's.
    """
    step = 1.5 / (len(model.familiar.scores) + 1) if model.familiar else 0.0
    found = _compare(expected, rows)
    photos, alike, difference = found["photos"], found["alike"], found["difference"]
    if alike < photos or not difference <= LARGEST or found["familiarity"] > step:
        raise UserError(
            f"{file.name} isn't written: it labels {alike} of {photos} photos as the bundle does,"
            f" and probabilities differ by up to {difference:.2g}, where {LARGEST:g} is allowed,"
            f" and familiarity by up to {found['familiarity']:.2g}."
        )
    say(
        f"{file.name:<15} {_megabytes(file)}  labels {alike} of {photos} photos as the bundle,"
        f" probabilities within {difference:.1e}"
    )
    return found


def _cost(file: Path, expected: Rows, photos: Photos) -> dict[str, float]:
    """What 8 bits cost in accuracy on test."""
    rows = _rows(onnx.load(file).predict(expected))
    labels = dict(zip(photos.test, photos.labels, strict=True))

    def accuracy(rows: Rows) -> float:
        right = [prediction.top == labels[photo] for photo, prediction in rows.items()]
        return sum(right) / len(right)

    found = _compare(expected, rows)
    found |= {"accuracy": accuracy(rows), "accuracy_before": accuracy(expected)}
    say(
        f"{file.name:<15} {_megabytes(file)}  labels {found['alike']} of {found['photos']} photos"
        f" as the bundle, accuracy {found['accuracy']:.1%} instead of"
        f" {found['accuracy_before']:.1%}"
        + (
            ", but these photos were trained on: new ones may fare worse"
            if photos.trained_on
            else ""
        )
    )
    if found["accuracy_before"] - found["accuracy"] > DEAR:
        say(f"{'':15} that is more than a point: think twice before you use {file.name}")
    return found


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:6.1f} MB"


@contextmanager
def _whole_or_nothing(out: Path) -> Iterator[Path]:
    """A folder to fill; what it holds at the end takes the place of an earlier export in `out`."""
    with scratch(out) as folder:
        yield folder
        out.mkdir(exist_ok=True)
        (out / "model.int8.onnx").unlink(missing_ok=True)  # of the model as it was then
        for file in folder.iterdir():
            os.replace(file, out / file.name)
