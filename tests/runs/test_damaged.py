"""Whatever bytes are in a file of ours: a sentence that names it, never a traceback."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import call_train, refusal

from thaw.comparison import leaderboard
from thaw.data import shapes
from thaw.errors import UserError
from thaw.runs import read
from thaw.runs.schema import Wrong, bounded

OLD = Path(__file__).parent / "old"

# What a file may hold, and what the sentence says of it, where that is the same for all files.
BYTES = {
    "empty": b"",
    "cut off": b'{"state": "do',
    "binary": bytes(range(256)),
    "no UTF-8": b'{"state": "caf\xe9"}',
    "a list": b"[1, 2]",
    "a text": b'"done"',
    "null": b"null",
    "a number": b"1e999",
    "deep": b"[" * 100_000,
    "deep and whole": b"[" * 900 + b"]" * 900,
    "a number too long to read": b'{"seed": ' + b"9" * 5000 + b"}",
    "NaN": b"NaN",
    "NUL": b"\0" * 100,
    "quotes": b'path,label,prediction\n"a,b',
    "a bomb": b"a: &a [x, x]\n"
    + b"".join(b"%c: &%c [*%c, *%c]\n" % (c, c, c - 1, c - 1) for c in range(98, 123)),
    "a tag": b"!!python/object/apply:os.system [exit]",
}
FILES = (
    *("status.json", "metrics.json", "environment.json", "split.json", "history.csv"),
    *("predictions.csv", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
    *("model/model.json", "model/weights.safetensors"),
)
# Which command reads which file; the others do their work.
READ_BY = {
    "compare": {*FILES[:8]},
    "predict": {"model/model.json", "model/weights.safetensors"},
    "describe": {"model/model.json", "model/weights.safetensors", "environment.json"}
    | {"split.json", ".hydra/hydra.yaml"},
    "evaluate": {"model/model.json", "model/weights.safetensors", "split.json"},
    "export": {"model/model.json", "model/weights.safetensors", "split.json"},
}
# A value in a file, what stands there instead, and what is said of it.
VALUES = (
    ("status.json", "state", "ended", "expected one of running, done, failed, interrupted"),
    ("status.json", "state", ["done"], "state: expected one of"),
    ("status.json", "updated", 7, "updated: expected a text, got 7"),
    ("status.json", "reason", {}, "reason: expected a text, got dict"),
    ("metrics.json", "test/acc", 1.5, "test/acc: expected a number from 0 to 1, got 1.5"),
    ("metrics.json", "val/acc", float("nan"), "val/acc: expected a number from 0 to 1, got nan"),
    ("metrics.json", "val/loss", "low", "val/loss: expected a number, got 'low'"),
    ("metrics.json", "params/total", -1, "params/total: expected a whole number from 0"),
    ("metrics.json", "model/latency_ms", None, "model/latency_ms: expected a number from 0"),
    ("metrics.json", "seconds/fit", 10**400, "seconds/fit: expected a number"),
    ("environment.json", "threads", "2", "threads: expected a whole number"),
    ("environment.json", "device", None, "device: expected a text"),
    ("split.json", "val", {"a": 1}, "val: expected a list of 0 or more, got dict"),
    ("split.json", "val", [3], "a mapping, got 3"),
    ("split.json", "val", [{"path": "a"}], "it lacks label"),
    ("split.json", "val", [{"path": "a", "label": "z"}], "isn't among the classes"),
    ("split.json", "val", ["a.jpg"], "aren't in folders that are called as its classes"),
    ("split.json", "classes", ["a", "a"], "classes: expected each only once, got 'a' twice"),
    ("split.json", "root", None, "root: expected a text"),
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run, and its photos."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    shapes.draw(Path("data", "shapes_4_2"), 4, 2, size=32)
    shutil.copytree(OLD / "sweep", tmp_path / "runs")
    return tmp_path / "runs" / "seed=1"


def damage(path, kind):
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind != "nothing":
        path.write_bytes(BYTES[kind])


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=[] if f == "status.json" else pytest.mark.slow) for f in FILES],
)
def test_damage_is_said_and_passed_over(file, run, call_script, monkeypatch):
    """A damaged run doesn't keep `compare` from the others."""
    monkeypatch.setattr("thaw.comparison.figures.draw", lambda *_: None)
    monkeypatch.setattr("thaw.evaluation.figures.draw", lambda *_: [])
    whole = (run / file).read_bytes()
    photo = next(Path("data", "shapes_4_2", "test").rglob("*.jpg"))
    for kind in (*BYTES, "a folder", "a pipe", "nothing"):
        damage(run / file, kind)
        for command in ("compare", "predict", "describe", "evaluate"):
            given = {"compare": ["runs", "--out", "out"], "predict": [run, photo]}
            done = call_script(command, *given.get(command, [run]))
            told = " ".join((done.out + done.err).split())
            at = (file, kind, command, told)
            assert done.code == (0 if command == "compare" else done.code), at
            assert done.code in (0, 2), at
            if kind == "nothing" and file in ("status.json", "environment.json"):
                continue  # of a run that hasn't begun, or a folder that is none
            if file in READ_BY[command]:
                said = ("damaged", "isn't what", "Expected a run folder")
                assert any(words in told for words in said), at
                assert file.rpartition("/")[2] in told, at
            else:
                assert done.code == 0, at
        shutil.rmtree(run / file) if (run / file).is_dir() else (run / file).unlink(missing_ok=True)
        (run / file).write_bytes(whole)


