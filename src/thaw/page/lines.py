"""Curves by epoch, with the edges of phases; and accuracy by confidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from thaw.page.chart import BOTTOM, HEIGHT, TOP, Frame, around, drawn, plain, share, ticks, whole

COLOURS = 6  # of the style sheet; then they come again, with dashes


@dataclass(frozen=True)
class Line:
    """A curve: (epoch, value) in the order of epochs, in one of the page's colours."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int

    @property
    def style(self) -> str:
        """Its classes in the style sheet."""
        return f"c{self.colour % COLOURS}" + (" dashed" if self.colour >= COLOURS else "")


def legend(lines: Sequence[Line]) -> Markup:
    """The names of curves beside their colours."""
    row = Markup(
        '<li><svg class="swatch" viewBox="0 0 24 8" aria-hidden="true"><line class="line {}"'
        ' x1="1" y1="4" x2="23" y2="4"/></svg><bdi>{}</bdi></li>'
    )
    return Markup('<ul class="legend">{}</ul>').format(
        Markup("").join(row.format(line.style, line.name) for line in lines)
    )


def curves(
    title: str,
    lines: Sequence[Line],
    edges: Sequence[tuple[float, str]] = (),
    shares: bool = False,
    best: int | None = None,
) -> Markup:
    """Curves by epoch.

    Args:
        edges: after which epoch each phase ends, and its name.
        shares: values are, from 0 to 1.
        best: the epoch whose weights are kept, which is marked.
    """
    finite = [(x, y) for line in lines for x, y in line.points if math.isfinite(y)]
    if not finite:
        return Markup('<p class="grey">{}</p>').format(f"{title}: no epoch came to a number.")
    last = max([x for x, _ in finite] + [x for x, _ in edges])
    floor = 0.0 if min(y for _, y in finite) >= 0 else None
    frame = Frame((0.5, last + 0.5), around([y for _, y in finite], floor, 1.0 if shares else None))
    low, high = frame.y
    parts: list[Markup] = []
    begin = 0.5
    for number, (end, phase) in enumerate(edges):
        left, right = frame.px(begin), frame.px(end + 0.5)
        if number % 2:
            band = '<rect class="band" x="{}" y="{}" width="{}" height="{}"/>'
            parts.append(
                Markup(band).format(left, TOP, round(right - left, 1), HEIGHT - TOP - BOTTOM)
            )
        if number + 1 < len(edges):
            edge = '<line class="edge" x1="{0}" y1="{1}" x2="{0}" y2="{2}"/>'
            parts.append(Markup(edge).format(right, TOP, HEIGHT - BOTTOM))
        if len(edges) > 1 and (right - left) > 7 * min(len(phase), 12):
            short = phase if len(phase) <= 12 else f"{phase[:11]}…"
            text = '<text class="small" x="{}" y="{}" text-anchor="middle">{}</text>'
            parts.append(Markup(text).format(round((left + right) / 2, 1), TOP - 6, short))
        begin = end + 0.5
    formats = (plain, share if shares else plain)
    parts.append(frame.axes(("epoch", title), formats, (whole(1, last), ticks(low, high))))
    # Where curves are the same for a while the shorter one shows, and of equals the first.
    for line in sorted(reversed(lines), key=lambda line: -len(line.points)):
        points = [(frame.px(x), frame.py(y)) for x, y in line.points if math.isfinite(y)]
        path = " ".join(f"{x},{y}" for x, y in points)
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(line.style, path))
        for (x, y), (px, py) in zip(
            [point for point in line.points if math.isfinite(point[1])], points, strict=True
        ):
            what = f"{line.name}, epoch {x:g}: {share(y) if shares else plain(y)}"
            ring = "ring" if x == best else "dot"
            if ring == "dot" and len(points) > 60:
                continue
            dot = '<circle class="{} {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>'
            size = 5 if ring == "ring" else 2.2
            parts.append(Markup(dot).format(ring, line.style, px, py, size, what))
    ends = "; ".join(
        f"{line.name} ends at {share(line.points[-1][1]) if shares else plain(line.points[-1][1])}"
        for line in lines[:12]
        if line.points
    )
    return drawn(parts, f"{title} by epoch: {ends}")


def reliability(rows: Sequence[dict[str, Any]]) -> Markup:
    """Accuracy of the photos in each bin of confidence, with its 95% interval.

    Args:
        rows: as `evaluation.json` has them under `reliability`.
    """
    frame = Frame((min(row["from"] for row in rows), 1.0), (0.0, 1.0))
    low = frame.x[0]
    at = ticks(low, 1.0), ticks(0.0, 1.0)
    parts = [frame.axes(("confidence", "accuracy (bars: 95% intervals)"), (share, share), at)]
    corner = (frame.px(low), frame.py(low), frame.px(1), frame.py(1))
    parts.append(Markup('<line class="edge" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(*corner))
    for row in rows:
        x = frame.px(min(1.0, max(low, row["confidence"])))
        bar = '<line class="line c0" x1="{0}" y1="{1}" x2="{0}" y2="{2}"/>'
        parts.append(Markup(bar).format(x, frame.py(row["acc_low"]), frame.py(row["acc_high"])))
        sure = f"{share(row['confidence'])} sure on average"
        what = f"{row['photos']} photos, {sure}: {share(row['acc'])} right"
        dot = '<circle class="dot c0" cx="{}" cy="{}" r="{}"><title>{}</title></circle>'
        parts.append(Markup(dot).format(x, frame.py(row["acc"]), 5, what))
    return drawn(parts, f"Accuracy by confidence, in {len(rows)} groups of photos")
