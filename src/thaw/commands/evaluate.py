"""Say how good a trained model is: thaw evaluate RUN [--data DIR]"""

import argparse
from pathlib import Path

from thaw import files
from thaw.errors import UserError
from thaw.launch import cli
from thaw.runs import read
from thaw.screen import say


def main() -> None:
    """Read the arguments, evaluate, print."""
    parser = argparse.ArgumentParser(
        description="Evaluate a model on its run's test photos, or on any labelled folder: numbers"
        " with intervals, and figures. A target also sets, on val, when the model says 'unsure'."
    )
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="other photos, in one folder a class"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where evaluation.json and figures/ go: RUN"
    )
    parser.add_argument(
        "--unfamiliar",
        type=Path,
        metavar="DIR",
        help="photos of none of the classes: how many of them are noticed",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--threshold",
        type=_share,
        metavar="T",
        help="confidence (0 to 1) below which a photo is unsure; the bundle's own by default",
    )
    choice.add_argument(
        "--target-error",
        type=_share_between,
        metavar="E",
        help="choose the threshold so that at most this share of the answers is wrong, store it",
    )
    choice.add_argument(
        "--target-coverage",
        type=_share_between,
        metavar="C",
        help="choose the threshold so that at least this share of photos is answered, store it",
    )
    parser.add_argument(
        "--certainty",
        type=_share_between,
        metavar="P",
        help="how sure the promise of a target is to hold: 0.9",
    )
    cli.add_net(parser)
    arguments = parser.parse_args()
    files.check_inputs(("RUN", arguments.run), ("--data", arguments.data))
    files.check_outputs(("--out", arguments.out, files.FOLDER))
    targets = (arguments.target_error, arguments.target_coverage)
    if arguments.data is not None and targets != (None, None):
        parser.error(
            "a target chooses the threshold on the run's val photos, so --data can't go with it"
        )

    if arguments.certainty is not None and targets == (None, None):
        parser.error("--certainty is that of a target: --target-error or --target-coverage")

    if not read.folds(arguments.run):
        read.bundle(arguments.run)
    cli.say_loading()
    from thaw.evaluation.evaluate import evaluate  # torch is imported from here on, not for --help

    evaluate(**{key: value for key, value in vars(arguments).items() if value is not None})
    if arguments.data is None and arguments.out is None:
        from thaw.report.page import write

        try:
            say(f"{'report':<14} {write.write(arguments.run)}")
        except UserError as error:  # what else the page shows is of an earlier Thaw, or damaged
            say(f"There is no report: {error}")


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text}")
    return share


def _share_between(text: str) -> float:
    share = float(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text}")
    return share
