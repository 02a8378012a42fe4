"""What each epoch came to, in the checkpoint and in `history.csv`."""

import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from thaw.errors import UserError
from thaw.files import write_csv
from thaw.training.unfreezing import MONITOR, StagedUnfreezing


class History(Callback):
    """A row an epoch, in the checkpoint and in `history.csv`.

    Args:
        val: whether there are val photos; without, the best epoch is the last.
    """

    def __init__(self, path: Path, staged: StagedUnfreezing, val: bool = True) -> None:
        self.path, self.staged, self.val = path, staged, val
        self.rows: list[dict[str, Any]] = []
        self.known_from = 0
        self.seconds_before = 0.0  # spent by processes that this one goes on from
        self.began = 0.0
        self.phase = ""
        self.seen = False  # val, in this epoch

    @property
    def best(self) -> dict[str, Any]:
        """The row of the epoch that `best.ckpt` holds: the first with the lowest val loss.

        Raises:
            UserError: no epoch is over.
        """
        if not self.rows:
            raise UserError(
                "Training was ended (by one of callbacks, or trainer.max_time) before its first"
                " epoch was over, so there is nothing to test."
            )
        if not self.val:
            return self.rows[-1]
        return min(self.rows[self.known_from :], key=lambda row: row[MONITOR])

    def forget_best(self) -> None:
        """The weights of all epochs but the last are gone, so the best is that or a later one."""
        self.known_from = len(self.rows) - 1

    def state_dict(self) -> dict[str, Any]:
        """The rows, and from which of them on one may be the best."""
        return {"rows": self.rows, "known_from": self.known_from}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows of a checkpoint; later epochs of an interrupted run are forgotten."""
        self.rows, self.known_from = list(state_dict["rows"]), state_dict.get("known_from", 0)
        self.seconds_before = sum(row["seconds"] for row in self.rows)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.began, self.phase = time.perf_counter(), self.staged.phase.name
        self.seen = not self.val

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch is whole; a callback, or `trainer.max_time`, may end one before."""
        self.seen = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's row."""
        if not self.seen:
            return
        metrics = trainer.callback_metrics
        own = ("train/loss", "train/acc", "val/loss", "val/acc", "val/f1")
        keys = [*own, *(key for key in metrics if key.startswith("val/") and key not in own)]
        rates = {g["stage"]: g["lr"] for g in trainer.optimizers[0].param_groups}
        row = {"epoch": trainer.current_epoch + 1, "phase": self.phase}
        row |= {key: float(metrics.get(key, math.nan)) for key in keys}
        row |= {"lr/head": rates["head"], "seconds": round(time.perf_counter() - self.began, 3)}
        self.rows.append(row)
        if trainer.is_global_zero:
            columns = dict.fromkeys(key for row in self.rows for key in row)
            write_csv(self.path, [dict.fromkeys(columns, "") | row for row in self.rows])
