"""`model.json` is data: a wrong value is a sentence, and nothing is opened, fetched, waited for."""

import copy
import hashlib
import json
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import refusal
from safetensors.torch import load_file, save_file

import thaw
from thaw.errors import UserError
from thaw.model import onnx
from thaw.nets import pretrained

BUNDLE = Path(__file__).parents[1] / "runs" / "old" / "sweep" / "seed=1" / "model"

# Where in model.json, what stands there, what is said of it.
WRONG = (
    (["temperature"], 0, "temperature: expected a number from 0.01 to 100, got 0"),
    (["temperature"], -1.0, "temperature: expected a number from 0.01 to 100"),
    (["temperature"], float("nan"), "temperature: expected a number from 0.01 to 100, got nan"),
    (["temperature"], 1e308, "temperature: expected a number"),
    (["temperature"], "1", "temperature: expected a number from 0.01 to 100, got '1'"),
    (["temperature"], True, "temperature: expected a number"),
    (["threshold"], 7, "threshold: expected a number from 0 to 1, got 7"),
    (["threshold"], [0.5], "threshold: expected a number from 0 to 1, got list"),
    (["classes"], "ab", "classes: expected a list of 1 to 100000, got 'ab'"),
    (["classes"], [], "classes: expected a list"),
    (["classes"], ["a", "a", "b", "c", "d"], "expected each only once, got 'a' twice"),
    (["classes", 0], 3, "classes[0]: expected a text that isn't empty, got 3"),
    (["classes", 0], "", "classes[0]: expected a text that isn't empty"),
    (["classes"], ["a", "b"], "doesn't fit the arch and the 2 classes"),
    (["classes"], [str(i) for i in range(100_000)], "doesn't fit the arch"),
    (["conformal"], [0.5, 0.1], "conformal: expected numbers in rising order"),
    (["conformal"], ["a"], "conformal[0]: expected a number from 0 to 1"),
    (["metrics"], [], "metrics: expected a mapping, got list"),
    (["pretrained"], 3, "pretrained: expected a mapping"),
    (["promise"], {"error": 3}, "promise.error: expected a number from 0 to 1"),
    (["format"], 2, "has format 2"),
    (["arch"], None, "arch: expected a mapping, got None"),
    (["arch", "source"], "hub", "arch.source: expected one of torchvision, timm, thaw, own"),
    (["arch", "source"], "timm", "got 'small_cnn'"),
    (["arch", "more"], 1, "unknown key 'more'"),
    (["arch", "kwargs"], [], "arch.kwargs: expected a mapping"),
    (["arch", "kwargs"], {}, "arch: TypeError"),
    (["arch", "kwargs", "width"], 3, "doesn't fit the arch"),
    (["arch", "kwargs", "width"], 0, "is damaged (arch"),
    (["arch", "kwargs", "width"], -2, "is damaged (arch"),
    (["arch", "kwargs", "width"], "wide", "is damaged (arch"),
    (["arch", "kwargs", "width"], 10_000, "the net is larger than its weights"),
    (["arch", "kwargs", "width"], 1e9, "got 'width=1000000000.0'"),
    (["transforms"], [], "transforms: expected a mapping"),
    (["transforms", "crop_size"], [1_000_000], "crop_size[0]: expected a whole number from 1"),
    (["transforms", "crop_size"], [0], "crop_size[0]: expected a whole number from 1 to 1024"),
    (["transforms", "crop_size"], [16, 17], "crop_size: expected a square"),
    (["transforms", "crop_size"], 16, "crop_size: expected a list of 1 to 2, got 16"),
    (["transforms", "crop_size"], [4], "the net can't see these photos"),
    (["transforms", "resize_size"], [10**7], "resize_size[0]: expected a whole number"),
    (["transforms", "mean"], [0.5], "mean: expected a list of 3, got list"),
    (["transforms", "std"], [0, 0, 0], "std[0]: expected a number from 0.001 to 10, got 0"),
    (["transforms", "interpolation"], "cubic", "interpolation: expected one of nearest"),
    (["transforms", "antialias"], "yes", "antialias: expected true or false, got 'yes'"),
    (["transforms", "open"], "x", "unknown key 'open'"),
    (["weights_sha256"], None, "weights_sha256: expected a text"),
)
# Sources and keywords that would open, fetch or run something.
OPENING = (
    {"source": "timm", "name": "hf-hub:someone/net", "kwargs": {}},
    {"source": "timm", "name": "hf_hub:someone/net", "kwargs": {}},
    {"source": "timm", "name": "local-dir:/tmp/net", "kwargs": {}},
    {"source": "timm", "name": "resnet18", "kwargs": {"pretrained_cfg": {"url": "http://x"}}},
    {"source": "timm", "name": "resnet18", "kwargs": {"pretrained_cfg_overlay": {"file": "x"}}},
    {"source": "timm", "name": "resnet18", "kwargs": {"checkpoint_path": "x.pth"}},
    {"source": "timm", "name": "resnet18", "kwargs": {"cache_dir": "x"}},
    {"source": "timm", "name": "resnet18", "kwargs": {"features_only": True}},
    {"source": "timm", "name": "resnet18", "kwargs": {"pretrained": True}},
    {"source": "timm", "name": "resnet18", "kwargs": {"a": {"b": [{"checkpoint_path": "x"}]}}},
    {"source": "timm", "name": "resnet18", "kwargs": {"drop_rate": "/etc/passwd"}},
    {"source": "torchvision", "name": "resnet18", "kwargs": {"weights": "DEFAULT"}},
    {"source": "torchvision", "name": "resnet18", "kwargs": {"weights_backbone": "DEFAULT"}},
    {"source": "torchvision", "name": "fcn_resnet50", "kwargs": {"weights_backbone": "DEFAULT"}},
    {"source": "torchvision", "name": "fcn_resnet50", "kwargs": {}},
    {"source": "torchvision", "name": "quantized_resnet18", "kwargs": {}},
)


