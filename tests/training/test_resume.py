"""A run can die anywhere: resumed, it ends bit for bit as if nothing had happened."""

import csv
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from conftest import call_train, small_run

from thaw.evaluation import figures as evaluate_figures
from thaw.launch import cli
from thaw.training.module import Classifier

THREE = (
    "p0:{train:head,epochs:1,lr:0.01},p1:{train:1,epochs:1,lr:0.01},p2:{train:all,epochs:2,lr:0.01}"
)
# A folder can't ask for what Thaw doesn't ship, so who resumes says it again.
STOP = (
    "+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss,"
    " patience: 9}"
)
SCHEDULE = ["~finetune.phases.head", f"+finetune.phases={{{THREE}}}"]


def rows(run):
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def outcome(run):
    """What must be the same: weights, history without its times, predictions."""
    weights = hashlib.sha256((run / "model" / "weights.safetensors").read_bytes()).hexdigest()
    history = [row | {"seconds": None} for row in rows(run)]
    return weights, history, (run / "predictions.csv").read_text()


def state(run):
    return json.loads((run / "status.json").read_text())["state"]


@pytest.fixture(scope="module")
def arguments(few, weights, tmp_path_factory):
    run = small_run(few, weights("shufflenet_v2_x0_5"))
    fixes = tmp_path_factory.mktemp("fixes") / "check.csv"
    fixes.write_text("path,action\ntrain/blue/4.jpg,drop\ntrain/red/3.jpg,label:green\n")
    brought = [
        "data.balance=sampler",
        f"data.fixes={fixes}",
        r"data.group='([0-9])\.jpg'",
        "metrics=auroc",
        STOP,
    ]
    return [*run, *SCHEDULE, *brought, "augment=flip", "data.batch_size=6"]  # 2 steps an epoch


@pytest.fixture(scope="module")
def reference(arguments, tmp_path_factory):
    """The undisturbed run."""
    done = call_train(tmp_path_factory.mktemp("reference"), *arguments)
    assert done.code == 0, done.err
    return done.run


class Died(BaseException):
    """As a kill: nothing that runs afterwards may matter."""


def die(folder, arguments, epoch, batch):
    """Begin a run in `folder`/dead that dies in this step; returns its folder."""

    def dying(self, images, batch_idx, step=Classifier.training_step):
        if (self.current_epoch, batch_idx) == (epoch, batch):
            raise Died
        return step(self, images, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", dying)
        with pytest.raises(Died):
            call_train(folder, *arguments, "hydra.run.dir=dead")
    assert state(folder / "dead") == "running"
    (folder / "dead" / ".lock").unlink()  # this process, which would hold it, lives on
    return folder / "dead"


@pytest.fixture(scope="module")
def died(arguments, tmp_path_factory):
    """A run that died when all phases had begun, and a copy of it."""
    folder = tmp_path_factory.mktemp("died")
    dead = die(folder, arguments, 3, 1)
    return dead, shutil.copytree(dead, folder / "copy")


@pytest.fixture
def dead(died):
    """The run that died, as it was then."""
    run, copy = died
    shutil.rmtree(run)
    return shutil.copytree(copy, run)


@pytest.mark.slow
def test_a_run_that_died_ends_the_same(train, dead, reference):
    resumed = train(f"resume={dead}", STOP)
    assert resumed.code == 0, resumed.err
    assert "going on from" in resumed.out
    assert "what was before it" not in resumed.out, "it began anew"
    assert outcome(dead) == outcome(reference)


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 0), (2, 1)])
def test_a_run_that_died_in_any_epoch_ends_the_same(
    train, arguments, reference, tmp_path, epoch, batch
):
    dead = die(tmp_path, arguments, epoch, batch)
    resumed = train("resume=dead", STOP)
    assert resumed.code == 0, resumed.err
    assert outcome(dead) == outcome(reference)


