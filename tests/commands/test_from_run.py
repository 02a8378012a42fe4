"""`from_run=RUN`: more photos or classes for an old net, judged on what neither has seen."""

import csv
import json
import shutil

import pytest
from conftest import call_train, paint, state, weights_of

from thaw.commands.from_run import Old, kept_apart, tell, verdict
from thaw.data.folder import PhotoFolder
from thaw.runs import read
from thaw.runs.folder import RunFolder
from thaw.training.module import Classifier


class Died(BaseException):
    """As a kill: nothing that runs afterwards may matter."""


def metrics(run):
    return json.loads((run / "metrics.json").read_text())


def paths(run, split):
    return {photo.path for photo in read.split(run).photos[split]}


def test_photos_that_the_old_run_knew_stay_where_they_were(tmp_path):
    for i in range(20):
        for label, colour in enumerate([(60, 60, 190), (200, 60, 60)]):
            paint(tmp_path / f"{label}" / f"{i}.png", colour, 100 * label + i, (16, 16))
    shutil.copy(tmp_path / "0" / "3.png", tmp_path / "0" / "another name.png")
    data = PhotoFolder(str(tmp_path)).ready()
    digest = {
        sample.path: found
        for split in data.splits
        for sample, found in zip(data.splits[split], data.digests(split), strict=True)
    }
    before = {"test": ["0/3.png", "1/4.png"], "val": ["0/5.png"], "train": ["0/6.png", "1/7.png"]}
    splits = {digest[path]: split for split, names in before.items() for path in names}
    kept = kept_apart(data, Old(tmp_path, ["0", "1"], splits, {}))
    found = {sample.path: split for split, samples in kept.items() for sample in samples}
    assert len(found) == 41
    assert {path: found[path] for names in before.values() for path in names} == {
        path: split for split, names in before.items() for path in names
    }
    assert found["0/another name.png"] == "test", "a copy of a test photo is in training"


def test_old_test_photos_that_are_no_longer_there_are_told(tmp_path, caplog):
    for i in range(2):
        paint(tmp_path / "test" / "ab"[i] / "0.png", (60, 60, 190), i, (16, 16))
        for j in range(4):
            place = tmp_path / "train" / "ab"[i] / f"{j}.png"
            paint(place, (60, 60, 190), 10 + 4 * i + j, (16, 16))
    data = PhotoFolder(str(tmp_path)).ready()
    paths = [sample.path for sample in data.splits["test"]]
    known = dict(zip(data.digests("test"), paths, strict=True))
    answers = {digest: read.Answer(path, path[5], "a") for digest, path in known.items()}
    answers["gone"] = read.Answer("test/a/1.png", "a", "a")
    rows = [{"path": path, "label": path[5], "prediction": path[5]} for path in paths]
    found = verdict(Old(tmp_path, ["a", "b"], {}, answers), data, rows)
    assert (found["from_run/images"], found["from_run/missing"]) == (2, 1)
    with caplog.at_level("INFO"):
        tell(found)
    assert "100.0% of 2 of the old run's 3 test photos are right, 50.0% were" in caplog.text
    assert "1 photo that the old run was tested on is not in this run's test split" in caplog.text


@pytest.fixture(scope="module")
def old(short, few, tmp_path_factory):
    """A finished run of three classes, and a folder with its photos, more, and a fourth class."""
    folder = tmp_path_factory.mktemp("old")
    done = call_train(folder, *short, "trainer=cpu", "hydra.run.dir=old", "seed=7")
    assert done.code == 0, done.err
    more = shutil.copytree(few, folder / "more")
    for i in range(6):
        split = "train" if i < 4 else "test"
        paint(more / split / "yellow" / f"{i}.jpg", (200, 200, 40), 9000 + i)
        paint(more / split / "red" / f"new{i}.jpg", (200, 60, 60), 9100 + i)
    # What the old run was tested on, in the new train folder by another name.
    shutil.copy(few / "test" / "blue" / "0.jpg", more / "train" / "blue" / "again.jpg")
    return folder