@pytest.fixture
def bundle(tmp_path):
    """A bundle that can be written to."""
    return shutil.copytree(BUNDLE, tmp_path / "model")


def rewrite(bundle, path, value):
    file = bundle / "model.json"
    info = json.loads(file.read_text())
    *above, last = path
    inner = info
    for key in above:
        inner = inner[key]
    inner[last] = value
    file.write_text(json.dumps(info))


@pytest.mark.parametrize(("path", "value", "said"), WRONG)
def test_a_wrong_value_is_named(bundle, path, value, said):
    rewrite(bundle, path, value)
    assert said in refusal(thaw.load, bundle)


@pytest.mark.parametrize("arch", OPENING, ids=json.dumps)
def test_nothing_is_opened_or_fetched(bundle, arch, offline, monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: 1 / 0)
    rewrite(bundle, ["arch"], arch)
    assert "model.json is damaged (arch: " in refusal(thaw.load, bundle)
    assert not offline
    assert refusal(pretrained.build, arch), "nor by a command line"


def reweigh(bundle, change):
    """Other weights under their true sha256."""
    file = bundle / "weights.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    rewrite(bundle, ["weights_sha256"], hashlib.sha256(file.read_bytes()).hexdigest())


def test_weights_that_dont_fit_are_named(bundle):
    name = "fc.weight"
    changes = {
        "values of 'fc.weight' are no finite numbers": lambda s: s[name].fill_(torch.nan),
        "'fc.weight' for one": lambda s: s.pop(name),
        "'more' for one": lambda s: s.update(more=torch.zeros(3)),
        "of another shape, 'fc.weight' for one": lambda s: s.update({name: s[name].T.contiguous()}),
        "of another shape, 'fc.weight'": lambda s: s.update({name: s[name].half()}),
    }
    for said, change in changes.items():
        again = shutil.copytree(bundle, bundle.with_name("again"), dirs_exist_ok=True)
        reweigh(again, change)
        assert said in refusal(thaw.load, again)
    weights = bundle / "weights.safetensors"
    for data in (b"", b"x" * 9, weights.read_bytes()[:-7], (2**62).to_bytes(8, "little") * 3):
        weights.write_bytes(data)
        rewrite(bundle, ["weights_sha256"], hashlib.sha256(data).hexdigest())
        assert "weights.safetensors is damaged (" in refusal(thaw.load, bundle)


def mutate(rng, value, depth=0):
    """A value with one change somewhere, of its kind or of another."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice([*value])
        what = rng.random()
        if what < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.25:
            return value | {rng.choice(["x", "url", "pretrained", "_target_"]): 1}
        return value | {key: mutate(rng, value[key], depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        i = rng.randrange(len(value))
        return [*value[:i], mutate(rng, value[i], depth + 1), *value[i + 1 :]]
    odd = (None, True, -1, 0, 7, 10**9, 10**400, 0.5, -0.5, float("nan"), float("inf"), "", "ab")
    more = ("\x1b[31m", "../../x", "[red]", [], [[]], {}, {"a": []}, ["a"] * 5, "é\udcff", [1, "a"])
    return copy.deepcopy(rng.choice([*odd, *more]))


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_descriptions_are_loaded_or_refused(bundle, seed):
    rng, info = random.Random(seed), json.loads((bundle / "model.json").read_text())
    for number in range(20):
        changed = mutate(rng, info)
        (bundle / "model.json").write_text(json.dumps(changed))
        began = time.monotonic()
        with suppress(UserError):
            thaw.load(bundle)
        assert time.monotonic() - began < 10, number


def test_metadata_of_an_onnx_file_is_checked(tmp_path):
    library = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = library.helper, library.TensorProto
    images = helper.make_tensor_value_info("images", kind.UINT8, ["b", "h", "w", 3])
    out = helper.make_tensor_value_info("out", kind.FLOAT, [1, 2])
    value = helper.make_tensor("v", kind.FLOAT, [1, 2], [0.25, 0.75])
    nodes = [helper.make_node("Constant", [], ["out"], value=value)]
    good = {"classes": ["a", "b"], "temperature": 1.0, "threshold": None}
    file = tmp_path / "model.onnx"

    def write(**facts):
        graph = helper.make_graph(nodes, "g", [images], [out])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        helper.set_model_props(model, {k: json.dumps(v) for k, v in (good | facts).items()})
        library.save(model, file)

    write()
    assert onnx.load(file).classes == ["a", "b"]
    for facts, said in (
        ({"temperature": 0}, "temperature: expected a number"),
        ({"threshold": 7}, "threshold: expected a number from 0 to 1"),
        ({"classes": "ab"}, "classes: expected a list"),
        ({"classes": ["a", "a"]}, "expected each only once"),
        ({"classes": ["a", "b", "c"]}, "it names 3 classes, and its graph 2"),
        ({"metrics": 3}, "metrics: expected a mapping"),
    ):
        write(**facts)
        sentence = refusal(onnx.load, file)
        assert sentence.startswith(f"{file} is damaged (")
        assert said in sentence
