"""Runs that an earlier version made (see old/README.md) can be gone on with, read and used."""

import shutil
from pathlib import Path

import pytest
from conftest import call_train, state, weights_of
from safetensors.torch import load_file
from torch.testing import assert_close

from thaw.data import shapes
from thaw.runs import folder, read, shipped

OLD = Path(__file__).parent / "old"
SETTINGS = [
    *("arch=small_cnn", "arch.width=2", "arch.input_size=16"),
    *("data=shapes", "data.source.train_per_class=4", "data.source.test_per_class=2"),
    *("data.source.size=32", "data.batch_size=8", "optimizer=sgd", "optimizer.momentum=0.0"),
    *("finetune=last_block", "finetune.phases.head.epochs=1", "finetune.phases.head.lr=0.0"),
    *("finetune.phases.last.epochs=1", "finetune.phases.last.lr=0.1"),
    *("trainer=cpu", "trainer.precision=32-true", "cache.enabled=false"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the old runs and their photos, drawn again."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD, tmp_path / "outputs")
    (tmp_path / "data").mkdir()
    shapes.draw(Path("data", "shapes_4_2"), 4, 2, size=32)
    return tmp_path


def test_a_run_that_broke_off_ends_as_if_nothing_had_happened(here):
    whole = call_train(here, *SETTINGS)
    assert whole.code == 0, whole.err
    broken = here / "outputs" / "broken"
    assert state(broken) == "interrupted"
    resumed = call_train(here, "resume=outputs/broken")
    assert resumed.code == 0, resumed.err
    assert "going on from" in resumed.out
    assert "what was before it" not in resumed.out, "it began anew"
    assert state(broken) == "done"
    # Its first epoch was another machine's, whose processor may round in another way.
    assert_close(*(load_file(run / "model" / "weights.safetensors") for run in (broken, whole.run)))
    last, expected = (read.history(run)[-1] for run in (broken, whole.run))
    assert last["val/loss"] == pytest.approx(expected["val/loss"], rel=1e-5)


@pytest.mark.slow
def test_an_old_sweep_is_done_when_its_command_is_repeated(here):
    jobs = sorted((here / "outputs" / "sweep").glob("seed=*"))
    before = [weights_of(job) for job in jobs]
    done = call_train(here, "-m", *SETTINGS, "seed=1,2", "hydra.sweep.dir=outputs/sweep")
    assert done.code == 0, done.err
    assert "2 of 2 done before" in done.out
    assert [weights_of(job) for job in jobs] == before
    assert (here / "outputs" / "sweep" / "leaderboard.csv").is_file()
    other = "finetune.phases.last.lr=0.2"
    done = call_train(here, "-m", *SETTINGS, "seed=1,2", other, "hydra.sweep.dir=outputs/sweep")
    assert done.code == 1
    assert "finetune.phases.last.lr: 0.1 -> 0.2" in done.out


@pytest.mark.slow
def test_an_old_run_is_read_and_used(here, call_script):
    run = "outputs/sweep/seed=1"
    commands = {
        "compare": ["outputs/sweep", "--out", "compared"],
        "evaluate": [run, "--out", "evaluated"],
        "describe": [run],
        "predict": [run, "data/shapes_4_2/test"],
    }
    for name, arguments in commands.items():
        done = call_script(name, *arguments)
        assert done.code == 0, (name, done.err)
    assert len(done.out.splitlines()) == 10


def test_what_came_later_counts_as_its_default():
    choices = {"data": "folder", "optimizer": "adam"}
    now = shipped.with_defaults({"data": {"root": "x"}, "optimizer": {}}, choices)
    before = {"data": {"root": "x"}, "optimizer": {"weight_decay": 0.0}}
    assert now["data"]["batch_size"] == 32
    assert not folder.differences(shipped.with_defaults(before, choices), now)
    now["data"]["batch_size"] = 16
    changed = folder.differences(shipped.with_defaults(before, choices), now)
    assert changed == ["data.batch_size: 32 -> 16"]


def test_all_that_moved_is_where_the_table_says():
    for old, new in shipped.MOVED.items():
        place, _, name = new.rpartition(".")
        module = __import__(place, fromlist=[name])
        assert hasattr(module, name), new
        assert shipped.moved({"a": [{"_target_": old}]}) == {"a": [{"_target_": new}]}
        assert shipped.moved_in(f"a._target_={old}") == f"a._target_={new}"
    assert shipped.moved_in("a=thaw.data.PhotoFolder.x") == "a=thaw.data.PhotoFolder.x"
