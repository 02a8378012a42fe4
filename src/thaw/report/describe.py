"""What a net is made of, and what a schedule trains of it when; no weights are read for that."""

import re
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich import get_console
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor

from thaw.errors import UserError
from thaw.escape import printable
from thaw.launch import cli, conf
from thaw.launch.build import make
from thaw.launch.mistakes import composed
from thaw.model import bundle
from thaw.nets.backbone import Backbone
from thaw.nets.fit import Padded
from thaw.nets.fit import seen as look
from thaw.nets.pretrained import made
from thaw.nets.weights import without_loading
from thaw.report.terminal import phase_line
from thaw.runs import read, shipped, trust
from thaw.runs.folder import RunFolder
from thaw.screen import wrapped
from thaw.training.schedule import Schedule, stage_rates

MOST_NAMES = 8  # of parameters that are listed unless more are asked for


def build(
    overrides: Sequence[str], weights: bool = False
) -> tuple[Backbone, Schedule, dict[str, str]]:
    """The net, the schedule, and the file that each group of `conf` gave; no weights unless asked.

    Raises:
        UserError: settings that are unknown, or that don't fit.
    """
    cfg = composed(overrides, hydra=True)
    with nullcontext() if weights else without_loading():
        backbone, schedule = cli.build_all(
            lambda: made(cfg.arch, **look(cfg.data)), lambda: make(cfg.finetune, "finetune")
        )
    return backbone, schedule, cfg.hydra.runtime.choices


