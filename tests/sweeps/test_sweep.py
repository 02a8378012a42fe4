"""Sweeps: names, what is done again and what isn't, TensorBoard, memory."""

import csv
import gc
import json
import os
import re
from pathlib import Path

import pytest
import timm
import torch
from conftest import call_train, jobs, state, weights_of
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from thaw.launch import cli, conf, names
from thaw.sweeps import jobs as sweep_jobs

# --- names ----------------------------------------------------------------------------------------

ODD = [
    ["seed=1"],
    ["arch.weights=/a/b/w.pth"],
    ["arch.weights=/c/w.pth"],  # the same last part
    ["arch.weights=c:\\w.pth"],
    ["finetune.phases.head.train=[conv5,head]"],
    ["finetune.phases.head.train='[conv5,head]'"],
    ["+finetune.phases={a:{train:head,epochs:1,lr:0.1}}"],
    ["~finetune.phases.all"],
    ["data.root='my photos'"],
    ['data.root="my photos"'],
    ["data.root=фото/кошки"],
    ["data.root=.."],
    ["data.root=../.."],
    ["a=" + "x" * 400],
    ["a=" + "x" * 399 + "y"],
    ["seed=1", "a=null"],
    [],
]


def test_names_are_unique_and_safe():
    found = [names.job_name(overrides) for overrides in ODD]
    assert len(set(found)) == len(found)
    for name in found:
        assert re.fullmatch(r"[\w.,=+-]{1,200}", name)
        assert name.strip(".")
        assert len(name.encode()) <= 255


def test_two_sweeps_that_start_in_the_same_second_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names.register_resolvers()
    cfgs = [conf.composed([], hydra=True) for _ in range(2)]
    for cfg in cfgs:
        OmegaConf.get_cache(cfg)["now"] = {("%Y-%m-%d",): "day", ("%H-%M-%S",): "second"}
    first, second = ({cfg.hydra.sweep.dir for _ in "twice"} for cfg in cfgs)  # each job asks
    assert first == {"outputs/sweeps/day/second"}
    assert second == {"outputs/sweeps/day/second_2"}
    names.remove_empty()
    assert not [*Path("outputs/sweeps/day").iterdir()]


def test_names_tell_what_varies():
    given = ["data=folder", "arch=resnet18", "optimizer.lr=0.1", "seed=1"]
    assert names.job_name(given, {"arch": "resnet18,vgg11"}, ["seed"]) == "arch=resnet18,seed=1"


def test_what_an_extra_brings_is_named():
    error = ConfigCompositionException("Could not find 'hydra/launcher/joblib'")
    assert str(cli.user_sentence(error)).endswith('it comes with pip install "thaw-vision[sweep]"')
    other = ConfigCompositionException("Could not find 'arch/x'")
    assert "pip" not in str(cli.user_sentence(other))


# --- a sweep in which half of the jobs fail -------------------------------------------------------


@pytest.fixture(scope="module")
def half(short, tmp_path_factory):
    """What `call_train` returns of 2 × 2 jobs, their arguments, and their folder."""
    folder = tmp_path_factory.mktemp("half")
    good = next(a for a in short if a.startswith("arch.weights=")).partition("=")[2]
    rest = [a for a in short if not a.startswith("arch.weights=")] + ["trainer=cpu"]
    rest += [f"arch.weights=nowhere.pth,{good}", "seed=0,1", "hydra.sweep.dir=outputs/half"]
    done = call_train(folder, "-m", *rest)
    return done, ["-m", *rest], folder


@pytest.mark.slow
def test_a_failing_job_stops_no_other(half):
    done, _, folder = half
    assert done.code == 1
    states = {name: state(run) for name, run in jobs(folder / "outputs/half").items()}
    failed = [name for name in states if "nowhere.pth" in name]
    assert len(states) == 4
    assert len(failed) == 2
    for name, ended in states.items():
        assert ended == ("failed" if name in failed else "done")
        assert "seed=" in name


