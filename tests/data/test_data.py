"""Splits, classes by name, what is said of bad folders, and batches that anybody can repeat."""

import shutil
from collections import Counter
from pathlib import Path
from zlib import crc32

import PIL.Image
import pytest
import torch
from conftest import paint
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from thaw.data.dataset import EpochShuffle
from thaw.data.folder import PhotoFolder
from thaw.data.splits import Sample, cut
from thaw.errors import UserError

TRANSFORMS = ImageClassification(crop_size=16, resize_size=18)
JITTER = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.ColorJitter(0.5, 0.5)])


def grow(root: Path, **counts: int) -> Path:
    """Make folders of different photos: `train__ant=3` writes 3 into train/ant."""
    for key, count in counts.items():
        folder = root / key.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            paint(
                folder / f"{i:03}.jpg",
                (120, 90, 60),
                seed=crc32(f"{key}{i}".encode()),
                size=(20, 16),
            )
    return root


def ready(root: Path, augment: v2.Transform | None = None, **kwargs: object) -> PhotoFolder:
    data = PhotoFolder(str(root), **kwargs).ready()
    data.transforms, data.augment = TRANSFORMS, augment
    return data


def sizes(data: PhotoFolder) -> tuple[int, int, int]:
    return len(data.splits["train"]), len(data.splits["val"]), len(data.splits["test"])


def paths(data: PhotoFolder, split: str) -> set[str]:
    return {sample.path for sample in data.splits[split]}


def per_class(data: PhotoFolder, split: str) -> dict[str, int]:
    return dict(Counter(data.classes[sample.label] for sample in data.splits[split]))


