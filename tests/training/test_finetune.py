"""Phases: what trains when, what stays frozen, how learning rates run."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import REPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from thaw.errors import UserError
from thaw.nets import pretrained
from thaw.training.module import Classifier
from thaw.training.schedule import Phase, Schedule

HEAD = {"train": "head", "epochs": 1, "lr": 1e-3}


@pytest.fixture
def backbone(weights):
    return pretrained.torchvision("shufflenet_v2_x0_5", str(weights("shufflenet_v2_x0_5")))


def changed(run, backbone):
    """Names of the tensors that differ from the pretrained ones when training ends."""
    before = backbone.net.state_dict()
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    after = {n.removeprefix("backbone.net."): t for n, t in last.items() if "net." in n}
    assert set(after) == set(before)
    return {name for name in after if not torch.equal(after[name], before[name])}


def stages_of(names, backbone):
    return {s for s in backbone.stages if names & set(backbone.named_tensors_of(s))}


# --- the schedule, without training ---------------------------------------------------------------


def test_train_says_which_stages(backbone):
    stages = list(backbone.stages)

    def trained(train):
        schedule = Schedule({"p": {**HEAD, "train": train}})
        return schedule.trained(schedule.phases[0], backbone)

    assert trained("head") == (["head"], [])
    assert trained(0) == (["head"], [])
    assert trained(2) == (["stage4", "conv5", "head"], [])
    assert trained("all") == (stages, [])
    assert trained(["head", "stage2"]) == (["stage2", "head"], [])
    assert trained("norms") == (["head"], stages[:-1])


def test_a_net_without_weights_trains_whole_in_every_phase():
    schedule = Schedule({"p": HEAD})
    backbone = pretrained.small_cnn()
    assert schedule.trained(schedule.phases[0], backbone) == (list(backbone.stages), [])
    schedule.apply(schedule.phases[0], backbone)
    assert all(module.training for module in backbone.net.modules())  # BatchNorm's statistics move


def test_learning_rates_decay_with_the_distance_from_the_head(backbone):
    schedule = Schedule({"p": {**HEAD, "train": 2, "lr": 0.1}}, lr_decay=0.5)
    rates = [schedule.lr(schedule.phases[0], stage, backbone, 0.0) for stage in backbone.stages]
    assert rates == pytest.approx([0, 0, 0, 0.025, 0.05, 0.1])


@pytest.mark.parametrize(
    ("anneal", "middle", "end"), [("none", 1, 1), ("linear", 0.5, 0), ("cosine", 0.5, 0)]
)
def test_warmup_and_anneal(anneal, middle, end):
    phase = Phase("p", "all", epochs=6, lr=1, warmup=2, anneal=anneal)
    values = [phase.factor(elapsed) for elapsed in (0, 1, 2, 4, 6)]
    assert values == pytest.approx([0, 0.5, 1, middle, end])


def test_all_that_is_wrong_with_a_schedule_is_told():
    with pytest.raises(UserError) as error:
        Schedule(
            {"a": {"train": "heart", "epochs": 1, "lr": -1}, "b": {"epochs": 2}}, batch_norm="x"
        )
    for part in ("phases.a.train", "phases.a.lr", "phases.b.train", "phases.b.lr", "batch_norm"):
        assert part in str(error.value)


def test_stages_that_an_arch_does_not_have_are_refused(backbone):
    schedule = Schedule({"a": {**HEAD, "train": 9}, "b": {**HEAD, "train": ["head", "layer4"]}})
    with pytest.raises(UserError, match=r"at most 5.*layer4"):
        schedule.check(backbone)


def test_the_optimizer_has_a_named_group_for_every_stage_from_the_start(backbone):
    backbone.reset_head(3)
    Schedule({"p": HEAD}).apply(Schedule({"p": HEAD}).phases[0], backbone)

    def make(groups):
        return torch.optim.AdamW(groups, weight_decay=0.1)

    make.keywords = {"weight_decay": 0.1}
    groups = Classifier(backbone, ["a", "b", "c"], make).configure_optimizers().param_groups
    assert {group["stage"] for group in groups} == set(backbone.stages)
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in backbone.parameters())
    for group in groups:
        assert group["weight_decay"] == (0.0 if group["name"].endswith("-nodecay") else 0.1)
        assert all((p.ndim <= 1) == group["name"].endswith("-nodecay") for p in group["params"])


# --- through train.py -----------------------------------------------------------------------------


def phases(*values):
    """Overrides for a schedule of phases that trains what is named, an epoch each."""
    body = ",".join(f"p{i}:{{train:{v},epochs:1,lr:0.01}}" for i, v in enumerate(values))
    return ["~finetune.phases.head", f"+finetune.phases={{{body}}}"]


DECAY = ["optimizer=adamw", "optimizer.weight_decay=0.5"]
MOMENTUM = ["optimizer=sgd", "optimizer.weight_decay=0.5"]


@pytest.mark.parametrize(
    "optimizer", [DECAY, pytest.param(MOMENTUM, marks=pytest.mark.slow)], ids=["adamw", "sgd"]
)
def test_a_phase_trains_its_stages_and_no_others(train, small, backbone, optimizer):
    done = train(*small, *phases(2), *optimizer)
    assert done.code == 0, done.err
    names = changed(done.run, backbone)
    assert stages_of(names, backbone) == {"stage4", "conv5", "head"}
    parameters = {n for s in ("stage4", "conv5", "head") for n in backbone.named_parameters_of(s)}
    assert names == parameters  # every one, equal-valued norms too; no BatchNorm statistics


@pytest.mark.slow
def test_what_is_frozen_again_stays_as_it_was(train, small, backbone):
    # Momentum and old gradients must not move a stage after its phase.
    done = train(*small, *phases("all", "head", "head"), *MOMENTUM)
    assert stages_of(changed(done.run, backbone), backbone) == set(backbone.stages)
    assert json.loads((done.run / "metrics.json").read_text())["frozen/unchanged"] is True


@pytest.mark.slow
def test_batch_norm_statistics_move_only_where_asked(train, small, backbone):
    names = changed(train(*small, *phases("all"), "finetune.batch_norm=train").run, backbone)
    assert {name for name in names if "running_mean" in name} == {
        name
        for stage in backbone.stages
        for name in backbone.named_tensors_of(stage)
        if "running_mean" in name
    }
    names = changed(train(*small, *phases(1), "finetune.batch_norm=train").run, backbone)
    assert {name for name in names if "running" in name} == {
        "conv5.1.running_mean",
        "conv5.1.running_var",
    }


@pytest.mark.slow
def test_norms_trains_norm_layers_and_the_head(train, small, backbone):
    names = changed(train(*small, *phases("norms")).run, backbone)
    norms = {
        f"{path}.{name}"
        for path, module in backbone.net.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for name, _ in module.named_parameters()
    }
    assert names == norms | {"fc.weight", "fc.bias"}


@pytest.mark.slow
def test_writing_to_a_frozen_stage_is_told_of(train, small, monkeypatch):
    def tamper(self, batch, batch_idx, step=Classifier.training_step):
        with torch.no_grad():
            self.backbone.net.conv1[0].weight[0, 0, 0, 0] += 1e-3
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", tamper)
    done = train(*small, "finetune.phases.head.epochs=1")
    assert "Frozen stages ['stem'] changed in phase head" in done.out
    assert json.loads((done.run / "metrics.json").read_text())["frozen/unchanged"] is False


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["efficientnet_lite0", "small"])
def test_dropout_acts_where_something_trains(train, small, few, monkeypatch, arch):
    seen = []

    def look(self, batch, batch_idx, step=Classifier.training_step):
        backbone = self.backbone
        seen.append({s: {m.training for m in backbone.modules_of(s)} for s in backbone.stages})
        seen[-1]["net"] = {backbone.net.training}  # timm's dropout before the head asks it
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", look)
    chosen = [a for a in small if not a.startswith("arch")] + [f"arch={arch}"]
    asked = [*(small if arch == "small" else chosen), f"data.root={few}"]
    done = train(*asked, "finetune.phases.head.epochs=2")
    assert done.code == 0, done.err
    for modes in seen:  # the second epoch, after val, too
        assert modes.pop("head") == modes.pop("net") == {True}
        assert set(map(frozenset, modes.values())) == {frozenset({False})}


def test_a_frozen_prefix_keeps_no_graph(backbone):
    backbone.reset_head(3)
    schedule = Schedule({"p": {**HEAD, "train": 1}})
    schedule.apply(schedule.phases[0], backbone.train())
    seen = {}
    backbone.net.stage4.register_forward_hook(lambda m, i, o: seen.update(frozen=o))
    backbone.net.conv5.register_forward_hook(lambda m, i, o: seen.update(thawed=o))
    backbone(torch.randn(2, 3, 64, 64))
    assert seen["frozen"].grad_fn is None
    assert seen["thawed"].grad_fn is not None


@pytest.mark.slow
def test_a_phase_ends_when_val_has_converged(train, small, few):
    never_better = [
        "finetune=converge",
        "finetune.phases.head.lr=0",
        "finetune.phases.all.epochs=1",
    ]
    done = train(*small, f"data.root={few}", *never_better)
    history = (done.run / "history.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in history] == ["head"] * 3 + ["all"]
    assert "Phase head converged" in done.out
    assert json.loads((done.run / "metrics.json").read_text())["epochs"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("restore", [True, False])
def test_the_best_weights_of_a_converged_phase_go_into_the_next(train, small, restore):
    harmful = ["finetune=converge", "finetune.phases.head.lr=30", "finetune.phases.all.lr=0"]
    more = ["finetune.phases.all.epochs=1", f"+finetune.phases.head.restore_best={restore}"]
    more += ["finetune.phases.head.patience=1"]
    done = train(*small, *harmful, *more, "optimizer=sgd")
    lines = [line.split(",") for line in (done.run / "history.csv").read_text().splitlines()]
    loss = lines[0].index("val/loss")
    losses = {
        phase: [float(x[loss]) for x in lines[1:] if x[1] == phase] for phase in ("head", "all")
    }
    assert losses["head"][-1] > min(losses["head"])
    expected = min(losses["head"]) if restore else losses["head"][-1]
    assert losses["all"] == pytest.approx([expected])
    assert ("were restored" in done.out) == restore


@pytest.mark.slow
def test_learning_rates_follow_the_schedule_in_every_step(train, small):
    curve = ["finetune.phases.head.epochs=4", "+finetune.phases.head.warmup=2"]
    done = train(*small, *curve, "+finetune.phases.head.anneal=linear")
    events = EventAccumulator(str(done.run / "tensorboard"))
    events.Reload()
    rates = [event.value for event in events.Scalars("lr/head")]  # 3 steps an epoch
    shares = [0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1]
    assert rates == pytest.approx([1e-3 * share / 6 for share in shares])
    assert "lr/conv5" not in events.Tags()["scalars"], "it never trains"


@pytest.mark.parametrize(
    "strategy",
    ["fsdp", "ddp", *(pytest.param(s, marks=pytest.mark.slow) for s in ("deepspeed", "ddp_spawn"))],
)
def test_strategies_that_cannot_thaw_are_refused(train, small, tmp_path, strategy):
    done = train(*small, f"trainer.strategy={strategy}", "trainer.devices=2")
    assert done.code == 2
    assert "strategy" in done.err
    assert not (tmp_path / "outputs").exists()


def run_script(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPO / "train.py"), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.mark.slow
def test_two_processes_solve_a_head_once(small, tmp_path):
    run_script(*small, "finetune=probe", "hydra.run.dir=one", cwd=tmp_path)
    run_script(*small, "finetune=probe", "hydra.run.dir=two", *DDP, cwd=tmp_path)
    one, two = (
        torch.load(tmp_path / run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for run in ("one", "two")
    )
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)


@pytest.mark.slow
def test_a_sweep_on_two_processes_trains_every_phase(small, tmp_path, backbone):
    # That ranks are equal after each phase is checked by the run itself.
    three = phases("head", 1, "all")
    asked = ["-m", *small, *DDP, *three, "seed=0,1", "hydra.sweep.dir=sweep"]
    done = run_script(*asked, cwd=tmp_path)
    runs = [path.parent for path in (tmp_path / "sweep").glob("*/status.json")]
    assert len(runs) == 2
    assert "2 of 2 jobs done" in done.stdout
    for run in runs:
        assert json.loads((run / "status.json").read_text())["state"] == "done"
        assert stages_of(changed(run, backbone), backbone) == set(backbone.stages)
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["test/images"] == 12
        assert metrics["frozen/unchanged"] is True
        predictions = (run / "predictions.csv").read_text().splitlines()[1:]
        assert len({line.split(",")[0] for line in predictions}) == 12
        assert len((run / "history.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_compiled_net_trains_what_thaws(train, few, tmp_path):
    # Dynamo traces and guards as always; only the slow code generation is left out.
    file = tmp_path / "net.pth"
    origin = {"source": "timm", "name": "test_resnet", "kwargs": {}}
    torch.save(pretrained.build(origin).state_dict(), file)
    backbone = pretrained.timm("test_resnet", str(file))
    asked = ["arch=timm", "arch.name=test_resnet", f"arch.weights={file}", "data=folder"]
    asked += [f"data.root={few}", "data.batch_size=3", "trainer=cpu", "trainer.compile=aot_eager"]
    done = train(*asked, *phases("head", "all"))
    assert done.code == 0, done.err
    assert stages_of(changed(done.run, backbone), backbone) == set(backbone.stages)
