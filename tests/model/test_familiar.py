"""What is familiar: the store, its promise, its bound, its file."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import refusal
from safetensors.torch import load_file, save_file
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from thaw.model.familiar import store
from thaw.model.familiar.choose import choose, doubt
from thaw.model.familiar.level import level_of, why_refused
from thaw.model.prediction import as_row, decide, is_unfamiliar
from thaw.nets.backbone import Backbone


def features(photos: int, seed: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos of a few clusters, `[N, 32]`, and their classes."""
    chance = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 32, generator=torch.Generator().manual_seed(99)).abs()
    labels = torch.arange(photos) % classes
    return centres[labels] + 0.3 * torch.rand(photos, 32, generator=chance), labels


@pytest.fixture(scope="module")
def familiar() -> store.Familiar:
    train, labels = features(300, 0)
    return store.fit(train, labels, features(99, 1)[0], [f"a/{i}.jpg" for i in range(300)], "here")


def test_the_promise_holds_on_average_and_far_photos_are_noticed(familiar):
    train, labels = features(300, 0)
    shares = []
    for seed in range(20):
        model = store.fit(train, labels, features(99, 100 + seed)[0])
        p = model.familiarity(features(300, 500 + seed)[0])
        shares.append(sum(is_unfamiliar(v, 0.05) for v in p.tolist()) / 300)
    assert 0.02 < sum(shares) / 20 < 0.065
    far = torch.rand(100, 32, generator=torch.Generator().manual_seed(5))
    assert (familiar.familiarity(far) <= 0.0501).float().mean() > 0.9


def test_train_photos_count_like_new_ones_where_nothing_learned_from_them():
    shares, places = [], []
    for seed in range(20):
        train, labels = features(80, seed)
        copies = torch.cat([train, train[:10]])  # what belongs together says nothing of how far
        keys = [*range(80), *range(10)]
        model = store.fit(
            copies, torch.cat([labels, labels[:10]]), features(5, 200 + seed)[0], alike=keys
        )
        assert len(model.scores) == 95
        assert model.facts()["refused"] is None
        p = model.familiarity(features(300, 500 + seed)[0])
        shares.append(sum(is_unfamiliar(v, 0.05) for v in p.tolist()) / 300)
        places.append(float(model.scores[0]))
    assert 0.02 < sum(shares) / 20 < 0.065
    assert min(places) > 0.001, "a photo or its copy is its own neighbour"
    many = store.fit(train, labels, train[:30], most_bytes=32 * 40, alike=range(80))
    assert not many.alike, "where not all are kept, val's alone count"


def test_p_values_are_those_of_their_definition(familiar):
    rows = features(20, 7)[0]
    for value, p in zip(familiar.distance(rows), familiar.familiarity(rows), strict=True):
        assert float(p) == pytest.approx((1 + int((familiar.scores >= value).sum())) / 100)
    # A photo of val ties with itself, whatever the last bits.
    val = features(99, 1)[0]
    farthest = familiar.distance(val).argmax()
    assert float(familiar.familiarity(val + 1e-7)[farthest]) == pytest.approx(2 / 100)


@pytest.mark.parametrize(("photos", "level", "ok"), [(19, 0.05, True), (18, 0.05, False)])
def test_too_few_val_photos_promise_nothing(photos, level, ok):
    assert (why_refused(photos, level) is None) == ok
    assert "takes 19" in (why_refused(18, 0.05) or "")
    assert why_refused(0, 0) is None


def test_a_level_of_ones_own():
    told = {"val/images": 50, "level": 0.05, "refused": None}
    model = SimpleNamespace(info={"unfamiliar": told}, level=0.05)
    assert level_of(model, None) == 0.05
    assert level_of(model, 0.0) == 0.0
    assert level_of(model, 0.02) == 0.02
    assert "50 photos can't promise that at most 1%" in refusal(level_of, model, 0.01)
    assert "earlier Thaw" in refusal(level_of, SimpleNamespace(info={}, level=None), 0.01)


def test_what_is_kept_is_bounded_and_fair():
    train, labels = features(3000, 0)
    labels[:2400] = 0
    labels[2400:2990] = 1
    labels[2990:] = 2
    small = store.fit(train, labels, train[:50], most_bytes=32 * 100)
    assert small.rows.nbytes <= 32 * 100
    assert small.labels.bincount().tolist() == [45, 45, 10]
    assert small.seen == 3000


def test_features_that_train_never_moves():
    train = torch.ones(10, 4)
    model = store.fit(train, torch.arange(10) % 2, torch.ones(30, 4))
    assert model.familiarity(train).isfinite().all()
    train[:, 0] = torch.arange(10)
    model = store.fit(train, torch.arange(10) % 2, train.repeat(3, 1))
    moved = train.clone()
    moved[:, 3] += 5
    assert (model.familiarity(moved) < 0.05).all()


