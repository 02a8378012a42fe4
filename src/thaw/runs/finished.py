"""What finished runs left in their folders. Nothing here imports torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaw.errors import UserError
from thaw.launch.names import arch_name
from thaw.runs import read, shipped

# Settings that change where or how fast a run is, but not what comes out.
ASIDES = ("seed", "resume", "resume_with_changes", "debug", "cache", "data.workers", "refit")
ASIDES += ("logger", "metrics")


@dataclass(frozen=True)
class Run:
    """What a finished run left."""

    path: Path
    seed: int
    settings: dict[str, Any]  # by dotted key, without ASIDES
    choices: dict[str, str]  # of each config group
    metrics: dict[str, Any]
    history: list[dict[str, Any]]  # a row an epoch
    right: dict[tuple[str, str], bool]  # by a test photo's path and label
    val: frozenset[str]  # paths of the val photos
    groups: dict[str, str]  # by path, of photos that come in groups (`data.group`)
    device: str
    updated: str


@dataclass(frozen=True)
class Unfinished:
    """A run that doesn't count, and why."""

    path: Path
    state: str
    reason: str


def find(paths: Sequence[Path]) -> tuple[list[Run], list[Unfinished]]:
    """All runs in these folders, at any depth.

    Raises:
        UserError: a path is no folder, or no run in it is finished.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"Expected a run folder or a folder of runs, but there is no {path}.")
        found = read.run_folders(path)
        if not found:
            raise UserError(
                f"Expected a run folder or a folder of runs, but {path} holds none: a run has a"
                " status.json; runs are in outputs/runs and outputs/sweeps."
            )
        folders |= {folder.resolve(): folder for folder in found}
    runs: list[Run] = []
    unfinished: list[Unfinished] = []
    for folder in folders.values():
        try:
            status = read.status(folder)
            if status["state"] != "done":
                reason = status.get("reason") or f"last heard of {status['updated'] or 'never'}"
                unfinished.append(Unfinished(folder, status["state"], reason.partition("\n")[0]))
            else:
                runs.append(_read(folder, status))
        except UserError as error:
            unfinished.append(Unfinished(folder, "damaged", str(error).rstrip(".")))
    if not runs:
        why = "; ".join(f"{run.path} {run.state} ({run.reason})" for run in unfinished[:3])
        raise UserError(f"Expected a finished run, but of {len(unfinished)} none is: {why}.")
    _pool_latency(runs)
    return runs, unfinished


def _pool_latency(runs: Sequence[Run]) -> None:
    """Give runs of one net on one machine one latency, the lowest.

    It is the net's, however that was trained; what differs is what else the machine was doing.
    """
    nets: dict[str, list[Run]] = {}
    for run in runs:
        arch = [item for item in sorted(run.settings.items()) if item[0].startswith("arch.")]
        size = run.metrics.get("params/total")  # of an ensemble of folds, that of all its nets
        nets.setdefault(repr([arch, size, run.device]), []).append(run)
    for same in nets.values():
        latency = min(run.metrics.get("model/latency_ms", math.inf) for run in same)
        latency = math.nan if math.isinf(latency) else latency
        for run in same:
            run.metrics["model/latency_ms"] = latency


def _read(folder: Path, status: Mapping[str, Any]) -> Run:
    chosen, split = read.choices(folder), read.split(folder, "val")
    settings = shipped.with_defaults(shipped.moved(read.config(folder)), chosen)
    circumstances = read.environment(folder, "device", "threads")
    threads = circumstances["threads"]
    return Run(
        path=folder,
        seed=settings["seed"],
        settings=_flat(settings),
        choices=chosen | {"arch": arch_name(chosen["arch"], settings["arch"].get("name"))},
        metrics=read.metrics(folder),
        history=read.history(folder),
        right={(a.path, a.label): a.label == a.prediction for a in read.predictions(folder)},
        val=frozenset(split.paths("val")),
        groups={
            photo.path: photo.group
            for photos in split.photos.values()
            for photo in photos
            if photo.group is not None
        },
        device=f"{circumstances['device']}, {threads} thread{'s' if threads != 1 else ''}",
        updated=status["updated"],
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in ASIDES:
            continue
        flat |= _flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return flat
