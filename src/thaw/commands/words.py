"""Python values as the words that Hydra reads: `data="my photos"` → `data.root='my photos'`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thaw.errors import UserError
from thaw.launch import conf
from thaw.launch.typed import quoted

NAME = re.compile(r"[\w.-]+")  # what a file of settings may be called


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """A word or more for each setting.

    Raises:
        UserError: a value is of no kind that settings can have.

    >>> words_of({"seed": 1, "finetune": {"phases": {"head": {"lr": 0.01}}}, "trainer": "cpu"})
    ['trainer=cpu', 'seed=1', 'finetune.phases.head.lr=0.01']
    """
    groups = conf.groups()
    chosen, values = [], []
    for key, value in settings.items():
        if key == "data" and _is_folder(value):
            chosen.append("data=folder")
            values.append(f"data.root={quoted(os.fspath(value))}")
        elif key in groups and isinstance(value, str):
            chosen.append(f"{key}={value if NAME.fullmatch(value) else quoted(value)}")
        elif key in groups and isinstance(value, list | tuple):
            chosen.append(f"{key}=[{','.join(map(str, value))}]")
        elif isinstance(value, Mapping) and not key.startswith(("+", "~")):
            values += words_of({f"{key}.{inner}": deep for inner, deep in value.items()})
        else:
            values.append(f"{key}={_literal(key, value)}")
    return [*chosen, *values]


def _is_folder(value: Any) -> bool:
    """Whether `data=` means photos; a name of settings stays one, even beside such a folder."""
    if isinstance(value, Path):
        return True
    if not isinstance(value, str) or value in conf.options("data"):
        return False
    return not NAME.fullmatch(value) or Path(os.path.expanduser(value)).is_dir()


def _literal(key: str, value: Any) -> str:
    if hasattr(value, "item"):  # of numpy or torch, a number
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | os.PathLike):
        return quoted(os.fspath(value))
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_literal(key, item) for item in value)}]"
    if isinstance(value, Mapping):
        items = (f"{name}:{_literal(key, item)}" for name, item in value.items())
        return f"{{{','.join(items)}}}"
    raise UserError(
        f"Expected {key} to be a number, a text, a path, true or false, None, a list or a dict,"
        f" got {value!r}."
    )
