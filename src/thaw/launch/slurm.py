"""A job that Slurm takes off its machine goes back into the queue, and on from there.

Hydra imports this file when it starts, so torch is not imported with it.
"""

import atexit
import logging
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from thaw.launch.cli import Interrupted, is_first_process

log = logging.getLogger(__name__)


def job_id(otherwise: str = "") -> str:
    """The id of the Slurm job that this process is in; it stays the same when requeued.

    An element of an array is named by both numbers: the last one's own is that of the whole array.
    """
    array, element = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID", otherwise)


class Requeue(Callback):
    """Requeues the job when SIGTERM or SIGUSR1 has stopped a run, or a sweep (`trainer=slurm`).

    The same command then finds the same folder, named by the job's id, and goes on from the last
    checkpoint in it. SIGTERM comes with preemption; SIGUSR1 as often as `sbatch --signal` says.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take over from `thaw.launch.cli.exit_on_signals`."""
        _take_signals()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """As for a run: what the sweep has finished isn't done again."""
        _take_signals()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take over from submitit, where it runs the job.

        It ignores SIGTERM and waits for a signal of its own, which it still requeues on; but
        Lightning would end the training in between.
        """
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            _take_signals()


def _take_signals() -> None:
    if job_id() and threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(signum, _stop)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    """End the run as elsewhere; the last thing that the process does is to requeue."""
    if is_first_process():
        atexit.register(requeue)
    raise Interrupted(signum)


def requeue() -> None:
    """Ask Slurm to run this job again, unless it is already being ended.

    A job that the user cancels gets SIGTERM as well, and requeueing would bring it back; one that
    Slurm requeues by itself needs no help. Slurm calls both COMPLETING.
    """
    for signum in (signal.SIGTERM, signal.SIGUSR1):  # it is sent again now; `scontrol` inherits it
        signal.signal(signum, signal.SIG_IGN)
    try:
        if "JobState=RUNNING" in _scontrol("show", "job", job_id()):
            _scontrol("requeue", job_id())
            log.info("Slurm job %s is back in the queue, and will go on.", job_id())
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("Slurm job %s could not be requeued: %s", job_id(), str(reason).strip())


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
