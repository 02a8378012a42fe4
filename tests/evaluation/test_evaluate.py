"""From logits to numbers, words and figures; and `scripts/evaluate.py`, as a user calls it."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import refusal
from PIL import Image
from torchmetrics.functional.classification import (
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

import thaw
from thaw.errors import UserError
from thaw.evaluation import calibrate, figures
from thaw.evaluation import evaluate as evaluate_run
from thaw.evaluation import scores as evaluate
from thaw.evaluation.answers import Answers
from thaw.evaluation.confusion import per_class, struggles
from thaw.intervals import wilson
from thaw.runs import read

FIGURES = {"confusion", "confidence", "reliability", "risk_coverage", "least_sure"}


def answers(
    photos: int = 60, classes: int = 3, sharp: float = 2.0, seed: int = 0, root: Path = Path("data")
) -> Answers:
    """Answers that are often right; photo i is of class i % classes."""
    labels = torch.arange(photos) % classes
    logits = torch.randn(photos, classes, generator=torch.Generator().manual_seed(seed))
    logits[torch.arange(photos), labels] += sharp
    return Answers(
        logits, labels, [f"c{i}" for i in range(classes)], [f"{i}.jpg" for i in range(photos)], root
    )


def pictures(root: Path, photos: int) -> Path:
    """The photos that `answers` speaks of."""
    root.mkdir()
    for i in range(photos):
        Image.new("RGB", (30, 20), (i % 256, 90, 120)).save(root / f"{i}.jpg")
    return root


# --- numbers --------------------------------------------------------------------------------------


def test_each_class_has_the_precision_recall_and_f1_of_torchmetrics():
    given = answers(sharp=1.5)
    found = evaluate.facts(given)["classes"]
    assert list(found) == given.classes
    for key, metric in (
        ("precision", multiclass_precision),
        ("recall", multiclass_recall),
        ("f1", multiclass_f1_score),
    ):
        expected = metric(given.predicted, given.labels, 3, average="none").tolist()
        assert [row[key] for row in found.values()] == pytest.approx(expected)
        for row in found.values():
            assert 0 <= row[f"{key}_low"] < row[key] < row[f"{key}_high"] <= 1
    assert sum(row["support"] for row in found.values()) == 60


def test_the_scores_are_those_of_the_calibrated_model_and_lie_in_their_intervals():
    raw = answers(sharp=1.5)
    given = Answers(raw.logits, raw.labels, raw.classes, raw.photos, raw.root, temperature=0.5)
    found = evaluate.facts(given)["scores"]
    calibrated = evaluate.scores(raw.logits / 0.5, raw.labels)
    assert {key: found[key] for key in calibrated} == pytest.approx(calibrated)
    before = evaluate.scores(raw.logits, raw.labels)
    for key in ("loss", "ece"):
        assert found[f"{key}_uncalibrated"] == pytest.approx(before[key])
    for key in ("acc", "loss", "brier"):
        assert found[f"{key}_low"] < found[key] < found[f"{key}_high"]
    assert found["ece_low"] < found["ece_high"]


def test_intervals_are_of_groups_where_photos_come_in_groups():
    """Five photos of each of 24 things, all alike, say no more than one photo of each would."""
    once = answers(24, sharp=1.0, seed=3)
    logits, labels = (x.repeat_interleave(5, dim=0) for x in (once.logits, once.labels))
    photos = [f"{i}.jpg" for i in range(120)]
    groups: list[str | None] = [f"g{i // 5}" for i in range(120)]
    many, grouped = (
        evaluate.facts(Answers(logits, labels, once.classes, photos, once.root, groups=of))
        for of in (None, groups)
    )
    alone = evaluate.facts(once)
    found, wide, narrow = (facts["scores"] for facts in (grouped, alone, many))
    assert found["groups"] == 24
    for key in ("acc", "balanced_acc", "f1", "worst_recall"):
        width, most, least = (x[f"{key}_high"] - x[f"{key}_low"] for x in (found, wide, narrow))
        assert found[key] == pytest.approx(narrow[key])
        assert 1.3 * least < width
        if key != "worst_recall":  # its upper end is that of any class, in few groups
            assert width == pytest.approx(most, rel=0.35)
    for name, row in grouped["classes"].items():
        assert row["recall_low"] < many["classes"][name]["recall_low"]
    assert all(
        row["acc_low"] <= other["acc_low"]
        for row, other in zip(grouped["reliability"], many["reliability"], strict=True)
    )


@pytest.mark.parametrize("right", [True, False])
def test_groups_that_are_all_right_or_all_wrong_count_as_so_many(right):
    logits = torch.eye(2)[[0] * 20 + [1] * 20] * 5
    labels = torch.tensor([0] * 20 + [1] * 20) ^ (not right)
    groups: list[str | None] = [f"g{i // 5}" for i in range(40)]
    given = Answers(logits, labels, ["a", "b"], ["x"] * 40, Path(), groups=groups)
    found = evaluate.facts(given)["scores"]
    for key, units in (("acc", 8), ("worst_recall", 4)):
        low, high = wilson(units * right, units)
        near = high if right else low
        assert (found[f"{key}_low"], found[f"{key}_high"])[right] == pytest.approx(near)
        assert found[f"{key}_high"] - found[f"{key}_low"] >= 0.9 * (high - low)


def test_brier_is_the_squared_distance_from_the_truth():
    given = Answers(
        torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]]),
        torch.tensor([0, 0]),
        ["a", "b"],
        ["0", "1"],
        Path(),
    )
    # probabilities 3/4, 1/4 for the first, 1/4, 3/4 for the second
    assert evaluate.facts(given)["scores"]["brier"] == pytest.approx((2 / 16 + 18 / 16) / 2)


def test_the_reliability_bins_add_up_to_the_calibration_error():
    given = answers(200)
    found = evaluate.facts(given)
    rows = found["reliability"]
    assert sum(row["photos"] for row in rows) == 200
    error = sum(row["photos"] * abs(row["confidence"] - row["acc"]) for row in rows) / 200
    assert error == pytest.approx(found["scores"]["ece"], abs=1e-6)
    for row in rows:
        assert row["from"] <= row["confidence"] <= row["to"] + 1e-6
        assert row["acc_low"] - 1e-9 <= row["acc"] <= row["acc_high"] + 1e-9


def test_the_worst_mistakes_are_the_surest_and_the_least_sure_the_other_end():
    given = answers(photos=200, sharp=0.5)
    found = evaluate.facts(given)
    rows = [
        {"path": path, "confidence": float(sure), "right": bool(right)}
        for path, sure, right in zip(given.photos, given.confidence, given.correct, strict=True)
    ]
    rows.sort(key=lambda row: row["confidence"])
    wrong = [row["path"] for row in rows if not row["right"]]
    assert [row["path"] for row in found["worst"]] == wrong[::-1][:12]
    assert [row["path"] for row in found["least_sure"]] == [row["path"] for row in rows[:12]]
    assert all(row["label"] != row["prediction"] for row in found["worst"])
    spread = found["confidence"]
    assert spread["correct"]["photos"] + spread["wrong"]["photos"] == 200
    assert spread["wrong"]["photos"] == len(wrong)


def test_a_class_without_photos_has_no_numbers_and_does_not_count():
    given = answers(photos=60, classes=2)
    wider = torch.cat([given.logits, torch.full((60, 1), 0.5)], dim=1)  # often taken for "none"
    found = evaluate.facts(
        Answers(wider, given.labels, ["a", "b", "none"], given.photos, given.root)
    )
    empty = found["classes"]["none"]
    assert (empty["support"], empty["precision"], empty["recall"], empty["f1"]) == (0, *[None] * 3)
    assert empty["predicted"] > 0
    rest = [found["classes"][name]["f1"] for name in ("a", "b")]
    assert found["scores"]["f1"] == pytest.approx(sum(rest) / 2)
    json.dumps(found, allow_nan=False)


def test_without_a_mistake_the_intervals_still_say_how_few_the_photos_are():
    found = evaluate.facts(answers(photos=12, sharp=50.0))
    assert found["struggles"] == "It gets all 12 photos right."
    assert found["worst"] == []
    assert found["confidence"]["wrong"] == {"photos": 0, "mean": None, "median": None}
    for row in found["classes"].values():
        assert row["f1"] == 1
        assert row["f1_low"] < 0.8
    json.dumps(found, allow_nan=False)


def test_a_threshold_adds_what_is_unsure():
    given = answers()
    middle = float(given.confidence.median())
    found = evaluate.facts(given, threshold=middle)["unsure"]
    assert found["unsure"] == int((given.confidence < middle).sum())
    assert evaluate.facts(given)["unsure"] is None


def test_prediction_sets_are_tried_out():
    given = answers(photos=300)
    scores = sorted(answers(photos=300, seed=1).of_label.tolist())
    found = evaluate.facts(given, conformal=scores)["sets"]
    assert found["held_low"] < 0.95 < found["held_high"]
    assert 1 <= found["labels"] <= 3
    assert evaluate.facts(given, conformal=scores[:10])["sets"] is None, "too few for 95%"


def test_logits_that_are_no_numbers_are_refused():
    given = answers()
    given.logits[3, 1] = math.nan
    given.logits[7, 0] = math.inf
    sentence = refusal(Answers, given.logits, given.labels, given.classes, given.photos, given.root)
    assert "2 of 60" in sentence
    assert "diverged" in sentence


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confusion", "sentence"),
    [
        ([[40, 0], [9, 31]], "It struggles with b: 9 of 40 are taken for a."),
        ([[40, 0, 0], [5, 31, 4], [0, 0, 40]], "b: 9 of 40 are missed, 5 of them taken for a."),
        ([[40, 0, 0], [1, 0, 1], [0, 0, 40]], "b: 2 of 2 are missed, each taken for another class"),
        ([[40, 0], [1, 0]], "b: 1 of 1 is taken for a."),
        ([[3, 0], [0, 2]], "It gets all 5 photos right."),
        ([[0, 0], [4, 0]], "It struggles with b: 4 of 4 are taken for a."),
    ],
)
def test_the_class_it_struggles_with_in_words(confusion, sentence):
    found = struggles(confusion, ["a", "b", "c"][: len(confusion)])
    assert sentence in found
    assert "chance" not in found


@pytest.mark.parametrize("confusion", [[[38, 2], [3, 37]], [[3, 0], [1, 2]], [[9, 0], [1, 8]]])
def test_a_difference_that_may_be_chance_is_called_so(confusion):
    assert "may be chance" in struggles(confusion, ["a", "b"])


def test_one_missed_photo_is_not_worse_than_many():
    assert "It struggles with b" in struggles([[0, 1, 0], [20, 40, 20], [0, 0, 9]], ["a", "b", "c"])


def test_f1_is_bounded_where_precision_and_recall_are():
    (row, _) = per_class([[30, 10], [20, 40]])
    assert row["f1"] == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert 0.5 < row["f1_low"] < row["f1"] < row["f1_high"] < 0.8


# --- figures --------------------------------------------------------------------------------------


def drawn(given: Answers, folder: Path, threshold: float | None = None) -> set[str]:
    found = evaluate.facts(given, threshold)
    paths = figures.draw(given, found, folder)
    assert set(paths) == set(folder.iterdir()), "nothing else is left there"
    for path in paths:
        with Image.open(path) as figure:
            assert min(figure.size) > 200
            assert len(figure.convert("RGB").getcolors(1 << 24)) > 20
    return {path.stem for path in paths}


@pytest.mark.slow
def test_where_there_are_no_mistakes_the_figure_of_earlier_ones_goes(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "worst_mistakes.png").write_text("of an earlier evaluation")
    given = answers(photos=30, sharp=50.0, root=pictures(tmp_path / "data", 30))
    assert drawn(given, tmp_path / "figures", 0.6) == FIGURES


@pytest.mark.slow
def test_a_single_photo_can_be_drawn(tmp_path):
    given = answers(photos=1, sharp=-5.0, root=pictures(tmp_path / "data", 1))
    given.classes[:] = ["$a$_{", "犬", "c" * 60]  # whatever folders are called
    names = drawn(given, tmp_path / "figures", threshold=1.0)  # and nothing is answered
    assert "worst_mistakes" in names


@pytest.mark.slow
def test_a_hundred_classes_can_be_drawn(tmp_path):
    root = pictures(tmp_path / "data", 100)
    drawn(answers(photos=100, classes=100, root=root), tmp_path / "figures")


# --- at the end of a run --------------------------------------------------------------------------


def test_the_report_calibrates_on_val_and_evaluates_on_test(tmp_path):
    root = pictures(tmp_path / "data", 60)
    val, test = answers(40, sharp=1.0, seed=1), answers(60, sharp=1.0, root=root)
    run = tmp_path / "run"
    run.mkdir()
    tensors = ({"logits": 3 * a.logits, "label": a.labels} for a in (val, test))
    done = evaluate.report(*tensors, test.classes, test.photos, root, run)
    assert done.temperature == calibrate.fit(3 * val.logits, val.labels) > 1.5
    assert done.bundle["temperature"] == done.temperature
    assert len(done.bundle["conformal"]) == 40
    found = json.loads((run / "evaluation.json").read_text())
    assert found["temperature"] == done.temperature
    assert found["struggles"] == done.struggles
    assert {path.stem for path in (run / "figures").iterdir()} == {*FIGURES, "worst_mistakes"}
    metrics = done.metrics
    before = evaluate.scores(3 * val.logits, val.labels)
    assert metrics["val/ece_uncalibrated"] == pytest.approx(before["ece"])
    assert metrics["val/loss_calibrated"] < before["loss"]
    before = evaluate.scores(3 * test.logits, test.labels)
    assert metrics["test/loss_uncalibrated"] == pytest.approx(before["loss"])
    assert metrics["test/ece_uncalibrated"] == pytest.approx(before["ece"])
    assert metrics["val/images"] == 40


def test_a_diverged_run_reports_nothing(tmp_path):
    given = answers()
    bad = {"logits": given.logits * math.nan, "label": given.labels}
    with pytest.raises(UserError, match="diverged"):
        evaluate.report(bad, bad, given.classes, given.photos, given.root, tmp_path)
    assert not list(tmp_path.iterdir())


# --- the script -----------------------------------------------------------------------------------


@pytest.fixture
def script(call_script):
    """Call `scripts/evaluate.py ARGUMENTS`: → code, out, err."""
    return partial(call_script, "evaluate")


@pytest.fixture
def undrawn(monkeypatch):
    """No figures: they take most of the time."""
    monkeypatch.setattr(figures, "draw", lambda *_: [])


@pytest.fixture
def run(finished, tmp_path):
    """A copy, which may be changed; its checkpoints aren't needed."""
    leave = shutil.ignore_patterns("checkpoints", "tensorboard", ".hydra")
    return shutil.copytree(finished.run, tmp_path / "run", ignore=leave)


