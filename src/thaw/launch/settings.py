"""What each setting may be: one table, read before torch is imported.

A key with a line here is checked wherever it was set: command line, experiment, a user's own YAML.
One without is an argument like any other: what its function takes and refuses is told by `make`.
What belongs to a `_target_` of the user's own is the user's.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thaw.errors import UserError
from thaw.launch import conf
from thaw.launch.typed import shown, unknown

OURS = ("thaw.", "torch.", "torchvision.", "lightning.")  # the `_target_`s that Thaw comes with
LARGE = 2**63 - 1  # what torch takes as a seed
FREE = ("loss", "metrics", "logger", "callbacks")  # of which any `_target_` may be the user's own
GROUPS = ("arch", "data", "augment", "optimizer", "finetune", "trainer", "cache", *FREE)
NOTES = {"note", "notes", "project", "tags"}  # what nothing reads but people, with a `+`


@dataclass(frozen=True)
class Kind:
    """Values that a setting may have.

    Args:
        valid: in words, after "expected KEY to be".
        holds: whether a value is one.
        typed: it is text, and means what is typed: no quotes, brackets or numbers are read from it.
        null: whether `null` is one too.
    """

    valid: str
    holds: Callable[[Any], bool]
    typed: bool = False
    null: bool = False

    def takes(self, value: object) -> bool:
        """Whether this value may be set."""
        return self.null if value is None else self.holds(value)


def whole(low: int, high: int) -> Kind:
    """Whole numbers from `low` to `high`."""
    bound = f" to {high}" if high < LARGE else ""
    return Kind(f"a whole number from {low}{bound}", lambda v: _is(v, int) and low <= v <= high)


def number(low: float, high: float, above: bool = False) -> Kind:
    """Numbers from `low` (or above it) to `high`."""
    words = f"a number above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
    return Kind(
        words if above else f"a number {words}",
        lambda v: _is(v, int | float) and low <= v <= high and not (above and v == low),
    )


def one_of(*values: object) -> Kind:
    """These and no others."""
    return Kind(
        f"one of {', '.join(map(shown, values))}",
        lambda v: any(type(v) is type(value) and v == value for value in values),
    )


def or_null(kind: Kind) -> Kind:
    """That, or null."""
    return replace(kind, valid=f"{kind.valid}, or null", null=True)


def never(reason: str) -> Kind:
    """Nothing: the key stands here for what it says instead."""
    return Kind(f"left out, since {reason}", lambda _: False)


def _is(value: object, kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != "" and "\0" not in value


SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
PATH = Kind("a path", _is_text, typed=True)
NAME = Kind("a name", _is_text, typed=True)
INSIDE = Kind(
    "the name of a folder in data.root",
    lambda v: _is_text(v) and not Path(v).is_absolute() and ".." not in Path(v).parts,
    typed=True,
)
SHARE = Kind("a number between 0 and 1", lambda v: _is(v, int | float) and 0 < v < 1)
BETAS = Kind(
    "two numbers from 0, below 1, such as [0.9,0.999]",
    lambda v: (
        isinstance(v, list) and len(v) == 2 and all(_is(b, int | float) and 0 <= b < 1 for b in v)
    ),
)
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
PRECISIONS += ("32", "16", "64", "bf16", 32, 16, 64)
MAKER = Kind(
    "settings with a _target_",
    lambda value: isinstance(value, dict) and isinstance(value.get("_target_"), str),
)
DEVICES = Kind(
    "auto, a number of devices from 1, or a list of device numbers",
    lambda v: (
        v in ("auto", "-1")
        or (_is(v, int) and (1 <= v <= 4096 or v == -1))
        or (isinstance(v, str) and v.replace(",", "").isdigit())
        or (isinstance(v, list) and bool(v) and all(_is(d, int) and d >= 0 for d in v))
    ),
)

KEYS = {
    "seed": whole(0, LARGE),
    "resume": or_null(PATH),
    "from_run": or_null(PATH),
    "folds": or_null(whole(2, 100)),
    "refit": or_null(one_of("all", "ensemble")),
    "resume_with_changes": SWITCH,
    "debug": SWITCH,
    "cache.enabled": SWITCH,
    "cache.dir": PATH,
    "cache.max_gb": number(0, 1e6, above=True),
    "arch.name": NAME,
    "arch.weights": or_null(PATH),  # or the name of published ones
    "arch.width": whole(1, 512),
    "arch.input_size": whole(16, 1024),
    "arch.drop_rate": number(0, 0.99),
    "data.root": PATH,
    "data.train": INSIDE,
    "data.val": or_null(INSIDE),
    "data.test": or_null(INSIDE),
    "data.file": or_null(PATH),
    "data.fixes": or_null(PATH),
    "data.known": or_null(PATH),
    "data.classes": or_null(one_of("top", "leaf", "path", "name")),
    "data.group": or_null(NAME),
    "data.on_error": one_of("exclude", "fail"),
    # Without quotes, YAML reads off as false.
    "data.check": Kind(
        "one of warn, strict, off", lambda v: v in ("warn", "strict", "off") or v is False
    ),
    "data.balance": one_of("none", "sampler", "loss"),
    "data.fit": one_of("crop", "squash", "pad"),
    "data.size": or_null(whole(16, 2048)),
    "data.val_fraction": SHARE,
    "data.test_fraction": SHARE,
    "data.batch_size": whole(1, 100_000),
    "data.workers": whole(0, 512),
    "data.source": or_null(MAKER),
    "data.source.train_per_class": whole(1, 1_000_000),
    "data.source.test_per_class": whole(1, 1_000_000),
    "data.source.size": whole(16, 4096),
    "data.source.seed": whole(0, LARGE),
    "data.source.url": NAME,
    "optimizer.lr": never("learning rates are the schedule's (finetune.phases.head.lr)"),
    "optimizer.params": never("they are the net's"),
    "optimizer.weight_decay": number(0, 1e6),
    "optimizer.momentum": number(0, 1e6),
    "optimizer.nesterov": SWITCH,
    "optimizer.betas": BETAS,
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps", "tpu", "hpu"),
    "trainer.precision": one_of(*PRECISIONS),
    "trainer.devices": DEVICES,
    "trainer.channels_last": SWITCH,
    "trainer.keep_memory": SWITCH,
    "trainer.fuse": SWITCH,
    "trainer.compile": Kind(
        "true, false or a backend's name", lambda v: isinstance(v, bool) or _is_text(v)
    ),
    "hydra.run.dir": PATH,
    "hydra.sweep.dir": PATH,
}
# What a phase may have, and its file needn't say: finetune.phases.head.warmup=1
OPTIONAL = ("lr_decay", "warmup", "anneal", "until", "patience", "min_delta", "restore_best")
OPTIONAL += ("solve",)


def check(cfg: DictConfig) -> None:
    """Raise UserError, with a line for all that can't be right in these settings."""
    values, problems = resolved(cfg)
    broken = {problem.split(" ")[1] for problem in problems}
    known = _tops()
    interpolated = str(OmegaConf.to_container(cfg, resolve=False))
    for name in values:
        if name not in known | NOTES and f"${{{name}" not in interpolated:
            problems.append(unknown(name, values[name], sorted(known)))
    for name in GROUPS:
        if not isinstance(values.get(name), Mapping) and name not in broken:
            problems = [problem for problem in problems if f"${{{name}." not in problem]
            problems.append(
                f"Expected {name} to be a group of settings, got {shown(values.get(name))}."
            )
    cache = values.get("cache")
    if isinstance(cache, Mapping):
        own = [key.removeprefix("cache.") for key in KEYS if key.startswith("cache.")]
        problems += [
            unknown(f"cache.{key}", "", [f"cache.{k}" for k in own])
            for key in cache
            if key not in own
        ]
    for key in KEYS:  # what is read from the settings themselves, not by a function with defaults
        group, _, name = key.rpartition(".")
        if group in ("", "cache", "trainer"):
            node = values.get(group) if group else values
            if isinstance(node, Mapping) and name not in node and key not in broken:
                problems.append(f"Expected {key} to be {KEYS[key].valid}, but it is left out.")
    problems += [
        f"Expected {key} to be {kind.valid}, got {shown(value)}."
        for key, value, kind in _known(values)
        if key not in broken and not kind.takes(value)
        if not (key == "data.root" and value is None)  # which is right where there is a table
    ]
    arch, data = values.get("arch"), values.get("data")
    if isinstance(data, Mapping) and _shipped(data):
        problems += [p for key in ("file", "fixes") for p in _missing_file(key, data.get(key))]
        problems += _missing_root(data)
    if isinstance(arch, Mapping) and _shipped(arch):
        problems += _missing_weights(arch.get("weights"))
    if values.get("from_run") and values.get("folds"):
        problems.append(
            "Expected from_run or folds, got both: the old net has seen photos that folds would"
            " test."
        )
    if values.get("refit") and not values.get("folds"):
        problems.append("Expected folds=K with refit: how good that model is, folds tell.")
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def resolved(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Plain values, and a sentence for each that refers to what isn't there."""
    problems: list[str] = []

    def plain(node: Any, where: str) -> Any:
        if not isinstance(node, DictConfig | ListConfig):
            return node
        made: list[tuple[Any, Any]] = []
        for key in node if isinstance(node, DictConfig) else range(len(node)):
            place = f"{where}.{key}" if where else str(key)
            if place == "hydra":
                continue
            try:
                if OmegaConf.is_missing(node, key):
                    problems.append(f"Expected {place} to be set; it has no default.")
                    continue
                made.append((key, plain(cast(Any, node)[key], place)))
            except (OmegaConfBaseException, RecursionError) as error:
                raw = cast(Any, node)._get_node(key)._value()
                why = "to itself" if "ecursi" in str(error) else "to what isn't there"
                problems.append(f"Expected {place} to be a value, but {shown(raw)} refers {why}.")
        return dict(made) if isinstance(node, DictConfig) else [value for _, value in made]

    return plain(cfg, ""), problems


def _tops() -> set[str]:
    """What `config.yaml` and the groups that it names hold at the top."""
    files = [place / "config.yaml" for place in (conf.own(), conf.folder()) if place]
    config = OmegaConf.to_container(OmegaConf.load(next(filter(Path.is_file, files))))
    assert isinstance(config, dict)
    groups = {key for line in config.pop("defaults") if isinstance(line, dict) for key in line}
    names = {str(key).removeprefix("override ").strip("/") for key in {*config, *groups}}
    return names - {"experiment"}


def _shipped(node: Mapping[str, Any]) -> bool:
    target = node.get("_target_")
    return target is None or (isinstance(target, str) and target.startswith(OURS))


def _known(node: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any, Kind]]:
    """Keys that have a kind, and their values; nothing of a user's own `_target_`."""
    for name, value in node.items():
        key = f"{where}{name}"
        if key in KEYS:
            yield key, value, KEYS[key]
        if isinstance(value, Mapping) and _shipped(value):
            yield from _known(value, f"{key}.")


