"""What is valid, and what is said of all else: a table of faults and of what the user sees."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from omegaconf import OmegaConf

from thaw.errors import UserError
from thaw.launch import conf, names, settings
from thaw.launch.build import make
from thaw.launch.mistakes import composed, mistakes, read
from thaw.training.schedule import Phase


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names.register_resolvers()


def told(*words: str) -> list[str]:
    """The sentences with which they are refused before torch is imported."""
    with pytest.raises(UserError) as refused:
        make(composed(read(list(words))).finetune, "finetune")
    return str(refused.value).split("\n")


# What is typed, and what its one sentence holds.
UNKNOWN = {
    "lr=0.1": "did you mean finetune.phases.head.lr=0.1?",
    "finetun=full": "did you mean finetune=full?",
    "epochs=3": "did you mean finetune.phases.head.epochs=3?",
    "batch_size=8": "did you mean data.batch_size=8?",
    "data.roots=x": "did you mean data.root=x?",
    "model=resnet18": "did you mean arch=resnet18?",
    "sead=1": "did you mean seed=1",
    "+sead=1": "did you mean seed=1?",
    "++sead=1": "did you mean seed=1?",
    "num_workers=2": "did you mean data.workers=2?",
    "learning_rate=0.1": "did you mean finetune.phases.head.lr=0.1?",
    "trainer.gpus=1": "did you mean trainer.devices=1?",
    "finetune.phases.hed.lr=1": "did you mean finetune.phases.head.lr=1?",
    "xyz=1": "There is no setting xyz; valid are",
    "+cache.foo=1": "There is no setting cache.foo; valid are cache.enabled",
    "arch=resnet81": "near it are resnet18, resnet50",
    "optimizer=adm": "near it are adam",
    "experiment=null": "There is no experiment=null",
    "optimizer=null": "There is no optimizer=null; valid are adam, adamw, sgd",
    "hydra/launcher=jobli": "near it are joblib",
    "+data.root=a": "without a +",
    "optimizer.eps=1": "+optimizer.eps=1",
    "trainer.max_epochs=1": "did you mean finetune.phases.head.epochs=1?",
    "trainer.gradient_clip_val=1": "+trainer.gradient_clip_val=1",
    "loss.label_smoothing=0.1": "+loss.label_smoothing=0.1",
    "logger=[tensorboard,cvs]": "There is no logger=cvs; near it are csv",
    "~nobody": "There is no setting nobody",
    "+arch=small_cnn": "change it as arch=NAME.",
    "++experiment=lesson": "change it as experiment=NAME.",
}
UNREAD = {
    "optimizer.lr=5": "finetune.phases.head.lr",
    "+optimizer.lr=5": "finetune.phases.head.lr",
    "finetune.phases.head.patience=3": "needs finetune.phases.head.until=converged",
    "finetune.phases.head.min_delta=3": "needs finetune.phases.head.until=converged",
    "finetune.phases.head.warmup=9": "no longer than its 5 epochs",
    "finetune.phases={}": "would change nothing",
    "+finetune.phases.head.foo=3": "finetune.phases.head.foo is unknown",
}
WRONG = {
    "arch=small_cnn arch.width=0": "arch.width to be a whole number from 1",
    "finetune.phases.head.lr=inf": "finetune.phases.head.lr",
    "finetune.phases.head.lr=nan": "finetune.phases.head.lr",
    "finetune.phases.head.lr=1e400": "finetune.phases.head.lr",
    "finetune.phases.head.epochs=true": "finetune.phases.head.epochs",
    "finetune.phases.head.train=[]": "finetune.phases.head.train",
    "finetune.phases=null": "finetune.phases to hold at least one phase",
    "finetune.phases.head=5": "finetune.phases.head to be a mapping",
    "finetune.lr_decay=x": "finetune.lr_decay",
    "data.val=/": "data.val to be the name of a folder in data.root, or null, got /",
    "data.val=../x": "data.val",
    "data.batch_size=-1": "data.batch_size to be a whole number from 1 to 100000, got -1",
    "data.batch_size=1.5": "got 1.5",
    'data.batch_size="8"': "got '8'",
    "data.batch_size=[8]": "got [8]",
    "data.batch_size={a: 1}": "got {'a': 1}",
    "data.workers=true": "data.workers to be a whole number from 0 to 512, got true",
    "data.val_fraction=nan": "data.val_fraction to be a number between 0 and 1, got nan",
    "data=folder data.root=. data.source=5": "to be settings with a _target_, or null, got 5",
    "seed=99999999999999999999": "seed to be a whole number from 0",
    "seed=null": "got null",
    "seed=": "got ''",
    "seed=???": "Expected seed to be set",
    "~seed": "Expected seed to be a whole number from 0, but it is left out",
    "~optimizer": "Expected optimizer to be a group of settings, got null",
    "~trainer.fuse": "Expected trainer.fuse to be true or false, but it is left out",
    "cache=5": "Expected cache to be a group of settings, got 5",
    "cache.max_gb=0": "cache.max_gb to be a number above 0",
    "cache.dir=": "cache.dir to be a path, got ''",
    "seed=${nowhere}": "Expected seed to be a value, but ${nowhere} refers to what isn't there",
    "seed=${seed}": "refers to itself",
    "optimizer.betas=[1,2]": "optimizer.betas to be two numbers from 0, below 1",
    "optimizer.weight_decay=inf": "optimizer.weight_decay",
    "trainer.fuse=x": "trainer.fuse to be true or false, got x",
    "trainer.devices=0": "trainer.devices to be auto, a number of devices from 1",
    "trainer.accelerator=tpuu": "trainer.accelerator to be one of auto, cpu",
    "trainer.precision=17": "trainer.precision to be one of auto, 32-true",
    "debug=1": "debug to be true or false, got 1",
    "data=folder data.root=nowhere": "data.root=nowhere, but there is none",
    "data.root=photos": "did you mean data=folder data.root=",
    "data=folder data.root=file": "data.root=file, but it is a file",
    "data=folder": "Expected data.root to be set",
    "data=table": "Expected data.file to be set",
    "data=table data.file=nowhere.csv": "Expected a table in data.file=nowhere.csv",
    "data.fixes=nowhere.csv": "Expected a table in data.fixes=nowhere.csv, but there is no such",
    "data.fixes=.": "Expected a table in data.fixes=., but it is a folder",
    "data.balance=samplr": "data.balance to be one of none, sampler, loss, got samplr",
    "data.fit=cut": "data.fit to be one of crop, squash, pad, got cut",
    "data.size=8": "data.size to be a whole number from 16 to 2048, or null, got 8",
    "data.check=loud": "data.check to be one of warn, strict, off, got loud",
    "data.on_error=skip": "data.on_error to be one of exclude, fail, got skip",
    "data.classes=bottom": "data.classes to be one of top, leaf, path, name, or null, got bottom",
    "~metrics": "Expected metrics to be a group of settings, got null",
    "arch.weights=nowhere.pth": "arch.weights=nowhere.pth, but there is none",
    "arch=timm": "Expected arch.name to be set",
    "seed=[": "Expected KEY=VALUE, got seed=[",
    "~nobody[": "Expected KEY=VALUE, got ~nobody[",
    "data=folder data.root=~nobody_here/photos": "data.root=~nobody_here/photos, but there is none",
    "arch.weights=~nobody_here/a.pth": "arch.weights=~nobody_here/a.pth, but there is none",
    "seed=1,2": "-m seed=1,2 trains with each",
    "augment=flip,crop": "-m augment=flip,crop trains with each",
    "optimizer=[adam,sgd]": "and a run has one optimizer; -m optimizer=adam,sgd trains with each",
    "arch=[resnet18,resnet50]": "-m arch=resnet18,resnet50 trains with each",
    "cache=[]": "Expected cache to be a group of settings, got []",
    "finetune.phases=[a,b]": "Expected finetune.phases to be a group of settings, got [a,b]",
}


FAULTS = UNKNOWN | UNREAD | WRONG
QUICK = (
    "lr=0.1",
    "arch=resnet81",
    "+optimizer.lr=5",
    "seed=[",
    "data.val=/",
    "cache=5",
    "seed=${seed}",
)


@pytest.mark.parametrize(
    "typed", [pytest.param(f, marks=[] if f in QUICK else pytest.mark.slow) for f in FAULTS]
)
def test_what_cannot_be_is_one_sentence_with_what_is_valid(typed):
    Path("file").touch()
    words = [typed] if "{" in typed else typed.split(" ")
    (sentence,) = told(*words)
    assert FAULTS[typed] in sentence
    assert "append to your config" not in sentence


def test_all_that_is_wrong_is_told_at_once():
    words = ["lr=1", "arch=[resnet81,a]", "seed=x", "data.batch_size=0", "cache.dir=", "seed=1=2"]
    lines = told(*words, "finetune.phases={}", "--epochs=3")
    for said in (
        "lr;",
        "no arch=resnet81",
        "no arch=a;",
        "-m arch=",
        "data.batch_size",
        "cache.dir",
        "seed=1=2",
        "={}",
        "--ep",
    ):
        assert [line for line in lines if said in line], said


def test_of_a_sweep_every_option_is_looked_at_before_the_first_job():
    words = ["arch=resnet18,resnet81,resnet50", "optimizer=sgd,adm", "seed=1,2"]
    assert [line.split(";")[0] for line in mistakes(words)] == [
        "There is no arch=resnet81",
        "There is no optimizer=adm",
    ]
    assert mistakes(["arch=resnet18,resnet50", "finetune.phases.head.lr=1e-3,1e-2"]) == []
    assert "finetune.phases.head.lr" in mistakes(["optimizer.lr=1e-3,1e-2"])[0]


@pytest.mark.slow
def test_every_file_that_thaw_brings_is_valid():
    Path("table.csv").touch()
    groups = {g: [*conf.options(g)] for g in ("arch", "data", "optimizer", "finetune", "trainer")}
    for row in range(max(map(len, groups.values()))):
        words = [f"{group}={names[row % len(names)]}" for group, names in groups.items()]
        settings.check(
            conf.composed([*words, "arch.name=a", "data.root=.", "++data.file=table.csv"])
        )


def test_keys_of_phases_are_known_by_name():
    fields = {*Phase.__dataclass_fields__} - {"name", "train", "epochs", "lr"}
    assert {*settings.OPTIONAL} == fields
    cfg = composed(read(["finetune.phases.head.warmup=1", "finetune.phases.head.anneal=cosine"]))
    assert (cfg.finetune.phases.head.warmup, cfg.finetune.phases.head.anneal) == (1, "cosine")


MINE = """
class Own:
    def __init__(self, batch_size="many", colour=None):
        self.batch_size = batch_size
