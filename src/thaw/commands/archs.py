"""List the nets there are: thaw archs"""

import argparse
import json

from thaw.launch import cli


def main() -> None:
    """Read the arguments, list."""
    parser = argparse.ArgumentParser(
        description="The nets that have a file in conf/arch: their size, ImageNet accuracy, the"
        " licence of their weights, and whether those are on this machine. Nothing is downloaded."
    )
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    arguments = parser.parse_args()

    cli.say_loading()
    from thaw.report import archs  # torch is imported from here on, not for --help

    rows, broken = archs.facts()
    if arguments.json:
        print(json.dumps({"archs": rows, "broken": broken}, indent=2, ensure_ascii=False))
    else:
        archs.show(rows, broken)
