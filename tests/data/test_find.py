"""Which files are photos, and why the others aren't used."""

import os
from pathlib import Path

import pytest
from PIL import Image

from thaw.data.find import LeftOut, counted, find, find_and_tell, find_photos, is_photo
from thaw.errors import UserError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("a.JPEG", True),
        ("a.png", True),
        ("a.webp", True),
        ("a.txt", False),
        ("a.gif", True),
        ("a.HEIC", True),
        ("Thumbs.db", False),
        ("SYNOPHOTO_THUMB_XL.jpg", False),
        ("jpg", False),
        ("._a.jpg", False),
        (".hidden.png", False),
    ],
)
def test_a_photo_is_known_by_its_name(name: str, expected: bool):
    assert is_photo(name) is expected
    assert is_photo(Path("folder.d") / name) is expected


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_photos_below_a_folder_are_found_in_order(tmp_path: Path):
    touch(tmp_path, "b/2.jpg", "b/1.PNG", "a/deep/3.webp", "notes.txt", "a/._3.webp", "0.jpg")
    found = [path.relative_to(tmp_path).as_posix() for path in find_photos([tmp_path])]
    assert found == ["0.jpg", "a/deep/3.webp", "b/1.PNG", "b/2.jpg"]


def test_hidden_folders_are_passed_over(tmp_path: Path):
    touch(tmp_path, "a.jpg", ".thumbnails/a.jpg", "b/.ipynb_checkpoints/b.jpg", "b/b.jpg")
    assert find_photos([tmp_path]) == [tmp_path / "a.jpg", tmp_path / "b" / "b.jpg"]
    hidden = tmp_path / ".thumbnails"
    assert find_photos([hidden]) == [hidden / "a.jpg"], "one that is named is meant"


def test_what_is_named_comes_as_named(tmp_path: Path):
    touch(tmp_path, "z/1.jpg", "z/2.jpg", "a.jpg")
    places = [tmp_path / "z", tmp_path / "a.jpg"]
    assert find_photos(places) == [tmp_path / "z/1.jpg", tmp_path / "z/2.jpg", tmp_path / "a.jpg"]


def test_all_missing_places_are_named_at_once(tmp_path: Path):
    touch(tmp_path, "here.jpg")
    with pytest.raises(UserError) as caught:
        find_photos([tmp_path / "one", tmp_path / "here.jpg", tmp_path / "two.jpg"])
    assert str(tmp_path / "one") in str(caught.value)
    assert str(tmp_path / "two.jpg") in str(caught.value)
    assert "here.jpg" not in str(caught.value)


def test_a_folder_without_photos_is_named(tmp_path: Path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(UserError, match=r"\.jpg") as caught:
        find_photos([tmp_path])
    assert str(tmp_path) in str(caught.value)


def reasons(root: Path) -> dict[str, str]:
    return {left.path.relative_to(root).as_posix(): left.reason for left in find(root).left_out}


CLUTTER = [
    *("__MACOSX/._a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".git/a.jpg"),
    *("@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/a.jpg", ".ipynb_checkpoints/a.jpg"),
    *("lost+found/a.jpg", "$RECYCLE.BIN/a.jpg", "System Volume Information/a.jpg"),
    *(".Trash-1000/a.jpg", ".thumbnails/a.jpg", "@EADIR/a.jpg"),
]


@pytest.mark.parametrize("name", CLUTTER)
@pytest.mark.parametrize("depth", ["", "class/", "class/deep/"])
def test_what_systems_leave_behind_is_no_photo_at_any_depth(tmp_path: Path, name: str, depth: str):
    touch(tmp_path, "class/deep/a.jpg", depth + name)
    assert find(tmp_path).photos == [tmp_path / "class/deep/a.jpg"]
    assert reasons(tmp_path) == {depth + name.partition("/")[0]: "hidden or of the system"}


def test_each_file_is_a_photo_or_left_out_for_a_reason(tmp_path: Path):
    touch(tmp_path, "a.jpg", "notes.txt", "b/more.txt", "b/film.mov", "b/README")
    for name in ("no_extension", "shot.bak", "shot.NEF"):
        Image.new("RGB", (2, 2)).save(tmp_path / name, "PNG")
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "absent.jpg")
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "linked.jpg").symlink_to(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = find(tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in found.photos]
    assert names == ["a.jpg", "b/linked.jpg", "no_extension"]
    assert reasons(tmp_path) == {
        "b/README": "without extension",
        "b/film.mov": ".mov",
        "b/more.txt": ".txt",
        "b/up": "link in a circle",
        "dead.jpg": "dead link",
        "notes.txt": ".txt",
        "pipe.jpg": "neither file nor folder",
        "self.jpg": "link in a circle",
        "shot.bak": ".bak that is a photo by its content (rename it)",
        "shot.NEF": ".nef (camera raw: export it as JPEG)",
    }
    assert counted(found.left_out).startswith("2 .txt, 2 link in a circle, 1 ")


def test_what_lies_beside_photos_is_handed_over(tmp_path: Path):
    touch(tmp_path, "a.jpg", "notes.txt")
    left_out: list[LeftOut] = []
    assert find_photos([tmp_path], left_out) == [tmp_path / "a.jpg"]
    assert left_out == [LeftOut(tmp_path / "notes.txt", ".txt")]


def test_what_is_not_used_is_told_as_training_tells_it(tmp_path, capsys):
    touch(tmp_path, "a.jpg", "notes.txt", "b/more.txt")
    assert find_and_tell([tmp_path]) == [tmp_path / "a.jpg"]
    assert capsys.readouterr().err == "not used: 2 .txt\n"
