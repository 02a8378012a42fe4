"""What every command line shares: exit codes, and what `train.py` needs before Hydra starts.

Nothing here imports torch: `python train.py --help` answers at once.
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from thaw.errors import UserError


class Interrupted(BaseException):
    """SIGINT or SIGTERM came. Not an Exception: no handler for errors may swallow it."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


def exit_on_signals() -> None:
    """Turn Ctrl-C and SIGTERM into `Interrupted`, wherever the program is."""

    def handle(signum: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, handle)


def command(main: Callable[[], Any]) -> NoReturn:
    """Run a script's main function: a UserError is one sentence and exit code 2."""
    debug = bool(os.environ.get("HYDRA_FULL_ERROR"))
    # Without it Hydra prints errors its own way and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    exit_on_signals()
    try:
        main()
    except Interrupted as interrupt:
        sys.exit(128 + interrupt.signum)
    except Exception as error:
        sentence = user_sentence(error)
        if sentence is None or debug:
            raise
        print(sentence, file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def build_all(*builders: Callable[[], Any]) -> list[Any]:
    """What each builder makes; all their complaints in one UserError."""
    built, sentences = [], []
    for builder in builders:
        try:
            built.append(builder())
        except Exception as error:
            sentence = user_sentence(error)
            if sentence is None:
                raise
            sentences.append(sentence)
    if sentences:
        raise UserError("\n".join(sentences))
    return built


def user_sentence(error: Exception) -> str | None:
    """The sentence to print for a user's mistake, None for a defect."""
    if isinstance(error, UserError):
        return str(error)
    from hydra.errors import CompactHydraException, InstantiationException

    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if isinstance(cause, UserError):
            return str(cause)
        if cause is not None and not isinstance(cause, TypeError | ValueError):
            return None
        reason = re.sub(r"\s+", " ", str(cause or error))
        key = re.search(r"full_key: (\S+)", str(error))
        return f"The settings{f' of {key[1]}' if key else ''} don't fit: {reason}"
    if isinstance(error, CompactHydraException):
        cause = error.__cause__ or error.__context__
        reason = str(error) + (f" {cause}" if cause and str(cause) not in str(error) else "")
        return re.sub(r"\s*\n\s*", " ", reason).strip()
    return None


def resume_arguments(arguments: list[str]) -> list[str]:
    """Expand `resume=RUN` to the overrides that RUN was started with, and to its folder.

    Raises:
        UserError: RUN is no run folder, or a sweep is asked for.
    """
    given = [a for a in arguments if a.startswith("resume=") and a != "resume=null"]
    if not given:
        return arguments
    folder = Path(given[-1].removeprefix("resume=").strip("'\"")).expanduser()
    saved = folder / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        raise UserError(
            f"Expected resume= to name a run folder, but there is no {saved}; runs are in"
            " outputs/runs and outputs/sweeps."
        )
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("resume= continues one run, so it can't be used with --multirun.")
    from omegaconf import OmegaConf

    before = [str(override) for override in OmegaConf.load(saved)]
    here = str(folder.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    rest = [argument for argument in arguments if argument not in given]
    # `.hydra` stays as the run began: what is asked for now is compared with it.
    place = [f"resume='{here}'", f"hydra.run.dir='{here}'", "hydra.output_subdir=null"]
    return [*before, *rest, *place]


def register_resolvers() -> None:
    """Make the resolvers of `conf/hydra/default.yaml` known."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("run_dir", run_dir, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
    OmegaConf.register_new_resolver("arch_name", arch_name, replace=True)


def run_dir(wanted: str) -> str:
    """`wanted`, or with _2, _3, … behind it where two runs begin in the same second."""
    path, number = wanted, 2
    while Path(path).exists():
        path, number = f"{wanted}_{number}", number + 1
    return path


def arch_name(choice: str, name: str | None) -> str:
    """What an arch is called in folder names and tables: "timm" alone would say nothing.

    >>> arch_name("timm", "resnet18.a1_in1k"), arch_name("resnet18", "resnet18")
    ('resnet18.a1_in1k', 'resnet18')
    """
    return job_name(name) if choice in ("timm", "torchvision") and name else choice


def job_name(overrides: str) -> str:
    """A sweep job's folder name: its overrides, safe for every file system.

    >>> job_name("arch.weights=../w/a.pth,seed=1")
    'arch.weights=.._w_a.pth,seed=1'
    """
    safe = re.sub(r"[^\w.,=+-]+", "_", overrides) or "job"
    if len(safe) <= 120:
        return safe
    import hashlib

    return f"{safe[:110]}_{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


class ConsoleHandler(logging.Handler):
    """Log lines through Rich's console, so that they pass a live progress bar unharmed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message; warnings in yellow, errors in red."""
        from rich import get_console

        style = {logging.WARNING: "yellow", logging.ERROR: "red"}.get(record.levelno)
        get_console().print(
            self.format(record), style=style, markup=False, highlight=False, soft_wrap=True
        )
