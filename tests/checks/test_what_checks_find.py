"""Each check on photos in which something was planted, and on photos in which nothing was."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms._presets import ImageClassification

from thaw.checks import classes, duplicates, files, groups, labels, shortcuts
from thaw.checks.facts import Looks, look, read_file, read_files
from thaw.checks.findings import Context
from thaw.data.cache import FeatureCache
from thaw.data.find import LeftOut
from thaw.data.folder import PhotoFolder
from thaw.data.pixels.align import edges_alike, lay_over
from thaw.data.scenes import CLASSES, photo
from thaw.data.splits import Sample

SEE = ImageClassification(crop_size=224, resize_size=256)


def context(root: Path, photos: dict[str, str], features: np.ndarray | None = None) -> Context:
    """Of photos below a root: path → split; the class is the photo's folder."""
    names = sorted({Path(path).parent.name for path in photos})
    samples = [Sample(path, names.index(Path(path).parent.name)) for path in photos]
    splits = {
        s: [x for x, y in zip(samples, photos.values(), strict=True) if y == s] for s in SPLITS
    }
    data = SimpleNamespace(root=root, classes=names, splits=splits, white=None)
    looks = torch.stack([look(Image.open(root / path).convert("RGB")) for path in photos])
    if features is None:
        features = np.random.default_rng(0).normal(size=(len(photos), 16))
    return Context(
        data=data,  # type: ignore[arg-type]
        see=SEE,
        splits=list(photos.values()),
        samples=samples,
        digests=[(root / path).read_bytes().hex()[:4000] for path in photos],
        files=read_files([root / path for path in photos]),
        looks=looks,
        features=torch.as_tensor(features, dtype=torch.float32),
    )


SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 drawn photos of 2 classes, in train."""
    root = tmp_path_factory.mktemp("scenes")
    for i in range(20):
        name = CLASSES[i % 2]
        (root / "train" / name).mkdir(parents=True, exist_ok=True)
        photo(name, 160, np.random.default_rng(i)).save(root / f"train/{name}/{i}.jpg", quality=92)
    return root


def paths(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*.jpg"))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized": lambda image: image.resize((90, 90)),
    "recompressed": lambda image: image,
    "mirrored": ImageOps.mirror,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "cropped": lambda image: image.crop((8, 0, 152, 150)),
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "grey": ImageOps.grayscale,
    "framed": lambda image: ImageOps.expand(image, 12),
    "between bars": lambda image: ImageOps.expand(image, (0, 30), "white"),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_nothing_else(scenes, tmp_path, kind):
    first = paths(scenes)
    made = []
    for path in first[:5]:
        copy = tmp_path / "test" / Path(path).parent.name / Path(path).name
        copy.parent.mkdir(parents=True, exist_ok=True)
        quality = 30 if kind == "recompressed" else 90
        COPIES[kind](Image.open(scenes / path)).save(copy, quality=quality)
        made.append(copy.relative_to(tmp_path).as_posix())
    for path in first:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((scenes / path).read_bytes())
    photos = dict.fromkeys(first, "train") | dict.fromkeys(made, "test")
    # Features of a net: a copy's are near the photo's.
    features = np.random.default_rng(1).normal(size=(len(photos), 64))
    features[len(first) :] = features[:5] + 0.3 * features[len(first) :]
    found = context(tmp_path, photos, features)
    found.pairs = duplicates.pairs(found)
    (result,) = duplicates.find(found)
    assert result.issue == "leak"
    assert {(f.path, f.other) for f in result.findings} == set(zip(first[:5], made, strict=True))
    assert "a copy, in train and test" in result.findings[0].detail


def test_the_same_file_is_a_leak_a_label_or_a_duplicate(scenes, tmp_path):
    one, other = (paths(scenes)[i] for i in (0, 10))
    assert Path(one).parent != Path(other).parent
    photos = {}
    for path, source, split in (
        (one, one, "train"),
        (other, other, "train"),
        (other.replace("/train/", "/").replace(".jpg", "-again.jpg"), other, "train"),
        (one.replace("train", "val").replace(".jpg", "-val.jpg"), one, "val"),
        (f"{Path(other).parent}/wrong.jpg", one, "train"),
        ("test/x/alone.jpg", paths(scenes)[3], "test"),
        ("test/x/alone-again.jpg", paths(scenes)[3], "test"),  # test photos among themselves
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((scenes / source).read_bytes())
        photos[path] = split
    photos = dict(sorted(photos.items(), key=lambda item: SPLITS.index(item[1])))
    found = context(tmp_path, photos)
    found.pairs = duplicates.pairs(found)
    results = {result.issue: result.findings for result in duplicates.find(found)}
    assert set(results) == {"leak", "two_labels", "duplicate"}
    assert [f.path for f in results["leak"]] == [one]
    assert "labelled" in results["two_labels"][0].detail
    assert [f.path for f in results["duplicate"]] == [other]


def test_two_photos_of_different_things_are_never_laid_over_each_other(scenes):
    looks = context(scenes, dict.fromkeys(paths(scenes), "train")).thumbnails.float()
    one, other = looks[:10], looks[10:]
    theta, _ = lay_over(one, other, 32, lay_over(one, other, 16)[0])
    assert edges_alike(one, other, theta, 32).max() < 0.7
    assert edges_alike(one, one, lay_over(one, one, 32)[0], 32).min() > 0.99


def test_a_frame_in_common_makes_no_copies(tmp_path):
    rng, photos = np.random.default_rng(0), {}
    for i in range(12):  # faint things: what they have of edges is the frame
        faint = Image.fromarray(rng.integers(190, 210, (5, 5), dtype=np.uint8)).resize((80, 80))
        photos[f"train/x/{i}.png"] = "train"
        (tmp_path / "train/x").mkdir(parents=True, exist_ok=True)
        ImageOps.expand(faint, 10).save(tmp_path / f"train/x/{i}.png")
    assert duplicates.pairs(context(tmp_path, photos, np.ones((12, 4)) + np.eye(12, 4))) == []


def test_flat_photos_are_no_copies_of_each_other(tmp_path):
    photos = {}
    for i in range(6):
        path = f"train/{'ab'[i % 2]}/{i}.jpg"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60), (40 * i, 30, 90)).save(tmp_path / path)
        photos[path] = "train"
    found = context(tmp_path, photos)
    assert duplicates.pairs(found) == []


# --- labels ---------------------------------------------------------------------------------------

# Made with cleanlab 2.9.0: find_label_issues(labels, chances, filter_by="confident_learning").
LABELS = [0, 1, 2, 0, 0, 2, 2, 1, 0, 0, 0, 1, 1, 1, 0, 0, 2, 2, 0, 0, 1, 1, 2, 1]
CHANCES = [
    *([0.21, 0.67, 0.12], [0.41, 0.5, 0.09], [0.42, 0.08, 0.5], [0.86, 0.05, 0.09]),
    *([0.65, 0.23, 0.12], [0.08, 0.49, 0.43], [0.06, 0.14, 0.8], [0.21, 0.75, 0.04]),
    *([0.6, 0.24, 0.16], [0.99, 0.0, 0.01], [0.2, 0.09, 0.71], [0.39, 0.51, 0.1]),
    *([0.19, 0.63, 0.18], [0.39, 0.31, 0.3], [0.96, 0.0, 0.04], [0.1, 0.82, 0.08]),
    *([0.14, 0.18, 0.68], [0.27, 0.1, 0.63], [0.76, 0.1, 0.14], [0.32, 0.19, 0.49]),
    *([0.07, 0.75, 0.18], [0.9, 0.02, 0.08], [0.18, 0.02, 0.8], [0.41, 0.51, 0.08]),
]
WRONG = [0, 10, 15, 21]


def test_confident_learning_agrees_with_cleanlab():
    wrong = labels.confidently_wrong(torch.tensor(CHANCES), torch.tensor(LABELS))
    assert wrong.nonzero()[:, 0].tolist() == WRONG


def judged(logits: torch.Tensor, truth: torch.Tensor) -> Context:
    """A context of photos that a probe has judged, without any photo."""
    names = [f"c{i}" for i in range(logits.shape[1])]
    samples = [Sample(f"train/{names[y]}/{i}.jpg", int(y)) for i, y in enumerate(truth)]
    data = SimpleNamespace(classes=names, splits={"train": samples, "val": [], "test": []})
    return Context(
        data=data,  # type: ignore[arg-type]
        see=SEE,
        splits=["train"] * len(samples),
        samples=samples,
        digests=[],
        files=[None] * len(samples),
        looks=torch.zeros(len(samples), 1),
        features=torch.zeros(len(samples), 1),
        judged=list(range(len(samples))),
        folds=torch.arange(len(samples)) % 5,
        logits=logits,
    )


def test_planted_labels_come_first_and_chance_is_told():
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(200) % 4
    logits = 1.5 * torch.randn(200, 4, generator=generator)
    logits[torch.arange(200), truth] += 6
    planted = list(range(0, 60, 6))
    given = truth.clone()
    given[planted] = (truth[planted] + 1) % 4
    (result,) = labels.find(judged(logits, given))
    first = [f.path for f in result.findings[:10]]
    assert {int(Path(path).stem) for path in first} == set(planted)
    assert all(f.other == f"c{truth[int(Path(f.path).stem)]}" for f in result.findings[:10])
    wrong = labels.confidently_wrong(logits.softmax(1), given)
    by_chance = labels.expected(logits, given, wrong)
    assert by_chance is not None
    assert by_chance < 5
    assert "by chance" in result.sentence
    hesitant = torch.zeros(40, 2)  # a photo that is hardly told from the other class, twice
    hesitant[torch.arange(40), torch.arange(40) % 2] = 3.0
    hesitant[:2] = torch.tensor([[0.0, 0.1], [0.1, 0.0]])
    (result,) = labels.find(judged(hesitant, torch.arange(40) % 2))
    assert result.sentence == "no label looks wrong for sure, 2 photos might"


# --- shortcuts ------------------------------------------------------------------------------------


def test_pairs_that_a_score_puts_right():
    own = torch.tensor([False, False, True, True])
    area, low, high = shortcuts.told_apart(torch.tensor([0.1, 0.4, 0.35, 0.8]), own)
    assert area == pytest.approx(0.75)  # as sklearn.metrics.roc_auc_score says
    assert 0 <= low < area < high <= 1
    assert shortcuts.told_apart(torch.zeros(4), own)[0] == 0.5


def lit(brighter: float, share: float = 1.0, classes: int = 2) -> Context:
    """120 photos, of which a share of those of the second class are brighter by this factor."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(120) % classes
    found = judged(torch.zeros(120, classes), truth)
    grey = 90 + 20 * torch.randn(120, 1, generator=generator)
    grey = grey + 25 * torch.randn(120, 64**2, generator=generator)
    grey[(truth == 1) & (torch.rand(120, generator=generator) < share)] *= brighter
    found.looks = torch.cat((grey, torch.full((120, 4), 128.0)), 1).clamp(0, 255).byte()
    return found


