"""Which nets there are, what preprocessing goes with them, and what their weights know."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WithoutMemory, refusal
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torchvision import models

from thaw.data.find import find_photos
from thaw.data.photos import load_photo
from thaw.errors import UserError
from thaw.nets import pretrained
from thaw.nets.backbone import Backbone

SMALL = "shufflenet_v2_x0_5"
ANT, BEE = 310, 309


def photo(width: int, height: int) -> Image.Image:
    """Edges, gradients and noise, as photos have them."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / 17 + y / 29), 127 + 120 * np.cos(x / 11 - y / 13)]
    pixels = np.stack([*waves, (x * 3 + y * 5) % 256], axis=-1)
    pixels += np.random.default_rng(0).normal(0, 9, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


PHOTOS = [photo(500, 333), photo(333, 500), photo(224, 224), photo(97, 131)]


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name", "near"),
    [
        (pretrained.torchvision, "resnet19", "resnet18"),
        (pretrained.torchvision, "efficientnetb0", "efficientnet_b0"),
        (pretrained.torchvision, "mobilenet-v3-small", "mobilenet_v3_small"),
        (pretrained.timm, "tf_efficientnetlite0", "tf_efficientnet_lite0"),
        (pretrained.timm, "vit_tiny_patch16", "vit_tiny_patch16_224"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(make, name: str, near: str):
    sentence = refusal(make, name)
    assert repr(name) in sentence
    assert near in sentence


def test_an_unknown_tag_is_answered_with_those_there_are():
    sentence = refusal(pretrained.timm, "resnet18.a9_in1k")
    assert "a9_in1k" in sentence
    assert "a1_in1k" in sentence


@pytest.mark.parametrize(
    ("target", "name", "key", "said"),
    [
        ("small_cnn", "small_cnn", "widht", "arch.widht; did you mean arch.width"),
        ("torchvision", "resnet18", "norm_layr", "arch.norm_layr; did you mean arch.norm_layer?"),
        ("timm", "resnet18", "drop_rat", "did you mean arch.drop_rate or"),
        ("timm", "resnet18", "qqq", "There is no setting arch.qqq; resnet18 takes none so called."),
    ],
)
def test_a_key_that_no_net_takes_is_answered_with_near_ones(target, name, key, said):
    values = {"_target_": f"thaw.nets.pretrained.{target}", "name": name, "weights": None, key: 1}
    with pytest.raises(UserError) as refused, WithoutMemory():
        pretrained.made(OmegaConf.create(values))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("make", "name"), [(pretrained.torchvision, SMALL), (pretrained.timm, "test_vit")]
)
def test_null_is_a_net_with_random_weights(make, name: str, offline: list[str]):
    backbone = make(name, None)
    assert not backbone.pretrained
    assert backbone.meta == {}, "nothing is claimed of random weights"
    assert offline == []


def test_the_small_cnn_has_no_weights_to_ask_for():
    backbone = pretrained.small_cnn(width=4, input_size=64)
    assert not backbone.pretrained
    assert backbone.input_size == 64
    assert list(backbone.stages) == ["stem", "block2", "block3", "block4", "head"]
    assert "DEFAULT" in refusal(pretrained.small_cnn, "small_cnn", "DEFAULT")


# --- preprocessing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "resnet18",
        "convnext_atto",
        "vit_tiny_patch16_224",
        "dla34",  # bilinear
        "tf_efficientnetv2_b3",  # not cropped but squashed
    ],
)
def test_timm_models_see_what_timm_would_show_them(name: str):
    from timm.data import create_transform, resolve_data_config

    with WithoutMemory():
        backbone = pretrained.timm(name, weights=None)
        published = resolve_data_config({}, model=backbone.net)
    theirs = create_transform(**published)
    assert all(torch.equal(backbone.transforms(image), theirs(image)) for image in PHOTOS)


