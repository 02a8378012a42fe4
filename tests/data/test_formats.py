"""Every format that people's folders hold, however large, deep or wrongly named."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image
from test_photos import ORIENTATION, STORED
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

import thaw
from thaw.data import photos
from thaw.data.augment import augmented
from thaw.data.dataset import seen
from thaw.data.find import find
from thaw.data.photos import BrokenPhoto, broken_photos, load_photo
from thaw.data.pixels.deep import white_of

pillow_heif.register_heif_opener()


def picture() -> Image.Image:
    """Large even patches, of which no two corners are alike."""
    patches = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(patches, np.ones((16, 16, 1), np.uint8)))


FORMATS = {
    **dict.fromkeys((".jpg", ".JPG", ".jpeg", ".jpe", ".jfif"), ("JPEG", {"quality": 95})),
    ".png": ("PNG", {}),
    ".bmp": ("BMP", {}),
    ".webp": ("WEBP", {"quality": 95}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".gif": ("GIF", {}),
    ".ppm": ("PPM", {}),
    ".jp2": ("JPEG2000", {}),
    ".j2k": ("JPEG2000", {"no_jp2": True}),
    ".mpo": ("MPO", {"save_all": True, "append_images": [Image.new("RGB", (96, 64))]}),
    ".avif": ("AVIF", {"quality": 95}),
    ".heic": ("HEIF", {"quality": 95}),
    ".HEIF": ("HEIF", {"quality": 95}),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_is_found_and_decoded_whatever_its_name(tmp_path: Path, suffix: str):
    kind, options = FORMATS[suffix]
    path = tmp_path / f"photo{suffix}"
    picture().save(path, kind, **options)
    assert find(tmp_path).photos == [path]
    found = np.asarray(load_photo(path)).astype(int)
    assert np.abs(found - np.asarray(picture())).mean() < 12
    wrong = path.rename(tmp_path / "photo.png")
    assert np.array_equal(found, np.asarray(load_photo(wrong))), "known by its content"
    with wrong.open("rb") as file:
        assert np.array_equal(found, np.asarray(load_photo(io.BytesIO(file.read()))))


def test_names_of_other_formats_are_counted(tmp_path: Path):
    picture().save(tmp_path / "a.jpg", "PNG")
    picture().save(tmp_path / "b.JPG", "PNG")
    picture().save(tmp_path / "c.jpg", "JPEG")
    picture().save(tmp_path / "d.mpo", "MPO")
    picture().save(tmp_path / "without", "PNG")
    paths = find(tmp_path).photos
    assert broken_photos(paths) == {}
    assert photos.misnamed(paths) == {".jpg: PNG": 2}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "HEIF with EXIF alone", "MPO"])
def test_photos_of_phones_are_turned_upright(tmp_path: Path, orientation: int, kind: str):
    turn = STORED[orientation]
    stored = picture() if turn is None else picture().transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    # pillow-heif says it in HEIF's own way where it gets bytes.
    given = exif if kind == "HEIF with EXIF alone" else exif.tobytes()
    path = tmp_path / "photo.jpg"
    stored.save(path, kind.split()[0], exif=given, quality=95)
    found = load_photo(path)
    assert found.size == picture().size
    assert np.abs(np.asarray(found).astype(int) - np.asarray(picture())).mean() < 12


# --- more than 8 bits -----------------------------------------------------------------------------


def deep_png(values: np.ndarray) -> bytes:
    """`[H, W]` or `[H, W, 3]` of 16 bits."""

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    colour = 2 if values.ndim == 3 else 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def ramp(bits: int, channels: int) -> np.ndarray:
    values = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16).reshape(16, 16)
    return values if channels == 1 else np.stack([values, values[::-1], values.T], axis=-1)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_bits_that_are_used_reach_from_black_to_white(bits: int, channels: int):
    values = ramp(bits, channels)
    found = np.asarray(load_photo(io.BytesIO(deep_png(values)))).astype(int)
    expected = (values / (2**bits - 1) * 255).astype(int).reshape(16, 16, -1)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_white_is_that_of_the_data_and_not_of_the_photo(tmp_path: Path, channels: int):
    bright, dark = tmp_path / "bright.png", tmp_path / "dark.png"
    bright.write_bytes(deep_png(ramp(12, channels)))
    dark.write_bytes(deep_png(ramp(12, channels) // 8))
    assert broken_photos([bright, dark]) == {}
    white = photos.white_of([bright, dark])
    assert white == {"integer": 4095}
    for path, part in ((bright, 1), (dark, 8)):
        found = np.asarray(load_photo(path, white))
        assert abs(int(found.max()) - 255 // part) <= 1
    assert np.asarray(load_photo(dark)).max() == 127, "by itself it has 10 bits"


@pytest.mark.parametrize(("peak", "white"), [(0.5, 1), (1, 1), (200, 255), (4000, 4095)])
def test_floats_reach_from_black_to_white(tmp_path: Path, peak: float, white: float):
    path = tmp_path / "photo.tif"
    values = np.linspace(-peak / 4, peak, 256, dtype=np.float32).reshape(16, 16)
    values[0, 0] = np.nan
    Image.fromarray(values).save(path)
    assert broken_photos([path]) == {}
    assert photos.white_of([path]) == {"float": white}
    found = np.asarray(load_photo(path))[..., 0].astype(int)
    expected = np.nan_to_num(values).clip(0) / white * 255
    assert np.abs(found - expected).max() <= 1


def test_white_of_whole_numbers_and_floats_of_any_size():
    for bits in (8, 10, 12, 14, 16, 24, 32):
        assert white_of([("integer", 2**bits - 1)]) == {"integer": 2**bits - 1}
    assert white_of([("integer", 5), ("integer", 256)]) == {"integer": 1023}
    assert white_of([("float", 3e38), ("integer", 0)])["float"] >= 3e38


def test_32_bit_numbers_have_no_sign(tmp_path: Path):
    path = tmp_path / "photo.tif"
    values = np.linspace(0, 2**32 - 1, 256).astype(np.uint32).reshape(16, 16)
    buffer = io.BytesIO()
    Image.fromarray(values.view(np.int32)).save(buffer, "TIFF")
    signed, unsigned = (struct.pack("<HHII", 339, 3, 1, kind) for kind in (2, 1))
    assert signed in buffer.getvalue()
    path.write_bytes(buffer.getvalue().replace(signed, unsigned))
    found = np.asarray(load_photo(path))[..., 0].astype(int)
    assert np.abs(found - np.arange(256).reshape(16, 16)).max() <= 1


# --- what is seen bounds the work -----------------------------------------------------------------


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(-200, 456, (height, width, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "size", [(1, 3000), (3000, 1), (2, 999), (7, 1000), (2500, 40), (40, 2500), (90, 70), (64, 200)]
)
@pytest.mark.parametrize("sides", [([24], 16), ([16], 24), ([24, 24], 24)])
def test_a_strip_is_seen_as_torchvision_shows_it(size, sides, how):
    resize, crop = sides
    see = ImageClassification(crop_size=crop, interpolation=InterpolationMode(how))
    see.resize_size = resize
    assert torch.equal(seen(see, noise(*size)), see(noise(*size)))


@pytest.mark.parametrize("how", ["bilinear", "lanczos"])
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_what_is_not_seen_is_not_enlarged(size, how, monkeypatch):
    resized: list[int] = []
    resize = Image.Image.resize

    def counted(image, size, *args, **options):
        resized.append(size[0] * size[1])
        return resize(image, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", counted)
    see = ImageClassification(crop_size=224, interpolation=InterpolationMode(how))
    image = Image.new("RGB", size)
    assert seen(see, image).shape == (3, 224, 224)

    def enlarge(image):
        from torchvision.transforms.v2 import functional as F

        return F.resize(image, [256])

    augmented(enlarge, image, seed=0, epoch=0, index=0)
    assert max(resized) <= 32 * 256 * 256


TOO_LARGE = {
    "png": lambda: png_of(20_000, 20_000),
    "long": lambda: png_of(1, 150_000),
    "gif": lambda: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + gif_frame(),
    "webp": lambda: b"RIFF\x16\0\0\0WEBPVP8X\n\0\0\0" + bytes(4) + b"\xfe\x3f\0" * 2 + bytes(8),
    "text": lambda: b"P2 3000 3000 255\n" + b"1 " * 100,
}


def png_of(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    whole = bytearray(buffer.getvalue())
    whole[16:24] = struct.pack(">II", width, height)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    return bytes(whole)


def gif_frame() -> bytes:
    return b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\2\2\x4c\1\0;"


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_photo_that_is_too_large_is_refused_before_it_is_decoded(name: str, monkeypatch):
    monkeypatch.setattr(Image.core, "new", None)  # no memory for any pixels
    with pytest.raises(BrokenPhoto, match=r"megapixels|pixels long"):
        load_photo(io.BytesIO(TOO_LARGE[name]()))


def test_a_progressive_jpeg_does_not_go_over_its_pixels_forever(tmp_path: Path):
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(buffer, "JPEG", progressive=True)
    assert load_photo(buffer).size == (4000, 3000)
    content = buffer.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    with pytest.raises(BrokenPhoto, match="too many passes"):
        load_photo(io.BytesIO(content[:-2] + 200 * scan + b"\xff\xd9"))


# --- what is no photo -----------------------------------------------------------------------------

NO_PHOTOS = {
    b"": "the file is empty",
    b"<!DOCTYPE html><html>not found</html>": "a web page",
    b"\xef\xbb\xbf\n<html>": "a web page",
    b"path,label\na.jpg,ant\n": "text",
    b"version https://git-lfs.github.com/spec/v1": "git lfs pull",
    b"%PDF-1.7\n": "a PDF",
    b"%!PS-Adobe-3.0 EPSF-3.0": "an EPS",
    b"8BPS\0\1" + bytes(30): "a Photoshop file",
    b"PK\3\4" + bytes(30): "an archive",
    b"\0\0\0\x20ftypisom" + bytes(30): "a film",
    b"\0\0\1\0\1\0" + bytes(30): "not an image",  # an icon
    b"\x89PNG\r\n\x1a\n": "damaged PNG",
}


@pytest.mark.parametrize("content", NO_PHOTOS)
def test_what_is_no_photo_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(BrokenPhoto) as caught:
        load_photo(path)
    assert NO_PHOTOS[content] in caught.value.reason


def test_pipes_folders_and_names_of_bytes_do_not_stop_it(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \x1b[31m.jpg"))
    strange.write_bytes(b"no photo")
    for name in ("pipe.jpg", "folder.jpg", strange.name):
        with pytest.raises(BrokenPhoto) as caught:
            load_photo(tmp_path / name)
        str(caught.value).encode()
        assert "\x1b" not in str(caught.value)


def test_decoders_keep_their_words_to_themselves(tmp_path: Path):
    buffer = io.BytesIO()
    noise(200, 100).save(buffer, "TIFF", compression="tiff_lzw")
    damaged = bytearray(buffer.getvalue())
    damaged[50:3000] = bytes(2950)
    (tmp_path / "photo.tif").write_bytes(damaged)
    script = (
        "import sys; from thaw.data.photos import broken_photos; from pathlib import Path;"
        "print(len(broken_photos([Path(sys.argv[1])])))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "photo.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("1", "")


@pytest.mark.slow
def test_a_run_remembers_what_is_white(train, tmp_path, weights):
    from conftest import small_run

    root = tmp_path / "deep"
    chance = np.random.default_rng(0)
    for name, most in (("bright", 4096), ("dark", 900)):
        for i in range(8):
            path = root / "train" / name / f"{i}{list(FORMATS)[i]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(deep_png(chance.integers(0, most, (40, 40))))
    path = root / "train" / "dark" / "phone.heic"
    picture().save(path, "HEIF")
    arguments = small_run(root, weights("shufflenet_v2_x0_5"))
    done = train(*arguments, "finetune.phases.head.epochs=1")
    assert done.code == 0, done.err
    assert "4095 is white" in done.out
    model = thaw.load(done.run)
    assert model.white == {"integer": 4095}
    dark = root / "train" / "dark" / "0.jpg"
    (found,) = model.predict([dark])
    (expected,) = model.probabilities([load_photo(dark, model.white)]).tolist()
    assert [*found.probabilities.values()] == pytest.approx(expected, abs=1e-4)
    assert np.asarray(load_photo(dark, model.white)).max() < 60


@pytest.mark.slow
def test_a_folder_of_every_format_and_leftover_trains_and_each_file_is_accounted_for(
    train, tmp_path, weights
):
    from conftest import small_run

    root, chance = tmp_path / "all", np.random.default_rng(1)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i, (suffix, (kind, options)) in enumerate(FORMATS.items()):
            photo = Image.fromarray(chance.integers(0, 256, (48, 64, 3), np.uint8))
            photo.save(root / name / f"{name}{i}{suffix}", kind, **options)
        for left in ("._a.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt", "film.mov"):
            (root / name / left).write_bytes(b"left behind")
    for folder in ("__MACOSX", "cat/@eaDir", ".ipynb_checkpoints", "lost+found"):
        (root / folder).mkdir()
        (root / folder / "a.jpg").write_bytes(b"left behind")
    (root / "dog" / "cut.jpg").write_bytes((root / "dog" / "dog0.jpg").read_bytes()[:200])
    arguments = small_run(root, weights("shufflenet_v2_x0_5"))
    done = train(*arguments, "finetune.phases.head.epochs=1")
    assert done.code == 0, done.err
    said = " ".join((done.run / "train.log").read_text(encoding="utf-8").split())
    assert "not used: 12 hidden or of the system, 2 .mov, 2 .txt" in said
    assert (
        f"1 photo of {2 * len(FORMATS) + 1} can't be decoded and is left out: dog/cut.jpg" in said
    )
    split = json.loads((done.run / "split.json").read_text())
    used = [photo["path"] for part in ("train", "val", "test") for photo in split[part]]
    assert len(set(used)) == 2 * len(FORMATS)
