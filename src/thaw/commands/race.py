"""Ways against the one that leads: trained on some photos, asked about others, part by part."""

import logging
import shutil
from collections.abc import Sequence

import torch
from torch import Tensor

from thaw.best.budget import told
from thaw.best.rule import asked
from thaw.best.ways import AT_LEAST, THAWS, Cost, Way, thawed_epochs
from thaw.commands import tries
from thaw.commands.search import Search, end_of
from thaw.comparison.verdict import ALPHA
from thaw.data.splits import Sample
from thaw.launch import cli

log = logging.getLogger(__name__)


def thaw(found: Search, leader: Way, heads: Sequence[Way]) -> Way:
    """Try to beat the leading head by thawing, the chosen net first and then its equals."""
    level = [way for way in heads if way is not leader if found.compared(way, leader).p >= ALPHA]
    for head in [leader, *level]:
        for recipe in THAWS:
            leader = _try(found, Way(head.net, recipe), leader)
    return leader


def _try(found: Search, way: Way, leader: Way) -> Way:
    """Ask a way about one part of the photos after another, as long as it is open; who leads."""
    budget, diary = found.budget, found.diary
    logits = diary.said(way.name, len(found.samples), len(found.data.classes))
    found.said[way.name] = logits
    cost: Cost | None = None
    try:
        for part in range(int(found.fold.max()) + 1):
            inside = found.fold == part
            fight = found.compared(way, leader)
            if asked(logits)[inside].all() or not asked(found.said[leader.name])[inside].all():
                continue  # what the one that leads wasn't asked compares nothing
            if (fight.clear and fight.behind) or (part > 1 and (fight.clear or fight.behind)):
                break
            further = max(0.0, end_of(found, way) - budget.kept)  # if it should win
            if cost is None:
                least = at_least(found, way)
                if not budget.fits(least + further):
                    said = f"would take {told(least)} or more, and {told(further)} at the end"
                    diary.add(f"try {way.name}", said, "no time")
                    break
                cost = tries.measure(way, found.shared, diary.folder / "tries/now", found.data)
                found.paces[way.name] = cost.look
                further = max(0.0, end_of(found, way) - budget.kept)
            seconds = cost.of(len(inside) - int(inside.sum()), int(inside.sum()))
            if not budget.fits(seconds + further):
                said = f"would take {told(seconds)}"
                diary.add(f"try {way.name}, part {part + 1}", said, "no time")
                break
            logits[inside] = _asked(found, way, part)
            diary.remember(way.name, logits)
            fight = found.compared(way, leader)
            diary.add(f"try {way.name}, part {part + 1}", f"against {leader.name}: {fight}")
    except tries.TooSlow:
        diary.add(f"try {way.name}", "took longer than was thought", "what was begun is left out")
    except Exception as error:  # a way that fails stops no other
        log.debug("%s", way.name, exc_info=error)
        sentence = cli.user_sentence(error) or f"{type(error).__name__}: {error}"
        diary.add(f"try {way.name}", f"failed: {sentence}", "it is left out")
        logits.fill_(torch.nan)
    return _decide(found, way, leader)


def at_least(found: Search, way: Way) -> float:
    """Seconds that a way will take on the train photos, going by the net's pace alone."""
    pace = found.paces[way.net.name]
    return AT_LEAST * pace * len(found.data.splits["train"]) * thawed_epochs(way)


def _asked(found: Search, way: Way, part: int) -> Tensor:
    """Train a way on all but a part; what it says of that. For val it is an ordinary run."""
    left, diary = (lambda: found.budget.left), found.diary
    if part == 0:
        found.fitted = tries.fit(way, found.shared, diary.place(way.name), left)
        return tries.said_of_val(found.fitted)["logits"]
    split: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
    for sample, fold in zip(found.samples, found.fold.tolist(), strict=True):
        split["val" if fold == part else "train"].append(sample)
    photos = found.data.shared_out(split, {})
    return tries.fold(way, found.shared, diary.folder / "tries/now", photos, left)


def _decide(found: Search, way: Way, leader: Way) -> Way:
    """Who leads now; the other's run is removed."""
    fight = found.compared(way, leader)
    wins = fight.ahead
    if fight.photos:
        found.diary.add(
            f"{way.name} or {leader.name}",
            str(fight),
            f"{way.name} leads: better by more than a standard error"
            if wins
            else f"{leader.name} stays: it isn't beaten by more than a standard error",
        )
    loser = leader if wins else way
    if wins:
        place = found.diary.place(way.name)
        training = found.fitted or tries.fit(way, found.shared, place, lambda: 1.0)
        tries.keep_model(training, found.diary.folder / "model")
        found.budget.kept = end_of(found, way)
    found.fitted = None
    shutil.rmtree(found.diary.place(loser.name), ignore_errors=True)
    return way if wins else leader
