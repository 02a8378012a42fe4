"""An exported model gives the bundle's answers, or isn't written."""

import contextlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import COLOURS, REPO, make_photos, paint
from PIL import Image

import thaw
import train
from thaw.data.photos import load_photo
from thaw.errors import UserError
from thaw.export import graph
from thaw.export.write import Photos, _cost, export
from thaw.launch import cli
from thaw.model import bundle, predict
from thaw.model import onnx as onnx_model
from thaw.model.familiar import store
from thaw.model.prediction import UNSURE, Prediction
from thaw.nets import pretrained
from thaw.runs import read

slow = pytest.mark.slow  # a trace and a translation to ONNX take seconds each
CLASSES = sorted(COLOURS)
FILES = ["model.int8.onnx", "model.onnx", "model.pt2"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run with a temperature and a threshold, exported once: → run, photos, found, out."""
    folder = tmp_path_factory.mktemp("exported")
    photos = make_photos(folder / "photos")
    arguments = ["arch=small_cnn", "arch.width=8", "arch.input_size=32", "trainer=cpu"]
    arguments += ["data=folder", f"data.root={photos}", "data.batch_size=8", "hydra.run.dir=run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", *arguments, "finetune.phases.head.epochs=2"])
        with pytest.raises(SystemExit) as stop:
            cli.command(train.start)
    assert stop.value.code == 0
    run = folder / "run"
    change(run, temperature=2.5, threshold=0.5)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        found = export(run, int8=True)
    return SimpleNamespace(run=run, photos=photos, found=found, out=out.getvalue())


def change(run: Path, **values) -> None:
    file = run / "model" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a run that was never exported, for a test may change it."""
    leave = shutil.ignore_patterns("checkpoints", "tensorboard")
    return shutil.copytree(finished.run, tmp_path / "run", ignore=leave)


@pytest.fixture
def traced(exported, tmp_path, monkeypatch):
    """A copy of `exported` without its files, which come in place of new ones, to save time."""
    files = exported.run / "export"

    def trace(model):
        return torch.export.load(files / "model.pt2")

    def write_onnx(traced, file, *_):
        shutil.copy(files / "model.onnx", file)

    monkeypatch.setattr(graph, "trace", trace)
    monkeypatch.setattr(graph, "write_onnx", write_onnx)
    leave = shutil.ignore_patterns("export")
    return shutil.copytree(exported.run, tmp_path / "traced", ignore=leave)


@pytest.fixture
def mixed(tmp_path):
    """Photos of sizes and kinds that the net wasn't trained on."""
    for i, size in enumerate([(40, 32), (32, 40), (300, 20), (20, 300), (5, 7), (700, 500)]):
        paint(tmp_path / f"{i}.jpg", COLOURS["red"], seed=i, size=size)
    image = Image.open(tmp_path / "5.jpg")
    image.convert("L").save(tmp_path / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.crop((0, 0, 300, 500)).save(tmp_path / "turned.jpg", exif=exif)
    return sorted([*tmp_path.glob("*.jpg"), *tmp_path.glob("*.png")])


def rows(predictions) -> np.ndarray:
    return np.array([list(p.probabilities.values()) for p in predictions])


# --- the same answers -----------------------------------------------------------------------------


@slow
def test_every_test_photo_was_checked(exported):
    assert sorted(exported.found) == FILES
    for name in ("model.onnx", "model.pt2"):
        found = exported.found[name]
        assert found["photos"] == found["alike"] == 12
        assert found["difference"] < 1e-5
        assert f"{name:<15}" in exported.out
    assert sorted(file.name for file in (exported.run / "export").iterdir()) == FILES
    assert str(exported.run / "export") in exported.out


@slow
def test_onnx_says_what_the_bundle_says(exported, mixed):
    expected = list(thaw.load(exported.run).predict(mixed))
    found = list(onnx_model.load(exported.run / "export" / "model.onnx").predict(mixed))
    assert [p.path for p in found] == [str(path) for path in mixed]
    assert [p.label for p in found] == [p.label for p in expected]
    assert [list(p.probabilities) for p in found] == [CLASSES] * len(mixed)
    assert np.allclose(rows(found), rows(expected), atol=1e-5)
    assert all(p.confidence == max(p.probabilities.values()) for p in found)


@slow
def test_the_temperature_is_inside(exported, mixed):
    model = thaw.load(exported.run)
    logits = model.logits([load_photo(path) for path in mixed])
    found = rows(onnx_model.load(exported.run / "export" / "model.onnx").predict(mixed))
    assert np.allclose(found, (logits / 2.5).softmax(dim=1).numpy(), atol=1e-5)
    assert not np.allclose(found, logits.softmax(dim=1).numpy(), atol=1e-3)


@slow
def test_below_the_threshold_the_label_is_unsure(exported, mixed):
    model = onnx_model.load(exported.run / "export" / "model.onnx")
    for threshold in (None, 0.0, 0.4, 1.0):
        least = 0.5 if threshold is None else threshold
        for prediction in model.predict(mixed, threshold):
            assert (prediction.label == UNSURE) == (prediction.confidence < least)


@slow
@pytest.mark.parametrize("name", FILES)
def test_a_batch_is_its_photos(exported, name):
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 45, 3), dtype=np.uint8)
    if name.endswith(".pt2"):
        run = torch.export.load(exported.run / "export" / name).module()

        def answer(batch):
            return run(torch.from_numpy(batch)).numpy()
    else:
        session = onnx_model.load(exported.run / "export" / name).session

        def answer(batch):
            return session.run(None, {"images": batch})[0]

    together = answer(images)
    assert together.shape == (3, len(CLASSES))
    assert np.allclose(together.sum(axis=1), 1, atol=1e-5)
    one_by_one = np.concatenate([answer(images[i : i + 1]) for i in range(3)])
    assert np.allclose(together, one_by_one, atol=1e-5)


