"""Write a trained model as one file that gives the same answers, and check that it does."""

import importlib.util
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import thaw
from thaw.data.find import find_photos
from thaw.data.photos import load_photo
from thaw.data.pixels.deep import White
from thaw.errors import UserError
from thaw.escape import say
from thaw.export import graph
from thaw.model import bundle, onnx
from thaw.model.prediction import Prediction
from thaw.runs import read

LARGEST = 1e-3  # difference in probability; that of rounding is about 1e-6
DEAR = 0.01  # accuracy that 8 bits may cost without a word about it
Rows = dict[Path, np.ndarray]  # photo → probabilities


def export(
    run: Path, out: Path | None = None, data: Path | None = None, int8: bool = False
) -> dict[str, dict[str, float]]:
    """Write `model.onnx` and `model.pt2`, each after it labelled every test photo as the bundle.

    Args:
        run: a run folder; with `data`, a bundle will do.
        out: the folder to write to; RUN/export by default.
        data: where the run's photos are now, or other photos to check with.
        int8: also write `model.int8.onnx`, calibrated on the run's val photos, and say what
            accuracy it costs.

    Returns:
        For each file `photos`, `alike` (how many of them get the bundle's label) and `difference`
        (the largest between probabilities); for int8 also `accuracy` and `accuracy_before`.

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
        torch.export.save(traced, file, extra_files=facts)
        found[file.name] = _same(file, expected, _rows_of_pt2(file, expected, model.white))
        file = folder / "model.onnx"
        nodes = graph.write_onnx(traced, file, facts, name)
        found[file.name] = _same(file, expected, _rows(onnx.load(file).predict(expected)))
        if int8:
            from thaw.export.int8 import quantize

            small = folder / "model.int8.onnx"
            quantize(file, small, nodes, photos.val, model.white)
            found[small.name] = _cost(small, expected, photos, model.classes)
    say(f"written          {out}")
    return found


# --- photos ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photos:
    """What to calibrate on and to check with; `labels` are those of `test`, where known."""

    val: list[Path]
    test: list[Path]
    labels: list[str]


def _find(run: Path, data: Path | None, int8: bool) -> Photos:
    """The run's own photos; without int8, which needs those, all that are in `data` will do."""
    file = run / "split.json"
    if file.is_file():
        split = read.split(run)
        root = data or split.root
        val, test = ([root / photo for photo in split.paths(name)] for name in ("val", "test"))
        gone = [photo for photo in (*test, *(val if int8 else ())) if not photo.is_file()]
        if not gone:
            return Photos(val, test, [photo.label for photo in split.photos["test"]])
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
    return Photos([], find_photos([data]), [])


# --- checks ---------------------------------------------------------------------------------------


def _rows(predictions: Iterable[Prediction]) -> Rows:
    return {Path(p.path): np.array([*p.probabilities.values()]) for p in predictions}


@torch.inference_mode()
def _rows_of_pt2(file: Path, photos: Iterable[Path], white: White) -> Rows:
    run = torch.export.load(file).module()
    images = ((photo, np.array(load_photo(photo, white))) for photo in photos)
    return {photo: run(torch.from_numpy(image)[None])[0].numpy() for photo, image in images}


def _compare(expected: Rows, rows: Rows) -> dict[str, float]:
    alike = [expected[photo].argmax() == rows[photo].argmax() for photo in expected]
    difference = max(abs(expected[photo] - rows[photo]).max() for photo in expected)
    return {"photos": len(alike), "alike": int(sum(alike)), "difference": float(difference)}


def _same(file: Path, expected: Rows, rows: Rows) -> dict[str, float]:
    """How near a file's answers are; UserError if they aren't the bundle's."""
    found = _compare(expected, rows)
    photos, alike, difference = found["photos"], found["alike"], found["difference"]
    if alike < photos or not difference <= LARGEST:
        raise UserError(
            f"{file.name} isn't written: it labels {alike} of {photos} photos as the bundle does,"
            f" and probabilities differ by up to {difference:.2g}, where {LARGEST:g} is allowed."
        )
    print(
        f"{file.name:<15} {_megabytes(file)}  labels {alike} of {photos} photos as the bundle,"
        f" probabilities within {difference:.1e}"
    )
    return found


def _cost(file: Path, expected: Rows, photos: Photos, classes: list[str]) -> dict[str, float]:
    """What 8 bits cost in accuracy on test."""
    rows = _rows(onnx.load(file).predict(expected))
    labels = dict(zip(photos.test, photos.labels, strict=True))

    def accuracy(rows: Rows) -> float:
        right = [classes[row.argmax()] == labels[photo] for photo, row in rows.items()]
        return sum(right) / len(right)

    found = _compare(expected, rows)
    found |= {"accuracy": accuracy(rows), "accuracy_before": accuracy(expected)}
    print(
        f"{file.name:<15} {_megabytes(file)}  labels {found['alike']} of {found['photos']} photos"
        f" as the bundle, accuracy {found['accuracy']:.1%} instead of"
        f" {found['accuracy_before']:.1%}"
    )
    if found["accuracy_before"] - found["accuracy"] > DEAR:
        print(f"{'':15} that is more than a point: think twice before you use {file.name}")
    return found


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:6.1f} MB"


@contextmanager
def _whole_or_nothing(out: Path) -> Iterator[Path]:
    """A folder to fill; what it holds at the end takes the place of an earlier export in `out`."""
    above = next(place for place in (out, *out.absolute().parents) if place.is_dir())
    with tempfile.TemporaryDirectory(prefix=".export.", dir=above) as folder:
        yield Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        (out / "model.int8.onnx").unlink(missing_ok=True)  # of the model as it was then
        for file in Path(folder).iterdir():
            os.replace(file, out / file.name)
