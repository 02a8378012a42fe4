"""The model leaves whole: weights, preprocessing, classes and threshold, and nothing else."""

import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import COLOURS, paint

import thaw
from thaw.data.photos import load_photo
from thaw.errors import UserError
from thaw.model import bundle
from thaw.model.prediction import UNSURE, as_row
from thaw.nets import pretrained
from thaw.nets.backbone import Backbone
from thaw.nets.fuse import FusedConv

CLASSES = sorted(COLOURS)


def small_cnn() -> Backbone:
    return pretrained.small_cnn(width=4, input_size=32)


def with_head(backbone: Backbone) -> Backbone:
    torch.manual_seed(0)
    backbone.reset_head(len(CLASSES))
    return backbone.eval()


@pytest.fixture
def photo_paths(tmp_path: Path) -> list[Path]:
    found = []
    for name, colour in COLOURS.items():
        for i in range(2):
            found.append(tmp_path / "photos" / f"{name}_{i}.jpg")
            paint(found[-1], colour, seed=i)
    return found


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    bundle.save(tmp_path / "model", with_head(small_cnn()), CLASSES)
    return tmp_path / "model"


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no pickle."""

    def forbid(what: str) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise AssertionError(f"{what} was used")

        return fail

    monkeypatch.setattr(socket, "socket", forbid("the network"))
    monkeypatch.setattr(socket, "getaddrinfo", forbid("the network"))
    monkeypatch.setattr(torch, "load", forbid("torch.load"))
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbid("pickle"))


def rewrite(folder: Path, **changes: object) -> None:
    """Change values of model.json."""
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        thaw.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the same answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["torchvision", "timm", "small_cnn", "transform_input", "squash"])
def test_a_loaded_model_gives_the_same_probabilities(
    arch: str, tmp_path: Path, weights, photo_paths: list[Path], request: pytest.FixtureRequest
):
    if arch == "torchvision":
        backbone = pretrained.torchvision("squeezenet1_1", str(weights("squeezenet1_1")))
    elif arch == "timm":
        backbone = pretrained.timm("tf_efficientnet_lite0", drop_rate=0.2)
    elif arch == "transform_input":
        backbone = pretrained.torchvision("googlenet", weights=None, transform_input=True)
    else:
        backbone = small_cnn()
        if arch == "squash":
            backbone.transforms.resize_size = [32, 32]  # as timm's squashing models have it
    with_head(backbone)
    photos = [load_photo(path) for path in photo_paths]
    with torch.no_grad():
        batch = torch.stack([backbone.transforms(photo) for photo in photos])
        expected = backbone(batch).softmax(dim=1)
    bundle.save(tmp_path / "model", backbone, CLASSES)

    request.getfixturevalue("sealed")
    model = thaw.load(tmp_path / "model")
    assert torch.equal(model.probabilities(photos), expected)
    assert model.classes == CLASSES
    own, trained = model.backbone.net.state_dict(), backbone.net.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in trained.items())


def test_a_bundle_is_two_files_of_the_size_returned(tmp_path: Path):
    size = bundle.save(tmp_path / "model", with_head(small_cnn()), CLASSES)
    files = list((tmp_path / "model").iterdir())
    assert {file.name for file in files} == {"model.json", "weights.safetensors"}
    assert size == sum(file.stat().st_size for file in files)


def test_the_weights_of_a_channels_last_net_are_saved_alike(saved: Path, tmp_path: Path):
    backbone = with_head(small_cnn()).to(memory_format=torch.channels_last)
    expected = thaw.load(saved).backbone.net.state_dict()
    with torch.no_grad():
        for name, tensor in backbone.net.state_dict().items():
            tensor.copy_(expected[name])
    bundle.save(tmp_path / "other", backbone, CLASSES)
    own = thaw.load(tmp_path / "other").backbone.net.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.items())


def test_a_loaded_model_is_ready_to_predict_and_not_to_train(saved: Path):
    model = thaw.load(saved)
    assert not any(module.training for module in model.backbone.modules())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_a_bundle_works_wherever_it_is_moved(saved: Path, tmp_path: Path, photo_paths: list[Path]):
    before = list(thaw.load(saved).predict(photo_paths))
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(saved, moved)
    assert list(thaw.load(str(moved)).predict(photo_paths)) == before


def test_a_run_folder_stands_for_the_bundle_in_it(saved: Path):
    run = saved.parent
    assert thaw.load(run).info == thaw.load(saved).info


def test_saving_again_replaces_a_bundle(saved: Path):
    bundle.save(saved, with_head(small_cnn()), ["x", "y", "z"], metrics={"test/acc": 0.5})
    model = thaw.load(saved)
    assert model.classes == ["x", "y", "z"]
    assert model.info["metrics"] == {"test/acc": 0.5}


def test_the_description_is_plain_json_and_tells_what_the_weights_come_from(tmp_path: Path):
    backbone = with_head(pretrained.timm("tf_efficientnet_lite0"))
    facts = {"metrics": {"test/acc": 0.9}, "data_sha256": "ab" * 32}
    bundle.save(tmp_path, backbone, ["ant", "bee", "frelón"], **facts)
    text = (tmp_path / "model.json").read_text(encoding="utf-8")
    info = json.loads(text)
    assert "frelón" in text, "readable as it is"
    assert info["format"] == bundle.FORMAT
    assert info["arch"]["name"] == "tf_efficientnet_lite0"
    assert info["transforms"]["interpolation"] == "bicubic"
    assert info["transforms"]["mean"] == [0.5, 0.5, 0.5]
    assert info["pretrained"]["licence"] == "Apache-2.0"
    assert {key: info[key] for key in facts} == facts


# --- predictions ----------------------------------------------------------------------------------


def test_predictions_name_the_most_probable_class(saved: Path, photo_paths: list[Path]):
    model = thaw.load(saved)
    found = list(model.predict(photo_paths))
    assert [prediction.path for prediction in found] == [str(path) for path in photo_paths]
    for prediction in found:
        assert list(prediction.probabilities) == CLASSES
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert prediction.confidence == max(prediction.probabilities.values())
        assert prediction.probabilities[prediction.label] == prediction.confidence


def test_below_the_threshold_the_label_is_unsure(saved: Path, photo_paths: list[Path]):
    confidences = sorted(p.confidence for p in thaw.load(saved).predict(photo_paths))
    assert len(set(confidences)) > 2
    middle = confidences[len(confidences) // 2]
    rewrite(saved, threshold=middle)
    for prediction in thaw.load(saved).predict(photo_paths):
        assert (prediction.label == UNSURE) == (prediction.confidence < middle)


def test_a_threshold_that_is_asked_for_goes_before_the_bundles_own(saved: Path, photo_paths):
    rewrite(saved, threshold=1.0)
    model = thaw.load(saved)
    assert {p.label for p in model.predict(photo_paths)} == {UNSURE}
    assert UNSURE not in {p.label for p in model.predict(photo_paths, threshold=0.0)}


def test_the_temperature_is_applied(saved: Path, photo_paths: list[Path]):
    photos = [load_photo(path) for path in photo_paths]
    sharp = thaw.load(saved).probabilities(photos)
    rewrite(saved, temperature=3.0)
    soft = thaw.load(saved).probabilities(photos)
    expected = (sharp.log() / 3).softmax(dim=1)
    assert torch.allclose(soft, expected, atol=1e-6)
    assert not torch.allclose(soft, sharp, atol=1e-6)


def test_logits_come_before_the_temperature(saved: Path, photo_paths: list[Path]):
    photos = [load_photo(path) for path in photo_paths]
    rewrite(saved, temperature=3.0)
    model = thaw.load(saved)
    assert torch.equal((model.logits(photos) / 3).softmax(dim=1), model.probabilities(photos))


def test_values_are_changed_in_place_and_the_rest_stays(saved: Path, tmp_path: Path):
    before = json.loads((saved / "model.json").read_text())
    bundle.change(saved, threshold=0.7, promise={"error": 0.1})
    after = json.loads((saved / "model.json").read_text())
    assert after == before | {"threshold": 0.7, "promise": {"error": 0.1}}
    assert thaw.load(saved).threshold == 0.7
    bundle.change(saved.parent, threshold=None)  # a run folder stands for its bundle
    assert thaw.load(saved).threshold is None
    assert len(list(saved.iterdir())) == 2


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_predictions_do_not_depend_on_the_batch(saved: Path, photo_paths, batch_size: int):
    model = thaw.load(saved)
    expected = model.probabilities([load_photo(path) for path in photo_paths])
    found = list(model.predict(photo_paths, batch_size=batch_size))
    rows = torch.tensor([list(prediction.probabilities.values()) for prediction in found])
    assert torch.allclose(rows, expected, atol=1e-6)


def test_many_photos_go_the_fused_way_to_the_same_answers(tmp_path: Path, monkeypatch):
    """More than a batch, a broken one among them: names and answers stay together."""
    folder = tmp_path / "lite"
    net = pretrained.timm("mobilenetv3_small_050", weights=None)
    bundle.save(folder, with_head(net), CLASSES)
    paths = [tmp_path / f"{i:02}.jpg" for i in range(20)]
    for i, path in enumerate(paths):
        paint(path, COLOURS[CLASSES[i % 3]], seed=i)
    paths[3].write_text("no photo")
    model, broken = thaw.load(folder), []
    ran = []
    forward = FusedConv.forward
    monkeypatch.setattr(FusedConv, "forward", lambda *a: ran.append(1) or forward(*a))
    found = list(model.outputs_of(paths, on_broken=broken.append))
    assert bool(ran) == torch.backends.mkldnn.is_available()
    names = [name for batch, _, _ in found for name in batch]
    assert [error.path for error in broken] == [paths[3]]
    assert names == paths[:3] + paths[4:]
    alone = [next(model.outputs_of([name])) for name in names]
    for many, one in (
        ([logits for _, logits, _ in found], [logits for _, logits, _ in alone]),
        ([features for _, _, features in found], [features for _, _, features in alone]),
    ):
        assert torch.allclose(torch.cat(many), torch.cat(one), atol=1e-4)


def test_a_broken_photo_is_named(saved: Path, photo_paths: list[Path]):
    photo_paths[1].write_text("no photo")
    with pytest.raises(UserError, match=photo_paths[1].name):
        list(thaw.load(saved).predict(photo_paths))


def test_a_row_is_flat_with_a_column_a_class(saved: Path, photo_paths: list[Path]):
    prediction = next(thaw.load(saved).predict(photo_paths))
    row = as_row(prediction)
    assert list(row) == [
        "path",
        "label",
        "confidence",
        "familiarity",
        *(f"p:{name}" for name in CLASSES),
    ]
    assert [row[f"p:{name}"] for name in CLASSES] == list(prediction.probabilities.values())


# --- what is no bundle ----------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 0.5, 1], ids=["start", "middle", "end"])
def test_a_changed_byte_of_the_weights_is_noticed(saved: Path, where: float):
    file = saved / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    file.write_bytes(content)
    sentence = refusal(saved)
    assert str(file) in sentence
    assert "sha256" in sentence


def test_truncated_weights_are_noticed(saved: Path):
    file = saved / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert str(file) in refusal(saved)


def test_another_format_is_refused_with_both_numbers(saved: Path):
    rewrite(saved, format=bundle.FORMAT + 1)
    sentence = refusal(saved)
    assert f"format {bundle.FORMAT + 1}" in sentence
    assert f"reads {bundle.FORMAT}" in sentence


@pytest.mark.parametrize("missing", ["model.json", "weights.safetensors", "folder"])
def test_missing_files_are_named(saved: Path, missing: str):
    if missing == "folder":
        shutil.rmtree(saved)
        missing = "model.json"
    else:
        (saved / missing).unlink()
    sentence = refusal(saved)
    assert str(saved) in sentence
    assert missing in sentence


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "null"], ids=["empty", "cut", "list", "no keys", "null"]
)
def test_a_damaged_description_is_named(saved: Path, content: str):
    (saved / "model.json").write_text(content)
    assert str(saved / "model.json") in refusal(saved)


@pytest.mark.parametrize("key", ["classes", "arch", "transforms", "weights_sha256", "temperature"])
def test_a_description_that_lacks_something_is_named(saved: Path, key: str):
    file = saved / "model.json"
    info = json.loads(file.read_text())
    del info[key]
    file.write_text(json.dumps(info))
    sentence = refusal(saved)
    assert str(file) in sentence
    assert key in sentence


def test_a_description_of_other_classes_than_the_weights_is_named(saved: Path):
    rewrite(saved, classes=[*CLASSES, "violet"])
    assert str(saved) in refusal(saved)


def test_a_folder_is_no_bundle_before_the_last_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    bundle.save(tmp_path / "model", with_head(small_cnn()), CLASSES)
    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        bundle.save(tmp_path / "model", with_head(small_cnn()), CLASSES)
    assert "no model.json" in refusal(tmp_path / "model")