# --- what the files tell --------------------------------------------------------------------------


def test_squares_of_a_very_large_photo_are_averaged_first(monkeypatch):
    monkeypatch.setattr(onnx_model, "MOST_PIXELS", 1000)
    values = np.random.default_rng(0).integers(0, 255, (51, 99, 3), dtype=np.uint8)
    means = values.reshape(17, 3, 33, 3, 3).mean(axis=(1, 3))
    given = onnx_model.as_input(Image.fromarray(values))
    assert given.shape == (1, 17, 33, 3)
    assert np.abs(given[0] - means).max() < 0.6
    assert (onnx_model.as_input(Image.fromarray(values[:10])) == values[:10]).all()


@slow
def test_the_input_is_uint8_photos_of_any_size(exported):
    session = onnx_model.load(exported.run / "export" / "model.onnx").session
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", "height", "width", 3]
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert probabilities.shape == ["batch", len(CLASSES)]


@slow
@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_the_metadata_is_that_of_the_bundle(exported, name):
    model = onnx_model.load(exported.run / "export" / name)
    info = json.loads((exported.run / "model" / "model.json").read_text())
    assert model.info == info | {"thaw_version": thaw.__version__}
    assert {"arch", "pretrained", "metrics", "data_sha256", "weights_sha256"} <= set(model.info)
    assert (model.classes, model.threshold, model.temperature) == (CLASSES, 0.5, 2.5)


@slow
def test_torch_export_has_the_metadata_too(exported):
    extra = {"classes": "", "thaw_version": ""}
    torch.export.load(exported.run / "export" / "model.pt2", extra_files=extra)
    assert json.loads(extra["classes"]) == CLASSES


@slow
@pytest.mark.parametrize("name", FILES)
def test_no_path_of_this_machine_is_in_a_file(exported, name):
    content = (exported.run / "export" / name).read_bytes()
    assert str(REPO).encode() not in content
    assert b"site-packages" not in content


