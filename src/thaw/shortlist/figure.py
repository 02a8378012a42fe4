"""A shortlist as a figure: accuracy against latency, the size of a dot is that of the weights."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, PercentFormatter

from thaw.comparison.figures import LEGEND, title
from thaw.comparison.pareto import BLUE, GREY, RED, spread
from thaw.page.figure import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thaw.shortlist.rank import Shortlist

SMALLEST, LARGEST = 15.0, 800.0  # areas of dots, in points²
APART = 0.035  # share of the axis between points, so that no bar covers another


def draw(board: "Shortlist", path: Path) -> None:
    """Write the figure to a PNG."""
    number, longest = len(board.nets), max(len(probed.name) for probed in board.nets)
    room = 1.0 + 0.075 * longest  # inches for the names
    figure = Figure(figsize=(6.6 + room, max(4.6, 2.1 + 0.2 * number)), layout="constrained")
    axes, names = figure.subplots(1, 2, width_ratios=(6.6, room))
    names.axis("off")
    _draw_points(axes, board)
    marks, labels = [Line2D([], [], linestyle="") for _ in board.nets], []
    for rank, probed in enumerate(board.nets, 1):
        size = probed.metrics["model/bytes"] / 1e6
        labels.append(f"{rank}  {probed.name}, {size:.{0 if size >= 10 else 1}f} MB")
    texts = names.legend(marks, labels, **LEGEND, handlelength=0).get_texts()
    for text, colour in zip(texts, _colours(board), strict=True):
        text.set_color(colour)
    first, level = board.nets[0], len(board.level) - 1
    text = f"{first.name} gets {first.metrics['probe/acc']:.1%} of {len(first.right)} photos"
    if level:
        text += f"; {level} of {number - 1} others can't be told apart from it"
    elif number > 1:
        text += ", more than the others by more than chance"
    aside = (
        "Bars: 95% intervals. Area: size of the weights. Blue: can't be told apart from the first;"
        " grey: worse. Each photo is predicted by a linear probe that hasn't seen it. Points that"
        " would cover each other stand side by side."
    )
    title(figure, text, aside)
    write_figure(path, figure)


def _colours(board: "Shortlist") -> list[str]:
    return [RED] + [BLUE if probed in board.level else GREY for probed in board.nets[1:]]


def _draw_points(axes: "Axes", board: "Shortlist") -> None:
    costs = [probed.metrics["model/latency_ms"] for probed in board.nets]
    sizes = [probed.metrics["model/bytes"] for probed in board.nets]
    low, high = math.log(min(costs) / 1.4), math.log(max(costs) * 1.4)
    shares = spread([(math.log(cost) - low) / (high - low) for cost in costs], APART)
    for i, (probed, share) in enumerate(zip(board.nets, shares, strict=True)):
        place, colour = math.exp(low + share * (high - low)), _colours(board)[i]
        acc, bottom, top = (probed.metrics[f"probe/{k}"] for k in ("acc", "acc_low", "acc_high"))
        reach = [[max(0.0, acc - bottom)], [max(0.0, top - acc)]]  # at 0 and 1: rounding
        axes.errorbar([place], [acc], reach, fmt="none", ecolor=colour, elinewidth=1.2)
        area = max(SMALLEST, LARGEST * sizes[i] / max(sizes))
        axes.scatter([place], [acc], area, color=colour, alpha=0.45, linewidths=0, zorder=3)
        axes.plot(place, acc, ".", color=colour, markersize=4, zorder=4)
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 9, "weight": "bold"}
        style |= {"xytext": (0, 3), "textcoords": "offset points", "color": colour, "zorder": 5}
        axes.annotate(str(i + 1), (place, top), **style)
    axes.set_xscale("log")
    axes.set_xlim(math.exp(low), math.exp(high))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("latency, ms a photo")
    axes.set_ylabel(f"accuracy of the probe, {len(board.nets[0].right)} photos")
    axes.margins(y=0.12)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
