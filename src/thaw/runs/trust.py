"""What a run folder may ask for: data, and what Thaw itself ships; never code of its own.

Folders are copied and sent. A setting can name anything that Python can import (`_target_`), so one
that comes from a folder counts only if Thaw's own settings name it too, or if the command line that
the user has typed says it again.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw.errors import UserError
from thaw.escape import printable
from thaw.launch import conf
from thaw.launch.typed import quoted, unquoted
from thaw.runs import read, shipped
from thaw.runs.schema import Wrong

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def expanded(arguments: list[str]) -> list[str]:
    """Arguments in which `resume=RUN` or `from_run=RUN` stand for what RUN was started with.

    Raises:
        UserError: as `resume_arguments` and `from_run_arguments`.
    """
    return resume_arguments(from_run_arguments(arguments))


def from_run_arguments(arguments: list[str]) -> list[str]:
    """Expand `from_run=RUN` to the settings of RUN; what `arguments` say themselves wins.

    Where they choose another file of a group, none of RUN's settings in that group count.

    Raises:
        UserError: RUN is no run folder, or it asks for what isn't Thaw's and `arguments` don't say.
    """
    given = [a for a in arguments if a.startswith("from_run=") and a != "from_run=null"]
    if not given or any(a.startswith("resume=") and a != "resume=null" for a in arguments):
        return arguments  # one that is resumed was expanded when it began
    folder, saved = _named(given[-1])
    chosen = {key for key, _, _ in (word.partition("=") for word in arguments)}
    left_out = (*(f"{key}." for key in chosen & shipped.groups().keys()), *NOT_GONE_ON_WITH)
    before = [
        word
        for word in checked_overrides(saved, read.overrides(folder), arguments)
        if not word.lstrip("+~").startswith(left_out)
    ]
    return [*arguments, *before]


def _named(argument: str) -> tuple[Path, Path]:
    """The folder that `resume=RUN` or `from_run=RUN` names, and the settings that it began with."""
    key, _, place = argument.partition("=")
    folder = Path(os.path.expanduser(unquoted(place)))
    saved = folder / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        runs = [folder.parent, *sorted(folder.glob("*"))]  # of a bundle, of a sweep
        if near := [run for run in runs if (run / ".hydra" / "overrides.yaml").is_file()]:
            raise UserError(
                f"Expected {key}= to name a run folder, but {folder} is none; {near[0]} is one."
            )
        raise UserError(
            f"Expected {key}= to name a run folder, but there is no {saved}; runs are in"
            " outputs/runs and outputs/sweeps."
        )
    return folder, saved


# Of the run itself, not of what it trained.
NOT_GONE_ON_WITH = ("resume=", "resume_with_changes=", "from_run=", "folds=", "refit=", "debug=")


def resume_arguments(arguments: list[str]) -> list[str]:
    """Expand `resume=RUN` to the overrides that RUN was started with, and to its folder.

    Raises:
        UserError: RUN is no run folder, or a sweep is asked for, or RUN asks for what isn't Thaw's
            and `arguments` don't say.
    """
    given = [a for a in arguments if a.startswith("resume=") and a != "resume=null"]
    placed = any(argument.startswith("hydra.run.dir=") for argument in arguments)
    if not given or placed:  # placed: a further rank of a run that was expanded already
        return arguments
    folder, saved = _named(given[-1])
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("resume= continues one run, so it can't be used with --multirun.")
    rest = [argument for argument in arguments if argument not in given]
    before = checked_overrides(saved, read.overrides(folder), rest)
    if (folder / "refit" / "environment.json").is_file():  # it says what was asked for last
        before = [word for word in before if not word.startswith("refit=")]
    here = quoted(str(folder.resolve()))
    # `.hydra` stays as the run began: what is asked for now is compared with it.
    place = [f"resume={here}", f"hydra.run.dir={here}", "hydra.output_subdir=null"]
    return [*before, *rest, *place, "hydra.mode=RUN"]  # an experiment may be a sweep


def checked_overrides(file: Path, overrides: Sequence[str], own: Sequence[str]) -> list[str]:
    """The overrides of a folder, without those that the user's `own` words say again.

    Those of `cache` are left out: they change no result, and old files in the cache are removed.

    Args:
        file: that they are from.

    Raises:
        UserError: naming all that isn't Thaw's.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    said = set()
    for word in own:
        try:
            said.add(_what(parser.parse_override(word)))
        except HydraException:  # a flag; or Hydra will say what is wrong with it
            continue
    kept, odd = [], {}
    with read.damage(file):
        for line in map(shipped.moved_in, overrides):
            try:
                override = parser.parse_override(line)
            except HydraException:
                override = None
            if override is None or line.startswith("-") or override.is_sweep_override():
                raise Wrong(f"{ascii(line)[:80]} is no setting of a run")
            key, value = override.key_or_group, override.value()
            if _what(override) in said or key.partition(".")[0] == "cache":
                continue
            why = _odd_key(key, value, override.package) or _odd(
                key.partition(".")[0], {key.rpartition(".")[2]: value}
            )
            if why:
                odd[line] = why
            kept.append(line)
    if odd:
        what = "; ".join(f"{printable(line)} ({why})" for line, why in odd.items())
        again = printable(" ".join(map(shlex.quote, odd)))
        raise UserError(
            f"{file} asks for what isn't Thaw's, which a folder may not: {what}; if that is yours,"
            f" add it to the command, which confirms it: {again}."
        )
    return kept


def _what(override: "Override") -> tuple[Any, ...]:
    return override.is_delete(), override.key_or_group, override.package


def _odd_key(key: str, value: Any, package: str | None) -> str | None:
    """Why a folder may not set this key to this value; None if it may."""
    top, *below = key.split(".")
    # A key that no `conf/` knows is a note of the user's; one of a group there takes a file of it.
    foreign = top not in shipped.top_keys() and top in {"hydra", *conf.groups()}
    if package is not None or "/" in key or foreign:
        return "not one of Thaw's settings"
    names = shipped.groups().get(top)
    if below or names is None:
        return None
    chosen = value if isinstance(value, list) else [value]
    unknown = [v for v in chosen if isinstance(v, str) and v not in names and v != "null"]
    return f"no file of conf/{top}" if unknown else None


def _odd(group: str, value: Any) -> str | None:
    """What in a value of this group only the user himself may say; None if nothing is."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key) == "_target_" and str(inner) not in shipped.targets(group):
                return f"{ascii(inner)[:80]} isn't Thaw's"
            if found := _odd(group, inner):
                return found
    elif isinstance(value, list):
        for inner in value:
            if found := _odd(group, inner):
                return found
    elif isinstance(value, str):
        if "${" in value:
            return "an interpolation"
        if "://" in value and value not in shipped.addresses(group):
            return "an address"
    return None


def targets(settings: Any) -> list[str]:
    """All that settings name for Hydra to make, at any depth."""
    if isinstance(settings, list):
        return [found for value in settings for found in targets(value)]
    if not isinstance(settings, Mapping):
        return []
    own = [str(value) for key, value in settings.items() if key == "_target_"]
    return own + [found for value in settings.values() for found in targets(value)]
