"""Pictures for loggers: a batch as the net sees it, its first filters, and thumbnails."""

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import functional as F

from thaw.data import grid
from thaw.data.augment import augmented
from thaw.data.dataset import cropped
from thaw.data.folder import PhotoFolder
from thaw.data.photos import BrokenPhoto, load_photo
from thaw.nets.backbone import Backbone
from thaw.report.movement import Movement

SEEN = 16  # photos of a batch that are shown
MOST = 64  # filters
SPRITE = 40  # pixels of a thumbnail in the projector


def batch(data: PhotoFolder) -> Image.Image:
    """Some train photos as the net sees them in the first epoch: augmented, then cropped."""
    see, samples = data.transforms, data.splits["train"]
    assert see is not None
    tiles = []
    for index in range(0, len(samples), -(-len(samples) // SEEN)):
        try:
            photo = load_photo(data.root / samples[index].path, data.white)
        except BrokenPhoto:
            continue
        if data.augment is not None:
            photo = augmented(data.augment, photo, data.seed, 0, index)
        tiles.append((cropped(see, photo), data.classes[samples[index].label], "black"))
    return grid.draw(tiles, "Train photos as the net sees them", side=160)


def filters(backbone: Backbone, movement: Movement) -> dict[str, Image.Image]:
    """The filters of the first layer, as they were and as they are; {} where it sees no colours."""
    found = next(
        ((n, m) for n, m in backbone.net.named_modules() if isinstance(m, nn.Conv2d)), None
    )
    if found is None or found[1].in_channels != 3:
        return {}
    name = f"{found[0]}.weight"
    before = next((w[name] for w in movement.began.values() if name in w), None)
    if before is None:
        return {"6 first filters, unchanged": _filters(found[1].weight)}
    made = {"before": _filters(before), "now": _filters(found[1].weight)}
    return {f"6 first filters {what}": picture for what, picture in made.items()}


def _filters(weight: Tensor) -> Image.Image:
    """Filters `[n, 3, h, w]` side by side, each stretched to the range of its weights."""
    kernels = weight.detach().float().cpu()[:MOST]
    low, high = kernels.amin(dim=(1, 2, 3), keepdim=True), kernels.amax(dim=(1, 2, 3), keepdim=True)
    kernels = (kernels - low) / (high - low).clamp(min=1e-12)
    columns = min(8, len(kernels))
    tile, gap = 48, 6
    rows = math.ceil(len(kernels) / columns)
    size = (columns * (tile + gap) + gap, rows * (tile + gap) + gap)
    picture = Image.new("RGB", size, "white")
    for i, kernel in enumerate(kernels):
        one = F.to_pil_image(kernel).resize((tile, tile), Image.Resampling.NEAREST)
        picture.paste(one, (gap + i % columns * (tile + gap), gap + i // columns * (tile + gap)))
    return picture


def sprites(data: PhotoFolder, photos: Sequence[str]) -> Tensor:
    """Thumbnails of photos `[N, 3, SPRITE, SPRITE]`, from 0 to 1; grey where one doesn't decode."""

    def small(photo: str) -> Tensor:
        try:
            path = data.root / photo
            return F.to_tensor(_thumbnail(path, path.stat().st_mtime_ns, *data.white.items()))
        except (BrokenPhoto, OSError):
            return F.to_tensor(Image.new("RGB", (SPRITE, SPRITE), "grey"))

    with ThreadPoolExecutor() as pool:
        return torch.stack(list(pool.map(small, photos)))


@lru_cache(maxsize=4096)  # 20 MB: the jobs of a sweep show the same photos
def _thumbnail(path: Path, changed: int, *white: tuple[str, float]) -> Image.Image:
    return ImageOps.fit(load_photo(path, dict(white), least=SPRITE), (SPRITE, SPRITE))


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
