"""Optuna: a study goes on where it ended, and has a figure."""

import json

import pytest
from conftest import call_train, jobs
from PIL import Image

from thaw.sweeps import study


@pytest.mark.slow
def test_a_search_goes_on_where_it_ended(short, tmp_path):
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    asked = ["experiment=search", *short[:-1], "trainer=cpu", "finetune=head_only"]
    asked += ["optimizer=choice(adam,sgd)"]
    asked += ["finetune.phases.head.epochs=choice(0,1)"]  # 0 is refused: such a trial fails
    folder = tmp_path / "outputs/sweeps/search"

    def trials():
        storage = f"sqlite:///{folder}/study.db"
        return optuna.load_study(study_name="search", storage=storage).trials

    first = call_train(tmp_path, *asked, "hydra.sweeper.n_trials=3")
    values = [trial.value for trial in trials()]
    assert len(values) == len(jobs(folder)) == 3
    failed = [trial for trial in trials() if trial.params["finetune.phases.head.epochs"] == 0]
    assert 0 < len(failed) < 3, "the seed draws both"
    assert {trial.value for trial in failed} == {float("inf")}
    assert first.code == 1
    losses = [json.loads(p.read_text())["val/loss"] for p in folder.glob("*/metrics.json")]
    assert sorted(losses) == sorted(value for value in values if value < float("inf"))
    with Image.open(folder / study.NAME) as image:
        assert min(image.size) > 300

    again = call_train(tmp_path, *asked, "hydra.sweeper.n_trials=3")
    assert again.runs == []
    assert len(trials()) == 3

    call_train(tmp_path, *asked, "hydra.sweeper.n_trials=4")
    assert [trial.value for trial in trials()][:3] == values
    assert len(trials()) == len(jobs(folder)) == 4, "and the fourth is a new one"

    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{folder}/study.db")
    killed = stored.ask()  # as a process leaves it that was killed in the next one
    killed.suggest_float("optimizer.weight_decay", 1e-6, 1e-2, log=True)
    call_train(tmp_path, *asked, "hydra.sweeper.n_trials=5")
    assert [trial.state.name for trial in trials()][4:] == ["FAIL", "COMPLETE"]
    assert trials()[5].params.items() >= killed.params.items()
    assert len(jobs(folder)) == 5

    refused = call_train(tmp_path, *asked, "hydra.sweeper.n_trials=6", "data.batch_size=4")
    assert refused.code == 2
    assert "data.batch_size: 8 -> 4" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert len(trials()) == 6


def test_a_studys_figure_shows_trials_of_every_kind(tmp_path):
    trials = [
        study.Trial(
            i, loss, {"arch": "ab"[i % 2], "lr": 10.0**-i, "flip": i > 1}, frozenset(["lr"])
        )
        for i, loss in enumerate([0.9, float("inf"), 0.5, 0.7])
    ]
    study.draw(trials, tmp_path / "study.png")
    study.draw(trials[:1], tmp_path / "one.png")
    assert {path.name for path in tmp_path.iterdir()} == {"study.png", "one.png"}
    with Image.open(tmp_path / "study.png") as image:
        assert image.convert("L").getextrema() != (255, 255)
