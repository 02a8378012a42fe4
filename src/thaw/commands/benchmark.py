"""What training costs, side by side: thaw benchmark [--rows head sweep] [--quick]

Every measurement is a process of its own, and systems take turns. Thaw's rivals have the same net,
weights and photos: the loop that the lesson teaches, a plain Lightning module, and the limit, which
is one bare pass over the photos at the best settings and the head's arithmetic on what came out.
"""

import argparse
import importlib.metadata
import json
import os
import platform
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from thaw import files
from thaw.benchmark.measuring import ROWS, Bench, Result
from thaw.benchmark.rivals import one
from thaw.benchmark.standings import draw_figure, markdown, medians, progress
from thaw.errors import UserError
from thaw.launch import conf
from thaw.launch.names import run_dir

# Epochs, learning rates in a sweep, and photos a class (train, test) of data=shapes.
SIZES = {"head": 5, "long": 25, "last": 3, "rates": 20, "few": (80, 20), "many": (3200, 800)}
QUICK = {"head": 2, "long": 4, "last": 1, "rates": 3, "few": (8, 2), "many": (32, 8)}


def main() -> None:
    """Read the arguments, measure, report."""
    parser = argparse.ArgumentParser(
        description="Measure seconds, memory and accuracy of Thaw, of the lesson's PyTorch loop, of"
        " plain Lightning, and of the least that the work can take, on this machine."
    )
    parser.add_argument(
        "--rows", nargs="+", default=[*ROWS], metavar="ROW", help=f"some of {', '.join(ROWS)}"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="medians are over N: 3")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="ROOT",
        help="holds train/ and val/ (the test photos), a folder a class in each: data/hymenoptera,"
        " downloaded if it isn't there",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of each system: torch's choice")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu")
    parser.add_argument("--out", type=Path, metavar="DIR", help="outputs/benchmark/DATE_TIME")
    parser.add_argument("--quick", action="store_true", help="a look: few epochs on few shapes")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # a measurement's own process
    given = parser.parse_args()
    if given.one:
        return one(given.one[0], given.one[1], json.loads(given.one[2]))
    unknown = [row for row in given.rows if row not in ROWS]
    if unknown:
        raise UserError(f"Expected --rows to be some of {', '.join(ROWS)}, got {unknown}.")
    for name in ("repeats", "threads"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"expected --{name} to be a whole number from 1")
    rows = [row for row in ROWS if row in given.rows]
    sizes, repeats = (QUICK, given.repeats or 1) if given.quick else (SIZES, given.repeats or 3)
    roots: dict[str, Path] = {}
    if rows != ["memory"]:
        roots["data"] = draw(20, 8) if given.quick and not given.data else find_data(given.data)
    if "memory" in rows:
        roots |= {name: draw(*sizes[name]) for name in ROWS["memory"]}
    machine = describe_machine(given.device)
    env = {**os.environ, **({"OMP_NUM_THREADS": str(given.threads)} if given.threads else {})}
    out = given.out or Path(run_dir(f"outputs/benchmark/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    out.mkdir(parents=True, exist_ok=True)
    found: list[Result] = []
    # Beside the results, not in /tmp: that may be memory, and runs write to a disk.
    with files.scratch(out.with_name("scratch")) as scratch:
        bench = Bench(roots, sizes, env, scratch.resolve(), given.device)
        for row in rows:
            for repeat in range(repeats):
                for system in ROWS[row]:
                    found.append(bench.measure(row, system, repeat))
                    print(progress(found[-1], repeats), flush=True)
            middle = medians(found)  # a benchmark that is cut short keeps its rows
            report = {"machine": machine, "sizes": sizes, "medians": middle, "measured": found}
            files.write_json(out / "benchmark.json", report)
            files.write(out / "benchmark.md", markdown(found, machine, sizes))
            draw_figure(out / "benchmark.png", middle, sizes)

    from rich import get_console
    from rich.markdown import Markdown

    get_console().print("", Markdown(markdown(found, machine, sizes)), "", str(out))


def find_data(root: Path | None) -> Path:
    """The folder of photos, downloaded unless the user named one."""
    if root is None:
        from hydra.utils import instantiate
        from omegaconf import OmegaConf

        known = OmegaConf.load(conf.folder() / "data" / "hymenoptera.yaml")
        root = Path(known.root)
        instantiate(known.source)(root=root)
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise UserError(f"Expected --data to be a folder that holds train and val, got {root}.")
    return root.resolve()


def draw(train: int, test: int) -> Path:
    """Draw so many photos a class where `data=shapes` looks for them."""
    from thaw.data import shapes

    root = Path("data", f"shapes_{train}_{test}")
    root.parent.mkdir(exist_ok=True)
    shapes.draw(root, train, test)
    return root.resolve()


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """What else the seconds depend on."""
    name, cores = platform.processor() or platform.machine(), os.cpu_count() or 1
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
        name = (found or [name])[0]
    load = round(os.getloadavg()[0], 2)
    if load > cores / 4:
        print(f"This machine has other work (load {load}), so all will take longer.")
    versions = {package: importlib.metadata.version(package) for package in ("torch", "lightning")}
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("Expected a GPU for --device cuda, but torch finds none.")
        name = f"{torch.cuda.get_device_name()}, {name}"
    return {"cpu": name, "cores": cores, "load_before": load, **versions}
