"""What a shortlist says in the terminal, as rows of a CSV file, and what to type next."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thaw.comparison.verdict import ALPHA, in_groups, listed, p_text
from thaw.data.folder import PhotoFolder
from thaw.escape import printable
from thaw.launch.cli import door
from thaw.shortlist.words import Net

if TYPE_CHECKING:
    from thaw.shortlist.rank import Probed, Shortlist

MERITS = ("%", "95%", "p vs 1", "F1")
COSTS = ("features\nms a photo", "latency\nms", "params", "MB", "pixels")
CAVEAT = (
    "p: McNemar's exact test on the same photos{groups}, times the number of other nets. A probe"
    " judges features as they are; fine-tuning can change the order of nets that are close."
)


def line(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is: nothing in it is markup, and the terminal breaks it where it likes."""
    console.print(Text(printable(text, keep="\n"), style), soft_wrap=True)


def show_start(console: Console, data: PhotoFolder, photos: int, folds: int) -> None:
    """Say what is probed on."""
    line(console, f"photos  {data.root}: {len(data.classes)} classes, {photos} of train and val")
    line(console, f"        {folds} folds, each predicted by a probe that was fitted to the rest\n")


def show_probed(console: Console, probed: "Probed", seconds: float) -> None:
    """A net's line."""
    features = "all features cached" if probed.features_ms is None else ""
    acc = f"{probed.metrics['probe/acc']:6.1%}"
    line(console, f"{probed.name:<24} {acc}  {seconds:6.1f} s  {features}".rstrip())


def show_failed(console: Console, net: Net, reason: str) -> None:
    """The line of a net that failed."""
    line(console, f"{net.name:<24} failed  {reason}", "red")


def rows(board: "Shortlist") -> list[dict[str, Any]]:
    """Rows of `shortlist.csv`: shares, milliseconds, bytes and pixels."""
    level = board.level
    return [
        {
            "rank": rank,
            "net": probed.name,
            "level": probed in level,
            "p_against_first": p,
            **probed.metrics,
            "photos": len(probed.right),
            "features_ms": probed.features_ms,
            "input_size": probed.pixels,
            "weights": probed.weights,
            "words": shlex.join(probed.net.words),
        }
        for rank, (probed, p) in enumerate(zip(board.nets, board.p, strict=True), 1)
    ]


def show(console: Console, board: "Shortlist", shared: Sequence[str], out: Path) -> None:
    """Print the table, what one may say of it, and what to type next."""
    console.print()
    _show_table(console, board)
    said = sentences(board)
    line(console, said[0], "bold")
    for sentence in said[1:]:
        line(console, sentence)
    if len(board.nets) > 1:
        groups = ", by whole groups" if board.groups else ""
        line(console, CAVEAT.format(groups=groups), "dim")
    if board.failed:
        line(console, f"Failed, see above: {', '.join(board.failed)}.", "red")
    facts = {"table": [out / "shortlist.csv"], "figure": [out / "shortlist.png"]}
    console.print()
    for name, values in (facts | {"next": commands(board, shared)}).items():
        for i, value in enumerate(values):
            line(console, f"{'' if i else name:<8}{value}")


def sentences(board: "Shortlist") -> list[str]:
    """Which net is the first, and from which others it can be told apart."""
    first, *others = board.nets
    seen = first.metrics
    said = [
        f"{first.name} is {'first' if others else 'the only net'}:"
        f" {seen['probe/acc']:.1%} of {len(first.right)} photos"
        f"{in_groups(board.groups)}"
        f" (95% interval {seen['probe/acc_low']:.1%} to {seen['probe/acc_high']:.1%})."
    ]
    level = board.level[1:]
    beaten = [probed for probed in others if probed not in level]
    if beaten:
        said.append(f"It beats {listed([probed.name for probed in beaten])} (p < {ALPHA:g}).")
    if level:
        said.append(f"It can't be told apart from {listed([probed.name for probed in level])}.")
        quickest = min(board.level, key=lambda probed: probed.metrics["model/latency_ms"])
        times = [probed.metrics["model/latency_ms"] for probed in (quickest, first)]
        if quickest is not first:
            said.append(
                f"Of these {quickest.name} is the quickest: {times[0]:.1f} ms a photo, where"
                f" {first.name} takes {times[1]:.1f}."
            )
    return said


def commands(board: "Shortlist", shared: Sequence[str]) -> list[str]:
    """How to train those that can't be told apart: one sweep, and one more for each library."""
    sweeps: dict[tuple[str, ...], list[str]] = {}  # words in common → values of the last word
    for probed in board.level:
        *common, last = probed.net.words
        key, _, value = last.partition("=")
        alone = key not in ("arch", "arch.name")
        sweeps.setdefault((*common, *([last] if alone else [key])), []).append(value)
    found = []
    for (*common, key), values in sweeps.items():
        words = [*common, key if "=" in key else f"{key}={','.join(values)}"]
        several = ["-m"] if len(values) > 1 else []
        found.append(f"{door('train')} {shlex.join([*several, *words, *shared])}")
    return found


def _show_table(console: Console, board: "Shortlist") -> None:
    """In two halves where the terminal is narrow."""
    whole = _table(board, ("#", "net", *MERITS, *COSTS))
    if console.measure(whole, options=console.options.update(width=999)).maximum <= console.width:
        console.print(whole, "")
        return
    for names in (MERITS, COSTS):
        console.print(_table(board, ("#", "net", *names)), "")


def _table(board: "Shortlist", names: Sequence[str]) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name == "net" else "right", overflow="fold")
    for rank, (probed, p) in enumerate(zip(board.nets, board.p, strict=True), 1):
        cells = _cells(rank, probed, p)
        style = "green" if p is None else "" if p >= ALPHA else "dim"
        table.add_row(*(Text(cells[name]) for name in names), style=style)
    return table


def _cells(rank: int, probed: "Probed", p: float | None) -> dict[str, str]:
    seen, new = probed.metrics, probed.features_ms
    low, high = 100 * seen["probe/acc_low"], 100 * seen["probe/acc_high"]
    merits = (
        f"{100 * seen['probe/acc']:.1f}",
        f"{low:.1f}–{high:.1f}",
        "" if p is None else p_text(p).removeprefix("p ").removeprefix("= "),
        f"{seen['probe/f1']:.3f}",
    )
    costs = (
        "cached" if new is None else f"{new:.1f}",
        f"{seen['model/latency_ms']:.1f}",
        f"{seen['params/total'] / 1e6:.2f}M",
        f"{seen['model/bytes'] / 1e6:.1f}",
        str(probed.pixels),
    )
    names = ("#", "net", *MERITS, *COSTS)
    return dict(zip(names, (str(rank), probed.name, *merits, *costs), strict=True))
