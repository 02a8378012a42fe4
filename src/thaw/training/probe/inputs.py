"""What a head reads of photos: the features that it is solved on, and that nets are judged by."""

import logging
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from thaw.data.cache import Rows
from thaw.data.dataset import InOrder, PhotoDataset, collate
from thaw.data.folder import PhotoFolder
from thaw.nets.backbone import Backbone
from thaw.nets.cut import cut
from thaw.training.features import Extractor

log = logging.getLogger(__name__)
USED = ("train", "val")  # splits; test stays for what is trained in the end
BATCH = 32  # photos


class Inputs:
    """Batches of photos on their way into the head: from the cache as far as it goes.

    Args:
        splits: whose photos come, one after another; of train in each of its views, if cached.

    Attributes:
        run: a batch → logits `[B, classes]`, to be called with `extractor.autocast()`.
    """

    def __init__(self, extractor: Extractor, splits: Sequence[str] = USED) -> None:
        backbone, cache = extractor.backbone, extractor.cache
        self.extractor, self.splits = extractor, splits
        self.before = set(cache.dir.glob("*/*.safetensors"))
        here = cut(backbone) if cache.enabled else None
        self.rows: list[Rows] = []
        if here is not None and here.depth:
            try:
                self.rows = extractor.rows(here, splits)
            except OSError as error:
                log.warning("Features of %s aren't kept: %s.", backbone.origin["name"], error)
        self.run = here.tail if here and self.rows else backbone

    def __iter__(self) -> Iterator[Tensor]:
        backbone, data = self.extractor.backbone, self.extractor.data
        backbone.eval().to(self.extractor.device)
        for batch in _stored(self.rows) if self.rows else _images(data, backbone, self.splits):
            yield batch.to(self.extractor.device)

    @torch.inference_mode()
    def read(self) -> Tensor:
        """What the head reads of each photo `[N, D]`; the mean over places, where it reads several
        of a photo (a 1×1 Conv2d does). Rows of photos that broke (`data.broken`) mean nothing.
        """
        with self.extractor.autocast(), self.extractor.backbone.reading() as read:
            for batch in self:
                self.run(batch)
        return torch.cat(read).cpu()

    def computed(self) -> int:
        """Of how many photos features weren't there yet."""
        segments = {id(s): s for rows in self.rows for s in rows.segments}.values()
        return sum(len(segment.names) for segment in segments if segment.path not in self.before)


def head_inputs(extractor: Extractor, splits: Sequence[str] = USED) -> tuple[Tensor, float | None]:
    """What the head reads of each photo of these splits `[N, D]`, and milliseconds a photo; None
    milliseconds where the cache had all.
    """
    inputs = Inputs(extractor, splits)
    began = time.perf_counter()
    features = inputs.read()
    cached = bool(inputs.rows)
    computed = inputs.computed() if cached else len(features)
    seconds = extractor.seconds if cached else time.perf_counter() - began
    return features, 1000 * seconds / computed if computed else None


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
            raise data.lost({path: reason})
        yield batch["image"].contiguous(memory_format=backbone.memory_format)
