"""Labels that look wrong: what a probe that hasn't seen a photo says of it, against its label.

Confident learning (Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in
Dataset Labels"): a photo counts against its label where the probability of another class is at
least what it is on average for the photos labelled so.
"""

import torch
from torch import Tensor

from thaw.checks.findings import Context, Finding, Result, several
from thaw.evaluation import calibrate

FIRST = 30  # suggestions at least, where the probe disagrees: looking at them takes a minute
DRAWS = 20  # of labels, to see how many look wrong by chance


def find(context: Context) -> list[Result]:
    """Rank the photos whose label the probe disagrees with."""
    if context.logits is None or context.folds is None:
        text = "labels weren't checked: every class needs 3 photos in train and val"
        return [Result("label", text)]
    present, labels = context.labels.unique(return_inverse=True)
    chances = context.logits.softmax(dim=1)
    best = chances.argmax(dim=1)
    wrong = confidently_wrong(chances, labels) & (best != labels)
    count, by_chance = int(wrong.sum()), expected(context.logits, labels, wrong)
    own = chances.gather(1, labels[:, None])[:, 0]
    order = [i for i in own.argsort().tolist() if best[i] != labels[i]]
    found = []
    for i in order[: max(FIRST, count)]:
        other = context.data.classes[int(present[best[i]])]
        place = context.judged[i]
        detail = (
            f"labelled {context.class_of(place)!r} ({own[i]:.0%}), looks like {other!r}"
            f" ({chances[i, best[i]]:.0%})"
        )
        found.append(Finding("label", context.path(place), other, 1 - float(own[i]), detail))
    if not found:
        return []
    sentence = several(count, "label looks", "labels look") + " wrong"
    if not count:
        sentence = f"no label looks wrong for sure, {several(len(found), 'photo')} might"
    elif by_chance is not None:
        sentence += f" (if all were right, about {by_chance:.0f} would look so by chance)"
    advice = (
        f"Look at the {len(found)} that are listed, the likeliest first: write label:NAME, drop"
    )
    advice += " or keep. A photo that is hard to tell looks wrong as well."
    return [Result("label", sentence, advice, found)]


def confidently_wrong(chances: Tensor, labels: Tensor) -> Tensor:
    """Which photos lie off the diagonal of the confident joint `[N]`.

    Args:
        chances: probabilities `[N, classes]` that are out of sample.
        labels: `[N]`, each class there.
    """
    usual = torch.stack(
        [chances[labels == label, label].mean() for label in range(chances.shape[1])]
    )
    enough = chances >= usual - 1e-6
    likeliest = chances.masked_fill(~enough, -1.0).argmax(dim=1)
    return enough.any(dim=1) & (likeliest != labels)


def expected(logits: Tensor, labels: Tensor, wrong: Tensor) -> float | None:
    """How many labels would look wrong if all were right, and photos as hard to tell as these.

    Labels are drawn from the probe's own probabilities, calibrated on those that don't look wrong.
    None where the photos are too few to draw from every class.
    """
    temperature = calibrate.fit(logits[~wrong], labels[~wrong])
    chances = (logits / temperature).softmax(dim=1)
    generator = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(DRAWS):
        drawn = torch.multinomial(chances, 1, generator=generator)[:, 0]
        if len(drawn.unique()) == chances.shape[1]:
            alike = confidently_wrong(chances, drawn) & (chances.argmax(dim=1) != drawn)
            counts.append(float(alike.sum()))
    return sum(counts) / len(counts) if counts else None
