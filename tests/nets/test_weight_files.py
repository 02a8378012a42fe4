"""Files of weights as people have them: each kind, how it is made, and what the user sees."""

import argparse
import collections
import enum
import gzip
import io
import json
import logging
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import refusal
from torch import Tensor, nn
from torchvision import models

from thaw.nets import pretrained
from thaw.nets.backbone import Backbone

SMALL = "shufflenet_v2_x0_5"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state(weights) -> State:
    """The weights in question."""
    return torch.load(weights(SMALL))


@pytest.fixture(scope="module")
def other(state: State) -> State:
    """Weights of the same arch that aren't those in question."""
    return {n: t + 1 if t.is_floating_point() else t for n, t in state.items()}


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def assert_body(backbone: Backbone, state: State) -> None:
    own = {n: t for n, t in backbone.net.state_dict().items() if not n.startswith("fc.")}
    assert len(own) > 100
    assert [n for n, t in own.items() if not torch.equal(t, state[n].to(t.dtype))] == []


# --- what is taken --------------------------------------------------------------------------------


class Setting(enum.Enum):
    """A class of the user's own, which isn't there when the file is read."""

    FAST = 1


@dataclass
class Config:
    """Likewise."""

    lr: float
    more: dict


METADATA = {
    "a Namespace": argparse.Namespace(lr=0.1, name="mine"),
    "an OrderedDict": collections.OrderedDict(epoch=3),
    "a defaultdict": collections.defaultdict(int),
    "a scalar of NumPy": np.float64(0.93),
    "an array of NumPy": np.arange(3),
    "an Enum": Setting.FAST,
    "a dataclass": Config(0.1, {"a": [1, Setting.FAST]}),
    "a path": Path("/data/photos"),
    "a dtype and a size": (torch.float16, torch.Size([3]), torch.device("cpu")),
    "None and a set": [None, {1, 2}, slice(1, 2)],
}

