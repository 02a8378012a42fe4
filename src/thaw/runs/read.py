"""The one reader of what run folders hold: whatever bytes are there, a value or a UserError.

Each function takes the run folder, reads one of its files, and gives values of the types that its
schema says; else the sentence is `FILE is damaged (…)`. Nothing here imports torch.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from thaw import escape
from thaw.errors import UserError
from thaw.runs.schema import (
    Check,
    Wrong,
    anything,
    bounded,
    items,
    number,
    one_of,
    or_none,
    record,
    text,
    whole,
)

STATES = ("running", "done", "failed", "interrupted")
LARGEST = 500_000_000  # bytes of a file of text
SPLITS = ("train", "val", "test")


class Damaged(UserError):
    """A file of ours doesn't hold what it should."""


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Inside `with`, whatever makes this file unreadable becomes a sentence that names it."""
    try:
        yield
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{path} is damaged (it is missing).") from error
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is damaged (it is no text in UTF-8).") from error
    except RecursionError as error:
        raise Damaged(f"{path} is damaged (it is nested too deeply).") from error
    except (Wrong, OSError, ValueError, csv.Error, yaml.YAMLError, MemoryError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        why = escape.printable(" ".join(why.split()))
        raise Damaged(f"{path} is damaged ({why[:200].rstrip('.')}).") from error


def contents(path: Path) -> str:
    """The text of a file of ours; to be called within `damage`."""
    if path.exists() and not path.is_file():  # reading from a pipe would wait for ever
        raise Wrong("it is no file")
    if (size := path.stat().st_size) > LARGEST:
        raise Wrong(f"it has {size:,} bytes, which is too large")
    return path.read_text(encoding="utf-8")


def read_json(path: Path, check: Check = anything) -> Any:
    """The values of a JSON file of ours.

    Raises:
        UserError: it is damaged.
    """
    with damage(path):
        values = json.loads(contents(path))
        bounded(values)
        check(values)
        return values


def read_yaml(path: Path, check: Check = anything) -> Any:
    """The values of a YAML file that Hydra wrote; nothing in it is resolved or made.

    Read by libyaml where it is there: a sweep may have hundreds of runs.

    Raises:
        UserError: it is damaged.
    """
    with damage(path):
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        values = yaml.load(contents(path), loader)
        bounded(values, most=100_000)
        check(values)
        return values


# --- status, metrics, environment -----------------------------------------------------------------

_share = number(0, 1)
_count = whole(0, 10**15)
_loss = number(finite=False)  # of a run that diverged
_amount = number(0, 1e15)
_mapping = record({})
_status = record(
    {"state": one_of(*STATES)},
    {"started": text(), "updated": text(), "pid": whole(0, 2**63), "reason": text(most=10**6)},
)
_metrics = record(
    {"val/loss": _loss, "val/acc": _share, "test/acc": _share},
    {
        **dict.fromkeys(("test/acc_low", "test/acc_high", "test/f1", "test/ece"), _share),
        **dict.fromkeys(("test/loss", "train/loss"), _loss),
        **dict.fromkeys(("seconds/fit", "seconds/epoch", "seconds/test"), _amount),
        **dict.fromkeys(("seconds/features", "model/latency_ms"), _amount),
        **dict.fromkeys(("drift/imagenet", "drift/features"), _amount),
        **dict.fromkeys(("params/total", "params/trainable", "model/bytes"), _count),
        **dict.fromkeys(("test/images", "test/groups", "val/images", "drift/images"), _count),
        **dict.fromkeys(("epochs", "best/epoch"), whole(1, 10**9)),
    },
)
_settings = record({}, dict.fromkeys(("arch", "data", "finetune"), _mapping))
_environment = record({}, {"settings": _settings, "device": text(), "threads": whole(0, 10**6)})


def status(run: Path) -> dict[str, Any]:
    """How the run stands: `state` is one of `STATES`, `updated` is there; {} before it began."""
    path = run / "status.json"
    if not path.exists():
        return {}
    return {"updated": ""} | read_json(path, _status)


def metrics(run: Path) -> dict[str, Any]:
    """The numbers of a finished run."""
    return read_json(run / "metrics.json", _metrics)


def environment(run: Path, *needed: str) -> dict[str, Any]:
    """What ran where, and its `settings`; of it at least what is needed."""
    path = run / "environment.json"
    values = read_json(path, _environment)
    with damage(path):
        return _with(values, needed)


def _with(values: dict[str, Any], needed: Iterable[str]) -> dict[str, Any]:
    if missing := [key for key in needed if key not in values]:
        raise Wrong(f"it lacks {', '.join(missing)}")
    return values


def bundle(path: str | os.PathLike[str]) -> Path:
    """The folder of a model: a run's `model/`, or the bundle itself.

    Raises:
        UserError: there is none.
    """
    folder = Path(path)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    if not (folder / "model.json").is_file() and (each := folds(Path(path))):
        raise UserError(
            f"{path} holds {len(each)} folds and no model of all photos: thaw train resume={path}"
            f" refit=all trains it; each fold has one, such as {each[0]}."
        )
    if not all((folder / name).is_file() for name in ("model.json", "weights.safetensors")):
        raise UserError(
            f"Expected a run folder or a bundle in {path}, but there is no model.json with"
            " weights.safetensors; a run writes its bundle to model/ when it ends."
        )
    return folder


def run_folders(place: Path) -> list[Path]:
    """All runs at or below a folder, but for the folds of one."""
    found = {path.parent for path in place.rglob("status.json")}
    return sorted(run for run in found if not found & {*run.parents})


def folds(run: Path) -> list[Path]:
    """The folders of a run's folds, the first first; none where there are none."""
    found = [path for path in (run / "folds").glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


# --- what Hydra wrote -----------------------------------------------------------------------------

_net = record({}, {"name": or_none(text())})
_config = record({"arch": _net, "seed": _count}, {"data": _mapping, "finetune": _mapping})
_choices = record(
    {"arch": text(1), "data": text(1), "finetune": text(1)},
    dict.fromkeys(("augment", "optimizer", "trainer"), or_none(text())),
)
_hydra = record({"hydra": record({"runtime": record({"choices": _choices})})})


def config(run: Path) -> dict[str, Any]:
    """The settings as Hydra composed them, not resolved."""
    return read_yaml(run / ".hydra" / "config.yaml", _config)


def choices(run: Path) -> dict[str, Any]:
    """The file of each config group that was chosen."""
    values = read_yaml(run / ".hydra" / "hydra.yaml", _hydra)
    return values["hydra"]["runtime"]["choices"]


def overrides(run: Path) -> list[str]:
    """What the command line said."""
    path = run / ".hydra" / "overrides.yaml"
    return read_yaml(path, items(text(1), most=1000))


# --- the split ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photo:
    """A photo of a split: its path below the root, the name of its class, and its group."""

    path: str
    label: str
    group: str | None = None


@dataclass(frozen=True)
class Split:
    """Which photos a run was trained, chosen and tested on; `photos` by `SPLITS`."""

    root: Path
    classes: list[str]
    photos: dict[str, list[Photo]]
    dropped: dict[str, str]  # photos that were left out, and why
    cut: dict[str, str] = field(default_factory=dict)  # how splits came about that are no folders
    warnings: list[str] = field(default_factory=list)  # what was said of them before training

    def paths(self, split: str) -> list[str]:
        """The photos' paths below the root."""
        return [photo.path for photo in self.photos[split]]


_photo = record({"path": text(1), "label": text(1)})
_classes = items(text(1), least=1, unique=True)
_photos = dict.fromkeys(SPLITS, items(anything))
_dropped = items(record({"path": text(1), "reason": text()}))
_said = {"cut": record({}, others=text()), "warnings": items(text())}
_split = record({}, {"root": text(1), "classes": _classes, "dropped": _dropped, **_photos, **_said})


def split(run: Path, *needed: str) -> Split:
    """The run's photos; of them all, or at least what is needed."""
    path = run / "split.json"
    values = read_json(path)
    with damage(path):
        found = split_of(values)
        _with(values, needed or ("root", "classes", *SPLITS))
        return found


def split_of(values: Any) -> Split:
    """The values of a `split.json`; the photos of older ones are paths, which hold the class.

    Raises:
        Wrong: they are no split.
    """
    _split(values)
    classes: list[str] = values.get("classes", [])
    known = dict.fromkeys(classes)
    every = [photo for name in SPLITS for photo in values.get(name, [])]
    paths = [PurePosixPath(photo).parts for photo in every if isinstance(photo, str)]
    place = _place_of_class(paths, classes) if classes and paths else None

    def read(photo: Any) -> Photo:
        if isinstance(photo, str):
            return Photo(photo, "" if place is None else PurePosixPath(photo).parts[place])
        _photo(photo)
        if photo["label"] not in known:
            raise Wrong(f"a photo's label isn't among the classes: {ascii(photo['label'])[:80]}")
        group = photo.get("group")
        return Photo(photo["path"], photo["label"], None if group is None else str(group))

    photos = {name: [read(photo) for photo in values.get(name, [])] for name in SPLITS}
    dropped = {drop["path"]: drop["reason"] for drop in values.get("dropped", [])}
    said = (values.get("cut", {}), values.get("warnings", []))
    return Split(Path(values.get("root", ".")), classes, photos, dropped, *said)


def _place_of_class(paths: list[tuple[str, ...]], classes: list[str]) -> int:
    """`cat/1.jpg` or `train/cat/1.jpg`: the place where each path has a class."""
    known = set(classes)
    for place in range(9):
        if all(len(parts) > place + 1 and parts[place] in known for parts in paths):
            return place
    raise Wrong("its photos aren't in folders that are called as its classes")


# --- rows -----------------------------------------------------------------------------------------


def history(run: Path) -> list[dict[str, Any]]:
    """A row an epoch: numbers, and the name of its `phase`."""
    path = run / "history.csv"
    with damage(path):
        header, rows = _table(path, ("epoch", "phase", "val/loss", "val/acc"))
        return [_epoch(dict(zip(header, row, strict=True))) for row in rows]


def _epoch(row: dict[str, str]) -> dict[str, Any]:
    numbers = {key: float(value) for key, value in row.items() if key != "phase" and value}
    _epochs_row(numbers)
    return numbers | {"epoch": int(numbers["epoch"]), "phase": escape.uncell(row["phase"])}


_epochs_row = record({"epoch": number(1, 1e9), "val/loss": _loss, "val/acc": _share})


@dataclass(frozen=True)
class Answer:
    """A row of `predictions.csv`: a test photo, its label, and what the model said.

    `confidence` is nan where an old file lacks it, `familiarity` where val couldn't promise any.
    """

    path: str
    label: str
    prediction: str
    confidence: float = math.nan
    familiarity: float = math.nan


def predictions(run: Path) -> list[Answer]:
    """What the model said of each test photo.

    Columns of classes begin with `p:`; those of older files don't. Neither are read.
    """
    path = run / "predictions.csv"
    with damage(path):
        header, rows = _table(path, ("path", "label", "prediction"))
        at = [header.index(name) for name in ("path", "label", "prediction")]
        more = [header.index(name) for name in ("confidence", "familiarity") if name in header[:5]]
        return [
            Answer(
                escape.uncell(row[at[0]]),
                escape.uncell(row[at[1]]),
                escape.uncell(row[at[2]]),
                *(float(row[i] or math.nan) for i in more),
            )
            for row in rows
        ]


def _table(path: Path, needed: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file; a DictReader would take most of the time of a comparison."""
    lines = list(csv.reader(io.StringIO(contents(path), newline=""), strict=True))
    header, rows = (lines or [[]])[0], lines[1:]
    if missing := [name for name in needed if name not in header]:
        raise Wrong(f"it has no column {', '.join(missing)}")
    for i, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise Wrong(f"row {i} has {len(row)} columns instead of {len(header)}")
    if not rows:
        raise Wrong("it has no rows")
    return header, rows
