"""Write a trained model as ONNX and torch.export files: thaw export RUN"""

import argparse
from pathlib import Path

from thaw import files
from thaw.launch import cli
from thaw.runs import read


def main() -> None:
    """Read the arguments, export."""
    parser = argparse.ArgumentParser(
        description="Write a trained model as model.onnx and model.pt2, with resize, crop,"
        " normalisation, temperature and softmax inside. Each is written only if it labels every"
        " test photo as the model does."
    )
    parser.add_argument("run", type=Path, help="a run folder; with --data, a bundle (its model/)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to; RUN/export by default")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where the run's photos are now, or other photos to check with",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="also model.int8.onnx, a quarter of the size; says what accuracy it costs",
    )
    cli.add_net(parser)
    arguments = parser.parse_args()
    files.check_inputs(("RUN", arguments.run), ("--data", arguments.data))
    files.check_outputs(("--out", arguments.out, files.FOLDER))

    read.bundle(arguments.run)
    cli.say_loading()
    from thaw.export.write import export  # torch is imported from here on, not for --help

    export(**vars(arguments))
