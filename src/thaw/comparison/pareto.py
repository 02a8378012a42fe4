"""Test accuracy against what a photo or a copy costs, and the Pareto front, on one pair of axes."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thaw.comparison.configurations import Configuration

RED, BLUE, GREY = "#c8553d", "#1f5a8a", "#8a8a8a"
COSTS = (  # key in `metrics.json`, its unit, label
    ("model/latency_ms", 1, "latency, ms a photo"),
    ("model/bytes", 1e-6, "size on disk, MB"),
)
APART = 0.045  # share of an axis between points, so that none covers the next


def draw_cost(
    axes: "Axes", configurations: Sequence["Configuration"], key: str, unit: float, label: str
) -> None:
    """Points with their 95% intervals, numbered by rank; the first is the winner."""
    from matplotlib.ticker import LogLocator

    costs = [float(f"{unit * c.mean(key):.3g}") for c in configurations]  # or bytes would tell
    accuracies = [c.mean("test/acc") for c in configurations]
    low, high = min(costs), max(costs)
    log = high > 5 * low
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    scale: Callable[[float], float] = math.log if log else float
    back: Callable[[float], float] = math.exp if log else float
    margin = 0.1 * (scale(high) - scale(low)) if log else max(0.1 * (high - low), 0.1 * high)
    start, stop = scale(low) - margin, scale(high) + margin
    wide = max(1.0, APART * (len(costs) + 1))  # many equal ones need more room than there is
    shares = [(scale(cost) - start) / (stop - start) for cost in costs]
    places = [back(start + share * (stop - start)) for share in spread(shares, APART * wide)]
    axes.set_xlim(back(start), back(stop))
    front = _front(costs, accuracies)
    step = [places[i] for i in front], [accuracies[i] for i in front]
    axes.plot(*step, color=BLUE, alpha=0.35, linewidth=1.5, drawstyle="steps-post", zorder=1)
    for i, (place, accuracy, configuration) in enumerate(
        zip(places, accuracies, configurations, strict=True)
    ):
        colour = RED if i == 0 else BLUE if i in front else GREY
        bottom, top = configuration.interval
        reach = [[max(0.0, accuracy - bottom)], [max(0.0, top - accuracy)]]  # at 0 and 1: rounding
        axes.errorbar([place], [accuracy], reach, fmt="none", ecolor=colour, elinewidth=1.2)
        axes.plot(place, accuracy, "o", color=colour, markersize=12, zorder=3, clip_on=False)
        text: dict[str, Any] = {"color": "white", "ha": "center", "va": "center", "fontsize": 7.5}
        axes.text(place, accuracy, str(i + 1), **text, zorder=4, weight="bold")
    axes.set_xlabel(label)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _front(costs: Sequence[float], accuracies: Sequence[float]) -> list[int]:
    """Indices of those that nothing beats in both cost and accuracy, the cheapest first.

    >>> _front([1, 2, 3, 3], [0.8, 0.7, 0.9, 0.95])
    [0, 3]
    """
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -accuracies[i])):
        if not front or accuracies[i] > accuracies[front[-1]]:
            front.append(i)
    return front


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` apart in the same order, moved as little as that takes.

    >>> [round(place, 2) for place in spread([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[list[int]] = []  # neighbours that touch, each block around its own mean

    def middle(block: list[int]) -> float:
        return sum(places[i] for i in block) / len(block)

    for i in order:
        blocks.append([i])
        while len(blocks) > 1:
            a, b = blocks[-2:]
            if middle(b) - middle(a) >= gap * (len(a) + len(b)) / 2:
                break
            blocks[-2:] = [a + b]
    spread = list(places)
    for block in blocks:
        for n, i in enumerate(block):
            spread[i] = middle(block) + gap * (n - (len(block) - 1) / 2)
    return spread
