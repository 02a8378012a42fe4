"""Features of photos: what a frozen prefix makes of them, from the cache or computed."""

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor

from thaw.data.augment import Views
from thaw.data.cache import FeatureCache, Rows, Shelf
from thaw.data.dataset import normalised, pixels
from thaw.data.folder import PhotoFolder
from thaw.data.photos import BrokenPhoto, load_photo
from thaw.data.stream import BATCH, stacked
from thaw.model.bundle import describe_transforms
from thaw.nets.backbone import Backbone
from thaw.nets.cut import Cut
from thaw.nets.fuse import fused
from thaw.screen import steps
from thaw.training.unfreezing import gathered

log = logging.getLogger(__name__)
FORMAT = 3  # of the decoding and the cutting: another number makes all features anew
SEGMENT = 64 * 2**20  # bytes that are computed before they are written
VERSIONS = ("torch", "torchvision", "pillow", "pillow-heif")
T = TypeVar("T")


class TooLarge(OSError):
    """The features don't fit into the cache."""


class Extractor:
    """Runs a backbone's prefix over photos; on the CPU in float32, until told `on` what.

    Args:
        fuse: on a CPU, do convolution, BatchNorm and activation in one step.
    """

    def __init__(
        self, cache: FeatureCache, backbone: Backbone, data: PhotoFolder, fuse: bool = True
    ) -> None:
        self.cache, self.backbone, self.data, self.fuse = cache, backbone, data, fuse
        self.device, self.precision = torch.device("cpu"), "32-true"
        self.autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext
        self.seconds = 0.0
        self.waited = 0.0  # for other runs that compute the same
        self.see: Callable[[str, Image.Image], None] | None = (
            None  # gets photos as they are decoded
        )

    def on(self, trainer: Trainer) -> None:
        """Compute on this trainer's device, and in its precision."""
        self.device, self.precision = trainer.strategy.root_device, str(trainer.precision)
        self.autocast = trainer.precision_plugin.forward_context

    def rows(self, here: Cut, splits: Sequence[str], sources: Sequence[Cut] = ()) -> list[Rows]:
        """Features at a cut of the photos of some splits; of train all views, one after another.

        Args:
            sources: shallower cuts, from shallow to deep, whose features are wanted later: they
                are made first, and this cut's from them.

        Raises:
            OSError: they can't be kept, or are more than the cache may hold.
        """
        began, waited = time.perf_counter(), self.waited
        names = {split: self._names(split) for split in splits}
        every = [name for split in splits for name in names[split]]
        shelf = self.cache.shelf(self._key(here))
        shelf.refresh()
        missing = shelf.missing(every)
        if sum(gathered(len(missing))):  # processes that train together do the same, all of them
            before: tuple[Cut, Shelf] | None = None
            for place in [*sources, here]:
                shelf = self.cache.shelf(self._key(place))
                self._fill(shelf, every, place, before)
                before = (place, shelf)
        lost = set(shelf.missing(every))
        for name in lost:
            self._broke(name, "no features could be computed")
        stand_in = next((name for name in every if name not in lost), "")  # is never taken
        rows = [
            shelf.rows([stand_in if n in lost else n for n in names[split]]) for split in splits
        ]
        seconds = time.perf_counter() - began - (self.waited - waited)
        self.seconds += seconds
        photos = " and ".join(f"{len(self.data.splits[split])} {split}" for split in splits)
        if missing or len(splits) > 1:  # train photos that are seen again need no word
            log.info(
                "features of %s photos: %d computed in %.1f s, %d reused, %.1f MB",
                *(photos, len(missing), seconds, len(set(every)) - len(missing)),
                sum(r.nbytes for r in rows) / 1e6,
            )
        self.cache.make_room()
        return rows

    def missing(self, here: Cut, split: str) -> set[str]:
        """Digests of the photos of a split whose features at a cut aren't in the cache."""
        shelf = self.cache.shelf(self._key(here))
        shelf.refresh()
        return {name.partition("-")[0] for name in shelf.missing(self._names(split))}

    def _broke(self, name: str, reason: str) -> None:
        digest = name.partition("-")[0]
        for path in [p for p, content in self.data.contents.items() if content == digest]:
            self.data.broke(path, reason)

    def _names(self, split: str) -> list[str]:
        views = range(len(Views(self.data.augment).makers) if split == "train" else 1)
        digests = self.data.digests(split)
        return [f"{d}-{view}" if view else d for view in views for d in digests]

    def _key(self, here: Cut) -> str:
        facts = {
            "format": FORMAT,
            "batch": BATCH,
            "prefix": here.prefix_digest,
            "transforms": describe_transforms(self.backbone.transforms),
            "white": self.data.white,
            "precision": self.precision,
            "device": self.device.type,
            "fused": self.fuses is not None,
            "memory_format": str(self.backbone.memory_format),
            "versions": {package: metadata.version(package) for package in VERSIONS},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def fuses(self) -> torch.dtype | None:
        """What fused convolutions compute in; None if none are fused."""
        kinds = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
        return kinds.get(self.precision) if self.fuse and self.device.type == "cpu" else None

    # --- computing ----------------------------------------------------------------------------

    def _fill(
        self, shelf: Shelf, names: list[str], here: Cut, before: tuple[Cut, Shelf] | None
    ) -> None:
        """Compute what is missing; of several processes that train together, each its share."""
        together = dist.is_available() and dist.is_initialized()
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        problem: OSError | None = None
        with contextlib.ExitStack() as stack:
            try:
                if rank == 0:
                    began = time.perf_counter()
                    stack.enter_context(shelf.writing())
                    self.waited += time.perf_counter() - began
            except OSError as error:
                problem = error
            missing = gathered(shelf.missing(names))[0]
            try:
                if problem is None:
                    self._compute(shelf, missing[rank::ranks], here, before)
            except OSError as error:
                problem = error
            problems = [found for found in gathered(problem) if found is not None]
        if problems:
            raise problems[0]
        shelf.refresh()
        self._compute(shelf, shelf.missing(names), here, before)  # on machines that share no disk

    @torch.inference_mode()
    def _compute(
        self, shelf: Shelf, names: list[str], here: Cut, before: tuple[Cut, Shelf] | None
    ) -> None:
        if before:  # photos that broke have nothing there
            lost = set(before[1].missing(names))
            names = [name for name in names if name not in lost]
        if not names:
            return
        modes = [*self.backbone.modules()]
        training = [module.training for module in modes]
        self.backbone.eval().to(self.device)
        part = here.between(before and before[0])
        run = fused(part, self.fuses) if self.fuses else part
        own: list[str] = []
        done: list[Tensor] = []
        try:
            inputs = self._stored(names, before[1]) if before else self._photos(names)
            shown = steps(inputs, "computing features", len(names), each=BATCH)
            for turn, (batch, images) in enumerate(shown):
                count = len(batch)
                # Padded with itself to the batch that all are computed in, or a photo's last bits
                # would depend on its neighbours.
                full = images[torch.arange(BATCH) % count] if count < BATCH else images
                if full.ndim == 4:
                    full = full.contiguous(memory_format=self.backbone.memory_format)
                with self.autocast():
                    features = run(full.to(self.device, non_blocking=True))[:count].cpu()
                if turn == 0:
                    self._check_room(features[0].nbytes * len(names), len(names))
                own += batch
                done.append(features)
                if sum(part.nbytes for part in done) > SEGMENT:
                    shelf.add(own, torch.cat(done))
                    own, done = [], []
            if own:
                shelf.add(own, torch.cat(done))
        finally:
            for module, mode in zip(modes, training, strict=True):
                module.training = mode

    def _check_room(self, size: int, photos: int) -> None:
        """Raise TooLarge where so many bytes are more than may be kept, or than the disk has."""
        free = shutil.disk_usage(self.cache.dir).free
        for limit, what in (
            (self.cache.max_bytes, "cache.max_gb is"),
            (free, f"what is free in cache.dir={self.cache.dir} is"),
        ):
            if size > limit:
                raise TooLarge(
                    f"{size / 1e9:.1f} GB for {photos} photos, and {what} {limit / 1e9:.3g}"
                )

    def _photos(self, names: list[str]) -> Iterator[tuple[list[str], Tensor]]:
        """Photos that decode, and their images `[B, 3, H, W]`."""
        paths, see = self.data.paths_by_digest(), self.backbone.transforms
        makers = Views(self.data.augment).makers

        def load(name: str) -> Tensor:
            digest, _, view = name.partition("-")
            photo = load_photo(paths[digest], self.data.white)
            if self.see:
                self.see(digest, photo)
            return pixels(see, makers[int(view or 0)](photo))

        def broke(name: str, error: BrokenPhoto) -> None:
            self._broke(name, error.reason)

        ahead = 0 if self.device.type == "cpu" else 1
        for batch, images in stacked(names, load, BATCH, broke, ahead):
            images = images.to(self.device, non_blocking=True)
            images = images.contiguous(memory_format=self.backbone.memory_format)
            yield batch, normalised(see, images)

    @staticmethod
    def _stored(names: list[str], shelf: Shelf) -> Iterator[tuple[list[str], Tensor]]:
        for begin in range(0, len(names), BATCH):
            batch = names[begin : begin + BATCH]
            yield batch, shelf.rows(batch).take(range(len(batch)))
