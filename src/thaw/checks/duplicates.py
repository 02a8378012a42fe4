"""Duplicates: the same file, copies of it, and two photos of one scene; in a split and across.

Candidates are the nearest by the net's features, and by a thumbnail of 8 × 8 (a perceptual hash
that isn't rounded to bits) in each of its 8 ways to lie. Then each pair is laid over each other.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from thaw.checks.findings import Context, Finding, Pair, Result, several
from thaw.data.photos import BrokenPhoto, load_photo
from thaw.data.pixels.align import (
    edges_alike,
    lay_over,
    sticks_out,
    tangents,
    turned,
    unframed,
    unturned,
)
from thaw.screen import Steps

BLOCK = 1024  # photos that are compared with all others at once
CHUNK = 512  # pairs that are laid over each other at once
NEAREST = 3  # candidates a photo, by features; and by thumbnails
ALIKE_FEATURES, ALIKE_THUMBNAILS = 0.3, 0.85  # of candidates, at least
MANY = 2000  # photos, from which on features are looked at in their main directions alone
DIRECTIONS = 256
SMALL = 8  # pixels of the side, at which most candidates are dropped
SPAN = 0.7  # of the one's deviation that the other explains, moved and scaled a little, or
SPAN_ALIKE = 0.5  # that much where the features are alike
CLEARLY = 0.1  # that a way to turn explains more than the next, which isn't tried then
COARSE, FINE, LARGE = 16, 32, 128  # pixels of the side
ROUGHLY = 0.7  # edges from which on a pair's other way isn't tried
# Most pairs are unlike, and are dropped soon: size, steps, how grey and edges correlate after them.
STAGES = ((COARSE, 3, 0.45, 0.4), (COARSE, 3, 0.6, 0.7), (FINE, 2, 0.6, 0.75))
# docs/checks.md has the figures that these were chosen on.
SCENE = 0.85  # edges at the fine size: one scene, if the features are alike as well
SCENE_FEATURES = 0.6
COPY, INSIDE = 0.85, 0.03
WORDS = {"same": "the same file", "copy": "a copy", "scene": "very similar: perhaps one scene"}


def find(context: Context) -> list[Result]:
    """Sort the pairs by what they do harm to."""
    found: dict[str, list[Finding]] = defaultdict(list)
    for pair in context.pairs:
        issue, finding = _finding(context, pair)
        found[issue].append(finding)
    across = "across splits, so scores are too good"
    sentences = {
        "leak": (f"pair of copies {across}", f"pairs of copies {across}"),
        "two_labels": ("photo under two labels", "photos under two labels"),
        "duplicate": ("photo that is there twice", "photos that are there twice"),
        "near_duplicate": ("near-duplicate", "near-duplicates"),
    }
    advice = {
        "leak": "Drop one of each pair: write drop into check.csv, and set data.fixes=check.csv.",
        "two_labels": "One label is wrong: write label:NAME or drop into check.csv.",
        "duplicate": "Harmless but for counting twice; write drop to keep one.",
        "near_duplicate": "Look at pairs across splits first; data.group=… keeps scenes together.",
    }
    results = []
    for issue, (one, many) in sentences.items():
        if findings := sorted(found[issue], key=lambda f: (-f.score, f.path)):
            text = several(len(findings), one, many)
            if issue == "near_duplicate":
                copies = sum(f.detail.startswith(WORDS["copy"]) for f in findings)
                kinds = {"of copies in one split": copies}
                kinds["of very similar photos"] = len(findings) - copies
                pairs = [f"{several(n, 'pair')} {kind}" for kind, n in kinds.items() if n]
                text += f": {', '.join(pairs)}"
            results.append(Result(issue, text, advice[issue], findings))
    return results


def _finding(context: Context, pair: Pair) -> tuple[str, Finding]:
    one, other = pair.one, pair.other
    splits = [context.splits[place] for place in (one, other)]
    across, words = splits[0] != splits[1], WORDS[pair.kind]
    issue = "duplicate" if pair.kind == "same" else "near_duplicate"
    detail = words
    if across:
        detail += f", in {splits[0]} and {splits[1]}"
        if pair.kind != "scene":
            issue = "leak"
    seen = "test" not in splits  # labels of test photos aren't looked at
    if seen and context.class_of(one) != context.class_of(other):
        detail += f", labelled {context.class_of(one)!r} and {context.class_of(other)!r}"
        if issue != "leak" and pair.kind != "scene":
            issue = "two_labels"
    score = min(1.0, pair.score) * (1.0 if across else 0.9)
    return issue, Finding(issue, context.path(one), context.path(other), score, detail)


def pairs(context: Context) -> list[Pair]:
    """All pairs with a train or val photo in them: of one content, copies, and of one scene."""
    first: dict[str, int] = {}
    found = []
    for place, digest in enumerate(context.digests):  # train and val come before test
        if digest not in first:
            first[digest] = place
        elif context.splits[first[digest]] != "test":
            found.append(Pair(first[digest], place, "same"))
    alone = torch.tensor(list(first.values()))
    blocks = context.thumbnails[alone].split(BLOCK)
    thumbnails = torch.cat([unframed(block).round().to(torch.uint8) for block in blocks])
    near, ways, cosines = _candidates(context.features[alone], thumbnails)
    tested = torch.tensor([context.splits[place] == "test" for place in alone.tolist()])
    wanted = ~(tested[near[:, 0]] & tested[near[:, 1]])
    near, ways, cosines = near[wanted], ways[wanted], cosines[wanted]
    fine, way = _edges(thumbnails, near, ways)
    # A pair that is in doubt is decoded again, and compared at a larger size.
    likely = (fine >= SCENE).nonzero()[:, 0]
    near, cosines, fine, way = (x[likely] for x in (near, cosines, fine, way))
    places = alone[near]
    large, out = _edges_of_photos(context, places, way)
    large = large.masked_fill(out > INSIDE, 0.0)
    for (one, other), edges, cosine, exact in zip(
        places.tolist(), fine.tolist(), cosines.tolist(), large.tolist(), strict=True
    ):
        if exact >= COPY:
            found.append(Pair(one, other, "copy", exact))
        elif cosine >= SCENE_FEATURES:
            found.append(Pair(one, other, "scene", edges * 0.8))
    return sorted(found, key=lambda pair: -pair.score)


def _candidates(features: Tensor, thumbnails: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs `[P, 2]` of the nearest, the 2 likeliest ways to turn `[P, 2]`, and cosines `[P]`.

    A way is -1 where nothing lines up in it, or far more does in the other.
    """
    features = F.normalize(_fewer(features - features.mean(dim=0)), dim=1)
    small = _pooled(thumbnails, SMALL)
    hashes = torch.stack([_hash(turned(small, way)) for way in range(8)])  # [8, N, 64]
    count, keys = len(features), []
    for start in range(0, count, BLOCK):
        rows = torch.arange(start, min(start + BLOCK, count))
        for alike, least in (
            (features[rows] @ features[start:].T, ALIKE_FEATURES),
            (_nearest_way(hashes, rows), ALIKE_THUMBNAILS),
        ):
            # Those before, and the photo itself, lie in the first columns.
            alike[:, : len(rows)].masked_fill_(torch.ones(len(rows), len(rows)).tril().bool(), -2.0)
            top = alike.topk(min(NEAREST, count - start), dim=1)
            row, column = (top.values >= least).nonzero(as_tuple=True)
            keys.append(rows[row] * count + start + top.indices[row, column])
    key = torch.cat(keys).unique()
    near = torch.stack((key // count, key % count), dim=1)
    cosines = torch.cat([(features[p[:, 0]] * features[p[:, 1]]).sum(1) for p in near.split(BLOCK)])
    ways, spans = _ways(small, near)
    least = torch.full_like(cosines, SPAN).masked_fill(cosines >= SCENE_FEATURES, SPAN_ALIKE)
    likely = (spans >= least[:, None]) & (spans >= spans[:, :1] - CLEARLY)
    keep = likely[:, 0]
    return near[keep], ways.masked_fill(~likely, -1)[keep], cosines[keep]


def _pooled(thumbnails: Tensor, size: int) -> Tensor:
    """Thumbnails at a smaller size `[N, size, size]`."""
    blocks = (F.adaptive_avg_pool2d(block.float(), size) for block in thumbnails.split(BLOCK))
    return torch.cat([*blocks])


def _fewer(features: Tensor) -> Tensor:
    """Features in the directions in which they vary most, which say who is near whom as well."""
    if len(features) <= MANY or features.shape[1] <= DIRECTIONS:
        return features
    return features @ torch.linalg.eigh(features.T @ features).eigenvectors[:, -DIRECTIONS:]


def _ways(small: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """The 2 likeliest ways to turn the second `[P, 2]`, and how much of the one the other then
    explains, moved and scaled a little `[P, 2]`.
    """
    ahead, back = (
        torch.stack([_hash(turn(small, way)) for way in range(8)], dim=1)  # [N, 8, 64]
        for turn in (turned, unturned)
    )
    basis, found = tangents(small), torch.empty(len(near), 8)
    for start in range(0, len(near), BLOCK):
        one, other = near[start : start + BLOCK].T
        spans = [(back[one] @ basis[other]).norm(dim=2), (ahead[other] @ basis[one]).norm(dim=2)]
        found[start : start + BLOCK] = torch.maximum(*spans)
    top = found.topk(2, dim=1)
    return top.indices, top.values


def _nearest_way(hashes: Tensor, rows: Tensor) -> Tensor:
    """Likeness of hashes to those from the first row on, in the best way to turn the other."""
    ours, later = hashes[0, rows], hashes[:, int(rows[0]) :]
    best = ours @ later[0].T
    for others in later[1:]:
        torch.maximum(best, ours @ others.T, out=best)
    return best


def _hash(small: Tensor) -> Tensor:
    """Grey 8 × 8 with mean 0 and length 1 `[N, 64]`."""
    flat = small.flatten(1)
    return F.normalize(flat - flat.mean(dim=1, keepdim=True), dim=1)


def _edges(thumbnails: Tensor, near: Tensor, ways: Tensor) -> tuple[Tensor, Tensor]:
    """How alike the edges of each pair are `[P]`, and the way in which they are `[P]`."""
    best, way = torch.zeros(len(near)), ways[:, 0].clone()
    halves = _pooled(thumbnails, FINE).round().to(torch.uint8)
    # Of a pair that is alike in its likeliest way, the other isn't tried.
    parts = (
        (some, turn)
        for column in range(ways.shape[1])
        for turn in range(8)
        for some in ((ways[:, column] == turn) & (best < ROUGHLY)).nonzero()[:, 0].split(CHUNK)
        if len(some)
    )
    with Steps("comparing photos", int((ways >= 0).sum()), "pairs") as shown:
        for some, turn in parts:
            shown.advance(len(some))
            one = halves[near[some, 0]].float()
            other = turned(halves[near[some, 1]], turn).float()
            theta = torch.eye(2, 3).repeat(len(some), 1, 1)
            for size, steps, least, edges in STAGES:
                theta, grey = lay_over(one, other, size, theta, steps)
                keep = (grey >= least).nonzero()[:, 0]
                alike = edges_alike(one[keep], other[keep], theta[keep], size)
                keep = keep[alike >= edges]
                one, other, some, theta = one[keep], other[keep], some[keep], theta[keep]
            one = thumbnails[near[some, 0]].float()
            other = turned(thumbnails[near[some, 1]], turn).float()
            theta, _ = lay_over(one, other, FINE, theta)
            alike = edges_alike(one, other, theta, FINE)
            better = alike > best[some]
            best[some[better]], way[some[better]] = alike[better], turn
    return best, way


def _edges_of_photos(context: Context, places: Tensor, ways: Tensor) -> tuple[Tensor, Tensor]:
    """How alike the edges of the photos themselves are, and what sticks out, `[P]` each.

    At a larger size than that of thumbnails where both photos have twice as many pixels: a copy in
    half the size has lost the finest edges.
    """
    found, out = torch.zeros(len(places)), torch.zeros(len(places))
    with ThreadPoolExecutor() as pool:
        for rows in torch.arange(len(places)).split(32) if len(places) else ():
            seen = list(pool.map(lambda i: _grey(context, i), places[rows].flatten().tolist()))
            grey = torch.stack([image for image, _ in seen]).unflatten(0, (-1, 2))
            sharp = torch.tensor([short / 2 for _, short in seen]).unflatten(0, (-1, 2)).amin(dim=1)
            one, way = grey[:, 0], ways[rows].tolist()
            other = torch.stack([turned(g, w) for g, w in zip(grey[:, 1], way, strict=True)])
            theta, _ = lay_over(one, other, COARSE)
            for size in (FINE, 2 * FINE, LARGE):
                a, b = (_pooled(images, 2 * size) for images in (one, other))
                theta, _ = lay_over(a, b, size, theta)
                found[rows], out[rows] = edges_alike(a, b, theta, size), sticks_out(theta)
                keep = (sharp >= 2 * size) & (found[rows] >= ROUGHLY)
                one, other, theta, rows, sharp = (x[keep] for x in (one, other, theta, rows, sharp))
    return found, out


def _grey(context: Context, place: int) -> tuple[Tensor, int]:
    """A photo in grey, in a square, and its shorter side in pixels; zeros if it doesn't decode."""
    file, size = context.data.root / context.path(place), (2 * LARGE, 2 * LARGE)
    try:
        photo = load_photo(file, context.data.white, least=2 * LARGE)
    except BrokenPhoto:
        return torch.zeros(size), 0
    grey = np.array(photo.convert("L").resize(size, Image.Resampling.BOX))
    return unframed(torch.from_numpy(grey)[None])[0], min(photo.size)
