"""A linear probe: how well straight cuts through a net's features tell the classes apart.

As Kornblith et al. 2019 ("Do better ImageNet models transfer better?") compare nets before they
fine-tune them: logistic regression with L2, whose strength is chosen by cross-validation. Here
every photo is predicted by a probe that hasn't seen it, so a small data set is used whole.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from thaw.data.cache import Rows
from thaw.data.dataset import InOrder, PhotoDataset, collate
from thaw.data.folder import PhotoFolder
from thaw.data.photos import BrokenPhoto
from thaw.data.splits import Sample, together
from thaw.data.splits import folds as deal
from thaw.errors import UserError
from thaw.nets.backbone import Backbone
from thaw.nets.cut import cut
from thaw.training.features import Extractor

log = logging.getLogger(__name__)
USED = ("train", "val")  # splits; test stays for what is trained in the end
BATCH = 32  # photos
FEWEST = 3  # folds: one to predict, and of what is left one to choose the penalty on
PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)  # of L2, from the stiffest probe on
MOST_TO_CHOOSE = 1000  # photos that choose the penalty: more of them cost much and change little
CONSTANT = 1e-6  # a feature that varies less than this share of what the liveliest does


def fold_of_each(
    samples: Sequence[Sample],
    classes: Sequence[str],
    folds: int,
    seed: int,
    alike: Sequence[int],
) -> Tensor:
    """The fold of each photo `[N]`: stratified; groups and identical photos are in the same one.

    Args:
        alike: of each photo the number of its content (`Known.alike`).

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

    The photos that a probe is fitted to also say how features are standardised, and choose the
    penalty by the loss on each of their folds in turn: nothing of a photo is in what predicts it.
    Each call gives the same.

    Args:
        features: `[N, D]`, finite.
        labels: `[N]`, from 0 on, each of them there.
        folds: `[N]`, of `fold_of_each`.
    """
    features, classes, count = features.double(), int(labels.max()) + 1, int(folds.max()) + 1
    few = torch.arange(0, len(labels), -(-len(labels) // MOST_TO_CHOOSE))  # of each class its share
    losses = _losses(features[few], labels[few], folds[few], classes, count)
    logits = features.new_empty(len(labels), classes)
    for fold in range(count):
        out = folds == fold
        penalty = PENALTIES[int(losses[fold].argmin())]
        logits[out] = next(_probes(features, labels, out, classes, [penalty]))
    return logits


def _losses(features: Tensor, labels: Tensor, folds: Tensor, classes: int, count: int) -> Tensor:
    """Loss `[folds, penalties]` on all photos but a fold's, by probes that hadn't seen them either.

    What is fitted without two folds serves both: either is the other's test.
    """
    losses = features.new_zeros(count, len(PENALTIES))
    for one, other in combinations(range(count), 2):
        out = (folds == one) | (folds == other)
        for i, logits in enumerate(_probes(features, labels, out, classes, PENALTIES)):
            each = F.cross_entropy(logits, labels[out], reduction="none")
            losses[one, i] += each[folds[out] == other].sum()
            losses[other, i] += each[folds[out] == one].sum()
    return losses


def _probes(
    features: Tensor, labels: Tensor, out: Tensor, classes: int, penalties: Sequence[float]
) -> Iterator[Tensor]:
    """Logits of the photos `out`, by a probe for each penalty that is fitted to the others."""
    x, other = _standardised(features[~out], features[out])
    if len(x) < x.shape[1]:  # the best weights lie in the span of the photos: solve it there
        basis, triangle = torch.linalg.qr(x.T)
        x, other = triangle.T, other @ basis
    weight, bias = x.new_zeros(x.shape[1], classes), x.new_zeros(classes)
    for penalty in penalties:  # from the last one's weights on: it is near
        _fit(x, labels[~out], penalty, weight, bias)
        yield other @ weight + bias


def _standardised(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the first one's mean and deviation, and scaled so that its rows are about 1 long.

    Without that scale, a penalty would mean less to a net the more features it has.
    """
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    constant = deviation <= CONSTANT * deviation.max()
    scale = deviation.masked_fill(constant, torch.inf) * max(1, int((~constant).sum())) ** 0.5
    return (x - mean) / scale, (other - mean) / scale