@pytest.mark.slow
def test_each_job_has_a_line_and_the_sweep_a_table(half):
    done, _, folder = half
    lines = done.out.splitlines()
    for name, run in jobs(folder / "outputs/half").items():
        line = next(line for line in lines if line.startswith(name))
        if state(run) == "failed":
            assert "failed" in line
            below = " ".join(lines[lines.index(line) + 1 :]).partition("job ")[0]
            assert "nowhere.pth" in below, "the reason is told"
        else:
            whole = " ".join([line, lines[lines.index(line) + 1]])
            assert re.search(r"val +[\d.]+%  test +[\d.]+% .* s$", whole)
    assert "2 of 4 jobs done" in lines
    with (folder / "outputs/half/leaderboard.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1, "two seeds of one configuration"


@pytest.mark.slow
def test_the_same_command_does_only_what_is_left(half):
    _, arguments, folder = half
    runs = {name: run for name, run in jobs(folder / "outputs/half").items()}
    finished = [run for run in runs.values() if state(run) == "done"]
    before = {run: (run / "metrics.json").stat().st_mtime_ns for run in finished}
    broken, kept = finished
    digest = weights_of(broken)
    status = json.loads((broken / "status.json").read_text())
    (broken / "status.json").write_text(json.dumps(status | {"state": "running"}))  # killed

    again = call_train(folder, *arguments)
    assert again.code == 1, "two fail as before"
    assert "3 of 4 done before" not in again.out
    assert "1 of 4 done before" in again.out
    assert jobs(folder / "outputs/half").keys() == runs.keys(), "nothing is numbered twice"
    assert (kept / "metrics.json").stat().st_mtime_ns == before[kept]
    assert (broken / "metrics.json").stat().st_mtime_ns > before[broken]
    assert state(broken) == "done"
    assert weights_of(broken) == digest


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(half):
    _, arguments, folder = half
    runs = jobs(folder / "outputs/half")
    good = {name: weights_of(run) for name, run in runs.items() if state(run) == "done"}
    refused = call_train(folder, *arguments, "data.batch_size=4")
    assert refused.code == 1
    assert refused.out.count("data.batch_size: 8 -> 4") >= len(good)
    assert "Traceback" not in refused.out + refused.err
    assert call_train(folder, *arguments).code == 1
    assert {name: weights_of(runs[name]) for name in good} == good
    assert {state(runs[name]) for name in good} == {"done"}


@pytest.mark.slow
def test_an_experiments_own_sweep_gives_way_to_the_command_line(short, tmp_path):
    asked = ["experiment=compare_two", *short, "trainer=cpu", "seed=3", "data.batch_size=4,8"]
    done = call_train(tmp_path, *asked, "hydra.sweep.dir=sweep")
    assert done.code == 0, done.err
    pattern = "arch=torchvision,seed=3,data.batch_size=[48]"
    assert [bool(re.fullmatch(pattern, name)) for name in jobs(tmp_path / "sweep")] == [True, True]
    refused = call_train(tmp_path, *asked, "hydra.sweep.dir=sweep", "optimizer=sgd")
    assert refused.code == 1, "although all that is there is done"
    assert [state(run) for run in jobs(tmp_path / "sweep").values()] == ["done", "done"]


# --- TensorBoard ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_tensorboard_shows_what_was_set_and_what_came_out(half):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.hparams import metadata

    folder = half[2] / "outputs/half"
    found = EventMultiplexer().AddRunsFromDirectory(str(folder)).Runs()
    done = [name for name, run in jobs(folder).items() if state(run) == "done"]
    assert sorted(found) == [f"{name}/tensorboard" for name in done]
    for name in done:
        events = EventAccumulator(str(folder / name / "tensorboard")).Reload()
        metrics = json.loads((folder / name / "metrics.json").read_text())
        for tag, key in (
            ("accuracy/test", "test/acc"),
            ("loss/test", "test/loss"),
            ("result/val_acc", "val/acc"),
            ("result/val_loss", "val/loss"),
        ):
            assert events.Scalars(tag)[-1].value == pytest.approx(metrics[key], abs=1e-6)
        assert not [tag for tag in events.Tags()["scalars"] if "hp_metric" in tag]
        told = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        hparams = metadata.parse_session_start_info_plugin_data(told).hparams
        assert hparams["arch"].string_value == "shufflenet_v2_x0_5"
        assert hparams["finetune"].string_value == "head_only"
        assert hparams["finetune.phases.head.lr"].number_value == pytest.approx(1e-3)


# --- many jobs ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_jobs_leave_no_memory_behind(few, tmp_path, monkeypatch):
    from thaw.nets.backbone import Backbone

    net = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    torch.save(net.state_dict(), tmp_path / "tiny.pth")
    tiny = ["arch=timm", "arch.name=test_resnet.r160_in1k", f"arch.weights={tmp_path}/tiny.pth"]
    tiny += ["data=folder", f"data.root={few}", "trainer=cpu", "finetune.phases.head.epochs=1"]
    sizes = []

    def measured(*arguments, job=sweep_jobs.job):
        loss = job(*arguments)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes.append(pages * os.sysconf("SC_PAGESIZE") / 2**20)
        return loss

    monkeypatch.setattr(sweep_jobs, "job", measured)
    done = call_train(tmp_path, "-m", *tiny, "seed=range(12)")
    assert done.code == 0, done.out
    assert len(sizes) == len(done.runs) == 12
    # Hydra keeps each job's settings until the sweep ends: 0.2 MB. A net would be 2 MB and more.
    assert sizes[-1] - sizes[4] < 8
    gc.collect()
    assert sum(type(thing) is Backbone for thing in gc.get_objects()) <= 1
