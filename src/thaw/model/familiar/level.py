"""The share of photos like val's that may be called unfamiliar. No torch here."""

import math
from collections.abc import Mapping
from typing import Any

from thaw.errors import UserError


def why_refused(photos: int, level: float) -> str | None:
    """Why so many photos can't promise this level; None where they can, or where it is 0."""
    if level <= 0 or (photos + 1) * level >= 1 - 1e-9:
        return None
    return (
        f"{photos} photos can't promise that at most {100 * level:.3g}% of photos like them are"
        f" called unfamiliar: that takes {math.ceil(1 / level - 1e-9) - 1}"
    )


def own_level(info: Mapping[str, Any]) -> float | None:
    """The level that `model.json` names; None where there is none, or val can't promise it."""
    told = info.get("unfamiliar")
    return told["level"] if told and not told["refused"] else None


def level_of(model: Any, asked: float | None) -> float | None:
    """The level to go by: the one asked for, else the model's own; None to say nothing of it.

    Raises:
        UserError: a level is asked for that val can't promise, or of a model that knows of none.
    """
    if not asked:
        return model.level if asked is None or model.level is None else 0.0
    told = model.info.get("unfamiliar")
    if not told:
        raise UserError(
            "This model doesn't know what is familiar: it was trained by an earlier Thaw, so a"
            " level can't be set."
        )
    if reason := why_refused(judged(told), asked):
        raise UserError(f"{reason}.")
    return asked


def judged(told: Mapping[str, Any]) -> int:
    """How many photos a promise stands on: val's, and train's where they count."""
    return told["val/images"] + told.get("train/judged", 0)
