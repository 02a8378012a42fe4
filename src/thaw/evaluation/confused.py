"""Figures of what is taken for what: a matrix, and for many classes the pairs that stand out."""

from typing import TYPE_CHECKING, Any

import numpy as np

from thaw.intervals import wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED = "#1f5a8a", "#c8553d"
FEW = 25  # classes whose matrix can be read at a glance
LISTED = 20  # pairs and classes that stand out
LONGEST_NAME = 24


def matrix(facts: dict[str, Any], figure: "Figure") -> None:
    """Counts and shares of each class, right ones blue and wrong ones red."""
    counts, classes = np.array(facts["confusion"]), facts["classes"]
    for axes, title, percent in zip(
        figure.subplots(1, 2), ("photos", "% of the class"), (False, True), strict=True
    ):
        axes.set_title(title, fontsize=10)
        draw(axes, counts, [short(name) for name in classes], percent)


def size(facts: dict[str, Any], beside: int = 2) -> tuple[float, float]:
    """Inches of a figure with so many matrices side by side."""
    classes = list(facts["classes"])
    many, font = len(classes), _font(len(classes))
    room = min(max(map(len, classes)), LONGEST_NAME) * font / 110
    square = _cell(many) * many + 0.6
    height = square + (0 if _flat(classes) else room)
    return max(beside * (square + room), 7.5), max(height, 3) + 0.8


def _cell(many: int) -> float:
    return max(0.16, min(0.9, 9 / many))  # inches


def _font(many: int) -> float:
    return max(5.0, min(10.0, 26 * _cell(many)))


def _flat(classes: list[str]) -> bool:
    """Whether names fit below their columns."""
    longest = min(max(map(len, classes)), LONGEST_NAME)
    return 0.65 * _font(len(classes)) * longest < 72 * _cell(len(classes))


def draw(axes: "Axes", counts: np.ndarray, names: list[str], percent: bool) -> None:
    """A matrix of `counts` `[classes, classes]`, or of shares of the rows."""
    from matplotlib import colormaps

    many = len(names)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    right = np.eye(many, dtype=bool)[..., None]
    # 1 isn't black, and a single mistake among many isn't white.
    blues, reds = (colormaps[name](np.sqrt(shares) / 1.2) for name in ("Blues", "Reds"))
    colours = np.where(right, blues, np.where(counts[..., None] > 0, reds, 1.0))  # [., ., RGBA]
    colours[totals[:, 0] == 0] = (0.92, 0.92, 0.92, 1)  # no photos
    axes.imshow(colours, interpolation="nearest")
    font = _font(many)
    axes.set_xticks(range(many), names, rotation=0 if _flat(names) else 90)
    axes.set_yticks(range(many), names)
    axes.tick_params(length=0, labelsize=font)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(many + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(many + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.6 if many <= 40 else 0.2)
    axes.tick_params(which="minor", length=0)
    # Among very many classes, numbers for all mistakes would take seconds to draw.
    for i, j in zip(*np.nonzero(shares > (0.1 if many > 40 else 0)), strict=True):
        text = f"{100 * shares[i, j]:.0f}" if percent else f"{counts[i, j]}"
        colour = "white" if shares[i, j] > 0.4 else "black"
        small = 0.75 * font if len(text) > 2 and many > 12 else font
        style = {"ha": "center", "va": "center", "fontsize": small, "in_layout": False}
        axes.text(j, i, text, color=colour, **style)


def standing_out(facts: dict[str, Any], figure: "Figure") -> None:
    """Of many classes: pairs that are confused most, and classes with the lowest recall."""
    counts, classes = np.array(facts["confusion"]), list(facts["classes"])
    left, right = figure.subplots(1, 2)
    wrong = np.where(np.eye(len(classes), dtype=bool), 0, counts)
    least = min(2, int(wrong.max()))  # what happened once says little, if anything did more often
    shown = min(LISTED, np.count_nonzero(wrong >= max(least, 1)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:shown]
    pairs = [np.unravel_index(place, wrong.shape) for place in order]
    photos = [wrong[pair] for pair in pairs]
    left.barh(range(len(pairs)), photos, color=RED, height=0.7)
    texts = [f"{short(classes[i])} → {short(classes[j])}" for i, j in pairs]
    left.set_yticks(range(len(pairs)), texts)
    for row, ((i, _), count) in enumerate(zip(pairs, photos, strict=True)):
        left.text(count, row, f" {count} of {counts[i].sum()}", va="center", fontsize=8)
    left.set_xlim(0, 1.25 * max(photos, default=1))
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_title("most often confused: true → predicted", fontsize=10, loc="left")
    left.set_xlabel("photos")
    seen = [i for i in range(len(classes)) if counts[i].sum()]
    worst = sorted(seen, key=lambda i: (counts[i, i] / counts[i].sum(), -counts[i].sum()))[:LISTED]
    for row, i in enumerate(worst):
        hits, total = int(counts[i, i]), int(counts[i].sum())
        low, high = wilson(hits, total)
        right.plot([low, high], [row, row], color=BLUE, linewidth=1.2)
        right.plot(hits / total, row, "o", color=BLUE, markersize=5)
        right.text(1.02, row, f"{hits} of {total}", va="center", fontsize=8, clip_on=False)
    right.set_yticks(range(len(worst)), [short(classes[i]) for i in worst])
    right.set_xlim(0, 1)
    right.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    right.set_title("least often right (bars: 95% interval)", fontsize=10, loc="left")
    right.set_xlabel("photos of the class that are right")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)


def short(name: str) -> str:
    """A name that leaves room for what it stands beside."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
