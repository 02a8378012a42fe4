"""A run folder that someone sends runs nothing: what its settings may say, and how one confirms."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import call_train, refusal

from thaw.errors import UserError
from thaw.launch import conf
from thaw.report import describe
from thaw.runs import shipped, trust

OLD = Path(__file__).parent / "old"

# An override in the folder, what is said of it. None of them may be acted upon.
FOREIGN = {
    "augment._target_=torch.load": "'torch.load' isn't Thaw's",
    "+augment._target_=shutil.rmtree": "'shutil.rmtree' isn't Thaw's",
    "++augment._target_=os.system": "'os.system' isn't Thaw's",
    "augment={_target_:os.system,command:x}": "'os.system' isn't Thaw's",
    "+augment.a={b:[{c:{_target_:os.system}}]}": "'os.system' isn't Thaw's",
    "+augment.transforms=[{_target_:pip.main,_args_:[[install,x]]}]": "'pip.main' isn't Thaw's",
    "optimizer={_partial_:true,_target_:subprocess.run}": "'subprocess.run' isn't Thaw's",
    "optimizer._target_=torchvision.transforms.v2.Identity": "Identity' isn't Thaw's",
    "augment._target_=thaw.fetch.fetch_folder": "'thaw.fetch.fetch_folder' isn't Thaw's",
    "arch._target_=thaw.fetch.os.system": "isn't Thaw's",
    "hydra.callbacks.x={_target_:os.system}": "not one of Thaw's settings",
    "+hydra.callbacks={x:{_target_:os.system}}": "not one of Thaw's settings",
    "hydra.searchpath=[file:///tmp/x]": "not one of Thaw's settings",
    "hydra.searchpath=[x/conf]": "not one of Thaw's settings",
    "hydra/launcher=joblib": "not one of Thaw's settings",
    "hydra.launcher._target_=os.system": "not one of Thaw's settings",
    "hydra.sweeper._target_=os.system": "not one of Thaw's settings",
    "hydra.job_logging.handlers.x={class:logging.FileHandler}": "not one of Thaw's settings",
    "hydra.run.dir=/tmp/x": "not one of Thaw's settings",
    "arch@hydra=resnet18": "not one of Thaw's settings",
    "+mine=x": "not one of Thaw's settings",  # a group of the user's own
    "finetune=mine": "no file of conf/finetune",
    "arch='../../../tmp/x'": "no file of conf/arch",
    "+experiment=[mine,lesson]": "no file of conf/experiment",
    "data.root='${oc.env:HOME}'": "an interpolation",
    "data.root=${oc.decode:x}": "an interpolation",
    "+arch.x=[a,{b:'${oc.env:HOME}'}]": "an interpolation",
    "data.source.url=https://example.org/a.zip": "an address",
    "data.source={_target_:thaw.fetch.fetch_folder,url:'http://example.org/a.zip'}": "an address",
}
# What is no setting at all.
DAMAGED = (
    *("--config-dir=/tmp/x", "--config-path=x", "-m", "--multirun", "-cn=x", "--info", "nothing"),
    *("arch=resnet18,resnet50", "seed=range(3)", "a=b=c:{", "data.root=[", "seed=" + "[" * 3000),
)
# What a run of one's own may well have been started with.
OWN = (
    *("arch=timm", "arch.name=resnet18.a1_in1k", "~finetune.phases.head", "experiment=lesson"),
    *("+finetune.phases={z:{train:all,epochs:1,lr:0.01}}", "data.root='/a b/${c'", "seed=3"),
    *("arch._target_=thaw.pretrained.timm", "augment=trivial", "data=hymenoptera", "debug=true"),
    *("arch.weights=/x/y.pth", "~data.val", "data.source=null", "finetune.phases.head.lr=1e-2"),
    *("+note=null", "+project='my ants'"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run that broke off, and what writes the overrides into it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD / "broken", tmp_path / "sent")
    (tmp_path / "conf" / "mine").mkdir(parents=True)
    (tmp_path / "conf" / "mine" / "x.yaml").write_text("a: 1\n")
    return tmp_path


def write(folder, *overrides):
    path = folder / "sent" / ".hydra" / "overrides.yaml"
    path.write_text(yaml.safe_dump([*overrides]))


@pytest.mark.parametrize("override", FOREIGN)
def test_what_isnt_thaws_is_refused_by_name(folder, override):
    write(folder, "seed=1", override)
    sentence = refusal(trust.resume_arguments, ["resume=sent"])
    assert FOREIGN[override] in sentence
    assert "seed=1" not in sentence
    if "${" not in override:
        assert override in sentence.replace("'\"'\"'", "'")


def test_what_the_user_says_again_is_his(folder):
    write(folder, "seed=1", "arch._target_=mynet.tiny", "finetune=mine")
    sentence = refusal(trust.resume_arguments, ["resume=sent"])
    assert sentence.endswith("confirms it: arch._target_=mynet.tiny finetune=mine.")
    again = ["arch._target_=mynet.tiny", "finetune=mine"]
    arguments = trust.resume_arguments(["resume=sent", *again])
    assert arguments[:3] == ["seed=1", *again]
    refusal(trust.resume_arguments, ["resume=sent", again[0]])
    refusal(trust.resume_arguments, ["resume=sent", *again[:1], "finetune.phases.head.lr=1"])


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: line[:20])
def test_what_is_no_setting_is_damage(folder, line):
    write(folder, "seed=1", line)
    assert "overrides.yaml is damaged (" in refusal(trust.resume_arguments, ["resume=sent"])


def test_a_run_of_ones_own_resumes_without_a_word(folder):
    fine = [word for word in OWN if "${" not in word]
    write(folder, *fine, "cache.dir=/x", "cache.max_gb=1")
    kept = trust.resume_arguments(["resume=sent"])
    assert kept[: len(fine)] == [word.replace("thaw.pre", "thaw.nets.pre") for word in fine]
    assert not any(word.startswith("cache") for word in kept), "other files in it would go"


def test_nothing_runs_when_it_is_resumed(folder):
    mark = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\ndef go(*a, **k): ...\n")
    write(folder, "augment._target_=evil.go")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        done = call_train(folder, "resume=sent")
    assert done.code == 2
    assert "augment._target_=evil.go" in done.err
    assert "Traceback" not in done.err
    assert not mark.exists()
    assert "evil" not in sys.modules


def test_describe_makes_only_a_schedule_of_thaws(tmp_path, monkeypatch, call_script):
    run = shutil.copytree(OLD / "sweep" / "seed=1", tmp_path / "run")
    file = run / "environment.json"
    before = json.loads(file.read_text())

    def rewrite(finetune):
        settings = before["settings"] | {"finetune": finetune}
        file.write_text(json.dumps(before | {"settings": settings}))

    made: list[str] = []
    monkeypatch.setattr(describe, "make", lambda given, key: made.append(given) or 1 / 0)
    evil = {"_target_": "torch.load", "f": "E.pt", "weights_only": False}
    own = before["settings"]["finetune"]
    for finetune in (evil, own | {"x": [{"y": evil}]}, own | {"_target_": "thaw.fetch.download"}):
        rewrite(finetune)
        done = call_script("describe", run)
        assert done.code == 2
        assert "isn't Thaw's, so it isn't run" in done.err
    assert not made
    rewrite(own | {"_target_": "mine.schedule"})
    assert "--set finetune._target_=mine.schedule" in call_script("describe", run).err
    done = call_script("describe", run, "--set", "finetune._target_=mine.schedule")
    assert "is damaged (finetune: ZeroDivisionError" in done.err
    assert made[0]["_target_"] == "mine.schedule"


def test_the_table_of_what_is_shipped_reads_all_of_conf():
    assert "thaw.training.schedule.Schedule" in shipped.targets("finetune")
    assert "thaw.data.shapes.draw" in shipped.targets("data")
    assert any("hymenoptera" in address for address in shipped.addresses("data"))
    assert {"seed", "arch", "experiment"} <= shipped.top_keys()
    with pytest.raises(UserError):
        trust.resume_arguments(["resume=nowhere"])


@pytest.mark.slow
def test_a_net_of_ones_own_resumes_once_confirmed(tmp_path, monkeypatch):
    from test_old_runs import SETTINGS

    (tmp_path / "mynet.py").write_text("from thaw.nets.pretrained import small_cnn as tiny\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = "arch._target_=mynet.tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thaw.model.bundle.save", lambda *_, **__: 1 / 0)  # broken off at its end
        with pytest.raises(ZeroDivisionError):
            call_train(tmp_path, *SETTINGS, own, "hydra.run.dir=run")
    refused = call_train(tmp_path, "resume=run")
    assert refused.code == 2
    assert refused.err.rstrip().endswith(f"confirms it: {own}.")
    done = call_train(tmp_path, "resume=run", own)
    assert done.code == 0, done.err
    assert "going on from" in done.out


def test_a_conf_in_a_run_folder_is_not_the_users(folder, monkeypatch):
    assert conf.own() == folder / "conf"
    shutil.copytree(folder / "conf", folder / "sent" / "conf")
    monkeypatch.chdir(folder / "sent")
    assert conf.own() is None