@pytest.mark.parametrize(("file", "key", "value", "said"), VALUES)
def test_a_wrong_value_is_named(file, key, value, said, run):
    path = run / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    (found,) = leaderboard.compare([run.parent]).unfinished if key != "root" else (None,)
    if found is None:
        assert said in refusal(read.split, run)
        return
    assert found.state == "damaged"
    assert found.reason.startswith(f"{path} is damaged (")
    assert said in found.reason


def test_a_table_lacks_columns_or_rows(run):
    for name, reader in (("history.csv", read.history), ("predictions.csv", read.predictions)):
        path = run / name
        header, *rows = path.read_text().splitlines()
        for lines, said in (
            ([header], "it has no rows"),
            ([header, *rows, "a"], "has 1 columns instead of"),
            (["a,b", "1,2"], "it has no column"),
        ):
            path.write_text("\n".join(lines) + "\n")
            assert said in refusal(reader, run)
    path = run / "history.csv"
    path.write_text("epoch,phase,val/loss,val/acc\nx,head,1,0.5\n")
    assert "history.csv is damaged (could not convert string" in refusal(read.history, run)


@pytest.mark.parametrize("file", ["status.json", "environment.json", "split.json"])
def test_a_damaged_run_is_not_gone_on_with(file, run, tmp_path):
    broken = shutil.copytree(OLD / "broken", tmp_path / "broken")
    before = (broken / "status.json").read_bytes()
    (broken / file).write_text('{"a": ')
    done = call_train(tmp_path, "resume=broken")
    assert done.code == 2
    assert f"{file} is damaged (" in done.err
    if file != "status.json":
        assert (broken / "status.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["missing", "cut off", "of another net"])
def test_the_best_epoch_is_lost(how, run, tmp_path):
    broken = shutil.copytree(OLD / "broken", tmp_path / "broken")
    best = broken / "checkpoints" / "best.ckpt"
    if how == "missing":
        best.unlink()
    else:
        best.write_bytes(best.read_bytes()[:500] if how == "cut off" else b"x")
    done = call_train(tmp_path, "resume=broken")
    assert done.code == 0, done.err
    assert read.status(broken)["state"] == "done"
    assert best.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["loops", "optimizer_states", "a step", "callbacks", "best"])
