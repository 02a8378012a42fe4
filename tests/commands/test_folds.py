"""`folds=k`: each photo is tested once, by a net that hasn't seen it or a copy of it."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import call_train, make_photos, paint, state, weights_of

from thaw.commands.folds.ensemble import put_mean_head
from thaw.commands.folds.refit import epochs
from thaw.commands.folds.run import share_out
from thaw.data.folder import PhotoFolder
from thaw.data.photos import load_photo
from thaw.errors import UserError
from thaw.export.write import export
from thaw.launch.cli import Interrupted
from thaw.model import bundle
from thaw.model.bundle import load
from thaw.model.explain import heat
from thaw.runs import read
from thaw.training.module import Classifier
from thaw.training.schedule import Schedule

K = 3
SQUEEZE = ("arch.name=squeezenet1_0", "arch.weights=null")


class Died(BaseException):
    """As a kill: nothing that runs afterwards may matter."""


def rows(run):
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metrics(run):
    return json.loads((run / "metrics.json").read_text())


def outcome(run):
    """What must be the same however often it was interrupted."""
    folds = [(run / "folds" / str(i)) for i in range(1, K + 1)]
    return [weights_of(fold) for fold in folds], (run / "predictions.csv").read_text()


# --- sharing photos out ---------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path):
    """24 photos of 2 classes in 8 clips, one of which is there twice, and nothing is split."""
    for label, colour in enumerate([(60, 60, 190), (200, 60, 60)]):
        for i in range(12):
            paint(
                tmp_path / f"{label}" / f"clip{i // 3}_{i}.png", colour, 100 * label + i, (20, 20)
            )
    shutil.copy(tmp_path / "0" / "clip0_1.png", tmp_path / "0" / "clip3_copy.png")
    return tmp_path


def test_copies_and_groups_are_on_one_side_in_every_fold(clips):
    data = PhotoFolder(str(clips), group=r"\d/clip\d").ready()
    shares = share_out(data, K)
    tested = [sample.path for own in shares for sample in own.splits["test"]]
    assert sorted(tested) == sorted(str(p.relative_to(clips)) for p in clips.glob("*/*.png"))
    for own in shares:
        splits = {s.path: split for split, samples in own.splits.items() for s in samples}
        assert len(splits) == 25, "each photo once, in one split"
        assert {sample.label for sample in own.splits["train"]} == {0, 1}
        sides = {}
        for split, samples in own.splits.items():
            for sample in samples:
                sides.setdefault(sample.group, set()).add(split)
        assert all(len(found) == 1 for found in sides.values())
        assert splits["0/clip0_1.png"] == splits["0/clip3_copy.png"]
    with pytest.raises(UserError, match="at most 7"):  # the copy has made one of two clips
        share_out(data, 8)


def test_a_class_that_is_in_one_fold_alone_is_refused(clips):
    paint(clips / "2" / "alone.png", (60, 180, 60), 7)
    with pytest.raises(UserError, match="has none for 2 "):
        share_out(PhotoFolder(str(clips)).ready(), K)


# --- a run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arguments(short):
    return [*short, "trainer=cpu", f"folds={K}", "finetune.phases.head.epochs=2"]


@pytest.fixture(scope="module")
def reference(arguments, tmp_path_factory):
    """The undisturbed run."""
    done = call_train(tmp_path_factory.mktemp("reference"), *arguments)
    assert done.code == 0, done.err
    return done


@pytest.mark.slow
def test_figures_are_of_all_photos_and_test_stays_closed(reference, few, call_script):
    run, found = reference.run, metrics(reference.run)
    paths = {row["path"] for row in rows(run)}
    assert paths == {str(p.relative_to(few)) for p in few.glob("train/*/*.jpg")}
    assert found["test/images"] == len(rows(run)) == 15
    right = [row["label"] == row["prediction"] for row in rows(run)]
    assert found["test/acc"] == pytest.approx(sum(right) / 15)
    for number in range(1, K + 1):
        own = rows(run / "folds" / str(number))
        told = [
            {k: v for k, v in r.items() if k != "fold"}
            for r in rows(run)
            if r["fold"] == f"{number}"
        ]
        assert sorted(own, key=lambda r: r["path"]) == sorted(told, key=lambda r: r["path"])
    assert "in no fold, and stays closed" in reference.out
    assert not [row for row in rows(run) if row["path"].startswith("test")]
    assert "a net that hasn't seen it" in reference.out
    page = (run / "report.html").read_text()
    assert f"{sum(right)} of 15 photos" in page
    assert "by a net that had never seen it" in page
    assert all(f'href="folds/{number}/report.html"' in page for number in range(1, K + 1))
    assert (run / "folds" / "1" / "report.html").is_file()

    done = call_script("evaluate", run)
    assert done.code == 0, done.err
    again = json.loads((run / "evaluation.json").read_text())
    for key in ("acc", "ece", "loss", "f1"):
        assert again["scores"][key] == pytest.approx(found[f"test/{key}"])
    compared = call_script("compare", run.parents[2])
    assert "of 15 test photos" in " ".join(compared.out.split()), compared.err
    assert call_script("describe", run).code == 0
    refused = call_script("predict", run, few)
    assert refused.code == 2
    assert "folds/1" in refused.err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_run_that_died_in_a_fold_ends_the_same(arguments, reference, tmp_path, how):
    steps = 0

    def dying(self, images, batch_idx, step=Classifier.training_step):
        nonlocal steps
        steps += 1
        if steps == 4:  # an epoch is a step here: in the second fold
            raise Died if how == "killed" else Interrupted(2)
        return step(self, images, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", dying)
        if how == "killed":
            with pytest.raises(Died):
                call_train(tmp_path, *arguments, "hydra.run.dir=dead")
        else:
            assert call_train(tmp_path, *arguments, "hydra.run.dir=dead").code == 130
    dead = tmp_path / "dead"
    first = dead / "folds" / "1" / "metrics.json"
    assert state(dead) == {"killed": "running", "interrupted": "interrupted"}[how]
    for lock in dead.rglob(".lock"):  # this process, which would hold them, lives on
        lock.unlink()
    before = first.stat().st_mtime_ns
    resumed = call_train(tmp_path, "resume=dead")
    assert resumed.code == 0, resumed.err
    assert first.stat().st_mtime_ns == before, "a finished fold was done again"
    assert outcome(dead) == outcome(reference.run)
    assert "finished" in call_train(tmp_path, "resume=dead").out


@pytest.mark.slow
def test_a_fold_that_fails_is_told(arguments, reference, tmp_path):
    def failing(self, images, batch_idx, step=Classifier.training_step):
        if "folds/2" in str(self.trainer.callbacks[-1].folder):
            raise UserError("The disk is full.")
        return step(self, images, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", failing)
        failed = call_train(tmp_path, *arguments, "hydra.run.dir=dead")
    assert failed.code == 2
    assert failed.err.startswith("Fold 2 of 3 failed: The disk is full.")
    dead = tmp_path / "dead"
    assert [state(dead), state(dead / "folds" / "1"), state(dead / "folds" / "2")] == [
        "failed",
        "done",
        "failed",
    ]
    assert not (dead / "folds" / "3").exists()
    assert call_train(tmp_path, "resume=dead").code == 0
    assert outcome(dead) == outcome(reference.run)


# --- one model of all photos ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ({"head": {}, "all": {}}, {"head": 3, "all": 1}),
        # Of a phase that waited for convergence, what came after its best was undone.
        ({"head": {"until": "converged"}, "all": {}}, {"head": 2, "all": 1}),
    ],
)
def test_a_refit_lasts_as_long_as_the_best_nets_did(tmp_path, phases, expected):
    (tmp_path / "status.json").touch()
    curves = ([3, 1, 2, 0.9, 1], [3, 1, 2, 0.5, 0.7], [3, 2, 1, 4, 5])
    for number, losses in enumerate(curves, start=1):
        names = ["head", "head", "head", "all", "all"]
        lines = [f"{i},{n},{v},0.5" for i, (n, v) in enumerate(zip(names, losses, strict=True), 1)]
        file = tmp_path / "folds" / str(number) / "history.csv"
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(["epoch,phase,val/loss,val/acc", *lines]) + "\n")
    given = {name: {"train": name, "epochs": 5, "lr": 0.1, **own} for name, own in phases.items()}
    schedule = Schedule(given)
    assert epochs(tmp_path, schedule) == expected
    shorter = schedule.ending_after(expected)
    assert shorter.epochs == sum(expected.values())
    assert shorter.phases[0].factor(2) == schedule.phases[0].factor(2)
    assert [phase.name for phase in schedule.ending_after({"head": 2, "all": 0}).phases] == ["head"]


@pytest.fixture(scope="module")
def refitted(reference, arguments, tmp_path_factory):
    """The reference, gone on with for a model of all photos, and how it was before."""
    folder = tmp_path_factory.mktemp("refitted")
    run = shutil.copytree(reference.run, folder / "run")
    done = call_train(folder, "resume=run", "refit=all")
    assert done.code == 0, done.err
    done.run = run
    return done


@pytest.mark.slow
def test_the_model_of_all_photos_has_the_folds_figures(refitted, reference, few, call_script):
    run, found, before = refitted.run, metrics(refitted.run), metrics(reference.run)
    assert {key: found[key] for key in before if key.startswith(("test/", "val/", "folds"))} == {
        key: value for key, value in before.items() if key.startswith(("test/", "val/", "folds"))
    }
    assert (run / "predictions.csv").read_text() == (reference.run / "predictions.csv").read_text()
    split = json.loads((run / "refit" / "split.json").read_text())
    assert sorted(p["path"] for p in split["train"]) == sorted(row["path"] for row in rows(run))
    assert not split["val"]
    assert all(photo["path"].startswith("test") for photo in split["test"])
    assert found["given/images"] == len(split["test"]) == 6
    right = [row["label"] == row["prediction"] for row in rows(run / "refit")]
    assert found["given/acc"] == pytest.approx(sum(right) / 6)
    assert "how good it is, the folds tell" in " ".join(refitted.out.split())

    model = load(run)
    assert model.familiar is not None
    assert len(model.familiar.scores) == 15, (
        "the cut of unfamiliar isn't that of the folds' answers"
    )
    told = {
        p.path: p.probabilities for p in model.predict([few / p["path"] for p in split["test"]])
    }
    for row in rows(run / "refit"):
        own = told[str(few / row["path"])]
        assert all(own[name] == pytest.approx(float(row[f"p:{name}"]), abs=1e-3) for name in own)
    target = ("evaluate", run, "--target-coverage", "0.5")
    refused = call_script(*target, "--unfamiliar", few / "train")
    assert refused.code == 2
    assert "the model was trained on" in " ".join(refused.err.split())
    assert load(run).threshold is None, "a command that was refused has stored a threshold"
    done = call_script(*target)
    assert done.code == 0, done.err
    assert load(run).threshold is not None
    done = call_script("evaluate", run, "--unfamiliar", few / "test")
    assert done.code == 0, done.err
    told = json.loads((run / "evaluation.json").read_text())["unsure"]
    assert told["promise"]["coverage"] == 0.5, "a promise is lost by evaluating again"


@pytest.mark.slow
def test_a_run_that_died_in_the_refit_ends_the_same(reference, refitted, tmp_path):
    shutil.copytree(reference.run, tmp_path / "dead")

    def dying(self, images, batch_idx, step=Classifier.training_step):
        if self.current_epoch == 1:
            raise Died
        return step(self, images, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", dying)
        patch.setattr("thaw.training.checkpoints.EVERY", 0.0)
        with pytest.raises(Died):
            call_train(tmp_path, "resume=dead", "refit=all")
    for lock in (tmp_path / "dead").rglob(".lock"):
        lock.unlink()
    resumed = call_train(tmp_path, "resume=dead")  # it knows that it was about to
    assert resumed.code == 0, resumed.err
    log = (tmp_path / "dead" / "train.log").read_text()
    assert "going on from" in log[log.rindex("folds   3") :]
    assert weights_of(tmp_path / "dead") == weights_of(refitted.run)


@pytest.fixture(scope="module")
def thawed(short, tmp_path_factory):
    """Two folds whose last block trains with the head, and a model of all photos."""
    last = "+finetune.phases.last={train: 1, epochs: 1, lr: 1e-4}"
    words = (*short, "trainer=cpu", "folds=2", "data.size=64", last, "refit=all")
    done = call_train(tmp_path_factory.mktemp("thawed"), *words)
    assert done.code == 0, done.err
    return done


@pytest.mark.slow
def test_folds_that_thaw_leave_a_model_of_all_photos(thawed):
    assert metrics(thawed.run)["refit/epochs"] == 2
    told = load(thawed.run / "folds" / "1").info["unfamiliar"]
    assert told["train/judged"] == 0, "the last block has learned from them"
    head, *folds = (load(thawed.run / place).backbone for place in ("", "folds/1", "folds/2"))
    stage = list(head.stages)[-2]
    own = [
        torch.cat([p.flatten() for p in b.named_parameters_of(stage).values()])
        for b in (head, *folds)
    ]
    assert not own[0].equal(own[1])
    assert not own[1].equal(own[2])


def broken_off(folds: Path, folder: Path) -> Path:
    """A copy of a run of folds whose `refit=ensemble` was killed before it was calibrated."""
    run = shutil.copytree(folds, folder / "run")
    with pytest.MonkeyPatch.context() as patch:

        def dying(*_):
            raise Died

        patch.setattr("thaw.commands.folds.refit.calibrated", dying)
        with pytest.raises(Died):
            call_train(folder, "resume=run", "refit=ensemble")
    for lock in run.rglob(".lock"):
        lock.unlink()
    return run


@pytest.mark.slow
def test_nets_that_share_nothing_leave_side_by_side(thawed, few, call_script, tmp_path):
    run = broken_off(thawed.run, tmp_path)
    done = call_train(tmp_path, "resume=run")  # what was asked for last, not what it began with
    assert done.code == 0, done.err
    assert "2 times as large and slow as one of them" in " ".join(done.out.split())
    assert "nothing to resume" in call_train(tmp_path, "resume=run").out

    photos = sorted(few.glob("test/*/*.jpg"))
    model, folds = load(run), [load(run / "folds" / str(i)) for i in (1, 2)]
    ((_, logits, features),) = model.outputs_of(photos)
    each = [next(fold.outputs_of(photos)) for fold in folds]
    assert torch.allclose(logits, torch.stack([own[1] for own in each]).mean(dim=0), atol=1e-4)
    assert torch.allclose(features, torch.cat([own[2] for own in each], dim=1), atol=1e-4)
    assert model.familiar is not None
    assert model.familiar.seen == len(model.familiar.scores) == 15
    sizes = [m.info["metrics"]["params/total"] for m in (model, folds[0])]
    assert sizes[0] == 2 * sizes[1] - len(model.classes), "one bias in place of two"
    assert model.backbone.origin["of"] == folds[0].backbone.origin
    (warm,) = heat(model, [load_photo(photos[0])])
    assert warm.amax() <= 1
    assert warm.ndim == 2

    for command in (("describe",), ("predict", photos[0], "--similar", 1)):
        told = call_script(command[0], run / "model", *command[1:])
        assert told.code == 0, told.err
    refused = call_train(tmp_path, "from_run=run")
    assert refused.code == 2
    assert "was trained on all photos of its folds" in refused.err
    pytest.importorskip("onnxscript")
    found = export(run, tmp_path / "out", few)
    assert found["model.onnx"]["alike"] == found["model.onnx"]["photos"] == 6, "the given test"


@pytest.mark.slow
def test_the_folds_nets_leave_as_one(reference, few, tmp_path):
    run = broken_off(reference.run, tmp_path)
    done = call_train(tmp_path, "resume=run")  # it knows what it was about to do
    assert done.code == 0, done.err
    assert "as small and fast as one" in " ".join(done.out.split())

    photos = sorted(few.glob("test/*/*.jpg"))
    model, folds = load(run), [load(run / "folds" / str(i)) for i in range(1, K + 1)]
    ((_, logits, _),) = model.outputs_of(photos)
    each = [next(fold.outputs_of(photos))[1] for fold in folds]
    assert torch.allclose(logits, torch.stack(each).mean(dim=0), atol=1e-5)
    assert not torch.allclose(logits, each[0], atol=1e-3)
    found = metrics(run)
    said = [model.classes[i] for i in logits.argmax(dim=1)]
    right = sum(label == photo.parent.name for label, photo in zip(said, photos, strict=True))
    assert found["given/acc"] == pytest.approx(right / len(photos))
    assert model.info["temperature"] == found["model/temperature"]
    assert model.familiar is not None
    assert model.familiar.seen == len(model.familiar.scores) == 15
    size = (run / "folds" / "1" / "model" / "weights.safetensors").stat().st_size
    assert (run / "model" / "weights.safetensors").stat().st_size == size

    bundle.save(run / "folds" / "2" / "model", *_moved(folds[1]))
    with pytest.raises(UserError, match=r"folds/2 isn't .* but for the head; refit=all"):
        put_mean_head(read.folds(run), model.backbone)


def _moved(model):
    """A model whose first convolution is another."""
    next(p for p in model.backbone.parameters() if p.ndim == 4).mul_(2)
    return model.backbone, model.classes


@pytest.mark.slow
def test_a_sweep_compares_folds_photo_by_photo(tmp_path):
    photos = make_photos(tmp_path / "photos", train=6, test=2)
    done = call_train(
        tmp_path,
        *("-m", "arch=small_cnn", "finetune=from_scratch", "data=folder", f"data.root={photos}"),
        *("folds=2", "arch.width=4,8", "arch.input_size=32", "trainer=cpu"),
        "hydra.sweep.dir=sweep",
    )
    assert done.code == 0, done.err
    with (tmp_path / "sweep" / "pairs.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert [pair["photos"] for pair in pairs] == ["18"]
    assert "2 of 2 jobs done" in done.out, "folds are no jobs"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["folds=1"], "folds to be a whole number from 2 to 100"),
        (["folds=2", "trainer.devices=2"], "trainer.devices=1 with folds"),
        (["refit=all"], "Expected folds=K with refit"),
        (["folds=2", "refit=both"], "refit to be one of all, ensemble"),
        (
            ["folds=2", "refit=ensemble", *SQUEEZE],
            "squeezenet1_0 does more with what its head says",
        ),
        (["folds=2", "resume_with_changes=true"], "can't go with folds"),
    ],
)
def test_what_folds_cannot_do_is_told(train, short, words, told):
    done = train(*short, "trainer=cpu", *words)
    assert done.code == 2
    assert told in done.err
