"""Planted runs: what their leaderboard says is known beforehand."""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from thaw.comparison import leaderboard, report, table
from thaw.errors import UserError
from thaw.intervals import wilson

REPO = Path(__file__).parents[2]


def plant(
    folder: Path,
    right: Sequence[bool] | str,
    arch: str = "resnet18",
    finetune: str = "full",
    seed: int = 0,
    lr: float = 1e-3,
    val: Sequence[str] = ("val/a/0.jpg",),
    photos: str = "test",
    state: str = "done",
    reason: str | None = None,
    settings: dict[str, Any] | None = None,
    group: int = 0,
    **metrics: float,
) -> Path:
    """Write a run folder: `right` says of each test photo whether the run labels it right.

    So many photos in a row are a `group`.
    """
    right = [mark in (True, "1") for mark in right]
    cfg = OmegaConf.create(
        {
            "seed": seed,
            "resume": None,
            "arch": {
                "_target_": "thaw.nets.pretrained.torchvision",
                "name": arch,
                "weights": "DEFAULT",
            },
            "data": {"root": "data/ants", "workers": 0, "batch_size": 32},
            "augment": {"_target_": "torchvision.transforms.v2.Identity"},
            "optimizer": {"_target_": "torch.optim.Adam"},
            "finetune": {"phases": {"head": {"train": "head", "epochs": 3, "lr": lr}}},
            "trainer": {"accelerator": "cpu"},
        }
    )
    if finetune == "full":
        cfg.finetune.phases.all = {"train": "all", "epochs": 2, "lr": lr / 10}
    for key, value in (settings or {}).items():
        OmegaConf.update(cfg, key, value)
    choices = {"arch": arch, "data": "folder", "augment": "none", "optimizer": "adam"}
    choices |= {"finetune": finetune, "trainer": "cpu", "experiment": None}
    hydra = OmegaConf.create({"hydra": {"runtime": {"choices": choices}}})
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    OmegaConf.save(hydra, folder / ".hydra" / "hydra.yaml")
    updated = (
        datetime(2026, 1, 1) + timedelta(seconds=len(list(folder.parent.iterdir())))
    ).isoformat()
    status = {"state": state, "updated": updated} | ({"reason": reason} if reason else {})
    _json(folder / "status.json", status)
    _json(folder / "environment.json", {"device": "cpu x86_64", "threads": 1})
    labels = ["ab"[i % 2] for i in range(len(right))]
    paths = [f"{photos}/{label}/{i}.jpg" for i, label in enumerate(labels)]
    test = [
        {"path": path, "label": label, "group": f"clip{i // group}"} if group else path
        for i, (path, label) in enumerate(zip(paths, labels, strict=True))
    ]
    _json(folder / "split.json", {"classes": ["a", "b"], "val": list(val), "test": test})
    if state != "done":
        return folder
    known = {
        "test/acc": sum(right) / len(right),
        "test/f1": sum(right) / len(right),
        "test/ece": 0.03,
        "val/acc": 0.9,
        "val/loss": 0.3,
        "best/epoch": 5,
        "seconds/epoch": 2.0,
        "seconds/features": 0.0,
        "seconds/fit": 10.0,
        "seconds/test": 1.0,
        "params/total": 11_000_000,
        "params/trainable": 11_000_000,
        "model/bytes": 44_000_000,
        "model/latency_ms": 20.0,
    }
    known |= {key.replace("_", "/", 1): value for key, value in metrics.items()}
    _json(folder / "metrics.json", known)
    history = [
        {
            "epoch": e,
            "phase": "head",
            "val/loss": known["val/loss"] + (5 - e) * 0.1,
            "val/acc": 0.5 + e / 20,
        }
        for e in range(1, 6)
    ]
    _csv(folder / "history.csv", history)
    rows = [
        {"path": path, "label": label, "prediction": label if good else "ab".replace(label, "")}
        for path, label, good in zip(paths, labels, right, strict=True)
    ]
    _csv(folder / "predictions.csv", rows)
    return folder


def _json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def _csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def right(wrong: Sequence[int] = (), photos: int = 60) -> list[bool]:
    """All right but these."""
    return [i not in wrong for i in range(photos)]


