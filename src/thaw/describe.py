"""What a net is made of, and what a schedule trains of it when; no weights are read for that."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from omegaconf.errors import OmegaConfBaseException
from rich import get_console
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from thaw import cli
from thaw.backbone import Backbone
from thaw.errors import UserError
from thaw.schedule import Schedule, stage_rates
from thaw.terminal import phase_line
from thaw.weights import without_loading

MOST_NAMES = 8  # of parameters that are listed unless more are asked for


def build(conf: Path, overrides: Sequence[str]) -> tuple[Backbone, Schedule, dict[str, str]]:
    """The net without its weights, the schedule, and the file that each group of `conf` gave.

    Raises:
        UserError: settings that are unknown, or that don't fit.
    """
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            cfg = compose("config", list(overrides), return_hydra_config=True)
    except ConfigCompositionException as error:
        cause = error.__cause__
        if not isinstance(cause, OmegaConfBaseException) or not cause.parent_node:
            raise
        valid = ", ".join(key for key in map(str, cause.parent_node) if key[0] != "_")
        raise UserError(f"There is no setting {cause.full_key}; valid are {valid}.") from error
    make = (lambda: instantiate(cfg.arch), lambda: instantiate(cfg.finetune))
    with without_loading():
        backbone, schedule = cli.build_all(*make)
    return backbone, schedule, cfg.hydra.runtime.choices


def net_facts(backbone: Backbone) -> dict[str, Any]:
    """What is known of a net and of its published weights, in plain values."""
    total = sum(p.numel() for p in backbone.parameters())
    known = {key: backbone.meta.get(key) for key in ("source", "url", "accuracy", "licence")}
    head = {"path": backbone.head_path, "kind": type(backbone.head).__name__}
    head |= {"in_features": backbone.in_features, "out_features": backbone.head.weight.shape[0]}
    see = backbone.transforms
    photos = {"resize": list(see.resize_size), "interpolation": see.interpolation.value}
    photos |= {"crop": backbone.input_size, "mean": list(see.mean), "std": list(see.std)}
    return backbone.origin | {
        "weights": known if backbone.pretrained else None,
        "parameters": total,
        "megabytes": total * 4 / 1e6,
        "head": head,
        "transforms": photos,
        "stages": [
            {"name": stage, "parameters": backbone.num_parameters(stage), "shape": shape}
            for stage, shape in stage_shapes(backbone).items()
        ],
    }


def stage_shapes(backbone: Backbone) -> dict[str, list[int] | None]:
    """Shape of what each stage makes of one black photo; None where it isn't a single tensor."""
    photo = torch.zeros(1, 3, backbone.input_size, backbone.input_size)
    with torch.inference_mode():
        _, seen = backbone.eval().stage_outputs(photo)
    return {s: list(out.shape) if isinstance(out, Tensor) else None for s, out in seen.items()}


def schedule_facts(schedule: Schedule, backbone: Backbone) -> dict[str, Any]:
    """What each phase trains and how fast, in plain values; a frozen stage has no rate."""
    rates, phases = stage_rates(schedule, backbone), []
    for i, phase in enumerate(schedule.phases):
        schedule.apply(phase, backbone)
        trained = {n: p.numel() for n, p in backbone.net.named_parameters() if p.requires_grad}
        facts = {"name": phase.name, "epochs": phase.epochs, "until": phase.until}
        facts |= {"lr": {stage: lr[i] or None for stage, lr in rates.items()}}
        facts |= {"in_words": phase_line(phase, schedule, backbone)}
        phases.append(facts | {"parameters": sum(trained.values()), "names": list(trained)})
    return {"at_most": any(phase.until for phase in schedule.phases), "phases": phases}


def show(facts: dict[str, Any], rates: Table, names: bool) -> None:
    """Print the facts for people, with every name of a parameter if `names`."""
    piped = not get_console().is_terminal
    console = Console(width=250) if piped else get_console()  # piped, no cell is cut or broken
    weights, seen = facts["weights"] or {}, facts["transforms"]
    top1 = weights.get("accuracy")
    mean, std = (" ".join(f"{x:.3g}" for x in seen[key]) for key in ("mean", "std"))
    lines = {
        "net": f"{facts['name']} of {facts['source']}",
        "size": f"{facts['parameters']:,} parameters, {facts['megabytes']:.1f} MB in float32",
        "weights": " ".join(filter(None, [weights.get("source"), weights.get("url")])) or "random",
        "ImageNet top-1": f"{top1:.1f}%, as published" if top1 else "unknown",
        "licence": weights.get("licence") or "unknown",
        "head": "{path}, a {kind}: {in_features} to {out_features}".format(**facts["head"]),
        "photos": f"resize {'×'.join(map(str, seen['resize']))} {seen['interpolation']},"
        f" crop {seen['crop']}, mean {mean}, std {std}\n",
    }
    numbers = Column("parameters", justify="right")
    table = Table("stage", numbers, "output", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for stage in facts["stages"]:
        table.add_row(stage["name"], f"{stage['parameters']:,}", str(stage["shape"] or "-"))
    line = partial(console.print, soft_wrap=True, markup=False, highlight=False)
    for name, text in lines.items():
        if weights or name not in ("ImageNet top-1", "licence"):
            line(f"{name:<14}  {text}")
    console.print(table)
    if "schedule" not in facts:
        return
    plan = facts["schedule"]
    most = "at most " if plan["at_most"] else ""
    line(f"\nfinetune={plan['name']}: {most}{plan['epochs']} epochs, {plan['steps']} steps\n")
    console.print(rates)
    for phase in plan["phases"]:
        line(f"\n{phase['in_words']}")
        few = names or len(phase["names"]) <= MOST_NAMES
        what = phase["names"] if few else [stage for stage, lr in phase["lr"].items() if lr]
        line(f"  {'' if few else 'stages: '}{', '.join(what)}")


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
    figure.savefig(path, dpi=120)
