"""One model of several runs, their weights averaged: thaw soup SWEEP"""

import argparse
from pathlib import Path

from thaw import files
from thaw.launch import cli


def main() -> None:
    """Read the arguments, average, print."""
    parser = argparse.ArgumentParser(
        description="Average the weights of finished runs of one net, one run after another as long"
        " as val gets better (a greedy soup). The test photos are opened once, for what comes out."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN_OR_SWEEP",
        help="a run folder, or a folder with runs below it",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the model goes; by default SWEEP/soup"
    )
    arguments = parser.parse_args()
    files.check_outputs(("--out", arguments.out, files.FOLDER))
    cli.say_loading()
    from thaw.sweeps.soup import soup  # torch is imported from here on, not for --help

    soup(**vars(arguments))
