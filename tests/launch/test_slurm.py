"""Jobs of a Slurm cluster, with a `scontrol` that writes down what it is asked."""

import atexit
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import forkserver

import pytest
import torch
from conftest import call_train, state, weights_of

from thaw.launch import cli, slurm

# --- Slurm, with a `scontrol` that writes down what it is asked -----------------------------------

SCONTROL = """#!/bin/sh
echo "$@" >> {log}
if [ "$1" = show ]; then echo "   JobState={state} Reason=None"; fi
"""
INSIDE = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
ON_SLURM = ["trainer=slurm", "trainer.accelerator=cpu"]
MORE = "+finetune.phases.more={train:head,epochs:60,lr:1e-3}"  # a checkpoint comes before it
LONG = [MORE, "augment=flip", *ON_SLURM]


def child(arguments, folder, environment):
    """`python train.py ARGUMENTS` in a Slurm job."""
    os.environ.update(environment)
    os.chdir(folder)
    with open("log", "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import train

    torch.set_num_threads(1)
    sys.argv = ["train.py", *arguments]
    try:
        cli.command(train.start)
    finally:
        atexit._run_exitfuncs()  # as a process that wasn't forked would


@pytest.fixture(scope="module")
def forks():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["train", "timm", "thaw.training.trainer", "thaw.report.terminal"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


@pytest.fixture
def stopped(forks, tmp_path):
    """Send a signal into the middle of a job: → exit code, what `scontrol` was asked."""

    def call(arguments, signum, job_state):
        tool, log = tmp_path / "bin" / "scontrol", tmp_path / "asked"
        tool.parent.mkdir()
        tool.write_text(SCONTROL.format(log=log, state=job_state))
        tool.chmod(0o755)
        path = {"PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}"}
        cache = {"THAW_CACHE": os.environ["THAW_CACHE"]}
        process = forks.Process(target=child, args=(arguments, tmp_path, INSIDE | path | cache))
        process.start()
        while not [p for p in tmp_path.glob("outputs/**/history.csv") if p.stat().st_size > 2000]:
            assert process.is_alive(), (tmp_path / "log").read_text()
            time.sleep(0.01)
        os.kill(process.pid, signum)
        process.join(60)
        return process.exitcode, log.read_text().splitlines()

    return call


@pytest.fixture
def inside(monkeypatch):
    for name, value in INSIDE.items():
        monkeypatch.setenv(name, value)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "flags", "place"),
    [
        (signal.SIGTERM, [], "outputs/runs/slurm/77_*"),
        (signal.SIGUSR1, ["-m", "seed=42,43"], "outputs/sweeps/slurm/77/seed=42"),
    ],
)
def test_a_preempted_job_is_requeued_and_ends_the_same(
    stopped, inside, short, tmp_path, tmp_path_factory, signum, flags, place
):
    asked = [*short, *LONG, *flags]
    code, requests = stopped(asked, signum, "RUNNING")
    assert code == 128 + signum
    assert requests == ["show job 77", "requeue 77"]
    (run,) = tmp_path.glob(place)
    assert state(run) == "interrupted"
    epochs = len((run / "history.csv").read_text().splitlines()) - 1
    assert epochs < 60

    going_on = call_train(tmp_path, *asked)
    assert going_on.code == 0, going_on.err
    log = (run / "train.log").read_text()
    assert "going on from" in log
    assert log.count("epoch  1/61") == 1, "what was done isn't done again"
    assert [path.parent for path in tmp_path.glob("outputs/runs/**/status.json")] == (
        [] if flags else [run]
    )
    undisturbed = call_train(tmp_path_factory.mktemp("reference"), *asked)
    reference = next(r for r in undisturbed.runs if flags == [] or r.name == run.name)
    assert weights_of(run) == weights_of(reference)
    assert (run / "predictions.csv").read_text() == (reference / "predictions.csv").read_text()


@pytest.mark.slow
def test_a_job_that_the_user_cancels_is_not_requeued(stopped, short, tmp_path):
    code, requests = stopped([*short, *LONG], signal.SIGTERM, "COMPLETING")
    assert code == 143
    assert requests == ["show job 77"]
    (run,) = tmp_path.glob("outputs/runs/slurm/77_*")
    assert state(run) == "interrupted"


def test_an_element_of_an_array_is_not_the_array(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "80")  # of the last element: the array's own
    assert slurm.job_id() == "80"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "80")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm.job_id() == "80_3"


def test_outside_slurm_nothing_takes_the_signals(train, short, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = signal.getsignal(signal.SIGUSR1)
    done = train(*short, *ON_SLURM)
    assert done.code == 0, done.err
    assert signal.getsignal(signal.SIGUSR1) == before
