"""Where nets come from: torchvision, timm, or nets of no library (`thaw.nets.own`).

Each `conf/arch/*.yaml` names one function of this file, or the user's own. Weights are found by
`thaw.nets.weights` and read by `thaw.nets.state.matching`.
"""

import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from thaw.errors import UserError
from thaw.launch.build import unfit
from thaw.launch.typed import near
from thaw.nets import own
from thaw.nets.backbone import Backbone, check_order
from thaw.nets.ensemble import Ensemble
from thaw.nets.fit import check_side, fitted
from thaw.nets.own import small_cnn
from thaw.nets.state.matching import as_timm, in_order, load, vit_positions, whose, without_aux
from thaw.nets.weights import HUB, PACKAGED, cached, loading, named_file, packaged, say_licence

# Keywords of timm and torchvision that read files, fetch, or make something else than a classifier.
NOT_OF_THE_NET = re.compile(
    r"(pretrained|hf_|weights|checkpoint|feature_c|kwargs_filter).*"
    r"|.*(url|file|checkpoint_path|cache_dir)"
    r"|features_only|out_indices|model_cfg|model_name|name|scriptable|exportable|no_jit|progress"
)


def torchvision(
    name: str, weights: str | None = "DEFAULT", size: int | None = None, **kwargs: Any
) -> Backbone:
    """Any classifier of torchvision.

    Args:
        name: one of `torchvision.models.list_models(module=torchvision.models)`.
        weights: DEFAULT, a name such as IMAGENET1K_V1, a file or run folder (see
            `thaw.nets.state.matching.load`), or None for random ones.
        size: of a ViT's photos in pixels; its position embeddings are resampled.
        kwargs: passed to torchvision's builder, `dropout=0.5` for instance.

    Raises:
        UserError: unknown name or weights, a file that doesn't fit, no network.
    """
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(name, known, "torchvision")
    entries = models.get_model_weights(name)
    entry = entries.DEFAULT  # type: ignore[attr-defined]
    path, published = None, True
    if weights is not None and weights in entries.__members__:  # DEFAULT is one
        entry = entries[weights]
    elif weights is not None:
        path = named_file(weights, [*entries.__members__])
        # A file under a published name is preprocessed as those weights are.
        named = [e for e in entries if e.url.rsplit("/", 1)[-1] == path.name]
        entry = (named or [entry])[0]
        published = bool(named)
    if name in ("googlenet", "inception_v3"):  # trained with auxiliary heads, which stay off here
        kwargs = {"aux_logits": False, "init_weights": False, **kwargs}
        if weights is not None:
            kwargs = {"transform_input": True, **kwargs}  # as torchvision does for its weights
    if name.startswith("vit_"):  # its position embeddings are made for one size
        kwargs = {"image_size": size or entry.meta["min_size"][0], **kwargs}
    elif name.startswith("maxvit") and size:  # likewise its windows
        kwargs = {"input_size": (size, size), **kwargs}

    origin = {"source": "torchvision", "name": name, "kwargs": kwargs}
    with _suits(origin, size):
        net = build(origin)
    meta: dict[str, Any] = {
        "source": str(path or entry),
        "accuracy": entry.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1"),
        "categories": entry.meta["categories"],
        "url": entry.url,
        "licence": entry.meta.get("license", "BSD-3-Clause (torchvision)"),
    }
    if not published:  # whose they are isn't known
        meta |= {"accuracy": None, "url": None, "licence": None}
    if weights is not None and loading.get():
        translate = vit_positions if name.startswith("vit_") else without_aux
        head = load(net, path or cached(entry.url, name), [translate], partial(whose, build, name))
        meta |= {"head": head, "categories": meta["categories"] if head else None}
        say_licence(name, meta["licence"])
    transforms = entry.transforms()
    return Backbone(
        net, transforms, origin, meta if weights else {}, pretrained=weights is not None
    )


