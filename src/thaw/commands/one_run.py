"""One run, from settings to the folder that it leaves: build → assemble → fit → test → leave.

Settings (`cfg`) stop in `build`: below it are objects and plain values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import Tensor
from torchmetrics import Metric

from thaw import files
from thaw.checks import quick
from thaw.comparison.figures import run_curves
from thaw.data.augment import Augment, check_augment
from thaw.data.cache import FeatureCache
from thaw.data.folder import PhotoFolder
from thaw.data.splits import together
from thaw.errors import UserError
from thaw.evaluation import scores, unfamiliar
from thaw.launch import cli, memory
from thaw.launch.build import make
from thaw.model import bundle
from thaw.model.familiar import store
from thaw.model.familiar.store import Familiar
from thaw.nets.backbone import Backbone
from thaw.nets.fit import seen
from thaw.report import loggers, terminal
from thaw.report import metrics as report
from thaw.report.board import result
from thaw.report.board.logger import Live
from thaw.report.figures import explained, forgotten
from thaw.report.movement import Movement
from thaw.report.page import write as page
from thaw.runs import read
from thaw.runs.folder import RunFolder, plain
from thaw.sweeps import jobs
from thaw.training import lr_find, plugins
from thaw.training.checkpoints import Checkpoints, going_on, resume_point
from thaw.training.features import Extractor
from thaw.training.forgetting import Forgetting
from thaw.training.frozen_work import FrozenWork
from thaw.training.history import History
from thaw.training.module import Classifier, MakeOptimizer, check_optimizer
from thaw.training.probe.solving import Solving
from thaw.training.schedule import Schedule
from thaw.training.trainer import check_trainer, make_trainer
from thaw.training.unfreezing import MONITOR, StagedUnfreezing

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What the settings stand for: an object a group, and plain values."""

    seed: int
    cache: FeatureCache
    schedule: Schedule
    optimizer: MakeOptimizer
    augment: Augment | None
    backbone: Backbone
    data: PhotoFolder
    trainer: Mapping[str, Any]
    loss: Callable[..., Tensor]
    metrics: dict[str, partial[Metric]]
    loggers: list[Logger]
    callbacks: list[Callback]
    settings: dict[str, Any]  # all of them, for the run's folder


@dataclass
class Training:
    """Who takes part in a run."""

    run: RunFolder
    data: PhotoFolder
    module: Classifier
    trainer: Trainer
    staged: StagedUnfreezing
    history: History
    saved: Checkpoints
    extractor: Extractor
    work: FrozenWork
    forgetting: Forgetting
    movement: Movement
    frozen: bool  # whether nothing before the head has learned from these photos
    clock: report.Clock = field(default_factory=report.Clock)


@dataclass(frozen=True)
class Tested:
    """Logits `[N, classes]`, features `[N, D]` and labels `[N]` of val and test; what training made
    forget; and what is familiar.
    """

    val: dict[str, Tensor]
    test: dict[str, Tensor]
    forgotten: dict[str, float]
    familiar: Familiar


def one_run(
    cfg: DictConfig,
    run: RunFolder,
    choices: Mapping[str, str],
    sweep: bool = False,
    data: PhotoFolder | None = None,
    keep: Callable[[Mapping[str, Tensor], Familiar], None] | None = None,
    start: Callable[[Backbone, Sequence[str]], None] | None = None,
    judge: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]] | None = None,
) -> float:
    """Build all from the settings, train, test the best epoch, and write the run folder.

    Args:
        choices: the file that each group of settings was given by.
        sweep: whether the run is a job of one, which draws figures of its own.
        data: photos that are settled already.
        keep: called with the net's own answers to the test photos, before they are calibrated.
        start: gives the net, with a head for these classes, the weights to begin with.
        judge: the rows of `predictions.csv` → what `metrics.json` is to hold of them further.

    Returns:
        The best val loss.
    """
    run.claim()
    parts = build(cfg, run.path, sweep, data)
    with loggers.closing(parts.loggers):
        training = assemble(parts, run, start)
        begin(training, parts)
        forgotten = fit(training)
        tested = test(training, forgotten)
        if keep:
            keep(tested.test, tested.familiar)
        if training.trainer.is_global_zero:
            leave(training, tested, parts, choices, figures=not sweep, judge=judge)
    return training.history.best[MONITOR]