def test_unfamiliar_goes_before_unsure():
    probabilities = [0.6, 0.4]
    classes = ["ants", "bees"]
    assert decide("a", classes, probabilities, 0.9, None, 0.01, 0.05).label == "unfamiliar"
    assert decide("a", classes, probabilities, 0.9, None, 0.05, 0.05).label == "unfamiliar"
    assert decide("a", classes, probabilities, 0.9, None, 0.06, 0.05).label == "unsure"
    assert decide("a", classes, probabilities, None, None, 0.01, 0.0).label == "ants"
    named = decide("a", ["ants", "unfamiliar"], probabilities, None, None, 0.01, 0.05)
    assert (named.label, named.top) == ("(unfamiliar)", "ants")
    assert list(as_row(named)) == [
        *("path", "label", "confidence", "familiarity"),
        *("p:ants", "p:unfamiliar"),
    ]
    assert "isn't a number" in refusal(
        decide, "a", classes, probabilities, 0.9, None, math.nan, 0.05
    )


def test_a_file_comes_back(familiar, tmp_path):
    scores = torch.cat([familiar.scores, torch.full((300,), 2.0)])
    replace(familiar, scores=scores, alike=[*range(300)]).save(tmp_path)
    again = store.load(tmp_path / store.FILE, 32, 3)
    assert again.alike == [*range(300)]
    familiar.save(tmp_path)
    again = store.load(tmp_path / store.FILE, 32, 3)
    rows = features(20, 7)[0]
    assert again.familiarity(rows).equal(familiar.familiarity(rows))
    nearest = again.nearest(features(300, 0)[0][:2], 2, ["x", "y", "z"])
    assert [near[0].path for near in nearest] == ["a/0.jpg", "a/1.jpg"]
    assert nearest[1][0].label == "y"


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"rows": torch.zeros(300, 31, dtype=torch.int8)}, {}),
        ({"rows": torch.zeros(300, 32)}, {}),
        ({"labels": torch.full((300,), 3)}, {}),
        ({"labels": torch.zeros(299, dtype=torch.int64)}, {}),
        ({"scale": torch.zeros(32)}, {}),
        ({"scale": torch.full((32,), math.inf)}, {}),
        ({"scores": torch.tensor([2.0, 1.0])}, {}),
        ({"scores": torch.tensor([math.nan])}, {}),
        ({}, {"photos": "[]"}),
        ({}, {"photos": "{"}),
        ({}, {"photos": json.dumps([7] * 300)}),
        ({}, {"seen": "many"}),
        ({}, {"contents": '["ab"]'}),
        ({}, {"alike": "[0]"}),
        ({}, {"alike": json.dumps([300] * 300)}),
        ({}, {"contents": json.dumps([7] * 300)}),
    ],
)
def test_a_damaged_file_is_refused(familiar, tmp_path, change, facts):
    familiar.save(tmp_path)
    path = tmp_path / store.FILE
    before = {"photos": json.dumps(familiar.photos), "root": "here", "seen": "300"}
    save_file(load_file(path) | change, path, before | facts)
    assert "familiar.safetensors is damaged (" in refusal(store.load, path, 32, 3)
    path.write_bytes(b"nothing")
    assert "is damaged (" in refusal(store.load, path, 32, 3)


def test_choosing_takes_what_stands_for_doubtful_photos():
    many = torch.eye(4)[[0, 0, 1, 1, 1, 2, 2, 3]] + 0.01
    doubts = torch.tensor([1.0, 1.0, 0.5, 0.6, 0.5, 1.0, 1.0, 1.0])
    known = torch.eye(4)[:1] + 0.01
    assert choose(many, doubts, 3, known)[0] == 5  # two that it doubts; those like 0 are known
    assert {*choose(many, doubts, 3, known)} & {2, 3, 4}
    assert 7 in choose(many, doubts, 3, known)  # one alone comes last
    assert sorted(choose(many, doubts, 99, known)) == [*range(8)]
    sure = torch.tensor([[0.9, 0.1], [0.5, 0.5], [1.0, 0.0]])
    unfamiliar = torch.tensor([False, False, True])
    assert doubt(sure, unfamiliar).tolist() == pytest.approx([0.2, 1.0, 1.0])


def test_what_a_head_reads_is_a_row_a_photo():
    see = ImageClassification(crop_size=64)
    for name, size in (("squeezenet1_1", 512), ("shufflenet_v2_x0_5", 1024)):
        net = models.get_model(name, weights=None, num_classes=3)
        backbone = Backbone(net, see, {"name": name}).eval()
        with backbone.reading() as read, torch.inference_mode():
            backbone(torch.rand(2, 3, 64, 64))
        assert [rows.shape for rows in read] == [(2, size)], "of maps, the mean over places"
        backbone(torch.rand(1, 3, 64, 64))
        assert len(read) == 1