@pytest.mark.slow
def test_a_run_is_evaluated_again_with_the_numbers_of_its_test(script, run):
    before = (run / "model" / "model.json").read_bytes()
    done = script(run)
    assert done.code == 0, done.err
    metrics = json.loads((run / "metrics.json").read_text())
    found = json.loads((run / "evaluation.json").read_text())
    assert found["photos"] == metrics["test/images"] == 12
    for key in ("acc", "loss", "f1", "ece"):
        assert found["scores"][key] == pytest.approx(metrics[f"test/{key}"], abs=1e-4)
    for figure in FIGURES:
        assert (run / "figures" / f"{figure}.png").is_file()
    assert f"accuracy       {found['scores']['acc']:.1%}" in done.out
    for name in ("blue", "green", "red", found["struggles"]):
        assert name in done.out
    assert (run / "model" / "model.json").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_a_target_chooses_a_threshold_on_val_which_predict_then_uses(script, run):
    chosen = ("--target-coverage", 0.5, "--certainty", 0.6)
    done = script(run, *chosen)
    assert done.code == 0, done.err
    assert "at least 50% are answered, with 60% certainty, from 6 val photos" in done.out
    model = thaw.load(run)
    split = json.loads((run / "split.json").read_text())
    root = Path(split["root"])
    paths = {name: [root / p["path"] for p in split[name]] for name in ("val", "test")}
    val = [prediction.confidence for prediction in model.predict(paths["val"])]
    assert min(val) <= model.threshold <= max(val)
    assert model.info["promise"]["coverage"] == 0.5
    assert len(model.conformal) == len(val)
    found = json.loads((run / "evaluation.json").read_text())["unsure"]
    unsure = [p.label for p in model.predict(paths["test"])].count("unsure")
    assert found["unsure"] == unsure


