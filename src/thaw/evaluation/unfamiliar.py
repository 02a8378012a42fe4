"""What calling photos unfamiliar is worth: on known photos, on classes left out, on any folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from thaw.data.find import find_photos
from thaw.data.listing.faults import undecoded
from thaw.data.photos import BrokenPhoto, digests
from thaw.errors import UserError
from thaw.escape import drawn
from thaw.evaluation.answers import Answers
from thaw.intervals import clopper_pearson_upper, wilson
from thaw.model.bundle import Model
from thaw.model.familiar import store
from thaw.model.familiar.level import why_refused
from thaw.model.familiar.store import DIGITS, Familiar
from thaw.model.prediction import is_unfamiliar
from thaw.screen import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 20  # that are left out in turn
DECAY = 0.1  # of the head's weights, over the number of photos


def on_known(familiar: Familiar, features: Tensor, level: float = store.LEVEL) -> dict[str, Any]:
    """How many photos of the known classes are called unfamiliar, beside what was promised.

    Args:
        features: `[N, D]` of photos that are new to the model, and of its classes.
    """
    photos = len(familiar.scores)
    told: dict[str, Any] = {"level": level, "refused": why_refused(photos, level)}
    told |= {"val/images": photos - len(familiar.alike), "train/judged": len(familiar.alike)}
    if told["refused"]:
        return told
    # The promise is an average over draws of val; one val leaves this much room (its share has a
    # beta distribution, of which this is the 95th percentile).
    ranks = int((photos + 1) * level + 1e-9)
    told["room"] = clopper_pearson_upper(ranks - 1, photos, 0.05)
    return told | share(familiar.familiarity(features), level)


def share(p: Tensor, level: float, key: str = "share") -> dict[str, Any]:
    """The share of p-values that are that low, with its 95% interval."""
    found = sum(is_unfamiliar(value, level) for value in p.tolist())
    low, high = wilson(found, len(p))
    shares = {key: found / len(p), f"{key}_low": low, f"{key}_high": high}
    return {"photos": len(p), "unfamiliar": found} | shares


# --- classes that are left out --------------------------------------------------------------------


def left_out(
    familiar: Familiar, val: Answers, test: Answers, level: float = store.LEVEL
) -> dict[str, dict[str, Any]]:
    """Leave each class out in turn, and see how many of its test photos are noticed.

    Beside it stands what is noticed by the highest probability (Hendrycks & Gimpel 2017) of a head
    that was fitted without that class, at the same level. The net's own features are those it has:
    where its blocks were trained, they have seen the class. Classes with too few photos left for
    the promise aren't told, nor are more than `MOST_CLASSES`, the first ones.

    Args:
        val: answers with features, as `test`.
    """
    train, labels, alike = familiar.directions, familiar.labels, torch.tensor(familiar.alike)
    seen = [F.normalize(answers.features / familiar.scale, dim=1) for answers in (val, test)]
    near = [x * familiar.scale for x in (train, *seen)]  # as the net gives them, but for lengths
    rows = {}
    for c, name in enumerate(test.classes[:MOST_CLASSES]):
        own, others, rest = test.labels == c, val.labels != c, labels != c
        few = len(labels[rest].unique()) < 2 or not (own.any() and (~own).any())
        if few or why_refused(int(others.sum()), level):
            continue
        keys = alike[rest].tolist() if len(alike) else []
        known = store.fit(near[0][rest], labels[rest], near[1][others], alike=keys)
        row = share(known.familiarity(near[2][own]), level, "noticed")
        row["auroc"] = auroc(known.distance(near[2][~own]), known.distance(near[2][own]))
        confidence = _head(train[rest], labels[rest])
        cut = (-confidence(seen[0][others])).sort().values
        p = store.p_values(-confidence(seen[1][own]), cut)
        row["noticed_by_confidence"] = share(p, level)["share"]
        row["auroc_of_confidence"] = auroc(-confidence(seen[1][~own]), -confidence(seen[1][own]))
        rows[name] = row
    return rows


def _head(train: Tensor, labels: Tensor) -> Any:
    """Fit a linear head on features `[N, D]`; → what gives its confidence `[B]` of others."""
    labels = labels.unique(return_inverse=True)[1]
    mean, spread = train.mean(dim=0), (train.std(dim=0) + 1e-6) * train.shape[1] ** 0.5
    x = (train - mean) / spread
    weight = torch.zeros(x.shape[1], int(labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    fitter = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Any:
        fitter.zero_grad()
        value = F.cross_entropy(x @ weight + bias, labels)
        value = value + DECAY / 2 * weight.square().sum() / len(x)
        value.backward()
        return value

    fitter.step(loss)
    w, b = weight.detach(), bias.detach()
    return lambda f: ((f - mean) / spread @ w + b).softmax(dim=1).amax(dim=1)


def auroc(known: Tensor, unknown: Tensor) -> float:
    """How often a photo of `unknown` has the higher score of two, one from each."""
    scores = torch.cat([known, unknown])
    ranks = scores.double().unique(return_inverse=True)[1].double()  # binary_auroc wants 0 to 1
    target = torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))]).long()
    return float(binary_auroc(ranks / max(1.0, float(ranks.max())), target))


# --- any folder -----------------------------------------------------------------------------------


def strangers(model: Model, folder: Path) -> list[Path]:
    """The photos in a folder that are of none of the classes.

    Raises:
        UserError: there are none, the model was trained on one, or it can't tell what is familiar.
    """
    if model.familiar is None:
        raise UserError(
            "The model keeps none of its train photos, so it can't tell what is unfamiliar; a run"
            " of this Thaw keeps some."
        )
    found = find_photos([folder])
    known = {*model.familiar.contents}
    seen = [p for p, digest in zip(found, digests(found), strict=True) if digest[:DIGITS] in known]
    if seen:
        raise UserError(
            f"Expected photos of none of the classes in --unfamiliar {folder}, but the model was"
            f" trained on {len(seen)} of them, {seen[0]} for one."
        )
    return found


def far(model: Model, folder: Path, known: Tensor) -> tuple[dict[str, Any], Tensor]:
    """How many photos of none of the classes are noticed; also their distances `[N]`.

    Args:
        known: distances `[M]` of photos of the classes, which AUROC compares them with.

    Raises:
        UserError: none can be decoded; or as `strangers`.
    """
    photos, familiar = strangers(model, folder), model.familiar
    assert familiar is not None
    level = model.level if model.level is not None else store.LEVEL
    broken: list[BrokenPhoto] = []
    outputs = model.outputs_of(photos, on_broken=broken.append)
    parts = [features for _, _, features in outputs]
    if broken:
        say(f"{undecoded({str(e.path): e.reason for e in broken}, len(photos))}.")
    if not parts:
        raise UserError(f"Expected photos in {folder}, but none can be decoded.")
    features = torch.cat(parts)
    distances = familiar.distance(features)
    found = {"folder": str(folder), "auroc": auroc(known, distances)}
    if model.level is None:
        return found | {"photos": len(features), "noticed": None}, distances
    return found | share(familiar.familiarity(features), level, "noticed"), distances


def figure(groups: Mapping[str, Tensor], scores: Tensor, level: float = store.LEVEL) -> "Figure":
    """How far photos of two kinds are from the train photos, and from where on that is unfamiliar.

    Args:
        groups: distances `[N]` by what the photos are.
        scores: those of val, the lowest first.
    """
    from thaw.evaluation.figures import BLUE, GREY, RED, _figure, _tidy

    drawing = _figure(8, 4, "How far photos are from the train photos")
    axis = drawing.subplots()
    _tidy(axis)
    top = float(torch.cat([*groups.values()]).max())
    bins = np.linspace(0, top, 41).tolist()
    for (words, values), colour in zip(groups.items(), (BLUE, RED), strict=True):
        weights = np.full(len(values), 1 / len(values))
        label = f"{drawn(words)} ({len(values):,})"
        axis.hist(values.numpy(), bins, weights=weights, color=colour, alpha=0.6, label=label)
    if not why_refused(len(scores), level):
        farthest = int((len(scores) + 1) * level + 1e-9)
        axis.axvline(float(scores[-farthest]), color=GREY, linewidth=1)
        drawing.supxlabel(f"farther than the line: unfamiliar, at a level of {level:.3g}", size=9)
    axis.set_xlabel("mean cosine distance to the 5 nearest train photos")
    axis.set_ylabel("share of photos")
    axis.legend(frameon=False)
    return drawing
