"""Files that are whole or absent at any moment. Nothing here imports torch."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

DPI = 120  # of figures


def write(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, values: Any) -> None:
    """As `write`, for plain values."""
    write(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """As `write`, for rows of the same columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def write_figure(path: Path, figure: "Figure | Image") -> None:
    """As `write`, for a figure of matplotlib's or a picture of Pillow's, as PNG."""
    from PIL.Image import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    # The best compression would take as long as the drawing, for a tenth of the size.
    fast: dict[str, Any] = {"compress_level": 1}
    if isinstance(figure, Image):
        figure.save(partial, format="PNG", **fast)
    else:
        figure.set_dpi(DPI)
        if engine := figure.get_layout_engine():
            # `savefig` would draw all of the figure once more, to find out where things are.
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(partial, dpi=DPI, format="png", pil_kwargs=fast)
    os.replace(partial, path)
