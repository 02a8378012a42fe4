"""Thaw's accuracy beside published figures: thaw anchors [SET …]"""

import argparse
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from thaw import files
from thaw.benchmark.published import KNOWN, Known, folder
from thaw.errors import UserError
from thaw.intervals import wilson
from thaw.launch import conf
from thaw.runs import read

RECIPES = ("probe", "head_only", "full")
DOWNLOADED = ("pets", "flowers102", "tf_flowers", "beans", "hymenoptera")
HEADER = ("by", "how", "test accuracy, %", "lowest to highest", "95% interval", "photos", "seconds")


def main() -> None:
    """Read the arguments, train, print the table."""
    parser = argparse.ArgumentParser(
        description="Train by Thaw's recipes on photos that others have published accuracies on,"
        " and set the figures side by side. Sets that aren't here are downloaded into data/."
    )
    parser.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        help=f"{', '.join(KNOWN)}; SET=FOLDER where its photos are already; or any folder of photos"
        f" (by default {', '.join(DOWNLOADED)})",
    )
    parser.add_argument("--arch", default="efficientnet_lite0", metavar="NAME[,NAME]")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each recipe: 5")
    parser.add_argument("--recipes", metavar="NAME[,NAME]", help=", ".join(recipes()))
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="outputs/anchors/DATE_TIME; what is finished in it is not done again",
    )
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error(f"expected --seeds to be a whole number from 1, got {given.seeds}")
    files.check_outputs(("--out", given.out, files.FOLDER))
    out = given.out or Path("outputs", "anchors", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    chosen = [found(word) for word in given.sets or DOWNLOADED]
    rows, problems = [], []
    for name, known, place in chosen:
        try:
            words = known.settings(place.resolve())
            train(words, out / name, given.arch, given.recipes or ",".join(recipes()), given.seeds)
        except UserError as error:  # the other sets don't need this one
            problems.append(f"{name}: {error}")
            continue
        rows += table(name, out / name, known)
        files.write(out / "anchors.md", markdown(rows))
    if rows:
        print(f"\n{markdown(rows)}\n{out / 'anchors.md'}")
    if problems:
        raise UserError("\n".join(problems))


def recipes() -> list[str]:
    """Those of Thaw's recipes that there are."""
    return [name for name in RECIPES if name in conf.options("finetune")]


def found(word: str) -> tuple[str, Known, Path]:
    """What is meant by SET, SET=FOLDER or FOLDER: a name, what is known of it, and its place."""
    name, _, place = word.partition("=")
    if place and name in KNOWN:
        here = KNOWN[name]
        known = Known(folder, here.figures) if Path(place).is_dir() else here
        return name, known, Path(place)
    if word in KNOWN and word in DOWNLOADED:
        return word, KNOWN[word], Path("data", word)
    if Path(word).is_dir():
        return Path(word).resolve().name, Known(folder, ()), Path(word)
    raise UserError(f"Expected {', '.join(DOWNLOADED)}, SET=FOLDER or a folder, got {word!r}.")


def train(words: list[str], sweep: Path, archs: str, schedules: str, seeds: int) -> None:
    """A sweep over nets, recipes and seeds, in a process of its own.

    Raises:
        UserError: none of its runs was finished.
    """
    words = [*words, f"arch={archs}", f"finetune={schedules}"]
    words += [f"seed={','.join(map(str, range(seeds)))}", f"hydra.sweep.dir='{sweep}'"]
    done = subprocess.run([sys.executable, "-P", "-m", "thaw", "train", "-m", *words])
    if done.returncode and not [*sweep.glob("**/metrics.json")]:
        raise UserError(f"No run in {sweep} was finished; its lines are above.")


def table(name: str, sweep: Path, known: Known) -> list[list[str]]:
    """Rows of cells: a recipe each, and a published figure each."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in read.run_folders(sweep):
        if read.status(run).get("state") == "done":
            choices = read.choices(run)
            recipe = f"{choices['arch']}, {choices['finetune']}"
            runs.setdefault(recipe, []).append(read.metrics(run))
    rows = [[f"**{name}**", *[""] * (len(HEADER) - 1)]]
    for recipe, found in runs.items():
        scores, photos = [m["test/acc"] for m in found], int(found[0]["test/images"])
        mean, seconds = sum(scores) / len(scores), sum(m["seconds/fit"] for m in found) / len(found)
        low, high = wilson(mean * photos, photos)
        spread = f"{min(scores):.1%} to {max(scores):.1%}, {len(scores)} seeds"
        cells = [f"{100 * mean:.1f}", spread, f"{low:.1%} to {high:.1%}", str(photos)]
        rows.append(["Thaw", recipe, *cells, f"{seconds:.1f}"])
    rows += [[f.source, f.recipe, f.accuracy, "", "", "", ""] for f in known.figures]
    return rows


def markdown(rows: list[list[str]]) -> str:
    """A table, and how to read it."""
    rule = ["---"] * len(HEADER)
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADER, rule, *rows)]
    note = "The interval is that of the mean, for other such photos; seconds are those of training."
    return "\n".join([*lines, "", note, ""])
