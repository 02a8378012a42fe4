"""The run folder: every file whole or absent at any moment, and enough to tell what ran."""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from thaw.errors import UserError
from thaw.files import remove_left_overs, write_csv, write_json, write_over
from thaw.runs import read, shipped


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
        self.began = False  # by this process
        self.lock = FileLock(path / ".lock")

    def __str__(self) -> str:
        """The path as a user in this directory would type it."""
        here = Path.cwd()
        return str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path)

    @property
    def status(self) -> dict[str, Any]:
        """The contents of `status.json`; {} before the run began."""
        return read.status(self.path)

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings that the run began with; None before it began.

        Not those in `.hydra`: Hydra has written the present ones there.
        """
        if not (self.path / "environment.json").exists():
            return None
        return shipped.moved(read.environment(self.path, "settings")["settings"])

    @property
    def metrics(self) -> dict[str, Any]:
        """The contents of `metrics.json`."""
        return read.metrics(self.path)

    def claim(self) -> None:
        """Keep other processes from training in this folder, until it ends or this one does.

        Raises:
            UserError: another one does, or the photos of the run that began here can't be read.
        """
        if (self.path / "split.json").exists():
            read.split(self.path)
        if not self.writes:
            return
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            who = self.status.get("pid")
            raise UserError(
                f"Expected {self} to be free, but another process"
                f"{f' ({who})' if who else ''} is training in it; wait for it, or start a new run."
            ) from error

    def _release(self) -> None:
        if self.lock.is_locked:
            self.lock.release()
            (self.path / ".lock").unlink(missing_ok=True)

    def begin(self, split: dict[str, Any], environment: dict[str, Any]) -> None:
        """Mark the run as running, and write what it runs on.

        Raises:
            UserError: a run is resumed on other photos than those it began with.
        """
        path = self.path / "split.json"
        if path.exists():
            changed = _differences(read.split(self.path), read.split_of(split))
            if changed:
                raise UserError(
                    f"The photos in {split['root']} aren't those that the run began with, see"
                    f" {path}: {'; '.join(changed)}; put them back, or start a new run."
                )
        if self.writes:
            write_json(path, split)
            write_json(self.path / "environment.json", environment)
            self._set("running")
            self.began = True

    def end(self, state: str, reason: BaseException, keep: bool = False) -> None:
        """Mark a run that broke off; a folder in which none began is removed unless `keep`."""
        self._release()
        if not self.writes:
            return
        try:
            status = self.status
        except UserError:  # damaged: this process has been refused for it
            return
        if status.get("state", "failed") != "failed" and not self.began:
            return  # what an earlier process left stays as it is where this one was refused
        if status or keep:
            remove_left_overs(self.path)
            with suppress(OSError):  # of a disk that is gone, or can only be read
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

    def results(self, metrics: dict[str, Any], predictions: Sequence[Mapping[str, Any]]) -> None:
        """Write what came out."""
        write_csv(self.path / "predictions.csv", predictions)
        write_json(self.path / "metrics.json", metrics)

    def finish(self) -> None:
        """`status.json` comes last, so that "done" means all is there."""
        self._set("done")
        self._release()

    def _set(self, state: str, **facts: Any) -> None:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        started = self.status.get("started", now)  # that of the run's first process
        values = {"state": state, "started": started, "updated": now, "pid": os.getpid(), **facts}
        write_over(self.path / "status.json", values)


def _differences(before: read.Split, now: read.Split) -> list[str]:
    """What differs between the photos of two calls, in words."""
    found = [f"classes were {before.classes}"] if before.classes != now.classes else []
    for split in read.SPLITS:
        was, has = ([(photo.path, photo.label) for photo in s.photos[split]] for s in (before, now))
        if was == has:
            continue
        old, new = ({path for path, _ in photos} for photos in (was, has))
        less, more = sorted(old - new), sorted(new - old)
        words = [f"{len(less):,} are gone ({less[0]})" if less else ""]
        words += [f"{len(more):,} are new ({more[0]})" if more else ""]
        why = ", ".join(filter(None, words)) or "labels, groups or their order are others"
        found.append(f"{split}: {why}")
    return found


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


def check_unchanged(run: RunFolder, now: Mapping[str, Any]) -> None:
    """Raise UserError where a run would be resumed with other settings."""
    if run.settings is None:
        return
    before = shipped.with_defaults(run.settings, read.choices(run.path))
    # They change no result.
    asides = {"resume", "resume_with_changes", "debug", "cache", "logger", "metrics", "refit"}
    changed = differences(
        {key: value for key, value in before.items() if key not in asides},
        {key: value for key, value in now.items() if key not in asides},
    )
    if changed:
        raise UserError(
            "The run began with other settings: " + "; ".join(changed) + ". Resume it without"
            " them, or add resume_with_changes=true."
        )
