"""`thaw check` through the user's door: what it prints, and the files that it writes."""

import csv
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import make_photos, paint
from PIL import Image

import thaw
from thaw.data.photos import BrokenPhoto, load_photo

NET = ["arch=small_cnn", "arch.input_size=32", "arch.width=8", "trainer=cpu"]
NASTY = "<b>=1+1[red]&amp;.jpg"


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with a leak, a wrong label, a wrong extension, a broken test photo and odd names."""
    root = make_photos(tmp_path_factory.mktemp("messy") / "photos", train=8, test=3)
    shutil.copy(root / "train/red/0.jpg", root / "test/red/leak.jpg")
    paint(root / "train/green" / NASTY, (200, 60, 60), 7)  # red, labelled green
    shutil.copy(root / "train/green" / NASTY, root / "train/red/=twice.jpg")
    Image.open(root / "train/blue/1.jpg").save(root / "train/blue/1.jpg", format="PNG")
    (root / "test/red/broken.jpg").write_bytes(b"half a photo")
    return root


@pytest.fixture
def checked(messy, tmp_path, monkeypatch, call_script):
    """Call `scripts/check.py ARGUMENTS` on these photos: → code, out, err, and `folder`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("thaw.checks.check.FOLDS", 3)

    def call(*arguments: str):
        done = call_script("check", "data=folder", f"data.root={messy}", *NET, *arguments)
        done.folder = next(iter(tmp_path.glob("outputs/check/*")), None)
        return done

    return call


class Page(HTMLParser):
    """The texts and images of a page, and whatever it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.loads: list[str] = []
        self.texts = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        links = [values.get(key) or "" for key in ("src", "href")]
        self.loads += [link for link in links if link and not link.startswith(("data:", "#"))]

    def handle_data(self, data):
        self.texts += data


def test_what_is_planted_is_said_written_and_shown(checked, messy):
    before = {path: path.read_bytes() for path in messy.rglob("*.jpg")}
    done = checked()
    assert done.code == 0, done.err
    assert {path: path.read_bytes() for path in messy.rglob("*.jpg")} == before
    assert {p.name for p in done.folder.iterdir()} == {"check.html", "check.csv", "check.json"}

    text = (done.folder / "check.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "issue,path,other,score,detail,action"
    rows = list(csv.DictReader(io.StringIO(text)))
    by_issue: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        assert row["action"] == ""
        assert 0 <= float(row["score"]) <= 1
        assert not any(value.startswith(("=", "+", "-", "@")) for value in row.values())
        by_issue.setdefault(row["issue"], []).append(row)
    assert by_issue["unreadable"][0]["path"] == "test/red/broken.jpg"
    leak = by_issue["leak"][0]
    assert {leak["path"], leak["other"]} == {"train/red/0.jpg", "test/red/leak.jpg"}
    twins = {by_issue["two_labels"][0]["path"], by_issue["two_labels"][0]["other"]}
    assert twins == {f"train/green/{NASTY}", "train/red/=twice.jpg"}
    assert "named .jpg, but it is PNG" in {row["detail"] for row in by_issue["format"]}
    assert all((messy / row["path"]).is_file() for row in by_issue["leak"] + by_issue["format"])

    facts = json.loads((done.folder / "check.json").read_text(encoding="utf-8"))
    assert facts["photos"]["test"] == 10
    assert [r["issue"] for r in facts["results"]][:3] == ["unreadable", "leak", "two_labels"]
    assert done.out.index("can't be decoded") < done.out.index("across splits")
    assert max(map(len, done.out.splitlines())) <= 80 or str(messy) in done.out

    page = Page((done.folder / "check.html").read_text(encoding="utf-8"))
    assert page.loads == []
    assert not {"b", "script", "link", "iframe"} & set(page.tags)
    assert f"train/green/{NASTY}" in page.texts
    assert page.images
    for image in page.images:
        assert str(image["src"]).startswith("data:image/jpeg;base64,")
        assert str(image["alt"]).startswith("Photo ")


@pytest.mark.slow
def test_again_with_all_in_the_cache_says_the_same(checked, tmp_path, monkeypatch):
    once = checked("--out", str(tmp_path / "a"))

    def refuse(*_):
        raise AssertionError("a photo was decoded for its features")

    monkeypatch.setattr("thaw.training.features.load_photo", refuse)
    monkeypatch.setattr("thaw.checks.facts.load_photo", refuse)
    again = checked("--out", str(tmp_path / "b"))
    assert (once.code, again.code) == (0, 0), again.err
    assert (tmp_path / "a/check.csv").read_bytes() == (tmp_path / "b/check.csv").read_bytes()


def test_a_photo_that_breaks_meanwhile_is_listed_and_no_reason_to_stop(checked, monkeypatch):
    from thaw.training import features

    def load(path, *rest):
        if Path(path).name == "3.jpg" and "green" in str(path):
            raise BrokenPhoto(path, "cut off")
        return load_photo(path, *rest)

    monkeypatch.setattr(features, "load_photo", load)
    done = checked("cache.dir=fresh")
    assert done.code == 0, done.err
    text = (done.folder / "check.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    broken = {row["path"] for row in rows if row["issue"] == "unreadable"}
    assert {"test/red/broken.jpg", "train/green/3.jpg"} <= broken
    assert "train/green/3.jpg" not in {row["path"] for row in rows if row["issue"] == "label"}


@pytest.mark.slow
def test_what_training_refuses_is_listed(tmp_path, monkeypatch, call_script):
    """A class whose photos are all broken, one photo everywhere, too few, and all broken."""
    monkeypatch.chdir(tmp_path)
    lost = make_photos(tmp_path / "lost", train=8, test=1)
    one = Path(shutil.copytree(lost, tmp_path / "one"))
    for path in (lost / "train/green").iterdir():
        path.write_bytes(b"half a photo")
    for path in one.rglob("*.jpg"):
        path.write_bytes((one / "train/red/0.jpg").read_bytes())
    none = Path(shutil.copytree(lost, tmp_path / "none"))
    for path in none.rglob("*.jpg"):
        path.write_bytes(b"half a photo")
    little = Path(shutil.copytree(lost / "test", tmp_path / "little"))  # one of each class
    found = {}
    for root in (little, lost, one, none):
        out = ("--out", f"{root}.out")
        done = call_script("check", "data=folder", f"data.root={root}", *NET, *out)
        assert done.code == (2 if root == none else 0), done.err
        if root != none:
            rows = csv.DictReader(io.StringIO(Path(f"{root}.out/check.csv").read_text()))
            found[root] = [row["issue"] for row in rows]
            facts = json.loads(Path(f"{root}.out/check.json").read_text())
            assert facts["results"][0]["sentence"] in " ".join(done.out.split())
            assert "<section" in Path(f"{root}.out/check.html").read_text()
            assert (root == little) == (
                "refuses a val and a test split" in " ".join(done.out.split())
            )
    assert found[lost].count("unreadable") == 8
    assert found[one].count("leak") == 3
    assert found[one].count("two_labels") == 2 * 8
    assert "no photo of 27 can be decoded" in done.err


def test_what_means_nothing_is_refused_in_a_sentence(checked):
    for word in ("finetune=full", "folds=3", "nonsense"):
        done = checked(word)
        assert done.code == 2
        assert "Expected words that begin with" in done.err
        assert done.folder is None
    done = checked("data.root=nowhere")
    assert done.code == 2
    assert "nowhere" in done.err


def test_in_python(messy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("thaw.checks.check.FOLDS", 3)
    found = thaw.check(*NET, data=messy, out=tmp_path / "out")
    assert found.path == tmp_path / "out"
    assert found.findings[0].issue == "unreadable"
    assert any("across splits" in sentence for sentence in found.sentences)
    assert re.fullmatch(r"Checked\('.*out', \d+ findings\)", repr(found))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Photos of which one is in test too, stored anew, and two classes that are spelled alike."""
    root = make_photos(tmp_path / "photos", train=4, test=2)
    for split in ("train", "test"):
        (root / split / "green").rename(root / split / "Reds")
    Image.open(root / "train/red/1.jpg").save(root / "test/red/copy.jpg", quality=90)
    return root


