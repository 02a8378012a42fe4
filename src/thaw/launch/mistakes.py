"""All that keeps settings from composing, found at once; Hydra stops at the first.

Nothing here imports torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thaw.errors import UserError
from thaw.launch.meant import unknown
from thaw.launch.settings import KEYS, PHASE, check

PLACES = {"joblib", "submitit_local", "submitit_slurm", "optuna"}  # of the sweep extra


def mistakes(words: Sequence[str], conf: Path) -> list[str]:
    """A sentence for each setting that doesn't exist or can't be right.

    Args:
        words: settings as Hydra gets them; flags among them are left out.
        conf: Thaw's folder of settings.
    """
    problems: list[str] = []
    overrides: list[Override] = []
    parser = OverridesParser.create()
    for word in _settings(words):
        try:
            overrides.append(parser.parse_override(word))
        except (HydraException, RecursionError):
            problems.append(not_parsed(word))
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = {g: loader.get_group_options(g) for g in loader.list_groups("")}
        places = {g: loader.get_group_options(g) for g in ("hydra/launcher", "hydra/sweeper")}
        chosen, others = [], []
        for override in overrides:
            key = override.key_or_group
            if key in groups | places:
                wrong = _options(override, key, (groups | places)[key])
                problems += wrong
                if not wrong:
                    chosen.append(_single(override))
            elif key.startswith("hydra.searchpath"):
                chosen.append(_single(override))
            else:
                others.append(override)
        try:
            base = compose("config", chosen)
        except (HydraException, OmegaConfBaseException) as error:
            return problems or [str(error).splitlines()[0]]
        keys = _keys(base)
        names = {group: options for group, options in groups.items() if group != "hydra"}
        good = []
        for override in others:
            sentence = _unknown(override, base, keys, names)
            if sentence:
                problems.append(sentence)
            else:
                good.append(_single(override))
        try:
            check(compose("config", [*chosen, *good]), conf)
        except UserError as error:
            problems.append(str(error))
        except (HydraException, OmegaConfBaseException) as error:
            if not problems:
                problems.append(_plain(error))
    return problems


def not_parsed(word: str) -> str:
    """The sentence for a setting that Hydra's grammar can't read."""
    return (
        f"Expected KEY=VALUE, got {word}; a value with brackets, commas or spaces goes in quotes"
        " of its own: KEY=\"'VALUE'\"."
    )


def _settings(words: Sequence[str]) -> list[str]:
    return [w for w in words if not w.startswith("-") and ("=" in w or w.startswith("~"))]


def _values(override: Override) -> list[Any]:
    """The value, or those of a sweep."""
    if override.is_choice_sweep():
        return [v.text if isinstance(v, QuotedString) else v for v in override.value().list]  # type: ignore[union-attr]
    return [override.value()]


def _single(override: Override) -> str:
    """The override as a job gets it; of a sweep, its first."""
    if override.is_sweep_override() and override.is_choice_sweep():
        first = next(iter(override.sweep_string_iterator()))
        return f"{override.get_key_element()}={first}"
    if override.is_sweep_override():
        return f"{override.get_key_element()}={override.value().start}"  # type: ignore[union-attr]
    return override.input_line or ""


def _options(override: Override, group: str, options: list[str]) -> list[str]:
    if override.is_delete():
        return []
    problems = []
    for value in _values(override):
        if value in options or (value is None and group == "experiment"):
            continue
        if value in PLACES:
            problems.append(f'{group}={value} comes with pip install "thaw-vision[sweep]".')
            continue
        near = _near(str(value), options)
        shown = ", ".join(near) if near else ", ".join(options)
        kind = "near it are" if near else "valid are"
        problems.append(f"There is no {group}={_text(value)}; {kind} {shown}.")
    return problems


def _near(value: str, options: list[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(value, options, 4, 0.6)


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _keys(node: Any, where: str = "") -> list[str]:
    """All keys of the leaves, and of the groups above them."""
    if not isinstance(node, DictConfig):
        return []
    keys = []
    for name in node:
        key = f"{where}{name}"
        missing = OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name)
        below = [] if missing else _keys(node[name], f"{key}.")
        keys += [key, *below]
    return keys


def _unknown(
    override: Override, base: DictConfig, keys: list[str], options: dict[str, list[str]]
) -> str | None:
    key = override.key_or_group
    if key.startswith("hydra.") or key in keys or (override.is_add() or override.is_force_add()):
        return None if override.is_delete() or override.value() != {} else _sets_nothing(key)
    value = override.value() if not override.is_sweep_override() else ""
    value = value.text if isinstance(value, QuotedString) else value
    leaves = [k for k in keys if not isinstance(OmegaConf.select(base, k, throw_on_missing=False), DictConfig)] if False else keys
    above, _, last = key.rpartition(".")
    phase = above.startswith("finetune.phases.") and above in keys and last in PHASE
    if not override.is_delete() and (phase or key in KEYS):
        return f"{key} isn't among the settings yet; add it: +{override.input_line}"
    shown = "" if override.is_delete() else value
    return unknown(key, shown, [k for k in leaves if not k.endswith(("_target_", "_partial_", "_convert_"))], options)


def _sets_nothing(key: str) -> str:
    return f"{key}={{}} sets nothing, since it is merged with what there is; remove what is in it: ~{key}.NAME"


def _plain(error: Exception) -> str:
    return str(error).splitlines()[0]
