"""Figures of a run that need the net itself: what training made it forget, and where labels come
from.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thaw.data.photos import BrokenPhoto
from thaw.errors import UserError
from thaw.evaluation.figures import BLUE, RED, _figure, _tidy
from thaw.model import explain
from thaw.model.bundle import Model
from thaw.runs import read
from thaw.training.forgetting import Moved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPLAINED = 6  # photos whose label is explained
BINS = 30


def forgotten(moved: Moved) -> "Figure":
    """How far the features of each val photo came, and of how many ImageNet's answer changed."""
    from matplotlib.ticker import MaxNLocator

    apart, changed = moved.apart.numpy(), moved.changed
    photos = f"{len(apart):,} val photo{'' if len(apart) == 1 else 's'}"
    title = f"Training moved what the head reads of {photos} by {apart.mean():.2g} on average"
    if changed is not None:
        title += f"; for {int(changed.sum()):,} of them the pretrained head now says another class"
    drawing = _figure(8, 4, title)
    axes = drawing.subplots()
    _tidy(axes)
    bins = np.linspace(0, max(float(apart.max()), 1e-6), BINS + 1).tolist()
    kinds = [("all", np.ones(len(apart), bool), BLUE)]
    if changed is not None:
        same = ~changed.numpy()
        kinds = [("the same class of ImageNet", same, BLUE), ("another one", ~same, RED)]
    axes.hist(
        [apart[which] for _, which, _ in kinds],
        bins,
        stacked=True,
        color=[colour for _, _, colour in kinds],
        label=[f"{name} ({int(which.sum()):,})" for name, which, _ in kinds],
    )
    if len(kinds) > 1:
        axes.legend(frameon=False)
    axes.set_xlabel("1 - cosine of the features before and after: 0 nothing moved, 1 all is new")
    axes.set_ylabel("photos")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return drawing


def explained(model: Model, root: Path, run: Path) -> None:
    """Draw where labels come from: of a run's worst mistakes, then of what it is least sure of.

    Args:
        root: the folder of photos.
    """
    file = run / "figures" / "explanations.png"
    file.unlink(missing_ok=True)  # of an earlier training of this run
    found = read.read_json(run / "evaluation.json")
    rows = {row["path"]: row for key in ("worst", "least_sure") for row in found[key]}
    broken: list[BrokenPhoto] = []
    paths = [root / path for path in list(rows)[:EXPLAINED]]
    try:
        explain.draw(file, model, list(model.predict(paths, on_broken=broken.append)))
    except UserError:  # a net without places has no explanations
        return