def test_a_promise_that_val_cannot_make_changes_nothing(script, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = script(run, "--target-error", 0.02)
    assert done.code == 2
    assert "6 val photos can't promise an error of 2%" in done.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("undrawn")
def test_the_lessons_fixed_threshold_reports_and_stores_nothing(script, run):
    before = (run / "model" / "model.json").read_bytes()
    done = script(run, "--threshold", 0.6)
    found = json.loads((run / "evaluation.json").read_text())["unsure"]
    assert found["threshold"] == 0.6
    assert f"{found['unsure']} of 12 photos), below 60.0%" in done.out
    assert (run / "model" / "model.json").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_other_photos_may_lack_classes_and_have_unknown_and_broken_ones(
    script, run, finished, tmp_path
):
    data = tmp_path / "elsewhere"
    shutil.copytree(finished.photos / "test" / "red", data / "red")
    shutil.copytree(finished.photos / "test" / "blue", data / "blue")
    shutil.copytree(finished.photos / "test" / "green", data / "violet")
    (data / "red" / "0.jpg").write_text("no photo")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = script(run, "--data", data)
    assert done.code == 0, done.err
    assert "doesn't know them: violet" in done.out
    assert "no photos of: green" in done.out
    assert "1 photo of 8 can't be decoded and is left out: red/0.jpg (" in done.out
    found = json.loads((run / "evaluations" / "elsewhere" / "evaluation.json").read_text())
    assert found["photos"] == 7
    assert found["classes"]["red"]["support"] == 3
    assert found["classes"]["green"]["recall"] is None
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("undrawn")
def test_a_bundle_alone_is_evaluated_on_other_photos(script, run, finished, tmp_path):
    done = script(run / "model", "--data", finished.photos / "test", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["photos"] == 12


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere"],
        ["{run}/model"],
        ["{run}/model", "--data", "{photos}/test"],
        ["{run}", "--data", "{photos}/nowhere"],
        ["{run}", "--data", "{photos}"],
        ["{run}", "--target-error", "0"],
        ["{run}", "--target-error", "0.1", "--target-coverage", "0.9"],
        ["{run}", "--target-error", "0.1", "--data", "{photos}/test"],
        ["{run}", "--threshold", "60"],
        ["{run}", "--certainty", "0.8"],
    ],
)
def test_mistakes_exit_with_2(script, run, finished, arguments):
    done = script(*(argument.format(run=run, photos=finished.photos) for argument in arguments))
    assert done.code == 2
    assert done.err
    assert "Traceback" not in done.err


