"""All that keeps settings from composing, found at once: Hydra stops at the first.

Nothing here imports torch.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from thaw.errors import UserError
from thaw.files import FOLDER, check_outputs
from thaw.launch import cli, conf
from thaw.launch.build import SPECIAL, make
from thaw.launch.failures import Refused
from thaw.launch.settings import FREE, KEYS, check
from thaw.launch.typed import SYNONYMS, near, nearest, shown, unknown
from thaw.launch.words import as_hydra_reads, as_typed

PASSED_ON = {"arch", "augment", "optimizer", "trainer", *FREE}
SEVERAL = {"metrics", "logger", "callbacks", "experiment"}  # groups of which a run may have more
EXTRA = {"joblib", "submitit_local", "submitit_slurm", "optuna"}  # launchers and sweepers


def read(arguments: Sequence[str]) -> list[str]:
    """What is typed, as Hydra should get it.

    Raises:
        UserError: some of it is no setting; what else is wrong is told with it.
    """
    words, slips = as_hydra_reads(arguments)
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    chosen = {"data", "experiment", "resume", "from_run"} & given.keys()
    if "data.root" in given and not chosen and not slips:
        slips.append(
            f"data.root={given['data.root']} names photos, but data=shapes, the default, draws its"
            f" own; did you mean data=folder data.root={given['data.root']}?"
        )
    if slips:
        raise UserError("\n".join([*slips, *mistakes(words)]))
    return words


def composed(words: Sequence[str], hydra: bool = False) -> DictConfig:
    """The settings that these words make, with `hydra` those of Hydra as well.

    Raises:
        UserError: naming all that is wrong with them.
    """
    words = [as_typed(word) for word in words]
    with told(words):
        cfg = conf.composed(words, hydra)
    check(cfg)
    return cfg


@contextmanager
def told(words: Sequence[str]) -> Iterator[None]:
    """Inside `with`, settings that don't compose are all told; Hydra tells one, in its own way.

    Raises:
        UserError: there are some.
    """
    if _lists(words):
        raise UserError("\n".join(mistakes(words)))
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        alone = re.match("Ambiguous value|Sweep parameters", str(error)) is not None
        if problems := mistakes(words, alone):
            raise UserError("\n".join(problems)) from error
        raise


def _lists(words: Sequence[str]) -> list[str]:
    """A sentence for each group that is given a list: Hydra would lay the last over the others."""
    single = "|".join({*conf.groups()} - SEVERAL)
    found = (re.fullmatch(rf"\+{{0,2}}({single})=\[(.*)\]", word) for word in words)
    return [
        f"{each[0]} names several, and a run has one {each[1]}; -m {each[1]}={each[2]} trains with"
        " each."
        for each in found
        if each
    ]


def mistakes(words: Sequence[str], alone: bool = False) -> list[str]:
    """A sentence for each setting that doesn't exist or can't be right.

    Args:
        words: settings as Hydra gets them; flags among them are left out.
        alone: they are those of one run, so that `a,b` is one value too many.
    """
    problems = _lists(words)
    overrides: list[Override] = []
    parser = OverridesParser.create()
    for word in words:
        if word.startswith("-") or not ("=" in word or word.startswith("~")):
            continue
        try:
            overrides.append(parser.parse_override(word))
        except (HydraException, RecursionError, ValueError):
            problems.append(
                f"Expected KEY=VALUE, got {word}; a value with brackets, commas or spaces goes in"
                " quotes of its own, inside those of the shell: \"KEY='VALUE'\"."
            )
    conf.register()
    with initialize_config_dir(str(conf.folder()), version_base=conf.VERSION):
        loader = GlobalHydra.instance().config_loader()
        names = [*loader.list_groups(""), "hydra/launcher", "hydra/sweeper"]
        options = {name: loader.get_group_options(name) for name in names}
        chosen, others = [], []
        for override in overrides:
            key = override.key_or_group
            if alone and override.is_sweep_override():
                typed = override.input_line
                problems.append(
                    f"{typed} is several values, and a run has one; -m {typed} trains with each."
                )
            wrong = _no_option(override, options[key]) if key in options else []
            problems += wrong
            if key in options or key.startswith("hydra.searchpath"):
                chosen += [] if wrong else [_of_first_job(override)]
            else:
                others.append(override)
        try:
            base = compose("config", chosen)
            keys = _keys(base)
            groups = {name: found for name, found in options.items() if "hydra" not in name}
            for override in others:
                if sentence := _unknown(override, keys, groups):
                    problems.append(sentence)
                else:
                    chosen.append(_of_first_job(override))
            check(compose("config", chosen))
        except UserError as error:
            problems.append(str(error))
        except Exception as error:  # whatever Hydra makes of it
            problems += [] if problems else [conf.unreadable() or _first_line(error)]
    return problems


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()[0]
    if found := re.search(r"already at '(.+)'", text):
        return f"{found[1]} is set already; change it without a +, as {found[1]}=VALUE."
    if found := re.match(r"Error merging override \+*([^=]+)=(.*)", text):
        return f"Expected {found[1]} to be a group of settings, got {found[2]}."
    twice = r"Multiple values for (\S+)\.|(\S+) appears more than once|force-add .*'\++(\S+?)="
    if found := re.match(twice, text):
        group = next(filter(None, found.groups()))
        return f"{group} is a group that is chosen from already; change it as {group}=NAME."
    if found := re.match(r"Could not delete from config.*?'(.+)'", text):
        return f"There is nothing to leave out at {found[1]}."
    return text


def _of_first_job(override: Override) -> str:
    """The override as the first job of a sweep gets it."""
    if override.is_choice_sweep():
        return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
    if override.is_sweep_override():
        return f"{override.get_key_element()}={override.value().start}"  # type: ignore[union-attr]
    return override.input_line or ""


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value


def _no_option(override: Override, options: list[str]) -> list[str]:
    """A sentence for each value that is no option of the group."""
    if override.is_delete() or override.is_interval_sweep() or override.is_range_sweep():
        return []
    group, problems = override.key_or_group, []
    values = override.value().list if override.is_choice_sweep() else [override.value()]  # type: ignore[union-attr]
    several = [each for value in values for each in (value if isinstance(value, list) else [value])]
    for value in map(_plain, several):
        if value in options:
            continue
        if isinstance(value, str) and value in EXTRA:
            problems.append(f'{group}={value} comes with pip install "thaw-vision[sweep]".')
            continue
        close = near(str(value), options)
        first = f"near it are {', '.join(close)}; " if close else ""
        valid = f"{first}valid are {', '.join(options)}"
        problems.append(f"There is no {group}={shown(value)}; {valid}.")
    return problems


def _keys(node: Any, where: str = "") -> list[str]:
    """All keys at any depth."""
    keys: list[str] = []
    for name in node if isinstance(node, DictConfig) else ():
        keys.append(f"{where}{name}")
        if not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, str(name)):
            keys += _keys(node[name], f"{where}{name}.")
    return keys


def _unknown(override: Override, keys: list[str], options: dict[str, list[str]]) -> str | None:
    """What to say of a key that isn't there."""
    key, sweep = override.key_or_group, override.is_sweep_override()
    value = None if override.is_delete() or sweep else _plain(override.value())
    if key.startswith("hydra.") or key in keys or override.is_add() or override.is_force_add():
        return None
    group, _, name = key.partition(".")
    kind = KEYS.get(key)
    if kind and not override.is_delete():
        choice = override.is_choice_sweep()
        values = [*override.sweep_iterator()] if choice else [] if sweep else [value]
        if wrong := [each for each in map(_plain, values) if not kind.takes(each)]:
            return f"Expected {key} to be {kind.valid}, got {shown(wrong[0])}."
    nodes = {k.rpartition(".")[0] for k in keys}
    leaves = [k for k in keys if k not in nodes and k.rpartition(".")[2] not in SPECIAL]
    said = "" if value is None else value
    own = [k for k in leaves if k.startswith(f"{group}.")]
    passed_on = group in PASSED_ON and name not in SYNONYMS and not override.is_delete()
    if passed_on and (kind or not {*own} & {*nearest(key, said, leaves, options)}):
        return (
            f"{key} isn't among the settings of this {group} ({', '.join(own) or 'none'}); what"
            f" makes it may take it all the same: +{override.input_line}"
        )
    return unknown(key, said, leaves, options)


class Before(Callback):
    """Sees before a run's folder is made whether its settings are right, and the folder can be."""

    last: Path | None = None  # of the run that began last in this process

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before Hydra makes the folder."""
        HydraConfig.instance().set_config(config)  # as Hydra does next: the name refers to it
        with refused():
            cli.build_all(
                lambda: check(config),
                lambda: make(config.get("finetune"), "finetune"),  # it needs no torch either
            )
            # Its name makes the folder.
            check_outputs(("hydra.run.dir", config.hydra.run.dir, FOLDER))
        Before.last = Path(config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a sweep, the jobs' settings are theirs: one that is refused stops no other."""
        with refused():
            check_outputs(("hydra.sweep.dir", config.hydra.sweep.dir, FOLDER))


@contextmanager
def refused() -> Iterator[None]:
    """Let a UserError pass Hydra's callbacks, where an Exception is only warned of."""
    try:
        yield
    except UserError as error:
        raise Refused(str(error)) from error
