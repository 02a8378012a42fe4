"""`scripts/benchmark.py`: what it makes of planted numbers, and a short one through the door."""

import importlib
import json
import math
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
from conftest import REPO, make_photos

SCRIPT = REPO / "scripts" / "benchmark.py"
SECONDS = {"lesson": 100.0, "lightning": 50.0, "thaw": 5.0, "warm": 2.0, "limit": 4.0}
SECONDS |= {"sweep": 11.0, "bare": 2.0, "photo": 2.5, "folder": 7.0, "few": 6.0, "many": 210.0}
SECONDS |= {"telling": 4.1, "without": 4.0}
SECONDS |= {"pass": 9.0, "predicted": 10.0, "evaluated": 9.5, "check": 6.0, "folds": 10.0}
SECONDS["features"] = 5.0


@pytest.fixture
def script():
    parts = ("benchmark.rivals", "benchmark.measuring", "benchmark.standings", "commands.benchmark")
    found = [vars(importlib.import_module(f"thaw.{part}")) for part in parts]
    return SimpleNamespace(**{name: value for part in found for name, value in part.items()})


@pytest.fixture
def data(tmp_path):
    root = make_photos(tmp_path / "photos", train=2, test=1)
    (root / "test").rename(root / "val")
    return root


@pytest.fixture
def benchmark(call_script, monkeypatch, tmp_path):
    """Call `scripts/benchmark.py ARGUMENTS` in `tmp_path`: → code, out, err."""
    monkeypatch.chdir(tmp_path)
    return partial(call_script, "benchmark")


def planted(row, system, repeat):
    """A measurement; the middle one of three repeats is as in SECONDS."""
    seconds = SECONDS.get(system, 9.0) * (1.0, 7.0, 0.5)[repeat]
    result = {"row": row, "system": system, "repeat": repeat, "seconds": seconds}
    result |= {"whole": seconds + 3, "rss": 640_000_000 if system == "many" else 500_000_000}
    if row in ("predict", "photos"):
        return result | {"photos": 397, "rate": 397 / seconds}
    if row == "unfamiliar":
        return result | {"photos": 397, "bytes": 14_300_000 if system == "telling" else 14_000_000}
    if row == "parts":
        result |= {"features": 1.5}
    return result | {"acc": 0.94, "threads": 2}


def measured(script, rows):
    return [
        planted(row, system, repeat)
        for row in rows
        for repeat in range(3)
        for system in script.ROWS[row]
    ]


def test_help_names_the_rows_without_torch():
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "last_block" in done.stdout
    assert "--one" not in done.stdout
    assert "argparse" in done.stderr
    assert "torch" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rows", "head", "tail"], "Expected --rows to be some of head, head25,"),
        (["--data", "nowhere"], "Expected --data to be a folder that holds train and val"),
    ],
)
def test_mistakes_get_one_sentence(benchmark, arguments, sentence):
    done = benchmark(*arguments)
    assert done.code == 2
    assert done.err.startswith(sentence)
    assert done.err.count("\n") == 1
    assert arguments[-1] in done.err


def test_tables_of_planted_numbers(script):
    middle = script.medians(measured(script, script.ROWS))
    systems, pairs, parts = script.tables(middle, script.SIZES)
    header, *lines = systems
    assert header[1:] == [name for name, _ in script.SYSTEMS.values()]
    assert lines[0] == [
        "head, 5 epochs", "100 s", "50.0 s (2.0×)", "5.00 s (20×)", "2.00 s (50×)", "4.00 s (25×)"
    ]  # fmt: skip
    assert lines[1][:4] == ["the same, whole process", "103 s", "53.0 s (1.9×)", "8.00 s (13×)"]
    assert lines[2][1:] == ["100 s", "50.0 s (2.0×)", "5.00 s (20×)", "", "4.00 s (25×)"]
    assert lines[3] == ["last block, 3 epochs", "100 s", "", "5.00 s (20×)", "", ""]
    assert lines[-2][1:] == ["94.0%"] * 5
    assert lines[-1][1:] == ["500 MB"] * 5
    ratios = {label: cells for label, *cells in pairs[1:]}
    assert ratios["a cold run : the limit"] == ["5.00 s", "4.00 s", "1.25"]
    sweep = "a cold sweep of 20 learning rates : one cold run"
    assert ratios[sweep] == ["11.0 s", "5.00 s", "2.20"]
    assert ratios["peak memory, 20,000 : 500 images"] == ["640 MB", "500 MB", "1.28"]
    assert ratios["the same, whole processes"] == ["14.0 s", "8.00 s", "1.75"]
    assert [line[0] for line in parts[1:]] == [*script.OFF]
    assert parts[2] == ["fuse=false", "1.50 s", "9.00 s", "500 MB", "94.0%"]
    assert ratios["one fused pass over 397 photos : predict"] == ["9.00 s", "10.0 s", "0.90"]
    assert ratios["the same : evaluate"] == ["9.00 s", "9.50 s", "0.95"]
    assert ratios["check : the features alone"] == ["6.00 s", "5.00 s", "1.20"]
    assert ratios["check : a cold run"] == ["6.00 s", "5.00 s", "1.20"]
    assert ratios["5 folds, cold : one cold run"] == ["10.0 s", "5.00 s", "2.00"]
    assert ratios["predict, telling the unfamiliar : without"][2] == "1.02"
    assert ratios["its bundle : without"] == ["14.3 MB", "14.0 MB", "1.02"]
    assert ratios["predict, 397 photos, 57/s : one"] == ["7.00 s", "2.50 s", "2.80"]


