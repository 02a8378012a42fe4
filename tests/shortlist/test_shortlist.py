"""Shortlists: a planted ranking, folds that leak nothing, and words that mean something."""

import csv
import io
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPO, make_photos, refusal
from omegaconf import OmegaConf
from PIL import Image

from thaw.comparison.verdict import paired_p
from thaw.data import dataset
from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.data.photos import load_photo
from thaw.nets import pretrained
from thaw.shortlist.rank import Probed, Shortlist, rank
from thaw.shortlist.table import commands, sentences
from thaw.shortlist.words import Net, read
from thaw.training import features
from thaw.training.features import Extractor
from thaw.training.probe.folds import fold_of_each
from thaw.training.probe.inputs import head_inputs

CONF = REPO / "conf"
TINY = ["archs.small_cnn.input_size=32", "archs.small_cnn.width=8"]


@pytest.fixture
def shortlist(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call_script: Callable[..., SimpleNamespace],
) -> Callable[..., SimpleNamespace]:
    """Call `scripts/shortlist.py ARGUMENTS` in `tmp_path`: → code, out, err, rows, folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> SimpleNamespace:
        before = set(tmp_path.glob("outputs/shortlist/*"))
        done = call_script("shortlist", *arguments)
        new = set(tmp_path.glob("outputs/shortlist/*")) - before
        folder = new.pop() if new else None
        text = (folder / "shortlist.csv").read_text() if folder else ""
        return SimpleNamespace(
            **vars(done),
            rows=list(csv.DictReader(io.StringIO(text))),
            folder=folder,
        )

    return call


@pytest.fixture
def words(photos: Path, tmp_path: Path) -> list[str]:
    """Words of small photos, and of a cache that is empty."""
    place = [f"data.root={photos}", f"cache.dir={tmp_path / 'cache'}"]
    return ["data=folder", *place, "trainer=cpu", "trainer.precision=32-true", "folds=3"]


@pytest.fixture
def blind(weights: Callable[[str], Path], tmp_path: Path) -> str:
    """A word that gives shufflenet weights with which it sees nothing of a photo."""
    state = torch.load(weights("shufflenet_v2_x0_5"), weights_only=True)
    state["conv1.0.weight"].zero_()
    torch.save(state, tmp_path / "blind.pth")
    return f"archs.torchvision/shufflenet_v2_x0_5.weights={tmp_path / 'blind.pth'}"


# --- the whole ------------------------------------------------------------------------------------


def test_a_net_that_sees_comes_before_one_that_does_not(shortlist, words, blind):
    nets = "archs=torchvision/shufflenet_v2_x0_5,small_cnn"
    done = shortlist(*words, nets, blind, *TINY)
    assert done.code == 0, done.err
    first, second = done.rows
    assert first["net"] == "small_cnn (random)"
    assert second["net"] == "torchvision/shufflenet_v2_x0_5"
    assert float(first["probe/acc"]) > 0.9
    # Which is the most frequent class of the other folds, never that of a photo's own.
    assert float(second["probe/acc"]) <= 1 / 3
    assert float(second["p_against_first"]) < 0.001
    assert (first["level"], second["level"]) == ("True", "False")
    assert first["photos"] == "30"  # train and val
    assert int(first["params/total"]) * 4 < int(first["model/bytes"])  # BatchNorm has buffers
    assert 0.8 < float(first["probe/acc_low"]) < float(first["probe/acc_high"]) < 1.001
    for row in done.rows:
        assert min(float(row["features_ms"]), float(row["model/latency_ms"])) > 0
    assert [row["input_size"] for row in done.rows] == ["32", "224"]
    assert (done.folder / "shortlist.png").read_bytes().startswith(b"\x89PNG")
    assert "beats torchvision/shufflenet_v2_x0_5 (p < 0.05)" in done.out
    assert "next    python train.py arch=small_cnn arch.input_size=32" in done.out


def test_a_second_call_computes_nothing_and_says_the_same(shortlist, words, monkeypatch):
    once = shortlist(*words, "archs=small_cnn", *TINY)
    assert "cached" not in once.out

    def refuse(path):
        raise AssertionError(f"{path} was decoded")

    monkeypatch.setattr(features, "load_photo", refuse)
    monkeypatch.setattr(dataset, "load_photo", refuse)
    again = shortlist(*words, "archs=small_cnn", *TINY)
    assert again.code == 0, again.err
    assert "all features cached" in again.out
    assert again.rows[0]["features_ms"] == ""
    for key in ("probe/acc", "probe/loss", "probe/f1", "probe/acc_low"):
        assert again.rows[0][key] == once.rows[0][key]


@pytest.mark.slow
def test_training_finds_the_features(shortlist, words, weights, train):
    file = weights("shufflenet_v2_x0_5")
    name = "torchvision/shufflenet_v2_x0_5"
    done = shortlist(*words, f"archs={name}", f"archs.{name}.weights={file}")
    command = next(line for line in done.out.splitlines() if line.startswith("next"))
    arguments = command.split("train.py ")[1].split()
    assert arguments[:3] == [
        "arch=torchvision",
        "arch.name=shufflenet_v2_x0_5",
        f"arch.weights={file}",
    ]
    trained = train(*arguments, "finetune.phases.head.epochs=1")
    assert trained.code == 0
    assert "train and 6 val photos: 0 computed" in trained.out


@pytest.mark.slow
def test_without_a_cache_the_same_comes_out(shortlist, words, caplog):
    kept = shortlist(*words, "archs=small_cnn", *TINY)
    for more in (["cache.enabled=false"], ["cache.max_gb=1e-9", "cache.dir=other"]):
        done = shortlist(*words, "archs=small_cnn", *TINY, *more)
        assert done.code == 0
        assert "cached" not in done.out
        assert float(done.rows[0]["features_ms"]) > 0
        for key in ("probe/acc", "probe/loss"):
            assert float(done.rows[0][key]) == pytest.approx(float(kept.rows[0][key]), rel=1e-3)
    assert "Features of small_cnn aren't kept: 0.0 GB for 30 photos" in caplog.text


@pytest.mark.slow
def test_test_photos_change_nothing(shortlist, words, photos):
    """Whether they can be decoded is checked; what they show isn't looked at."""
    for enabled in ("true", "false"):
        found = []
        for colour in ("red", "blue"):
            for path in (photos / "test").rglob("*.jpg"):
                Image.new("RGB", (40, 40), colour).save(path)
            done = shortlist(*words, "archs=small_cnn", *TINY, f"cache.enabled={enabled}")
            assert done.code == 0, done.err
            found.append([done.rows[0][key] for key in ("probe/acc", "probe/loss")])
        assert found[0] == found[1]


