"""Nets of no library: Thaw's small CNN, and what a function or class of the user's makes.

The import path of the latter is code, so it comes only from the user himself: from his settings
when he trains; by `trust` or `thaw.load(path, net=…)` when a bundle is loaded, which is data and
can't ask for it.
"""

import importlib
import inspect
import math
import os
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification

from thaw.errors import UserError
from thaw.launch.cli import trusted
from thaw.nets.backbone import Backbone, check_order
from thaw.nets.state.matching import load
from thaw.nets.weights import loading, named_file

Factory = Callable[..., Any]
OURS = ("name", "weights", "input_size")  # settings that Thaw applies where the user's code doesn't


def small_cnn(
    name: str = "small_cnn", weights: None = None, width: int = 32, input_size: int = 128
) -> Backbone:
    """A plain CNN to train from scratch: what transfer learning is compared with.

    Raises:
        UserError: weights are asked for; there are none.
    """
    if weights is not None:
        raise UserError(f"{name} has no pretrained weights, so arch.weights={weights} can't be.")
    origin = {"source": "thaw", "name": name, "kwargs": {"width": width}}
    resize = math.ceil(input_size * 8 / 7)  # the proportion that ImageNet nets use: 256 to 224
    transforms = ImageClassification(crop_size=input_size, resize_size=resize)
    return Backbone(small_net(width), transforms, origin, pretrained=False)


def small_net(width: int) -> nn.Sequential:
    """Its four blocks, the first of `width` channels, each further one of twice as many."""
    widths = [3, width, 2 * width, 4 * width, 8 * width]
    blocks = {
        f"block{i}": nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        for i, (before, after) in enumerate(pairwise(widths), start=1)
    }
    tail = {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(widths[-1], 10),
    }
    return nn.Sequential(OrderedDict(blocks | tail))


def trust(target: str) -> None:
    """Let bundles be loaded whose net this import path makes, `mynet.tiny` for instance.

    Raises:
        UserError: it can't be imported.
    """
    find(target, "--net")
    trusted.add(target)


def find(target: Any, where: str = "arch._target_") -> Factory:
    """What an import path names; modules in the working directory are found as well.

    Raises:
        UserError: it can't be imported, or can't be called.
    """
    place, _, name = str(target).rpartition(".")
    if not place:
        raise UserError(
            f"Expected {where} to be MODULE.FUNCTION, such as mynet.tiny for tiny in mynet.py, got"
            f" {target!r}."
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    with _explained(f"{where}={target} can't be imported"):
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            raise UserError(
                f"{where}={target} can't be imported: there is no module {error.name}, neither"
                f" installed nor in the working directory {os.getcwd()}."
            ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(
            f"Expected {where}={target} to name a function or class, but {place} has no such"
            f" {name}."
        )
    return found


def backbone(target: str, settings: Mapping[str, Any]) -> Backbone:
    """The net that a user's own code makes.

    Args:
        target: the import path of a function or class; it returns a `Backbone`, or a module that
            maps images `[B, 3, H, W]` to logits `[B, classes]`.
        settings: passed to it. `name` (what tables call it), `weights` (a file) and `input_size`
            (pixels, 224) are Thaw's unless it takes them itself.

    Raises:
        UserError: it can't be imported or called, or makes something else.
    """
    factory = find(target)
    if nested := [key for key, value in settings.items() if "_target_" in str(value)]:
        raise UserError(
            f"Expected plain values in arch.{nested[0]} for {target}, got a _target_: a bundle"
            " stores them, and holds no code; make it in your own function."
        )
    takes = _takes(factory)
    given = {k: v for k, v in settings.items() if k not in OURS or takes(k)}
    aside = {k: v for k, v in settings.items() if k not in given}
    with _explained(f"{target} can't make a net of the settings {given or ''}".rstrip()):
        net = factory(**given)
    name = str(settings.get("name") or target)
    origin = {"source": "own", "name": name, "target": target, "kwargs": given}
    meta: dict[str, Any] = {}
    pretrained = bool(given.get("weights") or given.get("pretrained"))
    if isinstance(net, Backbone):
        transforms, meta, pretrained, net = net.transforms, net.meta, net.pretrained, net.net
    else:
        net = _module(net, target)
        side = aside.get("input_size") or 224
        if isinstance(side, bool) or not isinstance(side, int) or not 8 <= side <= 4096:
            raise UserError(
                f"Expected arch.input_size to be a whole number of pixels, got {side!r}."
            )
        transforms = ImageClassification(crop_size=side, resize_size=round(side * 8 / 7))
    if aside.get("weights") is not None:
        path = named_file(str(aside["weights"]), [])
        meta = {**meta, "source": str(path)}
        pretrained = True
        if loading.get():
            load(net, path)
    made = Backbone(net, transforms, origin, meta, pretrained)
    _check(made, target)
    trusted.add(target)
    return made


def rebuild(origin: Mapping[str, Any], factory: Factory | None = None) -> nn.Module:
    """Make the net of a bundle again, by the user's code that he has named.

    Raises:
        UserError: he hasn't, or it can't be made.
    """
    target = str(origin.get("target"))
    if factory is None:
        if target not in trusted:
            raise UserError(
                f"The net of this model is made by code, {target}, which a bundle can't bring: say"
                f" that you trust it with --net {target}, or thaw.load(PATH, net={target}) in"
                " Python, where that module can be imported."
            )
        factory = find(target, "--net")
    # Nothing is downloaded: the bundle has the weights.
    kwargs = dict(origin["kwargs"])
    kwargs |= {key: off for key, off in (("weights", None), ("pretrained", False)) if key in kwargs}
    with _explained(f"{target} can't make the net again of the settings {kwargs}"):
        net = factory(**kwargs)
    return net.net if isinstance(net, Backbone) else _module(net, target)


def _module(net: Any, target: str) -> nn.Module:
    if not isinstance(net, nn.Module):
        raise UserError(
            f"Expected {target} to return a torch.nn.Module or a thaw Backbone, got a"
            f" {type(net).__name__}."
        )
    return net


def _takes(factory: Factory) -> Callable[[str], bool]:
    """Whether a function has an argument of this name."""
    try:
        arguments = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # of code that isn't Python
        return lambda _: True
    names = {a.name for a in arguments if a.kind is not a.VAR_KEYWORD}
    return lambda name: name in names


def _check(made: Backbone, target: str) -> None:
    """See that it makes logits of photos, and runs its stages one after another."""
    photos = torch.zeros(2, 3, made.input_size, made.input_size)
    made.eval()
    with _explained(f"{target} can't take photos {list(photos.shape)}"), torch.inference_mode():
        logits = made(photos)
        check_order(made)
    made.train()
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        raise UserError(
            f"Expected {target} to make logits [B, classes] of photos [B, 3, H, W], got {shape}."
        )


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Turn what goes wrong in the user's code into one sentence, with the line where it did."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        here = Path(__file__)
        where = "" if Path(frame.filename) == here else f" ({frame.filename}, line {frame.lineno})"
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{problem}: {type(error).__name__}, {reason}{where}.") from error
