"""`scripts/anchors.py`: sets that are downloaded, from a server of our own, and the table."""

import hashlib
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import COLOURS, make_photos, paint, refusal
from torchvision.datasets import Flowers102, OxfordIIITPet

from thaw.benchmark import published
from thaw.data.listing import table


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, and the address that it is served at."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def packed(source, archive):
    """Pack what is in a folder; → the archive's MD5."""
    with tarfile.open(archive, "w:gz") as file:
        for path in sorted(source.iterdir()):
            file.add(path, path.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


def splits(listing):
    found = {}
    for entry in listing.entries:
        found.setdefault(entry.split, []).append((entry.path.rpartition("/")[2], entry.label))
    return found


def test_pets_are_read_by_their_lists(served, tmp_path, monkeypatch):
    folder, address = served
    source = tmp_path / "source"
    names = {"trainval": ["Sphynx_1", "great_pyrenees_1"], "test": ["Sphynx_2"]}
    for name in [*names["trainval"], *names["test"]]:
        paint(source / "images" / "images" / f"{name}.jpg", (9, 9, 9), seed=0)
    lists = source / "annotations" / "annotations"
    lists.mkdir(parents=True)
    for split, photos in names.items():
        (lists / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in photos))
    resources = [
        (f"{address}{part}.tar.gz", packed(source / part, folder / f"{part}.tar.gz"))
        for part in ("images", "annotations")
    ]
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", resources)
    root = tmp_path / "pets"
    assert published.pets(root) == ["data=table", f"data.file='{root / 'labels.csv'}'"]
    listing = table.read(
        root / "labels.csv", None, {split: split for split in ("train", "val", "test")}
    )
    assert splits(listing) == {
        "train": [("Sphynx_1.jpg", "Sphynx"), ("great_pyrenees_1.jpg", "great_pyrenees")],
        "test": [("Sphynx_2.jpg", "Sphynx")],
    }
    shutil.rmtree(folder)
    published.pets(root)  # nothing is downloaded twice


def test_what_is_not_what_was_published_is_refused(served, tmp_path, monkeypatch):
    folder, address = served
    (folder / "images.tar.gz").write_bytes(b"something else")
    resources = [(f"{address}images.tar.gz", "0" * 32)]
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", resources)
    assert "MD5" in refusal(published.pets, tmp_path / "pets")
    assert not (tmp_path / "pets" / "images").exists()


def test_flowers102_are_read_by_their_numbers(served, tmp_path, monkeypatch):
    savemat = pytest.importorskip("scipy.io").savemat
    folder, address = served
    for i in (1, 2, 3):
        paint(tmp_path / "source" / "jpg" / f"image_{i:05}.jpg", (9, 9, 9), seed=i)
    md5 = packed(tmp_path / "source", folder / "102flowers.tgz")
    savemat(folder / "imagelabels.mat", {"labels": [[77, 2, 77]]})
    savemat(folder / "setid.mat", {"trnid": [[3]], "valid": [[1]], "tstid": [[2]]})
    files = {"image": ("102flowers.tgz", md5), "label": ("imagelabels.mat", "")}
    monkeypatch.setattr(Flowers102, "_download_url_prefix", address)
    monkeypatch.setattr(Flowers102, "_file_dict", files | {"setid": ("setid.mat", "")})
    published.flowers102(tmp_path / "flowers")
    names = {split: split for split in ("train", "val", "test")}
    assert splits(table.read(tmp_path / "flowers" / "labels.csv", None, names)) == {
        "train": [("image_00003.jpg", "077")],
        "val": [("image_00001.jpg", "077")],
        "test": [("image_00002.jpg", "002")],
    }


def test_folders_are_downloaded_as_they_are(served, tmp_path, monkeypatch):
    folder, address = served
    photos = make_photos(tmp_path / "photos", train=2, test=1)
    (tmp_path / "flower_photos").mkdir()
    shutil.copytree(photos / "train", tmp_path / "source" / "flower_photos")
    md5 = packed(tmp_path / "source", folder / "flower_photos.tgz")
    monkeypatch.setattr(published, "FLOWERS", (f"{address}flower_photos.tgz", md5))
    data, root = published.tf_flowers(tmp_path / "flowers")
    assert data == "data=folder"
    assert len([*(tmp_path / "flowers").rglob("*.jpg")]) == 6
    assert root == f"data.root='{tmp_path / 'flowers' / 'photos' / 'flower_photos'}'"
    for split, own in (("train", "train"), ("validation", "test"), ("test", "test")):
        shutil.copytree(photos / own, tmp_path / split / split)
        shutil.make_archive(str(folder / split), "zip", tmp_path / split)
    monkeypatch.setattr(published, "BEANS", address)
    *_, val = published.beans(tmp_path / "beans")
    assert val == "data.val=validation"
    assert sorted(path.name for path in (tmp_path / "beans" / "validation").iterdir()) == [*COLOURS]


def test_a_set_that_is_none_is_refused(call_script):
    done = call_script("anchors", "nowhere")
    assert done.code == 2
    assert done.err.startswith("Expected pets, flowers102,")


@pytest.mark.slow
def test_figures_stand_beside_published_ones(call_script, few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [f"flowers={few}", "--seeds", 2, "--recipes", "head_only", "--out", "out"]
    done = call_script("anchors", *arguments)
    assert done.code == 0, done.err
    text = (tmp_path / "out" / "anchors.md").read_text()
    assert text in done.out
    head, _, name, own, *others = text.splitlines()
    assert head.startswith("| by | how |")
    assert "**flowers**" in name
    assert own.startswith("| Thaw | efficientnet_lite0, head_only | ")
    assert ", 2 seeds | " in own
    assert "| 53.5 |" in others[1]
