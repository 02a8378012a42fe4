"""Grad-CAM: heat lies where the label comes from, in every kind of net."""

import numpy as np
import pytest
import torch
from conftest import refusal
from PIL import Image
from torch import nn
from torchvision.transforms._presets import ImageClassification

from thaw.data import grid as photo_grid
from thaw.model import explain
from thaw.model.bundle import Model
from thaw.nets import pretrained
from thaw.nets.backbone import Backbone


def model(backbone: Backbone, classes: int = 3) -> Model:
    torch.manual_seed(0)
    backbone.reset_head(classes)
    names = [f"c{i}" for i in range(classes)]
    info = {"arch": backbone.origin, "classes": names, "temperature": 1.0, "threshold": None}
    return Model(backbone, info)


class Red(nn.Sequential):
    """Says class 1 wherever there is red."""

    def __init__(self) -> None:
        maps, last = nn.Conv2d(3, 2, 1, bias=False), nn.Linear(2, 2, bias=False)
        maps.weight.data = torch.tensor([[1.0, -1, -1], [0, 0, 0]])[..., None, None]
        last.weight.data = torch.tensor([[0.0, 0], [1, 0]])
        super().__init__(maps, nn.ReLU(), nn.AvgPool2d(8), nn.AdaptiveAvgPool2d(1))
        self.append(nn.Flatten()).append(last)


def test_heat_lies_where_the_label_comes_from():
    see = ImageClassification(crop_size=64, resize_size=64, mean=(0.0,) * 3, std=(1.0,) * 3)
    net = Model(
        Backbone(Red(), see, {"name": "red"}),
        {"arch": {}, "classes": ["other", "red"], "temperature": 1.0, "threshold": None},
    )
    image = Image.new("RGB", (64, 64), "blue")
    image.paste((255, 0, 0), (40, 8, 56, 24))  # left, top, right, bottom
    (heat,) = explain.heat(net, [image])
    scale = 64 // len(heat)
    assert heat.max() == 1
    rows, columns = torch.nonzero(heat > 0.5, as_tuple=True)
    assert (rows.min() * scale, (rows.max() + 1) * scale) == (8, 24)
    assert (columns.min() * scale, (columns.max() + 1) * scale) == (40, 56)


@pytest.mark.parametrize(
    ("library", "name", "kwargs", "side"),
    [
        ("torchvision", "squeezenet1_0", {}, 13),  # its head is a Conv2d
        ("torchvision", "mobilenet_v3_small", {}, 7),  # a Linear before the head has no places
        ("timm", "vit_tiny_patch16_224", {"depth": 2}, 14),  # the head reads the class token
        ("timm", "swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}, 7),  # channels last
    ],
)
def test_nets_of_every_kind(library, name, kwargs, side):
    net = model(getattr(pretrained, library)(name, weights=None, **kwargs))
    noise = torch.rand(2, 240, 260, 3, generator=torch.Generator().manual_seed(0))
    images = [Image.fromarray((255 * pixels).byte().numpy()) for pixels in noise]
    heat = explain.heat(net, images)
    assert heat.shape == (2, side, side)
    assert heat.isfinite().all()
    assert (heat >= 0).all()
    assert ((heat > 0).sum(dim=(1, 2)) > 1).all()
    assert all(parameter.grad is None for parameter in net.backbone.parameters())


def test_a_net_without_places_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4), nn.ReLU(), nn.Linear(4, 3))
    see = ImageClassification(crop_size=8, resize_size=8)
    flat = model(Backbone(net, see, {"name": "flat"}))
    assert "flat" in refusal(explain.heat, flat, [Image.new("RGB", (8, 8))])


def test_the_title_fits_above_a_single_photo():
    tiles = [(Image.new("RGB", (300, 200), "white"), "a photo", "#ff0000")]
    title = "What the net sees, and where its label comes from (red: most)"
    grid = np.asarray(photo_grid.draw(tiles, title)).astype(int)
    black = grid.sum(axis=2) < 200
    red = (grid[..., 0] > 200) & (grid[..., 1:].sum(axis=2) < 100)
    rows, columns = np.nonzero(black)
    assert columns.min() > 0
    assert columns.max() < grid.shape[1] - 1
    assert rows.min() > 0
    assert rows.max() < np.nonzero(red)[0].min()
