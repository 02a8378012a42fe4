"""What users bring by `_target_`: losses, metrics, loggers, callbacks, arguments of the trainer."""

import csv
import json
from functools import partial

import pytest
import torch
import torchmetrics
from conftest import refusal
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F

from thaw.errors import UserError
from thaw.training import plugins
from thaw.training.trainer import check_trainer, make_trainer

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]])
LABELS = torch.tensor([0, 2])
OUTSIDE = {  # what a user's own conf/ and module may hold
    "mine.py": """
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn

class Focal(nn.Module):
    def __init__(self, gamma, reduction="mean"):
        super().__init__()
        self.gamma, self.reduction = gamma, reduction

    def forward(self, logits, labels):
        log_p = logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
        each = -((1 - log_p.exp()) ** self.gamma) * log_p
        return each.mean() if self.reduction == "mean" else each

class Counts(Callback):
    epochs = 0

    def on_train_epoch_end(self, trainer, pl_module):
        Counts.epochs += 1
        pl_module.log("mine/epochs", float(Counts.epochs))

class Trains(Callback):
    '''Trains what is frozen.'''

    def on_train_batch_end(self, trainer, pl_module, *_):
        with torch.no_grad():
            next(pl_module.backbone.net.parameters()).add_(0.01)

class Keeps(Callback):
    '''Keeps what no checkpoint can hold.'''

    def state_dict(self):
        return {"self": Callback()}
""",
    "conf/loss/focal.yaml": "_target_: mine.Focal\ngamma: 2.0\n",
    "conf/metrics/kappa.yaml": "kappa: {_target_: torchmetrics.CohenKappa, task: multiclass}\n",
    "conf/callbacks/counts.yaml": "counts: {_target_: mine.Counts}\n",
    "conf/callbacks/trains.yaml": "trains: {_target_: mine.Trains}\n",
    "conf/callbacks/keeps.yaml": "keeps: {_target_: mine.Keeps}\n",
    "conf/logger/table.yaml": "table: {_target_: mine.CSVLogger, save_dir: mine, name: table}\n",
}


@pytest.fixture
def outside(tmp_path):
    """A working directory with settings and code of its own."""
    for name, text in OUTSIDE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- from a folder outside the package ------------------------------------------------------------


@pytest.mark.slow
def test_one_of_each_from_a_folder_of_the_users(train, short, outside, tmp_path):
    brought = ["loss=focal", "metrics=[auroc,kappa]", "callbacks=counts"]
    done = train(*short, *brought, "logger=[tensorboard,csv,table]")
    assert done.code == 0, done.err
    metrics = json.loads((done.run / "metrics.json").read_text())
    assert {"val/kappa", "test/kappa", "val/auroc", "test/auroc"} <= set(metrics)
    assert float(rows(done.run / "history.csv")[0]["val/kappa"]) == metrics["val/kappa"]
    assert (done.run / "tensorboard").is_dir()
    for file in (done.run / "csv" / "metrics.csv", *(tmp_path / "mine").rglob("metrics.csv")):
        told = {key for row in rows(file) for key, value in row.items() if value}
        assert {"val/auroc", "test/auroc", "result/balanced_acc", "mine/epochs"} <= told
    assert metrics["frozen/unchanged"] is True


@pytest.mark.slow
def test_a_callback_that_trains_frozen_stages_is_told_of(train, short, outside):
    done = train(*short, "callbacks=trains", "logger=none")
    assert done.code == 0, done.err
    assert "Frozen stages ['stem'] changed in phase head" in done.out
    assert "one of callbacks" in done.out
    assert "frozen stages  CHANGED" in done.out.partition("test accuracy")[0][-300:]
    assert json.loads((done.run / "metrics.json").read_text())["frozen/unchanged"] is False
    assert "tensorboard" not in done.out


def test_what_cannot_be_resumed_is_refused(train, short, outside):
    done = train(*short, "callbacks=keeps", "logger=none")
    assert done.code == 2
    assert "state_dict of the callback Keeps" in done.err


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_left(train, short):
    wrong = ["+callbacks.a._target_=foo.Bar", "+trainer.max_epochs=3", "+logger.y=3"]
    wrong += ["+metrics.m._target_=torchmetrics.AUROCC", "+callbacks.b._target_=torch.nn.ReLU"]
    done = train(*short, *wrong)
    assert done.code == 2
    for part in ("callbacks.a can't be made of foo.Bar", "finetune.phases says how long"):
        assert part in done.err
    for part in ("Expected logger.y to have a _target_", "metrics.m can't", "callbacks.b to make"):
        assert part in done.err
    assert done.run is None


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", False)
    node = {"_target_": "lightning.pytorch.loggers.MLFlowLogger"}
    assert 'pip install "thaw-vision[mlflow]"' in refusal(
        plugins.all_made, "logger", {"mlflow": node}, object
    )


# --- losses ---------------------------------------------------------------------------------------


