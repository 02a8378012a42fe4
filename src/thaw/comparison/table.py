"""The leaderboard as a table: for the terminal, as Markdown, and as rows of CSV files."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import get_console
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from thaw.comparison.verdict import p_text
from thaw.escape import markdown as markdown_text
from thaw.escape import printable

if TYPE_CHECKING:
    from thaw.comparison.configurations import Configuration
    from thaw.comparison.leaderboard import Leaderboard

# In `leaderboard.csv`, by their names in `metrics.json`: with and without what seeds change.
SPREAD = ("val/loss", "val/acc", "test/acc", "test/balanced_acc", "test/f1", "test/worst_recall")
SPREAD += ("test/ece",)
AGAINST = "p vs 1"
PLAIN = (
    "seconds/epoch",
    "seconds/features",
    "seconds/fit",
    "seconds/test",
    "params/total",
    "params/trainable",
    "model/bytes",
    "model/latency_ms",
)


def rows(board: "Leaderboard") -> list[dict[str, Any]]:
    """Rows of `leaderboard.csv`: plain numbers, averaged over the seeds; `_sd` is over them too."""
    against = _against_winner(board)
    found = []
    for rank, configuration in enumerate(board.configurations, 1):
        row: dict[str, Any] = {"rank": rank, "configuration": configuration.name}
        row |= {"arch": configuration.arch, "finetune": configuration.finetune}
        row |= {key: value for key, value in configuration.settings.items() if key not in row}
        row["seeds"] = " ".join(str(run.seed) for run in configuration.runs)
        for key in SPREAD:
            row |= {key: configuration.mean(key), f"{key}_sd": configuration.sd(key)}
            if key == "test/acc":
                low, high = configuration.interval
                row |= {"test/acc_low": low, "test/acc_high": high}
                row |= {"test/images": configuration.photos}
                row |= {"p_against_winner": against.get(configuration.name)}
        row |= {key: configuration.mean(key) for key in PLAIN}
        row["runs"] = " ".join(str(run.path) for run in configuration.runs)
        found.append(row)
    return found


def pair_rows(board: "Leaderboard") -> list[dict[str, Any]]:
    """Rows of `pairs.csv`."""
    found = []
    for pair in board.pairs:
        row = asdict(pair)
        del row["corrected"], row["seeds"]
        found.append(row | {"told_apart": pair.told_apart, "sentence": pair.sentence})
    return found


def markdown(board: "Leaderboard") -> str:
    """The table and the verdict."""
    header, lines = list(COLUMNS), cells(board)
    right = ["---" if name == "configuration" else "---:" for name in header]
    table = [[name.replace("\n", " ") for name in header], right]
    table += [[markdown_text(cell) for cell in line] for line in lines]
    text = [f"| {' | '.join(line)} |" for line in table]
    text += ["", *(f"- {markdown_text(sentence)}" for sentence in board.sentences)]
    if board.pairs:
        text += ["", board.caveat]
    said = asides(board)
    if said:
        text += ["", *(f"- {markdown_text(sentence)}" for sentence in said)]
    return "\n".join(text) + "\n"


def show(board: "Leaderboard", out: Path) -> None:
    """Print the table, in parts where the terminal is narrow, then the verdict."""
    console = get_console()
    for names in _parts(board, console):
        console.print(_table(board, names))
        console.print()
    lines = [Text(printable(sentence)) for sentence in board.sentences]
    lines[0].stylize("bold")
    lines += [Text(board.caveat, "dim")] if board.pairs else []
    lines += [Text(printable(sentence), "yellow") for sentence in asides(board)]
    for line in lines:
        console.print(line)
    console.print()
    files = {
        "table": "leaderboard.csv",
        "every pair": "pairs.csv",
        "figures": "figures",
        "report": "report.html",
    }
    if not board.pairs:
        del files["every pair"]
    for name, file in files.items():
        console.print(Text(printable(f"{name:<14} {out / file}")), soft_wrap=True)


def _parts(board: "Leaderboard", console: Console) -> list[list[str]]:
    """Columns that stand beside one another: all, or as many as the terminal holds at a time."""
    wide = console.options.update(width=999)

    def measured(names: Sequence[str]) -> Measurement:
        return console.measure(_table(board, names), options=wide)

    def fits(names: Sequence[str]) -> bool:
        return measured(names).maximum <= console.width

    if fits([*COLUMNS]):
        return [[*COLUMNS]]
    first = FIRST if measured(FIRST).minimum <= console.width else FIRST[:2]
    parts = [[*first]]
    for name in COLUMNS:
        if name in first:
            continue
        if parts[1:] and fits([*parts[-1], name]):
            parts[-1].append(name)
        else:
            parts.append(["#", name])
    return parts


def asides(board: "Leaderboard") -> list[str]:
    """What is to be known beside the table: notes, and runs that don't count."""
    alike: dict[tuple[str, str], list[Path]] = {}  # a net that can't load fails with every seed
    for run in board.unfinished:
        alike.setdefault((run.state, run.reason), []).append(run.path)
    return board.notes + [
        f"{first} {f'and {len(more)} more don' if more else 'doesn'}'t count ({state}): {reason}"
        for (state, reason), (first, *more) in alike.items()
    ]


