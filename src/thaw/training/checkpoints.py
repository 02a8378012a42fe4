"""Checkpoints that a kill can't spoil: whole or absent, without pickled code, and not too often."""

import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from thaw.errors import UserError
from thaw.files import beside, reserve
from thaw.launch.build import first_line
from thaw.nets.backbone import Backbone
from thaw.runs.schema import Wrong, anything, items, number, record, text, whole
from thaw.training.history import History
from thaw.training.unfreezing import MONITOR, StagedUnfreezing

log = logging.getLogger(__name__)
EVERY = 10.0  # seconds between checkpoints, at least


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and load without running pickled code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write beside, sync to disk, rename."""
        path = Path(path)
        with beside(path) as partial:
            with partial.open("r+b") as file:
                reserve(file, sum(tensor.nbytes for tensor in _tensors(checkpoint)))
                torch.save(checkpoint, file)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            if path.name == "last.ckpt" and path.exists():
                os.replace(path, path.with_name("previous.ckpt"))  # should the new one be damaged


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    """Those in nested values; on disk each storage is there once."""
    found: dict[int, torch.Tensor] = {}
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            found[value.untyped_storage().data_ptr()] = value
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    yield from found.values()


class Checkpoints(Checkpoint):
    """`last.ckpt` to go on from, `best.ckpt` with the weights of the best epoch on val.

    Written at the end of each phase, and else once in `EVERY` seconds: a head's epoch on cached
    features takes less time than writing down a large net. What a run loses by being killed it
    makes again, bit for bit.
    """

    def __init__(self, folder: Path, staged: StagedUnfreezing, history: History) -> None:
        self.folder, self.staged, self.history = folder, staged, history
        self.best: dict[str, Any] = {}  # weights of this phase's best epoch, if it is the run's
        self.pending = False  # they aren't in the file yet
        self.written = time.monotonic()
        self.phases = 1  # that have begun

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on has begun some phases; what it lost of its best epoch is said."""
        self.phases = len(self.staged.starts)
        if self.history.rows:
            self._check_best(pl_module)

    def _check_best(self, module: LightningModule) -> None:
        path = self.folder / "best.ckpt"
        if (reason := _unreadable(path, module)) is None:
            return
        best, last = self.history.best["epoch"], self.history.rows[-1]["epoch"]
        self.history.forget_best()
        if best != last:
            log.warning(
                "%s %s: it held the best epoch, %d; the best from epoch %d on takes its place.",
                *(path, reason, best, last),
            )
        self.best = {name: t.detach().clone() for name, t in module.state_dict().items()}
        self._write_best(module.trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a phase that begins trains isn't frozen any more, as what is kept here may be."""
        if trainer.current_epoch == self.staged.starts[-1]:
            self.best = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Comes last of all callbacks: whether the phase is over has been decided."""
        if self.history.rows and self.history.best["epoch"] == trainer.current_epoch + 1:
            backbone = pl_module.backbone
            assert isinstance(backbone, Backbone)
            moving = {
                id(tensor)
                for stage in [*backbone.trained, *backbone.trained_norms]
                for tensor in backbone.named_tensors_of(stage).values()
            }
            # What is frozen stays as it is until the phase ends, and this is written by then.
            self.best = {
                name: tensor.detach().clone() if id(tensor) in moving else tensor.detach()
                for name, tensor in pl_module.state_dict(keep_vars=True).items()
            }
            self.pending = True
        begun, self.phases = self.phases, len(self.staged.starts)
        now = time.monotonic()
        if trainer.strategy.broadcast(begun != self.phases or now - self.written >= EVERY):
            if self.pending:
                self._write_best(trainer)
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self.written = time.monotonic()

    def _write_best(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            facts = {"state_dict": self.best, "epoch": self.history.best["epoch"] - 1}
            AtomicCheckpoints().save_checkpoint(facts, self.folder / "best.ckpt")
        self.pending = False

    def load_best(self, module: LightningModule) -> None:
        """Put the weights of the best epoch on val into the module.

        `Trainer.test(ckpt_path=…)` would set the callbacks back to that epoch too.
        """
        assert self.history.best  # or it says that there is none
        if not self.best:
            self._check_best(module)  # of a run that had trained all its epochs before
        path = self.folder / "best.ckpt"
        best = self.best or torch.load(path, "cpu", weights_only=True)["state_dict"]
        module.load_state_dict(best)
        self.best = {}


def resume_point(folder: Path, module: LightningModule) -> Path | None:
    """The newest checkpoint that is whole and this module's; None to begin at the beginning."""
    for path in (folder / "last.ckpt", folder / "previous.ckpt"):
        if not path.is_file():
            continue
        reason = why_unusable(path, module)
        if reason is None:
            log.info("going on from %s", path)
            return path
        log.warning("%s %s; going on from what was before it.", path, reason)
    return None


def why_unusable(path: Path, module: LightningModule) -> str | None:
    """What is wrong with a file as a checkpoint to go on from; None if nothing is."""
    if reason := _unreadable(path, module):
        return reason
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        _whole(found)
        _agree(found)
        _best_of(module, found["callbacks"]["StagedUnfreezing"]["best_weights"])
    except Wrong as wrong:
        return f"is no checkpoint of Thaw's ({wrong})"
    return None


def _agree(found: dict[str, Any]) -> None:
    """Raise Wrong unless its parts say alike how many epochs were done, and of which phases."""
    staged, history = (found["callbacks"][name] for name in ("StagedUnfreezing", "History"))
    done = [row["epoch"] for row in history["rows"]][-1:]
    counted = found["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    starts = staged["starts"]
    if not done == [counted] == [found["epoch"] + 1]:
        raise Wrong(
            f"its parts say that {done}, {counted} and {found['epoch'] + 1} epochs are done"
        )
    if history.get("known_from", 0) >= counted:
        raise Wrong(f"it says that no weights of its {counted} epochs are known")
    if starts != sorted(starts) or starts[0] != 0 or starts[-1] > counted:
        raise Wrong(
            f"it says that its phases began at {starts}, and that {counted} epochs are done"
        )


def _best_of(module: LightningModule, best: dict[str, Any]) -> None:
    """Raise Wrong unless these weights of a phase are some of the net's."""
    own = module.state_dict()
    for name, tensor in best.items():
        like = own.get(f"backbone.net.{name}")
        if like is None or not isinstance(tensor, torch.Tensor) or tensor.shape != like.shape:
            raise Wrong(f"its best weights of a phase, {name!r}, aren't of this net")


@contextmanager
def going_on(path: Path | None) -> Iterator[None]:
    """Inside `with`, Lightning goes on from a checkpoint, whose parts may not fit this run.

    Raises:
        UserError: they don't, which Lightning tells in as many ways as there are parts.
    """
    try:
        yield
    except Exception as error:
        if path is None or not _of_what_was_loaded(error):
            raise
        raise UserError(
            f"{path} isn't one to go on from: a part of it doesn't fit this run"
            f" ({first_line(error)}). Remove it to go on from what was before it."
        ) from error


def _of_what_was_loaded(error: Exception) -> bool:
    """Whether loading a checkpoint raised it, or the optimizer, which uses its state first when it
    steps; what trains inside of a step is Lightning's again.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return False
    files = [Path(frame.filename).as_posix() for frame in traceback.extract_tb(error.__traceback__)]
    innermost = takewhile(lambda file: "/lightning/" not in file, reversed(files))
    return any("checkpoint_connector" in file for file in files) or any(
        "/torch/optim/" in file for file in innermost
    )


_number = number(finite=False)
_drawn = dict.fromkeys(("train/loss", "train/acc", MONITOR, "val/acc"), _number)
_row = record({"epoch": whole(1, 10**9), "phase": text()} | _drawn, others=_number)
_count = whole(0, 10**12)
_staged = {
    "starts": items(_count, least=1),
    "frozen": record({}, others=text()),
    "best_loss": _number,
    "stale": _count,
    "best_weights": record({}),
    "verified": items(text()),
}
_history = {"rows": items(_row)}
_callbacks = {
    "StagedUnfreezing": record(_staged, {"changed": record({}, others=items(text()))}, others=None),
    "History": record(_history, {"known_from": _count}, others=None),
}


def _progress(value: Any) -> None:
    """Counts and flags of Lightning's loops, nested."""
    if isinstance(value, dict):
        record({}, others=_progress)(value)
    elif not isinstance(value, bool):
        _count(value)


_epochs = record({"current": record({"processed": _count}, others=_progress)}, others=_progress)
_optimizer = record({"state": anything, "param_groups": items(record({"params": anything}))})
_whole = record(
    {
        "epoch": _count,
        "global_step": _count,
        "callbacks": record(_callbacks),
        "optimizer_states": items(_optimizer, 1, 1),
        "loops": record({"fit_loop": record({"epoch_progress": _epochs}, others=_progress)}),
    }
)


def _unreadable(path: Path, module: LightningModule) -> str | None:
    """What keeps a file's weights from being this module's; None if nothing does."""
    if not path.is_file():
        return "is missing"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes torch raise
        return f"is damaged ({type(error).__name__})"
    state = found.get("state_dict") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        return "is no checkpoint of Thaw's"
    shapes = {name: tensor.shape for name, tensor in state.items()}
    if shapes != {name: tensor.shape for name, tensor in module.state_dict().items()}:
        return "is of another net"
    return None
