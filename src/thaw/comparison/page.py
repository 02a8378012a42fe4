"""`report.html` of a comparison: the table to sort, who beats whom, curves, links to each run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from thaw.comparison import table
from thaw.comparison.pareto import COSTS
from thaw.files import write
from thaw.page.lines import Line, curves, legend
from thaw.page.pictures import link
from thaw.page.points import Point, against_cost
from thaw.page.render import render

if TYPE_CHECKING:
    from thaw.comparison.configurations import Configuration
    from thaw.comparison.leaderboard import Leaderboard

FILE = "report.html"
CURVES_OF = (("acc", "accuracy"), ("loss", "loss"))
CURVES = 12  # configurations whose curves are drawn, the best first
PAIRS = 200  # rows of the table of pairs


def draw(board: "Leaderboard", out: Path) -> Path:
    """Write it into the folder that holds `leaderboard.csv`."""
    page = render(
        "comparison/page.html",
        board=board,
        header=list(table.COLUMNS),
        rows=_rows(board, out),
        charts=[chart for key, unit, label in COSTS if (chart := _cost(board, key, unit, label))],
        curves=[_curves(board, f"val/{key}", f"val {name}") for key, name in CURVES_OF],
        legend=legend(_lines(board, "val/loss")),
        pairs=board.pairs[:PAIRS],
        more=max(0, len(board.pairs) - PAIRS),
        drawn=min(CURVES, len(board.configurations)),
        asides=table.asides(board),
    )
    write(out / FILE, page)
    return out / FILE


def _rows(board: "Leaderboard", out: Path) -> list[dict[str, Any]]:
    """A row a configuration: its cells, and its runs with the addresses of their reports."""
    return [
        {
            "cells": cells,
            "runs": [
                (run.seed, link(run.path / FILE, out) if (run.path / FILE).is_file() else "")
                for run in configuration.runs
            ],
        }
        for cells, configuration in zip(table.cells(board), board.configurations, strict=True)
    ]


def _cost(board: "Leaderboard", key: str, unit: float, label: str) -> Markup | None:
    points = [
        Point(rank, c.name, float(f"{unit * c.mean(key):.3g}"), c.mean("test/acc"), *c.interval)
        for rank, c in enumerate(board.configurations, 1)
        if math.isfinite(c.mean(key))
    ]
    return against_cost(points, label) if points else None


def _lines(board: "Leaderboard", key: str) -> list[Line]:
    """The curve of each configuration, the mean of its seeds; the winner has the first colour."""
    return [
        Line(f"{rank}. {c.name}", _mean(c, key), rank - 1)
        for rank, c in enumerate(board.configurations[:CURVES], 1)
    ]


def _mean(configuration: "Configuration", key: str) -> Sequence[tuple[float, float]]:
    histories = [run.history for run in configuration.runs]
    shortest = min(map(len, histories))
    return [
        (epoch + 1, sum(history[epoch][key] for history in histories) / len(histories))
        for epoch in range(shortest)
    ]


def _curves(board: "Leaderboard", key: str, title: str) -> Markup:
    phases = {tuple(row["phase"] for row in c.runs[0].history) for c in board.configurations}
    edges = []
    if len(phases) == 1:  # else each has edges of its own
        (names,) = phases
        ends = [i for i in range(len(names)) if i + 1 == len(names) or names[i] != names[i + 1]]
        edges = [(i + 1, names[i]) for i in ends]
    return curves(title, _lines(board, key), edges, shares=key.endswith("acc"))
