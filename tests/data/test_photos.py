"""Whatever a camera or an editor wrote, the same upright RGB pixels; or one sentence."""

import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thaw.data.photos import broken_photos, load_photo
from thaw.errors import UserError

# How the upright photo was turned before it was stored, by EXIF orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
ORIENTATION = 0x0112


def upright() -> Image.Image:
    """No two corners or edges alike, and not square."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_every_exif_orientation_gives_the_same_upright_pixels(
    tmp_path: Path, orientation: int, suffix: str
):
    turn = STORED[orientation]
    stored = upright() if turn is None else upright().transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(stored, tmp_path / f"photo{suffix}", exif=exif, **options)
    assert np.array_equal(pixels(load_photo(path)), pixels(upright()))


@pytest.mark.parametrize("orientation", STORED)
def test_a_jpeg_is_turned_upright(tmp_path: Path, orientation: int):
    smooth = upright().resize((4, 3)).resize((64, 48), Image.Resampling.BICUBIC)
    turn = STORED[orientation]
    stored = smooth if turn is None else smooth.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(stored, tmp_path / "photo.jpg", exif=exif, quality=98, subsampling=0)
    difference = pixels(load_photo(path)).astype(int) - pixels(smooth)
    assert np.abs(difference).max() < 16


def test_a_grey_photo_has_three_equal_channels(tmp_path: Path):
    grey = upright().convert("L")
    found = pixels(load_photo(saved(grey, tmp_path / "grey.png")))
    assert np.array_equal(found, np.stack([np.asarray(grey)] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_the_colours_stay(tmp_path: Path, mode: str):
    image = upright().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    colours = upright() if mode == "RGBA" else upright().convert("L").convert("RGB")
    found = load_photo(saved(image, tmp_path / "alpha.png"))
    assert np.array_equal(pixels(found), pixels(colours))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(16))], ids=["none", "one", "all"])
def test_a_palette_is_resolved(tmp_path: Path, transparency: int | bytes | None):
    image = upright().quantize(16)
    expected = pixels(image.convert("RGB"))
    options = {} if transparency is None else {"transparency": transparency}
    path = saved(image, tmp_path / "palette.png", **options)
    assert np.array_equal(pixels(load_photo(path)), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, suffix: str):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = saved(Image.fromarray(values * 257), tmp_path / f"deep{suffix}")
    found = pixels(load_photo(path))
    assert np.array_equal(found, np.stack([values] * 3, axis=-1))


def test_big_endian_sixteen_bit_grey_is_read_too(tmp_path: Path):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    image = Image.frombytes("I;16B", (16, 16), (values * 257).astype(">u2").tobytes())
    found = pixels(load_photo(saved(image, tmp_path / "deep.tif")))
    assert np.array_equal(found, np.stack([values] * 3, axis=-1))


def test_black_and_white_is_read(tmp_path: Path):
    image = upright().convert("1")
    found = pixels(load_photo(saved(image, tmp_path / "bits.png")))
    assert np.array_equal(found, pixels(image.convert("RGB")))
    assert set(np.unique(found)) == {0, 255}


@pytest.mark.parametrize("colour", [(250, 10, 10), (10, 250, 10), (10, 10, 250), (240, 240, 240)])
def test_cmyk_keeps_its_colours(tmp_path: Path, colour: tuple[int, int, int]):
    image = Image.new("RGB", (32, 32), colour).convert("CMYK")
    found = pixels(load_photo(saved(image, tmp_path / "print.jpg", quality=98)))
    assert np.abs(found.astype(int) - colour).max() < 12


# --- what can't be decoded ------------------------------------------------------------------------


def jpeg() -> bytes:
    buffer = io.BytesIO()
    upright().resize((160, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be this large."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk


BROKEN = {
    "truncated.jpg": jpeg()[:-800],
    "header_only.jpg": jpeg()[:200],
    "empty.jpg": b"",
    "text.jpg": b"<html>404 Not Found</html>",
    "huge.png": png_header(60_000, 60_000),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_can_not_be_decoded_is_named_in_one_sentence(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(UserError) as caught:
        load_photo(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence


def test_a_photo_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="no such file") as caught:
        load_photo(tmp_path / "absent.jpg")
    assert str(tmp_path / "absent.jpg") in str(caught.value)


def test_exactly_the_broken_photos_are_found_with_a_reason(tmp_path: Path):
    for name, content in BROKEN.items():
        (tmp_path / name).write_bytes(content)
    whole = [
        saved(upright(), tmp_path / "whole.png"),
        saved(upright(), tmp_path / "whole.jpg"),
        saved(upright().quantize(16), tmp_path / "palette.png", transparency=3),
        saved(upright().convert("CMYK"), tmp_path / "print.jpg"),
    ]
    found = broken_photos(sorted(tmp_path.iterdir()))
    assert {path.name for path in found} == set(BROKEN)
    assert all(found.values()), "each has a reason"
    assert broken_photos(whole) == {}


def test_what_passes_the_check_can_be_loaded(tmp_path: Path):
    """A photo that the quick check lets through must not stop the training hours later."""
    whole = jpeg()
    paths = []
    for kept in range(0, len(whole) + 1, len(whole) // 40):
        paths.append(tmp_path / f"{kept:05}.jpg")
        paths[-1].write_bytes(whole[:kept])
    broken = broken_photos(paths)
    for path in paths:
        if path in broken:
            with pytest.raises(UserError):
                load_photo(path)
        else:
            assert load_photo(path).size == (160, 120)
    assert len(broken) > len(paths) // 2


def test_threads_that_decode_leave_the_warning_filters_as_they_were(tmp_path: Path):
    path = saved(Image.new("RGB", (8, 8)), tmp_path / "photo.png")
    before = [*warnings.filters]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # as many races as there can be
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(load_photo, [path] * 400))
    finally:
        sys.setswitchinterval(interval)
    assert [*warnings.filters] == before
