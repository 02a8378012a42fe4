"""Features on disk: exact, whole or absent, bounded, and safe for jobs side by side."""

import json
import multiprocessing
import os

import pytest
import torch
from safetensors import SafetensorError

from thaw.data import cache
from thaw.data.cache import FeatureCache
from thaw.errors import UserError


def some(count=4, *shape, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def names(count=4, prefix="photo"):
    return [f"{prefix}{i}" for i in range(count)]


@pytest.fixture
def kept(tmp_path):
    """A cache with 4 rows on the shelf "net"."""
    features = some(4, 5)
    FeatureCache(str(tmp_path)).shelf("net").add(names(), features)
    return tmp_path, features


def reopened(path, **kwargs):
    shelf = FeatureCache(str(path), **kwargs).shelf("net")
    shelf.refresh()
    return shelf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7,), (5, 3), (3, 4, 6)])
def test_rows_come_back_bit_for_bit(tmp_path, shape, dtype):
    features = some(6, *shape).to(dtype)
    if len(shape) == 3:
        features = features.contiguous(memory_format=torch.channels_last)
    shelf = FeatureCache(str(tmp_path)).shelf("net")
    shelf.add(names(4), features[:4])
    shelf.add(names(2, "more"), features[4:])
    rows = reopened(tmp_path).rows([*names(4), *names(2, "more")])
    order = [5, 0, 3, 4, 0]
    found = rows.take(order)
    assert torch.equal(found, features[order])
    assert found.is_contiguous(memory_format=torch.channels_last) or len(shape) < 3
    assert rows.nbytes == features.nbytes


def test_taken_rows_are_copies(kept):
    path, features = kept
    rows = reopened(path).rows(names())
    rows.take([0]).zero_()
    assert torch.equal(rows.take([0]), features[:1])


def test_much_reading_gives_pages_back_and_reads_on(kept, monkeypatch):
    monkeypatch.setattr(cache, "TOUCHED", 1)
    path, features = kept
    rows = reopened(path).rows(names())
    for _ in range(3):
        assert torch.equal(rows.take([1, 2]), features[1:3])


def test_missing_names_each_once(kept):
    path, _ = kept
    assert reopened(path).missing(["new", "photo1", "new"]) == ["new"]


@pytest.mark.parametrize("place", [-1, 20, 0])
def test_a_changed_byte_is_found(kept, place, caplog):
    path, features = kept
    file = next(path.glob("net/*.safetensors"))
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    shelf = reopened(path)
    assert shelf.missing(names()) == names()
    assert "is damaged" in caplog.text
    assert not file.exists()
    shelf.add(names(), features)
    assert torch.equal(reopened(path).rows(names()).take(range(4)), features)


def test_a_truncated_file_is_found(kept):
    path, _ = kept
    file = next(path.glob("net/*.safetensors"))
    file.write_bytes(file.read_bytes()[:-9])
    assert reopened(path).missing(names()) == names()


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    shelf = FeatureCache(str(tmp_path)).shelf("net")
    with pytest.raises(OSError, match="No space left"):
        shelf.add(names(), some(4, 5))
    assert not (tmp_path / "net").exists()


def test_what_a_killed_process_left_is_removed(kept):
    path, _ = kept
    left = path / "net" / ".a.safetensors.7-ab.partial" / ".tmpAb"  # safetensors' own
    left.parent.mkdir()
    left.write_bytes(b"half of it")
    FeatureCache(str(path)).make_room()
    assert not left.parent.exists()
    assert not reopened(path).missing(names())


def test_the_least_recently_used_goes(tmp_path):
    features = some(4, 1000)
    for age, key in enumerate(("new", "middle", "old")):
        shelf = FeatureCache(str(tmp_path)).shelf(key)
        shelf.add(names(), features)
        file = next(iter(shelf.segments))
        os.utime(file, (1e9 - age, 1e9 - age))
    size = file.stat().st_size
    old = FeatureCache(str(tmp_path)).shelf("old")
    old.refresh()
    old.rows(names())  # this is a use
    bounded = FeatureCache(str(tmp_path), max_gb=2.5 * size / 1e9)
    bounded.make_room()
    assert {path.parent.name for path in tmp_path.glob("*/*.safetensors")} == {"new", "old"}
    assert torch.equal(old.rows(names()).take(range(4)), features)


def test_what_is_in_use_stays(kept):
    path, features = kept
    bounded = FeatureCache(str(path), max_gb=1e-9)
    shelf = bounded.shelf("net")
    shelf.refresh()
    bounded.make_room()
    assert torch.equal(shelf.rows(names()).take(range(4)), features)
    FeatureCache(str(path), max_gb=1e-9).make_room()  # another process, which doesn't know
    assert not list(path.glob("net/*.safetensors"))
    assert torch.equal(shelf.rows(names()).take(range(4)), features)  # it was open


def _add_if_missing(path, start, log):
    shelf = FeatureCache(str(path)).shelf("net")
    start.wait()
    with shelf.writing():
        missing = shelf.missing(names())
        if missing:
            shelf.add(missing, some(4, 5))
    log.put(len(missing))


@pytest.mark.slow
def test_of_jobs_side_by_side_one_computes(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, log = context.Event(), context.Queue()
    jobs = [context.Process(target=_add_if_missing, args=(tmp_path, start, log)) for _ in range(2)]
    for job in jobs:
        job.start()
    start.set()
    counts = [log.get(timeout=120) for _ in jobs]
    for job in jobs:
        job.join(timeout=60)
    assert sorted(counts) == [0, 4]
    assert len(list(tmp_path.glob("net/*.safetensors"))) == 1


def test_files_tell_what_they_hold(kept):
    path, _ = kept
    with cache.safe_open(next(path.glob("net/*.safetensors")), "pt") as file:
        assert json.loads(file.metadata()["names"]) == names()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_gb": 0}, "expected cache.max_gb to be a number above 0, got 0"),
        ({"max_gb": "ten"}, "got 'ten'"),
        ({"enabled": "yes"}, "expected cache.enabled to be true or false, got 'yes'"),
        ({"dir": ""}, "expected cache.dir to be a folder, got ''"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        FeatureCache(**{"dir": "somewhere", **settings})
