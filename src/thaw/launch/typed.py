"""What is typed: how a value is written, and what a name that nothing has was meant to be."""

import difflib
import re
from collections.abc import Iterable, Mapping


def unknown(key: str, value: object, keys: list[str], options: Mapping[str, list[str]] = {}) -> str:
    """The sentence for a key that nothing reads: what it may have been meant to be.

    Args:
        keys: all that there are.
        options: of groups.

    >>> unknown("finetune.phases.head.lr", 1, ["finetune.phases.head.solve"])[:58]
    'There is no setting finetune.phases.head.lr: that phase is'
    """
    phase, _, what = key.rpartition(".")
    if f"{phase}.solve" in keys and what in ("epochs", "lr"):
        return (
            f"There is no setting {key}: that phase is solved, and has neither epochs nor rates;"
            f" '+{phase}={{solve: false, epochs: 5, lr: 1e-3}}' gives it some."
        )
    near = nearest(key, value, keys, options)
    said = "" if value == "" or isinstance(value, Mapping | list) else f"={shown(value)}"
    if near:
        return (
            f"There is no setting {key}; did you mean {' or '.join(_set(n, said) for n in near)}?"
        )
    group = key.partition(".")[0]
    valid = [k for k in keys if k.startswith(f"{group}.")] or [k for k in keys if "." not in k]
    return f"There is no setting {key}; valid are {', '.join(valid)}."


def _set(near: str, said: str) -> str:
    return near if "=" in near else f"{near}{said}"


# What others call it.
SYNONYMS = {
    "model": "arch", "backbone": "arch", "net": "arch", "network": "arch", "architecture": "arch",
    "dataset": "data", "datamodule": "data", "augmentation": "augment", "transforms": "augment",
    "schedule": "finetune", "scheduler": "finetune", "learning_rate": "lr", "num_epochs": "epochs",
    "max_epochs": "epochs", "bs": "batch_size", "batch": "batch_size", "num_workers": "workers",
    "pretrained": "weights", "checkpoint": "resume", "ckpt": "resume", "ckpt_path": "resume",
    "gpus": "devices", "device": "accelerator", "path": "root", "folder": "root", "dir": "root",
    "data_dir": "root", "data_path": "root", "optim": "optimizer", "opt": "optimizer",
    "image_size": "input_size", "wd": "weight_decay", "amp": "precision",
    "output": "hydra.run.dir", "output_dir": "hydra.run.dir", "out": "hydra.run.dir",
}  # fmt: skip


def nearest(
    key: str, value: object, keys: list[str], options: Mapping[str, list[str]] = {}
) -> list[str]:
    """Up to three settings that an unknown key may stand for, `arch=resnet18` among them.

    >>> keys = ["data.root", "data.batch_size", "finetune.phases.head.lr"]
    >>> nearest("lr", 0.1, keys), nearest("data.roots", "a", keys), nearest("bs", 8, keys)
    (['finetune.phases.head.lr'], ['data.root'], ['data.batch_size'])
    >>> nearest("finetun", "full", keys, {"finetune": ["full"]})
    ['finetune=full']
    """
    groups = [group for group, names in options.items() if value in names]
    if len(groups) == 1 and "." not in key:
        return [f"{groups[0]}={value}"]
    above, _, last = key.rpartition(".")
    last = SYNONYMS.get(last, last)
    every = [*keys, *options]
    ends: dict[str, list[str]] = {}
    for known in every:
        ends.setdefault(known.rpartition(".")[2], []).append(known)
    whole = difflib.get_close_matches(f"{above}.{last}" if above else last, every, 3, 0.8)
    whole = [k for k in whole if near(k.rpartition(".")[2], [last])]
    alike = ends.get(last) or [
        k for end in difflib.get_close_matches(last, ends, 3, 0.7) for k in ends[end]
    ]
    found = [last] if last in every else [*whole, *alike]
    if above:  # of its own group, if there are any
        own = [k for k in found if k.partition(".")[0] == above.partition(".")[0]]
        found = own or found
    return [k for k in dict.fromkeys(found) if not key.startswith(f"{k}.")][:3]


def near(name: str, names: Iterable[str]) -> list[str]:
    """The names that are most like it, at most four."""
    return difflib.get_close_matches(name, list(names), 4, 0.6)


# Text that would be read as something else.
LIKE_OTHERS = re.compile(r"[-+]?[\d.][\d.eE+_-]*|true|false|null|nan|[-+]?inf", re.IGNORECASE)


def shown(value: object) -> str:
    """A value as it is typed."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    plain = isinstance(value, str) and value.strip() and not LIKE_OTHERS.fullmatch(value)
    text = str(value) if plain else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def quoted(text: str) -> str:
    r"""Text as a value in Hydra's grammar, whatever is in it; nothing in it is a reference.

    >>> print(quoted("it's"), quoted("C:\\photos\\"), quoted("a\\b"), quoted("${x}"))
    'it\'s' 'C:\photos\\' 'a\b' '\${x}'
    """
    return in_quotes(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def in_quotes(text: str) -> str:
    """As `quoted`, but `${…}` in it refers to another setting."""
    # A backslash stands for itself, except before a quote and at the end.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", r"\'"), text) + "'"


def unquoted(value: str) -> str:
    """What `quoted` was given."""
    if not is_quoted(value):
        return value
    quote = value[0]
    return re.sub(rf"(\\*)(\\{quote}|$)", lambda m: m[1][: len(m[1]) // 2] + m[2][-1:], value[1:-1])


def is_quoted(value: str) -> bool:
    """Whether it is one string in Hydra's own quotes."""
    return re.fullmatch(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", value, re.DOTALL) is not None
