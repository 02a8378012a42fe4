"""Rank nets before fine-tuning any: thaw shortlist data=… archs=NET,NET"""

import argparse
import sys
from pathlib import Path

from thaw import files
from thaw.launch import cli

WORDS = """settings:
  archs=NET,NET          nets of conf/arch, or timm/NAME, torchvision/NAME; archs=all is every net
                         of conf/arch that has pretrained weights (it downloads what is missing)
  archs.NET.KEY=VALUE    arch.KEY=VALUE of training for one net: archs.resnet18.weights=FILE
  data=NAME, data.root=PATH, seed=N, trainer=NAME, cache.max_gb=N, …
                         as in training; test photos aren't opened
  folds=5                so many probes a net, each fitted to all photos but one part

examples:
  {door} data=folder data.root=PATH archs=all
  {door} data=hymenoptera archs=efficientnet_lite0,timm/resnet18.a1_in1k
"""


def main() -> None:
    """Read the arguments, probe, print."""
    parser = argparse.ArgumentParser(
        description="Rank pretrained nets on your photos by a linear probe on their features,\n"
        "before anything is fine-tuned, with time and size beside accuracy.",
        epilog=WORDS.format(door=cli.door("shortlist")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings, see below")
    parser.add_argument("--csv", metavar="FILE", help="the table to FILE too, or - for the screen")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where shortlist.csv and shortlist.png go; outputs/shortlist/DATE_TIME by default",
    )
    arguments = parser.parse_intermixed_args()
    files.check_outputs(("--csv", arguments.csv, (".csv",)), ("--out", arguments.out, files.FOLDER))

    cli.say_loading()
    from thaw.shortlist.report import report  # torch is imported from here on, not for --help

    if not report(**vars(arguments)):
        sys.exit(1)
