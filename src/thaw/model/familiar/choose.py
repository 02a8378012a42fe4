"""Which unlabelled photos would teach a model most: those it doubts, each unlike the others."""

import torch
from torch import Tensor
from torch.nn import functional as F


def choose(
    features: Tensor, probabilities: Tensor, count: int, labelled: Tensor | None = None
) -> list[int]:
    """Choose photos one after another, each the most doubtful of those that aren't chosen yet.

    What a photo counts is its doubt times its distance to the nearest photo that is labelled or
    chosen: k-centre greedy (Sener & Savarese 2018), weighted with the margin between the two most
    probable classes (Settles 2009). An unfamiliar photo is far from all that is labelled, so it
    counts more; the second of two alike counts next to nothing.

    Args:
        features: of the photos, `[N, D]`; each feature divided by its spread.
        probabilities: `[N, classes]`.
        labelled: features `[M, D]` of the photos that are labelled already.

    Returns:
        Indices of at most `count` photos, the first choice first.
    """
    x = F.normalize(features, dim=1)
    top = probabilities.topk(2, dim=1).values
    doubt = 1 - (top[:, 0] - top[:, 1])
    away = torch.full((len(x),), 2.0)  # as far as a cosine distance can be
    if labelled is not None and len(labelled):
        away = 1 - (x @ F.normalize(labelled, dim=1).T).amax(dim=1)
    free = torch.ones(len(x), dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(min(count, len(x))):
        worth = (doubt.clamp(min=1e-6) * away.clamp(min=1e-6)).where(free, torch.tensor(-1.0))
        best = int(worth.argmax())
        chosen.append(best)
        free[best] = False
        away = torch.minimum(away, 1 - x @ x[best])
    return chosen