def build(
    cfg: DictConfig, folder: Path, sweep: bool = False, data: PhotoFolder | None = None
) -> Parts:
    """Make the object that each group of settings names; all that is wrong is told at once.

    Args:
        folder: the run's, in which loggers write; its photos may have been settled already.
        sweep: the next job may begin with the same net.
        data: photos that are settled already.

    Raises:
        UserError: some settings can't be used.
    """

    def seed() -> int:
        torch.manual_seed(cfg.seed)  # before the net is built: it may begin with random weights
        return cfg.seed

    makers: dict[str, Callable[[], Any]] = {
        "seed": seed,
        "cache": lambda: FeatureCache(**cfg.cache),
        "schedule": lambda: _of(Schedule, "finetune", make(cfg.finetune, "finetune")),
        "optimizer": lambda: check_optimizer(make(cfg.optimizer, "optimizer")),
        "augment": lambda: check_augment(make(cfg.augment, "augment")),
        "backbone": lambda: _of(
            Backbone, "arch", jobs.backbone(cfg.arch, shared=sweep, **seen(cfg.data))
        ),
        "data": lambda: (
            data
            or _of(PhotoFolder, "data", make(cfg.data, "data", seed=cfg.seed)).of(folder).checked()
        ),
        "trainer": lambda: check_trainer(dict(cfg.trainer.items())),
        "loss": lambda: plugins.made("loss", cfg.loss),
        "metrics": lambda: plugins.all_made("metrics", cfg.metrics, partial, _partial_=True),
        "loggers": lambda: loggers.make_loggers(cfg.logger, folder),
        "callbacks": lambda: plugins.make_callbacks(cfg.callbacks),
    }
    made = dict(zip(makers, cli.build_all(*makers.values()), strict=True))
    return Parts(**made, settings=plain(cfg))


def _of(kind: type[T], group: str, made: Any) -> T:
    """What a group's settings made, which is what they are for."""
    if not isinstance(made, kind):
        raise UserError(
            f"Expected the settings of {group} to make a {kind.__name__}, by _target_ and what it"
            f" takes, but they make a {type(made).__name__}; {cli.door('conf')} {group} lists those"
            " that do."
        )
    return made


def assemble(
    parts: Parts,
    run: RunFolder,
    start: Callable[[Backbone, Sequence[str]], None] | None = None,
) -> Training:
    """Give the net its head for these classes, and bring together all that trains it."""
    backbone, data, schedule = parts.backbone, parts.data, parts.schedule
    schedule.check(backbone)
    data.ready()  # a download begins when all else is right
    data.told += quick.before_training(data, parts.cache, data.wishes.check)
    data.transforms, data.augment = backbone.transforms, parts.augment
    torch.manual_seed(parts.seed)  # the head begins alike however much chance building the net took
    forgetting = Forgetting(backbone, schedule)
    backbone.reset_head(len(data.classes))
    if start:
        start(backbone, data.classes)
    if parts.trainer["channels_last"]:
        backbone.arrange(torch.channels_last)
    if parts.trainer["keep_memory"]:
        memory.keep_memory()

    staged = StagedUnfreezing(schedule)
    movement = Movement(backbone, staged)
    history = History(run.path / "history.csv", staged, val=bool(data.splits["val"]))
    compiled, fuse = parts.trainer["compile"], parts.trainer["fuse"]
    shares = torch.tensor(data.class_shares())
    weights = 1 / (shares * len(shares)) if data.balance == "loss" else None
    module = Classifier(
        *(backbone, data.classes, parts.optimizer, parts.seed, compiled, fuse),
        loss=plugins.Loss(parts.loss, len(data.classes), weights),
        metrics=plugins.make_metrics(parts.metrics, len(data.classes)),
        prior=None if data.balance == "none" else shares,
    )
    extractor = Extractor(parts.cache, backbone, data, fuse)
    work = FrozenWork(extractor, schedule, staged)
    saved = Checkpoints(run.checkpoints, staged, history)
    own = plugins.PlainStates(parts.callbacks)
    solving = Solving(extractor, staged, module.loss)
    # Last comes what writes checkpoints, with what the others keep.
    told = (terminal.Terminal(staged, history), Live(staged), movement)
    callbacks = [staged, work, history, *told, solving, own, *parts.callbacks, saved]
    trainer = make_trainer(parts.trainer, schedule.epochs, callbacks, parts.loggers)
    if not history.val:
        trainer.limit_val_batches = 0
    measured = (extractor, work, forgetting, movement)
    frozen = start is None and schedule.trains_heads(backbone)
    return Training(run, data, module, trainer, staged, history, saved, *measured, frozen)


def begin(training: Training, parts: Parts) -> None:
    """Mark the run as running, and say what will be trained on what."""
    run, data, trainer = training.run, training.data, training.trainer
    device = trainer.strategy.root_device
    facts = report.environment(parts.seed, device) | {"settings": parts.settings}
    run.begin(data.describe_splits(), facts)
    loggers.begin(parts.loggers, parts.settings)
    training.extractor.on(trainer)
    if parts.schedule.lr_find:
        found = (training.module, data, parts.schedule, training.work)
        lr_find.use_found_lr(*found, run.path, run.writes)
    if trainer.is_global_zero:
        terminal.show_start(parts.backbone, data, parts.schedule)
        training.forgetting.before(data, device)


