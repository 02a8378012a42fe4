"""What a GPU does otherwise than a CPU: `pytest -m gpu -n0`, on a machine that has one."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import call_train, make_photos, small_run, weights_of

from thaw.model import bundle
from thaw.model.predict import loaded
from thaw.training.module import Classifier

GPUS = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPUS, reason="there is no GPU here")]
PHASES = "head:{train:head,epochs:2,lr:0.01},all:{train:all,epochs:2,lr:1e-4}"
THAWED = ["~finetune.phases.head", f"+finetune.phases={{{PHASES}}}"]
ON_CPU, ON_GPU = ["trainer=cpu"], ["trainer=gpu"]


@pytest.fixture(scope="module")
def settings(weights, tmp_path_factory):
    """Of a run of a small net, but for the trainer."""
    photos = make_photos(tmp_path_factory.mktemp("gpu") / "photos")
    run = small_run(photos, weights("shufflenet_v2_x0_5"))
    return [word for word in run if not word.startswith("trainer")]


def told(run, *keys):
    metrics = json.loads((run / "metrics.json").read_text())
    return [metrics[key] for key in keys]


def probabilities(run):
    with (run / "predictions.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    columns = [key for key in next(iter(rows.values())) if key.startswith("p:")]
    return torch.tensor([[float(rows[path][key]) for key in columns] for path in sorted(rows)])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_it_learns_in_each_precision(train, settings, precision):
    done = train(*settings, *THAWED, *ON_GPU, f"trainer.precision={precision}")
    assert done.code == 0, done.err
    acc, unchanged = told(done.run, "test/acc", "frozen/unchanged")
    assert acc > 0.8
    assert unchanged is True
    device = json.loads((done.run / "environment.json").read_text())["device"]
    assert torch.cuda.get_device_name() in json.dumps(device)


def test_compiled_it_comes_to_the_same(train, settings):
    losses = []
    for compiled in ("false", "true"):
        words = [*ON_GPU, "trainer.precision=32-true", f"trainer.compile={compiled}"]
        done = train(*settings, *THAWED, *words)
        assert done.code == 0, done.err
        losses += told(done.run, "val/loss")
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_photos_that_are_not_cached_come_from_pinned_memory(train, settings, monkeypatch):
    pinned = []

    def before(self, batch, index):
        pinned.append(batch["image"].is_pinned())
        return batch

    monkeypatch.setattr(Classifier, "on_before_batch_transfer", before, raising=False)
    done = train(*settings, *ON_GPU, "cache.enabled=false", "data.workers=1")
    assert done.code == 0, done.err
    assert pinned
    assert all(pinned)


def test_the_cache_holds_what_a_cpu_would_put_there(train, settings):
    """Not the same bits: convolutions take TF32 on a GPU, and sum in another order."""
    found = []
    for words in (ON_CPU, ON_GPU, [*ON_GPU, "cache.enabled=false"]):
        done = train(*settings, *words, "trainer.precision=32-true")
        assert done.code == 0, done.err
        found.append(probabilities(done.run))
    assert torch.allclose(found[1], found[0], atol=0.02)
    assert torch.allclose(found[2], found[1], atol=0.02)


class Died(BaseException):
    """As a kill: nothing that runs afterwards may matter."""


def test_a_run_that_died_ends_with_the_same_weights(settings, tmp_path):
    words = [*settings, *THAWED, *ON_GPU, "+trainer.deterministic=true"]
    whole = call_train(tmp_path, *words)
    assert whole.code == 0, whole.err

    def dying(self, batch, batch_idx, step=Classifier.training_step):
        if (self.current_epoch, batch_idx) == (3, 1):
            raise Died
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", dying)
        with pytest.raises(Died):
            call_train(tmp_path, *words, "hydra.run.dir=dead")
    (tmp_path / "dead" / ".lock").unlink()  # this process, which would hold it, lives on
    resumed = call_train(tmp_path, f"resume={tmp_path / 'dead'}")
    assert resumed.code == 0, resumed.err
    assert weights_of(tmp_path / "dead") == weights_of(whole.run)


def thaw(folder, *words):
    """`thaw WORDS` in a process of its own."""
    command = [sys.executable, "-m", "thaw", *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_gpus_train_together(settings, tmp_path):
    words = [*settings, *THAWED, "trainer=ddp", "trainer.accelerator=gpu", "hydra.run.dir=run"]
    thaw(tmp_path, "train", *words, f"trainer.devices={GPUS}")
    acc, unchanged = told(tmp_path / "run", "test/acc", "frozen/unchanged")
    assert acc > 0.8
    assert unchanged is True


def test_a_model_says_the_same_on_a_gpu(train, settings, call_script):
    done = train(*settings, *ON_GPU)
    assert done.code == 0, done.err
    model, plain = loaded(done.run), bundle.load(done.run)
    assert (model.device.type, plain.device.type) == ("cuda", "cpu")
    photos = [
        path
        for place in settings
        if place.startswith("data.root=")
        for path in sorted(Path(place.partition("=")[2]).rglob("*.jpg"))
    ]
    for here, there in zip(model.predict(photos), plain.predict(photos), strict=True):
        assert here.label == there.label
        assert here.probabilities == pytest.approx(there.probabilities, abs=0.02)
    explained = call_script("predict", done.run, photos[0], "--explain", "why.png")
    assert explained.code == 0, explained.err


def test_it_is_measured(tmp_path):
    rows = ["--rows", "head", "photos", "--quick", "--device", "cuda", "--out", "out"]
    thaw(tmp_path, "benchmark", *rows)
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert torch.cuda.get_device_name() in report["machine"]["cpu"]
    assert report["medians"]["head"]["thaw"]["acc"] > 0.2
