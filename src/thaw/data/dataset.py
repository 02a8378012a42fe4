"""Photos in an order and with an augmentation that are functions of (seed, epoch, index)."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from torchvision.transforms import functional as F
from torchvision.transforms._presets import ImageClassification

from thaw.data.augment import Augment, Views, augmented, mix, shortened
from thaw.data.cache import Rows
from thaw.data.photos import BrokenPhoto, load_photo
from thaw.data.pixels.deep import White
from thaw.data.pixels.resize import MOST, REACH, ResizeAndCrop
from thaw.data.splits import Sample
from thaw.data.stream import decoders

AGAIN = 2**20  # epochs; added for a photo that comes again in one, which is then another view of it


class PhotoDataset(Dataset):
    """Photos by `(epoch, index)`; augmentation is seeded by (seed, epoch, index).

    Args:
        white: of photos of more than 8 bits, see `deep`.
    """

    def __init__(
        self,
        root: Path,
        samples: list[Sample],
        transforms: ImageClassification,
        augment: Augment | None = None,
        seed: int = 0,
        white: White | None = None,
    ) -> None:
        self.root, self.samples, self.seed, self.white = root, samples, seed, white
        self.transforms, self.augment = transforms, augment

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        sample = self.samples[index]
        image = load_photo(self.root / sample.path, self.white)
        if self.augment is not None:
            image = augmented(self.augment, image, self.seed, epoch, index)
        return {"image": seen(self.transforms, image), "label": sample.label, "index": index}

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any]]:
        """A batch, as `DataLoader` asks for it; `collate` knows what to do with broken photos."""
        with decoders() as pool:
            return list(pool.map(self._try, keys))

    def _try(self, key: tuple[int, int]) -> dict[str, Any]:
        try:
            return self[key]
        except BrokenPhoto as error:  # it couldn't leave a worker's process as what it is
            return {"broken": (self.samples[key[1]].path, error.reason)}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of those photos that decode; under `broken` the others' paths, and why."""
    whole = [item for item in items if "broken" not in item]
    batch = default_collate(whole) if whole else {}
    broken = [item["broken"] for item in items if "broken" in item]
    return batch | ({"broken": broken} if broken else {})


def cropped(see: ImageClassification, image: Any) -> Any:
    """The part of a PIL image that weights see, in the size that they see it.

    The pixels are those of torchvision's resize and centre crop; a photo whose one side is many
    times the other's is cropped first.
    """
    how, (crop,) = see.interpolation, see.crop_size
    if (before := getattr(see, "before", None)) is not None:
        image = before(image)  # padded to the square
    if len(see.resize_size) == 1:
        (short, long), (side,) = sorted(image.size), see.resize_size
        if side * side * long / short > MOST * crop * crop:
            if how.value in REACH:
                return ResizeAndCrop(see.resize_size, crop, how.value).strip(image)
            image = shortened(image)
    resized = F.resize(image, see.resize_size, interpolation=how, antialias=see.antialias)
    return F.center_crop(resized, see.crop_size)


def cut_away(see: ImageClassification, width: int, height: int) -> float:
    """Share of the area of a photo of so many pixels that its weights don't see, 0 to 1."""
    if hasattr(see, "before"):
        return 0.0
    short = min(width, height)
    if len(see.resize_size) == 2:
        resized = [float(length) for length in see.resize_size]
    else:
        resized = [see.resize_size[0] * side / short for side in (height, width)]
    seen = [min(1.0, see.crop_size[0] / length) for length in resized]
    return 1.0 - seen[0] * seen[1]


