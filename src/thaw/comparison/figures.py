"""Figures of a leaderboard: accuracy against cost, val by epoch, and every two on the same photos.

Nothing here imports torch; matplotlib is imported with the first figure.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thaw.comparison.pareto import BLUE, COSTS, RED, draw_cost
from thaw.comparison.verdict import p_text
from thaw.files import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thaw.comparison.configurations import Configuration
    from thaw.comparison.leaderboard import Leaderboard

# Okabe & Ito 2008: told apart by colour-blind eyes too. The winner has the first.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LEGEND: dict[str, Any] = {"loc": "upper left", "frameon": False, "fontsize": 9, "borderpad": 0}
LONGEST_NAME = 44


def draw(board: "Leaderboard", folder: Path) -> None:
    """Write `accuracy_cost.png`, `learning_curves.png` and, where there are pairs, `pairs.png`."""
    write_figure(folder / "accuracy_cost.png", _accuracy_cost(board))
    write_figure(folder / "learning_curves.png", _learning_curves(board))
    if board.pairs:
        write_figure(folder / "pairs.png", _pair_grid(board))


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # needs no backend: nothing is shown

    return Figure(figsize=(width, height), layout="constrained")


def title(figure: "Figure", text: str, aside: str) -> None:
    """What the figure says, and how to read it."""
    width = round(9.5 * figure.get_figwidth())
    figure.suptitle(textwrap.fill(text, width), x=0.01, ha="left", fontsize=12)
    figure.supxlabel(textwrap.fill(aside, round(1.25 * width)), x=0.01, ha="left", fontsize=9)


def _two_axes(board: "Leaderboard", height: float) -> tuple["Figure", list["Axes"], "Axes"]:
    """A figure with two axes, and a third beside them for the names."""
    room = 0.4 + 0.075 * max(len(_short(c.name)) for c in board.configurations)  # inches
    figure = _figure(9.2 + room, height)
    *axes, names = figure.subplots(1, 3, width_ratios=(4.6, 4.6, room))
    names.axis("off")
    return figure, axes, names


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


# --- accuracy against cost ------------------------------------------------------------------------


def _accuracy_cost(board: "Leaderboard") -> "Figure":
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    winner, number = board.winner, len(board.configurations)
    figure, axes, names = _two_axes(board, max(4.6, 1.6 + 0.22 * number))
    axes[1].sharey(axes[0])
    axes[1].tick_params(labelleft=False)
    for ax, cost in zip(axes, COSTS, strict=True):
        draw_cost(ax, board.configurations, *cost)
    axes[0].set_ylabel(f"test accuracy, {winner.photos} photos")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    handles = [Line2D([], [], linestyle="") for _ in board.configurations]
    labels = [f"{i}  {_short(c.name)}" for i, c in enumerate(board.configurations, 1)]
    legend = names.legend(handles, labels, **LEGEND, handlelength=0)
    legend.get_texts()[0].set_color(RED)
    latency, size = (winner.mean(key) * unit for key, unit, _ in COSTS)
    chosen = f"{winner.name}, chosen on val" if number > 1 else winner.name
    title(
        figure,
        f"{chosen}: {winner.mean('test/acc'):.1%} of test photos at {latency:.1f} ms and"
        f" {size:.1f} MB",
        "Bars: 95% intervals."
        + " Line and blue: on test, nothing is both cheaper and more accurate. Points that would"
        " cover each other stand side by side." * (number > 1),
    )
    return figure


# --- learning curves ------------------------------------------------------------------------------


def _learning_curves(board: "Leaderboard") -> "Figure":
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    number = len(board.configurations)
    figure, axes, names = _two_axes(board, 4.6)
    for ax, key, label in zip(axes, ("val/loss", "val/acc"), ("loss", "accuracy"), strict=True):
        for rank in reversed(range(number)):  # the best on top
            _draw_curve(ax, board.configurations, key, rank)
        ax.set_title(f"val {label}", fontsize=10, loc="left")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y", color="0.92")
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    low, high = axes[0].dataLim.intervaly
    if low > 0 and high > 20 * low:  # one that diverged would press the others flat
        axes[0].set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    names.legend(handles[::-1], labels[::-1], **LEGEND, handlelength=1.2)
    winner = board.winner
    best = min(winner.runs, key=lambda run: run.metrics["val/loss"])
    lowest = f"{winner.mean('val/loss'):.3f}"
    mean = f" in the mean of {len(winner.runs)} seeds" if len(winner.runs) > 1 else ""
    at = "" if mean else f" in epoch {best.metrics['best/epoch']}"
    title(
        figure,
        f"No val loss is lower than that of {winner.name}: {lowest}{mean}{at}"
        if number > 1
        else f"{winner.name} came to a val loss of {lowest}{mean}{at}",
        "Dots: the epoch that each run keeps, the one with the lowest val loss."
        + (" Thick: mean of the seeds; thin: each seed." if mean else ""),
    )
    return figure


def _draw_curve(
    axes: "Axes", configurations: Sequence["Configuration"], key: str, rank: int
) -> None:
    """Each seed's curve, and their mean where there are several."""
    configuration = configurations[rank]
    coloured = rank < len(COLOURS)
    colour = COLOURS[rank] if coloured else "0.8"
    # Schedules that begin alike lie on top of each other until they part: let each have a rim.
    start = configuration.runs[0].history[0]
    covered = sum(better.runs[0].history[0] == start for better in configurations[:rank])
    thick = 1.8 + 1.3 * covered * coloured
    curves = [[row[key] for row in run.history] for run in configuration.runs]
    several = len(curves) > 1
    for run, curve in zip(configuration.runs, curves, strict=True):
        if several and coloured:
            axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.8, alpha=0.45)
        best = int(run.metrics["best/epoch"])
        if coloured:
            size = 3.5 + thick / (2 if several else 1)
            axes.plot(best, curve[best - 1], "o", color=colour, markersize=size)
    epochs = min(map(len, curves))  # a phase that waits for convergence ends when it likes
    mean = np.mean([curve[:epochs] for curve in curves], axis=0)
    axes.plot(range(1, epochs + 1), mean, color=colour, linewidth=thick)
    if coloured or rank == len(COLOURS):
        name = f"{rank + 1}  {_short(configuration.name)}" if coloured else "the others"
        axes.plot([], [], color=colour, linewidth=2.2, label=name)


