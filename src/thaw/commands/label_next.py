"""Say which photos to label next: thaw label-next RUN FOLDER --count 50"""

import argparse
import importlib.util
from pathlib import Path

from thaw.errors import UserError
from thaw.launch import cli
from thaw.runs import read


def main() -> None:
    """Read the arguments, choose, list; and label on a page if asked for."""
    parser = argparse.ArgumentParser(
        description="Choose the unlabelled photos that would teach a model most: those that it is"
        " least sure of or has never seen the like of, each unlike the others."
    )
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("folder", type=Path, help="photos without labels")
    parser.add_argument("--count", type=int, default=50, metavar="N", help="how many: 50")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the list to FILE")
    parser.add_argument(
        "--page",
        action="store_true",
        help="label them on a page: a click or a key copies each into the folder of its class",
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        help="with --page, the folder of class folders to copy to: that of the train photos",
    )
    parser.add_argument("--port", type=int, default=8000, help="of the page: 8000")
    cli.add_net(parser)
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error(f"expected --count to be a whole number from 1, got {arguments.count}")
    if arguments.into is not None and not arguments.page:
        parser.error("--into goes with --page, which copies photos")
    if arguments.csv is not None and not arguments.csv.absolute().parent.is_dir():
        parser.error(f"expected a folder that exists in --csv {arguments.csv}")
    if arguments.page:
        needed = ("starlette", "uvicorn")
        missing = [name for name in needed if not importlib.util.find_spec(name)]
        if missing:
            raise UserError(
                f'The page needs {", ".join(missing)}: pip install "thaw-vision[serve]".'
            )

    if arguments.run.suffix != ".onnx":
        read.bundle(arguments.run)
    cli.say_loading()
    from thaw.model.familiar.label_next import label_next  # torch is imported from here on

    label_next(**vars(arguments))