@pytest.mark.slow
def test_a_class_is_added_and_the_two_are_compared(old, few):
    done = call_train(old, "from_run=old", "data.root=more", "hydra.run.dir=new")
    assert done.code == 0, done.err
    new, before = old / "new", old / "old"
    assert read.split(new).classes == ["blue", "green", "red", "yellow"]
    assert "train/blue/again.jpg" in paths(new, "test")
    assert paths(before, "val") <= paths(new, "val")
    assert paths(before, "train") <= paths(new, "train")
    assert read.config(new)["seed"] == 7, "a setting of the old run is lost"

    found = metrics(new)
    with (before / "predictions.csv").open(newline="") as file:
        was = {row["path"]: row["prediction"] == row["label"] for row in csv.DictReader(file)}
    with (new / "predictions.csv").open(newline="") as file:
        now = {row["path"]: row["prediction"] == row["label"] for row in csv.DictReader(file)}
    gains = [now[path] - was[path] for path in was]
    assert found["from_run/images"] == 6, "the copy of one counts as another photo"
    assert found["from_run/better"] == sum(gain > 0 for gain in gains)
    assert found["from_run/worse"] == sum(gain < 0 for gain in gains)
    assert "against before" in done.out

    # Its settings are the old run's but for what is typed; without photos it is the same net.
    again = call_train(old, "from_run=old", "hydra.run.dir=again", "finetune.phases.head.lr=0")
    assert again.code == 0, again.err
    assert weights_of(old / "again") == weights_of(before)
    assert metrics(old / "again")["from_run/p"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["from_run=nowhere"], "Expected from_run= to name a run folder"),
        (["from_run=old/model"], "but old/model is none; old is one"),
        (["from_run=old", "data.root=fewer"], "has none of blue"),
        (["from_run=old", "folds=2"], "Expected from_run or folds"),
        (["from_run=old", "arch=small_cnn"], "Expected the net of from_run, shufflenet"),
        (["from_run=broken"], "Expected a finished run in from_run=broken, but it is failed"),
        (["from_run=old", "data.root=lost"], "1 photo that old was tested on is gone"),
    ],
)
def test_what_cannot_be_gone_on_from_is_told(old, few, words, told):
    if "data.root=fewer" in words:
        shutil.copytree(few, old / "fewer")
        for split in ("train", "test"):
            shutil.rmtree(old / "fewer" / split / "blue")
    if "from_run=broken" in words:
        shutil.copytree(old / "old", old / "broken")
        (old / "broken" / "status.json").write_text('{"state": "failed"}')
    if "data.root=lost" in words:
        photo = few / "test" / "blue" / "1.jpg"
        shutil.copytree(few, old / "lost")
        (old / "lost" / "test" / "blue" / "1.jpg").unlink()
        aside = photo.rename(few / "aside.jpg")
    try:
        done = call_train(old, *words)
    finally:
        if "data.root=lost" in words:
            aside.rename(photo)
    assert done.code == 2
    assert told in done.err


# --- interrupted ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(few, tmp_path_factory):
    """A folder with a finished run, and one from it on a new class that nothing disturbed."""
    folder = tmp_path_factory.mktemp("both")
    net = ("arch=small_cnn", "arch.width=4", "arch.input_size=32", "finetune=from_scratch")
    short = ("finetune.phases.all.epochs=3", "finetune.phases.all.warmup=0", "trainer=cpu")
    data = ("data=folder", f"data.root={few}", "data.batch_size=8")
    done = call_train(folder, *net, *short, *data, "hydra.run.dir=old")
    assert done.code == 0, done.err
    more = shutil.copytree(few, folder / "more")
    for i in range(4):
        paint(more / "train" / "yellow" / f"{i}.jpg", (200, 200, 40), 9000 + i)
    paint(more / "test" / "yellow" / "0.jpg", (200, 200, 40), 9100)
    done = call_train(folder, "from_run=old", "data.root=more", "hydra.run.dir=new")
    assert done.code == 0, done.err
    return folder


def outcome(run):
    """What must be the same however often it was interrupted."""
    told = {key: value for key, value in metrics(run).items() if key.startswith("from_run/")}
    return weights_of(run), (run / "predictions.csv").read_text(), told


@pytest.mark.slow
@pytest.mark.parametrize("where", ["first epoch", "last epoch", "end"])
def test_a_run_from_another_that_died_ends_the_same(both, monkeypatch, where):
    def dying(self, images, batch_idx, step=Classifier.training_step):
        if self.current_epoch == {"first epoch": 0, "last epoch": 2}.get(where):
            raise Died
        return step(self, images, batch_idx)

    def finish(self):
        raise Died  # all is written but that it is done

    dead = both / where.replace(" ", "_")
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", dying)
        patch.setattr("thaw.training.checkpoints.EVERY", 0.0)
        if where == "end":
            patch.setattr(RunFolder, "finish", finish)
        with pytest.raises(Died):
            call_train(both, "from_run=old", "data.root=more", f"hydra.run.dir={dead.name}")
    assert state(dead) == "running"
    (dead / ".lock").unlink()  # this process, which would hold it, lives on
    if where == "end":
        assert outcome(dead) == outcome(both / "new"), "the verdict isn't there when all is"

    away = (both / "old").rename(both / "away")
    try:
        refused = call_train(both, f"resume={dead.name}")
        finished = call_train(both, "resume=new")
    finally:
        away.rename(both / "old")
    assert refused.code == 2
    assert "Expected a finished run in from_run=old, but it is no run" in refused.err
    assert finished.code == 0, "a run that is done needs the old one"

    resumed = call_train(both, f"resume={dead.name}")
    assert resumed.code == 0, resumed.err
    assert ("going on from" in resumed.out) == (where != "first epoch")
    assert "against before" in resumed.out
    assert outcome(dead) == outcome(both / "new")
