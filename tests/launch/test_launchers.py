"""Sweeps whose jobs run in other processes: side by side here, or on a cluster."""

import json
import os
import signal
import time
from threading import Thread

import pytest
from conftest import REPO, call_train, jobs, state, weights_of

from thaw.sweeps.jobs import REFUSED


@pytest.fixture
def elsewhere(monkeypatch):
    """Processes that a launcher starts find `train.py`, and may take all threads."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPO / "src"), str(REPO)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # and comes back, also where it wasn't set
    monkeypatch.delenv("OMP_NUM_THREADS")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [["joblib", "hydra.launcher.n_jobs=2"], ["submitit_local"]], ids=" ".join
)
def test_what_fails_elsewhere_counts_here(short, tmp_path, elsewhere, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher[0].partition('_')[0]}_launcher")
    name, *options = launcher
    asked = ["-m", *short, "trainer=cpu", "hydra.sweep.dir=sweep"]
    assert call_train(tmp_path, *asked, "seed=0,1").code == 0  # here

    place = [f"hydra/launcher={name}", *options, "data.batch_size=4"]
    done = call_train(tmp_path, *asked, "seed=0,2,-1", *place)
    runs = jobs(tmp_path / "sweep")
    ends = {job: state(run) for job, run in runs.items()}
    assert ends == {"seed=0": "done", "seed=1": "done", "seed=2": "done", "seed=-1": "failed"}
    assert "3 of 4 jobs done\n2 of 4 done before" in done.out
    assert done.code == 1
    assert "data.batch_size: 8 -> 4" in (runs["seed=0"] / REFUSED).read_text()
    if name == "submitit_local":  # joblib's processes write to the terminal themselves
        assert "seed=-1  failed\n  Expected seed to be a whole number from 0, got -1." in done.out
    assert json.loads((runs["seed=2"] / "status.json").read_text())["pid"] != os.getpid()
    environment = json.loads((runs["seed=2"] / "environment.json").read_text())
    cores = len(os.sched_getaffinity(0))
    assert environment["threads"] == (max(1, cores // 2) if name == "joblib" else 1)


# A cluster of one machine: `sbatch` starts the script behind itself, `scontrol requeue` anew.
CLUSTER = {
    "sbatch": """
grep -q '#SBATCH --signal=USR2@' "$1" || exit 1
cp "$1" {folder}/script
{folder}/bin/start
echo "Submitted batch job 77"
""",
    "start": """
export SLURM_JOB_ID=77 SLURM_JOB_NAME=train SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0
export SLURM_NODEID=0
sh {folder}/script >> {folder}/log 2>&1 < /dev/null &
""",
    "srun": """
while [ "${{1#-}}" != "$1" ]; do  # its own options
    case "$1" in --output | --error) shift ;; esac
    shift
done
exec "$@"
""",
    "sacct": "exit 0",
    "scontrol": """
echo "$@" >> {folder}/asked
if [ "$1" = show ]; then echo "   JobState=RUNNING Reason=None"; else {folder}/bin/start; fi
""",
}


@pytest.mark.slow
def test_a_job_of_submitit_is_requeued_and_goes_on(short, tmp_path, elsewhere, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    folder = tmp_path / "cluster"
    (folder / "bin").mkdir(parents=True)
    for name, text in CLUSTER.items():
        (folder / "bin" / name).write_text("#!/bin/sh" + text.format(folder=folder))
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    more = "+finetune.phases.more={train:head,epochs:60,lr:1e-3}"  # a checkpoint comes before it
    asked = [*short, more, "augment=flip"]
    asked += ["trainer=slurm", "trainer.accelerator=cpu", "-m", "hydra.sweep.dir=sweep"]
    asked += ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"]

    watcher = Thread(target=_terminate_once, args=(tmp_path / "sweep",), daemon=True)
    watcher.start()
    done = call_train(tmp_path, *asked)
    watcher.join(10)
    assert done.code == 0, (folder / "log").read_text()
    (run,) = jobs(tmp_path / "sweep").values()
    assert (folder / "asked").read_text().splitlines() == ["show job 77", "requeue 77"]
    assert "#SBATCH --cpus-per-task=1" in (folder / "script").read_text()
    assert "going on from" in (run / "train.log").read_text()
    assert (run / "train.log").read_text().count("epoch  1/61") == 1
    assert state(run) == "done"
    call_train(tmp_path, *asked[:-3], "hydra.sweep.dir=whole")
    (whole,) = jobs(tmp_path / "whole").values()
    assert weights_of(run) == weights_of(whole)


def _terminate_once(sweep):
    while not (found := [p for p in sweep.glob("*/history.csv") if p.stat().st_size > 2000]):
        time.sleep(0.01)
    status = json.loads((found[0].parent / "status.json").read_text())
    os.kill(status["pid"], signal.SIGTERM)