def names(board: leaderboard.Leaderboard) -> list[str]:
    return [configuration.name for configuration in board.configurations]


# --- the verdict ----------------------------------------------------------------------------------


def test_the_better_one_wins_and_it_is_said(tmp_path):
    plant(tmp_path / "a", right(range(2)), arch="resnet18", val_loss=0.2)
    plant(tmp_path / "b", right(range(14)), arch="squeezenet1_0", val_loss=0.4)
    board = leaderboard.compare([tmp_path])
    assert names(board) == ["resnet18", "squeezenet1_0"]
    (pair,) = board.pairs
    assert (pair.only_a, pair.only_b, pair.photos) == (12, 0, 60)
    assert pair.p == pair.p_holm == pytest.approx(2 / 2**12)
    assert board.sentences == [
        "The winner on val is resnet18 (val loss 0.200, accuracy 90.0%): 96.7% of 60 test photos"
        " (95% interval 88.6% to 99.1%).",
        "resnet18 beats squeezenet1_0 by 20.0 points on the same 60 photos (p < 0.001).",
    ]


def test_val_chooses_even_where_test_says_otherwise(tmp_path):
    plant(tmp_path / "a", right(range(14)), arch="resnet18", val_loss=0.2, val_acc=0.8)
    plant(tmp_path / "b", right(range(2)), arch="squeezenet1_0", val_loss=0.4, val_acc=0.9)
    board = leaderboard.compare([tmp_path])
    assert board.winner.name == "resnet18"
    first, loss, test, pair = board.sentences
    assert first.startswith("The winner on val is resnet18 (val loss 0.200, accuracy 80.0%): 76.7%")
    assert "by val accuracy it would be squeezenet1_0 (90.0% against 80.0%)" in loss
    assert "On test squeezenet1_0 is ahead (96.7%), but test doesn't choose" in test
    assert pair == "squeezenet1_0 beats resnet18 by 20.0 points on the same 60 photos (p < 0.001)."


def test_identical_models_are_not_told_apart(tmp_path):
    for name, arch in (("a", "resnet18"), ("b", "squeezenet1_0")):
        plant(tmp_path / name, right([3, 4]), arch=arch)
    board = leaderboard.compare([tmp_path])
    (pair,) = board.pairs
    assert not pair.told_apart
    assert pair.p == 1
    assert board.sentences[1] == "On val it is level with squeezenet1_0."
    assert board.sentences[-1] == (
        "resnet18 and squeezenet1_0 can't be told apart on 60 photos (p = 1): they are right on the"
        " same ones."
    )


def test_the_epoch_and_the_winner_are_chosen_by_the_same():
    from thaw.training.unfreezing import MONITOR

    assert leaderboard.MONITOR == MONITOR


def test_a_run_that_diverged_comes_last(tmp_path):
    plant(tmp_path / "a", right(), arch="resnet18", val_loss=math.nan)
    plant(tmp_path / "b", right(), arch="squeezenet1_0", val_loss=3.0)
    assert names(leaderboard.compare([tmp_path])) == ["squeezenet1_0", "resnet18"]


def test_pairs_are_corrected_for_their_number(tmp_path):
    wrong = {"resnet18": range(2), "resnet50": range(8), "squeezenet1_0": range(3, 9)}
    for i, (arch, photos) in enumerate(wrong.items()):
        plant(tmp_path / arch, right(photos), arch=arch, val_loss=0.1 * (i + 1))
    board = leaderboard.compare([tmp_path])
    found = {(pair.a, pair.b): (pair.p, pair.p_holm) for pair in board.pairs}
    # 0 : 6, then 2 : 6, then 3 : 1 of the photos that one alone gets right
    assert found["resnet18", "resnet50"] == pytest.approx((2 / 2**6, 6 / 2**6))
    assert found["resnet18", "squeezenet1_0"] == pytest.approx((74 / 2**8, 148 / 2**8))
    assert found["resnet50", "squeezenet1_0"] == pytest.approx((10 / 2**4, 10 / 2**4))
    assert len(board.sentences) == 4  # every pair has one, "Holm" in each
    assert all("Holm" in sentence for sentence in board.sentences[1:])


