"""A run can die anywhere: resumed, it ends bit for bit as if nothing had happened."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
import torch
from conftest import make_photos, small_run

from thaw import cli
from thaw.module import Classifier

THREE = (
    "p0:{train:head,epochs:2,lr:0.01},p1:{train:1,epochs:2,lr:0.01},p2:{train:all,epochs:2,lr:0.01}"
)
SCHEDULE = ["~finetune.phases.head", f"+finetune.phases={{{THREE}}}"]


def outcome(run):
    """What must be the same: weights, history without its times, predictions."""
    weights = hashlib.sha256((run / "model" / "weights.safetensors").read_bytes()).hexdigest()
    history = [line.rsplit(",", 1)[0] for line in (run / "history.csv").read_text().splitlines()]
    return weights, history, (run / "predictions.csv").read_text()


@pytest.fixture(scope="session")
def reference(forks, weights, tmp_path_factory):
    """The undisturbed run."""
    folder = tmp_path_factory.mktemp("reference")
    arguments = small_run(make_photos(folder / "photos"), weights("shufflenet_v2_x0_5"))
    arguments += [*SCHEDULE, "augment=flip", "hydra.run.dir=run"]
    process = begin(forks, folder, *arguments, threads=torch.get_num_threads())  # sums depend on it
    assert finish(process) == 0, (folder / "log").read_text()
    return folder / "run"


class Died(BaseException):
    """As a kill: nothing that runs afterwards may matter."""


def die_at(monkeypatch, epoch, batch):
    """Let the process die in this step, once."""
    step = Classifier.training_step

    def dying(self, images, batch_idx):
        if (self.current_epoch, batch_idx) == (epoch, batch):
            monkeypatch.setattr(Classifier, "training_step", step)
            raise Died
        return step(self, images, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", dying)


def test_a_run_that_dies_ends_the_same(train, small, monkeypatch, tmp_path):
    whole = train(*small, *SCHEDULE, "augment=flip").run
    die_at(monkeypatch, 3, 1)
    with pytest.raises(Died):
        train(*small, *SCHEDULE, "augment=flip", "hydra.run.dir=dead")
    assert train("resume=dead").code == 0
    assert outcome(tmp_path / "dead") == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 2), (2, 0), (3, 1), (4, 0), (5, 2)])
def test_a_run_that_dies_in_any_epoch_ends_the_same(
    train, small, reference, monkeypatch, tmp_path, epoch, batch
):
    die_at(monkeypatch, epoch, batch)
    with pytest.raises(Died):
        train(*small, *SCHEDULE, "augment=flip", "hydra.run.dir=dead")
    assert json.loads((tmp_path / "dead" / "status.json").read_text())["state"] == "running"
    resumed = train("resume=dead")
    assert resumed.code == 0, resumed.err
    assert outcome(tmp_path / "dead") == outcome(reference)


@pytest.mark.slow
def test_loader_workers_change_nothing(train, small, reference):
    done = train(*small, *SCHEDULE, "augment=flip", "data.workers=2")
    assert outcome(done.run) == outcome(reference)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"PK\x03\x04 cut off", "foreign"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    train, small, reference, monkeypatch, tmp_path, content
):
    die_at(monkeypatch, 4, 0)
    with pytest.raises(Died):
        train(*small, *SCHEDULE, "augment=flip", "hydra.run.dir=dead")
    last = tmp_path / "dead" / "checkpoints" / "last.ckpt"
    if content == "foreign":
        torch.save({"state_dict": {}, "epoch": 3}, last)
    else:
        last.write_bytes(content)
    resumed = train("resume=dead")
    assert resumed.code == 0, resumed.err
    assert "last.ckpt is" in resumed.out
    assert "previous.ckpt" in resumed.out
    assert outcome(tmp_path / "dead") == outcome(reference)


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(train, reference):
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file()}
    done = train(f"resume={reference}")
    assert done.code == 0
    assert "finished" in done.out
    before.pop(reference / "train.log")  # it says so there, too
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_resuming_with_other_settings_is_refused_by_name(train, small, monkeypatch, tmp_path):
    die_at(monkeypatch, 2, 0)
    with pytest.raises(Died):
        train(*small, *SCHEDULE, "hydra.run.dir=dead")
    refused = train("resume=dead", "seed=1", "data.batch_size=4")
    assert refused.code == 2
    assert "seed: 42 -> 1" in refused.err
    assert "data.batch_size: 8 -> 4" in refused.err
    assert train("resume=dead", "data.batch_size=4", "resume_with_changes=true").code == 0


def test_resuming_on_other_photos_is_refused(train, small, photos, monkeypatch):
    die_at(monkeypatch, 2, 0)
    with pytest.raises(Died):
        train(*small, *SCHEDULE, "hydra.run.dir=dead")
    (photos / "train" / "red" / "0.jpg").unlink()
    refused = train("resume=dead")
    assert refused.code == 2
    assert "train" in refused.err


# --- real signals, in processes of their own ------------------------------------------------------


def child(arguments, folder, log, threads):
    """`python train.py ARGUMENTS`, in a process that has imported everything already."""
    os.chdir(folder)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import train

    torch.set_num_threads(threads)
    sys.argv = ["train.py", *arguments]
    cli.command(train.start)


@pytest.fixture(scope="session")
def forks():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["train", "timm", "thaw.trainer", "thaw.terminal", "thaw.bundle"]
    )
    return context


def begin(forks, folder, *arguments, threads=1):
    process = forks.Process(target=child, args=(arguments, folder, folder / "log", threads))
    process.start()
    return process


@pytest.fixture
def start(forks, tmp_path):
    return lambda *arguments: begin(forks, tmp_path, *arguments)


def finish(process):
    process.join(300)
    return process.exitcode


def wait_for(path, process):
    while not path.exists():
        assert process.is_alive()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_marks_the_run_and_sets_the_exit_code(start, small, tmp_path, signum, code):
    process = start(*small, *SCHEDULE, "hydra.run.dir=stopped")
    wait_for(tmp_path / "stopped" / "checkpoints" / "last.ckpt", process)
    os.kill(process.pid, signum)
    assert finish(process) == code
    assert json.loads((tmp_path / "stopped" / "status.json").read_text())["state"] == "interrupted"
    torch.load(tmp_path / "stopped" / "checkpoints" / "last.ckpt", weights_only=True)
    assert "resume=stopped" in (tmp_path / "log").read_text()


def kill_at_random(start, tmp_path, arguments, seconds, moments, seed):
    """Kill a run at random moments, resume each, and count those that end as the undisturbed."""
    assert finish(start(*arguments, "hydra.run.dir=whole")) == 0
    expected = outcome(tmp_path / "whole")
    rng = random.Random(seed)
    states = []
    for i in range(moments):
        folder = tmp_path / f"killed{i}"
        process = start(*arguments, f"hydra.run.dir={folder}")
        wait_for(folder / "status.json", process)
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        finish(process)
        states.append(json.loads((folder / "status.json").read_text())["state"])
        assert finish(start(f"resume={folder}")) == 0, (tmp_path / "log").read_text()[-3000:]
        assert outcome(folder) == expected
    return states


@pytest.mark.slow
def test_twenty_kills_at_random_moments(start, small, tmp_path):
    arguments = [*small, *SCHEDULE, "augment=flip"]
    began = time.perf_counter()
    assert finish(start(*arguments, "hydra.run.dir=first")) == 0
    length = time.perf_counter() - began
    states = kill_at_random(start, tmp_path, arguments, length, moments=20, seed=0)
    assert states.count("running") >= 10  # most were killed in the middle


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["efficientnet_lite0", "squeezenet1_0"])
def test_kills_with_real_weights(start, photos, shared, tmp_path, arch):
    short = [argument.replace("epochs:2", "epochs:1") for argument in SCHEDULE]
    arguments = [f"arch={arch}", "data=folder", f"data.root={photos}", "trainer=cpu", *short]
    if arch == "squeezenet1_0":
        arguments.append(f"arch.weights={shared}/weights/squeezenet1_0_deepcompressed.pth")
    kill_at_random(start, tmp_path, arguments, seconds=8, moments=2, seed=1)