def mean_cut_away(see: ImageClassification, photos: Sequence[str], most: int = 500) -> float:
    """Mean share of photos' areas that weights don't see; headers are read, of at most so many."""
    shares = []
    for path in photos[:: max(1, -(-len(photos) // most))]:
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
                shares.append(cut_away(see, *image.size))
        except Exception:  # whatever is wrong with it is told elsewhere
            continue
    return sum(shares) / max(1, len(shares))


def pixels(see: ImageClassification, image: Image.Image) -> Tensor:
    """What weights see of a PIL image, before it is normalised: uint8 `[3, H, W]`.

    This and `normalised` do what torchvision's `ImageClassification.forward` does, to the bit; what
    is alike for all pixels is done to a batch at once there, which is faster.
    """
    return F.pil_to_tensor(cropped(see, image))


def normalised(see: ImageClassification, batch: Tensor) -> Tensor:
    """Images as a net wants them, float32 `[B, 3, H, W]`, of uint8 `pixels`."""
    return F.normalize(F.convert_image_dtype(batch, torch.float), mean=see.mean, std=see.std)


def seen(see: ImageClassification, image: Image.Image) -> Tensor:
    """What a net gets to see of a PIL image, `[3, H, W]`."""
    return normalised(see, pixels(see, image))


class EpochShuffle(Sampler[tuple[int, int]]):
    """`(epoch, index)` in an order that is a function of (seed, epoch); split among ranks.

    Lightning calls `set_epoch`. Ranks get equally many, as DDP needs: the first few are repeated.
    """

    def __init__(self, size: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.size, self.seed, self.rank, self.ranks, self.epoch = size, seed, rank, ranks, 0

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch's order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.ranks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = self._order(generator)
        order += order[: len(self) * self.ranks - self.size]
        return iter(order[self.rank :: self.ranks])

    def _order(self, generator: torch.Generator) -> list[tuple[int, int]]:
        order = torch.randperm(self.size, generator=generator)
        return [(self.epoch, index) for index in order.tolist()]


class BalancedShuffle(EpochShuffle):
    """As `EpochShuffle`, with equally many of each class in an epoch of as many photos.

    Of a class with many photos each epoch sees others; those of one with few come again and again,
    each time in another augmentation.
    """

    def __init__(self, labels: Sequence[int], seed: int, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(len(labels), seed, rank, ranks)
        kinds = torch.tensor(labels)
        self.members = [(kinds == label).nonzero()[:, 0] for label in kinds.unique()]

    def _order(self, generator: torch.Generator) -> list[tuple[int, int]]:
        classes = len(self.members)
        more = torch.randperm(classes, generator=generator) < self.size % classes
        drawn: list[tuple[int, int]] = []
        for photos, one in zip(self.members, more.tolist(), strict=True):
            for place in range(0, self.size // classes + one, len(photos)):
                wanted = min(len(photos), self.size // classes + one - place)
                chosen = photos[torch.randperm(len(photos), generator=generator)[:wanted]]
                again = self.epoch + place // len(photos) * AGAIN
                drawn += [(again, index) for index in chosen.tolist()]
        return [drawn[i] for i in torch.randperm(len(drawn), generator=generator).tolist()]


class InOrder(Sampler[tuple[int, int]]):
    """`(0, index)` in order; ranks share them without repeating any, so metrics are exact."""

    def __init__(self, size: int, rank: int = 0, ranks: int = 1) -> None:
        self.indices = range(rank, size, ranks)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(0, index) for index in self.indices])


class Watch(Protocol):
    """Who keeps count of photos that can't be decoded."""

    broken: dict[str, str]

    def broke(self, path: str, reason: str) -> None:
        """Note it, or raise."""
        ...


class Batches:
    """A split's batches from its photos, or from their features as soon as there are some.

    `{image: [B, 3, H, W], label: [B], index: [B]}`, with `features: [B, …]` in place of `image`. To
    Lightning it is a loader; nothing is started anew when features come or go.

    A photo that breaks is left out of its batch, and never replaced: the others' order stays.

    Args:
        features: what there is now, by split; of train, all photos in each view.
        watch: is told of photos that break.
    """

    def __init__(
        self, split: str, loader: DataLoader, features: Mapping[str, Rows], watch: Watch
    ) -> None:
        self.split, self.loader, self.features, self.watch = split, loader, features, watch
        assert isinstance(loader.dataset, PhotoDataset)
        self.dataset = loader.dataset
        self.views = Views(loader.dataset.augment)

    @property
    def batch_sampler(self) -> Any:
        """The loader's, whose sampler's epoch Lightning sets."""
        return self.loader.batch_sampler

    @property
    def sampler(self) -> Any:
        """The order of the photos."""
        return self.loader.sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows = self.features.get(self.split)
        if rows is None:
            for batch in self.loader:
                for path, reason in batch.pop("broken", ()):
                    self.watch.broke(path, reason)
                if batch:
                    yield batch
            return
        photos, seed = self.dataset.samples, self.dataset.seed
        for every in self.batch_sampler:
            batch = [key for key in every if photos[key[1]].path not in self.watch.broken]
            if not batch:
                continue
            places = [
                index + len(photos) * self.views.chosen(seed, epoch, index)
                for epoch, index in batch
            ]
            yield {
                "features": rows.take(places),
                "label": torch.tensor([photos[index].label for _, index in batch]),
                "index": torch.tensor([index for _, index in batch]),
            }