@pytest.mark.slow
def test_a_net_that_fails_stops_no_other(shortlist, words, hub, offline):
    done = shortlist(*words, "archs=resnet18,small_cnn", *TINY)
    assert done.code == 1
    assert [row["net"] for row in done.rows] == ["small_cnn (random)"]
    line = next(line for line in done.out.splitlines() if line.startswith("resnet18 "))
    assert "failed  resnet18 has no weights on this machine" in line
    assert "name a copy with archs.resnet18.weights=FILE" in line
    assert "Failed, see above: resnet18." in done.out
    assert len(set(offline)) == 1


def test_where_all_fail_nothing_is_written(shortlist, words, hub, offline):
    done = shortlist(*words, "archs=resnet18,mobilenet_v3_small")
    assert done.code == 1
    assert done.out.count(" failed ") == 2
    assert done.folder is None


@pytest.mark.slow
def test_rows_on_the_screen_and_in_a_file(shortlist, words, tmp_path):
    done = shortlist(*words, "--csv", "-", "archs=small_cnn", *TINY)
    assert list(csv.DictReader(io.StringIO(done.out))) == done.rows
    assert "is the only net" in done.err
    place = tmp_path / "elsewhere"
    done = shortlist("--out", str(place), *words, "archs=small_cnn", *TINY, "--csv", "a.csv")
    assert done.folder is None
    assert (place / "shortlist.csv").read_text() == (tmp_path / "a.csv").read_text()
    assert (place / "shortlist.png").is_file()


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("arch=resnet18", "got 'arch=resnet18'"),
        ("finetune=full", "got 'finetune=full'"),
        ("resnet18", "got 'resnet18'"),
        ("archs=", "Expected archs= to be all, or nets with commas"),
        ("archs=resnet81", "near it is resnet18"),
        ("archs=small_cnn,timm/resnet81", "timm/resnet81: Expected arch.name to be one of timm's"),
        ("archs=all,small_cnn", "got 'all'"),
        ("archs.resnet18.weights=a.pth", "of a net in archs="),
        ("archs.small_cnn.colour=3", "colour"),
        ("archs.small_cnn.weights=DEFAULT", "small_cnn has no pretrained weights"),
        ("data.rot=x", "rot"),
        ("data.batch_size=0", "batch_size"),
        ("folds=2", "Expected folds to be a whole number from 3, got '2'"),
        ("folds=many", "got 'many'"),
        ("folds=11", "'blue' has 10 in train and val; set folds=10"),
        ("seed=-1", "Expected seed to be a whole number from 0"),
        ("cache.max_gb=0", "cache.max_gb"),
        ("trainer=gpu", "trainer settings"),
    ],
)
def test_words_that_mean_nothing_are_refused(shortlist, words, word, sentence):
    if word == "trainer=gpu" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    nets = [] if word.startswith("archs=") else ["archs=small_cnn"]
    done = shortlist(*words, *nets, word)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert sentence in done.err
    assert not Path("outputs").exists()


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_is_every_net_that_has_weights():
    own = ["archs.resnet18.weights=null", "archs.timm.name=vgg11"]
    nets = {net.name for net in read(["archs=all", *own]).nets}
    files = {path.stem for path in (CONF / "arch").glob("*.yaml")}
    assert nets == files - {"small_cnn", "timm", "torchvision", "resnet18"} | {"timm/vgg11"}