def test_a_class_that_is_brighter_is_a_shortcut_and_ordinary_light_is_none():
    (result,) = shortcuts.find(lit(1.4))
    finding = next(f for f in result.findings if f.other == "brightness")
    assert (finding.path, finding.other) == ("c0", "brightness")
    assert "are darker: brightness alone can tell the classes apart in" in finding.detail
    assert finding.score > 0.8
    assert shortcuts.find(lit(1.0)) == []
    found, note = shortcuts.find(lit(1.4, share=0.5, classes=4))
    assert {(f.path, f.other) for f in found.findings} == {("c1", "brightest spots")}
    assert not note.wrong
    assert "'c1' by brightness" in note.sentence


def test_accuracy_is_the_mean_over_classes():
    scores = torch.eye(3)[[0, 0, 0, 1, 2, 2, 0, 0]]
    truth = torch.tensor([0, 0, 0, 0, 2, 2, 1, 1])
    right, low, high = shortcuts.accuracy(scores, truth)
    assert right == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert 0 <= low < right < high <= 1
    assert shortcuts.accuracy(scores, truth, tests=6)[1] < low


# --- files, classes, groups -----------------------------------------------------------------------


def test_odd_files_are_named(tmp_path):
    place = tmp_path / "train" / "a"
    place.mkdir(parents=True)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    for i in range(5):
        noise.save(place / f"{i}.jpg")
    noise.save(place / "really.jpg", format="PNG")
    noise.convert("L").save(place / "grey.jpg")
    noise.convert("RGBA").save(place / "clear.png")
    noise.convert("I;16").save(place / "deep.png")
    noise.save(place / "moves.webp", save_all=True, append_images=[noise.rotate(90)])
    noise.resize((400, 60)).save(place / "long.jpg")
    noise.resize((20, 20)).save(place / "tiny.jpg")
    photos = {p.relative_to(tmp_path).as_posix(): "train" for p in sorted(place.iterdir())}
    found = context(tmp_path, photos)
    found.left_out = [LeftOut(tmp_path / "notes.txt", ".txt")]
    found.unreadable = {place / "half.jpg": "truncated"}
    results = {result.issue: result for result in files.find(found)}
    said = {Path(f.path).name: f.detail for f in results["format"].findings}
    assert said["really.jpg"] == "named .jpg, but it is PNG"
    assert "grey" in said["grey.jpg"]
    assert "transparent" in said["clear.png"]
    assert "16-bit" in said["deep.png"]
    assert "2 frames" in said["moves.webp"]
    assert "6.7 to 1" in said["long.jpg"]
    assert "20×20" in said["tiny.jpg"]
    assert said["notes.txt"] == "left out: .txt"
    assert "0.jpg" not in said
    assert results["unreadable"].findings[0].path == "train/a/half.jpg"
    assert results["crop"].findings[0].path == "train/a/long.jpg"
    assert "of the photos' area is cut away" in results["crop"].sentence