def test_of_many_only_the_winner_is_spoken(tmp_path):
    archs = [f"net{i}" for i in range(9)]
    for i, arch in enumerate(archs):
        wrong = right() if i == 0 else right(range(30 if i == 5 else i % 2))
        plant(tmp_path / arch, wrong, arch=arch, val_loss=0.1 * (i + 1))
    board = leaderboard.compare([tmp_path])
    assert len(board.pairs) == 36
    assert board.sentences[1:] == [
        "net0 beats net5 on the same 60 photos (p < 0.05, Holm).",
        "net0 can't be told apart from net1, net2, net3, net4, net6, net7 and net8 on 60 photos.",
    ]


def test_many_may_beat_the_winner_on_test(tmp_path):
    plant(tmp_path / "w", right(range(30)), arch="winner", val_loss=0.1)
    for i in range(7):
        plant(tmp_path / str(i), right(range(30 if i < 5 else 0)), arch=f"net{i}")
    sentences = leaderboard.compare([tmp_path]).sentences
    assert "net5 and net6 beat winner on the same 60 photos (p < 0.05, Holm)." in sentences


# --- seeds ----------------------------------------------------------------------------------------


def test_seeds_are_one_configuration(tmp_path):
    for seed, wrong in enumerate(([0], [0, 1], [0, 1, 2])):
        plant(tmp_path / f"a{seed}", right(wrong), seed=seed, val_loss=0.1 * (seed + 1))
    board = leaderboard.compare([tmp_path])
    (configuration,) = board.configurations
    assert configuration.mean("val/loss") == pytest.approx(0.2)
    assert configuration.sd("val/loss") == pytest.approx(0.1)
    assert configuration.mean("test/acc") == pytest.approx(58 / 60)
    assert configuration.interval == wilson(58, 60)  # three seeds are not 180 photos
    assert board.pairs == []
    assert table.rows(board)[0]["seeds"] == "0 1 2"


def test_pairs_of_several_seeds(tmp_path):
    wrong = {"a": [[0], [0], []], "b": [[0, 1, 2, 3], [0, 1, 2, 4], [1, 2, 3, 5]]}
    for arch, seeds in wrong.items():
        for seed, photos in enumerate(seeds):
            loss = 0.1 if arch == "a" else 0.2
            plant(tmp_path / f"{arch}{seed}", right(photos), arch=arch, seed=seed, val_loss=loss)
    (pair,) = leaderboard.compare([tmp_path]).pairs
    # of 3 seeds, a is right more often: 3 times on photos 1 and 2, twice on 3, once on 4 and 5
    assert pair.lead == pytest.approx(10 / 180)
    assert (pair.only_a, pair.only_b) == pytest.approx((10 / 3, 0))
    assert pair.p == pytest.approx(2 / 2**5)  # only one pattern of signs gives that sum
    assert pair.seeds == (3, 3)


def test_as_many_seeds_of_each_are_not_needed(tmp_path):
    for seed in range(3):
        plant(tmp_path / f"a{seed}", right([seed]), arch="a", seed=seed, val_loss=0.1)
    for seed in range(2):
        plant(tmp_path / f"b{seed}", right([5, 6]), arch="b", seed=seed, val_loss=0.2)
    board = leaderboard.compare([tmp_path])
    assert board.pairs[0].lead == pytest.approx(1 / 60)
    assert board.pairs[0].only_a == pytest.approx(2)


def test_seeds_that_disagree_are_mentioned(tmp_path):
    wrong = {"a": [range(1), range(20)], "b": [range(40), range(19)]}
    for arch, seeds in wrong.items():
        for seed, photos in enumerate(seeds):
            loss = 0.1 if arch == "a" else 0.2
            plant(tmp_path / f"{arch}{seed}", right(photos), arch=arch, seed=seed, val_loss=loss)
    sentence = leaderboard.compare([tmp_path]).sentences[-1]
    assert sentence.startswith("a beats b by ")
    assert sentence.endswith(", though with 1 of 2 seeds only.")


def test_a_seed_that_was_run_twice_counts_once(tmp_path):
    plant(tmp_path / "first", right([0, 1, 2]))
    again = plant(tmp_path / "second", right([0]))
    board = leaderboard.compare([tmp_path])
    assert [run.path for run in board.winner.runs] == [again]
    assert board.notes == [f"{tmp_path / 'first'} is left out: {again} did the same again."]