@pytest.mark.slow
def test_loader_workers_change_nothing(train, arguments, reference):
    done = train(*arguments, "data.workers=2")
    assert outcome(done.run) == outcome(reference)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"PK\x03\x04 cut off", "foreign"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(train, dead, reference, content):
    last = dead / "checkpoints" / "last.ckpt"
    if content == "foreign":
        torch.save({"state_dict": {}, "epoch": 3}, last)
    else:
        last.write_bytes(content)
    resumed = train(f"resume={dead}", STOP)
    assert resumed.code == 0, resumed.err
    assert "last.ckpt is" in resumed.out
    assert "previous.ckpt" in resumed.out
    assert outcome(dead) == outcome(reference)


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(train, reference):
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file()}
    done = train(f"resume={reference}", STOP)
    assert done.code == 0
    assert "finished" in done.out
    before.pop(reference / "train.log")  # it says so there, too
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_resuming_with_other_settings_is_refused_by_name(train, dead):
    refused = train(f"resume={dead}", STOP, "seed=1", "data.batch_size=8")
    assert refused.code == 2
    assert "seed: 42 -> 1" in refused.err
    assert "data.batch_size: 6 -> 8" in refused.err
    assert train(f"resume={dead}", STOP, "data.batch_size=8", "resume_with_changes=true").code == 0


@pytest.mark.slow
def test_resuming_on_other_photos_is_refused(train, few, dead):
    photo = few / "train" / "red" / "0.jpg"
    aside = photo.rename(few / "0.jpg")
    refused = train(f"resume={dead}", STOP)
    aside.rename(photo)
    assert refused.code == 2
    assert "train" in refused.err


# --- real signals, in processes of their own ------------------------------------------------------


def child(arguments, folder, figures):
    """`python train.py ARGUMENTS`, in a process that has imported everything already."""
    if not figures:  # as `call_train`
        evaluate_figures.draw = lambda *_: []
    os.chdir(folder)
    with open("log", "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import train

    torch.set_num_threads(1)
    sys.argv = ["train.py", *arguments]
    cli.command(train.start)


@pytest.fixture(scope="module")
def forks(reference):
    """Processes that begin with all imported that a run needed."""
    context = multiprocessing.get_context("forkserver")
    packages = ("hydra", "hydra_plugins", "tensorboard", "thaw", "train")
    needed = [name for name in sys.modules if name.partition(".")[0] in packages]
    context.set_forkserver_preload([__name__, *needed])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # it is told of no other path
        forkserver.ensure_running()
    return context


@pytest.fixture
def start(forks, tmp_path):
    def begin(*arguments, figures=False):
        process = forks.Process(target=child, args=(arguments, tmp_path, figures))
        process.start()
        return process

    return begin


@pytest.fixture
def complete(start, tmp_path):
    """Run each of these to its end, two at a time, as there are two cores."""

    def call(*runs):
        left, running = list(runs), []
        while left or running:
            while left and len(running) < 2:
                running.append(start(*left.pop(0)))
            wait([process.sentinel for process in running])
            for process in [process for process in running if not process.is_alive()]:
                assert process.exitcode == 0, (tmp_path / "log").read_text()[-3000:]
                running.remove(process)

    return call


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_marks_the_run_and_sets_the_exit_code(start, arguments, tmp_path, signum, code):
    run = tmp_path / "stopped"
    process = start(*arguments, "hydra.run.dir=stopped")
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signum)
    process.join(60)
    assert process.exitcode == code
    assert state(run) == "interrupted"
    torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert "resume=stopped" in (tmp_path / "log").read_text()


@dataclass(eq=False)
class Kill:
    """Of a run, so many seconds after so many of its epochs."""

    arguments: list[str]
    run: Path
    epochs: int
    seconds: float

    def is_near(self):
        """Whether so many epochs are over, and the run can be resumed at all."""
        finished = len(rows(self.run)) if (self.run / "history.csv").exists() else 0
        return (self.run / "status.json").exists() and finished >= self.epochs


