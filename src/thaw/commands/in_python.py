"""`thaw.train`, `thaw.check`, `thaw.compare`: in Python what the command line does."""

import csv
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from thaw.commands import train as command
from thaw.commands.words import words_of
from thaw.errors import UserError
from thaw.escape import uncell
from thaw.launch import cli, conf, mistakes, names
from thaw.launch.mistakes import told
from thaw.runs import read, trust

if TYPE_CHECKING:
    from thaw.checks.check import Checked
    from thaw.comparison.leaderboard import Leaderboard
    from thaw.model.bundle import Model

_one_at_a_time = threading.Lock()  # Hydra's state is the process's


class Figure:
    """A picture in a file, which a notebook shows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Figure({str(self.path)!r})"

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


class Run(os.PathLike[str]):
    """A finished run: what its folder holds, read when it is asked for.

    It can stand wherever a run folder's path can.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, test accuracy {self.metrics['test/acc']:.1%})"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The contents of `metrics.json`: `test/acc`, `val/loss`, …"""
        return read.metrics(self.path)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """A row an epoch, as in `history.csv`."""
        return read.history(self.path)

    @cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """A row a test photo, as in `predictions.csv`."""
        return _rows(self.path / "predictions.csv", texts={"path", "label", "prediction"})

    @cached_property
    def model(self) -> "Model":
        """The trained model: `list(run.model.predict(["a.jpg"]))`."""
        from thaw.model.bundle import load

        return load(self.path)

    @property
    def figures(self) -> dict[str, Figure]:
        """What was drawn of it, by name; a notebook shows `run.figures["confusion"]`."""
        return {path.stem: Figure(path) for path in sorted(self.path.glob("figures/*.png"))}


def _rows(path: Path, texts: set[str]) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {key: uncell(v) if key in texts else _number(v) for key, v in row.items()}
            for row in csv.DictReader(file)
        ]


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def train(*overrides: str, **settings: Any) -> Run:
    """Train as `thaw train` does, into the same folders; returns the finished run.

    Args:
        overrides: words as on the command line: `"arch=resnet18"`.
        settings: the same as values, which need no quotes: `seed=1`, `data="photos/"` (a folder of
            photos, or the name of settings), `finetune={"phases": {"head": {"epochs": 10}}}` or
            `**{"finetune.phases.head.epochs": 10}`.

    Raises:
        UserError: something can't be used; nothing is left half-written.
    """
    for word in overrides:
        if not isinstance(word, str):
            raise UserError(f"Expected words such as 'arch=resnet18', got {word!r}.")
    words = trust.expanded([*mistakes.read(overrides), *words_of(settings)])
    cli.say_loading()
    with _one_at_a_time, _process_as_it_was():
        return Run(begun(words))


def begun(words: list[str], do: command.Do | None = None, shown: int = logging.INFO) -> Path:
    """Compose the settings and do the run in this process; returns its folder.

    Args:
        do: in place of `one_run`.
        shown: the level of the log from which on lines go to the screen, too.
    """
    names.register_resolvers(words)
    conf.register()
    folder: list[Path] = []

    def task(cfg: DictConfig) -> None:
        hydra_cfg = HydraConfig.get()
        folder.append(Path(hydra_cfg.runtime.output_dir))
        if cfg.trainer.devices not in (1, "1"):
            # Further ranks are started with the command line of this process, whatever that is.
            try:
                cli.run_alone(hydra_cfg.overrides.task, str(folder[0]))
            except UserError as error:
                raise cli.Refused(str(error)) from error
            return
        dated = hydra_cfg.job_logging["formatters"]["dated"]["format"]
        with log_to(folder[0] / "train.log", dated, shown):
            command.run(cfg, do)

    try:
        with told(words), initialize_config_dir(str(conf.folder()), "train", conf.VERSION):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            if hydra.get_mode("config", words) is RunMode.MULTIRUN:
                raise UserError(
                    "Expected the settings of one run, but these are of several (a sweep); use"
                    " thaw train on the command line, or a loop."
                )
            hydra.run("config", task, words, with_log_configuration=False)
    except cli.Refused as refused:
        raise UserError(refused.sentence) from refused.__cause__
    except Exception as error:
        sentence = cli.user_sentence(error)
        if sentence is None or isinstance(error, UserError):
            raise
        raise UserError(sentence) from error
    return folder[0]


@contextmanager
def log_to(file: Path, dated: str, shown: int = logging.INFO) -> Iterator[None]:
    """Thaw's lines go to the screen and to a file, and to nobody else's handlers.

    By hand, since `logging.config` closes the files of every other handler in the process.
    """
    root, ours = logging.getLogger(), logging.getLogger("thaw")
    before = (root.handlers[:], root.level, ours.level)
    whole, screen = logging.FileHandler(file, encoding="utf-8"), cli.ConsoleHandler(shown)
    whole.setFormatter(logging.Formatter(dated))
    root.handlers[:] = [screen, whole]
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        whole.close()
        root.handlers[:], level, own = before
        root.setLevel(level)
        ours.setLevel(own)


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """What a run changes in its process is put back: Hydra's state, signals, warnings, levels."""
    main = threading.current_thread() is threading.main_thread()
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)} if main else {}
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    interrupted: int | None = None
    try:
        GlobalHydra.instance().clear()
        if main:
            cli.exit_on_signals()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")  # nobody shows tqdm's bars
            yield
    except cli.Interrupted as interrupt:
        interrupted = interrupt.signum
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if interrupted is not None:
            signal.raise_signal(interrupted)  # for whoever waits for it: Ctrl-C in a notebook
            raise KeyboardInterrupt  # where nobody does, there is still no run to return


def compare(runs: Sequence[Run | str | os.PathLike[str]] | Run | str) -> "Leaderboard":
    """Which of these runs is best, and whether that is more than noise: `.sentences` says it.

    Args:
        runs: runs, run folders, or folders that hold some.

    Raises:
        UserError: none is finished, or they were tested on different photos.
    """
    from thaw.comparison.leaderboard import compare

    several = [runs] if isinstance(runs, str | os.PathLike) else runs
    return compare([Path(run) for run in several])


def check(*overrides: str, out: str | os.PathLike[str] | None = None, **settings: Any) -> "Checked":
    """Say what is wrong with photos, as `thaw check` does; `.findings`, `.sentences` and files.

    Args:
        overrides: words as on the command line, as for `train`.
        out: where check.html, check.csv and check.json go; by default a folder in outputs/check.
        settings: as for `train`: `data="photos/"`.

    Raises:
        UserError: a setting can't be used, or the photos can't.
    """
    from thaw.checks.check import check

    return check([*overrides, *words_of(settings)], Path(out) if out else None)
