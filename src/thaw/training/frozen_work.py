"""Frozen work is done once: a phase's prefix runs over each photo, and its tail trains on that.

Each phase has its own cut (`thaw.nets.cut`). What the prefix makes of a photo is looked for in the
cache, computed where it isn't there, and handed to training in place of the photo. Without a cache
the same numbers come out, only later.
"""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from thaw.data.augment import Views
from thaw.nets.cut import Cut, cut
from thaw.training.features import Extractor
from thaw.training.schedule import Phase, Schedule
from thaw.training.unfreezing import StagedUnfreezing

log = logging.getLogger(__name__)


class FrozenWork(Callback):
    """Gives each phase the features that its frozen prefix computes, in place of photos.

    Comes after `StagedUnfreezing` in the trainer's callbacks, which says what is frozen.
    """

    def __init__(self, extractor: Extractor, schedule: Schedule, staged: StagedUnfreezing) -> None:
        self.extractor, self.schedule, self.staged = extractor, schedule, staged
        self.prepared: str | None = None
        self.last: tuple[object, Cut | None] = (None, None)  # the cut made last, and for what
        self.said: set[str] = set()
        self.threads = torch.get_num_threads()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare a phase that begins."""
        if self.staged.phase.name != self.prepared:
            self.prepare(pl_module, self.staged.phase)
            self._share()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test, and see other photos again, from what no phase has trained; other runs share it."""
        backbone, phases = self.extractor.backbone, self.schedule.phases
        parts = [self.schedule.trained(phase, backbone) for phase in phases]
        trained = {stage for stages, _ in parts for stage in stages}
        backbone.thaw(trained, {stage for _, norms in parts for stage in norms})
        splits = [loader.split for loader in trainer.test_dataloaders or []]
        # What one pass alone would read isn't worth its place on disk.
        once = "train" in splits and not Views(self.extractor.data.augment).few
        self._use(pl_module, None if once else self._cut(), splits, [])
        self._share()
        backbone.eval()

    def prepare(self, module: LightningModule, phase: Phase) -> None:
        """Compute what a phase needs, after the schedule was applied for it."""
        self.prepared = phase.name
        views = Views(self.extractor.data.augment)
        stored = views.few or phase.solve  # what is solved sees photos as they are
        if not stored:
            kind = type(self.extractor.data.augment).__name__
            self._say(f"train photos aren't cached, since augment={kind} changes them at random")
        here = self._cut()
        splits = ["train", "val"] if stored else ["val"]
        splits = [split for split in splits if self.extractor.data.splits[split]]
        self._use(module, here, splits, self._later(phase, here) if here else [])

    def _cut(self) -> Cut | None:
        """The cut for what trains now; the test's is often the last phase's, and not made twice."""
        backbone = self.extractor.backbone
        if not self.extractor.cache.enabled:
            return None
        what = (backbone.trained, backbone.trained_norms, backbone.batch_norm)
        if self.last[0] != what:
            self.last = (what, cut(backbone))
        here = self.last[1]
        return here if here and here.depth else None

    def _later(self, phase: Phase, here: Cut) -> list[Cut]:
        """Shallower cuts that later phases will ask for with the weights of now."""
        backbone, found, depth = self.extractor.backbone, [], here.depth
        phases = self.schedule.phases
        for later in phases[phases.index(phase) + 1 :]:
            self.schedule.apply(later, backbone)
            place = self._cut()
            if place is None:
                break
            if place.depth < depth:
                depth = place.depth
                found.insert(0, place)
        self.schedule.apply(phase, backbone)
        return found

    def _use(self, module: Any, here: Cut | None, splits: list[str], sources: list[Cut]) -> None:
        data = self.extractor.data
        data.features.clear()
        module.use_tail(None)
        torch.set_num_threads(self.threads)
        if here is None:
            return
        try:
            rows = self.extractor.rows(here, splits, sources)
        except OSError as error:
            log.warning("Nothing is cached, so frozen stages run again each epoch: %s.", error)
            return
        data.features.update(zip(splits, rows, strict=True))
        module.use_tail(here.tails)

    def _share(self) -> None:
        """Use one thread where features `[N, D]` go into a head: to wake up others takes longer
        than its arithmetic.
        """
        found = self.extractor.data.features.values()
        if found and all(rows.take([0]).ndim == 2 for rows in found):
            torch.set_num_threads(1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compute with all threads again."""
        torch.set_num_threads(self.threads)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Compute with all threads again: a sweep goes on."""
        torch.set_num_threads(self.threads)

    def _say(self, what: str) -> None:
        if what not in self.said:
            log.info(what)
        self.said.add(what)
