"""The run folder: every file whole or absent at any moment, and enough to tell what ran."""

import csv
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf

from thaw.errors import UserError
from thaw.finetune import MONITOR, StagedUnfreezing

log = logging.getLogger(__name__)


def write(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, values: Any) -> None:
    """As `write`, for plain values."""
    write(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """As `write`, for rows of the same columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def plain(cfg: Any) -> dict[str, Any]:
    """Settings as nested dicts of plain values."""
    values = OmegaConf.to_container(cfg)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


class RunFolder:
    """One run's folder and its state: running, done, failed or interrupted."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.writes = writes  # of several processes that train together, one does
        self.checkpoints = path / "checkpoints"

    def __str__(self) -> str:
        """The path as a user in this directory would type it."""
        here = Path.cwd()
        return str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path)

    def resume_point(self, module: LightningModule) -> Path | None:
        """The newest checkpoint that is whole and this module's; None to begin at the beginning."""
        for path in (self.checkpoints / "last.ckpt", self.checkpoints / "previous.ckpt"):
            if not path.is_file():
                continue
            reason = _why_unusable(path, module)
            if reason is None:
                log.info("going on from %s", path)
                return path
            log.warning("%s %s; going on from what was before it.", path, reason)
        return None

    def load_best(self, module: LightningModule) -> None:
        """Put the weights of the best epoch on val into the module.

        `Trainer.test(ckpt_path=…)` would set the callbacks back to that epoch too.
        """
        checkpoint = torch.load(self.checkpoints / "best.ckpt", "cpu", weights_only=True)
        module.load_state_dict(checkpoint["state_dict"])

    @property
    def status(self) -> dict[str, Any]:
        """The contents of `status.json`; {} before the run began."""
        path = self.path / "status.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the run began with."""
        return plain(OmegaConf.load(self.path / ".hydra" / "config.yaml"))

    def begin(self, split: dict[str, Any], environment: dict[str, Any]) -> None:
        """Mark the run as running, and write what it runs on.

        Raises:
            UserError: a run is resumed on other photos than those it began with.
        """
        path = self.path / "split.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [
                key for key in ("classes", "train", "val", "test") if before[key] != split[key]
            ]
            if changed:
                raise UserError(
                    f"The photos in {split['root']} aren't those that the run began with"
                    f" ({', '.join(changed)} differ from {path}); start a new run."
                )
        if self.writes:
            write_json(path, split)
            write_json(self.path / "environment.json", environment)
            self._set("running")

    def end(self, state: str, reason: BaseException) -> None:
        """Mark a run that broke off; a folder in which none began is removed."""
        if not self.writes:
            return
        if self.status:
            self._set(state, reason=str(reason) or type(reason).__name__)
            return
        for name in (".hydra", "train.log"):  # all that Hydra has put there by now
            path = self.path / name
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(
                missing_ok=True
            )
        for folder in (self.path, *list(self.path.parents)[:3]):
            try:
                folder.rmdir()
            except OSError:  # not empty: it holds other runs
                return

    def finish(self, metrics: dict[str, Any], predictions: Sequence[Mapping[str, Any]]) -> None:
        """Write the results; `status.json` comes last, so that "done" means all is there."""
        write_csv(self.path / "predictions.csv", predictions)
        write_json(self.path / "metrics.json", metrics)
        self._set("done")

    def _set(self, state: str, **facts: Any) -> None:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        started = self.status.get("started", now)  # that of the run's first process
        values = {"state": state, "started": started, "updated": now, "pid": os.getpid(), **facts}
        write_json(self.path / "status.json", values)


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and load without running pickled code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write beside, sync to disk, rename."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if path.name == "last.ckpt" and path.exists():
            os.replace(path, path.with_name("previous.ckpt"))  # should the new one be damaged
        os.replace(partial, path)


def _why_unusable(path: Path, module: LightningModule) -> str | None:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes torch raise
        return f"is damaged ({type(error).__name__})"
    needed = {"StagedUnfreezing", "History"}
    if not isinstance(checkpoint, dict) or not needed <= set(checkpoint.get("callbacks", ())):
        return "is no checkpoint of Thaw's"
    shapes = {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}
    if shapes != {name: tensor.shape for name, tensor in module.state_dict().items()}:
        return "is of another net"
    return None


class History(Callback):
    """A row an epoch, in the checkpoint and in `history.csv`."""

    def __init__(self, path: Path, staged: StagedUnfreezing) -> None:
        self.path, self.staged = path, staged
        self.rows: list[dict[str, Any]] = []
        self.seconds_before = 0.0  # spent by processes that this one goes on from
        self.began = 0.0
        self.phase = ""

    @property
    def best(self) -> dict[str, Any]:
        """The row of the epoch that `best.ckpt` holds: the first with the lowest val loss."""
        return min(self.rows, key=lambda row: row[MONITOR])

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows of a checkpoint; later epochs of an interrupted run are forgotten."""
        self.rows = list(state_dict["rows"])
        self.seconds_before = sum(row["seconds"] for row in self.rows)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.began, self.phase = time.perf_counter(), self.staged.phase.name

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's row."""
        metrics = trainer.callback_metrics
        keys = ("train/loss", "train/acc", "val/loss", "val/acc", "val/f1")
        rates = {g["stage"]: g["lr"] for g in trainer.optimizers[0].param_groups}
        row = {"epoch": trainer.current_epoch + 1, "phase": self.phase}
        row |= {key: float(metrics[key]) for key in keys}
        row |= {"lr/head": rates["head"], "seconds": round(time.perf_counter() - self.began, 3)}
        self.rows.append(row)
        if trainer.is_global_zero:
            write_csv(self.path, self.rows)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys of nested settings whose values differ, as `key: before -> now`.

    >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    ['a.b: 1 -> 3']
    """
    found: list[str] = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old} -> {new}")
    return found


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError where a run would be resumed with other settings."""
    asides = {"resume", "resume_with_changes", "debug"}
    changed = differences(
        {key: value for key, value in before.items() if key not in asides},
        {key: value for key, value in now.items() if key not in asides},
    )
    if changed:
        raise UserError(
            "The run began with other settings: " + "; ".join(changed) + ". Resume it without"
            " them, or add resume_with_changes=true."
        )
