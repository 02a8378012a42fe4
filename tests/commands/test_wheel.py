"""What pip installs does all that the repository does, in an empty folder and without it."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPO

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with Thaw's wheel, and an empty folder: → thaw(*words), folder."""
    top = tmp_path_factory.mktemp("wheel")
    folder = top / "empty"
    folder.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index", "--no-build-isolation"]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    env["OMP_NUM_THREADS"] = "1"

    def call(*command):
        words = [*map(str, command)]
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call(*pip, "wheel", REPO, *alone, "-w", top)
    call(sys.executable, "-m", "venv", "--without-pip", top / "venv")
    paths = sysconfig.get_paths(vars={"base": str(top / "venv"), "platbase": str(top / "venv")})
    # Its dependencies are those of the environment that tests run in; Thaw itself is the wheel's.
    (Path(paths["purelib"]) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = top.glob("thaw_vision-*.whl")
    python = top / "venv" / "bin" / "python"
    call(
        *pip, "--python", python, "install", "--ignore-installed", "--no-deps", "--no-index", wheel
    )
    where = call(python, "-c", "import thaw; print(thaw.__file__)")
    assert where.startswith(str(top))
    return SimpleNamespace(thaw=lambda *words: call(top / "venv/bin/thaw", *words), folder=folder)


SHORT = ["arch=small_cnn", "arch.width=8", "arch.input_size=32", "finetune.phases.head.epochs=1"]


def test_the_wheel_trains_predicts_sweeps_and_tells_its_settings(installed):
    thaw, folder = installed.thaw, installed.folder
    assert "optimizer=\n  adam " in thaw("conf")
    # A second process is started with this one's command line.
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    assert "next\n  thaw predict" in thaw("train", *SHORT, *ddp)
    (run,) = folder.glob("outputs/runs/*/*")
    said = thaw("predict", run.relative_to(folder), "data/shapes_45_15/test")
    assert len(said.splitlines()) == 75

    assert "2 of 2 jobs done" in thaw("train", "-m", *SHORT, "seed=0,1")
    assert len([*folder.glob("outputs/sweeps/*/*/*/metrics.json")]) == 2

    (folder / "conf" / "finetune").mkdir(parents=True)
    printed = thaw("conf", "finetune/gradual")
    (folder / "conf" / "finetune" / "mine.yaml").write_text(printed.replace("5,", "7,"))
    assert "mine " in thaw("conf", "finetune")
    assert "epochs: 7" in thaw("train", "finetune=mine", "--cfg", "job")