# --- test photos ----------------------------------------------------------------------------------


def test_other_photos_are_refused(tmp_path):
    plant(tmp_path / "ants", right(), arch="resnet18")
    plant(tmp_path / "bees", right(photos=40), arch="squeezenet1_0", photos="val")
    with pytest.raises(UserError) as error:
        leaderboard.compare([tmp_path])
    assert str(error.value) == (
        "Expected runs that were tested on the same photos with the same labels, but"
        f" {tmp_path / 'bees'} had 40 test photos, of which 0 are among the 60 of"
        f" {tmp_path / 'ants'}; compare each test set's runs alone."
    )


def test_other_labels_are_refused(tmp_path):
    plant(tmp_path / "a", right(), arch="resnet18")
    run = plant(tmp_path / "b", right(), arch="squeezenet1_0")
    rows = _rows(run / "predictions.csv")
    rows[0]["label"] = "b"
    _csv(run / "predictions.csv", rows)
    with pytest.raises(UserError, match=r"59 are among the 60 of .*, and 1 have another label"):
        leaderboard.compare([tmp_path])


def test_other_data_with_another_seed_are_refused(tmp_path):
    plant(tmp_path / "a", right(), arch="resnet18", seed=0)
    plant(tmp_path / "b", right(), arch="squeezenet1_0", seed=1, photos="val")
    with pytest.raises(UserError, match="0 are among the 60"):
        leaderboard.compare([tmp_path])


def test_photos_are_matched_by_path(tmp_path):
    wrong = {"resnet18": [1, 2], "squeezenet1_0": [2, 3, 4]}
    for arch, photos in wrong.items():
        plant(tmp_path / arch, right(photos), arch=arch)
    before = leaderboard.compare([tmp_path]).pairs
    run = tmp_path / "resnet18"
    _csv(run / "predictions.csv", _rows(run / "predictions.csv")[::-1])
    assert leaderboard.compare([tmp_path]).pairs == before
    assert (before[0].only_a, before[0].only_b) == (2, 1)


def test_a_test_split_that_each_seed_cuts_anew(tmp_path):
    """Own photos without splits: runs of one seed share their photos, and are paired on them."""
    for arch, wrong in (("a", []), ("b", [0, 1, 2])):
        for seed in (0, 1):
            loss = 0.1 if arch == "a" else 0.2
            folder = tmp_path / f"{arch}{seed}"
            plant(folder, right(wrong), arch=arch, seed=seed, val_loss=loss, photos=f"cut{seed}")
    plant(tmp_path / "a2", right(range(50)), arch="a", seed=2, val_loss=0.1, photos="cut2")
    (pair,) = leaderboard.compare([tmp_path]).pairs
    assert pair.photos == 120
    assert (pair.only_a, pair.only_b) == (6, 0)  # seed 2, which b lacks, is not looked at
    assert pair.lead == pytest.approx(6 / 120)


def test_photos_that_come_in_groups_count_by_group(tmp_path):
    """Of 12 photos that one gets right and the other doesn't, all are of 2 clips."""
    for name, group in (("alone", 0), ("clips", 6)):
        told = {"test_groups": 10, "test_acc_low": 0.7, "test_acc_high": 0.95} if group else {}
        for seed in (0, 1):
            wide = {key: value - 0.1 * seed for key, value in told.items() if "acc" in key}
            best = {"arch": "a", "val_loss": 0.2} | told | wide
            plant(tmp_path / f"{name}/a{seed}", right(), seed=seed, group=group, **best)
            worse = {"arch": "b", "val_loss": 0.4} | told
            plant(tmp_path / f"{name}/b{seed}", right(range(12)), seed=seed, group=group, **worse)
    (alone,) = leaderboard.compare([tmp_path / "alone"]).pairs
    board = leaderboard.compare([tmp_path / "clips"])
    (pair,) = board.pairs
    assert (alone.groups, alone.p) == (None, pytest.approx(2 / 2**12))
    assert (pair.groups, pair.p) == (10, pytest.approx(2 / 2**2))
    assert (pair.only_a, pair.only_b, pair.lead) == (12, 0, alone.lead)
    assert alone.needed is not None
    assert pair.needed > 60 > alone.needed
    assert "told apart on 60 photos in 10 groups (20.0 points, p = 0.5)" in pair.sentence
    assert pair.sentence.endswith("photos in such groups")
    assert "of 60 test photos in 10 groups (95% interval 65.0% to 90.0%)" in board.sentences[0]
    assert board.caveat.endswith("for p each group counts as one.")


