"""A figure of a schedule: each stage's learning rate, and what is frozen when."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from thaw.errors import UserError
from thaw.files import beside
from thaw.nets.backbone import Backbone
from thaw.page.figure import spell_out
from thaw.training.schedule import Schedule


def draw(path: Path, title: str, schedule: Schedule, backbone: Backbone, steps: int) -> None:
    """Draw each stage's learning rate, step by step in epochs of `steps` batches.

    Raises:
        UserError: no rate is above 0.
    """
    stages, count, epochs = list(backbone.stages), len(backbone.stages), schedule.epochs
    times = [(p, i / steps) for p in schedule.phases for i in range(p.epochs * steps)]
    rates = np.array([[schedule.lr(p, s, backbone, t) for p, t in times] for s in stages])
    if not rates.any():
        raise UserError("Every learning rate of this schedule is 0, so there is none to draw.")
    parts = np.split(rates, np.cumsum([p.epochs * steps for p in schedule.phases])[:-1], axis=1)
    heights = np.stack([part.max(axis=1) for part in parts])
    # Warm-up and annealing touch 0; the axis ends somewhat below what the slowest stage reaches.
    low = max(rates[rates > 0].min(), heights[heights > 0].min() / 20) / 1.6
    high = heights.max() * 1.6
    rates[rates == 0] = np.nan  # a gap where nothing moves; the parts are views
    edges = np.arange(len(times) + 1) / steps
    height = 0.8 + 0.22 * count
    figure = Figure(figsize=(11, 4.5 + height), layout="constrained")
    figure.suptitle(title)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, height])
    colours = colormaps["viridis"](np.linspace(0, 0.93, count))
    above, first = top.get_xaxis_transform(), 0
    style: dict[str, Any] = {"linewidth": 2.5, "dash_capstyle": "butt", "solid_capstyle": "butt"}
    for phase, part in zip(schedule.phases, parts, strict=True):
        last = first + phase.epochs
        when = edges[first * steps : last * steps + 1]
        for i, rate in enumerate(part):
            same = [j for j in range(count) if np.array_equal(rate, part[j], equal_nan=True)]
            turn, others = same.index(i), len(same) - 1  # equal lines take turns, in dashes
            style["linestyle"] = (-2 * turn, (2, 2 * others)) if others else "solid"
            top.step(when, [*rate, rate[-1]], where="post", color=colours[i], **style)
        for stage in schedule.trained(phase, backbone)[1]:
            box = Rectangle((first, stages.index(stage)), phase.epochs, 1, fill=False)
            bottom.add_patch(box).set(hatch="//", edgecolor="white", zorder=1.5)
        name = phase.name + ("\nuntil converged" if phase.until else "")
        top.text((first + last) / 2, 1.02, name, transform=above, ha="center")
        for axis in (top, bottom):
            axis.axvline(last, color="0.3", linewidth=1, linestyle=":")
        first = last
    short = [stage.rsplit(".", 1)[-1] for stage in stages]
    names = short if max(map(len, stages)) > 20 and len({*short}) == count else stages
    marks = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours]
    figure.legend(marks, names, loc="outside right upper", fontsize="small", frameon=False)
    top.set(yscale="log", ylim=(low, high), ylabel="learning rate")
    top.grid(axis="y", color="0.9")
    norm, rows = LogNorm(low, high), np.arange(count + 1)
    grid = bottom.pcolormesh(edges, rows, rates, norm=norm, cmap="YlOrRd")
    bottom.hlines(rows, 0, epochs, color="white", linewidth=1.5)
    bottom.set(ylim=(count, 0), xlim=(0, epochs), xlabel="epoch", facecolor="0.88")
    bottom.set_yticks(rows[1:] - 0.5, names, fontsize="small")
    bottom.xaxis.get_major_locator().set_params(integer=True)
    what = "learning rate (grey: frozen, hatched: norm layers only)"
    figure.colorbar(grid, ax=bottom, location="bottom", aspect=80, label=what)
    spell_out(figure)
    with beside(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:])