def test_squashing_is_among_the_tested_transforms():
    import timm

    assert timm.get_pretrained_cfg("tf_efficientnetv2_b3").crop_mode == "squash"


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights for it."""
    file = tmp_path_factory.mktemp("mobilenet") / "mobilenet_v2.pth"
    torch.save(models.mobilenet_v2().state_dict(), file)
    return file


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_torchvisions_transforms_are_those_of_the_weights(
    mobilenet: Path, hub: Path, offline: list[str], name: str
):
    entry = models.MobileNet_V2_Weights[name]  # V1 resizes to 256, V2 to 232
    shutil.copy(mobilenet, hub / entry.url.rsplit("/", 1)[-1])
    backbone = pretrained.torchvision("mobilenet_v2", name)
    assert torch.equal(backbone.transforms(PHOTOS[0]), entry.transforms()(PHOTOS[0]))
    assert backbone.transforms.resize_size == [256 if name.endswith("V1") else 232]


def test_a_published_file_brings_its_own_transforms(mobilenet: Path, tmp_path: Path):
    entry = models.MobileNet_V2_Weights.IMAGENET1K_V1  # not the DEFAULT
    file = tmp_path / entry.url.rsplit("/", 1)[-1]
    shutil.copy(mobilenet, file)
    backbone = pretrained.torchvision("mobilenet_v2", str(file))
    assert torch.equal(backbone.transforms(PHOTOS[0]), entry.transforms()(PHOTOS[0]))


# --- nets with a history --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)]
)
def test_nets_with_auxiliary_heads_compute_what_torchvisions_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Their files hold the auxiliary heads, and their weights expect another normalisation."""
    torch.manual_seed(0)
    state = models.get_model(name, weights=None, init_weights=False).state_dict()
    assert any("aux" in tensor.lower() for tensor in state)
    file = tmp_path / "mine.pth"
    torch.save(state, file)
    entry = models.get_model_weights(name).DEFAULT
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: dict(state))
    theirs = models.get_model(name, weights=entry).eval()
    ours = pretrained.torchvision(name, str(file)).eval()
    images = torch.stack([ours.transforms(image) for image in PHOTOS[:2]])
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))
    assert ours.origin["kwargs"]["transform_input"] is True, "the bundle rebuilds it so"


def test_random_weights_expect_the_usual_normalisation():
    with WithoutMemory():
        backbone = pretrained.torchvision("googlenet", None)
    assert backbone.net.transform_input is False


@pytest.mark.parametrize(
    ("weights_name", "side"), [("IMAGENET1K_V1", 224), ("IMAGENET1K_SWAG_E2E_V1", 384)]
)
def test_a_vit_is_built_for_the_size_of_its_weights(
    weights_name: str, side: int, hub: Path, monkeypatch: pytest.MonkeyPatch
):
    entry = models.ViT_B_16_Weights[weights_name]
    (hub / entry.url.rsplit("/", 1)[-1]).touch()  # what it would hold is below
    with WithoutMemory():
        state = models.vit_b_16(image_size=side).state_dict()
        monkeypatch.setattr("thaw.nets.state.checkpoint.read", lambda path: state)
        monkeypatch.setattr(
            "thaw.nets.state.checkpoint.check_finite", lambda *_: None
        )  # of no numbers
        backbone = pretrained.torchvision("vit_b_16", weights_name)
    assert backbone.origin["kwargs"] == {"image_size": side}
    assert backbone.input_size == side


# --- real weights ---------------------------------------------------------------------------------


def share_of_insects(backbone: Backbone, folder: Path) -> float:
    """How many of the photos of ants and bees are classed as the one or the other, of 1000."""
    paths = find_photos([folder])
    assert len(paths) == 153
    backbone.eval().to(memory_format=torch.channels_last)
    found = 0
    with torch.inference_mode():
        for start in range(0, len(paths), 8):
            batch = [backbone.transforms(load_photo(p)) for p in paths[start : start + 8]]
            images = torch.stack(batch).contiguous(memory_format=torch.channels_last)
            best = backbone(images).argmax(dim=1)
            found += int(((best == ANT) | (best == BEE)).sum())
    return found / len(paths)


@pytest.mark.slow
def test_real_squeezenet_weights_know_ants_and_bees(shared: Path):
    file = shared / "weights" / "squeezenet1_0_deepcompressed.pth"
    backbone = pretrained.torchvision("squeezenet1_0", str(file))
    assert isinstance(backbone.head, nn.Conv2d)
    assert share_of_insects(backbone, shared / "data" / "hymenoptera" / "val") >= 0.60


@pytest.mark.slow
def test_real_lite0_weights_know_ants_and_bees(shared: Path):
    backbone = pretrained.timm("tf_efficientnet_lite0")
    assert share_of_insects(backbone, shared / "data" / "hymenoptera" / "val") >= 0.80
