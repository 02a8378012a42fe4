"""Files that are whole or absent at any moment. Nothing here imports torch."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw.escape import cell, drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

DPI = 120  # of figures


def write(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old one or the new one.

    Bytes of a file name that are no text become `\\udc…`, which in JSON stands for the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    os.replace(partial, path)


def write_json(path: Path, values: Any) -> None:
    """As `write`, for plain values."""
    write(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """As `write`, for rows of the same columns."""
    write(path, csv_text(rows))


def csv_text(rows: Sequence[Mapping[str, Any]], header: bool = True) -> str:
    """Rows of the same columns as CSV; no text in it is a formula to a spreadsheet."""
    lines = [_csv_line(rows[0])] if header else []
    return "".join([*lines, *(_csv_line(row.values()) for row in rows)])


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # with it, either sign in a cell is quoted
    writer.writerow(cell(value) if isinstance(value, str) else value for value in values)
    return text.getvalue().removesuffix("\r\n") + "\n"


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
        spell_out(figure)
        figure.set_dpi(DPI)
        if engine := figure.get_layout_engine():
            # `savefig` would draw all of the figure once more, to find out where things are.
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(partial, dpi=DPI, format="png", pil_kwargs=fast)
    os.replace(partial, path)


def spell_out(figure: "Figure") -> None:
    """Show all words as they are: a `$` begins no formula, letters that the font lacks are escapes.

    Numbers along a logarithmic axis are formulas of matplotlib's own.
    """
    from matplotlib.axis import Axis, Tick
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    def spelled(words: str) -> str:
        return drawn(words).replace("$", r"\$")

    for axis in figure.findobj(Axis):
        assert isinstance(axis, Axis)
        inner = axis.get_major_formatter()
        if isinstance(inner, FuncFormatter):  # names that were given for places, too
            axis.set_major_formatter(
                FuncFormatter(lambda x, place, inner=inner: spelled(inner(x, place)))
            )
    ticks = {id(label) for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        if id(text) not in ticks:
            text.set_text(spelled(text.get_text()))
