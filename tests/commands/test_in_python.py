"""`thaw.train`, `thaw.compare` and `thaw.load`: the command line's work, without a command line."""

import csv
import json
import logging
import os
import signal
import sys
import threading
import warnings
from pathlib import Path

import lightning.pytorch  # noqa: F401 — the first import of it sets levels and filters
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import thaw
from thaw.commands.words import words_of
from thaw.launch import conf

SMALL = {"arch": "small_cnn", "arch.width": 8, "arch.input_size": 32, "trainer": "cpu"}
SMALL |= {"finetune": {"phases": {"head": {"epochs": 1}}}, "data.batch_size": 8}


def state_of_the_process():
    root = logging.getLogger()
    names = ("thaw", "lightning.pytorch", "lightning.fabric")
    return {
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg),
        "logging": [root.handlers[:], root.level, *(logging.getLogger(n).level for n in names)],
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "place": (os.getcwd(), sys.argv[:], warnings.filters[:]),
    }


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("thaw.evaluation.figures.draw", lambda *_: [])
    monkeypatch.setattr(sys, "argv", ["a notebook", "--with", "words=of,its own"])
    before = state_of_the_process()
    yield
    assert state_of_the_process() == before


@pytest.fixture(scope="module")
def trained(few, tmp_path_factory):
    """Two runs in one process, the second one in a thread: → runs by seed, what was logged."""
    folder = tmp_path_factory.mktemp("in_python")
    runs, errors = {}, []
    told = logging.FileHandler(folder / "own.log", mode="w")  # a user's own log

    def train(seed):
        try:
            runs[seed] = thaw.train("+note=null", data=f"{few}/", seed=seed, **SMALL)
        except BaseException as error:
            errors.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        logging.getLogger().addHandler(told)
        try:
            train(1)
            thread = threading.Thread(target=train, args=[2])
            thread.start()
            thread.join()
            logging.getLogger().warning("still here")
        finally:
            logging.getLogger().removeHandler(told)
            told.close()
    assert not errors
    return runs, (folder / "own.log").read_text()


def test_a_run_is_what_its_folder_holds(trained):
    runs, logged = trained
    for seed, run in runs.items():
        assert run.path.parts[-4:-2] == ("outputs", "runs")
        assert run.path.name.endswith("_small_cnn_head_only_folder")
        assert run.metrics == json.loads((run.path / "metrics.json").read_text())
        assert [row["epoch"] for row in run.history] == [1]
        assert run.history[0]["phase"] == "head"
        assert run.history[0]["val/acc"] == run.metrics["val/acc"]
        assert json.loads((run.path / "status.json").read_text())["state"] == "done"
        assert OmegaConf.load(run.path / ".hydra" / "config.yaml").seed == seed
        assert "epoch  1/1" in (run.path / "train.log").read_text()
    assert logged == "still here\n", "what runs log isn't told to a handler of the user's"


