"""What `model.json` may hold, and the metadata of an exported file: types, ranges, lengths.

A model is copied and sent, so its description is data that anyone may have changed. No torch here.
"""

from typing import Any

from thaw.runs.schema import (
    Check,
    Wrong,
    anything,
    boolean,
    items,
    number,
    one_of,
    or_none,
    record,
    text,
    whole,
)

FORMAT = 1
INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")
LARGEST = 1024  # pixels of a side that a net sees; the largest that are published see 896
_share = number(0, 1)
_temperature = number(0.01, 100)
_name = text(1, most=1000)
_classes = items(_name, least=1, most=100_000, unique=True)


def _ascending(value: Any) -> None:
    items(_share)(value)
    if value != sorted(value):
        raise Wrong("expected numbers in rising order")


_name_of_net = text(1, 200)
_net = record(
    {
        "source": one_of("torchvision", "timm", "thaw", "own"),
        "name": _name_of_net,
        "kwargs": record({}),
    },
    {"target": text(1, 200)},  # of the user's own code, which runs only if he names it again
    others=None,
)
_ensemble = record(
    {
        "source": one_of("ensemble"),
        "name": _name_of_net,
        "kwargs": record({"nets": whole(2, 100)}, others=None),
        "of": _net,
    },
    others=None,
)


def _arch(value: Any) -> None:
    (_ensemble if isinstance(value, dict) and "of" in value else _net)(value)


_transforms = record(
    {
        "resize_size": items(whole(1, 4 * LARGEST), 1, 2),
        "crop_size": items(whole(1, LARGEST), 1, 2),
        "mean": items(number(-10, 10), 3, 3),
        "std": items(number(1e-3, 10), 3, 3),
        "antialias": or_none(boolean),
        "interpolation": one_of(*INTERPOLATIONS),
    },
    {"pad": boolean},
    others=None,
)
_promise = record(
    {},
    {
        "error": or_none(_share),
        "coverage": or_none(_share),
        "certainty": _share,
        "val/images": whole(0, 10**9),
    },
)
_unfamiliar = record(
    {
        "level": number(1e-6, 1),
        "refused": or_none(text()),
        "val/images": whole(0, 10**9),
        "sha256": text(64, 64),
    },
    {"train/judged": whole(0, 10**9)},
)
_pretrained = record({}, dict.fromkeys(("source", "url", "licence"), or_none(text())))
_needed: dict[str, Check] = {
    "classes": _classes,
    "temperature": _temperature,
    "threshold": or_none(_share),
}
_further: dict[str, Check] = {
    "conformal": or_none(_ascending),
    "promise": or_none(_promise),
    "unfamiliar": or_none(_unfamiliar),
    "metrics": record({}, {"test/acc": or_none(_share)}),
    "pretrained": _pretrained,
    "data_sha256": text(),
    "white": record({}, others=number(1e-30, 1e30)),
    "prior": or_none(items(number(1e-12, 1), 1, 100_000)),  # see `prediction.decide`
}
EXPORTED = record(_needed, _further)  # of an ONNX file, whose graph is the net
_built: dict[str, Check] = {
    "arch": _arch,
    "transforms": _transforms,
    "weights_sha256": text(64, 64),
    "format": anything,
}
_bundle = record(_needed | _built, _further)


def check(info: Any) -> None:
    """Raise Wrong unless these values describe a model that can be built."""
    _bundle(info)
    if len(set(info["transforms"]["crop_size"])) > 1:
        raise Wrong("transforms.crop_size: expected a square")
