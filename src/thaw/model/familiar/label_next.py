"""What to label next: chosen, listed, and labelled on a page."""

import filecmp
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from thaw.data.find import find_and_tell
from thaw.data.photos import BrokenPhoto
from thaw.errors import UserError
from thaw.files import write_csv
from thaw.launch import cli
from thaw.model.bundle import Model
from thaw.model.familiar.choose import choose, doubt
from thaw.model.familiar.labelling import is_folder_name
from thaw.model.predict import load_model
from thaw.model.prediction import UNFAMILIAR, Prediction, aside, decide
from thaw.runs import read
from thaw.screen import command, rows, say


@dataclass(frozen=True)
class Places:
    """Where photos go: the folder of each class, and the one that holds a new class's."""

    classes: dict[str, Path]
    above: Path


def label_next(
    run: Path,
    folder: Path,
    count: int = 50,
    csv: Path | None = None,
    page: bool = False,
    into: Path | None = None,
    port: int = 8000,
) -> list[Prediction]:
    """Choose the photos that would teach most, print them, and with `page` label them.

    Args:
        run: a run folder, or its bundle.
        folder: photos without labels; those that lie in a class folder already are left out.
        csv: gets the list.
        page: serve a page on this machine until Ctrl-C, which copies photos into class folders.
        into: the folder of class folders; that of the train photos if None.

    Returns:
        What the model says of the photos chosen, the first choice first.

    Raises:
        UserError: no bundle that keeps train photos, no photos, or nowhere to copy them to.
    """
    if run.suffix == ".onnx":
        raise UserError("What to label next is chosen by features; an ONNX file tells none.")
    model: Model = load_model(run)
    if model.familiar is None:
        raise UserError(
            f"The model in {run} keeps none of its train photos, which new ones are compared with;"
            " train it again with this Thaw."
        )
    places = _places(model, into) if page or into else None
    paths = _without(folder, Path(model.familiar.root), into)
    if not paths:
        raise UserError(f"All photos in {folder} lie in a class folder already.")
    predictions = _chosen(model, paths, count)
    width = min(max(len(prediction.path) for prediction in predictions), 60)
    for prediction in predictions:
        said = f"{prediction.label:<12} {prediction.confidence:6.1%} {prediction.beside}".rstrip()
        rows(f"{prediction.path:<{width}}  {said}")
    if csv is not None:
        columns = ("path", "label", "confidence", "familiarity")
        told = [{key: getattr(p, key) for key in columns} | {"top": p.top} for p in predictions]
        write_csv(csv, told)
    say("", "when they are labelled")
    rows(*command(cli.door("train"), _training(run, into, model)).split("\n"))
    if places is not None:
        from thaw.model import doorman
        from thaw.model.familiar.labelling import app

        application = app(predictions, places.classes, places.above, model.white)
        say(f"label them here: http://127.0.0.1:{port}  (Ctrl-C ends it)")
        doorman.run(application, "127.0.0.1", port)
    return predictions


def _chosen(model: Model, paths: list[Path], count: int) -> list[Prediction]:
    """What the model says of those photos that would teach it most."""
    familiar = model.familiar
    assert familiar is not None
    broken: list[BrokenPhoto] = []
    names: list[Path | str] = []
    logits, features = [], []
    for batch, answered, read_by_head in model.outputs_of(paths, on_broken=broken.append):
        names += batch
        logits.append(answered)
        features.append(read_by_head)
    for error in broken:
        say(f"left out: {error}")
    if not names:
        raise broken[0]
    probabilities = (torch.cat(logits) / model.temperature + model.shift).softmax(dim=1)
    seen = torch.cat(features)
    p = familiar.familiarity(seen).tolist() if model.level is not None else [None] * len(names)
    rows = probabilities.tolist()
    how = (model.threshold, model.prior)
    said = [
        decide(name, model.classes, row, *how, familiarity, model.level)
        for name, row, familiarity in zip(names, rows, p, strict=True)
    ]
    strange = torch.tensor([found.label == aside(UNFAMILIAR, model.classes) for found in said])
    doubts = doubt(probabilities, strange)
    return [said[i] for i in choose(seen / familiar.scale, doubts, count, familiar.directions)]


def _without(folder: Path, *roots: Path | None) -> list[Path]:
    """Photos of a folder of which no copy lies below one of the roots, outside this folder."""
    paths, here = find_and_tell([folder]), folder.resolve()
    by_size: dict[int, list[Path]] = {}
    for root in filter(None, roots):
        for path in root.rglob("*") if root.is_dir() else ():
            if path.is_file() and not path.resolve().is_relative_to(here):
                by_size.setdefault(path.stat().st_size, []).append(path)

    def is_new(path: Path) -> bool:
        same_size = by_size.get(path.stat().st_size, ())
        return not any(filecmp.cmp(path, other, shallow=False) for other in same_size)

    return [path for path in paths if is_new(path)]


def _places(model: Model, into: Path | None) -> Places:
    """The folder of each class, below `into` or where the train photos are.

    Raises:
        UserError: a class is no name of a folder, or the train photos aren't in class folders.
    """
    if into is not None:
        wrong = [name for name in model.classes if not is_folder_name(name)]
        if wrong:
            raise UserError(f"These classes can't be names of folders: {wrong}.")
        return Places({name: into / name for name in model.classes}, into)
    familiar = model.familiar
    assert familiar is not None
    root, labels, found = Path(familiar.root), familiar.labels.tolist(), {}
    for c, name in enumerate(model.classes):
        own = [p for p, label in zip(familiar.photos, labels, strict=True) if label == c]
        parents = Counter(PurePosixPath(photo).parent for photo in own)
        parent = parents.most_common(1)[0][0] if parents else PurePosixPath()
        known = (familiar.file_of(p) for p in own if PurePosixPath(p).parent == parent)
        if parent.name != name or not any(known):
            raise UserError(
                f"Expected the train photos of {name!r} in a folder of that name below {root}, but"
                " there is none; say with --into DIR where photos are to be copied to."
            )
        found[name] = root / parent
    return Places(found, next(iter(found.values())).parent)


def _training(run: Path, into: Path | None, model: Model) -> str:
    """What follows `thaw train` to train again, as the run was trained."""
    words: list[str] = []
    if (run / ".hydra" / "overrides.yaml").is_file():
        words = [word for word in read.overrides(run) if not word.startswith("hydra.")]
    if into is not None:
        words = [word for word in words if word.lstrip("+~").partition("=")[0] not in OF_DATA]
        words += ["data=folder", f"data.root={into}"]
    elif not words:
        words = ["data=folder", f"data.root={model.familiar.root if model.familiar else ''}"]
    words = [re.sub(r"='([\w./~ -]+)'$", r"=\1", word) for word in words]  # Hydra's quotes
    return shlex.join(words)


OF_DATA = ("data", "data.root", "data.train", "data.val", "data.test")
