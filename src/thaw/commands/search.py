"""A search for the best way to train: its state, the nets that it looks at, and the first model."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from thaw.best.budget import Budget, told
from thaw.best.diary import Diary, say
from thaw.best.look import Look, features, look
from thaw.best.rule import Duel, asked, duel, simplest
from thaw.best.ways import AT_LEAST, HEAD, Way
from thaw.commands import tries
from thaw.commands.one_run import Training
from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.data.splits import Sample, together
from thaw.errors import UserError
from thaw.evaluation.scores import scores
from thaw.launch import cli
from thaw.shortlist.words import Net
from thaw.training.probe.folds import fold_of_each, out_of_fold
from thaw.training.probe.inputs import USED

log = logging.getLogger(__name__)
NETS = 0.4  # share of what is left that features of further nets may take
MEASURE = 0.15  # share of all that is spent when no further net is measured
FOLDS = 5  # parts of the photos, val among them; each way is asked about one after another


@dataclass
class Search:
    """What a search works with, and how far it is.

    `samples` are the train photos and then the val photos, `labels` `[N]` theirs, `fold` `[N]`
    which part each is in: val is 0, so that what is trained for it is an ordinary run.
    """

    shared: list[str]
    diary: Diary
    budget: Budget
    data: PhotoFolder
    samples: list[Sample]
    labels: Tensor
    fold: Tensor
    paces: dict[str, float] = field(default_factory=dict)  # seconds a photo, by net or by way
    overhead: float = (
        0.0  # seconds that it took to begin; building, figures and report take as long
    )
    said: dict[str, Tensor] = field(default_factory=dict)  # by a way's name
    fitted: Training | None = None  # the run that was fitted last, until it is decided on

    @cached_property
    def keys(self) -> list[int]:
        """What each photo belongs to."""
        return together([sample.group for sample in self.samples])

    def compared(self, one: Way, other: Way) -> Duel:
        """One against the other, by the photos that both were asked about."""
        return duel(self.said[one.name], self.said[other.name], self.labels, self.keys)


def parts_of(data: PhotoFolder, seed: int) -> tuple[list[Sample], Tensor, Tensor]:
    """Samples, labels and parts, as `Search` has them.

    Raises:
        UserError: a class has a single train photo.
    """
    train, val = (data.splits[split] for split in USED)
    counts = torch.tensor([sample.label for sample in train]).bincount()
    wanted = min(FOLDS - 1, max(2, round(len(train) / len(val))), int(counts.min()))
    if wanted < 2:
        raise UserError(
            "Expected two train photos of each class at least, but"
            f" {data.classes[int(counts.argmin())]!r} has {int(counts.min())}."
        )
    alike = data.known.alike([data.root / sample.path for sample in train])
    folds = 1 + fold_of_each(train, data.classes, wanted, seed, alike)
    samples = [*train, *val]
    labels = torch.tensor([sample.label for sample in samples])
    return samples, labels, torch.cat([folds, torch.zeros(len(val), dtype=folds.dtype)])


def look_at(
    found: Search, nets: Sequence[Net], cache: FeatureCache, trainer: Trainer
) -> list[Look]:
    """Build each net, measure it on a few photos, and tell what is planned; the smallest first."""
    looks, problems = [], []
    for net in nets:
        if looks and found.budget.spent > MEASURE * found.budget.seconds:
            found.diary.add(f"measure {net.name}", "not done: the time is too short")
            continue
        try:
            looks.append(look(net, cache, found.data, trainer))
        except Exception as error:
            log.debug("%s", net.name, exc_info=error)
            problems.append(cli.user_sentence(error) or f"{type(error).__name__}: {error}")
            found.diary.add(f"measure {net.name}", f"failed: {problems[-1]}", "it is left out")
    if not looks:
        raise UserError("None of the nets can be used: " + " ".join(problems))
    looks.sort(key=lambda seen: seen.parameters)
    found.paces |= {seen.net.name: seen.pace for seen in looks}
    budget, size = found.budget, len(found.samples)
    say(f"plan    {told(budget.seconds)}, of which {told(budget.spent)} are gone")
    for seen in looks:
        say(f"  {told(seen.cost):>6}  {seen.net.name}: features of {len(seen.missing)} photos")
    first = looks[0]
    epoch = told(AT_LEAST * first.pace * size)
    say(f"  {epoch:>6}  at least, an epoch of {first.net.name} thawed; measured before it is begun")
    say(f"  {told(end_of(found, Way(first.net, HEAD))):>6}  for the end: test, figures, report")
    return looks


def end_of(found: Search, way: Way) -> float:
    """Seconds from the last decision on: what isn't in the cache is seen once more, and test."""
    photos = len(found.data.splits["test"]) + (len(found.samples) if way.recipe != HEAD else 0)
    pace = max(found.paces[way.net.name], found.paces.get(way.name, 0.0))
    return found.overhead + pace * photos


def probe(found: Search, looks: Sequence[Look]) -> list[Way]:
    """Judge each net's features by a probe; the ways that came of it, the smallest net first."""
    heads: list[Way] = []
    budget, diary = found.budget, found.diary
    share = NETS * budget.left
    for seen in looks:
        way, what = Way(seen.net, HEAD), f"features of {seen.net.name}"
        logits = diary.said(way.name, len(found.samples), len(found.data.classes))
        if not asked(logits).all():
            if heads and not (seen.cost <= share and budget.fits(seen.cost)):
                diary.add(what, f"would take {told(seen.cost)}", "left out: too slow for the time")
                continue
            before = budget.spent
            left = min(share, budget.left) if heads else math.inf  # one there must be
            got = features(seen, lambda end=before + left: end - budget.spent)
            share -= budget.spent - before
            if got is None:
                diary.add(what, "take longer than was thought", "left out")
                continue
            logits = out_of_fold(got, found.labels, found.fold).float()
            diary.remember(way.name, logits)
            values = scores(logits, found.labels)
            diary.add(
                what,
                f"a probe gets {values['acc']:.1%} of {len(logits)} photos right that"
                f" it hasn't seen, loss {values['loss']:.3f}",
            )
        found.said[way.name] = logits
        heads.append(way)
    return heads


def first_model(found: Search, heads: list[Way]) -> Way:
    """Choose a net for its features, and make the first model."""
    chosen = heads[simplest([found.said[way.name] for way in heads], found.labels, found.keys)]
    others = [f"{way.net.name} {found.compared(way, chosen)}" for way in heads if way is not chosen]
    if others:
        found.diary.add(
            "choose a net",
            f"against {chosen.net.name}: {'; '.join(others)}",
            f"{chosen.net.name}: the smallest that no other beats by more than a standard error",
        )
    found.budget.kept = end_of(found, chosen)
    place = found.diary.place(chosen.name)
    training = tries.fit(chosen, found.shared, place, lambda: 1.0)
    if not (found.diary.folder / "model").exists():
        tries.keep_model(training, found.diary.folder / "model")
    found.diary.add(f"train {chosen.name}", "done", f"it leads; {found.diary.folder}/model")
    return chosen
