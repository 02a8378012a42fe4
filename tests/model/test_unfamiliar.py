"""Unfamiliar and similar photos, features, what to label next: through the user's door."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refusal
from PIL import Image

import thaw
from thaw.data.photos import digests
from thaw.errors import UserError
from thaw.model import bundle
from thaw.model.familiar import similar, store
from thaw.model.familiar.label_next import label_next
from thaw.model.familiar.labelling import Desk, app, is_folder_name
from thaw.runs import read


@pytest.fixture(scope="module")
def knowing(finished, tmp_path_factory) -> Path:
    """The run of `finished`, as if it had had many val photos, and its blocks had been trained."""
    return judged(finished.run, tmp_path_factory.mktemp("knowing") / "run", 8)


@pytest.fixture(scope="module")
def unable(finished, tmp_path_factory) -> Path:
    """The same with the few val photos that it has."""
    return judged(finished.run, tmp_path_factory.mktemp("unable") / "run", 1)


def judged(source: Path, target: Path, times: int) -> Path:
    """A copy of a run, whose val photos are so many times there."""
    run = shutil.copytree(source, target)
    model, split = thaw.load(run), read.split(run)
    photos = split.photos["train"]
    labels = torch.tensor([split.classes.index(photo.label) for photo in photos])
    paths = {name: [split.root / p for p in split.paths(name)] for name in ("train", "val")}
    train, val = (torch.from_numpy(model.embed(paths[name])) for name in ("train", "val"))
    contents = digests(paths["train"])
    place = (split.paths("train"), str(split.root), contents)
    familiar = store.fit(train, labels, val.repeat(times, 1), *place)
    kept = ("temperature", "threshold", "conformal", "metrics", "data_sha256", "white")
    facts = {key: model.info[key] for key in kept if key in model.info}
    bundle.save(run / "model", model.backbone, model.classes, familiar, **facts)
    return run


@pytest.fixture
def strange(tmp_path) -> Path:
    """Noise, which the colours that the run was trained on are nothing like."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


@pytest.fixture
def red(finished) -> Path:
    return finished.photos / "train" / "red" / "0.jpg"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_train_photos_count_where_the_head_alone_was_trained(finished):
    told = json.loads((finished.run / "model" / "model.json").read_text())["unfamiliar"]
    photos = read.split(finished.run).photos
    assert told["train/judged"] == len(photos["train"])
    assert told["val/images"] == len(photos["val"]) < 19
    assert told["refused"] is None
    known = thaw.load(finished.run).familiar
    assert known is not None
    assert len(known.scores) == told["train/judged"] + told["val/images"]
    p = [float(row["familiarity"]) for row in rows(finished.run / "predictions.csv")]
    share = sum(value <= 0.05 for value in p) / len(p)
    assert read.metrics(finished.run)["test/unfamiliar"] == pytest.approx(share)


def test_a_run_with_few_val_photos_says_why_it_promises_nothing(unable, call_script, strange):
    told = json.loads((unable / "model" / "model.json").read_text())["unfamiliar"]
    assert "photos can't promise that at most 5%" in told["refused"]
    done = call_script("predict", unable, strange, "--json")
    assert json.loads(done.out)[0]["familiarity"] is None
    assert "unfamiliar" not in done.out.replace('"unfamiliar"', "")
    done = call_script("predict", unable, strange, "--unfamiliar-level", 0.01)
    assert done.code == 2
    assert "that takes 99" in done.err


def test_what_the_terminal_and_files_say(knowing, call_script, strange, red, tmp_path):
    done = call_script("predict", knowing, strange, red, "--csv", tmp_path / "a.csv")
    assert done.code == 0, done.err
    first, second = done.out.splitlines()
    assert "unfamiliar   (most like " in first
    assert "unfamiliar" not in second
    written = rows(tmp_path / "a.csv")
    assert written[0]["label"] == "unfamiliar"
    assert float(written[0]["familiarity"]) < 0.05 < float(written[1]["familiarity"])
    none = call_script("predict", knowing, strange, "--unfamiliar-level", 0)
    assert "unfamiliar" not in none.out


def test_parquet_has_numbers_whether_it_can_tell_or_not(knowing, unable, call_script, red):
    parquet = pytest.importorskip("pyarrow.parquet")
    for run, nulls in ((knowing, 0), (unable, 1)):
        file = red.parents[3] / "out.parquet"
        done = call_script("predict", run, red, "--output", file)
        assert done.code == 0, done.err
        table = parquet.read_table(file)
        assert str(table.schema.field("familiarity").type) == "double"
        assert table["familiarity"].null_count == nulls