@pytest.mark.slow
def test_before_training_warn_says_it_once_strict_refuses_off_is_silent(train, copied):
    short = ["data=folder", f"data.root={copied}", "finetune=head_only", *NET]
    done = train(*short, "finetune.phases.head.epochs=1")
    assert done.code == 0, done.err
    log = (done.run / "train.log").read_text(encoding="utf-8")
    assert log.count("spelled alike") == 1
    assert log.count("1 photo is in another split as a copy (train/red/1.jpg = test/red/copy") == 1
    done = train(*short, "data.check=strict")
    assert done.code == 2
    assert "test/red/copy.jpg" in done.err
    assert len(done.err.splitlines()) <= 2
    done = train(*short, "finetune.phases.head.epochs=1", "data.check=off")
    assert done.code == 0
    log = (done.run / "train.log").read_text(encoding="utf-8")
    assert "as a copy" not in log
    assert "spelled alike" not in log


@pytest.mark.slow
def test_names_that_are_no_text_are_written_and_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("thaw.checks.check.FOLDS", 3)
    root = make_photos(tmp_path / "photos", train=4, test=2)
    odd = Path(os.fsdecode(os.fsencode(root / "test/red") + b"/\xff.jpg"))
    try:
        shutil.copy(root / "train/red/1.jpg", odd)
    except OSError:
        pytest.skip("this file system holds text alone")
    found = thaw.check(*NET, data=root, out=tmp_path / "out")
    assert found.findings[0].issue == "leak"
    for name in ("check.csv", "check.json", "check.html"):
        assert "test/red/\\udcff.jpg" in (tmp_path / "out" / name).read_text(encoding="utf-8")
