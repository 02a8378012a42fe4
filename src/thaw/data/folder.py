"""A folder of photos as a LightningDataModule: splits, classes by name, loaders.

What a train batch holds is a function of (seed, epoch, index) alone: neither the number of loader
workers nor an interruption changes it.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from torchvision.transforms._presets import ImageClassification

from thaw.data.augment import Augment
from thaw.data.cache import Rows
from thaw.data.dataset import Batches, EpochShuffle, InOrder, PhotoDataset
from thaw.data.find import is_photo
from thaw.data.photos import broken_photos, digests, misnamed, white_of
from thaw.data.splits import Folder, Sample, cut
from thaw.errors import UserError

log = logging.getLogger(__name__)


class PhotoFolder(LightningDataModule):
    """Photos in `root/<split>/<class>/`, or in `root/<class>/` where nothing is split.

    A val or test split that isn't there is cut from the train split: stratified, seeded, and exact
    duplicates stay on one side. Classes are those of the train split, and hold for every split by
    name. Test photos are not opened before `test_dataloader` is asked for.

    Args:
        root: the folder.
        train: name of the train split's folder; likewise `val` and `test`.
        val_fraction: share of the photos that is cut for val; likewise `test_fraction`.
        batch_size: photos in a step.
        workers: loader processes; 0 loads in the training process.
        source: called with `root` first; downloads or draws the data unless they are there.
        seed: of the cut, the order and the augmentation.
    """

    def __init__(
        self,
        root: str,
        train: str = "train",
        val: str | None = "val",
        test: str | None = "test",
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        batch_size: int = 32,
        workers: int = 0,
        source: Callable[..., None] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(root).expanduser()
        self.names = {"train": train, "val": val, "test": test}
        self.fractions = {"test": test_fraction, "val": val_fraction}
        self.batch_size, self.workers, self.source, self.seed = batch_size, workers, source, seed
        self.classes: list[str] = []
        self.splits: dict[str, list[Sample]] = {}
        self.cut: dict[str, str] = {}  # how splits came about that are no folders
        self.transforms: ImageClassification | None = None
        self.augment: Augment | None = None
        self.features: dict[str, Rows] = {}  # of splits that are read from the cache now
        self.white: dict[str, float] = {}  # in photos of more than 8 bits, see `deep`
        self.contents: dict[str, str] = {}  # photo's path → sha256 of its bytes
        self._check_arguments()

    def _check_arguments(self) -> None:
        checks: dict[str, tuple[bool, object, str]] = {
            "batch_size": (_whole(self.batch_size, 1), self.batch_size, "a whole number from 1"),
            "workers": (_whole(self.workers, 0), self.workers, "a whole number from 0"),
        }
        for split, fraction in self.fractions.items():
            good = isinstance(fraction, int | float) and 0 < fraction < 1
            checks[f"{split}_fraction"] = (good, fraction, "between 0 and 1")
        wrong = [
            f"expected data.{key} to be {valid}, got {value!r}"
            for key, (good, value, valid) in checks.items()
            if not good
        ]
        if wrong:
            raise UserError("The data settings can't be used: " + "; ".join(wrong) + ".")

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
        folders = self._folders()
        train = Folder(folders["train"])
        self.classes = train.classes
        splits = {"train": self._samples(train)}
        problems = [
            f"class {name!r} has no photos in {folders['train']}"
            for label, name in enumerate(self.classes)
            if label not in {sample.label for sample in splits["train"]}
        ]
        if len(self.classes) < 2:
            problems.append(f"expected 2 classes or more in {folders['train']}, got {self.classes}")
        for split in ("val", "test"):
            if split in folders:
                folder = Folder(folders[split])
                splits[split] = self._samples(folder)
                problems += self._check_classes(folder, splits[split])
        if not problems:
            for split, fraction in self.fractions.items():  # test first, then val from the rest
                if split not in splits:
                    left = 1 - self.fractions["test"] * ("test" in self.cut)
                    share = min(fraction / left, 1.0)  # both are shares of all the photos
                    splits["train"], splits[split] = cut(
                        splits["train"], share, self.seed, self.root
                    )
                    self.cut[split] = f"{fraction:.0%} of the photos, stratified, seed {self.seed}"
            problems += [
                f"the {split} split has no photos"
                + (", since identical ones stay together; add photos" if split in self.cut else "")
                for split in splits
                if not splits[split]
            ]
        opened = [self.root / s.path for split in ("train", "val") for s in splits.get(split, [])]
        broken = [f"{path} ({why})" for path, why in broken_photos(opened).items()]
        if broken:
            problems.append("photos can't be decoded, repair or remove them: " + ", ".join(broken))
        if problems:
            raise UserError(
                f"The photos in {self.root} can't be used: " + "; ".join(problems) + "."
            )
        if wrong := misnamed(opened):
            names = ", ".join(f"{count:,} {name}" for name, count in wrong.most_common())
            log.info("photos are known by their content, not by their name (%s)", names)
        self.white = white_of(opened)
        for kind, white in self.white.items():
            log.info("photos of more than 8 bits (%ss): %g is white, 0 is black", kind, white)
        self.splits = {split: splits[split] for split in ("train", "val", "test")}

    def _folders(self) -> dict[str, Path]:
        if not self.root.is_dir():
            raise UserError(
                f"Expected a folder of photos in data.root={self.root}, but there is none; it holds"
                " one folder a class, or train/ and test/ with one folder a class in each."
            )
        folders = {
            split: self.root / name
            for split, name in self.names.items()
            if name is not None and (self.root / name).is_dir()
        }
        inside = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        if "train" not in folders:
            if folders or not inside:
                raise UserError(
                    f"Expected a folder {self.names['train']!r} in {self.root}, which holds"
                    f" {inside or 'no folders'}; set data.train, data.val and data.test to what"
                    " the splits are called."
                )
            if not any(is_photo(path) for name in inside for path in (self.root / name).iterdir()):
                raise UserError(
                    f"Expected class folders with photos, or a folder {self.names['train']!r}, in"
                    f" {self.root}, but its folders {inside} hold no photos themselves; set"
                    " data.train, data.val and data.test to what the splits are called."
                )
            folders["train"] = self.root  # only class folders: every split is cut from them
        return folders

    def _samples(self, folder: "Folder") -> list[Sample]:
        """Photos of a folder, with the train split's labels; unknown classes get -1."""
        labels = {name: label for label, name in enumerate(self.classes)}
        if folder.ignored:
            names = ", ".join(str(path.relative_to(self.root)) for path in folder.ignored[:3])
            log.info("files that are no photos are left out (%d): %s", len(folder.ignored), names)
        return [
            Sample(
                Path(path).relative_to(self.root).as_posix(),
                labels.get(folder.classes[label], -1),
            )
            for path, label in folder.samples
        ]

    def _check_classes(self, folder: "Folder", samples: list[Sample]) -> list[str]:
        unknown = [name for name in folder.classes if name not in self.classes]
        missing = [name for name in self.classes if name not in folder.classes]
        if missing and not unknown:
            log.warning("%s has no photos of %s.", folder.root, missing)
        if unknown:
            return [
                f"expected the classes of train {self.classes} in {folder.root}, which also has"
                f" {unknown}" + (f" and lacks {missing}" if missing else "")
            ]
        return []

    def describe_splits(self) -> dict[str, Any]:
        """Plain values for `split.json`."""
        paths = {split: [s.path for s in samples] for split, samples in self.splits.items()}
        return {"root": str(self.root), "classes": self.classes, "cut": self.cut, **paths}

    def digests(self, split: str) -> list[str]:
        """sha256 of each photo's bytes; read once."""
        paths = [sample.path for sample in self.splits[split]]
        unread = [path for path in paths if path not in self.contents]
        found = digests([self.root / path for path in unread])
        self.contents.update(zip(unread, found, strict=True))
        return [self.contents[path] for path in paths]

    def paths_by_digest(self) -> dict[str, Path]:
        """A file for each content that was read."""
        return {digest: self.root / path for path, digest in self.contents.items()}

    def digest(self) -> str:
        """sha256 over the train and val photos: paths, labels and bytes."""
        sha = hashlib.sha256()
        for split in ("train", "val"):
            for sample, content in zip(self.splits[split], self.digests(split), strict=True):
                facts = f"{split} {sample.path} {sample.label} {content}\n"
                sha.update(facts.encode("utf-8", "surrogateescape"))
        return sha.hexdigest()

    # --- loaders ------------------------------------------------------------------------------

    def train_dataloader(self) -> Batches:
        """Batches `{image: [B, 3, H, W], label: [B], index: [B]}`, augmented and shuffled."""
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
            **kwargs,
        )
        return Batches(split, loader, self.features)


def _whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low
