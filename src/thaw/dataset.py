"""Photos in an order and with an augmentation that are functions of (seed, epoch, index)."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from thaw.photos import load_photo
from thaw.splits import Sample


class PhotoDataset(Dataset):
    """Photos by `(epoch, index)`; augmentation is seeded by (seed, epoch, index)."""

    def __init__(
        self,
        root: Path,
        samples: list[Sample],
        transforms: Callable[[Any], Tensor],
        augment: Callable[[Any], Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.root, self.samples, self.seed = root, samples, seed
        self.transforms, self.augment = transforms, augment

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        sample = self.samples[index]
        image = load_photo(self.root / sample.path)
        if self.augment is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(mix(self.seed, epoch, index))
                image = self.augment(image)
        return {"image": self.transforms(image), "label": sample.label, "index": index}


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
        order = torch.randperm(self.size, generator=generator).tolist()
        order += order[: len(self) * self.ranks - self.size]
        return iter([(self.epoch, index) for index in order[self.rank :: self.ranks]])


class InOrder(Sampler[tuple[int, int]]):
    """`(0, index)` in order; ranks share them without repeating any, so metrics are exact."""

    def __init__(self, size: int, rank: int = 0, ranks: int = 1) -> None:
        self.indices = range(rank, size, ranks)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(0, index) for index in self.indices])


def mix(*numbers: int) -> int:
    """One seed from several numbers, so that neighbours get unrelated streams."""
    text = " ".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")
