"""What is shown on the screen: lines that are no wider than it is, and that work goes on."""

import logging
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from thaw.escape import printable

log = logging.getLogger(__name__)
LABEL = re.compile(r"\s*\S(?:.{0,16}?\S)?\s{2,}")  # what a line begins with, and its column
EVERY = 20  # seconds between the lines that tell of progress where no bar can
T = TypeVar("T")


def width() -> int:
    """Columns of the screen; 80 where there is none, or what COLUMNS says."""
    from rich import get_console

    return get_console().width


def wrapped(text: str, columns: int | None = None) -> str:
    """Text whose lines are broken at spaces to fit the screen; what follows a label stays in its
    column. A path is never broken, so that it can be copied.

    >>> print(wrapped("balanced  97.3%  (each class counts alike)", 30))
    balanced  97.3%  (each class
              counts alike)
    """
    columns = columns or width()
    lines = []
    for line in text.split("\n"):
        if len(line) <= columns or (lines and lines[-1].endswith("\\")):  # a command's end
            lines.append(line)
            continue
        label = LABEL.match(line)
        indent = len(label[0]) if label else len(line) - len(line.lstrip())
        lines += textwrap.wrap(
            line,
            columns,
            subsequent_indent=" " * min(indent, columns // 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def say(*lines: str) -> None:
    """Print lines that hold names, no wider than the screen."""
    print(*(wrapped(printable(line)) for line in lines), sep="\n", flush=True)


def rows(*lines: str) -> None:
    """Print lines that hold names, each as it is: a photo's answer stays on one line."""
    print(*map(printable, lines), sep="\n", flush=True)


def command(program: str, words: str) -> str:
    """A line with a command to copy; where it is too long, two that a shell reads as one.

    >>> print(command("thaw predict", "outputs/runs/today PHOTO"))
      thaw predict outputs/runs/today PHOTO
    """
    line = f"  {program} {words}"
    return line if len(line) <= width() else f"  {program} \\\n  {words}"


class Steps:
    """Inside `with`, steps of work: a bar on a terminal, elsewhere a line now and then.

    Args:
        what: what is being done, as in "computing features".
        total: of what there is to do.
        unit: what is counted.
        quiet: show nothing.
    """

    def __init__(self, what: str, total: int, unit: str = "photos", quiet: bool = False) -> None:
        from rich import get_console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.began = self.told = time.monotonic()
        console = get_console()
        self.lines = not console.is_terminal and not quiet
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        self.bar = Progress(
            *(*columns, TimeRemainingColumn()),
            console=console,
            transient=True,
            disable=quiet or self.lines,
        )
        self.task = self.bar.add_task(what, total=total)

    def __enter__(self) -> "Steps":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def at(self, done: int, total: int) -> None:
        """So much is done, of what may have been learnt meanwhile."""
        self.total = total
        self.bar.update(self.task, total=total)
        self.advance(done - self.done)

    def advance(self, by: int = 1) -> None:
        """So much more is done."""
        self.done = min(self.done + by, self.total)
        self.bar.update(self.task, completed=self.done)
        now = time.monotonic()
        if self.lines and now - self.told >= EVERY and 0 < self.done < self.total:
            self.told = now
            left = (now - self.began) / self.done * (self.total - self.done)
            counts = f"{self.done:,} of {self.total:,} {self.unit}"
            tell(f"{self.what}: {counts}, {duration(left)} left")


def tell(line: str) -> None:
    """A line to the log of a run, where there is one; to stderr beside what a command answers."""
    if log.isEnabledFor(logging.INFO):
        log.info(line)
    else:
        print(line, file=sys.stderr, flush=True)


def steps(
    items: Iterable[T],
    what: str,
    total: int,
    each: int = 1,
    unit: str = "photos",
    quiet: bool = False,
) -> Iterator[T]:
    """The items one by one, of `each` photos or other units, with what `Steps` shows of them."""
    with Steps(what, total, unit, quiet) as shown:
        for item in items:
            yield item
            shown.advance(each)


def duration(seconds: float) -> str:
    """About how long, in words.

    >>> duration(8), duration(70), duration(7400)
    ('about 10 s', 'about 1 min', 'about 2 h')
    """
    if seconds < 55:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    if seconds < 5400:
        return f"about {max(1, round(seconds / 60))} min"
    return f"about {round(seconds / 3600)} h"
