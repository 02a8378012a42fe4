"""Thaw: a folder of photos becomes a trustworthy image classifier, by transfer learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thaw.model.bundle import load as load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # `thaw.load` needs torch, which takes seconds to import; `python train.py --help` must not.
    if name == "load":
        from thaw.model.bundle import load

        return load
    raise AttributeError(f"module 'thaw' has no attribute {name!r}")
