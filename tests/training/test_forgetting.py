"""What thawing makes a net forget, and the experiment that shows it."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from thaw.launch.conf import composed
from thaw.nets.pretrained import torchvision
from thaw.training.forgetting import Forgetting
from thaw.training.schedule import Schedule

SHORT = ["finetune.phases.head.epochs=1", "finetune.phases.all.epochs=1"]


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def drift(done) -> tuple[float, float]:
    assert done.code == 0, done.err
    metrics = metrics_of(done.run)
    return metrics["drift/features"], metrics["drift/imagenet"]


def test_nothing_is_measured_where_the_backbone_stays_as_it_is(finished):
    assert not [key for key in metrics_of(finished.run) if key.startswith("drift/")]


def test_random_weights_have_nothing_to_forget():
    backbone = torchvision("squeezenet1_1", weights=None)
    schedule = Schedule({"all": {"train": "all", "epochs": 1, "lr": 1e-3}})
    forgetting = Forgetting(backbone, schedule)
    forgetting.before(SimpleNamespace(), torch.device("cpu"))
    assert forgetting.after() == {}


@pytest.mark.slow
def test_a_rate_of_0_forgets_nothing(train, small):
    assert drift(train(*small, "finetune=full", *SHORT, "finetune.phases.all.lr=0")) == (0, 0)


@pytest.mark.slow
def test_the_last_epoch_is_measured_though_an_earlier_one_is_kept(train, small):
    harm = ["finetune.phases.all.lr=1.0", "optimizer=sgd"]
    done = train(*small, "finetune=full", *SHORT, *harm)
    assert metrics_of(done.run)["best/epoch"] == 1
    assert drift(done)[0] > 0.5


@pytest.mark.slow
def test_a_conv2d_head_is_measured_too(train, small, weights):
    arch = ["arch.name=squeezenet1_1", f"arch.weights={weights('squeezenet1_1')}"]
    rest = [arg for arg in small if not arg.startswith("arch.")]
    short = [
        "finetune=last_block",
        "finetune.phases.head.epochs=1",
        "finetune.phases.last.epochs=1",
    ]
    features, _ = drift(train(*rest, *arch, *short, "finetune.phases.last.lr=1e-3"))
    assert 0 < features <= 1


@pytest.mark.slow
def test_measuring_changes_no_result(train, small, monkeypatch):
    run = [*small, "finetune=full", *SHORT, "finetune.phases.all.lr=1e-3", "augment=flip"]
    measured = train(*run)
    drift(measured)
    monkeypatch.setattr(Forgetting, "before", lambda *_: None)
    plain = train(*run)
    assert "drift/features" not in metrics_of(plain.run)
    weights = [load_file(done.run / "model" / "weights.safetensors") for done in (measured, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    last = [
        torch.load(done.run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for done in (measured, plain)
    ]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_measuring_leaves_modes_heads_and_random_numbers_as_they_were(photos, weights):
    from torchvision.transforms.v2 import Identity

    from thaw.data.folder import PhotoFolder

    backbone = torchvision("shufflenet_v2_x0_5", str(weights("shufflenet_v2_x0_5")))
    data = PhotoFolder(str(photos)).checked()
    data.transforms, data.augment = backbone.transforms, Identity()
    schedule = Schedule({"all": {"train": "all", "epochs": 1, "lr": 1e-3}})
    forgetting = Forgetting(backbone, schedule)
    pretrained_head = backbone.head
    backbone.reset_head(3)
    schedule.apply(schedule.phases[0], backbone.train())

    def state():
        modes = [(name, module.training) for name, module in backbone.named_modules()]
        tensors = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        return backbone.head, modes, tensors, torch.get_rng_state()

    head, modes, tensors, rng = state()
    forgetting.before(data, torch.device("cpu"))
    assert forgetting.after() == {"drift/features": 0, "drift/imagenet": 0, "drift/images": 6}
    now = state()
    assert now[0] is head is not pretrained_head
    assert now[1] == modes
    assert all(torch.equal(now[2][name], tensor) for name, tensor in tensors.items())
    assert torch.equal(now[3], rng)
    assert not pretrained_head._forward_pre_hooks


# --- the experiment -------------------------------------------------------------------------------


def test_the_experiment_is_full_with_one_epoch_and_two_rates():
    cfg = composed(["experiment=lr_too_high"], hydra=True)
    assert cfg.hydra.mode.name == "MULTIRUN"
    assert cfg.hydra.sweeper.params == {"finetune.phases.all.lr": "1e-5,1e-3"}
    phases = cfg.finetune.phases
    assert (phases.head.epochs, phases.head.lr, phases.all.epochs) == (5, 1e-3, 1)
    plain = phases.all
    assert (plain.lr_decay, plain.warmup, plain.anneal) == (1, 0, "none"), "a rate, and no more"
    choices = cfg.hydra.runtime.choices
    assert (choices.arch, choices.data) == ("efficientnet_lite0", "shapes"), "it needs no network"


@pytest.mark.slow
def test_the_experiment_leaves_two_runs_and_a_figure(train, small):
    done = train("experiment=lr_too_high", *small, "finetune.phases.head.epochs=1")
    assert done.code == 0, done.err
    assert len(done.runs) == 2
    low, high = (metrics_of(run) for run in done.runs)
    assert low["drift/features"] < high["drift/features"]
    figure = done.runs[0].parent / "forgetting.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    for rate, metrics in (("1e-05", low), ("0.001", high)):
        line = " ".join(done.out.split()).partition(f"at {rate}: ")[2].partition(" at 0.001: ")[0]
        assert f"{metrics['drift/imagenet']:.1%} of ImageNet's answers" in line
        assert f"test {metrics['test/acc']:.1%}" in line
        assert ("before the thaw" in line) == (metrics["best/epoch"] == 1)
    assert "/forgetting.png" in done.out


@pytest.mark.slow
def test_a_job_of_the_experiment_is_resumed_alone(train, small):
    rate = "finetune.phases.all.lr=1e-3"
    first = train("experiment=lr_too_high", *small, "finetune.phases.head.epochs=1", rate)
    expected = metrics_of(first.run)
    status = first.run / "status.json"
    status.write_text(status.read_text().replace('"done"', '"interrupted"'))
    (first.run / "metrics.json").unlink()
    again = train(f"resume={first.run}")
    assert again.code == 0, again.err
    assert again.runs == [], "no sweep began"
    now = metrics_of(first.run)
    for key in ("drift/features", "drift/imagenet", "test/loss"):
        assert now[key] == expected[key]
