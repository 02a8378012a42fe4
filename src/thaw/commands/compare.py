"""Which run is best, and is that more than noise: thaw compare RUN_OR_SWEEP…"""

import argparse
from pathlib import Path

from thaw import files


def main() -> None:
    """Read the arguments, compare, print."""
    parser = argparse.ArgumentParser(
        description="Compare finished runs: a table, figures, and a verdict. The winner is chosen"
        " on val; test photos say whether the difference is more than noise."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN_OR_SWEEP",
        help="a run folder, or a folder with runs below it",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where leaderboard.csv, pairs.csv and figures/ go; by default the sweep's folder if"
        " one is given, otherwise outputs/compare/DATE_TIME",
    )
    parser.add_argument(
        "--markdown", metavar="FILE", help="the table and the verdict to FILE, or - for the screen"
    )
    arguments = parser.parse_args()
    files.check_outputs(
        ("--out", arguments.out, files.FOLDER), ("--markdown", arguments.markdown, (".md", ".txt"))
    )

    from thaw.comparison.report import report  # not for --help

    report(**vars(arguments))
