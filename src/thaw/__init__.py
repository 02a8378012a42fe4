"""Thaw: a folder of photos becomes a trustworthy image classifier, by transfer learning.

photos → net → phases → logits → a model that leaves → a verdict. Rooms import from those above:

launch                 before torch: exit codes, names of folders, where settings are
data, nets             photos, splits, the cache of features; backbones, their stages and weights
runs                   what a run's folder holds: written, read, and of older versions
model, comparison      the bundle that leaves, predicting with it; finished runs side by side
training               phases, what is frozen, checkpoints, losses and metrics
evaluation, export     how good the answers are; ONNX and torch.export files
report, sweeps         what is told, on the screen and in files; many runs
shortlist, checks      which net to begin with; what is wrong with the photos
commands               `thaw COMMAND`, a file each; `one_run`, from settings to a run's folder
"""

from typing import TYPE_CHECKING, Any

from thaw.errors import UserError

if TYPE_CHECKING:
    from thaw.commands.in_python import Run as Run
    from thaw.commands.in_python import check as check
    from thaw.commands.in_python import compare as compare
    from thaw.commands.in_python import train as train
    from thaw.model.bundle import load as load

__version__ = "0.1.0"
__all__ = ["Run", "UserError", "check", "compare", "load", "train"]
_HOMES = {
    "Run": "thaw.commands.in_python",
    "check": "thaw.commands.in_python",
    "compare": "thaw.commands.in_python",
    "load": "thaw.model.bundle",
    "train": "thaw.commands.in_python",
}


def __getattr__(name: str) -> Any:
    # They need torch or Hydra, which take seconds to import; `thaw --help` must not.
    if name not in _HOMES:
        raise AttributeError(f"module 'thaw' has no attribute {name!r}")
    import importlib
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm, which isn't used
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