def test_digits_before_the_point_stay(script):
    numbers = [0.0, 0.0312, 0.5, 5.041, 21.0, 104.6, 2104.4]
    assert [script.digits(n, 3) for n in numbers] == [
        "0.00", "0.03", "0.50", "5.04", "21.0", "105", "2,104"
    ]  # fmt: skip


def test_systems_take_turns_and_files_hold_what_was_measured(
    script, benchmark, monkeypatch, data, tmp_path
):
    monkeypatch.setattr(script.Bench, "measure", lambda self, *what: planted(*what))
    done = benchmark("--rows", "sweep", "full", "--data", data, "--out", "out")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert report["measured"] == measured(script, ["full", "sweep"])  # A B A B A B
    assert report["medians"]["full"]["lesson"]["seconds"] == 100.0
    assert {"cpu", "cores", "torch", "load_before"} <= set(report["machine"])
    assert report["sizes"] == {key: [*value] if isinstance(value, tuple) else value
                               for key, value in script.SIZES.items()}  # fmt: skip
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "| whole net, 1 epoch | 100 s |  | 5.00 s (20×) |  |  |\n" in text
    assert "| a cold sweep of 20 learning rates : one cold run | 11.0 s | 5.00 s | 2.20 |" in text
    assert "Medians of 3" in text
    assert "2 threads" in text
    assert "Whole net: " in text
    assert "Last block: " not in text
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "benchmark.json", "benchmark.md", "benchmark.png"
    ]  # fmt: skip
    for line in (f"full       lesson    {i}/3" for i in (1, 2, 3)):
        assert line in done.out


@pytest.fixture
def bench(script, monkeypatch, data, tmp_path):
    """A Bench whose processes say what `bench.says` holds, and do nothing."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    bench = script.Bench({"data": data}, dict(script.SIZES), {}, scratch)
    bench.says = {"seconds": 11.0, "whole": 15.0, "rss": 1, "acc": 0.9, "epochs": [2.0] * 5}
    bench.jobs = []

    def timed(*arguments):
        system, row, job = arguments[-3], arguments[-2], json.loads(arguments[-1])
        bench.jobs.append((system, row, job))
        (bench.scratch / job["imports"]).write_text("[]")
        return dict(bench.says)

    monkeypatch.setattr(bench, "timed", timed)
    return bench


def test_equal_epochs_are_measured_once_and_scaled(bench):
    head = bench.measure("head", "lesson", 0)
    long = bench.measure("head25", "lesson", 0)
    assert head["seconds"] == 11.0
    assert (long["seconds"], long["whole"]) == (11.0 + 4 * 10.0, 15.0 + 4 * 10.0)
    assert long["scaled"] is True
    assert "scaled" not in head
    assert [job["sizes"]["head"] for _, _, job in bench.jobs] == [1, 5]  # the first doesn't count
    bench.measure("head25", "thaw", 0)
    assert bench.jobs[-1][:2] == ("thaw", "head25")


def test_only_the_warm_run_gets_a_used_cache(bench):
    for system in ("thaw", "warm", "thaw", "warm"):
        bench.measure("head", system, 0)
    _, first, warm, second, again = [job["cache"] for _, _, job in bench.jobs]
    assert first == warm
    assert second == again != first
    assert bench.jobs[0][2]["cache"] not in (first, second)  # nor one of the short run before


def test_each_part_is_switched_off_alone(bench):
    for system in ("all on", "fuse=false"):
        bench.measure("parts", system, 0)
    assert [job["off"] for _, _, job in bench.jobs[-2:]] == [[], ["trainer.fuse=false"]]


@pytest.mark.parametrize("acc", [1 / 3, 0.1, math.nan])
def test_accuracy_of_chance_is_no_result(bench, acc):
    bench.says["acc"] = acc
    with pytest.raises(RuntimeError, match=r"limit got .* better than chance with 3 classes"):
        bench.measure("head", "limit", 0)


def test_a_process_that_fails_is_told_with_what_it_said(script, tmp_path):
    bench = script.Bench({}, {}, {}, tmp_path)
    with pytest.raises(RuntimeError, match=r"ended with 3:\nit broke"):
        bench.timed("-c", "import sys; print('it broke', file=sys.stderr); sys.exit(3)")
    done = bench.timed("-c", "b = bytearray(200_000_000); print('x\\n{\"acc\": 0.5}')")
    assert done["acc"] == 0.5
    assert done["whole"] > 0
    assert 200e6 < done["rss"] < 20e9


@pytest.mark.slow
def test_rivals_have_the_net_that_thaw_has(script, few):
    import torch

    from thaw.model.bundle import describe_transforms
    from thaw.nets.pretrained import timm

    backbone = timm("tf_efficientnet_lite0")
    net, train, test = script.prepare({"data": str(few), "test": "test", "device": "cpu"})
    assert describe_transforms(train.transform) == describe_transforms(backbone.transforms)
    assert (len(train), len(test)) == (15, 6)
    images = torch.stack([train[0][0], test[0][0]])
    with torch.inference_mode():
        assert torch.equal(net.eval()(images), backbone.eval()(images))
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.slow
def test_the_check_and_its_features_see_the_photos_of_the_other_rows(script, data, tmp_path):
    cache, run = tmp_path / "cache", tmp_path / "run"
    job = {"data": data, "test": "val", "cache": cache, "run": run}
    assert script.computed("features", job) == {}
    assert [*cache.rglob("*")]
    assert script.checked("check", job) == {}
    assert (run / "check.csv").is_file()
