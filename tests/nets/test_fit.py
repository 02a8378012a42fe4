"""How photos are made to fit what a net sees, everywhere alike, and what is lost by it."""

import itertools

import numpy as np
import pytest
import torch
from conftest import paint, refusal
from omegaconf import OmegaConf
from PIL import Image
from torchvision.models import VisionTransformer
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from thaw.data.dataset import cropped, cut_away, mean_cut_away, normalised, pixels
from thaw.data.pixels.resize import ResizeAndCrop
from thaw.model import bundle
from thaw.nets.fit import Padded, check_side, fitted, seen
from thaw.nets.pretrained import made
from thaw.nets.state.matching import vit_positions

WAYS = [*itertools.product(("crop", "squash", "pad"), (None, 96))]
OWN = ImageClassification(crop_size=224)
SIZES = [(300, 200), (200, 300), (64, 64), (500, 37), (3, 400)]


def photo(width, height):
    noise = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_the_weights_own_way_is_left_alone():
    assert fitted(OWN) is OWN
    made = fitted(OWN, "crop", 112)
    assert (made.crop_size, made.resize_size) == ([112], [128])


@pytest.mark.parametrize(("fit", "size"), WAYS)
def test_every_way_shows_a_square_and_all_paths_agree(fit, size):
    see = fitted(OWN, fit, size)
    back = bundle._transforms(bundle.describe_transforms(see))
    for width, height in SIZES[: 3 if fit == "crop" else None]:
        image = photo(width, height)
        assert cropped(see, image).size == (size or 224, size or 224)
        expected = see(image)
        assert normalised(see, pixels(see, image)[None])[0].equal(expected)
        assert back(image).equal(expected)
    assert type(back) is type(see)


def test_squash_sees_all_and_pad_keeps_proportions():
    image = Image.new("RGB", (200, 100), "white")
    assert np.asarray(cropped(fitted(OWN, "squash"), image)).min() == 255
    padded = np.asarray(cropped(fitted(OWN, "pad"), image))
    assert (padded[:56].max(), padded[56:168].min(), padded[168:].max()) == (0, 255, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [InterpolationMode.BILINEAR, pytest.param(InterpolationMode.BICUBIC, marks=pytest.mark.slow)],
)
def test_the_exported_graph_pads_to_the_same_pixels(way):
    see = Padded(crop_size=48, interpolation=way)
    graph = ResizeAndCrop([], 48, way.value)
    for width, height in [(150, 100), (37, 140)]:
        image = photo(width, height)
        made = graph(torch.from_numpy(np.array(image))[None])[0]
        assert np.array_equal(made.numpy(), np.asarray(cropped(fitted(see, "pad"), image)))


def test_what_is_cut_away_is_a_share_of_the_area(tmp_path):
    assert cut_away(OWN, 300, 300) == pytest.approx(1 - (224 / 256) ** 2)
    assert cut_away(OWN, 600, 300) == pytest.approx(1 - (224 / 256) ** 2 / 2)
    assert cut_away(OWN, 300, 600) == cut_away(OWN, 600, 300)
    assert cut_away(fitted(OWN, "squash"), 600, 300) == 0
    assert cut_away(fitted(OWN, "pad"), 600, 300) == 0
    paint(tmp_path / "a.jpg", (9, 9, 9), 0, (60, 30))
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    names = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    assert mean_cut_away(OWN, names) == cut_away(OWN, 60, 30)


def test_settings_that_say_nothing_new_are_not_passed_on():
    assert seen({}) == seen({"fit": "crop", "size": None}) == {}
    assert seen({"fit": "pad", "size": 96}) == {"fit": "pad", "size": 96}
    assert seen({"fit": "stretch", "size": "big"}) == {}


def test_nets_are_made_for_the_size():
    def net(kind, **given):
        return OmegaConf.create(
            {"_target_": f"thaw.nets.pretrained.{kind}", "weights": None, **given}
        )

    assert made(net("small_cnn"), size=64).input_size == 64
    backbone = made(net("timm", name="test_vit"), size=96, fit="squash")
    assert backbone.transforms.resize_size == [96, 96]
    assert backbone(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)
    assert "data.size=2" in refusal(check_side, torch.nn.Conv2d(3, 3, 3), "conv", 2)


def test_torchvisions_vits_get_their_positions_resampled():
    small, large = (VisionTransformer(side, 16, 1, 2, 8, 16, num_classes=3) for side in (32, 64))
    state = vit_positions(dict(small.state_dict()), large)
    large.load_state_dict(state)
    assert state["encoder.pos_embedding"].shape == (1, 17, 8)
    same = dict(small.state_dict())
    assert vit_positions(same, small) is same


@pytest.mark.slow
def test_a_run_follows_everywhere(train, call_script, short, tmp_path):
    done = train(*short, "data.fit=pad", "data.size=64", "logger=none")
    assert done.code == 0, done.err
    assert "64 × 64 pixels: whole photos, padded with black" in done.out
    model = bundle.load(done.run)
    assert isinstance(model.transforms, Padded)
    told = call_script("describe", done.run)
    assert "longer side to 64 pixels, padded with black" in told.out
    row = (done.run / "predictions.csv").read_text().splitlines()[1].split(",")
    root = next(word for word in short if word.startswith("data.root=")).partition("=")[2]
    (said,) = model.predict([f"{root}/{row[0]}"])
    assert float(row[3]) == pytest.approx(said.confidence, abs=1e-5)
    overlay = call_script("predict", done.run, f"{root}/{row[0]}", "--explain", tmp_path / "e.png")
    assert overlay.code == 0, overlay.err
    wrong = train(*short, "data.fit=stretch", "data.size=4", "logger=none")
    assert wrong.code == 2
    assert "data.fit to be one of crop, squash, pad" in wrong.err
    assert "data.size to be a whole number" in wrong.err
