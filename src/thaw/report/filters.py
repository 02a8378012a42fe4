"""The first layer's filters as pictures: what a net looks for before anything else."""

import math
from pathlib import Path

from matplotlib.figure import Figure
from torch import nn

from thaw.errors import UserError
from thaw.files import beside
from thaw.nets.backbone import Backbone
from thaw.page.figure import spell_out

MOST = 64  # filters in the figure


def draw(path: Path, backbone: Backbone) -> None:
    """Draw the filters of the first Conv2d in colour, each stretched to the range of its weights.

    Raises:
        UserError: the first layer doesn't see colours.
    """
    name, layer = next(
        ((n, m) for n, m in backbone.net.named_modules() if isinstance(m, nn.Conv2d)), ("", None)
    )
    if layer is None or layer.in_channels != 3:
        raise UserError(
            f"Expected a net whose first layer is a Conv2d on 3 colours, but"
            f" {backbone.origin['name']} has none, so there are no filters to draw."
        )
    filters = layer.weight.detach()[:MOST]  # [filters, 3, h, w]
    low, high = filters.amin(dim=(1, 2, 3), keepdim=True), filters.amax(dim=(1, 2, 3), keepdim=True)
    pictures = ((filters - low) / (high - low).clamp(min=1e-12)).permute(0, 2, 3, 1).numpy()
    columns = min(8, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(max(columns, 5), rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for i, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if i < len(pictures):
            axis.imshow(pictures[i], interpolation="nearest")
    height, width = layer.kernel_size
    count = len(layer.weight)
    shown = f"{count} filters" if count <= MOST else f"The first {MOST} of {count} filters"
    state = "" if backbone.pretrained else ", before any training"
    figure.suptitle(f"{shown} of {name}, {height}×{width} pixels{state}", fontsize=11)
    spell_out(figure)
    with beside(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:])
