"""Classes with few photos count as much as others, and probabilities stay those of the real mix."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import make_photos, small_run

import thaw
from thaw.data.dataset import AGAIN, BalancedShuffle
from thaw.data.photos import load_photo
from thaw.evaluation import scores
from thaw.evaluation.answers import Answers
from thaw.evaluation.calibrate import fit
from thaw.evaluation.confusion import by_class
from thaw.export.graph import PhotosToProbabilities
from thaw.model.prediction import decide

LABELS = [0] * 20 + [1] * 7 + [2] * 2


def test_each_class_is_drawn_alike_in_an_order_of_seed_and_epoch():
    shuffle = BalancedShuffle(LABELS, seed=3)
    shuffle.set_epoch(5)
    drawn = list(shuffle)
    assert len(drawn) == len(LABELS)
    counts = Counter(LABELS[index] for _, index in drawn)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert drawn == list(shuffle)
    assert len(set(drawn)) == len(drawn), "a photo that comes again is another view"
    assert {epoch % AGAIN for epoch, _ in drawn} == {5}
    rare = Counter(index for _, index in drawn if LABELS[index] == 2)
    assert max(rare.values()) - min(rare.values()) <= 1
    shuffle.set_epoch(6)
    assert [i for _, i in drawn] != [i for _, i in shuffle]
    other = BalancedShuffle(LABELS, seed=4)
    other.set_epoch(5)
    assert drawn != list(other)


def test_ranks_share_the_epoch():
    parts = [list(BalancedShuffle(LABELS, 3, rank, 2)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [15, 15]
    assert set(parts[0]) | set(parts[1]) == set(BalancedShuffle(LABELS, 3))


def test_probabilities_are_those_of_the_real_mix():
    """Two normal classes, 9 to 1, whose balanced posterior is known."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(40_000, generator=generator) < 0.1).long()
    x = torch.randn(40_000, generator=generator) + 2.0 * labels - 1.0
    logits = torch.stack([-x, x], dim=1)  # log of N(x; 1, 1) / N(x; -1, 1) is 2x
    prior = [0.9, 0.1]
    answers = Answers(logits, labels, ["a", "b"], [""] * len(labels), None, 1.0, prior)
    ece = scores.scores(answers.calibrated, labels, answers.predicted)["ece"]
    assert ece < 0.01
    assert float(answers.probabilities[:, 1].mean()) == pytest.approx(0.1, abs=0.005)
    assert float(logits.softmax(dim=1)[:, 1].mean()) > 0.2, "as if both came equally often"
    assert answers.predicted.equal((x > 0).long())
    assert fit(2 * logits, labels, torch.tensor(prior).log()) == pytest.approx(2.0, abs=0.1)
    row = answers.probabilities[0].tolist()
    said = decide("a.jpg", ["a", "b"], row, None, prior)
    assert said.label == "ab"[int(answers.predicted[0])]
    assert said.confidence == pytest.approx(float(answers.confidence[0]))


def test_numbers_by_class_have_intervals():
    found = by_class([[90, 10, 0], [2, 8, 0], [0, 0, 0]], ["a", "b", "never seen"])
    assert found["balanced_acc"] == pytest.approx(0.85)
    assert found["balanced_acc_low"] < 0.85 < found["balanced_acc_high"]
    assert (found["worst_class"], found["worst_recall"]) == ("b", 0.8)
    assert found["worst_recall_low"] < 0.5 < 0.9 < found["worst_recall_high"] < 0.98
    assert found["f1_low"] < found["f1"] < found["f1_high"]
    assert by_class([[3]], ["only"])["balanced_acc"] == 1.0


@pytest.fixture
def uneven(tmp_path, weights):
    """Arguments of a short run on photos of which red has few."""
    photos = make_photos(tmp_path / "photos", train=12, test=3)
    for i in range(2, 12):
        (photos / "train" / "red" / f"{i}.jpg").unlink()
    return [*small_run(photos, weights("shufflenet_v2_x0_5")), "finetune.phases.head.epochs=2"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sampler", "loss"])
def test_a_balanced_run_says_the_same_everywhere(train, call_script, uneven, tmp_path, how):
    done = train(*uneven, f"data.balance={how}", "data.val_fraction=0.2", "augment=flip")
    assert done.code == 0, done.err
    assert f"(data.balance={how})" in done.out
    assert "without the correction for how often" in " ".join(done.out.split())
    metrics = json.loads((done.run / "metrics.json").read_text())
    for name in ("balanced_acc", "f1", "worst_recall"):
        assert metrics[f"test/{name}_low"] <= metrics[f"test/{name}"]
        assert metrics[f"test/{name}"] <= metrics[f"test/{name}_high"]
    model = thaw.load(done.run)
    assert model.prior == pytest.approx([9 / 19, 9 / 19, 1 / 19], abs=0.05)
    rows = (done.run / "predictions.csv").read_text().splitlines()
    header, rows = rows[0].split(","), [row.split(",") for row in rows[1:]]
    photos = [str(tmp_path / "photos" / row[0]) for row in rows]
    for row, said in zip(rows, model.predict(photos), strict=True):
        assert row[header.index("prediction")] == said.top
        assert float(row[header.index("confidence")]) == pytest.approx(said.confidence, abs=1e-5)
    again = call_script("evaluate", done.run)
    assert again.code == 0, again.err
    assert f"accuracy {metrics['test/balanced_acc']:.1%}" in again.out
    assert "real mix" in again.out
    image = load_photo(photos[0])
    graph = PhotosToProbabilities(model).eval()
    with torch.inference_mode():
        exported, _ = graph(torch.from_numpy(np.array(image))[None])
    torch.testing.assert_close(exported, model.probabilities([image]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_uneven_classes_are_told_of(train, uneven):
    done = train(*uneven, "logger=none", "finetune.phases.head.epochs=1")
    assert done.code == 0, done.err
    assert "to 1: accuracy says little of the rare ones" in " ".join(done.out.split())
    assert "data.balance=sampler" in done.out
