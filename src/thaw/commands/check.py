"""What is wrong with these photos, before anything is trained: thaw check data=…"""

import argparse
from pathlib import Path

from thaw import files
from thaw.launch import cli

WORDS = """settings:
  data=NAME, data.root=PATH, arch=NAME, seed=N, trainer=NAME, cache.max_gb=N, …
                         as in training; test photos are looked at for duplicates of others alone

examples:
  {door} data=folder data.root=PATH
  {door} data=hymenoptera arch=resnet18

Then fill in the action column of check.csv (drop, label:NAME or keep), and train with
data.fixes=PATH/check.csv.
"""


def main() -> None:
    """Read the arguments, check, print."""
    parser = argparse.ArgumentParser(
        description="Find what is wrong with photos: files that can't be read, the same photo in\n"
        "two splits or under two labels, labels that look wrong, classes told by\n"
        "brightness alone, photos that belong together. Nothing is changed.",
        epilog=WORDS.format(door=cli.door("check")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings, see below")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where check.html, check.csv and check.json go; outputs/check/DATE_TIME by default",
    )
    arguments = parser.parse_intermixed_args()
    files.check_outputs(("--out", arguments.out, files.FOLDER))

    cli.say_loading()
    from thaw.checks.check import check  # torch is imported from here on, not for --help

    check(**vars(arguments))
