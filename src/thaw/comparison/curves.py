"""Learning curves: loss and accuracy by epoch, on train and on val, and where a phase begins."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thaw.comparison.configurations import Configuration

# Okabe & Ito 2008: told apart by colour-blind eyes too. The winner has the first.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
KEYS = ("loss", "acc")
Rows = Sequence[Mapping[str, Any]]


def begins(history: Rows) -> list[int]:
    """Epochs, from 1, with which a phase begins, without the first.

    >>> begins([{"phase": "head"}, {"phase": "head"}, {"phase": "all"}])
    [3]
    """
    pairs = enumerate(itertools.pairwise(history), 2)
    return [epoch for epoch, (before, row) in pairs if before["phase"] != row["phase"]]


def draw_run(axes: Sequence["Axes"], history: Rows, best: int) -> None:
    """A run's loss and accuracy, the phases named above them and the kept epoch ringed."""
    epochs = range(1, len(history) + 1)
    edges = [1, *begins(history), len(history) + 1]
    for ax, key in zip(axes, KEYS, strict=True):
        for split, colour, style in (("train", "0.55", "--"), ("val", COLOURS[1], "-")):
            curve = [row.get(f"{split}/{key}", math.nan) for row in history]
            ax.plot(epochs, curve, style, color=colour, marker=".", linewidth=1.8, label=split)
            if split == "val":
                ring = {"markersize": 11, "fillstyle": "none", "clip_on": False}
                ax.plot(best, curve[best - 1], "o", color=colour, **ring)
        for first, after in itertools.pairwise(edges):
            if first > 1:
                ax.axvline(first - 0.5, color="0.4", linewidth=1, linestyle=":")
            place = (first + after - 1) / 2
            name = str(history[first - 1]["phase"])
            text = name if len(name) <= 12 else f"{name[:11]}…"
            ax.text(place, 1.01, text, transform=ax.get_xaxis_transform(), ha="center", fontsize=9)
        ax.set_xlim(0.5, len(history) + 0.5)
    tidy(axes)
    axes[0].legend(frameon=False)


def draw_all(axes: Sequence["Axes"], configurations: Sequence["Configuration"]) -> None:
    """Of each configuration the mean of its seeds; the best, drawn last, lies on top."""
    for ax, key in zip(axes, KEYS, strict=True):
        for rank in reversed(range(len(configurations))):
            _draw(ax, configurations, key, rank)
    tidy(axes)
    for ax, key in zip(axes, KEYS, strict=True):
        ax.set_title(f"val {'accuracy' if key == 'acc' else key}", fontsize=10, loc="left")


def tidy(axes: Sequence["Axes"]) -> None:
    """What loss and accuracy by epoch have in common."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        ax.set_ylabel(name)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y", color="0.92")
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    low, high = axes[0].dataLim.intervaly
    if low > 0 and high > 20 * low:  # one that diverged would press the others flat
        axes[0].set_yscale("log")


def _draw(axes: "Axes", configurations: Sequence["Configuration"], key: str, rank: int) -> None:
    """The mean of a configuration's seeds on val and, thin, on train; each seed's kept epoch."""
    configuration = configurations[rank]
    coloured = rank < len(COLOURS)
    colour = COLOURS[rank] if coloured else "0.8"
    # Schedules that begin alike lie on top of each other until they part: let each have a rim.
    start = configuration.runs[0].history[0]
    covered = sum(better.runs[0].history[0] == start for better in configurations[:rank])
    thick = 1.8 + 1.3 * covered * coloured
    curves = [[row[f"val/{key}"] for row in run.history] for run in configuration.runs]
    epochs = min(map(len, curves))  # a phase that waits for convergence ends when it likes
    mean = np.mean([curve[:epochs] for curve in curves], axis=0)
    axes.plot(range(1, epochs + 1), mean, color=colour, linewidth=thick)
    if not coloured:
        return
    trained = [
        [row.get(f"train/{key}", math.nan) for row in run.history[:epochs]]
        for run in configuration.runs
    ]
    shown = range(1, epochs + 1), np.mean(trained, axis=0)
    axes.plot(*shown, "--", color=colour, linewidth=0.9, alpha=0.7)
    for run, curve in zip(configuration.runs, curves, strict=True):
        best = int(run.metrics["best/epoch"])
        axes.plot(best, curve[best - 1], "o", color=colour, markersize=3.5 + thick / 2)
    edges = [epoch for epoch in begins(configuration.runs[0].history) if epoch <= epochs]
    style = {"markersize": 6 + thick, "markeredgewidth": 1.4, "markerfacecolor": "white"}
    axes.plot(edges, [mean[e - 1] for e in edges], "D", color=colour, zorder=4, **style)
