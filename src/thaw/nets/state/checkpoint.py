"""Files of weights, read without running any code that is in them.

torch reads them with `weights_only=True`, which makes nothing but tensors and plain values. What
else lies beside the weights (an `argparse.Namespace`, settings of a class of one's own) is of
classes that it refuses; here each stands for nothing, an `Unopened`, and its module isn't imported.
"""

import io
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, _weights_only_unpickler
from torch.serialization import MAGIC_NUMBER as MAGIC
from torch.serialization import safe_globals

from thaw.errors import UserError
from thaw.nets.state import content

State = dict[str, Tensor]
DEEPEST = 8  # dictionaries in dictionaries; one may hold itself
# What no plain value is of: a file that names them was made to do something when it is opened.
RUNS = re.compile(
    r"(os|nt|posix|sys|subprocess|shutil|socket|runpy|pty|importlib|pickle|_pickle|ctypes|urllib"
    r"|requests|pip|code|timeit|webbrowser|torch\.hub|torch\.serialization)\."
    r"|builtins\.(eval|exec|compile|open|getattr|setattr|__import__|input|breakpoint)$|torch\.load$"
)


class Unopened:
    """In place of an object of a class that isn't torch's: its name and its state, no code."""

    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> "Unopened":
        """Take whatever a constructor may have taken."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def is_net(self) -> bool:
        """Whether it was a whole torch model."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return isinstance(state, dict) and {"_modules", "_parameters"} <= set(state)


def read(path: Path) -> Any:
    """What a file of weights holds: tensors, plain values, and `Unopened` for all else.

    safetensors are known by their content, whatever their name.

    Raises:
        UserError: it holds something else, which is named, or is damaged.
    """
    try:
        if content.is_safetensors(path):
            return _safetensors(path)
        if found := content.foreign(path):
            raise UserError(f"Expected weights in {path}, but it is {found}.")
        return _torch(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"Expected weights in {path}, but it can't be read: {reason}.") from error


def _safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"Expected weights in {path}, but these safetensors are cut short or damaged"
            f" ({path.stat().st_size:,} bytes are there); download or copy them again."
        ) from error


def _torch(path: Path) -> Any:
    try:
        names = _classes(path)
        asked = sorted(name for name in names if RUNS.match(name))
        if asked:
            raise UserError(
                f"Expected weights in {path}, but it calls {', '.join(asked[:3])} when it is opened"
                " as pickles are; nothing of it was run. Take weights from a source that you"
                " trust, as safetensors if there are any."
            )
        inert: list[Any] = [(type(name, (Unopened,), {}), name) for name in names]
        with safe_globals(inert), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the protocol, and on storages of old files
            return torch.load(path, map_location="cpu", weights_only=True)
    except (UserError, OSError):
        raise
    except Exception as error:  # of any class: a pickle is a program, and this one may be damaged
        raise UserError(
            f"Expected weights in {path}, but it is cut short or damaged, or no file of"
            f" torch.save; {content.SAVE}."
        ) from error


def _classes(path: Path) -> list[str]:
    """Names of the classes and functions in a torch file that torch doesn't take for plain.

    Raises:
        UserError: it is a pickle, but not one that torch.save wrote.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            record = next(n for n in archive.namelist() if n.partition("/")[2] == "data.pkl")
            names = _globals(io.BytesIO(archive.read(record)))
    else:  # before torch 1.6 a file was several pickles, one after another
        with path.open("rb") as file:
            if file.read(1) != b"\x80":
                raise ValueError("no pickle")
            file.seek(0)
            names = _globals(file)
            file.seek(0)
            if MAGIC not in [argument for _, argument, _ in pickletools.genops(file)]:
                held = f" of {', '.join(sorted(names)[:3])}" if names else ""
                raise UserError(
                    f"Expected weights in {path}, but it is a pickle{held} that torch.save didn't"
                    f" write; to open it could run any code, so nothing of it was. {content.SAVE}."
                )
            for _ in ("version", "machine", "what was saved"):
                names |= _globals(file)
    return sorted(names - set(_weights_only_unpickler._get_allowed_globals()))


def _globals(file: IO[bytes]) -> set[str]:
    """What the pickle that begins here would import."""
    names: set[str] = set()
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            module, name = NAME_MAPPING.get((module, name), (module, name))
            names.add(f"{IMPORT_MAPPING.get(module, module)}.{name}")
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return names


def places(held: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[str, State]]:
    """The dictionaries of tensors in what a file holds, each with the dotted way to it."""
    if isinstance(held, Mapping):
        own = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
        if own:
            yield ".".join(way), own
    for name, value in _inside(held) if len(way) < DEEPEST else ():
        yield from places(value, (*way, str(name)))


def whole_net(held: Any, depth: int = 0) -> str | None:
    """The class of a whole model that was pickled, if there is one in what a file holds."""
    if isinstance(held, Unopened):
        return type(held).__name__ if held.is_net() else None
    inside = _inside(held) if depth < DEEPEST else ()
    return next(filter(None, (whole_net(value, depth + 1) for _, value in inside)), None)


def _inside(held: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(held, Mapping):
        return held.items()
    return enumerate(held) if isinstance(held, list | tuple) else ()


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise UserError if a tensor holds NaN or infinity, as training that diverged leaves them."""
    floats = {n: t for n, t in state.items() if t.is_floating_point()}
    # torch can't ask numbers of a single byte.
    bad = [n for n, t in floats.items() if not (t if t.itemsize > 1 else t.half()).isfinite().all()]
    if bad:
        raise UserError(
            f"Expected numbers in {path}, but {len(bad)} of its {len(state)} tensors hold NaN or"
            f" infinity ({', '.join(bad[:3])}); training that wrote it diverged: take an earlier"
            " checkpoint."
        )