def test_words_of_one_net_are_for_it_alone():
    nets = ["archs=resnet18,timm/resnet18.a1_in1k,resnet18", "archs.resnet18.weights=null"]
    own = ["+archs.timm/resnet18.a1_in1k.drop_rate=0.5"]
    found = read([*nets, *own, "seed=3", "folds=4"])
    assert [net.name for net in found.nets] == ["resnet18", "timm/resnet18.a1_in1k"]
    plain, library = (net.cfg for net in found.nets)
    assert plain.arch.weights is None
    assert library.arch.weights == "DEFAULT"
    assert (library.arch.name, library.arch.drop_rate) == ("resnet18.a1_in1k", 0.5)
    assert (found.folds, found.shared, plain.seed) == (4, ["seed=3"], 3)


# --- folds ----------------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path: Path) -> SimpleNamespace:
    """Photos of three classes, of which some are there several times, also across classes."""
    root = make_photos(tmp_path / "twins", train=14, test=1) / "train"
    for i in range(3):
        shutil.copy(root / "red" / "0.jpg", root / "red" / f"twin{i}.jpg")
    shutil.copy(root / "red" / "1.jpg", root / "blue" / "twin.jpg")
    data = PhotoFolder(str(root.parent), val="test", test_fraction=0.1, test=None).ready()
    found = data.splits["train"]
    alike = data.known.alike([data.root / sample.path for sample in found])
    return SimpleNamespace(root=data.root, all=found, classes=data.classes, alike=alike)


def test_folds_hold_each_photo_once_stratified_with_twins_together(samples):
    for seed in range(5):
        folds = fold_of_each(samples.all, samples.classes, 4, seed, samples.alike)
        assert len(folds) == len(samples.all)
        assert set(folds.tolist()) == {0, 1, 2, 3}
        by_content: dict[bytes, set[int]] = {}
        for sample, fold in zip(samples.all, folds.tolist(), strict=True):
            by_content.setdefault((samples.root / sample.path).read_bytes(), set()).add(fold)
        assert len(by_content) < len(samples.all)
        assert all(len(found) == 1 for found in by_content.values())
        labels = [sample.label for sample in samples.all]
        counts = Counter(zip(folds.tolist(), labels, strict=True))
        for label in range(3):
            of_label = [counts[fold, label] for fold in range(4)]
            assert max(of_label) - min(of_label) <= 3  # four are one photo
    one, other = (
        fold_of_each(samples.all, samples.classes, 4, seed, samples.alike) for seed in (0, 1)
    )
    assert not torch.equal(one, other)


