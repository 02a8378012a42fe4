"""The exported resize: Pillow's pixels, every one of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from thaw.data.pixels.resize import ResizeAndCrop
from thaw.errors import UserError


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.cond` compiles what it is given, which takes seconds and changes nothing."""

    def cond(condition, yes, no, operands):
        return yes(*operands) if condition else no(*operands)

    monkeypatch.setattr(torch, "cond", cond)


def noise(width: int, height: int) -> Image.Image:
    """Pixels that are 0 or 255 half of the time, for sums that leave 0 to 255."""
    pixels = np.random.default_rng(width + 1000 * height).integers(-200, 456, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def by_torchvision(image: Image.Image, resize: list[int], crop: int, how: str) -> torch.Tensor:
    resized = F.resize(image, resize, interpolation=InterpolationMode(how))
    return F.pil_to_tensor(F.center_crop(resized, [crop])).permute(1, 2, 0)


def by_thaw(image: Image.Image, resize: list[int], crop: int, how: str) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image))
    return ResizeAndCrop(resize, crop, how)(pixels[None])[0]


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "resize", "crop"),
    [
        pytest.param((150, 110), [64], 56, id="landscape"),
        pytest.param((110, 150), [64], 56, id="portrait"),
        pytest.param((101, 77), [33], 32, id="odd margins"),
        pytest.param((64, 64), [64], 50, id="nothing to resize"),
        pytest.param((20, 13), [48], 40, id="enlarged"),
        pytest.param((40, 300), [32], 32, id="very tall"),
        pytest.param((300, 40), [32], 32, id="very wide"),
        pytest.param((90, 70), [24], 40, id="smaller than the crop"),
        pytest.param((70, 71), [23], 40, id="an odd amount smaller than the crop"),
        pytest.param((70, 25), [20], 40, id="smaller in one direction"),
        pytest.param((120, 90), [48, 48], 48, id="squashed landscape"),
        pytest.param((90, 120), [48, 48], 48, id="squashed portrait"),
        pytest.param((90, 120), [40, 56], 40, id="height and width"),
        pytest.param((1, 1), [8], 8, id="one pixel"),
        pytest.param((1000, 750), [36], 32, id="much smaller"),
    ],
)
def test_the_pixels_are_those_of_pillow(size, resize, crop, how):
    image = noise(*size)
    expected = by_torchvision(image, resize, crop, how)
    assert torch.equal(by_thaw(image, resize, crop, how), expected)


def test_sizes_by_chance():
    chance = np.random.default_rng(0)
    for _ in range(60):
        width, height = chance.integers(1, 120, 2).tolist()
        resize, crop = chance.integers(1, 70, 2).tolist()
        how = ["bilinear", "bicubic"][chance.integers(2)]
        sides = [resize] * int(chance.integers(1, 3))
        expected = by_torchvision(noise(width, height), sides, crop, how)
        found = by_thaw(noise(width, height), sides, crop, how)
        assert torch.equal(found, expected), (width, height, sides, crop, how)


def test_a_batch_is_its_photos():
    images = [noise(60, 45), noise(60, 45).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    batch = torch.stack([torch.from_numpy(np.array(image)) for image in images])
    found = ResizeAndCrop([32], 28, "bicubic")(batch)
    assert torch.equal(
        found, torch.stack([by_thaw(image, [32], 28, "bicubic") for image in images])
    )


def test_other_interpolations_are_refused():
    with pytest.raises(UserError, match="lanczos"):
        ResizeAndCrop([32], 28, "lanczos")
