"""`scripts/predict.py`, as a user calls it."""

import csv
import importlib.util
import json
import shutil
from functools import partial

import pytest
from PIL import Image

from thaw.errors import UserError
from thaw.model import batch, bundle


@pytest.fixture
def run(finished):
    return finished.run


@pytest.fixture
def photos(finished, tmp_path):
    """A copy, for a test may damage it."""
    return shutil.copytree(finished.photos, tmp_path / "photos")


@pytest.fixture
def predict(call_script):
    """Call `scripts/predict.py ARGUMENTS`: → code, out, err."""
    return partial(call_script, "predict")


def test_predictions_are_those_of_the_test(predict, run, photos, tmp_path):
    with (run / "predictions.csv").open(newline="") as file:
        expected = {row["path"]: row for row in csv.DictReader(file)}
    done = predict(run, photos / "test", "--csv", tmp_path / "out.csv")
    assert done.code == 0, done.err
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(expected) == len(done.out.splitlines()) == 12
    for row in rows:
        before = expected[row["path"].removeprefix(f"{photos}/")]
        assert row["label"] == before["prediction"]
        assert float(row["confidence"]) == pytest.approx(float(before["confidence"]), abs=1e-4)
        assert float(row["p:red"]) == pytest.approx(float(before["p:red"]), abs=1e-4)


def test_json_on_the_screen_is_nothing_but_json(predict, run, photos):
    photo = photos / "test" / "red" / "0.jpg"
    (found,) = json.loads(predict(run, "--json", photo).out)
    assert found["path"] == str(photo)
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_below_the_threshold_the_answer_is_unsure(predict, run, photos):
    photo = photos / "test" / "red" / "0.jpg"
    assert "unsure" in predict(run, photo, "--threshold", "1").out
    assert "unsure" not in predict(run, photo, "--threshold", "0").out


def test_top_k_lists_the_most_probable_labels(predict, run, photos):
    photo = photos / "test" / "red" / "0.jpg"
    (found,) = json.loads(predict(run, "--json", photo).out)
    ranked = sorted(found["probabilities"].items(), key=lambda item: -item[1])
    line = predict(run, photo, "--top-k", 2).out
    assert line.endswith(", ".join(f"{name} {share:.1%}" for name, share in ranked[:2]) + "\n")
    assert ranked[2][0] in predict(run, photo, "--top-k", 9).out


@pytest.fixture
def with_scores(run, tmp_path):
    """A copy of the bundle, as if val had given the right labels these probabilities."""
    folder = shutil.copytree(run / "model", tmp_path / "model")

    def store(scores):
        bundle.change(folder, conformal=scores)
        return folder

    return store


def test_coverage_gives_sets_of_labels(predict, with_scores, photos, tmp_path):
    model, photo = with_scores([0.0] * 19), photos / "test" / "red" / "0.jpg"
    done = predict(model, photo, "--coverage", 0.95, "--json", tmp_path / "out.json")
    assert done.code == 0, done.err
    assert done.out.count(" or ") == 2, "a cutoff of 0 leaves no label out"
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert sorted(found["labels"]) == ["blue", "green", "red"]
    model = with_scores([0.99] * 19)
    rows = csv.DictReader(predict(model, photo, "--coverage", 0.95, "--csv").out.splitlines())
    (row,) = rows
    assert (
        row["labels"] == row["label"] == max(found["probabilities"], key=found["probabilities"].get)
    )


def test_coverage_that_val_cannot_promise_is_refused(predict, with_scores, photos):
    done = predict(with_scores([0.5] * 18), photos / "test", "--coverage", 0.95)
    assert done.code == 2
    assert "18 val photos" in done.err
    done = predict(with_scores(None), photos / "test", "--coverage", 0.95)
    assert done.code == 2
    assert "--coverage" in done.err
    assert not done.out


def test_the_figure_shows_the_photos(predict, run, photos, tmp_path):
    assert predict(run, photos / "test" / "red", "--figure", tmp_path / "f.png").code == 0
    with Image.open(tmp_path / "f.png") as figure:
        assert min(figure.size) > 500
        assert len(figure.convert("RGB").getcolors(1 << 24)) > 1000