def test_groups_of_two_kinds_are_joined(tmp_path):
    """Runs that were grouped in two ways: what either keeps together counts as one."""
    plant(tmp_path / "a", right(), arch="a", group=2, val_loss=0.1)
    plant(tmp_path / "b", right([0, 1, 2]), arch="b", group=3)
    (pair,) = leaderboard.compare([tmp_path]).pairs
    assert pair.groups == 10  # photos 0-5, 6-11, …
    assert pair.p == 1


# --- runs that don't count ------------------------------------------------------------------------


def test_unfinished_runs_are_listed(tmp_path):
    plant(tmp_path / "good", right())
    plant(tmp_path / "bad", right(), state="failed", reason="CUDA out of memory\nmore")
    plant(tmp_path / "deep" / "killed", right(), state="running")
    damaged = plant(tmp_path / "damaged", right(), seed=1)
    (damaged / "predictions.csv").unlink()
    lacking = plant(tmp_path / "lacking", right(), seed=2)
    _json(lacking / "metrics.json", {"val/loss": 1.0})
    empty = plant(tmp_path / "empty", right(), seed=3)
    (empty / "predictions.csv").write_text("")
    broken = plant(tmp_path / "broken", right(), seed=4)
    (broken / ".hydra" / "config.yaml").write_text("seed: [")
    board = leaderboard.compare([tmp_path])
    assert [run.path.name for run in board.winner.runs] == ["good"]
    found = {run.path.name: (run.state, run.reason) for run in board.unfinished}
    assert found.keys() == {"bad", "killed", "damaged", "lacking", "empty", "broken"}
    assert found["empty"][0] == found["broken"][0] == "damaged"
    assert found["bad"] == ("failed", "CUDA out of memory")
    assert found["killed"][0] == "running"
    assert "predictions.csv" in found["damaged"][1]
    assert found["lacking"][1] == (
        f"{lacking / 'metrics.json'} is damaged (it lacks val/acc, test/acc)"
    )
    assert f"{tmp_path / 'bad'} doesn't count (failed): CUDA out" in table.markdown(board)
    again = board.unfinished[[run.path.name for run in board.unfinished].index("bad")]
    board.unfinished.append(replace(again, path=tmp_path / "other"))
    told = table.markdown(board)
    assert f"{tmp_path / 'bad'} and 1 more don't count (failed): CUDA out" in told
    assert told.count("CUDA out") == 1


