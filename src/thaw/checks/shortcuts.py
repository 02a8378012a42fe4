"""Shortcuts: is the class told by light, size or camera, without a look at what a photo shows?

A net finds such ways. Then it is right on photos of the same folder, and wrong on the user's next
ones. Each property alone predicts the classes, by photos of other folds.
"""

import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from thaw.checks.facts import File
from thaw.checks.findings import Context, Finding, Result
from thaw.data.listing.listed import few

BLOCK = 1024  # photos that are looked at at once
SHARES = torch.tensor([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])  # quantiles of grey
RIDGE = 1e-2  # of least squares, in units of a standardised property
CAMERAS = 12  # the most frequent; the others are one
# docs/checks.md has the figures that these were chosen on.
ALL = 1 / 3  # of the way from chance to 100%: how well the classes are told apart
ONE = 0.85  # share of pairs, of a photo of a class and one of another, that are put right
SPOTS = 2 / 3  # likewise, by the brightest spots, which differ less between ordinary classes
SOME = 0.70  # likewise; it is mentioned, since ordinary photos come to as much
ADVICE = "See whether it is an accident of how the photos were made: new ones won't have it."


def find(context: Context) -> list[Result]:
    """Predict the classes from each property alone, out of fold."""
    if context.folds is None:
        return []
    files = [context.files[i] for i in context.judged]
    light = _light(context.thumbnails[context.judged])
    mean, spots = light[:, -2], light[:, -3]
    colour = context.looks[context.judged, -2:].float()
    properties: dict[str, tuple[Tensor, Callable[[Tensor], str]]] = {
        "brightness": (light, lambda c: _more(mean, c, "brighter", "darker")),
        "brightest spots": (
            spots[:, None],
            lambda c: f"{_more(spots, c, 'lighter', 'darker')} where bright",
        ),
        "colour": (colour, lambda c: _hue(colour, c)),
        "size": (_sizes(files), lambda c: _more(_sizes(files)[:, 0], c, "larger", "smaller")),
        "file size": (_bytes(files), lambda c: _more(_bytes(files)[:, 0], c, "larger", "smaller")),
        "compression": (_compression(files), lambda _: "stored in another way"),
        "camera": (_cameras(files), lambda _: "of other cameras"),
    }
    labels, data = context.labels, context.data
    present, inverse = labels.unique(return_inverse=True)
    names, chance = [data.classes[int(label)] for label in present], 1 / len(present)
    tests = len(properties) * len(present)
    found, mentioned = [], []
    for fact, (values, how) in properties.items():
        if not (values != values[0]).any():
            continue
        scores = out_of_fold(values, inverse, context.folds)
        owns = [inverse == place for place in range(len(names))]
        areas = [
            told_apart(scores[:, place], own, tests)
            for place, own in enumerate(owns[: None if len(names) > 2 else 1])
        ]
        best = max(range(len(areas)), key=lambda place: areas[place][0])
        right, low, high = accuracy(scores, inverse, len(properties))
        if right - chance >= ALL * (1 - chance) and low - chance >= ALL / 2 * (1 - chance):
            detail = (
                f"photos of {names[best]!r} are {how(owns[best])}: {fact} alone can tell the"
                f" classes apart in {right:.0%} ({low:.0%} to {high:.0%}; chance is {chance:.0%})"
            )
            found.append(Finding("shortcut", names[best], fact, areas[best][0], detail))
            continue
        least, surely = (SPOTS, 0.5) if fact == "brightest spots" else (ONE, SOME)
        for name, own, (told, low, high) in zip(names, owns, areas, strict=False):
            if told >= least and low >= surely:
                detail = (
                    f"photos of {name!r} are {how(own)}: {fact} alone can tell them from the others"
                    f" in {told:.0%} ({low:.0%} to {high:.0%}; chance is 50%)"
                )
                found.append(Finding("shortcut", name, fact, told, detail))
            elif told >= SOME and low > 0.5:
                mentioned.append((told, f"{name!r} by {fact} ({told:.0%})"))
    found.sort(key=lambda finding: -finding.score)
    results = []
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        results.append(Result("shortcut", found[0].detail + more, ADVICE, found))
    if mentioned:
        told = few(text for _, text in sorted(mentioned, reverse=True))
        text = f"some classes are told in part without a look at what photos show: {told}"
        results.append(Result("shortcut", f"{text}; so it is with ordinary photos"))
    return results


