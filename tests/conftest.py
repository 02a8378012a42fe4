"""Small photos, small weights, and `train.py` as a user calls it, but in this process."""

import hashlib
import importlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

# Tests run side by side: threads that wait for one another would take each other's cores. It goes
# before torch, which reads it once, and reaches the processes that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from torchvision import models

from thaw import fetch
from thaw.errors import UserError
from thaw.nets.without_memory import WithoutMemory as WithoutMemory

REPO = Path(__file__).parents[1]
SHARED = Path(os.environ.get("THAW_SHARED", REPO.parent / "shared"))


@pytest.fixture(scope="session", autouse=True)
def _quiet_machine() -> None:
    """Timings of threads don't matter to tests, and small nets are slower on many."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Features are shared by all tests, in place of the user's."""
    os.environ["THAW_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photos and weights for development; they aren't part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"real photos and weights are not in THAW_SHARED={SHARED}")
    return SHARED.resolve()


def paint(
    path: Path, colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (40, 32)
) -> None:
    """Write a noisy photo of a colour: easy to learn, and no two are the same."""
    noise = np.random.default_rng(seed).integers(-60, 60, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(path, quality=95)


COLOURS = {"blue": (60, 60, 190), "green": (60, 180, 60), "red": (200, 60, 60)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with train/ and test/, 3 classes, 10 and 4 photos in each."""
    return make_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `photos`, but 5 and 2 in each class, for all tests: they leave them as they are."""
    return make_photos(tmp_path_factory.mktemp("few") / "photos", train=5, test=2)


def make_photos(root: Path, train: int = 10, test: int = 4) -> Path:
    """As the fixture `photos`, in `root`; the same bytes each time."""
    for split, count in (("train", train), ("test", test)):
        for label, (name, colour) in enumerate(COLOURS.items()):
            for i in range(count):
                seed = 1000 * label + i + (500 if split == "test" else 0)
                paint(root / split / name / f"{i}.jpg", colour, seed)
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a state_dict file for a torchvision arch: random, but taken as pretrained."""
    folder = tmp_path_factory.mktemp("weights")

    def make(name: str) -> Path:
        path = folder / f"{name}.pth"
        if not path.is_file():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                net = models.get_model(name, weights=None)
                norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
                for norm in norms:
                    norm.momentum = None  # statistics of what it sees, or nothing would pass
                if norms:
                    with torch.no_grad():
                        net(torch.randn(16, 3, 224, 224))
                torch.save(net.state_dict(), path)
        return path

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch hub keeps weights: an empty folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # another test may have set it
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No network; → the addresses that were asked for."""
    asked: list[str] = []

    def refuse(url: str, **_: object) -> None:
        asked.append(url)
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", refuse)
    monkeypatch.setattr(fetch, "BACKOFF", 0.0)
    return asked


def refusal(call: Callable[..., object], *args: object) -> str:
    """The sentence with which it is refused."""
    with pytest.raises(UserError) as caught:
        call(*args)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def call_train(folder: Path, *arguments: str, figures: bool = False) -> SimpleNamespace:
    """Call `train.py ARGUMENTS` in a folder: → code, out, err, run (the newest folder), runs.

    For fixtures of a module, whose tests look at one run; the fixture `train` is for one test. The
    figures of the evaluation take as long as a small run, so they are drawn only if asked for.
    """
    import train as script
    from thaw.launch import cli

    out, err = io.StringIO(), io.StringIO()
    before = set(folder.glob("outputs/**/status.json"))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", *arguments])
        patch.setattr("thaw.sweeps.jobs.failures", [])  # a process begins with none
        if not figures:
            patch.setattr("thaw.evaluation.figures.draw", lambda *_: [])
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        try:
            with pytest.raises(SystemExit) as stop:
                cli.command(script.start)
        finally:
            root = logging.getLogger()
            for handler in root.handlers[:]:  # a process takes its own with it
                name = Path(getattr(handler, "baseFilename", "")).name
                if isinstance(handler, cli.ConsoleHandler) or name == "train.log":
                    root.removeHandler(handler)
                    handler.close()
    after = sorted(folder.glob("outputs/**/status.json"), key=lambda p: p.stat().st_mtime)
    fresh = [path.parent for path in after if path not in before]
    return SimpleNamespace(
        code=stop.value.code,
        out=out.getvalue(),
        err=err.getvalue(),
        run=fresh[-1] if fresh else None,
        runs=fresh,
    )


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SimpleNamespace]:
    """Call `train.py ARGUMENTS` in `tmp_path`: → code, out, err, run (the newest folder), runs."""
    monkeypatch.chdir(tmp_path)
    return partial(call_train, tmp_path)


@pytest.fixture
def call_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Call `scripts/NAME.py ARGUMENTS`: → code, out, err."""
    from thaw.launch import cli

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(name: str, *arguments: object) -> SimpleNamespace:
        script = importlib.import_module(f"scripts.{name}")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.command(script.main)
        printed = capsys.readouterr()
        return SimpleNamespace(code=stop.value.code, out=printed.out, err=printed.err)

    return call


@pytest.fixture
def small(photos: Path, weights: Callable[[str], Path]) -> list[str]:
    """Arguments of a run that takes a second: a small net with weights, on small photos."""
    return small_run(photos, weights("shufflenet_v2_x0_5"))


def small_run(photos: Path, weights: Path) -> list[str]:
    """As the fixture `small`."""
    return [
        "arch=torchvision",
        "arch.name=shufflenet_v2_x0_5",
        f"arch.weights={weights}",
        "data=folder",
        f"data.root={photos}",
        "data.batch_size=8",
        "trainer.precision=32-true",  # bundles are tested in it, on whatever machine
        "trainer=cpu",
    ]


@pytest.fixture(scope="session")
def short(few: Path, weights: Callable[[str], Path]) -> list[str]:
    """As `small`, but on fewer photos, for an epoch, and without a word on the trainer."""
    *arguments, _ = small_run(few, weights("shufflenet_v2_x0_5"))
    return [*arguments, "finetune.phases.head.epochs=1"]


def jobs(sweep: Path) -> dict[str, Path]:
    """A sweep's run folders by their names."""
    return {path.parent.name: path.parent for path in sorted(sweep.glob("*/status.json"))}


def state(run: Path) -> str:
    """How a run ended."""
    return json.loads((run / "status.json").read_text())["state"]


def weights_of(run: Path) -> str:
    """Digest of the weights that a run ended with."""
    return hashlib.sha256((run / "model" / "weights.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def finished(
    weights: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """What `train` returns, and `photos`, of one run as `small` for all tests: they change nothing.

    It trained the head for an epoch, with a weight decay that would shrink all that isn't frozen.
    """
    folder = tmp_path_factory.mktemp("finished")
    arguments = small_run(make_photos(folder / "photos"), weights("shufflenet_v2_x0_5"))
    decay = ["optimizer=adamw", "optimizer.weight_decay=0.5"]
    done = call_train(folder, *arguments, *decay, "finetune.phases.head.epochs=1")
    assert done.code == 0, done.err
    return SimpleNamespace(**vars(done), photos=folder / "photos")
