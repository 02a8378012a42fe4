"""What a model may be asked about, and that it answers once for each, in order."""

from pathlib import Path

import numpy as np
import pytest
from conftest import refusal
from PIL import Image

import thaw
from thaw.model.bundle import Model


@pytest.fixture(scope="module")
def model(finished) -> Model:
    return thaw.load(finished.run)


@pytest.fixture(scope="module")
def paths(finished) -> list[Path]:
    return sorted(finished.photos.glob("test/*/*.jpg"))[:5]


def test_each_photo_is_answered_once_in_order_duplicates_too(model: Model, paths: list[Path]):
    asked = [paths[3], paths[0], paths[3], str(paths[1]), paths[3]]
    answers = list(model.predict(asked, batch_size=2))
    assert [answer.path for answer in answers] == [str(path) for path in asked]
    first = answers[0].probabilities
    assert all(a.probabilities == pytest.approx(first, abs=1e-5) for a in answers[2::2])


@pytest.mark.parametrize("kind", ["Path", "str", "PIL", "array", "folder"])
def test_one_photo_of_any_kind(model: Model, paths: list[Path], kind: str, tmp_path: Path):
    path = paths[0]
    expected = next(model.predict([path])).probabilities
    (tmp_path / "one.jpg").write_bytes(path.read_bytes())
    with Image.open(path) as image:  # read only when it is looked at
        given = {
            "Path": lambda: path,
            "str": lambda: str(path),
            "PIL": lambda: image,
            "array": lambda: np.asarray(image),
            "folder": lambda: tmp_path,
        }[kind]()
        (answer,) = model.predict(given)
    assert answer.probabilities == pytest.approx(expected, abs=1e-5)
    names = {"PIL": "photo 0", "array": "photo 0", "folder": str(tmp_path / "one.jpg")}
    assert answer.path == names.get(kind, str(path))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "CMYK", "1", "I;16"])
def test_images_of_any_mode(model: Model, mode: str):
    image = Image.fromarray(np.full((40, 40), 900, np.uint16)) if mode == "I;16" else None
    image = image or Image.new("RGB", (40, 40), (200, 60, 60)).convert(mode)
    (answer,) = model.predict([image])
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "got a int"),
        (None, "got a NoneType"),
        ([3], "photo 0"),
        ([np.zeros((4, 4, 3))], "an array of float64 [4, 4, 3]"),
        (np.zeros((3, 40, 40), np.uint8), "[3, 40, 40]"),
        ([b"abc"], "got a bytes"),
    ],
)
def test_what_is_no_photo_is_named(model: Model, given: object, words: str):
    sentence = refusal(lambda: list(model.predict(given)))
    assert words in sentence
    assert "a PIL image" in sentence


@pytest.mark.parametrize("threshold", [7, -0.1, float("nan"), "high", True])
def test_a_threshold_is_a_number_from_0_to_1(model: Model, paths: list[Path], threshold: object):
    assert repr(threshold) in refusal(lambda: model.predict(paths, threshold=threshold))


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_batch_holds_a_photo(model: Model, paths: list[Path], size: object):
    assert "batch_size" in refusal(lambda: model.predict(paths, batch_size=size))
