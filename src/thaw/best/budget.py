"""The minutes there are: what is spent of them, what is kept for the end, and what still fits."""

import time
from collections.abc import Callable

from thaw.errors import UserError

MARGIN = 1.15  # of a forecast: a machine is rarely quicker than it was, and often slower


class Budget:
    """Seconds to spend, by a clock that only goes forward.

    Args:
        seconds: altogether.
        spent: of them, by earlier calls.
        began: when this call began, by `clock`; now if None.
    """

    def __init__(
        self,
        seconds: float,
        spent: float = 0.0,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.before, self.clock = seconds, spent, clock
        self.began = clock() if began is None else began
        self.kept = 0.0  # for what comes last whatever comes before

    @property
    def spent(self) -> float:
        """Seconds until now."""
        return self.before + self.clock() - self.began

    @property
    def left(self) -> float:
        """Seconds for anything but the end; below 0 when it is time for that."""
        return self.seconds - self.spent - self.kept

    def fits(self, seconds: float) -> bool:
        """Whether something that is thought to take so long may begin."""
        return MARGIN * seconds <= self.left


def seconds_of(text: str) -> float:
    """Seconds, of what follows `minutes=`.

    Raises:
        UserError: it is no number above 0.

    >>> seconds_of("1.5")
    90.0
    """
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 1e5:
        raise UserError(f"Expected minutes= to be a number above 0, such as 10, got {text!r}.")
    return 60 * minutes


def told(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> told(83.4), told(4000)
    ('1:23', '1:06:40')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
