"""Figures of an evaluation: confusion, confidence, reliability, risk and coverage, and photos."""

import textwrap
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from thaw.data import grid
from thaw.evaluation import confused
from thaw.intervals import wilson
from thaw.model.unsure import risk_coverage
from thaw.page.figure import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thaw.evaluation.answers import Answers

BLUE, RED, GREY = "#1f5a8a", "#c8553d", "0.55"
FEWEST = 20  # answers whose share of errors is drawn


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
            write_figure(path, figure)
            paths.append(path)
    return paths


def _figures(
    answers: "Answers", facts: dict[str, Any]
) -> Iterator[tuple[str, "Figure | Image.Image | None"]]:
    unsure = facts["unsure"]
    matrix = _matrix(facts)
    many = len(facts["classes"]) > confused.FEW
    yield "confusion", _standing_out(facts) if many else matrix
    yield "confusion_matrix", matrix if many else None
    yield "confidence", _confidence(answers, unsure and unsure["threshold"])
    yield "reliability", _reliability(facts)
    yield "risk_coverage", _risk_coverage(answers, unsure)
    yield "worst_mistakes", _grid(answers, facts["worst"], _mistakes(answers, facts))
    yield "least_sure", _grid(answers, facts["least_sure"], "The photos that it is least sure of")


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


def _matrix(facts: dict[str, Any]) -> "Figure":
    figure = _figure(*confused.size(facts), _right(facts))
    confused.matrix(facts, figure)
    return figure


def _standing_out(facts: dict[str, Any]) -> "Figure":
    figure = _figure(12, 6.5, f"{_right(facts)}, {len(facts['classes'])} classes")
    confused.standing_out(facts, figure)
    return figure


def _right(facts: dict[str, Any]) -> str:
    """How many photos are right, of whatever number."""
    counts = facts["confusion"]
    hits = sum(row[i] for i, row in enumerate(counts))
    return f"{hits:,} of {_photos(facts['photos'])} right"


def _mistakes(answers: "Answers", facts: dict[str, Any]) -> str:
    wrong, shown = int((~answers.correct).sum()), len(facts["worst"])
    if wrong <= shown:
        return "Its only mistake" if wrong == 1 else f"Its {wrong} mistakes, the surest first"
    return f"{shown} of its {wrong:,} mistakes, the surest first"


# --- confidence -----------------------------------------------------------------------------------


def _confidence(answers: "Answers", threshold: float | None) -> "Figure":
    """The confidence of correct and of wrong labels, one above the other."""
    confidence, correct = answers.confidence.numpy(), answers.correct.numpy()
    parts = (confidence[correct], confidence[~correct])
    right, wrong = (np.median(part) if len(part) else None for part in parts)
    if right is None or wrong is None:
        title = "All labels are right" if wrong is None else "All labels are wrong"
        title += f", with a median confidence of {right if wrong is None else wrong:.0%}"
    else:
        title = f"Median confidence {right:.0%} where it is right, {wrong:.0%} where it is wrong"
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
    interval = f"95% interval {found['ece_low']:.1%} to {found['ece_high']:.1%}"
    title = f"Calibration error {found['ece']:.1%} ({interval})"
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
    low, high = bands[-1]
    title = f"{wrong[-1]:,} of {_photos(photos)} wrong, {risk[-1]:.1%} (95% interval"
    title += f" {low:.1%} to {high:.1%})"
    if unsure and unsure["answered"]:
        share = unsure["answered"] / photos
        title += f"; of the surest {share:.1%}, {unsure['error']:.1%} wrong"
    figure = _figure(7, 4.6, title)
    axes = figure.subplots()
    # A few answers say nothing, and what they say would press the rest flat.
    fewest = min(FEWEST, photos // 2)
    told = np.array(answered) >= fewest
    shown = coverage[told], bands[told, 0], bands[told, 1]
    axes.fill_between(*shown, color=BLUE, alpha=0.12, linewidth=0)
    axes.plot(coverage[told], risk[told], color=BLUE, marker=None if told.sum() > 1 else "o")
    top = 1.1 * bands[told, 1].max()
    if unsure and unsure["answered"]:
        point = unsure["answered"] / photos
        axes.plot(point, unsure["error"], "o", color=RED, clip_on=False, zorder=3)
        top = max(top, 1.1 * unsure["error"])
        note = f"unsure below {unsure['threshold']:.1%}"
        axes.annotate(
            note,
            (point, unsure["error"]),
            (8 if point < 0.3 else -8, 10),
            textcoords="offset points",
            ha="left" if point < 0.3 else "right",
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
    axes.set_xlabel(
        f"photos answered, the surest first (of {photos:,}, from {fewest} on); shaded: 95% interval"
    )
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
    return "1 photo" if count == 1 else f"{count:,} photos"


def _share(share: float, _: float) -> str:
    return f"{100 * share:.3g}%"
