"""Objects from settings: what their makers don't take or refuse is told in a sentence."""

import inspect
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from thaw.errors import UserError
from thaw.launch.typed import shown, unknown

SPECIAL: dict[str, tuple[object, ...]] = {  # Hydra's own keys, and what they may be
    "_target_": (),
    "_args_": (),
    "_partial_": (True, False),
    "_recursive_": (True, False),
    "_convert_": ("none", "partial", "object", "all"),
}


def make(settings: Any, key: str, **more: Any) -> Any:
    """What the `_target_` of a group makes of its settings.

    Args:
        key: of the group, for the sentences.
        more: arguments that aren't settings.

    Raises:
        UserError: it can't be imported, doesn't take an argument, lacks one, or refuses a value.
    """
    from hydra._internal.utils import _locate
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not isinstance(settings, Mapping | DictConfig):
        raise UserError(f"Expected {key} to be a group of settings, got {shown(settings)}.")
    target = settings.get("_target_")
    try:
        found = _locate(str(target))
    except Exception as error:  # whatever a module raises while it is imported
        raise UserError(
            f"Expected {key}._target_ to name a class or a function that can be imported, got"
            f" {shown(target)} ({first_line(error)})."
        ) from error
    if not callable(found):
        raise UserError(f"Expected {key}._target_ to name a class or a function, got {target}.")
    problems = unfit(found, settings, key, more)
    if problems:
        raise UserError("\n".join(problems))
    try:
        return instantiate(settings, **more)
    except InstantiationException as error:
        cause = error.__cause__ or error.__context__ or error
        if isinstance(cause, UserError | OSError | MemoryError):
            raise cause from error
        raise UserError(
            f"The settings of {key} can't be used: {target} says {first_line(cause)}."
        ) from error


def unfit(found: Any, settings: Any, key: str, more: Mapping[str, Any] = {}) -> list[str]:
    """What a callable doesn't take, and what it lacks."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # made in C
        return []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    given = [str(name) for name in settings if name not in SPECIAL]
    problems = [
        f"Expected {key}.{name} to be {' or '.join(map(shown, valid))}, got {shown(value)}."
        for name, valid in SPECIAL.items()
        if valid and (value := settings.get(name)) is not None
        if not any(type(value) is type(v) and value == v for v in valid)
    ]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        valid = [f"{key}.{name}" for name in named if name not in more]
        problems += [unknown(f"{key}.{name}", "", valid) for name in given if name not in named]
    if not settings.get("_partial_") and "_args_" not in settings:
        needed = {p.name for p in parameters if p.name in named and p.default is p.empty}
        lacking = sorted(needed - {*given, *more})
        problems += [f"Expected {key}.{name} to be set; it has no default." for name in lacking]
    return problems


def first_line(error: BaseException) -> str:
    """What an error of others says, in one line."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