def build_run(
    run: Path, own: Collection[str] = ()
) -> tuple[Backbone, Schedule | None, dict[str, Any]]:
    """The trained net of a run or a bundle; of a run also its schedule, and further facts.

    Args:
        own: targets of the run's schedule that the user knows to be his.

    Raises:
        UserError: there is no bundle, or it is damaged, or the schedule isn't Thaw's.
    """
    alone = (run / "model").is_dir() or not read.folds(run)
    model = bundle.load(run if alone else read.folds(run)[0])
    backbone, info = model.backbone, model.info
    backbone.meta = {k: v for k, v in info.get("pretrained", {}).items() if v is not None}
    backbone.pretrained = "source" in backbone.meta
    facts = {"classes": model.classes, "temperature": model.temperature}
    facts |= {"threshold": model.threshold, "accuracy": info.get("metrics", {}).get("test/acc")}
    settings = RunFolder(run).settings
    if settings is None:
        return backbone, None, facts
    batch_size, photos = settings.get("data", {}).get("batch_size"), read.split(run).photos["train"]
    if isinstance(batch_size, int) and batch_size > 0:
        facts["steps"] = -(-len(photos) // batch_size)
    choices = read.choices(run)
    facts |= {"arch": choices["arch"], "finetune": choices["finetune"]}
    return backbone, _schedule(run / "environment.json", settings.get("finetune", {}), own), facts


def _schedule(file: Path, given: dict[str, Any], own: Collection[str]) -> Schedule:
    """A run's schedule; nothing that its folder names is called unless it is Thaw's, or `own`."""
    for target in trust.targets(given):
        if target not in shipped.targets("finetune") and target not in own:
            raise UserError(
                f"{file} names {ascii(target)[:80]}, which isn't Thaw's, so it isn't run; if that"
                f" is yours, confirm it: --set finetune._target_={ascii(target)[1:-1][:80]}."
            )
    try:
        schedule = make(given, "finetune")
    except Exception as error:
        reason = cli.user_sentence(error) or f"{type(error).__name__}: {error}"
        raise UserError(f"{file} is damaged (finetune: {reason.rstrip('.')}).") from error
    if not isinstance(schedule, Schedule):
        raise UserError(f"{file} is damaged (finetune makes a {type(schedule).__name__}).")
    return schedule


def show_all() -> None:
    """Print the head and its in_features of every net that has a file in `conf/arch`."""
    right: dict[str, Any] = {"justify": "right"}
    numbers = (Column("in_features", **right), Column("parameters", **right))
    columns = ("arch", "head", *numbers, Column("ImageNet top-1", **right))
    table = Table(*columns, header_style="bold", box=None, padding=(0, 2, 0, 0))
    broken = {}
    for name, file in conf.options("arch").items():
        try:
            if OmegaConf.is_missing(OmegaConf.load(file), "name"):
                continue  # it stands for a library
            backbone, _, _ = build([f"arch={name}"])
        except Exception as error:  # of any class: a user's own file, or his own code
            broken[name] = cli.user_sentence(error) or f"{type(error).__name__}: {error}"
            continue
        head = re.sub(r"\.(\d+)", r"[\1]", f"model.{backbone.head_path}")
        total = sum(p.numel() for p in backbone.parameters())
        accuracy = backbone.meta.get("accuracy")
        known = f"{accuracy:.1f}%" if accuracy else "-"
        table.add_row(name, escape(head), str(backbone.in_features), f"{total:,}", known)
    console = get_console()
    (console if console.is_terminal else Console(width=200)).print(table)
    for name, sentence in broken.items():
        line = f"{name}: {' '.join(sentence.split())}"
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


def net_facts(backbone: Backbone) -> dict[str, Any]:
    """What is known of a net and of its published weights, in plain values."""
    total = sum(p.numel() for p in backbone.parameters())
    known = {key: backbone.meta.get(key) for key in ("source", "url", "accuracy", "licence")}
    head = {"path": backbone.head_path, "kind": type(backbone.head).__name__}
    head |= {"in_features": backbone.in_features, "out_features": backbone.head.weight.shape[0]}
    see = backbone.transforms
    photos = {"resize": list(see.resize_size), "interpolation": see.interpolation.value}
    photos |= {"pad": isinstance(see, Padded)}
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
        facts |= {"solve": phase.solve}
        facts |= {"lr": {stage: lr[i] or None for stage, lr in rates.items()}}
        facts |= {"in_words": phase_line(phase, schedule, backbone)}
        phases.append(facts | {"parameters": sum(trained.values()), "names": list(trained)})
    return {"at_most": any(phase.until for phase in schedule.phases), "phases": phases}


def show(facts: dict[str, Any], rates: Table | None, names: bool) -> None:
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
        "photos": f"{_in_words(seen)} ({seen['interpolation']}), centre"
        f" {seen['crop']}×{seen['crop']}, values from 0 to 1, minus mean {mean}, over std {std}\n",
    }
    if trained := facts.get("trained"):
        del lines["ImageNet top-1"]
        lines["classes"] = ", ".join(map(printable, trained["classes"]))
        share, threshold = trained["accuracy"], trained["threshold"]
        lines["test accuracy"] = "unknown" if share is None else f"{share:.1%}"
        lines["confidence"] = f"temperature {trained['temperature']:.3g}, " + (
            "never unsure" if threshold is None else f"unsure below {threshold:.1%}"
        )
        lines["photos"] = lines.pop("photos")  # the last
    numbers = Column("parameters", justify="right")
    table = Table("stage", numbers, "output", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for stage in facts["stages"]:
        table.add_row(
            Text(printable(stage["name"])), f"{stage['parameters']:,}", str(stage["shape"] or "-")
        )
    show_line = partial(console.print, soft_wrap=True, markup=False, highlight=False)

    def line(text: str) -> None:
        show_line(wrapped(printable(text, keep="\n")))

    for name, text in lines.items():
        if weights or name not in ("ImageNet top-1", "licence"):
            line(f"{name:<14}  {text}")
    console.print(table)
    if rates is None or "schedule" not in facts:
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


def _in_words(seen: dict[str, Any]) -> str:
    resize = seen["resize"]
    if seen["pad"]:
        return f"longer side to {resize[0]} pixels, padded with black"
    if len(resize) == 1:
        return f"shorter side to {resize[0]} pixels"
    return f"squashed to {resize[0]}×{resize[1]} pixels"