@pytest.fixture
def kill(start):
    """Begin runs, two at a time, and kill each at its moment."""

    def call(kills):
        left, running, due = list(kills), {}, {}
        while left or running:
            while left and len(running) < 2:
                kill = left.pop(0)
                asked = [*kill.arguments, f"hydra.run.dir={kill.run}"]
                running[kill] = start(*asked, figures=True)  # it may die while it draws
            for kill, process in [*running.items()]:
                if kill not in due and kill.is_near():
                    due[kill] = time.monotonic() + kill.seconds
                if kill in due and time.monotonic() >= due[kill]:
                    process.kill()
                    process.join(60)
                    del running[kill]
                else:
                    assert kill in due or process.is_alive(), "it ended by itself"
            time.sleep(0.005)

    return call


@pytest.mark.slow
def test_twenty_kills_at_random_moments(complete, kill, arguments, tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    complete(*([*arguments, f"hydra.run.dir={run}"] for run in (whole, again)))
    assert outcome(whole) == outcome(again)
    seconds = [float(row["seconds"]) for row in rows(whole)]
    seconds.append(1.0)  # after training: the test, the figures, the bundle
    rng = random.Random(0)
    kills = []
    for i in range(20):
        epochs = i * len(seconds) // 20
        moment = rng.uniform(0, seconds[epochs])
        kills.append(Kill(arguments, tmp_path / f"killed{i}", epochs, moment))
    kill(kills)
    assert [state(k.run) for k in kills].count("running") >= 15
    complete(*([f"resume={k.run}", STOP] for k in kills))
    assert [outcome(k.run) == outcome(whole) for k in kills] == [True] * 20


@pytest.mark.slow
def test_folds_that_were_killed_in_the_second_end_the_same(complete, start, few, tmp_path):
    small = ["arch=small_cnn", "arch.width=8", "arch.input_size=32", "finetune=from_scratch"]
    small += ["finetune.phases.all.epochs=40", "trainer=cpu", "folds=3"]
    small += ["data=folder", f"data.root={few}", "data.batch_size=4"]
    complete([*small, "hydra.run.dir=whole"])
    process = start(*small, "hydra.run.dir=killed")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    history = killed / "folds" / "2" / "history.csv"
    while not (history.exists() and len(rows(history.parent)) >= 10):
        assert process.is_alive(), (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.005)
    process.kill()
    process.join(60)
    assert [state(killed / "folds" / fold) for fold in "12"] == ["done", "running"]
    assert not (killed / "folds" / "3").exists()
    first = (killed / "folds" / "1" / "metrics.json").stat().st_mtime_ns
    complete(["resume=killed"])
    assert (killed / "folds" / "1" / "metrics.json").stat().st_mtime_ns == first
    assert (killed / "predictions.csv").read_text() == (whole / "predictions.csv").read_text()
    for fold in "123":
        assert outcome(killed / "folds" / fold) == outcome(whole / "folds" / fold)


@pytest.mark.slow
def test_kills_with_real_weights(complete, kill, few, shared, tmp_path):
    small = ["data=folder", f"data.root={few}", "data.batch_size=6", "trainer=cpu"]
    small += [argument.replace("epochs:2", "epochs:1") for argument in SCHEDULE]
    file = shared / "weights" / "squeezenet1_0_deepcompressed.pth"
    archs = {
        "lite0": ["arch=efficientnet_lite0", *small],
        "squeezenet": ["arch=squeezenet1_0", f"arch.weights={file}", *small],
    }
    complete(*([*run, f"hydra.run.dir={tmp_path / name}"] for name, run in archs.items()))
    rng = random.Random(1)
    kills = []
    for name, run in archs.items():
        seconds = float(rows(tmp_path / name)[2]["seconds"])
        killed = tmp_path / f"{name}_killed"
        kills.append(Kill(run, killed, 2, rng.uniform(0, seconds)))  # while the whole net trains
    kill(kills)
    assert [state(k.run) for k in kills] == ["running"] * 2
    complete(*([f"resume={k.run}"] for k in kills))
    for name in archs:
        assert outcome(tmp_path / f"{name}_killed") == outcome(tmp_path / name)