def test_predictions_are_texts_and_numbers(trained):
    run = trained[0][1]
    with (run.path / "predictions.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["label"] for row in run.predictions] == [row["label"] for row in rows]
    right = [row["label"] == row["prediction"] for row in run.predictions]
    assert np.mean(right) == pytest.approx(run.metrics["test/acc"])
    assert all(0 < row["confidence"] <= 1 for row in run.predictions)


def test_a_run_stands_for_its_folder(trained, few):
    run = trained[0][1]
    photo = few / "test" / "red" / "0.jpg"
    said = [
        next(iter(model.predict([photo])))
        for model in (run.model, thaw.load(run), thaw.load(str(run.path)))
    ]
    assert said[0] == said[1] == said[2]
    assert repr(run.path) not in repr(run) or "test accuracy" in repr(run)


def test_a_figure_is_a_picture_that_a_notebook_shows(trained):
    run = trained[0][2]
    (run.path / "figures").mkdir(exist_ok=True)
    (run.path / "figures" / "confusion.png").write_bytes(b"\x89PNG")
    assert run.figures["confusion"]._repr_png_() == b"\x89PNG"


def test_runs_are_compared(trained):
    runs = trained[0]
    board = thaw.compare([runs[1], runs[2].path])
    assert "mean of 2 seeds" in board.sentences[0]
    assert thaw.compare(runs[1]).sentences[0] == thaw.compare(str(runs[1].path)).sentences[0]
    with pytest.raises(thaw.UserError):
        thaw.compare(["nowhere"])


def test_a_finished_run_that_is_resumed_is_itself(trained):
    run = trained[0][2]
    again = thaw.train(resume=run.path)
    assert again.path == run.path
    assert again.metrics == run.metrics


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        ([], {"seed": -1}, "seed"),
        ([], {"sead": 1}, "sead"),
        (["no word"], {}, "no word"),
        (["-m", "seed=1,2"], {}, "-m"),
        (["seed=1,2"], {}, "seed"),
        ([], {"seed": [1, 2]}, "seed"),
        ([], {"arch": "no, such"}, "no, such"),
        ([], {"data": "nowhere/"}, "nowhere"),
        ([], {"data": "my photos, it's"}, "my photos, it's"),
        ([], {"data": Path("shapes")}, "shapes"),
        ([], {"seed": {1, 2}}, "seed"),
        ([], {"experiment": "compare_two"}, "sweep"),
        ([], {"resume": "nowhere"}, "nowhere"),
        ([3], {}, "3"),
    ],
)
def test_a_mistake_is_a_user_error(tmp_path, words, settings, said):
    with pytest.raises(thaw.UserError) as caught:
        thaw.train(*words, **settings)
    assert said in str(caught.value)
    assert not [*tmp_path.glob("outputs/**/*")]


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["usual", "ignored"])
def ctrl_c(request):
    """What Ctrl-C does before, whatever tests before have called: a background job ignores it."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_ctrl_c_is_pythons_and_the_run_can_be_resumed(few, monkeypatch, tmp_path, ctrl_c):
    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("thaw.training.history.History.on_train_epoch_end", press)
        with pytest.raises(KeyboardInterrupt):
            thaw.train(data=few, **SMALL)
    assert signal.getsignal(signal.SIGINT) is ctrl_c
    (status,) = tmp_path.glob("outputs/runs/*/*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"
    assert thaw.train(resume=status.parent).metrics["epochs"] == 1


@pytest.mark.slow
def test_several_devices_train_in_processes_of_their_own(few):
    several = {"trainer": "ddp", "trainer.accelerator": "cpu", "trainer.devices": 2}
    run = thaw.train(data=few, **SMALL | several)
    assert run.metrics["test/images"] == len(run.predictions) == 6
    with pytest.raises(thaw.UserError, match="seed to be a whole number"):
        thaw.train(data=few, seed=-1, **SMALL | several)


# --- values ---------------------------------------------------------------------------------------


TEXTS = [
    "a b",
    "a,b",
    "it's",
    'say "x"',
    "back\\slash",
    "end\\",
    "\\'",
    "a=b",
    "{x}",
    "[1]",
    "$HOME",
]
TEXTS += ["${seed}", "é ü", "line\nbreak", " lead ", "", "null", "true", "1e-3", "(a)", "C:\\x"]


def test_texts_need_no_quotes():
    plain = {f"+text{i}": text for i, text in enumerate(TEXTS)}
    cfg = conf.composed(words_of(plain | {"+all": TEXTS, "+deep": dict(enumerate(TEXTS))}))
    for found in (cfg[key[1:]] for key in plain), cfg["all"], cfg.deep.values():
        assert [*found] == TEXTS


def test_values_arrive_as_they_are():
    values = [1, -2, 0.5, 1e-20, float("inf"), True, False, None, [1, [2.5, "x"]], {}, []]
    given = {f"+value{i}": value for i, value in enumerate(values)}
    numpy = {"+tuple": (1, 2), "+float": np.float64(0.25), "+int": np.int64(3)}
    cfg = conf.composed(words_of(given | numpy))
    assert [cfg[key[1:]] for key in given] == values
    assert (cfg.tuple, cfg.float, cfg.int) == ([1, 2], 0.25, 3)


def test_a_folder_beside_a_name_of_settings_needs_a_path(tmp_path):
    for name in ("shapes", "photos"):
        (tmp_path / name).mkdir()
    assert words_of({"data": "shapes"}) == ["data=shapes"]
    assert words_of({"data": "photos"}) == ["data=folder", "data.root='photos'"]
    assert words_of({"data": "shapes/"}) == ["data=folder", "data.root='shapes/'"]
    assert words_of({"data": tmp_path})[0] == "data=folder"
    assert words_of({"experiment": None}) == ["experiment=null"]
    assert words_of({"logger": ["csv", "none"]}) == ["logger=[csv,none]"]
    assert words_of({"data.names": ["a", "b"]}) == ["data.names=['a','b']"]
    assert words_of({"augment": ["flip", "crop"]}) == ["augment=[flip,crop]"]
