"""Whether the tensors of a file are those of a net, and how to read them so that they are."""

import contextlib
import difflib
import inspect
import io
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from thaw.errors import UserError
from thaw.nets.stages import find_head, is_in
from thaw.nets.state import checkpoint, content
from thaw.nets.state.checkpoint import State

log = logging.getLogger(__name__)
COUNTER = "num_batches_tracked"  # of BatchNorm: absent from older files, and nothing reads it
FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")  # timm's
# The files of densenet date from when a module's name could hold a dot (as torchvision renames).
DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")

Translation = Callable[[State, nn.Module], State]


@dataclass(frozen=True)
class Fit:
    """Tensors of a file under a net's names, and which of them don't fit its body.

    Args:
        place: the dotted way to them in the file, with the prefix of their names.
        state: those that the net has; the head's only if `head`.
        head: whether the file's head fits the net's.
        outputs: of the file's head; None where it has none.
        others: how many tensors lie beside them, under another prefix.
    """

    place: str
    state: State
    head: bool
    outputs: int | None
    others: int
    missing: list[str]
    unknown: list[str]
    shapes: list[str]

    @property
    def wrong(self) -> int:
        """How many tensors don't fit."""
        return len(self.missing) + len(self.unknown) + len(self.shapes)


def load(
    net: nn.Module,
    path: Path,
    translations: Iterable[Translation] = (),
    near: Callable[[State], str | None] = lambda _: None,
) -> bool:
    """Copy a file's tensors into the net: each of its body, and its head if that fits.

    The way to them in the file, and a prefix of their names, may be any. Of weights and their
    average over training (EMA) in one file, the average is taken: it is the better model.

    Args:
        net: of any library.
        path: of a file that `checkpoint.read` reads.
        translations: each gives names of other programs the names that this net has.
        near: the name of an arch that these tensors fit, for the sentence that says they don't.

    Returns:
        Whether the head is the file's too. It is not where the file's answers for other classes.

    Raises:
        UserError: the file can't be read, doesn't fit the net's body, or holds NaN.
    """
    held = checkpoint.read(path)
    places = sorted(checkpoint.places(held), key=lambda place: not _is_average(place[0]))
    fit: Fit | None = None
    for found in (f for place, state in places for f in fits(state, net, translations, place)):
        fit = found if fit is None or found.wrong < fit.wrong else fit
        if not fit.wrong:
            break
    if (name := checkpoint.whole_net(held)) and (fit is None or fit.wrong):
        raise UserError(
            f"Expected weights in {path}, but it is a whole pickled model ({name}), which can't be"
            f" opened without running its code; {content.SAVE}."
        )
    if fit is None:
        kind = type(held).__name__
        raise UserError(f"Expected a dictionary of tensors in {path}, but it holds a {kind}.")
    if fit.wrong:
        name = near(max((state for _, state in places), key=len))
        advice = f"they are those of {name}" if name else "set arch.weights to a file of this arch"
        raise UserError(
            f"The weights in {path} don't fit {type(net).__name__}: {len(fit.missing)} tensors are"
            f" missing {fit.missing[:3]}, {len(fit.unknown)} are unknown {fit.unknown[:3]},"
            f" {len(fit.shapes)} have another shape or type {fit.shapes[:3]}; {advice}."
        )
    checkpoint.check_finite(fit.state, path)
    net.load_state_dict(fit.state, strict=False)
    words = [f"took {fit.place}, an average over training"] * _is_average(fit.place)
    words += [f"{fit.others} tensors beside the net's are left out"] * bool(fit.others)
    if not fit.head:
        left = f"its head of {fit.outputs} classes is left out" if fit.outputs else "it has no head"
        words.append(f"{left}: a new one is trained")
    if words:
        log.info("%s: %s", path, "; ".join(words))
    return fit.head


