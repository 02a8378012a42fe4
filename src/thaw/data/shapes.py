"""`data=shapes`: photos of five textured things in clutter, drawn here so no network is needed.

The set is made to show what transfer is worth: see `thaw.data.scenes` for what is in a photo.
"""

import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from thaw.data.find import MANIFEST
from thaw.data.scenes import CLASSES, photo
from thaw.errors import UserError
from thaw.files import scratch

FORMAT = 1  # raise it whenever the same arguments would draw other pixels
MOST_IMAGES = 100_000
POOL_ABOVE = 1_000  # below, starting the processes costs more than they save
CHUNK = 50


def draw(
    root: Path, train_per_class: int = 45, test_per_class: int = 15, size: int = 160, seed: int = 0
) -> None:
    """Draw the data set into `root` unless it is there already.

    Photos go to `root/<train or test>/<class>/<index>.jpg`. Each depends on `seed`, its split,
    its class and its index alone, so more photos a class, or more processes, change none of the
    others. `root` appears complete or not at all, and two processes may draw it at once.
    """
    counts = {"train_per_class": train_per_class, "test_per_class": test_per_class}
    asked = {"format": FORMAT, **counts, "size": size, "seed": seed}
    _check(asked)
    root = root.resolve()
    if _is_drawn(root, asked):
        return
    with scratch(root) as folder:
        part = folder / root.name
        _draw_all(part, {"train": train_per_class, "test": test_per_class}, size, seed)
        (part / MANIFEST).write_text(json.dumps(asked, indent=2) + "\n")
        try:
            part.rename(root)
        except OSError:
            if not _is_drawn(root, asked):  # else another process was first, with the same photos
                raise


def _check(asked: dict[str, int]) -> None:
    for name, least in (("train_per_class", 1), ("test_per_class", 1), ("size", 32), ("seed", 0)):
        if not isinstance(asked[name], int) or asked[name] < least:
            raise UserError(
                f"data=shapes expects {name} to be a whole number of at least {least}, "
                f"but got {asked[name]!r}."
            )
    images = len(CLASSES) * (asked["train_per_class"] + asked["test_per_class"])
    if images > MOST_IMAGES:
        raise UserError(
            f"data=shapes draws at most {MOST_IMAGES:,} images, but train_per_class and "
            f"test_per_class ask for {images:,} over its {len(CLASSES)} classes; lower them."
        )


def _is_drawn(root: Path, asked: dict[str, int]) -> bool:
    """False where there is nothing, or an empty folder; an error where there is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"Expected a new folder in data.root for data=shapes to draw into, but {root} holds"
            f" something else; if those are photos of yours, say data=folder data.root={root}."
        ) from None
    if found != asked:
        raise UserError(
            f"data=shapes expects {root} to hold {asked}, but it holds {found}; "
            "choose another folder, or delete this one to have it drawn again."
        )
    return True


def _draw_all(root: Path, counts: dict[str, int], size: int, seed: int) -> None:
    for split in counts:
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
    tasks = [(split, name, i) for split in counts for name in CLASSES for i in range(counts[split])]
    save = partial(_save, root, size, seed)
    if len(tasks) <= POOL_ABOVE:
        _keep_heap()
        for task in tasks:
            save(task)
        return
    workers = min(os.cpu_count() or 1, math.ceil(len(tasks) / CHUNK))
    # Spawned, not forked: a fork of a process in which torch runs threads may hang.
    with ProcessPoolExecutor(workers, get_context("spawn"), _keep_heap) as pool:
        done = pool.map(save, tasks, chunksize=CHUNK)
        console = Console(stderr=True)
        hidden = not console.is_terminal
        for _ in track(done, "Drawing shapes", len(tasks), console=console, disable=hidden):
            pass


def _keep_heap() -> None:
    """Once a large block was freed, glibc keeps smaller ones: a quarter less time a photo."""
    np.empty(30 << 20, np.uint8)


def _save(root: Path, size: int, seed: int, task: tuple[str, str, int]) -> None:
    split, name, index = task
    key = [seed, ("train", "test").index(split), CLASSES.index(name), index]
    image = photo(name, size, np.random.default_rng(key))
    image.save(root / split / name / f"{index:04d}.jpg", quality=90)
