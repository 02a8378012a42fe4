"""Figures as files, in which every name is shown as it is written."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw import files
from thaw.escape import drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

DPI = 120


def write_figure(path: Path, figure: "Figure | Image") -> None:
    """Write a figure of matplotlib's or a picture of Pillow's as PNG, whole or not at all."""
    from PIL.Image import Image

    # The best compression would take as long as the drawing, for a tenth of the size.
    fast: dict[str, Any] = {"compress_level": 1}
    with files.beside(path) as partial:
        if isinstance(figure, Image):
            figure.save(partial, format="PNG", **fast)
            return
        spell_out(figure)
        figure.set_dpi(DPI)
        if engine := figure.get_layout_engine():
            # `savefig` would draw all of the figure once more, to find out where things are.
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(partial, dpi=DPI, format="png", pil_kwargs=fast)


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