@slow
def test_what_is_unfamiliar_travels(exported, mixed, tmp_path):
    run = shutil.copytree(exported.run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    model, split = thaw.load(run), read.split(run)
    paths = {name: [split.root / path for path in split.paths(name)] for name in ("train", "val")}
    train, val = (torch.from_numpy(model.embed(paths[name])) for name in ("train", "val"))
    labels = torch.arange(len(train)) % 3
    familiar = store.fit(train, labels, val.repeat(9, 1))
    bundle.save(run / "model", model.backbone, model.classes, familiar, temperature=2.0)
    found = export(run, int8=True)
    assert found["model.onnx"]["familiarity"] < 0.1
    files = [run, *(run / "export" / name for name in ("model.onnx", "model.int8.onnx"))]
    first, second, third = ([*predict.load_model(f).predict(mixed)] for f in files)
    assert [p.label for p in first] == [p.label for p in second]
    assert {p.label == "unfamiliar" for p in first} == {True, False}
    for one, other in zip(first, second, strict=True):
        assert one.familiarity == pytest.approx(other.familiarity, abs=1.5 / len(familiar.scores))
    assert all(0 < p.familiarity <= 1 for p in third)
    import onnx

    # The net in 8 bits has distances of its own.
    scores = [
        next(
            onnx.numpy_helper.to_array(t)
            for t in onnx.load(f).graph.initializer
            if t.name.endswith("familiarity.scores")
        )
        for f in files[1:]
    ]
    assert len(scores[1]) == len(paths["val"])
    assert abs(np.unique(scores[0])[-1] - scores[1][-1]) > 1e-6


# --- int8 -----------------------------------------------------------------------------------------


@slow
def test_int8_tells_what_it_costs(exported):
    found = exported.found["model.int8.onnx"]
    for name, key in (("model.int8.onnx", "accuracy"), ("model.onnx", "accuracy_before")):
        model = onnx_model.load(exported.run / "export" / name)
        photos = sorted((exported.photos / "test").rglob("*.jpg"))
        labels = [p.label for p in model.predict(photos, threshold=0)]
        assert found[key] == np.mean([path.parent.name for path in photos] == np.array(labels))
    said = f"accuracy {found['accuracy']:.1%} instead of {found['accuracy_before']:.1%}"
    assert said in " ".join(exported.out.split())


@slow
def test_int8_is_another_and_similar_net(exported, mixed):
    folder = exported.run / "export"
    whole, small = (onnx_model.load(folder / name) for name in ("model.onnx", "model.int8.onnx"))
    difference = abs(rows(whole.predict(mixed)) - rows(small.predict(mixed))).max()
    assert 1e-6 < difference < 0.2
    assert b"QuantizeLinear" in (folder / "model.int8.onnx").read_bytes()


@pytest.mark.parametrize(("wrong", "told"), [(1, True), (0, False)])
def test_int8_that_costs_more_than_a_point_says_so(tmp_path, monkeypatch, capsys, wrong, told):
    photos = [Path(str(i)) for i in range(50)]

    def answers(wrong):
        probabilities = [dict(zip("ab", np.eye(2)[int(i < wrong)], strict=True)) for i in range(50)]
        found = zip(photos, probabilities, strict=True)
        return {photo: Prediction(str(photo), "", 1.0, row) for photo, row in found}

    class Model:
        def predict(self, photos):
            return [*answers(wrong).values()]

    monkeypatch.setattr(onnx_model, "load", lambda file: Model())
    (tmp_path / "model.int8.onnx").write_bytes(b"8")
    labelled = Photos(tmp_path, [], [], photos, ["a"] * 50)
    found = _cost(tmp_path / "model.int8.onnx", answers(0), labelled)
    assert found["accuracy"] == 1 - wrong / 50
    assert ("more than a point" in capsys.readouterr().out) is told


# --- predict.py without torch ---------------------------------------------------------------------


@slow
def test_predict_labels_with_an_onnx_file_and_without_torch(exported):
    photo = exported.photos / "test" / "red" / "0.jpg"
    model = exported.run / "export" / "model.onnx"
    command = [sys.executable, "-X", "importtime", REPO / "scripts" / "predict.py", model, photo]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert {"onnxruntime", "thaw.model.onnx"} <= imported
    assert not {"torch", "torchvision", "timm", "lightning"} & imported
    (expected,) = thaw.load(exported.run).predict([photo])
    assert done.stdout.split()[:2] == [str(photo), expected.label]


@slow
def test_a_broken_photo_is_told_or_raised(exported, mixed):
    mixed[1].write_text("no photo")
    model = onnx_model.load(exported.run / "export" / "model.onnx")
    with pytest.raises(UserError, match=mixed[1].name):
        list(model.predict(mixed))
    broken: list[UserError] = []
    assert len(list(model.predict(mixed, on_broken=broken.append))) == len(mixed) - 1
    assert mixed[1].name in str(broken[0])


def test_what_is_no_export_is_refused(tmp_path):
    import onnx

    with pytest.raises(UserError, match="there is none"):
        onnx_model.load(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UserError, match=r"text\.onnx.*can't be opened") as caught:
        onnx_model.load(tmp_path / "text.onnx")
    assert "\n" not in str(caught.value)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    end = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    body = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["x"], ["y"])], "g", [value], [end])
    other = onnx.helper.make_model(
        body, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="classes"):
        onnx_model.load(tmp_path / "other.onnx")


# --- what isn't written ---------------------------------------------------------------------------


@slow
@pytest.mark.parametrize(
    ("temperature", "out"),
    [
        pytest.param(100.0, "traced/export", id="all alike"),
        pytest.param(2.0, "a/b", id="other probabilities"),
    ],
)
def test_a_graph_with_other_answers_is_not_written(traced, tmp_path, temperature, out):
    change(traced, temperature=temperature)  # the graph has 2.5
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"model\.pt2 isn't written.* of 12 photos"):
        export(traced, out=tmp_path / out)
    assert sorted(tmp_path.rglob("*")) == before


@slow
def test_an_onnx_file_with_other_answers_is_not_written(exported, traced, monkeypatch):
    import onnx

    def write_other(_, file, *__):
        other = onnx.load(exported.run / "export" / "model.onnx")
        (weights,) = (t for t in other.graph.initializer if t.name == "net.fc.weight")
        weights.CopyFrom(
            onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), weights.name)
        )
        onnx.save(other, file)

    monkeypatch.setattr(graph, "write_onnx", write_other)
    with pytest.raises(UserError, match=r"model\.onnx isn't written"):
        export(traced)
    assert not (traced / "export").exists()


