"""A sweep: each job on a line of its own, none stops another, and one table at the end.

Hydra imports this file when it starts, so torch and matplotlib are not imported with it.
"""

import copy
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from thaw.errors import UserError
from thaw.escape import printable
from thaw.files import write
from thaw.launch.cli import ConsoleHandler, user_sentence
from thaw.runs import read
from thaw.screen import duration, width, wrapped

if TYPE_CHECKING:
    from thaw.nets.backbone import Backbone
    from thaw.runs.folder import RunFolder

log = logging.getLogger(__name__)
failures: list[Path] = []  # runs of the sweep that ended, for the exit code
nets: dict[str, "Backbone"] = {}  # the pretrained net that the last job began with
took: list[float] = []  # seconds of each job that this process has done
TOTAL = "THAW_SWEEP_JOBS"  # how many jobs there are, for those in processes of their own
REFUSED = ".refused"  # in a finished run's folder, why this call of the sweep didn't accept it


def job(run: "RunFolder", train: Callable[[], float]) -> float:
    """Do one job, and print its line; returns the best val loss, infinity if it failed.

    What the job itself has to say goes to its `train.log`; of that, the terminal gets warnings.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ConsoleHandler):
            handler.setLevel(logging.WARNING)
    done_before, began = False, time.perf_counter()
    try:
        done_before = run.status.get("state") == "done"
        if run.writes and not done_before:
            show_begun(run.path.name)
        loss = train()
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None:
            log.debug("This is a defect:", exc_info=error)
            sentence = f"{type(error).__name__}: {error} (see {run}/train.log)"
        log.debug(sentence)
        run.end("failed", error, keep=True)
        if done_before:
            write(run.path / REFUSED, sentence)
        show_failed(run.path, sentence)
        return math.inf
    except BaseException as interrupt:  # Interrupted, or how a launcher stops its processes
        run.end("interrupted", interrupt, keep=True)
        raise
    if run.writes:
        metrics = run.metrics
        seconds = time.perf_counter() - began
        state = "done before" if done_before else f"{seconds:.1f} s"
        if not done_before:
            took.append(seconds)
        accuracies = f"val {metrics['val/acc']:.1%}  test {metrics['test/acc']:.1%}"
        show_both(run.path.name, f" {accuracies}  {state}")
    return loss


def show_begun(name: str) -> None:
    """Which job begins, of how many, and how long the rest takes if it takes as long as before."""
    from hydra.core.hydra_config import HydraConfig

    number, total = HydraConfig.get().job.num + 1, int(os.environ.get(TOTAL, 0))
    words = f"job {number}" + f" of {total}" * (total >= number)
    if took and total >= number:
        rest = sum(took) / len(took) * (total - number + 1)
        words += f", {duration(rest)} left"
    show_both(f"{words}:", name, "dim")


def backbone(arch: DictConfig, shared: bool, **seen: Any) -> "Backbone":
    """The net of these settings; jobs that begin with the same pretrained one may share it.

    Args:
        shared: keep it for the next job, which gets a copy.
    """
    from thaw.nets.pretrained import made

    if not shared:
        return made(arch, **seen)
    key = f"{OmegaConf.to_yaml(arch, resolve=True)}{seen}"
    if key not in nets:
        nets.clear()
        net = made(arch, **seen)
        if not net.pretrained:  # random weights are of the job's own seed
            return net
        nets[key] = net
    return copy.deepcopy(nets[key])


def show_failed(run: Path, reason: str) -> None:
    """The line of a job that failed, and below it why."""
    show_line(f"{run.name}  failed", "red")
    show_line("".join(f"  {line}\n" for line in reason.splitlines()).rstrip(), "red")


def show_both(one: str, other: str, style: str = "") -> None:
    """On one line, or where that is too narrow on two, neither broken."""
    line = f"{one} {other}"
    show_line(line if len(printable(line)) <= width() else f"{one}\n  {other}", style)


def show_line(text: str, style: str = "") -> None:
    """A line beside whatever bar is there; nothing in it is markup."""
    from rich import get_console

    lines = wrapped(printable(text, keep="\n"))
    get_console().print(lines, style=style, markup=False, highlight=False, soft_wrap=True)


def count(config: DictConfig) -> int:
    """Jobs of a sweep; 0 where its sweeper doesn't say."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = config.hydra.sweeper
    if not sweeper.get("_target_", "").endswith("BasicSweeper"):
        return int(sweeper.get("n_trials") or 0)
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    words = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    return sum(map(len, BasicSweeper.split_arguments(words, None)))


class Verdict(Callback):
    """Counts the jobs when a sweep ends, and compares those that are done."""

    def __init__(self) -> None:
        self.before: set[Path] = set()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember what an earlier call of the same sweep has done."""
        failures.clear()
        nets.clear()
        took.clear()
        os.environ[TOTAL] = str(count(config))
        if config.hydra.launcher.get("_target_", "").endswith("LocalLauncher"):
            # It starts all jobs at once and tells them nothing; joblib and Slurm limit theirs.
            os.environ["OMP_NUM_THREADS"] = str(config.hydra.launcher.cpus_per_task or 1)
        for mark in Path(config.hydra.sweep.dir).glob(f"**/{REFUSED}"):
            mark.unlink()
        self.before = {run for run, status in _jobs(config).items() if status["state"] == "done"}

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write `leaderboard.csv` and the figures into the sweep's folder, print the verdict."""
        nets.clear()
        launcher = config.hydra.launcher.get("_target_", "")
        if "joblib" in launcher:
            from joblib.externals import loky

            # Its processes would wait for more jobs, with all their memory, and hold up the exit.
            loky.get_reusable_executor().shutdown(kill_workers=True)
        jobs = _jobs(config)
        done = {run for run, status in jobs.items() if status["state"] == "done"}
        refused = {run for run in done if (run / REFUSED).exists()}
        failures.extend(run for run in jobs if run not in done or run in refused)
        if "submitit" in launcher:  # what its jobs print goes to files in `.submitit`
            for run in failures:
                mark = run / REFUSED
                told = mark.read_text(encoding="utf-8", errors="replace") if run in refused else ""
                show_failed(run, told or jobs[run].get("reason", f"see {run}/train.log"))
        before = len(self.before & done)
        print(
            f"\n{len(done)} of {len(jobs)} jobs done" * (before < len(jobs))
            + f"\n{before} of {len(jobs)} done before" * (before > 0),
            flush=True,
        )
        if not done:
            return
        from thaw.comparison import report

        folder = Path(config.hydra.sweep.dir)
        try:
            report.report([folder], folder)
        except UserError as error:
            log.warning("There is no verdict: %s", error)


def _jobs(config: DictConfig) -> dict[Path, dict[str, Any]]:
    """Run folders of a sweep, and how they stand."""
    return {run: _status(run) for run in read.run_folders(Path(config.hydra.sweep.dir))}


def _status(run: Path) -> dict[str, Any]:
    try:
        return read.status(run)
    except UserError as error:
        return {"state": "damaged", "reason": str(error)}
