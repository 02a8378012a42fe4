"""Whole runs through `train.py`: what they leave, and what they refuse."""

import csv
import json
import time

import pytest
import requests
import torch
from conftest import call_train, make_photos, small_run
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import thaw
from thaw.training.module import Classifier

FILES = {".hydra", "train.log", "status.json", "metrics.json", "history.csv", "predictions.csv"}
FILES |= {"split.json", "environment.json", "checkpoints", "model", "tensorboard"}
FILES |= {"stages.json", "report.html"}
FILES |= {"evaluation.json", "figures"}
TESTED = ("test", "train", "val")
RESULTS = ("test_acc_low", "test_acc_high", "val_acc", "val_acc_low", "val_acc_high", "ece")
RESULTS += ("balanced_acc", "seconds", "model_MB")
METRICS = {"test/acc", "test/loss", "test/f1", "test/ece", "test/images", "val/acc", "val/loss"}
METRICS |= {"train/acc", "epochs", "seconds/fit", "seconds/epoch", "seconds/features"}
METRICS |= {"seconds/test", "params/total", "params/trainable", "model/bytes", "model/latency_ms"}
METRICS |= {"frozen/unchanged"}
SHORT = [f"finetune.phases.{phase}.epochs=1" for phase in ("head", "last", "all")]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def gradual(weights, tmp_path_factory):
    """A run of all three phases, an epoch each."""
    folder = tmp_path_factory.mktemp("gradual")
    small = small_run(make_photos(folder / "photos"), weights("shufflenet_v2_x0_5"))
    return call_train(folder, *small, "finetune=gradual", *SHORT, figures=True)


