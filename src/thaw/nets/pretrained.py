"""Where nets come from: torchvision, timm, or Thaw's own small CNN.

Each `conf/arch/*.yaml` names one function of this file. Their weights are found and read by
`thaw.nets.weights`.
"""

import difflib
import json
import math
from collections import OrderedDict
from itertools import pairwise
from typing import Any

from torch import nn
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from thaw.errors import UserError
from thaw.nets.backbone import Backbone, check_order
from thaw.nets.fit import check_side, fitted
from thaw.nets.weights import (
    PACKAGED,
    as_timm,
    cached,
    in_order,
    load,
    loading,
    named_file,
    packaged,
    vit_positions,
    without_aux,
)


def torchvision(
    name: str,
    weights: str | None = "DEFAULT",
    fit: str = "crop",
    size: int | None = None,
    **kwargs: Any,
) -> Backbone:
    """Any classifier of torchvision.

    Args:
        name: one of `torchvision.models.list_models(module=torchvision.models)`.
        weights: DEFAULT, a name such as IMAGENET1K_V1, a file (.pth, .safetensors), or None for
            random ones.
        fit: how photos are made to fit, and to what `size`: `thaw.nets.fit.fitted`.
        kwargs: passed to torchvision's builder, `dropout=0.5` for instance.

    Raises:
        UserError: unknown name or weights, a file that doesn't fit, no network.
    """
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(name, known, "torchvision")
    entries = models.get_model_weights(name)
    entry = entries.DEFAULT  # type: ignore[attr-defined]
    path = None
    if weights is not None and weights in entries.__members__:  # DEFAULT is one
        entry = entries[weights]
    elif weights is not None:
        path = named_file(weights, [*entries.__members__])
        # A file under a published name is preprocessed as those weights are.
        named = [e for e in entries if e.url.rsplit("/", 1)[-1] == path.name]
        entry = (named or [entry])[0]
    if name in ("googlenet", "inception_v3"):  # trained with auxiliary heads, which stay off here
        kwargs = {"aux_logits": False, "init_weights": False, **kwargs}
        if weights is not None:
            kwargs = {"transform_input": True, **kwargs}  # as torchvision does for its weights
    if name.startswith("vit_"):  # its position embeddings are made for one size
        own = entry.meta["min_size"][0]
        kwargs = {"image_size": size or own, **kwargs}
    elif name.startswith("maxvit") and size:  # likewise its windows
        kwargs = {"input_size": (size, size), **kwargs}

    origin = {"source": "torchvision", "name": name, "kwargs": kwargs}
    net = _built(origin, size)
    if weights is not None and loading.get():
        path = path or cached(entry.url, name)
        load(net, path, vit_positions if name.startswith("vit_") else without_aux)
    meta = {
        "source": str(path) if path and weights not in ("DEFAULT", entry.name) else str(entry),
        "accuracy": entry.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1"),
        "categories": entry.meta["categories"],
        "url": entry.url,
        "licence": entry.meta.get("license", "BSD-3-Clause (torchvision)"),
    }
    transforms = fitted(entry.transforms(), fit, size)
    return Backbone(
        net, transforms, origin, meta if weights else {}, pretrained=weights is not None
    )


