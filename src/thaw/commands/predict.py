"""Say what photos show: thaw predict RUN PHOTO_OR_FOLDER…"""

import argparse
from pathlib import Path

from thaw import files
from thaw.launch import cli


def main() -> None:
    """Read the arguments, predict, print."""
    parser = argparse.ArgumentParser(description="Label photos with a trained model.")
    parser.add_argument("run", type=Path, help="a run folder, its model/, or an ONNX file")
    parser.add_argument("photos", nargs="*", type=Path, help="photos, or folders of photos")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="confidence (0 to 1) below which the label is 'unsure'; the bundle's own by default",
    )
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="print the K most probable labels of each photo"
    )
    parser.add_argument(
        "--coverage",
        type=float,
        metavar="C",
        help="give each photo a set of labels, which holds the right one with this probability"
        " (such as 0.95)",
    )
    for kind in ("csv", "json"):
        parser.add_argument(
            f"--{kind}",
            nargs="?",
            const="-",
            metavar="FILE",
            help=f"as {kind.upper()}, to FILE or the screen",
        )
    parser.add_argument(
        "--similar", type=int, default=0, metavar="K", help="tell the K train photos most like each"
    )
    parser.add_argument(
        "--unfamiliar-level",
        type=float,
        metavar="L",
        help="call at most this share of photos like val's 'unfamiliar': 0.05; 0: none",
    )
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the photos with labels")
    parser.add_argument(
        "--explain", type=Path, metavar="PNG", help="draw where in each photo its label comes from"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="for thousands of photos: a row each to a .csv or .parquet file, with a progress bar;"
        " photos that can't be decoded are listed in FILE.broken.csv",
    )
    parser.add_argument(
        "--engine",
        choices=("ray",),
        help="label on the cluster of RAY_ADDRESS, or on one that is started here; --output is then"
        " a folder, which gets predictions.csv. All machines must see RUN and the photos",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="of --engine: one for each GPU, or else CPU"
    )
    cli.add_net(parser)
    arguments = parser.parse_args()
    for kind in ("csv", "json"):
        value = getattr(arguments, kind)
        if value not in (None, "-") and not value.endswith(f".{kind}"):  # `--json photo.jpg`
            arguments.photos.append(Path(value))
            setattr(arguments, kind, "-")
    if not arguments.photos:
        parser.error("expected a photo or a folder of photos")
    alone = ("csv", "json", "figure", "explain", "top_k", "similar")
    others = [getattr(arguments, name) for name in alone]
    if arguments.output is not None and any(others):
        parser.error(
            "--output stands alone, or with --threshold, --unfamiliar-level and --coverage"
        )
    told = vars(arguments)
    engine, workers, output = told.pop("engine"), told.pop("workers"), told["output"]
    if engine and output is None:
        parser.error(f"--engine {engine} needs --output FOLDER")
    if workers is not None and (workers < 1 or not engine):
        parser.error("expected --workers to be a whole number from 1, beside --engine")
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        parser.error(f"expected --threshold to be from 0 to 1, got {arguments.threshold}")
    if arguments.top_k is not None and arguments.top_k < 1:
        parser.error(f"expected --top-k to be a whole number from 1, got {arguments.top_k}")
    if arguments.similar < 0:
        parser.error(f"expected --similar to be a whole number from 0, got {arguments.similar}")
    level = arguments.unfamiliar_level
    if level is not None and not 0 <= level < 1:
        parser.error(f"expected --unfamiliar-level to be from 0 to below 1, got {level}")
    if arguments.coverage is not None and not 0 < arguments.coverage < 1:
        parser.error(f"expected --coverage to be between 0 and 1, got {arguments.coverage}")
    files.check_inputs(("RUN", arguments.run), *(("PHOTO", path) for path in arguments.photos))
    files.check_outputs(
        ("--csv", arguments.csv, (".csv",)),
        ("--json", arguments.json, (".json",)),
        ("--figure", arguments.figure, (".png",)),
        ("--explain", arguments.explain, (".png",)),
        ("--output", arguments.output, files.FOLDER if engine else (".csv", ".parquet")),
    )
    if engine:
        from thaw.commands import ray_engine

        how = (arguments.threshold, arguments.coverage, arguments.unfamiliar_level, workers)
        return ray_engine.predict(arguments.run, arguments.photos, output, *how)

    from thaw.model.predict import predict  # torch is imported from here on, not for --help

    predict(**told)
