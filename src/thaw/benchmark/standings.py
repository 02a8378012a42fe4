"""What is said of measurements: medians, tables with ratios, a figure."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thaw.benchmark.measuring import ROWS, Result
from thaw.page.figure import write_figure

SYSTEMS = {  # column, colour
    "lesson": ("lesson's loop", "#c8553d"),
    "lightning": ("Lightning", "0.45"),
    "thaw": ("Thaw, cold", "#1f5a8a"),
    "warm": ("Thaw, warm", "#7fa8c9"),
    "limit": ("limit", "0.8"),
}
LINES = (  # row, what of it, label
    ("head", "seconds", "head, {head} epochs"),
    ("head", "whole", "the same, whole process"),
    ("head25", "seconds", "head, {long} epochs"),
    ("last_block", "seconds", "last block, {last} epochs"),
    ("full", "seconds", "whole net, 1 epoch"),
    ("head", "acc", "test accuracy"),
    ("head", "rss", "peak memory"),
)
PAIRS = (  # row, what of it, system, what it is compared with, label
    ("head", "seconds", "thaw", "limit", "a cold run : the limit"),
    ("sweep", "seconds", "sweep", "thaw", "a cold sweep of {rates} learning rates : one cold run"),
    ("sweep", "whole", "sweep", "thaw", "the same, whole processes"),
    ("predict", "seconds", "photo", "bare", "predict, one photo : import torch, run a net"),
    (
        "predict",
        "seconds",
        "folder",
        "photo",
        "predict, {photos:.0f} photos, {rate:.0f}/s : one",
    ),
    ("photos", "seconds", "pass", "predicted", "one fused pass over {images:.0f} photos : predict"),
    ("photos", "seconds", "pass", "evaluated", "the same : evaluate"),
    ("unfamiliar", "seconds", "telling", "without", "predict, telling the unfamiliar : without"),
    ("unfamiliar", "bytes", "telling", "without", "its bundle : without"),
    ("check", "seconds", "check", "features", "check : the features alone"),
    ("check", "whole", "check", "features", "the same, whole processes of both"),
    ("check", "seconds", "check", "thaw", "check : a cold run"),
    ("folds", "seconds", "folds", "thaw", "5 folds, cold : one cold run"),
    ("memory", "rss", "many", "few", "peak memory, {many_images:,} : {few_images:,} images"),
    ("memory", "seconds", "many", "few", "head, {many_images:,} : {few_images:,} images"),
)
NOTES = {  # row → what counts as what
    "head": "Seconds count from after the imports to the end of the test; the whole process is also"
    " Python's start, the imports, and all that Thaw reports and draws. × is how many times as fast"
    " as the loop. Cold and warm is Thaw's cache.",
    "head25": "Head, {long} epochs: of the loop and Lightning, {head} epochs scaled to {long}.",
    "last_block": "Last block: of the loop, its {last} epochs; of Thaw, all that fit and test took"
    " but the head's epochs, so frozen work counts as if no other phase had shared it. Thaw's val"
    " photos are the loop's test photos, so that the work is equal.",
    "full": "Whole net: an epoch with its val photos, which are the loop's test photos here too.",
    "parts": "Parts: Thaw with one of its settings in `trainer` changed, all else as it comes.",
    "predict": "predict: the whole process, and what a Python that imports torch and torchvision"
    " takes, with one forward pass.",
    "photos": "One fused pass: load the model, decode all photos, run the fused net. predict is"
    " `thaw predict --output`; evaluate labels the same photos. All count from after the imports.",
    "unfamiliar": "Telling the unfamiliar: processor seconds of one thread for all photos, the"
    " quickest of three passes.",
}

Medians = dict[str, dict[str, dict[str, float]]]


def progress(result: Result, repeats: int) -> str:
    """A line on a measurement."""
    acc = f"{result['acc']:7.1%}" if "acc" in result else ""
    return (
        f"{result['row']:<10} {result['system']:<9} {result['repeat'] + 1}/{repeats}"
        f" {result['seconds']:8.2f} s {result['whole']:8.2f} s whole"
        f" {result['rss'] / 1e6:6,.0f} MB{acc}{'  scaled' if 'scaled' in result else ''}"
    )


def medians(found: Sequence[Result]) -> Medians:
    """Row → system → key → the median over the repeats."""
    middle: Medians = {}
    for row, system in dict.fromkeys((result["row"], result["system"]) for result in found):
        same = [result for result in found if (result["row"], result["system"]) == (row, system)]
        middle.setdefault(row, {})[system] = {
            key: statistics.median(result[key] for result in same)
            for key in ("seconds", "whole", "features", "rss", "acc", "photos", "rate", "bytes")
            if key in same[0]
        }
    return middle


def tables(middle: Medians, sizes: dict[str, Any]) -> list[list[list[str]]]:
    """Tables of cells, headers first: systems by row, pairs with their ratio, parts of Thaw."""
    names = {f"{name}_images": 5 * sum(sizes[name]) for name in ROWS["memory"]}
    names |= sizes | middle.get("predict", {}).get("folder", {})
    names["images"] = middle.get("photos", {}).get("pass", {}).get("photos", 0)
    systems = [["", *(name for name, _ in SYSTEMS.values())]]
    for row, key, label in LINES:
        if row in middle:
            values = {s: found[key] for s, found in middle[row].items()}
            cells = {system: amount(value, key) for system, value in values.items()}
            for system in cells if key in ("seconds", "whole") else ():
                if system != "lesson":
                    cells[system] += f" ({digits(values['lesson'] / values[system], 2)}×)"
            systems.append([label.format(**names), *(cells.get(s, "") for s in SYSTEMS)])
    pairs = [["", "", ":", "ratio"]]
    for row, key, system, other, label in PAIRS:
        if row in middle:
            a, b = middle[row][system][key], middle[row][other][key]
            ratio = f"{digits(a / b, 3)}"
            pairs.append([label.format(**names), amount(a, key), amount(b, key), ratio])
    parts = [["Thaw's parts", "frozen work", "whole net, 1 epoch", "peak memory", "test accuracy"]]
    for name, found in middle.get("parts", {}).items():
        keys = ("features", "seconds", "rss", "acc")
        parts.append([name, *(amount(found[key], key) for key in keys)])
    return [table for table in (systems, pairs, parts) if len(table) > 1]


def amount(value: float, key: str) -> str:
    """A number with its unit: 5.04 s, 94.1%, 640 MB."""
    if key == "acc":
        return f"{value:.1%}"
    if key == "bytes":
        return f"{digits(value / 1e6, 3)} MB"
    return f"{value / 1e6:,.0f} MB" if key == "rss" else f"{digits(value, 3)} s"


def digits(value: float, count: int) -> str:
    """Rounded to so many digits, but never before the point: 105, 21.0, 5.04 for 3."""
    return f"{value:,.{max(count - len(str(int(value))), 0)}f}"


def markdown(found: Sequence[Result], machine: dict[str, Any], sizes: dict[str, Any]) -> str:
    """The tables; what was measured on which machine, and what counts as what."""
    blocks = []
    for header, *lines in tables(medians(found), sizes):
        rule = ["---", *["---:"] * (len(header) - 1)]
        blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)))
    repeats = 1 + max(result["repeat"] for result in found)
    threads = next((result["threads"] for result in found if "threads" in result), "default")
    where = (
        f"Medians of {repeats}, a process each, in turns. {machine['cpu']}, {machine['cores']}"
        f" cores, {threads} threads, torch {machine['torch']}."
    )
    rows = {result["row"] for result in found}
    own = [note for row, note in NOTES.items() if row in rows]
    blocks.append("\n".join(f"- {note.format(**sizes)}" for note in (where, *own)))
    return "\n\n".join(blocks) + "\n"


def draw_figure(path: Path, middle: Medians, sizes: dict[str, Any]) -> None:
    """Seconds of all systems, on a logarithmic axis; nothing where no row has several of them."""
    from matplotlib.figure import Figure  # needs no backend: nothing is shown
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    groups = [
        (label.format(**sizes), {system: found[key] for system, found in middle[row].items()})
        for row, key, label in LINES
        if row in middle and key in ("seconds", "whole")
    ]
    if not groups:
        return
    height = sum(len(bars) + 0.8 for _, bars in groups)
    figure = Figure(figsize=(9, 1.4 + 0.27 * height), layout="constrained")
    axes, y, ticks = figure.subplots(), 0.0, []
    for _, bars in groups:
        ticks.append(y + (len(bars) - 1) / 2)
        for system, seconds in bars.items():
            name, colour = SYSTEMS[system]
            axes.barh(y, seconds, 0.86, color=colour, label=name)
            times = f"   {digits(bars['lesson'] / seconds, 2)}×" if system != "lesson" else ""
            axes.text(seconds, y, f" {digits(seconds, 3)} s{times}", va="center", fontsize=9)
            y += 1
        y += 0.8
    every = [seconds for _, bars in groups for seconds in bars.values()]
    axes.set(xscale="log", xlim=(min(every) / 2, max(every) * 3), ylim=(y - 0.8, -0.8))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    scaled = f"; {sizes['long']} epochs of the loop and of Lightning: scaled from {sizes['head']}"
    axes.set_xlabel("seconds" + scaled * ("head25" in middle))
    axes.set_yticks(ticks, [label for label, _ in groups])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    figure.legend([*unique.values()], [*unique], loc="outside lower center", ncols=5, frameon=False)
    label, bars = groups[0]
    cold, loop = digits(bars["thaw"], 3), digits(bars["lesson"], 3)
    title = f"{label.capitalize()}: {cold} s with Thaw, {loop} s with the lesson's loop"
    figure.suptitle(title, x=0.01, ha="left")
    write_figure(path, figure)