def _fit(x: Tensor, labels: Tensor, penalty: float, weight: Tensor, bias: Tensor) -> None:
    """Minimise cross-entropy (a sum) + penalty / 2 · |weight|²; changes both tensors."""
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    options = {"max_iter": 200, "tolerance_grad": 1e-5, "tolerance_change": 1e-9}
    solver = torch.optim.LBFGS(parameters, **options, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        shrink = penalty / 2 * weight.square().sum()
        value = F.cross_entropy(x @ weight + bias, labels) + shrink / len(x)
        value.backward()
        return value

    solver.step(loss)
    for parameter in parameters:
        parameter.requires_grad_(False)


# --- features -------------------------------------------------------------------------------------


@torch.inference_mode()
def head_inputs(extractor: Extractor, splits: Sequence[str] = USED) -> tuple[Tensor, float | None]:
    """What the head reads of each photo of these splits `[N, D]`, and milliseconds a photo.

    Taken from the cache as far as it goes; None milliseconds where it had all. Where a head reads
    several places of a photo (a 1×1 Conv2d does), the mean over them. Rows of photos that broke
    meanwhile (`data.broken`) mean nothing.
    """
    backbone, data, cache = extractor.backbone, extractor.data, extractor.cache
    before = set(cache.dir.glob("*/*.safetensors"))
    here, rows = cut(backbone) if cache.enabled else None, []
    if here is not None and here.depth:
        try:
            rows = extractor.rows(here, splits)
        except OSError as error:
            log.warning("Features of %s aren't kept: %s.", backbone.origin["name"], error)
    run = here.tail if here and rows else backbone
    features: list[Tensor] = []
    hook = backbone.head.register_forward_pre_hook(
        lambda _, inputs: features.append(_mean_over_places(inputs[0], backbone).float().cpu())
    )
    backbone.eval().to(extractor.device)
    began = time.perf_counter()
    with extractor.autocast():
        for batch in _stored(rows) if rows else _images(data, backbone, splits):
            run(batch.to(extractor.device))
    hook.remove()
    new = [s for s in {id(s): s for r in rows for s in r.segments}.values() if s.path not in before]
    computed = sum(len(segment.names) for segment in new) if rows else len(torch.cat(features))
    seconds = extractor.seconds if rows else time.perf_counter() - began
    return torch.cat(features), 1000 * seconds / computed if computed else None


def _mean_over_places(x: Tensor, backbone: Backbone) -> Tensor:
    """The head's input `[B, D, H, W]` (Conv2d) or `[B, …, D]` (Linear) → `[B, D]`."""
    conv = isinstance(backbone.head, torch.nn.Conv2d)
    return x.flatten(2).mean(dim=2) if conv else x.unsqueeze(1).flatten(1, -2).mean(dim=1)


def _stored(rows: Sequence[Rows]) -> Iterator[Tensor]:
    for split in rows:
        for start in range(0, len(split), BATCH):
            yield split.take(range(start, min(start + BATCH, len(split))))


def _images(data: PhotoFolder, backbone: Backbone, splits: Sequence[str]) -> Iterator[Tensor]:
    samples = [sample for split in splits for sample in data.splits[split]]
    dataset = PhotoDataset(data.root, samples, backbone.transforms, white=data.white)
    order = InOrder(len(samples))
    for batch in DataLoader(
        dataset, BATCH, sampler=order, num_workers=data.workers, collate_fn=collate
    ):
        for path, reason in batch.get("broken", ()):
            raise BrokenPhoto(data.root / path, reason)
        yield batch["image"].contiguous(memory_format=backbone.memory_format)
