"""What a comparison leaves: the table, its files and figures, and the verdict on the screen."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from thaw.comparison import table
from thaw.comparison.leaderboard import Leaderboard, compare
from thaw.files import write as write_text
from thaw.files import write_csv
from thaw.launch.names import run_dir


def write(paths: Sequence[Path], out: Path) -> Leaderboard:
    """Compare; write `leaderboard.csv` and `.md`, `pairs.csv`, `figures/` and `report.html`.

    Raises:
        UserError: as `compare`.
    """
    from thaw.comparison import figures, page

    board = compare(paths)
    write_csv(out / "leaderboard.csv", table.rows(board))
    write_text(out / "leaderboard.md", table.markdown(board))
    if board.pairs:
        write_csv(out / "pairs.csv", table.pair_rows(board))
    figures.draw(board, out / "figures")
    page.draw(board, out)
    return board


def report(
    runs: Sequence[Path], out: Path | None = None, markdown: str | None = None
) -> Leaderboard:
    """Compare, write, and print.

    Args:
        runs: run folders, or folders that hold some.
        out: where files go; by default the sweep's folder if one is given, and else a new one.
        markdown: a file for the table and the verdict, or `-` for the screen instead of the table.

    Raises:
        UserError: as `compare`.
    """
    if out is None and len(runs) == 1 and not (runs[0] / "status.json").exists():
        out = runs[0]
    out = out or Path(run_dir(f"outputs/compare/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    board = write(runs, out)
    if markdown == "-":
        print(table.markdown(board), end="")
        return board
    if markdown is not None:
        write_text(Path(markdown), table.markdown(board))
    table.show(board, out)
    return board
