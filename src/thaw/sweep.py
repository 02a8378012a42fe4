"""A sweep: each job on a line of its own, none stops another, and one table at the end.

Hydra imports this file when it starts, so torch and matplotlib are not imported with it.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from thaw.cli import ConsoleHandler, Interrupted, user_sentence
from thaw.errors import UserError

if TYPE_CHECKING:
    from thaw.run import RunFolder

log = logging.getLogger(__name__)
failures: list[str] = []  # what went wrong in the sweep that ended, for the exit code


def job(run: "RunFolder", train: Callable[[], float]) -> float:
    """Do one job, and print its line; returns the best val loss, infinity if it failed.

    What the job itself has to say goes to its `train.log`; of that, the terminal gets warnings.
    """
    from rich import get_console

    for handler in logging.getLogger().handlers:
        if isinstance(handler, ConsoleHandler):
            handler.setLevel(logging.WARNING)
    done_before = run.status.get("state") == "done"
    began = time.perf_counter()
    try:
        loss = train()
    except Interrupted as interrupt:
        run.end("interrupted", interrupt, keep=True)
        raise
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None:
            log.debug("This is a defect:", exc_info=error)
            sentence = f"{type(error).__name__}: {error} (see {run}/train.log)"
        log.debug(sentence)
        run.end("failed", error, keep=True)
        failures.append(str(run))
        get_console().print(
            f"{run.path.name}  failed  {sentence}",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return math.inf
    if run.writes:
        metrics = run.metrics
        state = "done before" if done_before else f"{time.perf_counter() - began:6.1f} s"
        get_console().print(
            f"{run.path.name}  val {metrics['val/acc']:.1%}  test {metrics['test/acc']:.1%}"
            f"  {state}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return loss


class Verdict(Callback):
    """Counts the jobs when a sweep ends, and compares those that are done (`thaw.compare`)."""

    def __init__(self) -> None:
        self.before: set[Path] = set()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember what an earlier call of the same sweep has done."""
        failures.clear()
        self.before = set(_states(config).get("done", []))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write `leaderboard.csv` and the figures into the sweep's folder, print the verdict."""
        from thaw import compare

        folder, states = Path(config.hydra.sweep.dir), _states(config)
        done, total = states.pop("done", []), sum(len(runs) for runs in states.values())
        total += len(done)
        before = len(self.before & set(done))
        print(
            f"\n{len(done)} of {total} jobs done" * (before < len(done) or before < total)
            + f"\n{before} of {total} done before" * (before > 0),
            flush=True,
        )
        failures.extend(str(run) for runs in states.values() for run in runs)
        if not done:
            return
        try:
            compare.report([folder], folder)
        except UserError as error:
            log.warning("There is no verdict: %s", error)


def _states(config: DictConfig) -> dict[str, list[Path]]:
    """Run folders of a sweep by their state."""
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(config.hydra.sweep.dir).glob("**/status.json")):
        state = json.loads(path.read_text(encoding="utf-8"))["state"]
        found.setdefault(state, []).append(path.parent)
    return found