"""


def test_what_belongs_to_a_function_of_the_users_own_is_the_users(tmp_path, monkeypatch):
    (tmp_path / "mine_for_settings.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    cfg = conf.composed(["data=folder", "data.root=."])
    cfg.data = OmegaConf.create({"_target_": "mine_for_settings.Own", "batch_size": "few"})
    settings.check(cfg)
    assert make(cfg.data, "data").batch_size == "few"
    cfg.data = OmegaConf.create({"_target_": "mine_for_settings.Own", "color": "red"})
    with pytest.raises(UserError, match=r"no setting data\.color; did you mean data\.colour\?"):
        make(cfg.data, "data")
    for target, why in (
        ("nowhere.at.all", "can be imported"),
        ("mine_for_settings.MINE", "can be imported"),
        ("os.sep", "class or a function"),
        (5, "can be imported"),
    ):
        cfg.data = OmegaConf.create({"_target_": target})
        with pytest.raises(UserError, match=why):
            make(cfg.data, "data")


HEAVY = """
import sys, time
began = time.monotonic()
sys.argv = ["train.py", *sys.argv[2:]]
import runpy
try:
    runpy.run_path(sys.path[0] + "/train.py", run_name="__main__")
except SystemExit as stop:
    print(stop.code, *sorted({"torch", "lightning"} & set(sys.modules)))
"""


def test_mistakes_that_need_no_torch_are_found_without_it(tmp_path):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPO)!r})\n{HEAVY}"]
    words = ["x", "--data.root=R", "lr=1", "arch=resnet81"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "2", done.stderr
    assert len(done.stderr.splitlines()) == 3
