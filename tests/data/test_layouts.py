"""What people's folders hold: each fault, how it is made, and what the user sees of it.

Rows of `SEEN` train or would; rows of `REFUSED` are answered with one sentence and exit code 2.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import call_train, make_photos, paint, refusal, small_run, state, weights_of
from filelock import FileLock

from thaw.data.folder import PhotoFolder
from thaw.data.listing import layout
from thaw.data.listing.known import Known
from thaw.data.splits import Sample, cut, folds, together
from thaw.errors import UserError

Make = Callable[[Path], object]


def put(root: Path, *folders: str, count: int = 6, begin: str = "") -> None:
    """Small photos in folders, no two the same; a plain format and little noise keep it quick."""
    for folder in folders:
        for i in range(count):
            name = f"{begin}{i}.png"
            seed = hash_of(f"{root.name}{folder}{name}")
            paint(root / folder / name, (100, 90, 60), seed, size=(9, 8))


def hash_of(text: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(text)) % 2**31


def splits(root: Path, train: str = "train", *others: str) -> None:
    put(root, f"{train}/ants", f"{train}/bees")
    for other in others:
        put(root, f"{other}/ants", f"{other}/bees", count=2)


def each(*makes: Make) -> Make:
    return lambda root: [make(root) for make in makes]


def write(name: str, text: str = "x") -> Make:
    def make(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return make


def link(name: str, target: str) -> Make:
    return lambda root: (root / name).symlink_to(root / target)


def copy(name: str, other: str) -> Make:
    return lambda root: shutil.copy(root / name, root / other)


def usual(root: Path) -> None:
    splits(root, "train", "test")


def kaggle(root: Path) -> None:
    put(root, "train", begin="cat.")
    put(root, "train", begin="dog.")
    put(root, "test")


# What is made, the settings, classes that train has, photos in each split, words that are said.
SEEN: dict[str, tuple[Make, dict[str, object], str, tuple[int, int, int], list[str]]] = {
    "splits by other names": (
        lambda r: splits(r, "Training", "TEST", "valid"),
        {},
        "ants bees",
        (12, 4, 4),
        ["val is", "valid"],
    ),
    "a second val": (
        lambda r: splits(r, "train", "val", "test", "validation"),
        {},
        "ants bees",
        (12, 4, 4),
        ["not used: validation/ (4 photos; name it with data.val=validation)"],
    ),
    "a wrapper": (
        lambda r: put(r, "my photos/all/ants", "my photos/all/bees"),
        {},
        "ants bees",
        (8, 2, 2),
        ["my photos/all", "the only folder with photos"],
    ),
    "an unlabelled test": (
        each(splits, lambda r: put(r, "test")),
        {},
        "ants bees",
        (8, 2, 2),
        ["test/ (6 photos in no class folder, so without a label)"],
    ),
    "names that begin with the class": (
        kaggle,
        {"classes": "name"},
        "cat dog",
        (8, 2, 2),
        ["data.classes=name", "test/ (6 photos"],
    ),
    "classes called train and test": (
        lambda r: put(r, "train", "bus", "test"),
        {},
        "bus test train",
        (12, 3, 3),
        [],
    ),
    "nothing but classes called as splits": (
        lambda r: put(r, "train", "val", "test"),
        {"train": ".", "val": None, "test": None},
        "test train val",
        (12, 3, 3),
        [],
    ),
    "folders in class folders": (
        lambda r: put(r, "train/pets/cat", "train/pets/dog", "train/wild/fox"),
        {},
        "pets wild",
        (12, 3, 3),
        ["data.classes=top (pets, wild)", "data.classes=leaf (cat, dog, fox)"],
    ),
    "the innermost folders": (
        lambda r: put(r, "pets/cat", "pets/dog", "wild/fox"),
        {"classes": "leaf"},
        "cat dog fox",
        (12, 3, 3),
        ["data.classes=path (pets/cat, pets/dog, wild/fox)"],
    ),
    "whole paths": (
        lambda r: put(r, "pets/cat", "pets/dog", "wild/cat"),
        {"classes": "path"},
        "pets/cat pets/dog wild/cat",
        (12, 3, 3),
        [],
    ),
    "what lies about": (
        each(
            usual,
            lambda r: put(r, "train/ants/@eaDir/0.jpg", "other", count=2),
            lambda r: put(r, "test", count=1, begin="loose"),
            write("notes.txt"),
            link("train/ants/gone.jpg", "nowhere"),
            link("train/ants/round", "train"),
            link("train/self", "train/self"),
        ),
        {},
        "ants bees",
        (10, 2, 4),
        ["not used: ", "other/ (2 photos)", "1 .txt", "dead link", "circle", "test/loose0.png"],
    ),
    "an empty class folder in test": (
        each(usual, lambda r: (r / "test/wasps").mkdir()),
        {},
        "ants bees",
        (10, 2, 4),
        ["test/wasps is empty"],
    ),
    "a class with one photo": (
        each(usual, lambda r: put(r, "train/wasp", count=1)),
        {},
        "ants bees wasp",
        (11, 2, 4),
        ["single photo of wasp", "No val photo shows wasp", "No test photo shows wasp"],
    ),
    "a photo in two splits": (
        each(usual, copy("train/ants/1.png", "test/ants/again.png")),
        {},
        "ants bees",
        (10, 2, 5),
        ["1 photo is in train and test at once", "test/ants/again.png = train/ants/1.png"],
    ),
    "a photo with two labels": (
        each(usual, copy("train/ants/1.png", "train/bees/again.png")),
        {},
        "ants bees",
        (11, 2, 4),
        ["1 photo has two labels", "train/ants/1.png = train/bees/again.png"],
    ),
    "a group in two splits": (
        usual,
        {"group": r"(\d)\.png"},
        "ants bees",
        (10, 2, 4),
        ["2 of 6 groups are in several splits at once"],
    ),
    "a broken photo in test": (
        each(usual, lambda r: put(r, "train/ants", count=10, begin="m"), write("test/ants/b.png")),
        {},
        "ants bees",
        (19, 3, 4),
        ["1 photo of 27 can't be decoded and is left out: test/ants/b.png"],
    ),
    "many broken photos, to be listed": (
        each(usual, *(write(f"train/ants/b{i}.png") for i in range(12))),
        {"on_error": "list"},
        "ants bees",
        (10, 2, 4),
        ["12 photos of 28 can't be decoded and are left out", "and 2 more."],
    ),
}

REFUSED: dict[str, tuple[Make, dict[str, object], list[str]]] = {
    "photos and no folders": (lambda r: put(r, "."), {}, ["lie there in none", "data=table"]),
    "one class's folder": (
        lambda r: [put(r, "."), put(r.parent, "others")],
        {},
        ["beside others", "data.root="],
    ),
    "Kaggle's train": (kaggle, {}, ["cat (6), dog (6)", "data.classes=name"]),
    "one level deeper": (
        lambda r: put(r, "pets/cat", "wild/fox"),
        {},
        ["data.classes=top (pets, wild)", "data.classes=leaf (cat, fox)"],
    ),
    "one class": (lambda r: put(r, "ants"), {}, ["expected 2 classes or more"]),
    "classes called as all splits": (
        lambda r: put(r, "train", "val", "test"),
        {},
        ["add data.train=. data.val=null data.test=null"],
    ),
    "no photos": (each(write("a/x.txt"), write("y.md")), {}, ["there are none", "1 .txt"]),
    "two names for val": (
        lambda r: splits(r, "train", "Valid", "validation"),
        {},
        ["Valid and validation may each be the val split"],
    ),
    "one folder for two splits": (usual, {"test": "train"}, ["are the same folder"]),
    "a link to another split": (
        each(splits, link("test", "train")),
        {},
        ["data.train and data.test are the same folder"],
    ),
    "a split in another": (usual, {"val": "train/ants"}, ["lies inside data.train"]),
    "a split above": (usual, {"val": "../elsewhere"}, ["'../elsewhere'"]),
    "a split anywhere": (usual, {"val": "/"}, ["data.val", "'/'"]),
    "the root as a split": (usual, {"val": "."}, ["data.val=. is"]),
    "a split without a name": (usual, {"val": ""}, ["data.val", "''"]),
    "a split that isn't there": (usual, {"val": "exam"}, ["'exam'", "['test', 'train']"]),
    "a class that train lacks": (
        each(usual, lambda r: put(r, "test/wasp")),
        {},
        ["expected the classes of train", "['wasp']"],
    ),
    "an empty class folder in train": (
        each(usual, lambda r: (r / "train/wasp").mkdir()),
        {},
        ["class 'wasp' has no photos"],
    ),
    "an empty split": (each(usual, lambda r: (r / "val").mkdir()), {}, ["the val split"]),
    "a leak, strictly": (
        each(usual, copy("train/ants/1.png", "test/ants/again.png")),
        {"check": "strict"},
        ["1 photo is in train and test at once"],
    ),
    "a broken photo, strictly": (
        each(usual, write("test/ants/b.png")),
        {"on_error": "fail"},
        ["1 photo of 17 can't be decoded", "test/ants/b.png"],
    ),
    "many broken photos": (
        each(usual, *(write(f"train/ants/b{i}.png") for i in range(12))),
        {},
        ["12 photos of 28", "more than 5%", "thaw check lists them", "and 2 more"],
    ),
    "a class that is broken": (
        each(lambda r: put(r, "a", "b", count=40), write("c/0.png")),
        {},
        ["leaves c without any"],
    ),
    "an expression that is none": (usual, {"group": "(p"}, ["regular expression", "'(p'"]),
    "groups that aren't there": (usual, {"group": "folder"}, ["no photo has any"]),
    "a group of all": (usual, {"group": r"(\.)png"}, ["puts all 16 photos into one"]),
    "a column without a table": (usual, {"group": "column"}, ["data=table"]),
}


@pytest.mark.parametrize("fault", SEEN)
def test_what_can_be_used_is_used_and_said(fault: str, tmp_path: Path, caplog):
    make, settings, classes, counts, words = SEEN[fault]
    root = tmp_path / "photos"
    make(root)
    with caplog.at_level("INFO"):
        data = PhotoFolder(str(root), **settings).ready()  # type: ignore[arg-type]
    assert " ".join(data.classes) == classes
    assert tuple(map(len, data.splits.values())) == counts
    for word in words:
        assert word in caplog.text
    described = data.describe_splits()
    assert all((root / p["path"]).is_file() for split in data.splits for p in described[split])
    assert {p["label"] for p in described["train"]} == set(data.classes)


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(fault: str, tmp_path: Path):
    make, settings, words = REFUSED[fault]
    root = tmp_path / "photos"
    make(root)
    with pytest.raises(UserError) as caught:
        PhotoFolder(str(root), **settings).ready()  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    for word in words:
        assert word in sentence


def test_a_link_to_a_split_elsewhere_and_a_folder_of_another_name_are_fine(tmp_path: Path):
    splits(tmp_path / "elsewhere", "a")
    splits(tmp_path / "photos", "train")
    (tmp_path / "photos/test").symlink_to(tmp_path / "elsewhere/a")
    data = PhotoFolder(str(tmp_path / "photos")).ready()
    assert len(data.splits["test"]) == 12


# --- groups and folds -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_keeps_groups_whole_and_comes_near_to_its_share(tmp_path: Path, seed: int):
    for patient in range(12):
        count = 2 + patient % 3
        put(tmp_path, "a", "b", count=count, begin=f"p{patient}_")
    data = PhotoFolder(str(tmp_path), group=r"(p\d+)_", seed=seed).ready()
    groups = {split: {s.group for s in found} for split, found in data.splits.items()}
    assert not groups["train"] & groups["val"] | groups["train"] & groups["test"]
    assert not groups["val"] & groups["test"]
    for split in ("val", "test"):
        assert 0.1 <= len(data.splits[split]) / 72 <= 0.2
        assert {s.label for s in data.splits[split]} == {0, 1}
    written = data.describe_splits()["test"]
    assert {photo["group"] for photo in written} == groups["test"]


def test_a_few_large_groups_are_shared_out_still():
    samples = [Sample(f"{i}.jpg", i % 2, f"p{i % 3}") for i in range(30)]
    kept, off = cut(samples, [s.group for s in samples], 0.15, 0)
    assert len(off) == 10
    assert len({s.group for s in off}) == 1
    assert len(kept) == 20


def test_folds_keep_groups_and_copies_together_and_are_even():
    samples = [Sample(f"{i:03}.jpg", i % 2, f"p{i // 4}") for i in range(120)]
    contents = [i if i not in (3, 40) else 3 for i in range(120)]  # 3 and 40 are one photo
    keys = together([s.group for s in samples], contents)
    found = folds(samples, keys, 5, seed=1)
    assert found == folds(samples, keys, 5, seed=1)
    assert found != folds(samples, keys, 5, seed=2)
    assert found[3] == found[40]
    assert all(len({found[i] for i in range(120) if keys[i] == key}) == 1 for key in set(keys))
    for fold in range(5):
        labels = [s.label for s, f in zip(samples, found, strict=True) if f == fold]
        assert 20 <= len(labels) <= 28
        assert labels.count(0) == labels.count(1)


# --- what is known --------------------------------------------------------------------------------


def test_unchanged_photos_are_not_read_again(tmp_path: Path, monkeypatch):
    usual(tmp_path / "photos")
    paths = sorted((tmp_path / "photos").rglob("*.png"))
    first = Known(tmp_path / "known.sqlite")
    expected = first.faults(paths), first.digests(paths), first.alike(paths)
    for memory in ("decoded", "contents"):
        monkeypatch.setattr(f"thaw.data.photos.{memory}", {})
        monkeypatch.setattr(f"thaw.data.listing.known.{memory}", {})
    monkeypatch.setattr("thaw.data.photos._look", lambda path: pytest.fail("it was read"))
    monkeypatch.setattr("thaw.data.photos.hashlib", None)
    again = Known(tmp_path / "known.sqlite")
    for known in ("decoded", "contents"):  # both modules hold the same memory, as before
        memory: dict = {}
        monkeypatch.setattr(f"thaw.data.photos.{known}", memory)
        monkeypatch.setattr(f"thaw.data.listing.known.{known}", memory)
    assert (again.faults(paths), again.digests(paths), again.alike(paths)) == expected


@pytest.mark.parametrize("what", ["no database", "a folder"])
def test_a_memory_that_cannot_be_used_is_done_without(tmp_path: Path, what: str):
    usual(tmp_path / "photos")
    file = tmp_path / "known.sqlite"
    file.mkdir() if what == "a folder" else file.write_text("no database at all")
    data = PhotoFolder(str(tmp_path / "photos"), known=str(file)).ready()
    assert len(data.splits["train"]) == 10


# --- through the user's door ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, weights) -> SimpleNamespace:
    """A run on photos of classes called train, val and test, with groups, fixes and broken ones."""
    folder = tmp_path_factory.mktemp("mixed")
    root = folder / "photos"
    make_photos(root / "was", train=24, test=1)
    for old, new in (("blue", "train"), ("green", "val"), ("red", "test")):
        shutil.move(root / "was/train" / old, root / new)
    shutil.rmtree(root / "was")
    (root / "train/broken.jpg").write_text("no photo")
    (folder / "check.csv").write_text(
        "issue,path,other,score,detail,action\n"
        "duplicate,train/3.jpg,,,,drop\n"
        "label,test/4.jpg,val,0.9,,label:val\n"
    )
    arguments = [
        *small_run(root, weights("shufflenet_v2_x0_5")),
        "finetune.phases.head.epochs=2",
        "data.train=.",
        "data.val=null",
        "data.test=null",
        f"data.fixes={folder / 'check.csv'}",
        r"data.group='([0-9])\.jpg'",
        "data.workers=1",
    ]
    done = call_train(folder, *arguments)
    return SimpleNamespace(**vars(done), folder=folder, root=root, arguments=arguments)


@pytest.mark.slow
def test_roles_and_labels_are_facts_that_are_stored(mixed, call_script):
    assert mixed.code == 0, mixed.err
    split = json.loads((mixed.run / "split.json").read_text())
    assert split["classes"] == ["test", "train", "val"]
    assert [d["path"] for d in split["dropped"]] == ["train/3.jpg", "train/broken.jpg"]
    assert split["relabelled"] == [{"path": "test/4.jpg", "from": "test", "to": "val"}]
    labels = {p["path"]: p["label"] for s in ("train", "val", "test") for p in split[s]}
    assert labels.pop("test/4.jpg") == "val"
    assert all(path.split("/")[0] == label for path, label in labels.items())
    metrics = json.loads((mixed.run / "metrics.json").read_text())
    assert (metrics["data/broken"], metrics["data/dropped"]) == (1, 1)
    assert metrics["test/groups"] <= 10
    assert "by their" in mixed.out
    done = call_script("evaluate", mixed.run, "--out", mixed.folder / "again")
    assert done.code == 0, done.err
    found = json.loads((mixed.folder / "again/evaluation.json").read_text())
    assert found["scores"]["acc"] == pytest.approx(metrics["test/acc"])
    assert found["scores"]["groups"] == metrics["test/groups"]


@pytest.mark.slow
def test_a_photo_that_breaks_during_the_run_is_left_out_and_counted(mixed, monkeypatch):
    from thaw.training.history import History

    root = shutil.copytree(mixed.root, mixed.folder / "breaking")
    arguments = [a.replace(str(mixed.root), str(root)) for a in mixed.arguments]
    arguments = [a for a in arguments if not a.startswith("data.fixes")] + ["cache.enabled=false"]

    def harm(self, *args, step=History.on_train_epoch_end, **kwargs):
        split = json.loads(next(mixed.folder.glob("outputs/**/split.json.now")).read_text())
        (root / split["test"][0]["path"]).write_text("broken meanwhile")
        return step(self, *args, **kwargs)

    from thaw.runs.folder import RunFolder

    def begin(self, split, facts, begin=RunFolder.begin):
        begin(self, split, facts)
        shutil.copy(self.path / "split.json", self.path / "split.json.now")

    monkeypatch.setattr(RunFolder, "begin", begin)
    monkeypatch.setattr(History, "on_train_epoch_end", harm)
    done = call_train(mixed.folder, *arguments)
    assert done.code == 0, done.err
    metrics = json.loads((done.run / "metrics.json").read_text())
    split = json.loads((done.run / "split.json").read_text())
    assert metrics["data/broken"] == 2
    assert metrics["test/images"] == len(split["test"]) - 1
    assert "can't be decoded any more" in " ".join(done.out.split())


@pytest.mark.slow
def test_a_photo_that_breaks_before_its_features_are_computed_is_left_out(mixed, monkeypatch):
    from thaw.runs.folder import RunFolder

    root = shutil.copytree(mixed.root, mixed.folder / "vanishing")
    arguments = [a.replace(str(mixed.root), str(root)) for a in mixed.arguments]
    arguments = [a for a in arguments if not a.startswith("data.fixes")]

    def begin(self, split, facts, begin=RunFolder.begin):
        begin(self, split, facts)
        first, second, *_ = split["train"]
        (root / first["path"]).unlink()
        (root / second["path"]).write_text("broken meanwhile")

    monkeypatch.setattr(RunFolder, "begin", begin)
    monkeypatch.setenv("THAW_CACHE", str(mixed.folder / "cache"))
    done = call_train(mixed.folder, *arguments)
    assert done.code == 0, done.err
    metrics = json.loads((done.run / "metrics.json").read_text())
    assert metrics["data/broken"] == 3
    assert " ".join(done.out.split()).count("can't be decoded any more") == 2


@pytest.mark.slow
def test_a_mended_run_goes_on_to_the_same_end(mixed, monkeypatch):
    """It fails at a test photo; resumed, it leaves out what it left out, though that is mended."""
    broken = mixed.root / "train/broken.jpg"

    def fail(*args, **kwargs):
        raise UserError("The disk was gone.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thaw.evaluation.scores.report", fail)
        died = call_train(mixed.folder, *mixed.arguments)
    assert died.code == 2
    run = max(mixed.folder.glob("outputs/runs/*/*"), key=lambda path: path.stat().st_mtime)
    assert state(run) == "failed"
    shutil.copy(mixed.root / "train/0.jpg", broken)
    try:
        done = call_train(mixed.folder, f"resume={run}")
    finally:
        broken.write_text("no photo")
    assert done.code == 0, done.err
    assert "could not be decoded when the run began" in done.out
    assert weights_of(run) == weights_of(mixed.run)


@pytest.mark.slow
def test_a_run_in_progress_is_locked_and_a_dead_lock_does_not_hold(mixed):
    lock = FileLock(mixed.run / ".lock")
    status = (mixed.run / "status.json").read_bytes()
    (mixed.run / "status.json").write_bytes(status.replace(b'"done"', b'"running"'))
    with lock:
        done = call_train(mixed.folder, f"resume={mixed.run}")
    assert done.code == 2
    assert "another process" in done.err
    assert state(mixed.run) == "running"
    assert (mixed.run / ".lock").exists()  # as a killed process leaves it
    done = call_train(mixed.folder, f"resume={mixed.run}")
    assert done.code == 0, done.err
    assert not (mixed.run / ".lock").exists()


def test_many_broken_photos_are_in_a_file(tmp_path: Path):
    root = tmp_path / "photos"
    put(root, "a", "b", count=8)
    for i in range(300):
        (root / "a" / f"b{i}.jpg").write_text("no photo")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"300 photos of 316.*and 290 more, all in .*broken\.csv"):
        PhotoFolder(str(root)).of(tmp_path / "run").ready()
    assert len((tmp_path / "run/broken.csv").read_text().splitlines()) == 301


def test_two_runs_that_start_in_the_same_second_have_a_folder_each(tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor

    from thaw.launch.names import claimed_dir

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(claimed_dir, [str(tmp_path / "12-00-00_net")] * 16))
    assert len(set(found)) == 16
    assert all(Path(path).is_dir() for path in found)


# --- evaluate --data ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda r: put(r, "train", "bus"), "train bus"),
        (lambda r: put(r, "all/train", "all/bus"), "train bus"),
        (lambda r: put(r, "vehicles/train", "road/bus"), "train bus"),
        (each(lambda r: put(r, "train", "bus"), lambda r: (r / "empty").mkdir()), "train bus"),
    ],
)
def test_other_photos_are_found_by_the_classes_of_the_model(tmp_path: Path, make: Make, words):
    make(tmp_path / "photos")
    listing = layout.one(tmp_path / "photos", ["bus", "train"])
    assert {entry.label for entry in listing.entries} == set(words.split())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda r: put(r, "."), "photos, but no folders"),
        (lambda r: r.mkdir(), "no folders"),
        (lambda r: put(r, "x", "y"), "['x', 'y']"),
        (lambda r: (r / "ants").mkdir(parents=True), "['ants']"),
        (lambda r: splits(r, "train", "test"), "name one of them: --data"),
        (lambda r: None, "there is none"),
        (lambda r: r.write_text("file"), "there is none"),
    ],
)
def test_other_photos_that_cannot_be_used_are_refused(tmp_path: Path, make: Make, words: str):
    make(tmp_path / "photos")
    with pytest.raises(UserError) as caught:
        layout.one(tmp_path / "photos", ["ants", "bees"])
    assert words in str(caught.value)


@pytest.mark.slow
def test_thousands_of_photos_are_listed_in_no_time(tmp_path: Path):
    for label in range(40):
        folder = tmp_path / "photos" / f"class{label:02}"
        folder.mkdir(parents=True)
        first = folder / "0.png"
        paint(first, (9, 9, 9), label, size=(4, 4))
        for i in range(1, 250):
            os.link(first, folder / f"{i}.png")
    began = time.perf_counter()
    listing = layout.read(tmp_path / "photos", {"train": "train", "val": "val", "test": "test"})
    assert len(listing.entries) == 10_000
    assert time.perf_counter() - began < 3


def test_what_breaks_meanwhile_is_said_with_what_to_do(tmp_path: Path):
    usual(root := tmp_path / "photos")
    put(root, "train/ants", count=40, begin="m")
    data = PhotoFolder(str(root)).of(tmp_path / "run").ready()
    one, two, three, *_ = (sample.path for sample in data.splits["train"])
    data.broke(one, "cut off")
    data.broke(two, "cut off")
    assert data.counts()["data/broken"] == 2
    assert refusal(data.broke, three, "the file is empty") == (
        f"3 photos in {root} can't be decoded any more, more than 5% of all: {one} (cut off), {two}"
        f" (cut off), {three} (the file is empty). Put back what was there (thaw check lists all"
        " that can't be decoded)."
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run/split.json").touch()
    assert f"decoded); then resume={tmp_path / 'run'} goes on." in str(data.lost({one: "gone"}))
    strict = PhotoFolder(str(root), on_error="fail").ready()
    assert ", and data.on_error is fail: x.png (gone)" in refusal(strict.broke, "x.png", "gone")