def test_a_class_with_too_few_photos_is_refused(samples):
    few = [s for s in samples.all if s.label != 2] + [s for s in samples.all if s.label == 2][:2]
    sentence = refusal(fold_of_each, few, samples.classes, 3, 0, range(len(few)))
    assert "'red' has 2 in train and val; add photos" in sentence


# --- the probe ------------------------------------------------------------------------------------


def test_the_head_of_squeezenet_reads_means_over_places(few, weights, tmp_path):
    data = PhotoFolder(str(few)).ready()
    backbone = pretrained.torchvision("squeezenet1_1", str(weights("squeezenet1_1")))
    backbone.reset_head(3)
    backbone.thaw(["head"])
    extractor = Extractor(FeatureCache(str(tmp_path)), backbone, data)
    found, milliseconds = head_inputs(extractor)
    samples = data.splits["train"] + data.splits["val"]
    photos = [backbone.transforms(load_photo(data.root / s.path)) for s in samples]
    with torch.inference_mode():
        expected = backbone.net.get_submodule("features")(torch.stack(photos)).mean(dim=(2, 3))
    assert torch.allclose(found, expected, atol=1e-4)
    assert milliseconds is not None
    assert head_inputs(extractor)[1] is None
    assert not backbone.head._forward_pre_hooks


# --- the verdict ----------------------------------------------------------------------------------


def probed(name: str, right: list[int], loss: float = 0.5, ms: float = 1.0, *words: str) -> Probed:
    share = sum(right) / len(right)
    metrics = {"probe/acc": share, "probe/loss": loss, "probe/acc_low": 0.0, "probe/acc_high": 1.0}
    metrics |= {"model/latency_ms": ms}
    net = Net(name, list(words) or [f"arch={name}"], OmegaConf.create())
    return Probed(net, np.array(right, dtype=bool), metrics, None, 224, "file")


@pytest.fixture
def board() -> Shortlist:
    good = [1] * 36 + [0] * 4
    close = [1] * 30 + [0] * 3 + [1] * 5 + [0] * 2
    nets = {"bad": [1] * 10 + [0] * 30, "close": close, "good": good}
    slow = {"good": 5.0, "close": 2.0, "bad": 1.0}
    return rank([probed(name, right, ms=slow[name]) for name, right in nets.items()])


def test_nets_are_compared_with_the_first_on_the_same_photos(board):
    assert [net.name for net in board.nets] == ["good", "close", "bad"]
    good, close, bad = (net.right.astype(int) for net in board.nets)
    assert board.p == [
        None,
        min(1.0, 2 * paired_p(good - close)),
        min(1.0, 2 * paired_p(good - bad)),
    ]
    assert [net.name for net in board.level] == ["good", "close"]
    assert sentences(board)[1:] == [
        "It beats bad (p < 0.05).",
        "It can't be told apart from close.",
        "Of these close is the quickest: 2.0 ms a photo, where good takes 5.0.",
    ]


def test_photos_of_a_group_are_right_or_wrong_together(board):
    keys = [0] * 10 + [1] * 10 + [2] * 20  # the worst is wrong in two groups, and never in one
    nets = [replace(net, keys=keys) for net in board.nets]
    grouped = rank(nets)
    assert grouped.groups == 3
    assert grouped.p[2] == 1.0
    assert board.p[2] < 0.001
    assert "of 40 photos in 3 groups" in sentences(grouped)[0]


def test_equal_accuracies_are_ranked_by_loss():
    nets = [probed("a", [1, 1, 0], 0.5), probed("b", [1, 0, 1], 0.4)]
    assert [net.name for net in rank(nets).nets] == ["b", "a"]


def test_what_to_type_next(board):
    assert commands(board, ["data=folder", "data.root=my photos"]) == [
        "thaw train -m arch=good,close data=folder 'data.root=my photos'"
    ]
    right = [1, 1, 1]
    timm = [probed(f"timm/{n}", right, 0.5, 1.0, "arch=timm", f"arch.name={n}") for n in "ab"]
    file = probed("c", right, 0.5, 1.0, "arch=c", "arch.weights=c.pth")
    assert commands(rank([*timm, file, probed("d", right)]), ["seed=1"]) == [
        "thaw train -m arch=timm arch.name=a,b seed=1",
        "thaw train arch=c arch.weights=c.pth seed=1",
        "thaw train arch=d seed=1",
    ]