def fit(training: Training) -> dict[str, float]:
    """Train through all phases, from the last checkpoint where there is one; what was forgotten."""
    module, data = training.module, training.data
    with training.clock("fit"):
        start = resume_point(training.run.checkpoints, module)
        with going_on(start):
            training.trainer.fit(module, data, ckpt_path=start, weights_only=True)
    return training.forgetting.after()  # at the end: the best epoch may precede the harm


def test(training: Training, forgotten: dict[str, float]) -> Tested:
    """Label the val and the test photos with the best epoch's weights."""
    module, data = training.module, training.data
    with training.clock("test"):
        take_best(training)
        # Val again, of the best epoch: what calibrates the model must not be test.
        loaders = [data.val_dataloader(), data.test_dataloader()]
        training.trainer.test(module, loaders, verbose=False)
    val, tested = module.results(0), module.results(1)
    with training.clock("familiar"):
        familiar = seen_in_training(training, val["features"])
    return Tested(val, tested, forgotten, familiar)


def take_best(training: Training) -> None:
    """Put the best epoch's weights into the net."""
    training.saved.load_best(training.module)
    training.module.compile_net = False  # compiled code doesn't tell what the head reads
    training.module.phase_changed()


def seen_in_training(training: Training, val: Tensor) -> Familiar:
    """What is familiar to the net.

    Args:
        val: features `[n, D]` of photos that it hasn't seen.
    """
    module, data = training.module, training.data
    # The train photos as the net sees them now, which is no longer what it saw in training.
    training.trainer.test(module, [data.seen_again()], verbose=False)
    train = module.results(0)
    samples, digests = data.splits["train"], data.digests("train")
    known = [(samples[i].path, digests[i]) for i in train["index"].tolist()]
    photos, contents = map(list, zip(*known, strict=True))
    where = (photos, str(data.root), contents)
    room = store.BYTES * len(module.backbone.blocks)  # each net may keep as much
    groups = [samples[i].group for i in train["index"].tolist()]
    alike = together(contents, groups) if training.frozen else ()
    return store.fit(train["features"], train["label"], val, *where, room, alike)


def leave(
    training: Training,
    tested: Tested,
    parts: Parts,
    choices: Mapping[str, str],
    figures: bool,
    judge: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]] | None = None,
) -> None:
    """Write what came out: figures, the model, predictions, metrics, the report."""
    run, data, backbone, test = training.run, training.data, parts.backbone, tested.test
    seconds = training.clock.seconds | {"seconds/features": training.extractor.seconds}
    samples = [data.splits["test"][i] for i in test["index"].tolist()]
    photos, groups = [s.path for s in samples], [s.group for s in samples]
    judged = (tested.val, test, data.classes, photos, data.root)
    known = unfamiliar.on_known(tested.familiar, test["features"])
    prior = None if data.balance == "none" else data.class_shares()
    history = training.history
    drawn = {}
    if figures and history.val:
        drawn["learning_curves"] = run_curves(history.rows, history.best["epoch"])
    if figures and "share" in known:
        far = {"val": tested.familiar.scores, "test": tested.familiar.distance(test["features"])}
        drawn["unfamiliar"] = unfamiliar.figure(far, tested.familiar.scores)
    if figures and (moved := training.forgetting.moved):
        drawn["forgetting"] = forgotten(moved)
    found = scores.report(*judged, run.path, groups, figures, prior, known, drawn)
    test |= found.test  # what the model that leaves will say
    further = plugins.measure(parts.metrics, test["logits"], test["label"], prior)
    metrics = report.metrics(test, backbone, training.history, training.staged, seconds)
    metrics |= tested.forgotten | data.counts() | found.metrics
    metrics |= {f"test/{name}": value for name, value in further.items()}
    metrics["test/unfamiliar"] = known.get("share")
    facts = {"metrics": metrics, "data_sha256": data.digest(), "white": data.white}
    facts |= found.bundle
    bundled = (run.path / "model", backbone, data.classes, tested.familiar)
    metrics["model/bytes"] = bundle.save(*bundled, **facts)
    p = tested.familiar.familiarity(test["features"]) if "share" in known else None
    labels = [s.label for s in samples]
    files.write_json(run.path / "stages.json", training.movement.facts())
    rows = report.predictions(photos, labels, test, data.classes, p)
    metrics |= judge(rows) if judge else {}
    run.results(metrics, rows)
    page.write(run.path)
    model = bundle.Model(backbone, read.read_json(run.path / "model" / "model.json"))
    if figures:
        explained(model, data.root, run.path)
    settings = loggers.varying(choices, parts.settings)
    board = result.Told(run.path, data, model, training.movement, test, photos, settings)
    step = training.trainer.global_step
    told = report.final(metrics, [f"test/{name}" for name in further])
    tell = partial(result.tell, board, step)
    loggers.log_result(parts.loggers, settings, told, step, run.path, tell)
    run.finish()
    terminal.show_result(metrics, found.struggles, run)
