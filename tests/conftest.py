"""Small photos, small weights, and `train.py` as a user calls it, but in this process."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torchvision import models

REPO = Path(__file__).parents[1]
SHARED = Path(os.environ.get("THAW_SHARED", REPO.parent / "shared"))


@pytest.fixture(scope="session", autouse=True)
def _quiet_machine() -> None:
    """Timings of threads don't matter to tests, and small nets are slower on many."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photos and weights for development; they aren't part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"real photos and weights are not in THAW_SHARED={SHARED}")
    return SHARED.resolve()


class WithoutMemory(TorchFunctionMode):
    """Inside `with`, nets of any size are built at once: their tensors are on the meta device.

    `torch.device("meta")` would also put there what builders compute with, which some can't do.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.uniform_, Tensor.normal_, Tensor.clamp_) and args[0].is_meta:
            return args[0]  # there is nothing to fill, and pretending takes time
        place = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **(kwargs or {}) | place)


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


def make_photos(root: Path) -> Path:
    """As the fixture `photos`, in `root`; the same bytes each time."""
    for split, count in (("train", 10), ("test", 4)):
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
                for module in net.modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.momentum = None  # statistics of what it sees, or nothing would pass
                with torch.no_grad():
                    net(torch.randn(16, 3, 224, 224))
                torch.save(net.state_dict(), path)
        return path

    return make


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Call `train.py ARGUMENTS` in `tmp_path`: → code, out, err, run (the newest folder), runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(*arguments: str) -> SimpleNamespace:
        import train as script
        from thaw import cli

        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        before = set(tmp_path.glob("outputs/**/status.json"))
        with pytest.raises(SystemExit) as stop:
            cli.command(script.start)
        after = sorted(tmp_path.glob("outputs/**/status.json"), key=lambda p: p.stat().st_mtime)
        fresh = [path.parent for path in after if path not in before]
        printed = capsys.readouterr()
        return SimpleNamespace(
            code=stop.value.code,
            out=printed.out,
            err=printed.err,
            run=fresh[-1] if fresh else None,
            runs=fresh,
        )

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
        "trainer=cpu",
    ]
