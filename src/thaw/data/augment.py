"""What varies in training: a function of (seed, epoch, index), and which views it can make."""

import hashlib
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from thaw.errors import UserError

Augment = Callable[[Any], Any]
_one_generator = Lock()  # torchvision draws from the process's, which threads share
LONG = 32  # times the shorter side
FLIPS = {
    v1.RandomHorizontalFlip: F.horizontal_flip,
    v2.RandomHorizontalFlip: F.horizontal_flip,
    v1.RandomVerticalFlip: F.vertical_flip,
    v2.RandomVerticalFlip: F.vertical_flip,
}


def augmented(augment: Augment, image: Any, seed: int, epoch: int, index: int) -> Any:
    """The image as this epoch sees it: neither workers nor an interruption change it."""
    if not Views(augment).few:  # it may resize
        image = shortened(image)
    with _one_generator, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(seed, epoch, index))
        return augment(image)


def shortened(image: Image.Image) -> Image.Image:
    """The middle of a photo whose one side is more than `LONG` times the other.

    A resize of the shorter side would enlarge the longer without bound.
    """
    width, height = image.size
    most = LONG * min(width, height)
    left, top = max(0, width - most) // 2, max(0, height - most) // 2
    return image.crop((left, top, width - left, height - top)) if left or top else image


class Views:
    """The views of a photo that an augmentation chooses from, where they are few.

    Args:
        augment: None and `Identity` have one view; torchvision's random flips have two.
    """

    def __init__(self, augment: Augment | None) -> None:
        self.augment = None if isinstance(augment, v2.Identity) else augment
        self.flip = FLIPS.get(type(self.augment))

    @property
    def few(self) -> bool:
        """Whether there are so few that each can be computed once."""
        return self.augment is None or self.flip is not None

    @property
    def makers(self) -> list[Augment]:
        """What makes each view of an image; the first leaves it as it is."""
        return [v2.Identity(), *([self.flip] if self.flip else [])]

    def chosen(self, seed: int, epoch: int, index: int) -> int:
        """Which of the views `augmented` makes: seen on a picture of two by two pixels."""
        if self.augment is None or self.flip is None:
            return 0
        marked = Image.new("L", (2, 2))
        marked.putpixel((0, 0), 255)
        seen = augmented(self.augment, marked, seed, epoch, index)
        return int(seen.getpixel((0, 0)) == 0)


def mix(*numbers: int) -> int:
    """One seed from several numbers, so that neighbours get unrelated streams."""
    text = " ".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")


def check_augment(augment: Augment | None) -> Augment | None:
    """The same, once it has made a photo of a photo.

    Raises:
        UserError: it raised, or made something else.
    """
    if augment is None:
        return None
    photo = Image.new("RGB", (320, 240))
    try:
        made = augmented(augment, photo, seed=0, epoch=0, index=0)
    except Exception as error:  # whatever a transform makes of its arguments, only now
        raise UserError(f"The settings of augment can't be used: {error}.") from error
    if not isinstance(made, Image.Image) or made.mode != "RGB":
        raise UserError(
            "Expected augment to make an RGB photo (PIL) of one, which a net's own transforms then"
            f" turn into a tensor, got {type(made).__name__}."
        )
    return augment