def test_similar_photos(knowing, call_script, red, tmp_path):
    figure = tmp_path / "figure.png"
    done = call_script("predict", knowing, red, "--similar", 3, "--json", "--figure", figure)
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)
    assert found["similar"][0] == {"path": "train/red/0.jpg", "label": "red"} | {
        "likeness": pytest.approx(1, abs=1e-3)
    }
    assert len(found["similar"]) == 3
    with Image.open(figure) as drawn:
        assert drawn.width > 900
    done = call_script("predict", knowing, red, "--similar", 2)
    assert "    like train/red/0.jpg (red, 1.00)" in done.out
    assert call_script("predict", knowing, red, "--similar", -1).code == 2


def test_similar_photos_of_a_sample_are_told_as_such(knowing, call_script, red, tmp_path):
    model = thaw.load(knowing)
    assert model.familiar is not None
    assert model.familiar.sample == "", "all are kept"
    some = replace(model.familiar, seen=5000)
    bundle.save(tmp_path / "model", model.backbone, model.classes, some)
    words = f"Looked for among {len(some.rows)} of the 5,000 train photos, drawn by chance."
    assert words in call_script("predict", tmp_path / "model", red, "--similar", 1).out
    assert words not in call_script("predict", tmp_path / "model", red).out
    (found,) = json.loads(
        call_script("predict", tmp_path / "model", red, "--similar", 1, "--json").out
    )
    assert found["sample"] == words


def test_features(knowing, call_script, red, tmp_path):
    features = thaw.load(knowing).embed([red, red])
    assert features.dtype == np.float32
    assert features.shape == (2, thaw.load(knowing).backbone.in_features)
    done = call_script("embed", knowing, red, "--output", tmp_path / "x.npy")
    assert done.code == 0, done.err
    assert np.load(tmp_path / "x.npy") == pytest.approx(features[:1], abs=1e-4)
    assert rows(tmp_path / "x.csv") == [{"path": str(red)}]
    assert call_script("embed", knowing, red, "--output", tmp_path / "x.txt").code == 2
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    assert call_script("embed", knowing, red, "--output", tmp_path / "x.parquet").code == 0
    table = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert table[0]["path"] == str(red)
    assert table[0]["features"] == pytest.approx(features[0].tolist(), abs=1e-4)


@pytest.mark.slow
def test_evaluate_tells_what_it_is_worth(knowing, call_script, strange, red, tmp_path):
    out = tmp_path / "out"
    done = call_script("evaluate", knowing, "--unfamiliar", strange.parent, "--out", out)
    assert done.code == 0, done.err
    refused = call_script("evaluate", knowing, "--unfamiliar", red.parent)
    assert refused.code == 2
    assert "the model was trained on" in refused.err
    told = json.loads((out / "evaluation.json").read_text())["unfamiliar"]
    assert told["far"]["photos"] == told["far"]["unfamiliar"] == 1
    assert told["far"]["auroc"] == pytest.approx(1)
    assert told["share_low"] - 1e-9 <= told["share"] <= told["share_high"]
    assert (out / "figures" / "unfamiliar.png").is_file()
    assert "promised at most 5% of photos like val's" in " ".join(done.out.split())
    for row in told["left_out"].values():
        assert 0 <= row["noticed_by_confidence"] <= 1


def test_a_bundle_without_its_store_is_refused(knowing, tmp_path):
    run = shutil.copytree(knowing, tmp_path / "run")
    (run / "model" / store.FILE).unlink()
    assert "copy the bundle again" in refusal(thaw.load, run)