def timm(
    name: str, weights: str | None = "DEFAULT", img_size: int | None = None, **kwargs: Any
) -> Backbone:
    """Any model of timm, `name` or `name.tag`.

    Weights that make features alone (DINOv2, SigLIP, MAE) get a head for one class, in whose place
    comes that of the classes to be learned.

    Args:
        name: one of `timm.list_models()`.
        weights: DEFAULT, a tag of that model, a file or run folder (see
            `thaw.nets.state.matching.load`), or None for random ones.
        img_size: side of the square that the net sees, in pixels; the weights' own if None. timm
            resamples a ViT's positions for it.
        kwargs: passed to `timm.create_model`, `drop_rate=0.2` for instance.

    Raises:
        UserError: unknown name or weights, a file or size that doesn't fit, no network.
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

    known = library.get_pretrained_cfg(name)
    if not kwargs.get("num_classes", known.num_classes if known else 1000):
        kwargs = {**kwargs, "num_classes": 1}
    if img_size is not None:
        _check_size(img_size)
        if known and known.fixed_input_size:
            kwargs = {**kwargs, "img_size": img_size}
    origin = {"source": "timm", "name": name, "kwargs": kwargs}
    with _suits(origin, img_size):
        net = build(origin)
        if getattr(net, "dynamic_img_size", False):  # of one size, it can be traced and so cut
            origin["kwargs"] = {**kwargs, "dynamic_img_size": False}
            net = build(origin)
    cfg: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    transforms = _timm_transforms(net, img_size)
    meta = {"source": f"timm {name}", "licence": cfg.get("license"), "url": None, "accuracy": None}
    translations, head = [as_timm], True
    if bare in PACKAGED:
        translations.append(in_order)
    if weights is not None and path is None and bare in PACKAGED:
        package, accuracy = PACKAGED[bare]
        meta |= {"source": package, "accuracy": accuracy, "licence": "Apache-2.0"}
        if loading.get():
            path = packaged(package)
            meta["source"] = f"{package} ({path.name})"
    elif path is not None:
        meta |= {"source": str(path), "licence": None}
    elif weights is not None:
        if not cfg.get("hf_hub_id") and not cfg.get("url"):
            raise UserError(
                f"timm has no pretrained weights for {name}; give a file with"
                " arch.weights=FILE, or train from scratch with arch.weights=null."
            )
        hub = f"{HUB}{cfg.get('hf_hub_id')}/resolve/main/model.safetensors"
        meta["url"] = hub if cfg.get("hf_hub_id") else cfg["url"]
        meta["accuracy"] = _accuracy(cfg.get("url"))
        path = cached(meta["url"], name) if loading.get() else None
    if path is not None and loading.get():
        head = load(net, path, translations, partial(whose, build, name))
        say_licence(name, meta["licence"])
    imagenet = models.ResNet18_Weights.DEFAULT.meta["categories"]  # timm would read files for it
    meta["categories"] = imagenet if head and cfg.get("num_classes") == 1000 else None
    meta["head"] = head
    backbone = Backbone(net, transforms, origin, meta if weights else {}, weights is not None)
    if (kind := json.dumps([origin, img_size], default=str)) not in _in_order:
        with _suits(origin, backbone.input_size):
            check_order(backbone)
        _in_order.add(kind)
    return backbone


_in_order: set[str] = set()  # timm's nets that were seen to run their stages in order


def made(settings: DictConfig, fit: str = "crop", size: int | None = None) -> Backbone:
    """The net that settings ask for: by a function of this file, or by the user's own code.

    Args:
        settings: `_target_` is the import path of what makes it, the rest goes to it.
        fit: how photos are made to fit, and to what `size`: `thaw.nets.fit.fitted`.

    Raises:
        UserError: it can't be made.
    """
    values: Any = OmegaConf.to_container(settings, resolve=True, throw_on_missing=True)
    target = str(values.pop("_target_", ""))
    ours = {f"{__name__}.{f.__name__}": f for f in (torchvision, timm, small_cnn)}
    for key, valid in (("name", str), ("weights", str | None)):
        if not isinstance(value := values.get(key, "-"), valid) or value == "":
            raise UserError(f"Expected arch.{key} to be text, got {value!r}.")
    if size and target in ours and ours[target] is not small_cnn:
        values |= {"img_size" if ours[target] is timm else "size": size}
    backbone = _by_target(target, values, ours)
    backbone.transforms = fitted(backbone.transforms, fit, size)
    if size:
        check_side(backbone.net, str(backbone.origin["name"]), size)
    return backbone


def _by_target(target: str, values: dict[str, Any], ours: dict[str, Any]) -> Backbone:
    if target not in ours:
        return own.backbone(target, values)
    if problems := unfit(ours[target], values, "arch"):
        raise UserError("\n".join(problems))
    return ours[target](**values)


def build(origin: dict[str, Any], factory: own.Factory | None = None) -> nn.Module:
    """Make the net of a `Backbone.origin` with random weights; nothing is read or downloaded.

    Args:
        factory: makes a net of the user's own, in place of what `origin` names.

    Raises:
        UserError: the library has no such classifier, a keyword would open or fetch something, or
            it is the user's own, and he hasn't said that its code may run.
    """
    name, kwargs = origin["name"], origin["kwargs"]
    if origin["source"] == "ensemble":
        return Ensemble([build(origin["of"], factory) for _ in range(kwargs["nets"])])
    if origin["source"] == "own":
        return own.rebuild(origin, factory)
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
    return own.small_net(**kwargs)


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


def _unknown(name: str, known: list[str], library: str) -> UserError:
    close = near(name, known) or known[:4]
    return UserError(
        f"Expected arch.name to be one of {library}'s {len(known)} classifiers, got {name!r};"
        f" near it are {', '.join(close)}."
    )


def _accuracy(url: str | None) -> float | None:
    """ImageNet top-1 (percent) where timm's weights are torchvision's, which says it."""
    for name in models.list_models(module=models) if url else ():
        for entry in models.get_model_weights(name):
            if entry.url == url:
                return entry.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
    return None


def _check_size(img_size: Any) -> None:
    if isinstance(img_size, bool) or not isinstance(img_size, int) or not 32 <= img_size <= 2048:
        raise UserError(
            f"Expected data.size, or else arch.img_size, to be a whole number of pixels from 32 to"
            f" 2048, or null for the net's own size, got {img_size!r}."
        )


@contextmanager
def _suits(origin: dict[str, Any], img_size: int | None) -> Iterator[None]:
    """Turn what a net says of settings that it wasn't made for into one sentence."""
    name = origin["name"]
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of any class, from assertions to shapes that don't fit
        if odd := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
            takes = inspect.signature(type(build(origin | {"kwargs": {}}))).parameters
            close = [f"arch.{key}" for key in near(odd[1], takes)]
            end = (
                f"did you mean {' or '.join(close)}?" if close else f"{name} takes none so called."
            )
            raise UserError(f"There is no setting arch.{odd[1]}; {end}") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if img_size is None:
            raise UserError(
                f"{origin['source']} can't make {name} of these settings: {reason}."
            ) from error
        raise UserError(
            f"{name} can't see photos of {img_size}×{img_size} pixels ({reason}); choose another"
            " arch.img_size, or null for its own."
        ) from error


def _timm_transforms(net: nn.Module, img_size: int | None) -> ImageClassification:
    """timm's evaluation transform, in torchvision's terms (`timm.data.create_transform`)."""
    from timm.data.config import resolve_data_config

    config = resolve_data_config({"img_size": img_size} if img_size else {}, model=net)
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
