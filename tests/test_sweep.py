"""A sweep: a folder and a line a job, what is done is skipped, and one table at the end."""

import csv
import json

import pytest

from thaw.names import job_name, varying

SHORT = ["finetune.phases.head.epochs=1", "hydra.sweep.dir=sweep"]


def test_jobs_are_named_by_what_varies():
    command = ["-m", "data=mine", "arch=resnet18,vgg11", "seed=range(0,2)", "a.b=[1,2],[3]"]
    assert varying(command) == ["arch", "seed", "a.b"]
    assert varying(command[1:]) == []
    job = ["data=mine", "arch=vgg11", "seed=1", "a.b=[1,2]"]
    name = job_name(job, None, varying(command))
    assert name.startswith("arch=vgg11,seed=1,a.b=_1,2_")
    assert name != job_name([*job[:-1], "a.b=[1;2]"], None, varying(command))
    assert job_name(["lr=1", "seed=3"], {"lr": "1,2"}) == "lr=1"
    assert "/" not in job_name(["arch.weights=/somewhere/a.pth"])


def test_the_same_sweep_skips_what_is_done_and_ends_in_a_verdict(train, small, tmp_path):
    first = train("-m", *small, "seed=0,1", *SHORT)
    assert first.code == 0
    weights = tmp_path / "sweep" / "seed=0" / "model" / "weights.safetensors"
    written = weights.stat().st_mtime_ns
    assert "seed=0  val " in first.out
    assert "2 of 2 jobs done" in first.out
    with (tmp_path / "sweep" / "leaderboard.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1  # seeds of one configuration
    again = train("-m", *small, "seed=0,1,2", *SHORT)
    assert again.code == 0
    assert again.out.count("done before") == 3  # two lines, and their count
    assert "3 of 3 jobs done" in again.out
    assert weights.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_job_that_broke_off_is_done_alone_and_other_settings_are_refused(train, small, tmp_path):
    train("-m", *small, "seed=0,1", *SHORT)
    status = tmp_path / "sweep" / "seed=1" / "status.json"
    facts = json.loads(status.read_text())
    status.write_text(json.dumps(facts | {"state": "running"}))  # as a kill leaves it
    again = train("-m", *small, "seed=0,1", *SHORT)
    assert again.code == 0
    assert "1 of 2 done before" in again.out
    assert json.loads(status.read_text())["state"] == "done"
    other = train("-m", *small, "seed=0,1", *SHORT, "optimizer=sgd")
    assert other.code == 1
    assert "The run began with other settings: optimizer" in other.out
    assert json.loads(status.read_text())["state"] == "done"  # nothing is lost
