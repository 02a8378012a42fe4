"""Pillow's resize and torchvision's centre crop, of the part alone that will be seen.

The Resize operators of ONNX and torch come close to Pillow; this gives its very pixels. Pillow's
algorithm (`Resample.c`) is a weighted mean along one axis, rounded to 8 bits, then along the other.
As tensor operations a graph can hold it; and a photo of 1 by 60,000 pixels costs nothing, of which
Pillow would make 256 by 15 million before the crop.
"""

import PIL
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional as F

from thaw.errors import UserError

FRACTION = 2.0**22  # Pillow rounds its weights to this fraction
BLOCK = 16  # output pixels that share one gathered stretch of the input
REACH = {"bilinear": 1, "bicubic": 2}  # how far a filter sees, in output pixels
MOST = 16  # times the crop's area: what Pillow may resize to
# Since then a photo whose height shrinks by more than twice as many pixels as its width is resized
# along its height first; before, every photo along its width.
TALL_FIRST = int(PIL.__version__.partition(".")[0]) >= 13


class ResizeAndCrop(nn.Module):
    """Photos `[B, H, W, 3]` of any size → their centre `[B, crop, crop, 3]`, both uint8.

    The same pixels as `torchvision.transforms.functional.resize` and `center_crop` give of a PIL
    image: black around the photo where it is smaller than the crop.

    Args:
        resize_size: of the shorter side, or height and width, or none: the longer side is made as
            long as the crop.
        crop_size: side of the square.
        interpolation: `bilinear` or `bicubic`.

    Raises:
        UserError: another interpolation.
    """

    def __init__(self, resize_size: list[int], crop_size: int, interpolation: str) -> None:
        super().__init__()
        if interpolation not in REACH:
            raise UserError(
                f"Expected a net whose photos are resized by one of {list(REACH)}, got"
                f" {interpolation!r}; it can't be exported."
            )
        self.resize_size, self.crop_size, self.interpolation = resize_size, crop_size, interpolation

    def forward(self, images: Tensor) -> Tensor:
        """Photos `[B, H, W, 3]` → `[B, crop, crop, 3]`."""
        rows, columns, tall = self._plan(*(_number(size) for size in images.shape[1:3]))
        given = (images, *rows, *columns)
        if TALL_FIRST:
            pixels = torch.cond(tall, _along_height_first, _along_width_first, given)
        else:
            pixels = _along_width_first(*given)
        return pixels[:, : self.crop_size, : self.crop_size]

    def strip(self, image: Image.Image) -> Image.Image:
        """As `forward`, of a PIL image, of which only the part that is seen becomes a tensor."""
        height, width = _number(image.height), _number(image.width)
        (rows, down), (columns, across), tall = self._plan(height, width)
        top, left = int(rows.min()), int(columns.min())
        part = image.crop((left, top, int(columns.max()) + 1, int(rows.max()) + 1))
        given = (
            F.pil_to_tensor(part).permute(1, 2, 0)[None],
            rows - top,
            down,
            columns - left,
            across,
        )
        pixels = _along_height_first(*given) if tall and TALL_FIRST else _along_width_first(*given)
        return F.to_pil_image(pixels[0, : self.crop_size, : self.crop_size].permute(2, 0, 1))

    def _plan(
        self, height: Tensor, width: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
        """Taps of rows and of columns, and whether the rows are to be resized first."""
        if len(self.resize_size) == 2:
            new_height, new_width = (_number(size) for size in self.resize_size)
        elif not self.resize_size:
            longest = torch.maximum(height, width)
            new_height = (self.crop_size * height / longest).floor().clamp(min=1)
            new_width = (self.crop_size * width / longest).floor().clamp(min=1)
        else:  # the longer side in proportion, rounded down
            (short,) = self.resize_size
            new_height = (short * height / width).floor().clamp(min=short)
            new_width = (short * width / height).floor().clamp(min=short)
        less_high, less_wide = height - new_height, width - new_width
        tall = (less_high > 0) & (less_high > 2 * less_wide)
        return self._taps(height, new_height), self._taps(width, new_width), tall

    def _taps(self, size: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Which input pixels the crop's pixels are made of, along one axis of `size` pixels.

        Returns:
            Indices `[blocks, span]` and Pillow's whole-numbered weights `[blocks, BLOCK, span]`.
        """
        over = (new - self.crop_size) / 2
        offset = torch.where(over < 0, over.ceil(), over.round())  # as center_crop pads, and rounds
        blocks = -(-self.crop_size // BLOCK)
        made = torch.arange(blocks * BLOCK, dtype=torch.float64).view(blocks, BLOCK, 1) + offset
        scale = size / new
        stretch = scale.clamp(min=1)
        centre, reach = (made + 0.5) * scale, REACH[self.interpolation] * stretch
        first = (centre - reach + 0.5).floor().clamp(min=0)
        end = (centre + reach + 0.5).floor().minimum(size)
        span = (end[:, -1] - first[:, 0]).max().long().item()
        torch._check(span > 0)
        position = first[:, :1] + torch.arange(span, dtype=torch.float64)  # [blocks, 1, span]
        weights = _filter((position - centre + 0.5) * (1 / stretch), self.interpolation)
        weights = torch.where((position >= first) & (position < end), weights, 0.0)
        weights = weights / weights.sum(dim=2, keepdim=True) * FRACTION
        weights = torch.where(weights < 0, (weights - 0.5).ceil(), (weights + 0.5).floor())
        inside = (made >= 0) & (made < new)
        index = position.minimum(size - 1).long().squeeze(1)
        return index, torch.where(inside, weights, 0.0)


def _number(value: int) -> Tensor:
    return torch.full((), value, dtype=torch.float64)


def _filter(distance: Tensor, interpolation: str) -> Tensor:
    x = distance.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    a = -0.5  # Keys' cubic
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _resize(images: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Along the height: `[B, H, W, 3]` → `[B, blocks * BLOCK, W, 3]`; exact, for sums are whole."""
    batch, _, width, colours = images.shape
    pixels = images[:, index].flatten(3).double()  # [B, blocks, span, W * 3]
    resized = ((weights @ pixels) / FRACTION + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return resized.view(batch, -1, width, colours)


def _resize_width(images: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    return _resize(images.transpose(1, 2), index, weights).transpose(1, 2)


def _along_width_first(
    images: Tensor, rows: Tensor, row_weights: Tensor, columns: Tensor, column_weights: Tensor
) -> Tensor:
    images, rows = _used(images, rows)
    return _resize(_resize_width(images, columns, column_weights), rows, row_weights).contiguous()


def _along_height_first(
    images: Tensor, rows: Tensor, row_weights: Tensor, columns: Tensor, column_weights: Tensor
) -> Tensor:
    images, columns = _used(images.transpose(1, 2), columns)
    images = images.transpose(1, 2)
    return _resize_width(_resize(images, rows, row_weights), columns, column_weights).contiguous()


def _used(images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that an index takes from images, one block's after another's, and where they are."""
    blocks, span = index.shape
    return images[:, index.flatten()], torch.arange(blocks * span).view(blocks, span)
