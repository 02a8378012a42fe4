"""Heads that are solved: the optimum, what chooses its penalty, and the phase in a run."""

import csv
import re

import pytest
import torch
from conftest import call_train, refusal, weights_of
from torch import Tensor
from torch.nn import functional as F

from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.errors import UserError
from thaw.nets import pretrained
from thaw.training.features import Extractor
from thaw.training.module import Classifier
from thaw.training.probe.folds import out_of_fold
from thaw.training.probe.inputs import Inputs
from thaw.training.probe.logistic import PENALTIES, Linear, Problem, Space, chosen
from thaw.training.probe.solving import put
from thaw.training.schedule import Schedule

SOLVED = {"train": "head", "solve": True}


def clouds(photos: int, dimensions: int, apart: float) -> tuple[Tensor, Tensor, Tensor]:
    """Features of three classes, their labels, and four folds."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(photos) % 3
    noise = torch.randn(photos, dimensions, generator=generator)
    folds = torch.randperm(photos, generator=generator) % 4
    return noise + apart * F.one_hot(labels, dimensions), labels, folds


def problem_of(x: Tensor, labels: Tensor, weigh: Tensor) -> tuple[Problem, Space]:
    space = Space.of(x)
    return Problem(space(x), space.spread, labels, 3, weigh), space


# --- the optimum ----------------------------------------------------------------------------------


@pytest.mark.parametrize("photos", [40, 400])
def test_it_is_the_minimum_whether_or_not_there_are_more_features_than_photos(photos):
    x, labels, folds = clouds(photos, 100, 2.0)
    weigh = torch.stack([torch.ones(photos), (folds != 0) * 1.5], dim=1)  # two layers at once
    problem, space = problem_of(x, labels, weigh)
    *_, layers = problem.path([1.0, 0.1])
    length = (x - x.mean(dim=0)).square().sum(dim=1).mean()
    for found, own in zip(map(space.layer, layers), weigh.T, strict=True):
        wrong = (found(x).softmax(dim=1) - F.one_hot(labels, 3)) * own[:, None]
        # What the features as they come say, in the units that penalties are in.
        slope = (x - x.mean(dim=0)).T @ wrong / length + 0.1 * found.weight
        assert slope.abs().max() * length.sqrt() < 1e-4 * photos
        assert wrong.sum(dim=0).abs().max() < 1e-4 * photos


def test_features_that_do_not_vary_count_for_nothing():
    x, labels, folds = clouds(60, 5, 3.0)
    more = torch.cat([x, torch.full((60, 1), 3.0)], dim=1)
    problems = [problem_of(features, labels, torch.ones(60, 1))[0] for features in (more, x)]
    (found, loss), (expected, least) = (chosen(problem, folds) for problem in problems)
    assert (found, loss) == (expected, pytest.approx(least, rel=1e-3))
    assert out_of_fold(torch.ones(60, 5), labels, folds).isfinite().all()


def test_the_penalty_is_stiff_where_nothing_is_to_be_known():
    for apart, low, high in ((0.0, 1.0, 10.0), (8.0, 0.0, 0.1)):
        x, labels, folds = clouds(120, 20, apart)
        place, loss = chosen(problem_of(x, labels, torch.ones(120, 1))[0], folds)
        assert low <= PENALTIES[place] <= high
        assert loss < 1.15


# --- predictions of what wasn't seen --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [4, 100])
def test_what_is_predicted_is_not_learned_from(dimensions):
    x, labels, folds = clouds(48, dimensions, 1.0)
    logits = out_of_fold(x, labels, folds)
    out = folds == 2
    others = labels.clone()
    others[out] = (labels[out] + 1) % 3
    # Layers are solved side by side, so they are alike as far as they are solved.
    assert torch.allclose(out_of_fold(x, others, folds)[out], logits[out], atol=1e-2)
    moved = x.clone()
    one = out.nonzero()[0, 0]
    moved[one] += 10
    rest = out.clone()
    rest[one] = False
    changed = out_of_fold(moved, labels, folds)
    assert torch.allclose(changed[rest], logits[rest], atol=1e-2)
    assert not torch.allclose(changed[~out], logits[~out], atol=1e-2)


def test_what_is_there_is_found_and_nothing_else():
    x, labels, folds = clouds(120, 20, 8.0)
    assert (out_of_fold(x, labels, folds).argmax(dim=1) == labels).all()
    logits = out_of_fold(clouds(120, 20, 0.0)[0], labels, folds)
    assert (logits.argmax(dim=1) == labels).double().mean() < 0.45
    # The penalty is chosen to be stiff there: what knows nothing claims little.
    assert F.cross_entropy(logits, labels) < 1.2


# --- the phase, without training ------------------------------------------------------------------


def test_what_says_nothing_to_a_solved_phase_is_refused():
    given = {**SOLVED, "train": 1, "epochs": 3, "lr": 0.1, "warmup": 1}
    with pytest.raises(UserError) as error:
        Schedule({"head": given})
    for key in ("train", "epochs", "lr", "warmup"):
        assert f"phases.head.{key}" in str(error.value)
    assert "lr_find" in refusal(lambda: Schedule({"head": SOLVED}, lr_find=True))
    schedule = Schedule({"head": SOLVED, "all": {"train": "all", "epochs": 2, "lr": 1e-4}})
    assert schedule.epochs == 3
    assert "random" in refusal(schedule.check, pretrained.small_cnn())


HEADS = ["squeezenet1_1", "mobilenet_v3_small", "convnext_tiny", "resnet18"]


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_nets_say_what_was_solved(few, weights, tmp_path, name):
    data = PhotoFolder(str(few)).ready()
    backbone = pretrained.torchvision(name, str(weights(name)))
    backbone.reset_head(3)
    backbone.thaw(["head"])
    inputs = Inputs(Extractor(FeatureCache(str(tmp_path)), backbone, data), ["train"])
    x = inputs.read()
    labels = torch.tensor([sample.label for sample in data.splits["train"]])
    problem, space = problem_of(x, labels, torch.ones(len(x), 1))
    *_, (found,) = problem.path()
    put(space.layer(found), x, inputs)
    with torch.inference_mode():
        logits = torch.cat([inputs.run(batch) for batch in inputs])
    expected = space.layer(found)(x).softmax(dim=1)
    assert torch.allclose(logits.softmax(dim=1), expected, atol=1e-3)
    assert not backbone.head._forward_hooks


@pytest.mark.slow
def test_a_net_that_says_something_else_is_refused(few, weights, tmp_path):
    data = PhotoFolder(str(few)).ready()
    backbone = pretrained.torchvision("resnet18", str(weights("resnet18")))
    backbone.reset_head(3)
    backbone.head.register_forward_hook(lambda _, __, output: output.abs() + output.square())
    backbone.thaw(["head"])
    inputs = Inputs(Extractor(FeatureCache(str(tmp_path)), backbone, data), ["train"])
    x = inputs.read()
    weight = torch.linspace(-3, 3, 3) * torch.ones(x.shape[1], 1)
    assert "head_only" in refusal(put, Linear(weight, torch.zeros(3)), x, inputs)


# --- through train.py -----------------------------------------------------------------------------

PROBE = ["finetune=probe"]
THEN = "+finetune.phases.all={train:all,epochs:2,lr:0.001}"


def rows(run):
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def head_of(run):
    """What is in the best checkpoint."""
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return state["backbone.net.fc.weight"]


def test_a_solved_head_is_the_optimum_in_one_epoch(train, small):
    done = train(*small, *PROBE)
    assert done.code == 0, done.err
    (row,) = rows(done.run)
    assert (row["phase"], row["epoch"]) == ("head", "1")
    assert float(row["train/acc"]) == 1
    assert re.search(r"phase head: solved on \d+ photos, L2 of", done.out)
    assert head_of(done.run).abs().max() > 0


@pytest.mark.slow
def test_cached_or_not_and_augmented_or_not_the_head_is_the_same(train, small):
    (plain, *others) = [
        train(*small, *PROBE, *more)
        for more in ([], ["cache.enabled=false"], ["augment=flip"], ["augment=trivial"])
    ]
    for done in others:
        assert done.code == 0, done.err
        difference = (head_of(done.run) - head_of(plain.run)).norm()
        assert difference < 0.02 * head_of(plain.run).norm(), difference


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["sampler", "loss"])
def test_a_rare_class_counts_as_much_as_the_others(train, small, photos, balance):
    for photo in sorted((photos / "train" / "red").iterdir())[3:]:
        photo.unlink()
    plain, balanced = (train(*small, *PROBE, *more) for more in ([], [f"data.balance={balance}"]))
    assert balanced.code == 0, balanced.err
    assert not torch.allclose(head_of(balanced.run), head_of(plain.run), atol=1e-3)


def test_labels_are_smoothed_and_other_losses_are_refused(train, small):
    refused = train(*small, *PROBE, "loss._target_=torch.nn.MultiMarginLoss")
    assert refused.code == 2
    assert "loss=label_smoothing" in refused.err


@pytest.mark.slow
def test_smoothed_labels_give_a_smaller_head(train, small):
    plain, smooth = (train(*small, *PROBE, *more) for more in ([], ["loss=label_smoothing"]))
    assert smooth.code == 0, smooth.err
    assert head_of(smooth.run).norm() < head_of(plain.run).norm()


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 0), (2, 1)])
def test_a_run_that_died_after_or_in_a_solved_phase_ends_the_same(
    train, small, tmp_path, epoch, batch
):
    whole = train(*small, *PROBE, THEN, "hydra.run.dir=whole")
    assert whole.code == 0, whole.err

    class Died(BaseException):
        pass

    def dying(self, images, batch_idx, step=Classifier.training_step):
        if (self.current_epoch, batch_idx) == (epoch, batch):
            raise Died
        return step(self, images, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", dying)
        with pytest.raises(Died):
            call_train(tmp_path, *small, *PROBE, THEN, "hydra.run.dir=dead")
    (tmp_path / "dead" / ".lock").unlink()
    resumed = train("resume=dead")
    assert resumed.code == 0, resumed.err
    assert weights_of(tmp_path / "dead") == weights_of(tmp_path / "whole")
    times = {"seconds": None}
    assert [r | times for r in rows(tmp_path / "dead")] == [
        r | times for r in rows(tmp_path / "whole")
    ]
