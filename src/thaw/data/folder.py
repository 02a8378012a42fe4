"""A folder of photos as a LightningDataModule: splits, classes by name, loaders.

What a train batch holds is a function of (seed, epoch, index) alone: neither the number of loader
workers nor an interruption changes it.
"""

import copy
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from torchvision.transforms._presets import ImageClassification

from thaw.data.augment import Augment
from thaw.data.cache import Rows
from thaw.data.dataset import BalancedShuffle, Batches, EpochShuffle, InOrder, PhotoDataset, collate
from thaw.data.listing import layout, table
from thaw.data.listing.faults import MOST_BROKEN, reasons
from thaw.data.listing.known import Known
from thaw.data.listing.listed import few, many
from thaw.data.listing.settle import Settled, Wishes, settle
from thaw.data.listing.tree import CLASSES
from thaw.data.photos import misnamed, white_of
from thaw.data.splits import Sample
from thaw.errors import UserError
from thaw.launch.cli import door
from thaw.runs import read

log = logging.getLogger(__name__)
BALANCES = ("none", "sampler", "loss")
FITS = ("crop", "squash", "pad")
LARGEST = 2048  # pixels; a net takes gigabytes for larger photos


class PhotoFolder(LightningDataModule):
    """Photos in `root/<split>/<class>/`, or in `root/<class>/` where nothing is split, or a table.

    A val or test split that isn't there is cut from the train split: stratified, seeded, and exact
    duplicates stay on one side. Classes are those of the train split, and hold for every split by
    name. That all photos decode is seen at the start; test photos are used for nothing else before
    `test_dataloader` is asked for.

    Args:
        root: the folder; with `file` it may be None, which is the file's folder.
        train: name of the train split's folder; likewise `val` and `test`.
        val_fraction: share of the photos that is cut for val; likewise `test_fraction`.
        batch_size: photos in a step.
        workers: loader processes; 0 loads in the training process.
        source: called with `root` first; downloads or draws the data unless they are there.
        file: a table with the columns path and label, in place of folders (`data.listing.table`).
        classes: which folder is a class: top, leaf, path or name (`data.listing.layout`).
        group: what keeps photos on one side (`data.listing.groups`).
        fixes: a table of photos to drop and relabel (`data.listing.fixes`).
        on_error: exclude photos that can't be decoded, fail, or list (`data.listing.settle`).
        check: warn of photos that are in two splits, strict (refuse), or off.
        known: a file that remembers what was read of photos.
        seed: of the cut, the order and the augmentation.
        balance: `sampler` draws equally many photos of each class in training; `loss` weighs them
            so (`Classifier` does it); `none` takes them as they come.
        fit: how photos are made to fit what a net sees, `crop`, `squash` or `pad`, and to what
            `size`; it is the net's `transforms` that do it (`thaw.nets.fit`).
    """

    def __init__(
        self,
        root: str | None,
        train: str = "train",
        val: str | None = "val",
        test: str | None = "test",
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        batch_size: int = 32,
        workers: int = 0,
        source: Callable[..., None] | None = None,
        file: str | None = None,
        classes: str | None = None,
        group: str | None = None,
        fixes: str | None = None,
        on_error: str = "exclude",
        check: str | bool = "warn",
        known: str | None = None,
        seed: int = 0,
        balance: str = "none",
        fit: str = "crop",
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.names = {"train": train, "val": val, "test": test}
        self.fractions = {"test": test_fraction, "val": val_fraction}
        self.batch_size, self.workers, self.source, self.seed = batch_size, workers, source, seed
        self.balance, self.fit, self.size = balance, fit, size
        texts = {"root": root, "file": file, "group": group, "fixes": fixes, "known": known}
        check = "off" if check is False else str(check)  # False is how YAML reads off
        options = {"classes": classes, "on_error": on_error, "check": check}
        self._check_arguments(texts, options)
        self.given_root, self.file, fixed, known_file = map(_place, (root, file, fixes, known))
        self.root = self.given_root or (self.file.parent if self.file else Path())
        self.how, self.group = classes, group
        self.wishes = Wishes(self.fractions, seed, check, on_error, group, fixed)
        self.known = Known(known_file)
        self.run: Path | None = None  # the folder of the run that these photos are for
        self.classes: list[str] = []
        self.splits: dict[str, list[Sample]] = {}
        self.settled: Settled | None = None
        self.cut: dict[str, str] = {}  # how splits came about that are no folders
        self.broken: dict[str, str] = {}  # photos of the splits that can't be decoded now, and why
        self.transforms: ImageClassification | None = None
        self.augment: Augment | None = None
        self.features: dict[str, Rows] = {}  # of splits that are read from the cache now
        self.white: dict[str, float] = {}  # in photos of more than 8 bits, see `deep`
        self.told: list[str] = []  # what was said of the photos before training
        self.contents: dict[str, str] = {}  # photo's path → sha256 of its bytes

    def _check_arguments(self, texts: dict[str, Any], options: dict[str, Any]) -> None:
        checks: dict[str, tuple[bool, object, str]] = {
            "batch_size": (_whole(self.batch_size, 1), self.batch_size, "a whole number from 1"),
            "workers": (_whole(self.workers, 0), self.workers, "a whole number from 0"),
            "fit": (self.fit in FITS, self.fit, f"one of {', '.join(FITS)}"),
            "size": (
                self.size is None or (_whole(self.size, 16) and self.size <= LARGEST),
                self.size,
                f"null for the weights' own, or a number of pixels from 16 to {LARGEST}",
            ),
            "balance": (self.balance in BALANCES, self.balance, f"one of {', '.join(BALANCES)}"),
        }
        for split, fraction in self.fractions.items():
            good = isinstance(fraction, int | float) and 0 < fraction < 1
            checks[f"{split}_fraction"] = (good, fraction, "between 0 and 1")
        for key, value in texts.items():
            needed = key == "root" and texts["file"] is None
            good = bool(value) if isinstance(value, str) else value is None and not needed
            checks[key] = (good, value, "a name" if needed else "a name or null")
        for split, name in self.names.items():
            good = isinstance(name, str) or (name is None and split != "train")
            checks[split] = (good, name, "the name of a folder" + " or null" * (split != "train"))
        valid = {
            "classes": (*CLASSES, None),
            "on_error": ("exclude", "fail", "list"),
            "check": ("warn", "strict", "off"),
        }
        for key, value in options.items():
            words = ", ".join("null" if v is None else v for v in valid[key])
            checks[key] = (value in valid[key], value, f"one of {words}")
        wrong = [
            f"expected data.{key} to be {valid}, got {value!r}"
            for key, (good, value, valid) in checks.items()
            if not good
        ]
        if wrong:
            raise UserError("The data settings can't be used: " + "; ".join(wrong) + ".")

    def of(self, run: Path | None) -> "PhotoFolder":
        """Make these the photos of a run, which may have begun already; returns itself."""
        self.run = run
        return self

    def shared_out(self, splits: dict[str, list[Sample]], cut: dict[str, str]) -> "PhotoFolder":
        """The same photos in other splits; what was read of them, and said, counts for both.

        Args:
            cut: how each split came about.
        """
        other = copy.copy(self)
        other.splits, other.cut, other.features = splits, cut, {}
        other.wishes = replace(self.wishes, check="off")
        return other

    def checked(self) -> "PhotoFolder":
        """Check what is there, without downloading or drawing; returns itself."""
        if self.source is None or self.root.is_dir():
            self.setup()
        return self

    def ready(self) -> "PhotoFolder":
        """Download or draw what is missing, and check all; returns itself."""
        self.prepare_data()
        self.setup()
        return self

    # --- splits -------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Download or draw the data, unless they are there."""
        if self.source is not None:
            self.source(root=self.root)

    def setup(self, stage: str | None = None) -> None:
        """Find the photos of each split, cut the splits that are missing, and check them.

        Raises:
            UserError: naming all that is wrong with the folder.
        """
        if self.splits:
            return
        if self.file:
            listing = table.read(self.file, self.given_root, self.names, self.group)
        else:
            listing = layout.read(self.root, self.names, self.how)
        goes_on = self.run is not None and (self.run / "split.json").exists()
        before = read.split(self.run).dropped if self.run and goes_on else None
        settled = settle(listing, self.wishes, self.known, before, self.run)
        for note in settled.notes:
            log.info(note)
        self.told = [f"{warning[0].upper()}{warning[1:]}." for warning in settled.warnings]
        for warning in self.told:
            log.warning("%s", warning)
        opened = [
            os.path.join(self.root, s.path) for k in ("train", "val") for s in settled.splits[k]
        ]
        if wrong := misnamed(opened):
            names = ", ".join(f"{count:,} {name}" for name, count in wrong.most_common())
            log.info("photos are known by their content, not by their name (%s)", names)
        self.white = white_of(opened)
        for kind, white in self.white.items():
            log.info("photos of more than 8 bits (%ss): %g is white, 0 is black", kind, white)
        self.settled, self.broken = settled, settled.broken
        self.classes, self.splits, self.cut = settled.classes, settled.splits, settled.cut

    def broke(self, path: str, reason: str) -> None:
        """Leave out a photo that can't be decoded any more; it is not replaced.

        Raises:
            UserError: `on_error` is `fail`, or these are too many.
        """
        if self.wishes.on_error == "fail":
            raise self.lost({path: reason}, ", and data.on_error is fail")
        if path in self.broken:
            return
        self.broken[path] = reason
        log.warning("%s can't be decoded any more (%s) and is left out.", self.root / path, reason)
        if self.wishes.on_error == "list":
            return
        for split, samples in self.splits.items():
            whole = {s.label for s in samples if s.path not in self.broken}
            lost = {s.label for s in samples} - whole
            if lost or len(self.broken) > MOST_BROKEN * sum(map(len, self.splits.values())):
                names = few(self.classes[label] for label in sorted(lost))
                raise self.lost(
                    self.broken,
                    f", which leaves {split} without {names}"
                    if lost
                    else f", more than {MOST_BROKEN:.0%} of all",
                )

    def lost(self, broken: Mapping[str, str], what: str = "") -> UserError:
        """That photos which were read before can't be decoded any more, and what to do.

        Args:
            broken: why, by path.
            what: follows of it.
        """
        begun = self.run is not None and (self.run / "split.json").exists()
        goes_on = f"; then resume={self.run} goes on" if begun else ""
        return UserError(
            f"{many(len(broken))} in {self.root} can't be decoded any more{what}:"
            f" {reasons(broken)}. Put back what was there ({door('check')} lists all that can't be"
            f" decoded){goes_on}."
        )

    def counts(self) -> dict[str, int]:
        """For `metrics.json`: photos that could not be decoded, and those that fixes changed."""
        assert self.settled is not None
        dropped = [drop["reason"].startswith("data.fixes") for drop in self.settled.dropped]
        return {
            "data/broken": len(dropped) - sum(dropped) + len(self.broken),
            "data/dropped": sum(dropped),
            "data/relabelled": len(self.settled.relabelled),
        }

    def describe_splits(self) -> dict[str, Any]:
        """Plain values for `split.json`."""
        assert self.settled is not None
        photos = {
            split: [
                {"path": s.path, "label": self.classes[s.label], "group": s.group} for s in samples
            ]
            for split, samples in self.splits.items()
        }
        about = {"root": str(self.root), "classes": self.classes, "cut": self.cut}
        changed = {"dropped": self.settled.dropped, "relabelled": self.settled.relabelled}
        return about | photos | changed | {"warnings": self.told}

    def digests(self, split: str) -> list[str]:
        """sha256 of each photo's bytes, read once; of one that broke, of its path.

        Raises:
            UserError: photos can't be read, and `on_error` is `fail`.
        """
        paths = [sample.path for sample in self.splits[split]]
        unread = [path for path in paths if path not in self.contents]
        try:
            found = self.known.digests([os.path.join(self.root, path) for path in unread])
        except OSError:  # one at least is gone: ask for each
            found = [self._digest(path) for path in unread]
        self.contents.update(zip(unread, found, strict=True))
        return [self.contents[path] for path in paths]

    def _digest(self, path: str) -> str:
        try:
            return self.known.digests([self.root / path])[0]
        except OSError as error:
            self.broke(path, error.strerror or str(error))
            return hashlib.sha256(os.fsencode(path)).hexdigest()

    def paths_by_digest(self) -> dict[str, Path]:
        """A file for each content that was read."""
        return {digest: self.root / path for path, digest in self.contents.items()}

    def class_shares(self) -> list[float]:
        """Each class's share of the train photos, in the order of the classes."""
        counts = Counter(sample.label for sample in self.splits["train"])
        return [counts[label] / counts.total() for label in range(len(self.classes))]

    def digest(self) -> str:
        """sha256 over the train and val photos: paths, labels and bytes."""
        sha = hashlib.sha256()
        for split in ("train", "val"):
            for sample, content in zip(self.splits[split], self.digests(split), strict=True):
                sha.update(os.fsencode(f"{split} {sample.path} {sample.label} {content}\n"))
        return sha.hexdigest()

    # --- loaders ------------------------------------------------------------------------------

    def train_dataloader(self) -> Batches:
        """Batches `{image: [B, 3, H, W], label: [B], index: [B]}`, augmented and shuffled."""
        if self.balance == "sampler":
            labels = [sample.label for sample in self.splits["train"]]
            shuffle: EpochShuffle = BalancedShuffle(labels, self.seed, *self._ranks())
        else:
            shuffle = EpochShuffle(len(self.splits["train"]), self.seed, *self._ranks())
        # BatchNorm can't train on a single photo; the shuffle leaves out another one each epoch.
        drop = len(shuffle) > self.batch_size and len(shuffle) % self.batch_size == 1
        return self._loader("train", sampler=shuffle, drop_last=drop)

    def seen_again(self) -> Batches:
        """The train photos as batches of the val loader's kind: in order, never augmented."""
        sampler = InOrder(len(self.splits["train"]), *self._ranks())
        return self._loader("train", augmented=False, sampler=sampler)

    def val_dataloader(self) -> Batches:
        """Batches as the train loader's, in order, never augmented."""
        return self._loader("val", sampler=InOrder(len(self.splits["val"]), *self._ranks()))

    def test_dataloader(self) -> Batches:
        """Batches as the val loader's."""
        return self._loader("test", sampler=InOrder(len(self.splits["test"]), *self._ranks()))

    def _ranks(self) -> tuple[int, int]:
        """This process's rank among how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, split: str, augmented: bool = True, **kwargs: Any) -> Batches:
        assert self.transforms is not None, "a backbone's transforms come first"
        augment = self.augment if split == "train" and augmented else None
        dataset = PhotoDataset(
            self.root, self.splits[split], self.transforms, augment, self.seed, self.white
        )
        loader = DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            **kwargs,
        )
        return Batches(split, loader, self.features, self)


def _whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _place(name: str | None) -> Path | None:
    return Path(os.path.expanduser(name)) if name is not None else None
