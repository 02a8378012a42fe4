"""Accuracy against cost, a point a configuration with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from thaw.page.chart import Frame, around, decades, drawn, plain, share, ticks

WIDE = 5  # times the lowest cost, from which on the axis is logarithmic


@dataclass(frozen=True)
class Point:
    """A configuration: its rank, what it costs, its accuracy from low to high."""

    rank: int
    name: str
    cost: float
    accuracy: float
    low: float
    high: float


def against_cost(points: Sequence[Point], label: str) -> Markup:
    """Points with the numbers of their ranks; the first is the winner."""
    costs = [point.cost for point in points]
    log = max(costs) > WIDE * min(costs) > 0
    x = (min(costs) / 1.3, max(costs) * 1.3) if log else around(costs, 0.0)
    ends = [end for point in points for end in (point.low, point.high)]
    frame = Frame(x, around(ends, 0.0, 1.0), log)
    at = (decades(*x) if log else ticks(*x), ticks(*frame.y))
    parts = [frame.axes((label, "test accuracy (bars: 95% intervals)"), (plain, share), at)]
    dots = []
    for point in reversed(points):  # the winner lies on top
        colour = "c1" if point.rank == 1 else "c0"
        across, up = frame.px(point.cost), frame.py(point.accuracy)
        bar = '<line class="line {0}" x1="{1}" y1="{2}" x2="{1}" y2="{3}"/>'
        low, high = frame.py(point.low), frame.py(point.high)
        parts.append(Markup(bar).format(colour, across, low, high))
        what = f"{point.rank}. {point.name}: {share(point.accuracy)}, {plain(point.cost)}"
        dot = (
            '<g><title>{}</title><circle class="dot {}" cx="{}" cy="{}" r="8"/>'
            '<text class="rank" x="{}" y="{}" text-anchor="middle">{}</text></g>'
        )
        same = [
            str(other.rank)
            for other in points
            if (frame.px(other.cost), frame.py(other.accuracy)) == (across, up)
        ]
        ranks = ", ".join(same) if len(same) < 4 else f"{same[0]} …"  # one covers the others
        dots.append(
            Markup(dot).format(what, colour, across, up, across, up + 4, min(same, key=int))
        )
        if len(same) > 1:
            beside = '<text class="small" x="{}" y="{}">{}</text>'
            dots.append(Markup(beside).format(across + 11, up + 4, ranks))
    return drawn([*parts, *dots], f"Test accuracy against {label}, of {len(points)} configurations")
