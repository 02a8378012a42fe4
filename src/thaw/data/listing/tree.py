"""The photos below a folder by the parts of their paths, and what of these may be a class."""

import os
import re
from pathlib import Path

from thaw.data.find import is_clutter, walk

CALLED = {  # what people call splits, in lower case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
CLASSES = ("top", "leaf", "path", "name")
# `cat.0.jpg`, `dog_12.jpg`, `Siamese cat (3).jpg`: a word, and a number that sets photos apart.
NAMED = re.compile(r"([^\W\d_][^\d/]*?)[\s._(-]*\d+[)]?\.\w+$")

Parts = tuple[str, ...]  # of a path below a folder


class Tree:
    """The photos below a folder, and what else lies there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        photos, self.left_out = walk(root)
        begin = len(os.path.join(root, ""))
        self.photos: list[Parts] = [tuple(path[begin:].split(os.sep)) for path in photos]
        self.passed = {left.path for left in self.left_out}

    def folders(self, below: Parts = ()) -> list[str]:
        """Folders in a folder, without what systems leave there."""
        folder = self.root.joinpath(*below)
        names = sorted(name for name in os.listdir(folder) if not is_clutter(name))
        return [n for n in names if (folder / n).is_dir() and folder / n not in self.passed]

    def below(self, folder: Parts) -> list[Parts]:
        """Photos below a folder, as parts of their paths below it."""
        depth = len(folder)
        return [p[depth:] for p in self.photos if p[:depth] == folder and len(p) > depth]


def label_of(parts: Parts, classes: str | None) -> str | None:
    """The class of a photo with this path below its split; None where it has none.

    >>> [label_of(("pets", "cat", "1.jpg"), how) for how in ("top", "leaf", "path")]
    ['pets', 'cat', 'pets/cat']
    >>> label_of(("cat.0.jpg",), "name")
    'cat'
    """
    if classes == "name":
        match = NAMED.match(parts[-1])
        return match[1] if match else None
    if len(parts) < 2:
        return None
    if classes == "path":
        return "/".join(parts[:-1])
    return parts[-2] if classes == "leaf" else parts[0]
