"""One model of several runs: what goes into the average, and what is refused."""

import json

import pytest
import torch
from conftest import weights_of
from safetensors.torch import load_file

from thaw.model import bundle

THREE = ["-m", "hydra.sweep.dir=sweep", "finetune.phases.head.epochs=2"]
RATES = "finetune.phases.head.lr=0.01,0.02,1000"  # the last is none to average with


@pytest.fixture
def soup(call_script):
    return lambda *arguments: call_script("soup", *arguments)


@pytest.mark.slow
def test_a_soup_is_the_mean_of_the_runs_that_val_keeps(train, small, soup, tmp_path):
    swept = train(*small, *THREE, RATES)
    assert swept.code == 0, swept.err
    done = soup("sweep")
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "sweep" / "soup" / "soup.json").read_text())
    assert [row["kept"] for row in told["tried"]].count(True) == len(told["runs"])
    assert not any("lr=1000" in run for run in told["runs"])
    losses = [row["loss"] for row in told["tried"] if row["kept"]]
    assert losses == sorted(losses, reverse=True)
    states = [load_file(tmp_path / run / "model" / "weights.safetensors") for run in told["runs"]]
    found = load_file(tmp_path / "sweep" / "soup" / "model" / "weights.safetensors")
    for name, tensor in found.items():
        if tensor.is_floating_point():
            mean = torch.stack([state[name].double() for state in states]).mean(dim=0)
            assert torch.allclose(tensor.double(), mean, atol=1e-6)
    metrics = json.loads((tmp_path / "sweep" / "soup" / "metrics.json").read_text())
    assert metrics["val/loss"] == pytest.approx(losses[-1])
    assert 0 <= metrics["test/acc"] <= 1
    assert bundle.load(tmp_path / "sweep" / "soup").familiar is not None


@pytest.mark.slow
def test_runs_that_do_not_go_together_are_refused(train, small, soup, tmp_path):
    short = ["finetune.phases.head.epochs=1", "hydra.run.dir=RUN"]
    for run, more in {"one": [], "seed": ["seed=1"]}.items():
        done = train(*small, *[word.replace("RUN", run) for word in short], *more)
        assert done.code == 0, done.err
    before = weights_of(tmp_path / "one")
    for arguments, word in ((["one"], "two"), (["one", "seed"], "seed")):
        refused = soup(*arguments, "--out", "out")
        assert refused.code == 2
        assert word in refused.err
    assert not (tmp_path / "out").exists()
    assert weights_of(tmp_path / "one") == before