# --- every two on the same photos -----------------------------------------------------------------


def _pair_grid(board: "Leaderboard") -> "Figure":
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
    from matplotlib.patches import Rectangle

    names = [c.name for c in board.configurations]
    number, index = len(names), {name: i for i, name in enumerate(names)}
    leads = np.full((number, number), np.nan)
    few = number <= 8
    cell = 1.0 if few else 0.42
    label = 0.5 + 0.075 * max(len(_short(name)) for name in names)
    figure = _figure(max(6.5, label + cell * number), 1.4 + cell * number)
    axes = figure.subplots()
    for pair in board.pairs:
        places = index[pair.a], index[pair.b]
        for (row, column), of_row, of_column, lead in (
            (places, pair.only_a, pair.only_b, pair.lead),
            (places[::-1], pair.only_b, pair.only_a, -pair.lead),
        ):
            leads[row, column] = 100 * lead
            text = f"{100 * lead:+.1f}".replace("-", "\N{MINUS SIGN}") if lead else "0"
            if few:
                text += f"\n{_count(of_row)} : {_count(of_column)}\n{p_text(pair.p_holm)}"
            weight = "bold" if pair.told_apart else "normal"
            style: dict[str, Any] = {"ha": "center", "va": "center", "weight": weight}
            style |= {"fontsize": 9 if few else 6.5, "in_layout": False}  # it lies in its cell
            axes.text(column, row, text, **style)
            if pair.told_apart:
                corner = column - 0.46, row - 0.46
                axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, linewidth=1.3))
    reach = max(1.0, 1.6 * float(np.nanmax(abs(leads))))  # pale enough to read numbers on
    colours = LinearSegmentedColormap.from_list("won", [RED, "white", BLUE])
    colours = colours.with_extremes(bad="0.9")
    norm = TwoSlopeNorm(0, -reach, reach)
    axes.imshow(colours(norm(leads)), interpolation="nearest", aspect="auto")
    axes.set_xticks(range(number), [str(i + 1) for i in range(number)])
    axes.set_yticks(range(number), [f"{_short(name)}  {i + 1}" for i, name in enumerate(names)])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    apart = sum(pair.told_apart for pair in board.pairs)
    what = (
        board.pairs[0].sentence
        if number == 2
        else f"{apart or 'None'} of {len(board.pairs)} pairs can be told apart on"
        f" {board.pairs[0].photos} test photos"
    )
    below = " Below: photos that only the row got right : only the column."
    title(
        figure,
        what,
        "How many points the row is more accurate than the column (blue) or less (red)."
        + (below if few else "")
        + f" Framed: told apart (p < 0.05{', Holm' if number > 2 else ''}).",
    )
    return figure


def _count(photos: float) -> str:
    """A number of photos; averages over seeds are no whole ones.

    >>> _count(4.0), _count(2 / 3)
    ('4', '0.7')
    """
    return f"{photos:.0f}" if abs(photos - round(photos)) < 1e-9 else f"{photos:.1f}"
