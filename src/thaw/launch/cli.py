"""What every command line shares: exit codes, and what `thaw train` needs before Hydra starts.

Nothing here imports torch: `thaw train --help` answers at once.
"""

import argparse
import atexit
import gc
import io
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from thaw.errors import UserError
from thaw.escape import printable
from thaw.launch import failures
from thaw.launch.failures import Refused
from thaw.launch.typed import quoted
from thaw.screen import wrapped

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colours in what a library says


class Interrupted(BaseException):
    """SIGINT or SIGTERM came. Not an Exception: no handler for errors may swallow it."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


trusted: set[str] = set()  # import paths of nets of his own that the user has named himself


class _Trust(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        trusted.add(values)


def add_net(parser: argparse.ArgumentParser) -> None:
    """Let a command load a model whose net the user's own code makes: he says so with --net."""
    parser.add_argument(
        "--net",
        action=_Trust,
        default=argparse.SUPPRESS,
        metavar="MODULE.FUNCTION",
        help="of a model whose net is your own: its function or class, whose code may run",
    )


def exit_on_signals() -> None:
    """Turn Ctrl-C and SIGTERM into `Interrupted`, wherever the program is.

    Only the main thread can; elsewhere signals stay with who called.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def handle(signum: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, handle)


def command(main: Callable[[], Any]) -> NoReturn:
    """Run a script's main function: a UserError is one sentence and exit code 2."""
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    # Without it Hydra prints errors its own way and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Imports make half a million objects that stay. Looking for garbage among them, each time their
    # number has grown by a quarter, would take longer than anything else at the start.
    gc.set_threshold(100_000)
    # Nor is there any to be looked for at the end, which would take more than a second.
    atexit.register(gc.freeze)
    threading.excepthook = tell_of_thread
    logging.captureWarnings(True)  # of libraries, for who develops with them: to a run's train.log
    exit_on_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what it can't encode is shown as an escape
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()
    except Interrupted as interrupt:
        sys.exit(128 + interrupt.signum)
    except BrokenPipeError:
        if not _unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor at the exit
        sys.exit(0)
    except (Exception, Refused) as error:
        sentence = error.sentence if isinstance(error, Refused) else user_sentence(error)
        if sentence is None or full_error:
            raise
        print(printable(ANSI.sub("", sentence), keep="\n"), file=sys.stderr)
        sys.exit(2)
    finally:
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
    sys.exit(0)


def say_loading() -> None:
    """Say what takes seconds, before it does; stdout is for answers."""
    if "torch" not in sys.modules:
        print("Loading PyTorch …", file=sys.stderr, flush=True)


def tell_of_thread(args: threading.ExceptHookArgs) -> None:
    """Leave to the main thread what the machine refuses a thread: it finds out, and tells it."""
    if args.exc_value is None or failures.sentence(args.exc_value) is None:
        threading.__excepthook__(args)


def _unread() -> bool:
    """Whether what stdout is piped to, such as `head`, has seen enough."""
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


SCRIPTS = (
    "anchors",
    "archs",
    "benchmark",
    "best",
    "check",
    "compare",
    "describe",
    "embed",
    "evaluate",
    "export",
    "label_next",
    "predict",
    "serve",
    "shortlist",
    "soup",
)


def door(command: str) -> str:
    """What to type for a command, for who has come by `thaw …` or by the repository's files."""
    came = Path(sys.argv[0])
    if came.suffix != ".py" or came.stem not in ("train", *SCRIPTS):
        return f"thaw {command}"
    file = command.replace("-", "_")
    return f"python {'train.py' if command == 'train' else f'scripts/{file}.py'}"


