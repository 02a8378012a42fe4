"""Test accuracy against what a photo or a copy costs, and the Pareto front, on one pair of axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
) -> bool:
    """Points with their 95% intervals, numbered by rank; the first is the winner.

    Each stands where it is: configurations of one net above one another, their numbers beside them.

    Returns:
        Whether a line joins those that nothing beats: one point has none.
    """
    from matplotlib.ticker import LogLocator

    costs = [float(f"{unit * c.mean(key):.2g}") for c in configurations]  # or bytes would tell
    accuracies = [c.mean("test/acc") for c in configurations]
    low, high = min(costs), max(costs)
    log = high > 5 * low
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_xlim(low / 1.4, high * 1.6)
    else:
        margin = max(0.15 * (high - low), 0.15 * high)
        axes.set_xlim(low - margin, high + 1.3 * margin)
    ends = [end for c in configurations for end in c.interval]
    bottom, top = min(ends), max(ends)
    room = max(0.05 * (top - bottom), 0.005)
    axes.set_ylim(bottom - room, top + room)
    front = _front(costs, accuracies)
    step = [costs[i] for i in front], [accuracies[i] for i in front]
    axes.plot(*step, color=BLUE, alpha=0.35, linewidth=1.5, drawstyle="steps-post", zorder=1)
    height = top - bottom + 2 * room
    shares = [(accuracy - bottom + room) / height for accuracy in accuracies]
    written = dict[int, float]()  # where each number stands, as a share of the axis
    for cost in set(costs):
        same = [i for i, other in enumerate(costs) if other == cost]
        written |= dict(zip(same, spread([shares[i] for i in same], APART), strict=True))
    for i, configuration in enumerate(configurations):
        colour = RED if i == 0 else BLUE if i in front else GREY
        place, accuracy, ends = costs[i], accuracies[i], configuration.interval
        axes.plot([place, place], ends, color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(place, accuracy, "o", color=colour, markersize=7, zorder=3, clip_on=False)
        axes.annotate(
            str(i + 1),
            (place, accuracy),
            (14, (written[i] - shares[i]) * axes.bbox.height * 72 / axes.figure.dpi),
            textcoords="offset points",
            color=colour,
            weight="bold",
            fontsize=9,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0},
        )
    axes.set_xlabel(label)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return len(front) > 1


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