def _missing_weights(weights: object) -> list[str]:
    """Names of published ones are known to their libraries alone; a file looks like one."""
    if not isinstance(weights, str) or not re.search(
        r"[/\\]|\.(pth|pt|ckpt|bin|safetensors)$", weights
    ):
        return []
    try:
        if Path(os.path.expanduser(weights)).exists():
            return []
    except OSError:  # a name longer than file systems allow
        pass
    return [
        f"Expected a file of weights in arch.weights={weights}, but there is none; valid are also"
        " DEFAULT, the name of published weights, and null (random ones)."
    ]


def _missing_file(key: str, place: object) -> list[str]:
    """`data.file` and `data.fixes` are tables."""
    if not isinstance(place, str) or os.path.isfile(path := os.path.expanduser(place)):
        return []
    kind = "it is a folder" if os.path.isdir(path) else "there is no such file"
    return [f"Expected a table in data.{key}={place}, but {kind}."]


def _missing_root(data: Mapping[str, Any]) -> list[str]:
    root = data.get("root")
    if root is None and "root" in data and data.get("file", "") is None:
        return [f"Expected data.root to be {PATH.valid}, got null."]
    if data.get("source") is not None or not isinstance(root, str):
        return []
    path = Path(os.path.expanduser(root))
    try:
        if path.is_dir():
            return []
        kind = "a file" if path.exists() else "none"
    except OSError as error:  # a name longer than file systems allow
        kind = f"none ({error.strerror})"
    there = f", but {'it is a file' if kind == 'a file' else 'there is ' + kind}"
    return [
        f"Expected a folder of photos in data.root={root}{there}; it holds one folder a class, or"
        " train/ and test/ with one folder a class in each."
    ]
