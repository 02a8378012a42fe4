"""Find the photos of a folder, and cut a share of them off."""

import hashlib
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder

from thaw.data.find import is_photo


@dataclass(frozen=True)
class Sample:
    """A photo, its path relative to the data's root, and its class as an index."""

    path: str
    label: int


class Folder(ImageFolder):
    """ImageFolder that passes over hidden folders and keeps what it ignored."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            str(root), is_valid_file=lambda path: is_photo(path, root), allow_empty=True
        )
        photos = {path for path, _ in self.samples}
        below = (path for name in self.classes for path in sorted((root / name).rglob("*")))
        self.ignored = [path for path in below if path.is_file() and str(path) not in photos]

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Folders in name order, as ImageFolder, without hidden ones."""
        found = (path for path in Path(directory).iterdir() if path.is_dir())
        classes = sorted(path.name for path in found if not path.name.startswith("."))
        return classes, {name: label for label, name in enumerate(classes)}


def cut(
    samples: list[Sample], fraction: float, seed: int, root: Path
) -> tuple[list[Sample], list[Sample]]:
    """Cut a share of each class off: (kept, cut off), both in the order of `samples`.

    Photos with the same bytes stay together, whatever their names; each class keeps a photo at
    least, and gives one where it has two.
    """
    groups: dict[Any, list[Sample]] = defaultdict(list)
    sizes: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        sizes[(root / sample.path).stat().st_size].append(sample)
    for size, same in sizes.items():  # only photos of one size can be the same: few are read
        for sample in same:
            content = (root / sample.path).read_bytes() if len(same) > 1 else b""
            groups[size, hashlib.sha256(content).digest()].append(sample)
    order = sorted(groups.values(), key=lambda group: group[0].path)
    random.Random(seed).shuffle(order)

    counts = Counter(sample.label for sample in samples)
    wanted = {
        label: min(max(round(fraction * count), 1), count - 1) for label, count in counts.items()
    }
    off: set[Sample] = set()
    for group in order:
        needs = Counter(sample.label for sample in group)  # the same photo may be in two classes
        if all(needs[label] <= wanted[label] for label in needs):
            off.update(group)
            for label in needs:
                wanted[label] -= needs[label]
    return [s for s in samples if s not in off], [s for s in samples if s in off]
