"""Random settings: whatever is typed, it is built or refused in sentences, and quickly."""

import random
import time
from pathlib import Path

import pytest
from conftest import make_photos

from thaw.commands.one_run import build
from thaw.launch import cli, conf, names, settings
from thaw.launch.mistakes import read, told

KEYS = [
    *settings.KEYS,
    *(f"finetune.phases.head.{key}" for key in (*settings.OPTIONAL, "lr", "train", "epochs")),
]
KEYS += ["arch", "data", "augment", "optimizer", "finetune", "trainer", "experiment", "cache"]
KEYS += ["augment.p", "augment._target_", "data._target_", "optimizer._target_", "arch._target_"]
KEYS += ["trainer.precision", "trainer.strategy", "finetune.phases", "finetune.phases.head"]
KEYS += ["finetune.lr_decay", "finetune.batch_norm", "finetune.lr_find", "optimizer.eps", "sead"]
KEYS += ["optimizer._partial_", "finetune._convert_", "arch.foo", "data.foo", "cache.foo", "lr"]
KEYS = [key for key in KEYS if not key.startswith(("hydra", "resume", "from_run"))]
VALUES = r"""
0 1 -1 2 3.5 1e400 -1e400 nan inf 1e-9 99999999999999999999 1e5 2024_05 true false null off yes
none abc "1" '' [] [1] [1,2] [0.9,0.999] [a,b] {} {a:1} {_target_:os.getcwd} ${seed} ${nowhere}
${oc.env:NOWHERE} ${data.root} ??? / . .. ~ ../.. a/b C:\x a=b a,b (1) # $ % é 日本 \ \' resnet18
small_cnn shapes folder adam sgd head all full cpu auto gpu builtins.int torch.nn.Linear ddp cosine
torch.optim.Adam nowhere.at.all thaw.data.folder.PhotoFolder converged 16-mixed
""".split()  # noqa: SIM905


def words(chance: random.Random) -> list[str]:
    """One to three settings, each a key of any kind with a value of any kind."""
    chosen = []
    for _ in range(chance.randint(1, 3)):
        sign = chance.choice(["", "", "", "", "+", "++", "~", "--", "-"])
        key, value = chance.choice(KEYS), chance.choice(VALUES)
        if chance.random() < 0.1:
            key = key[: chance.randrange(len(key))] + chance.choice("abc.=[ ") + key[1:]
        chosen.append(f"{sign}{key}" if sign == "~" else f"{sign}{key}={value}")
    return chosen


def outcome(given: list[str], base: list[str]) -> str:
    """What a user is told of these settings; '' where all is built."""
    try:
        typed = read([*base, *given])
        with told(typed):
            cfg = conf.composed(typed)
        cli.build_all(lambda: settings.check(cfg))
        build(cfg, Path("run"))
    except Exception as error:
        sentence = cli.user_sentence(error)
        if sentence is None:
            raise AssertionError(given) from error
        return sentence
    return ""


def fuzz(seed: int, count: int, base: list[str]) -> tuple[list[str], float]:
    """Sentences, and the longest time that one took, in seconds."""
    chance, sentences, slowest = random.Random(seed), [], 0.0
    names.register_resolvers()
    for _ in range(count):
        began = time.monotonic()
        sentences.append(outcome(words(chance), base))
        slowest = max(slowest, time.monotonic() - began)
    return sentences, slowest


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_random_settings_are_built_or_refused_in_sentences(tmp_path, monkeypatch):
    root = make_photos(tmp_path / "photos", train=3, test=1)
    monkeypatch.chdir(tmp_path)
    base = ["data=folder", f"data.root={root}", "arch=small_cnn", "arch.width=4"]
    sentences, slowest = fuzz(7, 12, base)
    assert slowest < 10
    told = [line for sentence in sentences if sentence for line in sentence.split("\n")]
    assert len(told) > 8
    for line in told:
        assert "Traceback" not in line
        assert "\x1b" not in line
        assert "append to your config" not in line
        assert line.endswith((".", "?")) or ": +" in line, line
