"""Names of classes and files are free text: each shows as it is, or as an escape, and none acts."""

import csv
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import call_train, paint
from matplotlib.figure import Figure
from PIL import Image
from rich.markdown import Markdown

import thaw
from thaw import escape, files
from thaw.data import grid
from thaw.model import prediction
from thaw.page.figure import write_figure
from thaw.runs import read

# What a name could do, and a name that would.
NAMES = {
    "a column of tables": "path",
    "another": "label",
    "and another": "confidence",
    "and the last": "prediction",
    "what is said of no class": "unsure",
    "what columns begin with": "p:x",
    "a formula of spreadsheets": "=cmd()",
    "another formula": "@SUM(1)",
    "a number": "-1",
    "an apostrophe before a formula": "'=x",
    "a border of tables": "a|b",
    "markup of Rich": "[red]x",
    "HTML": "<b>x<",
    "a formula of matplotlib": "$x_",
    "an escape sequence": "\x1b[31mred",
    "a line break": "two\nlines",
    "a script without glyphs": "日本語",
    "no UTF-8": os.fsdecode(b"caf\xe9"),
    "a name without end": "long" * 60,
}
CLASSES = sorted(NAMES.values())
SETTINGS = (
    *("arch=small_cnn", "arch.width=2", "arch.input_size=16", "data=folder", "data.root=photos"),
    *("trainer=cpu", "trainer.precision=32-true", "finetune.phases.head.epochs=1"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on classes of these names."""
    folder = tmp_path_factory.mktemp("free")
    for label, name in enumerate(CLASSES):
        for i, split in enumerate(("train", "train", "val", "test")):
            colour = (13 * label, 255 - 13 * label, 80)
            paint(folder / "photos" / split / name / f"{i}.jpg", colour, 10 * label + i, (20, 16))
    done = call_train(folder, *SETTINGS)
    assert done.code == 0, done.err
    return SimpleNamespace(path=done.run, folder=folder, out=done.out + done.err)


@pytest.fixture
def here(run, monkeypatch):
    """The folder in which it was trained."""
    monkeypatch.chdir(run.folder)
    return run.folder


def test_a_run_holds_them_as_they_are(run):
    assert "\x1b" not in run.out
    assert "\x1b" not in (run.path / "train.log").read_text()
    answers = read.predictions(run.path)
    assert sorted(answer.label for answer in answers) == CLASSES
    assert {answer.prediction for answer in answers} <= {*CLASSES}
    with (run.path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[:4] == ["path", "label", "prediction", "confidence"]
    assert len(header) == len({*header}) >= 4 + len(CLASSES)
    assert header[4] == "familiarity"
    assert all(name.startswith("p:") for name in header[5:])
    assert not [c for row in rows for c in row if c[:1] in "=@+\t\r" and c]
    assert thaw.load(run.path).classes == CLASSES
    assert read.split(run.path).classes == CLASSES


@pytest.mark.slow
def test_every_command_shows_them(run, here, call_script, monkeypatch):
    test = [*Path("photos", "test").rglob("*.jpg")]
    commands = {
        "predict": [run.path, "photos/test", "--csv", "p.csv", "--json", "p.json", "--top-k", 3],
        "evaluate": [run.path, "--out", "evaluated"],  # with all figures: warnings are errors
        "compare": [run.path, "--out", "compared", "--markdown", "-"],
        "describe": [run.path],
    }
    for name, arguments in commands.items():
        done = call_script(name, *arguments)
        assert done.code == 0, (name, done.err)
        assert "\x1b" not in done.out, name
    for shown in ("[red]x", "<b>x<", "$x_", r"\x1b[31mred", r"two\nlines", "日本語", r"caf\udce9"):
        assert shown in call_script("describe", run.path).out
    rows = json.loads(Path("p.json").read_text())
    assert list(rows[0]["probabilities"]) == CLASSES
    with Path("p.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [escape.uncell(row["path"]) for row in table] == [row["path"] for row in rows]
    assert [escape.uncell(row["label"]) for row in table] == [row["label"] for row in rows]
    assert float(table[0]["p:path"]) == pytest.approx(rows[0]["probabilities"]["path"])

    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert call_script("predict", run.path, *test[:3]).code == 0
    monkeypatch.undo()


def test_a_class_may_be_called_unsure(run, here, call_script):
    done = call_script("predict", run.path, "photos/test", "--threshold", 1, "--json")
    assert {row["label"] for row in json.loads(done.out)} == {"(unsure)"}
    assert prediction.aside("unsure", ["unsure", "(unsure)"]) == "((unsure))"


def test_parquet_and_batches_hold_them(run, here, call_script):
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("b.csv", "b.parquet"):
        done = call_script("predict", run.path, "photos/test", "--output", name)
        assert done.code == 0, done.err
        assert "\x1b" not in done.out
    rows = parquet.read_table("b.parquet").to_pylist()
    assert {f"p:{escape.utf8(name)}" for name in CLASSES} < rows[0].keys()
    with Path("b.csv").open(newline="", encoding="utf-8") as file:
        labels = [escape.utf8(escape.uncell(row["label"])) for row in csv.DictReader(file)]
    assert labels == [row["label"] for row in rows]


def test_a_served_model_answers_with_them(run, here):
    pytest.importorskip("starlette")
    testclient = pytest.importorskip("starlette.testclient")
    from thaw.model.serve import app

    client = testclient.TestClient(app(run.path), base_url="http://127.0.0.1")
    assert client.get("/model").json()["classes"] == CLASSES
    photo = next(Path("photos", "test").rglob("*.jpg")).read_bytes()
    answer = client.post("/predict", files={"photo": ("<i>\x1b.jpg", photo)})
    assert list(answer.json()["photos"][0]["probabilities"]) == CLASSES


@pytest.mark.parametrize("name", [*NAMES.values(), "", "'", "''@", "\r", "+1", "1e5", "%0A"])
def test_a_cell_is_no_formula_and_is_read_back(name, tmp_path):
    files.write_csv(tmp_path / "a.csv", [{"a": name, "b": 1}])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert escape.uncell(row["a"]) == name
    assert row["a"][:1] not in ("=", "@", "\t", "\r") or not row["a"]
    assert row["a"] in ("-1", "+1") or row["a"][:1] not in ("-", "+")
    files.write_json(tmp_path / "a.json", name)
    assert json.loads((tmp_path / "a.json").read_text()) == name


@pytest.mark.parametrize("name", NAMES.values())
def test_markdown_shows_a_name(name):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=300)
    console.print(Markdown(escape.markdown(name)))
    shown = console.file.getvalue().strip()  # type: ignore[attr-defined]
    assert shown == escape.printable(name)


def test_figures_show_names(tmp_path):
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.plot([0, 1], [1e-3, 1e3])
    axes.set_xticks([0, 1], ["$a_", "\x1b[31m"])
    axes.set_title("日本 $x$ $y_{")
    write_figure(tmp_path / "a.png", figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == [r"\$a_", r"\x1b[31m"]
    assert axes.get_title() == r"\u65e5\u672c \$x\$ \$y_{"
    photo = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    grid.draw([(photo, name, "black") for name in NAMES.values()], title="\udcff")


def test_sets_of_labels_can_be_told_apart():
    assert escape.joined(["a|b", "c"]) != escape.joined(["a", "b|c"])
    assert escape.joined(["a\\", "b"]) != escape.joined(["a\\|b"])


def test_files_are_not_called_by_names(run):
    here = [path.name for path in run.path.rglob("*")]
    assert not {*CLASSES} & {*here}
