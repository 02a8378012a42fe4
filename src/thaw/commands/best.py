"""The best model that photos allow, in the minutes there are: thaw best data=… minutes=10"""

import argparse
import time
from pathlib import Path

from thaw import files
from thaw.launch import cli

WORDS = """settings:
  minutes=10             how long it may take, from beginning to end
  data=NAME, data.root=PATH, seed=N, trainer=NAME, augment=NAME, …
                         as in training; test photos are opened once, at the end
  archs=NET,NET          nets of conf/arch, or timm/NAME, torchvision/NAME; what is missing is
                         downloaded. By default those whose weights are here; archs=all is all
  archs.NET.KEY=VALUE    arch.KEY=VALUE of training for one net: archs.resnet18.weights=FILE

examples:
  {door} data=folder data.root=PATH minutes=10
  {door} data=hymenoptera archs=efficientnet_lite0,resnet18 minutes=5
"""


def main() -> None:
    """Read the arguments, search."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        description="Find the best way to train on your photos in the time you have: which net,\n"
        "whether to thaw it, and how deep. It says what it tries, and why, and trains that.",
        epilog=WORDS.format(door=cli.door("best")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings, see below")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where all goes; outputs/best/DATE_TIME by default. A search that broke off there goes"
        " on with the same settings",
    )
    arguments = parser.parse_intermixed_args()
    files.check_outputs(("--out", arguments.out, files.FOLDER))

    cli.say_loading()
    from thaw.commands.best_run import best  # torch is imported from here on, not for --help

    best(arguments.words, arguments.out, began)
