"""A net of the user's own: trained, saved, and loaded only where he says that its code may run."""

import json
from pathlib import Path

import pytest
import torch
from conftest import call_train, refusal
from omegaconf import OmegaConf

import thaw
from thaw.nets import own, pretrained

CODE = """
import torch
from torch import nn

def tiny(width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )

class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x)

def fails():
    raise KeyError("stem")

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working directory, another for each test."""
    name = f"net_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # taken back at the end
    own.trusted.clear()
    return name


def made(**settings: object):
    return pretrained.made(OmegaConf.create(settings))


@pytest.mark.parametrize("named", [True, False])
def test_it_is_made_with_or_without_a_name(module: str, named: bool):
    more = {"name": "tiny"} if named else {}
    backbone = made(_target_=f"{module}.tiny", width=4, input_size=32, weights=None, **more)
    assert backbone.origin["name"] == ("tiny" if named else f"{module}.tiny")
    assert backbone.input_size == 32
    assert backbone.in_features == 4
    assert not backbone.pretrained


def test_its_weights_are_read_as_those_of_others(module: str, tmp_path: Path):
    first = made(_target_=f"{module}.tiny")
    torch.save({"net": first.net.state_dict()}, tmp_path / "mine.pth")
    second = made(_target_=f"{module}.tiny", weights=str(tmp_path / "mine.pth"))
    assert second.pretrained
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("absent_module.tiny", "there is no module absent_module"),
        ("{}.absent", "has no such absent"),
        ("tiny", "MODULE.FUNCTION"),
        ("{}.fails", "KeyError"),
        ("{}.number", "got a int"),
        ("{}.Wrong", "can't take photos [2, 3, 224, 224]"),
    ],
)
def test_what_makes_no_net_is_named(module: str, target: str, words: str):
    target = target.format(module)
    sentence = refusal(lambda: made(_target_=target))
    assert target in sentence
    assert words in sentence


@pytest.mark.slow
def test_a_run_is_loaded_where_its_code_is_trusted(
    module: str, few: Path, tmp_path: Path, call_script, monkeypatch: pytest.MonkeyPatch
):
    arguments = [f"arch._target_={module}.tiny", "+arch.width=8", "~arch.drop_rate"]
    done = call_train(
        tmp_path,
        *arguments,
        "arch.name=tiny",
        "arch.weights=null",
        "data=folder",
        f"data.root={few}",
        "finetune=from_scratch",
        "finetune.phases.all.epochs=1",
        "trainer=cpu",
    )
    assert done.code == 0, done.err
    own.trusted.clear()
    sentence = refusal(thaw.load, done.run)
    assert f"--net {module}.tiny" in sentence
    factory = own.find(f"{module}.tiny")
    photo = next(few.glob("test/*/*.jpg"))
    first = next(thaw.load(done.run, net=factory).predict(photo))
    told = call_script("predict", done.run, photo, "--json")
    assert told.code == 2
    assert f"--net {module}.tiny" in told.err
    told = call_script("predict", done.run, photo, "--json", "--net", f"{module}.tiny")
    assert told.code == 0, told.err
    assert json.loads(told.out)[0]["label"] == first.label