def fits(
    state: State, net: nn.Module, translations: Iterable[Translation] = (), place: str = ""
) -> Iterator[Fit]:
    """Ways to read tensors as this net's: as they are, translated, and without any prefix."""
    own, head = net.state_dict(), _head_place(net)
    body = [name for name in own if not is_in(name, head)]
    probes = {body[i] for i in (0, len(body) // 2, -1)} if body else set()
    for stripped in _stripped(state):
        for translate in (lambda state, _: state, *translations):
            named = translate(stripped, net)
            prefixes = {n[: -len(p)] for n in named for p in probes if f".{n}".endswith(f".{p}")}
            for prefix in sorted(prefixes | {""}, key=lambda p: (not _is_average(p), len(p), p)):
                yield _fit(f"{place}.{prefix}".strip("."), prefix, named, own, head)


def _fit(place: str, prefix: str, named: State, own: State, head: str) -> Fit:
    state = {n.removeprefix(prefix): t for n, t in named.items() if n.startswith(prefix)}
    of_head = [name for name in own if is_in(name, head)]
    whole = all(name in state and _alike(state[name], own[name]) for name in of_head)
    body = [n for n in own if n not in of_head and not n.endswith(COUNTER)]
    last = [t for n, t in state.items() if is_in(n, head) and t.ndim > 1]
    return Fit(
        place,
        {n: t for n, t in state.items() if n in own and (whole or n not in of_head)},
        whole,
        len(last[-1]) if last else None,
        len(named) - len(state),
        [n for n in body if n not in state],
        [n for n in state if n not in own and not is_in(n, head) and not n.endswith(COUNTER)],
        [n for n in body if n in state and not _alike(state[n], own[n])],
    )


def whose(build: Callable[[dict[str, Any]], nn.Module], given: str, state: State) -> str | None:
    """The arch whose body these tensors are: of torchvision, or of timm and named much as `given`.

    Nets are made without memory, and only such as have about as many parameters.
    """
    import timm as library

    buffers = ("running_mean", "running_var", "num_batches_tracked")
    total = sum(t.numel() for n, t in state.items() if not n.endswith(buffers))
    last = next((t for t in reversed(state.values()) if t.ndim > 1), None)
    outputs, inputs = (len(last), last.numel() // len(last)) if last is not None else (1, 0)
    sizes = {total, total + (1000 - outputs) * (inputs + 1)}
    near: list[dict[str, Any]] = []
    for name in models.list_models(module=models):
        size = models.get_model_weights(name).DEFAULT.meta["num_params"]  # type: ignore[attr-defined]
        if size in sizes:
            near.append({"source": "torchvision", "name": name, "kwargs": {}})
    bare = given.partition(".")[0]
    for name in difflib.get_close_matches(bare, library.list_models(), n=12, cutoff=0.5):
        near.append({"source": "timm", "name": name, "kwargs": {}})
    for origin in near:
        try:
            with torch.device("meta"):
                net = build(origin)
            if any(not fit.wrong for fit in fits(state, net)):
                return f"{origin['name']} (arch={origin['source']} arch.name={origin['name']})"
        except Exception:  # some builders compute with what they make
            continue
    return None


def _alike(given: Tensor, own: Tensor) -> bool:
    """Whether a tensor may be copied into another: half precision may, integers may not."""
    return (
        given.shape == own.shape
        and given.is_floating_point() == own.is_floating_point()
        and given.layout == own.layout
        and not given.is_quantized
    )


def _head_place(net: nn.Module) -> str:
    """The path below which all is the head's, and so what others had put in its place."""
    path = find_head(net)
    parent = path.rpartition(".")[0]
    held = [name for name, _ in net.named_parameters() if is_in(name, parent)]
    # In place of a container of dropout and the head, a Linear is put by many.
    return parent if held and all(is_in(name, path) for name in held) else path


def _stripped(state: State) -> Iterator[State]:
    """Tensors under their names, then without what all names begin with, part by part."""
    state = {DENSENET_KEY.sub(r"\1\2", n.replace("_orig_mod.", "")): t for n, t in state.items()}
    yield state
    while len(firsts := {name.partition(".")[0] for name in state}) == 1:
        prefix = f"{firsts.pop()}."
        if not all(name.startswith(prefix) for name in state):
            return
        state = {name.removeprefix(prefix): t for name, t in state.items()}
        yield state


def _is_average(place: str) -> bool:
    words = re.split(r"[._\d-]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", place).lower())
    return not {"ema", "teacher", "swa", "averaged", "average", "avg", "shadow"}.isdisjoint(words)


def without_aux(state: State, net: nn.Module) -> State:
    """Of torchvision's files: without the auxiliary heads that this net leaves off."""
    aux = ("AuxLogits.", "aux1.", "aux2.")
    absent = tuple(a for a in aux if not any(k.startswith(a) for k in net.state_dict()))
    return {k: v for k, v in state.items() if not k.startswith(absent)} if absent else state


def vit_positions(state: State, net: nn.Module) -> State:
    """Of torchvision's ViTs: position embeddings resampled to this net's size, if it is another."""
    size, patch = int(net.image_size), int(net.patch_size)  # type: ignore[arg-type]
    positions = state.get("encoder.pos_embedding")
    if positions is None or positions.shape[1] == net.seq_length:  # type: ignore[union-attr]
        return state
    return dict(interpolate_embeddings(size, patch, OrderedDict(state)))


def as_timm(state: State, net: nn.Module) -> State:
    """Of files published for timm: its own translation into its names, where a model has one.

    It also fits what is of another size into the net, positions of a ViT for instance.
    """
    module = inspect.getmodule(type(net))
    filter_fn = next((f for name in FILTERS if (f := getattr(module, name, None))), None)
    if filter_fn is None:
        return state
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some print what they leave out
            return filter_fn(dict(state), net)
    except Exception:  # of any class, where the tensors are of something else
        return state


def in_order(state: State, net: nn.Module) -> State:
    """Of `PACKAGED` files: their tensors are in timm's order, under other names."""
    own = net.state_dict()
    return dict(zip(own, state.values(), strict=True)) if len(own) == len(state) else state