def test_the_server_says_the_same(knowing, strange, red):
    testclient = pytest.importorskip("starlette.testclient")
    pytest.importorskip("python_multipart")
    from thaw.model import serve

    with testclient.TestClient(serve.app(knowing)) as client:
        files = [("photo", (p.name, p.read_bytes())) for p in (strange, red)]
        first, second = client.post("/predict?similar=2", files=files).json()["photos"]
        assert client.post("/predict?similar=x", files=files).status_code == 422
        assert client.get("/model").json()["sample"] == "", "all train photos are kept"
    expected = [*thaw.load(knowing).predict([strange, red])]
    assert [first["label"], second["label"]] == [p.label for p in expected]
    assert first["label"] == "unfamiliar"
    assert first["familiarity"] == expected[0].familiarity
    assert second["similar"][0]["photo"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize("how", ["a path of its own", "a root", "contents"])
def test_a_bundle_from_elsewhere_shows_no_files_of_this_machine(knowing, red, tmp_path, how):
    """It may name any, but who made it doesn't know what is in them."""
    model, secret = thaw.load(knowing), tmp_path / "secret.jpg"
    shutil.copy(red, tmp_path / "red.jpg")
    Image.new("RGB", (64, 64), "red").save(secret)
    known = model.familiar
    assert known is not None
    assert known.file_of("train/red/0.jpg") == red
    changed = {
        "a path of its own": {"photos": [str(secret)] * len(known.photos)},
        "a root": {"root": str(tmp_path), "photos": ["secret.jpg"] * len(known.photos)},
        "contents": {"contents": []},
    }[how]
    bundle.save(tmp_path / "model", model.backbone, model.classes, replace(known, **changed))
    sent = thaw.load(tmp_path / "model")
    (said,) = sent.predict(red, similar=2)
    assert sent.familiar is not None
    assert [similar.thumbnail(sent.familiar, like) for like in said.similar] == [None, None]
    with pytest.raises(UserError, match="say with --into DIR"):
        label_next(tmp_path / "model", tmp_path, page=True)


# --- what to label next ---------------------------------------------------------------------------


def test_label_next_lists_what_has_no_label(knowing, finished, call_script, strange, tmp_path):
    shutil.copy(finished.photos / "test" / "blue" / "0.jpg", tmp_path / "other.jpg")
    shutil.copy(finished.photos / "test" / "red" / "1.jpg", tmp_path / "another.jpg")
    new = Image.new("RGB", (40, 40), (200, 40, 40))
    new.save(tmp_path / "new.png")
    file = tmp_path / "list.csv"
    done = call_script("label-next".replace("-", "_"), knowing, tmp_path, "--csv", file)
    assert done.code == 0, done.err
    # Those that lie below the photos' folder have labels already.
    assert {Path(row["path"]).name for row in rows(file)} == {"noise.png", "new.png"}
    assert "when they are labelled\n  " in done.out
    assert f"data.root={finished.photos}" in done.out


def test_each_photo_is_copied_and_nothing_replaced(tmp_path):
    photos = [tmp_path / folder / "a.jpg" for folder in "xyz"]
    for photo in photos:
        photo.parent.mkdir()
        photo.write_text(photo.parent.name)
    folders = {"ants": tmp_path / "data" / "ants", "bees": tmp_path / "data" / "bees"}
    desk = Desk(photos, folders, tmp_path / "data")
    for number in range(3):
        desk.label(number, "ants")
    names = ["a.jpg", "a_2.jpg", "a_3.jpg"]
    assert [(folders["ants"] / name).read_text() for name in names] == ["x", "y", "z"]
    assert all(photo.is_file() for photo in photos)
    assert "has a label" in refusal(desk.label, 0, "bees")
    desk.undo()
    assert sorted(path.name for path in folders["ants"].iterdir()) == names[:2]
    desk.label(2, "wasps")
    assert (tmp_path / "data" / "wasps" / "a.jpg").read_text() == "z"
    assert desk.state()["classes"] == ["ants", "bees", "wasps"]
    for name in ("..", "a/b", "", ".x", "a\\b", "a\nb", "x" * 300):
        assert not is_folder_name(name)
        fresh = Desk(photos, {}, tmp_path / "data")
        assert "name that a folder can have" in refusal(fresh.label, 0, name)
    assert is_folder_name("Käfer, große")


def test_the_page_labels(knowing, red, tmp_path):
    testclient = pytest.importorskip("starlette.testclient")
    predictions = [*thaw.load(knowing).predict([red])]
    page = app(predictions, {"red": tmp_path / "red"}, tmp_path)
    with testclient.TestClient(page, base_url="http://127.0.0.1") as client:
        assert "</html>" in client.get("/").text
        assert client.get("/photos").json()["photos"][0]["name"] == red.name
        assert client.get("/photo/0").content[:2] == b"\xff\xd8"
        assert client.get("/photo/1").status_code == 404
        state = client.post("/label", json={"photo": 0, "class": "red"}).json()
        assert state["done"] == [[0, "red"]]
        assert (tmp_path / "red" / red.name).read_bytes() == red.read_bytes()
        for wrong in ({"photo": 5, "class": "red"}, {"photo": True, "class": "red"}, [], {}):
            assert client.post("/label", json=wrong).status_code == 422
        foreign = {"Origin": "http://evil.example"}
        assert client.post("/undo", headers=foreign).status_code == 403
        assert client.post("/undo").json()["done"] == []
        assert not [*(tmp_path / "red").iterdir()]