def test_a_broken_photo_is_named_and_the_others_are_labelled(predict, run, photos, tmp_path):
    broken = photos / "test" / "red" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    done = predict(run, photos / "test" / "red", "--csv", tmp_path / "out.csv")
    assert done.code == 2
    assert len(done.out.splitlines()) == 3
    assert str(broken) in done.err
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere", "photo.jpg"],
        ["{run}", "nowhere.jpg"],
        ["{run}", "{run}/train.log"],
        ["{run}", "{run}/model"],
        ["{run}"],
        ["{run}", "photo.jpg", "--threshold", "2"],
        ["{run}", "photo.jpg", "--top-k", "0"],
        ["{run}", "photo.jpg", "--coverage", "1"],
        ["{run}", "photo.jpg", "--output", "b.csv", "--json"],
        ["{run}", "{run}/figures", "--output", "b.txt"],
    ],
)
def test_mistakes_exit_with_2(predict, run, arguments):
    done = predict(*(argument.format(run=run) for argument in arguments))
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err


# --- figures and batches --------------------------------------------------------------------------


def test_explain_draws_what_the_net_sees_and_where_the_label_comes_from(
    predict, run, photos, tmp_path
):
    done = predict(run, photos / "test" / "red", "--explain", tmp_path / "e.png")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "e.png") as figure:
        assert figure.width > 900
        assert len(figure.convert("RGB").getcolors(1 << 24)) > 1000
    (tmp_path / "model.onnx").touch()
    done = predict(tmp_path / "model.onnx", photos / "test", "--explain", tmp_path / "e.png")
    assert done.code == 2
    assert "ONNX" in done.err


def test_a_batch_goes_to_a_file_and_broken_photos_to_a_report(
    predict, run, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(batch, "CHUNK", 5)  # several of them
    broken = photos / "test" / "red" / "1.jpg"
    broken.write_text("no photo")
    one_by_one = predict(run, photos / "test", "--csv", tmp_path / "a.csv")
    done = predict(run, photos / "test", "--output", tmp_path / "b.csv")
    assert one_by_one.code == done.code == 2
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()
    assert "11 photos" in " ".join(done.out.split())
    report = tmp_path / "b.broken.csv"
    assert str(report) in done.err
    (row,) = csv.DictReader(report.read_text().splitlines())
    assert row == {"path": str(broken), "reason": "not an image"}
    broken.unlink()
    assert predict(run, photos / "test", "--output", tmp_path / "b.csv").code == 0
    assert not report.exists()
    assert sorted(path.name for path in tmp_path.glob("*b.*")) == ["b.csv"]


def test_a_batch_as_parquet_holds_the_same(predict, with_scores, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    sets = ["--coverage", 0.95]
    model = with_scores([0.5] * 19)
    for name in ("b.csv", "b.parquet"):
        assert predict(model, photos / "test", *sets, "--output", tmp_path / name).code == 0
    rows = csv.DictReader((tmp_path / "b.csv").read_text().splitlines())
    found = parquet.read_table(tmp_path / "b.parquet").to_pylist()
    as_text = [{key: "" if v is None else str(v) for key, v in row.items()} for row in found]
    assert as_text == list(rows)
    probabilities = ["p:blue", "p:green", "p:red"]
    assert list(found[0]) == [
        "path",
        "label",
        "confidence",
        "familiarity",
        *probabilities,
        "labels",
    ]


def test_a_batch_that_breaks_off_leaves_nothing(predict, run, photos, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("broke off.")

    monkeypatch.setattr(batch, "_row", fail)
    assert predict(run, photos / "test", "--output", tmp_path / "b.csv").code == 2
    assert not list(tmp_path.glob("*b.csv*"))


def test_parquet_without_its_package_is_one_sentence(predict, run, photos, monkeypatch):
    find = importlib.util.find_spec
    without = lambda name, *rest: None if name == "pyarrow" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    done = predict(run, photos / "test", "--output", "b.parquet")
    assert done.code == 2
    assert 'pip install "thaw-vision[parquet]"' in done.err
