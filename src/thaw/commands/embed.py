"""Write the features of photos: thaw embed RUN PHOTO_OR_FOLDER… --output FILE"""

import argparse
from pathlib import Path

from thaw.launch import cli


def main() -> None:
    """Read the arguments, write."""
    parser = argparse.ArgumentParser(
        description="Write what a trained model's head reads of photos: features to sort, search or"
        " cluster photos by."
    )
    parser.add_argument("run", type=Path, help="a run folder, or its model/")
    parser.add_argument("photos", nargs="+", type=Path, help="photos, or folders of photos")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .npy file of [photos, features] with a .csv of paths beside it, or a .parquet file",
    )
    cli.add_net(parser)
    arguments = parser.parse_args()

    from thaw.model.familiar.embed import embed  # torch is imported from here on, not for --help

    embed(**vars(arguments))
