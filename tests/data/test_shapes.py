"""`data=shapes`: the same bytes for the same arguments, and a folder that is whole or not there."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thaw.data import shapes
from thaw.data.find import find
from thaw.errors import UserError

SMALL = {"train_per_class": 2, "test_per_class": 1, "size": 32}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    shapes.draw(root, **SMALL)
    return root


def test_classes_are_five_and_sorted():
    assert len(shapes.CLASSES) == 5
    assert list(shapes.CLASSES) == sorted(set(shapes.CLASSES))


def test_layout(drawn: Path):
    expected = {
        f"{split}/{name}/{index:04d}.jpg"
        for split, count in (("train", 2), ("test", 1))
        for name in shapes.CLASSES
        for index in range(count)
    }
    assert set(contents(drawn)) == expected
    assert [path.name for path in drawn.parent.iterdir()] == ["shapes"]  # nothing left beside it
    manifest = json.loads((drawn / "shapes.json").read_text())
    assert manifest == {"format": shapes.FORMAT, "seed": 0, **SMALL}
    assert not find(drawn).left_out  # so that training has nothing to say of it


@pytest.mark.parametrize("size", [32, 75])
def test_photos_are_rgb_of_the_size_asked(tmp_path: Path, size: int):
    shapes.draw(tmp_path / "shapes", 1, 1, size)
    for path in (tmp_path / "shapes").rglob("*.jpg"):
        with Image.open(path) as photo:
            assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (size, size))
            assert np.asarray(photo).std() > 5, f"{path} is nearly blank"


def test_a_seed_fixes_every_byte(drawn: Path, tmp_path: Path):
    shapes.draw(tmp_path / "same", **SMALL)
    shapes.draw(tmp_path / "other", **SMALL, seed=1)
    assert contents(tmp_path / "same") == contents(drawn)
    assert not set(contents(tmp_path / "other").values()) & set(contents(drawn).values())


def test_no_photo_comes_twice(drawn: Path):
    photos = contents(drawn)
    assert len(set(photos.values())) == len(photos)


def test_more_photos_leave_the_first_as_they_are(drawn: Path, tmp_path: Path):
    shapes.draw(tmp_path / "more", **{**SMALL, "train_per_class": 3, "test_per_class": 2})
    assert contents(drawn).items() <= contents(tmp_path / "more").items()


def test_pool_draws_the_same(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shapes, "POOL_ABOVE", 0)
    monkeypatch.setattr(shapes, "CHUNK", 8)
    shapes.draw(tmp_path / "pool", **SMALL)
    assert contents(tmp_path / "pool") == contents(drawn)


def test_drawn_once(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shapes, "_draw_all", lambda *_: pytest.fail("drawn again"))
    shapes.draw(drawn, **SMALL)


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 33}, {"train_per_class": 3}])
def test_other_arguments_are_refused(drawn: Path, change: dict[str, int]):
    before = contents(drawn)
    with pytest.raises(UserError, match=r"expects .* to hold .* but it holds .* choose another"):
        shapes.draw(drawn, **{**SMALL, **change})
    assert contents(drawn) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="photos of yours, say data=folder"):
        shapes.draw(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    "bad",
    [
        {"train_per_class": 0},
        {"test_per_class": -1},
        {"size": 31},
        {"seed": -1},
        {"size": "large"},
        {"train_per_class": 20_000},
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, bad: dict):
    with pytest.raises(UserError, match=next(iter(bad))):
        shapes.draw(tmp_path / "shapes", **{**SMALL, **bad})
    assert not list(tmp_path.iterdir())


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "photo", interrupt)
    with pytest.raises(KeyboardInterrupt):
        shapes.draw(tmp_path / "shapes", **SMALL)
    assert not list(tmp_path.iterdir())


def test_a_killed_drawing_does_not_matter(drawn: Path, tmp_path: Path):
    left = tmp_path / ".shapes.7-ab.partial" / "train" / "leaf"
    left.mkdir(parents=True)
    (left / "0000.jpg").write_bytes(b"half a pho")
    shapes.draw(tmp_path / "shapes", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert contents(tmp_path / "shapes") == contents(drawn)


def test_losing_the_race_is_no_error(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, draw_all = tmp_path / "shapes", shapes._draw_all

    def overtaken(*args):
        draw_all(*args)
        monkeypatch.setattr(shapes, "_draw_all", draw_all)
        shapes.draw(root, **SMALL)  # as another process would, while this one was drawing

    monkeypatch.setattr(shapes, "_draw_all", overtaken)
    shapes.draw(root, **SMALL)
    assert contents(root) == contents(drawn)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
