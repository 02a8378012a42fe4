"""A probe judged by photos that it hasn't seen: the penalty for a head, and predictions of all.

As Kornblith et al. 2019 ("Do better ImageNet models transfer better?") compare nets before they
fine-tune them: logistic regression with L2, whose strength is chosen by cross-validation.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from thaw.data.splits import Sample, together
from thaw.data.splits import folds as deal
from thaw.errors import UserError
from thaw.training.probe.logistic import PENALTIES, ROUGH, WORSE, Problem, Space

FEWEST = 3  # folds: one to predict, and of what is left one to choose the penalty on
MOST_TO_CHOOSE = 1000  # photos that choose the penalty: more of them cost much and change little


def fold_of_each(
    samples: Sequence[Sample],
    classes: Sequence[str],
    folds: int,
    seed: int,
    alike: Sequence[Hashable],
) -> Tensor:
    """The fold of each photo `[N]`: stratified; groups and identical photos are in the same one.

    Args:
        alike: of each photo what its content is known by.

    Raises:
        UserError: a class has fewer photos than there are folds.
    """
    counts = Counter(sample.label for sample in samples)
    label = min(counts, key=counts.__getitem__)
    if counts[label] < folds:
        valid = f"set folds={counts[label]}" if counts[label] >= FEWEST else "add photos"
        raise UserError(
            f"Expected every class to have a photo for each of folds={folds}, but"
            f" {classes[label]!r} has {counts[label]} in train and val; {valid}."
        )
    keys = together(alike, [sample.group for sample in samples])
    return torch.tensor(deal(samples, keys, folds, seed))


def out_of_fold(features: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    """Logits `[N, classes]` of each photo, by the probe that was fitted to the other folds.

    The photos that a probe is fitted to also choose the penalty, by the loss on each of their folds
    in turn: nothing of a photo is in what predicts it. Each call gives the same.

    Args:
        features: `[N, D]`, finite.
        labels: `[N]`, from 0 on, each of them there.
        folds: `[N]`, of `fold_of_each`.
    """
    space = Space.of(features.float())
    x, count, classes = space(features.float()), int(folds.max()) + 1, int(labels.max()) + 1
    few = torch.arange(0, len(labels), -(-len(labels) // MOST_TO_CHOOSE))  # of each class its share
    some = Problem(x[few], space.spread * len(few) / len(x), labels[few], classes, x[:0])
    inside = (folds[:, None] != torch.arange(count)).float()
    penalties = _penalties(some, folds[few], count) * _lengths(x, inside)
    *_, found = Problem(x, space.spread, labels, classes, inside).path([penalties])
    every = torch.stack([layer(x) for layer in found])
    return every[folds, torch.arange(len(x))]


def _penalties(problem: Problem, folds: Tensor, count: int) -> Tensor:
    """Which penalty has the lowest loss for all photos but a fold's `[folds]`.

    Told by probes that hadn't seen them either. What is fitted without two folds serves both:
    either is the other's test.
    """
    pairs = torch.tensor([*combinations(range(count), 2)])
    inside = (folds[:, None, None] != pairs).all(dim=2).float()
    lengths, losses = _lengths(problem.x, inside), torch.full((len(PENALTIES), count), torch.inf)
    path = replace(problem, weigh=inside, tolerance=ROUGH).path([p * lengths for p in PENALTIES])
    for now, found in zip(losses, path, strict=True):
        now.zero_()
        for (one, other), layer in zip(pairs.tolist(), found, strict=True):
            each = F.cross_entropy(layer(problem.x), problem.labels, reduction="none")
            now[one] += each[folds == other].sum()
            now[other] += each[folds == one].sum()
        if (now > WORSE * losses.min(dim=0).values).all():
            break
    return torch.tensor(PENALTIES)[losses.argmin(dim=0)]


def _lengths(x: Tensor, inside: Tensor) -> Tensor:
    """What rows measure, on average, squared, of the photos of each layer `[P]`: penalties are in
    these units, and nothing of the others may be in them.
    """
    means = inside.T @ x / inside.sum(dim=0)[:, None]
    return inside.T @ x.square().sum(dim=1) / inside.sum(dim=0) - means.square().sum(dim=1)
