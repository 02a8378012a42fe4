"""Frozen work is done once: the same numbers as without a cache, and no photo is seen twice."""

import csv
import json

import pytest
import torch
from conftest import paint
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from thaw.data import dataset
from thaw.data.augment import Views, augmented
from thaw.data.photos import load_photo
from thaw.training import features
from thaw.training.module import Classifier

PHASES = "a:{train:head,epochs:1,lr:0.01},b:{train:1,epochs:1,lr:1e-4},c:{train:2,epochs:1,lr:1e-4}"
THREE = ["~finetune.phases.head", f"+finetune.phases={{{PHASES}}}"]
ALL = ["~finetune.phases.head", "+finetune.phases={z:{train:all,epochs:1,lr:0.01}}"]


def predictions(run):
    with (run / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(one, other):
    """Prediction by prediction: the label, and the confidence but for its last digits."""
    assert [r["prediction"] for r in one] == [r["prediction"] for r in other]
    for a, b in zip(one, other, strict=True):
        assert float(a["confidence"]) == pytest.approx(float(b["confidence"]), abs=1e-5)


@pytest.fixture
def cold(small, tmp_path):
    """Arguments of a small run with an empty cache."""
    return [
        *small,
        "finetune.phases.head.epochs=1",
        f"cache.dir={tmp_path / 'cache'}",
        "trainer.precision=32-true",
    ]


@pytest.fixture
def decoded(monkeypatch):
    """Paths that were decoded to compute features, in their order."""
    paths = []

    def load(path, white=None):
        paths.append(path)
        return load_photo(path, white)

    load_photo = features.load_photo
    monkeypatch.setattr(features, "load_photo", load)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "augment"),
    [
        ([], "none"),
        pytest.param(THREE, "flip", marks=pytest.mark.slow),
        pytest.param([], "flip", marks=pytest.mark.slow),
        pytest.param(THREE, "none", marks=pytest.mark.slow),
    ],
)
def test_cached_equals_uncached(train, cold, schedule, augment):
    # Blocks that train on features with other last bits drift apart.
    exact = ["trainer.fuse=false"] if schedule else []
    arguments = [*cold, *schedule, f"augment={augment}", *exact]
    without = train(*arguments, "cache.enabled=false")
    first, again = train(*arguments), train(*arguments)
    assert "features of" not in without.out
    assert first.out.count(" 0 reused") == 1  # train and val; test comes with val again
    assert again.out.count(" 0 computed") == (4 if schedule else 2)
    same(predictions(without.run), predictions(first.run))
    assert predictions(first.run) == predictions(again.run)
    metrics = json.loads((first.run / "metrics.json").read_text())
    assert metrics["frozen/unchanged"] is True
    assert 0 < metrics["seconds/features"] < metrics["seconds/fit"] + metrics["seconds/test"]


@pytest.mark.slow
def test_what_makes_it_fast_changes_no_prediction(train, cold):
    parts = ["trainer.fuse=false", "trainer.channels_last=false", "trainer.keep_memory=false"]
    fast, plain = train(*cold), train(*cold, *parts)
    assert plain.out.count(" 0 reused") == 1  # nothing of the other's: last bits differ
    same(predictions(fast.run), predictions(plain.run))


def test_photos_are_what_the_transforms_make_of_them(photos):
    see = ImageClassification(crop_size=20, resize_size=24, mean=(0.5, 0.4, 0.3))
    images = [load_photo(path) for path in sorted(photos.rglob("*.jpg"))]
    batch = torch.stack([dataset.pixels(see, image) for image in images])
    assert torch.equal(dataset.normalised(see, batch), torch.stack([see(i) for i in images]))


@pytest.mark.slow
def test_each_photo_is_decoded_once_in_all_phases(train, cold, decoded):
    result = train(*cold, *THREE)
    assert result.code == 0
    assert len(decoded) == len(set(decoded)) == 30 + 12  # train and val, then test


@pytest.mark.slow
def test_the_frozen_part_does_not_run_in_training(train, cold, monkeypatch):
    def forward(self, images):
        raise AssertionError("the whole net ran")

    monkeypatch.setattr(Classifier, "forward", forward)
    assert train(*cold, *THREE).code == 0


