"""A chart's frame as SVG: scales, ticks, gridlines. Colours are the page's, so it has a dark side.

Nothing here imports matplotlib: a chart of a page takes a millisecond.
"""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 36, 42

Format = Callable[[float], str]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in a range.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    rough = span / about
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [
        round(i * step, 12)
        for i in range(first, first + about + 3)
        if i * step <= high + 1e-9 * span
    ]


def decades(low: float, high: float) -> list[float]:
    """Round numbers along a logarithmic axis.

    >>> decades(3, 250)
    [5, 10, 20, 50, 100, 200]
    """
    found = [m * 10.0**e for e in range(-12, 16) for m in (1, 2, 5)]
    inside = [x for x in found if low * 0.999 <= x <= high * 1.001]
    return [int(x) if x == int(x) else x for x in inside]


def whole(low: float, high: float) -> list[float]:
    """At most about eight whole numbers in a range."""
    step = max(1, math.ceil((high - low) / 7))
    return [float(x) for x in range(math.ceil(low), math.floor(high) + 1) if x % step == 0]


class Frame:
    """Turns values into places, and draws the axes.

    Args:
        x: lowest and highest value; likewise `y`.
        logarithmic: the x axis is.
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], logarithmic: bool = False
    ) -> None:
        self.scale = math.log10 if logarithmic else float
        self.x, self.y = x, y

    def px(self, x: float) -> float:
        """Pixels from the left."""
        low, high = map(self.scale, self.x)
        return round(LEFT + (self.scale(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def py(self, y: float) -> float:
        """Pixels from the top."""
        low, high = self.y
        return round(HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def axes(
        self,
        labels: tuple[str, str],
        formats: tuple[Format, Format],
        at: tuple[Sequence[float], Sequence[float]],
    ) -> Markup:
        """Gridlines, numbers, and what the axes are: the x axis below, the y axis above."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = [
            Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
                LEFT, bottom, right, bottom
            )
        ]
        for x in at[0]:
            parts.append(
                Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    self.px(x), bottom + 17, formats[0](x)
                )
            )
        for y in at[1]:
            line = '<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>'
            parts.append(Markup(line).format(LEFT, self.py(y), right, self.py(y)))
            text = '<text x="{}" y="{}" text-anchor="end">{}</text>'
            parts.append(Markup(text).format(LEFT - 7, self.py(y) + 4, formats[1](y)))
        middle = (LEFT + right) / 2
        below = '<text x="{}" y="{}" text-anchor="middle">{}</text>'
        parts.append(Markup(below).format(middle, HEIGHT - 7, labels[0]))
        if labels[1]:
            parts.append(Markup('<text class="strong" x="0" y="12">{}</text>').format(labels[1]))
        return Markup("").join(parts)


def drawn(parts: Sequence[Markup], told: str) -> Markup:
    """The SVG; `told` says in words what it shows, to those who can't see it."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, told, Markup("").join(parts))


def share(value: float) -> str:
    """A tick of an axis of shares."""
    return f"{100 * value:.3g}%"


def plain(value: float) -> str:
    """A tick of any other."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def around(
    values: Sequence[float], floor: float | None = None, roof: float | None = None
) -> tuple[float, float]:
    """A range with some room around values, not beyond `floor` and `roof`."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room, high + room
    low = low if floor is None else max(floor, low)
    high = high if roof is None else min(roof, high)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
