"""What follows `thaw shortlist`: settings of training, and nets in place of one net."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from thaw.errors import UserError
from thaw.launch import conf
from thaw.launch.mistakes import composed
from thaw.training.probe.folds import FEWEST

GROUPS = ("data", "trainer", "cache", "seed")  # what of training's settings has a meaning here
LIBRARIES = ("timm", "torchvision")  # files of conf/arch that stand for every net of a library
FOLDS = 5
FITS = ("crop", "squash", "pad")


@dataclass(frozen=True)
class Net:
    """A net to try: its name in tables, the words that mean it in training, and all settings."""

    name: str
    words: list[str]
    cfg: DictConfig


@dataclass(frozen=True)
class Words:
    """The nets to try, the number of folds, and the words that are for training as well."""

    nets: list[Net]
    folds: int
    shared: list[str]


def read(
    words: Sequence[str],
    groups: Sequence[str] = GROUPS,
    further: Sequence[str] = ("folds=5", "fits=crop,pad"),
) -> Words:
    """Compose the settings of each net.

    `archs=a,b` names files of `conf/arch`, or nets of a library (`timm/NAME`, `torchvision/NAME`);
    `archs=all` is every file whose net has pretrained weights. `archs.NET.KEY=VALUE` is
    `arch.KEY=VALUE` for one net. `fits=crop,squash,pad` tries each net with photos fitted in each
    of these ways (`data.fit`). `folds=N`, and what begins with one of `groups`, is for all.

    Args:
        further: what else may be said, for those who say what isn't known.

    Raises:
        UserError: a word means nothing here.
    """
    given: dict[str, list[str]] = {"archs": [], "fits": [], "folds": []}
    given |= {"own": [], "shared": []}
    for word in words:
        key, equals, _ = word.lstrip("+~").partition("=")
        kind = "own" if key.startswith("archs.") else key
        if key.partition(".")[0] in groups:
            kind = "shared"
        if kind not in given or not equals:
            raise UserError(
                f"Expected archs=NET,NET, {', '.join(further)}, or a word that begins with archs.,"
                f" {', '.join(groups[:-1])} or {groups[-1]}, such as data.root=PATH, got {word!r}."
            )
        given[kind].append(word)
    known = [*conf.options("arch")]
    names = _names(given["archs"], known)
    own = {name: [w for w in given["own"] if _setting(w, name)] for name in names or known}
    for word in given["own"]:
        if not any(word in mine for mine in own.values()):
            raise UserError(f"Expected {word!r} to be of a net in archs=, which has {names}.")
    nets = []
    fits = _fits(given["fits"])
    for name in names or known:
        group, _, inner = name.partition("/")
        chosen = [f"arch={group}", *([f"arch.name={inner}"] if inner else [])]
        chosen += [_setting(word, name) for word in own[name]]
        for fit in fits:
            words = [f"data.fit={fit}", *chosen] if fit else chosen
            if group in LIBRARIES and not any(word.startswith("arch.name=") for word in chosen):
                continue  # any of theirs: which one isn't said
            cfg = composed([*given["shared"], *words])
            ready = all(OmegaConf.select(cfg.arch, key) for key in ("name", "weights"))
            if names or ready:
                shown = f"{name}/{cfg.arch.name}" if name in LIBRARIES else name
                nets.append(Net(f"{shown} {fit}".rstrip(), words, cfg))
    return Words(nets, _folds(given["folds"]), given["shared"])


def _names(words: list[str], known: list[str]) -> list[str]:
    """The nets of `archs=`; [] for all."""
    text = words[-1].partition("=")[2] if words else ""
    names = list(dict.fromkeys(name.strip() for name in text.strip("[]'\"").split(",")))
    if names == ["all"]:
        return []
    for name in names:
        library, _, inner = name.partition("/")
        if name not in known and not (library in LIBRARIES and inner):
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(
                "Expected archs= to be all, or nets with commas between them"
                f" ({', '.join(n for n in known if n not in LIBRARIES)}, timm/NAME,"
                f" torchvision/NAME), got {name!r}" + (f"; near it is {near[0]}." if near else ".")
            )
    return names


def _setting(word: str, name: str) -> str:
    """A word `archs.NAME.KEY=VALUE` as training's, "" if it is another net's.

    >>> _setting("archs.vgg11.weights=a.pth", "vgg11")
    'arch.weights=a.pth'
    """
    bare = word.lstrip("+~")
    start = f"archs.{name}."
    sign = word[: len(word) - len(bare)]
    return f"{sign}arch.{bare.removeprefix(start)}" if bare.startswith(start) else ""


def _fits(words: list[str]) -> list[str]:
    """The values of `fits=`; [""] leaves it as the settings have it."""
    if not words:
        return [""]
    fits = [*dict.fromkeys(words[-1].partition("=")[2].strip("[]'\"").split(","))]
    if wrong := [fit for fit in fits if fit not in FITS]:
        raise UserError(f"Expected fits= to be some of {','.join(FITS)}, got {wrong[0]!r}.")
    return fits


def _folds(words: list[str]) -> int:
    text = words[-1].partition("=")[2] if words else str(FOLDS)
    if not text.isdecimal() or int(text) < FEWEST:
        raise UserError(f"Expected folds to be a whole number from {FEWEST}, got {text!r}.")
    return int(text)
