"""Which unlabelled photos would teach a model most: those that stand for many that it doubts."""

import torch
from torch import Tensor
from torch.nn import functional as F

MOST = 5000  # photos that are compared with one another, the most doubtful ones
SHARPNESS = 4  # power of the cosine: only photos that are much alike stand for one another


def doubt(probabilities: Tensor, unfamiliar: Tensor) -> Tensor:
    """How little is known of photos, `[N]`, 0 to 1: what the margin between the two most probable
    classes lacks to 1 (Settles 2009); all of it where a photo is unlike all that was seen.

    Args:
        probabilities: `[N, classes]`.
        unfamiliar: bool `[N]`.
    """
    first, second = probabilities.topk(2, dim=1).values.T
    return (1 - first + second).where(~unfamiliar, 1.0)


def choose(features: Tensor, doubt: Tensor, count: int, labelled: Tensor) -> list[int]:
    """Choose photos one after another, each the one that covers most doubt that isn't covered yet.

    A photo covers those that look like it (facility location: Wei, Iyer & Bilmes 2015). So the
    second of two alike counts little, and so does one that looks like no other, however doubtful.

    Args:
        features: of the photos, `[N, D]`; each feature divided by its spread.
        doubt: `[N]`.
        labelled: features `[M, D]` of the photos that are labelled already, which cover some.

    Returns:
        Indices of at most `count` photos, the first choice first.
    """
    most = doubt.argsort(descending=True, stable=True)[: max(MOST, count)]
    x, weight = F.normalize(features[most], dim=1), doubt[most].clamp(min=1e-6)
    known = F.normalize(labelled, dim=1)
    covered = (x @ known.T).amax(dim=1).clamp(min=0) ** SHARPNESS
    alike = (x @ x.T).clamp(min=0) ** SHARPNESS
    chosen: list[int] = []
    for _ in range(min(count, len(most))):
        gains = weight @ (alike - covered[:, None]).clamp_(min=0)
        gains[chosen] = -1.0
        best = int(gains.argmax())
        chosen.append(best)
        covered = torch.maximum(covered, alike[best])
    return most[chosen].tolist()
