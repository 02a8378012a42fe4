"""What is typed, as Hydra should read it: paths need no quotes but the shell's own.

Slips that other programs' habits lead to (`--data.root=R`, `data.root = R`, a bare path) are told,
with what was meant. Nothing here imports Hydra or torch.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from thaw.launch import conf
from thaw.launch.settings import KEYS, OPTIONAL, PATH
from thaw.launch.typed import in_quotes, is_quoted, quoted

# Hydra's own flags, and those that take a word.
FLAGS = {
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--resolve",
    "--run",
    "-r",
    "--multirun",
    "-m",
}
FLAGS |= {"--shell-completion", "-sc"}
TAKES = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"}
TAKES |= {"--config-dir", "-cd", "--experimental-rerun"}
INFO = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}
SETTING = re.compile(r"(?P<plus>\+{0,2})(?P<key>[^\s=~+'\"\[{(]+)\s*=(?P<value>.*)", re.DOTALL)


def as_hydra_reads(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments as Hydra should get them, and a sentence for each that is a slip."""
    multirun = bool({"-m", "--multirun"} & set(arguments))
    flags, words = _apart(arguments)
    groups = {group: list(conf.options(group)) for group in sorted(conf.groups())}
    words, slips = _without_slips(words, groups)
    return [*flags, *(as_typed(word, multirun) for word in words)], slips


def asks(words: Sequence[str]) -> bool:
    """Whether these are questions to Hydra (`--help`, `--cfg job`), and no run."""
    begin = {"--run", "-r", "--multirun", "-m"} | {f for f in TAKES if f not in ("--cfg", "-c")}
    flags = {word.partition("=")[0] for word in _apart(words)[0] if word.startswith("-")}
    return bool(flags - begin)


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the rest."""
    flags, words = [], []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name = word.partition("=")[0]
        if name in FLAGS | TAKES | {"--info", "-i"}:
            flags.append(word)
            if (
                "=" not in word
                and waiting
                and (name in TAKES or (name not in FLAGS and waiting[0] in INFO))
            ):
                flags.append(waiting.pop(0))
        else:
            words.append(word)
    return flags, words


def _without_slips(words: list[str], groups: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """Words that are settings, and a sentence for each of the others."""
    good: list[str] = []
    slips: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        following = waiting[0] if waiting else ""
        bare = word.lstrip("-")
        if word.startswith("-") and bare:
            if "=" not in bare and following and not _is_setting(following):
                word, bare = f"{word} {following}", f"{bare}={waiting.pop(0).removeprefix('=')}"
            slips.append(_meant(word, bare, groups))
            good += [bare] if _is_setting(bare) else []  # which may be wrong as well
        elif following == "=" and len(waiting) > 1 and "=" not in word:  # data.root = photos
            waiting.pop(0)
            value = waiting.pop(0)
            slips.append(_meant(f"{word} = {value}", f"{word}={value}", groups))
        elif following and (  # data.root =photos, data.root= photos
            (following.startswith("=") and "=" not in word)
            or (re.fullmatch(r"[\w.@/]+=", word) and not _is_setting(following))
        ):
            slips.append(_meant(f"{word} {following}", word + waiting.pop(0), groups))
        elif not _is_setting(word) and not re.fullmatch(r"~[\w.@/-]+(=.*)?", word, re.DOTALL):
            before = good[-1].partition("=")[2] if good else ""
            if before and Path(f"{before} {word}").exists():  # a space that the shell took
                slips.append(f"Expected KEY=VALUE, got {word}; did you mean '{good[-1]} {word}'?")
            else:
                slips.append(_meant(word, word, groups))
        elif (found := SETTING.fullmatch(word)) and _is_misplaced(found, groups):
            slips.append(_meant(word, found["value"], groups))
        elif re.fullmatch(r".*=\s*\{\s*\}\s*", word, re.DOTALL):
            key = word.partition("=")[0].lstrip("+")
            slips.append(
                f"{word} would change nothing, since it is merged with what there is;"
                f" ~{key}.NAME leaves out what you don't want."
            )
        else:
            good.append(word)
    return good, slips


def _is_setting(word: str) -> bool:
    found = SETTING.fullmatch(word)
    return found is not None and not ("/" in found["key"] and _exists(word))


def _is_misplaced(found: re.Match[str], groups: dict[str, list[str]]) -> bool:
    """Whether a path was given to a group, as in `data=photos/`."""
    key, value = found["key"], found["value"].strip("'\"")
    if key not in ("data", "arch", "dataset") or value in groups.get(key, ()):
        return False
    named = value.startswith(("/", "~/", "./", "../")) or value.endswith("/")
    return bool(value) and (named or _exists(value))


def _meant(said: str, bare: str, groups: dict[str, list[str]]) -> str:
    """The sentence for a word that isn't KEY=VALUE."""
    found = SETTING.fullmatch(bare)
    key, value = (found["key"], found["value"]) if found else ("", bare)
    path = Path(os.path.expanduser(value.strip("'\"")))
    if key in ("data.root", "") and (_exists(value) or "/" in value or key):
        if not key and (path / ".hydra").is_dir():
            better = f"resume={value}"
        elif not key and _exists(value) and path.is_file():
            better = f"arch.weights={value}"
        else:
            better = f"data=folder data.root={value}"
    elif key:
        better = bare
    else:
        named = [f"{group}={value}" for group, names in groups.items() if value in names]
        better = " or ".join(named)
    return f"Expected KEY=VALUE, got {said}" + (f"; did you mean {better}?" if better else ".")