def complaint(root: Path, **kwargs: object) -> str:
    with pytest.raises(UserError) as caught:
        ready(root, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- layouts --------------------------------------------------------------------------------------


def test_three_splits_are_taken_as_they_are(tmp_path: Path):
    counts = {"train__a": 3, "train__b": 2, "val__a": 1, "val__b": 2, "test__a": 2, "test__b": 1}
    data = ready(grow(tmp_path, **counts))
    assert data.classes == ["a", "b"]
    for split in ("train", "val", "test"):
        assert per_class(data, split) == {c: counts[f"{split}__{c}"] for c in data.classes}
        assert all(path.startswith(f"{split}/") for path in paths(data, split))
    assert data.cut == {}


def test_a_missing_val_split_is_cut_from_train(tmp_path: Path):
    data = ready(grow(tmp_path, train__a=20, train__b=20, test__a=4, test__b=4))
    assert sizes(data) == (34, 6, 8)
    assert all(path.startswith("train/") for path in paths(data, "val"))
    assert all(path.startswith("test/") for path in paths(data, "test"))
    assert set(data.cut) == {"val"}


def test_a_missing_test_split_is_cut_from_train(tmp_path: Path):
    data = ready(grow(tmp_path, train__a=20, train__b=20, val__a=4, val__b=4))
    assert sizes(data) == (34, 8, 6)
    assert all(path.startswith("train/") for path in paths(data, "test"))
    assert set(data.cut) == {"test"}


def test_splits_may_have_other_names(tmp_path: Path):
    grow(tmp_path, learn__a=3, learn__b=3, check__a=2, check__b=2, exam__a=1, exam__b=1)
    data = ready(tmp_path, train="learn", val="check", test="exam")
    assert sizes(data) == (6, 4, 2)
    assert data.cut == {}


def test_a_folder_called_val_may_be_the_test_split(tmp_path: Path):
    """As data=hymenoptera has it."""
    data = ready(grow(tmp_path, train__a=20, train__b=20, val__a=4, val__b=4), val=None, test="val")
    assert sizes(data) == (34, 6, 8)
    assert all(path.startswith("val/") for path in paths(data, "test"))


@pytest.mark.parametrize("count", [20, 40, 100])
def test_class_folders_alone_are_cut_70_15_15(tmp_path: Path, count: int):
    data = ready(grow(tmp_path, a=count, b=count))
    share = round(0.15 * count)
    for split, expected in (("train", count - 2 * share), ("val", share), ("test", share)):
        assert per_class(data, split) == {"a": expected, "b": expected}, split
    assert set(data.cut) == {"val", "test"}


def test_the_fractions_are_the_users(tmp_path: Path):
    data = ready(grow(tmp_path, a=20, b=20), val_fraction=0.25, test_fraction=0.5)
    assert sizes(data) == (10, 10, 20)


def test_a_source_is_called_with_the_root_before_anything_is_read(tmp_path: Path):
    def draw(root: Path) -> None:
        grow(root, train__a=8, train__b=8, test__a=2, test__b=2)

    assert sizes(ready(tmp_path / "drawn", source=draw)) == (14, 2, 4)


# --- the cut --------------------------------------------------------------------------------------


def test_a_cut_loses_and_repeats_no_photo(tmp_path: Path):
    data = ready(grow(tmp_path, a=11, b=23))
    found = [s.path for split in data.splits.values() for s in split]
    everything = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jpg")]
    assert sorted(found) == sorted(everything)


def test_a_cut_is_stratified(tmp_path: Path):
    data = ready(grow(tmp_path, train__a=60, train__b=20, train__c=2, test__a=1))
    assert per_class(data, "val") == {"a": 9, "b": 3, "c": 1}


def test_a_cut_is_a_function_of_the_seed(tmp_path: Path):
    grow(tmp_path, a=20, b=20)
    first, again = ready(tmp_path, seed=1), ready(tmp_path, seed=1)
    assert first.splits == again.splits
    others = [ready(tmp_path, seed=seed) for seed in (2, 3)]
    assert all(paths(other, "test") != paths(first, "test") for other in others)
    assert all(paths(other, "val") != paths(first, "val") for other in others)


def test_a_cut_is_the_same_wherever_the_folder_lies(tmp_path: Path):
    here = grow(tmp_path / "here", a=20, b=20)
    there = shutil.copytree(here, tmp_path / "elsewhere" / "there")
    assert ready(here).splits == ready(there).splits


@pytest.mark.parametrize("seed", range(5))
def test_exact_duplicates_stay_on_one_side(tmp_path: Path, seed: int):
    grow(tmp_path, a=12, b=12)
    for name in "ab":
        for i in (0, 1, 2):
            original = tmp_path / name / f"00{i}.jpg"
            shutil.copy(original, tmp_path / name / f"copy_of_{i}.jpg")
            shutil.copy(original, tmp_path / name / f"{i}_again.jpg")
    data = ready(tmp_path, seed=seed)
    contents = {
        split: {(tmp_path / path).read_bytes() for path in paths(data, split)}
        for split in ("train", "val", "test")
    }
    assert contents["val"]
    assert contents["test"]
    assert not contents["train"] & contents["val"]
    assert not contents["train"] & contents["test"]
    assert not contents["val"] & contents["test"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_class_keeps_a_photo_and_gives_one_where_it_has_two(tmp_path: Path, count: int):
    data = ready(grow(tmp_path, train__rare=count, train__common=30, test__rare=1))
    assert per_class(data, "train")["rare"] >= 1
    assert per_class(data, "val").get("rare", 0) == (1 if count > 1 else 0)


def test_a_class_keeps_a_photo_even_if_another_has_its_duplicates(tmp_path: Path):
    grow(tmp_path, a=6, b=0)
    for i in range(2):  # all of b is in a as well, a mistake of whoever labelled
        shutil.copy(tmp_path / f"a/00{i}.jpg", tmp_path / f"b/00{i}.jpg")
    samples = [Sample(f"a/00{i}.jpg", 0) for i in range(6)]
    samples += [Sample(f"b/00{i}.jpg", 1) for i in range(2)]
    for seed in range(60):
        kept, _ = cut(samples, [0, 1, 2, 3, 4, 5, 0, 1], 0.7, seed)
        assert {sample.label for sample in kept} == {0, 1}, f"seed {seed}"


# --- classes --------------------------------------------------------------------------------------


def test_a_class_that_train_does_not_have_is_named(tmp_path: Path):
    grow(tmp_path, train__ant=3, train__bee=3, test__ant=1, test__bee=1, test__wasp=1)
    sentence = complaint(tmp_path)
    assert "wasp" in sentence
    assert str(tmp_path / "test") in sentence


def test_classes_are_matched_by_name_where_a_split_lacks_one(tmp_path: Path):
    grow(tmp_path, train__ant=4, train__bee=4, train__wasp=4, test__wasp=2, test__bee=1)
    data = ready(tmp_path)
    assert data.classes == ["ant", "bee", "wasp"]
    assert per_class(data, "test") == {"bee": 1, "wasp": 2}
    labels = torch.cat([batch["label"] for batch in data.test_dataloader()])
    assert sorted(labels.tolist()) == [1, 2, 2]


def test_a_class_without_photos_is_named(tmp_path: Path):
    assert "'bee'" in complaint(grow(tmp_path, train__ant=3, train__bee=0, test__ant=1))


def test_a_single_class_is_refused(tmp_path: Path):
    sentence = complaint(grow(tmp_path, train__ant=5, test__ant=2))
    assert "2 classes" in sentence
    assert "ant" in sentence


def test_hidden_folders_and_files_are_ignored(tmp_path: Path):
    grow(tmp_path, train__ant=8, train__bee=8, test__ant=1, test__bee=1)
    before = ready(tmp_path)
    for folder in (".cache", ".git/objects", "train/.ipynb_checkpoints", "test/.thumbnails"):
        paint(tmp_path / folder / "0.jpg", (0, 0, 0), seed=1)
    shutil.copy(tmp_path / "train/ant/000.jpg", tmp_path / "train/ant/.hidden.jpg")
    (tmp_path / "train/bee/._000.jpg").write_bytes(b"macOS leaves these on USB sticks")
    after = ready(tmp_path)
    assert (after.classes, after.splits) == (before.classes, before.splits)


def test_hidden_folders_in_a_class_are_ignored(tmp_path: Path):
    """Jupyter and photo viewers leave copies there."""
    grow(tmp_path, train__ant=8, train__bee=8, test__ant=1, test__bee=1)
    paint(tmp_path / "train/ant/.ipynb_checkpoints/000-checkpoint.jpg", (0, 0, 0), seed=1)
    assert len(list((tmp_path / "train/ant").rglob("*.jpg"))) == 9
    assert sizes(ready(tmp_path)) == (14, 2, 2)


def test_hidden_folders_beside_class_folders_are_no_classes(tmp_path: Path):
    grow(tmp_path, a=10, b=10)
    paint(tmp_path / ".cache" / "0.jpg", (0, 0, 0), seed=1)
    assert ready(tmp_path).classes == ["a", "b"]


def test_files_that_are_no_photos_are_skipped(tmp_path: Path):
    grow(tmp_path, train__ant=8, train__bee=8, test__ant=1, test__bee=1)
    (tmp_path / "train/ant/imageNotFound.svg").write_text("<svg/>")
    (tmp_path / "train/bee/notes.txt").write_text("bees")
    (tmp_path / "train/labels.csv").write_text("a,b")
    assert sizes(ready(tmp_path)) == (14, 2, 2)


# --- what is wrong with a folder ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["absent", "a file", "empty"])
def test_a_root_that_holds_nothing_is_named(tmp_path: Path, kind: str):
    root = tmp_path / "photos"
    if kind == "a file":
        root.touch()
    elif kind == "empty":
        root.mkdir()
    assert str(root) in complaint(root)


@pytest.mark.parametrize(
    "names", [{"train": "trian"}, {"train": "trian", "val": "check"}], ids=["one", "two"]
)
def test_a_wrong_name_of_the_train_split_is_answered_with_what_is_there(tmp_path, names):
    grow(tmp_path, train__a=3, train__b=3, test__a=1, test__b=1)
    sentence = complaint(tmp_path, **names)
    assert "'trian'" in sentence
    assert "['test', 'train']" in sentence
    assert "data.train" in sentence


def test_splits_are_not_taken_for_classes(tmp_path: Path):
    """The splits have other names than the settings say: these are no two classes."""
    grow(tmp_path, learn__a=5, learn__b=5, exam__a=5, exam__b=5)
    sentence = complaint(tmp_path)
    assert "learn" in sentence
    assert "data.train" in sentence


def test_all_problems_are_in_one_sentence(tmp_path: Path):
    grow(tmp_path, train__ant=3, train__empty=0, val__ant=1, val__hornet=1, test__wasp=1)
    sentence = complaint(tmp_path)
    for name in ("'empty'", "'hornet'", "'wasp'", str(tmp_path / "val"), str(tmp_path / "test")):
        assert name in sentence


def test_broken_photos_are_in_the_same_sentence_as_other_problems(tmp_path: Path):
    grow(tmp_path, train__ant=3, train__bee=3, test__wasp=1)
    (tmp_path / "train/ant/broken.jpg").touch()
    sentence = complaint(tmp_path)
    assert "broken.jpg" in sentence
    assert "wasp" in sentence


@pytest.mark.parametrize("split", ["train", "val"])
def test_broken_photos_are_named_before_the_training(tmp_path: Path, split: str):
    grow(tmp_path, train__a=3, train__b=3, val__a=2, val__b=2, test__a=1, test__b=1)
    whole = tmp_path / split / "a" / "000.jpg"
    (tmp_path / split / "b" / "cut.jpg").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / split / "b" / "text.jpg").write_text("no photo")
    sentence = complaint(tmp_path)
    assert "cut.jpg" in sentence
    assert "text.jpg" in sentence
    assert str(whole) not in sentence


@pytest.mark.parametrize("layout", ["splits", "class folders"])
def test_test_photos_are_not_looked_at_before_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
):
    """That they decode is seen at the start; from then on they stay closed."""
    if layout == "splits":
        grow(tmp_path, train__a=8, train__b=8, test__a=2, test__b=2)
    else:
        grow(tmp_path, a=12, b=12)
    opened: list[str] = []
    original = PIL.Image.open

    def spy(path, *args, **kwargs):
        opened.append(Path(path).relative_to(tmp_path).as_posix())
        return original(path, *args, **kwargs)

    monkeypatch.setattr(PIL.Image, "open", spy)
    data = ready(tmp_path)
    assert set(opened) == paths(data, "train") | paths(data, "val") | paths(data, "test")
    opened.clear()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert list(loader)
    assert set(opened) == paths(data, "train") | paths(data, "val")

    opened.clear()
    assert list(data.test_dataloader())
    assert set(opened) == paths(data, "test")


