"""Whether a net's weights are on this machine; asked of names alone, no net is built for it."""

import importlib.util
from pathlib import Path
from typing import Any

import timm
from torchvision import models

from thaw.nets.weights import HUB, PACKAGED, on_this_machine


def weights_are_here(settings: Any) -> bool:
    """Of settings as a file of `conf/arch` has them; False where there are no weights to be had.

    What the user's own code makes brings its weights itself.
    """
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
