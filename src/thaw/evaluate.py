"""Numbers from logits, with how far they can be trusted."""

import math

from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_f1_score,
)


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss, top-1, macro F1 and ECE (15 bins, Guo et al. 2017) of logits `[N, classes]`."""
    classes = logits.shape[1]
    probabilities = logits.softmax(dim=1)
    return {
        "acc": float((logits.argmax(dim=1) == labels).double().mean()),
        "loss": float(F.cross_entropy(logits, labels)),
        "f1": float(multiclass_f1_score(logits, labels, classes, average="macro")),
        "ece": float(multiclass_calibration_error(probabilities, labels, classes, n_bins=15)),
    }


def wilson(correct: int, total: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927); unlike the normal one it holds near 0 and 1.

    >>> [round(x, 3) for x in wilson(144, 153)]
    [0.892, 0.969]
    """
    z = 1.959963984540054
    share, extra = correct / total, z * z / total
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / total + extra / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)
