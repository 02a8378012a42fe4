"""How a photo is made to fit the square that a net sees: cropped, squashed or padded; its side."""

from collections.abc import Mapping
from typing import Any

import torch
from torchvision.transforms import functional as F
from torchvision.transforms._presets import ImageClassification

from thaw.errors import UserError

FITS = ("crop", "squash", "pad")
LARGEST = 2048  # pixels; a net takes gigabytes for larger photos


class Padded(ImageClassification):
    """Transforms that see the whole photo in its proportions, black where it doesn't reach."""

    def before(self, image: Any) -> Any:
        """A photo as large as fits into the square, in the middle of it."""
        side, longest = self.crop_size[0], max(image.size)
        width, height = (max(1, side * length // longest) for length in image.size)
        how = {"interpolation": self.interpolation, "antialias": self.antialias}
        return F.center_crop(F.resize(image, [height, width], **how), [side])

    def forward(self, img: Any) -> torch.Tensor:
        """PIL image → `[3, S, S]`, normalised."""
        return super().forward(self.before(img))


def fitted(
    see: ImageClassification, fit: str = "crop", size: int | None = None
) -> ImageClassification:
    """The same transforms, with photos fitted otherwise.

    Args:
        fit: `crop` is what weights are published with: the shorter side is resized, and the centre
            cut out. `squash` resizes the whole photo to the square, `pad` keeps its proportions.
        size: the square's side in pixels; None for the weights' own. `crop` then shows as much of a
            photo as before.
    """
    side = size or see.crop_size[0]
    if fit == "crop" and size is None:
        return see
    kind = Padded if fit == "pad" else ImageClassification
    made = kind(
        crop_size=side,
        mean=tuple(see.mean),
        std=tuple(see.std),
        interpolation=see.interpolation,
        antialias=see.antialias,
    )
    scale = side / see.crop_size[0]
    own = [max(side, round(length * scale)) for length in see.resize_size]
    made.resize_size = own if fit == "crop" else [side, side]
    return made


def check_side(net: torch.nn.Module, name: str, side: int) -> None:
    """Run an empty photo through a net, whose positions, windows or pools may want another size.

    Raises:
        UserError: it can't see photos of this side.
    """
    training = net.training
    net.eval()
    try:
        with torch.inference_mode():
            net(torch.zeros(1, 3, side, side))
    except Exception as error:  # whatever the net says of it
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"{name} can't see photos of {side} pixels (data.size={side}): {reason}. Choose another"
            " data.size, such as a multiple of 32, or data.size=null."
        ) from error
    finally:
        net.train(training)


def seen(data: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings of `data`, what a net's builder is told: nothing where they are the usual ones.

    What can't be used is left out; the photos' own check says so.
    """
    fit, size = data.get("fit", "crop"), data.get("size")
    told = {"fit": fit} if fit in FITS[1:] else {}
    return told | ({"size": size} if isinstance(size, int) and 16 <= size <= LARGEST else {})