@pytest.mark.slow
def test_another_split_of_the_same_photos_computes_nothing(train, cold, decoded):
    train(*cold)
    decoded.clear()
    result = train(*cold, "seed=7", "data.val_fraction=0.3")
    assert decoded == []
    assert result.out.count(" 0 computed") == 2


@pytest.mark.slow
def test_a_new_photo_is_computed_alone(train, cold, photos, decoded):
    train(*cold)
    decoded.clear()
    paint(photos / "train" / "red" / "new.jpg", (200, 60, 60), 4321)
    result = train(*cold)
    assert " 1 computed" in result.out
    assert [path.name for path in decoded] == ["new.jpg"]


@pytest.mark.slow
def test_other_weights_compute_anew(train, cold, decoded, tmp_path):
    train(*cold)
    seen = len(decoded)
    weights = next(a for a in cold if a.startswith("arch.weights=")).partition("=")[2]
    state = torch.load(weights, weights_only=True)
    state["conv1.0.weight"][0, 0, 0, 0] += 1e-4
    torch.save(state, tmp_path / "other.pth")
    train(*cold, f"arch.weights={tmp_path / 'other.pth'}")
    assert len(decoded) == 2 * seen


@pytest.mark.slow
def test_random_augmentation_turns_it_off_for_train_alone(train, cold):
    result = train(*cold, "augment=trivial")
    assert "train photos aren't cached, since augment=TrivialAugmentWide" in result.out
    assert "features of 6 val photos" in result.out
    assert " train and" not in result.out


@pytest.mark.slow
def test_a_net_that_trains_whole_has_nothing_to_cache(train, cold):
    result = train(*cold, *ALL)
    assert result.code == 0
    assert "features of" not in result.out


@pytest.mark.slow
def test_a_cache_that_is_too_small_is_done_without(train, cold):
    result = train(*cold, "cache.max_gb=1e-6")
    assert result.code == 0
    assert "Nothing is cached" in result.out
    assert "cache.max_gb is 1e-06" in result.out
    same(predictions(result.run), predictions(train(*cold, "cache.enabled=false").run))


@pytest.mark.slow
def test_a_cache_that_can_not_be_written_is_done_without(train, cold, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = train(*cold, f"cache.dir={tmp_path / 'file'}")
    assert result.code == 0
    assert "Nothing is cached" in result.out


@pytest.mark.slow
def test_damage_is_repaired(train, cold, tmp_path):
    first = train(*cold)
    for file in (tmp_path / "cache").glob("*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    again = train(*cold)
    assert "is damaged" in again.out
    assert predictions(again.run) == predictions(first.run)


@pytest.mark.slow
def test_jobs_of_a_sweep_share_it(train, cold, decoded):
    result = train("-m", *cold, "finetune.phases.head.lr=1e-2,1e-3")
    assert result.code == 0
    assert len(decoded) == 30 + 12
    logs = "".join((run / "train.log").read_text() for run in result.runs)
    assert logs.count(" 0 computed") == 2


def test_flips_are_the_two_views_that_training_would_see():
    for augment in (v2.RandomHorizontalFlip(0.5), v2.RandomVerticalFlip(0.3)):
        views = Views(augment)
        image = v2.functional.to_pil_image(torch.rand(3, 5, 7))
        chosen = [views.chosen(1, epoch, index) for epoch in range(3) for index in range(8)]
        assert set(chosen) == {0, 1}
        for place, view in enumerate(chosen):
            seen = augmented(augment, image, 1, place // 8, place % 8)
            assert seen.tobytes() == views.makers[view](image).tobytes()
    assert Views(None).few
    assert Views(v2.Identity()).few
    assert not Views(v2.TrivialAugmentWide()).few
    assert not Views(v2.Compose([v2.RandomHorizontalFlip()])).few


@pytest.mark.slow
def test_cached_equals_uncached_on_real_photos(train, shared, tmp_path):
    photos = f"data.root={shared / 'data' / 'hymenoptera'}"
    arguments = ["data=hymenoptera", photos, f"cache.dir={tmp_path / 'cache'}"]
    short = [
        "finetune=last_block",
        "finetune.phases.head.epochs=1",
        "finetune.phases.last.epochs=1",
    ]
    arguments += [*short, "trainer.precision=32-true"]
    same(
        predictions(train(*arguments).run),
        predictions(train(*arguments, "cache.enabled=false").run),
    )