WRAPPED: dict[str, Callable[[State, State], object]] = {
    "Lightning": lambda s, o: {
        "state_dict": prefixed("model.", s) | {"loss.weight": torch.ones(3)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "hyper_parameters": {"lr": 0.1},
        "pytorch-lightning_version": "2.6.0",
    },
    "DDP": lambda s, o: {"model_state_dict": prefixed("module.", s), "epoch": 3},
    "torch.compile": lambda s, o: prefixed("_orig_mod.", s),
    "compiled in DDP": lambda s, o: {"model": prefixed("module._orig_mod.", s)},
    "compiled in Lightning": lambda s, o: {"state_dict": prefixed("net._orig_mod.", s)},
    "net": lambda s, o: {"net": s, "acc": 93.1, "epoch": 199},
    "params": lambda s, o: {"params": s},
    "a name of one's own": lambda s, o: {"my best net so far": prefixed("encoder.trunk.", s)},
    "two levels": lambda s, o: {"checkpoint": {"model": s}, "args": None},
    "in a tuple": lambda s, o: (3, s),
    "beside its head": lambda s, o: {
        **prefixed("backbone.", {n: t for n, t in s.items() if not n.startswith("fc.")}),
        "head.weight": torch.ones(5, 1024),
    },
    "a number beside the tensors": lambda s, o: {**s, "epoch": 3, "classes": ["a", "b"]},
    "without counters": lambda s, o: {
        n: t for n, t in s.items() if not n.endswith("num_batches_tracked")
    },
    "timm with its average": lambda s, o: {"state_dict": o, "state_dict_ema": s},
    "model_ema": lambda s, o: {"model": o, "model_ema": prefixed("module.", s)},
    "ema": lambda s, o: {"ema": s, "model": o},
    "params_ema": lambda s, o: {"params": o, "params_ema": s},
    "an average in one state_dict": lambda s, o: {
        "state_dict": prefixed("model.", o) | prefixed("ema_model.module.", s)
    },
    "teacher": lambda s, o: {"student": prefixed("backbone.", o), "teacher": prefixed("b.", s)},
    "AveragedModel": lambda s, o: {"n_averaged": torch.tensor(3), **prefixed("module.", s)},
    "half": lambda s, o: {n: t.half() if t.is_floating_point() else t for n, t in s.items()},
    "bfloat16": lambda s, o: {
        n: t.bfloat16() if t.is_floating_point() else t for n, t in s.items()
    },
    "double": lambda s, o: {n: t.double() if t.is_floating_point() else t for n, t in s.items()},
    "parameters": lambda s, o: {
        n: nn.Parameter(t) if t.is_floating_point() else t for n, t in s.items()
    },
    **{
        f"with {name}": lambda s, o, value=value: {"state_dict": s, "args": value}
        for name, value in METADATA.items()
    },
}
AVERAGES = {
    "timm with its average": "state_dict_ema",
    "model_ema": "model_ema.module",
    "ema": "ema",
    "params_ema": "params_ema",
    "an average in one state_dict": "state_dict.ema_model.module",
    "teacher": "teacher.b",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_found_in_what_training_scripts_write(
    kind: str, state: State, other: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    torch.save(WRAPPED[kind](state, other), tmp_path / "mine.pth")
    given = state
    if kind in ("half", "bfloat16"):
        given = {n: t.to(getattr(torch, kind)).to(t.dtype) for n, t in state.items()}
    with caplog.at_level(logging.INFO):
        backbone = pretrained.torchvision(SMALL, str(tmp_path / "mine.pth"))
    if kind == "without counters":
        counters = {n: t for n, t in backbone.net.state_dict().items() if n.endswith("tracked")}
        given = {**state, **counters}
    assert_body(backbone, given)
    assert all(p.dtype == torch.float32 for p in backbone.parameters())
    assert backbone.pretrained
    said = f"took {AVERAGES.get(kind)}, an average" in caplog.text
    assert said == (kind in AVERAGES), "which weights were taken is said where there are two"


def test_files_from_before_torch_1_6_are_read(state: State, tmp_path: Path):
    held = {"state_dict": prefixed("module.", state), "args": METADATA["a Namespace"]}
    torch.save(held, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    assert_body(pretrained.torchvision(SMALL, str(tmp_path / "old.pth.tar")), state)


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.bin", "mine.pth", "mine"])
def test_safetensors_are_known_by_their_content(state: State, tmp_path: Path, name: str):
    safetensors.torch.save_file(prefixed("model.", state), tmp_path / name)
    assert_body(pretrained.torchvision(SMALL, str(tmp_path / name)), state)


@pytest.mark.parametrize("place", ["model", ".", "checkpoints", "one file", "ckpt"])
def test_a_folder_stands_for_the_weights_in_it(finished, state: State, tmp_path: Path, place: str):
    run = finished.run
    held = safetensors.torch.load_file(run / "model" / "weights.safetensors")
    folder = {"model": run, ".": run / "model", "checkpoints": tmp_path, "ckpt": tmp_path}.get(
        place
    )
    if place == "checkpoints":  # of a run that didn't end
        shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
        (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    elif place == "ckpt":
        folder = run / "checkpoints" / "last.ckpt"
    elif place == "one file":
        folder = tmp_path
        torch.save(held, tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text("{}")
    assert_body(pretrained.torchvision(SMALL, str(folder)), held)


HEADS: dict[str, Callable[[State], State]] = {
    "of 10 classes": lambda s: {"fc.weight": torch.ones(10, 1024), "fc.bias": torch.ones(10)},
    "without bias": lambda s: {"fc.weight": torch.ones(1000, 1024)},
    "of two layers": lambda s: {
        "fc.0.weight": torch.ones(9, 1024),
        "fc.2.weight": torch.ones(3, 9),
    },
    "none": lambda s: {},
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_of_others_is_left_out_with_a_word(
    kind: str, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    body = {n: t for n, t in state.items() if not n.startswith("fc.")}
    torch.save({**body, **HEADS[kind](state)}, tmp_path / "mine.pth")
    with caplog.at_level(logging.INFO):
        backbone = pretrained.torchvision(SMALL, str(tmp_path / "mine.pth"))
    assert_body(backbone, state)
    word = "it has no head" if kind == "none" else "its head of"
    assert word in caplog.text
    assert backbone.meta["categories"] is None, "whose head it is isn't claimed"


def test_a_linear_in_place_of_dropout_and_head_is_a_head(tmp_path: Path):
    state = models.mobilenet_v2().state_dict()
    body = {n: t for n, t in state.items() if not n.startswith("classifier.")}
    torch.save({**body, "classifier.weight": torch.ones(3, 1280)}, tmp_path / "mine.pth")
    own = pretrained.torchvision("mobilenet_v2", str(tmp_path / "mine.pth")).net.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in body.items())


def test_a_published_head_is_kept(state: State, tmp_path: Path):
    torch.save(state, tmp_path / "mine.pth")
    backbone = pretrained.torchvision(SMALL, str(tmp_path / "mine.pth"))
    assert torch.equal(backbone.head.weight, state["fc.weight"])
    assert backbone.meta["accuracy"] is None, "that of ImageNet's weights isn't that of a file"


# --- what is not ----------------------------------------------------------------------------------


class RunsCode:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Touches(RunsCode):
    """Likewise, by the method of a class."""

    def __reduce__(self):
        return Path.touch, (self.path,)


class Evaluates(RunsCode):
    """Likewise, by what Python has built in."""

    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w')",)


def saved(path: Path, what: object, **how: object) -> None:
    torch.save(what, path, **how)


def arrays(save: Callable[..., None], *values: object, **named: object) -> bytes:
    file = io.BytesIO()
    save(file, *values, **named)
    return file.getvalue()


def zipped(path: Path, **members: str | bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)


def tarred(path: Path, state: State) -> None:
    saved(path.with_name("inner.pth"), state)
    with tarfile.open(path, "w") as archive:
        archive.add(path.with_name("inner.pth"))


def onnx_model(path: Path, state: State) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Relu", ["x"], ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "graph", [value], [y])
    onnx.save(helper.make_model(graph, producer_name="pytorch"), path)


def cut_short(path: Path, state: State, make: Callable[[State, Path], None], by: int) -> None:
    make(state, path)
    path.write_bytes(path.read_bytes()[:-by])


def with_value(state: State, name: str, value: float) -> State:
    changed = state[name].clone()
    changed.view(-1)[3] = value
    return {**state, name: changed}


BODY = "conv5.0.weight"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 44730000\n"

# What the file is, and what the sentence says of it.
REFUSED: dict[str, tuple[Callable[[Path, State], None], str]] = {
    "empty": (lambda p, s: p.touch(), "it is empty"),
    "zeros": (lambda p, s: p.write_bytes(bytes(9000)), "zeros, as a download that broke off"),
    "an LFS pointer": (lambda p, s: p.write_text(LFS), "git lfs pull"),
    "a web page": (lambda p, s: p.write_text("\n<!DOCTYPE html><html>Log in</html>"), "a web page"),
    "an error in JSON": (lambda p, s: p.write_text('{"error": "Repository not found"}'), "JSON"),
    "text": (lambda p, s: p.write_text("This file is too large.\n"), "This file is too large."),
    "a list of shards": (
        lambda p, s: p.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}})),
        "a list of the files that hold the weights",
    ),
    "ONNX": (onnx_model, "an ONNX model"),
    "TorchScript": (
        lambda p, s: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), p),
        "a TorchScript model",
    ),
    "torch.export": (
        lambda p, s: torch.export.save(torch.export.export(nn.ReLU(), (torch.ones(2),)), p),
        "a program of torch.export",
    ),
    "a whole model": (lambda p, s: saved(p, models.get_model(SMALL)), "a whole pickled model"),
    "a whole model in a checkpoint": (
        lambda p, s: saved(p, {"model": models.get_model(SMALL), "best": torch.ones(3)}),
        "torch.save(model.state_dict()",
    ),
    "Keras, HDF5": (lambda p, s: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500)), "HDF5"),
    "Keras": (lambda p, s: zipped(p, **{"model.weights.h5": b"x", "config.json": "{}"}), "Keras"),
    "TensorFlow Lite": (lambda p, s: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(99)), "Lite"),
    "NumPy": (lambda p, s: p.write_bytes(arrays(np.savez, a=np.ones(3))), "NumPy"),
    "an array": (lambda p, s: p.write_bytes(arrays(np.save, np.ones(3))), "NumPy"),
    "a zip of something": (lambda p, s: zipped(p, out__best="x", notes="y"), "out/best, notes"),
    "a tar": (tarred, "a tar archive"),
    "gzip": (lambda p, s: p.write_bytes(gzip.compress(b"x" * 999)), "gzip"),
    "a picture": (lambda p, s: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "a picture"),
    "noise": (lambda p, s: p.write_bytes(np.random.default_rng(0).bytes(5000)), "damaged"),
    "cut short": (
        lambda p, s: cut_short(p, s, torch.save, 5000),
        "its end is missing; download or copy it again",
    ),
    "an old file cut short": (
        lambda p, s: cut_short(
            p, s, lambda s, p: saved(p, s, _use_new_zipfile_serialization=False), 5000
        ),
        "cut short or damaged",
    ),
    "safetensors cut short": (
        lambda p, s: cut_short(p, s, safetensors.torch.save_file, 5000),
        "these safetensors are cut short or damaged",
    ),
    "no dictionary": (lambda p, s: saved(p, [1, 2, 3]), "it holds a list"),
    "a tensor": (lambda p, s: saved(p, torch.ones(3)), "it holds a Tensor"),
    "a plain pickle": (
        lambda p, s: p.write_bytes(pickle.dumps(Config(0.1, {}))),
        "a pickle of",
    ),
    "code": (lambda p, s: p.write_bytes(pickle.dumps(RunsCode(p.with_name("ran")))), "nothing of"),
    "code in an old protocol": (
        lambda p, s: p.write_bytes(pickle.dumps(RunsCode(p.with_name("ran")), 2)),
        "posix.system",
    ),
    "code beside weights": (
        lambda p, s: saved(p, {"state_dict": s, "x": RunsCode(p.with_name("ran"))}),
        "nothing of it was run",
    ),
    "a method beside weights": (
        lambda p, s: saved(p, {"state_dict": s, "x": Touches(p.with_name("ran"))}),
        "nothing of it was run",
    ),
    "eval beside weights": (
        lambda p, s: saved(p, {"state_dict": s, "x": Evaluates(p.with_name("ran"))}),
        "builtins.eval",
    ),
    "eval in an old file": (
        lambda p, s: saved(
            p, {"s": s, "x": Evaluates(p.with_name("ran"))}, _use_new_zipfile_serialization=False
        ),
        "builtins.eval",
    ),
    "code in another protocol": (
        lambda p, s: saved(p, {"s": s, "x": Evaluates(p.with_name("ran"))}, pickle_protocol=4),
        "builtins.eval",
    ),
    "NaN": (lambda p, s: saved(p, with_value(s, BODY, float("nan"))), f"infinity ({BODY})"),
    "infinity": (lambda p, s: saved(p, with_value(s, BODY, float("inf"))), "diverged"),
    "infinity in half": (
        lambda p, s: saved(p, {n: t.half() for n, t in with_value(s, BODY, 1e6).items()}),
        "infinity",
    ),
    "integers": (
        lambda p, s: saved(p, {n: t.char() for n, t in s.items()}),
        "another shape or type ['conv1.0.weight'",
    ),
    "one tensor less": (
        lambda p, s: saved(p, {n: t for n, t in s.items() if n != BODY}),
        f"1 tensors are missing ['{BODY}']",
    ),
    "one more": (lambda p, s: saved(p, {**s, "conv9.weight": torch.ones(3)}), "['conv9.weight']"),
    "another shape": (
        lambda p, s: saved(p, {**s, BODY: torch.ones(3, 3)}),
        f"1 have another shape or type ['{BODY}']",
    ),
    "another arch": (
        lambda p, s: saved(p, models.squeezenet1_1().state_dict()),
        "they are those of squeezenet1_1 (arch=torchvision arch.name=squeezenet1_1)",
    ),
    "another arch, trained": (
        lambda p, s: saved(
            p, {"net": prefixed("module.", models.shufflenet_v2_x1_0(num_classes=7).state_dict())}
        ),
        "they are those of shufflenet_v2_x1_0",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_what_is_no_weights_is_named_by_its_content(kind: str, state: State, tmp_path: Path):
    make, words = REFUSED[kind]
    path = tmp_path / "mine.pth"
    make(path, state)
    (tmp_path / "ran").unlink(missing_ok=True)
    sentence = refusal(pretrained.torchvision, SMALL, str(path))
    assert str(path) in sentence
    assert words in sentence
    assert "weights_only" not in sentence
    assert not (tmp_path / "ran").exists(), "nothing in a file of weights is run"


def test_an_arch_of_timm_is_found_by_its_weights(tmp_path: Path):
    state = pretrained.build({"source": "timm", "name": "test_vit2", "kwargs": {}}).state_dict()
    torch.save(state, tmp_path / "mine.pth")
    sentence = refusal(pretrained.timm, "test_vit", str(tmp_path / "mine.pth"))
    assert "arch=timm arch.name=test_vit2" in sentence


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda p: None, "nothing in it"),
    "photos": (lambda p: [(p / f"{i}.jpg").touch() for i in range(5)], "0.jpg, 1.jpg, 2.jpg and 2"),
    "TensorFlow": (lambda p: (p / "saved_model.pb").touch(), "SavedModel"),
    "distributed": (
        lambda p: [(p / name).touch() for name in (".metadata", "__0_0.distcp")],
        "dcp_to_torch",
    ),
    "unpacked": (lambda p: (p / "data.pkl").touch(), "was unpacked"),
    "several": (lambda p: [(p / f"{i}.pth").touch() for i in range(3)], "0.pth, 1.pth, 2.pth"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_without_weights_is_named_by_what_is_in_it(kind: str, tmp_path: Path):
    make, words = FOLDERS[kind]
    make(tmp_path)
    sentence = refusal(pretrained.torchvision, SMALL, str(tmp_path))
    assert str(tmp_path) in sentence
    assert words in sentence
