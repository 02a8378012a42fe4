"""Figures of an evaluation: confusion, confidence, reliability, risk and coverage, and photos."""

import textwrap
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from thaw import files
from thaw.data import grid
from thaw.intervals import wilson
from thaw.model.unsure import risk_coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thaw.evaluation.answers import Answers

BLUE, RED, GREY = "#1f5a8a", "#c8553d", "0.55"


def draw(
    answers: "Answers",
    facts: dict[str, Any],
    folder: Path,
    more: "Mapping[str, Figure] | None" = None,
) -> list[Path]:
    """Write the figures of `evaluate.facts` into a folder, and others; return their paths."""
    from matplotlib import rc_context

    paths = []
    # Classes may be called anything: `$a$` is no formula, and what the font lacks is a box.
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        for name, figure in chain(_figures(answers, facts), (more or {}).items()):
            path = folder / f"{name}.png"
            if figure is None:
                path.unlink(missing_ok=True)  # of an earlier evaluation, which had mistakes
                continue
            files.write_figure(path, figure)
            paths.append(path)
    return paths


def _figures(
    answers: "Answers", facts: dict[str, Any]
) -> Iterator[tuple[str, "Figure | Image.Image | None"]]:
    unsure = facts["unsure"]
    yield "confusion", _confusion(facts)
    yield "confidence", _confidence(answers, unsure and unsure["threshold"])
    yield "reliability", _reliability(facts)
    yield "risk_coverage", _risk_coverage(answers, unsure)
    yield "worst_mistakes", _grid(answers, facts["worst"], "The worst mistakes: wrong, yet sure")
    yield "least_sure", _grid(answers, facts["least_sure"], "What it is least sure of")


def _figure(width: float, height: float, title: str) -> "Figure":
    from matplotlib.figure import Figure  # needs no backend: nothing is shown
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1)  # inches
    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle(textwrap.fill(title, round(10 * width)), fontsize=12)
    return figure


def _tidy(*axes: "Axes") -> None:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)


# --- confusion ------------------------------------------------------------------------------------


def _confusion(facts: dict[str, Any]) -> "Figure":
    """Counts and shares of each class, right ones blue and wrong ones red."""
    from matplotlib import colormaps

    counts, classes = np.array(facts["confusion"]), list(facts["classes"])
    many = len(classes)
    cell = max(0.16, min(0.9, 9 / many))  # inches
    longest = min(max(map(len, classes)), 24)
    font = max(5.0, min(10.0, 26 * cell))
    flat = 0.65 * font * longest < 72 * cell  # names fit below their columns
    square, room = cell * many + 0.6, longest * font / 110
    size = (max(2 * (square + room), 7.5), max(square + (0 if flat else room), 3) + 0.6)
    figure = _figure(*size, facts["struggles"])
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    right = np.eye(many, dtype=bool)[..., None]
    blues, reds = (colormaps[name](shares / 1.2) for name in ("Blues", "Reds"))  # 1 isn't black
    colours = np.where(right, blues, reds)  # [classes, classes, RGBA]
    colours[totals[:, 0] == 0] = (0.92, 0.92, 0.92, 1)  # no photos
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in classes]
    for axis, title, percent in zip(
        figure.subplots(1, 2), ("photos", "% of the class"), (False, True), strict=True
    ):
        axis.imshow(colours, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(many), names, rotation=0 if flat else 90)
        axis.set_yticks(range(many), names)
        axis.tick_params(length=0, labelsize=font)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        axis.spines[:].set_visible(False)
        if many <= 40:
            axis.set_xticks(np.arange(many + 1) - 0.5, minor=True)
            axis.set_yticks(np.arange(many + 1) - 0.5, minor=True)
            axis.grid(which="minor", color="0.9", linewidth=0.6)
            axis.tick_params(which="minor", length=0)
        # Among very many classes, numbers for all mistakes would take seconds to draw.
        for i, j in zip(*np.nonzero(shares > (0.1 if many > 40 else 0)), strict=True):
            text = f"{100 * shares[i, j]:.0f}" if percent else f"{counts[i, j]}"
            colour = "white" if shares[i, j] > 0.6 else "black"
            small = 0.75 * font if len(text) > 2 and many > 12 else font
            style = {"ha": "center", "va": "center", "fontsize": small, "in_layout": False}
            axis.text(j, i, text, color=colour, **style)
    return figure


# --- confidence -----------------------------------------------------------------------------------


def _confidence(answers: "Answers", threshold: float | None) -> "Figure":
    """The confidence of correct and of wrong labels, one above the other."""
    confidence, correct = answers.confidence.numpy(), answers.correct.numpy()
    parts = (confidence[correct], confidence[~correct])
    right, wrong = (np.median(part) if len(part) else None for part in parts)
    if right is None or wrong is None:
        title = "All labels are right" if wrong is None else "All labels are wrong"
    else:
        how = "less" if wrong < right else "not less"
        title = f"It is {how} sure where it errs: {wrong:.0%} against {right:.0%} (medians)"
    figure = _figure(7, 4.6, title)
    upper, lower = figure.subplots(2, 1, sharex=True)
    low = min(1 / len(answers.classes), float(confidence.min()))
    edges = np.linspace(low, 1, 26)
    for axis, chosen, colour, name, median in (
        (upper, correct, BLUE, "correct", right),
        (lower, ~correct, RED, "wrong", wrong),
    ):
        axis.hist(confidence[chosen], edges, color=colour, edgecolor="white", linewidth=0.5)
        axis.set_title(f"{name}: {_photos(int(chosen.sum()))}", fontsize=10, loc="left")
        axis.set_ylabel("photos")
        axis.yaxis.get_major_locator().set_params(integer=True)
        if not chosen.any():
            axis.set_ylim(0, 1)
        if median is not None:
            axis.axvline(median, color="black", linewidth=1, linestyle=":")
        if threshold:
            axis.axvline(threshold, color="0.3", linewidth=1)
            axis.axvspan(low, threshold, color="0.93", zorder=0)
    lower.xaxis.set_major_formatter(_share)
    aside = "" if not threshold else f"; grey: unsure, below {threshold:.1%}"
    lower.set_xlabel(f"confidence (dotted: median{aside})")
    lower.set_xlim(low, 1)
    _tidy(upper, lower)
    return figure