def timm(
    name: str,
    weights: str | None = "DEFAULT",
    fit: str = "crop",
    size: int | None = None,
    **kwargs: Any,
) -> Backbone:
    """Any model of timm, `name` or `name.tag`.

    Args:
        name: one of `timm.list_models()`.
        weights: DEFAULT, a tag of that model, a file (.pth, .safetensors), or None for random ones.
        fit: how photos are made to fit, and to what `size`: `thaw.nets.fit.fitted`.
        kwargs: passed to `timm.create_model`, `drop_rate=0.2` for instance.

    Raises:
        UserError: unknown name or weights, a file that doesn't fit, no network.
    """
    import timm as library

    bare, _, tag = name.partition(".")
    if not library.is_model(bare):
        raise _unknown(name, library.list_models(), "timm")
    tags = [full.partition(".")[2] for full in library.list_pretrained(f"{bare}.*")]
    path = None
    if weights is not None and weights != "DEFAULT":
        if weights in tags:
            name = f"{bare}.{weights}"
        else:
            path = named_file(weights, ["DEFAULT", *tags])
    elif tag and tag not in tags:
        raise UserError(
            f"Expected a tag of timm's {bare} in arch.name, got {tag!r}; it has {tags}."
        )

    fixed = size and (library.get_pretrained_cfg_value(name, "fixed_input_size") or False)
    if fixed:  # its positions or windows are made for one size; timm resamples those of weights
        kwargs = {"img_size": size, **kwargs}
    origin = {"source": "timm", "name": name, "kwargs": kwargs}
    net = _built(origin, size)
    cfg: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    transforms = fitted(_timm_transforms(net), fit, size)
    meta = {"source": f"timm {name}", "licence": cfg.get("license"), "url": None, "accuracy": None}
    if weights is not None and path is None and bare in PACKAGED:
        package, accuracy = PACKAGED[bare]
        meta |= {"source": package, "accuracy": accuracy, "licence": "Apache-2.0"}
        if loading.get():
            path = packaged(package)
            meta["source"] = f"{package} ({path.name})"
            load(net, path, in_order)
    elif weights is not None:
        if path is None:
            if not cfg.get("hf_hub_id") and not cfg.get("url"):
                raise UserError(
                    f"timm has no pretrained weights for {name}; give a file with"
                    " arch.weights=FILE, or train from scratch with arch.weights=null."
                )
            hub = f"https://huggingface.co/{cfg.get('hf_hub_id')}/resolve/main/model.safetensors"
            meta["url"] = hub if cfg.get("hf_hub_id") else cfg["url"]
            path = cached(meta["url"], name) if loading.get() else None
        else:
            meta["source"] = str(path)
        if path is not None and loading.get():
            load(net, path, as_timm)
    imagenet = models.ResNet18_Weights.DEFAULT.meta["categories"]  # timm would read files for it
    meta["categories"] = imagenet if cfg.get("num_classes") == 1000 else None
    backbone = Backbone(net, transforms, origin, meta if weights else {}, weights is not None)
    if (kind := json.dumps(origin, default=str)) not in _in_order:
        check_order(backbone)
        _in_order.add(kind)
    return backbone


_in_order: set[str] = set()  # timm's nets that were seen to run their stages in order


def small_cnn(
    name: str = "small_cnn",
    weights: None = None,
    width: int = 32,
    input_size: int = 128,
    fit: str = "crop",
    size: int | None = None,
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
    transforms = fitted(transforms, fit, size)
    return Backbone(_built(origin, size), transforms, origin, pretrained=False)


def _built(origin: dict[str, Any], size: int | None) -> nn.Module:
    """As `build`; UserError where it can't see photos of this size, if one is asked for."""
    if size is None:
        return build(origin)
    try:
        net = build(origin)
    except (AssertionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"{origin['name']} can't be made for photos of {size} pixels (data.size={size}):"
            f" {reason}."
        ) from error
    check_side(net, origin["name"], size)
    return net


def build(origin: dict[str, Any]) -> nn.Module:
    """Make the net of a `Backbone.origin` with random weights; nothing is read or downloaded."""
    name, kwargs = origin["name"], origin["kwargs"]
    if origin["source"] == "torchvision":
        return models.get_model(name, weights=None, **kwargs)
    if origin["source"] == "timm":
        import timm as library

        return library.create_model(name, pretrained=False, **kwargs)
    return _small_cnn(**kwargs)


def _small_cnn(width: int) -> nn.Sequential:
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


def _unknown(name: str, known: list[str], library: str) -> UserError:
    near = difflib.get_close_matches(name, known, n=4) or known[:4]
    return UserError(
        f"Expected arch.name to be one of {library}'s {len(known)} classifiers, got {name!r};"
        f" near it are {', '.join(near)}."
    )


def _timm_transforms(net: nn.Module) -> ImageClassification:
    """timm's evaluation transform, in torchvision's terms (`timm.data.create_transform`)."""
    from timm.data.config import resolve_data_config

    config = resolve_data_config({}, model=net)
    rows, side = config["input_size"][-2:]
    if rows != side or config["crop_mode"] not in ("center", "squash"):
        raise UserError(
            f"Expected a net that sees the centre of a photo as a square, but"
            f" {type(net).__name__} sees {rows}×{side} pixels with crop_mode={config['crop_mode']};"
            " choose another arch.name."
        )
    resize = math.floor(side / config["crop_pct"])
    transforms = ImageClassification(
        crop_size=side,
        resize_size=resize,
        mean=config["mean"],
        std=config["std"],
        interpolation=InterpolationMode(config["interpolation"]),
    )
    if config["crop_mode"] == "squash":
        transforms.resize_size = [resize, resize]
    return transforms
