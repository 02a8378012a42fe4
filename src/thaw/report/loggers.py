"""What other programs are told of a run: TensorBoard, CSV files, MLflow, Weights & Biases."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from thaw.training.plugins import all_made, plain_node


def make_loggers(nodes: Mapping[str, Any] | None, folder: Path) -> list[Logger]:
    """The loggers of the group `logger`, several at once or none.

    A `save_dir` that is null is the run's folder; a `name` or `run_name` is what that is called.

    Raises:
        UserError: naming all that can't be made.
    """
    filled = {"save_dir": str(folder), "name": folder.name, "run_name": folder.name}
    told = {
        name: {**node, **{k: v for k, v in filled.items() if node.get(k, "") is None}}
        if isinstance(node, Mapping)
        else node
        for name, node in (plain_node(nodes) or {}).items()
    }
    return list(all_made("logger", told, Logger).values())


def log_result(
    loggers: Sequence[Logger], settings: Mapping[str, Any], metrics: Mapping[str, float], step: int
) -> None:
    """Tell each logger the run's short settings and what came out; TensorBoard's HPARAMS tab."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(settings), dict(metrics))
        else:
            logger.log_hyperparams(dict(settings))
            logger.log_metrics(dict(metrics), step)
        logger.save()


@contextmanager
def closing(loggers: Sequence[Logger]) -> Iterator[None]:
    """At the end, close what Weights & Biases holds open: in a sweep, jobs would share a run."""
    try:
        yield
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger) and logger._experiment is not None:
                logger.experiment.finish()
