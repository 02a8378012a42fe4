"""`thaw predict --engine ray`: two workers, and one that is killed."""

import csv
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from thaw.commands import ray_engine
from thaw.model import bundle


def test_without_ray_it_is_one_sentence(finished, call_script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    photos = finished.photos / "test"
    done = call_script("predict", finished.run, photos, "--engine", "ray", "--output", tmp_path)
    assert done.code == 2
    assert done.err == ('Ray is missing: pip install "thaw-vision[ray]", or leave --engine out.\n')


@pytest.mark.parametrize("words", [["--engine", "ray"], ["--workers", "2", "--output", "b.csv"]])
def test_what_it_needs_is_said(finished, call_script, words):
    done = call_script("predict", finished.run, finished.photos, *words)
    assert done.code == 2
    assert done.err


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs of this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with pytest.MonkeyPatch.context() as patch:
        here = [str(Path(__file__).parents[1]), *sys.path]
        patch.setenv("PYTHONPATH", os.pathsep.join(here))  # workers find Thaw where this does
        patch.setattr(ray_engine, "AT_ONCE", 2)
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
        yield ray
        ray.shutdown()


# Ray's own business.
quiet = pytest.mark.filterwarnings("ignore")


@quiet
@pytest.mark.slow
def test_two_workers_write_the_rows_of_the_plain_command(finished, call_script, cluster, tmp_path):
    photos = finished.photos / "test"
    plain = call_script("predict", finished.run, photos, "--output", tmp_path / "plain.csv")
    assert plain.code == 0, plain.err
    words = ["--engine", "ray", "--workers", 2, "--output", tmp_path / "many"]
    done = call_script("predict", finished.run, photos, *words)
    assert done.code == 0, done.err
    found, expected = (
        list(csv.DictReader(path.open(newline="")))
        for path in (tmp_path / "many" / "predictions.csv", tmp_path / "plain.csv")
    )
    assert len(found) == 12
    for row, other in zip(found, expected, strict=True):
        assert (row["path"], row["label"]) == (other["path"], other["label"])
        assert row["familiarity"] == other["familiarity"]
        for key in ("confidence", "p:red"):
            assert float(row[key]) == pytest.approx(float(other[key]), abs=1e-4)


@quiet
@pytest.mark.slow
def test_a_killed_worker_loses_nothing(finished, cluster):
    photos = sorted(finished.photos.rglob("*.jpg"))
    (photos[5].parent / "none.jpg").write_text("no photo")
    asked, broken = [*photos, photos[5].parent / "none.jpg"], []
    how = {"threshold": None, "level": None}
    try:
        answers = ray_engine.labelled(finished.run, asked, how, 2, broken)
        found = [next(answers)]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            if b"MapWorker" in process.read_bytes():
                os.kill(int(process.parent.name), signal.SIGKILL)
                break
        else:
            pytest.fail("no worker was found")
        found += answers
    finally:
        asked[-1].unlink()
    assert [p.path for p in found] == [str(path) for path in photos]
    assert [(str(b.path), b.reason) for b in broken] == [(str(asked[-1]), "not an image")]
    plain = bundle.load(finished.run).predict(photos)
    assert [p.label for p in found] == [p.label for p in plain]