def test_facts_of_a_file(tmp_path):
    image = Image.new("RGB", (50, 30))
    exif = Image.Exif()
    exif[274], exif[271], exif[272] = 6, "Maker", "Model 1\0"
    exif.get_ifd(34665)[36867] = "2024:05:06 07:08:09"
    image.save(tmp_path / "a.jpg", exif=exif, quality=60)
    found = read_file(tmp_path / "a.jpg")
    assert found is not None
    assert (found.width, found.height, found.turned) == (30, 50, True)
    assert (found.camera, str(found.taken)) == ("Maker Model 1", "2024-05-06 07:08:09")
    image.save(tmp_path / "b.jpg", quality=95)
    better = read_file(tmp_path / "b.jpg")
    assert better is not None
    assert better.taken is None
    assert better.quality < found.quality  # type: ignore[operator]
    (tmp_path / "c.jpg").write_bytes(b"no photo")
    assert read_file(tmp_path / "c.jpg") is None


def folder(root: Path, counts: dict[str, int]) -> PhotoFolder:
    for path, count in counts.items():
        (root / path).mkdir(parents=True)
        for i in range(count):
            noise = np.random.default_rng([i, len(path)]).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(root / path / f"{i}.png")
    data = PhotoFolder(str(root))
    data.setup()
    return data


def test_classes_are_judged_by_name_and_count(tmp_path):
    train = {"Dogs": 60, "dog": 5, "golden_retriever": 12, "Golden Retrievers": 12, "glass": 12}
    counts = {f"train/{name}": count for name, count in train.items()}
    data = folder(tmp_path, counts | {f"test/{name}": 2 for name in train if name != "glass"})
    pairs = {frozenset((f.path, f.other)) for f in classes.alike(data)}
    assert pairs == {
        frozenset(("Dogs", "dog")),
        frozenset(("golden_retriever", "Golden Retrievers")),
    }
    assert [f.detail for f in classes.missing(data)] == ["the test split has no photos of 'glass'"]
    assert [f.path for f in classes.few(data)] == ["dog"]
    assert classes.imbalance_line(data).startswith("'Dogs' has 51 train photos, 'dog' 4")
    data.cut = {}
    assert "Merge or rename" in classes.find(SimpleNamespace(data=data))[0].advice  # type: ignore
    few = folder(tmp_path / "few", {"a": 2, "bb": 12})
    assert classes.find(SimpleNamespace(data=few))[0].advice[:19] == "Add photos of these"  # type: ignore


@pytest.mark.parametrize(
    ("named", "told"), [(lambda clip, i: f"clip{clip}_{i:03d}", True), (lambda c, i: f"{i}", False)]
)
def test_clips_are_found_by_name_where_they_look_alike(tmp_path, named, told):
    rng, photos, features = np.random.default_rng(0), {}, []
    for clip in range(12):
        centre = rng.normal(size=16)
        for i in range(5):
            path = f"train/{'ab'[clip % 2]}/{named(clip, 5 * clip + i)}.png"
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (clip, i, 0)).save(tmp_path / path)
            photos[path] = "val" if i == 4 else "train"
            features.append(centre + 0.1 * rng.normal(size=16))
    results = groups.find(context(tmp_path, photos, np.array(features)))
    assert bool(results) is told
    if told:
        assert "data.group" in results[0].advice
        assert "12 on two sides" in results[0].sentence


def test_bursts_are_found_by_the_time_of_the_shot(tmp_path):
    """Six bursts of two photos 2 s apart; other cameras and other times are no burst."""
    noise, photos = np.random.default_rng(0), {}
    for i in range(16):
        exif = Image.Exif()
        exif[271] = "Other" if i == 15 else "Maker"
        second = 600 if i == 15 else 60 * (i // 2) + 2 * (i % 2) if i < 12 else 1000 + 60 * i
        exif.get_ifd(34665)[36867] = f"2024:05:06 07:{second // 60:02}:{second % 60:02}"
        path = f"train/{'ab'[i % 2]}/{'abcdefghijklmnop'[i]}.jpg"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(noise.integers(0, 255, (40, 40, 3), np.uint8))
        image.save(tmp_path / path, exif=exif)
        photos[path] = "val" if i == 1 else "train"
    (result,) = groups.find(context(tmp_path, dict(sorted(photos.items(), key=lambda x: x[1]))))
    assert "12 photos were taken within 3 s of another; 6 groups" in result.sentence
    assert "1 on two sides" in result.sentence
    assert {result.findings[0].path, result.findings[0].other} == {"train/a/a.jpg", "train/b/b.jpg"}


def test_looks_are_kept(tmp_path, scenes):
    cache = FeatureCache(str(tmp_path / "cache"))
    wanted = {path: scenes / path for path in paths(scenes)}
    once = Looks(cache).all(wanted)
    again = Looks(FeatureCache(str(tmp_path / "cache")))
    assert all(torch.equal(look, once[path]) for path, look in again.all(wanted).items())
    assert not again.taken
