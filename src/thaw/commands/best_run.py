"""`thaw best`: nets → a probe each → the first model → thaw it, part by part → test what leads.

Each step is begun only if it fits into what is left; test is opened once, at the end.
"""

import logging
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from time import monotonic

from lightning.pytorch import Trainer
from omegaconf import OmegaConf

from thaw.best.budget import Budget, seconds_of, told
from thaw.best.diary import Diary, say
from thaw.best.ways import Way
from thaw.checks import quick
from thaw.commands import in_python, tries
from thaw.commands.race import thaw
from thaw.commands.search import Search, first_model, look_at, parts_of, probe
from thaw.data.cache import FeatureCache
from thaw.errors import UserError
from thaw.files import write_json
from thaw.launch import cli, conf, memory, names
from thaw.launch.build import make
from thaw.nets.weights import weights_are_here
from thaw.runs import read
from thaw.shortlist import words as shortlist
from thaw.shortlist.words import Net
from thaw.training.trainer import make_trainer

GROUPS = (*shortlist.GROUPS, "augment", "optimizer", "loss", "metrics", "logger", "callbacks")


def best(words: Sequence[str], out: Path | None = None, began: float | None = None) -> None:
    """Read the words, and search; `search` says what is raised.

    Args:
        words: `KEY=VALUE`: `minutes=`, `archs=`, and settings of training in `GROUPS`.
    """
    if refused := [word for word in words if word.partition("=")[0] in ("folds", "fits")]:
        raise UserError(f"Expected no {refused[0]}: a search shares photos out by itself.")
    own = [word for word in words if word.startswith("minutes=")]
    seconds = seconds_of(own[-1].partition("=")[2] if own else "10")
    others = [word for word in words if word not in own]
    if not any(word.startswith("archs=") for word in others):
        here = [n for n, f in conf.options("arch").items() if weights_are_here(OmegaConf.load(f))]
        others.append(f"archs={','.join(here)}")
    wanted = shortlist.read(others, GROUPS, ["minutes=10"])
    search(wanted.nets, wanted.shared, seconds, out, monotonic() if began is None else began)


def search(
    nets: Sequence[Net], shared: Sequence[str], seconds: float, out: Path | None, began: float
) -> None:
    """Find the best way to train on these photos in so many seconds, and do it.

    Args:
        nets: to try.
        shared: words of all that is trained.
        out: the search's folder; of one that broke off, which goes on; a new one if None.
        began: when, by `time.monotonic`.

    Raises:
        UserError: a setting or the photos can't be used, or no net can.
    """
    out = out or Path(names.run_dir(f"outputs/best/{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    cfg = nets[0].cfg
    cache, data, trainer = cli.build_all(
        lambda: FeatureCache(**cfg.cache),
        lambda: make(cfg.data, "data", seed=cfg.seed).checked(),
        lambda: make_trainer(cfg.trainer, 1, [], []),
    )
    _check(cache, trainer)
    diary = Diary(out, [*shared, *(word for net in nets for word in net.words)])
    data.ready()
    if cfg.trainer.keep_memory:
        memory.keep_memory()
    budget = Budget(seconds, diary.spent, began)
    out.mkdir(parents=True, exist_ok=True)
    with in_python.log_to(out / "search.log", "%(asctime)s %(message)s", logging.WARNING):
        quick.before_training(data, cache, data.wishes.check)
        diary.on(budget, data.digest())
        found = Search(list(shared), diary, budget, data, *parts_of(data, int(cfg.seed)))
        try:
            _search(found, nets, cache, trainer)
        except cli.Interrupted:
            diary.keep()
            left = f"; the model so far is in {out}/model" if (out / "model").is_dir() else ""
            say(f"Interrupted{left}. The same command with --out {out} goes on.")
            raise


def _check(cache: FeatureCache, trainer: Trainer) -> None:
    if trainer.world_size > 1:
        raise UserError(f"Expected one device, but trainer.devices asks for {trainer.world_size}.")
    if not cache.enabled:
        raise UserError("Expected cache.enabled=true: a search computes features once.")


def _search(found: Search, nets: Sequence[Net], cache: FeatureCache, trainer: Trainer) -> None:
    diary, budget = found.diary, found.budget
    counts = ", ".join(f"{len(samples)} {split}" for split, samples in found.data.splits.items())
    say(f"photos  {found.data.root}: {len(found.data.classes)} classes, {counts}")
    if budget.before:
        say(f"        going on in {diary.folder}, after {told(budget.before)}")
    found.overhead = budget.spent - budget.before
    heads = probe(found, look_at(found, nets, cache, trainer))
    leader = first_model(found, heads)
    leader = thaw(found, leader, heads)
    _end(found, leader)


def _end(found: Search, leader: Way) -> None:
    """Open test for the one that leads, and leave its run."""
    diary, budget = found.diary, found.budget
    place = diary.place(leader.name)
    left = f"{told(budget.left)} are left" if budget.left > 0 else "time is up"
    diary.add("the search is over", left, f"test is opened, once, for {leader.name}")
    write_json(place / "why.json", {"log": diary.entries})  # for the run's report
    tries.test(leader, found.shared, place)
    metrics = read.metrics(place)
    shutil.rmtree(diary.folder / "model", ignore_errors=True)
    shutil.copytree(place / "model", diary.folder / "model")
    diary.add(
        leader.name,
        f"test accuracy {metrics['test/acc']:.1%} (95% interval {metrics['test/acc_low']:.1%} to"
        f" {metrics['test/acc_high']:.1%})",
    )
    diary.keep("done")
    say(f"{'report':<14} {place}/report.html", f"{'log':<14} {diary.folder}/log.md")
    say(f"{'time':<14} {told(budget.spent)} of {told(budget.seconds)}")
