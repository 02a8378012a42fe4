"""The rooms of `src/thaw`, and who may import whom: from rows above a room's own, and no others."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import thaw
from thaw.__main__ import COMMANDS

HOUSE = Path(thaw.__file__).parent
LAYERS = (
    ("errors", "escape"),
    ("screen",),
    ("files", "fetch", "intervals"),
    ("launch",),
    ("runs",),
    ("data", "nets"),  # and these two don't know each other
    ("page",),
    ("model", "comparison"),
    ("training", "evaluation", "export"),
    ("report", "sweeps"),
    ("shortlist",),
    ("checks", "best"),
    ("benchmark",),
    ("commands",),
)
ROW = {room: row for row, rooms in enumerate(LAYERS) for room in rooms}
DOORS = {"__init__", "__main__"}  # what a user imports: it may open every room
FILES = sorted(HOUSE.rglob("*.py"))
TORCH = {"torch", "torchvision", "torchmetrics", "lightning", "timm"}


def room(file: Path) -> str:
    return file.relative_to(HOUSE).with_suffix("").parts[0]


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Each module that a file imports, and whether it does so only when a function is called.

    What stands under `if TYPE_CHECKING` is for those who read types, and imports nothing.
    """
    waiting: list[tuple[ast.AST, bool]] = [(ast.parse(file.read_text(encoding="utf-8")), False)]
    while waiting:
        node, lazy = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import doesn't say which room it means"
            yield from ((f"{node.module}.{alias.name}", lazy) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        lazy = lazy or isinstance(node, ast.FunctionDef)
        waiting += [(child, lazy) for child in ast.iter_child_nodes(node)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HOUSE)))
def test_imports_go_one_way(file):
    own = room(file)
    if own in DOORS:
        return
    for name, _ in imports(file):
        if name.startswith("thaw."):
            other = name.split(".")[1]
            assert other in ROW, f"{name}: which row is it in?"
            assert other == own or ROW[other] < ROW[own], f"{own} may not import {name}"


def test_rooms_are_few_and_small():
    rooms = [path for path in HOUSE.iterdir() if path.is_dir() and path.name[0] != "_"]
    assert {path.name for path in rooms} <= set(ROW)
    doors = {name.replace("-", "_") for name in COMMANDS}  # a file each, however many there are
    for path in rooms:
        beside = {"__init__"} | (doors if path.name == "commands" else set())
        files = [file for file in path.glob("*.py") if file.stem not in beside]
        assert 3 <= len(files) <= 11, f"{path.name} has {len(files)} files"
    assert len(list(HOUSE.glob("*.py"))) <= 8


def test_what_comes_before_torch_never_imports_it():
    without = {*LAYERS[0], *LAYERS[1], *LAYERS[2], *LAYERS[3], "comparison"}
    for file in FILES:
        if room(file) in without:
            assert not [name for name, _ in imports(file) if name.split(".")[0] in TORCH], file


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import thaw", ("torch", "hydra", "numpy")),
        ("import thaw.comparison.report", ("torch",)),
        ("import thaw.sweeps.jobs", ("torch", "matplotlib")),
        pytest.param("import thaw.model.bundle", ("lightning", "hydra"), marks=pytest.mark.slow),
    ],
)
def test_a_room_brings_only_what_it_needs(code, absent):
    check = f"import sys; {code}; print(*[n for n in {absent} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_circles_within_a_room():
    """Files of a room import one another in an order."""
    graph = {}
    for file in FILES:
        name = ".".join(("thaw", *file.relative_to(HOUSE).with_suffix("").parts))
        known = {target for target, _ in imports(file)}
        graph[name] = {t for t in known | {t.rpartition(".")[0] for t in known} if t != name}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' → '.join([*path, name])}"
        if name not in done:
            for other in graph[name] & graph.keys():
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
