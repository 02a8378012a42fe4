"""`scripts/predict.py`, as a user calls it."""

import csv
import importlib.util
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
from conftest import REPO, make_photos, small_run
from PIL import Image

import train
from thaw import cli


@pytest.fixture(scope="module")
def trained(weights, tmp_path_factory):
    """A run, and the photos it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    photos = make_photos(folder / "photos")
    arguments = [*small_run(photos, weights("shufflenet_v2_x0_5")), "hydra.run.dir=run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", *arguments, "finetune.phases.head.epochs=1"])
        with pytest.raises(SystemExit):
            cli.command(train.start)
    return folder / "run", photos


@pytest.fixture
def run(trained):
    return trained[0]


@pytest.fixture
def photos(trained, tmp_path):
    """A copy, for a test may damage it."""
    return shutil.copytree(trained[1], tmp_path / "photos")


@pytest.fixture
def predict(monkeypatch, capsys):
    """Call `scripts/predict.py ARGUMENTS`: → code, out, err."""
    spec = importlib.util.spec_from_file_location("predict_script", REPO / "scripts/predict.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.command(script.main)
        printed = capsys.readouterr()
        return SimpleNamespace(code=stop.value.code, out=printed.out, err=printed.err)

    return call


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
        assert float(row["red"]) == pytest.approx(float(before["red"]), abs=1e-4)


def test_json_on_the_screen_is_nothing_but_json(predict, run, photos):
    photo = photos / "test" / "red" / "0.jpg"
    (found,) = json.loads(predict(run, "--json", photo).out)
    assert found["path"] == str(photo)
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_below_the_threshold_the_answer_is_unsure(predict, run, photos):
    photo = photos / "test" / "red" / "0.jpg"
    assert "unsure" in predict(run, photo, "--threshold", "1").out
    assert "unsure" not in predict(run, photo, "--threshold", "0").out


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
    ],
)
def test_mistakes_exit_with_2(predict, run, arguments):
    done = predict(*(argument.format(run=run) for argument in arguments))
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err
