"""What commands print at 80 columns: no line is wider, but for paths, and work is told of."""

import io
import logging
import os
import subprocess
import sys

import pytest
from conftest import call_train
from rich import get_console
from rich.console import Console

from thaw import screen


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setattr(get_console(), "_width", 80)


def too_wide(text):
    """Lines over 80 columns that could have been broken: a path or a command's last word can't."""
    return [line for line in text.splitlines() if len(line.rstrip()) > 80 and " " in line.strip()]


@pytest.mark.slow
def test_no_line_is_wider_than_the_screen(short, tmp_path, call_script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = next(word for word in short if word.startswith("data.root=")).partition("=")[2]
    photos = os.path.relpath(f"{root}/test")  # its whole path would fill the screen
    done = call_train(tmp_path, *short, "finetune=full", "finetune.phases.all.epochs=1")
    assert done.code == 0, done.err
    assert too_wide(done.out) == []
    sweep = call_train(tmp_path, "-m", *short, "seed=1,2", "augment=none,flip")
    assert sweep.code == 0, sweep.err
    assert too_wide(sweep.out) == []
    for i in range(1, 5):
        assert f"job {i} of 4" in sweep.out
    assert "left: seed=2,augment=flip" in sweep.out
    for name, *arguments in (
        ("evaluate", done.run),
        ("evaluate", done.run, "--target-coverage", "0.2"),
        ("compare", *sweep.runs),
        ("predict", done.run, photos),
        ("predict", done.run, photos, "--output", "out.csv"),
        ("describe", done.run),
        ("describe", "efficientnet_lite0", "--finetune", "gradual"),
        ("archs",),
        ("check", "data=folder", f"data.root={root}"),
        ("export", done.run),
    ):
        said = call_script(name, *arguments)
        assert said.code == 0, said.err
        assert too_wide(said.out + said.err) == [], name


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys, caplog):
    monkeypatch.setattr(screen, "EVERY", 0)
    caplog.set_level(logging.WARNING, "thaw.screen")
    assert list(screen.steps(range(3), "counting", 40, each=16)) == [0, 1, 2]
    assert capsys.readouterr().err.startswith("counting: 16 of 40 photos, about 5 s left\n")
    with caplog.at_level(logging.INFO, "thaw.screen"):  # a run has a log
        list(screen.steps(range(3), "counting", 3))
    assert "counting: 2 of 3 photos" in caplog.text
    assert not capsys.readouterr().err


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("rich._console", Console(file=file, force_terminal=True, width=80))
    list(screen.steps(range(3), "counting", 3))
    assert "counting" in file.getvalue()
    assert "3/3" in file.getvalue()


@pytest.mark.slow
def test_the_first_word_comes_before_torch():
    command = [sys.executable, "-X", "importtime", "-m", "thaw", "train", "arch=nope"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("Reading the settings")
    assert " torch\n" not in done.stderr