def test_a_broken_test_photo_is_named_before_the_training(tmp_path: Path):
    grow(tmp_path, train__a=4, train__b=4, test__a=1, test__b=1)
    (tmp_path / "test/a/broken.jpg").write_text("no photo")
    assert "broken.jpg" in complaint(tmp_path)


def test_wrong_settings_are_named_at_once():
    with pytest.raises(UserError) as caught:
        PhotoFolder("x", batch_size=0, workers=-1, val_fraction=1.5, test_fraction=0)
    for key in ("batch_size", "workers", "val_fraction", "test_fraction"):
        assert f"data.{key}" in str(caught.value)


# --- the order ------------------------------------------------------------------------------------


def epoch_of(size: int, epoch: int, seed: int = 0, rank: int = 0, ranks: int = 1) -> list:
    sampler = EpochShuffle(size, seed, rank, ranks)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler)
    return order


def test_the_order_is_a_function_of_seed_and_epoch():
    assert epoch_of(50, epoch=3) == epoch_of(50, epoch=3)
    orders = [
        [index for _, index in epoch_of(50, epoch, seed)] for epoch in range(3) for seed in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 6
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_every_index_carries_its_epoch():
    assert {epoch for epoch, _ in epoch_of(10, epoch=7)} == {7}


@pytest.mark.parametrize(("size", "ranks"), [(12, 3), (13, 3), (14, 4), (2, 4)])
def test_ranks_share_an_epoch_equally(size: int, ranks: int):
    parts = [epoch_of(size, epoch=2, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    seen = Counter(index for part in parts for _, index in part)
    assert set(seen) == set(range(size))
    repeated = ranks * len(parts[0]) - size
    assert repeated < ranks
    assert sum(seen.values()) == size + repeated


def test_one_rank_takes_turns_with_the_others():
    whole = epoch_of(12, epoch=1)
    parts = [epoch_of(12, epoch=1, rank=rank, ranks=3) for rank in range(3)]
    assert [item for turn in zip(*parts, strict=True) for item in turn] == whole


# --- batches --------------------------------------------------------------------------------------


def batches(data: PhotoFolder, epoch: int) -> list[dict[str, Tensor]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_same(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return grow(tmp_path, train__a=6, train__b=6, val__a=3, val__b=2, test__a=2, test__b=3)


def test_a_batch_holds_images_and_labels(split: Path):
    data = ready(split, batch_size=4)
    for batch in batches(data, epoch=0):
        assert batch["image"].shape == (4, 3, 16, 16)
        assert batch["image"].dtype == torch.float32
        for image, label, index in zip(*batch.values(), strict=True):
            sample = data.splits["train"][int(index)]
            assert label == sample.label
            with PIL.Image.open(split / sample.path) as photo:
                assert torch.equal(image, TRANSFORMS(photo))


def test_workers_do_not_change_a_batch(split: Path):
    alone, helped = (ready(split, JITTER, batch_size=4, workers=workers) for workers in (0, 2))
    assert_same(batches(alone, epoch=1), batches(helped, epoch=1))


def test_a_new_loader_goes_on_as_the_old_one_would_have(split: Path):
    data = ready(split, JITTER, batch_size=4)
    loader = data.train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        last = list(loader)
    torch.manual_seed(99)  # whatever else drew random numbers meanwhile
    assert_same(last, batches(ready(split, JITTER, batch_size=4), epoch=2))


def test_augmentation_differs_from_epoch_to_epoch_and_from_seed_to_seed(split: Path):
    def of_first_photo(seed: int, epoch: int) -> Tensor:
        found = batches(ready(split, JITTER, seed=seed), epoch)[0]
        return found["image"][found["index"] == 0]

    views = [of_first_photo(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_threads_augment_a_batch_as_one_does(split: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = ready(split, v2.RandomResizedCrop(16)).train_dataloader().dataset
    keys = [(epoch, index) for epoch in range(8) for index in range(len(dataset))]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for key, item in zip(keys, dataset.__getitems__(keys), strict=True):
        assert torch.equal(item["image"], dataset[key]["image"])


def test_augmentation_leaves_the_global_random_state_alone(split: Path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    data = ready(split, JITTER)
    loader = data.train_dataloader()
    torch.manual_seed(5)
    dataset = loader.dataset
    assert dataset[0, 1]["image"].shape == (3, 16, 16)
    assert torch.equal(torch.rand(3), expected)


def test_val_and_test_are_never_augmented(split: Path):
    def fail(image: object) -> None:
        raise AssertionError("augmented")

    data = ready(split, fail)
    assert len(list(data.val_dataloader())) == 1
    assert len(list(data.test_dataloader())) == 1
    with pytest.raises(AssertionError, match="augmented"):
        list(data.train_dataloader())


def test_val_and_test_come_whole_and_in_order(split: Path):
    data = ready(split, batch_size=2)
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        found = list(loader)
        assert [len(batch["label"]) for batch in found] == [2, 2, 1]
        labels = torch.cat([batch["label"] for batch in found]).tolist()
        assert labels == [sample.label for sample in data.splits[name]]


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(11, [11]), (5, [5, 5, 2]), (12, [12]), (32, [12]), (1, [1] * 12)]
)
def test_no_train_batch_holds_one_photo_by_accident(
    split: Path, batch_size: int, expected: list[int]
):
    """BatchNorm can't train on it: 12 photos by 11 leave one, which another epoch shows."""
    data = ready(split, batch_size=batch_size)
    assert [len(batch["label"]) for batch in batches(data, epoch=0)] == expected
    seen = {int(i) for epoch in range(5) for b in batches(data, epoch) for i in b["index"]}
    assert seen == set(range(12))


# --- what a run writes down -----------------------------------------------------------------------


def test_the_digest_is_of_what_the_model_learned_from(split: Path):
    before = ready(split).digest()
    assert ready(split).digest() == before
    paint(split / "test/a/000.jpg", (9, 9, 9), seed=9)
    assert ready(split).digest() == before
    paint(split / "val/a/000.jpg", (9, 9, 9), seed=9)
    changed = ready(split).digest()
    assert changed != before
    (split / "train/a/000.jpg").rename(split / "train/b/zzz.jpg")
    assert ready(split).digest() not in (before, changed)


def test_the_splits_can_be_written_down_and_found_again(tmp_path: Path):
    data = ready(grow(tmp_path, a=10, b=10), seed=3)
    described = data.describe_splits()
    assert described["classes"] == ["a", "b"]
    assert set(described["cut"]) == {"val", "test"}
    for split in ("train", "val", "test"):
        assert described[split] == [
            {"path": sample.path, "label": data.classes[sample.label], "group": None}
            for sample in data.splits[split]
        ]
        assert all((Path(described["root"]) / p["path"]).is_file() for p in described[split])
    assert described["dropped"] == described["relabelled"] == []