def test_photos_that_have_moved_are_named(script, run, tmp_path):
    split = json.loads((run / "split.json").read_text())
    (run / "split.json").write_text(json.dumps(split | {"root": "moved/away"}))
    done = script(run)
    assert done.code == 2
    assert "moved/away" in done.err
    assert "--data" in done.err


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (["cat/1.jpg", "bus/1.jpg"], ["bus/2.jpg", "cat/x/3.jpg"], ["bus", "cat"]),
        (["train/cat/1.jpg", "train/bus/1.jpg"], ["test/bus/2.jpg"], ["bus"]),
        (["train/train/1.jpg", "train/bus/1.jpg"], ["test/train/2.jpg"], ["train"]),
        (["a/b/cat/1.jpg", "a/b/bus/1.jpg"], ["a/c/cat/2.jpg"], ["cat"]),
    ],
)
def test_labels_are_found_in_the_paths_of_every_layout(train, test, expected):
    classes = sorted({"cat", "bus"} if "cat" in str(train) else {"train", "bus"})
    splits = {"root": "data", "classes": classes, "train": train, "val": [], "test": test}
    split = read.split_of(splits)
    root, photos, labels, _ = evaluate_run.own_photos(split, "test", classes)
    assert (root, photos) == (Path("data"), test)
    assert [classes[label] for label in labels] == expected