def test_parts_of_a_checkpoint_that_dont_fit_are_told(part, tmp_path):
    """They are of the types that they should be, and yet of no run."""
    broken = shutil.copytree(OLD / "broken", tmp_path / "broken")
    path = broken / "checkpoints" / ("best.ckpt" if part == "best" else "last.ckpt")
    found = torch.load(path, weights_only=True)
    if part == "loops":
        del found["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    elif part == "optimizer_states":
        found["optimizer_states"][0]["param_groups"].pop()
    elif part == "a step":  # it loads
        found["optimizer_states"][0]["param_groups"][-1]["weight_decay"] = "much"
    elif part == "callbacks":
        del found["callbacks"]["History"]["rows"][0]["seconds"]
    else:
        del found["state_dict"]
    torch.save(found, path)
    done = call_train(tmp_path, "resume=broken")
    assert "Traceback" not in done.err + done.out
    assert done.code == (0 if part == "best" else 2), done.err
    assert read.status(broken)["state"] == ("done" if part == "best" else "failed")
    if part != "best":
        assert f"{path} isn't one to go on from: a part of it doesn't fit this run (" in done.err


def test_both_forms_of_a_split_are_read(run):
    path = run / "split.json"
    old = read.split(run)
    assert {photo.label for photo in old.photos["test"]} == {*old.classes}
    values = json.loads(path.read_text())
    for name in read.SPLITS:
        values[name] = [
            {"path": photo.path, "label": photo.label, "group": None} for photo in old.photos[name]
        ]
    values["dropped"] = [{"path": "a.jpg", "reason": "broken: cut off"}]
    path.write_text(json.dumps(values | {"relabelled": []}))
    assert read.split(run) == replace(old, dropped={"a.jpg": "broken: cut off"})


def test_values_are_bounded():
    bomb: list = ["x"]
    for _ in range(35):
        bomb = [bomb, bomb]
    for value in (bomb, [[0] * 1000] * 1000):
        with pytest.raises(Wrong, match="too many values"):
            bounded(value, most=10_000)
    with pytest.raises(Wrong, match="nested"):
        bounded(json.loads("[" * 60 + "]" * 60))


@pytest.mark.slow
def test_a_damaged_run_in_a_sweep_is_named_at_its_end(run, tmp_path):
    from test_old_runs import SETTINGS

    (run / "status.json").write_text("{")
    done = call_train(tmp_path, "-m", *SETTINGS, "seed=1,2", "hydra.sweep.dir=runs")
    assert done.code == 1
    assert "status.json is damaged (" in " ".join(done.out.split())
    with pytest.raises(UserError):
        read.status(run)


def test_a_checkpoint_is_whole_or_says_why_not(tmp_path):
    from thaw.training.checkpoints import why_unusable

    good = torch.load(OLD / "broken" / "checkpoints" / "last.ckpt", weights_only=True)
    module = SimpleNamespace(state_dict=lambda: good["state_dict"])
    path = tmp_path / "last.ckpt"
    callbacks = good["callbacks"]
    fit = good["loops"]["fit_loop"]
    staged, history = callbacks["StagedUnfreezing"], callbacks["History"]
    for changed, said in (
        ({}, None),
        ({"epoch": "1"}, "epoch: expected a whole number"),
        ({"loops": []}, "loops: expected a mapping"),
        ({"loops": {"fit_loop": fit | {"a": {"b": "1"}}}}, "a.b: expected a whole number"),
        ({"loops": {"fit_loop": fit | {"epoch_progress": {}}}}, "epoch_progress: it lacks current"),
        ({"epoch": good["epoch"] + 1}, "epochs are done"),
        ({"callbacks": callbacks | {"StagedUnfreezing": staged | {"starts": [9]}}}, "began at [9]"),
        ({"optimizer_states": []}, "optimizer_states: expected a list of 1"),
        ({"callbacks": {"History": history}}, "it lacks StagedUnfreezing"),
        ({"callbacks": callbacks | {"StagedUnfreezing": staged | {"schedule": 1}}}, "unknown key"),
        (
            {"callbacks": callbacks | {"StagedUnfreezing": staged | {"best_weights": {"a": 1}}}},
            "its best weights of a phase, 'a', aren't of this net",
        ),
        ({"callbacks": callbacks | {"History": {"rows": [{"epoch": 0}]}}}, "rows[0]: it lacks"),
        (
            {
                "callbacks": callbacks
                | {"History": {"rows": [history["rows"][0] | {"val/acc": "1"}]}}
            },
            "rows[0].val/acc: expected a number",
        ),
        (
            {"callbacks": callbacks | {"History": history | {"known_from": 1}}},
            "no weights of its 1",
        ),
        ({"state_dict": {}}, "is of another net"),
        ({"state_dict": 3}, "is no checkpoint of Thaw's"),
    ):
        torch.save(good | changed, path)
        found = why_unusable(path, module)  # type: ignore[arg-type]
        assert found is None if said is None else said in (found or ""), changed
    path.write_bytes(path.read_bytes()[:300])
    assert "is damaged" in (why_unusable(path, module) or "")  # type: ignore[arg-type]
