"""Predictions for people (a line a photo, a figure) and for programs (CSV, JSON)."""

import csv
import io
import json
import math
from pathlib import Path

from thaw.bundle import Prediction, as_row, load
from thaw.errors import UserError
from thaw.photos import find_photos, load_photo

MOST_IN_FIGURE = 64


def predict(
    run: Path,
    photos: list[Path],
    threshold: float | None = None,
    csv: str | None = None,
    json: str | None = None,
    figure: Path | None = None,
) -> list[Prediction]:
    """Label photos and print a line for each; the rest goes where it is asked for.

    Args:
        csv: a file for one row a photo (path, label, confidence, a column a class), or `-` for the
            screen instead of the lines; `json` likewise.
        figure: an image of the photos with their labels.

    Raises:
        UserError: no bundle, no photos; or, after the others were labelled, photos that can't be
            decoded.
    """
    paths = find_photos(photos)
    if figure is not None and len(paths) > MOST_IN_FIGURE:
        raise UserError(f"--figure shows at most {MOST_IN_FIGURE} photos, got {len(paths)}.")
    model = load(run)
    quiet = "-" in (csv, json)
    width = min(max(len(str(path)) for path in paths), 60)
    found: list[Prediction] = []
    broken: list[UserError] = []
    for prediction in model.predict(paths, threshold, on_broken=broken.append):
        found.append(prediction)
        if not quiet:
            sure = f"{prediction.confidence:6.1%}"
            best = max(prediction.probabilities, key=prediction.probabilities.__getitem__)
            aside = "" if best == prediction.label else f"  ({best}?)"
            print(f"{prediction.path:<{width}}  {prediction.label:<12} {sure}{aside}", flush=True)
    if broken and not found:
        raise broken[0]
    if csv is not None:
        _write(csv, _csv(found))
    if json is not None:
        _write(json, _json(found))
    if figure is not None:
        draw(figure, found)
    if broken:  # what could be labelled is
        raise UserError("\n".join(map(str, broken)))
    return found


def _csv(found: list[Prediction]) -> str:
    text = io.StringIO()
    rows = [as_row(prediction) for prediction in found]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(found: list[Prediction]) -> str:
    return (
        json.dumps([vars(prediction) for prediction in found], indent=2, ensure_ascii=False) + "\n"
    )


def _write(place: str, text: str) -> None:
    if place == "-":
        print(text, end="")
    else:
        Path(place).write_text(text, encoding="utf-8")


def draw(path: Path, found: list[Prediction]) -> None:
    """Draw the photos in a grid, each with its label and confidence above it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = math.ceil(math.sqrt(len(found)))
    rows = math.ceil(len(found) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 3.4 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, prediction in zip(axes.flat, found, strict=False):
        axis.imshow(load_photo(prediction.path))
        axis.set_title(f"{prediction.label} ({prediction.confidence:.1%})")
    figure.savefig(path, dpi=120)
    plt.close(figure)