def test_the_usual_loss_is_cross_entropy_to_the_bit():
    assert plugins.Loss(nn.CrossEntropyLoss(), 3)(LOGITS, LABELS).equal(
        F.cross_entropy(LOGITS, LABELS)
    )


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 3.0])),
        nn.MultiMarginLoss(),
        nn.BCEWithLogitsLoss(),
        nn.MultiLabelSoftMarginLoss(),
        nn.MSELoss(),
        nn.L1Loss(),
        nn.HuberLoss(),
        F.cross_entropy,
    ],
)
def test_losses_of_logits_are_taken(loss):
    assert plugins.Loss(loss, 3)(LOGITS, LABELS).isfinite()


@pytest.mark.parametrize(
    "loss",
    [
        nn.NLLLoss(),
        nn.KLDivLoss(reduction="batchmean"),
        nn.BCELoss(),
        nn.SoftMarginLoss(),
        nn.CTCLoss(),
        nn.TripletMarginLoss(),
        nn.CrossEntropyLoss(reduction="none"),
        nn.CrossEntropyLoss(weight=torch.ones(4)),
        nn.Linear(3, 1),
        nn.Identity(),
        len,
    ],
)
def test_what_is_no_loss_of_logits_is_refused(loss):
    assert "loss" in refusal(plugins.Loss, loss, 3)


def test_weights_are_those_of_the_photos():
    weights = torch.tensor([0.5, 1.0, 2.0])
    each = F.cross_entropy(LOGITS, LABELS, reduction="none")
    weighted = plugins.Loss(nn.CrossEntropyLoss(), 3, weights)(LOGITS, LABELS)
    torch.testing.assert_close(weighted, (each * weights[LABELS]).mean())
    assert plugins.Loss(nn.MSELoss(), 3, weights)(LOGITS, LABELS).ndim == 0
    assert "reduction" in refusal(plugins.Loss, F.cross_entropy, 3, weights)


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_know_the_number_of_classes():
    makers = {
        "auroc": partial(torchmetrics.AUROC, task="multiclass"),
        "recall": partial(torchmetrics.Recall, average="macro"),
        "own": partial(torchmetrics.classification.MulticlassJaccardIndex),
    }
    found = plugins.measure(makers, LOGITS.repeat(3, 1), torch.arange(6) % 3, None)
    assert set(found) == set(makers)
    for wrong in (
        {"acc": makers["auroc"]},
        {"many": partial(torchmetrics.ConfusionMatrix)},
        {"none": partial(torchmetrics.Recall, average="none")},
        {"binary": partial(torchmetrics.AUROC, task="binary")},
        {"words": partial(torchmetrics.text.WordErrorRate)},
        {"foreign": partial(dict)},
    ):
        assert f"metrics.{next(iter(wrong))} " in refusal(plugins.make_metrics, wrong, 3)


# --- the trainer ----------------------------------------------------------------------------------

CPU = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "strategy": "auto"}


def test_every_other_argument_of_lightning_passes_through():
    profiler = {"_target_": "lightning.pytorch.profilers.SimpleProfiler"}
    given = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2, "limit_train_batches": 3}
    trainer = make_trainer(CPU | given | {"profiler": profiler, "fuse": True}, 4, [])
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (0.5, 2)
    assert type(trainer.profiler).__name__ == "SimpleProfiler"
    assert (trainer.max_epochs, trainer.loggers) == (4, [])


@pytest.mark.parametrize("name", ["max_epochs", "callbacks", "logger", "enable_checkpointing"])
def test_what_thaw_decides_is_refused(name):
    assert f"trainer.{name} can't be set, since " in refusal(check_trainer, {name: 1})


def test_unknown_arguments_are_named_with_those_there_are():
    sentence = refusal(check_trainer, {"clip": 1, "limit_val_batches": 0})
    assert "trainer.clip is unknown" in sentence
    assert "gradient_clip_val" in sentence
    assert "limit_val_batches to be above 0" in sentence


@pytest.mark.slow
def test_a_run_that_a_callback_ends_early_is_whole(train, short):
    stop = "+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss"
    epochs = [word for word in short if "epochs" not in word] + ["finetune.phases.head.epochs=9"]
    done = train(*epochs, f"{stop}, patience: 1, min_delta: 9.0}}", "logger=none")
    assert done.code == 0, done.err
    metrics = json.loads((done.run / "metrics.json").read_text())
    assert metrics["epochs"] == 2
    assert metrics["frozen/unchanged"] is True


def test_training_that_ends_before_an_epoch_is_over_says_so(train, short):
    done = train(*short, "+trainer.max_time={seconds: 0}", "logger=none")
    assert done.code == 2
    assert "before its first epoch was over" in done.err


def test_lightnings_own_callbacks_can_be_resumed():
    state = plugins.PlainStates([EarlyStopping("val/loss"), Callback()])
    state.on_train_start(None, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="_target_"):
        plugins.made("loss", {"gamma": 2})