def is_first_process() -> bool:
    """Whether this process is the only one, or the one that writes; the others fall silent."""
    ranks = (os.environ.get(name, "0") for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
    first = all(rank == "0" for rank in ranks)
    if not first:
        logging.disable(logging.CRITICAL)
    # DDP advises against looking for unused parameters in a phase that happens to freeze none.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return first


def run_alone(overrides: Sequence[str], folder: str) -> float:
    """Do a run in a process of its own; returns the best val loss.

    Raises:
        UserError: the job failed; its own message is in the terminal already.
    """
    # An experiment may be a sweep itself, so the mode is said.
    place = ["hydra.mode=RUN", f"hydra.run.dir={quoted(folder)}"]
    command = [sys.executable, "-m", "thaw", "train", *overrides, *place]
    # `-m` would look for modules in the working directory first, whatever lies there.
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)  # it's in train.log too
    try:
        code = child.wait()
    except Interrupted as interrupt:
        child.send_signal(interrupt.signum)
        child.wait()
        raise
    if code:
        raise UserError(f"The job in {folder} ended with exit code {code}.")
    metrics = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
    return metrics["val/loss"]


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
        raise UserError("\n".join(dict.fromkeys(sentences)))
    return built


def user_sentence(error: Exception) -> str | None:
    """The sentence to print for a user's mistake, None for a defect."""
    if isinstance(error, UserError):
        return str(error)
    from hydra.errors import CompactHydraException, InstantiationException, OverrideParseException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
    from yaml import YAMLError

    from thaw.launch import conf

    unreadable = isinstance(error, YAMLError | UnicodeDecodeError | OmegaConfBaseException)
    if unreadable and (sentence := conf.unreadable()):
        return sentence
    cause = error.__cause__ or error.__context__
    if isinstance(error, InstantiationException):
        if isinstance(cause, UserError):
            return str(cause)
        if refused := failures.sentence(error):
            return refused
        lost = str(error).startswith("Error locating target")
        if cause is not None and not lost and not isinstance(cause, TypeError | ValueError):
            return None
        key = re.search(r"full_key: (\S+)", str(error))
        where = f" of {key[1]}" if key else ""
        return f"The settings{where} don't fit: {_one_line(str(cause or error))}."
    if isinstance(error, MissingMandatoryValue):
        key = re.search(r"full_key: (\S+)", str(error))
        return f"Expected {key[1] if key else 'a value'} to be set; it has no default."
    if isinstance(error, OverrideParseException):
        return f"Expected KEY=VALUE, got {error.override!r}: {_one_line(error.message)}."
    if isinstance(error, CompactHydraException | OmegaConfBaseException):
        more = f" {cause}" if cause and str(cause) not in str(error) else ""
        sentence = _one_line(str(error) + more)
        if re.search(r"find 'hydra/(launcher|sweeper)/(joblib|submitit|optuna)", sentence):
            sentence += '; it comes with pip install "thaw-vision[sweep]"'
        return sentence
    return failures.sentence(error)


def _one_line(text: str) -> str:
    """Without line breaks, and without what only Hydra's authors need."""
    text = re.sub(r"\n\s*(full_key:|object_type=|Config search path:).*", "", text, flags=re.DOTALL)
    return re.sub(r"\s*\n\s*", " ", text).strip().rstrip(".")


@contextmanager
def quiet() -> Iterator[None]:
    """Inside `with`, the terminal gets warnings only; a run's log gets all."""
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, ConsoleHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


class Escaped(logging.Formatter):
    """Lines in which names are shown as they are, and do nothing."""

    def format(self, record: logging.LogRecord) -> str:
        """As usual, with escapes for what a terminal would obey."""
        return printable(super().format(record), keep="\n")


class LogFile(logging.FileHandler):
    """A run's log, which a full disk may cut short: who trains finds out, and tells it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing, where logging would print a traceback for each line."""


class ConsoleHandler(logging.Handler):
    """Log lines through Rich's console, so that they pass a live progress bar unharmed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message, or the table that it stands for; warnings yellow, errors red."""
        from rich import get_console

        if get_console().is_jupyter:  # where each of Rich's prints would stand apart
            print(self.format(record), flush=True)
            return
        if table := getattr(record, "renderable", None):
            get_console().print(table)
            return
        style = {logging.WARNING: "yellow", logging.ERROR: "red"}.get(record.levelno)
        get_console().print(
            wrapped(self.format(record)), style=style, markup=False, highlight=False, soft_wrap=True
        )