def as_typed(word: str, multirun: bool = False) -> str:
    r"""A setting of which Hydra's grammar takes nothing away, where the setting is text.

    >>> as_typed("data.root=my photos (2024)")
    "data.root='my photos (2024)'"
    >>> as_typed("data.batch_size=8"), as_typed("arch.weights=null")
    ('data.batch_size=8', 'arch.weights=null')
    >>> as_typed("arch.weights=DEFAULT,null", multirun=True)
    "arch.weights='DEFAULT',null"
    """
    found = SETTING.fullmatch(word)
    if found is None:
        return word
    key, value = found["key"], found["value"]
    if re.fullmatch(rf"finetune\.phases\.[^.]+\.({'|'.join(OPTIONAL)})", key):
        return f"++{key}={value}"  # a phase may have it, whether or not its file says so
    kind = KEYS.get(key)
    if kind is None or not kind.typed:
        if not ("/" in value and _exists(value)):
            return word
        return f"{found['plus']}{key}={_literal(value)}"
    is_path = PATH.valid in kind.valid
    if value == "null" and (kind.null or key == "data.root") and not (is_path and _exists(value)):
        return word
    if not _exists(value):
        value = value.strip()
        if is_quoted(value):
            return f"{found['plus']}{key}={value}"
        if (
            multirun
            and not key.startswith("hydra.")
            and re.match(r"(choice|glob|sort|shuffle)\(", value)
        ):
            return word
        if multirun and "," in value and not key.startswith(("hydra.", "cache.")):
            parts = [as_typed(f"{key}={part}").partition("=")[2] for part in value.split(",")]
            return f"{found['plus']}{key}={','.join(parts)}"
        if (plain := _unescaped(value)) is not None and (_exists(plain) or not is_path):
            value = plain
    return f"{found['plus']}{key}={_literal(value, is_path)}"


def _literal(value: str, is_path: bool = True) -> str:
    """In quotes, with the home folder for `~`; `${` is no reference where a file is called so."""
    if _exists(value):
        return quoted("./???" if value == "???" else value)  # alone, it means what is missing
    home = is_path and value.startswith("~")
    return in_quotes(str(Path(os.path.expanduser(value))) if home else value)


def _exists(value: str) -> bool:
    try:
        return bool(value) and Path(value).exists()
    except (OSError, ValueError):  # longer than file systems allow, or with a NUL
        return False


def _unescaped(value: str) -> str | None:
    """What `my\\ photos` means to Hydra without quotes; None if nothing is escaped in its way."""
    plain = re.sub(r"\\([\\()\[\]{}:=, \t])", r"\1", value)
    return plain if plain != value else None