def test_nothing_to_compare(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nowhere"):
        leaderboard.compare([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"holds none: a run has a status\.json"):
        leaderboard.compare([tmp_path])
    plant(tmp_path / "a", right(), state="failed", reason="no photos")
    with pytest.raises(UserError, match=r"of 1 none is: .*failed \(no photos\)"):
        leaderboard.compare([tmp_path])


def test_a_run_named_twice_counts_once(tmp_path):
    run = plant(tmp_path / "a", right())
    board = leaderboard.compare([tmp_path, run])
    assert board.notes == []
    assert len(board.winner.runs) == 1


# --- names ----------------------------------------------------------------------------------------


def test_names_say_what_differs(tmp_path):
    for arch in ("resnet18", "resnet50"):
        for lr in (1e-3, 3e-4):
            plant(tmp_path / f"{arch}{lr}", right(), arch=arch, finetune="head_only", lr=lr)
    board = leaderboard.compare([tmp_path])
    assert sorted(names(board)) == [
        f"{arch} lr={lr}" for arch in ("resnet18", "resnet50") for lr in ("1e-3", "3e-4")
    ]
    assert {row["lr"] for row in table.rows(board)} == {"1e-3", "3e-4"}


def test_what_a_chosen_file_sets_needs_no_words(tmp_path):
    plant(tmp_path / "a", right(), finetune="full")
    plant(tmp_path / "b", right(), finetune="head_only")
    assert sorted(names(leaderboard.compare([tmp_path]))) == ["full", "head_only"]


def test_keys_are_as_long_as_they_must_be(tmp_path):
    plant(tmp_path / "a", right())
    plant(tmp_path / "b", right(), settings={"finetune.phases.all.lr": 1e-5})
    plant(tmp_path / "c", right(), settings={"finetune.phases.head.lr": 1e-5})
    assert "head.lr=1e-3 all.lr=1e-5" in names(leaderboard.compare([tmp_path]))


def test_settings_that_change_nothing_make_no_configuration(tmp_path):
    plant(tmp_path / "a", right(), seed=0)
    plant(tmp_path / "b", right(), seed=1, settings={"data.workers": 4, "cache": {"dir": "x"}})
    assert names(leaderboard.compare([tmp_path])) == ["resnet18 full"]


def test_no_two_have_one_name(tmp_path):
    for root in ("here/photos", "there/photos"):
        plant(tmp_path / root, right(), settings={"data.root": root})
    assert names(leaderboard.compare([tmp_path])) == ["root=photos", "root=photos #2"]


# --- what makes columns less comparable -----------------------------------------------------------


def test_one_net_has_one_latency(tmp_path):
    for finetune, latency in (("full", 30.0), ("head_only", 20.0)):
        plant(tmp_path / finetune, right(), finetune=finetune, model_latency_ms=latency)
    plant(tmp_path / "other", right(), arch="resnet50", model_latency_ms=70.0)
    board = leaderboard.compare([tmp_path])
    latencies = {c.name: c.mean("model/latency_ms") for c in board.configurations}
    assert latencies == {"resnet18 full": 20, "resnet18 head_only": 20, "resnet50 full": 70}


def test_cautions(tmp_path):
    plant(tmp_path / "a", right(), arch="resnet18", seed=0)
    run = plant(tmp_path / "b", right(), arch="resnet50", seed=0)
    assert leaderboard.compare([tmp_path]).notes == []
    _json(run / "split.json", {"val": ["val/b/1.jpg"]})
    _json(run / "environment.json", {"device": "cuda H100", "threads": 8})
    val, device = leaderboard.compare([tmp_path]).notes
    assert val.startswith("Not all were chosen on the same val photos")
    assert device.endswith("cpu x86_64, 1 thread; cuda H100, 8 threads.")


# --- what is written ------------------------------------------------------------------------------


def test_write(tmp_path):
    for i, arch in enumerate(("resnet18", "resnet50", "squeezenet1_0")):
        plant(tmp_path / "runs" / arch, right(range(i)), arch=arch, val_loss=0.1 * (i + 1))
    out = tmp_path / "out"
    board = report.write([tmp_path / "runs"], out)
    rows = _rows(out / "leaderboard.csv")
    assert [row["configuration"] for row in rows] == names(board)
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert float(rows[1]["test/acc"]) == pytest.approx(59 / 60)
    assert float(rows[1]["test/acc_low"]) == pytest.approx(wilson(59, 60)[0])
    assert rows[0]["p_against_winner"] == ""
    assert float(rows[2]["p_against_winner"]) == 1
    pairs = _rows(out / "pairs.csv")
    assert [(row["a"], row["b"]) for row in pairs] == [
        ("resnet18", "resnet50"),
        ("resnet18", "squeezenet1_0"),
        ("resnet50", "squeezenet1_0"),
    ]
    assert "can't be told apart on 60 photos" in pairs[0]["sentence"]
    text = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert text.splitlines()[2].startswith("| 1 | resnet18 | 1 | 0.100 | 90.0 | 100.0 |")
    assert f"- {board.sentences[0]}" in text
    figures = sorted(path.name for path in (out / "figures").iterdir())
    assert figures == ["accuracy_cost.png", "learning_curves.png", "pairs.png"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 9])
def test_figures(tmp_path, number):
    for i in range(number):
        wrong = right(range(2 * i, 3 * i))
        plant(tmp_path / str(i), wrong, arch=f"net{i}", model_bytes=10**6 * (i + 1) ** 2)
    plant(tmp_path / "seed", right([5]), arch="net0", seed=1)
    report.write([tmp_path], tmp_path)
    figures = {path.name: path for path in (tmp_path / "figures").iterdir()}
    assert ("pairs.png" in figures) == (number > 1)
    for path in figures.values():
        with Image.open(path) as image:
            assert image.width > 700
            assert len(image.convert("L").getcolors()) > 50  # more than an empty page


def test_points_of_equal_cost_stand_above_one_another_their_numbers_apart(tmp_path):
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from thaw.comparison import pareto

    for i in range(20):
        plant(tmp_path / str(i), right(range(i // 4)), lr=1e-3 * (i + 1))
    figure = Figure()
    axes = figure.subplots()
    pareto.draw_cost(axes, leaderboard.compare([tmp_path]).configurations, *pareto.COSTS[0])
    places = {
        float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == "o"
    }
    assert places == {20}, "where they are"
    figure.draw_without_rendering()
    heights = sorted(Text.get_window_extent(text).y0 for text in axes.texts)
    assert min(b - a for a, b in pairwise(heights)) > 8  # pixels


# --- the script -----------------------------------------------------------------------------------


@pytest.fixture
def call(call_script, tmp_path, monkeypatch):
    """Call `scripts/compare.py ARGUMENTS` in `tmp_path`: → exit code, what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, columns: int = 80) -> tuple[Any, str, str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("rich._console", None)  # its width is read when it is made
        done = call_script("compare", *arguments)
        return done.code, done.out, done.err

    return run


@pytest.fixture
def sweep(tmp_path):
    for seed in range(2):
        for arch in ("resnet18", "squeezenet1_0"):
            loss, wrong = (0.4, range(9 + seed)) if arch == "resnet18" else (0.3, ())
            folder = tmp_path / "sweep" / f"{arch}{seed}"
            plant(folder, right(wrong), arch=arch, seed=seed, val_loss=loss)
    return tmp_path / "sweep"


def test_a_sweep_gets_its_leaderboard(call, sweep):
    code, out, _ = call("sweep")
    assert code == 0
    assert (sweep / "leaderboard.csv").is_file()
    assert (sweep / "figures" / "pairs.png").is_file()
    assert max(map(len, out.splitlines())) <= 80
    assert "1  squeezenet1_0  0.300 ± 0.000  90.0 ± 0.0  100.0 ± 0.0  94.0–100.0" in out
    assert "(p = 0.002)" in " ".join(out.split())
    assert out.splitlines()[-1].split() == ["report", "sweep/report.html"]
    page = (sweep / "report.html").read_text(encoding="utf-8")
    assert "squeezenet1_0 beats resnet18" in page
    assert page.count("<tr") == 1 + 2 + 1 + 1, "a table of two, and one pair"
    code, out, _ = call("sweep", columns=200)
    assert out.splitlines()[0].split()[:2] == ["#", "configuration"]
    assert out.splitlines()[0].split()[-1] == "ms"


@pytest.mark.slow
def test_runs_are_compared_elsewhere(call, sweep, tmp_path):
    code, _, _ = call("sweep/resnet180", "sweep/squeezenet1_00")
    assert code == 0
    assert not (sweep / "leaderboard.csv").exists()
    (written,) = (tmp_path / "outputs" / "compare").iterdir()
    assert (written / "leaderboard.csv").is_file()
    assert call("sweep/resnet180", "--out", "there")[0] == 0
    assert len(_rows(tmp_path / "there" / "leaderboard.csv")) == 1


@pytest.mark.slow
def test_markdown(call, sweep, tmp_path):
    code, out, _ = call("sweep", "--markdown", "-")
    assert code == 0
    assert out.startswith("| # | configuration |")
    call("sweep", "--markdown", "notes/table.md")
    assert (tmp_path / "notes" / "table.md").read_text(encoding="utf-8") == out


def test_a_mistake_is_one_sentence(call):
    code, out, err = call("nowhere")
    assert (code, out) == (2, "")
    assert err == "Expected a run folder or a folder of runs, but there is no nowhere.\n"


@pytest.mark.slow
def test_torch_is_not_needed(tmp_path):
    plant(tmp_path / "a", right())
    plant(tmp_path / "b", right(), arch="resnet50")
    code = (
        "import sys; from pathlib import Path; from thaw.comparison import report;"
        "report.report([Path('.')]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
