"""TensorBoard's logger, with tags in the order in which one reads them."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from thaw.training.unfreezing import StagedUnfreezing

# TensorBoard sorts by name. What one looks at first comes first, train and val side by side.
TAGS = {
    "train/acc": "accuracy/train",
    "val/acc": "accuracy/val",
    "test/acc": "accuracy/test",
    "train/loss": "loss/train",
    "val/loss": "loss/val",
    "test/loss": "loss/test",
    "epoch": "progress/epoch",
    "phase": "progress/phase",
}
LAYOUT = {
    "accuracy": ["^accuracy/(train|val)$", "^progress/phase$"],
    "loss": ["^loss/(train|val)$", "^progress/phase$"],
    "learning rate of each stage": ["^lr/"],
    "other metrics on val": ["^val/"],
}


class Board(TensorBoardLogger):
    """Lightning's logger, which names curves so that accuracy and loss come first."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """As Lightning's; `train/acc` becomes `accuracy/train`, and so on."""
        told = {TAGS.get(name, name): value for name, value in metrics.items()}
        super().log_metrics(told, step)


class Live(Callback):
    """Tells loggers in which phase each epoch is, and TensorBoard how to show curves.

    `phase` goes up to 1 in as many steps as there are phases, so that it fits into any chart.
    """

    def __init__(self, staged: StagedUnfreezing) -> None:
        self.staged = staged

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Charts of several curves; a run that goes on takes back what it will do again."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                if trainer.global_step:
                    _take_back(logger, trainer.global_step)
                charts = {title: ["Multiline", tags] for title, tags in LAYOUT.items()}
                logger.experiment.add_custom_scalars({"training": charts})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark where the epoch begins; of a single phase there is nothing to tell."""
        phases = self.staged.schedule.phases
        if len(phases) == 1:
            return
        number = 1 + phases.index(self.staged.phase)
        for logger in trainer.loggers:
            logger.log_metrics({"phase": number / len(phases)}, trainer.global_step)


def _take_back(logger: TensorBoardLogger, step: int) -> None:
    """Hide what was logged from this step on, as `purge_step` does, which is known too late."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]

    start = SessionLog(status=SessionLog.START)
    logger.experiment.file_writer.add_event(Event(session_log=start), step)