def _reliability(facts: dict[str, Any]) -> "Figure":
    """How often labels of a confidence are right, before and after the temperature."""
    found, before = facts["scores"], facts["reliability_uncalibrated"]
    calibrated = facts["temperature"] != 1
    title = f"Calibration error {found['ece']:.1%}"
    if calibrated:
        title += (
            f" with temperature {facts['temperature']:.2f}, {found['ece_uncalibrated']:.1%} without"
        )
    figure = _figure(6, 6.2, title)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=1)
    if calibrated:
        x, y = ([row[key] for row in before] for key in ("confidence", "acc"))
        axes.plot(x, y, "o", color=GREY, fillstyle="none", label="without temperature", zorder=2)
    rows = facts["reliability"]
    x, y, low, high, photos = (
        np.array([row[key] for row in rows])
        for key in ("confidence", "acc", "acc_low", "acc_high", "photos")
    )
    reach = np.clip([y - low, high - y], 0, None)
    label = "with temperature" if calibrated else "photos of one bin"
    axes.errorbar(x, y, reach, fmt="o", color=BLUE, capsize=3, label=label, zorder=3)
    axes.set_ylabel("accuracy (bars: 95% intervals)")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(_share)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    edge = [row["from"] for row in rows]
    below.bar(edge, photos, rows[0]["to"] - rows[0]["from"], align="edge", color=BLUE, ec="white")
    below.set_ylabel("photos")
    below.yaxis.get_major_locator().set_params(integer=True)
    below.set_xlabel("confidence")
    below.xaxis.set_major_formatter(_share)
    start = min([*edge, *(row["from"] for row in before)])
    below.set_xlim(start - 0.02, 1.01)
    _tidy(axes, below)
    return figure


def _risk_coverage(answers: "Answers", unsure: dict[str, Any] | None) -> "Figure":
    """The share of wrong answers, for every share of photos that is answered."""
    answered, wrong = risk_coverage(answers.confidence.tolist(), answers.correct.tolist())
    photos = len(answers.labels)
    coverage, risk = np.array(answered) / photos, np.array(wrong) / np.array(answered)
    bands = np.array([wilson(w, a) for w, a in zip(wrong, answered, strict=True)])
    title = f"Answering all, {f'{risk[-1]:.1%}' if risk[-1] else 'nothing'} is wrong"
    if unsure and unsure["answered"]:
        title += (
            f"; answering the surest {unsure['answered'] / photos:.1%}, {unsure['error']:.1%} is"
        )
    figure = _figure(7, 4.6, title)
    axes = figure.subplots()
    axes.fill_between(coverage, bands[:, 0], bands[:, 1], color=BLUE, alpha=0.12, linewidth=0)
    axes.plot(coverage, risk, color=BLUE)
    top = 1.25 * max(bands[-1, 1], risk[coverage >= 0.1].max())
    if unsure and unsure["answered"]:
        point = unsure["answered"] / photos
        axes.plot(point, unsure["error"], "o", color=RED, clip_on=False, zorder=3)
        note = f"unsure below {unsure['threshold']:.1%}"
        axes.annotate(
            note,
            (point, unsure["error"]),
            (-8, 10),
            textcoords="offset points",
            ha="right",
            color=RED,
        )
    promise = unsure and unsure.get("promise")
    if promise and promise.get("error"):
        axes.axhline(promise["error"], color=RED, linewidth=1, linestyle="--")
        top = max(top, 1.15 * promise["error"])
        note = f"promised: {100 * promise['error']:.3g}%"
        axes.text(0.01, promise["error"], note, va="bottom", color=RED)
    axes.set_xlim(0, 1.005)
    axes.set_ylim(-0.01 * top, min(1.02, top))
    axes.xaxis.set_major_formatter(_share)
    axes.yaxis.set_major_formatter(_share)
    axes.set_xlabel(f"photos answered, the surest first (of {photos}); shaded: 95% interval")
    axes.set_ylabel("wrong among the answers")
    _tidy(axes)
    return figure


def _grid(answers: "Answers", rows: list[dict[str, Any]], title: str) -> Image.Image | None:
    """Photos with their true and their predicted label; None where there are none."""
    tiles = []
    for row in rows:
        right = row["label"] == row["prediction"]
        what = ", right" if right else f", taken for {row['prediction']}"
        text = f"{row['label']}{what}\n{row['confidence']:.1%}"
        tiles.append((answers.root / row["path"], text, BLUE if right else RED))
    return grid.draw(tiles, title) if tiles else None


def _photos(count: int) -> str:
    return "1 photo" if count == 1 else f"{count} photos"


def _share(share: float, _: float) -> str:
    return f"{100 * share:.3g}%"
