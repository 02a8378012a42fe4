"""What Thaw's own settings are: the files in `conf`, what they name, and what it was called before.

Runs of earlier versions lack keys that came later, and name places where things no longer are.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from thaw.launch import conf

# Where things were → where they are, in settings that runs have kept.
MOVED = {
    "thaw.pretrained.torchvision": "thaw.nets.pretrained.torchvision",
    "thaw.pretrained.timm": "thaw.nets.pretrained.timm",
    "thaw.pretrained.small_cnn": "thaw.nets.pretrained.small_cnn",
    "thaw.schedule.Schedule": "thaw.training.schedule.Schedule",
    "thaw.data.PhotoFolder": "thaw.data.folder.PhotoFolder",
    "thaw.shapes.draw": "thaw.data.shapes.draw",
    "thaw.augment.Augment": "thaw.data.augment.Augment",
    "thaw.sweep.Verdict": "thaw.sweeps.jobs.Verdict",
    "thaw.forgetting_figure.ForgettingFigure": "thaw.sweeps.forgetting.ForgettingFigure",
    "thaw.study.Study": "thaw.sweeps.study.Study",
    "thaw.slurm.Requeue": "thaw.launch.slurm.Requeue",
    "lightning.pytorch.loggers.TensorBoardLogger": "thaw.report.board.logger.Board",
    "thaw.cli.ConsoleHandler": "thaw.launch.cli.ConsoleHandler",
}


def moved(settings: Any) -> Any:
    """The same settings, with the names that things have now."""
    if isinstance(settings, dict):
        return {key: moved(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [moved(value) for value in settings]
    return MOVED.get(settings, settings) if isinstance(settings, str) else settings


def moved_in(text: str) -> str:
    """An override, with the names that things have now."""
    names = r"(?<![\w.])(?:thaw|lightning)(?:\.\w+)+(?![\w.])"
    return re.sub(names, lambda m: MOVED.get(m[0], m[0]), text)


def _load(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@functools.cache
def groups() -> dict[str, frozenset[str]]:
    """Names of the files in each group of `conf`."""
    return {
        folder.name: frozenset(file.stem for file in folder.glob("*.yaml"))
        for folder in conf.folder().iterdir()
        if folder.is_dir()
    }


@functools.cache
def top_keys() -> frozenset[str]:
    """Groups and keys at the top of the settings, without Hydra's own."""
    shared = {*_load(conf.folder() / "config.yaml")} - {"defaults"}
    return frozenset(shared | groups().keys() - {"hydra"})


@functools.cache
def targets(group: str) -> frozenset[str]:
    """All that the files of a group let Hydra make."""
    return frozenset(str(value) for key, value in _leaves(group) if key == "_target_")


@functools.cache
def addresses(group: str) -> frozenset[str]:
    """All addresses in the files of a group."""
    return frozenset(str(value) for _, value in _leaves(group) if "://" in str(value))


def _leaves(group: str) -> Iterator[tuple[str, Any]]:
    for path in (conf.folder() / group).glob("*.yaml"):
        yield from _walk("", _load(path))


def _walk(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk(str(name), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(key, inner)
    else:
        yield key, value


# --- defaults -------------------------------------------------------------------------------------


def with_defaults(settings: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run, where a key that wasn't there yet counts as its default.

    Args:
        choices: the file that each group gave; that of a group which wasn't there yet is the
            default one.
    """
    chosen = tuple((k, v) for k, v in sorted(choices.items()) if isinstance(v, str))
    filled = dict(settings)
    for key, value in _defaults(chosen).items():
        if isinstance(value, dict) and isinstance(filled.get(key), dict):
            filled[key] = value | filled[key]  # not deeper: phases may have been taken out
        else:
            filled.setdefault(key, value)
    return filled


@functools.cache
def _defaults(choices: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    base = _load(conf.folder() / "config.yaml")
    values = {key: value for key, value in base.items() if key != "defaults"}
    for entry in base["defaults"]:
        for group, default in entry.items() if isinstance(entry, dict) else ():
            name = dict(choices).get(group, default)
            if group in ("hydra", "experiment") or default is None:
                continue
            name = name if name in groups()[group] else default
            values |= _file(group, name)
    return values


def _file(group: str, name: str) -> dict[str, Any]:
    """What a file gives, by top-level key, with the files of its group that it builds on."""
    path = conf.folder() / group / f"{name}.yaml"
    own = _load(path)
    whole = "@package _global_" in path.read_text(encoding="utf-8").partition("\n")[0]
    own = {k: v for k, v in own.items() if k != "hydra"} if whole else {group: own}
    values: dict[str, Any] = {group: {}}
    for entry in [*own.pop("defaults", []), *own.get(group, {}).pop("defaults", [])]:
        if isinstance(entry, str) and entry != "_self_":
            values[group] |= _file(group, entry.partition("@")[0]).get(group, {})
    values[group] |= own.pop(group, {})
    return values | own