@slow
def test_an_earlier_export_stays_if_the_next_one_fails(traced):
    out = traced / "export"
    out.mkdir()
    for name in FILES:
        (out / name).write_text("earlier")
    change(traced, temperature=100.0)
    with pytest.raises(UserError, match="isn't written"):
        export(traced)
    assert sorted(file.name for file in out.iterdir()) == FILES
    assert {file.read_text() for file in out.iterdir()} == {"earlier"}


def test_a_net_that_torch_cant_trace_is_named(run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("data-dependent\nand more")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(UserError, match=r"shufflenet_v2_x0_5 can't be exported.*data-dependent$"):
        export(run)
    assert not (run / "export").exists()


# --- photos to check with -------------------------------------------------------------------------


class Reached(Exception):
    """The photos were found."""


@pytest.fixture
def reached(monkeypatch):
    def trace(model):
        raise Reached

    monkeypatch.setattr(graph, "trace", trace)


def test_photos_may_have_moved(finished, run, reached, tmp_path):
    file = run / "split.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"root": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match=r"gone.*--data DIR"):
        export(run)
    for int8 in (False, True):
        with pytest.raises(Reached):
            export(run, data=finished.photos, int8=int8)


def test_other_photos_will_do_but_not_for_int8(run, reached, mixed):
    with pytest.raises(Reached):
        export(run, data=mixed[0].parent)
    with pytest.raises(UserError, match=r"--data DIR"):
        export(run, data=mixed[0].parent, int8=True)


def test_a_bundle_needs_photos(run, reached, mixed):
    for arguments in ({}, {"data": mixed[0].parent, "int8": True}):
        with pytest.raises(UserError, match=r"split\.json.*--data DIR"):
            export(run / "model", **arguments)
    with pytest.raises(Reached):
        export(run / "model", data=mixed[0].parent)


def test_photos_that_cant_be_decoded_check_nothing(run, reached, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("no photo")
    with pytest.raises(UserError, match="none can be decoded"):
        export(run, data=tmp_path / "photos")
    assert "a.jpg" in capsys.readouterr().out


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def command(call_script):
    """Call `scripts/export.py ARGUMENTS`: → code, out, err."""
    return partial(call_script, "export")


@slow
def test_the_command_replaces_all_of_an_earlier_export(command, traced, tmp_path):
    out = tmp_path / "there"
    out.mkdir()
    for name in FILES:
        (out / name).write_text("earlier")
    done = command(traced, "--out", out)
    assert done.code == 0, done.err
    assert sorted(file.name for file in out.iterdir()) == ["model.onnx", "model.pt2"]
    assert onnx_model.load(out / "model.onnx").classes == CLASSES
    assert not (traced / "export").exists()
    assert "labels 12 of 12 photos" in done.out


def test_mistakes_exit_with_2(command, run, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments in ([tmp_path / "nowhere"], [run, "--out", tmp_path / "file"], []):
        done = command(*arguments)
        assert done.code == 2
        assert "Traceback" not in done.err
        assert done.err


def test_missing_packages_are_named_with_the_extra(run, monkeypatch):
    find = importlib.util.find_spec
    without = lambda name, *rest: None if name == "onnxscript" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UserError, match=r'onnxscript.*pip install "thaw-vision\[export\]"'):
        export(run)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r'onnxruntime.*pip install "thaw-vision\[export\]"'):
        onnx_model.load(run / "export" / "model.onnx")


# --- real photos and other nets -------------------------------------------------------------------


def saved(folder: Path, backbone) -> Path:
    torch.manual_seed(0)
    backbone.reset_head(2)
    bundle.save(folder, backbone, ["ants", "bees"])
    return folder


@slow
def test_photos_straight_from_jpeg_files_are_labelled_alike(exported, shared):
    photos = sorted((shared / "data" / "hymenoptera" / "val").rglob("*.jpg"))
    assert len(photos) == 153
    expected = list(thaw.load(exported.run).predict(photos))
    found = list(onnx_model.load(exported.run / "export" / "model.onnx").predict(photos))
    assert [p.label for p in found] == [p.label for p in expected]
    assert np.allclose(rows(found), rows(expected), atol=1e-5)


@slow
def test_a_net_of_attention(tmp_path, mixed, monkeypatch):
    # It is a branch, which takes seconds.
    monkeypatch.setattr("thaw.data.pixels.resize.TALL_FIRST", False)
    net = pretrained.timm("vit_tiny_patch16_224", weights=None, depth=1)
    photos = tmp_path / "wide"
    photos.mkdir()
    for photo in (mixed[0], mixed[5]):
        shutil.copy(photo, photos)
    found = export(saved(tmp_path / "bundle", net), out=tmp_path / "out", data=photos)
    assert found["model.onnx"]["alike"] == found["model.pt2"]["alike"] == 2
