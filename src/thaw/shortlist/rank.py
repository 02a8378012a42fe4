"""Which nets are worth fine-tuning on these photos: a linear probe on the features of each.

Train and val photos are used, each predicted by a probe that hasn't seen it; test isn't opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from thaw.comparison.verdict import ALPHA, by_group, paired_p
from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.data.splits import together
from thaw.errors import UserError
from thaw.evaluation.answers import Answers
from thaw.evaluation.scores import scores
from thaw.nets.fit import seen
from thaw.nets.pretrained import made
from thaw.report.metrics import latency
from thaw.shortlist.words import Net
from thaw.training.features import Extractor
from thaw.training.probe.folds import out_of_fold
from thaw.training.probe.inputs import USED, head_inputs


@dataclass(frozen=True, eq=False)
class Probed:
    """A net's probe: which photos it labels right `[N]`, and metrics as `metrics.json` names them.

    `keys` is what each photo belongs to, None where each stands alone.
    `features_ms` is the time to decode a photo and run the net over it, None where all features
    were in the cache.
    """

    net: Net
    right: np.ndarray
    metrics: dict[str, float]
    features_ms: float | None
    pixels: int
    weights: str | None  # where they come from; None if they are random
    keys: list[int] | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.net.name if self.weights else f"{self.net.name} (random)"


@dataclass(frozen=True)
class Shortlist:
    """Nets, the most accurate first, and the p of each against the first (None for itself).

    p is McNemar's exact test on the out-of-fold predictions, times the number of other nets; where
    photos come in groups, it is groups that chance may turn the other way round. Who
    has a small one is taken to be worse. The net that is truly the best goes only where one of the
    others beats it by chance, so it stays with at least 95%, although the same photos chose the
    first (Edwards & Hsu 1983, "Multiple comparisons with the best treatment").
    """

    nets: list[Probed]
    p: list[float | None]
    failed: list[str]

    @property
    def groups(self) -> int | None:
        """How many groups the photos come in, None where each stands alone."""
        return len(set(keys)) if (keys := self.nets[0].keys) else None

    @property
    def level(self) -> list[Probed]:
        """The first, and those that can't be told apart from it."""
        return [n for n, p in zip(self.nets, self.p, strict=True) if p is None or p >= ALPHA]


def rank(probed: Sequence[Probed], failed: Sequence[str] = ()) -> Shortlist:
    """Sort nets by accuracy, equal ones by loss, and compare each with the first."""

    def key(net: Probed) -> tuple[float, float]:
        return -net.metrics["probe/acc"], net.metrics["probe/loss"]

    first, *others = sorted(probed, key=key)
    keys = first.keys or range(len(first.right))
    values = [paired_p(by_group(first.right.astype(int) - other.right, keys)) for other in others]
    p = [min(1.0, len(others) * value) for value in values]
    return Shortlist([first, *others], [None, *p], list(failed))


def probe(
    net: Net, cache: FeatureCache, data: PhotoFolder, trainer: Trainer, folds: Tensor
) -> Probed:
    """Build a net, judge its features of all train and val photos, and measure what it costs.

    Raises:
        UserError: the net can't be built, or its features aren't finite.
    """
    torch.manual_seed(net.cfg.seed)  # of a net with random weights
    backbone = made(net.cfg.arch, **seen(net.cfg.data))
    backbone.reset_head(len(data.classes))
    if net.cfg.trainer.channels_last:  # as in training, which finds the same features
        backbone.arrange(torch.channels_last)
    backbone.thaw(["head"])
    extractor = Extractor(cache, backbone, data, net.cfg.trainer.fuse)
    extractor.on(trainer)
    features, milliseconds = head_inputs(extractor)
    if data.broken:  # since the start: every photo's features are wanted
        raise data.lost(data.broken)
    if not features.isfinite().all():
        raise UserError(f"The features of {net.name} aren't finite numbers.")
    samples = [sample for split in USED for sample in data.splits[split]]
    labels = torch.tensor([sample.label for sample in samples])
    logits = out_of_fold(features, labels, folds)
    names, groups = [sample.path for sample in samples], [sample.group for sample in samples]
    answers = Answers(logits, labels, data.classes, names, data.root, groups=groups)
    low, high = answers.interval(answers.correct)
    metrics = {f"probe/{key}": value for key, value in scores(logits, labels).items()}
    metrics |= {
        "probe/acc_low": low,
        "probe/acc_high": high,
        "model/latency_ms": latency(backbone)[0],
        "params/total": sum(p.numel() for p in backbone.net.parameters()),
        "model/bytes": sum(t.nbytes for t in backbone.net.state_dict().values()),
    }
    weights = str(backbone.meta["source"]) if backbone.pretrained else None
    return Probed(
        net,
        answers.correct.numpy(),
        metrics,
        milliseconds,
        backbone.input_size,
        weights,
        together(groups) if any(groups) else None,
    )