def accuracy(scores: Tensor, labels: Tensor, tests: int = 1) -> tuple[float, float, float]:
    """Mean over the classes of the share that has its highest score there, with its interval.

    A 95% interval if all of so many `tests` are to hold together.
    """
    right, counts = (scores.argmax(dim=1) == labels).double(), labels.bincount().double()
    shares = right.new_zeros(len(counts)).index_add_(0, labels, right) / counts
    spread = shares * (1 - shares) + 0.25 / counts  # none of a class isn't known to be none
    half = _normal(tests) * float((spread / counts).sum().sqrt()) / len(counts)
    mean = float(shares.mean())
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _normal(tests: int) -> float:
    """How many deviations are 95% to both sides, shared out among so many tests."""
    return float(torch.special.ndtri(torch.tensor(1 - 0.025 / tests, dtype=torch.double)))


def out_of_fold(values: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    """How much each photo is like each class `[N, classes]`, by the photos of the other folds.

    Least squares on the values `[N, D]` and their squares; each class counts as much as another.
    """
    wanted = F.one_hot(labels).double()
    weights = (wanted / wanted.sum(dim=0)).sum(dim=1, keepdim=True)
    x = values.double()
    scores = torch.zeros_like(wanted)
    for fold in folds.unique():
        out = folds == fold
        deviation, mean = torch.std_mean(x[~out], dim=0, correction=0)
        z = (x - mean) / deviation.masked_fill(deviation < 1e-9, torch.inf)
        z = torch.cat((torch.ones_like(z[:, :1]), z, z.square()), dim=1)
        known, weight = z[~out], weights[~out]
        ridge = RIDGE * weight.sum() * torch.eye(z.shape[1], dtype=torch.double)
        fitted = torch.linalg.solve(
            known.T @ (weight * known) + ridge, known.T @ (weight * wanted[~out])
        )
        scores[out] = z[out] @ fitted
    return scores


def told_apart(score: Tensor, own: Tensor, tests: int = 1) -> tuple[float, float, float]:
    """Share of pairs, of a photo of the class and one of another, that the score puts right.

    The area under the ROC curve, with its interval after Hanley & McNeil 1982; a 95% interval if
    all of so many `tests` are to hold together.
    """
    one, rest = score[own].double(), score[~own].double().sort().values
    below, up_to = (torch.searchsorted(rest, one, right=right) for right in (False, True))
    area = float((below + up_to).double().mean() / (2 * len(rest)))
    n, m = len(one), len(rest)
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (n - 1) * (first - area**2) + (m - 1) * (second - area**2)
    half = _normal(tests) * math.sqrt(max(variance, 0.25 / min(n, m)) / (n * m))
    return area, max(0.0, area - half), min(1.0, area + half)


def _light(thumbnails: Tensor) -> Tensor:
    """Quantiles and mean of grey, and how much is white `[N, shares + 2]`, of `[N, S, S]`."""
    found = []
    for block in thumbnails.split(BLOCK):
        grey = block.flatten(1).float() / 255
        white = (grey > 0.98).float().mean(dim=1, keepdim=True).sqrt()
        mean = grey.mean(dim=1, keepdim=True)
        found.append(torch.cat((grey.quantile(SHARES, dim=1).T, mean, white), dim=1))
    return torch.cat(found)


def _sizes(files: list[File | None]) -> Tensor:
    sizes = [(f.width, f.height) if f else (1, 1) for f in files]
    return torch.tensor([[math.log(w * h), math.log(w / h)] for w, h in sizes])


def _bytes(files: list[File | None]) -> Tensor:
    sizes = [(f.bytes, f.width * f.height) if f else (1, 1) for f in files]
    return torch.tensor([[math.log(b), math.log(b / pixels)] for b, pixels in sizes])


def _compression(files: list[File | None]) -> Tensor:
    formats = sorted({f.format for f in files if f})
    rows = []
    for file in files:
        steps = math.log(file.quality) if file and file.quality else 0.0
        rows.append([steps, *(float(bool(file) and file.format == name) for name in formats)])
    return torch.tensor(rows)


def _cameras(files: list[File | None]) -> Tensor:
    names = [file.camera if file else None for file in files]
    usual = [name for name, _ in Counter(names).most_common(CAMERAS)]
    return torch.tensor([[float(name == one) for one in usual] for name in names])


def _more(values: Tensor, own: Tensor, high: str, low: str) -> str:
    difference = float(values[own].mean() - values[~own].mean())
    return high if difference > 0 else low


def _hue(colour: Tensor, own: Tensor) -> str:
    """In words, by mean Cb and Cr."""
    blue, red = (colour[own].mean(dim=0) - colour[~own].mean(dim=0)).tolist()
    if abs(blue) > abs(red):
        return "bluer" if blue > 0 else "yellower"
    return "redder" if red > 0 else "greener"