def _table(board: "Leaderboard", names: Sequence[str]) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in names:
        left = name == "configuration"
        table.add_column(
            name, justify="left" if left else "right", overflow="fold", no_wrap=not left
        )
    indices = [list(COLUMNS).index(name) for name in names]
    for i, line in enumerate(cells(board)):
        table.add_row(*(Text(printable(line[j])) for j in indices), style=None if i else "green")
    return table


def cells(board: "Leaderboard") -> list[list[str]]:
    """Texts under `COLUMNS`, a row a configuration."""
    against = _against_winner(board)
    found = []
    for rank, configuration in enumerate(board.configurations, 1):
        p = against.get(configuration.name)
        own = {"#": str(rank), AGAINST: "" if p is None else p_text(p).removeprefix("p ")}
        texts = {name: cell(configuration) for name, cell in COLUMNS.items()} | own
        found.append([text.removeprefix("= ") for text in texts.values()])
    return found


def _against_winner(board: "Leaderboard") -> dict[str, float]:
    """Corrected p of each other configuration; the winner is the first of all its pairs."""
    return {pair.b: pair.p_holm for pair in board.pairs if pair.a == board.winner.name}


def _spread(key: str, form: str, unit: float = 1) -> Callable[["Configuration"], str]:
    """A cell: mean ± standard deviation over the seeds."""

    def cell(configuration: "Configuration") -> str:
        sd = configuration.sd(key)
        more = "" if sd is None else f" ± {unit * sd:{form}}"
        return _number(unit * configuration.mean(key), form) + more

    return cell


def _plain(key: str, form: str, unit: float = 1) -> Callable[["Configuration"], str]:
    return lambda configuration: _number(unit * configuration.mean(key), form)


def _parameters(key: str) -> Callable[["Configuration"], str]:
    def cell(configuration: "Configuration") -> str:
        number = configuration.mean(key)
        return f"{number / 1e3:.1f}k" if number < 1e5 else _number(number / 1e6, ".2f") + "M"

    return cell


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


def _interval(configuration: "Configuration") -> str:
    low, high = configuration.interval
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _seconds(configuration: "Configuration") -> str:
    return _number(configuration.mean("seconds/fit") + configuration.mean("seconds/test"), ".0f")


COLUMNS: dict[str, Callable[["Configuration"], str]] = {
    "#": lambda configuration: "",  # `cells` knows it, as that against the winner
    "configuration": lambda configuration: configuration.name,
    "seeds": lambda configuration: str(len(configuration.runs)),
    "val loss": _spread("val/loss", ".3f"),
    "val %": _spread("val/acc", ".1f", 100),
    "test %": _spread("test/acc", ".1f", 100),
    "95%": _interval,
    AGAINST: lambda configuration: "",
    "balanced %": _spread("test/balanced_acc", ".1f", 100),
    "worst %": _plain("test/worst_recall", ".1f", 100),
    "F1": _plain("test/f1", ".3f"),
    "ECE": _plain("test/ece", ".3f"),
    "s/epoch": _plain("seconds/epoch", ".1f"),
    "s in all": _seconds,
    "params": _parameters("params/total"),
    "trained": _parameters("params/trainable"),
    "MB": _plain("model/bytes", ".1f", 1e-6),
    "ms": _plain("model/latency_ms", ".1f"),
}
# Where the terminal is narrow; the name of a configuration is broken to fit.
FIRST = ("#", "configuration", "val loss", "val %", "test %", "95%")
