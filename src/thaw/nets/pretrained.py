"""Where nets come from: torchvision, timm, or Thaw's own small CNN.

Each `conf/arch/*.yaml` names one function of this file. Their weights are found and read by
`thaw.nets.weights`.
"""

import difflib
import json
import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import nn
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from thaw.errors import UserError
from thaw.nets.backbone import Backbone, check_order
from thaw.nets.weights import (
    PACKAGED,
    as_timm,
    cached,
    in_order,
    load,
    loading,
    named_file,
    packaged,
    without_aux,
)

# Keywords of timm and torchvision that read files, fetch, or make something else than a classifier.
NOT_OF_THE_NET = re.compile(
    r"(pretrained|hf_|weights|checkpoint|feature_c|kwargs_filter).*"
    r"|.*(url|file|checkpoint_path|cache_dir)"
    r"|features_only|out_indices|model_cfg|model_name|name|scriptable|exportable|no_jit|progress"
)


def torchvision(name: str, weights: str | None = "DEFAULT", **kwargs: Any) -> Backbone:
    """Any classifier of torchvision.

    Args:
        name: one of `torchvision.models.list_models(module=torchvision.models)`.
        weights: DEFAULT, a name such as IMAGENET1K_V1, a file (.pth, .safetensors), or None for
            random ones.
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
        kwargs = {"image_size": entry.meta["min_size"][0], **kwargs}

    origin = {"source": "torchvision", "name": name, "kwargs": kwargs}
    net = build(origin)
    if weights is not None and loading.get():
        path = path or cached(entry.url, name)
        load(net, path, without_aux)
    meta = {
        "source": str(path) if path and weights not in ("DEFAULT", entry.name) else str(entry),
        "accuracy": entry.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1"),
        "categories": entry.meta["categories"],
        "url": entry.url,
        "licence": entry.meta.get("license", "BSD-3-Clause (torchvision)"),
    }
    transforms = entry.transforms()
    return Backbone(
        net, transforms, origin, meta if weights else {}, pretrained=weights is not None
    )


def timm(name: str, weights: str | None = "DEFAULT", **kwargs: Any) -> Backbone:
    """Any model of timm, `name` or `name.tag`.

    Args:
        name: one of `timm.list_models()`.
        weights: DEFAULT, a tag of that model, a file (.pth, .safetensors), or None for random ones.
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

    origin = {"source": "timm", "name": name, "kwargs": kwargs}
    net = build(origin)
    cfg: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    transforms = _timm_transforms(net)
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
    return Backbone(build(origin), transforms, origin, pretrained=False)


def build(origin: dict[str, Any]) -> nn.Module:
    """Make the net of a `Backbone.origin` with random weights; nothing is read or downloaded.

    Raises:
        UserError: the library has no such classifier, or a keyword would open or fetch something.
    """
    name, kwargs = origin["name"], origin["kwargs"]
    if odd := _odd(kwargs):
        raise UserError(
            f"Expected further keys of arch to be those of the net itself, got {ascii(odd)[:80]};"
            " weights are named by arch.weights alone."
        )
    if origin["source"] == "torchvision":
        if name not in (known := models.list_models(module=models)):
            raise _unknown(name, known, "torchvision")
        return models.get_model(name, weights=None, **kwargs)
    if origin["source"] == "timm":
        import timm as library

        if not library.is_model(name.partition(".")[0]) or ":" in name or "/" in name:
            raise _unknown(name, library.list_models(), "timm")
        return library.create_model(name, pretrained=False, **kwargs)
    return _small_cnn(**kwargs)


def _odd(value: Any, name: str = "") -> str | None:
    """What in keywords isn't plain, or isn't of the net itself; None if nothing is."""
    if NOT_OF_THE_NET.fullmatch(name):
        return name
    if isinstance(value, Mapping):
        return next((odd for key, v in value.items() if (odd := _odd(v, str(key)))), None)
    if isinstance(value, Sequence) and not isinstance(value, str):
        long = len(value) > 100
        return name if long else next((odd for v in value if (odd := _odd(v, name))), None)
    good = value is None or isinstance(value, bool)
    good |= isinstance(value, int | float) and abs(value) <= 1e6
    good |= isinstance(value, str) and re.fullmatch(r"[\w.\- ]{0,64}", value) is not None
    return None if good else f"{name}={value}"


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
