"""What is typed is what is meant: paths as people have them, and slips that are told."""

from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from thaw.errors import UserError
from thaw.launch import conf, names
from thaw.launch.mistakes import read
from thaw.launch.typed import quoted, unquoted
from thaw.launch.words import as_typed

NAMES = ["my photos", "a,b", "a=b", "[x] (1)", "{y: 1}", "it's", 'say "hi"', "50%", "#1", "$HOME"]
NAMES += ["back\\slash", "end\\", "two\\\\", "é", "日本語", "2024_05", "1e5", "null", "true", "off"]
NAMES += ["nan", "a:b", "a;b&c|d", "-dash", "+plus", "*", "choice(a,b)", "a\\,b", "'", "@x"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names.register_resolvers()


def composed(*typed: str) -> object:
    return conf.composed(read(list(typed)), hydra=True)


@pytest.mark.parametrize("multirun", [False, True])
def test_a_path_needs_no_quotes_but_the_shells(multirun):
    parser = OverridesParser.create()
    for name in [*NAMES, "${x}", " a", "~x"]:
        Path(name).mkdir()
        for path in (name, str(Path(name).resolve())):
            asked = [*["-m"] * multirun, "data=folder"]
            *rest, word = read([*asked, f"data.root={path}"])
            assert rest == asked
            override = parser.parse_override(word)
            assert not override.is_sweep_override(), "it is no list"
            # What a sweep's job gets, and what a resumed run gets once more.
            (((job,),),) = BasicSweeper.split_arguments([override], None)
            for again in (word, job, as_typed(job, multirun)):
                value = parser.parse_override(again).value()
                assert OmegaConf.create({"root": value}).root == path


def test_a_path_that_is_not_there_yet_needs_none_either():
    for name in ("my photos", "a,b", "[x] (1)", "it's", "back\\slash", "日本語", "2024_05", "off"):
        words = [f"cache.dir={name}", f"hydra.run.dir=out/{name}", f"arch.weights={name}"]
        cfg = composed(*words, f"hydra.sweep.dir={name}")
        assert (cfg.cache.dir, cfg.arch.weights) == (name, name)
        assert (cfg.hydra.run.dir, cfg.hydra.sweep.dir) == (f"out/{name}", name)


def test_home_references_and_what_is_quoted_for_hydra_mean_what_they_did(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    cfg = composed(
        "hydra.run.dir=~/runs/${seed}", "data=folder", "data.root='my photos'", "cache.dir=a\\ b"
    )
    assert cfg.hydra.run.dir == f"{tmp_path}/runs/42"
    assert cfg.data.root == "my photos"
    Path("a b").mkdir()
    assert composed("cache.dir=a\\ b").cache.dir == "a b"
    assert composed("arch.weights=null", "data.val=null").arch.weights is None


@pytest.mark.parametrize(
    ("typed", "read_as"),
    [
        ("data.root=one,two", "data.root='one','two'"),
        ("data.root=one,no where", "data.root='one','no where'"),
        ("arch.weights=DEFAULT,null", "arch.weights='DEFAULT',null"),
        ("arch.weights=choice(DEFAULT,null)", "arch.weights=choice(DEFAULT,null)"),
        ("cache.dir=one,two", "cache.dir='one,two'"),
        ("arch=resnet18,resnet50", "arch=resnet18,resnet50"),
    ],
)
def test_in_a_sweep_paths_with_a_comma_between_them_are_several(typed, read_as):
    Path("one").mkdir()
    Path("two").mkdir()
    assert read(["-m", "data=folder", typed]) == ["-m", "data=folder", read_as]


def test_quotes_come_off_as_they_went_on():
    for text in [*NAMES, "\\'", "a\\\\'b\\", ""]:
        assert unquoted(quoted(text)) == text
        assert as_typed(as_typed(f"data.root={text}")) == as_typed(f"data.root={text}")


# What is typed, and what the sentence says instead.
SLIPS = {
    "--data.root=R": "data=folder data.root=R?",
    "-data.root R": "data=folder data.root=R?",
    "data.root = R": "data=folder data.root=R?",
    "data.root =R": "data=folder data.root=R?",
    "data.root= R": "data=folder data.root=R?",
    "data=photos": "data=folder data.root=photos?",
    "data=./nowhere": "data=folder data.root=./nowhere?",
    "photos/": "data=folder data.root=photos/?",
    "photos": "data=folder data.root=photos?",
    "/nowhere": "data=folder data.root=/nowhere?",
    "run": "resume=run?",
    "net.pth": "arch.weights=net.pth?",
    "resnet18": "arch=resnet18?",
    "--epochs 3": "finetune.phases.head.epochs=3?",
    "--finetune full": "finetune=full?",
    "data=folder data.root=my photos": "'data.root=my photos'?",
    "finetune.phases={}": "~finetune.phases.NAME",
    "=5": "Expected KEY=VALUE",
}


@pytest.mark.slow
@pytest.mark.parametrize("typed", SLIPS)
def test_a_slip_is_told_with_what_was_meant(typed):
    for folder in ("photos", "my photos", "run/.hydra"):
        Path(folder).mkdir(parents=True)
    Path("net.pth").touch()
    with pytest.raises(UserError) as refused:
        read([*typed.split(" "), "seed=1"])
    assert SLIPS[typed] in str(refused.value)


def test_hydras_own_flags_stay():
    flags = ["--cfg", "job", "--resolve", "--config-dir", "mine", "--info", "all", "-m"]
    assert read([*flags, "seed=1"]) == [*flags, "seed=1"]
    assert read(["--cfg=job", "--info", "seed=1"]) == ["--cfg=job", "--info", "seed=1"]
