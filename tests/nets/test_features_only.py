"""Weights that make features alone, in the layout of the real files: a head is put behind them."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from conftest import call_train, refusal

from thaw.nets import pretrained
from thaw.nets.cut import cut

# Small nets of the same classes as those that are published, as timm makes them.
SMALL = {
    "vit_small_patch14_dinov2": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "vit_small_patch14_reg4_dinov2": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "vit_small_patch16_dinov3": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "vit_base_patch16_siglip_224.v2_webli": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "vit_base_patch16_224.mae": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "vit_base_patch16_clip_224.openai": {"depth": 2, "embed_dim": 32, "num_heads": 2},
}


def file_of(name: str, folder: Path) -> Path:
    """What the hub holds for this net: timm's own tensors, without a head where it has none."""
    torch.manual_seed(0)
    state = timm.create_model(name, pretrained=False, **SMALL[name]).state_dict()
    assert ("head.weight" in state) == ("clip" in name)
    path = folder / "model.safetensors"
    safetensors.torch.save_file(state, path)
    return path


@pytest.mark.parametrize("name", SMALL)
def test_a_head_is_put_behind_features(name: str, tmp_path: Path):
    path = file_of(name, tmp_path)
    backbone = pretrained.timm(name, str(path), **SMALL[name])
    state, own = safetensors.torch.load_file(path), backbone.net.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in state.items())
    backbone.reset_head(3)
    backbone.thaw(["head"])
    photos = torch.randn(2, 3, backbone.input_size, backbone.input_size)
    with torch.inference_mode():
        assert backbone.eval()(photos).shape == (2, 3)
        found = cut(backbone)
        assert found is not None
        assert found.depth > 0
        assert torch.equal(found.tail(found.between()(photos)), backbone(photos))


@pytest.mark.parametrize("size", [112, 224])
def test_positions_are_resampled_for_another_size(size: int, tmp_path: Path):
    name = "vit_small_patch14_dinov2"
    path = file_of(name, tmp_path)  # of 518 pixels
    backbone = pretrained.timm(name, str(path), img_size=size, **SMALL[name])
    theirs = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        img_size=size,
        **SMALL[name],
    )
    assert torch.equal(backbone.net.pos_embed, theirs.pos_embed)
    assert backbone.input_size == size
    rebuilt = pretrained.build(backbone.origin)
    assert rebuilt.state_dict().keys() == backbone.net.state_dict().keys()


def test_original_dinov2_files_are_translated(tmp_path: Path):
    name = "vit_small_patch14_dinov2"
    state = safetensors.torch.load_file(file_of(name, tmp_path))
    original = {**state, "mask_token": torch.zeros(1, 32)}
    torch.save({"teacher": {f"backbone.{k}": v for k, v in original.items()}}, tmp_path / "o.pth")
    backbone = pretrained.timm(name, str(tmp_path / "o.pth"), **SMALL[name])
    own = backbone.net.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("size", [0, 1, True, "large", 20000, 3.5])
def test_a_size_that_is_none_is_refused(size: object):
    assert "arch.img_size" in refusal(lambda: pretrained.timm("test_vit", None, img_size=size))


def test_a_cnn_sees_any_size():
    backbone = pretrained.timm("test_resnet", None, img_size=96)
    assert backbone.input_size == 96
    assert "img_size" not in backbone.origin["kwargs"]


@pytest.mark.slow
def test_a_net_of_features_goes_all_the_way(few: Path, tmp_path: Path, call_script):
    """Trained on cached features, then thawed; exported; explained."""
    name = "vit_small_patch14_dinov2"
    path = file_of(name, tmp_path)
    small = [f"+arch.{key}={value}" for key, value in SMALL[name].items()]
    done = call_train(
        tmp_path,
        "arch=timm",
        f"arch.name={name}",
        f"arch.weights={path}",
        "arch.img_size=56",
        *small,
        "data=folder",
        f"data.root={few}",
        "data.batch_size=8",
        "finetune=last_block",
        "finetune.phases.head.epochs=1",
        "trainer=cpu",
    )
    assert done.code == 0, done.err
    assert "can't be cut" not in done.out + done.err
    assert "drift/imagenet" not in (done.run / "metrics.json").read_text(), "it had no head"
    told = call_script("export", done.run)
    assert told.code == 0, told.err
    photo = next(few.glob("test/*/*.jpg"))
    told = call_script("predict", done.run, photo, "--explain", tmp_path / "why.png")
    assert told.code == 0, told.err
    assert (tmp_path / "why.png").stat().st_size > 1000
