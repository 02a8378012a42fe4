"""Figures of a leaderboard: accuracy against cost, val by epoch, and every two on the same photos.

Nothing here imports torch; matplotlib is imported with the first figure.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thaw.comparison import curves
from thaw.comparison.pareto import BLUE, COSTS, RED, draw_cost
from thaw.comparison.verdict import p_text
from thaw.page.figure import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thaw.comparison.leaderboard import Leaderboard

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
    lines = [
        draw_cost(ax, board.configurations, *cost) for ax, cost in zip(axes, COSTS, strict=True)
    ]
    axes[0].set_ylabel(f"test accuracy, {winner.photos} photos")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    handles = [Line2D([], [], linestyle="") for _ in board.configurations]
    labels = [f"{i}  {_short(c.name)}" for i, c in enumerate(board.configurations, 1)]
    legend = names.legend(handles, labels, **LEGEND, handlelength=0)
    legend.get_texts()[0].set_color(RED)
    latency, size = (winner.mean(key) * unit for key, unit, _ in COSTS)
    chosen = f"{winner.name}, chosen on val" if number > 1 else winner.name
    low, high = winner.interval
    title(
        figure,
        f"{chosen}: {winner.mean('test/acc'):.1%} of test photos right (95% interval {low:.1%} to"
        f" {high:.1%}), about {float(f'{latency:.2g}'):g} ms a photo, {size:.3g} MB",
        "Bars: 95% intervals."
        + " Line and blue: on test nothing is both cheaper and more accurate, which may be chance"
        " where bars overlap." * any(lines),
    )
    return figure


# --- learning curves ------------------------------------------------------------------------------


def _learning_curves(board: "Leaderboard") -> "Figure":
    from matplotlib.lines import Line2D

    number = len(board.configurations)
    figure, axes, names = _two_axes(board, 4.6)
    curves.draw_all(axes, board.configurations)
    handles = [Line2D([], [], color=colour, linewidth=2.2) for colour in curves.COLOURS[:number]]
    labels = [f"{i}  {_short(c.name)}" for i, c in enumerate(board.configurations, 1)]
    labels = labels[: len(handles)]
    if number > len(handles):
        handles, labels = [*handles, Line2D([], [], color="0.8")], [*labels, "the others"]
    names.legend(handles, labels, **LEGEND, handlelength=1.2)
    winner = board.winner
    best = min(winner.runs, key=lambda run: run.metrics["val/loss"])
    seeds = len(winner.runs)
    when = (
        f"in the mean of {seeds} seeds" if seeds > 1 else f"in epoch {best.metrics['best/epoch']}"
    )
    phases = any(curves.begins(run.history) for c in board.configurations for run in c.runs)
    title(
        figure,
        f"{winner.name}: val loss {winner.mean('val/loss'):.3f} {when}"
        + ", the lowest, by which it was chosen" * (number > 1),
        "Solid: val; dashed: train. Dots: the epoch that each run keeps, the one with the lowest"
        " val loss." + " Diamonds: a phase begins." * phases,
    )
    return figure


def run_curves(history: Sequence[Mapping[str, Any]], best: int) -> "Figure":
    """Loss and accuracy of one run by epoch (rows of `history.csv`, `best` from 1)."""
    figure = _figure(9.2, 4.2)
    curves.draw_run(figure.subplots(1, 2), history, best)
    row = history[best - 1]
    title(
        figure,
        f"Epoch {best} of {len(history)} is kept: val loss {row['val/loss']:.3f}, val accuracy"
        f" {row['val/acc']:.1%}",
        "Ring: the epoch that is kept, the one with the lowest val loss. Above: the phases.",
    )
    return figure


# --- every two on the same photos -----------------------------------------------------------------


def _pair_grid(board: "Leaderboard") -> "Figure":
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

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
            style: dict[str, Any] = {"ha": "center", "va": "center", "in_layout": False}
            style |= {"fontsize": 9 if few else 6.5}  # it lies in its cell
            style |= {"weight": "bold"} if pair.told_apart else {"color": "0.45"}
            axes.text(column, row, text, **style)
            if not pair.told_apart:
                leads[row, column] = 0
    reach = max(1.0, 1.6 * float(np.nanmax(abs(leads))))  # pale enough to read numbers on
    colours = LinearSegmentedColormap.from_list("won", [RED, "white", BLUE])
    colours = colours.with_extremes(bad="0.85")
    norm = TwoSlopeNorm(0, -reach, reach)
    axes.imshow(colours(norm(leads)), interpolation="nearest", aspect="auto")
    axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
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
        f" {board.pairs[0].tested_on}"
    )
    below = " Below: photos that only the row got right : only the column."
    title(
        figure,
        what,
        "How many points of accuracy the row is ahead of the column."
        + (below if few else "")
        + " Blue (ahead) or red (behind) and bold: told apart"
        + f" (p < 0.05{', Holm' if number > 2 else ''}); white: not told apart.",
    )
    return figure


def _count(photos: float) -> str:
    """A number of photos; averages over seeds are no whole ones.

    >>> _count(4.0), _count(2 / 3)
    ('4', '0.7')
    """
    return f"{photos:.0f}" if abs(photos - round(photos)) < 1e-9 else f"{photos:.1f}"
