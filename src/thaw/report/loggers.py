"""What other programs are told of a run: TensorBoard, CSV files, MLflow, Weights & Biases."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from thaw.escape import printable
from thaw.report.board.words import texts
from thaw.training.plugins import all_made, plain_node

GROUPS = ("arch", "data", "finetune", "optimizer", "augment", "loss")
ASIDE = ("resume", "resume_with_changes", "debug", "cache", "logger", "callbacks", "metrics")


def make_loggers(nodes: Mapping[str, Any] | None, folder: Path) -> list[Logger]:
    """The loggers of the group `logger`, several at once or none.

    A `save_dir` that is null is the run's folder; a `name` or `run_name` is what that is called.
    MLflow's `artifact_location` is then a folder beside its database, where that is a file here.

    Raises:
        UserError: naming all that can't be made.
    """
    filled = {"save_dir": str(folder), "name": folder.name, "run_name": folder.name}
    told = {}
    for name, node in (plain_node(nodes) or {}).items():
        if isinstance(node, Mapping):
            node = {**node, **{k: v for k, v in filled.items() if node.get(k, "") is None}}
            _, mine, database = str(node.get("tracking_uri")).partition("sqlite:///")
            if mine and node.get("artifact_location", "") is None:
                node["artifact_location"] = str(Path(database).absolute().with_suffix(""))
        told[name] = node
    return list(all_made("logger", told, Logger).values())


def begin(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Have all settings in TensorBoard's `hparams.yaml`, which is written when training begins."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            assert isinstance(logger.hparams, dict)
            logger.hparams.update(settings)


def log_result(
    loggers: Sequence[Logger],
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    step: int,
    run: Path,
    board: Callable[[TensorBoardLogger], None] | None = None,
) -> None:
    """Tell each logger the run's settings and what came out.

    Args:
        settings: as `varying` gives them.
        run: its folder, of which W&B and MLflow get figures and texts.
        board: tells TensorBoard all else.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            hparams(logger.experiment, settings)
        else:
            logger.log_hyperparams(dict(settings))
        logger.log_metrics(dict(metrics), step)
        if isinstance(logger, TensorBoardLogger) and board is not None:
            board(logger)
        _show(logger, run, settings)
        logger.save()


def _show(logger: Logger, run: Path, settings: Mapping[str, Any]) -> None:
    """Figures and texts, to those that take them beside what TensorBoard is told."""
    figures = sorted(run.glob("figures/*.png"))
    if isinstance(logger, WandbLogger):
        for file in figures:
            logger.log_image(f"figures/{file.stem}", [str(file)])
        rows = [[tag, text] for tag, text in texts(run, settings).items()]
        logger.log_text("texts", ["about", "text"], rows)
    elif isinstance(logger, MLFlowLogger):
        client, called = logger.experiment, logger.run_id
        for file in [*figures, run / "report.html"]:
            if file.is_file():
                client.log_artifact(called, str(file))
        told = "\n\n".join(f"# {tag}\n\n{text}" for tag, text in texts(run, settings).items())
        client.log_text(called, told, "texts.md")


def varying(choices: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that may tell runs apart: the file that each group chose, and each setting by its key.

    Args:
        settings: all of them, nested.
    """
    chosen = {group: choices[group] for group in GROUPS if group in choices}
    told = chosen | dict(_leaves({k: v for k, v in settings.items() if k not in ASIDE}))
    return {key: value for key, value in told.items() if key != "arch.name"}  # `arch` has it


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif not name.startswith("_") and "${" not in str(value):
            yield f"{prefix}{name}", value


def hparams(writer: Any, settings: Mapping[str, Any]) -> None:
    """The run's settings for the HPARAMS tab, which itself finds out what varies.

    Without an `Experiment`, whose list of columns would be that of one run only.
    """
    from torch.utils.tensorboard.summary import hparams as summaries

    known = {
        key: value if isinstance(value, bool | int | float) else printable(str(value))
        for key, value in settings.items()
    }
    _, start, end = summaries(known, {})
    for summary in (start, end):
        writer._get_file_writer().add_summary(summary)


@contextmanager
def closing(loggers: Sequence[Logger]) -> Iterator[None]:
    """At the end, close what Weights & Biases holds open: in a sweep, jobs would share a run."""
    try:
        yield
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger) and logger._experiment is not None:
                logger.experiment.finish()
