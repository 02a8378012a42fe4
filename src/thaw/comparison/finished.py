"""What finished runs left in their folders. Nothing here imports torch."""

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thaw.errors import UserError
from thaw.launch.names import arch_name

# Settings that change where or how fast a run is, but not what comes out.
ASIDES = ("seed", "resume", "resume_with_changes", "debug", "cache", "data.workers")


@dataclass(frozen=True)
class Run:
    """What a finished run left."""

    path: Path
    seed: int
    settings: dict[str, Any]  # by dotted key, without ASIDES
    choices: dict[str, str]  # of each config group
    metrics: dict[str, Any]
    history: list[dict[str, float]]  # a row an epoch: val/loss and val/acc
    right: dict[tuple[str, str], bool]  # by a test photo's path and label
    val: frozenset[str]  # paths of the val photos
    device: str
    updated: str


@dataclass(frozen=True)
class Unfinished:
    """A run that doesn't count, and why."""

    path: Path
    state: str
    reason: str


def read(paths: Sequence[Path]) -> tuple[list[Run], list[Unfinished]]:
    """All runs in these folders, at any depth.

    Raises:
        UserError: a path is no folder, or no run in it is finished.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"Expected a run folder or a folder of runs, but there is no {path}.")
        found = sorted(status.parent for status in path.rglob("status.json"))
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
            status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
            if status["state"] != "done":
                reason = status.get("reason") or f"last heard of {status.get('updated', 'never')}"
                unfinished.append(Unfinished(folder, status["state"], str(reason).splitlines()[0]))
            else:
                runs.append(_read(folder, status))
        except Exception as error:  # whatever a damaged file makes its reader raise
            unfinished.append(Unfinished(folder, "damaged", f"{type(error).__name__}: {error}"))
    if not runs:
        why = "; ".join(f"{run.path} {run.state} ({run.reason})" for run in unfinished[:3])
        raise UserError(f"Expected a finished run, but of {len(unfinished)} none is: {why}.")
    _pool_latency(runs)
    return runs, unfinished


def _pool_latency(runs: Sequence[Run]) -> None:
    """Give runs of one net on one machine one latency, their median.

    It is the net's, however that was trained; what differs is what else the machine was doing.
    """
    nets: dict[str, list[Run]] = {}
    for run in runs:
        arch = [item for item in sorted(run.settings.items()) if item[0].startswith("arch.")]
        nets.setdefault(repr([arch, run.device]), []).append(run)
    for same in nets.values():
        latency = statistics.median(run.metrics.get("model/latency_ms", math.nan) for run in same)
        for run in same:
            run.metrics["model/latency_ms"] = latency


def _read(folder: Path, status: Mapping[str, Any]) -> Run:
    cfg, hydra = _yaml(folder / ".hydra" / "config.yaml"), _yaml(folder / ".hydra" / "hydra.yaml")
    choices = dict(hydra["hydra"]["runtime"]["choices"])
    choices["arch"] = arch_name(choices["arch"], cfg["arch"].get("name"))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    missing = [key for key in ("val/loss", "val/acc", "test/acc") if key not in metrics]
    if missing:
        raise ValueError(f"metrics.json lacks {', '.join(missing)}")
    split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
        history = [
            {key: float(row[key]) for key in ("val/loss", "val/acc")}
            for row in csv.DictReader(file)
        ]
    return Run(
        path=folder,
        seed=cfg["seed"],
        settings=_flat(cfg),
        choices=choices,
        metrics=metrics,
        history=history,
        right=_right(folder / "predictions.csv"),
        val=frozenset(p if isinstance(p, str) else p["path"] for p in split["val"]),
        device=_device(folder),
        updated=status["updated"],
    )


def _yaml(path: Path) -> Any:
    """What OmegaConf saved, read by libyaml where it is: a sweep may have hundreds of runs."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), loader)


def _right(path: Path) -> dict[tuple[str, str], bool]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)  # a DictReader would take most of the time
        header = next(rows, [])
        at, label, prediction = (header.index(name) for name in ("path", "label", "prediction"))
        return {(row[at], row[label]): row[label] == row[prediction] for row in rows}


def _device(folder: Path) -> str:
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    threads = environment["threads"]
    return f"{environment['device']}, {threads} thread{'s' if threads != 1 else ''}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in ASIDES:
            continue
        flat |= _flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return flat
