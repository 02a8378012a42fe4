"""What a net sees of the photos, for `thaw best`: measured on a few, then paid for bit by bit."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.data.splits import Sample
from thaw.errors import UserError
from thaw.nets.cut import Cut, cut
from thaw.nets.fit import seen
from thaw.nets.pretrained import made
from thaw.shortlist.words import Net
from thaw.training.features import BATCH, Extractor
from thaw.training.probe.inputs import USED, head_inputs

MEASURED = 2 * BATCH  # photos; the first half warms up
AT_ONCE = 5.0  # seconds of features between looks at the clock


@dataclass
class Look:
    """A net, the photos that it hasn't seen yet, and seconds it takes for one."""

    net: Net
    extractor: Extractor
    here: Cut | None
    parameters: int
    missing: list[Sample]
    pace: float

    @property
    def cost(self) -> float:
        """Seconds that the features will take which aren't in the cache."""
        return self.pace * len(self.missing)


def look(net: Net, cache: FeatureCache, data: PhotoFolder, trainer: Trainer) -> Look:
    """Build a net, and see on a few photos how long it will take for all of train and val.

    Raises:
        UserError: it can't be built, or its weights can't be had.
    """
    torch.manual_seed(net.cfg.seed)
    backbone = made(net.cfg.arch, **seen(net.cfg.data))
    backbone.reset_head(len(data.classes))
    if net.cfg.trainer.channels_last:
        backbone.arrange(torch.channels_last)
    backbone.thaw(["head"])
    extractor = Extractor(cache, backbone, data, net.cfg.trainer.fuse)
    extractor.on(trainer)
    data.transforms = backbone.transforms
    found = cut(backbone)
    here = found if found and found.depth else None
    samples = [sample for split in USED for sample in data.splits[split]]
    parameters = sum(p.numel() for p in backbone.parameters())
    seen_by = Look(net, extractor, here, parameters, samples, 0.0)
    seen_by.missing = _missing(seen_by)
    few = (seen_by.missing or samples)[:: max(1, len(seen_by.missing or samples) // MEASURED)]
    for part in (few[:BATCH], few[BATCH:MEASURED] or few[:BATCH]):
        with _only(data, part):
            began = time.perf_counter()
            if here and seen_by.missing:
                extractor.rows(here, ["part"])
            else:
                head_inputs(_uncached(extractor), ["part"])
            seen_by.pace = (time.perf_counter() - began) / len(part)
    seen_by.missing = _missing(seen_by)
    return seen_by


def features(look: Look, left: Callable[[], float]) -> Tensor | None:
    """What the head reads of all train and val photos `[N, D]`; None where it takes too long.

    Args:
        left: seconds there are; asked again and again, for a machine may become slower.
    """
    data, extractor = look.extractor.data, look.extractor
    while look.here and look.missing:
        number = max(BATCH, int(AT_ONCE / look.pace) // BATCH * BATCH)
        part = look.missing[:number]
        if look.cost > left():
            return None
        with _only(data, part):
            began = time.perf_counter()
            extractor.rows(look.here, ["part"])
        look.missing = look.missing[number:]
        look.pace = (time.perf_counter() - began) / len(part)
    found, _ = head_inputs(extractor)
    if data.broken:  # since the start: every photo's features are wanted
        raise data.lost(data.broken)
    if not found.isfinite().all():
        raise UserError(f"The features of {look.net.name} aren't finite numbers.")
    return found


def _missing(look: Look) -> list[Sample]:
    """Of the photos that are missing, those that still are."""
    data, samples = look.extractor.data, look.missing
    if look.here is None:
        return samples
    with _only(data, samples):
        names = look.extractor.missing(look.here, "part")
        digests = data.digests("part")
    return [s for s, digest in zip(samples, digests, strict=True) if digest in names]


def _uncached(extractor: Extractor) -> Extractor:
    off = FeatureCache(str(extractor.cache.dir), enabled=False)
    other = Extractor(off, extractor.backbone, extractor.data, extractor.fuse)
    other.device, other.autocast = extractor.device, extractor.autocast
    return other


@contextmanager
def _only(data: PhotoFolder, samples: Sequence[Sample]) -> Iterator[None]:
    """Inside `with`, these photos are a split, "part"."""
    data.splits["part"] = list(samples)
    try:
        yield
    finally:
        del data.splits["part"]