def test_a_run_leaves_a_complete_folder(gradual):
    done = gradual
    assert done.code == 0, done.err
    assert {path.name for path in done.run.iterdir()} == FILES
    assert json.loads((done.run / "status.json").read_text())["state"] == "done"
    metrics = json.loads((done.run / "metrics.json").read_text())
    assert set(metrics) >= METRICS
    assert metrics["frozen/unchanged"] is True
    assert metrics["test/images"] == 12
    assert metrics["epochs"] == 3
    history = rows(done.run / "history.csv")
    assert [row["phase"] for row in history] == ["head", "last", "all"]
    predictions = rows(done.run / "predictions.csv")
    assert list(predictions[0]) == [
        "path",
        "label",
        "prediction",
        "confidence",
        "familiarity",
        "p:blue",
        "p:green",
        "p:red",
    ]
    right = sum(row["label"] == row["prediction"] for row in predictions)
    assert right / len(predictions) == pytest.approx(metrics["test/acc"])
    split = json.loads((done.run / "split.json").read_text())
    train_photos, val_photos = ({p["path"] for p in split[s]} for s in ("train", "val"))
    assert not train_photos & val_photos
    assert len(split["train"]) + len(split["val"]) == 30
    for name in ("best", "last"):
        torch.load(done.run / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_best_epoch_in_the_middle_of_a_phase_is_tested(train, small, monkeypatch):
    def turn_round(self, batch, batch_idx, step=Classifier.training_step):
        if (self.current_epoch, batch_idx) == (2, 0):
            with torch.no_grad():
                self.backbone.head.weight.mul_(-10)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", turn_round)
    done = train(*small, "finetune.phases.head.epochs=4")
    best = json.loads((done.run / "metrics.json").read_text())["best/epoch"]
    assert best == 2
    checkpoint = torch.load(done.run / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] + 1 == best
    for name, tensor in thaw.load(done.run).backbone.state_dict().items():
        assert torch.equal(tensor, checkpoint["state_dict"][f"backbone.{name}"])


@pytest.mark.slow
def test_val_decides_and_the_best_epoch_is_tested(train, small):
    # The second phase's learning rate destroys the net: its epoch must not be what is tested.
    harm = ["finetune.phases.all.lr=3.0", "finetune.phases.head.epochs=2"]
    done = train(*small, "finetune=full", *harm, "finetune.phases.all.epochs=1", "optimizer=sgd")
    metrics = json.loads((done.run / "metrics.json").read_text())
    history = rows(done.run / "history.csv")
    losses = [float(row["val/loss"]) for row in history]
    best = losses.index(min(losses)) + 1
    assert best <= 2
    assert metrics["best/epoch"] == best
    for name, epoch in (("best", best), ("last", 3)):
        checkpoint = torch.load(done.run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["epoch"] + 1 == epoch
    assert metrics["epochs"] == 3
    assert metrics["val/loss"] == pytest.approx(min(losses))
    # The bundle is that epoch's net: it gives the probabilities that were tested.
    model = thaw.load(done.run)
    for row in rows(done.run / "predictions.csv")[:3]:
        root = json.loads((done.run / "split.json").read_text())["root"]
        (prediction,) = model.predict([f"{root}/{row['path']}"])
        assert prediction.confidence == pytest.approx(float(row["confidence"]), abs=1e-4)


def test_the_backbone_is_unchanged_by_head_only(finished, weights):
    before = torch.load(weights("shufflenet_v2_x0_5"), weights_only=True)
    after = load_file(finished.run / "model" / "weights.safetensors")
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_tensorboard_has_named_curves_and_final_metrics(gradual):
    events = EventAccumulator(str(gradual.run / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {
        "loss/train",
        "accuracy/train",
        "loss/val",
        "accuracy/val",
        "lr/head",
        "lr/stem",
        "lr/conv5",
    }
    rates = [event.value for event in events.Scalars("lr/conv5")]
    warmup = [
        0.0,
        1e-4 * 0.8 / 3,
        2e-4 * 0.8 / 3,
    ]  # a value a step, where it changes within an epoch
    assert rates == pytest.approx([0.0, 2.4e-4, *warmup])
    metrics = json.loads((gradual.run / "metrics.json").read_text())
    assert events.Scalars("accuracy/test")[-1].value == pytest.approx(metrics["test/acc"])
    assert "hp_metric" not in tags
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own server
def test_each_tab_of_tensorboard_has_its_part(gradual):
    from tensorboard import program

    board = program.TensorBoard()
    board.configure([None, "--logdir", str(gradual.run.parent), "--port", "0", "--load_fast=false"])
    url, name = board.launch(), f"{gradual.run.name}/tensorboard"

    def got(path, **asked):
        answer = requests.get(f"{url}data/plugin/{path}", params=asked, timeout=60)
        assert answer.ok, (path, answer.text)
        return answer.json()

    deadline = time.monotonic() + 60
    while not got("graphs/info").get(name, {}).get("run_graph"):  # what was written last
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first = sorted(got("scalars/tags")[name])[:6]
    assert first == [f"{what}/{split}" for what in ("accuracy", "loss") for split in TESTED]
    assert [v for _, _, v in got("scalars/scalars", run=name, tag="progress/phase")] == (
        pytest.approx([1 / 3, 2 / 3, 1])
    )
    assert len(got("custom_scalars/layout")["category"][0]["chart"]) == 4
    pictures = " ".join(got("images/tags")[name])
    for what in (
        "a batch of training",
        "confusion",
        "reliability",
        "filters before",
        "filters now",
        "explanations",
        "forgetting",
    ):
        assert what in pictures
    found = got("pr_curves/pr_curves", run=[name], tag="red")
    assert len(found[name][0]["precision"]) > 50
    for tensor in (both := got("projector/info", run=name)["embeddings"]):
        assert tensor["tensorShape"][0] == 12
        assert tensor["sprite"]["imagePath"]
    assert len(both) == 2  # before training and after
    texts = got("text/tags")[name]
    assert [tag.split("/")[0] for tag in sorted(texts)] == [
        *("1 question", "2 verdict", "3 photos", "4 stages", "5 settings")
    ]
    (stages,) = got("text/text", run=name, tag="4 stages/text_summary")
    assert "bit-identical" in stages["text"]
    assert "<td>conv5</td>" in stages["text"].replace(' align="left"', "")
    histograms = got("histograms/tags")[name]
    assert any(tag.endswith("/stem") for tag in histograms)
    assert got("graphs/info")[name]["run_graph"]
    experiment = requests.post(f"{url}data/plugin/hparams/experiment", json={}, timeout=60).json()
    settings = {info["name"] for info in experiment["hparamInfos"]}
    assert settings >= {f"finetune.phases.{phase}.lr" for phase in ("head", "last", "all")}
    metrics = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert metrics >= {"accuracy/test", *(f"result/{key}" for key in RESULTS)}
    assert (gradual.run / "tensorboard" / "hparams.yaml").stat().st_size > 500
    size = sum(f.stat().st_size for f in (gradual.run / "tensorboard").rglob("*") if f.is_file())
    assert size < 20e6


def test_the_terminal_says_what_trains_and_what_came_out(gradual):
    out = gradual.out
    assert "phase head: head trains" in out
    assert "phase last: conv5, head train" in out
    assert "phase all: the whole net trains" in out
    assert out.count("epoch ") >= 3
    assert "test accuracy" in out
    assert "95% interval" in out
    assert "python scripts/predict.py \\\n  outputs/runs/" in out


@pytest.mark.slow
def test_a_sweep_leaves_a_complete_folder_a_job(train, small):
    done = train(*small, "-m", "seed=0,1", "finetune.phases.head.epochs=1")
    assert done.code == 0, done.err
    assert len(done.runs) == 2
    for run in done.runs:
        assert {path.name for path in run.iterdir()} == FILES - {"figures"}


@pytest.mark.slow
def test_a_failing_job_of_a_sweep_stops_no_other(train, small, tmp_path):
    one = next(arg for arg in small if arg.startswith("arch.weights="))
    rest = [arg for arg in small if arg != one]
    sweep = f"arch.weights=nowhere.pth,{one.removeprefix('arch.weights=')}"
    done = train("-m", *rest, sweep, "finetune.phases.head.epochs=1")
    assert done.code == 1
    assert "nowhere.pth" in done.out
    assert "1 of 2 jobs done" in done.out
    states = [json.loads((run / "status.json").read_text())["state"] for run in done.runs]
    assert sorted(states) == ["done", "failed"]
    assert next((tmp_path / "outputs/sweeps").glob("*/*/leaderboard.csv")).is_file()


# What is asked for, and what the sentence must name.
MISTAKES = {
    "sead=1": "sead",
    "seed=[": "seed=[",
    "data.root=???": "data.root",
    "arch=resnet19": "resnet18",
    "finetune.phases.hed.lr=1": "hed",
    "finetune.phases.head.train=99": "at most 5",
    "finetune.phases.head.train=[heat]": "heat",
    "trainer.precision=17": "17",
    "+trainer.foo=1": "foo",
    "resume=nowhere": "nowhere",
}
# Each has a sentence of its own, and all are told at once.
TOGETHER = [
    {
        "seed=one": "seed",
        "data.root=nowhere": "nowhere",
        "finetune.phases.head.lr=high": "finetune.phases.head.lr",
        "trainer.fuse=x": "trainer.fuse",
    },
    {  # told by what needs torch
        "arch.name=shufflenet": "shufflenet_v2_x0_5",
        "+optimizer.momentums=1": "momentums",
        "+augment.p=1": "augment.p",
    },
    {
        "arch.weights=nowhere.pth": "nowhere.pth",
        "data.batch_size=0": "data.batch_size",
        "finetune.phases.head.epochs=0": "finetune.phases.head.epochs",
        "optimizer.betas=3": "optimizer",
    },
    {
        "data.val_fraction=2": "data.val_fraction",
        "+finetune.phases.head.epoch=1": "finetune.phases.head.epoch",
    },
    {"seed=-1": "seed", "finetune.batch_norm=no": "finetune.batch_norm"},
]


@pytest.mark.parametrize(
    "mistakes", [{key: MISTAKES[key]} for key in MISTAKES] + TOGETHER, ids=" ".join
)
def test_a_mistake_gives_a_sentence_and_leaves_nothing(train, small, tmp_path, mistakes):
    done = train(*small, *mistakes)
    assert done.code == 2
    lines = done.err.strip().splitlines()
    assert len(lines) == len(mistakes)
    for named in mistakes.values():
        assert [line for line in lines if named in line]
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("outputs/**/*"))


@pytest.mark.slow
def test_weights_at_torch_hubs_own_path_are_used(train, photos, weights, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(weights("squeezenet1_1").read_bytes())
    mine = ["arch=torchvision", "arch.name=squeezenet1_1", "data=folder", f"data.root={photos}"]
    done = train(*mine, "finetune.phases.head.epochs=1", "trainer=cpu")
    assert done.code == 0, done.err
    after = load_file(done.run / "model" / "weights.safetensors")
    before = torch.load(place, weights_only=True)
    assert torch.equal(after["features.0.weight"], before["features.0.weight"])


@pytest.mark.slow
def test_seed_0_is_a_seed(train, small):
    short = [*small, "finetune.phases.head.epochs=1"]
    digests = {
        seed: (train(*short, f"seed={seed}").run / "model" / "weights.safetensors").read_bytes()
        for seed in (0, 1)
    }
    again = (train(*short, "seed=0").run / "model" / "weights.safetensors").read_bytes()
    assert digests[0] == again
    assert digests[0] != digests[1]


@pytest.mark.slow
def test_random_weights_come_from_the_seed_alone(train, photos):
    still = ["arch=small_cnn", "arch.width=4", "finetune=from_scratch", "trainer=cpu"]
    still += [f"data.root={photos}", "data=folder", "data.batch_size=8"]
    still += ["finetune.phases.all.epochs=1", "finetune.phases.all.lr=1e-12"]  # as it was built

    def stem(*arguments: str) -> torch.Tensor:
        weights = load_file(train(*still, *arguments).run / "model" / "weights.safetensors")
        return next(tensor for tensor in weights.values() if tensor.ndim == 4)

    first = stem("seed=1")
    torch.rand(7)  # what jobs before it in a sweep would have drawn
    torch.testing.assert_close(stem("seed=1"), first)
    assert (stem("seed=2") - first).abs().max() > 0.01


HYMENOPTERA = ["data=hymenoptera", "trainer=cpu"]


@pytest.mark.slow
def test_ants_and_bees_with_efficientnet_lite0(train, shared):
    done = train(*HYMENOPTERA, f"data.root={shared}/data/hymenoptera")
    metrics = json.loads((done.run / "metrics.json").read_text())
    assert metrics["test/acc"] >= 0.92
    assert metrics["test/images"] == 153


@pytest.mark.slow
def test_ants_and_bees_with_squeezenet(train, shared):
    weights = shared / "weights" / "squeezenet1_0_deepcompressed.pth"
    arch = ["arch=squeezenet1_0", f"arch.weights={weights}"]
    done = train(*HYMENOPTERA, f"data.root={shared}/data/hymenoptera", *arch)
    assert json.loads((done.run / "metrics.json").read_text())["test/acc"] >= 0.75


@pytest.mark.slow
def test_transfer_beats_training_from_scratch_on_shapes(train):
    transfer = json.loads((train("trainer=cpu").run / "metrics.json").read_text())
    scratch = train("trainer=cpu", "arch=small_cnn", "finetune=from_scratch")
    scratch = json.loads((scratch.run / "metrics.json").read_text())
    assert transfer["test/acc"] >= 0.90
    assert transfer["test/acc"] - scratch["test/acc"] >= 0.15


def test_what_is_said_of_train_counts_each_photo_once(train, small, monkeypatch):
    seen = []

    def look(self, batch, batch_idx, step=Classifier.training_step):
        loss, size = step(self, batch, batch_idx), len(batch["label"])
        seen.append((loss.item(), self.train_acc.tp.item(), size))
        return loss

    monkeypatch.setattr(Classifier, "training_step", look)
    done = train(*small, "finetune.phases.head.epochs=1", "data.batch_size=7")
    losses, right, sizes = zip(*seen, strict=True)
    assert sizes[-1] < sizes[0]  # the last batch isn't full, so the mean of batches is another
    row = rows(done.run / "history.csv")[0]
    mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)
    assert float(row["train/loss"]) == pytest.approx(mean)
    assert float(row["train/acc"]) == pytest.approx(right[-1] / sum(sizes))
