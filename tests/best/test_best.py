"""The best model in the minutes there are: the clock, the rule, the diary, and the whole."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import jobs, make_photos, refusal, state

import thaw
from thaw.best.budget import Budget, seconds_of
from thaw.best.diary import Diary
from thaw.best.rule import duel, simplest
from thaw.best.ways import Way, once, rehearsal
from thaw.commands import race, tries
from thaw.data.folder import PhotoFolder
from thaw.data.splits import Sample
from thaw.launch.cli import Interrupted
from thaw.nets.weights import weights_are_here
from thaw.shortlist.words import read

# --- time -----------------------------------------------------------------------------------------


def test_a_budget_counts_what_earlier_calls_spent_and_keeps_something_for_the_end():
    now = [100.0]
    budget = Budget(60.0, spent=10.0, began=95.0, clock=lambda: now[0])
    assert (budget.spent, budget.left) == (15.0, 45.0)
    assert budget.fits(39.0)
    assert not budget.fits(40.0)  # with a margin it wouldn't
    budget.kept = 20.0
    assert budget.left == 25.0
    now[0] = 146.0
    assert budget.left == -21.0
    assert not budget.fits(0.0)


@pytest.mark.parametrize("text", ["", "ten", "0", "-1", "nan", "inf"])
def test_minutes_are_a_number_above_0(text):
    assert "minutes=" in refusal(seconds_of, text)


# --- the rule -------------------------------------------------------------------------------------


def answers(sure: list[float]) -> torch.Tensor:
    """Logits of photos whose label is 0, by how sure they are of it."""
    return torch.tensor([[value, 0.0] for value in sure])


def test_a_way_leads_if_it_is_better_by_more_than_a_standard_error():
    labels = torch.zeros(40, dtype=torch.long)
    weak, strong = answers([1.0, -1.0] * 20), answers([2.0, 1.0] * 20)
    fight = duel(strong, weak, labels)
    assert fight.ahead
    assert fight.clear
    assert (fight.photos, fight.points) == (40, 50.0)
    assert duel(weak, strong, labels).behind
    level = duel(weak, weak, labels)
    assert not level.ahead
    assert not level.behind


def test_photos_of_a_group_count_as_one():
    labels = torch.zeros(40, dtype=torch.long)
    weak, strong = answers([1.0, -1.0] * 20), answers([2.0, 1.0] * 20)
    alone, apart = duel(strong, weak, labels), duel(strong, weak, labels, range(40))
    assert (apart.groups, str(apart)) == (None, str(alone))
    grouped = duel(strong, weak, labels, [i // 10 for i in range(40)])
    assert grouped.groups == 4
    assert "on 40 photos in 4 groups" in str(grouped)
    assert (grouped.p, grouped.points) == (2 * 0.5**4, alone.points)  # all four the same way
    mixed = duel(strong, weak, labels, [i % 2 for i in range(40)])  # as unlike as can be
    assert mixed.error > 2 * alone.error
    assert not duel(strong, weak, labels, [0] * 40).ahead  # one group tells nothing


def test_only_photos_that_both_were_asked_about_count():
    labels = torch.zeros(40, dtype=torch.long)
    weak, strong = answers([1.0, -1.0] * 20), answers([2.0, 1.0] * 20)
    strong[10:] = torch.nan
    assert duel(strong, weak, labels).photos == 10
    strong[:] = torch.nan
    nothing = duel(strong, weak, labels)
    assert nothing.photos == 0
    assert not nothing.ahead
    assert not nothing.behind


def test_of_nets_the_smallest_is_taken_that_none_beats_clearly():
    labels = torch.zeros(40, dtype=torch.long)
    poor = answers([1.0, -1.0] * 20)
    good = answers([2.0, 1.0] * 20)
    better = answers([2.0, 1.0] * 19 + [2.0, 1.1])
    assert simplest([poor, good, better], labels) == 1
    assert simplest([good, poor], labels) == 0


# --- ways -----------------------------------------------------------------------------------------


def test_a_rehearsal_has_photos_of_every_class():
    samples = [Sample(f"{label}/{i}.jpg", label) for label in range(3) for i in range(9)]
    assert {s.label for s in rehearsal(samples, 1)} == {0, 1, 2}
    assert len(rehearsal(samples, 6)) == 6


def test_a_rehearsal_has_an_epoch_a_phase():
    phases = {"head": {"train": "head"}, "all": {"train": "all", "epochs": 3, "warmup": 2}}
    assert once(phases) == ["finetune.phases.all.epochs=1", "finetune.phases.all.warmup=0"]


def test_weights_that_are_here_are_known_by_their_names(hub):
    resnet = {"_target_": "thaw.nets.pretrained.torchvision", "name": "resnet18"}
    assert not weights_are_here(resnet | {"weights": "DEFAULT"})
    (hub / "resnet18-f37072fd.pth").touch()
    assert weights_are_here(resnet | {"weights": "DEFAULT"})
    assert not weights_are_here(resnet | {"weights": None})
    lite = {"_target_": "thaw.nets.pretrained.timm", "name": "tf_efficientnet_lite0"}
    assert weights_are_here(lite | {"weights": "DEFAULT"})
    dino = {"_target_": "thaw.nets.pretrained.timm", "name": "vit_small_patch14_dinov2.lvd142m"}
    assert not weights_are_here(dino | {"weights": "DEFAULT"})


# --- the diary ------------------------------------------------------------------------------------


def test_a_search_goes_on_only_as_it_began(tmp_path, capsys):
    diary = Diary(tmp_path, ["seed=1"])
    now = [0.0]
    diary.on(Budget(60.0, began=0.0, clock=lambda: now[0]), "digest")
    now[0] = 5.0
    for _ in range(2):  # as where a search goes on
        diary.add("this", "said | that", "so")
    diary.remember("net full", torch.eye(3))
    again = Diary(tmp_path, ["seed=1"])
    assert again.spent == 5.0
    assert len(again.entries) == 1
    assert again.said("net full", 3, 3).equal(torch.eye(3))
    assert again.said("net other", 3, 3).isnan().all()
    assert "damaged" in refusal(again.said, "net full", 4, 3)
    assert "0:05 | this | said / that | so" in (tmp_path / "log.md").read_text()
    assert "other settings" in refusal(Diary, tmp_path, ["seed=2"])
    assert "photos" in refusal(again.on, diary.budget, "another")
    diary.keep("done")
    assert "is finished" in refusal(Diary, tmp_path, ["seed=1"])
    (tmp_path / "best.json").write_text("{}")
    assert "damaged" in refusal(Diary, tmp_path, ["seed=1"])


# --- the whole ------------------------------------------------------------------------------------

NET = "torchvision/shufflenet_v2_x0_5"


@pytest.fixture
def words(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("thaw.evaluation.figures.draw", lambda *_: [])
    root = make_photos(tmp_path / "photos", train=14, test=3)
    file = weights("shufflenet_v2_x0_5")
    place = [f"data.root={root}", f"archs={NET}", f"archs.{NET}.weights={file}"]
    return ["data=folder", *place, "data.batch_size=8", "trainer=cpu", "logger=none"]


def runs(out: Path) -> dict[str, Path]:
    return jobs(out / "runs")


@pytest.mark.slow
def test_best_tries_ways_and_tests_one(call_script, words, tmp_path, monkeypatch):
    opened = []
    ordinary = PhotoFolder.test_dataloader
    monkeypatch.setattr(
        PhotoFolder, "test_dataloader", lambda data: opened.append(1) or ordinary(data)
    )
    out = tmp_path / "out"
    done = call_script("best", *words, "minutes=20", "--out", out)
    assert done.code == 0, done.err
    assert len(opened) == 1
    log = json.loads((out / "best.json").read_text())
    assert log["state"] == "done"
    assert log["spent"] < 20 * 60  # it ends when there is nothing more to try
    steps = [entry["what"] for entry in log["log"]]
    assert any("full, part 1" in step for step in steps)
    (winner,) = runs(out).values()  # others are removed
    assert state(winner) == "done"
    assert "leads" in (winner / "report.html").read_text()  # why it was chosen
    assert not (out / "tries" / "now").exists()
    assert thaw.load(out).classes == ["blue", "green", "red"]
    assert "test accuracy" in done.out
    assert "is finished" in call_script("best", *words, "minutes=20", "--out", out).err


@pytest.mark.slow
def test_what_broke_off_leaves_a_model_and_goes_on(call_script, words, tmp_path, monkeypatch):
    def interrupted(*_):
        raise Interrupted(signal.SIGINT)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tries, "fold", interrupted)  # after its first part
        done = call_script("best", *words, "minutes=2", "--out", out)
    assert done.code == 130
    assert f"--out {out} goes on" in done.out.replace("\n", " ")
    assert thaw.load(out).classes == ["blue", "green", "red"]
    asked = []
    ordinary = race._asked
    monkeypatch.setattr(
        race, "_asked", lambda found, way, part: asked.append(part) or ordinary(found, way, part)
    )
    done = call_script("best", *words, "minutes=2", "--out", out)
    assert done.code == 0, done.err
    assert asked[0] == 1  # part 0 is known
    assert [state(run) for run in runs(out).values()] == ["done"]


@pytest.mark.slow
def test_a_budget_that_is_far_too_small_still_ends_in_a_model(call_script, words, tmp_path):
    out, began = tmp_path / "out", time.monotonic()
    done = call_script("best", *words, "minutes=0.02", "--out", out)
    assert done.code == 0, done.err
    assert time.monotonic() - began < 60
    (name,) = runs(out)
    assert name.startswith("shufflenet_v2_x0_5_probe")
    assert "no time" in (out / "log.md").read_text()


@pytest.mark.slow
def test_a_training_ends_at_its_deadline(words, tmp_path, monkeypatch):
    wanted = read([word for word in words if not word.startswith("logger")])
    way, left = Way(wanted.nets[0], "full"), iter([1.0, 1.0])
    with pytest.raises(tries.TooSlow):
        tries.fit(way, wanted.shared, tmp_path / "run", lambda: next(left, -1.0))
    assert state(tmp_path / "run") == "interrupted"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["minutes=soon"], "minutes="),
        (["folds=5"], "folds=5"),
        (["finetune=full", "archs=small_cnn"], "archs="),
        (["data=folder", "data.root=nowhere", "archs=small_cnn"], "nowhere"),
        (["archs=small_cnn", "cache.enabled=false"], "cache.enabled"),
    ],
)
def test_what_it_refuses(call_script, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    done = call_script("best", *words)
    assert done.code == 2
    assert sentence in done.err
    assert not (tmp_path / "outputs" / "best").exists()
